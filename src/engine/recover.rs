//! Opens an index: manifest, segments, log. Nothing is served before all of it is known to be sound.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, RwLock};

use super::apply::{Shared, State};
use super::changes::Marks;
use super::checkpoint::{self, Files, SealedFile, WrittenKeys};
use super::index::{Index, Kind, Scheduled};
use super::keys::Keys;
use super::listeners::Listeners;
use super::maintenance::Maintenance;
use super::placement::Placement;
use super::queue::Queue;
use super::reserve::Reserve;
use super::shared_log::{Replayed, SharedLog};
use super::snapshots::Snapshots;
use super::stages::Stages;
use super::view::{Build, Segment};
use super::writer::Writer;
use crate::checkpoint::keys::Answer;
use crate::checkpoint::manifest::{Root, new_copy};
use crate::checkpoint::{dead, keys};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::manifest::{
    Built, LOG_DIRECTORY, Manifest, SEGMENT_DIRECTORY, SegmentFile, fields_name, index_name, segment_name,
};
use crate::io::{Io, Lock};
use crate::segment::Rows;
use crate::segment::ann::{Ann, Tuning};
use crate::segment::id_map::IdMap;
use crate::segment::recipe::Recipe;
use crate::segment::sealed::Sealed;
use crate::sync::ArcSwap;
use crate::types::{IndexConfig, IndexId, IndexOptions, Lsn, Metric, Row, TenantId};
use crate::wal::cluster::Cluster;
use crate::wal::file_log::{FileLog, LogOptions};
use crate::wal::operation::Operation;

/// What every index of a store shares.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) io: Arc<dyn Io>,
    pub(super) limits: Arc<Limits>,
    pub(super) maintenance: Option<Arc<Maintenance>>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) stages: Arc<Stages>,
    /// `None` on one machine.
    pub(super) cluster: Option<Arc<dyn Cluster>>,
    /// Of nodes that have them.
    pub(super) snapshots: Option<Arc<dyn Snapshots>>,
    /// `None`: every node has every index.
    pub(super) placement: Option<Arc<Placement>>,
    /// Of the data directory. Whoever can still write into it holds the lock.
    pub(super) lock: Arc<Lock>,
}

impl Context {
    /// # Errors
    /// [`Error::Closed`]: the index is shared with other nodes and this server is none, or the other way round.
    pub(super) fn check_shared(&self, manifest: &Manifest) -> Result<()> {
        let why = match (manifest.shared, &self.cluster) {
            (Some(_), None) => "other nodes write to the log of this index, and this server was not told where that is",
            (None, Some(_)) => {
                "this index is one machine's own, and this server is a node of a cluster: export it on a server without one, and import it here"
            }
            _ => return Ok(()),
        };
        Err(Error::Closed(why.into()))
    }
}

