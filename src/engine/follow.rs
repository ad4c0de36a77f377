//! Following: what other nodes did to the catalogue and to the logs is done here too, by one thread.

use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::moving::Membership;
use super::placement::Placement;
use super::slots::{Key, Slots};
use crate::error::{Error, Result};
use crate::wal::cluster::{Cluster, Entry, Told};
use crate::wal::nodes::Member;

/// How long after something failed it is tried again, and between two times that other nodes are asked what they have.
const PAUSE: Duration = Duration::from_secs(1);

/// The thread that follows.
#[derive(Debug)]
pub(super) struct Follower {
    tell: Sender<Told>,
    thread: Mutex<Option<JoinHandle<()>>>,
    placement: Option<Arc<Placement>>,
}

impl Follower {
    /// Begins to follow, and comes back when the node was told of the whole catalogue and has done what it could.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no thread to be had, or this node cannot join the others.
    pub(super) fn start(slots: &Arc<Slots>, cluster: &dyn Cluster) -> Result<Self> {
        let (tell, mut following) = Following::begin(slots, cluster)?;
        let run = move || while following.turn() {};
        let thread = thread::Builder::new().name("follower".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::io("start a thread that follows", std::path::Path::new(""), error))?;
        let placement = slots.context().placement.clone();
        Ok(Self { tell, thread: Mutex::new(Some(thread)), placement })
    }

    /// Ends the thread, after what it is doing. For who has closed the slots.
    pub(super) fn stop(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        // Only to wake it: it sees that the slots are closed. Where nobody receives it, it has ended.
        let _ = self.tell.send(Told::Complete);
        if thread.join().is_err() {
            tracing::error!("the thread that follows other nodes ended by a bug");
        }
        if let Some(placement) = &self.placement {
            placement.leave();
        }
    }
}

struct Following {
    slots: Weak<Slots>,
    told: Receiver<Told>,
    todo: HashMap<Key, Todo>,
    /// The nodes by which was decided what comes here.
    placed: Option<Arc<BTreeSet<String>>>,
    /// When other nodes may be asked again whether they have what is to go, and after which index.
    look_at: Instant,
    after: Option<Key>,
    /// This node is one of them as long as it is there.
    membership: Option<Arc<Membership>>,
}

/// What this node was told of an index, and has not done.
#[derive(Debug, Default)]
struct Todo {
    entry: Option<Entry>,
    /// Of the newest frame; 0: of none.
    sequence: u64,
    /// It was elsewhere, and is to be here.
    is_to_come: bool,
    /// It failed before.
    not_before: Option<Instant>,
}

impl Following {
    /// Follows, and does all that the catalogue says now.
    ///
    /// # Errors
    /// [`Error::Io`]: this node cannot join the others.
    fn begin(slots: &Arc<Slots>, cluster: &dyn Cluster) -> Result<(Sender<Told>, Self)> {
        let (tell, told) = mpsc::channel();
        let mut membership = None;
        if let Some(placement) = &slots.context().placement {
            let member = Arc::new(Membership { slots: Arc::downgrade(slots), wake: OnceLock::new() });
            // First: by the nodes that are there is decided what of the catalogue comes here.
            placement.join(&(Arc::clone(&member) as Arc<dyn Member>))?;
            membership = Some(member);
        }
        cluster.follow(tell.clone());
        let (placed, look_at) = (None, Instant::now());
        let slots_then = Arc::downgrade(slots);
        let mut following = Self { slots: slots_then, told, todo: HashMap::new(), placed, look_at, after: None, membership };
        while let Ok(told) = following.told.recv() {
            let is_complete = told == Told::Complete;
            following.note(told);
            if is_complete {
                break;
            }
        }
        following.membership.as_ref().map(|member| member.wake.set(tell.clone()));
        following.work(slots);
        Ok((tell, following))
    }

    /// Waits until something is told, or may be tried again, and does it. `false`: there is no store any more.
    fn turn(&mut self) -> bool {
        let told = if self.todo.is_empty() && self.membership.is_none() {
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

    /// Where this node has some of the indices only: has come here what is to be here of those that were elsewhere, since other nodes joined or left.
    fn note_placement(&mut self, placement: &Placement) {
        let alive = placement.alive();
        if self.placed.as_ref().is_some_and(|placed| Arc::ptr_eq(placed, &alive)) {
            return;
        }
        for key in placement.elsewhere() {
            if placement.holds(key.1) {
                self.todo.entry(key).or_default().is_to_come = true;
            }
        }
        self.placed = Some(alive);
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
        let placement = slots.context().placement.as_deref();
        placement.inspect(|placement| self.note_placement(placement));
        self.work_off(slots);
        if let Some(placement) = placement.filter(|_| self.look_at <= Instant::now()) {
            slots.let_others_go(placement, &mut self.after);
            self.look_at = Instant::now() + PAUSE;
        }
    }

    fn work_off(&mut self, slots: &Slots) {
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
        if self.is_to_come {
            slots.take_over(key)?;
            self.is_to_come = false;
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
