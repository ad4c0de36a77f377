//! What is in a data directory when it is opened: tenants, their indices, and what crashes left.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::dormant::{self, About};
use super::index::Index;
use super::recover::{self, Context};
use super::slot::State;
use super::slots::{Key, Slots, recover_or_refuse};
use super::snapshots::behind;
use super::store::Opening;
use crate::error::{Error, Result};
use crate::io::{Io, durable};
use crate::types::{IndexId, TenantId};

/// An index on its way in or out: removed by the next opening.
pub(super) const CREATING: &str = ".creating-";
pub(super) const DELETING: &str = ".deleting-";

/// Threads at least that find, look at and open indices. Most of the time they wait for the disk, which does several things at once: of
/// 2,000 small indices one thread opens all in 3.2 s, two in 0.8 s, and eight in 0.5 s (`docs/decisions/0013-lazy-opening-and-closing.md`). Not
/// many more, because each may hold an operation of up to [`Limits::operation_bytes_max`](crate::config::Limits).
const THREADS_MIN: usize = 8;

/// Finds every index, and opens it or looks at it.
///
/// # Errors
/// [`Error::Io`] where the data directory cannot be synced or listed. A tenant's directory that cannot be is that tenant's matter.
pub(super) fn find(context: Context, data_dir: PathBuf, opening: Opening) -> Result<Slots> {
    let tenants = find_tenants(&*context.io, &data_dir)?;
    let mut unreadable = HashMap::new();
    let mut found = Vec::new();
    let threads = threads(&context);
    let listed = in_parallel(threads, tenants, |tenant| (find_indices(&*context.io, &data_dir.join(tenant.as_str())), tenant));
    for (indices, tenant) in listed {
        match indices {
            Ok(ids) => found.extend(ids.into_iter().map(|id| (tenant.clone(), id))),
            Err(error) => {
                tracing::error!(%tenant, %error, "the indices of this tenant are refused; the others serve");
                unreadable.insert(tenant, error);
            }
        }
    }
    let slots = in_parallel(threads, found, |key| {
        let directory = data_dir.join(key.0.as_str()).join(key.1.to_string());
        let (about, state) = first_state(&context, &key, &directory, opening);
        (key, about, state)
    });
    Ok(Slots::new(context, data_dir, slots, unreadable))
}

fn first_state(context: &Context, key: &Key, directory: &Path, opening: Opening) -> (About, State<Index>) {
    let (tenant, id) = key;
    let refused = |error| (About::default(), State::Refused(error));
    let look = || {
        recover_or_refuse(context, key, || dormant::look(context, *id, directory)).map_or_else(refused, |looked| {
            tracing::debug!(%tenant, index = %id, has_log = looked.has_log, "an index is there, and opens at its first use");
            (looked.about, State::Dormant)
        })
    };
    match opening {
        Opening::Eager => {
            let open = || recover::open(context, tenant.clone(), *id, directory.to_owned());
            match recover_or_refuse(context, key, open) {
                Ok(index) => (index.about(), State::Open(index)),
                // There are no slots yet, which take an index anew from a snapshot: its first use does it.
                Err(Error::Gone { .. }) if context.snapshots.is_some() => look(),
                Err(error) => refused(behind(error)),
            }
        }
        Opening::Lazy => look(),
    }
}

/// Strangers are left alone.
fn find_tenants(io: &dyn Io, data_dir: &Path) -> Result<Vec<TenantId>> {
    sync(io, data_dir)?;
    tenants(io, data_dir)
}

/// The tenants whose directories are in a data directory, by their names.
pub(super) fn tenants(io: &dyn Io, data_dir: &Path) -> Result<Vec<TenantId>> {
    let names = directories(io, data_dir)?;
    Ok(names.iter().filter_map(|name| TenantId::new(name).ok()).collect())
}

/// Every index directory, after removing what a crash left of indices on their way in or out. Strangers are left alone.
fn find_indices(io: &dyn Io, tenant_dir: &Path) -> Result<Vec<IndexId>> {
    sync(io, tenant_dir)?;
    let names = directories(io, tenant_dir)?;
    for name in names.iter().filter(|name| name.starts_with(CREATING) || name.starts_with(DELETING)) {
        if let Err(error) = durable::remove_tree(io, &tenant_dir.join(name)) {
            tracing::warn!(%error, "what is left of an index on its way in or out stays until the next opening");
        }
    }
    Ok(names.iter().filter_map(|name| index_of(name)).collect())
}

/// The indices whose directories are in a tenant's, by their ids.
pub(super) fn indices(io: &dyn Io, tenant_dir: &Path) -> Result<Vec<IndexId>> {
    let names = directories(io, tenant_dir)?;
    Ok(names.iter().filter_map(|name| index_of(name)).collect())
}

fn index_of(name: &str) -> Option<IndexId> {
    IndexId::try_parse(name).ok().filter(|id| id.to_string() == name)
}

/// A process that was killed between a rename and its sync left names that are not on the disk. They are about to be believed: an index that is
/// found is written to, and the files of one that is on its way out are removed.
fn sync(io: &dyn Io, path: &Path) -> Result<()> {
    io.sync_dir(path).map_err(|error| Error::io("sync", path, error))
}

/// Names of the directories in a directory.
fn directories(io: &dyn Io, path: &Path) -> Result<Vec<String>> {
    let entries = io.list(path).map_err(|error| Error::io("list", path, error))?;
    Ok(entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect())
}

fn threads(context: &Context) -> usize {
    match context.maintenance {
        Some(_) => std::thread::available_parallelism().map_or(1, usize::from).max(THREADS_MIN),
        // Who wants no threads wants everything in one order.
        None => 1,
    }
}

/// The results, in no order.
pub(super) fn in_parallel<T: Send, R: Send>(threads: usize, todo: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = threads.min(todo.len());
    if threads < 2 {
        return todo.into_iter().map(work).collect();
    }
    let (todo, done) = (Mutex::new(todo.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let Some(next) = todo.lock().next() else { break };
                    let result = work(next);
                    done.lock().push(result);
                }
            });
        }
    });
    done.into_inner()
}
