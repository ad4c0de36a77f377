//! Snapshots of indices whose log nodes share, in a repository: of a checkpoint everything but the log, which goes on from there.
//!
//! The files of an index's segments are objects named by their SHA-256, each put once, whichever node has it. A document names those of one manifest and has
//! the manifest itself; it is put last, and without one what was put is nothing. Then all of it is read back, and only then does the shared log let go of what is
//! before, and the repository of what neither this snapshot nor the one before needs. `docs/format.md` tells where everything is.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::chain::read_all;
use super::record::{Digest, Object};
use super::repository::{CHUNK_BYTES, Chunks, Repository, write_synced};
use crate::engine::Index;
use crate::engine::pin::Pin;
use crate::engine::snapshots::Snapshots;
use crate::error::{Error, Result};
use crate::format::manifest::{Checksum, Manifest, SEGMENT_DIRECTORY};
use crate::format::position::Place;
use crate::io::Io;
use crate::types::{IndexId, Lsn, TenantId};

/// Version of the documents that this code writes, and the only one that it reads.
const VERSION: u32 = 1;

/// A reader takes no document larger than this: the largest manifest, and the names of its files.
const DOCUMENT_BYTES_MAX: u64 = 256 << 20;

/// Where all of them are in a repository.
const SNAPSHOTS: &str = "snapshots";

/// Where the snapshots of all indices are.
#[derive(Debug)]
pub struct SnapshotRepository {
    repository: Box<dyn Repository>,
    /// The files of each index's last snapshot of this process: one that did not change is not hashed again.
    known: Mutex<HashMap<IndexId, Vec<Object>>>,
}

/// What taking a snapshot did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotReport {
    /// Every mutation up to this one is in it.
    pub lsn: Lsn,
    /// What was put, but for the document.
    pub objects_moved: usize,
    pub bytes_moved: u64,
    /// Of all its files, what was there before included.
    pub bytes: u64,
    /// The shared log has let go of the mutations up to this one, or of less: it may keep more. 0: of none.
    pub trimmed_lsn: Lsn,
    /// Of older snapshots.
    pub objects_removed: usize,
}

impl SnapshotRepository {
    pub fn new(repository: Box<dyn Repository>) -> Self {
        Self { repository, known: Mutex::default() }
    }

