//! Names of log segments, and places in logs: what a manifest says of them.

use std::path::{Path, PathBuf};

use super::codec::{Decode, Encode};
use crate::types::Lsn;

/// Name of a segment: never used twice, since the epoch rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub(crate) struct SegmentName {
    pub(crate) first_lsn: Lsn,
    pub(crate) epoch: u32,
}

impl SegmentName {
    pub(crate) fn file_name(self) -> String {
        format!("{:020}-{}.wal", self.first_lsn, self.epoch)
    }

    pub(crate) fn path(self, directory: &Path) -> PathBuf {
        directory.join(self.file_name())
    }

    pub(crate) fn parse(file_name: &str) -> Option<Self> {
        let (first_lsn, epoch) = file_name.strip_suffix(".wal")?.split_once('-')?;
        let name = Self { first_lsn: first_lsn.parse().ok()?, epoch: epoch.parse().ok()? };
        (name.file_name() == file_name).then_some(name)
    }
}

/// A place between two frames: where replaying begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Position {
    /// Every mutation up to this one is before the place.
    pub(crate) lsn: Lsn,
    /// Chain value after the frame before.
    pub(crate) chain: u32,
    /// The segment that the place is in, and where in it. `None` before the first segment of an index.
    pub(crate) at: Option<(SegmentName, u64)>,
}

impl Position {
    /// Where the log of a new index begins.
    pub(crate) const START: Self = Self { lsn: 0, chain: 0, at: None };
}

/// A place in a log that several nodes share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Place {
    /// Every operation up to this one is before the place.
    pub(crate) lsn: Lsn,
    /// Chain value after the frame before.
    pub(crate) chain: u32,
    /// By which the log itself finds the frame before. It rises, with gaps; 0 where there is none.
    pub(crate) sequence: u64,
}

impl Place {
    /// Where the log of a new index begins.
    pub(crate) const START: Self = Self { lsn: 0, chain: 0, sequence: 0 };
}
