//! An index whose log several nodes share, backed up by one of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::chain::Place;
use super::record::Record;
use super::repository::{Chunks, Directory, Repository};
use super::restore::{Target, restore};
use super::throttle::Throttle;
use super::{BackupReport, backup, plan};
use crate::config::Limits;
use crate::engine::{Index, Store, StoreOptions};
use crate::error::{Error, Result};
use crate::io::sim::{SimIo, Survival};
use crate::io::{Entry, Io, Lock};
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

fn open(disk: &SimIo, cluster: &Arc<dyn Cluster>) -> Store {
    Store::open_with(options(disk), Some(Arc::clone(cluster).into())).unwrap()
}

fn node(cluster: &Arc<dyn Cluster>) -> (Store, Arc<Index>) {
    node_on(&SimIo::new(), cluster)
}

fn node_on(disk: &SimIo, cluster: &Arc<dyn Cluster>) -> (Store, Arc<Index>) {
    let store = open(disk, cluster);
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

fn back_up(index: &Index, repository: &dyn Repository) -> Result<BackupReport> {
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

fn directory(disk: &SimIo) -> Directory {
    Directory::new(Arc::new(disk.clone()), "/repository")
}

/// All that is on the disk of a repository.
fn objects(disk: &SimIo) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![PathBuf::from("/repository")]);
    while let Some(directory) = left.pop() {
        for Entry { name, is_dir } in disk.list(&directory).unwrap() {
            let path = directory.join(name);
            if is_dir {
                left.push(path);
            } else {
                found.insert(path.clone(), disk.map(&path).unwrap().to_vec());
            }
        }
    }
    found
}

/// A backup of an index to a place that has another copy's, and what it would do, change nothing there.
#[track_caller]
fn assert_refused(index: &Index, disk: &SimIo) {
    let before = objects(disk);
    for refused in [back_up(index, &directory(disk)), plan(index, &directory(disk))] {
        let Err(Error::Conflict(why)) = &refused else { panic!("{refused:?}") };
        assert!(why.contains("another copy") && why.contains("back it up to another place"), "{why}");
    }
    assert!(objects(disk) == before, "something was put");
}

#[track_caller]
fn assert_restored(repository: &dyn Repository, states: &[(Lsn, Vec<Point>)]) {
    let store = Store::open(options(&SimIo::new())).unwrap();
    for expected in states {
        let (restored, _) = restore(&store, repository, &tenant(), ID, Target::Lsn(expected.0)).unwrap();
        assert!(points(&restored) == *expected, "LSN {}", expected.0);
    }
}

#[test]
fn backup_of_another_node_or_of_one_that_lost_its_disk_is_refused_and_the_first_node_s_go_on() {
    let cluster: Arc<dyn Cluster> = Arc::new(MemoryCluster::default());
    let (disk, kept) = (SimIo::new(), SimIo::new());
    let repository = directory(&kept);
    let ((store, one), (_other_store, other)) = (node_on(&disk, &cluster), node(&cluster));
    put(&other, 0..10);
    let mut states = Vec::new();
    for ids in [5..20, 20..25, 25..60] {
        put(&one, ids);
        one.checkpoint().unwrap();
        put(&one, 60..63);
        back_up(&one, &repository).unwrap();
        states.push(points(&one));
        other.catch_up().unwrap();
        other.checkpoint().unwrap();
    }
    // As a node would have it that comes back with an empty disk: it does not matter which it was.
    let (_anew_store, anew) = node(&cluster);
    anew.catch_up().unwrap();
    for (copy, ids) in [(&other, 100..105), (&anew, 105..110)] {
        assert_refused(copy, &kept);
        // Ahead of what is there, and with files that it does not have.
        put(copy, ids);
        copy.checkpoint().unwrap();
        assert_refused(copy, &kept);
        // In a place of its own it is backed up.
        let own = directory(&SimIo::new());
        back_up(copy, &own).unwrap();
        assert_restored(&own, &[points(copy)]);
    }
    assert_restored(&repository, &states);

    drop((one, store));
    let store = open(&disk.crash(Survival::None), &cluster);
    let one = store.index(&tenant(), ID).unwrap();
    put(&one, 110..120);
    back_up(&one, &repository).unwrap();
    states.push(points(&one));
    assert_restored(&repository, &states);
    assert_refused(&other, &kept);
}