    fn shelf(&self, tenant: &TenantId, index: IndexId) -> Shelf<'_> {
        Shelf { repository: &*self.repository, directory: format!("{SNAPSHOTS}/{tenant}/{index}"), index }
    }

    /// Takes a snapshot of an index, where it is ahead of the newest one, and reads it back. Then the shared log lets go of what is before the *last but
    /// one*: so a node needs no snapshot that was away, or is behind, for less than the time between two. `None`: there was nothing to do.
    ///
    /// # Errors
    /// [`Error::Conflict`]: another node takes one of it, or its log is not shared. [`Error::Backup`]: what was put is not what is there. Then and at every
    /// other error the log keeps everything. [`Error::Corrupt`]: a file of the index is not what its manifest says. [`Error::NotFound`],
    /// [`Error::Closed`]: the index was deleted or closed. [`Error::Io`], [`Error::Full`], [`Error::OutcomeUnknown`]: a disk or the repository fails.
    pub fn take(&self, index: &Index) -> Result<Option<SnapshotReport>> {
        let shelf = self.shelf(index.tenant(), index.id());
        // Mostly there is nothing to do. That is said without a lock, which another node may want.
        if shelf.newest()?.is_some_and(|newest| lsn_of(&newest) >= Some(index.info().lsn)) {
            return Ok(None);
        }
        let _no_other = self.repository.lock(&shelf.directory)?;
        index.checkpoint()?;
        let pin = index.pin()?;
        // It is no node's: whoever begins with it has a copy of its own.
        let manifest = Manifest { copy: None, ..pin.manifest().clone() };
        let Some(place) = manifest.shared else {
            return Err(Error::Conflict("the log of this index is not shared: back it up".to_owned()));
        };
        // After the lock: what another node has put meanwhile.
        let before = shelf.newest()?;
        if before.as_deref().and_then(lsn_of).unwrap_or(0) >= manifest.position.lsn {
            return Ok(None);
        }
        let lsn = manifest.position.lsn;
        let there = shelf.files()?;
        let mut report = SnapshotReport { lsn, objects_moved: 0, bytes_moved: 0, bytes: 0, trimmed_lsn: 0, objects_removed: 0 };
        let files = self.put_files(&shelf, &pin, &there, &mut report)?;
        drop(pin);
        self.known.lock().insert(index.id(), files.clone());
        let document = encode(&manifest, files);
        let name = document_name(lsn, &document);
        // Last. One of this name is the same document.
        self.repository.put_new(&shelf.name(&name), &document)?;
        if let Err(error) = shelf.read_back(&name) {
            if matches!(error, Error::Backup(_)) {
                // Best effort: nobody is to begin with it.
                let _ = self.repository.remove(&shelf.name(&name));
            }
            return Err(error);
        }
        let Some(before) = before else { return Ok(Some(report)) };
        if let Some(to) = shelf.place_of(&before) {
            // Whichever is older: what was read back has everything before either.
            let to = if to.sequence < place.sequence { to } else { place };
            index.trim_shared(to)?;
            report.trimmed_lsn = to.lsn;
            match shelf.clear(&before, &there) {
                Ok(removed) => report.objects_removed = removed,
                Err(error) => tracing::warn!(%error, "older snapshots are not all removed"),
            }
        }
        Ok(Some(report))
    }

    /// Removes the snapshots of indices that are deleted, as `is_deleted` says of the indices that there are snapshots of. Gives how many indices that was.
    ///
    /// # Errors
    /// Those of `is_deleted`; [`Error::Io`], [`Error::OutcomeUnknown`]: the repository fails, and some may be left.
    pub fn remove_deleted(&self, is_deleted: &dyn Fn(&TenantId, IndexId) -> Result<bool>) -> Result<usize> {
        let mut removed = 0;
        for tenant in self.repository.list(SNAPSHOTS)?.iter().filter_map(|entry| TenantId::new(&entry.name).ok()) {
            for entry in self.repository.list(&format!("{SNAPSHOTS}/{tenant}"))? {
                let id = IndexId::try_parse(&entry.name).ok().filter(|id| id.to_string() == entry.name);
                let Some(id) = id else { continue };
                if !is_deleted(&tenant, id)? {
                    continue;
                }
                let shelf = self.shelf(&tenant, id);
                let (documents, files) = (shelf.documents()?, shelf.files()?);
                for name in &documents {
                    self.repository.remove(&shelf.name(name))?;
                }
                for name in &files {
                    self.repository.remove(&shelf.file(name))?;
                }
                removed += usize::from(!documents.is_empty() || !files.is_empty());
                self.known.lock().remove(&id);
            }
        }
        Ok(removed)
    }

    /// Puts the files that are missing, and gives all of them.
    fn put_files(
        &self,
        shelf: &Shelf<'_>,
        pin: &Pin<'_>,
        there: &HashSet<String>,
        report: &mut SnapshotReport,
    ) -> Result<Vec<Object>> {
        let known = self.known.lock().get(&shelf.index).cloned().unwrap_or_default();
        let mut files = Vec::new();
        for (name, _, checksum) in pin.manifest().segment_files() {
            let name = format!("{SEGMENT_DIRECTORY}/{name}");
            let sha256 = match known.iter().find(|file| file.name == name && file.checksum() == checksum) {
                Some(file) => file.sha256,
                None => sha256_of(pin, &name, checksum)?,
            };
            let file = Object { name, bytes: checksum.bytes, crc32: checksum.crc, sha256 };
            if !there.contains(&sha256.to_string()) {
                let path = pin.directory().join(&file.name);
                let wrong = |problem: &str| Error::corrupt(&path, 0, format!("{problem}; no snapshot is taken of it"));
                let chunks = &mut Checked::new(chunks(pin, &file.name)?, &file, &wrong);
                self.repository.put(&shelf.file(&sha256.to_string()), file.bytes, chunks)?;
                report.objects_moved += 1;
                report.bytes_moved += file.bytes;
            }
            report.bytes += file.bytes;
            files.push(file);
        }
        Ok(files)
    }
}

