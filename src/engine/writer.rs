//! Group commit: the first writer becomes the leader, takes what has queued up, and commits it as one frame with one sync.
//!
//! Under the writer's lock, in this order: resolve the requests against the state and against each other, write one frame, sync it, apply it,
//! publish one View. No group is resolved before the one before it is applied. Who waits and who leads is [`Queue`](super::queue::Queue)'s.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::apply::{Effect, State, has_id};
use super::batch::Batch;
use super::index::Index;
use crate::error::{Error, Result};
use crate::format::codec;
use crate::types::{Durability, Lsn};
use crate::wal::file_log::FileLog;
use crate::wal::operation::{Delete, Operation};

/// Requests in one group. Bounds the slices of one write.
const GROUP_REQUESTS_MAX: usize = 256;

/// How long a leader waits for the writers that the group before it woke, and only where there were some: those who come a moment later
/// would wait for a whole sync. It is over as soon as there are as many as before.
const GATHER_MAX: Duration = Duration::from_micros(200);

/// A mutation that a caller wants.
#[derive(Debug)]
pub(super) enum Request {
    Upsert(Batch),
    Delete(Vec<String>),
}

/// What became of a request: the last LSN after it, and its effect.
pub(super) type Outcome = Result<(Lsn, Effect)>;

impl Request {
    fn log_bytes(&self) -> usize {
        match self {
            Self::Upsert(batch) => batch.log_bytes(),
            Self::Delete(ids) => ids.iter().map(|id| id.len() + 3).sum(),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Upsert(batch) => batch.len(),
            Self::Delete(_) => 0,
        }
    }
}

/// A request as it waits in line.
#[derive(Debug)]
pub(super) struct Write {
    request: Request,
    durability: Durability,
}

/// What only one thread at a time has: the leader, or a checkpoint for a moment.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) log: FileLog,
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
    pub(super) fn commit(&self, request: Request, durability: Durability) -> Outcome {
        let write = Write { request, durability };
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
        // The requests that fit into one frame; one that does not is a group of its own.
        let (mut requests, mut bytes) = (0, 0);
        let fits = |write: &Write| {
            requests += 1;
            bytes += write.request.log_bytes() + 64;
            requests <= GROUP_REQUESTS_MAX && bytes <= self.limits.frame_bytes_max
        };
        let turn = self.queue.take(is_patient, fits, || {
            // The leader panicked between taking the group and answering it: what it did is not known.
            let why: Arc<str> = "a write failed by a bug; the index is read-only until the server is restarted".into();
            self.poison(&why);
            Err(Error::Closed(why))
        });
        let outcomes = self.commit_group(&mut writer, &turn.requests);
        drop(writer);
        turn.answer(outcomes);
        self.listeners.wake();
    }

    fn commit_group(&self, writer: &mut Writer, group: &[Write]) -> Vec<Outcome> {
        let closed = || self.poison.get().map(|why| Error::Closed(Arc::clone(why)));
        if let Some(error) = writer.closed.clone().or_else(closed) {
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        let rows = group.iter().map(|write| write.request.rows()).sum();
        if !writer.state.has_room_for(rows) {
            let error = Error::Conflict("this index has numbered 2^40 rows since it was opened; restart the server".to_owned());
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        let deletes = self.resolve(&writer.state, group);
        let operations: Vec<Option<Operation<'_>>> = group
            .iter()
            .zip(&deletes)
            .map(|(write, delete)| match (&write.request, delete) {
                (Request::Upsert(batch), _) => Some(batch.operation()),
                (Request::Delete(_), Some((count, ids))) => Some(Operation::Delete(Delete { count: *count, ids })),
                (Request::Delete(_), None) => None,
            })
            .collect();
        let logged: Vec<Operation<'_>> = operations.iter().flatten().cloned().collect();
        let durable = group.iter().any(|write| write.durability == Durability::Fsync);
        // A delete that finds nothing logs nothing, but it tells of a state: what took the points away may not be synced yet.
        if (!logged.is_empty() || durable)
            && let Err(error) = self.log(&mut writer.log, &logged, durable)
        {
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        let outcomes = self.apply(writer, &operations);
        self.after_commit(writer);
        outcomes
    }

    /// What each delete of the group is to log: the ids that exist at its turn. `None` where it is no delete, or deletes nothing.
    fn resolve(&self, state: &State, group: &[Write]) -> Vec<Option<(u32, Vec<u8>)>> {
        let any_delete = group.iter().any(|write| matches!(write.request, Request::Delete(_)));
        if !any_delete {
            return group.iter().map(|_| None).collect();
        }
        self.shared.with_ids(|ids| {
            // What the group has done so far to the ids that it names.
            let mut exists_now: HashMap<&str, bool> = HashMap::new();
            group
                .iter()
                .map(|write| match &write.request {
                    Request::Upsert(batch) => {
                        exists_now.extend(batch.ids().map(|id| (id, true)));
                        None
                    }
                    Request::Delete(wanted) => {
                        let (mut count, mut encoded) = (0, Vec::new());
                        for id in wanted {
                            let in_state = || ids.get(ids.hash(id.as_bytes()), |row| has_id(&state.segments, row, id)).is_some();
                            if exists_now.insert(id, false).unwrap_or_else(in_state) {
                                count += 1;
                                codec::encode_into(id.as_str(), &mut encoded);
                            }
                        }
                        (count > 0).then_some((count, encoded))
                    }
                })
                .collect()
        })
    }

    fn log(&self, log: &mut FileLog, operations: &[Operation<'_>], durable: bool) -> Result<()> {
        let mut logged = self.append(log, operations, durable);
        if matches!(logged, Err(Error::Full(_))) && self.release_history()? {
            logged = self.append(log, operations, durable);
        }
        let only_deletes = operations.iter().all(|operation| matches!(operation, Operation::Delete(_)));
        if matches!(logged, Err(Error::Full(_))) && only_deletes && self.reserve.release() {
            logged = self.append(log, operations, durable);
        }
        self.note_log(log);
        logged
    }

    fn append(&self, log: &mut FileLog, operations: &[Operation<'_>], durable: bool) -> Result<()> {
        if !operations.is_empty() {
            if log.needs_segment() {
                self.start_log_segment(log)?;
            }
            log.append(operations)?;
        }
        if durable { log.sync() } else { Ok(()) }
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

    fn apply(&self, writer: &mut Writer, operations: &[Option<Operation<'_>>]) -> Vec<Outcome> {
        self.shared.change(|ids| {
            let outcomes = operations
                .iter()
                .map(|operation| {
                    let effect = operation.as_ref().map(|operation| writer.state.apply(ids, operation));
                    Ok((writer.state.lsn, effect.unwrap_or_default()))
                })
                .collect();
            debug_assert_eq!(writer.state.lsn, writer.log.written_lsn());
            (writer.state.view(), outcomes)
        })
    }

    fn after_commit(&self, writer: &mut Writer) {
        writer.last_commit = Instant::now();
        let log = &writer.log;
        let since_checkpoint = log.appended_bytes() - writer.checkpoint_appended_bytes;
        let unsynced = log.durable_lsn() < log.written_lsn();
        self.schedule_after_commit(unsynced, writer.state.wants_spare(), since_checkpoint, writer.state.new_rows());
    }
}
