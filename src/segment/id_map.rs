//! Which row holds an id: 8 bytes an id in open-addressing tables, the ids themselves staying with their rows.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::types::Row;

/// Tables, by the low bits of the hash: one grows at a time, so that no writer waits for all of them.
const SHARDS: usize = 16;

/// Bits of a row number in an entry; the rest are bits of the id's hash, so that growing need not read ids.
const ROW_BITS: u32 = 40;

/// The most rows that an index can ever have numbered while it is open: 10^12. Reopening numbers them anew.
pub(crate) const ROWS_MAX: Row = 1 << ROW_BITS;

/// From an id to its live row.
#[derive(Debug)]
pub(crate) struct IdMap {
    shards: [HashTable<Entry>; SHARDS],
    hasher: DefaultHashBuilder,
}

/// Hash bits above, row number below.
#[derive(Clone, Copy, Debug)]
struct Entry(u64);

/// The hash of an id, in the parts that the map needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdHash {
    shard: usize,
    tag: u64,
}

impl Entry {
    fn new(hash: IdHash, row: Row) -> Self {
        debug_assert!(row < ROWS_MAX);
        Self(hash.tag << ROW_BITS | row)
    }

    fn row(self) -> Row {
        self.0 & (ROWS_MAX - 1)
    }

    fn tag(self) -> u64 {
        self.0 >> ROW_BITS
    }
}

/// The table wants 64 bits, of which the top seven and the low ones count.
fn spread(tag: u64) -> u64 {
    // 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, §6.4).
    tag.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

impl IdMap {
    pub(crate) fn new() -> Self {
        Self { shards: std::array::from_fn(|_| HashTable::new()), hasher: DefaultHashBuilder::default() }
    }

    /// Makes room for this many more ids.
    pub(crate) fn reserve(&mut self, ids: usize) {
        for shard in &mut self.shards {
            shard.reserve(ids / SHARDS + ids / SHARDS / 16 + 1, |entry| spread(entry.tag()));
        }
    }

    pub(crate) fn hash(&self, id: &[u8]) -> IdHash {
        let hash = self.hasher.hash_one(id);
        IdHash { shard: hash as usize % SHARDS, tag: hash >> ROW_BITS }
    }

    /// The row of the id of this hash; `is_it` tells whether a row has the id.
    pub(crate) fn get(&self, hash: IdHash, is_it: impl Fn(Row) -> bool) -> Option<Row> {
        let found = self.shards[hash.shard].find(spread(hash.tag), |entry| entry.tag() == hash.tag && is_it(entry.row()));
        found.map(|entry| entry.row())
    }

    /// Sets the row of an id, and gives the one that it had.
    pub(crate) fn insert(&mut self, hash: IdHash, row: Row, is_it: impl Fn(Row) -> bool) -> Option<Row> {
        let shard = &mut self.shards[hash.shard];
        if let Some(entry) = shard.find_mut(spread(hash.tag), |entry| entry.tag() == hash.tag && is_it(entry.row())) {
            return Some(std::mem::replace(entry, Entry::new(hash, row)).row());
        }
        self.insert_new(hash, row);
        None
    }

    /// Adds an id that is known to be absent.
    pub(crate) fn insert_new(&mut self, hash: IdHash, row: Row) {
        self.shards[hash.shard].insert_unique(spread(hash.tag), Entry::new(hash, row), |entry| spread(entry.tag()));
    }

    /// Removes an id, and gives its row.
    pub(crate) fn remove(&mut self, hash: IdHash, is_it: impl Fn(Row) -> bool) -> Option<Row> {
        let found =
            self.shards[hash.shard].find_entry(spread(hash.tag), |entry| entry.tag() == hash.tag && is_it(entry.row())).ok()?;
        let (entry, _) = found.remove();
        Some(entry.row())
    }

    /// Live ids.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.shards.iter().map(HashTable::allocation_size).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_costs_at_most_21_bytes_beside_its_text() {
        let ids: Vec<String> = (0..200_000).map(|i| format!("document-{i}")).collect();
        let mut map = IdMap::new();
        let mut worst = 0.0_f64;
        for (row, id) in ids.iter().enumerate() {
            let hash = map.hash(id.as_bytes());
            assert_eq!(map.insert(hash, row as Row, |row| ids[row as usize] == *id), None);
            if row >= 10_000 {
                worst = worst.max(map.memory_bytes() as f64 / (row + 1) as f64);
            }
        }
        println!("{:.1} bytes an id at {} ids; at worst {worst:.1}", map.memory_bytes() as f64 / ids.len() as f64, ids.len());
        assert!(worst <= 21.0, "{worst}");
    }

    #[test]
    fn ids_are_found_replaced_and_removed() {
        let ids: Vec<String> = (0..5_000).map(|i| i.to_string()).collect();
        let mut map = IdMap::new();
        map.reserve(100);
        for (row, id) in ids.iter().enumerate() {
            map.insert(map.hash(id.as_bytes()), row as Row, |row| ids[row as usize] == *id);
        }
        assert_eq!(map.len(), 5_000);
        for (row, id) in ids.iter().enumerate() {
            let is_it = |row: Row| ids[row as usize] == *id;
            assert_eq!(map.get(map.hash(id.as_bytes()), is_it), Some(row as Row));
            if row % 2 == 0 {
                assert_eq!(map.remove(map.hash(id.as_bytes()), is_it), Some(row as Row));
                assert_eq!(map.get(map.hash(id.as_bytes()), is_it), None);
            } else {
                assert_eq!(map.insert(map.hash(id.as_bytes()), row as Row, is_it), Some(row as Row));
            }
        }
        assert_eq!(map.len(), 2_500);
        assert_eq!(map.get(map.hash(b"absent"), |_| false), None);
    }
}
