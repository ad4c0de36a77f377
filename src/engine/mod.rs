//! The store: indices of tenants, each with a log, rows and checkpoints. Plain threads, no async.

mod apply;
mod batch;
mod checkpoint;
mod compact;
mod erase;
mod index;
mod limits;
mod maintenance;
mod policy;
mod recover;
mod reserve;
mod search;
mod store;
mod view;
mod writer;

pub use batch::Batch;
pub use index::Index;
pub use store::{Store, StoreOptions};
