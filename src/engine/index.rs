//! One open index.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use super::apply::{Shared, State};
use super::changes::Marks;
use super::checkpoint::Files;
use super::history::History;
use super::listeners::Listeners;
use super::maintenance::{Maintenance, Task};
use super::policy::Policy;
use super::queue::Queue;
use super::reserve::Reserve;
use super::stages::Stages;
use super::writer::{Outcome, Write, Writer};
use crate::checkpoint::manifest::Root;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::manifest::{Built, LOG_DIRECTORY, SegmentFile, Settings};
use crate::io::{Io, Lock};
use crate::segment::growing::Growing;
use crate::segment::recipe::{self, Recipe};
use crate::sync::ArcSwap;
use crate::types::{BuildInfo, CheckpointReport, IndexConfig, IndexId, IndexInfo, IndexState, Metric, Picked, TenantId};
use crate::wal::file_log::FileLog;

/// One index, open. Calls block; any number of threads may make them.
///
/// Locks, in the order in which they may be taken: `pinning`, `compacting`, `building`, `files`, `writer`, the line of `queue` or `root` or the ids of `shared`. A search takes none.
#[derive(Debug)]
pub struct Index {
    pub(super) id: IndexId,
    pub(super) tenant: TenantId,
    pub(super) settings: Settings,
    pub(super) metric: Metric,
    /// What can be changed; `settings` has it as it was when the index was opened.
    pub(super) config: ArcSwap<IndexConfig>,
    pub(super) kind: Kind,
    pub(super) limits: Arc<Limits>,
    pub(super) io: Arc<dyn Io>,
    pub(super) directory: PathBuf,
    pub(super) shared: Shared,
    pub(super) queue: Queue<Write, Outcome>,
    pub(super) writer: Mutex<Writer>,
    /// [`Writer::shared_log`] is there.
    pub(super) is_shared: bool,
    pub(super) root: Mutex<Root>,
    /// Held through a checkpoint: there is one at a time.
    pub(super) files: Mutex<Files>,
    /// Read by each [`Pin`](super::pin::Pin), and written by an erasure: what it removes must not be kept by one.
    pub(super) pinning: RwLock<()>,
    /// Held through a compaction: there is one at a time.
    pub(super) compacting: Mutex<()>,
    /// Held through a build of rows that had no index, for which nothing else should have to wait.
    pub(super) building: Mutex<()>,
    /// Ends a build that is under way.
    pub(super) stop: AtomicBool,
    /// Where writers wait, for a bounded time, for a build to end.
    pub(super) progress: Mutex<()>,
    pub(super) progressed: Condvar,
    /// [`Policy::build_rows`] when it was last asked for.
    pub(super) build_rows: AtomicU64,
    /// Which rows died lately, for reads of the past.
    pub(super) history: Arc<History>,
    /// Who waits for changes.
    pub(super) listeners: Listeners,
    /// Where the change feed has read up to.
    pub(super) marks: Marks,
    /// Last LSN known to be synced, or to be in the shared log.
    pub(super) durable_lsn: AtomicU64,
    /// LSN of the newest checkpoint.
    pub(super) checkpoint_lsn: AtomicU64,
    /// Bytes of memory of the idempotency keys.
    pub(super) keys_bytes: AtomicU64,
    /// Bytes of the checkpoint's segments.
    pub(super) sealed_bytes: AtomicU64,
    /// What recovery copied aside of the log.
    pub(super) torn_bytes: u64,
    /// Why the index takes no more writes, once a sync failed.
    pub(super) poison: OnceLock<Arc<str>>,
    /// `None`: nothing is done unless it is called.
    pub(super) maintenance: Option<Arc<Maintenance>>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) stages: Arc<Stages>,
    /// Where the state finds the next chunk of rows.
    pub(super) spare: Arc<Mutex<Option<Growing>>>,
    /// An index that outlives its store still writes: no other process may have the directory meanwhile.
    pub(super) _lock: Arc<Lock>,
    pub(super) scheduled: Scheduled,
    pub(super) weak: Weak<Index>,
}

