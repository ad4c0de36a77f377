//! A data directory that is only looked at: nothing in it is written, whatever is found there. What `ls`, `inspect`, `stats`, `verify` and every `--dry-run`
//! are made of.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::find;
use super::recover::{self, Created};
use super::retention::oldest_lsn;
use super::store::{self, LOCK_FILE, in_use};
use crate::checkpoint::dead;
use crate::checkpoint::manifest::Root;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::manifest::{Built, LOG_DIRECTORY, Manifest, SEGMENT_DIRECTORY, SegmentFile, segment_name};
use crate::format::segment::{ALIGN, SegmentHeader};
use crate::io::{Io, Lock};
use crate::types::{IndexId, IndexOptions, Lsn, Metric, TenantId};
use crate::wal::file_log::{FileLog, LogOptions};
use crate::wal::operation::Operation;
use crate::wal::read::{Commit, Reading, read};
use crate::wal::recover::missing;

/// A data directory that no server has.
///
/// No server can open it while this lives; others can look at it at the same time.
#[derive(Debug)]
pub struct Survey {
    pub(super) io: Arc<dyn Io>,
    data_dir: PathBuf,
    /// `None`: there is no lock to take, so no server was ever here.
    _lock: Option<Lock>,
}

/// An index as its manifest and its log describe it.
#[derive(Clone, Debug, Serialize)]
pub struct Outline {
    pub name: String,
    /// Floats in a vector.
    pub dimension: u32,
    pub index_type: String,
    /// FAISS factory string that the type stands for.
    pub factory: String,
    pub metric: Metric,
    pub options: IndexOptions,
    /// UTC, microseconds since 1970.
    pub created_at_us: i64,
    /// Counts the manifests of this index.
    pub generation: u64,
    /// Live points of the checkpoint: what the log holds beyond it is not counted.
    pub checkpoint_points: u64,
    pub checkpoint_lsn: Lsn,
    /// The last mutation.
    pub lsn: Lsn,
    /// The first mutation that the log has, or will have.
    pub oldest_lsn: Lsn,
    /// Bytes at the end of the log that a crash left and nobody was told of. The next opening copies them aside.
    pub torn_bytes: u64,
    /// By rising rows.
    pub segments: Vec<SegmentOutline>,
    pub log: Vec<LogOutline>,
    /// Bytes of the idempotency keys' file.
    pub keys_bytes: u64,
    /// Bytes of all files that the manifest names, and of the manifest.
    pub bytes: u64,
    /// Files in the index's directories that it does not name: those of the manifest before, what a crash left, strangers'.
    pub other_files: Vec<String>,
    pub other_bytes: u64,
}

/// A sealed segment.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentOutline {
    pub number: u64,
    /// Dead ones included.
    pub rows: u64,
    /// Deleted or replaced.
    pub dead: u64,
    /// Bytes of the rows.
    pub bytes: u64,
    /// FAISS factory string of what is built over it.
    pub built: Option<String>,
    /// Share of the ten nearest rows that it found when it was built, 0 to 1.
    pub recall: Option<f64>,
    /// Bytes of what FAISS wrote.
    pub index_bytes: u64,
    /// Why there is no FAISS index, where one was wanted.
    pub exact: Option<String>,
    /// Bytes of the metadata index.
    pub fields_bytes: u64,
}

/// A segment of the log.
#[derive(Clone, Debug, Serialize)]
pub struct LogOutline {
    pub file: String,
    pub first_lsn: Lsn,
    pub epoch: u32,
    pub bytes: u64,
}

/// A mutation, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogRecord {
    pub lsn: Lsn,
    /// When its group was committed: UTC, microseconds since 1970.
    pub time_us: u64,
    /// `upsert`, `delete`, or `none`: a request with an idempotency key that changed nothing.
    pub kind: &'static str,
    /// Its idempotency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of the points stored or deleted, in order.
    pub ids: Vec<String>,
}

impl Survey {
    /// Looks at a directory.
    ///
    /// # Errors
    /// [`Error::Conflict`]: a server has it. [`Error::Io`]: it is not there, or cannot be read.
    pub fn open(io: Arc<dyn Io>, data_dir: impl Into<PathBuf>) -> Result<Self> {
        let data_dir = data_dir.into();
        io.list(&data_dir).map_err(|error| Error::io("open", &data_dir, error))?;
        let path = data_dir.join(LOCK_FILE);
        let lock = match io.lock_shared(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(in_use(&data_dir)),
            taken => Some(taken.map_err(|error| Error::io("lock", &path, error))?),
        };
        Ok(Self { io, data_dir, _lock: lock })
    }

