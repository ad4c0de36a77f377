//! Nodes that share a catalogue and logs, in memory: what one does to an index, the others do. Each turn of a node's following is made by hand.

/// Nodes of which each has some of the indices only.
mod placed;

use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

use super::*;
use crate::checkpoint::manifest::Root;
use crate::engine::snapshots::{Sharing, Snapshots};
use crate::engine::{Index, Opening, Store, StoreOptions};
use crate::error::What;
use crate::format::manifest::{Manifest, SEGMENT_DIRECTORY};
use crate::io::Io;
use crate::io::sim::{SimIo, Survival};
use crate::types::{Durability, IdempotencyKey, IndexId, IndexSpec, TenantId};
use crate::wal::conformance::memory::Fault;
use crate::wal::conformance::memory_cluster::MemoryCluster;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn spec(name: &str) -> IndexSpec {
    IndexSpec { name: name.into(), dimension: 1, index_type: "Flat".into(), ..IndexSpec::default() }
}

fn key(name: &str, fingerprint: u32) -> Option<IdempotencyKey> {
    Some(IdempotencyKey { key: name.to_owned(), fingerprint })
}

fn open(disk: &SimIo, cluster: Option<&MemoryCluster>) -> Store {
    let io = Arc::new(disk.clone());
    let options = StoreOptions { io, background: false, opening: Opening::Lazy, ..StoreOptions::new("/data") };
    let cluster = cluster.map(|cluster| Sharing::from(Arc::new(cluster.clone()) as Arc<dyn Cluster>));
    Store::open_with(options, cluster).unwrap()
}

/// A server that follows.
struct Node {
    disk: SimIo,
    store: Store,
    following: Following,
}

impl Node {
    fn on(disk: SimIo, cluster: &MemoryCluster) -> Self {
        let store = open(&disk, Some(cluster));
        let (_, following) = Following::begin(&store.slots, cluster).unwrap();
        Self { disk, store, following }
    }

    fn new(cluster: &MemoryCluster) -> Self {
        Self::on(SimIo::new(), cluster)
    }

    /// Does what it was told by now, which is something.
    fn turn(&mut self) {
        assert!(self.following.turn());
    }

    fn names(&self) -> Vec<String> {
        self.store.list(&tenant()).unwrap().into_iter().map(|index| index.name).collect()
    }

    fn index(&self, id: IndexId) -> Arc<Index> {
        self.store.slots.open(&(tenant(), id)).unwrap()
    }
}

fn put(index: &Index, id: &str) -> u64 {
    let mut batch = index.batch();
    batch.push(id, &[1.0], "{}").unwrap();
    index.upsert(batch, Durability::Fsync).unwrap().lsn
}

fn rename(store: &Store, id: IndexId, name: &str) -> Result<()> {
    let renamed = store.configure_index(&tenant(), id, |config| {
        config.name = name.to_owned();
        Ok(())
    });
    renamed.map(|_| ())
}

#[test]
fn what_one_node_creates_writes_changes_and_deletes_the_others_have_and_lose_too() {
    let cluster = MemoryCluster::default();
    let (a, mut b) = (Node::new(&cluster), Node::new(&cluster));
    let created = a.store.create_index(&tenant(), &spec("one")).unwrap();
    let id = created.id();
    b.turn();
    assert_eq!(b.names(), ["one"]);
    let info = b.index(id).info();
    assert_eq!((info.dimension, info.created_at_us), (1, created.info().created_at_us));

    let lsn = put(&created, "a");
    b.turn();
    assert_eq!(b.index(id).info().lsn, lsn);
    assert!(b.index(id).get("a").unwrap().is_some());
    // And the other way round.
    assert_eq!(put(&b.index(id), "b"), lsn + 1);
    let mut a = a;
    a.turn();
    assert_eq!(a.index(id).info().vector_count, 2);

    rename(&b.store, id, "two").unwrap();
    a.turn();
    assert_eq!(a.names(), ["two"]);
    assert_eq!(a.index(id).info().name, "two");

    b.store.delete_index(&tenant(), id).unwrap();
    a.turn();
    assert_eq!(a.names(), [""; 0]);
    assert!(matches!(a.store.index(&tenant(), id), Err(Error::NotFound(What::Index))));
    assert!(matches!(a.store.delete_index(&tenant(), id), Err(Error::NotFound(What::Index))));
}

