//! A data directory: tenants, their indices, and the lock that keeps others out.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::find;
use super::follow::Follower;
use super::index::Index;
use super::limits;
use super::maintenance::Maintenance;
use super::placement::Placement;
use super::recover::Context;
use super::reserve::Reserve;
use super::slots::{Slots, closed};
use super::snapshots::Sharing;
use super::stages::Stages;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::manifest::{CreationKey, Settings};
#[cfg(test)]
use crate::format::position::Place;
use crate::io::os::OsIo;
use crate::io::{Io, Lock, durable};
use crate::segment::recipe::{self, Resolved};
use crate::types::{IdempotencyKey, IndexCounts, IndexId, IndexSpec, IndexSummary, Metric, TenantId};

/// Held by the process that has the directory open.
pub(super) const LOCK_FILE: &str = "LOCK";

/// When an index is recovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opening {
    /// All of them in full, before [`Store::open`] returns.
    #[default]
    Eager,
    /// Each at its first use, while that caller waits. [`Store::open`] checks the manifests and every frame of the logs, and keeps a
    /// small record of each index. Segments are verified when they are opened.
    Lazy,
}

/// What a [`Store`] is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Created where it is absent, with what is missing above it.
    pub data_dir: PathBuf,
    pub limits: Limits,
    pub io: Arc<dyn Io>,
    /// Run the timer and the checkpointer on threads of their own, and open indices several at a time. Without, only what is called happens,
    /// in one order: for tests on the simulated disk.
    pub background: bool,
    pub opening: Opening,
}

impl StoreOptions {
    /// The real disk, the default limits, background threads, and everything opened at once.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let (limits, io) = (Limits::default(), Arc::new(OsIo));
        Self { data_dir: data_dir.into(), limits, io, background: true, opening: Opening::Eager }
    }
}

/// A data directory, open. Calls block; any number of threads may make them.
///
/// The directory stays locked until the store and every [`Index`] of it are dropped.
#[derive(Debug)]
pub struct Store {
    pub(super) slots: Arc<Slots>,
    /// Of a node of a cluster.
    follower: Option<Follower>,
}

impl Store {
    /// Locks the directory, finds every index in it and recovers it, or looks at it, several at a time: see [`Opening`]. An index that cannot
    /// be recovered is *refused*: it stays in the directory untouched, answers every call with the reason, and the others serve. Where
    /// a tenant's directory cannot be read, every call for that tenant is answered with the reason, and the other tenants' indices serve.
    ///
    /// # Errors
    /// [`Error::Conflict`] where another process has the directory; [`Error::Io`], [`Error::Full`] where the disk refuses the data directory
    /// itself.
    pub fn open(options: StoreOptions) -> Result<Self> {
        Self::open_with(options, None)
    }