/// Recovers the index in `directory`.
///
/// # Errors
/// [`Error::Corrupt`] where acknowledged data is damaged: nothing was changed. [`Error::Io`], [`Error::Full`] where the disk refuses.
/// Where the log is shared, those of [`Index::catch_up_first`] too; and [`Error::Closed`] where no cluster is there to share it.
pub(super) fn open(context: &Context, tenant: TenantId, id: IndexId, directory: PathBuf) -> Result<Arc<Index>> {
    let started = Instant::now();
    let Context { io, limits, maintenance, reserve, stages, cluster, lock, .. } = context.clone();
    let mut root = Root::load(Arc::clone(&io), &directory, id)?;
    let manifest = root.current().clone();
    let settings = manifest.settings.clone();
    context.check_shared(&manifest)?;
    let mut loaded = load(&*io, &directory, id, &manifest)?;
    let sealed_bytes = manifest.segments.iter().map(|segment| segment.checksum.bytes).sum();
    let log_options = LogOptions::new(Arc::clone(&io), directory.join(LOG_DIRECTORY), id, &limits);
    let log_directory = log_options.directory.clone();
    let mut replayed = Replayed::default();
    let recovered = FileLog::recover(log_options, &manifest.log, manifest.position, &mut |lsn, operation| {
        if manifest.shared.is_some() {
            replayed.add(lsn, operation);
        }
        loaded.replay(lsn, operation, &log_directory)
    })?;
    let Loaded { created: Created { metric, options, kind }, state, ids, sealed, keys } = loaded;
    let files = Files { next_number: root.next_number()?, segments: sealed, keys };
    let config = IndexConfig { name: settings.name.clone(), options };
    let (mut log, report) = (recovered.log, recovered.report);
    if let Some(rescued) = recovered.rescued {
        // Named before it is relied on. If this fails, nothing was served yet.
        root.publish(|manifest| manifest.log.push(rescued.name()))?;
        log.adopt(rescued);
    }
    // Only now: while an index may still be refused, its directory stays as it is.
    root.sweep()?;
    if manifest.shared.is_some() && manifest.copy.is_none() {
        // An earlier version wrote it. Nothing of it can be backed up before.
        root.publish(|manifest| manifest.copy = Some(new_copy()))?;
    }
    let (view, spare, keys_bytes) = (state.view(), Arc::clone(&state.spare), state.keys.memory_bytes());
    let history = Arc::clone(&state.history);
    stages.opening.observe(started.elapsed().as_secs_f64());
    tracing::info!(
        %tenant, index = %id, points = view.live(), lsn = view.lsn, checkpoint = manifest.position.lsn,
        replayed = report.replayed_operations, torn_bytes = report.torn_bytes, ms = started.elapsed().as_millis() as u64,
        "opened an index"
    );
    let shared_log = match (manifest.shared, cluster) {
        (Some(place), Some(cluster)) => Some(SharedLog::open(cluster, tenant.clone(), id, place, replayed)?),
        _ => None,
    };
    let durable_lsn = AtomicU64::new(log.durable_lsn());
    let dirty = (log.appended_bytes() > 0).then(|| (log.appended_bytes(), state.new_rows()));
    let index = Arc::new_cyclic(|weak| Index {
        id,
        tenant,
        settings,
        metric,
        config: ArcSwap::from_pointee(config),
        kind,
        limits,
        io,
        directory,
        shared: Shared::new(view, ids),
        queue: Queue::new(),
        is_shared: shared_log.is_some(),
        writer: Mutex::new(Writer {
            log,
            shared_log,
            state,
            closed: None,
            last_commit: Instant::now(),
            checkpoint_appended_bytes: 0,
        }),
        root: Mutex::new(root),
        files: Mutex::new(files),
        pinning: RwLock::new(()),
        compacting: Mutex::new(()),
        building: Mutex::new(()),
        stop: AtomicBool::new(false),
        progress: Mutex::new(()),
        progressed: Condvar::new(),
        build_rows: AtomicU64::new(u64::MAX),
        history,
        listeners: Listeners::new(),
        marks: Marks::default(),
        durable_lsn,
        checkpoint_lsn: AtomicU64::new(manifest.position.lsn),
        keys_bytes: AtomicU64::new(keys_bytes),
        sealed_bytes: AtomicU64::new(sealed_bytes),
        torn_bytes: report.torn_bytes,
        poison: OnceLock::new(),
        maintenance,
        reserve,
        stages,
        spare,
        _lock: lock,
        scheduled: Scheduled::default(),
        weak: weak.clone(),
    });
    // Before the first write asks how many rows may wait for an index.
    index.policy()?;
    // What a crash took of the files is there too. Before anything is scheduled: where this fails, nobody else may have the index.
    index.catch_up_first()?;
    if let Some((log_bytes, new_rows)) = dirty {
        index.schedule_after_commit(false, false, log_bytes, new_rows);
    }
    index.schedule_builds();
    Ok(index)
}

/// An index in memory: as its checkpoint has it, and then as the log that was replayed into it leaves it.
pub(super) struct Loaded {
    pub(super) created: Created,
    pub(super) state: State,
    pub(super) ids: IdMap,
    /// The segments of the checkpoint, without what could not be opened and is to be made again.
    pub(super) sealed: Vec<SealedFile>,
    pub(super) keys: Option<WrittenKeys>,
}

/// What an index was created with, as far as it says how its bytes are read.
#[derive(Clone, Debug)]
pub(super) struct Created {
    pub(super) metric: Metric,
    pub(super) options: IndexOptions,
    pub(super) kind: Kind,
}

