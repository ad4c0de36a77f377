//! Which indices there are, and which of them are open: each has a [`Slot`].

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use parking_lot::{Mutex, RwLock};

use super::dormant::{About, may_pass};
use super::index::Index;
use super::recover::{self, Context};
use super::slot::{Slot, State};
use super::snapshots::behind;
use super::standing::Size;
use crate::error::{Error, Result, What};
use crate::format::manifest::CreationKey;
use crate::types::{IndexCounts, IndexId, IndexSummary, TenantId};

/// How often an index is taken from a snapshot anew, because the log was trimmed for a newer one meanwhile.
const SNAPSHOTS_TRIED_MAX: usize = 3;

/// The tenant is part of the key: there is no look-up without one.
pub(super) type Key = (TenantId, IndexId);

/// One index of the store.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) about: RwLock<About>,
    pub(super) slot: Slot<Index>,
    /// When it was asked for last, by [`Slots::clock`].
    pub(super) last_used: AtomicU64,
    /// Bytes that the open index took when it was last looked at.
    pub(super) memory: AtomicU64,
    pub(super) size: Size,
}

/// The slots of a store.
#[derive(Debug)]
pub(super) struct Slots {
    context: Context,
    data_dir: PathBuf,
    slots: RwLock<HashMap<Key, Arc<Entry>>>,
    /// Tenants whose directory could not be read: which indices they have is not known.
    unreadable: HashMap<TenantId, Error>,
    /// Held while a tenant's directory is created, or an index is.
    pub(super) creating: Mutex<()>,
    /// Counts what is asked for.
    clock: AtomicU64,
    /// No index is opened any more.
    closed: AtomicBool,
    /// Nothing is built or rewritten any more.
    stopped_building: AtomicBool,
    /// Sum of [`Entry::memory`].
    pub(super) memory: AtomicU64,
    /// Held by the one who closes indices.
    pub(super) closing: Mutex<()>,
}

