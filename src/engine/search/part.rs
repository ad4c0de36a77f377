//! A segment as one filter leaves it.

use crate::engine::view::{Segment, View};
use crate::plan::How;
use crate::segment::bits::Bits;
use crate::segment::filter::Filter;
use crate::segment::positions::Positions;
use crate::types::Query;

/// Where one row of fewer than this many matches, it is cheaper to go from match to match than to scan them all: a scan streams.
const SCAN_SHARE: usize = 4;

/// A segment, and which of its rows are alive and match.
pub(in crate::engine) struct Part<'a> {
    pub(in crate::engine) at: usize,
    pub(in crate::engine) segment: &'a Segment,
    /// Live rows that match; `None`: there is no filter, and all that are live do.
    matches: Option<Bits>,
    /// Live rows that match.
    pub(in crate::engine) count: usize,
}

impl<'a> Part<'a> {
    /// The `at`th segment.
    pub(in crate::engine) fn new(view: &'a View, at: usize, filter: Option<&Filter>) -> Self {
        let segment = &view.segments[at];
        let matches = filter.filter(|filter| !filter.is_all()).map(|filter| {
            let mut matches = segment.rows.select(&view.unindexed, filter, segment.len);
            matches.remove_all(&segment.dead);
            matches
        });
        let count = matches.as_ref().map_or(segment.live() as usize, Bits::count);
        Self { at, segment, matches, count }
    }

    /// Whether the row is alive and matches.
    pub(super) fn shows(&self, position: usize) -> bool {
        match &self.matches {
            Some(matches) => matches.contains(position),
            None => self.segment.dead.is_empty() || !self.segment.dead.contains(position),
        }
    }

    /// Positions of live rows that match, rising.
    pub(in crate::engine) fn visible(&self) -> impl Iterator<Item = usize> {
        self.visible_from(0)
    }

    /// Those that are not before `first`.
    pub(in crate::engine) fn visible_from(&self, first: usize) -> impl Iterator<Item = usize> {
        let matches = self.matches.as_ref().into_iter().flat_map(Bits::iter).skip_while(move |&position| position < first);
        let all = self.matches.is_none().then(|| self.segment.live_positions_from(first));
        matches.chain(all.into_iter().flatten())
    }

    /// The rows of these that are beyond the f32 kernels, and that every search has to look at in f64.
    pub(super) fn extreme(&self) -> impl Iterator<Item = usize> {
        self.segment.extreme.iter().filter(|&position| self.shows(position))
    }

    /// The rows that an index must leave out: they are dead, do not match, or are not in it.
    pub(super) fn hidden(&self) -> Positions {
        let mut hidden = match &self.matches {
            Some(matches) => matches.hidden(),
            None => self.segment.dead.clone(),
        };
        hidden.extend(self.segment.extreme.iter());
        hidden
    }

    /// How its rows are looked at for a query that the f32 kernels bear.
    pub(super) fn plan(&self, query: &Query) -> How {
        let asks = self.segment.ann().filter(|_| !query.exact).is_some_and(|ann| {
            // Dead rows alone are few: compaction sees to that.
            self.matches.is_none() || ann.cost_in_rows(query.k, &query.params, self.count) < self.count as u64
        });
        if asks { How::Index } else { self.without_index() }
    }

    pub(super) fn without_index(&self) -> How {
        if self.count * SCAN_SHARE < self.segment.len { How::Matches } else { How::Scan }
    }
}