/// What is built over the segments of an index.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Nothing: they are scanned.
    Exact,
    Fixed(Recipe),
    /// What its size asks for.
    Auto,
}

impl Kind {
    /// # Errors
    /// [`Error::Invalid`] where this version does not take it, as far as that can be said without asking FAISS, which was asked when it was created.
    pub(super) fn new(settings: &Settings, metric: Metric) -> Result<Self> {
        if settings.factory == recipe::AUTO {
            return Ok(Self::Auto);
        }
        let recipe = Recipe::read(&settings.factory, metric, settings.dimension as usize)?;
        Ok(if recipe.is_exact() { Self::Exact } else { Self::Fixed(recipe) })
    }
}

/// Which tasks are on an agenda, so that each is there once.
#[derive(Debug, Default)]
pub(super) struct Scheduled {
    build: AtomicBool,
    compact: AtomicBool,
    sync: AtomicBool,
    marker: AtomicBool,
    spare: AtomicBool,
    /// A checkpoint when the index has been dirty for a while.
    checkpoint_later: AtomicBool,
    /// A checkpoint now, because the log has grown.
    checkpoint_now: AtomicBool,
}

impl Index {
    pub fn id(&self) -> IndexId {
        self.id
    }

    pub(crate) fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Floats in a vector.
    pub fn dimension(&self) -> usize {
        self.settings.dimension as usize
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Live points.
    pub fn vector_count(&self) -> u64 {
        self.shared.view.load().live()
    }

    /// Looks at the sizes of the log's files: not for every request.
    pub fn info(&self) -> IndexInfo {
        let (view, config) = (self.shared.view.load(), self.config.load());
        let settings = &self.settings;
        let is_exact = matches!(self.kind, Kind::Exact);
        IndexInfo {
            id: self.id,
            tenant_id: self.tenant.clone(),
            name: config.name.clone(),
            dimension: self.dimension(),
            index_type: settings.index_type.clone(),
            factory: settings.factory.clone(),
            metric: self.metric,
            state: match self.poison.get() {
                Some(reason) => IndexState::ReadOnly { reason: reason.to_string() },
                None if is_exact => IndexState::Ready,
                None if self.building.is_locked()
                    || self.compacting.is_locked()
                    || view.unbuilt() >= self.build_rows.load(Relaxed) =>
                {
                    IndexState::Building
                }
                None => IndexState::Ready,
            },
            options: config.options.clone(),
            picked: matches!(self.kind, Kind::Auto).then(|| self.pick(view.live())),
            vector_count: view.live(),
            unindexed_rows: if is_exact { 0 } else { view.scanned() },
            lsn: view.lsn,
            durable_lsn: self.durable_lsn.load(Relaxed),
            checkpoint_lsn: self.checkpoint_lsn.load(Relaxed),
            segments: view.segments.len(),
            builds: view.segments.iter().filter_map(|s| Some(build_info(s.len, &s.build.as_ref()?.record))).collect(),
            tombstones: view.tombstones(),
            torn_bytes: self.torn_bytes,
            bytes: self.bytes(),
            metadata_index_bytes: view.segments.iter().map(|segment| segment.rows.field_bytes() as u64).sum(),
            created_at_us: settings.created_at_us,
        }
    }

    fn pick(&self, rows: u64) -> Picked {
        let (factory, reason) = recipe::pick(rows, self.dimension(), self.metric, self.limits.auto_memory_bytes);
        Picked { factory, reason }
    }

    /// What is built from now on, and when; without a recipe, segments are searched exactly.
    pub(super) fn policy(&self) -> Result<(Policy, Option<Recipe>)> {
        let recipe = match &self.kind {
            Kind::Exact => None,
            Kind::Fixed(recipe) => Some(recipe.clone()),
            Kind::Auto => {
                let picked = self.pick(self.shared.view.load().live());
                Some(Recipe::read(&picked.factory, self.metric, self.dimension())?).filter(|recipe| !recipe.is_exact())
            }
        };
        let (options, limits) = (&self.config.load().options, &self.limits);
        let policy = Policy {
            build_rows: recipe.as_ref().map_or(u64::MAX, |recipe| recipe.train_rows_advised().max(self.seal_rows() as u64)),
            train_rows: recipe.as_ref().map_or(0, Recipe::train_rows_min),
            dead_share: options.compact_dead_share.unwrap_or(limits.compact_dead_share).into(),
            rows_max: limits.segment_rows_max,
        };
        self.build_rows.store(policy.build_rows, Relaxed);
        Ok((policy, recipe))
    }

    fn seal_rows(&self) -> u32 {
        self.config.load().options.seal_rows.unwrap_or(self.limits.seal_rows)
    }

    /// Rows without an index up to which no writer is held up: some segments' worth at least.
    pub(super) fn unbuilt_rows_bearable(&self) -> u64 {
        self.limits.unbuilt_rows_max.max(self.build_rows.load(Relaxed).saturating_mul(4))
    }

    /// Bytes of the files that the manifest names.
    pub(super) fn bytes(&self) -> u64 {
        let manifest = self.root.lock().current().clone();
        let log = self.directory.join(LOG_DIRECTORY);
        let length = |path: PathBuf| self.io.open(&path).and_then(|file| file.len()).unwrap_or(0);
        let log_bytes: u64 = manifest.log.iter().map(|name| length(name.path(&log))).sum();
        let segment_bytes: u64 = manifest.segments.iter().map(SegmentFile::bytes).sum();
        let keys_bytes = manifest.keys.as_ref().map_or(0, |keys| keys.checksum.bytes);
        log_bytes + segment_bytes + keys_bytes + manifest.encode().len() as u64
    }

    /// Makes every write that was acknowledged durable, whatever its durability, and covers it by a watermark.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`]: a sync failed. [`Error::Full`], [`Error::Io`]: the watermark could not be written.
    pub fn sync(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        writer.log.check()?;
        if writer.log.wants_marker() {
            let synced = writer.log.append_marker();
            self.note_log(&writer.log);
            drop(writer);
            self.listeners.wake();
            synced?;
        }
        Ok(())
    }

    /// Writes what is new to a checkpoint, and drops log that no kept checkpoint needs.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Io`]: the checkpoint before stands. [`Error::OutcomeUnknown`]: a sync failed and the index is read-only.
    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        super::checkpoint::checkpoint(self, false)
    }

