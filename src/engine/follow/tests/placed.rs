//! Nodes of which each has some of the indices only: what one leaves comes to others, and nothing is lost on the way.

use std::collections::BTreeSet;

use super::*;
use crate::engine::placement::Placement;

/// Turns of every node, after which nothing moves any more.
const TURNS_MAX: usize = 20;

const HOLDERS: usize = 2;

fn address(number: usize) -> String {
    format!("http://10.0.0.{number}:8000")
}

fn placed(disk: SimIo, cluster: &MemoryCluster, number: usize) -> Node {
    let placement = Some(Arc::new(Placement::new(Arc::new(cluster.clone()), &address(number), HOLDERS)));
    let sharing = Sharing { placement, ..Sharing::from(Arc::new(cluster.clone()) as Arc<dyn Cluster>) };
    let io = Arc::new(disk.clone());
    let options = StoreOptions { io, background: false, opening: Opening::Lazy, ..StoreOptions::new("/data") };
    let store = Store::open_with(options, Some(sharing)).unwrap();
    let (_, following) = Following::begin(&store.slots, cluster).unwrap();
    Node { disk, store, following }
}

fn create_all(node: &Node) -> Vec<IndexId> {
    (0..12).map(|n| node.store.create_index(&tenant(), &spec(&format!("{n}"))).unwrap().id()).collect()
}

impl Node {
    /// What it was told by now, and what is due; without waiting.
    fn settle(&mut self) {
        while let Ok(told) = self.following.told.try_recv() {
            self.following.note(told);
        }
        self.following.look_at = Instant::now();
        let slots = Arc::clone(&self.store.slots);
        self.following.work(&slots);
    }

    fn holds(&self, id: IndexId) -> bool {
        self.store.placement().unwrap().holds(id)
    }

    fn has(&self, id: IndexId) -> bool {
        self.store.slots.has(&tenant(), id)
    }
}

/// Until each index is where it is to be, and nowhere else.
#[track_caller]
fn settle(nodes: &mut [Node], ids: &[IndexId]) {
    for _ in 0..TURNS_MAX {
        nodes.iter_mut().for_each(Node::settle);
        if nodes.iter().all(|node| ids.iter().all(|id| node.has(*id) == node.holds(*id))) {
            for id in ids {
                assert_eq!(nodes.iter().filter(|node| node.has(*id)).count(), HOLDERS.min(nodes.len()), "{id}");
            }
            return;
        }
    }
    panic!("it does not come to rest");
}

/// One more point in each index, by whichever node answers for it then.
#[track_caller]
fn write(nodes: &[Node], ids: &[IndexId], expected_lsn: u64) {
    for id in ids {
        let node = nodes.iter().find(|node| node.store.holders(&tenant(), *id).is_none()).unwrap();
        let index = node.store.index(&tenant(), *id).unwrap();
        assert_eq!(put(&index, &format!("p{expected_lsn}")), expected_lsn);
    }
}

#[track_caller]
fn assert_all_is_there(nodes: &mut [Node], ids: &[IndexId], newest: u64) {
    nodes.iter_mut().for_each(Node::settle);
    for node in nodes {
        for id in ids.iter().filter(|id| node.has(**id)) {
            let info = node.index(*id).info();
            assert_eq!((info.lsn, info.vector_count), (newest, newest));
        }
    }
}

#[test]
fn each_index_is_on_so_many_nodes_and_moves_when_one_leaves_or_joins_without_losing_a_write() {
    let cluster = MemoryCluster::default();
    let mut nodes: Vec<Node> = (0..3).map(|number| placed(SimIo::new(), &cluster, number)).collect();
    let mut ids = create_all(&nodes[0]);
    write(&nodes, &ids, 1);
    settle(&mut nodes, &ids);
    write(&nodes, &ids, 2);
    assert_all_is_there(&mut nodes, &ids, 2);
    assert!(nodes.iter().all(|node| ids.iter().any(|id| !node.has(*id))), "none has all");

    // One is killed, and the others come to have what it had.
    let killed = nodes.pop().unwrap();
    cluster.lose(&address(2));
    drop((killed.store, killed.following));
    write(&nodes, &ids, 3);
    settle(&mut nodes, &ids);
    write(&nodes, &ids, 4);
    assert_all_is_there(&mut nodes, &ids, 4);

    // It comes back with what it had, of which some was changed, renamed or deleted meanwhile.
    let deleted = ids.remove(0);
    nodes[0].store.delete_index(&tenant(), deleted).unwrap();
    rename(&nodes[0].store, ids[0], "renamed").unwrap();
    nodes.push(placed(killed.disk.crash(Survival::None), &cluster, 2));
    write(&nodes[..2], &ids, 5);
    settle(&mut nodes, &ids);
    assert_all_is_there(&mut nodes, &ids, 5);
    for node in &nodes {
        assert!(!node.has(deleted));
        let listed = node.store.list_all(&tenant()).unwrap();
        let listed_ids: BTreeSet<IndexId> = listed.iter().map(|index| index.id).collect();
        assert_eq!(listed_ids, ids.iter().copied().collect());
        assert_eq!(listed.len(), ids.len(), "each once");
        assert!(listed.iter().any(|index| index.name == "renamed"));
    }
}

#[test]
fn node_keeps_what_is_no_longer_its_until_the_others_have_it_and_nobody_uses_it() {
    let cluster = MemoryCluster::default();
    let mut first = placed(SimIo::new(), &cluster, 0);
    let ids = create_all(&first);
    let others = [placed(SimIo::new(), &cluster, 1), placed(SimIo::new(), &cluster, 2)];
    let id = *ids.iter().find(|id| !first.holds(**id)).unwrap();
    let lsn = put(&first.index(id), "a");
    assert!(others.iter().all(|other| other.has(id)), "they found it in the catalogue");
    let used = first.index(id);
    first.settle();
    assert!(first.has(id), "somebody uses it");
    let holders = first.store.holders(&tenant(), id).map(|holders| holders.len());
    assert_eq!(holders, Some(HOLDERS), "who comes is sent to the others");
    drop(used);
    others[0].store.slots.take_away(&tenant(), id).unwrap();
    first.settle();
    assert!(first.has(id), "one of the others does not have it");
    assert!(first.store.holders(&tenant(), id).is_none(), "it answers for it as before");
    others[0].store.index(&tenant(), id).unwrap();
    first.settle();
    assert!(!first.has(id));
    // They were asked for more than they had been told of.
    assert!(others.iter().all(|other| other.index(id).info().lsn == lsn));
    // Who is asked all the same has it again, and lets go of it again.
    assert_eq!(first.store.index(&tenant(), id).unwrap().info().lsn, lsn);
    first.settle();
    assert!(!first.has(id));
}

#[test]
fn quota_of_indices_counts_those_that_are_elsewhere() {
    let cluster = MemoryCluster::default();
    let mut nodes: Vec<Node> = (0..3).map(|number| placed(SimIo::new(), &cluster, number)).collect();
    let ids = create_all(&nodes[0]);
    settle(&mut nodes, &ids);
    let asked = IndexSpec { tenant_indices_max: Some(ids.len()), ..spec("one too many") };
    for node in &nodes {
        assert!(matches!(node.store.create_index(&tenant(), &asked), Err(Error::Quota(_))));
    }
}
