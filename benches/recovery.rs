//! Reopening a store after a checkpoint, against reading its files once.

mod harness;

use std::time::{Duration, Instant};

use faiss_proxy::Metric;
use harness::{create, directory, files, fill, floats, open, quantile, report, tenant};

const ROWS: usize = 200_000;
const DIMENSION: usize = 128;
const ROUNDS: usize = 9;

fn main() {
    let dir = directory();
    let store = open(dir.path());
    let id = {
        let index = create(&store, DIMENSION, Metric::L2);
        fill(&index, &floats(ROWS * DIMENSION, 1));
        index.id()
    };
    store.close().expect("closed with a checkpoint");
    drop(store);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let store = open(dir.path());
        ours.push(started.elapsed());
        let points = store.index(&tenant(), id).expect("it serves").info().vector_count;
        assert_eq!(points, ROWS as u64);
        drop(store);
        let started = Instant::now();
        let bytes: usize = files(dir.path()).iter().map(|path| std::fs::read(path).expect("read").len()).sum();
        plain.push(started.elapsed());
        std::hint::black_box(bytes);
    }
    let (p50, plain_p50): (Duration, Duration) = (quantile(&mut ours, 0.5), quantile(&mut plain, 0.5));
    let ratio = p50.as_secs_f64() / plain_p50.as_secs_f64();
    report("recovery: 200k x 128-d after a checkpoint", format!("{p50:.1?}"), format!("{plain_p50:.1?}"), ratio, "<= 2.00");
}