    /// Refuses every later write: the index is deleted, or the store is closed.
    pub(super) fn close(&self, error: Error) {
        self.stop_building();
        self.writer.lock().closed.get_or_insert_with(|| error.clone());
        self.listeners.close(error);
    }

    /// Takes no more writes, and no checkpoint: what is in memory may not be what is in the log.
    pub(super) fn poison(&self, why: &str) {
        tracing::error!(index = %self.id, why, "the index is read-only");
        self.poison.get_or_init(|| why.into());
    }

    /// Takes over, after the log was written to, what others read of it.
    pub(super) fn note_log(&self, log: &FileLog) {
        if let Err(error) = log.check() {
            self.poison.get_or_init(|| error.to_string().into());
        }
        if !self.is_shared {
            self.durable_lsn.store(log.durable_lsn(), Relaxed);
        }
    }

    /// `new_rows`: those that no checkpoint has begun to write.
    pub(super) fn schedule_after_commit(&self, unsynced: bool, wants_spare: bool, log_bytes: u64, new_rows: u64) {
        let limits = &self.limits;
        if wants_spare {
            self.schedule(Task::Spare, &self.scheduled.spare, 0);
        }
        if unsynced {
            self.schedule(Task::Sync, &self.scheduled.sync, limits.interval_sync_ms);
        }
        self.schedule(Task::Marker, &self.scheduled.marker, limits.marker_delay_ms);
        self.schedule(Task::Checkpoint, &self.scheduled.checkpoint_later, limits.checkpoint_interval_ms);
        let seals = !matches!(self.kind, Kind::Exact) && new_rows >= self.seal_rows().into();
        if seals || log_bytes > limits.checkpoint_log_bytes.max(self.sealed_bytes.load(Relaxed) / 4) {
            self.schedule(Task::Checkpoint, &self.scheduled.checkpoint_now, 0);
        }
    }