impl Snapshots for SnapshotRepository {
    fn fetch(&self, tenant: &TenantId, index: IndexId, io: &dyn Io, directory: &Path) -> Result<Option<Manifest>> {
        let shelf = self.shelf(tenant, index);
        let (mut tried, mut first_error) = (HashSet::new(), None);
        // Listed each time: a newer one may have taken the place of what is being fetched.
        while let Some(newest) = shelf.documents()?.into_iter().rev().find(|name| !tried.contains(name)) {
            match shelf.fetch(&newest, io, directory) {
                Ok((manifest, files)) => {
                    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
                    tracing::info!(%tenant, %index, lsn = manifest.position.lsn, bytes, "fetched a snapshot");
                    self.known.lock().insert(index, files);
                    return Ok(Some(manifest));
                }
                Err(error @ Error::Backup(_)) => {
                    tracing::error!(%tenant, %index, %error, "a snapshot cannot be used; looking for another");
                    first_error.get_or_insert(error);
                    tried.insert(newest);
                }
                Err(error) => return Err(error),
            }
        }
        first_error.map_or(Ok(None), Err)
    }
}

/// Where the snapshots of one index are.
struct Shelf<'a> {
    repository: &'a dyn Repository,
    directory: String,
    index: IndexId,
}

impl Shelf<'_> {
    fn name(&self, below: &str) -> String {
        format!("{}/{below}", self.directory)
    }

    /// The name of the object that has a file's bytes, by their SHA-256.
    fn file(&self, sha256: &str) -> String {
        self.name(&format!("files/{sha256}"))
    }

    /// The SHA-256 of each file that is there.
    fn files(&self) -> Result<HashSet<String>> {
        Ok(self.repository.list(&self.name("files"))?.into_iter().map(|entry| entry.name).collect())
    }

    /// The names of the documents, in the order of their LSNs. Of two of the same, both are right.
    fn documents(&self) -> Result<Vec<String>> {
        let entries = self.repository.list(&self.directory)?;
        Ok(entries.into_iter().filter(|entry| !entry.is_dir && lsn_of(&entry.name).is_some()).map(|entry| entry.name).collect())
    }

    /// The name of the document of the newest state.
    fn newest(&self) -> Result<Option<String>> {
        Ok(self.documents()?.pop())
    }

    /// Writes the files of a snapshot below a directory, in the place of those that are there.
    ///
    /// # Errors
    /// Those of [`Snapshots::fetch`]. What was written of one that is not whole is removed, as far as that can be.
    fn fetch(&self, name: &str, io: &dyn Io, directory: &Path) -> Result<(Manifest, Vec<Object>)> {
        let (manifest, files) = self.read(name)?;
        for file in &files {
            let path = directory.join(&file.name);
            if let Err(error) = self.with_object(file, |chunks| write_synced(io, &path, chunks)) {
                for file in &files {
                    // Nobody looks at it, and the directory is given up or goes on with other files.
                    let _ = io.remove_file(&directory.join(&file.name));
                }
                return Err(error);
            }
        }
        Ok((manifest, files))
    }

    /// Removes the documents before one, and of the files that were `there` those that neither that document nor a later one names. Gives how many
    /// objects that was. A file that was put meanwhile may be of a document to come.
    ///
    /// # Errors
    /// As [`read`](Self::read), and then nothing was removed; [`Error::Io`], [`Error::OutcomeUnknown`]: some is left.
    fn clear(&self, oldest: &str, there: &HashSet<String>) -> Result<usize> {
        let documents = self.documents()?;
        let (old, kept) = documents.split_at(documents.partition_point(|name| name.as_str() < oldest));
        let mut needed = HashSet::new();
        for name in kept {
            needed.extend(self.read(name)?.1.iter().map(|file| file.sha256.to_string()));
        }
        // Documents first: none names what is not there.
        let files = there.difference(&needed).map(|sha256| self.file(sha256));
        let mut removed = 0;
        for name in old.iter().map(|name| self.name(name)).chain(files) {
            self.repository.remove(&name)?;
            removed += 1;
        }
        Ok(removed)
    }

    /// What a document says.
    ///
    /// # Errors
    /// [`Error::Backup`]: it is missing or damaged, or of another index.
    fn read(&self, name: &str) -> Result<(Manifest, Vec<Object>)> {
        let path = self.name(name);
        let document = read_all(self.repository, &path, DOCUMENT_BYTES_MAX)?;
        let wrong = |problem: String| Error::backup(&self.repository.path(&path), problem);
        let (manifest, files) = decode(&document).map_err(wrong)?;
        if IndexId::from_bytes(manifest.index) != self.index {
            return Err(wrong(format!("it is of index {}", IndexId::from_bytes(manifest.index))));
        }
        if document_name(manifest.position.lsn, &document) != name {
            return Err(wrong("it is not what its name says: its LSN or its digest is another".to_owned()));
        }
        Ok((manifest, files))
    }

    /// Where the shared log goes on behind a snapshot, if that can be had.
    fn place_of(&self, name: &str) -> Option<Place> {
        let read = self.read(name).inspect_err(|error| tracing::warn!(%error, "the shared log is not trimmed"));
        read.ok()?.0.shared
    }

    /// Reads a snapshot, all of it.
    ///
    /// # Errors
    /// [`Error::Backup`]: an object is missing, or is not what was to be put.
    fn read_back(&self, name: &str) -> Result<()> {
        let (_, files) = self.read(name)?;
        let read = |chunks: &mut Chunks<'_>| {
            for chunk in chunks {
                chunk?;
            }
            Ok(())
        };
        files.iter().try_for_each(|file| self.with_object(file, read))
    }

    /// Gives the bytes of an object to `read`, with an error before the last of them where it is not what it is to be.
    ///
    /// # Errors
    /// Those of `read`. [`Error::Backup`]: it is missing.
    fn with_object(&self, file: &Object, read: impl FnOnce(&mut Chunks<'_>) -> Result<()>) -> Result<()> {
        let name = self.file(&file.sha256.to_string());
        let wrong = |problem: &str| {
            let what = format!(
                "{problem}; a snapshot needs it for {}: where the object is removed, the next one puts it again",
                file.name
            );
            Error::backup(&self.repository.path(&name), what)
        };
        let chunks = self.repository.get(&name)?.ok_or_else(|| wrong("it is missing"))?;
        read(&mut Checked::new(chunks, file, &wrong))
    }
}

