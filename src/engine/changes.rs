//! The change feed: what the log still has, in pages, and waiting for what comes.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use parking_lot::Mutex;

use super::index::Index;
use super::recover;
use super::retention::oldest_lsn;
use crate::error::{Error, Result};
use crate::format::manifest::LOG_DIRECTORY;
use crate::types::{Change, ChangePage, ChangesQuery, Lsn, Point};
use crate::wal::file_log::LogOptions;
use crate::wal::operation::Operation;
use crate::wal::read::{Commit, Mark, Reading, read};
use crate::wal::recover::missing;

/// Bytes of log from which a page is made, but for its last mutation: bounds what a page takes of memory, and how long one call looks for what a filter
/// lets through.
pub(crate) const PAGE_LOG_BYTES: usize = 16 << 20;

/// Places that are remembered for the next page to begin at: more than there are consumers of one index.
const MARKS_MAX: usize = 256;

/// Where readings ended lately, the oldest first. Without it each page would read its segment from the beginning.
#[derive(Debug, Default)]
pub(super) struct Marks(Mutex<VecDeque<Mark>>);

impl Marks {
    /// The last known place before this LSN.
    fn before(&self, lsn: Lsn) -> Option<Mark> {
        self.0.lock().iter().filter(|mark| mark.lsn < lsn).max_by_key(|mark| mark.lsn).copied()
    }

    fn add(&self, mark: Mark) {
        let mut marks = self.0.lock();
        marks.retain(|known| known.lsn != mark.lsn);
        if marks.len() == MARKS_MAX {
            marks.pop_front();
        }
        marks.push_back(mark);
    }
}

impl Index {
    /// The mutations from an LSN on, in order and whole, as far as they are durable: no consumer is ever ahead of what a power cut leaves.
    ///
    /// A page ends after the mutation with which it has `limit` changes, or when 16 MiB of log were read; so it may hold fewer while there are more, and none
    /// where the filter lets none through: the next one begins at `next_lsn`, until that is above `durable_lsn`. Beside writers, and beside checkpoints that
    /// remove log, it takes no lock of theirs while it reads.
    ///
    /// # Errors
    /// [`Error::Gone`]: the log no longer has this LSN. [`Error::Invalid`] naming `limit`, or `from_lsn` where it is beyond the one after the newest mutation.
    /// [`Error::Corrupt`]: a frame does not check, or a segment of the log is missing; nothing was skipped. [`Error::NotFound`]: the index was deleted.
    pub fn changes(&self, query: &ChangesQuery) -> Result<ChangePage> {
        self.changes_within(query, PAGE_LOG_BYTES)
    }

    /// The same with pages of about so many bytes of log.
    pub(crate) fn changes_within(&self, query: &ChangesQuery, page_log_bytes: usize) -> Result<ChangePage> {
        let limit = query.limit;
        if limit == 0 || limit > self.limits.batch_points_max {
            let detail = format!("must be 1 to {}, and not {limit}", self.limits.batch_points_max);
            return Err(Error::invalid("limit", "invalid_limit", detail));
        }
        let from_lsn = query.from_lsn.max(1);
        // Before the log is listed and opened: what is durable by then is in the files that are listed after.
        let (newest_lsn, durable_lsn) = self.durable_view_lsn();
        if from_lsn > newest_lsn + 1 {
            let detail = format!("the newest mutation is LSN {newest_lsn}, and {from_lsn} is beyond the next one");
            return Err(Error::invalid("from_lsn", "lsn_ahead", detail));
        }
        let options = LogOptions::new(Arc::clone(&self.io), self.directory.join(LOG_DIRECTORY), self.id, &self.limits);
        loop {
            let (listed, oldest_lsn) = {
                let root = self.root.lock();
                let manifest = root.current();
                (manifest.log.clone(), oldest_lsn(manifest))
            };
            if from_lsn < oldest_lsn {
                return Err(Error::Gone { oldest_lsn });
            }
            let mut page = ChangePage { changes: Vec::new(), next_lsn: from_lsn, oldest_lsn, durable_lsn };
            if from_lsn > durable_lsn {
                return Ok(page);
            }
            let mut log_bytes = 0;
            let each = &mut |Commit { lsn, .. }, operation: &Operation<'_>| {
                recover::check_operation(operation, lsn, self.settings.dimension, &options.directory)?;
                log_bytes += add_changes(lsn, operation, query, &mut page.changes);
                page.next_lsn = lsn + 1;
                let is_full = page.changes.len() >= limit || log_bytes >= page_log_bytes;
                Ok(if is_full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            };
            match read(&options, &listed, from_lsn..=durable_lsn, self.marks.before(from_lsn), each)? {
                Reading::Done(mark) => {
                    self.marks.add(mark);
                    return Ok(page);
                }
                Reading::Missing(name) => {
                    if let Some(error) = self.listeners.closed() {
                        return Err(error);
                    }
                    if self.root.lock().current().log.contains(&name) {
                        return Err(missing(&options, name));
                    }
                    // A checkpoint removed it between the two steps: look again at what is left.
                }
            }
        }
    }

