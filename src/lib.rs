//! A durable vector store on FAISS's kernels. (The way of a write is told here when it is whole.)

mod checkpoint;
pub mod config;
pub mod engine;
mod error;
mod format;
pub mod io;
pub mod segment;
mod types;
mod wal;

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod cli;

pub use engine::{Batch, Index, Store, StoreOptions};
pub use error::{Damage, Error, Fault, Result, What};
pub use segment::filter::Filter;
pub use types::{
    CheckpointReport, Deleted, Durability, Hit, IndexId, IndexInfo, IndexSpec, IndexState, Lsn, Metric, Point, Query, TenantId,
    Upserted,
};