/// Reads and verifies the segments and the keys that a manifest names. Changes nothing.
///
/// # Errors
/// As [`open`].
pub(super) fn load(io: &dyn Io, directory: &Path, id: IndexId, manifest: &Manifest) -> Result<Loaded> {
    let created = settings_of(manifest, directory)?;
    let mut segments: Vec<Segment> = Vec::with_capacity(manifest.segments.len());
    for file in &manifest.segments {
        let first_row = segments.last().map_or(0, |last| last.rows.first_row() + last.len as Row);
        segments.push(load_segment(io, directory, created.metric, manifest, file, first_row, &mut |lost, error| match lost {
            Lost::Fields => tracing::warn!(index = %id, %error, "a metadata index is made again, of the rows"),
            Lost::Index => {
                tracing::error!(index = %id, %error, "a FAISS index cannot be used; its segment is scanned until it is built again")
            }
        })?);
    }
    let answers = load_keys(io, directory, manifest)?;
    Ok(Loaded::new(manifest, created, segments, answers))
}

/// The idempotency keys of a checkpoint.
pub(super) fn load_keys(io: &dyn Io, directory: &Path, manifest: &Manifest) -> Result<Vec<Answer>> {
    let directory = directory.join(SEGMENT_DIRECTORY);
    let answers = manifest.keys.as_ref().map(|file| keys::read(io, &directory, file, manifest.position.lsn));
    Ok(answers.transpose()?.unwrap_or_default())
}

impl Loaded {
    pub(super) fn new(manifest: &Manifest, created: Created, segments: Vec<Segment>, answers: Vec<Answer>) -> Self {
        let mut ids = IdMap::new();
        fill_ids(&mut ids, &segments);
        let answers = Keys::new(answers);
        let span = checkpoint::span(&answers.answers());
        let sealed = segments.iter().zip(&manifest.segments).map(|(segment, file)| sealed_file(segment, file)).collect();
        let keys = manifest.keys.clone().zip(span).map(|(file, span)| WrittenKeys { file, span });
        let (dimension, unindexed) = (manifest.settings.dimension as usize, created.options.unindexed.as_slice().into());
        let state = State::new(dimension, created.metric, unindexed, manifest.position.lsn, segments, answers);
        Self { created, state, ids, sealed, keys }
    }

    /// Applies the next operation of the log.
    ///
    /// # Errors
    /// [`Error::Corrupt`]: it is of another index.
    pub(super) fn replay(&mut self, lsn: Lsn, operation: &Operation<'_>, log_directory: &Path) -> Result<()> {
        check_operation(operation, lsn, self.state.dimension as u32, log_directory)?;
        debug_assert_eq!(lsn, self.state.lsn + 1);
        self.state.apply(&mut self.ids, operation);
        Ok(())
    }
}

/// What an index was created with. That this version takes its type is checked as far as that can be said without asking FAISS.
///
/// # Errors
/// [`Error::Corrupt`]: they are damaged, or of a version that knows more.
pub(super) fn settings_of(manifest: &Manifest, directory: &Path) -> Result<Created> {
    let settings = &manifest.settings;
    let corrupt = |problem: String| Error::corrupt(&directory.join(manifest.file_name()), 0, problem);
    let metric = match settings.metric {
        0 => Metric::L2,
        1 => Metric::InnerProduct,
        2 => Metric::Cosine,
        other => return Err(corrupt(format!("metric {other} is not known"))),
    };
    let options = serde_json::from_str(&settings.options).map_err(|error| corrupt(format!("options: {error}")))?;
    // The client who asks for an index did not choose its type just now: it is the manifest that is at fault, and not the request.
    let kind = Kind::new(settings, metric).map_err(|error| corrupt(format!("this version does not take its type: {error}")))?;
    Ok(Created { metric, options, kind })
}

/// What the log's own format cannot say of an operation.
pub(super) fn check_operation(operation: &Operation<'_>, lsn: Lsn, dimension: u32, log_directory: &Path) -> Result<()> {
    if operation.fits(dimension) {
        return Ok(());
    }
    Err(Error::corrupt(log_directory, 0, format!("LSN {lsn} has vectors of another dimension")))
}

/// What of a segment can be made again of its rows, and is where it cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Fields,
    Index,
}

