//! What the engine asks of a log, wherever that is. `wal/conformance.rs` runs one suite on each.
#![cfg_attr(
    not(test),
    expect(dead_code, reason = "how durable a log is, nobody asks of a shared one; and without the server nobody trims it")
)]

use std::fmt::Debug;

use super::operation::Operation;
use super::read::Commit;
use crate::error::Result;
pub(crate) use crate::format::position::Place;
use crate::types::Lsn;

/// The log of one index, as one node knows it: a value of this type is behind the last frame that it appended or gave to be read.
///
/// # Contract
///
/// * An LSN counts the operations of an index: 1, 2, 3, … without gaps, in the order in which everybody reads them.
/// * What was appended and synced is in the log for good, whoever opens it after any crash.
/// * A frame, and an operation that spans several, is in the log whole or not at all.
/// * Nobody appends who does not know everything that is in the log already: [`Appended::Moved`]. So what was resolved against the state
///   at [`written_lsn`](Self::written_lsn) is logged right behind that state, or not at all. There is no other fence.
/// * What is not known is no loss of order: after an [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown), what was appended is either
///   the next that anybody reads, or never comes.
///
/// Calls block, and are made by one thread at a time. What is only about files (segments, and the manifest that names them) is not here.
pub(crate) trait Log: Debug + Send {
    /// A place between two frames, for a checkpoint to name. Logs are opened at one.
    type Place: Copy + Debug + PartialEq;

    /// The place behind the last whole operation that is known here: what a checkpoint of the state at this moment names.
    fn place(&self) -> Self::Place;

    /// LSN of the last operation that is known here. Others may have appended more.
    fn written_lsn(&self) -> Lsn;

    /// Up to here, what is known survives whatever the log is made to survive. `durable_lsn <= written_lsn`.
    fn durable_lsn(&self) -> Lsn;

    /// When the last operation that was appended or read here was committed; 0 where there was none yet.
    fn time_us(&self) -> u64;

    /// The most bytes, encoded, of several operations that are appended together.
    fn frame_bytes_max(&self) -> usize;

    /// Appends operations as one frame, or one operation that is too large for a frame as several. Of no operations it stores nothing, and says as
    /// surely as any append whether this is the newest that anybody wrote, which reading does not.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full), [`Error::Io`](crate::Error::Io): nothing was stored, and the log is as before.
    /// [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown): that could not be made sure. A log that others append to can be asked again
    /// ([`read_new`](Self::read_new) tells); the log of files is read-only from then on.
    ///
    /// # Panics
    /// Where several operations are more than [`frame_bytes_max`](Self::frame_bytes_max): our own mistake.
    fn append(&mut self, operations: &[&Operation<'_>]) -> Result<Appended>;

    /// Makes durable what was appended. Nothing to do where appending does.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`](crate::Error::OutcomeUnknown): a sync failed, for good.
    fn sync(&mut self) -> Result<()>;

    /// Gives, in order and each once, the operations behind [`place`](Self::place), and comes to stand behind them: all that whoever opens
    /// the log replays, and later what others appended. What is in the log when this is called is given, but for what a server does not know
    /// yet that was cut off from those who have it.
    ///
    /// # Errors
    /// [`Error::Gone`](crate::Error::Gone): what is behind the place was trimmed; take a newer snapshot.
    /// [`Error::NotFound`](crate::Error::NotFound): the index was deleted. [`Error::Corrupt`](crate::Error::Corrupt): a frame does not
    /// check, or does not follow. [`Error::Io`](crate::Error::Io): the log does not answer. Those of `each` are passed on. In every case the log
    /// stands behind the last frame of which all operations were taken, and the next call begins there.
    fn read_new(&mut self, each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<()>) -> Result<()>;

    /// Lets go of what is before a place of this log, which a snapshot that was read back has. The log may keep more, and always keeps what is
    /// behind the place. Trimming again, or to an older place, does no harm.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io): it may be trimmed or not.
    fn trim(&mut self, to: Self::Place) -> Result<()>;
}

/// What came of appending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "where somebody else wrote, nothing was stored"]
pub(crate) enum Appended {
    /// This is the LSN of the last operation; those before it have the ones before.
    At(Lsn),
    /// Somebody else wrote, and nothing was stored: [`read_new`](Log::read_new), apply it, resolve again, append again.
    Moved,
}
