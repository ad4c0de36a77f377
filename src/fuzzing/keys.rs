//! Idempotency keys of a checkpoint.

use std::path::Path;

use super::{assert_corrupt, write_file};
use crate::checkpoint::keys as file;
use crate::format::crc32;
use crate::format::manifest::{Checksum, SideFile, keys_name};
use crate::io::sim::SimIo;

/// A `.keys` file. `input`: LSN of its checkpoint (u64), then the file.
///
/// It is refused as corrupt, or has answers by rising LSN up to that one, and they are the same when they are written again.
pub fn keys(input: &[u8]) {
    let Some((&lsn, bytes)) = input.split_first_chunk() else { return };
    let lsn = u64::from_le_bytes(lsn);
    let (disk, directory) = (SimIo::new(), Path::new("/"));
    write_file(&disk, &directory.join(keys_name(1)), bytes);
    let found = SideFile { number: 1, checksum: Checksum { bytes: bytes.len() as u64, crc: crc32(&[bytes]) } };
    let answers = match file::read(&disk, directory, &found, lsn) {
        Ok(answers) => answers,
        Err(error) => return assert_corrupt(&error),
    };
    assert!(answers.is_sorted_by(|a, b| a.lsn < b.lsn) && answers.iter().all(|answer| answer.lsn <= lsn), "{answers:?}");
    let written = file::write(&disk, directory, 2, answers.iter()).expect("a disk without faults");
    assert_eq!(file::read(&disk, directory, &written, lsn).expect("what was written can be read"), answers);
}
