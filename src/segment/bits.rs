//! A set of rows of one segment, as a bit for each: what a filter selects.

use std::ops::Range;

use super::positions::Positions;

/// A set of the numbers from 0 to a length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    /// Bits behind the length are 0.
    words: Vec<u64>,
    len: usize,
}

impl Bits {
    pub(crate) fn none(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    pub(crate) fn all(len: usize) -> Self {
        let mut all = Self { words: vec![u64::MAX; len.div_ceil(64)], len };
        all.clear_behind();
        all
    }

    fn clear_behind(&mut self) {
        if let Some(last) = self.words.last_mut().filter(|_| !self.len.is_multiple_of(64)) {
            *last &= (1 << (self.len % 64)) - 1;
        }
    }

    pub(crate) fn contains(&self, at: usize) -> bool {
        self.words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// Numbers from the length on are passed over.
    pub(crate) fn insert(&mut self, at: usize) {
        if at < self.len {
            self.words[at / 64] |= 1 << (at % 64);
        }
    }

    /// The same for each number of a range.
    pub(crate) fn insert_range(&mut self, range: Range<usize>) {
        let (mut start, end) = (range.start, range.end.min(self.len));
        while start < end {
            let (word, bit) = (start / 64, start % 64);
            let count = (64 - bit).min(end - start);
            self.words[word] |= (u64::MAX >> (64 - count)) << bit;
            start += count;
        }
    }

    /// Adds the numbers whose bits are set in these words, from 0 on; those from the length on are passed over.
    pub(crate) fn or_words(&mut self, words: &[u64]) {
        self.words.iter_mut().zip(words).for_each(|(word, other)| *word |= other);
        self.clear_behind();
    }

    pub(crate) fn into_words(self) -> Vec<u64> {
        self.words
    }

    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Members, rising.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            std::iter::successors(Some(word).filter(|&word| word != 0), |word| Some(word & (word - 1)).filter(|&word| word != 0))
                .map(move |word| index * 64 + word.trailing_zeros() as usize)
        })
    }

    pub(crate) fn and(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    pub(crate) fn or(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    pub(crate) fn negate(&mut self) {
        self.words.iter_mut().for_each(|word| *word = !*word);
        self.clear_behind();
    }

    /// Those that are not in the other.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let words = self.words.iter().zip(&other.words).map(|(word, other)| word & !other);
        Self { words: words.collect(), len: self.len }
    }

    pub(crate) fn remove_all(&mut self, positions: &Positions) {
        for position in positions.iter().take_while(|&position| position < self.len) {
            self.words[position / 64] &= !(1 << (position % 64));
        }
    }

    /// The set of those that are not in it, as a FAISS selector reads it.
    pub(crate) fn hidden(&self) -> Positions {
        let mut hidden = self.clone();
        hidden.negate();
        Positions::of_words(&hidden.words)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_the_set_that_it_is_made_of_at_every_length() {
        for len in [0, 1, 63, 64, 65, 127, 128, 70_000] {
            let model: BTreeSet<usize> = (0..len).filter(|at| at % 7 == 3 || at % 64 == 63).collect();
            let mut bits = Bits::none(len);
            model.iter().for_each(|&at| bits.insert(at));
            bits.insert(len);
            let mut of_runs = Bits::none(len);
            model.iter().for_each(|&at| of_runs.insert_range(at..at + 1));
            of_runs.insert_range(len..len + 9);
            assert_eq!(of_runs, bits);
            for run in [0..len, len / 3..len / 2, 60..70, 63..200, 5..5] {
                let mut of_run = Bits::none(len);
                of_run.insert_range(run.clone());
                assert!(of_run.iter().eq(run.start..run.end.min(len)), "{run:?} of {len}");
            }
            let mut of_words = Bits::none(len);
            of_words.or_words(&[bits.clone().into_words(), vec![u64::MAX]].concat());
            of_words.or_words(&[1]);
            assert!(of_words.iter().eq(model.iter().copied().chain((len > 0).then_some(0)).collect::<BTreeSet<_>>()));
            assert!(bits.iter().eq(model.iter().copied()), "{len}");
            assert_eq!(bits.count(), model.len());
            assert!((0..len + 70).all(|at| bits.contains(at) == model.contains(&at)));
            assert!(bits.hidden().iter().eq((0..len).filter(|at| !model.contains(at))));
            let mut all = Bits::all(len);
            assert_eq!(all.count(), len);
            assert!(all.without(&bits).iter().eq(bits.hidden().iter()));
            all.and(&bits);
            assert_eq!(all, bits);
            bits.negate();
            all.or(&bits);
            assert_eq!(all, Bits::all(len));
            all.remove_all(&model.iter().copied().chain([len + 1]).collect());
            assert_eq!(all, bits);
        }
    }
}
