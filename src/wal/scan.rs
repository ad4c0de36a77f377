//! Reads a segment frame by frame, and says how it ends: *valid*, *torn* or *corrupt*. It changes nothing and repairs nothing.
//!
//! A frame that does not check, at the end of the log, is one of two things. It may be what a crash left of a write that nobody
//! was told of: then it is cut off. Or it may be damage to what somebody was told is durable: then the index refuses. What tells the one
//! from the other is the *watermark* that frames carry: the highest LSN that was synced when they were written. A bad frame at or
//! under the highest watermark that survived was acknowledged. ("A later frame is valid" proves nothing: unsynced pages reach the disk
//! in any order.)

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::frame::{FRAME_ALIGN, FRAME_HEADER, FrameHeader, FrameKind, PAYLOAD_BYTES_MAX};
use crate::format::header::{FIRST_FRAME, LogHeader};
use crate::io::File;
use crate::types::Lsn;

/// Bytes read at once.
const WINDOW_BYTES: usize = 256 << 10;

/// How the frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// With nothing: the end of the file, or zeros up to it.
    Clean,
    /// With bytes that are no whole frame, above every watermark: what a crash left.
    Torn,
    /// With bytes that are no whole frame where an acknowledged one was.
    Corrupt,
}

/// A frame that checked.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) header: FrameHeader,
    pub(crate) payload: &'a [u8],
}

/// A place between two frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) chain: u32,
}

/// A segment being read, from a place between two frames to the first bytes that are no frame.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) path: PathBuf,
    pub(crate) header: LogHeader,
    window: Window,
    /// Where the next frame would begin, and the chain value that it goes on from.
    next: Place,
    /// The same after the last whole operation or marker: behind `next` within an operation that spans frames.
    whole: Place,
    /// The same after the last whole operation: behind `whole` where markers follow it.
    operations: Place,
    /// LSN of the last whole operation read.
    pub(crate) last_lsn: Lsn,
    /// Highest watermark seen.
    pub(crate) watermark: Lsn,
    /// Time of the last frame.
    pub(crate) time_us: u64,
}

impl Scan {
    /// Reads and checks the segment's header; the scan begins at its first frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the header does not check: it was synced before the segment had its name.
    pub(crate) fn open(path: &Path, file: Arc<dyn File>) -> Result<Self> {
        let io_error = |error| Error::io("read", path, error);
        let bytes = file.len().map_err(io_error)?;
        let mut window = Window { file, file_bytes: bytes, start: 0, bytes: Vec::new() };
        let head = window.get(0, 64).map_err(io_error)?;
        let header = head
            .first_chunk()
            .ok_or_else(|| "the file ends inside its header".to_owned())
            .and_then(LogHeader::decode)
            .map_err(|problem| Error::corrupt(path, 0, problem))?;
        let first = Place { offset: FIRST_FRAME, chain: header.predecessor_chain };
        Ok(Self {
            path: path.to_owned(),
            window,
            next: first,
            whole: first,
            operations: first,
            last_lsn: header.first_lsn.saturating_sub(1),
            watermark: 0,
            time_us: 0,
            header,
        })
    }

    /// Starts at a later place, before which `lsn` was the last one.
    pub(crate) fn seek(&mut self, place: Place, lsn: Lsn) {
        (self.next, self.whole, self.operations, self.last_lsn) = (place, place, place, lsn);
    }

    /// The place after the last frame read: where the next one would begin.
    pub(crate) fn next(&self) -> Place {
        self.next
    }

    /// The place after the last whole operation or marker.
    pub(crate) fn place(&self) -> Place {
        self.whole
    }

    /// The place after the last whole operation. A marker that nothing follows may never have been synced, and then a power cut takes it:
    /// what is to stay must not go on from it.
    pub(crate) fn operations_end(&self) -> Place {
        self.operations
    }

