//! What the nodes of a cluster share, as one of them reaches it: which indices there are, and the log of each. One suite for every implementation
//! is in `wal/conformance/cluster.rs`.

use std::fmt::Debug;
use std::sync::mpsc::Sender;

use super::log::{Log, Place};
use crate::error::Result;
use crate::types::{IndexId, TenantId};

/// The catalogue of the indices, and their logs. Calls block, and any number of threads may make them.
///
/// # Contract
///
/// * An index has one entry in the catalogue, and each writing of it has a revision, higher than the one before. Nobody writes an entry who
///   does not know its newest revision.
/// * What was deleted stays deleted: its entry says so for good, nobody writes it again, whatever revision is named, and its id is never given
///   again.
/// * Who follows is told of every entry and every log at least once, and of each again after it was written. Not of every writing: who is told of a
///   revision, or of a sequence, has to look for what is before it; and the same may be told again at any time.
pub(crate) trait Cluster: Debug + Send + Sync {
    /// The log of an index behind a place, of which the caller has everything before.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): there is none to be had now.
    fn open(&self, tenant: &TenantId, index: IndexId, from: Place) -> Result<Box<dyn Log<Place = Place>>>;

    /// The newest entry of an index. `None`: there never was one.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): the catalogue does not answer.
    fn entry(&self, tenant: &TenantId, index: IndexId) -> Result<Option<Entry>>;

    /// Writes an entry in the place of the one of this revision; 0: there never was one. Gives the new revision, or `None` where somebody
    /// else wrote, or the index was deleted, and nothing was stored.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Full`](crate::Error::Full): nothing was stored.
    /// [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown): it may be, or may be yet.
    fn set_entry(&self, tenant: &TenantId, index: IndexId, revision: u64, about: &[u8]) -> Result<Option<u64>>;

    /// Deletes an index: its entry says so, and then its log is emptied. Of one that was deleted it does the rest, where some is left.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::Error::NotFound): there never was one. [`Error::Io`](crate::Error::Io), [`Error::Full`](crate::Error::Full): it
    /// is not deleted. [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown): it may be. Deleting it again is safe.
    fn delete(&self, tenant: &TenantId, index: IndexId) -> Result<()>;

    /// Tells of what there is and of what comes, by threads or tasks of its own, until nobody receives it any more, which is noticed soon: what was
    /// told last is told again now and then. Where the servers do not answer it
    /// goes on trying, and tells of everything again when they do.
    fn follow(&self, told: Sender<Told>);
}

/// What the catalogue has of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Rises with every writing of this entry.
    pub(crate) revision: u64,
    /// What was written. `None`: the index was deleted.
    pub(crate) about: Option<Vec<u8>>,
}

/// What who follows is told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(any(test, feature = "server")), expect(dead_code, reason = "what reaches a cluster is part of the server"))]
pub(crate) enum Told {
    /// The newest entry of an index.
    Entry { tenant: TenantId, index: IndexId, entry: Entry },
    /// The log of an index has a frame with this sequence.
    Frame { tenant: TenantId, index: IndexId, sequence: u64 },
    /// All entries were told that the catalogue had when the following began. Once, or again after a time without an answer, or where there is
    /// nothing else to be said.
    Complete,
}
