//! Memory that one writer fills while many read what it has published, without a lock and without `unsafe`: every word is atomic.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A fixed number of 32-bit words that never move, the first on a cache line.
///
/// Loads and stores are relaxed. Whoever reads a word must have learned *that it was written* from something stored with release and
/// loaded with acquire after it: here, the View.
#[derive(Debug)]
pub(crate) struct Words {
    memory: Box<[AtomicU32]>,
    /// Words before the first one on a cache line.
    skip: usize,
    length: usize,
}

impl Words {
    pub(crate) fn new(length: usize) -> Self {
        const LINE: usize = 64 / size_of::<AtomicU32>();
        let memory: Box<[AtomicU32]> = std::iter::repeat_with(AtomicU32::default).take(length + LINE - 1).collect();
        let skip = memory.as_ptr().align_offset(64).min(LINE - 1);
        Self { memory, skip, length }
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.memory)
    }

    pub(crate) fn as_slice(&self) -> &[AtomicU32] {
        &self.memory[self.skip..self.skip + self.length]
    }

    pub(crate) fn store(&self, at: usize, words: impl IntoIterator<Item = u32>) {
        for (cell, word) in self.as_slice()[at..].iter().zip(words) {
            cell.store(word, Relaxed);
        }
    }

    pub(crate) fn load<const N: usize>(&self, at: usize) -> [u32; N] {
        let words = &self.as_slice()[at..at + N];
        std::array::from_fn(|i| words[i].load(Relaxed))
    }
}

/// Words of the first block of a [`TextArena`]; each block is twice the one before, so that a small index stays small.
const FIRST_BLOCK_WORDS: usize = 1 << 10;

/// Bytes of any length, one after the other, in blocks that never move.
#[derive(Debug, Default)]
pub(crate) struct TextArena {
    blocks: [OnceLock<Words>; 24],
}

/// Where the next text goes. The writer has it; readers have no need.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TextEnd {
    block: usize,
    word: usize,
}

/// Address of a text: block in the upper 32 bits, word in the lower.
pub(crate) type TextAt = u64;

impl TextArena {
    /// Adds a text, each of its `parts` beginning at a word.
    ///
    /// # Panics
    /// Where the blocks, 64 GiB together, are full: chunks of rows are bounded far below.
    pub(crate) fn push(&self, end: &mut TextEnd, parts: [&[u8]; 2]) -> TextAt {
        let need: usize = parts.iter().map(|part| words_of(part.len())).sum();
        while self.block(end.block, need).length - end.word < need {
            *end = TextEnd { block: end.block + 1, word: 0 };
        }
        let block = self.block(end.block, need);
        let at = (end.block as u64) << 32 | end.word as u64;
        for part in parts {
            let words = part.chunks(4).map(|bytes| {
                let mut word = [0; 4];
                word[..bytes.len()].copy_from_slice(bytes);
                u32::from_le_bytes(word)
            });
            block.store(end.word, words);
            end.word += words_of(part.len());
        }
        at
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.blocks.iter().filter_map(OnceLock::get).map(Words::memory_bytes).sum()
    }

    fn block(&self, number: usize, need: usize) -> &Words {
        self.blocks[number].get_or_init(|| Words::new((FIRST_BLOCK_WORDS << number).max(need)))
    }

    /// Appends `bytes` bytes of the text at `at`, after skipping a first part of `skip` bytes.
    pub(crate) fn read(&self, at: TextAt, skip: usize, bytes: usize, out: &mut Vec<u8>) {
        let start = out.len();
        for word in self.words(at, skip, bytes) {
            out.extend_from_slice(&word.load(Relaxed).to_le_bytes());
        }
        out.truncate(start + bytes);
    }

    /// Whether the first part of the text at `at` is `expected`.
    pub(crate) fn equals(&self, at: TextAt, expected: &[u8]) -> bool {
        self.words(at, 0, expected.len())
            .iter()
            .zip(expected.chunks(4))
            .all(|(word, bytes)| word.load(Relaxed).to_le_bytes()[..bytes.len()] == *bytes)
    }

    fn words(&self, at: TextAt, skip: usize, bytes: usize) -> &[AtomicU32] {
        let start = (at & u64::from(u32::MAX)) as usize + words_of(skip);
        let block = self.blocks[(at >> 32) as usize].get().expect("a block that holds a text exists");
        &block.as_slice()[start..start + words_of(bytes)]
    }
}

fn words_of(bytes: usize) -> usize {
    bytes.div_ceil(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_on_a_cache_line() {
        for length in [0, 1, 15, 1000] {
            let words = Words::new(length);
            assert_eq!(words.as_slice().len(), length);
            assert_eq!(words.as_slice().as_ptr().addr() % 64, 0);
        }
    }

    #[test]
    fn texts_come_back_whatever_their_length_and_the_block_they_fall_into() {
        let arena = TextArena::default();
        let mut end = TextEnd::default();
        let texts: Vec<(Vec<u8>, Vec<u8>)> =
            (0..300).map(|i| (vec![i as u8; i % 9], vec![!(i as u8); (i * 131) % 5000])).collect();
        let places: Vec<TextAt> = texts.iter().map(|(id, metadata)| arena.push(&mut end, [id, metadata])).collect();
        assert!(end.block > 3, "several blocks");
        for ((id, metadata), &at) in texts.iter().zip(&places) {
            let mut out = b"before".to_vec();
            arena.read(at, 0, id.len(), &mut out);
            arena.read(at, id.len(), metadata.len(), &mut out);
            assert_eq!(out, [b"before", &id[..], metadata].concat());
            assert!(arena.equals(at, id));
            if !id.is_empty() {
                let mut other = id.clone();
                other[id.len() - 1] ^= 1;
                assert!(!arena.equals(at, &other));
            }
        }
    }

    #[test]
    fn a_text_larger_than_its_block_gets_one_of_its_size() {
        let arena = TextArena::default();
        let mut end = TextEnd::default();
        let large = vec![7; 1 << 20];
        let at = arena.push(&mut end, [b"id", &large]);
        let mut out = Vec::new();
        arena.read(at, 2, large.len(), &mut out);
        assert_eq!(out, large);
    }
}
