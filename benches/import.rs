//! `faiss-proxy import` of an `.npy` file into an exact index, as a process, against a plain loop of `write` and `fdatasync` of the same bytes.

mod harness;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{directory, floats, quantile, report};

const ROWS: usize = 350_000;
const DIMENSION: usize = 100;
const ROUNDS: usize = 5;
/// What one sync of the import is for.
const BATCH_BYTES: usize = 4 << 20;

fn main() {
    let dir = directory();
    let values = floats(ROWS * DIMENSION, 1);
    let bytes: &[u8] = bytemuck::cast_slice(&values);
    let array = dir.path().join("vectors.npy");
    write_npy(&array, bytes);
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(import(dir.path(), &array));
        plain.push(plain_loop(dir.path(), bytes));
    }
    let (ours, plain) = (quantile(&mut ours, 0.5), quantile(&mut plain, 0.5));
    let rate = |time: Duration| ROWS as f64 / time.as_secs_f64();
    report(
        "import: 350,000 x 100-d .npy, checkpointed",
        format!("{:.0}/s", rate(ours)),
        format!("{:.0}/s", rate(plain)),
        rate(ours) / rate(plain),
        ">= 300,000/s",
    );
}

/// How long the program takes, from its start to its end: by then all of it is in a checkpoint.
fn import(dir: &Path, array: &Path) -> Duration {
    let data_dir = dir.join("data");
    std::fs::create_dir(&data_dir).expect("created");
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.args(["import", "--tenant", "bench", "--create", "words", "--json", "--data-dir"]).arg(&data_dir).arg(array);
    let started = Instant::now();
    let output = command.env("RUST_LOG", "warn").output().expect("the program runs");
    let taken = started.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(&format!("\"stored\":{ROWS},")), "{output:?}");
    std::fs::remove_dir_all(data_dir).expect("removed");
    taken
}

fn plain_loop(dir: &Path, bytes: &[u8]) -> Duration {
    let path = dir.join("plain");
    let started = Instant::now();
    let mut file = File::create(&path).expect("created");
    for batch in bytes.chunks(BATCH_BYTES) {
        file.write_all(batch).and_then(|()| file.sync_data()).expect("written and synced");
    }
    let taken = started.elapsed();
    std::fs::remove_file(path).expect("removed");
    taken
}

fn write_npy(path: &Path, bytes: &[u8]) {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS}, {DIMENSION}), }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = File::create(path).expect("created");
    let length = (header.len() as u16).to_le_bytes();
    for part in [&b"\x93NUMPY\x01\x00"[..], &length, header.as_bytes(), bytes] {
        file.write_all(part).expect("written");
    }
}
