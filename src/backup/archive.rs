//! A repository as one file, `.tar.zst`: written once, from its beginning to its end, and unpacked to be read.

use std::io::{self, Cursor, IoSlice, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::repository::{CHUNK_BYTES, Chunks, Directory, Repository};
use crate::error::{Error, Result};
use crate::io::{Entry, File, Io, Lock};
use crate::time;

/// How hard zstd works. Vectors hardly compress; texts do at any level.
const LEVEL: i32 = 3;

/// Parts of a name: tenant, index, `wal`, segment, piece.
const PARTS_MAX: usize = 5;

type Writer = tar::Builder<zstd::Encoder<'static, Sequential>>;

/// An archive that is being written: what is put is appended.
#[derive(Debug)]
pub struct Archive {
    io: Arc<dyn Io>,
    path: PathBuf,
    temporary: PathBuf,
    open: Mutex<Open>,
}

struct Open {
    /// `None`: something failed, and the file ends in the middle.
    writer: Option<Writer>,
    file: Arc<dyn File>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.file.fmt(f)
    }
}

impl Archive {
    /// Begins one under a temporary name.
    ///
    /// # Errors
    /// [`Error::Conflict`]: there is a file of this name. [`Error::Io`], [`Error::Full`].
    pub fn create(io: Arc<dyn Io>, path: &Path) -> Result<Self> {
        if io.open(path).is_ok() {
            return Err(Error::Conflict(format!("{} is there already", path.display())));
        }
        let temporary = path.with_extension("zst.tmp");
        match io.remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", &temporary, error)),
            _ => {}
        }
        let fault = |error| Error::io("create", &temporary, error);
        let file = io.create(&temporary).map_err(fault)?;
        let encoder = zstd::Encoder::new(Sequential { file: Arc::clone(&file), at: 0 }, LEVEL).map_err(fault)?;
        let open = Mutex::new(Open { writer: Some(tar::Builder::new(encoder)), file });
        Ok(Self { io, path: path.to_owned(), temporary, open })
    }

    /// Ends it, durably, and gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Full`]: something failed, now or before, and there is no archive. [`Error::OutcomeUnknown`]: perhaps there is.
    pub fn finish(self) -> Result<()> {
        let Open { writer, file } = self.open.into_inner();
        let ended = match writer {
            Some(writer) => writer.into_inner().and_then(zstd::Encoder::finish).and_then(|_| file.sync_data()),
            None => Err(io::Error::other("the archive ends in the middle")),
        };
        if let Err(error) = ended.and_then(|()| self.io.rename(&self.temporary, &self.path)) {
            let _ = self.io.remove_file(&self.temporary);
            return Err(Error::io("write", &self.path, error));
        }
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        self.io.sync_dir(directory).map_err(|error| Error::io("sync", directory, error).into_outcome_unknown())
    }

    /// Takes back what was written.
    pub fn discard(self) {
        let _ = self.io.remove_file(&self.temporary);
    }

    fn append(&self, name: &str, bytes: u64, content: impl Read) -> Result<()> {
        let mut open = self.open.lock();
        let Some(mut writer) = open.writer.take() else {
            return Err(Error::io("write", &self.path, io::Error::other("the archive ends in the middle")));
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime((time::now_us() / 1_000_000).unsigned_abs());
        match writer.append_data(&mut header, name, content) {
            Ok(()) => {
                open.writer = Some(writer);
                Ok(())
            }
            Err(error) => Err(match error.downcast::<Error>() {
                Ok(own) => own,
                Err(error) => Error::io("write", &self.temporary, error),
            }),
        }
    }
}

impl Repository for Archive {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn lock(&self, _name: &str) -> Result<Option<Lock>> {
        Ok(None)
    }

    fn put(&self, name: &str, bytes: u64, chunks: &mut Chunks<'_>) -> Result<()> {
        self.append(name, bytes, Content { chunks, chunk: Cursor::default() })
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.append(name, bytes.len() as u64, bytes).map(|()| true)
    }

    /// It is new: nothing that is put is read again.
    fn get(&self, _name: &str) -> Result<Option<Box<Chunks<'_>>>> {
        Ok(None)
    }

    fn remove(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    fn list(&self, _name: &str) -> Result<Vec<Entry>> {
        Ok(Vec::new())
    }
}

