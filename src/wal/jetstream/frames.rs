//! Frames as messages: the frame of a file (`format/frame.rs`) without the zeros behind it, one a message.
//!
//! The salt is taken from the index's id, so that no other index's frame passes for one of this; the offset counts the bytes of the operation that
//! stand in the frames before, and is 0 in a frame that begins one. Every frame goes on from the chain value of the message before it, whatever
//! became of that.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::log::Place;
use super::super::operation::Operation;
use super::super::pieces::{Pieces, operations};
use super::super::read::Commit;
use crate::error::{Error, Result};
use crate::format::frame::{FRAME_HEADER, FrameHeader, FrameKind, PAYLOAD_BYTES_MAX};
use crate::types::{IndexId, Lsn};

/// How far a log is known, and what is needed to go on from there in either direction.
#[derive(Debug)]
pub(super) struct Tail {
    salt: u64,
    /// Behind the last whole operation.
    pub(super) whole: Place,
    /// Sequence and chain value of the last message: ahead of `whole` within an operation that spans frames.
    pub(super) end: End,
    pieces: Pieces,
    pub(super) time_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) sequence: u64,
    chain: u32,
}

/// A message of the index's subject.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) sequence: u64,
    /// The sequence that its writer named as the subject's last one.
    pub(super) previous: u64,
    /// Who published it, if that was one of us.
    pub(super) id: Option<String>,
    /// What it is to a KV bucket, where that is said.
    pub(super) operation: Option<String>,
    pub(super) payload: Vec<u8>,
}

/// A frame that is to be published.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) payload: Vec<u8>,
    chain: u32,
    is_last: bool,
    last_lsn: Lsn,
    time_us: u64,
}

impl Tail {
    pub(super) fn new(index: IndexId, from: Place) -> Self {
        let end = End { sequence: from.sequence, chain: from.chain };
        Self { salt: index.as_u64_pair().1, whole: from, end, pieces: Pieces::default(), time_us: 0 }
    }