    /// LSN of the newest View, and of the newest mutation that is durable and in a View.
    fn durable_view_lsn(&self) -> (Lsn, Lsn) {
        let newest_lsn = self.shared.view.load().lsn;
        (newest_lsn, newest_lsn.min(self.durable_lsn.load(Relaxed)))
    }

    /// For who waits for changes. The index stays open while there is one.
    ///
    /// # Errors
    /// [`Error::NotFound`]: the index was deleted. [`Error::Closed`]: the store was closed.
    pub fn listen(&self) -> Result<Listener> {
        let index = self.weak.upgrade().ok_or_else(|| Error::Closed("the index is closed".into()))?;
        if let Some(error) = self.listeners.closed() {
            return Err(error);
        }
        Ok(Listener { key: self.listeners.key(), index })
    }
}

/// Waits for changes of an index, for whatever runs tasks.
#[derive(Debug)]
pub struct Listener {
    index: Arc<Index>,
    key: u64,
}

impl Listener {
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Ready when the mutation of this LSN is durable; else the task is woken when it may be. Does not block.
    ///
    /// # Errors
    /// [`Error::NotFound`]: the index was deleted. [`Error::Closed`]: the store was closed. There will be no more changes.
    pub fn poll_durable(&self, lsn: Lsn, context: &mut Context<'_>) -> Poll<Result<()>> {
        if let Err(error) = self.index.listeners.register(self.key, context.waker()) {
            return Poll::Ready(Err(error));
        }
        if self.index.durable_view_lsn().1 >= lsn { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.index.listeners.forget(self.key);
    }
}

/// Adds what an operation changes. Gives about how many bytes of log it is.
fn add_changes(lsn: Lsn, operation: &Operation<'_>, query: &ChangesQuery, changes: &mut Vec<Change>) -> usize {
    match operation {
        Operation::Upsert(upsert) => {
            let mut last = std::collections::HashMap::with_capacity(upsert.count as usize);
            last.extend(upsert.points().enumerate().map(|(at, (id, ..))| (id, at)));
            let points = upsert.points().enumerate().filter(|(at, (id, ..))| last.get(id) == Some(at));
            let is_wanted = |metadata: &str| query.filter.as_ref().is_none_or(|filter| filter.matches(metadata.as_bytes()));
            changes.extend(points.filter(|(_, (_, metadata, _))| is_wanted(metadata)).map(|(_, (id, metadata, vector))| {
                let values = if query.include_values { vector.to_vec() } else { Vec::new() };
                Change::Upsert(Point { id: id.to_owned(), values, metadata: metadata.to_owned(), lsn })
            }));
            upsert.texts.len() + size_of_val(&*upsert.vectors)
        }
        Operation::Delete(delete) => {
            changes.extend(delete.ids().map(|id| Change::Delete { lsn, id: id.to_owned() }));
            delete.ids.len()
        }
        // A key whose request changed nothing has an LSN, and no change.
        Operation::Keyed(keyed) => {
            keyed.operation.as_ref().map_or(0, |operation| add_changes(lsn, operation, query, changes)) + keyed.key.len()
        }
    }
}
