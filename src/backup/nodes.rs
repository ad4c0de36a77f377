//! An index whose log several nodes share, backed up by one of them.

use std::sync::Arc;

use super::repository::Directory;
use super::restore::{Target, restore};
use super::throttle::Throttle;
use super::{BackupReport, backup};
use crate::config::Limits;
use crate::engine::{Index, Store, StoreOptions};
use crate::error::{Error, Result};
use crate::io::sim::{SimIo, Survival};
use crate::types::{Durability, IndexId, IndexSpec, Lsn, Point, TenantId};
use crate::wal::cluster::Cluster;
use crate::wal::conformance::memory_cluster::MemoryCluster;

const ID: IndexId = IndexId::from_u128(7);

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn options(disk: &SimIo) -> StoreOptions {
    // Some segments of the log in each backup.
    let limits = Limits { log_segment_bytes: 2048, ..Limits::default() };
    StoreOptions { io: Arc::new(disk.clone()), background: false, limits, ..StoreOptions::new("/data") }
}

fn node(cluster: &Arc<dyn Cluster>) -> (Store, Arc<Index>) {
    let store = Store::open_with(options(&SimIo::new()), Some(Arc::clone(cluster).into())).unwrap();
    let spec = IndexSpec { name: "n".into(), dimension: 1, index_type: "Flat".into(), ..IndexSpec::default() };
    let index = store.create_shared_index(&tenant(), &spec, ID).unwrap();
    (store, index)
}

fn put(index: &Index, ids: std::ops::Range<u32>) {
    for id in ids {
        let mut batch = index.batch();
        batch.push(&id.to_string(), &[id as f32], &format!("{{\"n\": {id}}}")).unwrap();
        index.upsert(batch, Durability::Fsync).unwrap();
    }
}

fn points(index: &Index) -> (Lsn, Vec<Point>) {
    let mut points = Vec::new();
    let lsn = index.visit(|point| {
        points.push(point);
        Ok::<(), Error>(())
    });
    points.sort_by(|a, b| a.id.cmp(&b.id));
    (lsn.unwrap(), points)
}

fn back_up(index: &Index, repository: &Directory) -> Result<BackupReport> {
    backup(index, repository, &Throttle::new(None))
}

#[test]
fn what_a_node_backed_up_is_restored_as_an_index_that_nobody_shares() {
    let cluster = MemoryCluster::default();
    let memory = cluster.log(&tenant(), ID);
    let cluster: Arc<dyn Cluster> = Arc::new(cluster);
    let ((_one, one), (_other, other)) = (node(&cluster), node(&cluster));
    let repository = Directory::new(Arc::new(SimIo::new()), "/repository");
    put(&one, 0..20);
    one.checkpoint().unwrap();
    put(&other, 10..25);
    one.delete(&["3", "24"], Durability::Fsync).unwrap();
    assert_eq!(back_up(&one, &repository).unwrap().lsn, 36);
    let at_36 = points(&one);
    put(&other, 25..35);
    one.catch_up().unwrap();
    // Only what is new, and of what the other node wrote too.
    assert_eq!(back_up(&one, &repository).unwrap().lsn, 46);

    let disk = SimIo::new();
    let store = Store::open(options(&disk)).unwrap();
    let operations = memory.operations();
    for (target, expected) in [(Target::Lsn(36), &at_36), (Target::Newest, &points(&other))] {
        let (restored, report) = restore(&store, &repository, &tenant(), ID, target).unwrap();
        assert_eq!((report.from_index, report.lsn), (ID, expected.0));
        assert!(restored.id() != ID && points(&restored) == *expected, "{target:?}");
        // It has a log of its own, and no node is told.
        put(&restored, 90..91);
        assert_eq!((restored.info().lsn, memory.operations()), (expected.0 + 1, operations));
        restored.checkpoint().unwrap();
        put(&restored, 91..92);
        let again = Store::open(options(&disk.crash(Survival::None))).unwrap();
        assert_eq!(points(&again.index(&tenant(), restored.id()).unwrap()), points(&restored));
    }
    assert_eq!(one.catch_up().unwrap(), 46);
}
