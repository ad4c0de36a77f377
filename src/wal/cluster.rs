//! What the nodes of a cluster share, as one of them reaches it: the log of each index.

use std::fmt::Debug;

use super::log::{Log, Place};
use crate::error::Result;
use crate::types::{IndexId, TenantId};

/// The logs of the indices. Calls block, and any number of threads may make them.
pub(crate) trait Cluster: Debug + Send + Sync {
    /// The log of an index behind a place, of which the caller has everything before.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): there is none to be had now.
    fn open(&self, tenant: &TenantId, index: IndexId, from: Place) -> Result<Box<dyn Log<Place = Place>>>;
}
