//! Indices that open at their first use: one instance each, whoever asks, and nobody waits for another's.

mod support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Barrier};

use faiss_proxy::config::Limits;
use faiss_proxy::io::Io;
use faiss_proxy::io::sim::{Operation, SimIo, Survival};
use faiss_proxy::{Durability, Error, Index, IndexCounts, IndexId, Metric, Opening, Result, Store, StoreOptions, TenantId};
use parking_lot::{Condvar, Mutex};
use support::detour::{Course, Detour};
use support::{dump, open_store, open_store_as, point, spec, tenant};

fn lazy(disk: impl Io + 'static) -> Result<Store> {
    open_store_as(Opening::Lazy, disk, "/data", &Limits::default())
}

fn put(index: &Index, id: &str, version: u64, durability: Durability) {
    let mut batch = index.batch();
    let new = point(id, version);
    batch.push(&new.id, &new.values, &new.metadata).unwrap();
    index.upsert(batch, durability).unwrap();
}

/// Indices of the tenant with a checkpoint and a log after it, and the disk that they are on.
fn indices(count: usize) -> (SimIo, Vec<IndexId>) {
    let disk = SimIo::new();
    let store = open_store(disk.clone(), "/data", &Limits::default()).unwrap();
    let ids = (0..count).map(|n| {
        let index = store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
        put(&index, "a", n as u64, Durability::Fsync);
        index.checkpoint().unwrap();
        put(&index, "b", n as u64, Durability::Fsync);
        index.sync().unwrap();
        index.id()
    });
    let ids = ids.collect();
    drop(store);
    (disk, ids)
}

fn counts(serving: usize, not_verified: usize, refused: usize) -> IndexCounts {
    IndexCounts { serving, not_verified, refused }
}

/// A disk that asks before it maps, lists or syncs a path.
fn asking(disk: SimIo, ask: impl Fn(&Path) -> io::Result<()> + Send + Sync + 'static) -> Detour {
    Detour::new(disk, move |_, operation, path| {
        let is_asked = matches!(operation, Operation::Map | Operation::List | Operation::SyncDir);
        if is_asked { ask(path).map(|()| Course::Do) } else { Ok(Course::Do) }
    })
}

#[test]
fn an_index_opens_at_its_first_use_and_has_the_same_points() {
    let (disk, ids) = indices(3);
    let eager = open_store(disk.fork(), "/data", &Limits::default()).unwrap();
    assert_eq!(eager.counts(None), counts(3, 0, 0));

    let store = lazy(disk).unwrap();
    assert_eq!(store.counts(Some(&tenant())), counts(0, 3, 0));
    assert!(store.opened(Some(&tenant())).is_empty());
    let listed = store.list(&tenant()).unwrap();
    assert_eq!(listed, eager.list(&tenant()).unwrap(), "the list needs no index to be open");
    assert_eq!(listed.len(), 3);
    assert_eq!(store.counts(None), counts(0, 3, 0));
    let expected = dump(&eager.index(&tenant(), ids[1]).unwrap());
    assert_eq!(dump(&store.index(&tenant(), ids[1]).unwrap()), expected);
    assert_eq!(store.counts(None), counts(1, 2, 0));
    assert!(matches!(store.index(&tenant(), IndexId::nil()), Err(Error::NotFound(_))));
    assert!(matches!(store.index(&TenantId::new("other").unwrap(), ids[1]), Err(Error::NotFound(_))));
}

#[test]
fn looking_at_indices_changes_nothing_on_the_disk_and_not_even_syncs_it() {
    let (disk, ids) = indices(3);
    let before = disk.trace().last().unwrap().number;
    let store = lazy(disk.clone()).unwrap();
    let is_ours = |path: &Path| ids.iter().any(|id| path.to_string_lossy().contains(&id.to_string()));
    let trace = disk.trace();
    let steps: Vec<_> = trace.iter().filter(|step| step.number > before && is_ours(&step.path)).collect();
    assert!(steps.len() >= 3 * ids.len() && !steps.iter().any(|step| step.operation.is_mutation()), "{steps:?}");
    drop(store);
}

