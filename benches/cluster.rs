//! Nodes on NATS JetStream, three nats-servers with `sync_interval: always` on this machine: a write of one point over HTTP against a bare publish of as
//! many bytes that is acknowledged by a majority, and an answer that logs nothing; what a search costs the processor beside one of a server without a cluster; and how long a node
//! that lost its disk takes until it has all.
//!
//! Three servers share the machine and its disk, and wait for each other's syncs: the ratios count. Skipped, and says so, where there is no nats-server.

mod harness;
#[path = "../tests/cluster/nats.rs"]
#[allow(dead_code, reason = "nobody is killed here")]
mod nats;
#[path = "../tests/cluster/proxy.rs"]
#[allow(dead_code, reason = "nor cut off")]
mod proxy;

use std::path::Path;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use harness::data::Data;
use harness::{Connection, Server, directory, floats, quantile, report};
use nats::Servers;
use serde_json::{Value, json};

const DIMENSION: usize = 100;
/// Writes of one point, and publishes, of each round.
const SINGLES: usize = 300;
const ROUNDS: usize = 3;
/// Of each round.
const SEARCHES: usize = 300;
const ROWS: usize = 100_000;
const BATCH: usize = 1_000;

fn main() {
    let Some(servers) = Servers::start(3) else { return };
    let dir = directory();
    let node = node(&dir.path().join("a"), &servers);
    writes(&node, &servers);
    let data = Data::load();
    let path = fill(&node, &data);
    let alone = Server::start(env!("CARGO_BIN_EXE_faiss-proxy"), &dir.path().join("alone"));
    let own_path = fill(&alone, &data);
    searches(&node, &path, &alone, &own_path, &data);
    rejoin(&servers, &node, &path, &dir.path().join("b"));
}

/// What `nats.rs` writes its configurations by.
fn write_file(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

fn node(data_dir: &Path, servers: &Servers) -> Server {
    let with_nats = |command: &mut std::process::Command| {
        command.args(["--nats", &servers.urls]);
    };
    Server::start_with(env!("CARGO_BIN_EXE_faiss-proxy"), data_dir, with_nats)
}

fn create(server: &Server) -> String {
    let body = json!({"name": "n", "dimension": DIMENSION}).to_string();
    let created = Connection::new(&server.address).post("/v1/index", "application/json", body.as_bytes());
    let created: Value = serde_json::from_str(&created).expect("JSON");
    format!("/v1/index/{}", created["id"].as_str().expect("an id"))
}

fn writes(node: &Server, servers: &Servers) {
    let path = format!("{}/vectors", create(node));
    let mut connection = Connection::new(&node.address);
    let vectors = floats(SINGLES * DIMENSION, 1);
    let (mut by_node, mut of_nothing, mut by_publish, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let nothing = format!("{path}/delete");
    for _ in 0..ROUNDS {
        for (number, values) in vectors.chunks(DIMENSION).enumerate() {
            let body = json!({"vectors": [{"id": number.to_string(), "values": values}]}).to_string();
            let began = Instant::now();
            connection.post(&path, "application/json", body.as_bytes());
            by_node.push(began.elapsed());
            let began = Instant::now();
            connection.post(&nothing, "application/json", br#"{"ids": ["none"]}"#);
            of_nothing.push(began.elapsed());
        }
        // A frame's head, the values, the id and empty metadata.
        bytes = 64 + DIMENSION * 4 + 16;
        by_publish.extend(publishes(servers, bytes));
    }
    let (p50, baseline) = (quantile(&mut by_node, 0.5), quantile(&mut by_publish, 0.5));
    let what = format!("cluster: a write over HTTP, beside a publish of {bytes} bytes, p50");
    report(&what, format!("{p50:.2?}"), format!("{baseline:.2?}"), p50.as_secs_f64() / baseline.as_secs_f64(), "<= 1.30");
    let p50 = quantile(&mut of_nothing, 0.5);
    let what = "cluster: a delete of nothing, which a majority has to confirm, p50";
    report(what, format!("{p50:.2?}"), format!("{baseline:.2?}"), p50.as_secs_f64() / baseline.as_secs_f64(), "none");
}

/// Each names the one before it, as a frame does.
fn publishes(servers: &Servers, bytes: usize) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let urls: Vec<&str> = servers.urls.split(',').collect();
    let client = runtime.block_on(async_nats::connect(urls)).expect("connected");
    // No index's: a node would be told of it.
    let subject = format!("faiss.log.0.bench.{}.raw", uuid::Uuid::new_v4());
    let mut last = 0_u64;
    let publish = |_| {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", uuid::Uuid::new_v4().to_string());
        headers.insert("Nats-Expected-Last-Subject-Sequence", last.to_string());
        let began = Instant::now();
        let answer = runtime.block_on(client.request_with_headers(subject.clone(), headers, vec![7; bytes].into()));
        let taken = began.elapsed();
        let answer: Value = serde_json::from_slice(&answer.expect("an answer").payload).expect("JSON");
        last = answer["seq"].as_u64().unwrap_or_else(|| panic!("it is stored: {answer}"));
        taken
    };
    (0..SINGLES).map(publish).collect()
}

fn fill(server: &Server, data: &Data) -> String {
    let path = create(server);
    let mut connection = Connection::new(&server.address);
    for (batch, values) in data.first(ROWS).chunks(BATCH * DIMENSION).enumerate() {
        let point = |(row, values): (usize, &[f32])| json!({"id": (batch * BATCH + row).to_string(), "values": values});
        let points: Vec<Value> = values.chunks(DIMENSION).enumerate().map(point).collect();
        connection.post(&format!("{path}/vectors"), "application/json", json!({"vectors": points}).to_string().as_bytes());
    }
    path
}

/// Exact searches of one client.
fn searches(node: &Server, path: &str, alone: &Server, own_path: &str, data: &Data) {
    let cost = |server: &Server, path: &str| {
        let mut connection = Connection::new(&server.address);
        let before = server.processor_time();
        for query in data.queries().take(SEARCHES) {
            let body = json!({"vector": query, "k": 10}).to_string();
            let answer = connection.post(&format!("{path}/search"), "application/json", body.as_bytes());
            assert!(answer.contains("results"), "{answer}");
        }
        (server.processor_time() - before) / SEARCHES as u32
    };
    let (mut of_node, mut of_alone) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        of_node.push(cost(node, path));
        of_alone.push(cost(alone, own_path));
    }
    let (of_node, of_alone) = (quantile(&mut of_node, 0.5), quantile(&mut of_alone, 0.5));
    let ratio = of_node.as_secs_f64() / of_alone.as_secs_f64();
    report(
        "cluster: processor time of a search",
        format!("{of_node:.1?}"),
        format!("{of_alone:.1?}"),
        ratio,
        "<= 1.20, so that 3 nodes do 2.5 x one",
    );
}

/// Until a node with an empty directory answers for every point.
fn rejoin(servers: &Servers, node: &Server, path: &str, data_dir: &Path) {
    let count = |server: &Server| -> Value {
        let counted = Connection::new(&server.address).post(&format!("{path}/count"), "application/json", b"{}");
        serde_json::from_str(&counted).expect("JSON")
    };
    let expected = count(node);
    assert_eq!(expected["count"], ROWS);
    let began = Instant::now();
    let joined = self::node(data_dir, servers);
    assert_eq!(count(&joined), expected);
    let taken = began.elapsed().as_secs_f64();
    report(
        "cluster: a node without its disk has 100k x 100-d",
        format!("{taken:.2} s"),
        "10 s".to_owned(),
        taken / 10.0,
        "<= 1.00",
    );
}
