//! Verifying an index whose files are in the page cache, against `cat` of the same files.

mod harness;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use faiss_proxy::io::os::OsIo;
use faiss_proxy::{Metric, Survey};
use harness::{create, directory, files, fill, floats, open, quantile, report, tenant};

const ROUNDS: usize = 9;

fn main() {
    for (rows, dimension) in [(350_000, 100), (100_000, 768)] {
        let dir = directory();
        let store = open(dir.path());
        let id = {
            let index = create(&store, dimension, Metric::L2);
            fill(&index, &floats(rows * dimension, 1));
            index.id()
        };
        store.close().expect("closed with a checkpoint");
        drop(store);
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let survey = Survey::open(Arc::new(OsIo), dir.path()).expect("no server has it");
            let started = Instant::now();
            let verified = survey.verify(&tenant(), id, &|_| {});
            ours.push(started.elapsed());
            assert!(verified.findings.is_empty() && verified.points == rows as u64, "{verified:?}");
            bytes = verified.bytes;
            let started = Instant::now();
            let status = Command::new("cat").args(files(dir.path())).stdout(Stdio::null()).status().expect("cat is there");
            plain.push(started.elapsed());
            assert!(status.success());
        }
        let (p50, plain_p50): (Duration, Duration) = (quantile(&mut ours, 0.5), quantile(&mut plain, 0.5));
        let speed = |time: Duration| format!("{:.2} GB/s", bytes as f64 / time.as_secs_f64() / 1e9);
        let ratio = plain_p50.as_secs_f64() / p50.as_secs_f64();
        report(&format!("verify: {rows} x {dimension}-d, cached"), speed(p50), speed(plain_p50), ratio, ">= 0.80");
    }
}
