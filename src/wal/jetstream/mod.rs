//! The log of an index as a subject of a stream of NATS JetStream (docs/decisions/0031-jetstream-layout.md).
//!
//! A frame is a message, [`frames`]; what is asked of the servers is in [`connection`]. Each message names the sequence of the subject's last
//! one, and the stream's leader refuses what names another: that is the order, and the fence. [`cluster`] is all that nodes share: the logs, and
//! the catalogue of the indices; [`streams`] says where either stands, and [`follow`] how a node is told of what is new. [`nodes`]: which nodes are
//! alive.

pub(crate) mod access;
pub(crate) mod cluster;
pub(crate) mod connection;
mod follow;
mod frames;
pub(crate) mod nodes;
mod streams;
#[cfg(test)]
pub(crate) mod tests;
mod vain;

use std::io;

use connection::{Connection, Published, Subject};
use frames::{Tail, payload_bytes_max};
use streams::Stream;

use super::log::{Appended, Log, Place};
use super::operation::Operation;
use super::read::Commit;
use crate::error::{Error, Result, What};
use crate::types::{IndexId, Lsn};

/// The log of an open index. What it knows is in memory only: the caller keeps a [`Place`], and what came before it.
///
/// It is never poisoned: where an outcome is not known, whoever writes next is refused or comes right behind it, and reading tells.
#[derive(Debug)]
pub(crate) struct JetStreamLog {
    connection: Connection,
    subject: Subject,
    /// What takes the proof that the log ends here.
    proof: Subject,
    payload_bytes_max: usize,
    tail: Tail,
}

impl JetStreamLog {
    /// The log behind a place, of which a snapshot has everything before: [`read_new`](Log::read_new) replays. Asks the server nothing.
    ///
    /// # Errors
    /// [`Error::Io`]: the server is older than 2.12.
    pub(crate) fn open(
        connection: &Connection,
        subject: Subject,
        index: IndexId,
        frame_bytes_max: usize,
        from: Place,
    ) -> Result<Self> {
        connection.check_version(&subject.path())?;
        let payload_bytes_max = payload_bytes_max(connection.message_bytes_max()).min(frame_bytes_max);
        let (connection, proof, tail) = (connection.clone(), Stream::of_log(index).proof(), Tail::new(index, from));
        Ok(Self { connection, subject, proof, payload_bytes_max, tail })
    }

    fn publish(&mut self, operations: &[&Operation<'_>]) -> Result<Appended> {
        if operations.is_empty() {
            let is_newest = self.connection.is_newest(&self.subject, self.tail.end.sequence, &self.proof)?;
            return Ok(if is_newest { Appended::At(self.tail.whole.lsn) } else { Appended::Moved });
        }
        for mut frame in self.tail.encode(operations, self.payload_bytes_max) {
            let payload = std::mem::take(&mut frame.payload);
            match self.connection.publish(&self.subject, self.tail.end.sequence, payload)? {
                Published::At(sequence) => self.tail.wrote(&frame, sequence),
                Published::Moved => return Ok(Appended::Moved),
            }
        }
        Ok(Appended::At(self.tail.whole.lsn))
    }

    fn read(&mut self, each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<()>) -> Result<()> {
        let path = self.subject.path();
        let strange = |why: String| Error::io("read", &path, io::Error::new(io::ErrorKind::InvalidData, why));
        // The leader says how far the log goes: who reads for having been refused must come to what was in the way.
        let Some(newest) = self.connection.newest(&self.subject)? else {
            // A subject that had a message always has one while its index lives.
            return if self.tail.end.sequence == 0 { Ok(()) } else { Err(Error::NotFound(What::Index)) };
        };
        let known = self.tail.end.sequence;
        if newest.sequence < known {
            return Err(strange(format!("the subject ends with the message {}, and {known} was there", newest.sequence)));
        }
        while self.tail.end.sequence < newest.sequence {
            let before = self.tail.end.sequence;
            if newest.previous == before {
                return self.tail.take(&newest, &path, each);
            }
            for message in self.connection.batch(&self.subject, before)? {
                // What does not follow in a batch may have been lost on its way to us: only the leader says that it was trimmed.
                if message.previous != self.tail.end.sequence {
                    break;
                }
                self.tail.take(&message, &path, each)?;
            }
            if self.tail.end.sequence == before {
                // Or who answered lags behind the leader, or one message is larger than a batch.
                let next = self.connection.next_message(&self.subject, before)?;
                let next = next.ok_or_else(|| strange(format!("there is no message behind {before} any more")))?;
                self.tail.take(&next, &path, each)?;
            }
        }
        Ok(())
    }
}

impl Log for JetStreamLog {
    type Place = Place;

    fn place(&self) -> Place {
        self.tail.whole
    }

    fn written_lsn(&self) -> Lsn {
        self.tail.whole.lsn
    }

    /// Everything: a message is acknowledged, and given to be read, when a quorum has it.
    fn durable_lsn(&self) -> Lsn {
        self.tail.whole.lsn
    }

    fn time_us(&self) -> u64 {
        self.tail.time_us
    }

    fn frame_bytes_max(&self) -> usize {
        self.payload_bytes_max
    }

    fn append(&mut self, operations: &[&Operation<'_>]) -> Result<Appended> {
        let appended = self.publish(operations);
        if !matches!(appended, Ok(Appended::At(_))) {
            self.tail.rewind();
        }
        appended
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn read_new(&mut self, each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<()>) -> Result<()> {
        let read = self.read(each);
        if read.is_err() {
            self.tail.rewind();
        }
        read
    }

    fn trim(&mut self, to: Place) -> Result<()> {
        assert!(to.sequence <= self.tail.whole.sequence, "a place of this log");
        // The frame before the place stays, whatever snapshot has it: an emptied subject takes a writer who believes the index new.
        if to.sequence == 0 { Ok(()) } else { self.connection.purge(&self.subject, to.sequence) }
    }
}
