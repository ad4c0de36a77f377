//! Rows: where vectors, ids and metadata are kept, and how they are scanned.

pub(crate) mod ann;
pub(crate) mod bits;
pub(crate) mod check;
pub(crate) mod digest;
pub(crate) mod faiss;
pub mod filter;
pub(crate) mod growing;
pub(crate) mod id_map;
pub(crate) mod norm;
pub(crate) mod positions;
pub(crate) mod recipe;
pub(crate) mod salvage;
pub(crate) mod sealed;
pub(crate) mod words;

use std::ops::Range;
use std::sync::Arc;

use bits::Bits;
use faiss::Floats;
use filter::Filter;
use growing::Growing;
use sealed::Sealed;

use crate::format::segment::Record;
use crate::types::Row;

/// A run of rows, in memory or in a file. A *position* counts the rows that are in it; an *offset* is how far a row's number is from the
/// first row's, and differs from the position where dead rows were left out.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    Growing(Arc<Growing>),
    Sealed(Arc<Sealed>),
}

impl Rows {
    pub(crate) fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed(_))
    }

    pub(crate) fn first_row(&self) -> Row {
        match self {
            Self::Growing(growing) => growing.first_row(),
            Self::Sealed(sealed) => sealed.first_row(),
        }
    }

    /// Bytes of memory, but for what is mapped from a file.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Growing(growing) => growing.memory_bytes(),
            Self::Sealed(sealed) => sealed.memory_bytes(),
        }
    }

    /// Whether a search with a filter has made some of the metadata index.
    pub(crate) fn has_fields(&self) -> bool {
        match self {
            Self::Growing(growing) => growing.has_fields(),
            Self::Sealed(sealed) => sealed.has_fields(),
        }
    }

    /// Bytes of memory of the metadata index, as far as it is made.
    pub(crate) fn field_bytes(&self) -> usize {
        match self {
            Self::Growing(growing) => growing.field_bytes(),
            Self::Sealed(sealed) => sealed.field_bytes(),
        }
    }

    pub(crate) fn offset(&self, position: usize) -> u32 {
        match self {
            Self::Growing(_) => position as u32,
            Self::Sealed(sealed) => sealed.offset(position),
        }
    }

    pub(crate) fn position(&self, offset: u32) -> Option<usize> {
        match self {
            Self::Growing(_) => Some(offset as usize),
            Self::Sealed(sealed) => sealed.position(offset),
        }
    }

    pub(crate) fn record(&self, position: usize) -> Record {
        match self {
            Self::Growing(growing) => growing.record(position),
            Self::Sealed(sealed) => sealed.record(position),
        }
    }

    /// The inverses of the vectors' norms; empty where the metric has no use for them.
    pub(crate) fn scales(&self, positions: Range<usize>) -> Floats<'_> {
        match self {
            Self::Growing(growing) => growing.scales(positions),
            Self::Sealed(sealed) => sealed.scales(positions),
        }
    }

    pub(crate) fn floats(&self, positions: Range<usize>) -> Floats<'_> {
        match self {
            Self::Growing(growing) => growing.floats(positions),
            Self::Sealed(sealed) => sealed.floats(positions),
        }
    }

    /// The vector, in place of what `out` held.
    pub(crate) fn vector(&self, position: usize, out: &mut Vec<f32>) {
        out.clear();
        out.extend(self.floats(position..position + 1).iter());
    }

    pub(crate) fn id_equals(&self, position: usize, id: &str) -> bool {
        match self {
            Self::Growing(growing) => growing.id_equals(position, id.as_bytes()),
            Self::Sealed(sealed) => sealed.id(position) == id.as_bytes(),
        }
    }

    /// The rows at positions from 0 to `len` whose metadata matches. `unindexed` are the fields that the metadata index leaves out, the same at each
    /// call.
    pub(crate) fn select(&self, unindexed: &Arc<[String]>, filter: &Filter, len: usize) -> Bits {
        match self {
            Self::Growing(growing) => growing.select(unindexed, filter, len),
            Self::Sealed(sealed) => sealed.select(unindexed, filter, len),
        }
    }

    /// Appends the id's bytes, which are UTF-8.
    pub(crate) fn id(&self, position: usize, out: &mut Vec<u8>) {
        match self {
            Self::Growing(growing) => growing.id(position, out),
            Self::Sealed(sealed) => out.extend_from_slice(sealed.id(position)),
        }
    }

    /// Appends the metadata's bytes, which are UTF-8.
    pub(crate) fn metadata(&self, position: usize, out: &mut Vec<u8>) {
        match self {
            Self::Growing(growing) => growing.metadata(position, out),
            Self::Sealed(sealed) => out.extend_from_slice(sealed.metadata(position)),
        }
    }
}
