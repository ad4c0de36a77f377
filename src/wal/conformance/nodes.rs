//! One suite for every implementation of [`Nodes`]: what the contract in `wal/nodes.rs` promises, seen on each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::super::nodes::{Member, Nodes};
use super::cluster::{acme, id};
use super::each_promise;
use super::memory_cluster::MemoryCluster;
use crate::types::{IndexId, Lsn, TenantId};

const PATIENCE: Duration = Duration::from_secs(60);

const ADDRESSES: [&str; 3] = ["http://127.0.0.1:8001", "http://node-b.example:8000", "http://[::1]:8000"];

/// Where nodes find each other, with none in it.
trait Meeting {
    /// As one more node reaches it.
    fn reach(&self) -> Arc<dyn Nodes>;

    /// As when the node is killed.
    fn kill(&self, node: &str, member: Arc<Witness>);
}

impl Meeting for MemoryCluster {
    fn reach(&self) -> Arc<dyn Nodes> {
        Arc::new(self.clone())
    }

    fn kill(&self, node: &str, member: Arc<Witness>) {
        drop(member);
        self.lose(node);
    }
}

#[cfg(feature = "server")]
impl Meeting for crate::wal::jetstream::tests::Servers {
    fn reach(&self) -> Arc<dyn Nodes> {
        self.nodes()
    }

    fn kill(&self, _node: &str, member: Arc<Witness>) {
        drop(member);
    }
}

/// A node that keeps what it is told, and has one index up to an LSN.
#[derive(Default)]
struct Witness {
    told: Mutex<Vec<BTreeSet<String>>>,
    is_told: Condvar,
    lsn: AtomicU64,
}

impl Member for Witness {
    fn alive(&self, nodes: BTreeSet<String>) {
        self.told.lock().push(nodes);
        self.is_told.notify_all();
    }

    fn has(&self, tenant: &TenantId, index: IndexId, lsn: Lsn) -> bool {
        (tenant, index) == (&acme(), id(1)) && lsn <= self.lsn.load(Relaxed)
    }
}

impl Witness {
    fn join(nodes: &Arc<dyn Nodes>, node: &str) -> Arc<Self> {
        let witness = Arc::new(Self::default());
        nodes.join(node, &(Arc::clone(&witness) as Arc<dyn Member>)).unwrap();
        let first = witness.told.lock().first().cloned();
        assert!(first.is_some_and(|nodes| nodes.contains(node)), "it is told of itself before it has joined");
        witness
    }

    #[track_caller]
    fn until(&self, nodes: &[&str]) {
        let expected: BTreeSet<String> = nodes.iter().map(ToString::to_string).collect();
        let end = Instant::now() + PATIENCE;
        let mut told = self.told.lock();
        while told.last() != Some(&expected) {
            assert!(!self.is_told.wait_until(&mut told, end).timed_out(), "{expected:?} was not told, but {:?}", told.last());
        }
    }
}

fn who_joins_and_who_leaves_is_told_to_all(meeting: impl Meeting) {
    let [a, b, c] = ADDRESSES;
    let reached = [meeting.reach(), meeting.reach(), meeting.reach()];
    let first = Witness::join(&reached[0], a);
    first.until(&[a]);
    let second = Witness::join(&reached[1], b);
    let third = Witness::join(&reached[2], c);
    [&first, &second, &third].iter().for_each(|witness| witness.until(&[a, b, c]));
    reached[1].leave(b).unwrap();
    [&first, &third].iter().for_each(|witness| witness.until(&[a, c]));
    // Of one that is none.
    reached[1].leave(b).unwrap();
    let again = Witness::join(&reached[1], b);
    [&first, &again, &third].iter().for_each(|witness| witness.until(&[a, b, c]));
}

fn who_is_killed_is_missed_and_who_is_alive_is_not(meeting: impl Meeting) {
    let [a, b, c] = ADDRESSES;
    let reached = [meeting.reach(), meeting.reach()];
    let (first, second) = (Witness::join(&reached[0], a), Witness::join(&reached[1], b));
    let third = Witness::join(&reached[1], c);
    first.until(&[a, b, c]);
    first.told.lock().clear();
    meeting.kill(c, third);
    [&first, &second].iter().for_each(|witness| witness.until(&[a, b]));
    // Which took longer than either is believed to be alive without saying so again.
    assert!(first.told.lock().iter().all(|nodes| nodes.contains(a) && nodes.contains(b)));
}

fn node_answers_what_it_has_and_no_other_does(meeting: impl Meeting) {
    let [a, b, c] = ADDRESSES;
    let reached = [meeting.reach(), meeting.reach()];
    let (_first, second) = (Witness::join(&reached[0], a), Witness::join(&reached[1], b));
    second.lsn.store(7, Relaxed);
    let asks = |node, index, lsn| reached[0].has(node, &acme(), id(index), lsn);
    assert!(asks(b, 1, 7) && asks(b, 1, 0));
    assert!(!asks(b, 1, 8), "it is not there yet");
    assert!(!asks(b, 2, 0) && !asks(a, 1, 7) && !asks(c, 1, 0));
    second.lsn.store(8, Relaxed);
    assert!(asks(b, 1, 8));
    assert!(!reached[0].has(b, &TenantId::new("other").unwrap(), id(1), 0));
    reached[1].leave(b).unwrap();
    assert!(!asks(b, 1, 0));
}

macro_rules! of_any_nodes {
    ($module:ident, $meeting:expr) => {
        each_promise!(
            $module,
            $meeting,
            [
                who_joins_and_who_leaves_is_told_to_all,
                who_is_killed_is_missed_and_who_is_alive_is_not,
                node_answers_what_it_has_and_no_other_does,
            ]
        );
    };
}

of_any_nodes!(in_memory, Some(super::MemoryCluster::default()));
#[cfg(feature = "server")]
of_any_nodes!(on_jetstream, crate::wal::jetstream::tests::Servers::start());
