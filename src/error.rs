//! Every way in which a call can fail, by what the caller can do about it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Few kinds: `api/reply.rs` maps each to one HTTP status.
///
/// Cloning is cheap: one failed sync answers every waiter of its group.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request can never succeed as it is. Correct the named field.
    #[error("{field}: {detail}")]
    Invalid {
        field: Cow<'static, str>,
        /// Stable word for programs.
        code: &'static str,
        detail: String,
    },
    /// No such thing, or not this tenant's: nobody learns that it exists.
    #[error("{0} not found")]
    NotFound(What),
    /// What was asked for is no longer kept, and never will be again. Start from a copy of the points, or from the oldest that is there.
    #[error("LSN {oldest_lsn} is the oldest that is kept: what was before is gone")]
    Gone {
        /// The first mutation that the log still has, or will have; the oldest state that can still be read.
        oldest_lsn: crate::types::Lsn,
    },
    /// The request is right, but not in the present state.
    #[error("{0}")]
    Conflict(String),
    /// The tenant has as much as it may have. Nothing was done.
    #[error("{0}")]
    Quota(String),
    /// The condition of the write does not hold. Nothing was done: look at the point again.
    #[error("the condition does not hold: {0}")]
    Unmet(String),
    /// A queue is full. Nothing was done: try again later.
    #[error("{0}")]
    Busy(&'static str),
    /// The disk is full. Nothing was stored; make room and try again.
    #[error("no space left on the disk: {0}; nothing was stored")]
    Full(Arc<Fault>),
    /// The disk failed, and nothing was stored.
    #[error("{0}; nothing was stored")]
    Io(Arc<Fault>),
    /// Bytes on disk are not the bytes that were written. Nothing was changed.
    #[error("{0}; the index refuses until it is restored from a backup, repaired or deleted")]
    Corrupt(Arc<Damage>),
    /// What a backup is made of is not what was put there, or is missing. Nothing was changed. Restore from another one.
    #[error("backup: {0}; nothing was changed")]
    Backup(Arc<Damage>),
    /// Whether this write was stored, or survives a crash, is not known.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(Unknown),
    /// The index does not take writes (poisoned), or the store was closed.
    #[error("{0}")]
    Closed(Arc<str>),
}

/// What was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Index,
    Vector,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Index => "Index",
            Self::Vector => "Vector",
        })
    }
}

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct Fault {
    pub operation: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Why it is not known whether something was stored, and when that can be known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unknown {
    /// A sync failed. Restart the server and look.
    #[error("{0}; restart the server and look")]
    Unsynced(Arc<Fault>),
    /// A log that several nodes share gave no answer, or this node could not keep what it has. The index goes on: before its next write, all of that log is
    /// read.
    #[error("{0}; look when the next write to this index is answered")]
    Unanswered(Arc<Fault>),
}

/// Where bytes failed their check.
#[derive(Debug, thiserror::Error)]
#[error("{} at byte {offset}: {problem}", path.display())]
pub struct Damage {
    pub path: PathBuf,
    pub offset: u64,
    pub problem: String,
}

/// Characters of what a client sent that a message repeats.
const QUOTED_CHARS_MAX: usize = 64;

/// What a client sent, in quotes; of a long text its beginning, so that no refusal is as large as a body.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

impl Error {
    pub fn invalid(field: impl Into<Cow<'static, str>>, code: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), code, detail: detail.into() }
    }

    /// The same where the field stands in an object that is itself a field: `vector` under `queries[3]` is `queries[3].vector`.
    pub(crate) fn under(self, parent: &str) -> Self {
        match self {
            Self::Invalid { field, code, detail } => Self::invalid(format!("{parent}.{field}"), code, detail),
            other => other,
        }
    }

    /// The error of a file operation: [`Error::Full`] where the disk is full, else [`Error::Io`].
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let fault = Arc::new(Fault { operation, path: path.to_owned(), source });
        if full { Self::Full(fault) } else { Self::Io(fault) }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, problem: impl Into<String>) -> Self {
        Self::Corrupt(Arc::new(Damage { path: path.to_owned(), offset, problem: problem.into() }))
    }

    /// Of a whole object of a backup.
    pub(crate) fn backup(path: &Path, problem: impl Into<String>) -> Self {
        Self::Backup(Arc::new(Damage { path: path.to_owned(), offset: 0, problem: problem.into() }))
    }

    /// The same failure where it is no longer known what reached the disk.
    pub(crate) fn into_outcome_unknown(self) -> Self {
        match self {
            Self::Io(fault) | Self::Full(fault) => Self::OutcomeUnknown(Unknown::Unsynced(fault)),
            other => other,
        }
    }

    /// The same failure where it is not known what a log that nodes share has, or may have yet.
    pub(crate) fn into_unanswered(self) -> Self {
        match self {
            Self::Io(fault) | Self::Full(fault) => Self::OutcomeUnknown(Unknown::Unanswered(fault)),
            other => other,
        }
    }
}