#[test]
fn all_who_ask_for_an_index_at_once_get_the_same_instance_and_who_asks_for_another_does_not_wait() {
    let (disk, ids) = indices(2);
    let (is_open, opened, asked) = (Arc::new(Mutex::new(false)), Arc::new(Condvar::new()), Arc::new(Barrier::new(2)));
    let slow = ids[0].to_string();
    let ask = {
        let (is_open, opened, asked) = (Arc::clone(&is_open), Arc::clone(&opened), Arc::clone(&asked));
        move |path: &Path| {
            if path.to_string_lossy().contains(&slow) && path.extension().is_some_and(|e| e == "seg") {
                asked.wait();
                let mut is_open = is_open.lock();
                while !*is_open {
                    opened.wait(&mut is_open);
                }
            }
            Ok(())
        }
    };
    let store = lazy(asking(disk, ask)).unwrap();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| store.index(&tenant(), ids[0]).unwrap())).collect();
        // The recovery of the one stands still; the other is opened, the first is listed and counted.
        asked.wait();
        assert_eq!(store.index(&tenant(), ids[1]).unwrap().id(), ids[1]);
        assert_eq!(store.list(&tenant()).unwrap().len(), 2);
        assert_eq!(store.counts(None), counts(1, 1, 0));
        *is_open.lock() = true;
        opened.notify_all();
        // A second recovery would wait at the barrier for ever.
        let indices: Vec<Arc<Index>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(indices.iter().all(|index| Arc::ptr_eq(index, &indices[0])), "two instances of one index");
    });
    assert_eq!(store.counts(None), counts(2, 0, 0));
}

#[test]
fn a_damaged_log_is_refused_at_the_start_a_damaged_segment_at_the_first_use_and_the_others_serve() {
    let (disk, ids) = indices(3);
    let damage = |id: IndexId, directory: &str| {
        let directory = Path::new("/data/tenant-1").join(id.to_string()).join(directory);
        let path = support::files_below(&disk, &directory).pop().unwrap();
        // In the log, the first frame after the checkpoint, which the marker behind it vouches for.
        disk.open(&path).unwrap().write_at(1100, &[io::IoSlice::new(&[0xff; 80])]).unwrap();
    };
    damage(ids[0], "wal");
    damage(ids[1], "segments");
    let store = lazy(disk).unwrap();
    assert_eq!(store.counts(None), counts(0, 2, 1));
    assert_eq!(store.refused(&tenant())[0].0, ids[0]);
    assert_eq!(store.list(&tenant()).unwrap().len(), 2);
    for id in &ids[..2] {
        for _ in 0..2 {
            let error = store.index(&tenant(), *id).unwrap_err();
            assert!(matches!(error, Error::Corrupt(_)) && error.to_string().contains(&id.to_string()), "{error}");
        }
    }
    assert_eq!(store.counts(None), counts(0, 1, 2));
    assert_eq!(store.indices(&tenant()).len(), 1);
    assert_eq!(dump(&store.index(&tenant(), ids[2]).unwrap()).len(), 2);
}

#[test]
fn an_index_that_could_not_be_read_for_now_is_opened_by_the_next_who_asks() {
    let (disk, ids) = indices(1);
    let failures = Mutex::new(1);
    let ask = move |path: &Path| {
        let is_segment = path.extension().is_some_and(|e| e == "seg");
        if is_segment && std::mem::take(&mut *failures.lock()) > 0 {
            return Err(io::Error::other("too many open files"));
        }
        Ok(())
    };
    let store = lazy(asking(disk, ask)).unwrap();
    assert!(matches!(store.index(&tenant(), ids[0]), Err(Error::Io(_))));
    assert_eq!(store.counts(None), counts(0, 1, 0));
    assert_eq!(dump(&store.index(&tenant(), ids[0]).unwrap()).len(), 2);
}

