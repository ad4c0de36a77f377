//! The calls that change points. Each is checked here as far as that needs no state; the rest, the commit leader decides at its turn.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::batch::{Batch, check_id, check_metadata};
use super::index::Index;
use super::writer::Request;
use crate::config::WRITE_DELAY_MAX_MS;
use crate::error::{Error, Result, What};
use crate::segment::filter::Filter;
use crate::types::{Condition, Deleted, Lsn, Upserted, WriteOptions};

impl Index {
    /// An empty batch for this index; [`Batch::push`] validates each point.
    pub fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.limits), self.dimension(), self.metric)
    }

    /// Stores a batch as one mutation: all of it or nothing, and visible as a whole, but for the points whose condition does not hold. An id that
    /// exists is replaced. Where no condition holds, nothing is logged, and the LSN is that of the state in which none did.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the batch is empty, too large, or of another index; the key came with another request. [`Error::Busy`],
    /// [`Error::Full`], [`Error::Io`], [`Error::Closed`]: nothing was stored. [`Error::OutcomeUnknown`]: a sync failed.
    pub fn upsert(&self, batch: Batch, options: impl Into<WriteOptions>) -> Result<Upserted> {
        let invalid = |code, detail: String| Err(Error::invalid("vectors", code, detail));
        if batch.is_empty() {
            return invalid("empty_batch", "a batch has at least one point".to_owned());
        }
        if !batch.is_for(&self.limits, self.dimension(), self.metric) {
            let detail = "the batch was made for an index of another dimension or metric, or under other limits";
            return invalid("wrong_dimension", detail.to_owned());
        }
        self.hold_back()?;
        let (lsn, effect) = self.commit(Request::Upsert(batch), options.into())?;
        let positions = |positions: Vec<u32>| positions.into_iter().map(|position| position as usize).collect();
        let (superseded, unmet) = (positions(effect.superseded), positions(effect.unmet));
        Ok(Upserted { lsn, added_count: effect.count as usize, superseded, unmet })
    }

    /// Deletes the points of these ids that exist, as one mutation. Where none does, nothing is logged, and the LSN is that of the state
    /// in which none did.
    ///
    /// # Errors
    /// [`Error::Invalid`]: too many ids, or one that none can be. Else as [`upsert`](Self::upsert).
    pub fn delete(&self, ids: &[&str], options: impl Into<WriteOptions>) -> Result<Deleted> {
        if ids.len() > self.limits.batch_points_max {
            let detail = format!("a delete names at most {} ids", self.limits.batch_points_max);
            return Err(Error::invalid("ids", "batch_too_large", detail));
        }
        ids.iter().try_for_each(|id| check_id(id, &self.limits))?;
        let ids = ids.iter().map(|&id| id.to_owned()).collect();
        let (lsn, effect) = self.commit(Request::Delete { ids, condition: Condition::Always }, options.into())?;
        Ok(Deleted { lsn, deleted_count: effect.count as usize })
    }

    /// Deletes the point of this id, if there is one, where `condition` holds of it.
    ///
    /// # Errors
    /// [`Error::Unmet`]: it does not. Else as [`delete`](Self::delete).
    pub fn delete_if(&self, id: &str, condition: Condition, options: impl Into<WriteOptions>) -> Result<Deleted> {
        check_id(id, &self.limits)?;
        let (lsn, effect) = self.commit(Request::Delete { ids: vec![id.to_owned()], condition }, options.into())?;
        if effect.unmet.is_empty() { Ok(Deleted { lsn, deleted_count: effect.count as usize }) } else { Err(unmet(condition)) }
    }

    /// Deletes all points that match at its turn, as one mutation. What is logged is their ids.
    ///
    /// # Errors
    /// [`Error::Invalid`]: their ids together are more bytes than [`operation_bytes_max`](crate::config::Limits), and nothing was deleted. Else
    /// as [`upsert`](Self::upsert).
    pub fn delete_matching(&self, filter: &Filter, options: impl Into<WriteOptions>) -> Result<Deleted> {
        let (lsn, effect) = self.commit(Request::DeleteMatching(filter.clone()), options.into())?;
        Ok(Deleted { lsn, deleted_count: effect.count as usize })
    }

    /// Merges a JSON merge patch (RFC 7396), the text of an object, into the metadata of a point; its vector stays. Gives the mutation that did.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Unmet`]: `condition` does not hold; [`Error::Invalid`] naming `metadata`: the patch is no object, or too
    /// large or deep, or what comes of it would be. Else as [`upsert`](Self::upsert).
    pub fn patch(&self, id: &str, patch: &str, condition: Condition, options: impl Into<WriteOptions>) -> Result<Lsn> {
        check_id(id, &self.limits)?;
        let patch = patch.trim_ascii();
        check_metadata(patch, &self.limits)?;
        self.hold_back()?;
        let request = Request::Patch { id: id.to_owned(), patch: patch.to_owned(), condition };
        let (lsn, effect) = self.commit(request, options.into())?;
        match effect.count {
            _ if !effect.unmet.is_empty() => Err(unmet(condition)),
            0 => Err(Error::NotFound(What::Vector)),
            _ => Ok(lsn),
        }
    }

    /// Slows a writer down where builds do not keep up, for a searcher scans what has no index.
    fn hold_back(&self) -> Result<()> {
        let build_rows = self.build_rows.load(Relaxed);
        if self.maintenance.is_none() || build_rows == u64::MAX {
            return Ok(());
        }
        let bearable = self.unbuilt_rows_bearable();
        let over = self.shared.view.load().unbuilt().saturating_sub(bearable);
        if over >= bearable {
            return Err(Error::Busy("too many rows wait for their index; deletes and searches go on"));
        }
        if over > 0 {
            let delay = Duration::from_millis(1 + (WRITE_DELAY_MAX_MS - 1) * over / bearable);
            self.progressed.wait_for(&mut self.progress.lock(), delay);
        }
        Ok(())
    }
}

fn unmet(condition: Condition) -> Error {
    Error::Unmet(condition.unmet())
}