/// Unpacks an archive into a directory, to be restored from. Nothing in it is believed: a name that leads elsewhere ends it.
///
/// # Errors
/// [`Error::Backup`]: it is no archive of backups. [`Error::Io`], [`Error::Full`].
pub fn unpack(io: &Arc<dyn Io>, path: &Path, into: &Path) -> Result<Directory> {
    let file = io.open(path).map_err(|error| Error::io("open", path, error))?;
    let damaged = |error: io::Error| Error::backup(path, format!("this is no whole archive: {error}"));
    let directory = Directory::new(Arc::clone(io), into);
    let decoder = zstd::Decoder::new(Sequential { file, at: 0 }).map_err(damaged)?;
    let mut archive = tar::Archive::new(decoder);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if !entry.header().entry_type().is_file() || !is_object_name(&name) {
            return Err(Error::backup(path, format!("{name:?} is no name of an object")));
        }
        let bytes = entry.size();
        let mut left = bytes;
        let next = || -> Result<Option<Vec<u8>>> {
            let mut chunk = vec![0; left.min(CHUNK_BYTES as u64) as usize];
            entry.read_exact(&mut chunk).map_err(damaged)?;
            left -= chunk.len() as u64;
            Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
        };
        let mut next = next;
        directory.put(&name, bytes, &mut std::iter::from_fn(|| next().transpose()))?;
    }
    Ok(directory)
}

/// Whether it is one that stays below where it is put, and is no temporary one.
fn is_object_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_part = |part: &str| {
        !part.is_empty() && part.len() <= 255 && !part.starts_with('.') && !part.ends_with(".tmp") && part.bytes().all(is_plain)
    };
    name.split('/').count() <= PARTS_MAX && name.split('/').all(is_part)
}

/// A file that is read or written from its beginning on.
struct Sequential {
    file: Arc<dyn File>,
    at: u64,
}

impl Write for Sequential {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(self.at, &[IoSlice::new(bytes)])?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Sequential {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(self.at, buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Chunks as something to read.
struct Content<'a, 'c> {
    chunks: &'a mut Chunks<'c>,
    chunk: Cursor<Vec<u8>>,
}

impl Read for Content<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.chunks.next() {
                Some(chunk) => self.chunk = Cursor::new(chunk.map_err(io::Error::other)?),
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::{SimIo, Survival};

    #[test]
    fn what_is_put_into_an_archive_is_there_after_a_power_cut_and_unpacked() {
        let disk = SimIo::new();
        let io: Arc<dyn Io> = Arc::new(disk.clone());
        let path = Path::new("/x.tar.zst");
        let archive = Archive::create(Arc::clone(&io), path).unwrap();
        let mut chunks = [Ok(b"ab".to_vec()), Ok(b"c".to_vec())].into_iter();
        archive.put("t/i/segments/one", 3, &mut chunks).unwrap();
        assert!(archive.put_new("t/i/backups/1.json", b"{}").unwrap());
        archive.finish().unwrap();
        let after: Arc<dyn Io> = Arc::new(disk.crash(Survival::None));
        let directory = unpack(&after, path, Path::new("/unpacked")).unwrap();
        let read = |name| directory.get(name).unwrap().unwrap().flat_map(Result::unwrap).collect::<Vec<u8>>();
        assert_eq!((read("t/i/segments/one"), read("t/i/backups/1.json")), (b"abc".to_vec(), b"{}".to_vec()));
        assert!(matches!(Archive::create(io, path), Err(Error::Conflict(_))));
    }

    #[test]
    fn an_archive_of_which_something_failed_is_none() {
        let disk = SimIo::new();
        let archive = Archive::create(Arc::new(disk.clone()), Path::new("/x.tar.zst")).unwrap();
        let mut chunks = [Ok(b"ab".to_vec()), Err(Error::Busy("no"))].into_iter();
        assert!(matches!(archive.put("t/one", 3, &mut chunks), Err(Error::Busy("no"))));
        assert!(archive.put_new("t/two", b"x").is_err());
        assert!(archive.finish().is_err());
        assert!(disk.list(Path::new("/")).unwrap().is_empty());
    }

    #[test]
    fn an_archive_that_is_none_or_leads_elsewhere_is_refused() {
        let refused = |bytes: &[u8]| {
            let disk = SimIo::new();
            disk.create(Path::new("/x")).unwrap().write_at(0, &[IoSlice::new(bytes)]).unwrap();
            let io: Arc<dyn Io> = Arc::new(disk);
            unpack(&io, Path::new("/x"), Path::new("/unpacked")).map(drop).unwrap_err().to_string()
        };
        let packed = |name: &str, kind: tar::EntryType| {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_entry_type(kind);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, &b"x"[..]).unwrap();
            zstd::encode_all(&builder.into_inner().unwrap()[..], LEVEL).unwrap()
        };
        let file = tar::EntryType::Regular;
        for name in ["../x", "/etc/x", "a/../../x", "a//b", ".lock", "a/b/c/d/e/f", "a/b.tmp", "a\\b"] {
            assert!(refused(&packed(name, file)).contains("no name of an object"), "{name}");
        }
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link, tar::EntryType::Directory] {
            assert!(refused(&packed("a/b", kind)).contains("no name of an object"), "{kind:?}");
        }
        assert!(refused(b"no archive").contains("no whole archive"));
        let whole = packed("a/b", file);
        assert!(refused(&whole[..whole.len() - 3]).contains("no whole archive"));
    }
}