/// The bytes of a file or of an object, passed on; with an error before the last of them where they are not what they are to be.
struct Checked<'a> {
    chunks: Box<Chunks<'a>>,
    expected: &'a Object,
    wrong: &'a dyn Fn(&str) -> Error,
    sha256: Sha256,
    crc32: crc32fast::Hasher,
    bytes: u64,
    is_over: bool,
}

impl<'a> Checked<'a> {
    fn new(chunks: Box<Chunks<'a>>, expected: &'a Object, wrong: &'a dyn Fn(&str) -> Error) -> Self {
        Self { chunks, expected, wrong, sha256: Sha256::new(), crc32: crc32fast::Hasher::new(), bytes: 0, is_over: false }
    }

    fn check(&mut self, next: Option<Result<Vec<u8>>>) -> Result<Option<Vec<u8>>> {
        let chunk = next.transpose()?;
        let bytes = chunk.as_deref().unwrap_or_default();
        self.bytes += bytes.len() as u64;
        self.sha256.update(bytes);
        self.crc32.update(bytes);
        let whole = self.expected.bytes;
        if self.bytes > whole {
            return Err((self.wrong)(&format!("it has more than {whole} bytes")));
        }
        if chunk.is_none() && self.bytes < whole {
            return Err((self.wrong)(&format!("it has {} of {whole} bytes", self.bytes)));
        }
        let is_right = || {
            let sha256 = Digest::from(self.sha256.clone());
            sha256 == self.expected.sha256 && self.crc32.clone().finalize() == self.expected.crc32
        };
        if self.bytes == whole && !is_right() {
            return Err((self.wrong)("its checksum is another"));
        }
        Ok(chunk)
    }
}

