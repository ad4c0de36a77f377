//! The storage seam: every file operation of the store goes through [`Io`], so that tests run on a simulated disk.
//!
//! [`os::OsIo`] is the real one. [`sim::SimIo`] tears writes, loses what was not synced and fails on demand.
//!
//! # Contract
//!
//! What both implementations promise, and `io/conformance.rs` checks on each:
//!
//! * A write is visible to every later read of that file through any handle. It is *durable* only after [`File::sync_data`] on the
//!   file returned `Ok`; until then a crash keeps any subset of its 512-byte sectors, and any part of each. Sectors that it did not touch
//!   stay as they are.
//! * A name (create, rename, remove) is durable only after [`Io::sync_dir`] on its directory returned `Ok`.
//! * After a `sync_data` that failed, reads still give the new bytes, a later `sync_data` may return `Ok`, and a crash may still lose
//!   them: no caller may sync that file again and believe it.
//! * Errors are plain [`std::io::Error`]s; a full disk is [`std::io::ErrorKind::StorageFull`].

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub mod durable;
pub mod map;
pub mod os;
pub mod sim;
mod whole;

#[cfg(test)]
mod conformance;

pub use map::Map;

/// A file system.
pub trait Io: Debug + Send + Sync {
    /// Opens an existing file for reading, and for writing where that is allowed: who may only read can still look.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Creates a file that must not exist, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// The whole of an existing file as read-only memory. The file must not be changed while it is mapped.
    fn map(&self, path: &Path) -> io::Result<Map>;

    /// Names in a directory, sorted. Names that are not UTF-8 are left out: none of ours is.
    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>>;

    /// Creates one directory; its parent must exist, and it must not.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Renames a file or a directory, replacing a *file* that has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes durable the names in this directory, as they are now.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that files in this directory may still take, for information: others take them too.
    fn available(&self, directory: &Path) -> io::Result<u64>;

    /// Takes the exclusive lock of a file, which it creates where it is absent; [`io::ErrorKind::WouldBlock`] where another process,
    /// or another [`Lock`] in this one, has it. The kernel frees it when the process ends, however it ends.
    fn lock(&self, path: &Path) -> io::Result<Lock>;

    /// The same lock, of a file that is there, and so that others may have it too who share it. Nothing is written.
    fn lock_shared(&self, path: &Path) -> io::Result<Lock>;
}

/// An open file. All offsets are in bytes from its beginning.
#[expect(clippy::len_without_is_empty, reason = "asking is a system call that can fail, and nobody asks only for that")]
pub trait File: Debug + Send + Sync {
    /// Fills `buffer` from `offset`; fewer bytes only at the end of the file, however little the system calls beneath give at once.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes `parts` one after the other from `offset` on, extending the file where needed. On an error, any part of it may have
    /// been written.
    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<()>;

    /// `fdatasync`: the contents and the length.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    fn len(&self) -> io::Result<u64>;
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub name: String,
    pub is_dir: bool,
}

/// Held for as long as it lives.
#[derive(Debug)]
pub struct Lock {
    _held: Box<dyn Debug + Send + Sync>,
}
