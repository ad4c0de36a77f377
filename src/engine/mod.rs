//! The store: indices of tenants, each with a log, rows and checkpoints. Plain threads, no async.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::Limits;
use crate::error::{Error, Result};
use crate::io::Io;
use crate::types::*;

/// What a [`Store`] is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Created where it is absent.
    pub data_dir: PathBuf,
    pub limits: Limits,
    pub io: Arc<dyn Io>,
    /// Run the timer and the checkpointer on threads of their own. Without, only what is called happens: for tests on the
    /// simulated disk.
    pub background: bool,
}

/// A data directory, open. Share it by `Arc`.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Locks the directory and recovers every index in it. An index that cannot be recovered is *refused*: it stays in the
    /// directory untouched, answers every call with the reason, and the others serve.
    pub fn open(_options: StoreOptions) -> Result<Self> {
        todo!()
    }

    /// Creates an index, durably.
    pub fn create_index(&self, _tenant: &TenantId, _spec: &IndexSpec) -> Result<Arc<Index>> {
        todo!()
    }

    /// # Errors
    /// [`Error::NotFound`], also where the index is another tenant's; [`Error::Corrupt`] where recovery refused it.
    pub fn index(&self, _tenant: &TenantId, _id: IndexId) -> Result<Arc<Index>> {
        todo!()
    }

    /// Every index of the tenant that serves, ordered by creation time.
    pub fn indices(&self, _tenant: &TenantId) -> Vec<Arc<Index>> {
        todo!()
    }

    /// Indices of the tenant that recovery refused, with the reason.
    pub fn refused(&self, _tenant: &TenantId) -> Vec<(IndexId, Error)> {
        todo!()
    }

    /// Deletes an index, durably: after this returned it never comes back.
    pub fn delete_index(&self, _tenant: &TenantId, _id: IndexId) -> Result<()> {
        todo!()
    }

    /// Stops the background threads and checkpoints every dirty index. Later writes are refused.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}

/// One index, open.
#[derive(Debug)]
pub struct Index {}

impl Index {
    pub fn info(&self) -> IndexInfo {
        todo!()
    }

    /// An empty batch for this index; [`Batch::push`] validates each point.
    pub fn batch(&self) -> Batch {
        todo!()
    }

    /// Stores a batch as one mutation: all of it or nothing, and visible as a whole.
    pub fn upsert(&self, _batch: Batch, _durability: Durability) -> Result<Upserted> {
        todo!()
    }

    /// Deletes the points of these ids that exist, as one mutation. `deleted_count` 0: nothing was logged.
    pub fn delete(&self, _ids: &[&str], _durability: Durability) -> Result<Deleted> {
        todo!()
    }

    pub fn get(&self, _id: &str) -> Result<Option<Point>> {
        todo!()
    }

    /// The nearest points, best first; `k` of them where there are `k` that match.
    pub fn search(&self, _query: &Query) -> Result<Vec<Hit>> {
        todo!()
    }

    /// Makes every write that was acknowledged durable, whatever its durability.
    pub fn sync(&self) -> Result<()> {
        todo!()
    }

    /// Writes what is new to a checkpoint, and drops log that no kept checkpoint needs.
    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        todo!()
    }
}

/// Points that will be stored together.
#[derive(Debug)]
pub struct Batch {}

impl Batch {
    /// Adds a point. `metadata` is the JSON text of an object.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `id`, `values` or `metadata`; the batch is as before. Error `code`s: `invalid_id`,
    /// `wrong_dimension`, `not_finite`, `zero_vector`, `invalid_metadata`, `metadata_too_large`, `metadata_too_deep`.
    pub fn push(&mut self, _id: &str, _values: &[f32], _metadata: &str) -> Result<()> {
        todo!()
    }

    pub fn len(&self) -> usize {
        todo!()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
