//! A data directory: tenants, their indices, and the lock that keeps others out.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};

use super::index::Index;
use super::limits;
use super::maintenance::Maintenance;
use super::recover::{self, Context};
use super::reserve::Reserve;
use crate::checkpoint::manifest::Root;
use crate::config::Limits;
use crate::error::{Error, Result, What};
use crate::format::manifest::{LOG_DIRECTORY, Manifest, SEGMENT_DIRECTORY, Settings};
use crate::format::position::Position;
use crate::io::os::OsIo;
use crate::io::{Io, durable};
use crate::segment::recipe;
use crate::types::{IndexId, IndexSpec, Metric, TenantId};

/// Held by the process that has the directory open.
const LOCK_FILE: &str = "LOCK";

/// An index on its way in or out: removed by the next opening.
const CREATING: &str = ".creating-";
const DELETING: &str = ".deleting-";

/// What a [`Store`] is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Created where it is absent, with what is missing above it.
    pub data_dir: PathBuf,
    pub limits: Limits,
    pub io: Arc<dyn Io>,
    /// Run the timer and the checkpointer on threads of their own. Without, only what is called happens: for tests on the simulated disk.
    pub background: bool,
}

impl StoreOptions {
    /// The real disk, the default limits, and background threads.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), limits: Limits::default(), io: Arc::new(OsIo), background: true }
    }
}

/// A data directory, open. Calls block; any number of threads may make them.
///
/// The directory stays locked until the store and every [`Index`] of it are dropped.
#[derive(Debug)]
pub struct Store {
    context: Context,
    data_dir: PathBuf,
    indices: RwLock<HashMap<(TenantId, IndexId), Slot>>,
    /// Held while a tenant's directory is created, or an index is.
    creating: Mutex<()>,
    closed: AtomicBool,
}

/// The tenant is part of the key: there is no look-up without one.
#[derive(Clone, Debug)]
enum Slot {
    Open(Arc<Index>),
    Refused(Error),
}

