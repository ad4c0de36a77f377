//! Where nodes have some of the indices only: what comes here when nodes join or leave, and what goes.
//!
//! An index that is no longer this node's goes when every node that is to have it says that it does, and nobody here uses it. Until then it is followed and
//! answered from as ever. The shared log has all of it anyway: what goes here too early comes back from there.

use std::collections::BTreeSet;
use std::sync::mpsc::Sender;
use std::sync::{OnceLock, Weak};
use std::time::{Duration, Instant};

use super::catalogue::catalogued;
use super::placement::Placement;
use super::slots::{Key, Slots};
use crate::error::{Error, Result};
use crate::format::manifest::Settings;
use crate::types::{IndexId, IndexSummary, Lsn, TenantId};
use crate::wal::cluster::Told;
use crate::wal::nodes::Member;

/// For how long other nodes are asked in one go: who follows has more to do, and a node may not answer.
const ASKING_MAX: Duration = Duration::from_secs(1);

/// This node, as the others know it.
pub(super) struct Membership {
    pub(super) slots: Weak<Slots>,
    /// To wake who follows, once it does: before, it would take this for the end of the catalogue.
    pub(super) wake: OnceLock<Sender<Told>>,
}

impl Member for Membership {
    fn alive(&self, nodes: BTreeSet<String>) {
        let Some(slots) = self.slots.upgrade() else { return };
        if slots.context().placement.as_ref().is_some_and(|placement| placement.set_alive(nodes)) {
            // Where nobody receives it, the store was closed.
            self.wake.get().inspect(|wake| drop(wake.send(Told::Complete)));
        }
    }

    /// Who does not believe that the index is to be here may let go of it at any time.
    fn has(&self, tenant: &TenantId, index: IndexId, lsn: Lsn) -> bool {
        let Some(slots) = self.slots.upgrade() else { return false };
        let is_placed_here = slots.context().placement.as_ref().is_some_and(|placement| placement.holds(index));
        let key = (tenant.clone(), index);
        is_placed_here && slots.has(tenant, index) && slots.open(&key).and_then(|index| index.catch_up_to(lsn)).is_ok()
    }
}

impl Slots {
    /// Makes an index this node's that was elsewhere.
    ///
    /// # Errors
    /// Those of [`find_shared`](Self::find_shared), but where it was deleted.
    pub(super) fn take_over(&self, key: &Key) -> Result<()> {
        let (Some(cluster), Some(placement)) = (&self.context().cluster, &self.context().placement) else { return Ok(()) };
        match self.find_shared(&**cluster, &key.0, key.1) {
            Ok(_) => tracing::info!(tenant = %key.0, index = %key.1, "this node has the index from now on"),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        placement.forget_elsewhere(key);
        Ok(())
    }

    /// Lets go of indices that are other nodes', as far as that can be now. `after`: where the last time it ended, for lack of time.
    pub(super) fn let_others_go(&self, placement: &Placement, after: &mut Option<Key>) {
        let end = Instant::now() + ASKING_MAX;
        let mut keys = self.keys();
        keys.retain(|key| {
            let is_own = placement.holds(key.1);
            if is_own {
                placement.set_leaving(key, false);
            }
            !is_own
        });
        keys.sort_unstable();
        let first = after.take().map_or(0, |after| keys.partition_point(|key| *key <= after));
        keys.rotate_left(first);
        for key in keys {
            // Only what is open may be ahead of the others: what is not was written to by nobody here.
            let lsn = self.peek(&key).map_or(0, |index| index.shared.view.load().lsn);
            let is_leaving = placement.are_ready(&key, lsn);
            placement.set_leaving(&key, is_leaving);
            if is_leaving {
                match self.let_go(placement, &key) {
                    Ok(()) => {
                        tracing::info!(tenant = %key.0, index = %key.1, "other nodes have the index; this one let go of it")
                    }
                    // It is in use, or gone already: the next time tells.
                    Err(Error::Busy(_) | Error::NotFound(_)) => {}
                    Err(error) => tracing::warn!(tenant = %key.0, index = %key.1, %error, "cannot let go of the index"),
                }
            }
            if Instant::now() >= end {
                *after = Some(key);
                return;
            }
        }
    }

    /// Removes what this node has of an index, and nothing of the catalogue's. Requests that come are sent to other nodes since a moment ago.
    ///
    /// # Errors
    /// [`Error::Busy`]: somebody uses it here. [`Error::NotFound`]: it is not here. Those of taking it away.
    fn let_go(&self, placement: &Placement, key: &Key) -> Result<()> {
        let (tenant, id) = key;
        self.drop_idle(key)?;
        let Some(cluster) = &self.context().cluster else { return Ok(()) };
        // Of one that is refused, nobody here knows them.
        let Settings { name, created_at_us, .. } = catalogued(&**cluster, tenant, *id)?;
        // Before it is gone: no list must lack it.
        placement.note_elsewhere(tenant.clone(), IndexSummary { id: *id, name, created_at_us });
        self.take_away_if(tenant, *id, |open| match open {
            Some(_) => Err(Error::Busy("the index is in use on this node")),
            None => Ok(()),
        })?;
        placement.set_leaving(key, false);
        Ok(())
    }
}
