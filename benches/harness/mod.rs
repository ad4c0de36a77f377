//! What the benches share: a store on the real disk, generated vectors, and how a figure is printed.
//!
//! Every bench prints ratios against a baseline that was taken in the same run, in alternation: machines are noisy.

#![allow(dead_code, reason = "each bench uses a part of it")]

pub mod data;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use faiss_proxy::{Index, IndexSpec, Metric, Store, StoreOptions, TenantId};

/// A directory on the disk that the target directory is on, removed when dropped: `/tmp` may be memory.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the bench")
}

pub fn open(data_dir: &Path) -> Store {
    Store::open(StoreOptions::new(data_dir)).expect("the store opens")
}

pub fn tenant() -> TenantId {
    TenantId::new("bench").expect("a valid name")
}

pub fn create(store: &Store, dimension: usize, metric: Metric) -> Arc<Index> {
    let spec =
        IndexSpec { name: "bench".into(), dimension, index_type: "Flat".into(), metric: Some(metric), ..IndexSpec::default() };
    store.create_index(&tenant(), &spec).expect("the index is created")
}

/// Pseudo-random floats in -1..1, the same in every run: splitmix64 (Steele, Lea and Flood, 2014).
pub fn floats(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) >> 40
    };
    (0..count).map(|_| next() as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Fills an index with generated vectors, in batches of 1,000, ids `v0`, `v1`, ….
pub fn fill(index: &Index, vectors: &[f32]) {
    fill_with(index, vectors, |_| "{}".into());
}

/// The same, with the metadata of each row.
pub fn fill_with(index: &Index, vectors: &[f32], metadata: impl Fn(usize) -> String) {
    let dimension = index.dimension();
    for (number, rows) in vectors.chunks(1000 * dimension).enumerate() {
        let mut batch = index.batch();
        for (row, vector) in rows.chunks(dimension).enumerate() {
            let row = number * 1000 + row;
            batch.push(&format!("v{row}"), vector, &metadata(row)).expect("a valid point");
        }
        index.upsert(batch, faiss_proxy::Durability::Interval).expect("stored");
    }
    index.sync().expect("synced");
}

pub fn quantile(times: &mut [Duration], q: f64) -> Duration {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * q) as usize]
}

/// One line: what, the figure, the baseline, their ratio and what it should be.
pub fn report(what: &str, figure: String, baseline: String, ratio: f64, target: &str) {
    println!("{what:<44} {figure:>14}   baseline {baseline:>14}   ratio {ratio:.2}   (target {target})");
}

/// Resident bytes of a process, a number or `self`: all, and those of them that are not of files.
pub fn resident(process: &str) -> (u64, u64) {
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).expect("it runs");
    let pages = |at| statm.split(' ').nth(at).and_then(|pages| pages.parse::<u64>().ok()).expect("a number of pages");
    // proc_pid_statm(5): resident, and of that shared.
    let bytes = rustix::param::page_size() as u64;
    (pages(1) * bytes, (pages(1) - pages(2)) * bytes)
}

/// Every file under a directory.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Key of the tenant that the benches' servers know.
pub const KEY: &str = "bench-key";

/// A server in a process of its own, killed when it is dropped.
pub struct Server {
    child: Child,
    /// Host and port.
    pub address: String,
}

impl Server {
    /// `program` is `faiss-proxy`; the directory need not be there.
    pub fn start(program: &str, data_dir: &Path) -> Self {
        Self::start_with(program, data_dir, |_| {})
    }

    /// The same with more options.
    pub fn start_with(program: &str, data_dir: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
        command.env("FAISS_PROXY_API_KEYS", format!("{KEY}:bench")).env("RUST_LOG", "warn");
        change(&mut command);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it listens");
        let address = line.trim_end().strip_prefix("listening on http://").expect("it listens").to_owned();
        Self { child, address }
    }

    /// Of its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Processor time that it has taken by now.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        // Behind the name, which ends with the last bracket: proc_pid_stat(5), fields 14 and 15.
        let fields = stat.rsplit(')').next().expect("fields").split_ascii_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
    }
}

impl Server {
    /// The same to the nanosecond, of the threads that there are: they must be those of before.
    pub fn run_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        let nanoseconds = tasks.map(|task| {
            let stat =
                std::fs::read_to_string(task.expect("a thread").path().join("schedstat")).expect("a kernel with schedstat");
            stat.split_ascii_whitespace().next().and_then(|first| first.parse::<u64>().ok()).expect("a number")
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to a server that is kept.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn new(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_nodelay(true).expect("set");
        Self(BufReader::new(stream))
    }

    /// The body of an answer that says that it was done.
    pub fn post(&mut self, path: &str, media_type: &str, body: &[u8]) -> String {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nx-api-key: {KEY}\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        self.0.get_mut().write_all(&[head.as_bytes(), body].concat()).expect("sent");
        let (mut status, mut length) = (String::new(), 0);
        self.0.read_line(&mut status).expect("a status");
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a header");
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim_end().parse().expect("a length");
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).expect("an answer");
        let answer = String::from_utf8(answer).expect("text");
        assert!(status.starts_with("HTTP/1.1 20"), "{status}{answer}");
        answer
    }
}
