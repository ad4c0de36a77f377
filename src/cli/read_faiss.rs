//! `faiss-proxy read-faiss`, which only `faiss-proxy import` calls: reads a file of FAISS's, and writes plain vectors to its standard output.
//!
//! FAISS trusts the bytes that it reads, and a damaged file can crash it, or make it take all memory or never end. So it is done in a process that has
//! nothing to lose, with limits on memory and time, and whoever started it believes nothing of what it says but numbers within bounds.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::Failure;
use crate::config::Limits;
use crate::segment::faiss::Vectors;

/// Floats that are written at once, or one vector.
const FLOATS_AT_ONCE: usize = 64 << 10;

const MAGIC: [u8; 8] = *b"fpv\0\0\0\0\x01";

/// Write the vectors of a FAISS index to standard output.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    file: PathBuf,
    /// Bytes of address space that this process may have.
    #[arg(long)]
    memory_bytes: u64,
    /// Seconds of processor time.
    #[arg(long)]
    cpu_seconds: u64,
}

/// What the vectors begin with. Each row is its number as FAISS knows it, where there are such numbers, and its floats; all little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub dimension: usize,
    pub count: u64,
    pub has_ids: bool,
}

impl Head {
    const BYTES: usize = 32;

    fn encode(self) -> [u8; Self::BYTES] {
        let words = [u64::from_le_bytes(MAGIC), self.dimension as u64, self.count, u64::from(self.has_ids)];
        let mut bytes = [0; Self::BYTES];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// # Errors
    /// `InvalidData` where it cannot be one.
    pub fn read(reader: &mut impl Read) -> io::Result<Self> {
        let mut bytes = [0; Self::BYTES];
        reader.read_exact(&mut bytes)?;
        let mut words = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        let mut word = || words.next().expect("four words");
        let (magic, dimension, count, has_ids) = (word(), word(), word(), word());
        let dimension_max = Limits::default().dimension_max as u64;
        if magic.to_le_bytes() != MAGIC || has_ids > 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no vectors"));
        }
        if !(1..=dimension_max).contains(&dimension) {
            let why = format!("its vectors have {dimension} values, and 1 to {dimension_max} are taken");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(Self { dimension: dimension as usize, count, has_ids: has_ids == 1 })
    }
}

/// Reads the file, within the limits.
///
/// # Errors
/// FAISS's reason.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let limits = [(Resource::As, arguments.memory_bytes), (Resource::Cpu, arguments.cpu_seconds), (Resource::Core, 0)];
    for (resource, most) in limits {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        setrlimit(resource, limit).map_err(|error| Failure::new(format!("cannot limit {resource:?}: {error}")))?;
    }
    let path = CString::new(arguments.file.as_os_str().as_bytes()).map_err(|_| Failure::new("no file has a zero in its name"))?;
    let mut vectors = Vectors::open(&path).map_err(Failure::new)?;
    let Vectors { dimension, count, has_ids, .. } = vectors;
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let written = |error: io::Error| Failure::new(format!("standard output: {error}"));
    stdout.write_all(&Head { dimension, count, has_ids }.encode()).map_err(written)?;
    let (mut values, mut ids) = (Vec::new(), Vec::new());
    loop {
        vectors.next((FLOATS_AT_ONCE / dimension).max(1), &mut values, &mut ids).map_err(Failure::new)?;
        if ids.is_empty() {
            return stdout.flush().map_err(written);
        }
        for (id, vector) in ids.iter().zip(values.chunks_exact(dimension)) {
            if has_ids {
                stdout.write_all(&id.to_le_bytes()).map_err(written)?;
            }
            stdout.write_all(bytemuck::cast_slice(vector)).map_err(written)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_believed_within_bounds() {
        let head = Head { dimension: 100, count: 1 << 40, has_ids: true };
        assert_eq!(Head::read(&mut &head.encode()[..]).unwrap(), head);
        for dimension in [0, 65_537, usize::MAX] {
            assert!(Head::read(&mut &Head { dimension, ..head }.encode()[..]).is_err());
        }
        for at in 0..8 {
            let mut bytes = head.encode();
            bytes[at] ^= 1;
            assert!(Head::read(&mut &bytes[..]).is_err());
            assert!(Head::read(&mut &head.encode()[..at * 4]).is_err());
        }
    }
}
