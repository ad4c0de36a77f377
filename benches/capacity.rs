//! What an index takes, beside what the formulas of `docs/operations.md` say: memory of the process's own, what is mapped from files, and the disk.
//!
//! `FAISS_PROXY_CAPACITY` sets how many points (50,000).

mod harness;

use std::path::Path;
use std::process::Command;

use faiss_proxy::{Durability, IndexId, IndexSpec, Metric, Opening, Query, Store, StoreOptions};
use harness::{directory, floats, report, tenant};

const DIMENSION: usize = 128;

/// In the environment of the processes that measure: each figure is of a fresh process, whose memory nothing used before.
const MEASURE: &str = "FAISS_PROXY_CAPACITY_MEASURE";

/// Bytes of an id, and of a metadata document.
const ID_BYTES: usize = 12;
const METADATA_BYTES: usize = 40;

/// Bytes of a row's record in a segment: number, mutation, places of its texts.
const RECORD_BYTES: f64 = 24.0;

/// Bytes of the id map a point, where its table is fullest and emptiest: 10 and 21.
const ID_MAP_BYTES: f64 = 16.0;

/// Of an open index, whatever is in it, and of what the first searches keep.
const OPEN_BYTES: f64 = 512.0 * 1024.0;

/// Index types, and the bytes of one point by the formula: in memory, and in the file of the FAISS index. A graph's file has the vectors too.
const TYPES: [(&str, f64, f64); 5] = [
    ("Flat", 0.0, 0.0),
    ("HNSW32", 8.0 * 32.0 + 16.0, 8.0 * 32.0 + 16.0 + 4.0 * DIMENSION as f64),
    ("SQ8", DIMENSION as f64, DIMENSION as f64),
    ("PQ32", 32.0, 32.0),
    ("IVF256,SQ8", DIMENSION as f64 + 8.0, DIMENSION as f64 + 8.0),
];

fn main() {
    if std::env::var_os(MEASURE).is_some() {
        let [directory, id] = &std::env::args().skip(1).collect::<Vec<_>>()[..] else { panic!("a directory and an id") };
        return measure(directory.as_ref(), id);
    }
    let points = std::env::var("FAISS_PROXY_CAPACITY").ok().and_then(|count| count.parse().ok()).unwrap_or(50_000_usize);
    for (index_type, in_memory, in_file) in TYPES {
        let dir = directory();
        let id = fill(dir.path(), index_type, points);
        let program = std::env::current_exe().expect("this program");
        let output = Command::new(program).env(MEASURE, "1").arg(dir.path()).arg(id.to_string()).output().expect("a process");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let figures = String::from_utf8_lossy(&output.stdout);
        let figures: Vec<f64> = figures.split_whitespace().map(|number| number.parse().expect("a number")).collect();
        let [own, mapped, disk] = figures[..] else { panic!("three figures") };
        let points = points as f64;
        let row = 4.0 * DIMENSION as f64 + RECORD_BYTES + (ID_BYTES + METADATA_BYTES) as f64;
        let line = |what: &str, measured: f64, formula: f64| {
            let [a, b] = [measured, formula].map(|bytes| format!("{:.1} MiB", bytes / f64::from(1 << 20)));
            report(&format!("capacity: {index_type}, {what}"), a, format!("formula {b}"), measured / formula, "0.75 to 1.25");
        };
        line("memory of its own", own, OPEN_BYTES + points * (ID_MAP_BYTES + in_memory));
        line("disk", disk, points * (row + in_file));
        println!("capacity: {index_type}: {:.1} MiB more were mapped from files", mapped / f64::from(1 << 20));
    }
}

fn fill(directory: &Path, index_type: &str, points: usize) -> IndexId {
    let store = Store::open(StoreOptions::new(directory)).expect("the store opens");
    let spec = IndexSpec {
        name: "capacity".into(),
        dimension: DIMENSION,
        index_type: index_type.into(),
        metric: Some(Metric::L2),
        ..IndexSpec::default()
    };
    let index = store.create_index(&tenant(), &spec).expect("created");
    let vectors = floats(points * DIMENSION, 1);
    for (chunk, vectors) in vectors.chunks(1_000 * DIMENSION).enumerate() {
        let mut batch = index.batch();
        for (at, vector) in vectors.chunks(DIMENSION).enumerate() {
            let n = chunk * 1_000 + at;
            let metadata = format!("{{\"n\":{n:010},\"text\":\"0123456789\"}}").replace(":00", ":1");
            let metadata = format!("{metadata:<METADATA_BYTES$}");
            batch.push(&format!("{n:0ID_BYTES$}"), vector, &metadata).expect("a point");
        }
        index.upsert(batch, Durability::Interval).expect("stored");
    }
    index.compact().expect("compacted");
    let id = index.id();
    drop(index);
    store.close().expect("closed");
    id
}

/// Prints bytes of memory of the process's own, bytes that are mapped from files, and bytes of the index's files.
fn measure(directory: &Path, id: &str) {
    let before = memory();
    let store = Store::open(StoreOptions { opening: Opening::Lazy, ..StoreOptions::new(directory) }).expect("the store opens");
    let index = store.index(&tenant(), id.parse().expect("an id")).expect("it serves");
    for vector in floats(200 * DIMENSION, 3).chunks(DIMENSION) {
        index.search(&Query { vector: vector.to_vec(), k: 10, ..Query::default() }).expect("searched");
    }
    let after = memory();
    println!("{} {} {}", after.0 - before.0, after.1 - before.1, index.info().bytes);
}

/// Resident bytes: of the process's own, and mapped from files.
fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("it is there");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") * 1024.0
    };
    (of("RssAnon:"), of("RssFile:"))
}