    /// The same on a node: `sharing` is what it shares with other nodes. With background threads it follows them from now on, and has every
    /// index of the catalogue when this returns, but for those that it could not make: it goes on trying.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_with(options: StoreOptions, sharing: Option<Sharing>) -> Result<Self> {
        let StoreOptions { data_dir, limits, io, background, opening } = options;
        limits::check(&limits)?;
        durable::create_dirs_durably(&*io, &data_dir)?;
        let lock = lock(&*io, &data_dir)?;
        let maintenance = background.then(Maintenance::start).transpose()?;
        let reserve = Arc::new(Reserve::open(Arc::clone(&io), &data_dir, limits.reserve_bytes));
        let stages = Arc::new(Stages::new());
        let (cluster, snapshots, placement) = match sharing {
            Some(Sharing { cluster, snapshots, placement }) => (Some(cluster), snapshots, placement),
            None => (None, None, None),
        };
        let (limits, lock) = (Arc::new(limits), Arc::new(lock));
        let context = Context { io, limits, maintenance, reserve, stages, cluster, snapshots, placement, lock };
        let cluster = context.cluster.clone().filter(|_| background);
        let slots = Arc::new(find::find(context, data_dir, opening)?);
        slots.watch_memory();
        let follower = cluster.map(|cluster| Follower::start(&slots, &*cluster)).transpose()?;
        Ok(Self { slots, follower })
    }

    pub fn limits(&self) -> &Limits {
        &self.slots.context().limits
    }

    /// How long the steps of the work took.
    pub fn stages(&self) -> &Stages {
        &self.slots.context().stages
    }

    /// Bytes of memory that the open indices take, as of when each was opened or looked at last: see
    /// [`Limits::memory_budget_bytes`](Limits).
    pub fn memory_bytes(&self) -> u64 {
        self.slots.memory_bytes()
    }

    /// Creates an index, durably: it is built as a hidden sibling, synced, and renamed. With a key that created one of the tenant's indices before,
    /// that one is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `name`, `dimension`, `index_type` or `metric`; [`Error::Quota`], [`Error::Full`], [`Error::Io`]: there is no new index;
    /// [`Error::OutcomeUnknown`]: there may be one after the next opening.
    pub fn create_index(&self, tenant: &TenantId, spec: &IndexSpec) -> Result<Arc<Index>> {
        let Context { limits, cluster, .. } = self.slots.context();
        let settings = settings(spec, limits)?;
        let _one = self.slots.creating()?;
        self.slots.check_tenant(tenant)?;
        if let Some(wanted) = &settings.created_by
            && let Some((id, found)) = self.slots.created_by(tenant, &wanted.key)
        {
            return if found == *wanted { self.index(tenant, id) } else { Err(IdempotencyKey::reused()) };
        }
        if let Some(max) = spec.tenant_indices_max
            && self.list_all(tenant)?.len() >= max
        {
            return Err(Error::Quota(format!("the tenant has {max} indices, which is its quota; delete one, or ask for more")));
        }
        match cluster {
            None => self.slots.add_empty(tenant, IndexId::new_v4(), settings, None),
            Some(cluster) => self.slots.create_shared(&**cluster, tenant, settings),
        }
    }

    /// This node's part of an index that no catalogue has.
    #[cfg(test)]
    pub(crate) fn create_shared_index(&self, tenant: &TenantId, spec: &IndexSpec, id: IndexId) -> Result<Arc<Index>> {
        self.slots.add_empty(tenant, id, settings(spec, self.limits())?, Some(Place::START))
    }

    /// Whether there could be an index like this, and the metric that it would have. Creates none.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`create_index`](Self::create_index).
    pub fn check_index(&self, spec: &IndexSpec) -> Result<Metric> {
        Ok(resolve(spec, self.limits())?.metric)
    }

    /// The index, opened now where it is not open. One thread opens it, and others that want it wait.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where the index is another tenant's; what recovery said where it refused the index; [`Error::Io`],
    /// [`Error::Full`]: it could not be opened now. [`Error::Closed`]: it is not open, and the store was closed.
    pub fn index(&self, tenant: &TenantId, id: IndexId) -> Result<Arc<Index>> {
        let key = (tenant.clone(), id);
        match (self.slots.open(&key), &self.slots.context().cluster) {
            (Err(Error::NotFound(_)), Some(cluster)) => self.slots.find_shared(&**cluster, tenant, id),
            (found, _) => found,
        }
    }

    /// The same where it is open, without waiting; else nothing.
    pub fn index_if_open(&self, tenant: &TenantId, id: IndexId) -> Option<Arc<Index>> {
        self.slots.opened_now(&(tenant.clone(), id))
    }

    /// Whether an index is known to be deleted. On one machine nobody knows, once its directory is gone.
    ///
    /// # Errors
    /// [`Error::Io`]: the catalogue of the cluster does not answer.
    #[cfg(feature = "server")]
    pub(crate) fn is_deleted(&self, tenant: &TenantId, id: IndexId) -> Result<bool> {
        let Some(cluster) = &self.slots.context().cluster else { return Ok(false) };
        if self.slots.has(tenant, id) {
            return Ok(false);
        }
        Ok(cluster.entry(tenant, id)?.is_some_and(|entry| entry.about.is_none()))
    }

    /// The tenants that have an index, or a directory that could not be read, in the order of their names.
    pub fn tenants(&self) -> Vec<TenantId> {
        self.slots.tenants()
    }

    /// Every index of the tenant that serves, oldest first. All of them are opened for it: [`list`](Self::list) opens none.
    pub fn indices(&self, tenant: &TenantId) -> Vec<Arc<Index>> {
        let listed = self.list(tenant).unwrap_or_default();
        listed.into_iter().filter_map(|index| self.index(tenant, index.id).ok()).collect()
    }

    /// Every index of the tenant that is not refused, open or not, oldest first.
    ///
    /// # Errors
    /// [`Error::Io`] where the tenant's directory could not be read when the store was opened.
    pub fn list(&self, tenant: &TenantId) -> Result<Vec<IndexSummary>> {
        self.slots.list(tenant)
    }

    /// The same with those that other nodes have.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub(crate) fn list_all(&self, tenant: &TenantId) -> Result<Vec<IndexSummary>> {
        let mut listed = self.slots.list(tenant)?;
        if let Some(placement) = self.placement() {
            // What came here meanwhile is told of once.
            listed.extend(placement.elsewhere_of(tenant).into_iter().filter(|index| !self.slots.has(tenant, index.id)));
            listed.sort_by_key(|index| (index.created_at_us, index.id));
        }
        Ok(listed)
    }

    /// Where nodes have some of the indices only.
    pub(crate) fn placement(&self) -> Option<&Placement> {
        self.slots.context().placement.as_deref()
    }

    /// The nodes that have an index which this node neither has nor is to have, those first that are to be asked first. `None`: it is answered here.
    #[cfg(any(test, feature = "server"))]
    pub(crate) fn holders(&self, tenant: &TenantId, id: IndexId) -> Option<Vec<String>> {
        let placement = self.placement()?;
        let key = (tenant.clone(), id);
        let is_here = self.slots.has(tenant, id) && !placement.is_leaving(&key);
        (!is_here && !placement.holds(id)).then(|| placement.holders(id))
    }

    /// The indices that are open: those of a tenant, or of all.
    pub fn opened(&self, tenant: Option<&TenantId>) -> Vec<Arc<Index>> {
        self.slots.opened(tenant)
    }

    /// Indices of the tenant that recovery refused, and why.
    pub fn refused(&self, tenant: &TenantId) -> Vec<(IndexId, Error)> {
        self.slots.refused(tenant)
    }

    /// How many indices serve, are not verified yet, and are refused: those of a tenant, or of all.
    pub fn counts(&self, tenant: Option<&TenantId>) -> IndexCounts {
        self.slots.counts(tenant)
    }

    /// Deletes an index, durably: after this returned it never comes back. A refused one can be deleted too, and one that is not open
    /// is not opened for it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Full`], [`Error::Io`]: the index is there after the next opening, and one that was open takes no more
    /// writes; [`Error::OutcomeUnknown`]: it may be. Deleting it again is safe.
    pub fn delete_index(&self, tenant: &TenantId, id: IndexId) -> Result<()> {
        match &self.slots.context().cluster {
            None => self.slots.take_away(tenant, id),
            Some(cluster) => self.slots.delete_shared(&**cluster, tenant, id),
        }
    }

    /// Ends builds and compactions soon, and begins no others: who waits for one is answered [`Error::Closed`], and what was built or rewritten by
    /// then stays. All else goes on. For who is about to [`close`](Self::close), and has callers to wait for before.
    pub fn stop_building(&self) {
        self.slots.stop_building();
    }

    /// Stops the background threads and checkpoints every index. Later writes are refused; reads go on.
    ///
    /// # Errors
    /// The first that a checkpoint met, after all were tried. Nothing acknowledged is lost by it: it is in the log.
    pub fn close(&self) -> Result<()> {
        // One that is under way would be waited for.
        self.stop_building();
        let open = {
            let _none_is_created = self.slots.creating.lock();
            self.slots.close()
        };
        if let Some(follower) = &self.follower {
            follower.stop();
        }
        if let Some(maintenance) = &self.slots.context().maintenance {
            maintenance.stop();
        }
        let mut outcome = Ok(());
        for index in open {
            index.close(closed());
            if let Err(error) = index.checkpoint() {
                tracing::error!(index = %index.id(), %error, "the last checkpoint failed; the log has what it lacks");
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop_building();
        self.slots.close();
        if let Some(follower) = &self.follower {
            follower.stop();
        }
        if let Some(maintenance) = &self.slots.context().maintenance {
            maintenance.stop();
        }
    }
}

/// Takes the directory's lock, alone.
///
/// # Errors
/// [`Error::Conflict`]: somebody has it. [`Error::Io`].
pub(super) fn lock(io: &dyn Io, data_dir: &Path) -> Result<Lock> {
    let path = data_dir.join(LOCK_FILE);
    io.lock(&path).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => in_use(data_dir),
        _ => Error::io("lock", &path, error),
    })
}

