//! Writes over HTTP, durable: two clients that send batches of 1,000 points of 100 floats into an exact index, as JSON, as JSON with base64, and as bodies of
//! the binary form, against two threads that store the same batches through the library. The bodies are made before the clock starts. Then writes of one point, by
//! one client and by 32, against `fdatasync` of as many bytes in a file that is there already.

mod harness;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use faiss_proxy::{Durability, Metric};
use harness::{Connection, Server, create, directory, floats, open, quantile, report};

const CLIENTS: usize = 2;
const BATCHES: usize = 80;
const BATCH: usize = 1_000;
const DIMENSION: usize = 100;
const ROUNDS: usize = 5;
/// Writes of one point, of each client.
const SINGLES: usize = 1_000;
const WRITERS: usize = 32;

/// How the vectors of a body are written.
#[derive(Clone, Copy)]
enum Form {
    Json,
    Base64,
    Binary,
}

/// Vectors of a batch, by client and number.
type Batches = Vec<Vec<Vec<f32>>>;

fn main() {
    let dir = directory();
    let of_client = |client: usize| (0..BATCHES).map(move |batch| floats(BATCH * DIMENSION, (client * BATCHES + batch) as u64));
    let batches: Batches = (0..CLIENTS).map(|client| of_client(client).collect()).collect();
    let forms = [Form::Json, Form::Base64, Form::Binary];
    let bodies = forms.map(|form| bodies(&batches, form));
    let (mut over_http, mut processor) = (forms.map(|_| Vec::new()), forms.map(|_| Vec::new()));
    let mut through_library = Vec::new();
    for _ in 0..ROUNDS {
        for (at, form) in forms.into_iter().enumerate() {
            let (taken, of_server) = send(&dir.path().join("served"), &bodies[at], form);
            over_http[at].push(taken);
            processor[at].push(of_server);
        }
        through_library.push(store(&dir.path().join("data"), &batches));
    }
    let rate = |times: &mut [Duration]| (CLIENTS * BATCHES * BATCH) as f64 / quantile(times, 0.5).as_secs_f64();
    let baseline = rate(&mut through_library);
    let targets = [">= 120,000/s", "", ">= 400,000/s"];
    for ((what, target), times) in ["JSON", "base64", "binary"].into_iter().zip(targets).zip(&mut over_http) {
        let rate = rate(times);
        let what = format!("HTTP ingest, 2 x batches of 1,000 x 100-d, {what}");
        report(&what, format!("{rate:.0}/s"), format!("{baseline:.0}/s"), rate / baseline, target);
    }
    let [json, base64, binary] = processor.map(|mut times| 1e6 / rate(&mut times));
    for (what, time) in [("base64", base64), ("binary", binary)] {
        let what = format!("processor time of the server a vector, {what}");
        report(&what, format!("{time:.2} µs"), format!("JSON {json:.2} µs"), time / json, "");
    }
    let alone = singles(&dir.path().join("served"), 1);
    let synced = syncs(&dir.path().join("file"));
    let ratio = alone.1.as_secs_f64() / synced.as_secs_f64();
    report("HTTP writes of one point, 1 client, p50", format!("{:.1?}", alone.1), format!("{synced:.1?}"), ratio, "<= 2.00");
    let many = singles(&dir.path().join("served"), WRITERS);
    let (figure, baseline) = (format!("{:.0}/s", many.0), format!("1 client {:.0}/s", alone.0));
    report("HTTP writes of one point, 32 clients", figure, baseline, many.0 / alone.0, ">= 8,000/s");
    println!("HTTP writes of one point, 32 clients: p50 {:.1?}", many.1);
}

/// Writes of one point each, durable: how many a second, and their p50.
fn singles(data_dir: &Path, clients: usize) -> (f64, Duration) {
    let server = Server::start(env!("CARGO_BIN_EXE_faiss-proxy"), data_dir);
    let path = index(&server);
    let vectors = floats(SINGLES * DIMENSION, 1);
    let body = |client: usize, number: usize| {
        let values = &vectors[number * DIMENSION..][..DIMENSION];
        format!("{{\"vectors\":[{{\"id\":\"{}\",\"values\":{values:?}}}]}}", id(client, 0, number)).into_bytes()
    };
    let bodies: Vec<Vec<Vec<u8>>> =
        (0..clients).map(|client| (0..SINGLES).map(|number| body(client, number)).collect()).collect();
    let times = Mutex::new(Vec::new());
    let taken = timed(clients, |client| {
        let mut connection = Connection::new(&server.address);
        let of_client = bodies[client].iter().map(|body| {
            let began = Instant::now();
            connection.post(&path, "application/json", body);
            began.elapsed()
        });
        let of_client: Vec<Duration> = of_client.collect();
        times.lock().expect("no panic").extend(of_client);
    });
    drop(server);
    std::fs::remove_dir_all(data_dir).expect("removed");
    ((clients * SINGLES) as f64 / taken.as_secs_f64(), quantile(&mut times.into_inner().expect("no panic"), 0.5))
}

