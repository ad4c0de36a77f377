//! An index whose log other nodes append to as well: what is committed here goes to the shared log, and what others wrote comes from there.
//!
//! The log of files is this node's cache then: the same operations with the same LSNs and commit times, appended when the shared log has them and
//! before they are applied. So recovery, the change feed and the checkpoints find what they find on one machine. It is not synced for a write, since
//! that is as durable as the shared log makes it; what a crash takes of the cache is read again.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::apply::State;
use super::index::Index;
use super::recover::check_operation;
use super::resolve::resolve;
use super::snapshots::behind;
use super::writer::{Outcome, Write, Writer};
use crate::error::{Error, Result};
use crate::format::crc32;
use crate::format::manifest::LOG_DIRECTORY;
use crate::types::{IndexId, Lsn, TenantId};
use crate::wal::cluster::Cluster;
use crate::wal::file_log::FileLog;
use crate::wal::log::{Appended, Log, Place};
use crate::wal::operation::Operation;
use crate::wal::read::Commit;

/// How often a group is resolved anew because others wrote, before its writers are told to try again.
const ROUNDS_MAX: usize = 32;

/// The shared log of an index, and how far the state is in it.
#[derive(Debug)]
pub(super) struct SharedLog {
    cluster: Arc<dyn Cluster>,
    tenant: TenantId,
    id: IndexId,
    log: Box<dyn Log<Place = Place>>,
    /// The state has everything before it, and perhaps more: `place.lsn <= state.lsn`.
    place: Place,
    /// `log` may stand elsewhere, or does not know what became of an append: it is opened again at `place`, and read, before the next one.
    is_unsure: bool,
    /// It does not reach back to the state any more.
    is_ahead: bool,
    replayed: Replayed,
}

impl SharedLog {
    pub(super) fn open(
        cluster: Arc<dyn Cluster>,
        tenant: TenantId,
        id: IndexId,
        place: Place,
        replayed: Replayed,
    ) -> Result<Self> {
        let log = cluster.open(&tenant, id, place)?;
        Ok(Self { cluster, tenant, id, log, place, is_unsure: false, is_ahead: false, replayed })
    }

    /// What a checkpoint of the present state names.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// The most bytes of several operations that are committed together.
    pub(super) fn frame_bytes_max(&self) -> usize {
        self.log.frame_bytes_max()
    }

    fn append(&mut self, operations: &[&Operation<'_>]) -> Result<Appended> {
        let appended = self.log.append(operations);
        self.is_unsure |= matches!(appended, Err(Error::OutcomeUnknown(_)));
        appended
    }
}

/// What recovery replayed of the node's own files, to be compared with what the shared log has in its place.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    first_lsn: Lsn,
    crcs: Vec<u32>,
}

impl Replayed {
    pub(super) fn add(&mut self, lsn: Lsn, operation: &Operation<'_>) {
        if self.crcs.is_empty() {
            self.first_lsn = lsn;
        }
        self.crcs.push(crc_of(operation));
    }

    /// Whether that was another operation, where it is still known.
    fn contradicts(&self, lsn: Lsn, operation: &Operation<'_>) -> bool {
        let crc = lsn.checked_sub(self.first_lsn).and_then(|at| self.crcs.get(at as usize));
        crc.is_some_and(|&crc| crc != crc_of(operation))
    }
}

fn crc_of(operation: &Operation<'_>) -> u32 {
    let (head, tail) = operation.encode();
    crc32(&[&head, tail])
}

/// Operations of one commit time that were read, and not applied yet: encoded, since they are lent for a moment only.
#[derive(Debug, Default)]
struct News {
    count: u64,
    time_us: u64,
    bytes: Vec<u8>,
}

impl News {
    fn add(&mut self, time_us: u64, head: &[u8], tail: &[u8]) {
        self.count += 1;
        self.time_us = time_us;
        self.bytes.extend_from_slice(head);
        self.bytes.extend_from_slice(tail);
    }
}

impl Index {
    /// Reads what other nodes wrote to the index up to this moment, and applies it. Gives the LSN of the state, in which every write is that was
    /// acknowledged before the call, by whatever node. On one machine there is nothing to read.
    ///
    /// # Errors
    /// [`Error::Io`]: the shared log does not answer. [`Error::NotFound`]: the index was deleted. [`Error::Closed`]: the node is so far behind that
    /// it needs a newer snapshot, or its state is not one of the log's. [`Error::Corrupt`]: a frame of the log does not check.
    pub fn catch_up(&self) -> Result<Lsn> {
        if !self.is_shared {
            return Ok(self.shared.view.load().lsn);
        }
        self.read_others(&mut self.writer.lock())
    }

