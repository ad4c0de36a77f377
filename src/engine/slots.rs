//! Which indices there are, and which of them are open.
//!
//! Every index has a *slot*, and a slot is in one state at a time, under one lock:
//!
//! ```text
//!            ┌──────────── Opening ───────────┐
//!            ▼                │               ▲
//!   Open ─► Closing ─► Dormant ◄──────────────┤ (an error that may pass)
//!    │                    │                   │
//!    │                    └───────────────────┘ first use
//!    └──► Deleted ◄── Refused ◄── Opening (damage)
//! ```
//!
//! An instance of an index is made only by the thread that turned its slot from `Dormant` to `Opening`, and none is there then: a slot comes to
//! `Dormant` only from `Closing`, after the instance was *taken out of its last `Arc`* and dropped, or from an opening that failed. So
//! there are never two instances, and two writers on one log, whatever callers keep and however long.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};

use super::dormant::{About, may_pass};
use super::index::Index;
use super::recover::{self, Context};
use crate::error::{Error, Result, What};
use crate::types::{IndexCounts, IndexId, IndexSummary, TenantId};

/// The tenant is part of the key: there is no look-up without one.
pub(super) type Key = (TenantId, IndexId);

#[derive(Debug)]
pub(super) enum State {
    /// Nothing of it is in memory. Manifest and log were checked; the rest will be when it is opened.
    Dormant,
    /// One thread recovers it; the others wait.
    Opening,
    Open(Arc<Index>),
    /// One thread ends the instance, or moves the directory of an index that has none; the others wait.
    Closing,
    Refused(Error),
    /// No longer among the slots. Who waited for it learns it here.
    Deleted,
}

/// One index of the store.
#[derive(Debug)]
pub(super) struct Slot {
    key: Key,
    about: About,
    pub(super) state: Mutex<State>,
    /// The state is neither `Opening` nor `Closing` any more.
    settled: Condvar,
    /// When it was asked for last, by [`Slots::clock`].
    pub(super) last_used: AtomicU64,
    /// Bytes that the open index took when it was last looked at.
    pub(super) memory: AtomicU64,
}

impl Slot {
    /// The state, once no thread is about to change it.
    fn settled(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        while matches!(*state, State::Opening | State::Closing) {
            self.settled.wait(&mut state);
        }
        state
    }

    /// Turns it to `Opening` or `Closing`, until what this gives is told how it ended. Gives the state before, too.
    pub(super) fn begin<'a>(&'a self, mut state: MutexGuard<'a, State>, transition: State) -> (Transition<'a>, State) {
        (Transition { slot: self }, std::mem::replace(&mut *state, transition))
    }
}

/// A slot is about to change, and others wait for it. However it ends, by a panic too, nobody waits for ever.
#[derive(Debug)]
pub(super) struct Transition<'a> {
    slot: &'a Slot,
}

impl Transition<'_> {
    pub(super) fn end(self, state: State) {
        *self.slot.state.lock() = state;
    }
}

impl Drop for Transition<'_> {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        if matches!(*state, State::Opening | State::Closing) {
            *state = State::Refused(Error::Closed("opening or closing this index failed by a bug; restart the server".into()));
        }
        drop(state);
        self.slot.settled.notify_all();
    }
}

/// The slots of a store.
#[derive(Debug)]
pub(super) struct Slots {
    context: Context,
    data_dir: PathBuf,
    slots: RwLock<HashMap<Key, Arc<Slot>>>,
    /// Tenants whose directory could not be read: which indices they have is not known.
    unreadable: HashMap<TenantId, Error>,
    /// Counts what is asked for.
    clock: AtomicU64,
    /// No index is opened any more.
    closed: AtomicBool,
    /// Nothing is built or rewritten any more.
    stopped_building: AtomicBool,
    /// Sum of [`Slot::memory`].
    pub(super) memory: AtomicU64,
    /// Held by the one who closes indices.
    pub(super) closing: Mutex<()>,
}

impl Slots {
    pub(super) fn new(
        context: Context,
        data_dir: PathBuf,
        found: impl IntoIterator<Item = (Key, About, State)>,
        unreadable: HashMap<TenantId, Error>,
    ) -> Self {
        let slots = found.into_iter().map(|(key, about, state)| (key.clone(), Arc::new(Slot::new(key, about, state)))).collect();
        Self {
            context,
            data_dir,
            slots: RwLock::new(slots),
            unreadable,
            clock: AtomicU64::new(1),
            closed: AtomicBool::new(false),
            stopped_building: AtomicBool::new(false),
            memory: AtomicU64::new(0),
            closing: Mutex::new(()),
        }
    }

    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn tenant_dir(&self, tenant: &TenantId) -> PathBuf {
        self.data_dir.join(tenant.as_str())
    }

