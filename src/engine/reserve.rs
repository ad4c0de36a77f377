//! Space set aside for what must still be possible when the disk is full: deletes, and the checkpoints that give space back.

use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::io::Io;

/// Its name in the data directory.
const FILE: &str = "RESERVE";

/// A file of zeros that is removed when a delete or a checkpoint finds the disk full, and made again when there is room.
#[derive(Debug)]
pub(super) struct Reserve {
    io: Arc<dyn Io>,
    path: PathBuf,
    bytes: u64,
    /// Whether the file is there.
    held: Mutex<bool>,
}

impl Reserve {
    /// Sets `bytes` aside, if they are there; 0 is no reserve.
    pub(super) fn open(io: Arc<dyn Io>, data_dir: &Path, bytes: u64) -> Self {
        let reserve = Self { io, path: data_dir.join(FILE), bytes, held: Mutex::new(false) };
        *reserve.held.lock() = reserve.io.open(&reserve.path).and_then(|file| file.len()).is_ok_and(|found| found == bytes);
        reserve.restore();
        reserve
    }

    /// Gives the space to whoever is about to try again; whether there was any to give.
    pub(super) fn release(&self) -> bool {
        let mut held = self.held.lock();
        let given = *held && self.io.remove_file(&self.path).is_ok();
        if given {
            *held = false;
            tracing::warn!(bytes = self.bytes, "the disk is full: the reserve goes to a delete or a checkpoint; make room");
        }
        given
    }

    /// Sets the space aside again, if it is there.
    pub(super) fn restore(&self) {
        let mut held = self.held.lock();
        if self.bytes == 0 || *held {
            return;
        }
        match self.fill() {
            Ok(()) => *held = true,
            Err(error) => {
                tracing::warn!(%error, "no space can be set aside for deletes on a full disk");
                let _ = self.io.remove_file(&self.path);
            }
        }
    }

    fn fill(&self) -> Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let fault = |operation, error| Error::io(operation, &self.path, error);
        match self.io.remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(fault("remove", error)),
            _ => {}
        }
        let file = self.io.create(&self.path).map_err(|error| fault("create", error))?;
        let mut at = 0;
        while at < self.bytes {
            let part = &ZEROS[..ZEROS.len().min((self.bytes - at) as usize)];
            file.write_at(at, &[IoSlice::new(part)]).map_err(|error| fault("write", error))?;
            at += part.len() as u64;
        }
        // Without this, a file system that allocates late has set nothing aside.
        file.sync_data().map_err(|error| fault("sync", error))
    }
}
