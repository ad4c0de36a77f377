//! A server in this process on a port of its own, and a client that sends exactly what a test says.
#![allow(dead_code, reason = "tests/processes has these too, and has its servers in other processes")]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use faiss_proxy::api::{ApiKeys, Gate, ServerConfig, serve};
use faiss_proxy::{Opening, Store, StoreOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Key of `tenant-1`.
pub const KEY: &str = "test-key-1";
/// Key of `tenant-2`.
pub const OTHER_KEY: &str = "test-key-2";
/// A UUID that no index has.
pub const NO_INDEX: &str = "00000000-0000-4000-8000-000000000000";

/// A server that ends when it is dropped.
pub struct TestServer {
    pub address: SocketAddr,
    /// Of the listener for operators.
    pub operators: SocketAddr,
    data_dir: Option<TempDir>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), |_| {})
    }

    pub fn start_with(data_dir: TempDir, change: impl FnOnce(&mut ServerConfig)) -> Self {
        Self::start_on(data_dir, |_| {}, change)
    }

    /// The same over another store than the program's.
    pub fn start_on(
        data_dir: TempDir,
        change_store: impl FnOnce(&mut StoreOptions),
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let path = data_dir.path().to_owned();
        // As the program does.
        let mut options = StoreOptions { opening: Opening::Lazy, ..StoreOptions::new(&path) };
        change_store(&mut options);
        let store = Arc::new(Store::open(options).unwrap());
        let mut config = ServerConfig::new(Gate::new(ApiKeys::for_development(), 0), path);
        change(&mut config);

        let (shutdown, shut_down) = oneshot::channel();
        let (tell_address, address) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let operators = TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell_address.send((listener.local_addr().unwrap(), operators.local_addr().unwrap())).unwrap();
                serve(Arc::clone(&store), config, listener, Some(operators), async { drop(shut_down.await) }).await;
            });
            store.close().unwrap();
        });
        let (address, operators) = address.recv().unwrap();
        Self { address, operators, data_dir: Some(data_dir), shutdown: Some(shutdown), thread: Some(thread) }
    }

    /// Asks the server to end; it finishes what runs.
    pub fn begin_shutdown(&mut self) {
        drop(self.shutdown.take());
    }

    /// Ends the server and gives its data directory.
    pub fn stop(mut self) -> TempDir {
        self.begin_shutdown();
        self.thread.take().unwrap().join().unwrap();
        self.data_dir.take().unwrap()
    }

    pub fn call(&self, method: &str, path: &str) -> Call {
        Call::new(self.address, method, path)
    }

    pub fn get(&self, path: &str) -> Response {
        self.call("GET", path).key(KEY).send()
    }

    pub fn delete(&self, path: &str) -> Response {
        self.call("DELETE", path).key(KEY).send()
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.call("POST", path).key(KEY).json(body).send()
    }

    /// Creates an index of `tenant-1` and gives its path.
    pub fn create_index(&self, dimension: usize) -> String {
        let created = self.post("/v1/index", &json!({"name": "test", "dimension": dimension}));
        assert_eq!(created.status, 201, "{created:?}");
        format!("/v1/index/{}", created.json()["id"].as_str().unwrap())
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.begin_shutdown();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the server panicked");
        }
    }
}

/// A request on a connection of its own.
pub struct Call {
    address: SocketAddr,
    head: String,
    body: Vec<u8>,
}

impl Call {
    pub fn new(address: SocketAddr, method: &str, path: &str) -> Self {
        Self { address, head: format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n"), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head += &format!("{name}: {value}\r\n");
        self
    }

    pub fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    /// A body with its length and no media type.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("content-length", &length)
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn send(self) -> Response {
        self.send_and_keep().1
    }

    /// The connection too: what is on it after the response is still to be read.
    pub fn send_and_keep(self) -> (TcpStream, Response) {
        self.try_send().unwrap()
    }

    /// # Errors
    /// Where the server is gone, or goes before it has answered.
    pub fn try_send(self) -> io::Result<(TcpStream, Response)> {
        let connection = TcpStream::connect(self.address)?;
        self.send_on(connection)
    }

    /// # Errors
    /// As [`try_send`](Self::try_send); and where the server takes longer than that.
    pub fn try_send_within(self, patience: Duration) -> io::Result<Response> {
        let connection = TcpStream::connect_timeout(&self.address, patience)?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        Ok(self.send_on(connection)?.1)
    }

    fn send_on(self, mut connection: TcpStream) -> io::Result<(TcpStream, Response)> {
        connection.write_all(self.head.as_bytes())?;
        connection.write_all(b"\r\n")?;
        connection.write_all(&self.body)?;
        let response = Response::try_read(&mut connection)?;
        Ok((connection, response))
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Empty where it is no text, and then these are its bytes.
    pub body: String,
    pub bytes: Vec<u8>,
}

impl Response {
    /// Reads one response, of the length that it says.
    pub fn read(connection: &mut TcpStream) -> Self {
        Self::try_read(connection).unwrap()
    }

    /// # Errors
    /// Where the connection ends before the response does.
    pub fn try_read(connection: &mut TcpStream) -> io::Result<Self> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            connection.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
        let mut response = Self { status, headers, body: String::new(), bytes: Vec::new() };
        let mut body = vec![0; response.header("content-length").map_or(0, |length| length.parse().unwrap())];
        connection.read_exact(&mut body)?;
        if response.header("content-type") == Some("application/octet-stream") || response.header("content-encoding").is_some() {
            response.bytes = body;
        } else {
            response.body = String::from_utf8(body).unwrap();
        }
        Ok(response)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    /// The problem document that this must be, whole and in agreement with its response; gives its `code` and `detail`.
    #[track_caller]
    pub fn problem(&self, status: u16) -> (String, String) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(document["status"], status);
        assert_eq!(document["request_id"].as_str(), self.header("x-request-id"));
        for member in ["type", "title", "detail", "code", "request_id"] {
            assert!(document[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {document}");
        }
        (document["code"].as_str().unwrap().to_owned(), document["detail"].as_str().unwrap().to_owned())
    }
}
