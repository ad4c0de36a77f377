//! A process that reads a file of others' for an import, by code that the file could crash: what limits it is started with, and what its output begins
//! with. It has nothing to lose, and whoever started it (`import/reader.rs`) believes nothing of what it says but what is within bounds.

use std::io::{self, Read};
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::Failure;
use crate::config::Limits;

const MAGIC: [u8; 8] = *b"fpv\0\0\0\0\x01";

/// The file, and what reading it may take.
#[derive(Debug, clap::Args)]
pub struct Confinement {
    pub file: PathBuf,
    /// Bytes of address space that this process may have.
    #[arg(long)]
    memory_bytes: u64,
    /// Seconds of processor time.
    #[arg(long)]
    cpu_seconds: u64,
}

impl Confinement {
    /// Takes the limits on.
    ///
    /// # Errors
    /// The system does not have them.
    pub fn enter(&self) -> Result<(), Failure> {
        let limits = [(Resource::As, self.memory_bytes), (Resource::Cpu, self.cpu_seconds), (Resource::Core, 0)];
        for (resource, most) in limits {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            setrlimit(resource, limit).map_err(|error| Failure::new(format!("cannot limit {resource:?}: {error}")))?;
        }
        Ok(())
    }
}

/// What the rows begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub dimension: usize,
    pub count: u64,
    pub has_ids: bool,
}

impl Head {
    const BYTES: usize = 32;

    pub fn encode(self) -> [u8; Self::BYTES] {
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