    pub(super) fn directory(&self, (tenant, id): &Key) -> PathBuf {
        self.tenant_dir(tenant).join(id.to_string())
    }

    /// # Errors
    /// Why nothing is known of the tenant's indices.
    pub(super) fn check_tenant(&self, tenant: &TenantId) -> Result<()> {
        self.unreadable.get(tenant).map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The open index, opened now where it is dormant. Who finds it being opened or closed waits.
    pub(super) fn open(&self, key: &Key) -> Result<Arc<Index>> {
        let slot = self.slot(key)?;
        slot.last_used.store(self.clock.fetch_add(1, Relaxed), Relaxed);
        let state = slot.settled();
        match &*state {
            State::Open(index) => return Ok(Arc::clone(index)),
            State::Refused(error) => return Err(error.clone()),
            State::Deleted => return Err(Error::NotFound(What::Index)),
            State::Dormant | State::Opening | State::Closing => {}
        }
        // Under the slot's lock: who closes the store looks at every slot after it has said so, and waits for those that are opening.
        if self.closed.load(SeqCst) {
            return Err(closed());
        }
        let (transition, _) = slot.begin(state, State::Opening);
        let opened = self.recover(key);
        transition.end(match &opened {
            Ok(index) => State::Open(Arc::clone(index)),
            Err(error) if may_pass(error) => State::Dormant,
            Err(error) => State::Refused(error.clone()),
        });
        let index = opened?;
        self.keep_stopped(&index);
        self.note_memory(&slot, &index);
        self.keep_to_budget(false);
        Ok(index)
    }

    /// Recovers an index of which there is no instance, and tells of it where it refuses.
    pub(super) fn recover(&self, key: &Key) -> Result<Arc<Index>> {
        let (tenant, id) = key;
        recover_or_refuse(&self.context, key, || recover::open(&self.context, tenant.clone(), *id, self.directory(key)))
    }

    fn slot(&self, key: &Key) -> Result<Arc<Slot>> {
        match self.slots.read().get(key) {
            Some(slot) => Ok(Arc::clone(slot)),
            None => Err(self.check_tenant(&key.0).err().unwrap_or(Error::NotFound(What::Index))),
        }
    }

    /// Adds a new index, which is open.
    pub(super) fn add(&self, key: Key, index: &Arc<Index>) {
        let slot = Arc::new(Slot::new(key.clone(), index.about(), State::Open(Arc::clone(index))));
        slot.last_used.store(self.clock.fetch_add(1, Relaxed), Relaxed);
        self.slots.write().insert(key, Arc::clone(&slot));
        self.keep_stopped(index);
        self.note_memory(&slot, index);
        self.keep_to_budget(false);
    }

    /// Deletes an index. `take_away` does it on the disk; while it does, nobody can open the index.
    ///
    /// # Errors
    /// [`Error::NotFound`]; those of `take_away`.
    pub(super) fn delete(&self, key: &Key, take_away: impl FnOnce(Option<&Index>) -> Result<()>) -> Result<()> {
        let slot = self.slot(key)?;
        let state = slot.settled();
        match &*state {
            State::Deleted => return Err(Error::NotFound(What::Index)),
            State::Open(index) => {
                // Who asks for it meanwhile still has it, to read: it is not made anew, and cannot be closed while it is held here.
                let index = Arc::clone(index);
                drop(state);
                take_away(Some(&index))?;
                *slot.state.lock() = State::Deleted;
            }
            _ => {
                let (transition, before) = slot.begin(state, State::Closing);
                let taken = take_away(None);
                transition.end(match &taken {
                    Ok(()) => State::Deleted,
                    // Not known under which name it is on the disk: to write to it would be to lose what is written.
                    Err(error @ Error::OutcomeUnknown(_)) => State::Refused(error.clone()),
                    Err(_) => before,
                });
                taken?;
            }
        }
        self.slots.write().remove(key);
        self.forget_memory(&slot);
        Ok(())
    }

    /// Ends builds and compactions, and lets none begin: neither of an index that is open nor of one that is opened later.
    pub(super) fn stop_building(&self) {
        self.stopped_building.store(true, SeqCst);
        for slot in self.all(None) {
            if let State::Open(index) = &*slot.state.lock() {
                index.stop_building();
            }
        }
    }

    /// For an index that is in its slot since a moment ago: who called [`stop_building`](Self::stop_building) looked there before or after, and
    /// in the first case had said so before.
    fn keep_stopped(&self, index: &Index) {
        if self.stopped_building.load(SeqCst) {
            index.stop_building();
        }
    }

    /// From now on no index is opened. Gives those that are open.
    pub(super) fn close(&self) -> Vec<Arc<Index>> {
        self.closed.store(true, SeqCst);
        let open = |slot: &Arc<Slot>| match &*slot.settled() {
            State::Open(index) => Some(Arc::clone(index)),
            _ => None,
        };
        self.all(None).iter().filter_map(open).collect()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// What the tenant has, oldest first, but for what was refused.
    pub(super) fn list(&self, tenant: &TenantId) -> Result<Vec<IndexSummary>> {
        self.check_tenant(tenant)?;
        let slots = self.all(Some(tenant));
        let serves = |slot: &&Arc<Slot>| !matches!(*slot.state.lock(), State::Refused(_) | State::Deleted);
        let summary = |slot: &Arc<Slot>| IndexSummary {
            id: slot.key.1,
            name: slot.about.name.to_string(),
            created_at_us: slot.about.created_at_us,
        };
        let mut indices: Vec<IndexSummary> = slots.iter().filter(serves).map(summary).collect();
        indices.sort_by_key(|index| (index.created_at_us, index.id));
        Ok(indices)
    }

    pub(super) fn opened(&self, tenant: &TenantId) -> Vec<Arc<Index>> {
        let open = |slot: &Arc<Slot>| match &*slot.state.lock() {
            State::Open(index) => Some(Arc::clone(index)),
            _ => None,
        };
        self.all(Some(tenant)).iter().filter_map(open).collect()
    }

    pub(super) fn refused(&self, tenant: &TenantId) -> Vec<(IndexId, Error)> {
        let refused = |slot: &Arc<Slot>| match &*slot.state.lock() {
            State::Refused(error) => Some((slot.key.1, error.clone())),
            _ => None,
        };
        self.all(Some(tenant)).iter().filter_map(refused).collect()
    }

    /// Of one tenant, or of all.
    pub(super) fn counts(&self, tenant: Option<&TenantId>) -> IndexCounts {
        let mut counts = IndexCounts::default();
        for slot in self.all(tenant) {
            match *slot.state.lock() {
                State::Open(_) => counts.serving += 1,
                State::Dormant | State::Opening | State::Closing => counts.not_verified += 1,
                State::Refused(_) => counts.refused += 1,
                State::Deleted => {}
            }
        }
        counts
    }

    /// The slots of one tenant, or all. No slot's lock is taken while the map's is held.
    pub(super) fn all(&self, tenant: Option<&TenantId>) -> Vec<Arc<Slot>> {
        let slots = self.slots.read();
        slots.values().filter(|slot| tenant.is_none_or(|tenant| slot.key.0 == *tenant)).cloned().collect()
    }
}

impl Slot {
    fn new(key: Key, about: About, state: State) -> Self {
        Self {
            key,
            about,
            state: Mutex::new(state),
            settled: Condvar::new(),
            last_used: AtomicU64::new(0),
            memory: AtomicU64::new(0),
        }
    }
}

/// Runs what opens or looks at an index, again if the reserve pays for what it has to write, and says where it fails.
pub(super) fn recover_or_refuse<T>(context: &Context, (tenant, id): &Key, open: impl Fn() -> Result<T>) -> Result<T> {
    // A mistake of ours in one index is no reason for the others not to serve.
    let opened = catch_unwind(AssertUnwindSafe(|| match open() {
        // What recovery has to write is little: this is what the reserve is for.
        Err(Error::Full(_)) if context.reserve.release() => open(),
        other => other,
    }));
    let opened = opened.unwrap_or_else(|_| Err(Error::Closed("opening this index failed by a bug".into())));
    opened.inspect_err(|error| tracing::error!(%tenant, index = %id, %error, "this index is refused; the others serve"))
}

pub(super) fn closed() -> Error {
    Error::Closed("the store is closed".into())
}
