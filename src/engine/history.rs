//! The states before the present one, as far as they are kept.
//!
//! A View of the past is the present one, in which rows that died since are alive again, and rows that were stored since are dead. What that takes is which rows
//! died, in the order in which they did; and that their rows are still there, which checkpoints and compactions see to
//! (`docs/decisions/0017-as-of.md`).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::apply::row_of;
use super::checkpoint::Files;
use super::index::Index;
use super::view::{Place, Segment, View, locate};
use crate::error::{Error, Result};
use crate::segment::positions::Positions;
use crate::types::{Lsn, Row};

/// Rows in a part of the list that readers share.
const PART_ROWS: usize = 1024;

/// A row, and the mutation by which it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Death {
    lsn: Lsn,
    row: Row,
}

/// The rows that died lately.
#[derive(Debug)]
pub(crate) struct History(Mutex<Deaths>);

#[derive(Debug)]
struct Deaths {
    /// The oldest state that can be read: the row of each later death is still in a segment.
    horizon: Lsn,
    /// By rising LSN; none is at or before the horizon, but for some in the first part. All have [`PART_ROWS`] but the last.
    parts: VecDeque<Arc<Vec<Death>>>,
}

impl History {
    pub(crate) fn new(horizon: Lsn) -> Self {
        Self(Mutex::new(Deaths { horizon, parts: VecDeque::new() }))
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        (self.0.lock().parts.iter().map(|part| part.capacity()).sum::<usize>() * size_of::<Death>()) as u64
    }

    /// Notes the rows that die by this mutation, the next one. Before a View shows it.
    pub(crate) fn add(&self, lsn: Lsn, rows: &[Row]) {
        let mut deaths = self.0.lock();
        for &row in rows {
            if deaths.parts.back().is_none_or(|part| part.len() == PART_ROWS) {
                deaths.parts.push_back(Arc::default());
            }
            if let Some(part) = deaths.parts.back_mut() {
                Arc::make_mut(part).push(Death { lsn, row });
            }
        }
    }

    /// Lets go of the states before this one. Before a View lacks their rows.
    pub(super) fn raise(&self, horizon: Lsn) {
        let mut deaths = self.0.lock();
        deaths.horizon = deaths.horizon.max(horizon);
        while deaths.parts.front().and_then(|part| part.last()).is_some_and(|last| last.lsn <= horizon) {
            deaths.parts.pop_front();
        }
    }

    pub(super) fn horizon(&self) -> Lsn {
        self.0.lock().horizon
    }

    /// The rows that died after this state, those of the last mutation last. For who took its View before.
    ///
    /// # Errors
    /// [`Error::Gone`]: the state is before the horizon.
    fn after(&self, lsn: Lsn) -> Result<impl Iterator<Item = Row>> {
        let deaths = self.0.lock();
        if lsn < deaths.horizon {
            return Err(Error::Gone { oldest_lsn: deaths.horizon });
        }
        Ok(deaths.after(lsn))
    }

    /// Which rows of each of these segments are dead in it and died after this state.
    pub(super) fn dead_since(&self, lsn: Lsn, segments: &[Segment]) -> Vec<Positions> {
        let mut dead = vec![Positions::default(); segments.len()];
        let rows = self.0.lock().after(lsn);
        for (at, position) in rows.filter_map(|row| locate(segments, row)) {
            if segments[at].dead.contains(position) {
                dead[at].insert(position);
            }
        }
        dead
    }
}

impl Deaths {
    /// Those that are known. What it gives needs no lock.
    fn after(&self, lsn: Lsn) -> impl Iterator<Item = Row> + use<> {
        let first = self.parts.partition_point(|part| part.last().is_some_and(|last| last.lsn <= lsn));
        let parts: Vec<Arc<Vec<Death>>> = self.parts.iter().skip(first).cloned().collect();
        parts.into_iter().flat_map(move |part| {
            let first = part.partition_point(|death| death.lsn <= lsn);
            (first..part.len()).map(move |at| part[at].row)
        })
    }
}

impl View {
    /// The state at this LSN, which is one before; `died`: the rows that died since.
    fn at(&self, lsn: Lsn, died: impl Iterator<Item = Row>) -> Self {
        let mut segments = self.segments.clone();
        for (at, position) in died.filter_map(|row| locate(&self.segments, row)) {
            segments[at].dead.remove(position);
        }
        // Rows are in the order in which they were stored.
        segments.retain_mut(|segment| {
            let stored = segment.stored_at(lsn);
            segment.dead.extend(stored..segment.len);
            stored > 0
        });
        Self { lsn, segments, unindexed: Arc::clone(&self.unindexed) }
    }
}

impl Segment {
    /// How many of its rows were stored up to this LSN: the first ones.
    pub(super) fn stored_at(&self, lsn: Lsn) -> usize {
        let (mut from, mut to) = (0, self.len);
        while from < to {
            let middle = from.midpoint(to);
            if self.rows.record(middle).lsn <= lsn { from = middle + 1 } else { to = middle }
        }
        from
    }
}

impl Index {
    /// The present state, or the one at an LSN.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `as_of_lsn` where it is beyond the present state; [`Error::Gone`] where it is before the oldest that is kept.
    pub(super) fn view_at(&self, as_of_lsn: Option<Lsn>) -> Result<Arc<View>> {
        let view = self.shared.view.load_full();
        match as_of_lsn {
            None => Ok(view),
            Some(lsn) if lsn == view.lsn => Ok(view),
            Some(lsn) => {
                check_not_ahead(lsn, &view)?;
                Ok(Arc::new(view.at(lsn, self.history.after(lsn)?)))
            }
        }
    }

    /// The row of an id in the state at an LSN: its segment and position in the View.
    ///
    /// # Errors
    /// As [`view_at`](Self::view_at).
    pub(super) fn locate_at(&self, id: &str, lsn: Lsn) -> Result<(Arc<View>, Option<Place>)> {
        let (view, present) = self.shared.look_up(|ids, view| row_of(ids, &view.segments, id));
        check_not_ahead(lsn, &view)?;
        let died = if lsn == view.lsn { None } else { Some(self.history.after(lsn)?) };
        let was_stored = |&(at, position): &Place| view.segments[at].rows.record(position).lsn <= lsn;
        let places = present.into_iter().chain(died.into_iter().flatten()).filter_map(|row| locate(&view.segments, row));
        // At most one row of an id was alive.
        let found = places.filter(was_stored).find(|&(at, position)| view.segments[at].rows.id_equals(position, id));
        Ok((view, found))
    }

    /// Of each sealed segment the rows that are dead by the newest checkpoint and that no state that is kept has.
    pub(super) fn droppable(&self, view: &View, files: &Files) -> Vec<Positions> {
        let kept = self.history.dead_since(self.history.horizon(), &view.segments[..files.segments.len()]);
        let of = |(file, kept): (&super::checkpoint::SealedFile, &Positions)| {
            if kept.is_empty() { file.dead.clone() } else { file.dead.iter().filter(|&at| !kept.contains(at)).collect() }
        };
        files.segments.iter().zip(&kept).map(of).collect()
    }
}

fn check_not_ahead(lsn: Lsn, view: &View) -> Result<()> {
    if lsn <= view.lsn {
        return Ok(());
    }
    Err(Error::invalid("as_of_lsn", "lsn_ahead", format!("the newest mutation is LSN {}, and {lsn} is beyond it", view.lsn)))
}
