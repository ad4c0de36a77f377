//! The one place for "write · sync · rename · sync the directory", and for the few other procedures whose order matters.

use std::io::{ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{File, Io};
use crate::error::{Error, Result};

/// Directories below the one given that [`remove_tree`] goes down. Ours are three deep at most (tenant, index, `wal`).
const DEPTH_MAX: usize = 8;

/// Puts `parts`, one after the other, under `name` in `directory`: after any crash that name has the old contents or the new
/// ones, whole. Returns the bytes written; the new contents are durable then.
///
/// # Errors
///
/// * [`Error::Io`], [`Error::Full`]: before the rename. Nothing happened: the name has what it had.
/// * [`Error::OutcomeUnknown`]: the directory's sync failed after the rename. The name has the new contents now, and may have either
///   after a crash. Calling again does not help: a later sync may say `Ok` about names that the disk does not have.
pub fn replace(io: &dyn Io, directory: &Path, name: &str, parts: &[IoSlice<'_>]) -> Result<u64> {
    let temporary = temporary_path(directory, name);
    if let Err(e) = write_temporary(io, &temporary, parts) {
        // Best effort: the space is wanted back, but a leftover is harmless, since the next call and the next open remove it.
        let _ = io.remove_file(&temporary);
        return Err(e);
    }
    put_under_name(io, directory, &temporary, name)?;
    Ok(bytes_of(parts))
}

/// Where [`replace`] writes before it renames. A file of this name is never complete in the eyes of a reader.
pub fn temporary_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.tmp"))
}

fn write_temporary(io: &dyn Io, temporary: &Path, parts: &[IoSlice<'_>]) -> Result<()> {
    let file = create_temporary(io, temporary)?;
    file.write_at(0, parts).map_err(|e| Error::io("write", temporary, e))?;
    // Contents before name: the disk may make the rename durable first, and a crash would then show an empty file under the name.
    file.sync_data().map_err(|e| Error::io("sync", temporary, e))
}

fn create_temporary(io: &dyn Io, temporary: &Path) -> Result<Arc<dyn File>> {
    // A crash may have left one. It is removed and not reused: its pages may be marked clean by a sync that failed.
    match io.remove_file(temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove", temporary, e)),
        _ => {}
    }
    io.create(temporary).map_err(|e| Error::io("create", temporary, e))
}

/// The contents of `temporary` are durable.
fn put_under_name(io: &dyn Io, directory: &Path, temporary: &Path, name: &str) -> Result<()> {
    let target = directory.join(name);
    // The rename is the one step that readers see, and it is atomic: before it nothing has happened, after it everything has.
    if let Err(e) = io.rename(temporary, &target) {
        let _ = io.remove_file(temporary);
        return Err(Error::io("rename", &target, e));
    }
    // Only now is the *name* on disk. From here on no error may say that nothing happened: the new contents are visible.
    io.sync_dir(directory).map_err(|e| Error::io("sync", directory, e).into_outcome_unknown())
}

/// What [`replace`] does, for contents that come piece by piece. Dropped before [`finish`](Self::finish), nothing has happened.
#[derive(Debug)]
pub struct Replacement<'a> {
    io: &'a dyn Io,
    directory: PathBuf,
    name: String,
    file: Arc<dyn File>,
    written: u64,
    buffer: Vec<u8>,
    finished: bool,
}

impl<'a> Replacement<'a> {
    /// Bytes that are written at once.
    const BUFFER_BYTES: usize = 1 << 20;

    /// Begins a file that will have `name` in `directory`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Full`].
    pub fn begin(io: &'a dyn Io, directory: &Path, name: &str) -> Result<Self> {
        let file = create_temporary(io, &temporary_path(directory, name))?;
        Ok(Self {
            io,
            directory: directory.to_owned(),
            name: name.to_owned(),
            file,
            written: 0,
            buffer: Vec::new(),
            finished: false,
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Full`]: it is of no use any more.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= Self::BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_at(self.written, &[IoSlice::new(&self.buffer)]);
        written.map_err(|e| Error::io("write", &self.temporary(), e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Gives the file its name: whole, and durably.
    ///
    /// # Errors
    ///
    /// As [`replace`].
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.file.sync_data().map_err(|e| Error::io("sync", &self.temporary(), e))?;
        self.finished = true;
        put_under_name(self.io, &self.directory, &self.temporary(), &self.name)
    }

    fn temporary(&self) -> PathBuf {
        temporary_path(&self.directory, &self.name)
    }
}

impl Drop for Replacement<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.io.remove_file(&self.temporary());
        }
    }
}

/// Creates a directory whose parent exists, or takes the one that is there, and makes its name durable.
///
/// # Errors
///
/// [`Error::OutcomeUnknown`] where it was created but the parent's sync failed.
pub fn create_dir_durably(io: &dyn Io, path: &Path) -> Result<()> {
    let parent = parent(path)?;
    let mut is_new = false;
    match io.create_dir(path) {
        Ok(()) => is_new = true,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            // It must be a directory: whoever asked is about to put files into it.
            io.list(path).map_err(|e| Error::io("create", path, e))?;
        }
        Err(e) => return Err(Error::io("create", path, e)),
    }
    // Also where it was there before: perhaps a process that was killed made it and did not come to this line.
    io.sync_dir(parent).map_err(|e| {
        if is_new {
            // The next call must make it anew: it would find this one, and a later sync may pass over a name that a failed one lost.
            let _ = io.remove_dir(path);
        }
        Error::io("sync", parent, e).into_outcome_unknown()
    })
}

/// The same where any number of directories above it may be missing too.
///
/// # Errors
///
/// As [`create_dir_durably`].
pub fn create_dirs_durably(io: &dyn Io, path: &Path) -> Result<()> {
    match create_dir_durably(io, path) {
        Err(Error::Io(fault)) if fault.source.kind() == ErrorKind::NotFound => {
            create_dirs_durably(io, parent(path)?)?;
            create_dir_durably(io, path)
        }
        other => other,
    }
}

/// The directory that holds the name `path`.
fn parent(path: &Path) -> Result<&Path> {
    match path.parent() {
        // A bare name is in the current directory.
        Some(parent) if parent.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(parent) => Ok(parent),
        None => Err(Error::io("create", path, ErrorKind::InvalidInput.into())),
    }
}

/// All bytes of a file of at most `bytes_max` bytes.
///
/// # Errors
///
/// [`Error::Corrupt`] where it is longer, before anything is allocated: the file is not one that we wrote.
pub fn read_all(io: &dyn Io, path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let fault = |e| Error::io("read", path, e);
    let file = io.open(path).map_err(fault)?;
    let length = file.len().map_err(fault)?;
    if length > bytes_max {
        return Err(Error::corrupt(
            path,
            bytes_max,
            format!("the file has {length} bytes, of which at most {bytes_max} can be right"),
        ));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| fault(ErrorKind::FileTooLarge.into()))?];
    let read = file.read_at(0, &mut bytes).map_err(fault)?;
    if read < bytes.len() {
        // Somebody cut it while we read: what we have is neither the old file nor a new one.
        return Err(fault(ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// Removes a directory and all that is in it; one that is not there is fine, so that a removal that a crash stopped can go on.
///
/// Links in it are removed and not followed. Nothing is synced: the caller has already renamed the directory to a name that means
/// nothing, and what a crash brings back is removed again at the next open.
pub fn remove_tree(io: &dyn Io, directory: &Path) -> Result<()> {
    remove_level(io, directory, DEPTH_MAX)
}

fn remove_level(io: &dyn Io, directory: &Path, depth_left: usize) -> Result<()> {
    let entries = match io.list(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("list", directory, e)),
    };
    for entry in entries {
        let path = directory.join(&entry.name);
        if !entry.is_dir {
            io.remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
        } else if depth_left > 0 {
            remove_level(io, &path, depth_left - 1)?;
        } else {
            // Nothing of ours is that deep: better to leave it than to run out of stack, or to empty what a stranger mounted here.
            return Err(Error::io("remove", &path, ErrorKind::DirectoryNotEmpty.into()));
        }
    }
    io.remove_dir(directory).map_err(|e| Error::io("remove", directory, e))
}

fn bytes_of(parts: &[IoSlice<'_>]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::os::OsIo;
    use crate::io::sim::{Fault, SimIo, Survival};

    fn names(directory: &Path) -> Vec<String> {
        OsIo.list(directory).unwrap().into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn create_dirs_durably_makes_every_missing_level_durable() {
        let disk = SimIo::new();
        create_dirs_durably(&disk, Path::new("/a/b/c")).unwrap();
        create_dirs_durably(&disk, Path::new("/a/b/c")).unwrap();
        assert!(disk.crash(Survival::None).list(Path::new("/a/b/c")).unwrap().is_empty());
    }

    #[test]
    fn replace_puts_the_parts_under_the_name_and_leaves_no_temporary() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(replace(&OsIo, directory, "m", &[IoSlice::new(b"one "), IoSlice::new(b"two")]).unwrap(), 7);
        assert_eq!(replace(&OsIo, directory, "m", &[IoSlice::new(b"three")]).unwrap(), 5);
        assert_eq!(read_all(&OsIo, &directory.join("m"), 5).unwrap(), b"three");
        assert_eq!(names(directory), ["m"]);
    }

    #[test]
    fn replace_takes_no_byte_of_a_leftover_temporary() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let leftover = OsIo.create(&temporary_path(directory, "m")).unwrap();
        leftover.write_at(0, &[IoSlice::new(b"longer than what comes")]).unwrap();
        replace(&OsIo, directory, "m", &[IoSlice::new(b"short")]).unwrap();
        assert_eq!(read_all(&OsIo, &directory.join("m"), 100).unwrap(), b"short");
    }

    #[test]
    fn failed_rename_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        // A file cannot be renamed over a directory.
        OsIo.create_dir(&directory.join("m")).unwrap();
        let error = replace(&OsIo, directory, "m", &[IoSlice::new(b"x")]).unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error}");
        assert_eq!(names(directory), ["m"]);
    }

    /// `/m` holds "old", durably.
    fn disk_with_old() -> SimIo {
        let disk = SimIo::new();
        replace(&disk, Path::new("/"), "m", &[IoSlice::new(b"old")]).unwrap();
        disk
    }

    fn contents(disk: &SimIo) -> Vec<u8> {
        read_all(disk, Path::new("/m"), 5000).unwrap()
    }

    /// Puts contents under the name `m`.
    type Way = fn(&SimIo, &[u8]) -> Result<()>;

    const WAYS: [Way; 2] = [
        |disk, new| replace(disk, Path::new("/"), "m", &[IoSlice::new(new)]).map(drop),
        |disk, new| {
            let mut replacement = Replacement::begin(disk, Path::new("/"), "m")?;
            for piece in new.chunks(new.len() / 2) {
                replacement.put(piece)?;
                replacement.flush()?;
            }
            replacement.finish()
        },
    ];

    #[test]
    fn replace_that_crashes_anywhere_leaves_old_or_new_and_new_once_it_returned() {
        let new = vec![7; 2000];
        for (way, n) in WAYS.into_iter().flat_map(|way| (1..14).map(move |n| (way, n))) {
            let disk = disk_with_old();
            disk.crash_at(n);
            let is_done = way(&disk, &new).is_ok();
            for survival in [Survival::None, Survival::All].into_iter().chain((0..100).map(Survival::Random)) {
                let found = disk.crash(survival);
                let held = contents(&found);
                assert!(held == new || (held == b"old" && !is_done), "crash at {n}, {survival:?}: {:?}", disk.trace());
                // What the crash left does not stand in the way.
                replace(&found, Path::new("/"), "m", &[IoSlice::new(b"next")]).unwrap();
                assert_eq!(contents(&found.crash(Survival::None)), b"next");
            }
            assert!(is_done || n < 13, "it has fewer operations");
        }
    }

    #[test]
    fn replace_that_fails_says_unknown_if_and_only_if_the_name_has_the_new_contents() {
        let faults = [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::FailedSync];
        for (way, fault) in WAYS.into_iter().flat_map(|way| faults.map(|fault| (way, fault))) {
            for n in 1.. {
                let disk = disk_with_old();
                disk.fail_at(n, fault);
                let result = way(&disk, b"new");
                if disk.faults_left() > 0 {
                    result.unwrap();
                    break;
                }
                match result.unwrap_err() {
                    Error::OutcomeUnknown(_) => assert_eq!(contents(&disk), b"new"),
                    Error::Full(_) => assert_eq!((contents(&disk), fault), (b"old".to_vec(), Fault::Enospc)),
                    Error::Io(_) => assert_eq!(contents(&disk), b"old"),
                    other => panic!("{fault:?} at {n}: {other}"),
                }
                assert_eq!(disk.list(Path::new("/")).unwrap().len(), 1, "a temporary is left by {fault:?} at {n}");
            }
        }
    }

    #[test]
    fn a_replacement_that_is_dropped_has_done_nothing() {
        let disk = disk_with_old();
        let mut replacement = Replacement::begin(&disk, Path::new("/"), "m").unwrap();
        replacement.put(&vec![1; 2 * Replacement::BUFFER_BYTES]).unwrap();
        drop(replacement);
        assert_eq!((contents(&disk), disk.list(Path::new("/")).unwrap().len()), (b"old".to_vec(), 1));
    }

    #[test]
    fn directory_is_there_after_any_crash_once_it_was_created_durably() {
        let disk = SimIo::new();
        // Made by somebody who did not come to sync it.
        disk.create_dir(Path::new("/d")).unwrap();
        create_dir_durably(&disk, Path::new("/d")).unwrap();
        assert!(disk.crash(Survival::None).list(Path::new("/d")).is_ok());
        disk.fail_at(1, Fault::FailedSync);
        let error = create_dir_durably(&disk, Path::new("/e")).unwrap_err();
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
        // The second try does not lean on what the failed sync lost.
        create_dir_durably(&disk, Path::new("/e")).unwrap();
        assert!(disk.crash(Survival::None).list(Path::new("/e")).is_ok());
    }

    #[test]
    fn directory_is_created_by_a_name_alone() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let name = Path::new(directory.path().file_name().unwrap());
        create_dir_durably(&OsIo, name).unwrap();
    }

    #[test]
    fn read_all_refuses_a_file_that_is_longer_than_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        OsIo.create(&path).unwrap().set_len(4097).unwrap();
        let error = read_all(&OsIo, &path, 4096).unwrap_err();
        assert!(matches!(error, Error::Corrupt(_)), "{error}");
    }

    #[test]
    fn create_dir_durably_may_be_repeated_but_not_over_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        create_dir_durably(&OsIo, &path).unwrap();
        create_dir_durably(&OsIo, &path).unwrap();
        OsIo.create(&path.join("f")).unwrap();
        assert!(create_dir_durably(&OsIo, &path.join("f")).is_err());
        assert!(create_dir_durably(&OsIo, &directory.path().join("absent/d")).is_err());
    }

    #[test]
    fn remove_tree_removes_links_and_not_what_they_point_to() {
        let directory = tempfile::tempdir().unwrap();
        let keep = directory.path().join("keep");
        let tree = directory.path().join("tree");
        for path in [&keep, &tree, &tree.join("a"), &tree.join("a/b")] {
            OsIo.create_dir(path).unwrap();
        }
        OsIo.create(&keep.join("f")).unwrap();
        OsIo.create(&tree.join("a/b/f")).unwrap();
        std::os::unix::fs::symlink(&keep, tree.join("a/link")).unwrap();
        remove_tree(&OsIo, &tree).unwrap();
        remove_tree(&OsIo, &tree).unwrap();
        assert_eq!(names(directory.path()), ["keep"]);
        assert_eq!(names(&keep), ["f"]);
    }

    #[test]
    fn remove_tree_stops_at_a_depth_that_is_not_ours() {
        let directory = tempfile::tempdir().unwrap();
        let mut path = directory.path().join("tree");
        let tree = path.clone();
        OsIo.create_dir(&path).unwrap();
        for _ in 0..=DEPTH_MAX {
            path = path.join("d");
            OsIo.create_dir(&path).unwrap();
        }
        assert!(remove_tree(&OsIo, &tree).is_err());
        assert_eq!(names(path.parent().unwrap()), ["d"]);
    }
}
