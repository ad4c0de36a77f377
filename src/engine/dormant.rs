//! Indices that are not open: how one is looked at without opening it, and how an open one is made ready to be closed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::index::{Index, Scheduled};
use super::recover::{self, Context};
use crate::checkpoint::manifest::Root;
use crate::error::{Error, Result};
use crate::format::manifest::{CreationKey, LOG_DIRECTORY, Settings};
use crate::types::IndexId;
use crate::wal::file_log::{FileLog, LogOptions};
use crate::wal::recover::LogReport;

/// What is kept of every index, open or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) name: Box<str>,
    /// As JSON.
    pub(super) options: Box<str>,
    pub(super) created_at_us: i64,
    pub(super) created_by: Option<Box<CreationKey>>,
}

impl About {
    fn of(settings: &Settings) -> Self {
        let created_by = settings.created_by.clone().map(Box::new);
        let (name, options) = (settings.name.as_str().into(), settings.options.as_str().into());
        Self { name, options, created_at_us: settings.created_at_us, created_by }
    }
}

/// What a look at an index gave.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) about: About,
    /// Opening it will have log to replay or a torn tail to copy aside.
    pub(super) has_log: bool,
}

/// Checks the manifest of an index and every frame of its log after the checkpoint, and refuses what [`recover::open`] would refuse of
/// them. It changes nothing on the disk, and keeps nothing in memory but what it gives. Segments are left to the opening.
///
/// # Errors
/// As [`recover::open`].
pub(super) fn look(context: &Context, id: IndexId, directory: &Path) -> Result<Looked> {
    let Context { io, limits, .. } = context;
    // Not synced, as it is before an index serves: nothing is done on the strength of what is read here.
    let root = Root::look(Arc::clone(io), directory, id)?;
    let manifest = root.current();
    context.check_shared(manifest)?;
    recover::settings_of(manifest, directory)?;
    let dimension = manifest.settings.dimension;
    let options = LogOptions::new(Arc::clone(io), directory.join(LOG_DIRECTORY), id, limits);
    let report = FileLog::verify(&options, &manifest.log, manifest.position, &mut |lsn, operation| {
        recover::check_operation(operation, lsn, dimension, &options.directory)
    })?;
    Ok(Looked { about: About::of(&manifest.settings), has_log: report != LogReport::default() })
}

/// Whether the next try may go better, and is safe: nothing was damaged, and no sync failed. (After one that failed, a later one may say
/// `Ok` about bytes and names that the disk does not have.) A process that has too many files open is such a case.
pub(super) fn may_pass(error: &Error) -> bool {
    match error {
        Error::Io(fault) | Error::Full(fault) => fault.operation != "sync",
        _ => false,
    }
}

impl Index {
    pub(super) fn about(&self) -> About {
        let config = self.config.load();
        let (name, options) = (config.name.as_str().into(), config.options.to_text().into());
        About { name, options, ..About::of(&self.settings) }
    }

    /// Makes sure that dropping it loses nothing: what was acknowledged is durable. What no checkpoint holds is covered by a watermark where
    /// there is room for one, so that the next opening need not copy it.
    ///
    /// # Errors
    /// It takes no more writes, because a sync failed, now or before, or because a delete of it did or the store is closed. It must not be
    /// opened again while this process lives: what the disk has of it is not known.
    pub(super) fn make_durable(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        if let Some(error) = &writer.closed {
            return Err(error.clone());
        }
        let has_checkpoint = self.checkpoint_lsn.load(Relaxed) == writer.log.written_lsn();
        let synced = writer.log.sync();
        if synced.is_ok()
            && !has_checkpoint
            && writer.log.wants_marker()
            && let Err(error) = writer.log.append_marker()
        {
            tracing::warn!(index = %self.id, %error, "no marker; the next opening copies what is not in a checkpoint");
        }
        self.note_log(&writer.log);
        self.poison.get().map_or(Ok(()), |why| Err(Error::Closed(Arc::clone(why))))
    }