    /// The same for who was told that the shared log has a frame with this sequence.
    ///
    /// # Errors
    /// As [`catch_up`](Self::catch_up).
    pub(super) fn catch_up_past(&self, sequence: u64) -> Result<()> {
        if self.poison.get().is_some() {
            // It was said why.
            return Ok(());
        }
        let mut writer = self.writer.lock();
        // Most are this node's own.
        let is_known = writer.shared_log.as_ref().is_none_or(|shared| !shared.is_unsure && shared.place.sequence >= sequence);
        if is_known { Ok(()) } else { self.read_others(&mut writer).map(|_| ()) }
    }

    /// Whether the shared log has let go of what this state lacks: it answers what it has, until it is taken anew from a snapshot.
    pub(super) fn is_behind(&self) -> bool {
        // Mostly nothing is wrong, and the writer is busy.
        self.poison.get().is_some() && self.writer.lock().shared_log.as_ref().is_some_and(|shared| shared.is_ahead)
    }

    /// The same for who opens the index, and gives it to nobody where this fails.
    ///
    /// # Errors
    /// As [`catch_up`](Self::catch_up); but where it needs a newer snapshot, [`Error::Gone`].
    pub(super) fn catch_up_first(&self) -> Result<()> {
        if !self.is_shared {
            return Ok(());
        }
        let writer = &mut *self.writer.lock();
        let before = writer.state.lsn;
        self.read_and_apply(writer)?;
        if writer.state.lsn > before {
            self.after_commit(writer);
        }
        Ok(())
    }

    /// Lets the shared log go of what is before a place, which a snapshot that was read back has. On one machine there is nothing to do.
    ///
    /// # Errors
    /// [`Error::NotFound`]: the index was deleted. [`Error::Closed`]: so was the store. [`Error::Io`]: it may be trimmed or not.
    #[cfg(feature = "server")]
    pub(crate) fn trim_shared(&self, to: Place) -> Result<()> {
        let mut writer = self.writer.lock();
        if let Some(error) = &writer.closed {
            return Err(error.clone());
        }
        let Some(shared) = &mut writer.shared_log else { return Ok(()) };
        assert!(to.sequence <= shared.place.sequence, "a snapshot of this node is not ahead of it");
        shared.log.trim(to)
    }

    fn read_others(&self, writer: &mut Writer) -> Result<Lsn> {
        let before = writer.state.lsn;
        self.check_writable(writer)?;
        let caught_up = self.read_shared(writer);
        if writer.state.lsn > before {
            self.after_commit(writer);
            self.listeners.wake();
        }
        caught_up.map(|()| writer.state.lsn)
    }

    /// The same for who wants a state with a mutation in it, and only where this node's state does not have it yet. Gives the LSN of the state.
    ///
    /// # Errors
    /// As [`catch_up`](Self::catch_up); [`Error::Invalid`] naming `min_lsn`: no node has made that mutation. [`Error::Busy`]: others wrote each
    /// time that this was asked.
    pub fn catch_up_to(&self, min_lsn: Lsn) -> Result<Lsn> {
        let lsn = self.shared.view.load().lsn;
        let lsn = if lsn >= min_lsn || !self.is_shared { lsn } else { self.read_others_to(min_lsn)? };
        if lsn < min_lsn {
            let detail = format!("the newest mutation is LSN {lsn}, and {min_lsn} is beyond it");
            return Err(Error::invalid("min_lsn", "lsn_ahead", detail));
        }
        Ok(lsn)
    }

    /// Gives the LSN of the state, which is the newest where it is less than what is wanted.
    fn read_others_to(&self, min_lsn: Lsn) -> Result<Lsn> {
        let writer = &mut *self.writer.lock();
        for _ in 0..ROUNDS_MAX {
            let lsn = self.read_others(writer)?;
            let Some(shared) = &mut writer.shared_log else { return Ok(lsn) };
            // Who reads may be told of an older state; an append of nothing says whether it is the newest.
            if lsn >= min_lsn || matches!(shared.append(&[])?, Appended::At(_)) {
                return Ok(lsn);
            }
        }
        Err(Error::Busy("other nodes write to this index all the time: try again"))
    }

