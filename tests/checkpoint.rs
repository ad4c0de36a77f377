//! A checkpoint writes what is new and little else, lets the log go, and loses nothing that happens meanwhile.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use faiss_proxy::config::Limits;
use faiss_proxy::io::os::OsIo;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::{Durability, Index, Metric, Store};
use support::{Before, Session, SetOnDrop, dump, files_below, open_store, point, spec, tenant};

/// Stores points `from` to `to`, a thousand in a batch.
fn fill(index: &Index, from: usize, to: usize) {
    for start in (from..to).step_by(1000) {
        let mut batch = index.batch();
        for n in start..(start + 1000).min(to) {
            let values: Vec<f32> = (0..index.dimension()).map(|i| (n + i) as f32).collect();
            batch.push(&format!("document-{n}"), &values, &format!("{{\"n\":{n}}}")).unwrap();
        }
        index.upsert(batch, Durability::Fsync).unwrap();
    }
}

fn open(disk: &SimIo) -> (Store, Arc<Index>) {
    let store = open_store(disk.clone(), "/data", &Limits::default()).unwrap();
    let index = match store.indices(&tenant()).into_iter().next() {
        Some(index) => index,
        None => store.create_index(&tenant(), &spec(32, Metric::L2)).unwrap(),
    };
    (store, index)
}

fn files(disk: &SimIo, extension: &str) -> Vec<String> {
    let all = files_below(disk, Path::new("/data"));
    let ours = all.iter().filter(|path| path.extension().is_some_and(|e| e == extension));
    ours.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
}

#[test]
fn one_percent_of_growth_costs_two_percent_of_the_bytes_and_no_change_costs_none() {
    let disk = SimIo::new();
    let (store, index) = open(&disk);
    fill(&index, 0, 20_000);
    let full = index.checkpoint().unwrap().bytes_written;
    assert!(full > 20_000 * 32 * 4);
    assert_eq!(index.checkpoint().unwrap().bytes_written, 0);

    fill(&index, 20_000, 20_200);
    let grown = index.checkpoint().unwrap().bytes_written;
    // Replacing costs the new rows, and which of the old ones are dead.
    fill(&index, 0, 200);
    let replaced = index.checkpoint().unwrap().bytes_written;
    let deleted = index.delete(&["document-300"], Durability::Fsync).unwrap().deleted_count;
    let one_deleted = index.checkpoint().unwrap().bytes_written;
    println!("full {full} bytes; 1 % more {grown}; 1 % replaced {replaced}; {deleted} deleted {one_deleted}");
    assert!(grown * 50 <= full && replaced * 50 <= full && one_deleted * 500 <= full);
    assert_eq!(index.checkpoint().unwrap().bytes_written, 0);

    drop((index, store));
    let (_store, index) = open(&disk);
    assert_eq!(index.checkpoint().unwrap().bytes_written, 0, "opening makes nothing new");
}

#[test]
fn log_before_the_checkpoints_that_are_kept_is_removed() {
    let disk = SimIo::new();
    let limits = Limits { log_segment_bytes: 2048, ..Limits::default() };
    let mut session = Session::create(&disk, &limits, 4, Metric::L2);
    for version in 0..60 {
        session.put(&["a", "b"], version).unwrap();
        if version % 10 == 9 {
            session.checkpoint().unwrap();
        }
    }
    session.put(&["c"], 1).unwrap();
    // Two manifests are kept, and the log of the older one is what ten writes fill.
    let left = files(&disk, "wal").len();
    assert!(left <= 8, "{left} log files are left after 61 writes");
    println!("{left} log files left after 61 writes");
    let history = session.history;
    drop((session.index, session.store));
    Session::open(&disk, &limits, history, Before::Kill).unwrap();
}

#[test]
fn segments_stay_few_over_many_small_checkpoints() {
    let disk = SimIo::new();
    let mut session = Session::create(&disk, &Limits::default(), 4, Metric::L2);
    let (checkpoints, mut most, mut written) = (200, 0, 0);
    for n in 0..checkpoints {
        session.put(&[&format!("id-{n}")], n).unwrap();
        written += session.checkpoint().unwrap().bytes_written;
        most = most.max(session.index.info().segments);
    }
    // Seven of each size at most, and one of the next is being gathered.
    let tiers = f64::from(checkpoints as u32).log(8.0).ceil() as usize;
    println!("{checkpoints} checkpoints: {most} segments at most, {written} bytes written");
    assert!(most <= 8 * tiers, "{most} segments");
    assert!(files(&disk, "seg").len() <= 8 * tiers + 8);
    let history = session.history;
    drop((session.index, session.store));
    Session::open(&disk, &Limits::default(), history, Before::Kill).unwrap();
}

