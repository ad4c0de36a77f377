//! Keeps the memory of the open indices to a budget: closes those that nobody has used for longest, until their next use.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::index::Index;
use super::slots::{Entry, Key, Slots};
use super::view::Segment;
use crate::error::{Error, Result};
use crate::segment::ann::Ann;
use crate::segment::id_map::IdMap;

/// Bytes of an open index that has no row: its structures, its manifests, its View. Measured by `benches/many.rs`.
const INDEX_BYTES: u64 = 6 << 10;

impl Segment {
    /// Bytes of memory that are this process's own. What is mapped from a file is the kernel's to keep or to drop.
    fn memory_bytes(&self) -> u64 {
        let sets = self.dead.memory_bytes() + self.extreme.memory_bytes();
        (self.rows.memory_bytes() + sets) as u64 + self.ann().map_or(0, Ann::resident_bytes)
    }
}

impl Index {
    /// Bytes of memory that closing it would free, about.
    pub(super) fn memory_bytes(&self) -> u64 {
        let segments: u64 = self.shared.view.load().segments.iter().map(Segment::memory_bytes).sum();
        let ids = self.shared.with_ids(IdMap::memory_bytes) as u64;
        let spare = self.spare.lock().as_ref().map_or(0, |chunk| chunk.memory_bytes() as u64);
        INDEX_BYTES + segments + ids + spare + self.keys_bytes.load(Relaxed) + self.history.memory_bytes()
    }
}

impl Slots {
    /// Has the budget watched while indices grow, where there is one.
    pub(super) fn watch_memory(self: &Arc<Self>) {
        for entry in self.all(None) {
            self.look_at_memory(&entry);
        }
        if self.budget() > 0
            && let Some(maintenance) = &self.context().maintenance
        {
            maintenance.watch_memory(Arc::downgrade(self));
        }
        self.keep_to_budget(false);
    }

    fn budget(&self) -> u64 {
        self.context().limits.memory_budget_bytes
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory.load(Relaxed)
    }

    fn is_over_budget(&self) -> bool {
        self.memory_bytes() > self.budget()
    }

    pub(super) fn note_memory(&self, entry: &Entry, index: &Index) {
        self.set_memory(entry, index.memory_bytes());
    }

    pub(super) fn forget_memory(&self, entry: &Entry) {
        self.set_memory(entry, 0);
    }

    fn set_memory(&self, entry: &Entry, bytes: u64) {
        let before = entry.memory.swap(bytes, Relaxed);
        // The sum of differences wraps, and comes out right.
        self.memory.fetch_add(bytes.wrapping_sub(before), Relaxed);
    }

    fn look_at_memory(&self, entry: &Entry) {
        let Some(index) = entry.slot.state().open().cloned() else { return };
        // Not under the slot's lock: the id map's may be held by a writer.
        let bytes = index.memory_bytes();
        if entry.slot.state().open().is_some() {
            self.set_memory(entry, bytes);
        }
    }

    /// Closes indices that nobody has, those first that were asked for longest ago, while all that are open take more memory than they may.
    /// `anew`: what they take is looked at first; else only where what is known of it is too much.
    pub(super) fn keep_to_budget(&self, anew: bool) {
        if self.budget() == 0 || !(anew || self.is_over_budget()) {
            return;
        }
        // Who has it goes on until there is nothing to close any more.
        let Some(_one) = self.closing.try_lock() else { return };
        let mut entries = self.all(None);
        entries.retain(|entry| entry.slot.state().open().is_some());
        for entry in &entries {
            self.look_at_memory(entry);
        }
        entries.sort_by_cached_key(|entry| entry.last_used.load(Relaxed));
        for entry in entries {
            if !self.is_over_budget() || self.is_closed() {
                break;
            }
            self.close_idle(&entry);
        }
    }

    /// Drops an index of which nothing here is to be kept, and whose log is shared: what it lacks on the disk comes from there.
    ///
    /// # Errors
    /// [`Error::Busy`]: somebody has it. [`Error::NotFound`]: it is not here.
    pub(super) fn drop_idle(&self, key: &Key) -> Result<()> {
        let entry = self.entry(key)?;
        entry.slot.close_idle(
            |_| true,
            |index| {
                drop(index);
                self.forget_memory(&entry);
                Ok(())
            },
        );
        let is_open = entry.slot.settled().open().is_some();
        if is_open { Err(Error::Busy("the index is in use on this node")) } else { Ok(()) }
    }

    /// Closes an index, unless somebody has it or it takes no more writes.
    fn close_idle(&self, entry: &Entry) {
        // The checkpoint while it is still open, so that who asks for it need not wait.
        entry.slot.close_idle(checkpoint, |index| match index.make_durable() {
            Ok(()) => {
                entry.size.note(&index);
                tracing::debug!(index = %index.id, "closed to keep to the memory budget; the next use opens it");
                self.forget_memory(entry);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(index = %index.id, %error, "this index stays open, and takes no writes");
                Err(index.share())
            }
        });
    }
}

/// Puts what is not in a checkpoint into one: then it opens again without replaying, its rows are in a file and not in memory, and its
/// log can go. Whether it may be closed.
fn checkpoint(index: &Index) -> bool {
    match index.checkpoint() {
        Ok(_) => true,
        // What a checkpoint lacks is in the log.
        Err(error @ (Error::Full(_) | Error::Io(_))) => {
            tracing::warn!(index = %index.id, %error, "no checkpoint before closing; the next opening replays the log");
            true
        }
        // It takes no more writes: see `Index::settle`.
        Err(_) => false,
    }
}
