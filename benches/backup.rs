//! What an incremental backup moves after 1 % of the points changed, against a full one; how fast a full one and a restore are;
//! and what a backup does to searches beside it.

mod harness;

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use faiss_proxy::backup::{Directory, Target, Throttle, backup, restore};
use faiss_proxy::io::os::OsIo;
use faiss_proxy::{Durability, Index, Metric, Query};
use harness::{create, directory, fill, floats, open, quantile, report, tenant};

const ROWS: usize = 200_000;
const DIMENSION: usize = 128;
const ROUNDS: usize = 10;
const SEARCHES: usize = 1_000;

fn main() {
    let dir = directory();
    let store = open(&dir.path().join("data"));
    let index = create(&store, DIMENSION, Metric::L2);
    fill(&index, &floats(ROWS * DIMENSION, 1));
    index.checkpoint().expect("checkpointed");
    let repository = Directory::new(Arc::new(OsIo), dir.path().join("backups"));
    let throttle = Throttle::new(None);
    let back_up = || backup(&index, &repository, &throttle).expect("backed up");

    let started = Instant::now();
    let full = back_up();
    let full_s = started.elapsed().as_secs_f64();
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    println!("full backup: {} in {full_s:.2} s", megabytes(full.bytes_moved));

    // Other points in each round; every second one is checkpointed before.
    let changed = ROWS / 100;
    let mut shares = Vec::new();
    for round in 0..ROUNDS {
        let vectors = floats(changed * DIMENSION, 100 + round as u64);
        let mut batch = index.batch();
        for (row, vector) in vectors.chunks(DIMENSION).enumerate() {
            batch.push(&format!("v{}", (row * 100 + round) % ROWS), vector, "{}").expect("a valid point");
        }
        index.upsert(batch, Durability::Fsync).expect("stored");
        if round % 2 == 1 {
            index.checkpoint().expect("checkpointed");
        }
        let moved = back_up().bytes_moved;
        let share = moved as f64 / full.bytes_moved as f64;
        let name = format!("backup after 1 % change, round {}{}", round + 1, if round % 2 == 1 { ", checkpoint" } else { "" });
        report(&name, megabytes(moved), megabytes(full.bytes_moved), share, "<= 0.05");
        shares.push(share);
    }
    let worst = shares.iter().copied().fold(0.0, f64::max);
    println!("the largest of {ROUNDS}: {:.1} %", worst * 100.0);

    let restored = open(&dir.path().join("restored"));
    let started = Instant::now();
    let (_, done) = restore(&restored, &repository, &tenant(), index.id(), Target::Newest).expect("restored");
    println!(
        "restore: {} fetched, {} points in {:.2} s",
        megabytes(done.bytes),
        done.vector_count,
        started.elapsed().as_secs_f64()
    );
    assert_eq!(done.vector_count, index.vector_count());
    searches_beside(&index, dir.path());
}

/// What a backup does to searches: as fast as it goes, and throttled.
fn searches_beside(index: &Index, dir: &Path) {
    let alone = search_p99(index);
    for (name, rate) in [("as fast as it goes", None), ("throttled to 10 MB/s", NonZeroU64::new(10_000_000))] {
        let is_over = AtomicBool::new(false);
        let beside = std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0.. {
                    if is_over.load(Relaxed) {
                        break;
                    }
                    let repository = Directory::new(Arc::new(OsIo), dir.join(format!("{name} {round}")));
                    backup(index, &repository, &Throttle::new(rate)).expect("backed up");
                }
            });
            let beside = search_p99(index);
            is_over.store(true, Relaxed);
            beside
        });
        let ratio = beside.as_secs_f64() / alone.as_secs_f64();
        report(
            &format!("search p99 beside a backup {name}"),
            format!("{beside:.2?}"),
            format!("{alone:.2?}"),
            ratio,
            "~ 1.00 throttled",
        );
    }
}

/// Of exact searches, one after the other.
fn search_p99(index: &Index) -> Duration {
    let queries = floats(SEARCHES * DIMENSION, 7);
    let search = |vector: &[f32]| {
        let query = Query { vector: vector.to_vec(), k: 10, ..Query::default() };
        let started = Instant::now();
        std::hint::black_box(index.search(&query).expect("searched"));
        started.elapsed()
    };
    let mut times: Vec<Duration> = queries.chunks(DIMENSION).map(search).collect();
    quantile(&mut times, 0.99)
}
