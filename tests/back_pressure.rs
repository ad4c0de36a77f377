//! Writers who are faster than builds are held up and then refused, so that what searches scan stays bounded; and a build that is under way
//! does not hold up who closes or deletes its index.

mod support;

#[path = "support/gate.rs"]
mod gate;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::{Durability, Error, Index, IndexOptions, IndexSpec, Metric, Opening, Query, Store, StoreOptions};
use gate::{Gate, OpenOnDrop};
use support::{dump, files_below, open_store, spec, tenant};

/// Rows of a build, and without an index up to which nobody is held up.
const BUILD_ROWS: u32 = 8;
const BEARABLE: u64 = 40;
const WRITERS: u64 = 4;

fn limits() -> Limits {
    Limits { unbuilt_rows_max: BEARABLE, k_max: LONG_BUILD_ROWS as usize, ..Limits::default() }
}

/// A store in whose background nothing but builds at the gate is held up.
fn open(gate: &Gate) -> Store {
    let io = Arc::new(gate.clone());
    let options = StoreOptions { data_dir: "/data".into(), limits: limits(), io, background: true, opening: Opening::Eager };
    Store::open(options).unwrap()
}

fn graph(options: IndexOptions) -> IndexSpec {
    IndexSpec { index_type: "HNSW8".to_owned(), options, ..spec(4, Metric::L2) }
}

fn put(index: &Index, n: u64) -> Result<(), Error> {
    let mut batch = index.batch();
    batch.push(&n.to_string(), &[n as f32, 1.0, 2.0, 3.0], "{}").unwrap();
    index.upsert(batch, Durability::Interval).map(drop)
}

#[test]
fn writers_beyond_the_build_rate_are_refused_and_unindexed_rows_stay_bounded() {
    let disk = SimIo::new();
    let gate = Gate::new(Arc::new(disk.clone()));
    let store = open(&gate);
    let _open = OpenOnDrop(gate.clone());
    let options = IndexOptions { seal_rows: Some(BUILD_ROWS), ..IndexOptions::default() };
    let index = store.create_index(&tenant(), &graph(options)).unwrap();
    (0..u64::from(BUILD_ROWS)).for_each(|n| put(&index, n).unwrap());
    // It is due now, and goes no further than the gate: from here on nothing is built.
    gate.wait_for_build();
    let started = Instant::now();
    let stored = (u64::from(BUILD_ROWS)..).find(|&n| match put(&index, n) {
        Ok(()) => {
            assert!(index.info().unindexed_rows <= 2 * BEARABLE);
            false
        }
        Err(Error::Busy(_)) => true,
        Err(other) => panic!("{other:?}"),
    });
    let stored = stored.unwrap();
    println!("{stored} rows until writers were refused, after {:?}", started.elapsed());
    assert_eq!((stored, index.info().unindexed_rows), (2 * BEARABLE, 2 * BEARABLE));

    // Deletes and searches go on, and what is deleted makes room.
    assert_eq!(index.delete(&["3"], Durability::Fsync).unwrap().deleted_count, 1);
    put(&index, stored).unwrap();
    assert!(matches!(put(&index, stored + 1), Err(Error::Busy(_))));
    let query = Query { vector: vec![7.0, 1.0, 2.0, 3.0], k: 1, ..Query::default() };
    assert_eq!(index.search(&query).unwrap()[0].id, "7");

    // Of several writers each looks before it stores: they pass the limit by one write each, at most.
    index.delete(&["4", "5", "6", "7", "8", "9"], Durability::Fsync).unwrap();
    let next = AtomicU64::new(stored + 1);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| while put(&index, next.fetch_add(1, SeqCst)).is_ok() {});
        }
    });
    assert!((2 * BEARABLE..2 * BEARABLE + WRITERS).contains(&index.info().unindexed_rows), "{:?}", index.info());

    // When builds go on, so do writers.
    gate.open();
    let last = next.fetch_add(1, SeqCst);
    while let Err(error) = put(&index, last) {
        assert!(matches!(error, Error::Busy(_)), "{error:?}");
        std::thread::yield_now();
    }
    assert!(index.get(&last.to_string()).unwrap().is_some());
    store.close().unwrap();
}

/// Rows whose build takes minutes, with the most candidates that may be kept for each.
const LONG_BUILD_ROWS: u32 = 30_000;

/// A store with an index whose build has begun.
fn building(disk: &SimIo) -> (Store, Arc<Index>) {
    let gate = Gate::new(Arc::new(disk.clone()));
    gate.open();
    let store = open(&gate);
    let options = IndexOptions { seal_rows: Some(LONG_BUILD_ROWS), ef_construction: Some(4096), ..IndexOptions::default() };
    let index = store.create_index(&tenant(), &graph(options)).unwrap();
    for n in 0..LONG_BUILD_ROWS / 10_000 {
        let mut batch = index.batch();
        for n in n * 10_000..(n + 1) * 10_000 {
            let value = |seed: u32| (n.wrapping_mul(seed) >> 16) as f32;
            batch.push(&n.to_string(), &[0x9e37_79b9, 0x85eb_ca6b, 0xc2b2_ae35, 0x27d4_eb2f].map(value), "{}").unwrap();
        }
        index.upsert(batch, Durability::Interval).unwrap();
    }
    gate.wait_for_begin();
    (store, index)
}

fn with_extension(disk: &SimIo, extension: &str) -> usize {
    files_below(disk, Path::new("/data")).iter().filter(|path| path.extension().is_some_and(|found| found == extension)).count()
}

#[test]
fn a_build_that_is_stopped_by_closing_leaves_nothing_behind_and_does_not_hold_it_up() {
    let disk = SimIo::new();
    let (store, index) = building(&disk);
    let before = dump(&index);
    let started = Instant::now();
    store.close().unwrap();
    println!("closed beside a build after {:?}", started.elapsed());
    drop((index, store));
    assert_eq!((with_extension(&disk, "faiss"), with_extension(&disk, "seg")), (0, 1));
    let store = open_store(disk, "/data", &limits()).unwrap();
    assert!(dump(&store.indices(&tenant())[0]) == before);
}

#[test]
fn a_build_that_is_stopped_by_deleting_leaves_nothing_behind_and_does_not_hold_it_up() {
    let disk = SimIo::new();
    let (store, index) = building(&disk);
    // It has got somewhere meanwhile.
    assert_eq!(dump(&index).len(), LONG_BUILD_ROWS as usize);
    let started = Instant::now();
    store.delete_index(&tenant(), index.id()).unwrap();
    println!("deleted beside a build after {:?}", started.elapsed());
    drop(index);
    let tenant_dir = Path::new("/data").join(tenant().as_str());
    assert_eq!(files_below(&disk, &tenant_dir), Vec::<std::path::PathBuf>::new());
    store.close().unwrap();
}
