//! One state of an index, kept on the disk for whoever copies it while writes, checkpoints and compactions go on.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::RwLockReadGuard;

use super::index::Index;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::manifest::{LOG_DIRECTORY, Manifest};
use crate::format::position::Position;
use crate::io::Io;
use crate::wal::file_log::LogOptions;

/// A manifest of an index, and the end of its log. While it lives, every file of the log and of the segments that the manifest names stays,
/// and the log up to the end stays as it is. There may be several.
#[derive(Debug)]
pub(crate) struct Pin<'a> {
    index: &'a Index,
    key: u64,
    manifest: Manifest,
    end: Position,
    _no_erasure: RwLockReadGuard<'a, ()>,
}

impl Index {
    /// Syncs the log, and keeps what is on the disk of the state at its end. Waits for an erasure that is under way.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`], [`Error::Closed`]: a sync failed, now or before, and what the disk has is not known.
    /// [`Error::NotFound`]: the index was deleted. [`Error::Closed`]: so was the store.
    pub(crate) fn pin(&self) -> Result<Pin<'_>> {
        let no_erasure = self.pinning.read();
        let mut writer = self.writer.lock();
        if let Some(error) = &writer.closed {
            return Err(error.clone());
        }
        if let Some(why) = self.poison.get() {
            return Err(Error::Closed(Arc::clone(why)));
        }
        // First: a copy must not be ahead of what a power cut leaves, or the LSNs after it would come to mean two things.
        let synced = writer.log.sync();
        // And a marker, which would otherwise follow: the next segment would begin after it, and not where the copy ends.
        if synced.is_ok()
            && writer.log.wants_marker()
            && let Err(error) = writer.log.append_marker()
        {
            tracing::warn!(index = %self.id, %error, "no marker at the end of what is backed up");
        }
        let synced = synced.and_then(|()| writer.log.check());
        self.note_log(&writer.log);
        let end = writer.log.position();
        // While the writer is held: the manifest names the segment that the log ends in.
        let pinned = synced.map(|()| self.root.lock().pin());
        drop(writer);
        self.listeners.wake();
        let (key, manifest) = pinned?;
        debug_assert!(manifest.position.lsn <= end.lsn);
        Ok(Pin { index: self, key, manifest, end, _no_erasure: no_erasure })
    }
}

