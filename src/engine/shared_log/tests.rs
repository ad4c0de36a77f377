//! Nodes that share a log: each a store on a simulated disk of its own. The log is in memory, or on a real nats-server.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Barrier};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::config::Limits;
use crate::engine::{Batch, Store, StoreOptions};
use crate::error::What;
use crate::io::sim::{Fault as DiskFault, SimIo, Survival};
use crate::segment::digest::{Digest, Scratch};
use crate::segment::filter::Filter;
use crate::types::{ChangesQuery, Condition, Durability, IdempotencyKey, IndexSpec, Point, WriteOptions};
use crate::wal::conformance::memory::{Fault, Memory};
use crate::wal::conformance::memory_cluster::MemoryCluster;
use crate::wal::file_log::LogOptions;
use crate::wal::read::{Reading, read};

const ID: IndexId = IndexId::from_u128(7);

const DIMENSION: usize = 2;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn limits() -> Limits {
    // Segments of some frames, so that the files are rotated, and frames that a large batch does not fit into.
    Limits { log_segment_bytes: 8 << 10, frame_bytes_max: 1 << 10, ..Limits::default() }
}

fn options(disk: &SimIo) -> StoreOptions {
    let io = Arc::new(disk.clone());
    StoreOptions { io, background: false, limits: limits(), ..StoreOptions::new("/data") }
}

fn spec() -> IndexSpec {
    IndexSpec { name: "n".into(), dimension: DIMENSION, index_type: "Flat".into(), ..IndexSpec::default() }
}

/// One node at a time: what it does with a large write, with a refused one, as long as nobody asks it, and with its settings.
mod node;

/// What is done while no server runs.
mod offline;

/// The same on a real nats-server.
#[cfg(feature = "server")]
mod on_jetstream;

/// A directory that an earlier version wrote.
mod saved;

/// A server with its own disk.
struct Node {
    disk: SimIo,
    cluster: Arc<dyn Cluster>,
    /// Kept, for it keeps the directory locked.
    _store: Store,
    index: Arc<Index>,
}

impl Node {
    fn new(cluster: &Arc<dyn Cluster>) -> Self {
        let disk = SimIo::new();
        let store = Store::open_with(options(&disk), Some(Arc::clone(cluster).into())).unwrap();
        let index = store.create_shared_index(&tenant(), &spec(), ID).unwrap();
        Self { disk, cluster: Arc::clone(cluster), _store: store, index }
    }

    /// The power is cut, and it comes back with what of its disk survived.
    fn restart(self, survival: Survival) -> Self {
        self.try_restart(survival).unwrap()
    }

    fn try_restart(self, survival: Survival) -> Result<Self> {
        let disk = self.disk.crash(survival);
        let store = Store::open_with(options(&disk), Some(Arc::clone(&self.cluster).into()))?;
        let index = store.index(&tenant(), ID)?;
        Ok(Self { disk, cluster: self.cluster, _store: store, index })
    }

    fn put(&self, id: &str) -> Result<Lsn> {
        put(&self.index, id, 1.0, Condition::Always)
    }

    #[track_caller]
    fn put_all(&self, prefix: &str, count: usize) {
        for n in 0..count {
            self.put(&format!("{prefix}{n}")).unwrap();
        }
    }

    /// When each operation of its own files was committed.
    fn times(&self) -> BTreeMap<Lsn, u64> {
        let index = &self.index;
        let options = LogOptions::new(Arc::clone(&index.io), index.directory.join(LOG_DIRECTORY), ID, &index.limits);
        let listed = index.root.lock().current().log.clone();
        let mut times = BTreeMap::new();
        let each = &mut |commit: Commit, _: &Operation<'_>| {
            times.insert(commit.lsn, commit.time_us);
            Ok(ControlFlow::Continue(()))
        };
        let reading = read(&options, &listed, listed[0].first_lsn..=index.shared.view.load().lsn, None, each).unwrap();
        assert!(matches!(reading, Reading::Done(_)));
        times
    }
}

fn in_memory() -> (Memory, Arc<dyn Cluster>) {
    let cluster = MemoryCluster::default();
    (cluster.log(&tenant(), ID), Arc::new(cluster))
}

