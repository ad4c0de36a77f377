//! A disk in front of the simulated one that is asked before each operation: to fail it, to hold it up, or to do something else instead.

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use faiss_proxy::io::sim::{Operation, SimIo};
use faiss_proxy::io::{Entry, File, Io, Lock, Map};

/// What comes of an operation that did not fail already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    Do,
    /// Not at all, and it says that it was done. For what gives nothing back.
    Skip,
}

/// Asked with the disk behind, which it may use, and of a rename with the old path.
pub type Ask = Arc<dyn Fn(&SimIo, Operation, &Path) -> io::Result<Course> + Send + Sync>;

#[derive(Clone)]
pub struct Detour {
    pub disk: SimIo,
    pub ask: Ask,
}

impl Detour {
    pub fn new(disk: SimIo, ask: impl Fn(&SimIo, Operation, &Path) -> io::Result<Course> + Send + Sync + 'static) -> Self {
        Self { disk, ask: Arc::new(ask) }
    }

    fn unless_skipped(&self, operation: Operation, path: &Path, go: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match (self.ask)(&self.disk, operation, path)? {
            Course::Do => go(),
            Course::Skip => Ok(()),
        }
    }

    /// For what gives something back.
    fn done<T>(&self, operation: Operation, path: &Path, go: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        assert_eq!((self.ask)(&self.disk, operation, path)?, Course::Do, "{operation:?} cannot be skipped");
        go()
    }

    fn file(&self, path: &Path, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(DetourFile { disk: self.clone(), path: path.into(), file })
    }
}

impl fmt::Debug for Detour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl Io for Detour {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.done(Operation::Open, path, || self.disk.open(path)).map(|file| self.file(path, file))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.done(Operation::Create, path, || self.disk.create(path)).map(|file| self.file(path, file))
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        self.done(Operation::Map, path, || self.disk.map(path))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.done(Operation::List, directory, || self.disk.list(directory))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.unless_skipped(Operation::CreateDir, path, || self.disk.create_dir(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.unless_skipped(Operation::Rename, from, || self.disk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.unless_skipped(Operation::RemoveFile, path, || self.disk.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.unless_skipped(Operation::RemoveDir, path, || self.disk.remove_dir(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.unless_skipped(Operation::SyncDir, path, || self.disk.sync_dir(path))
    }

    fn available(&self, directory: &Path) -> io::Result<u64> {
        self.disk.available(directory)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock(path)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Lock> {
        self.disk.lock_shared(path)
    }
}

#[derive(Debug)]
struct DetourFile {
    disk: Detour,
    path: Box<Path>,
    file: Arc<dyn File>,
}

impl File for DetourFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.done(Operation::ReadAt, &self.path, || self.file.read_at(offset, buffer))
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.disk.unless_skipped(Operation::WriteAt, &self.path, || self.file.write_at(offset, parts))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.unless_skipped(Operation::SyncData, &self.path, || self.file.sync_data())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.unless_skipped(Operation::SetLen, &self.path, || self.file.set_len(bytes))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
