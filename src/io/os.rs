//! The real disk.
#![expect(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is where the store's file operations end")]

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::{Entry, File, Io, Lock, Map, whole};

/// The file system of this machine.
#[derive(Clone, Debug, Default)]
pub struct OsIo;

/// Bytes of memory that are this process's own: what is mapped from files is the kernel's to drop. 0 where the system does not say.
#[cfg(feature = "server")]
pub(crate) fn own_memory_bytes() -> u64 {
    // proc_pid_statm(5): size, resident, shared, in pages.
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split_whitespace().skip(1).map(|count| count.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}

impl Io for OsIo {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = match fs::OpenOptions::new().read(true).write(true).open(path) {
            Err(e) if matches!(e.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied) => {
                fs::File::open(path)?
            }
            opened => opened?,
        };
        Ok(Arc::new(OsFile { file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(OsFile { file }))
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        Map::mapped(&fs::File::open(path)?)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            // `file_type` does not follow a link: a link to a directory is not a directory of ours.
            let is_dir = entry.file_type()?.is_dir();
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        // Without the flag a file given by mistake would be synced, and the names would not.
        let directory_only = OFlags::DIRECTORY.bits() as i32;
        // `fsync` and not `fdatasync`: POSIX does not say that a directory's names are its data.
        fs::OpenOptions::new().read(true).custom_flags(directory_only).open(path)?.sync_all()
    }

    fn available(&self, directory: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(directory)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        // Never truncated: whoever holds the lock may have left a note in the file.
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let taken = file.try_lock();
        held(file, taken)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Lock> {
        let file = fs::File::open(path)?;
        let taken = file.try_lock_shared();
        held(file, taken)
    }
}

/// A locked file.
#[derive(Debug)]
struct Held(fs::File);

impl Drop for Held {
    /// To close it is not enough: a process that another thread is just starting has a copy of the descriptor until it comes to its program.
    fn drop(&mut self) {
        // Of a file that is closed anyway there is nothing better to be done.
        let _ = self.0.unlock();
    }
}

fn held(file: fs::File, taken: Result<(), fs::TryLockError>) -> io::Result<Lock> {
    match taken {
        Ok(()) => Ok(Lock { _held: Box::new(Held(file)) }),
        Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        Err(fs::TryLockError::Error(e)) => Err(e),
    }
}

#[derive(Debug)]
struct OsFile {
    file: fs::File,
}

impl File for OsFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        whole::read(buffer, offset, |buffer, offset| self.file.read_at(buffer, offset))
    }

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        whole::write(parts, offset, |parts, offset| Ok(rustix::io::pwritev(&self.file, parts, offset)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More parts than one system call takes, empty ones among them, arrive whole and in order.
    #[test]
    fn write_of_more_parts_than_one_call_takes_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = OsIo.create(&directory.path().join("f")).unwrap();
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i % 251) as u8).collect();
        let mut parts = vec![IoSlice::new(&[]); 1025];
        parts.extend(bytes.chunks(3).map(IoSlice::new));
        parts.push(IoSlice::new(&[]));
        file.write_at(5, &parts).unwrap();

        let mut found = vec![0; bytes.len() + 100];
        assert_eq!(file.read_at(5, &mut found).unwrap(), bytes.len());
        assert_eq!(found[..bytes.len()], bytes[..]);
    }

    /// Another thread was starting a process: the next opening of a data directory said that somebody else had it.
    #[test]
    fn lock_that_is_dropped_is_free_whoever_has_a_copy_of_its_descriptor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("LOCK");
        let file = fs::File::create(&path).unwrap();
        let copy = file.try_clone().unwrap();
        let taken = file.try_lock();
        let lock = held(file, taken).unwrap();
        assert_eq!(OsIo.lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        drop(OsIo.lock(&path).unwrap());
        drop(copy);
    }

    #[test]
    fn full_device_says_that_it_is_full() {
        let full = OsIo.open(Path::new("/dev/full")).unwrap();
        let error = full.write_at(0, &[IoSlice::new(b"x"), IoSlice::new(b"y")]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn list_says_that_a_link_to_a_directory_is_not_one() {
        let directory = tempfile::tempdir().unwrap();
        OsIo.create_dir(&directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink(directory.path().join("real"), directory.path().join("link")).unwrap();
        let found: Vec<_> = OsIo.list(directory.path()).unwrap().into_iter().map(|e| (e.name, e.is_dir)).collect();
        assert_eq!(found, [("link".to_owned(), false), ("real".to_owned(), true)]);
    }
}
