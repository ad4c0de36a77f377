//! The file of an index: written in blocks and synced on the way, verified in full before FAISS sees a byte.

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use super::super::faiss::Index;
use crate::error::{Error, Result};
use crate::format::manifest::Checksum;
use crate::io::{File, Io};

/// Bytes written at once: FAISS writes some parts four bytes at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// The file is synced each time so many blocks were written, so that the log's sync never waits for long behind it.
const SYNC_BLOCKS: u64 = 4;

/// Writes the index to a new file and syncs it; its name is not durable until its directory is synced.
///
/// FAISS is not trusted to say that a device is full: errors come from the writer here.
///
/// # Errors
/// [`Error::Full`], [`Error::Io`]: the file is gone.
pub(super) fn write(io: &dyn Io, path: &Path, index: &Index) -> Result<Checksum> {
    let file = io.create(path).map_err(|error| Error::io("create", path, error))?;
    let mut writer =
        Writer { file, path, block: Vec::with_capacity(BLOCK_BYTES), written: 0, crc: crc32fast::Hasher::new(), failed: None };
    let outcome = index.write(&mut |bytes| writer.put(bytes));
    let outcome = match (writer.failed.take(), outcome) {
        (Some(error), _) => Err(error),
        (None, Err(why)) => Err(Error::io("write", path, std::io::Error::other(why))),
        (None, Ok(())) => writer.finish(),
    };
    if outcome.is_err() {
        // Best effort: no manifest names it, and the next open removes it.
        let _ = io.remove_file(path);
    }
    outcome
}

struct Writer<'a> {
    file: Arc<dyn File>,
    path: &'a Path,
    /// Bytes that are not written yet, less than a block.
    block: Vec<u8>,
    written: u64,
    crc: crc32fast::Hasher,
    failed: Option<Error>,
}

impl Writer<'_> {
    /// Whether all of `bytes` were taken; the error is kept where not.
    fn put(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() && self.failed.is_none() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK_BYTES {
                self.failed = self.write_block().err();
            }
        }
        self.failed.is_none()
    }

    fn write_block(&mut self) -> Result<()> {
        self.crc.update(&self.block);
        self.file.write_at(self.written, &[IoSlice::new(&self.block)]).map_err(|error| Error::io("write", self.path, error))?;
        self.written += self.block.len() as u64;
        self.block.clear();
        if self.written.is_multiple_of(SYNC_BLOCKS * BLOCK_BYTES as u64) { self.sync() } else { Ok(()) }
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io("sync", self.path, error))
    }

    fn finish(mut self) -> Result<Checksum> {
        self.write_block()?;
        self.sync()?;
        Ok(Checksum { bytes: self.written, crc: self.crc.finalize() })
    }
}