    /// Has done what is due of builds and compactions.
    pub(super) fn schedule_builds(&self) {
        self.schedule(Task::Build, &self.scheduled.build, 0);
        self.schedule(Task::Compact, &self.scheduled.compact, 0);
    }

    fn schedule(&self, task: Task, scheduled: &AtomicBool, after_ms: u64) {
        if let Some(maintenance) = &self.maintenance
            && !scheduled.swap(true, SeqCst)
        {
            maintenance.schedule(Weak::clone(&self.weak), task, Duration::from_millis(after_ms));
        }
    }

    /// Does a task of the agenda. A failure is logged, and tried again when the next write schedules it.
    pub(super) fn perform(&self, task: Task) {
        let done = match task {
            Task::Sync => {
                self.scheduled.sync.store(false, SeqCst);
                let mut writer = self.writer.lock();
                let synced = writer.log.sync();
                self.note_log(&writer.log);
                drop(writer);
                self.listeners.wake();
                synced
            }
            Task::Marker => {
                self.scheduled.marker.store(false, SeqCst);
                let quiet = self.writer.lock().last_commit.elapsed();
                let delay = Duration::from_millis(self.limits.marker_delay_ms);
                if quiet < delay {
                    // Still busy: every group covers the one before it, and only the last one needs a marker.
                    self.schedule(Task::Marker, &self.scheduled.marker, (delay - quiet).as_millis() as u64 + 1);
                    return;
                }
                self.sync()
            }
            Task::Spare => {
                let chunk = State::new_spare(self.dimension(), self.metric);
                *self.spare.lock() = Some(chunk);
                self.scheduled.spare.store(false, SeqCst);
                Ok(())
            }
            Task::Checkpoint => {
                self.scheduled.checkpoint_now.store(false, SeqCst);
                self.scheduled.checkpoint_later.store(false, SeqCst);
                self.checkpoint().map(drop)
            }
            // One at a time: other indices have some too. And one may make another due.
            Task::Build => {
                self.scheduled.build.store(false, SeqCst);
                self.build_one().map(|found_one| found_one.then(|| self.schedule_builds())).map(drop)
            }
            Task::Compact => {
                self.scheduled.compact.store(false, SeqCst);
                self.compact_one().map(|found_one| found_one.then(|| self.schedule_builds())).map(drop)
            }
        };
        match done {
            Err(Error::NotFound(_)) | Ok(()) => {}
            // As who closes the store wants it.
            Err(error @ Error::Closed(_)) if self.stop.load(Relaxed) && matches!(task, Task::Build | Task::Compact) => {
                tracing::info!(index = %self.id, ?task, %error, "maintenance ended early");
            }
            Err(error) => tracing::error!(index = %self.id, ?task, %error, "maintenance failed"),
        }
    }
}

fn build_info(rows: usize, built: &Built) -> BuildInfo {
    let share = |recall: u16| f64::from(recall) / 10_000.0;
    let known = |value: u32| Some(value).filter(|&value| value > 0);
    match built {
        Built::Index(index) => BuildInfo {
            rows: rows as u64,
            factory: Some(index.factory.clone()),
            recall: Some(share(index.recall)),
            ef: known(index.ef),
            nprobe: known(index.nprobe),
            overfetch: known(index.overfetch),
            reason: None,
        },
        Built::Exact { recall, why, .. } => BuildInfo {
            rows: rows as u64,
            factory: None,
            recall: recall.map(share),
            ef: None,
            nprobe: None,
            overfetch: None,
            reason: Some(why.clone()),
        },
    }
}
