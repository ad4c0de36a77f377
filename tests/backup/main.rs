//! Backups: what is restored is exactly the index at one LSN, whatever happens while it is backed up and restored; and what is not what was backed
//! up is not restored.

#[path = "../support/mod.rs"]
mod support;

mod crashes;
mod damage;
mod histories;
mod writers;

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use faiss_proxy::backup::{BackupReport, Directory, Target, Throttle, backup, restore};
use faiss_proxy::config::Limits;
use faiss_proxy::io::Io;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::{Index, IndexId, IndexOptions, IndexSpec, Lsn, Metric, Result, Store};
use support::{Session, State, dump, open_store, spec, tenant};

/// Where the repository is, on whichever disk.
const REPOSITORY: &str = "/repository";

/// Small segments of the log: several in each backup.
fn limits() -> Limits {
    Limits { log_segment_bytes: 2048, ..Limits::default() }
}

/// What is read as of any LSN: the log stays.
fn with_history() -> IndexSpec {
    let options = IndexOptions { log_retention_bytes: Some(1 << 30), ..IndexOptions::default() };
    IndexSpec { options, ..spec(4, Metric::L2) }
}

fn repository(disk: &SimIo) -> Directory {
    Directory::new(Arc::new(disk.clone()), REPOSITORY)
}

fn back_up(index: &Index, disk: &SimIo) -> Result<BackupReport> {
    backup(index, &repository(disk), &Throttle::new(None))
}

/// A store on a disk that has none yet.
fn new_store(disk: &SimIo) -> Store {
    open_store(disk.clone(), "/restored", &limits()).unwrap()
}

/// Restores from the repository on a disk into a new store on a new one, and gives what is in it.
fn restored(disk: &SimIo, id: IndexId, target: Target) -> Result<(State, Lsn)> {
    let to = SimIo::new();
    let store = new_store(&to);
    let (index, report) = restore(&store, &repository(disk), &tenant(), id, target)?;
    assert_ne!(index.id(), id, "a restored index is another one");
    assert_eq!((report.index, report.from_index, report.lsn), (index.id(), id, index.info().lsn));
    let state = dump(&index);
    assert_eq!(report.vector_count, state.len() as u64);
    // As durable as any: it was answered.
    drop((index, store));
    let again = new_store(&to.crash(faiss_proxy::io::sim::Survival::None));
    let index = again.index(&tenant(), report.index).unwrap();
    assert_eq!(dump(&index), state, "after a power cut");
    Ok((state, report.lsn))
}

/// The objects of the repository on a disk.
fn objects(disk: &SimIo) -> Vec<PathBuf> {
    let files = support::files_below(disk, Path::new(REPOSITORY));
    files.into_iter().filter(|path| path.file_name().is_none_or(|name| name != ".lock")).collect()
}

fn contents(disk: &SimIo, path: &Path) -> Vec<u8> {
    disk.map(path).unwrap().to_vec()
}

fn overwrite(disk: &SimIo, path: &Path, bytes: &[u8]) {
    disk.remove_file(path).unwrap();
    disk.create(path).unwrap().write_at(0, &[IoSlice::new(bytes)]).unwrap();
}

/// Some of everything: rows of several checkpoints, dead rows, replaced ones, and log after the last checkpoint.
fn some_writes(session: &mut Session) {
    session.put(&["a", "b", "c"], 1).unwrap();
    session.put(&["d", "a"], 2).unwrap();
    session.checkpoint().unwrap();
    session.delete(&["b"], faiss_proxy::Durability::Fsync).unwrap();
    session.put(&["e"], 3).unwrap();
    session.checkpoint().unwrap();
    session.put(&["f", "c"], 4).unwrap();
    session.delete(&["d"], faiss_proxy::Durability::Fsync).unwrap();
}