    /// The same, alone: for [`repair`](Self::repair).
    ///
    /// # Errors
    /// [`Error::Conflict`]: a server has it, or somebody looks at it. [`Error::Io`].
    pub fn open_alone(io: Arc<dyn Io>, data_dir: impl Into<PathBuf>) -> Result<Self> {
        let data_dir = data_dir.into();
        io.list(&data_dir).map_err(|error| Error::io("open", &data_dir, error))?;
        let lock = store::lock(&*io, &data_dir)?;
        Ok(Self { io, data_dir, _lock: Some(lock) })
    }

    /// The tenants that have a directory, by their names.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn tenants(&self) -> Result<Vec<TenantId>> {
        find::tenants(&*self.io, &self.data_dir)
    }

    /// The tenant's indices, by their ids, those that a server would refuse included.
    ///
    /// # Errors
    /// [`Error::Io`] where the tenant's directory cannot be read.
    pub fn indices(&self, tenant: &TenantId) -> Result<Vec<IndexId>> {
        find::indices(&*self.io, &self.data_dir.join(tenant.as_str()))
    }

    pub(super) fn directory(&self, tenant: &TenantId, id: IndexId) -> PathBuf {
        self.data_dir.join(tenant.as_str()).join(id.to_string())
    }

    /// A path within an index's directory, from there.
    pub fn below<'a>(&self, tenant: &TenantId, id: IndexId, path: &'a Path) -> &'a Path {
        path.strip_prefix(self.directory(tenant, id)).unwrap_or(path)
    }

    pub(super) fn log_options(&self, directory: &Path, id: IndexId) -> LogOptions {
        LogOptions::new(Arc::clone(&self.io), directory.join(LOG_DIRECTORY), id, &Limits::default())
    }

    /// What an index is. Checks the manifest, every frame of the log after the checkpoint, and the headers of the segments, but not their rows.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where a server would refuse it for one of these; [`Error::Io`].
    pub fn outline(&self, tenant: &TenantId, id: IndexId) -> Result<Outline> {
        let io = &*self.io;
        let directory = self.directory(tenant, id);
        let root = Root::look(Arc::clone(&self.io), &directory, id)?;
        let manifest = root.current();
        let Created { metric, options, .. } = recover::settings_of(manifest, &directory)?;
        let log_options = self.log_options(&directory, id);
        let dimension = manifest.settings.dimension;
        let report = FileLog::verify(&log_options, &manifest.log, manifest.position, &mut |lsn, operation| {
            recover::check_operation(operation, lsn, dimension, &log_options.directory)
        })?;
        let segments: Result<Vec<_>> = manifest.segments.iter().map(|file| self.segment(&directory, file)).collect();
        let segments = segments?;
        let mut log = Vec::new();
        for name in &manifest.log {
            let bytes = length(io, &name.path(&log_options.directory))?;
            log.push(LogOutline { file: name.file_name(), first_lsn: name.first_lsn, epoch: name.epoch, bytes });
        }
        let keys_bytes = manifest.keys.as_ref().map_or(0, |keys| keys.checksum.bytes);
        let log_bytes: u64 = log.iter().map(|segment| segment.bytes).sum();
        let segment_bytes: u64 = manifest.segments.iter().map(SegmentFile::bytes).sum();
        let (other_files, other_bytes) = self.others(&directory, manifest)?;
        let settings = &manifest.settings;
        Ok(Outline {
            name: settings.name.clone(),
            dimension,
            index_type: settings.index_type.clone(),
            factory: settings.factory.clone(),
            metric,
            options,
            created_at_us: settings.created_at_us,
            generation: manifest.generation,
            checkpoint_points: segments.iter().map(|segment| segment.rows - segment.dead).sum(),
            checkpoint_lsn: manifest.position.lsn,
            lsn: manifest.position.lsn + report.replayed_operations,
            oldest_lsn: oldest_lsn(manifest),
            torn_bytes: report.torn_bytes,
            segments,
            log,
            keys_bytes,
            bytes: manifest.encode().len() as u64 + log_bytes + segment_bytes + keys_bytes,
            other_files,
            other_bytes,
        })
    }

    fn segment(&self, directory: &Path, file: &SegmentFile) -> Result<SegmentOutline> {
        let directory = directory.join(SEGMENT_DIRECTORY);
        let rows = rows_of(&*self.io, &directory, file)?;
        let dead = file.dead.as_ref().map(|dead| dead::read(&*self.io, &directory, dead, rows as usize)).transpose()?;
        let share = |recall: u16| f64::from(recall) / 10_000.0;
        let (built, recall, exact) = match &file.built {
            Some(Built::Index(index)) => (Some(index.factory.clone()), Some(share(index.recall)), None),
            Some(Built::Exact { recall, why, .. }) => (None, recall.map(share), Some(why.clone())),
            None => (None, None, None),
        };
        Ok(SegmentOutline {
            number: file.number,
            rows,
            dead: dead.map_or(0, |dead| dead.len()),
            bytes: file.checksum.bytes,
            built,
            recall,
            index_bytes: file.index().map_or(0, |index| index.checksum.bytes),
            exact,
            fields_bytes: file.fields.as_ref().map_or(0, |fields| fields.checksum.bytes),
        })
    }

    /// Files in an index's directories that its manifest does not name, from there, and their bytes.
    fn others(&self, directory: &Path, manifest: &Manifest) -> Result<(Vec<String>, u64)> {
        let named: Vec<String> = manifest.files().collect();
        let (mut names, mut bytes) = (Vec::new(), 0);
        for below in ["", LOG_DIRECTORY, SEGMENT_DIRECTORY] {
            let path = directory.join(below);
            for entry in self.io.list(&path).map_err(|error| Error::io("list", &path, error))? {
                let name = if below.is_empty() { entry.name } else { format!("{below}/{}", entry.name) };
                if !entry.is_dir && !named.contains(&name) {
                    bytes += length(&*self.io, &directory.join(&name))?;
                    names.push(name);
                }
            }
        }
        Ok((names, bytes))
    }

    /// Gives the mutations that the log has from an LSN on to `each`, in order, until it breaks off. Where the log no longer has that one, it begins with the
    /// oldest that it has.
    ///
    /// # Errors
    /// As [`outline`](Self::outline). Those of `each` are passed on.
    pub fn records(
        &self,
        tenant: &TenantId,
        id: IndexId,
        from_lsn: Lsn,
        each: &mut dyn FnMut(LogRecord) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let directory = self.directory(tenant, id);
        let root = Root::look(Arc::clone(&self.io), &directory, id)?;
        let manifest = root.current();
        let options = self.log_options(&directory, id);
        let report = FileLog::verify(&options, &manifest.log, manifest.position, &mut |_, _| Ok(()))?;
        let last_lsn = manifest.position.lsn + report.replayed_operations;
        let first_lsn = from_lsn.max(oldest_lsn(manifest));
        if first_lsn > last_lsn {
            return Ok(());
        }
        let each = &mut |commit, operation: &Operation<'_>| each(LogRecord::new(commit, operation));
        match read(&options, &manifest.log, first_lsn..=last_lsn, None, each)? {
            Reading::Done(_) => Ok(()),
            Reading::Missing(name) => Err(missing(&options, name)),
        }
    }
}

