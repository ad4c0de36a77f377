//! What a search sees: one state of the index, which never changes once it is published.

use std::sync::Arc;

use crate::format::manifest::Built;
use crate::segment::Rows;
use crate::segment::ann::Ann;
use crate::segment::positions::Positions;
use crate::types::{Lsn, Row};

/// Rows, and which of them are dead. Cloning copies four pointers and some lengths.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) rows: Rows,
    /// Rows at positions from 0 up to here are part of this state; a writer may be storing behind them.
    pub(crate) len: usize,
    /// Dead rows.
    pub(crate) dead: Positions,
    /// Rows whose vectors are beyond the f32 kernels.
    pub(crate) extreme: Positions,
    /// What was built over the rows; `None`: nothing yet.
    pub(crate) build: Option<Arc<Build>>,
}

/// What became of building a FAISS index over a sealed segment.
#[derive(Debug)]
pub(crate) struct Build {
    /// Without it the rows are scanned.
    pub(crate) ann: Option<Ann>,
    pub(crate) record: Built,
}

impl Segment {
    pub(crate) fn live(&self) -> u64 {
        self.len as u64 - self.dead.len()
    }

    /// Positions of live rows.
    pub(crate) fn live_positions(&self) -> impl Iterator<Item = usize> {
        self.live_positions_from(0)
    }

    /// Those that are not before `first`.
    pub(crate) fn live_positions_from(&self, first: usize) -> impl Iterator<Item = usize> {
        (first..self.len).filter(|&position| self.dead.is_empty() || !self.dead.contains(position))
    }

    /// The index through which it is searched.
    pub(crate) fn ann(&self) -> Option<&Ann> {
        self.build.as_ref().and_then(|build| build.ann.as_ref())
    }

    /// The number of its row at `position`.
    pub(crate) fn row(&self, position: usize) -> Row {
        self.rows.first_row() + Row::from(self.rows.offset(position))
    }
}

/// One state of an index.
#[derive(Debug)]
pub(crate) struct View {
    /// The state after this mutation.
    pub(crate) lsn: Lsn,
    /// By rising first row.
    pub(crate) segments: Vec<Segment>,
    /// [`IndexOptions::unindexed`](crate::types::IndexOptions).
    pub(crate) unindexed: Arc<[String]>,
}

impl View {
    /// Live points.
    pub(crate) fn live(&self) -> u64 {
        self.segments.iter().map(Segment::live).sum()
    }

    /// Live rows that a search scans.
    pub(crate) fn scanned(&self) -> u64 {
        self.segments.iter().filter(|segment| segment.ann().is_none()).map(Segment::live).sum()
    }

    /// Live rows for which nothing is built yet.
    pub(crate) fn unbuilt(&self) -> u64 {
        self.segments.iter().filter(|segment| segment.build.is_none()).map(Segment::live).sum()
    }

    /// Rows that are dead and still take space.
    pub(crate) fn tombstones(&self) -> u64 {
        self.segments.iter().map(|segment| segment.dead.len()).sum()
    }
}

/// Which segment of a View, and which position in it.
pub(crate) type Place = (usize, usize);

/// The segment that holds a row, and the row's position in it. `segments` are by rising first row.
pub(crate) fn locate(segments: &[Segment], row: Row) -> Option<Place> {
    let after = segments.partition_point(|segment| segment.rows.first_row() <= row);
    let at = after.checked_sub(1)?;
    let segment = &segments[at];
    let offset = u32::try_from(row - segment.rows.first_row()).ok()?;
    let position = segment.rows.position(offset).filter(|&position| position < segment.len)?;
    Some((at, position))
}
