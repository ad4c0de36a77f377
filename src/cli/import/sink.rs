//! Where points go: an index of a data directory, or nowhere.

use std::sync::Arc;

use super::super::Failure;
use crate::config::Limits;
use crate::engine::{Batch, Index};
use crate::error::Result;
use crate::types::{Durability, Lsn, Metric};

/// Takes batches, one after the other.
pub trait Sink {
    /// Floats in a vector.
    fn dimension(&self) -> usize;

    /// An empty batch, which refuses what cannot be stored.
    fn batch(&self) -> Batch;

    /// Stores a batch, durably.
    ///
    /// # Errors
    /// Nothing of it was stored, or that is not known.
    fn store(&mut self, batch: Batch) -> Result<Stored, Failure>;

    /// After the last batch: what is stored is in a checkpoint. Gives the last mutation, where there is one to tell of.
    ///
    /// # Errors
    /// What was stored is durable all the same.
    fn finish(&mut self) -> Result<Option<Lsn>, Failure>;
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Now,
    /// All of its points are there, bit for bit.
    Already,
}

/// An index that this process has open.
#[derive(Debug)]
pub struct IndexSink {
    index: Arc<Index>,
    checkpoint_log_bytes: u64,
    dry_run: bool,
    /// Bytes of log since the last checkpoint: so many are in memory too.
    log_bytes: u64,
}

impl IndexSink {
    pub fn new(index: Arc<Index>, limits: &Limits, dry_run: bool) -> Self {
        Self { index, checkpoint_log_bytes: limits.checkpoint_log_bytes, dry_run, log_bytes: 0 }
    }

    /// Most batches of an interrupted import that is run again are wholly there, and of a new one not even the first point is.
    fn has(&self, batch: &Batch) -> Result<bool> {
        for (id, metadata, vector) in batch.points() {
            let same = self.index.get(id)?.is_some_and(|point| point.metadata == metadata && is_same(&point.values, vector));
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn store_batch(&mut self, batch: Batch) -> Result<Stored> {
        if self.has(&batch)? {
            return Ok(Stored::Already);
        }
        if self.dry_run {
            return Ok(Stored::Now);
        }
        self.log_bytes += batch.log_bytes() as u64;
        self.index.upsert(batch, Durability::Fsync)?;
        if self.log_bytes > self.checkpoint_log_bytes {
            self.log_bytes = 0;
            self.index.checkpoint()?;
        }
        Ok(Stored::Now)
    }
}

/// Bit for bit: 0 is not -0 here.
fn is_same(a: &[f32], b: &[f32]) -> bool {
    bytemuck::cast_slice::<f32, u8>(a) == bytemuck::cast_slice::<f32, u8>(b)
}

impl Sink for IndexSink {
    fn dimension(&self) -> usize {
        self.index.dimension()
    }

    fn batch(&self) -> Batch {
        self.index.batch()
    }

    fn store(&mut self, batch: Batch) -> Result<Stored, Failure> {
        self.store_batch(batch).map_err(|error| Failure::new(error.to_string()))
    }

    fn finish(&mut self) -> Result<Option<Lsn>, Failure> {
        if self.dry_run {
            return Ok(None);
        }
        let report = self.index.checkpoint();
        report.map(|report| Some(report.lsn)).map_err(|error| Failure::new(format!("the last checkpoint failed: {error}")))
    }
}

/// An index that a dry run does not create.
#[derive(Debug)]
pub struct NoIndex {
    pub limits: Arc<Limits>,
    pub dimension: usize,
    pub metric: Metric,
}

impl Sink for NoIndex {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.limits), self.dimension, self.metric)
    }

    fn store(&mut self, _: Batch) -> Result<Stored, Failure> {
        Ok(Stored::Now)
    }

    fn finish(&mut self) -> Result<Option<Lsn>, Failure> {
        Ok(None)
    }
}
