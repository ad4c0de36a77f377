//! A durable vector store on FAISS's kernels: points with an id, a vector and JSON metadata, in indices that belong to tenants. The
//! server `faiss-proxy` is one user of this library; without it (`default-features = false`) there is no HTTP, no tokio and no global
//! state. Calls block, and any number of threads may make them.
//!
//! # The way of a write
//!
//! [`Index::batch`] gives a [`Batch`], which validates each point that is pushed. [`Index::upsert`] queues it. The writer who finds nobody at
//! work becomes the *leader*: it takes what has queued up, decides what each request does after those before it, and appends it to the index's
//! write-ahead log as one *frame*, checksummed and chained to the frame before it. One `fdatasync` makes the frame *durable*. Only then is it
//! applied: rows go into memory that searches read without a lock, the id map points to them, and one new View shows all of it at once. Then
//! everybody in the group has their answer, with the [`Lsn`] that counts their mutation.
//!
//! Later, a *checkpoint* writes the new rows to a *segment* file, names it in a new *manifest* by one atomic rename, puts the mapped file in
//! the place of the rows in memory, and lets the log before it go.
//!
//! Sealed rows are built into a FAISS index behind the reads, where the index's type has one: [`Index::search`] asks it, and scans what has none.
//! Segments are merged, and rewritten without their dead rows, while reads and writes go on ([`Index::compact`], [`Index::erase`]).
//!
//! After a crash, [`Store::open`] takes the newest manifest, verifies its segments, and replays the log behind it through the same code that
//! applied it. A frame that was acknowledged and is damaged makes that one index refuse ([`Error::Corrupt`]); what a crash left of a frame that nobody
//! was told of is copied aside.
//!
//! # The tree
//!
//! | module | what |
//! | --- | --- |
//! | `cli`, `api` | the server (feature `server`): arguments; HTTP |
//! | [`backup`] | backups in repositories of objects, and restoring from them |
//! | [`engine`] | store, index, group commit, the state and its Views, search, checkpoint, compaction, recovery |
//! | `wal` | the log: operations, appending, scanning, what of it may be served |
//! | [`segment`] | rows in memory and in mapped files, the id map, filters, FAISS: kernels, index types, indexes over segments |
//! | `checkpoint` | manifests and the files beside segments |
//! | `format` | bytes of headers, frames, manifests, segments |
//! | [`io`] | the storage seam: the real disk, and a simulated one that crashes on demand |
//!
//! Arrows run one way: `cli → api → backup → engine → {wal, segment, checkpoint} → format → io`. In the repository, `docs/architecture.md` tells more,
//! `docs/format.md` has every byte, and `docs/durability.md` says what is promised and what is not.
//!
//! # Example
//!
//! ```
//! use faiss_proxy::{Durability, Filter, IndexSpec, Metric, Query, Store, StoreOptions, TenantId};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! let data_dir = directory.path().join("data");
//! let tenant = TenantId::new("acme")?;
//!
//! let store = Store::open(StoreOptions::new(&data_dir))?;
//! let spec = IndexSpec { name: "fruit".into(), dimension: 3, index_type: "Flat".into(), metric: Some(Metric::Cosine), ..IndexSpec::default() };
//! let index = store.create_index(&tenant, &spec)?;
//!
//! // One batch is one mutation: all of it is stored, or nothing, and it has one LSN.
//! let mut batch = index.batch();
//! batch.push("apple", &[0.9, 0.1, 0.0], r#"{"colour": "red"}"#)?;
//! batch.push("cherry", &[0.8, 0.3, 0.1], r#"{"colour": "red"}"#)?;
//! batch.push("lemon", &[0.1, 0.9, 0.2], r#"{"colour": "yellow"}"#)?;
//! assert!(batch.push("melon", &[1.0, 2.0], "{}").is_err(), "two values in an index of three: the batch is as before");
//! let stored = index.upsert(batch, Durability::Fsync)?;
//! assert_eq!((stored.lsn, stored.added_count), (1, 3));
//!
//! // The filter applies before the two best are taken.
//! let query = Query { vector: vec![0.0, 1.0, 0.0], k: 2, filter: Some(Filter::parse(r#"{"colour": "red"}"#)?), ..Query::default() };
//! let hits = index.search(&query)?;
//! assert_eq!(hits.iter().map(|hit| hit.id.as_str()).collect::<Vec<_>>(), ["cherry", "apple"]);
//!
//! assert_eq!(index.delete(&["lemon", "plum"], Durability::Fsync)?.deleted_count, 1);
//!
//! // Rows go to a file of their own. Closing the store would do it too.
//! assert_eq!(index.checkpoint()?.lsn, 2);
//! let id = index.id();
//! store.close()?;
//! drop((index, store));
//!
//! let store = Store::open(StoreOptions::new(&data_dir))?;
//! let index = store.index(&tenant, id)?;
//! assert_eq!(index.info().vector_count, 2);
//! let apple = index.get("apple")?.expect("it was stored");
//! assert_eq!((apple.values, apple.lsn), (vec![0.9, 0.1, 0.0], 1));
//! assert!(index.get("lemon")?.is_none());
//! # Ok(())
//! # }
//! ```

#![warn(clippy::disallowed_methods, clippy::disallowed_types, clippy::unwrap_used)]

// Floats and words are cast to the bytes of files as they are, and the sizes of files to `usize`.
const _: () = assert!(cfg!(target_endian = "little"), "the files of faiss-proxy are little endian, and so must the machine be");
const _: () = assert!(cfg!(target_pointer_width = "64"), "faiss-proxy maps files that are larger than 4 GiB: it needs 64 bits");

pub mod backup;
mod checkpoint;
pub mod config;
pub mod engine;
mod error;
mod format;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod io;
mod plan;
pub mod segment;
mod sync;
mod time;
mod types;
mod wal;
mod write_options;

#[cfg(feature = "server")]
pub mod api;
#[cfg(feature = "server")]
pub mod cli;

pub use engine::{
    Batch, Consent, Effect, Finding, Index, IndexSize, Listener, LogOutline, LogRecord, Opening, Outline, Repaired,
    SampledRecall, SegmentOutline, Stages, Standing, StandingState, Store, StoreOptions, Survey, Usage, Verified,
};
pub use error::{Damage, Error, Fault, Result, Unknown, What};
pub use plan::{Access, Effort, Explanation, How, Plan};
pub use segment::filter::Filter;
pub use types::{
    BatchHits, BuildInfo, Change, ChangePage, ChangesQuery, CheckpointReport, CompactReport, Condition, Deleted, Durability,
    EraseReport, Hit, IdempotencyKey, IndexConfig, IndexCounts, IndexId, IndexInfo, IndexOptions, IndexSpec, IndexState,
    IndexSummary, Lsn, Metric, PageQuery, Picked, Point, PointPage, Query, QueryHits, RangeHits, RangeQuery, ScanPage,
    ScanPosition, ScanQuery, SearchParams, TenantId, Upserted, Within, WriteOptions,
};
