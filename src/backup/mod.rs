//! Backups: an index, as it is at one LSN, in a repository of objects, while it is written to; and restoring one.
//!
//! [`backup`] pins a manifest and the end of the log, and puts what the repository does not have: files of segments, which never change, once; of
//! the log the bytes since the last backup. Last it puts a record (`record`), which names all of it by its digests, and the record before by its own: without
//! one, what was put is nothing. [`restore`] believes no byte that is not what the records say. `docs/backup.md` tells how to use it, and
//! `docs/format.md` where everything is.

#[cfg(feature = "server")]
mod archive;
#[cfg(feature = "server")]
mod bucket;
mod chain;
mod copy;
#[cfg(feature = "server")]
mod location;
#[cfg(feature = "cloud")]
mod objects;
mod record;
mod repository;
mod restore;
#[cfg(feature = "server")]
mod snapshot;
mod throttle;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod nodes;

#[cfg(feature = "server")]
pub use archive::{Archive, unpack};
#[cfg(feature = "server")]
pub(crate) use bucket::Bucket;
pub use copy::{BackupReport, backup, plan};
#[cfg(feature = "server")]
pub use location::Location;
pub use repository::{Chunks, Directory, Repository};
pub use restore::{RestoreReport, Target, indices, restore};
#[cfg(feature = "server")]
pub use snapshot::{SnapshotReport, SnapshotRepository};
pub use throttle::Throttle;
