//! Where backups are kept: objects by name. [`Directory`] is one on a file system; `docs/backup.md` lists the others.
//!
//! # Contract
//!
//! What every repository promises, and `backup/conformance.rs` checks on each:
//!
//! * An object is there whole or not at all, whatever happens while it is put. It is durable when [`put`](Repository::put) has returned.
//! * [`put_new`](Repository::put_new) puts nothing where there is an object of the name already, whoever else puts one.
//! * Names are of parts with `/` between them; no part is empty, begins with a dot or ends with `.tmp`.

use std::fmt::Debug;
use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::io::{Entry, Io, Lock, durable};

/// Bytes that are moved at once.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// A file is synced each time so many bytes were written, so that the log's sync never waits for long behind it.
const SYNC_BYTES: u64 = 4 << 20;

/// The bytes of an object, piece by piece. After an error there is nothing more.
pub type Chunks<'a> = dyn Iterator<Item = Result<Vec<u8>>> + 'a;

/// A place for objects.
pub trait Repository: Debug + Send + Sync {
    /// Of an object, for people.
    fn path(&self, name: &str) -> PathBuf;

    /// Makes what an earlier process left visible durable, and keeps others from putting objects below `name` while the lock lives, where only that
    /// keeps objects whole.
    ///
    /// # Errors
    /// [`Error::Conflict`] where another has it.
    fn lock(&self, name: &str) -> Result<Option<Lock>>;

    /// Puts an object of so many bytes in the place of what has its name. Where `chunks` gives an error, nothing is put.
    ///
    /// # Errors
    /// Those of `chunks`; [`Error::Io`], [`Error::Full`]: nothing is put. [`Error::OutcomeUnknown`]: perhaps it is.
    fn put(&self, name: &str, bytes: u64, chunks: &mut Chunks<'_>) -> Result<()>;

    /// The same where nothing has its name; else it says `false`.
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool>;

    /// Removes an object, where there is one. After a power cut it may be there again.
    fn remove(&self, name: &str) -> Result<()>;

    /// `None`: there is no such object.
    fn get(&self, name: &str) -> Result<Option<Box<Chunks<'_>>>>;

    /// What is directly below a name, sorted; nothing where there is no such name.
    fn list(&self, name: &str) -> Result<Vec<Entry>>;
}

/// A directory, of which each object is a file.
#[derive(Debug)]
pub struct Directory {
    io: Arc<dyn Io>,
    root: PathBuf,
}

impl Directory {
    /// It is created when something is put there.
    pub fn new(io: Arc<dyn Io>, root: impl Into<PathBuf>) -> Self {
        Self { io, root: root.into() }
    }

    /// Writes and names an object. `chunks` has it all.
    fn write(&self, name: &str, chunks: &mut Chunks<'_>) -> Result<()> {
        let (target, io) = (self.path(name), &*self.io);
        let (Some(directory), Some(file_name)) = (target.parent(), target.file_name().and_then(|name| name.to_str())) else {
            return Err(Error::io("create", &target, ErrorKind::InvalidInput.into()));
        };
        durable::create_dirs_durably(io, directory)?;
        let temporary = durable::temporary_path(directory, file_name);
        let written = write_synced(io, &temporary, chunks)
            .and_then(|()| io.rename(&temporary, &target).map_err(|error| Error::io("rename", &target, error)));
        if let Err(error) = written {
            // Best effort: the next one of this name removes it.
            let _ = io.remove_file(&temporary);
            return Err(error);
        }
        io.sync_dir(directory).map_err(|error| {
            // A later sync may say `Ok` about a name that the disk does not have: nobody is to build on it.
            let _ = io.remove_file(&target);
            Error::io("sync", directory, error).into_outcome_unknown()
        })
    }
}

/// Writes a file in the place of what has its name, and syncs it, but not the name. Where it fails, some of it may be there.
pub(super) fn write_synced(io: &dyn Io, path: &Path, chunks: &mut Chunks<'_>) -> Result<()> {
    match io.remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::io("remove", path, error)),
        _ => {}
    }
    let file = io.create(path).map_err(|error| Error::io("create", path, error))?;
    let (mut offset, mut synced) = (0, 0);
    let sync = || file.sync_data().map_err(|error| Error::io("sync", path, error));
    for chunk in chunks {
        let chunk = chunk?;
        file.write_at(offset, &[IoSlice::new(&chunk)]).map_err(|error| Error::io("write", path, error))?;
        offset += chunk.len() as u64;
        if offset - synced >= SYNC_BYTES {
            sync()?;
            synced = offset;
        }
    }
    sync()
}

impl Repository for Directory {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn lock(&self, name: &str) -> Result<Option<Lock>> {
        let directory = self.path(name);
        durable::create_dirs_durably(&*self.io, &directory)?;
        let path = directory.join(".lock");
        let lock = self.io.lock(&path).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => Error::Conflict(format!("another backup to {} is under way", directory.display())),
            _ => Error::io("lock", &path, error),
        })?;
        // A process that was killed may not have come to sync the name of its last object, which is about to be built on.
        for entry in self.list(name)?.into_iter().filter(|entry| entry.is_dir) {
            let directory = directory.join(entry.name);
            self.io.sync_dir(&directory).map_err(|error| Error::io("sync", &directory, error))?;
        }
        Ok(Some(lock))
    }

    fn put(&self, name: &str, _bytes: u64, chunks: &mut Chunks<'_>) -> Result<()> {
        self.write(name, chunks)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        // Nobody else puts one: who does has the lock.
        match self.io.open(&self.path(name)) {
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("open", &self.path(name), error)),
        }
        self.write(name, &mut std::iter::once(Ok(bytes.to_vec()))).map(|()| true)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match self.io.remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Box<Chunks<'_>>>> {
        let path = self.path(name);
        let file = match self.io.open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|error| Error::io("open", &path, error))?,
        };
        let mut offset = 0;
        let next = move || {
            let mut chunk = vec![0; CHUNK_BYTES];
            let read = file.read_at(offset, &mut chunk).map_err(|error| Error::io("read", &path, error));
            chunk.truncate(*read.as_ref().unwrap_or(&0));
            offset += chunk.len() as u64;
            read.map(|read| (read > 0).then_some(chunk)).transpose()
        };
        Ok(Some(Box::new(std::iter::from_fn(next))))
    }

    fn list(&self, name: &str) -> Result<Vec<Entry>> {
        let path = self.path(name);
        match self.io.list(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            listed => {
                let mut entries = listed.map_err(|error| Error::io("list", &path, error))?;
                entries.retain(|entry| !entry.name.starts_with('.') && !entry.name.ends_with(".tmp"));
                Ok(entries)
            }
        }
    }
}
