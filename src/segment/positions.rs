//! Sets of rows of one segment, by position: the dead ones, and those that are beyond f32.

use std::fmt;
use std::sync::Arc;

/// Rows in a page.
pub(crate) const PAGE_ROWS: usize = 1 << 16;

/// One bit a row.
pub(crate) type Page = [u64; PAGE_ROWS / 64];

/// A set of positions. A clone shares everything; a change after it copies one page, 8 KiB, so that a View costs a deletion little,
/// however large the segment is. A page without a member takes no memory.
#[derive(Clone, Default)]
pub(crate) struct Positions {
    pages: Arc<[Option<Arc<Page>>]>,
    count: u64,
}

impl Positions {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// Bytes of the pages that have a member, and of where they are.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.pages.iter().flatten().count() * size_of::<Page>() + self.pages.len() * size_of::<Option<Arc<Page>>>()
    }

    pub(crate) fn contains(&self, position: usize) -> bool {
        let page = self.pages.get(position / PAGE_ROWS).and_then(Option::as_deref);
        page.is_some_and(|page| page[position % PAGE_ROWS / 64] >> (position % 64) & 1 == 1)
    }

    /// Whether it was absent.
    pub(crate) fn insert(&mut self, position: usize) -> bool {
        let at = position / PAGE_ROWS;
        if at >= self.pages.len() {
            let absent = std::iter::repeat_n(None, at + 1 - self.pages.len());
            self.pages = self.pages.iter().cloned().chain(absent).collect();
        }
        let page = Arc::make_mut(&mut self.pages)[at].get_or_insert_with(|| Arc::new([0; PAGE_ROWS / 64]));
        let word = &mut Arc::make_mut(page)[position % PAGE_ROWS / 64];
        let bit = 1 << (position % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// Whether it was present.
    pub(crate) fn remove(&mut self, position: usize) -> bool {
        if !self.contains(position) {
            return false;
        }
        if let Some(page) = &mut Arc::make_mut(&mut self.pages)[position / PAGE_ROWS] {
            Arc::make_mut(page)[position % PAGE_ROWS / 64] &= !(1 << (position % 64));
            self.count -= 1;
        }
        true
    }

    /// The members as bits, in words from position 0 on.
    pub(crate) fn of_words(words: &[u64]) -> Self {
        let page_of = |words: &[u64]| {
            let has_member = words.iter().any(|&word| word != 0);
            has_member.then(|| {
                let mut page = [0; PAGE_ROWS / 64];
                page[..words.len()].copy_from_slice(words);
                Arc::new(page)
            })
        };
        let count = words.iter().map(|word| u64::from(word.count_ones())).sum();
        Self { pages: words.chunks(PAGE_ROWS / 64).map(page_of).collect(), count }
    }

    /// Members, rising.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        let pages = self.pages.iter().enumerate().filter_map(|(at, page)| Some((at, page.as_deref()?)));
        pages.flat_map(|(at, page)| {
            page.iter().enumerate().filter(|&(_, &word)| word != 0).flat_map(move |(index, &word)| {
                let first = at * PAGE_ROWS + index * 64;
                (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit)
            })
        })
    }

    /// Page by page, `None` where a page has no member; positions behind the last page are none either. What a FAISS selector reads.
    pub(crate) fn pages(&self) -> impl ExactSizeIterator<Item = Option<&Page>> {
        self.pages.iter().map(Option::as_deref)
    }
}

impl FromIterator<usize> for Positions {
    fn from_iter<T: IntoIterator<Item = usize>>(positions: T) -> Self {
        let mut set = Self::default();
        set.extend(positions);
        set
    }
}

impl Extend<usize> for Positions {
    fn extend<T: IntoIterator<Item = usize>>(&mut self, positions: T) {
        for position in positions {
            self.insert(position);
        }
    }
}

impl fmt::Debug for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Positions({})", self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn members_are_those_that_were_inserted_and_a_clone_keeps_its_own() {
        let mut set = Positions::default();
        let mut model = BTreeSet::new();
        for i in 0..4_000_usize {
            let position = i * i * 31 % 200_003;
            let before = (i % 500 == 0).then(|| (set.clone(), model.clone()));
            assert_eq!(set.insert(position), model.insert(position));
            if let Some((set, model)) = before {
                assert!(set.iter().eq(model.iter().copied()), "a clone does not change");
            }
        }
        assert!(set.iter().eq(model.iter().copied()));
        assert_eq!(set.len(), model.len() as u64);
        assert!((0..200_100).all(|position| set.contains(position) == model.contains(&position)));
        let members: usize = set.pages().flatten().flatten().map(|word| word.count_ones() as usize).sum();
        assert_eq!(members, model.len());
    }

    #[test]
    fn a_page_without_a_member_takes_no_memory() {
        let set: Positions = [PAGE_ROWS * 5 + 3].into_iter().collect();
        assert_eq!(set.pages().map(|page| page.is_some()).collect::<Vec<_>>(), [false, false, false, false, false, true]);
        assert!(set.contains(PAGE_ROWS * 5 + 3) && !set.contains(PAGE_ROWS * 6));
        assert!(Positions::default().is_empty() && !set.is_empty());
    }
}
