//! What a search sees: one state of the index, which never changes once it is published.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::segment::Rows;
use crate::types::{Lsn, Row};

/// Rows, and which of them are dead. Cloning copies three pointers and a length.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) rows: Rows,
    /// Rows at positions from 0 up to here are part of this state; a writer may be storing behind them.
    pub(crate) len: usize,
    /// Offsets of dead rows. Copied on write while a View shares it.
    pub(crate) dead: Arc<RoaringBitmap>,
    /// Offsets of rows whose vectors are beyond the f32 kernels.
    pub(crate) extreme: Arc<RoaringBitmap>,
}

impl Segment {
    pub(crate) fn live(&self) -> u64 {
        self.len as u64 - self.dead.len()
    }

    /// Positions of live rows.
    pub(crate) fn live_positions(&self) -> impl Iterator<Item = usize> {
        (0..self.len).filter(|&position| self.dead.is_empty() || !self.dead.contains(self.rows.offset(position)))
    }
}

/// One state of an index.
#[derive(Debug)]
pub(crate) struct View {
    /// The state after this mutation.
    pub(crate) lsn: Lsn,
    /// By rising first row.
    pub(crate) segments: Vec<Segment>,
}

impl View {
    /// Live points.
    pub(crate) fn live(&self) -> u64 {
        self.segments.iter().map(Segment::live).sum()
    }

    /// Rows that are dead and still take space.
    pub(crate) fn tombstones(&self) -> u64 {
        self.segments.iter().map(|segment| segment.dead.len()).sum()
    }
}

/// The segment that holds a row, and the row's position in it. `segments` are by rising first row.
pub(crate) fn locate(segments: &[Segment], row: Row) -> Option<(usize, usize)> {
    let after = segments.partition_point(|segment| segment.rows.first_row() <= row);
    let at = after.checked_sub(1)?;
    let segment = &segments[at];
    let offset = u32::try_from(row - segment.rows.first_row()).ok()?;
    let position = segment.rows.position(offset).filter(|&position| position < segment.len)?;
    Some((at, position))
}