fn batch(index: &Index, id: &str, value: f32, condition: Condition) -> Batch {
    let mut batch = index.batch();
    batch.push_if(id, &[value, 1.0], &format!("{{\"n\": {value}}}"), condition).unwrap();
    batch
}

/// The LSN of what was stored; [`Error::Unmet`] where nothing was.
fn put(index: &Index, id: &str, value: f32, condition: Condition) -> Result<Lsn> {
    let upserted = index.upsert(batch(index, id, value, condition), Durability::Fsync)?;
    if upserted.unmet.is_empty() { Ok(upserted.lsn) } else { Err(Error::Unmet(condition.unmet())) }
}

/// All that a state is: its LSN, the digest, each point with the mutation that stored it, and the answers that are remembered.
fn state(index: &Index) -> (Lsn, String, Vec<Point>, Vec<String>) {
    let view = index.shared.view.load_full();
    let (mut digest, mut scratch) = (Digest::default(), Scratch::default());
    for segment in &view.segments {
        segment.live_positions().for_each(|position| {
            digest.add(&segment.rows, position, &mut scratch);
        });
    }
    let mut points = Vec::new();
    let visited = index.visit(|point| {
        points.push(point);
        Ok::<(), Error>(())
    });
    points.sort_by(|a, b| a.id.cmp(&b.id));
    let answers = index.writer.lock().state.keys.answers().iter().map(|answer| format!("{answer:?}")).collect();
    (visited.unwrap(), digest.to_string(), points, answers)
}

#[track_caller]
fn assert_equal(one: &Index, other: &Index) {
    assert_eq!(one.catch_up().unwrap(), other.catch_up().unwrap());
    assert_eq!(state(one), state(other));
}

// Writes as a client may ask for them.

#[derive(Clone, Debug)]
enum Write {
    Upsert { id: u8, n: u8, condition: Condition, key: Option<u8> },
    Delete { id: u8, condition: Condition },
    DeleteMatching { n: u8 },
    Patch { id: u8, n: u8, condition: Condition },
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Write),
    CatchUp(usize),
    Checkpoint(usize),
    Restart(usize, Survival),
    /// Nobody hears what becomes of the next write to the log.
    Unknown(Fault),
}

fn conditions() -> impl Strategy<Value = Condition> {
    prop_oneof![
        2 => Just(Condition::Always),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present),
        2 => (0..40_u64).prop_map(Condition::StoredBy),
    ]
}

fn writes() -> impl Strategy<Value = Write> {
    let id = || 0..4_u8;
    prop_oneof![
        4 => (id(), 0..5_u8, conditions(), proptest::option::of(0..6_u8))
            .prop_map(|(id, n, condition, key)| Write::Upsert { id, n, condition, key }),
        2 => (id(), conditions()).prop_map(|(id, condition)| Write::Delete { id, condition }),
        1 => (0..5_u8).prop_map(|n| Write::DeleteMatching { n }),
        2 => (id(), 0..5_u8, conditions()).prop_map(|(id, n, condition)| Write::Patch { id, n, condition }),
    ]
}