    /// Shares again an instance that was taken out of its `Arc`. What was scheduled for it is forgotten.
    pub(super) fn share(self) -> Arc<Self> {
        Arc::new_cyclic(|weak| Self { weak: weak.clone(), scheduled: Scheduled::default(), ..self })
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::engine::{Opening, Store, StoreOptions};
    use crate::format::manifest::{Manifest, Settings, file_name};
    use crate::io::durable;
    use crate::io::sim::{SimIo, Survival};
    use crate::types::{Durability, IndexSpec, TenantId};

    fn open(disk: &SimIo) -> Store {
        let options = StoreOptions { io: Arc::new(disk.clone()), background: false, ..StoreOptions::new("/data") };
        Store::open(StoreOptions { opening: Opening::Lazy, ..options }).unwrap()
    }

    /// Also what was written after the last checkpoint, while it was looked for somebody who has the index.
    #[test]
    fn what_is_settled_survives_a_power_cut_and_need_not_be_copied_at_the_next_opening() {
        let (disk, tenant) = (SimIo::new(), TenantId::new("t").unwrap());
        let store = open(&disk);
        let spec = IndexSpec { name: "n".into(), dimension: 1, index_type: "Flat".into(), metric: None, ..IndexSpec::default() };
        let index = store.create_index(&tenant, &spec).unwrap();
        for id in ["a", "b"] {
            let mut batch = index.batch();
            batch.push(id, &[1.0], "{}").unwrap();
            index.upsert(batch, Durability::Interval).unwrap();
        }
        index.make_durable().unwrap();
        let after = disk.crash(Survival::None);
        let store = open(&after);
        let listed_log = || {
            let entries = crate::io::Io::list(&after, &index.directory).unwrap();
            let newest = entries.into_iter().map(|entry| entry.name).filter(|name| name.starts_with("manifest")).max();
            let bytes = durable::read_all(&after, &index.directory.join(newest.unwrap()), 1 << 20).unwrap();
            Manifest::decode(&bytes).unwrap().log
        };
        let before = listed_log();
        let found = store.index(&tenant, index.id()).unwrap();
        assert_eq!((found.info().vector_count, found.info().lsn), (2, 2));
        assert_eq!(listed_log(), before, "the opening had to list a new log segment");
    }

    /// It was given to every call as an invalid field of the request, and at the start not at all.
    #[test]
    fn a_type_or_options_that_this_version_does_not_know_refuse_the_index_by_its_manifest_at_the_start() {
        type Change = fn(&mut Settings);
        let changes: [(Change, &str); 4] = [
            (|settings| settings.factory = "Fla/".to_owned(), "does not take its type"),
            (|settings| settings.factory = "HNSW16,PQ7".to_owned(), "does not take its type"),
            (|settings| settings.options = "{".to_owned(), "options"),
            (|settings| settings.metric = 9, "metric 9"),
        ];
        for (change, expected) in changes {
            let (disk, tenant) = (SimIo::new(), TenantId::new("t").unwrap());
            let spec = IndexSpec { name: "n".into(), dimension: 4, index_type: "Flat".into(), ..IndexSpec::default() };
            let id = open(&disk).create_index(&tenant, &spec).unwrap().id();
            let directory = Path::new("/data/t").join(id.to_string());
            let path = directory.join(file_name(2));
            let mut manifest = Manifest::decode(&durable::read_all(&disk, &path, 1 << 20).unwrap()).unwrap();
            change(&mut manifest.settings);
            durable::replace(&disk, &directory, &file_name(2), &[IoSlice::new(&manifest.encode())]).unwrap();
            for opening in [Opening::Lazy, Opening::Eager] {
                let options = StoreOptions { io: Arc::new(disk.fork()), background: false, ..StoreOptions::new("/data") };
                let store = Store::open(StoreOptions { opening, ..options }).unwrap();
                let [(_, refusal)] = &store.refused(&tenant)[..] else { panic!("{opening:?}: it is refused at the start") };
                assert!(matches!(refusal, Error::Corrupt(damage) if damage.path == path), "{refusal}");
                assert!(refusal.to_string().contains(expected), "{refusal}");
                assert_eq!(store.index(&tenant, id).unwrap_err().to_string(), refusal.to_string());
            }
        }
    }
}