impl Slots {
    pub(super) fn new(
        context: Context,
        data_dir: PathBuf,
        found: impl IntoIterator<Item = (Key, About, State<Index>)>,
        unreadable: HashMap<TenantId, Error>,
    ) -> Self {
        let slots = found.into_iter().map(|(key, about, state)| (key.clone(), Arc::new(Entry::new(key, about, state)))).collect();
        Self {
            context,
            data_dir,
            slots: RwLock::new(slots),
            unreadable,
            creating: Mutex::new(()),
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
        let entry = self.used(key)?;
        // Asked under the slot's lock: who closes the store looks at every slot after it has said so, and waits for those that are opening.
        let may_open = || if self.is_closed() { Err(closed()) } else { Ok(()) };
        let (index, is_new) = entry.slot.open(may_open, || self.recover(key), may_pass)?;
        if is_new {
            self.keep_stopped(&index);
            self.note_memory(&entry, &index);
            self.keep_to_budget(false);
        }
        Ok(index)
    }

    /// The index, where it is open at this moment.
    pub(super) fn opened_now(&self, key: &Key) -> Option<Arc<Index>> {
        self.used(key).ok()?.slot.state().open().cloned()
    }

    /// The same for who does not use it.
    pub(super) fn peek(&self, key: &Key) -> Option<Arc<Index>> {
        self.entry(key).ok()?.slot.state().open().cloned()
    }

    /// What is known of the index, open or not.
    pub(super) fn about(&self, key: &Key) -> Option<About> {
        self.entry(key).ok().map(|entry| entry.about.read().clone())
    }

    pub(super) fn is_refused(&self, key: &Key) -> bool {
        self.entry(key).is_ok_and(|entry| matches!(*entry.slot.state(), State::Refused(_)))
    }

    /// The entry of an index that is asked for.
    fn used(&self, key: &Key) -> Result<Arc<Entry>> {
        let entry = self.entry(key)?;
        entry.last_used.store(self.clock.fetch_add(1, Relaxed), Relaxed);
        Ok(entry)
    }

    /// Recovers an index of which there is no instance, and tells of it where it refuses. One that is behind what its shared log has is taken anew from
    /// its newest snapshot before, where there is one.
    pub(super) fn recover(&self, key: &Key) -> Result<Arc<Index>> {
        let (tenant, id) = key;
        let open = || recover::open(&self.context, tenant.clone(), *id, self.directory(key));
        recover_or_refuse(&self.context, key, || {
            let mut opened = open();
            for _ in 0..SNAPSHOTS_TRIED_MAX {
                let Err(Error::Gone { oldest_lsn }) = opened else { break };
                if !self.take_anew(key, oldest_lsn)? {
                    break;
                }
                opened = open();
            }
            opened.map_err(behind)
        })
    }

    pub(super) fn entry(&self, key: &Key) -> Result<Arc<Entry>> {
        match self.slots.read().get(key) {
            Some(entry) => Ok(Arc::clone(entry)),
            None => Err(self.check_tenant(&key.0).err().unwrap_or(Error::NotFound(What::Index))),
        }
    }

    /// Adds a new index, which is open.
    pub(super) fn add(&self, key: Key, index: &Arc<Index>) {
        let entry = Arc::new(Entry::new(key.clone(), index.about(), State::Open(Arc::clone(index))));
        entry.last_used.store(self.clock.fetch_add(1, Relaxed), Relaxed);
        self.slots.write().insert(key, Arc::clone(&entry));
        self.keep_stopped(index);
        self.note_memory(&entry, index);
        self.keep_to_budget(false);
    }

    /// Deletes an index. `take_away` does it on the disk; while it does, nobody can open the index.
    ///
    /// # Errors
    /// [`Error::NotFound`]; those of `take_away`.
    pub(super) fn delete(&self, key: &Key, take_away: impl FnOnce(Option<&Index>) -> Result<()>) -> Result<()> {
        let entry = self.entry(key)?;
        entry.slot.delete(take_away)?;
        self.slots.write().remove(key);
        self.forget_memory(&entry);
        Ok(())
    }

    /// Ends builds and compactions, and lets none begin: neither of an index that is open nor of one that is opened later.
    pub(super) fn stop_building(&self) {
        self.stopped_building.store(true, SeqCst);
        for entry in self.all(None) {
            if let Some(index) = entry.slot.state().open() {
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
        let open = |entry: &Arc<Entry>| entry.slot.settled().open().cloned();
        self.all(None).iter().filter_map(open).collect()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    pub(super) fn tenants(&self) -> Vec<TenantId> {
        let entries = self.all(None);
        let tenants: BTreeSet<&TenantId> = entries.iter().map(|entry| &entry.key.0).chain(self.unreadable.keys()).collect();
        tenants.into_iter().cloned().collect()
    }

    /// What the tenant has, oldest first, but for what was refused.
    pub(super) fn list(&self, tenant: &TenantId) -> Result<Vec<IndexSummary>> {
        self.check_tenant(tenant)?;
        let entries = self.all(Some(tenant));
        let serves = |entry: &&Arc<Entry>| !matches!(*entry.slot.state(), State::Refused(_) | State::Deleted);
        let summary = |entry: &Arc<Entry>| {
            let about = entry.about.read();
            IndexSummary { id: entry.key.1, name: about.name.to_string(), created_at_us: about.created_at_us }
        };
        let mut indices: Vec<IndexSummary> = entries.iter().filter(serves).map(summary).collect();
        indices.sort_by_key(|index| (index.created_at_us, index.id));
        Ok(indices)
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.slots.read().keys().cloned().collect()
    }

    /// Whether there is such an index, refused or not.
    pub(super) fn has(&self, tenant: &TenantId, id: IndexId) -> bool {
        self.slots.read().contains_key(&(tenant.clone(), id))
    }

    /// The tenant's index that a request with this key created, and the key.
    pub(super) fn created_by(&self, tenant: &TenantId, key: &str) -> Option<(IndexId, CreationKey)> {
        let entries = self.all(Some(tenant));
        entries.iter().filter(|entry| !matches!(*entry.slot.state(), State::Deleted)).find_map(|entry| {
            let created_by = entry.about.read().created_by.as_deref().filter(|created_by| created_by.key == key)?.clone();
            Some((entry.key.1, created_by))
        })
    }

    /// For an index whose name may have changed. Of two who changed it, the last to come here finds the name as it is.
    pub(super) fn note_name(&self, index: &Index) {
        // One that was deleted meanwhile has no entry.
        if let Ok(entry) = self.entry(&(index.tenant.clone(), index.id)) {
            let mut about = entry.about.write();
            // Read under the lock.
            *about = index.about();
        }
    }

    pub(super) fn opened(&self, tenant: Option<&TenantId>) -> Vec<Arc<Index>> {
        let open = |entry: &Arc<Entry>| entry.slot.state().open().cloned();
        self.all(tenant).iter().filter_map(open).collect()
    }

    pub(super) fn refused(&self, tenant: &TenantId) -> Vec<(IndexId, Error)> {
        let refused = |entry: &Arc<Entry>| match &*entry.slot.state() {
            State::Refused(error) => Some((entry.key.1, error.clone())),
            _ => None,
        };
        self.all(Some(tenant)).iter().filter_map(refused).collect()
    }

    /// Of one tenant, or of all.
    pub(super) fn counts(&self, tenant: Option<&TenantId>) -> IndexCounts {
        let mut counts = IndexCounts::default();
        for entry in self.all(tenant) {
            match *entry.slot.state() {
                State::Open(_) => counts.serving += 1,
                State::Dormant | State::Opening | State::Closing => counts.not_verified += 1,
                State::Refused(_) => counts.refused += 1,
                State::Deleted => {}
            }
        }
        counts
    }

    /// Those of one tenant, or all. No slot's lock is taken while the map's is held.
    pub(super) fn all(&self, tenant: Option<&TenantId>) -> Vec<Arc<Entry>> {
        let slots = self.slots.read();
        slots.values().filter(|entry| tenant.is_none_or(|tenant| entry.key.0 == *tenant)).cloned().collect()
    }
}

impl Entry {
    fn new(key: Key, about: About, state: State<Index>) -> Self {
        let (about, slot) = (RwLock::new(about), Slot::new(state));
        Self { key, about, slot, last_used: AtomicU64::new(0), memory: AtomicU64::new(0), size: Size::default() }
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
