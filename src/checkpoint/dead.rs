//! The dead rows of a sealed segment, as a file.

use std::path::Path;

use roaring::RoaringBitmap;

use super::file;
use crate::error::{Error, Result};
use crate::format::manifest::{SideFile, dead_name};
use crate::io::Io;

/// Writes and syncs the positions of dead rows under a new name, which the caller makes durable with the directory.
///
/// # Errors
/// [`Error::Full`], [`Error::Io`]: nothing of use was written.
pub(crate) fn write(io: &dyn Io, directory: &Path, number: u64, positions: &RoaringBitmap) -> Result<SideFile> {
    let mut bytes = Vec::with_capacity(positions.serialized_size());
    positions.serialize_into(&mut bytes).expect("serialising into memory");
    let checksum = file::write(io, &directory.join(dead_name(number)), &bytes)?;
    Ok(SideFile { number, checksum })
}

/// Reads and verifies such a file, of a segment of `rows` rows.
///
/// # Errors
/// [`Error::Corrupt`] where it is not the file that the manifest names, or not of this segment.
pub(crate) fn read(io: &dyn Io, directory: &Path, dead: &SideFile, rows: usize) -> Result<RoaringBitmap> {
    let path = directory.join(dead_name(dead.number));
    let bytes = file::read(io, &path, dead.checksum)?;
    let corrupt = |problem: &str| Error::corrupt(&path, 0, problem);
    let positions = RoaringBitmap::deserialize_from(&bytes[..]).map_err(|_| corrupt("no bitmap"))?;
    if positions.max().is_some_and(|position| position as usize >= rows) {
        return Err(corrupt("more rows are dead than there are"));
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::crc32;
    use crate::format::manifest::Checksum;
    use crate::io::durable;
    use crate::io::sim::SimIo;

    #[test]
    fn dead_rows_have_the_documented_bytes() {
        let disk = SimIo::new();
        let positions: RoaringBitmap = [1, 2, 700, 70_000].into_iter().collect();
        let file = write(&disk, Path::new("/"), 9, &positions).unwrap();
        let bytes = durable::read_all(&disk, &Path::new("/").join(dead_name(9)), 1 << 10).unwrap();
        let expected = [
            0x3a, 0x30, 0, 0, 2, 0, 0, 0, // cookie without runs, containers
            0, 0, 2, 0, 1, 0, 0, 0, // key and cardinality less 1 of each
            24, 0, 0, 0, 30, 0, 0, 0, // where each begins
            1, 0, 2, 0, 0xbc, 0x02, // 1, 2, 700
            0x70, 0x11, // 70,000 - 65,536
        ];
        assert_eq!(bytes, expected);
        assert_eq!(file.checksum, Checksum { bytes: 32, crc: crc32(&[&expected]) });
        assert_eq!(read(&disk, Path::new("/"), &file, 70_001).unwrap(), positions);
        let error = read(&disk, Path::new("/"), &file, 70_000).unwrap_err().to_string();
        assert!(error.contains("more rows are dead than there are"), "{error}");
    }
}
