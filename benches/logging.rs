//! What logging takes of a request: the processor time of a server that logs in some way beside one that logs nothing, for the same searches. Of many short
//! rounds, in which the servers take turns, the quickest counts: what else the machine does only adds to it.

mod harness;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use harness::{KEY, Server, directory, report};

const ROUNDS: usize = 100;
const REQUESTS: usize = 500;

/// The options, and how many microseconds of a request they may take.
const WAYS: [(&str, &[&str], f64); 6] = [
    ("nothing, again", &["--log", "off"], 3.0),
    ("warn", &["--log", "warn"], 5.0),
    ("info, the default", &["--log", "info"], 5.0),
    ("info as JSON", &["--log", "info", "--log-format", "json"], 10.0),
    ("each request", &["--log", "info", "--access-log"], 15.0),
    ("each request as JSON", &["--log", "info", "--access-log", "--log-format", "json"], 25.0),
];

fn main() {
    let mut baseline = Client::start(&["--log", "off"]);
    let mut clients: Vec<Client> = WAYS.iter().map(|(_, options, _)| Client::start(options)).collect();
    for _ in 0..ROUNDS {
        baseline.search();
        clients.iter_mut().for_each(Client::search);
    }
    let nothing = baseline.quickest;
    for ((what, _, most), client) in WAYS.iter().zip(clients) {
        let taken = client.quickest;
        let what = format!("logging: {what}: a search");
        report(&what, format!("{taken:.1} µs"), format!("{nothing:.1} µs"), taken / nothing, &format!("<= {most} µs more"));
    }
}

/// A server with three points, and a connection to it.
struct Client {
    server: Server,
    _directory: tempfile::TempDir,
    connection: TcpStream,
    search: String,
    /// Microseconds of processor time for a search, in the quickest round.
    quickest: f64,
}

impl Client {
    fn start(options: &[&str]) -> Self {
        let directory = directory();
        let server = Server::start_with(env!("CARGO_BIN_EXE_faiss-proxy"), directory.path(), |command| {
            command.args(options).stderr(Stdio::null());
        });
        let connection = TcpStream::connect(&server.address).expect("connected");
        connection.set_nodelay(true).expect("no delay");
        let mut client = Self { server, _directory: directory, connection, search: String::new(), quickest: f64::INFINITY };
        let created = client.send(&request("/v1/index", r#"{"name":"n","dimension":2}"#));
        let id = created.split_once("\"id\":\"").expect("an index").1.split('"').next().expect("an id").to_owned();
        let points = r#"{"vectors":[{"id":"a","values":[1,2]},{"id":"b","values":[3,4]},{"id":"c","values":[5,6]}]}"#;
        client.send(&request(&format!("/v1/index/{id}/vectors"), points));
        client.search = request(&format!("/v1/index/{id}/search"), r#"{"vector":[1,1],"k":2}"#);
        client
    }

    fn search(&mut self) {
        let (search, before) = (self.search.clone(), self.server.run_time());
        (0..REQUESTS).for_each(|_| drop(self.send(&search)));
        let taken = (self.server.run_time() - before).as_secs_f64() * 1e6 / REQUESTS as f64;
        self.quickest = self.quickest.min(taken);
    }

    fn send(&mut self, request: &str) -> String {
        self.connection.write_all(request.as_bytes()).expect("sent");
        let mut answer = [0; 4096];
        let length = self.connection.read(&mut answer).expect("answered");
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
        answer
    }
}

fn request(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}