#[test]
fn an_index_is_deleted_without_being_opened() {
    let (disk, ids) = indices(2);
    let store = lazy(disk.clone()).unwrap();
    store.delete_index(&tenant(), ids[0]).unwrap();
    assert_eq!(store.counts(None), counts(0, 1, 0));
    assert!(matches!(store.index(&tenant(), ids[0]), Err(Error::NotFound(_))));
    assert!(matches!(store.delete_index(&tenant(), ids[0]), Err(Error::NotFound(_))));
    drop(store);
    let store = lazy(disk).unwrap();
    assert_eq!(store.list(&tenant()).unwrap().iter().map(|index| index.id).collect::<Vec<_>>(), [ids[1]]);
}

/// After a sync that failed it is not known under which name the index is on the disk: what would be written to it could be lost.
#[test]
fn a_delete_whose_outcome_is_not_known_leaves_an_index_that_is_not_opened_again() {
    let (disk, ids) = indices(1);
    let is_failing = Arc::new(Mutex::new(false));
    let ask = {
        let is_failing = Arc::clone(&is_failing);
        move |path: &Path| match path.ends_with("tenant-1") && *is_failing.lock() {
            true => Err(io::Error::other("a sync failed")),
            false => Ok(()),
        }
    };
    let store = lazy(asking(disk, ask)).unwrap();
    *is_failing.lock() = true;
    assert!(matches!(store.delete_index(&tenant(), ids[0]), Err(Error::OutcomeUnknown(_))));
    *is_failing.lock() = false;
    assert!(matches!(store.index(&tenant(), ids[0]), Err(Error::OutcomeUnknown(_))));
    store.delete_index(&tenant(), ids[0]).unwrap();
    assert!(matches!(store.index(&tenant(), ids[0]), Err(Error::NotFound(_))));
}

/// The same of one that is open: what it would take after being opened again could be lost.
#[test]
fn an_index_that_a_failed_delete_left_without_writes_is_not_closed_and_opened_again() {
    let (disk, ids) = indices(2);
    let is_failing = Arc::new(Mutex::new(false));
    let ask = {
        let is_failing = Arc::clone(&is_failing);
        move |path: &Path| match path.ends_with("tenant-1") && *is_failing.lock() {
            true => Err(io::Error::other("a sync failed")),
            false => Ok(()),
        }
    };
    let disk = asking(disk, ask);
    let store = open_store_as(Opening::Lazy, disk, "/data", &with_budget(1)).unwrap();
    store.index(&tenant(), ids[0]).unwrap();
    *is_failing.lock() = true;
    assert!(matches!(store.delete_index(&tenant(), ids[0]), Err(Error::OutcomeUnknown(_))));
    *is_failing.lock() = false;
    store.index(&tenant(), ids[1]).unwrap();
    let index = store.index(&tenant(), ids[0]).unwrap();
    let mut batch = index.batch();
    batch.push("later", &[1.0; 4], "{}").unwrap();
    assert!(matches!(index.upsert(batch, Durability::Fsync), Err(Error::NotFound(_))));
    assert_eq!(dump(&index).len(), 2);
}

#[test]
fn a_store_that_is_closed_opens_no_index_and_those_that_are_open_still_read() {
    let (disk, ids) = indices(2);
    let store = lazy(disk.clone()).unwrap();
    let open = store.index(&tenant(), ids[0]).unwrap();
    store.close().unwrap();
    assert!(matches!(store.index(&tenant(), ids[1]), Err(Error::Closed(_))));
    assert_eq!(dump(&store.index(&tenant(), ids[0]).unwrap()), dump(&open));
    assert_eq!(open.info().checkpoint_lsn, 2);
    drop((open, store));
    assert_eq!(dump(&lazy(disk).unwrap().index(&tenant(), ids[1]).unwrap()).len(), 2);
}

