//! The write-ahead log of one index: what is not in a checkpoint is here, synced before it is acknowledged.
//!
//! `log` says what a log is, wherever it is. On one machine it is files:
//! `operation` says what a mutation is in bytes, [`scan`] reads a segment and says how it ends, [`file_log`] appends, syncs, rotates
//! and recovers, [`read`] reads again what is durable, [`archive`] says how far it goes. The arrows: the engine calls `file_log` and
//! `read`; the log never calls back but for replaying, and to give what was read. [`cluster`] is what nodes share: the log of
//! each index; [`nodes`] says which of them are alive. `jetstream`, a feature, is a log on NATS JetStream.

pub(crate) mod archive;
pub(crate) mod cluster;
pub(crate) mod file_log;
#[cfg(feature = "server")]
pub(crate) mod jetstream;
pub(crate) mod log;
pub(crate) mod nodes;
pub(crate) mod operation;
mod pieces;
pub(crate) mod read;
pub(crate) mod recover;
pub(crate) mod salvage;
pub(crate) mod scan;

#[cfg(test)]
pub(crate) mod conformance;
#[cfg(test)]
mod tests;
