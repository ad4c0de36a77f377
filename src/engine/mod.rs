//! The store: indices of tenants, each with a log, rows and checkpoints. Plain threads, no async.

mod apply;
mod batch;
mod budget;
mod catalogue;
mod changes;
mod checkpoint;
mod compact;
mod configure;
mod directories;
mod dormant;
mod erase;
mod find;
mod follow;
mod history;
mod index;
mod keys;
mod limits;
mod listeners;
mod maintenance;
pub(crate) mod merge_patch;
mod moving;
pub(crate) mod pin;
pub(crate) mod placement;
mod policy;
mod published;
mod queue;
mod read;
mod recover;
mod repair;
mod reserve;
mod resolve;
pub(crate) mod restore;
mod retention;
mod search;
mod shared_log;
mod slot;
mod slots;
pub(crate) mod snapshots;
mod stages;
mod standing;
mod store;
mod survey;
mod verify;
mod view;
mod write;
mod writer;

pub use batch::Batch;
pub use changes::Listener;
#[cfg(feature = "server")]
pub(crate) use changes::PAGE_LOG_BYTES;
pub use index::Index;
#[cfg(feature = "server")]
pub(crate) use limits::check as check_limits;
pub use repair::{Consent, Repaired};
#[cfg(feature = "server")]
pub(crate) use stages::SHORT;
pub use stages::Stages;
pub use standing::{IndexSize, Standing, StandingState, Usage};
pub use store::{Opening, Store, StoreOptions};
pub use survey::{LogOutline, LogRecord, Outline, SegmentOutline, Survey};
pub use verify::{Effect, Finding, SampledRecall, Verified};
