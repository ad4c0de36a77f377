//! The schedule of a node's snapshots.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::block_in_place;

use super::Server;
use super::admission::Turn;
use crate::backup::{SnapshotReport, SnapshotRepository};
use crate::error::Error;
use crate::types::TenantId;

/// Where snapshots go, and when.
#[derive(Clone, Debug)]
pub struct SnapshotConfig {
    pub repository: Arc<SnapshotRepository>,
    /// Between two rounds, on the average.
    pub every: Duration,
}

/// Looks at every open index, again and again, until the server ends, and takes a snapshot of those that are ahead of their newest one. What fails is told of in the
/// log, and tried again in the next round. One that is not open was not written to by this node. Then removes the snapshots of indices that are deleted.
pub async fn keep(server: Arc<Server>, mut ending: watch::Receiver<bool>) {
    let Some(SnapshotConfig { repository, every }) = server.config.snapshots.clone() else { return };
    loop {
        tokio::select! {
            () = tokio::time::sleep(jittered(every)) => {}
            _ = ending.wait_for(|ends| *ends) => return,
        }
        let open: Vec<_> = server.store.opened(None).iter().map(|index| (index.tenant().clone(), index.id())).collect();
        for (tenant, id) in open {
            let turn = Turn { tenant: tenant.clone(), deadline: None };
            let work = || {
                // Closed or deleted meanwhile, and perhaps for ever.
                let Some(index) = server.store.index_if_open(&tenant, id) else { return Ok(()) };
                match repository.take(&index) {
                    Ok(Some(SnapshotReport { lsn, objects_moved, bytes_moved, trimmed_lsn, objects_removed, .. })) => {
                        tracing::info!(
                            %tenant, index = %id, lsn, objects_moved, bytes_moved, trimmed_lsn, objects_removed, "took a snapshot"
                        );
                    }
                    Ok(None) | Err(Error::NotFound(_)) => {}
                    Err(error @ Error::Conflict(_)) => tracing::debug!(%tenant, index = %id, %error, "no snapshot"),
                    Err(error) => {
                        tracing::error!(%tenant, index = %id, %error, "a snapshot failed; the shared log keeps everything")
                    }
                }
                Ok(())
            };
            tokio::select! {
                // Where too many wait already, the next round has it.
                _ = server.backups.run(turn, work) => {}
                _ = ending.wait_for(|ends| *ends) => return,
            }
        }
        let is_deleted = |tenant: &TenantId, id| server.store.is_deleted(tenant, id);
        match block_in_place(|| repository.remove_deleted(&is_deleted)) {
            Ok(0) => {}
            Ok(indices) => tracing::info!(indices, "removed the snapshots of indices that are deleted"),
            Err(error) => tracing::warn!(%error, "the snapshots of deleted indices are not all removed"),
        }
    }
}

/// Half of it to one and a half: nodes that were started together do not all do the same at the same time.
fn jittered(every: Duration) -> Duration {
    let mut random = [0; 4];
    // Without chance they only get into each other's way.
    let share = getrandom::fill(&mut random).map_or(0.5, |()| f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX));
    every.mul_f64(0.5 + share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_spread_around_what_was_said() {
        let every = Duration::from_secs(100);
        let rounds: Vec<Duration> = (0..100).map(|_| jittered(every)).collect();
        assert!(rounds.iter().all(|round| (50..=150).contains(&round.as_secs())), "{rounds:?}");
        assert!(rounds.iter().any(|round| *round != rounds[0]));
    }
}