    /// The frames of operations that are appended together.
    ///
    /// # Panics
    /// Where several operations are more than `payload_bytes_max` together.
    pub(super) fn encode(&self, operations: &[&Operation<'_>], payload_bytes_max: usize) -> Vec<Encoded> {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let time_us = now_us.max(self.time_us);
        let (first_lsn, last_lsn) = (self.whole.lsn + 1, self.whole.lsn + operations.len() as u64);
        let mut bytes = Vec::new();
        for operation in operations {
            let (head, tail) = operation.encode();
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(tail);
        }
        let is_whole = bytes.len() <= payload_bytes_max;
        assert!(is_whole || operations.len() == 1, "only a single operation spans frames");
        let (mut chain, mut offset) = (self.end.chain, 0);
        let mut frames: Vec<Encoded> = Vec::new();
        for piece in bytes.chunks(payload_bytes_max) {
            let is_last = offset + piece.len() == bytes.len();
            let mut header = FrameHeader {
                kind: if is_whole {
                    FrameKind::Operations
                } else if is_last {
                    FrameKind::LastPart
                } else {
                    FrameKind::Part
                },
                payload_bytes: u32::try_from(piece.len()).expect("a message is smaller than 4 GiB"),
                offset: u32::try_from(offset).expect("an operation is smaller than 4 GiB"),
                salt: self.salt,
                first_lsn,
                last_lsn,
                // Whatever is before it was acknowledged to somebody.
                watermark: self.whole.lsn,
                time_us,
                chain: 0,
            };
            let payload = [&header.seal(chain, &[piece])[..], piece].concat();
            chain = header.chain;
            offset += piece.len();
            frames.push(Encoded { payload, chain, is_last, last_lsn, time_us });
        }
        frames
    }

    /// A frame of this tail is in the log, at this sequence.
    pub(super) fn wrote(&mut self, frame: &Encoded, sequence: u64) {
        self.end = End { sequence, chain: frame.chain };
        if frame.is_last {
            self.whole = Place { lsn: frame.last_lsn, chain: frame.chain, sequence };
            self.time_us = frame.time_us;
            self.pieces.clear();
        }
    }

    /// Back to the last whole operation: what is behind it is read again, as everybody else reads it.
    pub(super) fn rewind(&mut self) {
        self.end = End { sequence: self.whole.sequence, chain: self.whole.chain };
        self.pieces.clear();
    }

    /// Takes the message that follows, and gives its operations to `each`.
    ///
    /// # Errors
    /// [`Error::Gone`] where messages before it are no longer there. [`Error::Corrupt`], which names it under `subject`, where it does not
    /// check or does not follow. Those of `each` are passed on.
    pub(super) fn take(
        &mut self,
        message: &Message,
        subject: &Path,
        each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<()>,
    ) -> Result<()> {
        let damaged = |problem: String| Error::corrupt(&subject.join(message.sequence.to_string()), 0, problem);
        let head = message.payload.split_first_chunk();
        let Some((head, payload, header)) = head.and_then(|(head, payload)| {
            Some((head, payload, FrameHeader::decode(head).filter(|header| header.salt == self.salt)?))
        }) else {
            return Err(damaged("this message is no frame of this index".to_owned()));
        };
        if message.previous > self.end.sequence {
            return Err(Error::Gone { oldest_lsn: header.first_lsn });
        }
        let begins = header.offset == 0;
        if begins {
            // Pieces whose end never came: their writer lost the race, or died, and nobody was told of them.
            self.pieces.clear();
        }
        let follows = message.previous == self.end.sequence
            && message.sequence > self.end.sequence
            && header.first_lsn == self.whole.lsn + 1
            && header.watermark == self.whole.lsn
            && header.offset as usize == self.pieces.len()
            && match header.kind {
                FrameKind::Operations => begins && header.last_lsn >= header.first_lsn,
                FrameKind::Part => header.last_lsn == header.first_lsn,
                FrameKind::LastPart => !begins && header.last_lsn == header.first_lsn,
                FrameKind::Marker => false,
            };
        if !follows {
            let (lsn, sequence) = (self.whole.lsn, self.end.sequence);
            return Err(damaged(format!("this frame does not follow LSN {lsn} and the message {sequence}")));
        }
        let is_sound = payload.len() <= PAYLOAD_BYTES_MAX
            && payload.len() == header.payload_bytes as usize
            && header.chains(head, self.end.chain, payload);
        if !is_sound {
            return Err(damaged("checksum mismatch".to_owned()));
        }
        let whole = self.pieces.add(header.kind, payload).map_err(|problem| problem.at(&damaged))?;
        if let Some(whole) = whole {
            let lsns = header.first_lsn..=header.last_lsn;
            let commit = |lsn| Commit { lsn, time_us: header.time_us };
            let each = &mut |lsn, operation: &Operation<'_>| each(commit(lsn), operation).map(std::ops::ControlFlow::Continue);
            let _all = operations(&whole, lsns, each).map_err(|problem| problem.at(&damaged))?;
            self.whole = Place { lsn: header.last_lsn, chain: header.chain, sequence: message.sequence };
            self.time_us = header.time_us;
        }
        self.end = End { sequence: message.sequence, chain: header.chain };
        Ok(())
    }
}

/// What a server's limit on messages leaves for a frame's payload: a frame has a header, and a message has some too.
pub(super) fn payload_bytes_max(message_bytes_max: usize) -> usize {
    /// Three headers of ours, of which the longest takes 60 bytes.
    const MESSAGE_HEADERS_MAX: usize = 512;
    message_bytes_max.saturating_sub(FRAME_HEADER + MESSAGE_HEADERS_MAX).clamp(1, PAYLOAD_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::conformance::point;

    /// Messages of one operation, of two, and of one in several pieces.
    fn messages() -> Vec<Message> {
        let mut tail = Tail::new(IndexId::from_u128(7), Place::START);
        let mut messages: Vec<Message> = Vec::new();
        let (small, large) = (point("small", 10), point("large", 500));
        for operations in [&[&small][..], &[&small, &small], &[&large], &[&small]] {
            for frame in tail.encode(operations, 200) {
                let previous = tail.end.sequence;
                // Others' messages are between them in the stream.
                let sequence = previous + 10;
                messages.push(Message { sequence, previous, id: None, operation: None, payload: frame.payload.clone() });
                tail.wrote(&frame, sequence);
            }
        }
        assert_eq!((messages.len(), tail.whole.lsn), (6, 5));
        messages
    }

    /// LSNs that are given, and where it ends.
    fn take<'a>(messages: impl IntoIterator<Item = &'a Message>, index: u128) -> (Vec<Lsn>, Place, Result<()>) {
        let mut tail = Tail::new(IndexId::from_u128(index), Place::START);
        let mut lsns = Vec::new();
        let each = &mut |commit: Commit, _: &Operation<'_>| {
            lsns.push(commit.lsn);
            Ok(())
        };
        let taken = messages.into_iter().try_for_each(|message| tail.take(message, Path::new("s"), each));
        (lsns, tail.whole, taken)
    }

