//! Group commit: the first writer becomes the leader, takes what has queued up, and commits it as one frame with one sync.
//!
//! Under the writer's lock, in this order: resolve the requests against the state and against each other, write one frame, sync it, apply it,
//! publish one View. No group is resolved before the one before it is applied. Who waits and who leads is [`Queue`](super::queue::Queue)'s.
//! Where the log is shared, `shared_log` does these steps.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::apply::State;
use super::batch::Batch;
use super::index::Index;
use super::resolve::{Resolved, resolve};
use super::shared_log::SharedLog;
use crate::error::{Error, Result};
use crate::segment::filter::Filter;
use crate::types::{Condition, Durability, Lsn, WriteOptions};
use crate::wal::file_log::FileLog;
use crate::wal::operation::{Effect, Operation};

/// Requests in one group. Bounds the slices of one write.
const GROUP_REQUESTS_MAX: usize = 256;

/// How long a leader waits for the writers that the group before it woke, and only where there were some: those who come a moment later
/// would wait for a whole sync. It is over as soon as there are as many as before.
const GATHER_MAX: Duration = Duration::from_micros(200);

/// A mutation that a caller wants.
#[derive(Debug)]
pub(super) enum Request {
    Upsert(Batch),
    /// Of each of the ids, the condition is to hold.
    Delete {
        ids: Vec<String>,
        condition: Condition,
    },
    DeleteMatching(Filter),
    /// A merge patch of a point's metadata.
    Patch {
        id: String,
        patch: String,
        condition: Condition,
    },
}

/// What became of a request: the last LSN after it, and its effect.
pub(super) type Outcome = Result<(Lsn, Effect)>;

/// A request as it waits in line.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) request: Request,
    pub(super) options: WriteOptions,
}

impl Write {
    /// The most bytes that it takes in the log, in an index of vectors of this dimension; `None`: nobody knows before its turn.
    fn log_bytes(&self, dimension: usize, metadata_bytes_max: usize) -> Option<usize> {
        let request = match &self.request {
            Request::Upsert(batch) => batch.log_bytes(),
            Request::Delete { ids, .. } => ids.iter().map(|id| id.len() + 3).sum(),
            Request::DeleteMatching(_) => return None,
            Request::Patch { id, .. } => id.len() + metadata_bytes_max + 4 * dimension,
        };
        // With a key, the positions of points are logged too: the lists have each of them once at most.
        let answer = self.options.key.as_ref().map_or(0, |key| key.key.len() + 5 * self.positions());
        Some(request + answer + 64)
    }

    /// What is too large where it takes too many bytes.
    fn field(&self) -> &'static str {
        match self.request {
            Request::Upsert(_) => "vectors",
            Request::Delete { .. } => "ids",
            Request::DeleteMatching(_) => "filter",
            Request::Patch { .. } => "metadata",
        }
    }

    /// Points that the request names.
    fn positions(&self) -> usize {
        match &self.request {
            Request::Upsert(batch) => batch.len(),
            Request::Delete { ids, .. } => ids.len(),
            Request::DeleteMatching(_) => 0,
            Request::Patch { .. } => 1,
        }
    }

    /// Rows that it may add.
    fn rows(&self) -> usize {
        if matches!(self.request, Request::Delete { .. }) { 0 } else { self.positions() }
    }
}

/// What only one thread at a time has: the leader, or a checkpoint for a moment.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) log: FileLog,
    /// `None` on one machine: the log of files is all there is.
    pub(super) shared_log: Option<SharedLog>,
    pub(super) state: State,
    /// Why no more writes are taken.
    pub(super) closed: Option<Error>,
    /// When the last group was committed.
    pub(super) last_commit: Instant,
    /// What [`FileLog::appended_bytes`] was at the last checkpoint.
    pub(super) checkpoint_appended_bytes: u64,
}

impl Index {
    /// Writes that wait at this moment for the one that is being committed; not those that are committed with it.
    pub fn waiting_writes(&self) -> usize {
        self.queue.waiting()
    }

    /// Commits a request, in a group with what others want at the same time.
    pub(super) fn commit(&self, request: Request, options: WriteOptions) -> Outcome {
        let write = Write { request, options };
        if let Some(bytes) = write.log_bytes(self.dimension(), self.limits.metadata_bytes_max)
            && bytes > self.limits.operation_bytes_max
        {
            let detail = format!("one write takes at most {} bytes of the log", self.limits.operation_bytes_max);
            return Err(Error::invalid(write.field(), "batch_too_large", detail));
        }
        let _timed = self.stages.commit.start_timer();
        let answer = self.queue.ask(write, self.limits.queued_writes_max, || self.lead());
        answer.unwrap_or(Err(Error::Busy("too many writes wait for this index")))
    }

