//! Small files beside the segments: written whole, named with their checksum in the manifest, read whole.

use std::io::IoSlice;
use std::path::Path;

use crate::error::{Error, Result};
use crate::format::crc32;
use crate::format::manifest::Checksum;
use crate::io::{Io, durable};

/// Writes and syncs a new file; the caller makes its name durable with the directory.
///
/// # Errors
/// [`Error::Full`], [`Error::Io`]: nothing of use was written.
pub(super) fn write(io: &dyn Io, path: &Path, bytes: &[u8]) -> Result<Checksum> {
    let file = io.create(path).map_err(|error| Error::io("create", path, error))?;
    file.write_at(0, &[IoSlice::new(bytes)]).map_err(|error| Error::io("write", path, error))?;
    file.sync_data().map_err(|error| Error::io("sync", path, error))?;
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