#[test]
fn a_tenants_directory_that_cannot_be_read_is_that_tenants_matter() {
    let (disk, ids) = indices(1);
    let other = TenantId::new("other").unwrap();
    let theirs = {
        let store = lazy(disk.clone()).unwrap();
        store.create_index(&other, &spec(4, Metric::L2)).unwrap().id()
    };
    for opening in [Opening::Eager, Opening::Lazy] {
        let ask = |path: &Path| match path.ends_with("other") {
            true => Err(io::ErrorKind::PermissionDenied.into()),
            false => Ok(()),
        };
        let disk = asking(disk.clone(), ask);
        let store = open_store_as(opening, disk, "/data", &Limits::default()).unwrap();
        assert_eq!(dump(&store.index(&tenant(), ids[0]).unwrap()).len(), 2);
        assert!(matches!(store.index(&other, theirs), Err(Error::Io(_))), "it is there: nobody may say that it is not");
        assert!(matches!(store.list(&other), Err(Error::Io(_))));
        assert!(matches!(store.delete_index(&other, theirs), Err(Error::Io(_))));
        assert!(matches!(store.create_index(&other, &spec(4, Metric::L2)), Err(Error::Io(_))));
    }
    assert_eq!(lazy(disk).unwrap().list(&other).unwrap()[0].id, theirs);
}

/// So little that one index alone is over it.
fn with_budget(bytes: u64) -> Limits {
    Limits { memory_budget_bytes: bytes, ..Limits::default() }
}

#[test]
fn over_the_budget_the_index_that_was_not_used_for_longest_is_closed_and_opens_again_with_the_same_points() {
    let (disk, ids) = indices(4);
    // Each with a checkpoint of everything, so that all take as much.
    open_store(disk.clone(), "/data", &Limits::default()).unwrap().close().unwrap();
    // What one takes, and then room for two and a half.
    let one = {
        let store = lazy(disk.fork()).unwrap();
        store.index(&tenant(), ids[0]).unwrap();
        store.memory_bytes()
    };
    let limits = with_budget(one * 5 / 2);
    let store = open_store_as(Opening::Lazy, disk, "/data", &limits).unwrap();
    let is_open = |id: IndexId| store.opened(Some(&tenant())).iter().any(|index| index.id() == id);
    let open = || ids.iter().map(|&id| is_open(id)).collect::<Vec<_>>();
    let states: Vec<_> = ids.iter().map(|&id| dump(&store.index(&tenant(), id).unwrap())).collect();
    assert_eq!(open(), [false, false, true, true]);
    let points: usize = states.iter().map(|state| state.len()).sum();
    assert_eq!((store.usage(&tenant()).points, store.usage(&tenant()).uncounted), (points as u64, 0), "as they were closed");
    assert_eq!(open(), [false, false, true, true], "none was opened to be counted");
    store.index(&tenant(), ids[2]).unwrap();
    store.index(&tenant(), ids[0]).unwrap();
    assert_eq!(open(), [true, false, true, false], "2 was used after 3");
    assert!(store.memory_bytes() <= limits.memory_budget_bytes);
    for (id, state) in ids.iter().zip(&states) {
        assert_eq!(dump(&store.index(&tenant(), *id).unwrap()), *state);
    }
}

#[test]
fn an_index_that_grows_past_the_budget_is_closed_when_nobody_has_it() {
    let directory = tempfile::tempdir().unwrap();
    // An empty index is under it. These rows are over it even when a checkpoint has them in a file: 10 bytes at least for each id. Else an
    // index that a task of the timer has at the moment when it could be closed would stay open, and rightly so.
    let options = StoreOptions { limits: with_budget(32 << 10), opening: Opening::Lazy, ..StoreOptions::new(directory.path()) };
    let store = Store::open(options).unwrap();
    let index = store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
    let mut batch = index.batch();
    for n in 0..5_000 {
        batch.push(&n.to_string(), &[1.0; 4], "{}").unwrap();
    }
    index.upsert(batch, Durability::Interval).unwrap();
    let id = index.id();
    drop(index);
    // Nobody opens anything: it is the store's own thread that looks.
    // It counts as not open while it is being closed, and its memory until it is.
    while store.counts(None) != counts(0, 1, 0) || store.memory_bytes() != 0 {
        std::thread::yield_now();
    }
    assert_eq!(store.index(&tenant(), id).unwrap().info().vector_count, 5_000);
}