    #[test]
    fn a_frame_is_a_message_without_the_zeros_behind_it() {
        let first = &messages()[0];
        let header = FrameHeader::decode(first.payload.first_chunk().unwrap()).unwrap();
        assert_eq!((header.kind, header.offset, header.salt, header.watermark), (FrameKind::Operations, 0, 7, 0));
        assert_eq!((header.first_lsn, header.last_lsn), (1, 1));
        assert_eq!(first.payload.len(), FRAME_HEADER + header.payload_bytes as usize, "to the byte");
        let (lsns, whole, taken) = take(&messages(), 7);
        taken.unwrap();
        assert_eq!((lsns, whole.lsn, whole.sequence), (vec![1, 2, 3, 4, 5], 5, 60));
    }

    #[test]
    fn every_flipped_bit_of_a_message_is_seen_and_so_is_every_cut() {
        let sound = messages();
        for at in 0..sound.len() {
            for bit in 0..sound[at].payload.len() * 8 {
                let mut messages = messages();
                messages[at].payload[bit / 8] ^= 1 << (bit % 8);
                let (_, _, taken) = take(&messages, 7);
                assert!(matches!(taken, Err(Error::Corrupt(_))), "bit {bit} of message {at}: {taken:?}");
            }
            for length in 0..sound[at].payload.len() {
                let mut messages = messages();
                messages[at].payload.truncate(length);
                assert!(matches!(take(&messages, 7).2, Err(Error::Corrupt(_))), "message {at} cut at {length}");
            }
        }
        assert!(matches!(take(&sound, 8).2, Err(Error::Corrupt(_))), "another index's");
    }

    #[test]
    fn what_is_missing_between_was_trimmed_and_what_is_in_the_wrong_order_is_damage() {
        let messages = messages();
        for missing in 0..messages.len() - 1 {
            let (lsns, _, taken) =
                take(messages.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, message)| message), 7);
            let next = FrameHeader::decode(messages[missing + 1].payload.first_chunk().unwrap()).unwrap().first_lsn;
            assert!(matches!(taken, Err(Error::Gone { oldest_lsn }) if oldest_lsn == next), "without {missing}: {taken:?}");
            assert!(lsns.iter().all(|lsn| *lsn < next.max(4)), "{lsns:?}");
        }
        for at in 0..messages.len() - 1 {
            // Twice, and under a header that says that it follows.
            let again = Message { payload: messages[at].payload.clone(), ..place_of(&messages[at + 1]) };
            let (_, whole, taken) = take(messages[..=at].iter().chain([&messages[at]]), 7);
            assert!(matches!(taken, Err(Error::Corrupt(_))), "{taken:?}");
            assert_eq!(take(messages[..=at].iter().chain([&again]), 7).1, whole);
            assert!(matches!(take(messages[..=at].iter().chain([&again]), 7).2, Err(Error::Corrupt(_))));
        }
    }

    fn place_of(message: &Message) -> Message {
        Message { sequence: message.sequence, previous: message.previous, id: None, operation: None, payload: Vec::new() }
    }

    #[test]
    fn pieces_are_passed_over_where_another_frame_follows_and_an_end_alone_is_damage() {
        let large = point("large", 500);
        for stored in 1..3 {
            let mut tail = Tail::new(IndexId::nil(), Place::START);
            let frames = tail.encode(&[&large], 200);
            assert_eq!(frames.len(), 3);
            let message = |sequence, payload: &[u8]| Message {
                sequence,
                previous: sequence - 1,
                id: None,
                operation: None,
                payload: payload.to_vec(),
            };
            let mut messages: Vec<Message> =
                (1..).zip(&frames[..stored]).map(|(at, frame)| message(at, &frame.payload)).collect();
            for (sequence, frame) in (1..).zip(&frames[..stored]) {
                tail.wrote(frame, sequence);
            }
            // Somebody else, who has read them.
            for next in [point("next", 10), large.clone()] {
                for frame in tail.encode(&[&next], 200) {
                    let sequence = tail.end.sequence + 1;
                    messages.push(message(sequence, &frame.payload));
                    tail.wrote(&frame, sequence);
                }
            }
            let (lsns, whole, taken) = take(&messages, 0);
            taken.unwrap();
            assert_eq!((lsns, whole), (vec![1, 2], tail.whole));
        }
        let frames = Tail::new(IndexId::nil(), Place::START).encode(&[&large], 200);
        let end = Message { sequence: 1, previous: 0, id: None, operation: None, payload: frames[2].payload.clone() };
        assert!(matches!(take([&end], 0).2, Err(Error::Corrupt(_))));
    }
}
