//! What a simulated file holds: what reads give, what the disk has, and what may become of the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Chance, SECTOR_BYTES, Survival};

/// A fork of a disk shares both byte vectors until one side writes, so that thousands of crash states cost little.
#[derive(Clone, Default)]
pub(super) struct Contents {
    /// What reads give: the page cache.
    volatile: Arc<Vec<u8>>,
    /// What the disk has.
    durable: Arc<Vec<u8>>,
    /// Sectors written since the last sync, each with what it held in between: the kernel may have written any of these back.
    unsynced: BTreeMap<usize, Vec<Box<[u8]>>>,
    /// Sectors that a failed sync left: the cache says they are clean, so no sync writes them unless they are written again.
    lost: BTreeSet<usize>,
    /// Whether the length changed since the last sync, and what it was in between.
    length_is_unsynced: bool,
    lengths_between: Vec<usize>,
    length_is_lost: bool,
}

impl Contents {
    /// A file as found at start: all that is there is on the disk.
    pub(super) fn found(bytes: Arc<Vec<u8>>) -> Self {
        Self { volatile: Arc::clone(&bytes), durable: bytes, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.volatile
    }

    pub(super) fn len(&self) -> usize {
        self.volatile.len()
    }

    /// The bytes from an offset on; none behind the end.
    pub(super) fn from(&self, offset: u64) -> &[u8] {
        usize::try_from(offset).ok().and_then(|offset| self.volatile.get(offset..)).unwrap_or_default()
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if end > self.len() {
            self.set_len(end);
        }
        for sector in offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            self.mark_unsynced(sector);
        }
        Arc::make_mut(&mut self.volatile)[offset..end].copy_from_slice(bytes);
    }

    pub(super) fn set_len(&mut self, length: usize) {
        let old = self.len();
        if length == old {
            return;
        }
        self.length_is_unsynced = true;
        self.lengths_between.push(old);
        if length < old {
            // What is cut off may have been written back before the cut, and shows again where the cut itself is lost.
            for (sector, between) in self.unsynced.range_mut(length / SECTOR_BYTES..) {
                between.push(sector_of(&self.volatile, *sector).into());
            }
            Arc::make_mut(&mut self.volatile).truncate(length);
        } else {
            Arc::make_mut(&mut self.volatile).resize(length, 0);
            // The disk still has there what an unsynced cut took away: these zeros are contents that a crash can lose.
            let stale_end = length.min(self.durable.len());
            if old < stale_end {
                for sector in old / SECTOR_BYTES..=(stale_end - 1) / SECTOR_BYTES {
                    self.mark_unsynced(sector);
                }
            }
        }
    }

    /// To be called before the sector changes.
    fn mark_unsynced(&mut self, sector: usize) {
        // A lost sector may after all have been written by the sync that failed.
        let may_be_on_disk = self.lost.remove(&sector) || self.unsynced.contains_key(&sector);
        let between = self.unsynced.entry(sector).or_default();
        if may_be_on_disk {
            between.push(sector_of(&self.volatile, sector).into());
        }
    }

    /// A sync that works, for all that it knows of: what is lost stays lost.
    pub(super) fn sync(&mut self) {
        if self.unsynced.is_empty() && !self.length_is_unsynced {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        if self.length_is_unsynced {
            durable.resize(self.volatile.len(), 0);
            self.length_is_unsynced = false;
            self.length_is_lost = false;
        }
        self.lengths_between.clear();
        for sector in std::mem::take(&mut self.unsynced).into_keys() {
            put_sector(durable, sector, sector_of(&self.volatile, sector));
        }
    }

    /// A sync that fails as it does on Linux: the pages are marked clean and are not on the disk.
    pub(super) fn lose_unsynced(&mut self) {
        self.lost.extend(std::mem::take(&mut self.unsynced).into_keys());
        self.length_is_lost |= std::mem::take(&mut self.length_is_unsynced);
        self.lengths_between.clear();
    }

    /// What the file holds after a power cut.
    pub(super) fn after_crash(&self, survival: Survival, chance: &mut Chance) -> Arc<Vec<u8>> {
        let length_is_open = self.length_is_unsynced || self.length_is_lost;
        if self.unsynced.is_empty() && self.lost.is_empty() && !length_is_open {
            return Arc::clone(&self.durable);
        }
        match survival {
            Survival::None => Arc::clone(&self.durable),
            Survival::All => {
                let mut synced = self.clone();
                synced.sync();
                synced.durable
            }
            Survival::Random(_) => Arc::new(self.random_survivors(chance, length_is_open, false)),
            Survival::Torn(_) => Arc::new(self.random_survivors(chance, length_is_open, true)),
        }
    }

    fn random_survivors(&self, chance: &mut Chance, length_is_open: bool, tears: bool) -> Vec<u8> {
        let mut bytes = self.durable.to_vec();
        let mut length = bytes.len();
        // Half of the crashes have the newest length: else the contents of most appends would be cut off in most crashes.
        if length_is_open && chance.in_quarters(2) {
            length = self.len();
        } else if length_is_open && !self.lengths_between.is_empty() && chance.in_quarters(2) {
            length = self.lengths_between[chance.below(self.lengths_between.len())];
        }
        // Of 100 sectors, single coins would practically never keep all, or none, or all but one.
        let share = chance.below(5);
        let mut put = |chance: &mut Chance, sector: usize, contents: &[u8]| {
            if tears && chance.in_quarters(2) {
                let torn = torn(sector_of(&self.durable, sector), contents, chance);
                put_sector(&mut bytes, sector, &torn);
            } else {
                put_sector(&mut bytes, sector, contents);
            }
        };
        for (sector, between) in &self.unsynced {
            if chance.in_quarters(share) {
                // The newest in half of the cases, as above.
                let old = if chance.in_quarters(2) { None } else { between.get(chance.below(between.len() + 1)) };
                put(chance, *sector, old.map_or(sector_of(&self.volatile, *sector), |old| old));
            }
        }
        for sector in &self.lost {
            if chance.in_quarters(share) {
                put(chance, *sector, sector_of(&self.volatile, *sector));
            }
        }
        bytes.resize(length, 0);
        bytes
    }
}

/// The bytes of a sector; fewer, or none, where the file ends in it or before it.
fn sector_of(bytes: &[u8], sector: usize) -> &[u8] {
    let start = (sector * SECTOR_BYTES).min(bytes.len());
    &bytes[start..(start + SECTOR_BYTES).min(bytes.len())]
}

/// A sector in whose writing the power was cut: up to some byte the one and from there on the other. What a file does not have is zeros.
fn torn(old: &[u8], new: &[u8], chance: &mut Chance) -> Vec<u8> {
    let cut = 1 + chance.below(SECTOR_BYTES - 1);
    let (head, tail) = if chance.in_quarters(2) { (new, old) } else { (old, new) };
    let byte = |at: usize| if at < cut { head.get(at) } else { tail.get(at) }.copied().unwrap_or(0);
    (0..old.len().max(new.len())).map(byte).collect()
}

/// Puts `contents` where the sector is, extending `bytes` up to their end; the rest of the sector reads as zeros.
fn put_sector(bytes: &mut Vec<u8>, sector: usize, contents: &[u8]) {
    let start = sector * SECTOR_BYTES;
    let end = start + contents.len();
    if !contents.is_empty() && bytes.len() < end {
        bytes.resize(end, 0);
    }
    let sector_end = (start + SECTOR_BYTES).min(bytes.len());
    if start < sector_end {
        bytes[start..end].copy_from_slice(contents);
        bytes[end..sector_end].fill(0);
    }
}
