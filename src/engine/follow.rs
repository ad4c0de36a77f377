//! Following: what other nodes did to the catalogue and to the logs is done here too, by one thread.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::slots::{Key, Slots};
use crate::error::{Error, Result};
use crate::wal::cluster::{Cluster, Entry, Told};

/// How long after something failed it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// The thread that follows.
#[derive(Debug)]
pub(super) struct Follower {
    tell: Sender<Told>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Follower {
    /// Begins to follow, and comes back when the node was told of the whole catalogue and has done what it could.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no thread to be had.
    pub(super) fn start(slots: &Arc<Slots>, cluster: &dyn Cluster) -> Result<Self> {
        let (tell, mut following) = Following::begin(slots, cluster);
        let run = move || while following.turn() {};
        let thread = thread::Builder::new().name("follower".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::io("start a thread that follows", std::path::Path::new(""), error))?;
        Ok(Self { tell, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread, after what it is doing. For who has closed the slots.
    pub(super) fn stop(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        // Only to wake it: it sees that the slots are closed. Where nobody receives it, it has ended.
        let _ = self.tell.send(Told::Complete);
        if thread.join().is_err() {
            tracing::error!("the thread that follows other nodes ended by a bug");
        }
    }
}

struct Following {
    slots: Weak<Slots>,
    told: Receiver<Told>,
    todo: HashMap<Key, Todo>,
}

/// What this node was told of an index, and has not done.
#[derive(Debug, Default)]
struct Todo {
    entry: Option<Entry>,
    /// Of the newest frame; 0: of none.
    sequence: u64,
    /// It failed before.
    not_before: Option<Instant>,
}

impl Following {
    /// Follows, and does all that the catalogue says now.
    fn begin(slots: &Arc<Slots>, cluster: &dyn Cluster) -> (Sender<Told>, Self) {
        let (tell, told) = mpsc::channel();
        cluster.follow(tell.clone());
        let mut following = Self { slots: Arc::downgrade(slots), told, todo: HashMap::new() };
        while let Ok(told) = following.told.recv() {
            let is_complete = told == Told::Complete;
            following.note(told);
            if is_complete {
                break;
            }
        }
        following.work(slots);
        (tell, following)
    }

    /// Waits until something is told, or may be tried again, and does it. `false`: there is no store any more.
    fn turn(&mut self) -> bool {
        let told = if self.todo.is_empty() {
            self.told.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            self.told.recv_timeout(PAUSE)
        };
        match told {
            Ok(told) => self.note(told),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        // Of an index that is written to all the time, the newest is enough.
        while let Ok(told) = self.told.try_recv() {
            self.note(told);
        }
        let Some(slots) = self.slots.upgrade().filter(|slots| !slots.is_closed()) else { return false };
        self.work(&slots);
        true
    }

    fn note(&mut self, told: Told) {
        match told {
            Told::Entry { tenant, index, entry } => {
                let todo = self.todo.entry((tenant, index)).or_default();
                if todo.entry.as_ref().is_none_or(|known| known.revision < entry.revision) {
                    todo.entry = Some(entry);
                }
            }
            Told::Frame { tenant, index, sequence } => {
                let todo = self.todo.entry((tenant, index)).or_default();
                todo.sequence = todo.sequence.max(sequence);
            }
            Told::Complete => {}
        }
    }

    /// Does what there is to do, and keeps what is to be tried again.
    fn work(&mut self, slots: &Slots) {
        self.todo.retain(|key, todo| {
            if slots.is_closed() || todo.not_before.is_some_and(|until| Instant::now() < until) {
                return true;
            }
            let (tenant, id) = key;
            match todo.work(slots, key) {
                Ok(()) => false,
                Err(error @ (Error::Io(_) | Error::Full(_) | Error::OutcomeUnknown(_) | Error::Busy(_))) => {
                    tracing::warn!(%tenant, index = %id, %error, "cannot follow other nodes in this index; trying again");
                    todo.not_before = Some(Instant::now() + PAUSE);
                    true
                }
                Err(error) => {
                    tracing::error!(%tenant, index = %id, %error, "cannot follow other nodes in this index");
                    false
                }
            }
        });
    }
}

impl Todo {
    fn work(&mut self, slots: &Slots, key: &Key) -> Result<()> {
        if let Some(entry) = &self.entry {
            slots.follow_entry(&key.0, key.1, entry)?;
            self.entry = None;
        }
        // One that is not open reads its log when it is opened.
        let Some(index) = slots.peek(key).filter(|_| self.sequence > 0) else { return Ok(()) };
        let caught_up = index.catch_up_past(self.sequence);
        if slots.context().snapshots.is_some() && index.is_behind() {
            drop(index);
            return slots.renew(key);
        }
        caught_up
    }
}

#[cfg(test)]
mod tests;
