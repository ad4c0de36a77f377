//! What is measured: a server over HTTP, or the library in this process.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::Failure;
use crate::config::Limits;
use crate::engine::Batch;
use crate::types::{IndexId, IndexOptions, Metric, SearchParams};

/// Has indices of the bench's own for a while.
pub trait Target: Sync {
    /// What a client sends, whole: made before the clock starts.
    type Request: Sync;
    type Client: Client<Self::Request> + Send;

    /// Those under which it takes batches.
    fn limits(&self) -> Limits;

    /// Creates an index.
    ///
    /// # Errors
    /// Where it is refused, or the server cannot be reached.
    fn create(&self, name: &str, settings: &Settings) -> Result<IndexId, Failure>;

    /// # Errors
    /// The index may still be there.
    fn delete(&self, index: IndexId) -> Result<(), Failure>;

    /// Rewrites an index into as few segments as may be, and builds what there is to build.
    ///
    /// # Errors
    /// Where it is refused.
    fn compact(&self, index: IndexId) -> Result<(), Failure>;

    /// # Errors
    /// Where the index refuses.
    fn status(&self, index: IndexId) -> Result<Status, Failure>;

    /// A write of points, all or nothing.
    fn write(&self, index: IndexId, points: Batch) -> Self::Request;

    fn search(&self, index: IndexId, search: &Search<'_>) -> Self::Request;

    /// A client of its own for each thread.
    ///
    /// # Errors
    /// Where there is no connection.
    fn client(&self, index: IndexId) -> Result<Self::Client, Failure>;
}

/// Sends one request after the other.
pub trait Client<Request> {
    /// What must be done with a request before the clock starts.
    fn prepare(&mut self, request: &Request);

    /// Sends the request that was prepared, and waits for all of the answer.
    ///
    /// # Errors
    /// Where it was not answered with success.
    fn send(&mut self, request: &Request) -> Result<(), Refusal>;

    /// The ids that the last answer found. Not for the timed part.
    ///
    /// # Errors
    /// Where it is no answer to a search.
    fn found(&self) -> Result<Vec<String>, Failure>;
}

/// A request that was not done.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// A few words that many of them share: they are counted by them.
    pub reason: String,
    /// Whether it may be done later.
    pub is_busy: bool,
    /// Whether no more can be sent.
    pub is_final: bool,
}

/// What an index is created with.
#[derive(Clone, Debug)]
pub struct Settings {
    pub dimension: usize,
    pub index_type: String,
    pub metric: Metric,
    pub options: IndexOptions,
}

/// A search, as all targets have it.
#[derive(Clone, Debug)]
pub struct Search<'a> {
    pub vector: &'a [f32],
    pub k: usize,
    pub exact: bool,
    pub params: SearchParams,
    /// JSON.
    pub filter: Option<&'a str>,
}

/// What is told of an index that was built: as the index document has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Status {
    pub factory: String,
    pub state: String,
    pub vector_count: u64,
    pub unindexed_rows: u64,
    pub segments: u64,
    pub builds: Vec<Value>,
}
