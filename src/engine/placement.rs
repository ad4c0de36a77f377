//! Which nodes are to have an index: of those that are alive, the few whose weight for it is the highest (rendezvous hashing). Every node that knows the
//! same nodes comes to the same answer, and where one joins or leaves, only what it has or comes to have moves.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::slots::Key;
use crate::error::Result;
use crate::sync::ArcSwap;
use crate::types::{IndexId, IndexSummary, TenantId};
use crate::wal::nodes::{Member, Nodes};

/// The first nodes for an index, the highest weight first.
fn holders(nodes: &BTreeSet<String>, id: IndexId, count: usize) -> Vec<&str> {
    let mut weighed: Vec<(u64, &str)> = nodes.iter().map(|node| (weight(node, id), node.as_str())).collect();
    weighed.sort_unstable_by(|a, b| b.cmp(a));
    weighed.into_iter().take(count).map(|(_, node)| node).collect()
}

/// The beginning of a SHA-256 of both: all nodes must agree on it, of whatever version.
fn weight(node: &str, id: IndexId) -> u64 {
    let hash = Sha256::new().chain_update(node).chain_update([0]).chain_update(id.as_bytes()).finalize();
    u64::from_be_bytes(*hash.first_chunk().expect("it has 32 bytes"))
}

/// What this node knows of where the indices are.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(super) nodes: Arc<dyn Nodes>,
    /// This node.
    own: String,
    /// Nodes that have an index.
    count: usize,
    alive: ArcSwap<BTreeSet<String>>,
    /// Of the catalogue, what is neither here nor is to be.
    elsewhere: Mutex<HashMap<Key, IndexSummary>>,
    /// Here still, and every node has it that is to have it.
    leaving: Mutex<HashSet<Key>>,
}

impl Placement {
    /// For the node of this address; so many nodes have an index. Until it joins it knows itself alone.
    #[cfg_attr(not(any(test, feature = "server")), expect(dead_code, reason = "who places indices is part of the server"))]
    pub(crate) fn new(nodes: Arc<dyn Nodes>, own: &str, count: usize) -> Self {
        let alive = ArcSwap::from_pointee(BTreeSet::from([own.to_owned()]));
        Self { nodes, own: own.to_owned(), count, alive, elsewhere: Mutex::default(), leaving: Mutex::default() }
    }

    pub(super) fn join(&self, member: &Arc<dyn Member>) -> Result<()> {
        self.nodes.join(&self.own, member)
    }

    pub(super) fn leave(&self) {
        if let Err(error) = self.nodes.leave(&self.own) {
            tracing::warn!(%error, "the other nodes take this one for alive for a while");
        }
    }

    /// Whether that is something else than before.
    pub(super) fn set_alive(&self, nodes: BTreeSet<String>) -> bool {
        let is_new = **self.alive.load() != nodes;
        if is_new {
            tracing::info!(nodes = nodes.iter().cloned().collect::<Vec<_>>().join(","), "nodes that are alive");
            self.alive.store(Arc::new(nodes));
        }
        is_new
    }

    pub(super) fn alive(&self) -> Arc<BTreeSet<String>> {
        self.alive.load_full()
    }

    #[cfg(feature = "server")]
    pub(crate) fn is_alive(&self, node: &str) -> bool {
        self.alive.load().contains(node)
    }

    /// The nodes that are to have an index, those first that are to be asked first.
    pub(crate) fn holders(&self, id: IndexId) -> Vec<String> {
        holders(&self.alive.load(), id, self.count).into_iter().map(str::to_owned).collect()
    }

    /// Whether this node is one of them.
    pub(crate) fn holds(&self, id: IndexId) -> bool {
        holders(&self.alive.load(), id, self.count).contains(&self.own.as_str())
    }

    pub(super) fn note_elsewhere(&self, tenant: TenantId, index: IndexSummary) {
        self.elsewhere.lock().insert((tenant, index.id), index);
    }

    pub(super) fn forget_elsewhere(&self, key: &Key) {
        self.elsewhere.lock().remove(key);
    }

    pub(super) fn elsewhere(&self) -> Vec<Key> {
        self.elsewhere.lock().keys().cloned().collect()
    }

    pub(super) fn elsewhere_of(&self, tenant: &TenantId) -> Vec<IndexSummary> {
        let elsewhere = self.elsewhere.lock();
        elsewhere.iter().filter(|(key, _)| key.0 == *tenant).map(|(_, index)| index.clone()).collect()
    }

    /// Every node that is to have the index has it, without this one.
    pub(super) fn are_ready(&self, key: &Key, lsn: u64) -> bool {
        let holders = self.holders(key.1);
        !holders.is_empty() && holders.iter().all(|node| *node != self.own && self.nodes.has(node, &key.0, key.1, lsn))
    }

    pub(super) fn set_leaving(&self, key: &Key, is_leaving: bool) {
        let mut leaving = self.leaving.lock();
        if is_leaving {
            leaving.insert(key.clone())
        } else {
            leaving.remove(key)
        };
    }

    #[cfg(any(test, feature = "server"))]
    pub(super) fn is_leaving(&self, key: &Key) -> bool {
        self.leaving.lock().contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDICES: u128 = 3_000;

    fn nodes(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<String> {
        numbers.into_iter().map(|number| format!("http://10.0.0.{number}:8000")).collect()
    }

    fn ids() -> impl Iterator<Item = IndexId> {
        (0..INDICES).map(IndexId::from_u128)
    }

    /// Nodes of another version must come to the same.
    #[test]
    fn weight_is_the_beginning_of_a_sha_256() {
        let id = IndexId::from_u128(0x67e5_5044_10b1_426f_9247_bb68_0e5f_e0c8);
        assert_eq!(weight("http://127.0.0.1:8001", id), WEIGHT);
    }

    /// `printf 'http://127.0.0.1:8001\0\x67\xe5\x50\x44\x10\xb1\x42\x6f\x92\x47\xbb\x68\x0e\x5f\xe0\xc8' | sha256sum`
    const WEIGHT: u64 = 0xd8be_15aa_7231_83af;

    #[test]
    fn an_index_has_so_many_nodes_and_each_node_its_share() {
        let five = nodes(1..=5);
        let mut held: HashMap<&str, usize> = HashMap::new();
        for id in ids() {
            let holders = holders(&five, id, 2);
            assert_eq!(holders.iter().collect::<BTreeSet<_>>().len(), 2);
            holders.into_iter().for_each(|node| *held.entry(node).or_default() += 1);
        }
        let share = INDICES as usize * 2 / 5;
        assert!(held.len() == 5 && held.values().all(|count| count.abs_diff(share) < share / 10), "{share}: {held:?}");
        assert_eq!(holders(&nodes(1..=2), IndexId::nil(), 3).len(), 2, "where there are fewer, all have it");
    }

    #[test]
    fn node_that_leaves_moves_its_own_indices_and_no_other() {
        let (five, four) = (nodes(1..=5), nodes(1..=4));
        let gone = five.difference(&four).next().unwrap().as_str();
        let mut moved = 0;
        for id in ids() {
            let (before, after) = (holders(&five, id, 2), holders(&four, id, 2));
            let stay: Vec<&str> = before.iter().copied().filter(|node| *node != gone).collect();
            assert_eq!(stay, after[..stay.len()], "those that stay are asked in the same order");
            moved += after.len() - stay.len();
        }
        let share = INDICES as usize * 2 / 5;
        assert!(moved.abs_diff(share) < share / 10, "{moved} moved");
    }
}
