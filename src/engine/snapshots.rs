//! Snapshots of indices whose log is shared: what a node begins an index with, where that log does not have the beginning any more.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use super::catalogue::catalogued;
use super::directories::{retire, stage};
use super::find::{CREATING, DELETING};
use super::index::Index;
use super::placement::Placement;
use super::recover::Context;
use super::slots::{Key, Slots};
use crate::checkpoint::manifest::Root;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SEGMENT_DIRECTORY, Settings};
use crate::format::position::{Place, Position};
use crate::io::{Io, durable};
use crate::types::{IndexId, Lsn, TenantId};
use crate::wal::cluster::Cluster;

/// What a node shares with the others.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    pub(crate) cluster: Arc<dyn Cluster>,
    /// `None`: this node takes none, and needs logs that have everything.
    pub(crate) snapshots: Option<Arc<dyn Snapshots>>,
    /// `None`: every node has every index.
    pub(crate) placement: Option<Arc<Placement>>,
}

impl From<Arc<dyn Cluster>> for Sharing {
    fn from(cluster: Arc<dyn Cluster>) -> Self {
        Self { cluster, snapshots: None, placement: None }
    }
}

/// Where the nodes keep snapshots. Calls block, and any number of threads may make them.
pub(crate) trait Snapshots: Debug + Send + Sync {
    /// Writes the files of the newest snapshot of an index below `directory`, under the names that they have in an index's, each checked and synced; and
    /// gives the manifest that names them and a place in the shared log. The names are for the caller to sync. `None`: there is no snapshot.
    ///
    /// # Errors
    /// [`Error::Backup`]: something of it is not what was put there. [`Error::Io`], [`Error::Full`]: it cannot be had now. Some files may be there then.
    fn fetch(&self, tenant: &TenantId, index: IndexId, io: &dyn Io, directory: &Path) -> Result<Option<Manifest>>;
}

/// What an index that was not opened is refused with: that the shared log does not reach back to its state, in words.
pub(super) fn behind(error: Error) -> Error {
    let Error::Gone { oldest_lsn } = error else { return error };
    let why = format!("the shared log begins at LSN {oldest_lsn}, behind what this node has: it needs a newer snapshot");
    Error::Closed(why.into())
}

impl Slots {
    /// Adds an index of the catalogue, durably: with what its newest snapshot has, or empty where there is none; the rest comes from the shared log.
    /// For who keeps others from adding one.
    ///
    /// # Errors
    /// As [`place`](Self::place); those of [`Snapshots::fetch`].
    pub(super) fn add_shared(&self, tenant: &TenantId, id: IndexId, settings: Settings) -> Result<Arc<Index>> {
        self.place(tenant, id, |hidden| {
            let fetched = fetch(self.context(), tenant, id, &settings, hidden)?;
            let manifest = fetched.unwrap_or_else(|| Manifest::empty(id, settings, Some(Place::START)));
            Root::create(&*self.context().io, hidden, manifest)
        })
    }

    /// Opens an index again that its shared log has left behind while it was open: from the newest snapshot.
    ///
    /// # Errors
    /// [`Error::Busy`]: somebody reads it just now. As [`open`](Self::open).
    pub(super) fn renew(&self, key: &Key) -> Result<()> {
        self.drop_idle(key)?;
        self.open(key).map(drop)
    }

    /// Puts the newest snapshot of an index in the place of what is here, durably, where the shared log goes on from it. For who keeps others from
    /// opening the index, of which there is no instance. A crash leaves the one or the other, or none, and then the catalogue tells of it. Whether it did.
    ///
    /// # Errors
    /// [`Error::NotFound`]: the index was deleted. [`Error::Io`], [`Error::Full`], those of [`Snapshots::fetch`]: what is here is as it was, or there is
    /// none. [`Error::OutcomeUnknown`]: either may be there after the next opening.
    pub(super) fn take_anew(&self, key: &Key, oldest_lsn: Lsn) -> Result<bool> {
        let context = self.context();
        let Context { io, cluster: Some(cluster), snapshots: Some(_), .. } = context else { return Ok(false) };
        let (io, (tenant, id)) = (&**io, key);
        let settings = catalogued(&**cluster, tenant, *id)?;
        let tenant_dir = self.tenant_dir(tenant);
        let (hidden, aside) = (tenant_dir.join(format!("{CREATING}{id}")), tenant_dir.join(format!("{DELETING}{id}")));
        // What an earlier try could not remove.
        durable::remove_tree(io, &hidden)?;
        durable::remove_tree(io, &aside)?;
        let staged = stage(io, &hidden, |hidden| match fetch(context, tenant, *id, &settings, hidden)? {
            Some(manifest) if manifest.position.lsn + 1 >= oldest_lsn => Root::create(io, hidden, manifest).map(|()| true),
            _ => Ok(false),
        });
        let replaced = staged.and_then(|is_there| {
            if is_there {
                retire(io, &tenant_dir, &self.directory(key), &aside, &hidden)?;
            }
            Ok(is_there)
        });
        // Else the disk may have what is aside under the index's name still.
        let is_known = !matches!(replaced, Err(Error::OutcomeUnknown(_)));
        for left in [&hidden, &aside].into_iter().filter(|_| is_known) {
            if let Err(error) = durable::remove_tree(io, left) {
                tracing::warn!(%error, "what is left of taking an index anew stays until the next opening");
            }
        }
        if matches!(replaced, Ok(true)) {
            tracing::warn!(%tenant, index = %id, "the shared log had let go of what this node lacked: its newest snapshot takes the place");
        }
        replaced
    }
}

/// Fetches the newest snapshot of an index into its directory, and gives the manifest that is to be written there: with its settings as the catalogue
/// has them, and without a log.
fn fetch(context: &Context, tenant: &TenantId, id: IndexId, settings: &Settings, directory: &Path) -> Result<Option<Manifest>> {
    let Some(snapshots) = &context.snapshots else { return Ok(None) };
    let Some(found) = snapshots.fetch(tenant, id, &*context.io, directory)? else { return Ok(None) };
    let segments = directory.join(SEGMENT_DIRECTORY);
    // Before the manifest: it must never name a file that a crash can lose.
    context.io.sync_dir(&segments).map_err(|error| Error::io("sync", &segments, error))?;
    // Name and options may have changed since; by the rest its bytes are read.
    let Settings { name, options, .. } = settings.clone();
    if (Settings { name, options, ..found.settings }) != *settings {
        let problem = format!("the newest snapshot of index {id} is of other settings than the catalogue has");
        return Err(Error::corrupt(directory, 0, problem));
    }
    let position = Position { lsn: found.position.lsn, ..Position::START };
    Ok(Some(Manifest { generation: 1, settings: settings.clone(), position, log: Vec::new(), ..found }))
}