#[test]
fn an_index_that_somebody_has_is_never_closed_and_one_that_nobody_has_is_closed_with_a_checkpoint() {
    let (disk, ids) = indices(3);
    let store = open_store_as(Opening::Lazy, disk, "/data", &with_budget(1)).unwrap();
    let held = store.index(&tenant(), ids[0]).unwrap();
    for id in &ids[1..] {
        store.index(&tenant(), *id).unwrap();
    }
    put(&held, "c", 1, Durability::Fsync);
    let again = store.index(&tenant(), ids[0]).unwrap();
    assert!(Arc::ptr_eq(&held, &again));
    assert_eq!(dump(&again).len(), 3);
    drop((held, again));
    // The last that was opened, and all others are closed.
    let last = store.index(&tenant(), ids[1]).unwrap();
    assert_eq!(store.counts(None), counts(1, 2, 0));
    drop(last);
    let info = store.index(&tenant(), ids[0]).unwrap().info();
    assert_eq!((info.lsn, info.checkpoint_lsn, info.vector_count), (3, 3, 3));
}

#[test]
fn what_was_acknowledged_with_interval_durability_survives_a_closing_followed_by_a_power_cut() {
    for is_full in [false, true] {
        let (disk, ids) = indices(2);
        let store = open_store_as(Opening::Lazy, disk.clone(), "/data", &with_budget(1)).unwrap();
        let index = store.index(&tenant(), ids[0]).unwrap();
        put(&index, "c", 7, Durability::Interval);
        put(&index, "d", 8, Durability::Interval);
        let state = dump(&index);
        assert!(index.info().durable_lsn < 4);
        if is_full {
            // No room for a checkpoint: the log has to do.
            disk.set_capacity(Some(disk.used_bytes()));
        }
        drop(index);
        store.index(&tenant(), ids[1]).unwrap();
        assert_eq!(store.opened(Some(&tenant())).iter().map(|index| index.id()).collect::<Vec<_>>(), [ids[1]]);
        let after = disk.crash(Survival::None);
        after.set_capacity(None);
        let store = lazy(after).unwrap();
        let index = store.index(&tenant(), ids[0]).unwrap();
        assert_eq!(dump(&index), state);
        assert_eq!(index.info().checkpoint_lsn, if is_full { 1 } else { 4 });
    }
}

/// Threads use some indices under a budget for one, and write to them. Two instances of one index would overwrite each other's log; one
/// that was closed too early would lose what it had acknowledged.
#[test]
fn under_any_traffic_there_is_one_instance_of_an_index_and_every_write_is_found_by_the_next_who_opens_it() {
    const THREADS: usize = 6;
    const ROUNDS: u64 = 150;
    let (disk, ids) = indices(3);
    let store = open_store_as(Opening::Lazy, disk.clone(), "/data", &with_budget(1)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, ids) = (&store, &ids);
            scope.spawn(move || {
                let mut chance = support::Chance::new(thread as u64);
                let mut last = [None; 3];
                for round in 0..ROUNDS {
                    let at = chance.below(ids.len());
                    let index = store.index(&tenant(), ids[at]).unwrap();
                    let id = format!("thread-{thread}");
                    let version =
                        |metadata: String| serde_json::from_str::<serde_json::Value>(&metadata).unwrap()["version"].as_u64();
                    let found = index.get(&id).unwrap().and_then(|point| version(point.metadata));
                    assert_eq!(found, last[at], "what this thread wrote last");
                    let durability = if round % 2 == 0 { Durability::Fsync } else { Durability::Interval };
                    put(&index, &id, round, durability);
                    last[at] = Some(round);
                }
            });
        }
    });
    let closed = disk.trace().iter().filter(|step| step.path.to_string_lossy().ends_with(".seg")).count();
    println!("{closed} of the last {} steps were on segments", disk.trace().len());
    let states: Vec<_> = ids.iter().map(|&id| dump(&store.index(&tenant(), id).unwrap())).collect();
    assert!(states.iter().all(|state| state.len() == 2 + THREADS));
    store.close().unwrap();
    drop(store);
    let store = lazy(disk.crash(Survival::None)).unwrap();
    for (id, state) in ids.iter().zip(states) {
        assert_eq!(dump(&store.index(&tenant(), *id).unwrap()), state);
    }
}
