//! Small files beside the segments: written whole, named with their checksum in the manifest, read whole.

use std::io::IoSlice;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::crc32;
use crate::format::manifest::Checksum;
use crate::io::{Io, durable};

/// A file is synced each time so many bytes were written, so that the log's sync never waits for long behind it.
const PIECE_BYTES: usize = 4 << 20;

/// Writes and syncs a new file; the caller makes its name durable with the directory.
///
/// # Errors
/// [`Error::Full`], [`Error::Io`]: nothing of use was written.
pub(crate) fn write(io: &dyn Io, path: &Path, bytes: &[u8]) -> Result<Checksum> {
    let file = io.create(path).map_err(|error| Error::io("create", path, error))?;
    let mut offset = 0;
    // An empty file is one piece too.
    for piece in bytes.chunks(PIECE_BYTES).chain(bytes.is_empty().then_some(bytes)) {
        file.write_at(offset, &[IoSlice::new(piece)]).map_err(|error| Error::io("write", path, error))?;
        file.sync_data().map_err(|error| Error::io("sync", path, error))?;
        offset += piece.len() as u64;
    }
    Ok(Checksum { bytes: bytes.len() as u64, crc: crc32(&[bytes]) })
}

/// Reads and verifies one.
///
/// # Errors
/// [`Error::Corrupt`] where it is not the file that the manifest names.
pub(super) fn read(io: &dyn Io, path: &Path, checksum: Checksum) -> Result<Vec<u8>> {
    let corrupt = |problem: &str| Error::corrupt(path, 0, problem);
    let bytes = durable::read_all(io, path, checksum.bytes).map_err(|error| match error {
        Error::Io(fault) if fault.source.kind() == std::io::ErrorKind::NotFound => {
            corrupt("the manifest lists this file, and it is missing")
        }
        other => other,
    })?;
    if bytes.len() as u64 != checksum.bytes || crc32(&[&bytes]) != checksum.crc {
        return Err(corrupt("this is not the file that the manifest names: checksum mismatch"));
    }
    Ok(bytes)
}
