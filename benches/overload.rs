//! What happens to searches when more and more clients ask at one time, and to one client of another tenant while a crowd asks: what is answered, how late, and
//! what is turned away.

mod harness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use faiss_proxy::api::{ApiKeys, Gate, ServerConfig, serve};
use faiss_proxy::{Metric, TenantId};
use harness::{create, directory, fill, floats, open, quantile, report};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const ROWS: usize = 50_000;
const DIMENSION: usize = 128;
const SECONDS: Duration = Duration::from_secs(4);
/// Clients at one time, and how long one that is turned away waits: it is told to wait for a second.
const CROWDS: [(usize, Duration); 6] =
    [(2, TOLD), (16, TOLD), (64, TOLD), (256, TOLD), (1_024, TOLD), (1_024, Duration::from_millis(50))];
const TOLD: Duration = Duration::from_secs(1);

/// What came of the calls of some clients.
#[derive(Default)]
struct Outcome {
    answered: Vec<Duration>,
    turned_away: usize,
}

fn main() {
    let dir = directory();
    let store = Arc::new(open(dir.path()));
    let index = create(&store, DIMENSION, Metric::L2);
    fill(&index, &floats(ROWS * DIMENSION, 1));
    index.checkpoint().expect("written");
    let mut calls = vec![call("key", &index.id().to_string())];
    // The same rows for another tenant.
    let other = TenantId::new("other").expect("a tenant");
    let spec = faiss_proxy::IndexSpec { name: "n".into(), dimension: DIMENSION, index_type: "Flat".into(), ..Default::default() };
    let second = store.create_index(&other, &spec).expect("created");
    fill(&second, &floats(ROWS * DIMENSION, 1));
    second.checkpoint().expect("written");
    calls.push(call("other-key", &second.id().to_string()));
    drop((index, second));

    let keys: ApiKeys = "key:bench,other-key:other".parse().expect("a list of keys");
    let config = ServerConfig::new(Gate::new(keys, 0), dir.path().to_owned());
    let (end, ended) = oneshot::channel::<()>();
    let (tell, address) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        Runtime::new().expect("threads").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("an address")).expect("told");
            serve(store, config, listener, None, async { drop(ended.await) }).await;
        });
    });
    let address = address.recv().expect("it listens");
    let clients = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");

    let mut at_rest = 0.0;
    for (crowd, wait) in CROWDS {
        let Outcome { mut answered, turned_away } = clients.block_on(ask(address, &calls[0], crowd, wait));
        let rate = answered.len() as f64 / SECONDS.as_secs_f64();
        if at_rest == 0.0 {
            at_rest = rate;
        }
        let (p50, p99) = (quantile(&mut answered, 0.5), quantile(&mut answered, 0.99));
        println!(
            "overload: {crowd:>5} clients, back after {wait:>4.0?}: {rate:>6.0} answered/s, p50 {p50:>9.2?}, p99 {p99:>9.2?}; turned away {:>5.1} %",
            100.0 * turned_away as f64 / (turned_away + answered.len()) as f64
        );
        if crowd == 1_024 && wait == TOLD {
            let what = format!("overload: answered/s with {crowd} clients");
            report(&what, format!("{rate:.0}"), format!("{at_rest:.0}"), rate / at_rest, ">= 0.70");
        }
    }
    let mut alone = clients.block_on(ask(address, &calls[1], 1, TOLD)).answered;
    let mut beside = clients.block_on(async {
        let crowd = tokio::spawn({
            let call = calls[0].clone();
            async move { ask(address, &call, 512, TOLD).await }
        });
        let one = ask(address, &calls[1], 1, TOLD).await;
        crowd.await.expect("it ended");
        assert_eq!(one.turned_away, 0, "a tenant with one call at a time is never turned away");
        one.answered
    });
    drop(end);
    server.join().expect("it ended");
    let (alone, beside) = (quantile(&mut alone, 0.99), quantile(&mut beside, 0.99));
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    report("overload: p99 of a client beside 512 others'", format!("{beside:.2?}"), format!("{alone:.2?}"), ratio, "<= 8.00");
}

/// A search, exact, as it goes over the wire.
fn call(key: &str, index: &str) -> String {
    let body = format!("{{\"vector\":{:?},\"k\":10}}", floats(DIMENSION, 2));
    let head = format!("POST /v1/index/{index}/search HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-type: application/json");
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Clients that each ask again as soon as they are answered, and after `wait` where they are turned away.
async fn ask(address: SocketAddr, call: &str, clients: usize, wait: Duration) -> Outcome {
    let until = Instant::now() + SECONDS;
    let tasks: Vec<_> = (0..clients).map(|_| tokio::spawn(client(address, call.to_owned(), until, wait))).collect();
    let mut all = Outcome::default();
    for task in tasks {
        let Outcome { answered, turned_away } = task.await.expect("a client");
        all.answered.extend(answered);
        all.turned_away += turned_away;
    }
    all
}

async fn client(address: SocketAddr, call: String, until: Instant, wait: Duration) -> Outcome {
    let mut connection = TcpStream::connect(address).await.expect("connected");
    connection.set_nodelay(true).expect("no delay");
    let mut outcome = Outcome::default();
    let mut answer = vec![0; 16 << 10];
    while Instant::now() < until {
        let began = Instant::now();
        connection.write_all(call.as_bytes()).await.expect("sent");
        let mut length = 0;
        while !is_whole(&answer[..length]) {
            length += connection.read(&mut answer[length..]).await.expect("answered");
        }
        if answer.starts_with(b"HTTP/1.1 200") {
            outcome.answered.push(began.elapsed());
        } else {
            assert!(answer.starts_with(b"HTTP/1.1 429"), "{}", String::from_utf8_lossy(&answer[..length]));
            outcome.turned_away += 1;
            tokio::time::sleep(wait).await;
        }
    }
    outcome
}

/// Whether an answer is there to its end.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).expect("a length");
    answer.len() >= head + 4 + length
}