pub(super) fn in_use(data_dir: &Path) -> Error {
    Error::Conflict(format!("{} is open in another process", data_dir.display()))
}

/// # Errors
/// [`Error::Invalid`] naming `name`.
pub(super) fn check_name(name: &str, limits: &Limits) -> Result<()> {
    if (1..=limits.index_name_bytes_max).contains(&name.len()) {
        return Ok(());
    }
    let detail = format!("a name has 1 to {} bytes; this one has {}", limits.index_name_bytes_max, name.len());
    Err(Error::invalid("name", "invalid_name", detail))
}

fn resolve(spec: &IndexSpec, limits: &Limits) -> Result<Resolved> {
    check_name(&spec.name, limits)?;
    if spec.dimension == 0 || spec.dimension > limits.dimension_max {
        let detail = format!("a dimension is 1 to {}, and not {}", limits.dimension_max, spec.dimension);
        return Err(Error::invalid("dimension", "invalid_dimension", detail));
    }
    recipe::resolve(&spec.index_type, spec.metric, spec.dimension, &spec.options, limits.segment_rows_max)
}

fn settings(spec: &IndexSpec, limits: &Limits) -> Result<Settings> {
    let resolved = resolve(spec, limits)?;
    Ok(Settings {
        name: spec.name.clone(),
        dimension: u32::try_from(spec.dimension).map_err(|_| Error::invalid("dimension", "invalid_dimension", "too large"))?,
        index_type: spec.index_type.clone(),
        factory: resolved.factory,
        metric: match resolved.metric {
            Metric::L2 => 0,
            Metric::InnerProduct => 1,
            Metric::Cosine => 2,
        },
        created_at_us: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64),
        options: spec.options.to_text(),
        created_by: spec.key.as_ref().map(|key| CreationKey { key: key.key.clone(), fingerprint: key.fingerprint }),
    })
}
