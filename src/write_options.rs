//! How a write is asked for.

use std::str::FromStr;

use crate::error::{Error, Result, quoted};
use crate::types::Lsn;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After the `fdatasync` of the frame that holds it. Survives a power cut.
    #[default]
    Fsync,
    /// After the `write`. Survives the end of the process; a power cut can lose what was
    /// written since the last sync, which begins [`Limits::interval_sync_ms`](crate::config::Limits::interval_sync_ms) after a write.
    Interval,
}

impl FromStr for Durability {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "fsync" => Ok(Self::Fsync),
            "interval" => Ok(Self::Interval),
            _ => {
                let detail = format!("durability {} is none of fsync, interval", quoted(word));
                Err(Error::invalid("durability", "invalid_durability", detail))
            }
        }
    }
}

/// What must be so of a point for a write of it to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is no point of this id.
    Absent,
    /// There is one.
    Present,
    /// There is one, and this mutation stored it: [`Point::lsn`](crate::Point::lsn).
    StoredBy(Lsn),
}

impl Condition {
    /// Whether it holds of a point that this mutation stored; `None`: of none.
    pub(crate) fn holds(self, stored_by: Option<Lsn>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => stored_by.is_none(),
            Self::Present => stored_by.is_some(),
            Self::StoredBy(lsn) => stored_by == Some(lsn),
        }
    }

    /// What is so where it does not hold, for a person.
    pub(crate) fn unmet(self) -> String {
        match self {
            Self::Always => "nothing was asked for".to_owned(),
            Self::Absent => "there is a point of this id".to_owned(),
            Self::Present => "there is no point of this id".to_owned(),
            Self::StoredBy(lsn) => format!("the point is not, or no longer, the one that mutation {lsn} stored"),
        }
    }
}

/// How a write is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    pub durability: Durability,
    /// Where the condition of one point does not hold, none is stored.
    pub atomic: bool,
    /// By which a retry is known: it gets the answer of the first request that had it, and nothing is done again.
    pub key: Option<IdempotencyKey>,
    /// Live points that the index may have after it; one that would add too many is refused.
    pub points_max: Option<u64>,
}

impl From<Durability> for WriteOptions {
    fn from(durability: Durability) -> Self {
        Self { durability, ..Self::default() }
    }
}

/// The client's own name of one write to one index. It is remembered for as long as `docs/writes.md` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub(crate) key: String,
    pub(crate) fingerprint: u32,
}

impl IdempotencyKey {
    /// Bytes of a key at most.
    pub const BYTES_MAX: usize = 255;

    /// `request`: what the request asks for, in any form that is the same when it is made again. A key that comes with another one is refused.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `Idempotency-Key` where it is empty or too long.
    pub fn new(key: &str, request: &[&[u8]]) -> Result<Self> {
        if key.is_empty() || key.len() > Self::BYTES_MAX {
            let detail = format!("a key has 1 to {} bytes; this one has {}", Self::BYTES_MAX, key.len());
            return Err(Error::invalid("Idempotency-Key", "invalid_idempotency_key", detail));
        }
        let mut fingerprint = crc32fast::Hasher::new();
        for part in request {
            // With its length: else two requests of the same bytes, parted differently, would look the same.
            fingerprint.update(&(part.len() as u64).to_le_bytes());
            fingerprint.update(part);
        }
        Ok(Self { key: key.to_owned(), fingerprint: fingerprint.finalize() })
    }

    pub(crate) fn reused() -> Error {
        let detail = "this key came with another request before; a new request needs a new key";
        Error::invalid("Idempotency-Key", "idempotency_key_reused", detail)
    }
}
