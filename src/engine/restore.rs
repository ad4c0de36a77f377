//! An index of a state that was kept elsewhere, as a new index: another UUID, and a log that begins anew.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::checkpoint::write_dead;
use super::find::CREATING;
use super::index::Index;
use super::recover::{self, Loaded};
use super::store::Store;
use super::view::Segment;
use crate::checkpoint::manifest::Root;
use crate::checkpoint::{file, keys};
use crate::error::{Error, Result};
use crate::format::manifest::{
    LOG_DIRECTORY, Manifest, SEGMENT_DIRECTORY, SegmentFile, SideFile, fields_name, index_name, segment_name,
};
use crate::format::position::Position;
use crate::io::{Io, durable};
use crate::segment::{Rows, sealed};
use crate::types::{IndexId, Lsn, Metric, TenantId};
use crate::wal::file_log::{FileLog, LogOptions};

/// A hidden directory where files of the index that was are put.
#[derive(Debug)]
pub(crate) struct Staging<'a> {
    pub(crate) io: &'a dyn Io,
    pub(crate) directory: &'a Path,
    pub(crate) log: LogOptions,
}

impl Store {
    /// Restores an index: `fetch` puts files of the index `id` into the staging directory, and gives a manifest that names them, and of its log
    /// what follows its checkpoint; and the LSN that is wanted. Nothing there needs to be durable. The new index is durable when this returns; before,
    /// there is none.
    ///
    /// # Errors
    /// [`Error::Conflict`]: the index `id` is in this store, or the store is a node's. Those of `fetch`. [`Error::Corrupt`]: the files are not what they are to be.
    /// [`Error::Full`], [`Error::Io`]: there is no new index. [`Error::OutcomeUnknown`]: there may be one after the next opening.
    pub(crate) fn restore(
        &self,
        tenant: &TenantId,
        id: IndexId,
        fetch: impl FnOnce(&Staging<'_>) -> Result<(Manifest, Lsn)>,
    ) -> Result<Arc<Index>> {
        let context = self.slots.context();
        let io = &*context.io;
        if context.cluster.is_some() {
            let why = "a node of a cluster restores nothing: restore on a server of its own, export there, and import here";
            return Err(Error::Conflict(why.to_owned()));
        }
        let _one = self.slots.creating()?;
        self.slots.check_tenant(tenant)?;
        if self.slots.has(tenant, id) {
            return Err(Error::Conflict(format!("index {id} is there: restore it to another data directory, or delete it")));
        }
        let tenant_dir = self.slots.tenant_dir(tenant);
        durable::create_dir_durably(io, &tenant_dir)?;
        let directory = tenant_dir.join(format!("{CREATING}{id}"));
        let log = LogOptions::new(Arc::clone(&context.io), directory.join(LOG_DIRECTORY), id, &context.limits);
        let restored = stage(io, &directory).and_then(|()| {
            let (manifest, lsn) = fetch(&Staging { io, directory: &directory, log: log.clone() })?;
            let loaded = load_at(io, &directory, id, &manifest, &log, lsn)?;
            let new = IndexId::new_v4();
            self.slots.place(tenant, new, |hidden| write(io, &directory, &manifest, &loaded, hidden, new))
        });
        if let Err(error) = durable::remove_tree(io, &directory) {
            tracing::warn!(%error, "what was fetched stays until the next opening");
        }
        restored
    }
}

/// An empty staging directory.
fn stage(io: &dyn Io, directory: &Path) -> Result<()> {
    durable::remove_tree(io, directory)?;
    for path in [directory.to_owned(), directory.join(LOG_DIRECTORY), directory.join(SEGMENT_DIRECTORY)] {
        io.create_dir(&path).map_err(|error| Error::io("create", &path, error))?;
    }
    Ok(())
}

/// The index in a directory as it was at an LSN. Changes nothing.
fn load_at(io: &dyn Io, directory: &Path, id: IndexId, manifest: &Manifest, log: &LogOptions, lsn: Lsn) -> Result<Loaded> {
    let mut loaded = recover::load(io, directory, id, manifest)?;
    FileLog::verify(log, &manifest.log, manifest.position, &mut |at, operation| {
        if at > lsn { Ok(()) } else { loaded.replay(at, operation, &log.directory) }
    })?;
    if loaded.state.lsn != lsn {
        let problem = format!("the log ends at LSN {}, and LSN {lsn} is wanted", loaded.state.lsn);
        return Err(Error::corrupt(&log.directory, 0, problem));
    }
    Ok(loaded)
}

/// Writes the files of the new index into its hidden directory, durably.
fn write(io: &dyn Io, from: &Path, manifest: &Manifest, loaded: &Loaded, hidden: &Path, id: IndexId) -> Result<()> {
    let view = loaded.state.view();
    let last = manifest.file_numbers().max().unwrap_or(0);
    let mut writing = Writing {
        io,
        from: &from.join(SEGMENT_DIRECTORY),
        to: &hidden.join(SEGMENT_DIRECTORY),
        id,
        dimension: loaded.state.dimension,
        scaled: loaded.created.metric == Metric::Cosine,
        numbers: last + 1..u64::MAX,
    };
    let (sealed, growing) = view.segments.split_at(loaded.sealed.len());
    let mut segments = Vec::new();
    for (segment, file) in sealed.iter().zip(&loaded.sealed) {
        segments.push(writing.sealed(segment, &file.file)?);
    }
    segments.extend(writing.growing(growing)?);
    let keys = writing.keys(loaded)?;
    io.sync_dir(writing.to).map_err(|error| Error::io("sync", writing.to, error))?;
    let manifest = Manifest {
        index: *id.as_bytes(),
        generation: 1,
        settings: manifest.settings.clone(),
        position: Position { lsn: loaded.state.lsn, ..Position::START },
        log: Vec::new(),
        segments,
        keys,
        // Another index than the one that was: it has a log of its own.
        shared: None,
        copy: None,
    };
    Root::create(io, hidden, manifest)
}

/// Writes segments of a state.
pub(super) struct Writing<'a> {
    pub(super) io: &'a dyn Io,
    /// Directories of segments: of the index that was, and of the new one.
    pub(super) from: &'a Path,
    pub(super) to: &'a Path,
    pub(super) id: IndexId,
    pub(super) dimension: usize,
    pub(super) scaled: bool,
    /// Those that no file has.
    pub(super) numbers: Range<u64>,
}

