use std::sync::Arc;

use parking_lot::Mutex;

use super::super::log::{Appended, Log, Place};
use super::super::operation::Operation;
use super::super::read::Commit;
use super::Logs;
use crate::error::{Error, Result};
use crate::types::Lsn;

const FRAME_BYTES_MAX: usize = 600;

#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    /// The frames behind `trimmed`: the bytes of each operation.
    frames: Vec<Vec<Vec<u8>>>,
    /// Frames that were trimmed, and how many operations they had.
    trimmed: (u64, Lsn),
}

#[derive(Debug)]
pub(super) struct MemoryLog {
    shared: Memory,
    place: Place,
}

impl Logs for Memory {
    type Log = MemoryLog;

    fn open(&self, from: Option<Place>) -> Result<MemoryLog> {
        Ok(MemoryLog { shared: self.clone(), place: from.unwrap_or(Place::START) })
    }
}

impl MemoryLog {
    fn stand_behind(&mut self, operations: usize) {
        let Place { lsn, sequence, .. } = self.place;
        self.place = Place { lsn: lsn + operations as Lsn, chain: 0, sequence: sequence + 1 };
    }
}

impl Log for MemoryLog {
    type Place = Place;

    fn place(&self) -> Place {
        self.place
    }

    fn written_lsn(&self) -> Lsn {
        self.place.lsn
    }

    fn durable_lsn(&self) -> Lsn {
        self.place.lsn
    }

    fn frame_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX
    }

    fn append(&mut self, operations: &[&Operation<'_>]) -> Result<Appended> {
        let encode = |operation: &&Operation<'_>| {
            let (head, tail) = operation.encode();
            [&head[..], tail].concat()
        };
        let frame: Vec<Vec<u8>> = operations.iter().map(encode).collect();
        let mut shared = self.shared.0.lock();
        if shared.trimmed.0 + shared.frames.len() as u64 != self.place.sequence {
            return Ok(Appended::Moved);
        }
        shared.frames.push(frame);
        drop(shared);
        self.stand_behind(operations.len());
        Ok(Appended::At(self.place.lsn))
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn read_new(&mut self, each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<()>) -> Result<()> {
        let frames = {
            let shared = self.shared.0.lock();
            let known = self.place.sequence.checked_sub(shared.trimmed.0);
            let known = known.ok_or(Error::Gone { oldest_lsn: shared.trimmed.1 + 1 })?;
            shared.frames[known as usize..].to_vec()
        };
        for frame in frames {
            for (lsn, bytes) in (self.place.lsn + 1..).zip(&frame) {
                let (operation, _) = Operation::decode(bytes).expect("it was encoded here");
                // Of time there is none here: it stands still.
                each(Commit { lsn, time_us: 1 }, &operation)?;
            }
            self.stand_behind(frame.len());
        }
        Ok(())
    }

    fn trim(&mut self, to: Place) -> Result<()> {
        let mut shared = self.shared.0.lock();
        if let Some(more) = to.sequence.checked_sub(shared.trimmed.0) {
            shared.frames.drain(..more as usize);
            shared.trimmed = (to.sequence, to.lsn);
        }
        Ok(())
    }
}
