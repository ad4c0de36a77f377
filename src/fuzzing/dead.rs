//! The dead rows of a segment.

use std::path::Path;

use super::{assert_corrupt, write_file};
use crate::checkpoint::dead as file;
use crate::format::crc32;
use crate::format::manifest::{Checksum, SideFile, dead_name};
use crate::io::sim::SimIo;

/// A `.dead` file. `input`: rows of its segment (u16), then the file.
///
/// It is refused as corrupt, or names rows of the segment, each once, and is the same when it is written again.
pub fn dead(input: &[u8]) {
    let Some((&rows, bytes)) = input.split_first_chunk() else { return };
    let rows = u16::from_le_bytes(rows).into();
    let (disk, directory) = (SimIo::new(), Path::new("/"));
    write_file(&disk, &directory.join(dead_name(1)), bytes);
    let found = SideFile { number: 1, checksum: Checksum { bytes: bytes.len() as u64, crc: crc32(&[bytes]) } };
    let positions = match file::read(&disk, directory, &found, rows) {
        Ok(positions) => positions,
        Err(error) => return assert_corrupt(&error),
    };
    // One by one: `max` believes that the last container holds the largest.
    let listed: Vec<u32> = positions.iter().collect();
    assert!(listed.is_sorted_by(|a, b| a < b), "{listed:?}");
    assert!(listed.iter().all(|&position| (position as usize) < rows), "{listed:?} of {rows} rows");
    assert_eq!(listed.len() as u64, positions.len());
    let written = file::write(&disk, directory, 2, &positions).expect("a disk without faults");
    assert_eq!(file::read(&disk, directory, &written, rows).expect("what was written can be read"), positions);
}