    /// The next frame, or `None` where the bytes at hand are no frame that goes on from the last one.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub(crate) fn next_frame(&mut self) -> Result<Option<Frame<'_>>> {
        let Place { offset: at, chain } = self.next;
        let Some(header) = self.header_at(at)? else { return Ok(None) };
        let in_operation = self.next != self.whole;
        let follows = header.first_lsn == self.last_lsn + 1
            && header.watermark <= self.last_lsn
            && match header.kind {
                FrameKind::Operations => !in_operation && header.last_lsn >= header.first_lsn,
                FrameKind::Part => header.last_lsn == header.first_lsn,
                FrameKind::LastPart => in_operation && header.last_lsn == header.first_lsn,
                FrameKind::Marker => !in_operation && header.last_lsn == self.last_lsn && header.payload_bytes == 0,
            };
        if !follows || header.payload_bytes as usize > PAYLOAD_BYTES_MAX {
            return Ok(None);
        }
        let path = &self.path;
        let bytes =
            self.window.get(at, FRAME_HEADER + header.payload_bytes as usize).map_err(|error| Error::io("read", path, error))?;
        let Some((head, payload)) = bytes.split_first_chunk() else { return Ok(None) };
        if payload.len() != header.payload_bytes as usize || !header.chains(head, chain, payload) {
            return Ok(None);
        }
        self.next = Place { offset: at + header.frame_bytes(), chain: header.chain };
        self.watermark = self.watermark.max(header.watermark);
        self.time_us = header.time_us;
        if header.kind != FrameKind::Part {
            self.whole = self.next;
            self.last_lsn = header.last_lsn;
        }
        if matches!(header.kind, FrameKind::Operations | FrameKind::LastPart) {
            self.operations = self.next;
        }
        Ok(Some(Frame { header, payload }))
    }

    /// How the segment ends where [`next_frame`](Self::next_frame) gave `None`; `durable_lsn` is
    /// what the manifest knows to be durable. Looks at every 512-byte boundary that follows for a header whose watermark tells more.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub(crate) fn end(&mut self, durable_lsn: Lsn) -> Result<End> {
        let mut zeros_only = self.next == self.whole;
        let mut at = self.next.offset;
        while at < self.window.file_bytes {
            if let Some(header) = self.header_at(at)? {
                self.watermark = self.watermark.max(header.watermark);
            }
            let path = &self.path;
            let sector = self.window.get(at, FRAME_ALIGN).map_err(|error| Error::io("read", path, error))?;
            zeros_only &= sector.iter().all(|&byte| byte == 0);
            at += FRAME_ALIGN as u64;
        }
        let bad_lsn = self.last_lsn + 1;
        Ok(if bad_lsn <= self.watermark.max(durable_lsn) {
            End::Corrupt
        } else if zeros_only {
            End::Clean
        } else {
            End::Torn
        })
    }

    /// Gives every frame whose header checks, wherever it is, and its payload where the frame before it says that it is that: what is left of a damaged
    /// segment. Nothing of it may be served.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub(crate) fn remains(&mut self, each: &mut dyn FnMut(&FrameHeader, Option<&[u8]>)) -> Result<()> {
        let mut before = Place { offset: FIRST_FRAME, chain: self.header.predecessor_chain };
        let mut at = FIRST_FRAME;
        while at < self.window.file_bytes {
            let Some(header) = self.header_at(at)? else {
                at += FRAME_ALIGN as u64;
                continue;
            };
            let length = FRAME_HEADER + (header.payload_bytes as usize).min(PAYLOAD_BYTES_MAX);
            let path = &self.path;
            let bytes = self.window.get(at, length).map_err(|error| Error::io("read", path, error))?;
            let is_right = |head: &[u8; FRAME_HEADER], payload: &[u8]| {
                payload.len() == header.payload_bytes as usize && header.chains(head, before.chain, payload)
            };
            let payload = bytes.split_first_chunk().filter(|(head, payload)| before.offset == at && is_right(head, payload));
            each(&header, payload.map(|(_, payload)| payload));
            at += header.frame_bytes();
            before = Place { offset: at, chain: header.chain };
        }
        Ok(())
    }

    /// Whether a frame can have ended at `offset`. The last frame's zeros tell nothing: without them it is as whole.
    pub(crate) fn holds(&self, offset: u64) -> bool {
        offset <= self.window.file_bytes.next_multiple_of(FRAME_ALIGN as u64)
    }

    /// Bytes of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.window.file_bytes
    }

    /// A header at `at` that checks by itself and says that it belongs there.
    fn header_at(&mut self, at: u64) -> Result<Option<FrameHeader>> {
        let path = &self.path;
        let bytes = self.window.get(at, FRAME_HEADER).map_err(|error| Error::io("read", path, error))?;
        Ok(bytes
            .first_chunk()
            .and_then(FrameHeader::decode)
            .filter(|header| header.salt == self.header.salt && u64::from(header.offset) == at))
    }
}

/// A part of the file in memory.
#[derive(Debug)]
struct Window {
    file: Arc<dyn File>,
    file_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// `length` bytes from `offset`; fewer only where the file ends. Allocates no more than the file has.
    fn get(&mut self, offset: u64, length: usize) -> std::io::Result<&[u8]> {
        let left = self.file_bytes.saturating_sub(offset);
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(length);
        let inside = offset >= self.start && offset + length as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            let ahead = usize::try_from(left).unwrap_or(usize::MAX).min(length.max(WINDOW_BYTES));
            self.bytes.resize(ahead, 0);
            let read = self.file.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(read);
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let available = self.bytes.get(from..).unwrap_or_default();
        Ok(&available[..available.len().min(length)])
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::io::Io;
    use crate::io::sim::SimIo;
    use crate::types::IndexId;

    /// A scan of a log that holds one marker, `cut` bytes short.
    fn scan_of_marker(cut: usize) -> Scan {
        let header =
            LogHeader { index: IndexId::nil(), epoch: 1, first_lsn: 1, predecessor_last_lsn: 0, predecessor_chain: 0, salt: 7 };
        let mut frame = FrameHeader {
            kind: FrameKind::Marker,
            payload_bytes: 0,
            offset: FIRST_FRAME as u32,
            salt: 7,
            first_lsn: 1,
            last_lsn: 0,
            watermark: 0,
            time_us: 0,
            chain: 0,
        };
        let mut bytes = vec![0; FIRST_FRAME as usize + FRAME_ALIGN];
        bytes[..64].copy_from_slice(&header.encode());
        bytes[FIRST_FRAME as usize..][..FRAME_HEADER].copy_from_slice(&frame.seal(0, &[]));
        let file = SimIo::new().create(Path::new("/f")).unwrap();
        file.write_at(0, &[IoSlice::new(&bytes[..bytes.len() - cut])]).unwrap();
        Scan::open(Path::new("/f"), file).unwrap()
    }

    #[test]
    fn a_frame_whose_zeros_are_cut_off_is_whole_and_replaying_can_begin_behind_it() {
        for cut in [0, 1, FRAME_ALIGN - FRAME_HEADER] {
            let mut scan = scan_of_marker(cut);
            assert!(scan.next_frame().unwrap().is_some(), "{cut} bytes short");
            assert_eq!(scan.end(0).unwrap(), End::Clean);
            assert_eq!(scan.place().offset, 1024);
            assert!(scan.holds(1024) && !scan.holds(1025), "{cut} bytes short");
        }
    }
}
