//! A backup beside whatever else is done with the index.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use faiss_proxy::backup::{Chunks, Directory, Repository, Target, Throttle, backup, restore};
use faiss_proxy::io::os::OsIo;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::io::{Entry, Lock};
use faiss_proxy::{Durability, Error, Index, IndexOptions, IndexSpec, Metric, Result, Store, StoreOptions};

use super::support::{Session, SetOnDrop, dump, spec, tenant};
use super::{limits, objects, repository, restored, some_writes};

/// A repository that does something before each object is put.
struct Meanwhile<'a> {
    behind: Directory,
    first: Box<dyn Fn() + Send + Sync + 'a>,
}

impl std::fmt::Debug for Meanwhile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.behind.fmt(f)
    }
}

impl Repository for Meanwhile<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.behind.path(name)
    }

    fn lock(&self, name: &str) -> Result<Option<Lock>> {
        self.behind.lock(name)
    }

    fn put(&self, name: &str, bytes: u64, chunks: &mut Chunks<'_>) -> Result<()> {
        (self.first)();
        self.behind.put(name, bytes, chunks)
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        (self.first)();
        self.behind.put_new(name, bytes)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.behind.remove(name)
    }

    fn get(&self, name: &str) -> Result<Option<Box<Chunks<'_>>>> {
        self.behind.get(name)
    }

    fn list(&self, name: &str) -> Result<Vec<Entry>> {
        self.behind.list(name)
    }
}

fn put(index: &Index, id: &str) {
    let mut batch = index.batch();
    batch.push(id, &[1.0, 2.0, 3.0, 4.0], "{}").unwrap();
    index.upsert(batch, Durability::Fsync).unwrap();
}

#[test]
fn what_is_done_while_a_backup_is_made_is_not_in_it_and_does_not_spoil_it() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let lsn = session.history.acked();
    let index = Arc::clone(&session.index);
    let first = Box::new(|| {
        put(&index, "meanwhile");
        index.delete(&["a", "meanwhile"], Durability::Fsync).unwrap();
        index.compact().unwrap();
        assert!(matches!(index.erase(), Err(Error::Conflict(_))), "an erasure answers only when no file has what was deleted");
    });
    let meanwhile = Meanwhile { behind: repository(&disk), first };
    assert_eq!(backup(&index, &meanwhile, &Throttle::new(None)).unwrap().lsn, lsn);
    assert_eq!(restored(&disk, index.id(), Target::Newest).unwrap(), (session.history.state(lsn).clone(), lsn));
    index.erase().unwrap();
    assert_eq!(super::back_up(&index, &disk).unwrap().seq, 2);
    assert_eq!(restored(&disk, index.id(), Target::Newest).unwrap().0, dump(&index));
}

#[test]
fn backup_of_an_index_that_is_deleted_meanwhile_is_none() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let index = Arc::clone(&session.index);
    let first = Box::new(|| {
        let _ = session.store.delete_index(&tenant(), index.id());
    });
    let refused = backup(&index, &Meanwhile { behind: repository(&disk), first }, &Throttle::new(None)).unwrap_err();
    assert!(matches!(refused, Error::NotFound(_)), "{refused}");
    assert!(!objects(&disk).iter().any(|path| path.to_string_lossy().contains("backups/")));
}

#[test]
fn second_backup_of_an_index_to_one_place_waits_for_nobody_and_says_so() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let index = Arc::clone(&session.index);
    let first = Box::new(|| {
        let second = super::back_up(&index, &disk).unwrap_err();
        assert!(matches!(&second, Error::Conflict(why) if why.contains("another backup")), "{second}");
    });
    backup(&index, &Meanwhile { behind: repository(&disk), first }, &Throttle::new(None)).unwrap();
}

/// One mutation stores one point, whose id is its LSN.
#[test]
fn every_backup_beside_writers_checkpoints_and_builds_is_the_state_at_its_lsn() {
    let directory = tempfile::tempdir().unwrap();
    let options = IndexOptions { seal_rows: Some(64), ..IndexOptions::default() };
    let spec = IndexSpec { index_type: "HNSW8".to_owned(), options, ..spec(4, Metric::L2) };
    let store = Store::open(StoreOptions { limits: limits(), ..StoreOptions::new(directory.path().join("data")) }).unwrap();
    let index = store.create_index(&tenant(), &spec).unwrap();
    let to = Directory::new(Arc::new(OsIo), directory.path().join("backups"));
    let ended = AtomicBool::new(false);
    let mut lsns = Vec::new();
    std::thread::scope(|scope| {
        let _ended = SetOnDrop(&ended);
        scope.spawn(|| {
            for n in 1.. {
                put(&index, &n.to_string());
                if n % 50 == 0 {
                    index.checkpoint().unwrap();
                }
                if ended.load(SeqCst) {
                    break;
                }
            }
        });
        while lsns.len() < 8 {
            let report = backup(&index, &to, &Throttle::new(None)).unwrap();
            if report.is_new && report.lsn > 20 {
                lsns.push(report.lsn);
            }
        }
    });
    for lsn in lsns {
        let restored = Store::open(StoreOptions::new(directory.path().join(format!("at-{lsn}")))).unwrap();
        let (index, _) = restore(&restored, &to, &tenant(), index.id(), Target::Lsn(lsn)).unwrap();
        let ids: Vec<u64> = dump(&index).keys().map(|id| id.parse().unwrap()).collect();
        assert_eq!((ids.len() as u64, ids.into_iter().max()), (lsn, Some(lsn)));
    }
}
