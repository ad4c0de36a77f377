//! The directories of indices on their way in and out. An index is there when its directory has its name, durably.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::find::{CREATING, DELETING};
use super::index::Index;
use super::slots::{Slots, closed};
use crate::checkpoint::manifest::Root;
use crate::error::{Error, Result, What};
use crate::format::manifest::{LOG_DIRECTORY, Manifest, SEGMENT_DIRECTORY, Settings};
use crate::format::position::Place;
use crate::io::{Io, durable};
use crate::types::{IndexId, TenantId};

impl Slots {
    /// Keeps others from adding an index.
    ///
    /// # Errors
    /// [`Error::Closed`]: none is added any more.
    pub(super) fn creating(&self) -> Result<MutexGuard<'_, ()>> {
        let creating = self.creating.lock();
        if self.is_closed() { Err(closed()) } else { Ok(creating) }
    }

    /// Adds an index that has nothing in it, durably. For who keeps others from adding one. `shared`: where its log begins, if other nodes
    /// append to it too.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub(super) fn add_empty(
        &self,
        tenant: &TenantId,
        id: IndexId,
        settings: Settings,
        shared: Option<Place>,
    ) -> Result<Arc<Index>> {
        let manifest = Manifest::empty(id, settings, shared);
        // This also syncs the names of the two directories.
        self.place(tenant, id, |hidden| Root::create(&*self.context().io, hidden, manifest))
    }

    /// Adds an index durably, whose files `fill` writes into a hidden directory and syncs. For who keeps others from adding one.
    ///
    /// # Errors
    /// As [`create_index`](Self::create_index); those of `fill`.
    pub(super) fn place(&self, tenant: &TenantId, id: IndexId, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Arc<Index>> {
        let io = &self.context().io;
        let tenant_dir = self.tenant_dir(tenant);
        durable::create_dir_durably(&**io, &tenant_dir)?;
        let hidden = tenant_dir.join(format!("{CREATING}{id}"));
        let directory = tenant_dir.join(id.to_string());
        let rename = |()| io.rename(&hidden, &directory).map_err(|error| Error::io("rename", &hidden, error));
        if let Err(error) = stage(&**io, &hidden, fill).and_then(rename) {
            let _ = durable::remove_tree(&**io, &hidden);
            return Err(error);
        }
        let key = (tenant.clone(), id);
        // The last step: before the answer, the name is durable.
        let index = io
            .sync_dir(&tenant_dir)
            .map_err(|error| Error::io("sync", &tenant_dir, error).into_outcome_unknown())
            .and_then(|()| self.recover(&key))
            .map_err(|error| retract(&**io, &tenant_dir, &directory, id, error))?;
        self.add(key, &index);
        Ok(index)
    }

    /// Takes an index and its directory away, durably. A refused one can be taken too, and one that is not open is not opened for it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Full`], [`Error::Io`]: the index is there after the next opening, and one that was open takes no more
    /// writes; [`Error::OutcomeUnknown`]: it may be. Taking it away again is safe.
    pub(super) fn take_away(&self, tenant: &TenantId, id: IndexId) -> Result<()> {
        self.take_away_if(tenant, id, |open| {
            if let Some(index) = open {
                index.close(Error::NotFound(What::Index));
                // A build or a checkpoint that is under way would write into the directory.
                drop(index.compacting.lock());
                drop(index.building.lock());
                drop(index.files.lock());
            }
            Ok(())
        })
    }

    /// The same, if `prepare` agrees, which is given the open instance, where there is one, and sees to it that it writes nothing any more.
    ///
    /// # Errors
    /// As [`take_away`](Self::take_away); those of `prepare`: nothing was done.
    pub(super) fn take_away_if(
        &self,
        tenant: &TenantId,
        id: IndexId,
        prepare: impl FnOnce(Option<&Index>) -> Result<()>,
    ) -> Result<()> {
        let io = &*self.context().io;
        let tenant_dir = self.tenant_dir(tenant);
        let hidden = tenant_dir.join(format!("{DELETING}{id}"));
        self.delete(&(tenant.clone(), id), |open| {
            prepare(open)?;
            take_away(io, &tenant_dir, &tenant_dir.join(id.to_string()), &hidden)
        })?;
        if let Err(error) = durable::remove_tree(io, &hidden) {
            tracing::warn!(%error, "files of a deleted index stay until the next opening");
        }
        Ok(())
    }
}

/// A hidden directory of an index, which `fill` fills and syncs.
pub(super) fn stage<T>(io: &dyn Io, hidden: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    for path in [hidden.to_owned(), hidden.join(LOG_DIRECTORY), hidden.join(SEGMENT_DIRECTORY)] {
        io.create_dir(&path).map_err(|error| Error::io("create", &path, error))?;
    }
    fill(hidden)
}

/// Renames an index's directory to a name that means that it is deleted, and a hidden one, whose contents are durable, to the index's; durably.
pub(super) fn retire(io: &dyn Io, tenant_dir: &Path, directory: &Path, aside: &Path, hidden: &Path) -> Result<()> {
    io.rename(directory, aside).map_err(|error| Error::io("rename", directory, error))?;
    if let Err(error) = io.rename(hidden, directory) {
        // Best effort: without it the index is not here, and the next opening learns of it from the catalogue.
        let _ = io.rename(aside, directory);
        return Err(Error::io("rename", hidden, error));
    }
    // One sync for both: the disk has neither, both, or the first alone.
    io.sync_dir(tenant_dir).map_err(|error| Error::io("sync", tenant_dir, error).into_outcome_unknown())
}

/// Renames an index's directory to a name that means that it is deleted, durably.
fn take_away(io: &dyn Io, tenant_dir: &Path, directory: &Path, hidden: &Path) -> Result<()> {
    match io.rename(directory, hidden) {
        // Another delete was faster.
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::NotFound(What::Index)),
        Err(error) => return Err(Error::io("rename", directory, error)),
        Ok(()) => {}
    }
    io.sync_dir(tenant_dir).map_err(|error| {
        // The disk may have it under its name and not under the other: the next opening must not remove its files one by one.
        let _ = io.rename(hidden, directory);
        Error::io("sync", tenant_dir, error).into_outcome_unknown()
    })
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
