//! Many small indices in one data directory: what opening them costs, and what they cost while nobody uses them.
//!
//! `FAISS_PROXY_MANY` sets how many (2,000).

mod harness;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use faiss_proxy::{Durability, Metric, Opening, Query, Store, StoreOptions};
use harness::{create, directory, floats, open, quantile, tenant};

const POINTS: usize = 10;
const DIMENSION: usize = 8;

/// In the environment of the processes that measure: which way to open, and what. Each figure is of a fresh process, whose memory nothing
/// used before.
const MEASURE: &str = "FAISS_PROXY_MANY_MEASURE";

fn main() {
    if let Some(opening) = std::env::var_os(MEASURE) {
        let directory = std::env::args_os().nth(1).expect("a directory");
        measure(if opening == "eager" { Opening::Eager } else { Opening::Lazy }, directory.as_ref());
        return;
    }
    let count = std::env::var("FAISS_PROXY_MANY").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000);
    let dir = directory();
    let store = open(dir.path());
    let started = Instant::now();
    // The syncs of several creations overlap.
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let store = &store;
            scope.spawn(move || (thread..count).step_by(16).for_each(|seed| make(store, seed as u64)));
        }
    });
    println!("{count} indices of {POINTS} x {DIMENSION}-d made in {:.1?}", started.elapsed());
    let written = Process::now();
    println!("  open and written to: {} file descriptors, {} threads", written.descriptors, written.threads);
    drop(store);
    println!("after a kill (each has its points in the log):");
    measure_all(dir.path());
    open(dir.path()).close().expect("closed with checkpoints");
    println!("after a clean end (each has its points in a checkpoint):");
    measure_all(dir.path());
}

fn measure_all(dir: &Path) {
    for opening in ["lazy", "eager", "lazy", "eager"] {
        let program = std::env::current_exe().expect("this program");
        let status = Command::new(program).arg(dir).env(MEASURE, opening).status().expect("started");
        assert!(status.success());
    }
}

fn make(store: &Store, seed: u64) {
    let index = create(store, DIMENSION, Metric::L2);
    let mut batch = index.batch();
    for (row, vector) in floats(POINTS * DIMENSION, seed).chunks(DIMENSION).enumerate() {
        batch.push(&format!("v{row}"), vector, "{}").expect("a valid point");
    }
    index.upsert(batch, Durability::Fsync).expect("stored");
    index.sync().expect("synced");
}

fn measure(opening: Opening, dir: &Path) {
    let query = Query { vector: vec![0.5; DIMENSION], k: 1, ..Query::default() };
    let before = Process::now();
    let started = Instant::now();
    let store = Store::open(StoreOptions { opening, ..StoreOptions::new(dir) }).expect("the store opens");
    let took = started.elapsed();
    assert!(store.refused(&tenant()).is_empty());
    let indices = store.list(&tenant()).expect("listed");
    let per_index = |after: &Process| (after.resident - before.resident) as f64 / 1024.0 / indices.len() as f64;
    let after = Process::now();
    println!(
        "  {opening:?}: Store::open {took:.2?}, resident {:.2} KiB an index, {} file descriptors, {} threads",
        per_index(&after),
        after.descriptors,
        after.threads
    );
    if opening == Opening::Eager {
        return;
    }
    let mut first_searches: Vec<Duration> = indices
        .iter()
        .map(|index| {
            let started = Instant::now();
            let index = store.index(&tenant(), index.id).expect("it opens");
            assert_eq!(index.search(&query).expect("found").len(), 1);
            started.elapsed()
        })
        .collect();
    let (p50, p99) = (quantile(&mut first_searches, 0.5), quantile(&mut first_searches, 0.99));
    let after = Process::now();
    println!(
        "    then the first search on each: p50 {p50:.2?}, p99 {p99:.2?}; resident {:.2} KiB an open index (by its own count {:.2}), {} file descriptors",
        per_index(&after),
        store.memory_bytes() as f64 / 1024.0 / indices.len() as f64,
        after.descriptors
    );
}

/// What the kernel says of this process.
struct Process {
    /// Bytes of memory, without what is mapped from files.
    resident: i64,
    threads: usize,
    descriptors: usize,
}

impl Process {
    fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).and_then(|n| n.trim().parse().ok());
        let descriptors = std::fs::read_dir("/proc/self/fd").expect("Linux").count();
        Self { resident: harness::resident("self").1 as i64, threads: threads.expect("a number"), descriptors }
    }
}
