//! The idempotency keys of a checkpoint, as a file: one answer after the other.

use std::path::Path;
use std::sync::Arc;

use super::file;
use crate::error::{Error, Result};
use crate::format::codec;
use crate::format::effect::Effect;
use crate::format::manifest::{SideFile, keys_name};
use crate::io::Io;
use crate::types::{IdempotencyKey, Lsn};

/// What a request with a key came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) key: Arc<str>,
    /// The mutation that has the key in it.
    pub(crate) lsn: Lsn,
    /// CRC-32 of the request.
    pub(crate) fingerprint: u32,
    pub(crate) effect: Effect,
}

/// Writes and syncs answers under a new name, which the caller makes durable with the directory. They are by rising LSN.
///
/// # Errors
/// [`Error::Full`], [`Error::Io`]: nothing of use was written.
pub(crate) fn write<'a>(
    io: &dyn Io,
    directory: &Path,
    number: u64,
    answers: impl Iterator<Item = &'a Answer>,
) -> Result<SideFile> {
    let mut bytes = Vec::new();
    for Answer { key, lsn, fingerprint, effect } in answers {
        codec::encode_into((&**key, *lsn, *fingerprint, effect), &mut bytes);
    }
    let checksum = file::write(io, &directory.join(keys_name(number)), &bytes)?;
    Ok(SideFile { number, checksum })
}

/// Reads and verifies such a file, of a checkpoint at `checkpoint_lsn`.
///
/// # Errors
/// [`Error::Corrupt`] where it is not the file that the manifest names, or not of this checkpoint.
pub(crate) fn read(io: &dyn Io, directory: &Path, keys: &SideFile, checkpoint_lsn: Lsn) -> Result<Vec<Answer>> {
    let path = directory.join(keys_name(keys.number));
    let bytes = file::read(io, &path, keys.checksum)?;
    let corrupt = |rest: &[u8], problem: String| Error::corrupt(&path, (bytes.len() - rest.len()) as u64, problem);
    let mut answers: Vec<Answer> = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let ((key, lsn, fingerprint, effect), after) =
            codec::decode::<(&str, Lsn, u32, Effect)>(rest).map_err(|problem| corrupt(rest, problem))?;
        let before = answers.last().map_or(0, |answer| answer.lsn);
        if lsn <= before || lsn > checkpoint_lsn || key.is_empty() || key.len() > IdempotencyKey::BYTES_MAX {
            return Err(corrupt(rest, format!("no key can have LSN {lsn} after {before} at {checkpoint_lsn}, or this length")));
        }
        answers.push(Answer { key: key.into(), lsn, fingerprint, effect });
        rest = after;
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::durable;
    use crate::io::sim::SimIo;

    fn answer(key: &str, lsn: Lsn) -> Answer {
        Answer { key: key.into(), lsn, fingerprint: 7, effect: Effect { count: 2, superseded: vec![0], unmet: vec![3] } }
    }

    #[test]
    fn keys_have_the_documented_bytes() {
        let (disk, root) = (SimIo::new(), Path::new("/"));
        let answers = [answer("a", 4), answer("é", 9)];
        let file = write(&disk, root, 5, answers.iter()).unwrap();
        let bytes = durable::read_all(&disk, &root.join(keys_name(5)), 1 << 10).unwrap();
        assert_eq!(bytes, [1, b'a', 4, 7, 2, 1, 0, 1, 3, 2, 0xc3, 0xa9, 9, 7, 2, 1, 0, 1, 3]);
        assert_eq!(read(&disk, root, &file, 9).unwrap(), answers);
        let error = read(&disk, root, &file, 8).unwrap_err().to_string();
        assert!(error.contains("at byte 9") && error.contains("LSN 9"), "{error}");
    }

    #[test]
    fn keys_that_do_not_rise_or_have_no_name_are_damage() {
        let (disk, root) = (SimIo::new(), Path::new("/"));
        for (number, wrong) in [answer("b", 4), answer("", 9), answer(&"x".repeat(256), 9)].into_iter().enumerate() {
            let file = write(&disk, root, number as u64, [answer("a", 4), wrong].iter()).unwrap();
            assert!(matches!(read(&disk, root, &file, 9), Err(Error::Corrupt(_))));
        }
    }
}
