//! Durable appends through the library, against plain loops of `write` and `fdatasync` of the same bytes.

mod harness;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use faiss_proxy::{Durability, Index, Metric};
use harness::{create, directory, floats, open, quantile, report};

const DIMENSION: usize = 128;
const ROUNDS: usize = 10;

fn main() {
    append_batches();
    append_single();
    append_concurrent();
}

/// 1,000 × 128-d batches: MB/s of the log, against writing and syncing as many bytes.
fn append_batches() {
    const BATCHES: usize = 20;
    let dir = directory();
    let store = open(dir.path());
    let index = create(&store, DIMENSION, Metric::L2);
    let vectors = floats(1000 * DIMENSION, 1);
    let bytes_of_batch = vectors.len() * 4 + 1000 * 12;
    let payload = vec![7_u8; bytes_of_batch];
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Built before the clock runs: what is measured is log, sync and applying.
        let batches: Vec<_> = (0..BATCHES)
            .map(|number| {
                let mut batch = index.batch();
                for (row, vector) in vectors.chunks(DIMENSION).enumerate() {
                    batch.push(&format!("v{}", (round * BATCHES + number) * 1000 + row), vector, "{}").expect("valid");
                }
                batch
            })
            .collect();
        for batch in batches {
            let started = Instant::now();
            index.upsert(batch, Durability::Fsync).expect("stored");
            ours.push(started.elapsed());
        }
        plain.extend(plain_loop(dir.path(), &payload, BATCHES));
    }
    let rate = |batches: usize, time: Duration| (batches * bytes_of_batch) as f64 / 1e6 / time.as_secs_f64();
    let line = |what: &str, ours: f64, plain: f64, target: &str| {
        report(what, format!("{ours:.0} MB/s"), format!("{plain:.0} MB/s"), ours / plain, target);
    };
    let all = ours.len();
    let (total, plain_total) = (ours.iter().sum(), plain.iter().sum());
    let (p50, plain_p50) = (quantile(&mut ours, 0.5), quantile(&mut plain, 0.5));
    line("append_batches: 1,000 x 128-d, fsync, p50", rate(1, p50), rate(1, plain_p50), "none");
    // The plain loop has no checkpoint beside it: this one writes everything a second time, on the same disk and the same two cores.
    line("append_batches: all, with its checkpoint", rate(all, total), rate(all, plain_total), ">= 0.60");
}

/// One writer, one vector at a time: median time to the acknowledgement, against writing and syncing 4 KiB.
fn append_single() {
    const WRITES: usize = 100;
    let dir = directory();
    let store = open(dir.path());
    let index = create(&store, DIMENSION, Metric::L2);
    let vector = floats(DIMENSION, 2);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for number in 0..WRITES {
            let id = format!("v{}", round * WRITES + number);
            let started = Instant::now();
            upsert_one(&index, &id, &vector);
            ours.push(started.elapsed());
        }
        plain.extend(plain_loop(dir.path(), &[7; 4096], WRITES));
    }
    let (p50, plain_p50) = (quantile(&mut ours, 0.5), quantile(&mut plain, 0.5));
    let (p99, plain_p99) = (quantile(&mut ours, 0.99), quantile(&mut plain, 0.99));
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    report(
        "append_single: 1 x 128-d, fsync, p50",
        format!("{p50:.0?}"),
        format!("{plain_p50:.0?}"),
        ratio(p50, plain_p50),
        "<= 1.50",
    );
    report(
        "append_single: 1 x 128-d, fsync, p99",
        format!("{p99:.0?}"),
        format!("{plain_p99:.0?}"),
        ratio(p99, plain_p99),
        "none",
    );
}

/// Eight writers, one vector at a time: acknowledged writes a second, against one writer.
fn append_concurrent() {
    const WRITERS: usize = 8;
    const WRITES: usize = 200;
    let dir = directory();
    let store = open(dir.path());
    let index = create(&store, DIMENSION, Metric::L2);
    let vector = floats(DIMENSION, 3);
    let (mut many, mut one) = (Duration::ZERO, Duration::ZERO);
    for round in 0..ROUNDS {
        let started = Instant::now();
        for number in 0..WRITES {
            upsert_one(&index, &format!("one-{round}-{number}"), &vector);
        }
        one += started.elapsed();
        let start = Barrier::new(WRITERS + 1);
        let started = std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (index, vector, start) = (&index, &vector, &start);
                scope.spawn(move || {
                    start.wait();
                    for number in 0..WRITES {
                        upsert_one(index, &format!("{writer}-{round}-{number}"), vector);
                    }
                });
            }
            start.wait();
            Instant::now()
        });
        many += started.elapsed();
    }
    let rate = |writes: usize, time: Duration| (writes * ROUNDS) as f64 / time.as_secs_f64();
    let (eight, single) = (rate(WRITERS * WRITES, many), rate(WRITES, one));
    report("append_concurrent: 8 writers, fsync", format!("{eight:.0}/s"), format!("{single:.0}/s"), eight / single, ">= 4.00");
}

fn upsert_one(index: &Index, id: &str, vector: &[f32]) {
    let mut batch = index.batch();
    batch.push(id, vector, "{}").expect("valid");
    index.upsert(batch, Durability::Fsync).expect("stored");
}

/// Appends the payload to a file so many times, syncing each time.
fn plain_loop(directory: &Path, payload: &[u8], times: usize) -> Vec<Duration> {
    let path = directory.join("plain");
    let mut file = File::create(&path).expect("created");
    let taken = (0..times)
        .map(|_| {
            let started = Instant::now();
            file.write_all(payload).and_then(|()| file.sync_data()).expect("written and synced");
            started.elapsed()
        })
        .collect();
    std::fs::remove_file(path).expect("removed");
    taken
}