    /// Takes a group, commits it, hands on the lead, and answers everybody.
    fn lead(&self) {
        let mut writer = self.writer.lock();
        let until = Instant::now() + GATHER_MAX;
        let is_patient = || {
            std::thread::yield_now();
            Instant::now() < until
        };
        let shared_bytes_max = writer.shared_log.as_ref().map_or(usize::MAX, SharedLog::frame_bytes_max);
        let frame_bytes_max = self.limits.frame_bytes_max.min(shared_bytes_max);
        // The requests that fit into one frame; one that does not, or may not, is a group of its own.
        let (mut requests, mut bytes) = (0, Some(0_usize));
        let fits = |write: &Write| {
            requests += 1;
            let more = write.log_bytes(self.dimension(), self.limits.metadata_bytes_max);
            bytes = bytes.zip(more).map(|(bytes, more)| bytes + more);
            requests <= GROUP_REQUESTS_MAX && bytes.is_some_and(|bytes| bytes <= frame_bytes_max)
        };
        let turn = self.queue.take(is_patient, fits, || {
            // The leader panicked between taking the group and answering it: what it did is not known.
            let why: Arc<str> = "a write failed by a bug; the index is read-only until the server is restarted".into();
            self.poison(&why);
            Err(Error::Closed(why))
        });
        self.stages.group.observe(turn.requests.len() as f64);
        let outcomes = self.commit_group(&mut writer, &turn.requests);
        drop(writer);
        turn.answer(outcomes);
        self.listeners.wake();
    }

    fn commit_group(&self, writer: &mut Writer, group: &[Write]) -> Vec<Outcome> {
        if let Err(error) = self.check_writable(writer) {
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        let rows = group.iter().map(Write::rows).sum();
        if !writer.state.has_room_for(rows) {
            let error = Error::Conflict("this index has numbered 2^40 rows since it was opened; restart the server".to_owned());
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        if writer.shared_log.is_some() {
            let committed = self.commit_shared(writer, group);
            self.after_commit(writer);
            return committed.unwrap_or_else(|error| group.iter().map(|_| Err(error.clone())).collect());
        }
        let resolved = self.shared.with_ids(|ids| resolve(&writer.state, ids, &self.limits, group));
        let logged: Vec<&Operation<'_>> = resolved.iter().filter_map(|resolved| resolved.operation.as_ref()).collect();
        let durable = group.iter().any(|write| write.options.durability == Durability::Fsync);
        // What logs nothing tells of a state all the same: of what made it so, not everything may be synced yet.
        if (!logged.is_empty() || durable)
            && let Err(error) = self.log(&mut writer.log, &logged, None, durable)
        {
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        let outcomes = self.apply(writer, resolved);
        self.after_commit(writer);
        outcomes
    }

    /// # Errors
    /// Why the index takes no writes.
    pub(super) fn check_writable(&self, writer: &Writer) -> Result<()> {
        let poisoned = || self.poison.get().map(|why| Error::Closed(Arc::clone(why)));
        writer.closed.clone().or_else(poisoned).map_or(Ok(()), Err)
    }

    /// `time_us`: when a shared log says that it was committed; else now.
    pub(super) fn log(
        &self,
        log: &mut FileLog,
        operations: &[&Operation<'_>],
        time_us: Option<u64>,
        durable: bool,
    ) -> Result<()> {
        let mut logged = self.append(log, operations, time_us, durable);
        if matches!(logged, Err(Error::Full(_))) && self.release_history()? {
            logged = self.append(log, operations, time_us, durable);
        }
        let only_deletes = operations.iter().all(|operation| operation.is_delete());
        if matches!(logged, Err(Error::Full(_))) && only_deletes && self.reserve.release() {
            logged = self.append(log, operations, time_us, durable);
        }
        self.note_log(log);
        logged
    }

    fn append(&self, log: &mut FileLog, operations: &[&Operation<'_>], time_us: Option<u64>, durable: bool) -> Result<()> {
        if !operations.is_empty() {
            if log.needs_segment() {
                self.start_log_segment(log)?;
            }
            let _timed = self.stages.append.start_timer();
            match time_us {
                Some(time_us) => log.append_at(operations, time_us)?,
                None => log.append(operations)?,
            };
        }
        if !durable {
            return Ok(());
        }
        let _timed = self.stages.sync.start_timer();
        log.sync()
    }

    /// A new segment is named in a manifest before anything is appended to it: a listed segment that is missing is damage, and one that
    /// is there and not listed was never used.
    pub(super) fn start_log_segment(&self, log: &mut FileLog) -> Result<()> {
        let prepared = log.prepare_segment()?;
        let published = self.root.lock().publish(|manifest| manifest.log.push(prepared.name()));
        match published {
            Ok(_) => log.adopt(prepared),
            Err(error @ Error::OutcomeUnknown(_)) => {
                // The manifest may already say that the old segment has ended.
                log.poison(error.clone());
                return Err(error);
            }
            Err(error) => {
                log.discard(prepared);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn apply(&self, writer: &mut Writer, resolved: Vec<Resolved<'_>>) -> Vec<Outcome> {
        let _timed = self.stages.apply.start_timer();
        self.shared.change(|ids| {
            let outcomes = resolved
                .into_iter()
                .map(|Resolved { operation, answer }| {
                    let effect = operation.map(|operation| writer.state.apply(ids, &operation)).unwrap_or_default();
                    answer.unwrap_or(Ok((writer.state.lsn, effect)))
                })
                .collect();
            debug_assert_eq!(writer.state.lsn, writer.log.written_lsn());
            (writer.state.view(), outcomes)
        })
    }

    pub(super) fn after_commit(&self, writer: &mut Writer) {
        writer.last_commit = Instant::now();
        self.keys_bytes.store(writer.state.keys.memory_bytes(), Relaxed);
        let log = &writer.log;
        let since_checkpoint = log.appended_bytes() - writer.checkpoint_appended_bytes;
        let unsynced = log.durable_lsn() < log.written_lsn();
        self.schedule_after_commit(unsynced, writer.state.wants_spare(), since_checkpoint, writer.state.new_rows());
    }
}
