//! What a thousand connections that send half a request do to a client that sends whole ones, and when they are closed.

mod harness;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use faiss_proxy::api::{ApiKeys, Gate, ServerConfig, serve};
use faiss_proxy::{Durability, Metric};
use harness::{create, directory, open, quantile, report};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const HALF_OPEN: usize = 1_000;
const REQUESTS: usize = 20_000;

fn main() {
    let dir = directory();
    let store = Arc::new(open(dir.path()));
    let index = create(&store, 1, Metric::L2);
    let mut batch = index.batch();
    batch.push("a", &[1.0], "{}").expect("a valid point");
    index.upsert(batch, Durability::Fsync).expect("stored");
    let path = format!("/v1/index/{}/vectors/a", index.id());
    drop(index);
    let keys: ApiKeys = "key:bench".parse().expect("a list of keys");
    let config = ServerConfig::new(Gate::new(keys, 0), dir.path().to_owned());
    let (end, ended) = oneshot::channel::<()>();
    let (tell, address) = std::sync::mpsc::channel();
    let server = thread::spawn(move || {
        tokio::runtime::Runtime::new().expect("threads").block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            tell.send(listener.local_addr().expect("an address")).expect("told");
            serve(store, config, listener, None, async { drop(ended.await) }).await;
        });
    });
    let address = address.recv().expect("it listens");

    let mut alone = latencies(address, &path);
    let opened = Instant::now();
    let half_open: Vec<TcpStream> = (0..HALF_OPEN)
        .map(|n| {
            let mut connection = TcpStream::connect(address).expect("connected");
            let beginnings: [&[u8]; 4] = [b"", b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n", b"GET / HTTP/1.1\r\nx-half:"];
            connection.write_all(beginnings[n % beginnings.len()]).expect("sent");
            connection
        })
        .collect();
    let mut beside = latencies(address, &path);
    for mut connection in half_open {
        let _ = connection.read_to_end(&mut Vec::new());
    }
    let closed = opened.elapsed();
    drop(end);
    server.join().expect("it ended");

    let (p99, alone) = (quantile(&mut beside, 0.99), quantile(&mut alone, 0.99));
    let ratio = p99.as_secs_f64() / alone.as_secs_f64();
    report("half_open: p99 of reads beside 1,000", format!("{p99:.2?}"), format!("{alone:.2?}"), ratio, "<= 2.00");
    let limit = Duration::from_secs(30);
    let ratio = closed.as_secs_f64() / limit.as_secs_f64();
    report("half_open: all of them closed after", format!("{closed:.1?}"), format!("{limit:.1?}"), ratio, "<= 1.00");
}

/// Of reads of a point, one after the other on one connection.
fn latencies(address: SocketAddr, path: &str) -> Vec<Duration> {
    let mut connection = TcpStream::connect(address).expect("connected");
    connection.set_nodelay(true).expect("no delay");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-api-key: key\r\n\r\n");
    let mut answer = [0; 4096];
    let read = |_| {
        let started = Instant::now();
        connection.write_all(request.as_bytes()).expect("sent");
        let length = connection.read(&mut answer).expect("answered");
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
        started.elapsed()
    };
    (0..REQUESTS).map(read).collect()
}