impl Pin<'_> {
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The place after the last frame: all before it is durable.
    pub(crate) fn end(&self) -> Position {
        self.end
    }

    pub(crate) fn io(&self) -> &dyn Io {
        &*self.index.io
    }

    /// Where the names of the files begin.
    pub(crate) fn directory(&self) -> &Path {
        &self.index.directory
    }

    pub(crate) fn log(&self) -> LogOptions {
        let limits: &Limits = &self.index.limits;
        LogOptions::new(Arc::clone(&self.index.io), self.index.directory.join(LOG_DIRECTORY), self.index.id, limits)
    }

    /// # Errors
    /// [`Error::NotFound`]: the index was deleted, and its files go or are gone. [`Error::Closed`]: the store is being closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if let Some(error) = self.index.listeners.closed() {
            return Err(error);
        }
        match self.index.stop.load(Relaxed) {
            true => Err(Error::Closed("the store is being closed".into())),
            false => Ok(()),
        }
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        // Of an index that was deleted there is nothing left to remove, and another may not have its name: it is a UUID.
        if self.index.listeners.closed().is_none() {
            self.index.root.lock().unpin(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Store, StoreOptions};
    use crate::error::What;
    use crate::format::crc32;
    use crate::io::sim::{SimIo, Survival};
    use crate::types::{Durability, IndexSpec, TenantId};

    fn store(disk: &SimIo) -> Store {
        // Each write has a log segment of its own, so that checkpoints let log go.
        let limits = Limits { log_segment_bytes: 512, ..Limits::default() };
        Store::open(StoreOptions { limits, io: Arc::new(disk.clone()), background: false, ..StoreOptions::new("/data") }).unwrap()
    }

    fn tenant() -> TenantId {
        TenantId::new("t").unwrap()
    }

    fn create(disk: &SimIo) -> (Store, Arc<Index>) {
        let store = store(disk);
        let spec = IndexSpec { name: "n".into(), dimension: 1, index_type: "Flat".into(), ..IndexSpec::default() };
        let index = store.create_index(&tenant(), &spec).unwrap();
        (store, index)
    }

    fn put(index: &Index, id: &str, durability: Durability) {
        let mut batch = index.batch();
        batch.push(id, &[1.0], "{}").unwrap();
        index.upsert(batch, durability).unwrap();
    }

    /// CRC of each file that the manifest names, but for its own; of the log without what comes after it.
    fn files(disk: &SimIo, index: &Index, manifest: &Manifest) -> Vec<Option<u32>> {
        let bytes = manifest.files().skip(1).map(|name| disk.map(&index.directory.join(name)).ok());
        bytes.map(|bytes| bytes.map(|bytes| crc32(&[&bytes]))).collect()
    }

    #[test]
    fn pinned_files_stay_as_they_are_through_checkpoint_and_compaction_and_then_go() {
        let disk = SimIo::new();
        let (_store, index) = create(&disk);
        for id in ["a", "b", "c"] {
            put(&index, id, Durability::Fsync);
        }
        index.checkpoint().unwrap();
        put(&index, "d", Durability::Fsync);
        let pin = index.pin().unwrap();
        assert_eq!((pin.manifest().position.lsn, pin.end().lsn), (3, 4));
        let before = files(&disk, &index, pin.manifest());
        assert!(before.len() >= 2 && before.iter().all(Option::is_some));
        for round in 0..3 {
            put(&index, &format!("x{round}"), Durability::Fsync);
            index.delete(&["a", "b", "c", "d"], Durability::Fsync).unwrap();
            index.compact().unwrap();
        }
        assert_eq!(files(&disk, &index, pin.manifest()), before);
        let manifest = pin.manifest().clone();
        drop(pin);
        assert!(files(&disk, &index, &manifest).iter().all(Option::is_none), "nothing but the pin kept them");
    }

    #[test]
    fn what_is_pinned_is_durable() {
        let disk = SimIo::new();
        let (_store, index) = create(&disk);
        put(&index, "a", Durability::Fsync);
        put(&index, "b", Durability::Interval);
        let pin = index.pin().unwrap();
        let after = disk.crash(Survival::None);
        let found = store(&after).index(&tenant(), index.id()).unwrap();
        assert_eq!((pin.end().lsn, found.info().lsn), (2, 2));
    }

    #[test]
    fn an_erasure_refuses_before_it_begins_while_there_is_a_pin() {
        let disk = SimIo::new();
        let (_store, index) = create(&disk);
        put(&index, "a", Durability::Fsync);
        index.delete(&["a"], Durability::Fsync).unwrap();
        let pins = (index.pin().unwrap(), index.pin().unwrap());
        let before = disk.mutations();
        for _ in 0..2 {
            let refused = index.erase().unwrap_err();
            assert!(matches!(&refused, Error::Conflict(why) if why.contains("backup")), "{refused}");
            assert_eq!(disk.mutations(), before, "it began");
        }
        drop(pins);
        index.erase().unwrap();
    }

    #[test]
    fn a_pin_does_not_hold_up_a_delete_and_learns_of_it() {
        let disk = SimIo::new();
        let (store, index) = create(&disk);
        put(&index, "a", Durability::Fsync);
        let pin = index.pin().unwrap();
        pin.check_open().unwrap();
        store.delete_index(&tenant(), index.id()).unwrap();
        assert!(matches!(pin.check_open(), Err(Error::NotFound(What::Index))));
        drop(pin);
        assert!(matches!(index.pin(), Err(Error::NotFound(What::Index))));
        assert!(disk.list(Path::new("/data/t")).unwrap().is_empty());
    }
}