#[test]
fn dead_rows_are_not_written_again() {
    let disk = SimIo::new();
    let (_store, index) = open(&disk);
    fill(&index, 0, 5_000);
    let ids: Vec<String> = (0..4_990).map(|n| format!("document-{n}")).collect();
    index.delete(&ids.iter().map(String::as_str).collect::<Vec<_>>(), Durability::Fsync).unwrap();
    let written = index.checkpoint().unwrap().bytes_written;
    assert!(written < 10 * (32 * 4 + 200) + 2000, "{written} bytes for ten rows");
    let info = index.info();
    assert_eq!((info.vector_count, info.tombstones), (10, 0));
}

#[test]
fn file_without_a_living_row_is_gone_after_two_checkpoints() {
    let disk = SimIo::new();
    let mut session = Session::create(&disk, &Limits::default(), 4, Metric::L2);
    session.put(&["a", "b"], 1).unwrap();
    session.checkpoint().unwrap();
    let dead = files(&disk, "seg");
    session.put(&["c"], 1).unwrap();
    session.checkpoint().unwrap();
    session.delete(&["a", "b"], Durability::Fsync).unwrap();
    session.checkpoint().unwrap();
    assert_eq!(session.index.info().tombstones, 0);
    session.put(&["d"], 1).unwrap();
    session.checkpoint().unwrap();
    let left = files(&disk, "seg");
    assert!(!left.contains(&dead[0]), "{left:?}");
    assert_eq!(files(&disk, "dead"), [""; 0]);

    // All of it: what is left is an empty index.
    session.delete(&["c", "d"], Durability::Fsync).unwrap();
    session.checkpoint().unwrap();
    assert_eq!(session.index.info().segments, 0);
    let history = session.history;
    drop((session.index, session.store));
    Session::open(&disk.crash(Survival::None), &Limits::default(), history, Before::PowerCut).unwrap();
}

/// Points are replaced and deleted while checkpoints write them: a file must not bring one back.
#[test]
fn what_dies_while_a_checkpoint_is_written_stays_dead() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
    let index = store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
    let put = |index: &Index, n: u64, version: u64| {
        let mut batch = index.batch();
        let new = point(&format!("id-{n}"), version);
        batch.push(&new.id, &new.values, &new.metadata).unwrap();
        index.upsert(batch, Durability::Interval).unwrap();
    };
    let (checkpoints, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(SeqCst) {
                checkpoints.fetch_add(u64::from(index.checkpoint().unwrap().bytes_written > 0), SeqCst);
            }
        });
        let stop = SetOnDrop(&is_over);
        // Each round leaves the same points alive.
        while checkpoints.load(SeqCst) < 20 {
            for n in 0..2_000 {
                put(&index, n, 1);
                put(&index, n / 2, 2);
                if n % 3 == 0 {
                    index.delete(&[&format!("id-{}", n / 3)], Durability::Interval).unwrap();
                }
                if n % 50 == 0 {
                    dump(&index);
                }
            }
        }
        drop(stop);
    });
    println!("{} checkpoints beside the writes", checkpoints.into_inner());
    let check = |index: &Index| {
        let found = dump(index);
        for n in 0..2_000_u64 {
            // Replaced until 2n + 1, deleted at 3n, which is later but for the first.
            let version = if n > 0 && 3 * n < 2_000 { None } else { Some(if n < 1_000 { 2 } else { 1 }) };
            let expected = version.map(|version| point(&format!("id-{n}"), version).metadata);
            assert_eq!(found.get(&format!("id-{n}")).map(|row| row.metadata.clone()), expected, "id-{n}");
        }
        found
    };
    let served = check(&index);
    drop((index, store));
    let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
    let index = store.indices(&tenant()).pop().unwrap();
    assert_eq!(check(&index), served, "after opening again");
    index.checkpoint().unwrap();
    assert_eq!(check(&index), served, "after one more checkpoint");
}