impl Store {
    /// Locks the directory and recovers every index in it, several at a time. An index that cannot be recovered is *refused*: it stays in the
    /// directory untouched, answers every call with the reason, and the others serve.
    ///
    /// # Errors
    /// [`Error::Conflict`] where another process has the directory; [`Error::Io`], [`Error::Full`] where the disk refuses.
    pub fn open(options: StoreOptions) -> Result<Self> {
        let StoreOptions { data_dir, limits, io, background } = options;
        limits::check(&limits)?;
        durable::create_dirs_durably(&*io, &data_dir)?;
        let lock_path = data_dir.join(LOCK_FILE);
        let lock = io.lock(&lock_path).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => Error::Conflict(format!("{} is open in another process", data_dir.display())),
            _ => Error::io("lock", &lock_path, error),
        })?;
        let maintenance = background.then(Maintenance::start).transpose()?;
        let reserve = Arc::new(Reserve::open(Arc::clone(&io), &data_dir, limits.reserve_bytes));
        let context = Context { io, limits: Arc::new(limits), maintenance, reserve, lock: Arc::new(lock) };
        let found = find_indices(&*context.io, &data_dir)?;
        let indices = recover_all(&context, found);
        Ok(Self { context, data_dir, indices: RwLock::new(indices), creating: Mutex::new(()), closed: AtomicBool::new(false) })
    }

    pub fn limits(&self) -> &Limits {
        &self.context.limits
    }

    /// Creates an index, durably: it is built as a hidden sibling, synced, and renamed.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `name`, `dimension`, `index_type` or `metric`; [`Error::Full`], [`Error::Io`]: there is no new index;
    /// [`Error::OutcomeUnknown`]: there may be one after the next opening.
    pub fn create_index(&self, tenant: &TenantId, spec: &IndexSpec) -> Result<Arc<Index>> {
        let Context { io, limits, .. } = &self.context;
        let settings = settings(spec, limits)?;
        let id = IndexId::new_v4();
        let manifest = Manifest {
            index: *id.as_bytes(),
            generation: 1,
            settings,
            position: Position::START,
            log: Vec::new(),
            segments: Vec::new(),
        };
        let _one = self.creating.lock();
        if self.closed.load(SeqCst) {
            return Err(closed());
        }
        let tenant_dir = self.data_dir.join(tenant.as_str());
        durable::create_dir_durably(&**io, &tenant_dir)?;
        let hidden = tenant_dir.join(format!("{CREATING}{id}"));
        let directory = tenant_dir.join(id.to_string());
        if let Err(error) = build(&**io, &hidden, &directory, manifest) {
            let _ = durable::remove_tree(&**io, &hidden);
            return Err(error);
        }
        // The last step: before the answer, the name is durable.
        let index = io
            .sync_dir(&tenant_dir)
            .map_err(|error| Error::io("sync", &tenant_dir, error).into_outcome_unknown())
            .and_then(|()| recover::open(&self.context, tenant.clone(), id, directory.clone()))
            .map_err(|error| retract(&**io, &tenant_dir, &directory, id, error))?;
        self.indices.write().insert((tenant.clone(), id), Slot::Open(Arc::clone(&index)));
        Ok(index)
    }

    /// # Errors
    /// [`Error::NotFound`], also where the index is another tenant's; what recovery said where it refused the index.
    pub fn index(&self, tenant: &TenantId, id: IndexId) -> Result<Arc<Index>> {
        match self.indices.read().get(&(tenant.clone(), id)) {
            Some(Slot::Open(index)) => Ok(Arc::clone(index)),
            Some(Slot::Refused(error)) => Err(error.clone()),
            None => Err(Error::NotFound(What::Index)),
        }
    }

    /// Every index of the tenant that serves, oldest first.
    pub fn indices(&self, tenant: &TenantId) -> Vec<Arc<Index>> {
        let mut indices: Vec<Arc<Index>> = self
            .indices
            .read()
            .iter()
            .filter_map(|((owner, _), slot)| match slot {
                Slot::Open(index) if owner == tenant => Some(Arc::clone(index)),
                _ => None,
            })
            .collect();
        indices.sort_by_key(|index| (index.created_at_us(), index.id()));
        indices
    }

    /// Indices of the tenant that recovery refused, and why.
    pub fn refused(&self, tenant: &TenantId) -> Vec<(IndexId, Error)> {
        let indices = self.indices.read();
        let refused = indices.iter().filter_map(|((owner, id), slot)| match slot {
            Slot::Refused(error) if owner == tenant => Some((*id, error.clone())),
            _ => None,
        });
        refused.collect()
    }

    /// Deletes an index, durably: after this returned it never comes back. A refused one can be deleted too.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Full`], [`Error::Io`]: the index takes no more writes and is there after the next opening;
    /// [`Error::OutcomeUnknown`]: it may be. Deleting it again is safe.
    pub fn delete_index(&self, tenant: &TenantId, id: IndexId) -> Result<()> {
        let key = (tenant.clone(), id);
        let slot = self.indices.read().get(&key).cloned().ok_or(Error::NotFound(What::Index))?;
        if let Slot::Open(index) = &slot {
            index.close(Error::NotFound(What::Index));
            // A build or a checkpoint that is under way would write into the directory.
            drop(index.building.lock());
            drop(index.files.lock());
        }
        let io = &*self.context.io;
        let tenant_dir = self.data_dir.join(tenant.as_str());
        let directory = tenant_dir.join(id.to_string());
        let hidden = tenant_dir.join(format!("{DELETING}{id}"));
        match io.rename(&directory, &hidden) {
            // Another delete was faster.
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::NotFound(What::Index)),
            Err(error) => return Err(Error::io("rename", &directory, error)),
            Ok(()) => {}
        }
        if let Err(error) = io.sync_dir(&tenant_dir) {
            // The disk may have it under its name and not under the other: the next opening must not remove its files one by one.
            let _ = io.rename(&hidden, &directory);
            return Err(Error::io("sync", &tenant_dir, error).into_outcome_unknown());
        }
        self.indices.write().remove(&key);
        if let Err(error) = durable::remove_tree(io, &hidden) {
            tracing::warn!(%error, "files of a deleted index stay until the next opening");
        }
        Ok(())
    }

    /// Stops the background threads and checkpoints every index. Later writes are refused; reads go on.
    ///
    /// # Errors
    /// The first that a checkpoint met, after all were tried. Nothing acknowledged is lost by it: it is in the log.
    pub fn close(&self) -> Result<()> {
        {
            let _none_is_created = self.creating.lock();
            self.closed.store(true, SeqCst);
        }
        if let Some(maintenance) = &self.context.maintenance {
            maintenance.stop();
        }
        let open: Vec<Arc<Index>> = self
            .indices
            .read()
            .values()
            .filter_map(|slot| match slot {
                Slot::Open(index) => Some(Arc::clone(index)),
                Slot::Refused(_) => None,
            })
            .collect();
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
        if let Some(maintenance) = &self.context.maintenance {
            maintenance.stop();
        }
    }
}

fn closed() -> Error {
    Error::Closed("the store is closed".into())
}

