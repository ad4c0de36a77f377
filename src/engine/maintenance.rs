//! What is done later, by four threads for all indices: markers and interval syncs on time, and closing what is over the memory budget;
//! checkpoints; builds and compactions.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::index::Index;
use super::slots::Slots;
use crate::error::{Error, Result};

/// What an index wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// Sync what was written with interval durability.
    Sync,
    /// Write the marker that covers the last group by a watermark.
    Marker,
    /// Make the next chunk of rows.
    Spare,
    Checkpoint,
    /// Build an index over rows that have none.
    Build,
    /// Rewrite segments.
    Compact,
}

/// How often the memory of the open indices is summed, where there is a budget. Opening one sums it too: this is for those that grow.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// What an entry of an agenda asks for.
#[derive(Debug)]
enum Job {
    Index(Task, Weak<Index>),
    /// Close indices while they take more memory than they may; again and again.
    Memory(Weak<Slots>),
}

/// Work for one thread, by when it is due. An index has at most two tasks of a kind in it, so its size is bounded.
#[derive(Debug, Default)]
struct Agenda {
    state: Mutex<AgendaState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AgendaState {
    due: BinaryHeap<Reverse<Due>>,
    stopped: bool,
}

#[derive(Debug)]
struct Due {
    at: Instant,
    job: Job,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Agenda {
    fn add(&self, due: Due) {
        self.state.lock().due.push(Reverse(due));
        self.changed.notify_one();
    }

    /// The next job, when it is due; `None` when stopped.
    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            match state.due.peek() {
                None => self.changed.wait(&mut state),
                Some(Reverse(first)) if first.at > Instant::now() => {
                    let at = first.at;
                    self.changed.wait_until(&mut state, at);
                }
                Some(_) => {
                    if let Some(Reverse(due)) = state.due.pop() {
                        return Some(due.job);
                    }
                }
            }
        }
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// The four threads of a store.
#[derive(Debug)]
pub(super) struct Maintenance {
    timely: Arc<Agenda>,
    lengthy: Arc<Agenda>,
    building: Arc<Agenda>,
    compacting: Arc<Agenda>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Maintenance {
    /// # Errors
    /// [`Error::Io`] where the system gives no thread.
    pub(super) fn start() -> Result<Arc<Self>> {
        let [timely, lengthy, building, compacting] = std::array::from_fn(|_| Arc::new(Agenda::default()));
        let mut threads = Vec::new();
        let agendas = [
            ("faiss-proxy-timer", &timely),
            ("faiss-proxy-checkpoint", &lengthy),
            ("faiss-proxy-build", &building),
            ("faiss-proxy-compact", &compacting),
        ];
        for (name, agenda) in agendas {
            let agenda = Arc::clone(agenda);
            let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
                while let Some(job) = agenda.next() {
                    // Whatever fails, the other indices need this thread too.
                    match job {
                        Job::Index(task, index) => {
                            let Some(index) = index.upgrade() else { continue };
                            if catch_unwind(AssertUnwindSafe(|| index.perform(task))).is_err() {
                                index.poison("maintenance failed by a bug; the index is read-only until the server is restarted");
                            }
                        }
                        Job::Memory(slots) => {
                            let Some(store) = slots.upgrade() else { continue };
                            if catch_unwind(AssertUnwindSafe(|| store.keep_to_budget(true))).is_err() {
                                tracing::error!("closing indices over the memory budget failed by a bug; it is tried again");
                            }
                            agenda.add(Due { at: Instant::now() + MEMORY_INTERVAL, job: Job::Memory(slots) });
                        }
                    }
                }
            });
            threads.push(thread.map_err(|error| Error::io("start a thread", name.as_ref(), error))?);
        }
        Ok(Arc::new(Self { timely, lengthy, building, compacting, threads: Mutex::new(threads) }))
    }

    pub(super) fn schedule(&self, index: Weak<Index>, task: Task, after: Duration) {
        let due = Due { at: Instant::now() + after, job: Job::Index(task, index) };
        match task {
            Task::Sync | Task::Marker | Task::Spare => self.timely.add(due),
            Task::Checkpoint => self.lengthy.add(due),
            Task::Build => self.building.add(due),
            Task::Compact => self.compacting.add(due),
        }
    }

    /// Keeps the open indices to their memory budget from now on. Closing one may checkpoint it, which is for the lengthy agenda.
    pub(super) fn watch_memory(&self, slots: Weak<Slots>) {
        self.lengthy.add(Due { at: Instant::now() + MEMORY_INTERVAL, job: Job::Memory(slots) });
    }

    /// Waits for what is being done; what is not yet due is forgotten.
    pub(super) fn stop(&self) {
        self.timely.stop();
        self.lengthy.stop();
        self.building.stop();
        self.compacting.stop();
        let own = std::thread::current().id();
        // The last index can be dropped by one of the threads, which cannot wait for itself.
        for thread in self.threads.lock().drain(..).filter(|thread| thread.thread().id() != own) {
            if thread.join().is_err() {
                tracing::error!("a maintenance thread ended by a panic");
            }
        }
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop();
    }
}
