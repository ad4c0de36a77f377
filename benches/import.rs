//! `faiss-proxy import` of an `.npy` file into an exact index, as a process: of a data directory, against a plain loop of `write` and `fdatasync` of the same bytes, and of
//! a server, against the first; and `faiss-proxy export` from that server, against the export from its directory.

mod harness;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::{KEY, Server, directory, floats, quantile, report};

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
    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let round = [import(dir.path(), &array), plain_loop(dir.path(), bytes)];
        let round = round.into_iter().chain(over_http(dir.path(), &array));
        times.iter_mut().zip(round).for_each(|(times, time)| times.push(time));
    }
    let [ours, plain, to_server, from_server, from_directory] =
        times.map(|mut times| ROWS as f64 / quantile(&mut times, 0.5).as_secs_f64());
    let line = |what, rate: f64, baseline: f64, target| {
        report(what, format!("{rate:.0}/s"), format!("{baseline:.0}/s"), rate / baseline, target);
    };
    line("import: 350,000 x 100-d .npy, checkpointed", ours, plain, ">= 300,000/s");
    line("import --url: the same, into a server", to_server, ours, "");
    line("export --url: the same, from a server", from_server, from_directory, "");
}

/// How long the program takes, from its start to its end: by then all of it is in a checkpoint.
fn import(dir: &Path, array: &Path) -> Duration {
    let data_dir = dir.join("data");
    std::fs::create_dir(&data_dir).expect("created");
    let mut command = program("import");
    command.args(["--tenant", "bench", "--create", "words", "--data-dir"]).arg(&data_dir).arg(array);
    let (taken, _) = run(&mut command);
    std::fs::remove_dir_all(data_dir).expect("removed");
    taken
}

/// How long the import into a server takes, the export from it, and that from its directory.
fn over_http(dir: &Path, array: &Path) -> [Duration; 3] {
    let data_dir = dir.join("served");
    let server = Server::start(env!("CARGO_BIN_EXE_faiss-proxy"), &data_dir);
    let url = format!("http://{}", server.address);
    let (imported, report) = run(program("import").args(["--url", &url, "--create", "words"]).arg(array));
    let out = dir.join("out.npy");
    let export = |from: &[&std::ffi::OsStr]| {
        let mut command = program("export");
        let index = report["index"].as_str().expect("an id");
        let (taken, _) = run(command.args(["--index", index, "--format", "npy", "--out"]).arg(&out).args(from));
        std::fs::remove_file(&out).expect("removed");
        std::fs::remove_file(dir.join("out.npy.points.jsonl")).expect("removed");
        taken
    };
    let from_server = export(&["--url".as_ref(), url.as_ref()]);
    drop(server);
    let from_directory = export(&["--tenant".as_ref(), "bench".as_ref(), "--data-dir".as_ref(), data_dir.as_ref()]);
    std::fs::remove_dir_all(data_dir).expect("removed");
    [imported, from_server, from_directory]
}

fn program(work: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.args([work, "--json"]).env("RUST_LOG", "warn").env("FAISS_PROXY_API_KEY", KEY);
    command
}

/// Runs a command that all rows go through. Gives how long it took, and what it said.
fn run(command: &mut Command) -> (Duration, serde_json::Value) {
    let started = Instant::now();
    let output = command.output().expect("the program runs");
    let taken = started.elapsed();
    assert!(output.status.success(), "{output:?}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!([&said["stored"], &said["points"]].contains(&&ROWS.into()), "{said}");
    (taken, said)
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