impl Iterator for Checked<'_> {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.chunks.next();
        let checked = self.check(next).transpose();
        self.is_over = !matches!(checked, Some(Ok(_)));
        checked
    }
}

/// The bytes of a file of the index.
fn chunks<'a>(pin: &'a Pin<'_>, name: &str) -> Result<Box<Chunks<'a>>> {
    let path = pin.directory().join(name);
    // Of an index that was deleted, no file is missing.
    let fault = move |operation, path: &Path, error| pin.check_open().err().unwrap_or_else(|| Error::io(operation, path, error));
    let file = pin.io().open(&path).map_err(|error| fault("open", &path, error))?;
    let mut offset = 0;
    let mut next = move || -> Result<Option<Vec<u8>>> {
        pin.check_open()?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = file.read_at(offset, &mut chunk).map_err(|error| fault("read", &path, error))?;
        chunk.truncate(read);
        offset += read as u64;
        Ok((read > 0).then_some(chunk))
    };
    Ok(Box::new(std::iter::from_fn(move || next().transpose())))
}

/// The SHA-256 of a file of the index.
///
/// # Errors
/// [`Error::Corrupt`]: it is not what its manifest says.
fn sha256_of(pin: &Pin<'_>, name: &str, checksum: Checksum) -> Result<Digest> {
    let (mut sha256, mut crc32) = (Sha256::new(), crc32fast::Hasher::new());
    let mut bytes = 0;
    for chunk in chunks(pin, name)? {
        let chunk = chunk?;
        bytes += chunk.len() as u64;
        sha256.update(&chunk);
        crc32.update(&chunk);
    }
    if (Checksum { bytes, crc: crc32.finalize() }) != checksum {
        return Err(Error::corrupt(&pin.directory().join(name), 0, "checksum mismatch; no snapshot is taken of it"));
    }
    Ok(sha256.into())
}

/// What makes objects a snapshot.
#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    /// As base64.
    manifest: String,
    /// Those of the manifest's segments, in its order.
    files: Vec<Object>,
}

fn encode(manifest: &Manifest, files: Vec<Object>) -> Vec<u8> {
    let document = Document { version: VERSION, manifest: STANDARD.encode(manifest.encode()), files };
    serde_json::to_vec(&document).expect("texts and numbers")
}

fn decode(bytes: &[u8]) -> Result<(Manifest, Vec<Object>), String> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    // Before all else: what else there is depends on it.
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("a newer version of faiss-proxy wrote it: its version is {version}, not {VERSION}"));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let manifest = STANDARD.decode(document.manifest).map_err(|error| format!("manifest: {error}"))?;
    let manifest = Manifest::decode(&manifest)?;
    if manifest.shared.is_none() {
        return Err("its manifest names no place in a shared log".to_owned());
    }
    let named = manifest.segment_files().map(|(name, _, checksum)| (format!("{SEGMENT_DIRECTORY}/{name}"), checksum));
    if !named.eq(document.files.iter().map(|file| (file.name.clone(), file.checksum()))) {
        return Err("it does not name what its manifest names".to_owned());
    }
    Ok((manifest, document.files))
}

fn document_name(lsn: Lsn, document: &[u8]) -> String {
    let digest = Digest::of(document).to_string();
    format!("{lsn:020}-{}", &digest[..8])
}

/// The LSN in a document's name; `None`: it is no name of one.
fn lsn_of(name: &str) -> Option<Lsn> {
    let (lsn, digest) = name.split_at_checked(20).and_then(|(lsn, rest)| Some((lsn, rest.strip_prefix('-')?)))?;
    let is_hex = digest.len() == 8 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    lsn.parse().ok().filter(|_| is_hex && lsn.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests;
