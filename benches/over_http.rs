//! Searches over HTTP against raw FAISS in process: the same rows, the same kind of graph, the same `ef`; requests a second and latencies, with one client and
//! with eight. Server, clients and raw FAISS share the machine, and take turns.
//!
//! `FAISS_PROXY_WORDS` names the words (see `benches/ann.rs`), of which the first 100,000 are taken; else clusters are generated. `-- exact` measures exact
//! searches alone; `FAISS_PROXY_PROGRAM` names another build of the server.

mod harness;

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use faiss::Index as _;
use faiss::MetricType;
use faiss::index::autotune::ParameterSpace;
use faiss::index::io::{read_index, write_index};
use faiss::index::{IndexImpl, index_factory};
use faiss_proxy::{Filter, IndexId, IndexOptions, IndexSpec, Metric, Query, SearchParams, Store, StoreOptions};
use harness::data::{Data, ids, recall};
use harness::{KEY, Server, directory, quantile, report, tenant};
use warp::Filter as _;

const ROWS: usize = 100_000;
const K: usize = 10;
const SECONDS: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
const EF_CONSTRUCTION: u32 = 200;

/// What share of the rows a filter leaves, the filter, and how many such searches a second one client is to get.
const FILTERS: [(&str, &str, f64); 3] =
    [("50 %", r#"{"n":{"$lt":100}}"#, 1_500.0), ("5 %", r#"{"n":{"$lt":10}}"#, 2_000.0), ("0.5 %", r#"{"n":7}"#, 8_000.0)];

fn main() {
    let mut data = Data::load();
    data.rows.truncate(ROWS * data.dimension);
    // Of unit vectors, L2 and cosine give the same order: raw FAISS has no cosine.
    data.normalise();
    println!(
        "over_http: {}: {} rows of {} floats, HNSW16, ef_construction {EF_CONSTRUCTION}",
        data.name,
        data.rows(),
        data.dimension
    );
    let dir = directory();
    let store_dir = dir.path().join("store");
    let program = std::env::var("FAISS_PROXY_PROGRAM").unwrap_or(env!("CARGO_BIN_EXE_faiss-proxy").to_owned());
    let flat = make(&store_dir, "Flat", &data);
    if std::env::args().all(|argument| argument != "exact") {
        by_graph(dir.path(), &store_dir, &program, &data);
    }
    let mut exact = [0, 1].map(|_| {
        let mut raw = index_factory(data.dimension as u32, "Flat", MetricType::L2).expect("made");
        raw.add(&data.rows).expect("added");
        raw
    });
    let server = Server::start(&program, &store_dir);
    let calls = calls(&server, flat, "", &data);
    compare("exact", &server, &calls, &mut exact, &data);
    drop(server);
    bare(&calls);
}

/// Searches by HNSW, without filters and with.
fn by_graph(dir: &Path, store_dir: &Path, program: &str, data: &Data) {
    let ann = make(store_dir, "HNSW16", data);
    let raw = build_raw(&dir.join("raw"), data);
    let mut raws = [&raw, &raw].map(|path| read_index(path.to_string_lossy()).expect("read"));
    let (truth, efs) = choose(store_dir, ann, data, None, &[("0.95", 0.95), ("0.99", 0.99)]);
    let filtered = FILTERS.map(|(_, filter, _)| choose(store_dir, ann, data, Some(filter), &[("0.95", 0.95)]).1[0]);
    let server = Server::start(program, store_dir);
    for (wanted, ef, reached) in efs {
        raws.iter_mut().for_each(|raw| set(raw, "efSearch", ef));
        let of_raw = recall(data.queries().map(|query| raw_ids(&mut raws[0], query)), &truth);
        println!("over_http: recall {wanted}: ef {ef}, recall {reached:.4}; raw FAISS {of_raw:.4}");
        let params = format!(",\"params\":{{\"ef\":{ef}}}");
        compare(&format!("recall {wanted}"), &server, &calls(&server, ann, &params, data), &mut raws, data);
    }
    for ((share, filter, goal), (_, ef, reached)) in FILTERS.into_iter().zip(filtered) {
        let more = format!(",\"params\":{{\"ef\":{ef}}},\"filter\":{filter}");
        let calls = calls(&server, ann, &more, data);
        let [one, eight] =
            [1, 8].map(|count| run(&mut clients(&server, count), |client, at| client.ask(&calls[at % calls.len()])));
        report(
            &format!("over_http: filter {share}, ef {ef} ({reached:.4}), 1 client"),
            format!("{:.0}", one.per_second),
            format!("{goal:.0}"),
            one.per_second / goal,
            ">= 1.00",
        );
        println!("over_http: filter {share}: 1 client p50 {:.1?}; 8 clients {:.0} q/s", one.p50, eight.per_second);
    }
}

fn set(raw: &mut IndexImpl, parameter: &str, value: u32) {
    ParameterSpace::new().expect("made").set_index_parameter(raw, parameter, f64::from(value)).expect("FAISS takes it");
}

/// The rows in an index of their own.
fn make(path: &Path, index_type: &str, data: &Data) -> IndexId {
    // Nothing is sealed or built before all is there: one segment.
    let options = StoreOptions { background: false, ..StoreOptions::new(path) };
    let store = Store::open(options).expect("the store opens");
    let options = match index_type {
        "Flat" => IndexOptions::default(),
        _ => IndexOptions { ef_construction: Some(EF_CONSTRUCTION), ..IndexOptions::default() },
    };
    let spec = IndexSpec {
        name: "bench".into(),
        dimension: data.dimension,
        index_type: index_type.into(),
        metric: Some(Metric::Cosine),
        options,
        ..IndexSpec::default()
    };
    let index = store.create_index(&tenant(), &spec).expect("created");
    harness::fill_with(&index, &data.rows, |row| format!("{{\"n\":{}}}", row % 200));
    let began = Instant::now();
    index.compact().expect("compacted");
    println!("over_http: {index_type}: built in {:.1?}, {} segments", began.elapsed(), index.info().segments);
    let id = index.id();
    drop(index);
    store.close().expect("closed");
    id
}

fn build_raw(path: &Path, data: &Data) -> std::path::PathBuf {
    let began = Instant::now();
    let mut raw = index_factory(data.dimension as u32, "HNSW16", MetricType::L2).expect("made");
    set(&mut raw, "efConstruction", EF_CONSTRUCTION);
    raw.add(&data.rows).expect("added");
    write_index(&raw, path.to_string_lossy()).expect("written");
    println!("over_http: raw FAISS built in {:.1?}, with all threads", began.elapsed());
    path.to_owned()
}

/// A wanted recall, the smallest `ef` that has it, and what that has.
type Effort = (&'static str, u32, f64);

/// What exact searches find of what the filter leaves, and for each wanted recall the smallest `ef` that has it.
fn choose(
    path: &Path,
    id: IndexId,
    data: &Data,
    filter: Option<&str>,
    wanted: &[(&'static str, f64)],
) -> (Vec<HashSet<String>>, Vec<Effort>) {
    let store = Store::open(StoreOptions::new(path)).expect("the store opens");
    let index = store.index(&tenant(), id).expect("it serves");
    let query = |vector: &[f32], exact, ef| {
        let params = SearchParams { ef: Some(ef), ..SearchParams::default() };
        let filter = filter.map(|filter| Filter::parse(filter).expect("a filter"));
        ids(&index, &Query { vector: vector.to_vec(), k: K, filter, exact, params, ..Query::default() })
    };
    let truth: Vec<HashSet<String>> = data.queries().map(|vector| query(vector, true, 1)).collect();
    let at = |ef| recall(data.queries().map(|vector| query(vector, false, ef)), &truth);
    let choose = |&(name, least): &(&'static str, f64)| {
        let mut tried =
            [16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 512].into_iter().map(|ef| (name, ef, at(ef)));
        tried.find(|&(_, ef, recall)| recall >= least || ef == 512).expect("one of them")
    };
    let chosen = wanted.iter().map(choose).collect();
    drop(index);
    store.close().expect("closed");
    (truth, chosen)
}

fn raw_ids(raw: &mut IndexImpl, query: &[f32]) -> HashSet<String> {
    let found = raw.search(query, K).expect("FAISS searches");
    found.labels.iter().filter_map(|label| label.get()).map(|row| format!("v{row}")).collect()
}

/// A request for each query, as it goes over the wire.
fn calls(server: &Server, id: IndexId, more: &str, data: &Data) -> Vec<String> {
    let call = |vector: &[f32]| {
        let body = format!("{{\"vector\":{vector:?},\"k\":{K}{more}}}");
        let head = format!("POST /v1/index/{id}/search HTTP/1.1\r\nhost: {}\r\nx-api-key: {KEY}", server.address);
        format!("{head}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    data.queries().map(call).collect()
}

/// Raw FAISS with one thread and with two, and the server with one client and with eight, in turn; the best round of each.
fn compare(what: &str, server: &Server, calls: &[String], raws: &mut [IndexImpl; 2], data: &Data) {
    let (mut raw, mut http) = ([Speed::default(); 2], [Speed::default(); 2]);
    let mut processor = Duration::MAX;
    for _ in 0..ROUNDS {
        raw[0] = raw[0].best(run(&mut raws[..1], |raw, at| drop(raw.search(query(data, at), K).expect("FAISS searches"))));
        http[0] = http[0].best(run(&mut clients(server, 1), |client, at| client.ask(&calls[at % calls.len()])));
        raw[1] = raw[1].best(run(&mut raws[..], |raw, at| drop(raw.search(query(data, at), K).expect("FAISS searches"))));
        let before = server.processor_time();
        let of_http = run(&mut clients(server, 8), |client, at| client.ask(&calls[at % calls.len()]));
        let requests = of_http.per_second * SECONDS.as_secs_f64();
        processor = processor.min((server.processor_time() - before).div_f64(requests));
        http[1] = http[1].best(of_http);
    }
    let over = http[0].p50.saturating_sub(raw[0].p50);
    report(
        &format!("over_http: {what}, 1 client, p50"),
        format!("{:.1?}", http[0].p50),
        format!("{:.1?}", raw[0].p50),
        over.as_secs_f64() / 80e-6,
        "<= 1.00 x 80 µs more",
    );
    let ratio = http[1].per_second / raw[1].per_second;
    let target = match what {
        "recall 0.95" => ">= 0.85",
        "recall 0.99" => ">= 0.92",
        _ => ">= 2.00",
    };
    report(
        &format!("over_http: {what}, 8 clients, q/s"),
        format!("{:.0}", http[1].per_second),
        format!("{:.0}", raw[1].per_second),
        ratio,
        target,
    );
    println!(
        "over_http: {what}: 1 client {:.0} q/s, raw {:.0}; 8 clients p99 {:.1?}; the server takes {processor:.1?} of a processor a search",
        http[0].per_second, raw[0].per_second, http[1].p99
    );
}

fn query(data: &Data, at: usize) -> &[f32] {
    let at = at % (data.queries.len() / data.dimension);
    &data.queries[at * data.dimension..][..data.dimension]
}

#[derive(Clone, Copy, Default)]
struct Speed {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

impl Speed {
    fn best(self, other: Self) -> Self {
        if other.per_second > self.per_second { other } else { self }
    }
}

/// What the same calls take without a search: what answers them is a thread that only reads and writes, and then a warp handler that parses the vector.
/// Nothing that speaks HTTP answers sooner on this machine.
fn bare(calls: &[String]) {
    let hits = [r#"{"id":"v12345","score":0.12345678,"metadata":{"n":123}}"#; K].join(",");
    let body = format!("{{\"results\":[{hits}]}}");
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    let address = listener.local_addr().expect("bound");
    let (call, answer) = (&calls[0], head + &body);
    let echo = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut connection, _) = listener.accept().expect("accepted");
            connection.set_nodelay(true).expect("no delay");
            let mut read = vec![0; call.len()];
            while connection.read_exact(&mut read).is_ok() {
                connection.write_all(answer.as_bytes()).expect("answered");
            }
        });
        run(&mut [Client::connect(address)], |client, _| client.ask(call))
    });

    #[derive(serde::Deserialize)]
    struct Call {
        vector: Vec<f32>,
    }
    let handler = warp::post().and(warp::body::json()).map(move |call: Call| {
        assert!(!call.vector.is_empty());
        warp::reply::with_header(body.clone(), "content-type", "application/json")
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("bound");
    let address = listener.local_addr().expect("bound");
    runtime.spawn(warp::serve(handler).incoming(listener).run());
    let warp = [1, 8].map(|count| {
        let mut clients: Vec<_> = (0..count).map(|_| Client::connect(address)).collect();
        run(&mut clients, |client, at| client.ask(&calls[at % calls.len()]))
    });
    println!(
        "over_http: the same calls without a search: a thread that reads and writes, 1 client p50 {:.1?}; a bare warp handler, 1 client p50 {:.1?}, 8 clients {:.0} q/s",
        echo.p50, warp[0].p50, warp[1].per_second
    );
}

/// Has each of the workers do one thing after the other.
fn run<W: Send>(workers: &mut [W], work: impl Fn(&mut W, usize) + Sync) -> Speed {
    let began = Instant::now();
    let one = |number: usize, worker: &mut W| {
        let mut times = Vec::new();
        // Each begins with another query.
        for at in (number * 61).. {
            let began_one = Instant::now();
            if began_one - began >= SECONDS {
                break;
            }
            work(worker, at);
            times.push(began_one.elapsed());
        }
        times
    };
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let threads: Vec<_> =
            workers.iter_mut().enumerate().map(|(number, worker)| scope.spawn(move || one(number, worker))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it ended")).collect()
    });
    let per_second = times.len() as f64 / SECONDS.as_secs_f64();
    Speed { per_second, p50: quantile(&mut times, 0.5), p99: quantile(&mut times, 0.99) }
}

/// A connection that is kept open.
struct Client {
    connection: TcpStream,
    answer: Vec<u8>,
}

fn clients(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(&server.address)).collect()
}

impl Client {
    fn connect(address: impl ToSocketAddrs) -> Self {
        let connection = TcpStream::connect(address).expect("connected");
        connection.set_nodelay(true).expect("no delay");
        Self { connection, answer: vec![0; 64 << 10] }
    }

    fn ask(&mut self, call: &str) {
        self.connection.write_all(call.as_bytes()).expect("sent");
        let mut length = 0;
        loop {
            length += self.connection.read(&mut self.answer[length..]).expect("answered");
            // As the answer to a search ends, and with ids like these nothing within it.
            if self.answer[..length].ends_with(b"}]}") {
                break;
            }
        }
        assert!(self.answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&self.answer[..length]));
    }
}