#[test]
fn what_is_its_own_a_node_does_not_read_again() {
    let cluster = MemoryCluster::default();
    let mut node = Node::new(&cluster);
    let index = node.store.create_index(&tenant(), &spec("n")).unwrap();
    put(&index, "a");
    // To read would be refused, for the log is gone.
    cluster.log(&tenant(), index.id()).delete();
    node.turn();
    index.check_writable(&index.writer.lock()).unwrap();
}

#[test]
fn a_node_that_was_away_finds_what_became_of_each_index() {
    let cluster = MemoryCluster::default();
    let (a, b) = (Node::new(&cluster), Node::new(&cluster));
    let [kept, changed, deleted] =
        ["kept", "changed", "deleted"].map(|name| a.store.create_index(&tenant(), &spec(name)).unwrap().id());
    let Node { disk, store, mut following } = b;
    assert!(following.turn());
    assert_eq!(store.list(&tenant()).unwrap().len(), 3);
    drop((store, following));

    rename(&a.store, changed, "other").unwrap();
    a.store.delete_index(&tenant(), deleted).unwrap();
    let new = a.store.create_index(&tenant(), &spec("new")).unwrap();
    put(&new, "a");
    put(&a.index(kept), "a");

    let b = Node::on(disk.crash(Survival::None), &cluster);
    assert_eq!(b.names(), ["kept", "other", "new"]);
    assert!(b.store.slots.peek(&(tenant(), kept)).is_none(), "what has not changed is not opened for it");
    assert_eq!((b.index(kept).info().lsn, b.index(new.id()).info().lsn), (1, 1));
}

#[test]
fn an_index_that_a_node_was_not_told_of_is_found_by_its_id() {
    let cluster = MemoryCluster::default();
    let (a, b) = (Node::new(&cluster), Node::new(&cluster));
    let id = a.store.create_index(&tenant(), &spec("n")).unwrap().id();
    put(&a.index(id), "a");
    assert_eq!(b.names(), [""; 0]);
    assert_eq!(b.store.index(&tenant(), id).unwrap().info().lsn, 1);
    let other = TenantId::new("other").unwrap();
    assert!(matches!(b.store.index(&other, id), Err(Error::NotFound(What::Index))));
    assert!(matches!(b.store.index(&tenant(), IndexId::from_u128(1)), Err(Error::NotFound(What::Index))));
}

#[test]
fn a_key_creates_one_index_whichever_nodes_are_asked() {
    let cluster = MemoryCluster::default();
    let (a, mut b) = (Node::new(&cluster), Node::new(&cluster));
    let asked = IndexSpec { key: key("k", 1), ..spec("n") };
    let id = a.store.create_index(&tenant(), &asked).unwrap().id();
    // It was not told yet.
    assert_eq!(b.store.create_index(&tenant(), &asked).unwrap().id(), id);
    let another = IndexSpec { key: key("k", 2), ..spec("m") };
    let c = Node::new(&cluster);
    for node in [&a, &b, &c] {
        let reused = node.store.create_index(&tenant(), &another).unwrap_err();
        assert_eq!(reused.to_string(), IdempotencyKey::reused().to_string());
    }
    // Deleted, it is made once more, and is another.
    b.turn();
    b.store.delete_index(&tenant(), id).unwrap();
    let again = b.store.create_index(&tenant(), &another).unwrap().id();
    assert_ne!(again, id);
    assert_eq!(Node::new(&cluster).names(), ["m"]);
}

#[test]
fn what_the_catalogue_refuses_is_not_done_and_what_it_may_have_done_comes_from_there() {
    let cluster = MemoryCluster::default();
    let mut node = Node::new(&cluster);
    for (fault, is_told) in [(Fault::Refused, true), (Fault::NotStored, false)] {
        cluster.fail_next(fault);
        let refused = node.store.create_index(&tenant(), &spec("n")).unwrap_err();
        assert_eq!(matches!(refused, Error::Io(_)), is_told, "{refused}");
        assert_eq!(node.names(), [""; 0]);
    }
    cluster.fail_next(Fault::Lost);
    let unknown = node.store.create_index(&tenant(), &spec("n")).unwrap_err();
    assert!(matches!(unknown, Error::OutcomeUnknown(_)), "{unknown}");
    node.turn();
    assert_eq!(node.names(), ["n"]);
    let id = node.store.list(&tenant()).unwrap()[0].id;
    cluster.fail_next(Fault::Refused);
    assert!(matches!(rename(&node.store, id, "m"), Err(Error::Io(_))));
    assert_eq!(node.index(id).info().name, "n");
    cluster.fail_next(Fault::Lost);
    assert!(matches!(rename(&node.store, id, "m"), Err(Error::OutcomeUnknown(_))));
    node.turn();
    assert_eq!(node.index(id).info().name, "m");
    cluster.fail_next(Fault::Refused);
    assert!(matches!(node.store.delete_index(&tenant(), id), Err(Error::Io(_))));
    assert_eq!(node.names(), ["m"]);
    put(&node.index(id), "a");
}