/// Opens and verifies a segment and all that belongs to it. Its rows are numbered from `first_row` on. `lost` is told of what cannot be used.
///
/// # Errors
/// As [`open`].
pub(super) fn load_segment(
    io: &dyn Io,
    directory: &Path,
    metric: Metric,
    manifest: &Manifest,
    file: &SegmentFile,
    first_row: Row,
    lost: &mut dyn FnMut(Lost, &Error),
) -> Result<Segment> {
    let directory = directory.join(SEGMENT_DIRECTORY);
    let path = directory.join(segment_name(file.number));
    let index = IndexId::from_bytes(manifest.index);
    let mut sealed = Sealed::open(io, &path, file.checksum, index, file.number, first_row)?;
    if sealed.dimension() != manifest.settings.dimension as usize {
        return Err(Error::corrupt(&path, 12, format!("this segment has vectors of {} values", sealed.dimension())));
    }
    if sealed.len() > 0 && sealed.is_scaled() != (metric == Metric::Cosine) {
        return Err(Error::corrupt(&path, 52, "this segment was written for another metric"));
    }
    if let Some(fields) = &file.fields {
        match sealed.load_fields(io, &directory.join(fields_name(fields.number)), fields.checksum) {
            Err(error @ Error::Corrupt(_)) => lost(Lost::Fields, &error),
            loaded => loaded?,
        }
    }
    let dead = file.dead.as_ref().map(|dead| dead::read(io, &directory, dead, sealed.len())).transpose()?;
    let dead = dead.into_iter().flatten().map(|position| position as usize).collect();
    let mut segment = checkpoint::segment(sealed, dead);
    if let Some(record) = &file.built {
        segment.build = Some(Arc::new(load_build(io, &directory, metric, &segment, record, lost)?));
    }
    Ok(segment)
}

/// Opens what was built over a segment. Where that is damaged, the rows are sound and are scanned until it is built again.
fn load_build(
    io: &dyn Io,
    directory: &Path,
    metric: Metric,
    segment: &Segment,
    record: &Built,
    lost: &mut dyn FnMut(Lost, &Error),
) -> Result<Build> {
    let (Built::Index(file), Rows::Sealed(sealed)) = (record, &segment.rows) else {
        return Ok(Build { ann: None, record: record.clone() });
    };
    let path = directory.join(index_name(file.number));
    let tuning = Tuning { ef: file.ef, nprobe: file.nprobe, overfetch: file.overfetch };
    let opened = Recipe::read(&file.factory, metric, sealed.dimension())
        .and_then(|recipe| Ann::open(io, &path, file.checksum, &recipe, tuning, Arc::clone(sealed), &segment.extreme));
    match opened {
        Ok(ann) => Ok(Build { ann: Some(ann), record: record.clone() }),
        Err(error @ (Error::Corrupt(_) | Error::Invalid { .. })) => {
            lost(Lost::Index, &error);
            // The error says of itself that the index refuses, and it does not: no data is damaged.
            let what = match &error {
                Error::Corrupt(damage) => damage.to_string(),
                other => other.to_string(),
            };
            let why = format!("{what}; its rows are scanned until it is built again");
            Ok(Build { ann: None, record: Built::Exact { factory: file.factory.clone(), recall: None, why } })
        }
        Err(error) => Err(error),
    }
}

/// A segment as the manifest has it, without what could not be opened and is to be made again: its FAISS index, its metadata index.
fn sealed_file(segment: &Segment, file: &SegmentFile) -> SealedFile {
    let is_lost = file.index().is_some() && segment.ann().is_none();
    let built = file.built.clone().filter(|_| !is_lost);
    let fields = file.fields.clone().filter(|_| segment.rows.has_fields());
    let file = SegmentFile { built, fields, ..file.clone() };
    SealedFile { file, dead: segment.dead.clone(), busy: false }
}

/// The id map of the live rows, which have an id each.
fn fill_ids(ids: &mut IdMap, segments: &[Segment]) {
    ids.reserve(segments.iter().map(|segment| segment.live() as usize).sum());
    let mut id = Vec::new();
    for segment in segments {
        for position in segment.live_positions() {
            id.clear();
            segment.rows.id(position, &mut id);
            let row = segment.rows.first_row() + position as Row;
            let hash = ids.hash(&id);
            ids.insert_new(hash, row);
        }
    }
}