/// The p50 of writing 512 bytes and `fdatasync`, where the file's length stays as it is.
fn syncs(path: &Path) -> Duration {
    let file = std::fs::File::create(path).expect("made");
    file.write_all_at(&vec![0; 512 * SINGLES], 0).expect("written");
    file.sync_all().expect("synced");
    let mut times: Vec<Duration> = (0..SINGLES)
        .map(|number| {
            let began = Instant::now();
            file.write_all_at(&[1; 512], 512 * number as u64).expect("written");
            file.sync_data().expect("synced");
            began.elapsed()
        })
        .collect();
    quantile(&mut times, 0.5)
}

fn id(client: usize, batch: usize, row: usize) -> String {
    format!("c{client}-{}", batch * BATCH + row)
}

/// The bodies of each client.
fn bodies(batches: &Batches, form: Form) -> Vec<Vec<Vec<u8>>> {
    let body = |client: usize, batch: usize, values: &[f32]| {
        let rows = values.chunks(DIMENSION).enumerate().map(|(row, vector)| {
            let id = id(client, batch, row);
            match form {
                Form::Json => format!("{{\"id\":\"{id}\",\"values\":{}}}", serde_json::to_string(vector).expect("floats")),
                Form::Base64 => {
                    format!("{{\"id\":\"{id}\",\"values\":\"{}\"}}", STANDARD.encode(bytemuck::cast_slice::<f32, u8>(vector)))
                }
                Form::Binary => format!("{{\"id\":\"{id}\"}}"),
            }
        });
        let json = format!("{{\"vectors\":[{}]}}", rows.collect::<Vec<_>>().join(",")).into_bytes();
        match form {
            Form::Binary => [&(json.len() as u64).to_le_bytes()[..], &json, bytemuck::cast_slice(values)].concat(),
            _ => json,
        }
    };
    let of_client = |(client, batches): (usize, &Vec<Vec<f32>>)| {
        batches.iter().enumerate().map(|(batch, values)| body(client, batch, values)).collect()
    };
    batches.iter().enumerate().map(of_client).collect()
}

/// How long a server takes from the first body to the last answer, and how much of a processor.
fn send(data_dir: &Path, bodies: &[Vec<Vec<u8>>], form: Form) -> (Duration, Duration) {
    let server = Server::start(env!("CARGO_BIN_EXE_faiss-proxy"), data_dir);
    let path = index(&server);
    let media_type = if matches!(form, Form::Binary) { "application/octet-stream" } else { "application/json" };
    let before = server.processor_time();
    let taken = timed(CLIENTS, |client| {
        let mut connection = Connection::new(&server.address);
        for body in &bodies[client] {
            let answer = connection.post(&path, media_type, body);
            assert!(answer.contains("\"added_count\":1000,"), "{answer}");
        }
    });
    let of_server = server.processor_time() - before;
    drop(server);
    std::fs::remove_dir_all(data_dir).expect("removed");
    (taken, of_server)
}

/// Where an exact index that is made now takes points.
fn index(server: &Server) -> String {
    let body = format!("{{\"name\":\"n\",\"dimension\":{DIMENSION}}}");
    let created = Connection::new(&server.address).post("/v1/index", "application/json", body.as_bytes());
    let created: serde_json::Value = serde_json::from_str(&created).expect("JSON");
    format!("/v1/index/{}/vectors", created["id"].as_str().expect("an id"))
}

/// How long the library takes.
fn store(data_dir: &Path, batches: &Batches) -> Duration {
    let store = open(data_dir);
    let index = create(&store, DIMENSION, Metric::L2);
    let taken = timed(CLIENTS, |client| {
        for (number, values) in batches[client].iter().enumerate() {
            let mut batch = index.batch();
            for (row, vector) in values.chunks(DIMENSION).enumerate() {
                batch.push(&id(client, number, row), vector, "{}").expect("a valid point");
            }
            index.upsert(batch, Durability::Fsync).expect("stored");
        }
    });
    store.close().expect("closed");
    drop((index, store));
    std::fs::remove_dir_all(data_dir).expect("removed");
    taken
}

/// How long the clients take, which work at the same time.
fn timed(clients: usize, work: impl Fn(usize) + Sync) -> Duration {
    let started = Instant::now();
    thread::scope(|scope| {
        for client in 0..clients {
            let work = &work;
            scope.spawn(move || work(client));
        }
    });
    started.elapsed()
}