#[test]
fn an_index_of_this_machine_alone_is_refused_on_a_node() {
    let disk = SimIo::new();
    let id = open(&disk, None).create_index(&tenant(), &spec("n")).unwrap().id();
    let node = Node::on(disk, &MemoryCluster::default());
    let [(refused, why)] = &node.store.refused(&tenant())[..] else { panic!("it is refused at the start") };
    assert_eq!(*refused, id);
    assert!(why.to_string().contains("this server is a node of a cluster"), "{why}");
    drop(node.disk);
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Its thread ends with it, and the directory can be opened again.
#[test]
fn a_store_with_threads_follows_until_it_is_closed() {
    let cluster = MemoryCluster::default();
    let a = Node::new(&cluster);
    let disk = SimIo::new();
    for name in ["one", "two"] {
        let id = a.store.create_index(&tenant(), &spec(name)).unwrap().id();
        let options = StoreOptions { io: Arc::new(disk.clone()), ..StoreOptions::new("/data") };
        let shared: Arc<dyn Cluster> = Arc::new(cluster.clone());
        let store = Store::open_with(options, Some(shared.into())).unwrap();
        assert!(store.slots.has(&tenant(), id), "it is there when the store is open");
        let listener = store.index(&tenant(), id).unwrap().listen().unwrap();
        let lsn = put(&a.index(id), "a");
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        while listener.poll_durable(lsn, &mut Context::from_waker(&waker)).map(Result::unwrap).is_pending() {
            thread::park();
        }
        drop(listener);
        store.close().unwrap();
        drop(store);
    }
}

/// Snapshots: what another node has on its disk.
#[derive(Debug)]
struct Copies(SimIo);

impl Snapshots for Copies {
    fn fetch(&self, tenant: &TenantId, index: IndexId, io: &dyn Io, directory: &Path) -> Result<Option<Manifest>> {
        let from = Path::new("/data").join(tenant.as_str()).join(index.to_string());
        let manifest = Root::load(Arc::new(self.0.clone()), &from, index)?.current().clone();
        for (name, ..) in manifest.segment_files() {
            let name = Path::new(SEGMENT_DIRECTORY).join(name);
            let file = io.create(&directory.join(&name)).unwrap();
            file.write_at(0, &[IoSlice::new(&self.0.map(&from.join(&name)).unwrap())]).unwrap();
            file.sync_data().unwrap();
        }
        Ok(Some(manifest))
    }
}

#[test]
fn index_that_the_log_left_behind_while_it_was_open_is_taken_anew_when_nobody_reads_it() {
    let cluster = MemoryCluster::default();
    let a = Node::new(&cluster);
    let index = a.store.create_index(&tenant(), &spec("n")).unwrap();
    put(&index, "1");
    let snapshots: Option<Arc<dyn Snapshots>> = Some(Arc::new(Copies(a.disk.clone())));
    let sharing = Sharing { cluster: Arc::new(cluster.clone()), snapshots, placement: None };
    let options =
        StoreOptions { io: Arc::new(SimIo::new()), background: false, opening: Opening::Lazy, ..StoreOptions::new("/data") };
    let store = Store::open_with(options, Some(sharing)).unwrap();
    let (_, mut following) = Following::begin(&store.slots, &cluster).unwrap();
    let slow = store.index(&tenant(), index.id()).unwrap();
    assert_eq!(slow.info().vector_count, 1);

    put(&index, "2");
    put(&index, "3");
    index.checkpoint().unwrap();
    let place = index.writer.lock().shared_log.as_ref().unwrap().place();
    cluster.log(&tenant(), index.id()).trim_to(place);
    put(&index, "4");
    // Somebody reads it: it answers what it has, and refuses writes.
    assert!(following.turn());
    assert_eq!(slow.info().vector_count, 1);
    assert!(matches!(slow.delete(&["1"], Durability::Fsync), Err(Error::Closed(_))));
    let id = slow.id();
    drop(slow);
    // It is tried again after a pause.
    assert!(following.turn());
    let renewed = store.index(&tenant(), id).unwrap();
    assert_eq!((renewed.info().vector_count, renewed.info().lsn), (4, index.info().lsn));
    put(&renewed, "5");
    assert_eq!(index.catch_up().unwrap(), renewed.info().lsn);
}