    /// Commits a group behind everything that anybody wrote.
    ///
    /// # Errors
    /// What everybody in the group is told. [`Error::Busy`]: others were faster each time.
    pub(super) fn commit_shared(&self, writer: &mut Writer, group: &[Write]) -> Result<Vec<Outcome>> {
        // What this node cannot keep, it must not commit.
        writer.log.check()?;
        if writer.shared_log.as_ref().is_some_and(|shared| shared.is_unsure) {
            self.read_shared(writer)?;
        }
        for _ in 0..ROUNDS_MAX {
            let resolved = self.shared.with_ids(|ids| resolve(&writer.state, ids, &self.limits, group));
            let logged: Vec<&Operation<'_>> = resolved.iter().filter_map(|resolved| resolved.operation.as_ref()).collect();
            if !logged.is_empty() && writer.log.needs_segment() {
                self.start_log_segment(&mut writer.log)?;
            }
            let Writer { shared_log: Some(shared), log, .. } = &mut *writer else { unreachable!("its log is shared") };
            // Of nothing too: a condition that does not hold here may hold in a newer state, and nothing else says that there is none.
            if let Appended::At(_) = shared.append(&logged)? {
                let time_us = shared.log.time_us();
                if let Err(error) = self.keep(log, &logged, time_us) {
                    // It is in the shared log, and comes from there when there is room for it.
                    shared.is_unsure = true;
                    return Err(error.into_unanswered());
                }
                debug_assert_eq!(shared.log.written_lsn(), log.written_lsn());
                shared.place = shared.log.place();
                return Ok(self.apply(writer, resolved));
            }
            self.read_shared(writer)?;
        }
        Err(Error::Busy("other nodes write to this index all the time; nothing was stored: try again"))
    }

    /// Appends to this node's files what the shared log has.
    fn keep(&self, log: &mut FileLog, operations: &[&Operation<'_>], time_us: u64) -> Result<()> {
        self.log(log, operations, Some(time_us), false)?;
        self.durable_lsn.store(log.written_lsn(), Relaxed);
        Ok(())
    }

    /// Keeps and applies all that is behind the state in the shared log.
    fn read_shared(&self, writer: &mut Writer) -> Result<()> {
        let Err(error) = self.read_and_apply(writer) else { return Ok(()) };
        if let (Error::Gone { .. }, Some(shared)) = (&error, &mut writer.shared_log) {
            shared.is_ahead = true;
        }
        let error = match behind(error) {
            error @ Error::NotFound(_) => {
                self.stop_building();
                writer.closed.get_or_insert_with(|| error.clone());
                self.listeners.close(error.clone());
                error
            }
            error => error,
        };
        // It goes on answering from what it has.
        if matches!(error, Error::Closed(_) | Error::Corrupt(_)) {
            self.poison(&error.to_string());
        }
        Err(error)
    }

    fn read_and_apply(&self, writer: &mut Writer) -> Result<()> {
        let Writer { shared_log: Some(shared), log, state, .. } = writer else { return Ok(()) };
        if shared.is_unsure {
            shared.log = shared.cluster.open(&shared.tenant, shared.id, shared.place)?;
        }
        let directory = self.directory.join(LOG_DIRECTORY);
        let (mut news, replayed) = (News::default(), &shared.replayed);
        let read = shared.log.read_new(&mut |Commit { lsn, time_us }, operation| {
            if lsn <= state.lsn + news.count {
                // It is known from the files, or from a reading that came to no end.
                let why = || format!("LSN {lsn} of this node is not what the shared log has: it needs a snapshot").into();
                return if replayed.contradicts(lsn, operation) { Err(Error::Closed(why())) } else { Ok(()) };
            }
            check_operation(operation, lsn, self.settings.dimension, &directory)?;
            let (head, tail) = operation.encode();
            let is_full = news.bytes.len() + head.len() + tail.len() > self.limits.frame_bytes_max;
            if is_full || time_us != news.time_us {
                self.apply_news(log, state, &mut news)?;
            }
            news.add(time_us, &head, tail);
            Ok(())
        });
        let kept = self.apply_news(log, state, &mut news);
        let place = shared.log.place();
        shared.is_unsure = kept.is_err() || place.lsn > state.lsn;
        if !shared.is_unsure {
            shared.place = place;
        }
        read.and(kept)?;
        if place.lsn < state.lsn {
            // Whoever told of it may have been cut off from those who know more.
            let Appended::At(_) = shared.append(&[])? else {
                return Err(Error::Busy("who answers for the shared log knows less of it than this node: try again"));
            };
            let why =
                format!("the shared log ends with LSN {}, and had {} before: it lost what it acknowledged", place.lsn, state.lsn);
            return Err(Error::Closed(why.into()));
        }
        shared.replayed = Replayed::default();
        Ok(())
    }

    fn apply_news(&self, log: &mut FileLog, state: &mut State, news: &mut News) -> Result<()> {
        let mut operations = Vec::new();
        let mut rest = &news.bytes[..];
        while !rest.is_empty() {
            let (operation, after) = Operation::decode(rest).expect("it was encoded here");
            operations.push(operation);
            rest = after;
        }
        if operations.is_empty() {
            return Ok(());
        }
        self.keep(log, &operations.iter().collect::<Vec<_>>(), news.time_us)?;
        self.shared.change(|ids| {
            for operation in &operations {
                state.apply(ids, operation);
            }
            debug_assert_eq!(state.lsn, log.written_lsn());
            (state.view(), ())
        });
        drop(operations);
        *news = News::default();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