impl LogRecord {
    fn new(commit: Commit, operation: &Operation<'_>) -> Self {
        let (key, operation) = match operation {
            Operation::Keyed(keyed) => (Some(keyed.key.to_string()), keyed.operation.as_deref()),
            operation => (None, Some(operation)),
        };
        let (kind, ids) = match operation {
            Some(Operation::Upsert(upsert)) => ("upsert", upsert.points().map(|(id, ..)| id.to_owned()).collect()),
            Some(Operation::Delete(delete)) => ("delete", delete.ids().map(str::to_owned).collect()),
            // A key is around no other key.
            Some(Operation::Keyed(_)) | None => ("none", Vec::new()),
        };
        Self { lsn: commit.lsn, time_us: commit.time_us, kind, key, ids }
    }
}

/// Rows of a segment by its header, dead ones included. `directory`: that of the segments.
pub(super) fn rows_of(io: &dyn Io, directory: &Path, file: &SegmentFile) -> Result<u64> {
    let path = directory.join(segment_name(file.number));
    let opened = io.open(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::corrupt(&path, 0, "the manifest lists this segment, and it is missing"),
        _ => Error::io("open", &path, error),
    })?;
    let mut head = [0; ALIGN];
    let read = opened.read_at(0, &mut head).map_err(|error| Error::io("read", &path, error))?;
    let header = if read == ALIGN { SegmentHeader::decode(&head) } else { Err("the file ends inside its header".to_owned()) };
    Ok(header.map_err(|problem| Error::corrupt(&path, 0, problem))?.rows.into())
}

fn length(io: &dyn Io, path: &Path) -> Result<u64> {
    io.open(path).and_then(|file| file.len()).map_err(|error| Error::io("open", path, error))
}
