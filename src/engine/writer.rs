//! Group commit: the first writer becomes the leader, takes what has queued up, and commits it as one frame with one sync.
//!
//! Under the writer's lock, in this order: resolve the requests against the state and against each other, write one frame, sync it, apply it,
//! publish one View. No group is resolved before the one before it is applied. There is no thread for this: writers do it for each
//! other. A request that found a leader at work sleeps until it has its answer, or until it is made the next leader.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

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

/// Requests that wait for a leader.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// Somebody commits, or was told to.
    has_leader: bool,
    /// Requests in the last group: as many writers may be about to come back.
    last_group: usize,
}

#[derive(Debug)]
struct Waiting {
    request: Request,
    durability: Durability,
    seat: Arc<Seat>,
}

/// Where a writer sleeps.
#[derive(Debug, Default)]
struct Seat {
    call: Mutex<Option<Call>>,
    called: Condvar,
}

#[derive(Debug)]
enum Call {
    Lead,
    Done(Outcome),
}

impl Seat {
    fn call(&self, call: Call) {
        *self.call.lock() = Some(call);
        self.called.notify_one();
    }

    fn wait(&self) -> Call {
        let mut call = self.call.lock();
        loop {
            match call.take() {
                Some(call) => return call,
                None => self.called.wait(&mut call),
            }
        }
    }
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
        self.queue.lock().waiting.len()
    }

    /// Commits a request, in a group with what others want at the same time.
    pub(super) fn commit(&self, request: Request, durability: Durability) -> Outcome {
        let seat = Arc::new(Seat::default());
        {
            let mut queue = self.queue.lock();
            if queue.waiting.len() >= self.limits.queued_writes_max {
                return Err(Error::Busy("too many writes wait for this index"));
            }
            queue.waiting.push_back(Waiting { request, durability, seat: Arc::clone(&seat) });
            if std::mem::replace(&mut queue.has_leader, true) {
                drop(queue);
                if let Call::Done(outcome) = seat.wait() {
                    return outcome;
                }
            }
        }
        self.lead();
        match seat.wait() {
            Call::Done(outcome) => outcome,
            Call::Lead => unreachable!("a leader's own request is in its group: it is the first that waits"),
        }
    }

    /// Takes a group, commits it, hands on the lead, and answers everybody.
    fn lead(&self) {
        let mut writer = self.writer.lock();
        let mut turn = Turn { index: self, group: self.take_group() };
        let outcomes = self.commit_group(&mut writer, &turn.group);
        drop(writer);
        let group = std::mem::take(&mut turn.group);
        // The next leader first: it can begin while the others are still being woken.
        drop(turn);
        for (waiting, outcome) in group.iter().zip(outcomes) {
            waiting.seat.call(Call::Done(outcome));
        }
    }

    /// The requests at the head of the queue that fit into one frame; a request that does not is a group of its own.
    fn take_group(&self) -> Vec<Waiting> {
        let mut queue = self.queue.lock();
        let expected = queue.last_group;
        if queue.waiting.len() < expected {
            let until = Instant::now() + GATHER_MAX;
            while queue.waiting.len() < expected && Instant::now() < until {
                drop(queue);
                std::thread::yield_now();
                queue = self.queue.lock();
            }
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(next) = queue.waiting.front() {
            bytes += next.request.log_bytes() + 64;
            let full = group.len() == GROUP_REQUESTS_MAX || bytes > self.limits.frame_bytes_max;
            if full && !group.is_empty() {
                break;
            }
            group.extend(queue.waiting.pop_front());
        }
        queue.last_group = group.len();
        group
    }

    fn commit_group(&self, writer: &mut Writer, group: &[Waiting]) -> Vec<Outcome> {
        let closed = || self.poison.get().map(|why| Error::Closed(Arc::clone(why)));
        if let Some(error) = writer.closed.clone().or_else(closed) {
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        let rows = group.iter().map(|waiting| waiting.request.rows()).sum();
        if !writer.state.has_room_for(rows) {
            let error = Error::Conflict("this index has numbered 2^40 rows since it was opened; restart the server".to_owned());
            return group.iter().map(|_| Err(error.clone())).collect();
        }
        let deletes = self.resolve(&writer.state, group);
        let operations: Vec<Option<Operation<'_>>> = group
            .iter()
            .zip(&deletes)
            .map(|(waiting, delete)| match (&waiting.request, delete) {
                (Request::Upsert(batch), _) => Some(batch.operation()),
                (Request::Delete(_), Some((count, ids))) => Some(Operation::Delete(Delete { count: *count, ids })),
                (Request::Delete(_), None) => None,
            })
            .collect();
        let logged: Vec<Operation<'_>> = operations.iter().flatten().cloned().collect();
        let durable = group.iter().any(|waiting| waiting.durability == Durability::Fsync);
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
    fn resolve(&self, state: &State, group: &[Waiting]) -> Vec<Option<(u32, Vec<u8>)>> {
        let any_delete = group.iter().any(|waiting| matches!(waiting.request, Request::Delete(_)));
        if !any_delete {
            return group.iter().map(|_| None).collect();
        }
        let ids = self.shared.ids.read();
        // What the group has done so far to the ids that it names.
        let mut exists_now: HashMap<&str, bool> = HashMap::new();
        group
            .iter()
            .map(|waiting| match &waiting.request {
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
    }

    fn log(&self, log: &mut FileLog, operations: &[Operation<'_>], durable: bool) -> Result<()> {
        let mut logged = self.append(log, operations, durable);
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
        let mut ids = self.shared.ids.write();
        let outcomes = operations
            .iter()
            .map(|operation| {
                let effect = operation.as_ref().map(|operation| writer.state.apply(&mut ids, operation));
                Ok((writer.state.lsn, effect.unwrap_or_default()))
            })
            .collect();
        debug_assert_eq!(writer.state.lsn, writer.log.written_lsn());
        self.shared.view.store(writer.state.view());
        outcomes
    }

    fn after_commit(&self, writer: &mut Writer) {
        writer.last_commit = Instant::now();
        let log = &writer.log;
        let since_checkpoint = log.appended_bytes() - writer.checkpoint_appended_bytes;
        let unsynced = log.durable_lsn() < log.written_lsn();
        self.schedule_after_commit(unsynced, writer.state.wants_spare(), since_checkpoint, writer.state.new_rows());
    }
}

/// A leader's turn. However it ends, by a panic too, the lead is handed on and nobody is left asleep.
struct Turn<'a> {
    index: &'a Index,
    group: Vec<Waiting>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.group.is_empty() {
            // The leader panicked between taking the group and answering it: what it did is not known.
            let why: Arc<str> = "a write failed by a bug; the index is read-only until the server is restarted".into();
            self.index.poison(&why);
            for waiting in &self.group {
                waiting.seat.call(Call::Done(Err(Error::Closed(Arc::clone(&why)))));
            }
        }
        let mut queue = self.index.queue.lock();
        match queue.waiting.front() {
            Some(next) => next.seat.call(Call::Lead),
            None => queue.has_leader = false,
        }
    }
}
