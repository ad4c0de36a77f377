//! Rows, in whatever takes less memory.

use std::borrow::Cow;

use roaring::RoaringBitmap;

use crate::segment::bits::Bits;

/// A set of rows of a run.
#[derive(Debug)]
pub(super) enum RowSet {
    Few(List),
    /// In stretches of rows that follow each other.
    Runs(RoaringBitmap),
    /// Many, and anywhere: one bit a row. Sets of these are united word by word.
    Words(Box<[u64]>),
}

/// Rows by their low halves, as an array of a roaring bitmap has them, and walked in a third of the time.
#[derive(Debug, Default)]
pub(super) struct List {
    lows: Box<[u16]>,
    /// High halves, and where their rows end.
    ends: Box<[(u16, u32)]>,
}

impl List {
    fn new(rows: &RoaringBitmap) -> Self {
        let mut ends: Vec<(u16, u32)> = Vec::new();
        for (row, end) in rows.iter().zip(1..) {
            let high = (row >> 16) as u16;
            match ends.last_mut() {
                Some(last) if last.0 == high => last.1 = end,
                _ => ends.push((high, end)),
            }
        }
        Self { lows: rows.iter().map(|row| row as u16).collect(), ends: ends.into() }
    }

    /// Rising.
    fn iter(&self) -> impl Iterator<Item = u32> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|&(_, end)| end));
        starts.zip(&self.ends).flat_map(|(start, &(high, end))| {
            let lows = &self.lows[start as usize..end as usize];
            lows.iter().map(move |&low| u32::from(high) << 16 | u32::from(low))
        })
    }
}

impl Default for RowSet {
    fn default() -> Self {
        Self::Few(List::default())
    }
}

impl RowSet {
    /// Of a run of `len` rows.
    pub(super) fn new(mut rows: RoaringBitmap, len: usize) -> Self {
        rows.optimize();
        let words = len.div_ceil(64);
        let bytes = rows.serialized_size();
        if bytes < words * size_of::<u64>() {
            // A row of none takes two bytes.
            return if (bytes as u64) < rows.len() { Self::Runs(rows) } else { Self::Few(List::new(&rows)) };
        }
        let mut bits = Bits::none(len);
        rows.iter().for_each(|row| bits.insert(row as usize));
        Self::Words(bits.into_words().into())
    }

    /// Adds its rows, as far as there is room for them.
    pub(super) fn insert_into(&self, bits: &mut Bits) {
        match self {
            Self::Few(rows) => rows.iter().for_each(|row| bits.insert(row as usize)),
            Self::Runs(rows) => {
                let mut rows = rows.iter();
                while let Some(run) = rows.next_range() {
                    bits.insert_range(*run.start() as usize..*run.end() as usize + 1);
                }
            }
            Self::Words(words) => bits.or_words(words),
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Few(rows) => rows.lows.len() as u64,
            Self::Runs(rows) => rows.len(),
            Self::Words(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        }
    }

    /// As a file has it: the same rows are the same bytes.
    pub(super) fn to_roaring(&self) -> Cow<'_, RoaringBitmap> {
        match self {
            Self::Few(rows) => Cow::Owned(rows.iter().collect()),
            Self::Runs(rows) => Cow::Borrowed(rows),
            Self::Words(words) => {
                let mut rows = RoaringBitmap::from_lsb0_bytes(0, bytemuck::cast_slice(words));
                rows.optimize();
                Cow::Owned(rows)
            }
        }
    }

    /// Bytes of memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::Few(rows) => size_of_val(&*rows.lows) + size_of_val(&*rows.ends),
            Self::Runs(rows) => rows.serialized_size(),
            Self::Words(words) => size_of_val(&**words),
        }
    }
}