/// A place that nothing locks, as an object store is, where something happens when the first file of an index was put.
struct Unlocked<'a> {
    directory: Directory,
    meanwhile: Mutex<Option<&'a (dyn Fn() + Sync)>>,
}

impl fmt::Debug for Unlocked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.directory.fmt(f)
    }
}

impl Repository for Unlocked<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path(name)
    }

    fn lock(&self, _name: &str) -> Result<Option<Lock>> {
        Ok(None)
    }

    fn put(&self, name: &str, bytes: u64, chunks: &mut Chunks<'_>) -> Result<()> {
        self.directory.put(name, bytes, chunks)?;
        let meanwhile = self.meanwhile.lock().take();
        meanwhile.inspect(|meanwhile| meanwhile());
        Ok(())
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.directory.put_new(name, bytes)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.directory.remove(name)
    }

    fn get(&self, name: &str) -> Result<Option<Box<Chunks<'_>>>> {
        self.directory.get(name)
    }

    fn list(&self, name: &str) -> Result<Vec<Entry>> {
        self.directory.list(name)
    }
}

#[test]
fn of_two_nodes_that_begin_at_one_time_where_nothing_locks_one_is_refused_before_it_puts_anything() {
    let cluster: Arc<dyn Cluster> = Arc::new(MemoryCluster::default());
    let ((_one_store, one), (_other_store, other)) = (node(&cluster), node(&cluster));
    put(&one, 0..20);
    other.catch_up().unwrap();
    put(&other, 20..25);
    one.catch_up().unwrap();
    for index in [&one, &other] {
        index.checkpoint().unwrap();
    }
    let kept = SimIo::new();
    let unlocked = |meanwhile| Unlocked { directory: directory(&kept), meanwhile: Mutex::new(meanwhile) };
    let refused = Mutex::new(None);
    let meanwhile = || {
        let before = objects(&kept);
        *refused.lock() = Some(back_up(&other, &unlocked(None)));
        assert!(objects(&kept) == before, "something was put");
    };
    back_up(&one, &unlocked(Some(&meanwhile))).unwrap();
    let refused = refused.lock().take();
    assert!(matches!(&refused, Some(Err(Error::Conflict(why))) if why.contains("another place")), "{refused:?}");
    assert_restored(&unlocked(None), &[points(&one)]);

    // A node that began, and did not come to a record, goes on.
    let kept = SimIo::new();
    let unlocked = |meanwhile| Unlocked { directory: directory(&kept), meanwhile: Mutex::new(meanwhile) };
    let power_cut = || kept.crash_at(1);
    back_up(&one, &unlocked(Some(&power_cut))).unwrap_err();
    let kept = kept.crash(Survival::None);
    back_up(&other, &directory(&kept)).unwrap_err();
    back_up(&one, &directory(&kept)).unwrap();
    assert_restored(&directory(&kept), &[points(&one)]);
}

/// A record of a version that did not say whose it is, and one of an index that was shared when this one is not.
#[test]
fn backup_after_a_record_that_does_not_say_whose_it_is_is_refused() {
    let cluster: Arc<dyn Cluster> = Arc::new(MemoryCluster::default());
    let (_store, shared) = node(&cluster);
    let alone = Store::open(options(&SimIo::new())).unwrap();
    let spec = IndexSpec { name: "n".into(), dimension: 1, index_type: "Flat".into(), ..IndexSpec::default() };
    let alone = alone.create_index(&tenant(), &spec).unwrap();
    for (index, copy) in [(&shared, None), (&alone, Some(Uuid::from_u128(7)))] {
        let kept = SimIo::new();
        let repository = directory(&kept);
        put(index, 0..3);
        back_up(index, &repository).unwrap();
        let tenant = tenant();
        let place = Place { repository: &repository, tenant: &tenant, index: index.id() };
        let (record, _) = place.newest().unwrap().unwrap();
        assert_eq!(record.copy.is_some(), copy.is_none());
        let record = Record { copy, ..record }.encode();
        let name = place.record_name(1);
        repository.put(&name, record.len() as u64, &mut std::iter::once(Ok(record))).unwrap();
        assert_refused(index, &kept);
        put(index, 3..6);
        assert_refused(index, &kept);
    }
}
