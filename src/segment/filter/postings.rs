//! Which rows have which value.

use std::collections::HashMap;
use std::ops::Range;

use roaring::RoaringBitmap;

use super::row_set::RowSet;
use crate::segment::bits::Bits;

/// Rows from which on a value has a set of its own, which is smaller than a list of them.
const SET_ROWS_MIN: usize = 64;

/// Rows of values that are counted from 0.
#[derive(Debug)]
pub(super) struct Postings {
    /// Where the rows of each value end in `rows`.
    pub(super) ends: Box<[u32]>,
    pub(super) rows: Box<[u32]>,
    /// The rows of values that many have, and that have none in `rows`.
    pub(super) sets: HashMap<u32, RowSet>,
}

impl Postings {
    /// The distinct keys of `pairs`, rising, and the rows of each, of `len` rows.
    pub(super) fn of<K: PartialEq>(
        mut pairs: Vec<(K, u32)>,
        len: usize,
        order: impl Fn(&K, &K) -> std::cmp::Ordering,
    ) -> (Vec<K>, Self) {
        pairs.sort_unstable_by(|a, b| order(&a.0, &b.0).then(a.1.cmp(&b.1)));
        pairs.dedup();
        let (mut keys, mut ends, mut rows) = (Vec::<K>::new(), Vec::new(), Vec::new());
        let mut sets = HashMap::new();
        // The rows of the present key begin here.
        let mut start = 0;
        let mut end_key = |rows: &mut Vec<u32>, keys: usize, start: &mut usize| {
            if rows.len() - *start >= SET_ROWS_MIN
                && let Ok(bitmap) = RoaringBitmap::from_sorted_iter(rows[*start..].iter().copied())
            {
                sets.insert(keys as u32 - 1, RowSet::new(bitmap, len));
                rows.truncate(*start);
            }
            *start = rows.len();
            ends.push(rows.len() as u32);
        };
        for (key, row) in pairs {
            if keys.last().is_some_and(|last| *last != key) {
                end_key(&mut rows, keys.len(), &mut start);
                keys.push(key);
            } else if keys.is_empty() {
                keys.push(key);
            }
            rows.push(row);
        }
        if !keys.is_empty() {
            end_key(&mut rows, keys.len(), &mut start);
        }
        (keys, Self { ends: ends.into(), rows: rows.into(), sets })
    }

    /// Adds the rows of some values to a set.
    pub(super) fn insert(&self, keys: Range<usize>, into: &mut Bits) {
        let Some(last) = keys.end.checked_sub(1).filter(|_| !keys.is_empty()) else { return };
        let start = keys.start.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.rows[start as usize..self.ends[last] as usize].iter().for_each(|&row| into.insert(row as usize));
        // The fewer of the two are looked at.
        if keys.len() < self.sets.len() {
            keys.filter_map(|key| self.sets.get(&(key as u32))).for_each(|rows| rows.insert_into(into));
        } else {
            let within = self.sets.iter().filter(|(key, _)| keys.contains(&(**key as usize)));
            within.for_each(|(_, rows)| rows.insert_into(into));
        }
    }

    /// Whether no row, of `len`, has two of the values.
    pub(super) fn are_single(&self, len: usize) -> bool {
        let mut distinct = Bits::none(len);
        self.insert(0..self.ends.len(), &mut distinct);
        let all = self.rows.len() as u64 + self.sets.values().map(RowSet::len).sum::<u64>();
        distinct.count() as u64 == all
    }

    /// Bytes of memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let sets: usize = self.sets.values().map(|rows| size_of::<(u32, RowSet)>() + rows.memory_bytes()).sum();
        size_of_val(&*self.ends) + size_of_val(&*self.rows) + sets
    }
}