impl Writing<'_> {
    pub(super) fn number(&mut self) -> u64 {
        self.numbers.next().expect("a manifest has no such numbers")
    }

    /// The same rows at the same positions, dead ones included: what is built over them, and their metadata index, stay right.
    fn sealed(&mut self, segment: &Segment, file: &SegmentFile) -> Result<SegmentFile> {
        let positions = (0..segment.len as u32).collect();
        let written = self.rows(file.number, &[(&segment.rows, positions)])?;
        let dead = self.dead(segment)?;
        if let Some(index) = file.index() {
            self.copy(&index_name(index.number))?;
        }
        if let Some(SideFile { number, .. }) = &file.fields {
            self.copy(&fields_name(*number))?;
        }
        Ok(SegmentFile { dead, built: file.built.clone(), fields: file.fields.clone(), ..written })
    }

    /// Which of its rows are dead.
    pub(super) fn dead(&mut self, segment: &Segment) -> Result<Option<SideFile>> {
        if segment.dead.is_empty() {
            return Ok(None);
        }
        write_dead(self.io, self.to, self.number(), &segment.dead).map(Some)
    }

    /// The live rows that came from the log, as one segment, if there are any.
    pub(super) fn growing(&mut self, segments: &[Segment]) -> Result<Option<SegmentFile>> {
        let rows: Vec<(&Rows, Vec<u32>)> = segments
            .iter()
            .map(|segment| (&segment.rows, segment.live_positions().map(|position| position as u32).collect()))
            .collect();
        if rows.iter().all(|(_, positions)| positions.is_empty()) {
            return Ok(None);
        }
        let number = self.number();
        self.rows(number, &rows).map(Some)
    }

    pub(super) fn keys(&mut self, loaded: &Loaded) -> Result<Option<SideFile>> {
        let answers = loaded.state.keys.answers();
        if answers.is_empty() {
            return Ok(None);
        }
        keys::write(self.io, self.to, self.number(), answers.iter().map(Arc::as_ref)).map(Some)
    }

    fn rows(&self, number: u64, rows: &sealed::Selection<'_>) -> Result<SegmentFile> {
        let path = self.to.join(segment_name(number));
        let checksum = sealed::write(self.io, &path, self.id, number, self.dimension, self.scaled, rows)?;
        Ok(SegmentFile { number, checksum, dead: None, built: None, fields: None })
    }

    fn copy(&self, name: &str) -> Result<()> {
        let path = self.from.join(name);
        let bytes = self.io.map(&path).map_err(|error| Error::io("map", &path, error))?;
        file::write(self.io, &self.to.join(name), &bytes).map(drop)
    }
}
