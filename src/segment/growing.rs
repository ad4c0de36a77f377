//! Rows in memory: a fixed-size chunk that never moves. One writer fills it row by row; searches read the rows that a View published.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use super::bits::Bits;
use super::faiss::Floats;
use super::filter::Filter;
use super::filter::fields::Fields;
use super::words::{TextArena, TextEnd, Words};
use crate::format::segment::Record;
use crate::types::Row;

/// Words of a row's record: LSN (2), text address (2), id bytes and flag (1), metadata bytes (1).
const RECORD_WORDS: usize = 6;

/// Rows of one block of the metadata index: what is not in one yet is read row by row.
const FIELD_ROWS: usize = 1024;

/// Flag beside the id's length, which is at most 65,535.
const EXTREME: u32 = 1 << 16;

#[derive(Debug)]
pub(crate) struct Growing {
    first_row: Row,
    capacity: usize,
    dimension: usize,
    vectors: Words,
    records: Words,
    /// Only with the cosine metric.
    scales: Option<Words>,
    text: TextArena,
    /// The metadata index, made block by block by searches with a filter, once a block is full.
    fields: Box<[OnceLock<Fields>]>,
}

/// What is stored of a row beside its vector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewRow<'a> {
    pub(crate) lsn: u64,
    pub(crate) id: &'a str,
    pub(crate) metadata: &'a str,
    /// The inverse of the norm.
    pub(crate) scale: f32,
    pub(crate) extreme: bool,
}

impl Growing {
    pub(crate) fn new(first_row: Row, capacity: usize, dimension: usize, scaled: bool) -> Self {
        Self {
            first_row,
            capacity,
            dimension,
            vectors: Words::new(capacity * dimension),
            records: Words::new(capacity * RECORD_WORDS),
            scales: scaled.then(|| Words::new(capacity)),
            text: TextArena::default(),
            fields: std::iter::repeat_with(OnceLock::new).take(capacity / FIELD_ROWS).collect(),
        }
    }

    /// The same chunk, still empty, for rows from `first_row` on.
    pub(crate) fn starting_at(self, first_row: Row) -> Self {
        Self { first_row, ..self }
    }

    pub(crate) fn first_row(&self) -> Row {
        self.first_row
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes of memory, used or not.
    pub(crate) fn memory_bytes(&self) -> usize {
        let scales = self.scales.as_ref().map_or(0, Words::memory_bytes);
        self.vectors.memory_bytes() + self.records.memory_bytes() + scales + self.text.memory_bytes() + self.field_bytes()
    }

    /// Whether a search with a filter has been here.
    pub(crate) fn has_fields(&self) -> bool {
        self.fields.iter().any(|block| block.get().is_some())
    }

    /// Bytes of memory of the metadata index, as far as there is one.
    pub(crate) fn field_bytes(&self) -> usize {
        size_of_val(&*self.fields) + self.fields.iter().filter_map(OnceLock::get).map(Fields::memory_bytes).sum::<usize>()
    }

    /// Writes the vectors of the rows from `position` on, which no View shows yet. Only the one writer calls this.
    pub(crate) fn store_vectors(&self, position: usize, vectors: &[f32]) {
        debug_assert!(position + vectors.len() / self.dimension <= self.capacity);
        self.vectors.store(position * self.dimension, vectors.iter().map(|x| x.to_bits()));
    }

    /// Writes what belongs to the row at `position` beside its vector. Only the one writer calls this, with rising positions.
    pub(crate) fn store(&self, position: usize, text_end: &mut TextEnd, row: &NewRow<'_>) {
        debug_assert!(position < self.capacity);
        let text = self.text.push(text_end, [row.id.as_bytes(), row.metadata.as_bytes()]);
        let halves = |wide: u64| [wide as u32, (wide >> 32) as u32];
        let [lsn_low, lsn_high] = halves(row.lsn);
        let [text_low, text_high] = halves(text);
        let id_and_flag = row.id.len() as u32 | if row.extreme { EXTREME } else { 0 };
        let record = [lsn_low, lsn_high, text_low, text_high, id_and_flag, row.metadata.len() as u32];
        self.records.store(position * RECORD_WORDS, record);
        if let Some(scales) = &self.scales {
            scales.store(position, [row.scale.to_bits()]);
        }
    }

    pub(crate) fn record(&self, position: usize) -> Record {
        let [lsn_low, lsn_high, text_low, text_high, id_and_flag, metadata_bytes] = self.records.load(position * RECORD_WORDS);
        let whole = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        Record {
            lsn: whole(lsn_low, lsn_high),
            text: whole(text_low, text_high),
            id_bytes: id_and_flag as u16,
            extreme: id_and_flag & EXTREME != 0,
            metadata_bytes,
        }
    }

    pub(crate) fn scales(&self, positions: std::ops::Range<usize>) -> Floats<'_> {
        Floats::Growing(self.scales.as_ref().map_or(&[], |scales| &scales.as_slice()[positions]))
    }

    pub(crate) fn floats(&self, positions: std::ops::Range<usize>) -> Floats<'_> {
        Floats::Growing(&self.vectors.as_slice()[positions.start * self.dimension..positions.end * self.dimension])
    }

    pub(crate) fn id_equals(&self, position: usize, id: &[u8]) -> bool {
        let record = self.record(position);
        usize::from(record.id_bytes) == id.len() && self.text.equals(record.text, id)
    }

    /// Appends the id's bytes.
    pub(crate) fn id(&self, position: usize, out: &mut Vec<u8>) {
        let record = self.record(position);
        self.text.read(record.text, 0, record.id_bytes.into(), out);
    }

    /// Appends the metadata's bytes.
    pub(crate) fn metadata(&self, position: usize, out: &mut Vec<u8>) {
        let record = self.record(position);
        self.text.read(record.text, record.id_bytes.into(), record.metadata_bytes as usize, out);
    }

    /// The rows at positions from 0 to `len`, all of which a View shows, whose metadata matches. `unindexed`: what a metadata index leaves out.
    pub(crate) fn select(&self, unindexed: &Arc<[String]>, filter: &Filter, len: usize) -> Bits {
        let mut selected = Bits::none(len);
        let mut text = Vec::new();
        let mut start = 0;
        while start < len {
            let block = self.fields.get(start / FIELD_ROWS).filter(|_| start + FIELD_ROWS <= len);
            let end = (start + FIELD_ROWS).min(len);
            if let Some(block) = block {
                let owned = |position| {
                    let mut text = Vec::new();
                    self.metadata(position, &mut text);
                    Cow::Owned(text)
                };
                let fields = block.get_or_init(|| Fields::new(unindexed, (start..end).map(owned)));
                let found = fields.select(filter, FIELD_ROWS, |row, text| self.metadata(start + row, text));
                found.iter().for_each(|row| selected.insert(start + row));
            } else {
                for position in start..end {
                    text.clear();
                    self.metadata(position, &mut text);
                    if filter.matches(&text) {
                        selected.insert(position);
                    }
                }
            }
            start = end;
        }
        selected
    }
}
