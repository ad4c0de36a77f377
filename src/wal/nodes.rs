//! Which nodes of a cluster are alive, and what one asks another: for nodes that have some of the indices only. One suite for every
//! implementation is in `wal/conformance/nodes.rs`.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use crate::error::Result;
use crate::types::{IndexId, Lsn, TenantId};

/// The nodes, as one of them reaches the others. A node is its address, under which the others send it requests. Calls block, and any number of
/// threads may make them.
///
/// # Contract
///
/// * Who joined is told of all nodes that are alive, itself among them: before [`join`](Self::join) returns, and after each change, soon.
/// * A node is alive from when it joins until it leaves, or until it has not been heard of for a while: it says by itself that it is, as long as its
///   member is there.
/// * What nobody can tell now changes nothing: where the servers do not answer, the nodes of before stay.
pub(crate) trait Nodes: Debug + Send + Sync {
    /// Makes this node one of them.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): it cannot be one now.
    fn join(&self, node: &str, member: &Arc<dyn Member>) -> Result<()>;

    /// The node is none of them any more. Of one that is none, nothing happens.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): it is taken for one for a while.
    fn leave(&self, node: &str) -> Result<()>;

    /// Whether a node says that it [has](Member::has) the index. One that does not answer does not.
    fn has(&self, node: &str, tenant: &TenantId, index: IndexId, lsn: Lsn) -> bool;
}

/// A node, as it is told of the others and asked by them.
#[cfg_attr(not(any(test, feature = "server")), expect(dead_code, reason = "who asks is part of the server"))]
pub(crate) trait Member: Send + Sync {
    /// The nodes that are alive now.
    fn alive(&self, nodes: BTreeSet<String>);

    /// Whether this node is to have the index, and answers from a state with this mutation in it. May block for as long as it takes to open an index.
    fn has(&self, tenant: &TenantId, index: IndexId, lsn: Lsn) -> bool;
}
