use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::log::{Appended, Log, Place};
use super::super::operation::Operation;
use super::super::read::Commit;
use super::Logs;
use crate::error::{Error, Result, What};
use crate::types::Lsn;

const FRAME_BYTES_MAX: usize = 600;

/// The log of one index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    /// The frames behind `trimmed`: the bytes of each operation.
    frames: Vec<Vec<Vec<u8>>>,
    /// Frames that were trimmed, and how many operations they had.
    trimmed: (u64, Lsn),
    fault: Option<Fault>,
    is_deleted: bool,
    /// Appends of operations that were tried.
    appends: u64,
    /// Of the newest frames, so many are not given to who reads.
    hidden: usize,
}

/// What goes wrong with the next append, or the next writing of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is stored, and nobody is told.
    Lost,
    /// It is not stored, and nobody is told.
    NotStored,
    /// Nothing is stored, which is known.
    Refused,
}

#[derive(Debug)]
pub(crate) struct MemoryLog {
    shared: Memory,
    place: Place,
}

impl Memory {
    pub(crate) fn fail_next(&self, fault: Fault) {
        self.0.lock().fault = Some(fault);
    }

    /// Empties it for good.
    pub(crate) fn delete(&self) {
        let mut shared = self.0.lock();
        shared.is_deleted = true;
        shared.frames.clear();
    }

    /// As long as it is set, whoever reads is told of an older state, as by a server that was cut off.
    pub(crate) fn hide(&self, frames: usize) {
        self.0.lock().hidden = frames;
    }

    pub(crate) fn appends(&self) -> u64 {
        self.0.lock().appends
    }

    /// Of the newest frame that it has or had; 0: there is none.
    pub(super) fn newest_sequence(&self) -> u64 {
        let shared = self.0.lock();
        if shared.is_deleted { 0 } else { shared.trimmed.0 + shared.frames.len() as u64 }
    }

    /// Operations that it has or had.
    pub(crate) fn operations(&self) -> Lsn {
        let shared = self.0.lock();
        shared.trimmed.1 + shared.frames.iter().map(|frame| frame.len() as Lsn).sum::<Lsn>()
    }

    /// Of the oldest operation that it has, or will have.
    #[cfg(feature = "server")]
    pub(crate) fn first_lsn(&self) -> Lsn {
        self.0.lock().trimmed.1 + 1
    }

    pub(crate) fn trim_to(&self, place: Place) {
        MemoryLog { shared: self.clone(), place }.trim(place).unwrap();
    }

    /// Forgets its newest frames, as no log may.
    pub(crate) fn lose(&self, frames: usize) {
        let mut shared = self.0.lock();
        let kept = shared.frames.len() - frames;
        shared.frames.truncate(kept);
    }
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

/// Of time there is none here: it counts the frames.
fn time_us(sequence: u64) -> u64 {
    sequence * 1000
}

pub(super) fn fault() -> Error {
    Error::io("publish", Path::new("memory"), io::Error::from(io::ErrorKind::TimedOut))
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

    fn time_us(&self) -> u64 {
        time_us(self.place.sequence)
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
        let bytes: usize = frame.iter().map(Vec::len).sum();
        assert!(frame.len() == 1 || bytes <= FRAME_BYTES_MAX, "only a single operation spans frames");
        let mut shared = self.shared.0.lock();
        let is_newest = !shared.is_deleted && shared.trimmed.0 + shared.frames.len() as u64 == self.place.sequence;
        if operations.is_empty() {
            return Ok(if is_newest { Appended::At(self.place.lsn) } else { Appended::Moved });
        }
        shared.appends += 1;
        let fault_now = shared.fault.take();
        match fault_now {
            Some(Fault::Refused) => return Err(fault()),
            Some(Fault::NotStored) => return Err(fault().into_unanswered()),
            Some(Fault::Lost) | None => {}
        }
        if !is_newest {
            return Ok(Appended::Moved);
        }
        shared.frames.push(frame);
        drop(shared);
        if fault_now.is_some() {
            return Err(fault().into_unanswered());
        }
        self.stand_behind(operations.len());
        Ok(Appended::At(self.place.lsn))
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn read_new(&mut self, each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<()>) -> Result<()> {
        let frames = {
            let shared = self.shared.0.lock();
            if shared.is_deleted {
                return Err(Error::NotFound(What::Index));
            }
            let known = self.place.sequence.checked_sub(shared.trimmed.0);
            let known = known.ok_or(Error::Gone { oldest_lsn: shared.trimmed.1 + 1 })?;
            let shown = shared.frames.len().saturating_sub(shared.hidden);
            shared.frames[..shown].get(known as usize..).unwrap_or_default().to_vec()
        };
        for frame in frames {
            let time_us = time_us(self.place.sequence + 1);
            for (lsn, bytes) in (self.place.lsn + 1..).zip(&frame) {
                let (operation, _) = Operation::decode(bytes).expect("it was encoded here");
                each(Commit { lsn, time_us }, &operation)?;
            }
            self.stand_behind(frame.len());
        }
        Ok(())
    }

    fn trim(&mut self, to: Place) -> Result<()> {
        let mut shared = self.shared.0.lock();
        if shared.is_deleted {
            return Ok(());
        }
        if let Some(more) = to.sequence.checked_sub(shared.trimmed.0) {
            shared.frames.drain(..more as usize);
            shared.trimmed = (to.sequence, to.lsn);
        }
        Ok(())
    }
}
