//! Eight writers beside readers and checkpoints: every search sees one state, with all of a batch or none of it.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Barrier};

use faiss_proxy::config::Limits;
use faiss_proxy::io::os::OsIo;
use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{Durability, Error, Filter, Index, Metric, Query};
use support::{SetOnDrop, open_store, spec, tenant};

const WRITERS: usize = 8;
const BATCH: usize = 20;

/// Stores the whole batch of a writer in one version.
fn put(index: &Index, writer: usize, version: u64) {
    let mut batch = index.batch();
    for n in 0..BATCH {
        let values = [writer as f32, n as f32, version as f32, 1.0];
        batch.push(&format!("{writer}/{n}"), &values, &format!("{{\"writer\":{writer},\"version\":{version}}}")).unwrap();
    }
    assert_eq!(index.upsert(batch, Durability::Fsync).unwrap().added_count, BATCH);
}

fn remove(index: &Index, writer: usize) {
    let ids: Vec<String> = (0..BATCH).map(|n| format!("{writer}/{n}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(index.delete(&ids, Durability::Fsync).unwrap().deleted_count, BATCH);
}

/// The version of each writer's batch in one search; a batch that is not there has none.
fn versions(index: &Index, filter: Option<&str>) -> HashMap<u64, u64> {
    let filter = filter.map(|json| Filter::parse(json).unwrap());
    let hits =
        index.search(&Query { vector: vec![3.0, 4.0, 5.0, 6.0], k: 2 * WRITERS * BATCH, filter, ..Query::default() }).unwrap();
    let mut ids: Vec<&str> = hits.iter().map(|hit| hit.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), hits.len(), "an id came twice");
    let mut found: HashMap<u64, (u64, usize)> = HashMap::new();
    for hit in &hits {
        let metadata: serde_json::Value = serde_json::from_str(&hit.metadata).unwrap();
        let [writer, version] = ["writer", "version"].map(|key| metadata[key].as_u64().unwrap());
        let (first, count) = found.entry(writer).or_insert((version, 0));
        assert_eq!(*first, version, "one search sees two versions of a batch");
        *count += 1;
    }
    found
        .into_iter()
        .map(|(writer, (version, count))| {
            assert_eq!(count, BATCH, "a part of a batch");
            (writer, version)
        })
        .collect()
}

#[test]
fn every_search_sees_whole_batches_and_each_writer_its_own_acknowledged_writes() {
    let directory = tempfile::tempdir().unwrap();
    // Rotation, markers and checkpoints happen beside the writes.
    let limits = Limits { log_segment_bytes: 64 << 10, ..Limits::default() };
    let store = open_store(OsIo, directory.path(), &limits).unwrap();
    let index = store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
    let (searches, checkpoints) = (AtomicU64::new(0), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let expected: HashMap<u64, u64> = std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let _stop = SetOnDrop(&is_over);
                let mut newest: HashMap<u64, u64> = HashMap::new();
                while !is_over.load(SeqCst) {
                    let found = versions(&index, None);
                    searches.fetch_add(u64::from(found.len() > WRITERS / 2), SeqCst);
                    for (writer, version) in found {
                        let newest = newest.entry(writer).or_insert(0);
                        assert!(*newest <= version, "writer {writer} went from {newest} back to {version}");
                        *newest = version;
                    }
                }
            });
        }
        scope.spawn(|| {
            let _stop = SetOnDrop(&is_over);
            while !is_over.load(SeqCst) {
                if index.checkpoint().unwrap().bytes_written > 0 {
                    checkpoints.fetch_add(1, SeqCst);
                    index.sync().unwrap();
                } else {
                    std::thread::yield_now();
                }
            }
        });
        let _stop = SetOnDrop(&is_over);
        // As long as it takes for everything to have happened at the same time.
        let is_enough = |version| version >= 60 && searches.load(SeqCst) > 50 && checkpoints.load(SeqCst) > 2;
        let write = |writer| {
            for version in 1.. {
                put(&index, writer, version);
                let own = || versions(&index, Some(&format!("{{\"writer\":{writer}}}")));
                assert_eq!(own(), HashMap::from([(writer as u64, version)]), "an acknowledged write is not seen");
                let point = index.get(&format!("{writer}/7")).unwrap().unwrap();
                assert_eq!(point.values[2], version as f32);
                if is_enough(version) || is_over.load(SeqCst) {
                    return (writer as u64, version);
                }
                if version % 7 == 0 {
                    remove(&index, writer);
                    assert!(own().is_empty());
                }
            }
            unreachable!()
        };
        std::thread::scope(|scope| {
            let write = &write;
            let threads: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    });
    let batches: u64 = expected.values().sum();
    println!("{} searches and {} checkpoints beside {batches} batches", searches.into_inner(), checkpoints.into_inner());
    assert_eq!(versions(&index, None), expected);
    drop((index, store));
    let store = open_store(OsIo, directory.path(), &limits).unwrap();
    assert_eq!(versions(&store.indices(&tenant())[0], None), expected, "after opening again");
}

/// Every call returns, and says what it knows; what was acknowledged is there after a power cut.
#[test]
fn every_writer_of_a_group_is_woken_when_its_sync_fails() {
    let mut rounds = 0;
    for nth_sync in 1..40 {
        let disk = SimIo::new();
        let store = open_store(disk.clone(), "/data", &Limits::default()).unwrap();
        let index = store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
        put(&index, 0, 1);
        disk.fail_at(nth_sync, Fault::FailedSync);
        let barrier = Barrier::new(WRITERS);
        let acked: Vec<Option<u64>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (index, barrier): (&Arc<Index>, &Barrier) = (&index, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let mut acked = None;
                        for version in 2..12 {
                            let mut batch = index.batch();
                            batch.push(&format!("w{writer}"), &[1.0; 4], &format!("{{\"version\":{version}}}")).unwrap();
                            match index.upsert(batch, Durability::Fsync) {
                                Ok(_) => acked = Some(version),
                                Err(Error::OutcomeUnknown(_) | Error::Closed(_)) => break,
                                Err(other) => panic!("{other:?}"),
                            }
                        }
                        acked
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        if disk.faults_left() > 0 {
            break;
        }
        rounds += 1;
        assert!(acked.iter().any(|version| *version != Some(11)), "a sync failed, and nobody was told");
        let mut batch = index.batch();
        batch.push("later", &[1.0; 4], "{}").unwrap();
        assert!(matches!(index.upsert(batch, Durability::Fsync), Err(Error::Closed(_))), "it takes writes again");
        assert!(matches!(index.info().state, faiss_proxy::IndexState::ReadOnly { .. }));
        // Reads go on.
        assert_eq!(versions_of_batch_zero(&index), BATCH);
        for survival in [Survival::None, Survival::All] {
            let store = open_store(disk.crash(survival), "/data", &Limits::default()).unwrap();
            let index = store.indices(&tenant()).pop().unwrap();
            for (writer, acked) in acked.iter().enumerate() {
                let found = index.get(&format!("w{writer}")).unwrap().map(|point| point.metadata);
                let version = |text: &String| text.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap();
                let found = found.as_ref().map(version);
                assert!(found >= *acked, "{found:?} is there, and {acked:?} was acknowledged");
                assert!(found <= Some(acked.unwrap_or(1) + 1), "{found:?} was never written");
            }
        }
    }
    println!("{rounds} syncs failed under {WRITERS} writers");
    assert!(rounds >= 10, "{rounds}");
}

fn versions_of_batch_zero(index: &Index) -> usize {
    (0..BATCH).filter(|n| index.get(&format!("0/{n}")).unwrap().is_some()).count()
}