fn steps(with_unknown: bool) -> impl Strategy<Value = Vec<Step>> {
    let node = || 0..2_usize;
    let survival = prop_oneof![Just(Survival::None), Just(Survival::All), any::<u64>().prop_map(Survival::Torn)];
    let faults = prop_oneof![Just(Fault::Lost), Just(Fault::NotStored)];
    let step = prop_oneof![
        20 => (node(), writes()).prop_map(|(node, write)| Step::Write(node, write)),
        1 => node().prop_map(Step::CatchUp),
        1 => node().prop_map(Step::Checkpoint),
        1 => (node(), survival).prop_map(|(node, survival)| Step::Restart(node, survival)),
        u32::from(with_unknown) => faults.prop_map(Step::Unknown),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What the client is told.
fn perform(index: &Index, write: &Write) -> Result<String> {
    let name = |id: u8| format!("p{id}");
    match *write {
        Write::Upsert { id, n, condition, key } => {
            let key = key.map(|key| IdempotencyKey::new(&format!("k{key}"), &[&[id, n]]).unwrap());
            let options = WriteOptions { key, ..WriteOptions::default() };
            index.upsert(batch(index, &name(id), n.into(), condition), options).map(|answer| format!("{answer:?}"))
        }
        Write::Delete { id, condition } => {
            index.delete_if(&name(id), condition, Durability::Fsync).map(|answer| format!("{answer:?}"))
        }
        Write::DeleteMatching { n } => {
            let filter = Filter::parse(&format!("{{\"n\": {n}}}")).unwrap();
            index.delete_matching(&filter, Durability::Fsync).map(|answer| format!("{answer:?}"))
        }
        Write::Patch { id, n, condition } => {
            let patch = format!("{{\"n\": {n}}}");
            index.patch(&name(id), &patch, condition, Durability::Fsync).map(|answer| format!("{answer:?}"))
        }
    }
}

fn run(cases: u32, with_unknown: bool, check: impl Fn(Vec<Step>)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&steps(with_unknown), |steps| {
        check(steps);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Each answer is that of one store that is asked the same in the same order, whichever node is asked, and whatever it had missed.
#[test]
fn nodes_of_one_log_answer_as_one_store_and_end_in_its_state() {
    run(400, false, |steps| answer_as_one_store(&in_memory().1, &steps));
}

fn answer_as_one_store(logs: &Arc<dyn Cluster>, steps: &[Step]) {
    let alone = Store::open(options(&SimIo::new())).unwrap();
    let alone = alone.create_index(&tenant(), &spec()).unwrap();
    let mut nodes = vec![Node::new(logs), Node::new(logs)];
    for step in steps {
        match step {
            Step::Write(node, write) => {
                let told = perform(&nodes[*node].index, write).map_err(|error| error.to_string());
                assert_eq!(told, perform(&alone, write).map_err(|error| error.to_string()), "{write:?} at {node}");
            }
            other => perturb(&mut nodes, other),
        }
    }
    for node in &nodes {
        assert_equal(&node.index, &alone);
        assert_eq!(node.index.info().durable_lsn, alone.info().lsn);
    }
}

fn perturb(nodes: &mut Vec<Node>, step: &Step) {
    match step {
        Step::CatchUp(node) => assert!(nodes[*node].index.catch_up().is_ok()),
        Step::Checkpoint(node) => assert!(nodes[*node].index.checkpoint().is_ok()),
        Step::Restart(node, survival) => {
            let restarted = nodes.remove(*node).restart(*survival);
            nodes.insert(*node, restarted);
        }
        Step::Write(..) | Step::Unknown(_) => unreachable!("of each test itself"),
    }
}

/// A write whose outcome nobody knows is there on every node or on none, and the next ones go on behind it.
#[test]
fn write_of_unknown_outcome_is_on_all_nodes_or_on_none() {
    run(400, true, |steps| {
        let (memory, logs) = in_memory();
        let alone = Store::open(options(&SimIo::new())).unwrap();
        let alone = alone.create_index(&tenant(), &spec()).unwrap();
        let mut nodes = vec![Node::new(&logs), Node::new(&logs)];
        let mut fault = None;
        for step in &steps {
            match step {
                Step::Unknown(next) => {
                    fault = Some(*next);
                    memory.fail_next(*next);
                }
                Step::Write(node, write) => match perform(&nodes[*node].index, write) {
                    Err(Error::OutcomeUnknown(_)) => {
                        let stored = fault.take() == Some(Fault::Lost);
                        if memory.operations() > alone.info().lsn {
                            assert!(stored);
                            perform(&alone, write).unwrap();
                        }
                    }
                    told => {
                        let told = told.map_err(|error| error.to_string());
                        assert_eq!(told, perform(&alone, write).map_err(|error| error.to_string()), "{write:?} at {node}");
                    }
                },
                other => perturb(&mut nodes, other),
            }
        }
        for node in &nodes {
            assert_equal(&node.index, &alone);
            assert!(node.index.poison.get().is_none());
        }
    });
}

#[test]
fn conditional_writes_that_race_on_two_nodes_are_counted_each_once() {
    let (_, logs) = in_memory();
    count_together(&[Node::new(&logs), Node::new(&logs)], 4, 25);
}

/// Threads of all nodes count on one point by compare and set, beside others that write what makes groups.
fn count_together(nodes: &[Node], threads: usize, each: usize) {
    let begin = Barrier::new(nodes.len() * threads);
    let value = |index: &Index| index.get("counter").unwrap().map(|point| (point.values[0], point.lsn));
    let count = |index: &Index, name: &str| {
        begin.wait();
        let (mut done, mut refused) = (0, 0);
        while done < each {
            let (before, condition) = match value(index) {
                Some((before, lsn)) => (before, Condition::StoredBy(lsn)),
                None => (0.0, Condition::Absent),
            };
            match put(index, "counter", before + 1.0, condition) {
                Ok(_) => done += 1,
                // It says so of the newest state, which the node has from then on.
                Err(Error::Unmet(_) | Error::Busy(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            match put(index, &format!("{name} {done}"), 0.0, Condition::Always) {
                Ok(_) | Err(Error::Busy(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        refused
    };
    let refused: usize = std::thread::scope(|scope| {
        let counting: Vec<_> = (0..nodes.len() * threads)
            .map(|at| {
                let (index, count) = (&nodes[at % nodes.len()].index, &count);
                scope.spawn(move || count(index, &at.to_string()))
            })
            .collect();
        counting.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    println!("{refused} refused");
    assert!(refused > 0, "nobody met anybody");
    for node in nodes {
        node.index.catch_up().unwrap();
        assert_eq!(value(&node.index).map(|(value, _)| value as usize), Some(nodes.len() * threads * each));
        assert_equal(&node.index, &nodes[0].index);
    }
}

#[test]
fn unknown_outcome_does_not_poison_and_is_settled_before_the_next_write() {
    for fault in [Fault::Lost, Fault::NotStored] {
        let (memory, logs) = in_memory();
        let (one, other) = (Node::new(&logs), Node::new(&logs));
        assert_eq!(one.put("a").unwrap(), 1);
        memory.fail_next(fault);
        assert!(matches!(one.put("b"), Err(Error::OutcomeUnknown(_))));
        let is_stored = fault == Fault::Lost;
        let appends = memory.appends();
        assert_eq!(one.put("c").unwrap(), 2 + Lsn::from(is_stored));
        assert_eq!((one.index.get("b").unwrap().is_some(), memory.appends()), (is_stored, appends + 1), "it has read before");

        memory.fail_next(fault);
        assert!(matches!(one.put("d"), Err(Error::OutcomeUnknown(_))));
        // What is unmet is said of a state with it, and without asking the log to take anything.
        let appends = memory.appends();
        assert!(matches!(put(&one.index, "d", 2.0, Condition::StoredBy(99)), Err(Error::Unmet(_))));
        assert_eq!((one.index.get("d").unwrap().is_some(), memory.appends()), (is_stored, appends));
        assert_equal(&one.index, &other.index);
    }
    let (memory, logs) = in_memory();
    let one = Node::new(&logs);
    memory.fail_next(Fault::Refused);
    assert!(matches!(one.put("a"), Err(Error::Io(_))), "nothing was stored, which is known");
    assert_eq!(one.put("a").unwrap(), 1);
}

/// A condition that does not hold here may hold in what others wrote meanwhile.
#[test]
fn answer_that_logs_nothing_is_of_the_newest_state() {
    let (_, logs) = in_memory();
    let (one, other) = (Node::new(&logs), Node::new(&logs));
    let lsn = one.put("a").unwrap();
    assert_eq!(put(&other.index, "a", 2.0, Condition::StoredBy(lsn)).unwrap(), 2);
    assert!(matches!(one.index.delete_if("a", Condition::StoredBy(lsn), Durability::Fsync), Err(Error::Unmet(_))));
    assert_eq!(one.index.delete(&["a"], Durability::Fsync).unwrap().deleted_count, 1);
    assert_eq!(other.index.delete(&["a"], Durability::Fsync).unwrap().deleted_count, 0, "it is gone by the other node");
}

/// As by a nats-server that was cut off, and takes itself for the leader that it was.
#[test]
fn nothing_is_said_of_an_older_state_that_reading_was_told_of() {
    let (memory, logs) = in_memory();
    let (one, other, restarted) = (Node::new(&logs), Node::new(&logs), Node::new(&logs));
    let lsn = one.put("a").unwrap();
    assert_eq!(other.index.catch_up().unwrap(), lsn);
    let newer = one.put("a").unwrap();
    restarted.index.catch_up().unwrap();
    memory.hide(1);
    // It holds, and so does what the node does not know.
    for refused in [put(&other.index, "a", 3.0, Condition::StoredBy(newer)), other.index.catch_up_to(newer)] {
        assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");
    }
    assert!(matches!(other.index.delete(&["b"], Durability::Fsync), Err(Error::Busy(_))), "\"b\" may be there");
    // It has more in its files, which is no loss of the log's.
    let disk = restarted.disk.clone();
    let refused = restarted.try_restart(Survival::All).map(drop);
    assert!(matches!(refused, Err(Error::Busy(_))), "{refused:?}");

    memory.hide(0);
    assert_eq!(other.index.catch_up_to(newer).unwrap(), newer);
    let store = Store::open_with(options(&disk.crash(Survival::All)), Some(logs.into())).unwrap();
    assert_equal(&store.index(&tenant(), ID).unwrap(), &other.index);
    assert_eq!(put(&other.index, "a", 3.0, Condition::StoredBy(newer)).unwrap(), newer + 1);
}

#[test]
fn node_that_was_away_catches_up_and_its_feed_tells_all_of_it_at_the_same_times() {
    let (_, logs) = in_memory();
    let (one, other) = (Node::new(&logs), Node::new(&logs));
    let listener = other.index.listen().unwrap();
    let woken = Arc::new(Woken::default());
    let waker = std::task::Waker::from(Arc::clone(&woken));
    let mut context = std::task::Context::from_waker(&waker);
    assert!(listener.poll_durable(1, &mut context).is_pending());
    for n in 0..300 {
        one.put(&format!("p{}", n % 50)).unwrap();
    }
    assert_eq!(other.index.info().lsn, 0, "nobody told it");
    assert_eq!(other.index.catch_up_to(200).unwrap(), 300);
    assert!(woken.0.load(Relaxed) && listener.poll_durable(300, &mut context).is_ready());
    assert!(matches!(other.index.catch_up_to(301), Err(Error::Invalid { code: "lsn_ahead", .. })));
    assert_eq!(other.index.info().durable_lsn, 300);
    assert_equal(&one.index, &other.index);
    let feed = |node: &Node| {
        let query = ChangesQuery { from_lsn: 1, limit: 1000, filter: None, include_values: true };
        node.index.changes(&query).unwrap().changes
    };
    assert_eq!((feed(&one).len(), feed(&one)), (300, feed(&other)));
    let times = one.times();
    assert_eq!((times.len(), times[&300]), (300, 300 * 1000), "the log's own");
    assert_eq!(times, other.times());
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

/// With the snapshot of its own that a checkpoint is, a node needs nothing of the log before.
#[test]
fn restarted_node_goes_on_at_the_place_of_its_checkpoint_and_takes_what_its_files_lost() {
    for survival in [Survival::None, Survival::All, Survival::Torn(5)] {
        let (memory, logs) = in_memory();
        let (one, other) = (Node::new(&logs), Node::new(&logs));
        one.put_all("a", 20);
        one.index.checkpoint().unwrap();
        let place = one.index.root.lock().current().shared.unwrap();
        assert_eq!((place.lsn, place.sequence), (20, 20));
        other.index.catch_up().unwrap();
        memory.trim_to(place);
        one.put_all("b", 20);
        let one = one.restart(survival);
        assert_eq!(one.index.info().lsn, 40);
        other.put("c").unwrap();
        one.put("d").unwrap();
        assert_equal(&one.index, &other.index);
        let one = one.restart(survival);
        assert_equal(&one.index, &other.index);
        assert_eq!(one.index.root.lock().current().shared, Some(place), "until the next checkpoint");
    }
}

#[test]
fn node_behind_what_is_kept_says_that_it_needs_a_snapshot_and_one_of_a_deleted_index_that_it_is_gone() {
    let (memory, logs) = in_memory();
    let (one, late) = (Node::new(&logs), Node::new(&logs));
    one.put_all("", 5);
    let place = one.index.writer.lock().shared_log.as_ref().unwrap().place();
    memory.trim_to(place);
    for refused in [late.index.catch_up().map(drop), late.put("x").map(drop), late.try_restart(Survival::All).map(drop)] {
        assert!(matches!(&refused, Err(Error::Closed(why)) if why.contains("newer snapshot")), "{refused:?}");
    }
    assert_eq!(one.put("x").unwrap(), 6, "who is not behind goes on");

    memory.delete();
    let listener = one.index.listen().unwrap();
    assert!(matches!(one.index.catch_up(), Err(Error::NotFound(What::Index))));
    assert!(matches!(one.put("y"), Err(Error::NotFound(What::Index))));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(matches!(listener.poll_durable(9, &mut context), std::task::Poll::Ready(Err(Error::NotFound(_)))));
}

/// It must not go on with a state that no other node has.
#[test]
fn log_that_lost_what_it_acknowledged_is_noticed() {
    for goes_on in [false, true] {
        let (memory, logs) = in_memory();
        let one = Node::new(&logs);
        one.put_all("", 3);
        one.index.sync().unwrap();
        memory.lose(1);
        if goes_on {
            let other = Node::new(&logs);
            other.put("instead").unwrap();
            other.put("more").unwrap();
        }
        let refused = one.try_restart(Survival::All).map(drop);
        let expected = if goes_on { "is not what the shared log has" } else { "lost what it acknowledged" };
        assert!(matches!(&refused, Err(Error::Closed(why)) if why.contains(expected)), "{refused:?}");
    }
}

/// The shared log has it, and this node has no room for it: nobody may be told that nothing was stored, and nothing may be left out.
#[test]
fn node_that_has_no_room_for_what_is_committed_takes_it_when_it_has() {
    let (memory, logs) = in_memory();
    let (one, other) = (Node::new(&logs), Node::new(&logs));
    one.put("a").unwrap();
    // Its next write to the disk is that of the frame, or, where the one before failed, that which makes room ahead and the cut after it.
    let fail = |times: u64| (1..=times).for_each(|n| one.disk.fail_at(n, DiskFault::Enospc));
    fail(1);
    assert!(matches!(one.put("b"), Err(Error::OutcomeUnknown(_))));
    assert_eq!((one.index.info().lsn, one.disk.faults_left(), memory.operations()), (1, 0, 2));
    fail(2);
    let refused = one.put("c");
    assert!(matches!(refused, Err(Error::Full(_))), "what comes before has no room yet, so nothing was stored: {refused:?}");
    assert_eq!((one.index.info().lsn, one.disk.faults_left(), memory.operations()), (1, 0, 2));
    assert_eq!(one.put("d").unwrap(), 3);
    assert!(one.index.get("b").unwrap().is_some() && one.index.get("c").unwrap().is_none());

    other.put_all("e", 3);
    fail(1);
    assert!(matches!(one.index.catch_up(), Err(Error::Full(_))));
    assert_eq!(one.put("f").unwrap(), 7);
    assert!(one.index.poison.get().is_none());
    assert_equal(&one.index, &other.index);
}

#[test]
fn full_disk_of_a_node_holds_up_that_node_alone() {
    let (memory, logs) = in_memory();
    let (one, other) = (Node::new(&logs), Node::new(&logs));
    one.put("a").unwrap();
    one.disk.set_capacity(Some(one.disk.used_bytes()));
    let refused = (0..2000).find_map(|n| one.put(&format!("b{n}")).err());
    assert!(matches!(refused, Some(Error::Full(_))), "{refused:?}");
    assert_eq!(memory.operations(), one.index.info().lsn, "nothing was stored");
    other.put("c").unwrap();
    one.disk.set_capacity(None);
    one.put("d").unwrap();
    assert!(one.index.get("c").unwrap().is_some());
    assert_equal(&one.index, &other.index);
}

#[test]
fn group_is_no_larger_than_a_frame_of_the_shared_log() {
    let (memory, logs) = in_memory();
    let one = Node::new(&logs);
    let writer = one.index.writer.lock();
    // Each is a third of a frame, by what it may take.
    std::thread::scope(|scope| {
        let write = |n| {
            let index = &one.index;
            scope.spawn(move || put(index, &format!("{n}{}", "x".repeat(80)), 1.0, Condition::Always).unwrap())
        };
        let writing: Vec<_> = (0..10).map(write).collect();
        while one.index.waiting_writes() < 10 {
            std::thread::yield_now();
        }
        drop(writer);
        let lsns: Vec<Lsn> = writing.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(lsns.iter().max(), Some(&10));
    });
    assert!((2..10).contains(&memory.appends()), "{}", memory.appends());
    assert_eq!(one.index.info().lsn, 10);
}