fn settings(spec: &IndexSpec, limits: &Limits) -> Result<Settings> {
    if spec.name.is_empty() || spec.name.len() > limits.index_name_bytes_max {
        let detail = format!("a name has 1 to {} bytes; this one has {}", limits.index_name_bytes_max, spec.name.len());
        return Err(Error::invalid("name", "invalid_name", detail));
    }
    if spec.dimension == 0 || spec.dimension > limits.dimension_max {
        let detail = format!("a dimension is 1 to {}, and not {}", limits.dimension_max, spec.dimension);
        return Err(Error::invalid("dimension", "invalid_dimension", detail));
    }
    let resolved = recipe::resolve(&spec.index_type, spec.metric, spec.dimension, &spec.options, limits.segment_rows_max)?;
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
        options: serde_json::to_string(&spec.options).expect("options are numbers"),
    })
}

/// The directory of an empty index, synced within, under its name. The name itself is made durable by the caller.
fn build(io: &dyn Io, hidden: &Path, directory: &Path, manifest: Manifest) -> Result<()> {
    for path in [hidden.to_owned(), hidden.join(LOG_DIRECTORY), hidden.join(SEGMENT_DIRECTORY)] {
        io.create_dir(&path).map_err(|error| Error::io("create", &path, error))?;
    }
    // This also syncs the names of the two directories.
    Root::create(io, hidden, manifest)?;
    io.rename(hidden, directory).map_err(|error| Error::io("rename", hidden, error))
}

/// Takes back an index whose making failed once it had its name: the next opening would find it and serve it, though the name may not be on
/// the disk, or though the caller was told that it does not exist. Gives what the caller is told now.
fn retract(io: &dyn Io, tenant_dir: &Path, directory: &Path, id: IndexId, error: Error) -> Error {
    let hidden = tenant_dir.join(format!("{DELETING}{id}"));
    match io.rename(directory, &hidden).and_then(|()| io.sync_dir(tenant_dir)) {
        Ok(()) => {
            // What stays is removed by the next opening.
            let _ = durable::remove_tree(io, &hidden);
            error
        }
        Err(_) => error.into_outcome_unknown(),
    }
}

struct Found {
    tenant: TenantId,
    id: IndexId,
    directory: PathBuf,
}

/// Every index directory, after removing what a crash left of indices on their way in or out. Strangers are left alone.
fn find_indices(io: &dyn Io, data_dir: &Path) -> Result<Vec<Found>> {
    let list = |path: &Path| io.list(path).map_err(|error| Error::io("list", path, error));
    // A process that was killed between a rename and its sync left names that are not on the disk. They are about to be believed: an index
    // that is found is written to, and the files of one that is on its way out are removed.
    let sync = |path: &Path| io.sync_dir(path).map_err(|error| Error::io("sync", path, error));
    sync(data_dir)?;
    let mut found = Vec::new();
    for entry in list(data_dir)?.into_iter().filter(|entry| entry.is_dir) {
        let Ok(tenant) = TenantId::new(&entry.name) else { continue };
        let tenant_dir = data_dir.join(&entry.name);
        sync(&tenant_dir)?;
        for entry in list(&tenant_dir)?.into_iter().filter(|entry| entry.is_dir) {
            let directory = tenant_dir.join(&entry.name);
            if entry.name.starts_with(CREATING) || entry.name.starts_with(DELETING) {
                if let Err(error) = durable::remove_tree(io, &directory) {
                    tracing::warn!(%error, "what is left of an index on its way in or out stays until the next opening");
                }
            } else if let Ok(id) = IndexId::try_parse(&entry.name)
                && id.to_string() == entry.name
            {
                found.push(Found { tenant: tenant.clone(), id, directory });
            }
        }
    }
    Ok(found)
}

/// Recovers the indices on as many threads as there are processors.
fn recover_all(context: &Context, found: Vec<Found>) -> HashMap<(TenantId, IndexId), Slot> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(found.len());
    let todo = Mutex::new(found.into_iter());
    let done = Mutex::new(HashMap::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(Found { tenant, id, directory }) = todo.lock().next() else { break };
                    // A mistake of ours in one index is no reason for the others not to serve.
                    let open = || recover::open(context, tenant.clone(), id, directory.clone());
                    let opened = catch_unwind(AssertUnwindSafe(|| match open() {
                        // What recovery has to write is little: this is what the reserve is for.
                        Err(Error::Full(_)) if context.reserve.release() => open(),
                        other => other,
                    }));
                    let slot = match opened.unwrap_or_else(|_| Err(Error::Closed("opening this index failed by a bug".into()))) {
                        Ok(index) => Slot::Open(index),
                        Err(error) => {
                            tracing::error!(%tenant, index = %id, %error, "this index is refused; the others serve");
                            Slot::Refused(error)
                        }
                    };
                    done.lock().insert((tenant, id), slot);
                }
            });
        }
    });
    done.into_inner()
}
