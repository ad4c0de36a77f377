//! Traces, as a collector of OpenTelemetry gets them; and what becomes of the server where there is none.

#[path = "http/program.rs"]
mod program;
#[path = "http/support.rs"]
mod support;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread::{self, JoinHandle};

use program::{ServerProcess, program, without_settings};
use rustix::process::Signal;
use serde_json::json;
use support::KEY;
use tempfile::TempDir;

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN_ID: &str = "00f067aa0ba902b7";

fn serve(dir: &TempDir) -> Command {
    let mut command = program(&dir.path().join("data"));
    command.args(["--dev", "--listen", "127.0.0.1:0"]);
    // One attempt is not to keep the end of a test waiting.
    command.env("OTEL_EXPORTER_OTLP_TIMEOUT", "200");
    command
}

fn start(dir: &TempDir, command: &mut Command) -> ServerProcess {
    let log = File::create(dir.path().join("log")).unwrap();
    ServerProcess::try_start_logging(command, log).unwrap_or_else(|said| panic!("{said}"))
}

/// Creates an index and searches it, in a trace of the client's.
fn search(server: &ServerProcess) {
    let created = server.call("POST", "/v1/index").key(KEY).json(&json!({"name": "n", "dimension": 2})).send();
    let path = format!("/v1/index/{}/search", created.json()["id"].as_str().unwrap());
    let call = server.call("POST", &path).key(KEY).header("traceparent", &format!("00-{TRACE_ID}-{SPAN_ID}-01"));
    assert_eq!(call.header("x-request-id", "find-1").json(&json!({"vector": [77.75, 1]})).send().status, 200);
}

/// Ends the server, which must end well; what it logged.
fn end(dir: &TempDir, server: ServerProcess) -> String {
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    fs::read_to_string(dir.path().join("log")).unwrap()
}

/// Takes one request, answers it as a collector does, and gives its first line and its body.
fn take(connection: TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    let field = |name: &str| head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned));
    assert_eq!(field("content-type: ").as_deref(), Some("application/x-protobuf"), "{head}");
    let mut body = vec![0; field("content-length: ").unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body)
}

/// Path and body of a request.
type Post = (String, Vec<u8>);

/// A collector, and all that comes to it until `end` does.
fn collector() -> (String, JoinHandle<Vec<Post>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = thread::spawn(move || {
        let mut taken = Vec::new();
        for connection in listener.incoming() {
            let connection = connection.unwrap();
            // A test that is done connects and says nothing.
            if connection.peek(&mut [0]).unwrap() == 0 {
                break;
            }
            taken.push(take(connection));
        }
        taken
    });
    (url, taken)
}

fn all_of(url: &str, taken: JoinHandle<Vec<(String, Vec<u8>)>>) -> Vec<(String, Vec<u8>)> {
    drop(TcpStream::connect(url.trim_start_matches("http://")).unwrap());
    taken.join().unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn contains(body: &[u8], wanted: &[u8]) -> bool {
    body.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn a_collector_gets_a_requests_stages_in_the_trace_that_the_client_began() {
    for by_option in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (url, taken) = collector();
        let mut command = serve(&dir);
        if by_option {
            command.args(["--otlp-endpoint", &url]);
        } else {
            command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url).env("OTEL_SERVICE_NAME", "shop-search");
        }
        let server = start(&dir, &mut command);
        search(&server);
        let log = end(&dir, server);
        let taken = all_of(&url, taken);
        assert!(!taken.is_empty(), "{log}");
        assert!(taken.iter().all(|(line, _)| line == "POST /v1/traces HTTP/1.1"), "{taken:?}");
        let body: Vec<u8> = taken.into_iter().flat_map(|(_, body)| body).collect();
        let name = if by_option { "faiss-proxy" } else { "shop-search" };
        let stages = ["queue", "work", "decode", "engine", "encode"];
        for text in [name, "POST /v1/index/{index_id}/search", "find-1", "tenant-1"].iter().chain(&stages) {
            assert!(contains(&body, text.as_bytes()), "{text} in {}", String::from_utf8_lossy(&body));
        }
        assert!(contains(&body, &bytes(TRACE_ID)) && contains(&body, &bytes(SPAN_ID)));
        for secret in [KEY, "77.75"] {
            assert!(!contains(&body, secret.as_bytes()), "{secret}");
        }
    }
}

#[test]
fn a_collector_that_is_not_there_or_never_answers_is_the_logs_matter_alone() {
    // Nothing listens on a port that was just given back; what hangs takes connections and says nothing.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    for (address, hangs) in [(gone, false), (hanging.local_addr().unwrap(), true)] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = serve(&dir);
        // Of more spans than have room.
        command.env("OTEL_BSP_MAX_QUEUE_SIZE", "4").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4");
        let server = start(&dir, command.args(["--otlp-endpoint", &format!("http://{address}")]));
        for _ in 0..5 {
            search(&server);
        }
        let log = end(&dir, server);
        assert!(log.contains("opentelemetry"), "{log}");
        assert!(!hangs || log.contains("dropped_span_count"), "{log}");
    }
}

#[test]
fn an_endpoint_that_is_no_url_of_a_collector_is_refused_by_its_flag() {
    for url in ["localhost:4318", "https://collector:4318", "http://", "grpc://x"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
        let output = without_settings(&mut command).args(["config", "check", "--dev", "--otlp-endpoint", url]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains("--otlp-endpoint"), "{url}: {said}");
    }
    // What a variable says wrong keeps nobody from being served.
    let dir = tempfile::tempdir().unwrap();
    let server = start(&dir, serve(&dir).env("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url"));
    search(&server);
    let log = end(&dir, server);
    assert!(log.contains("traces are not exported"), "{log}");
}
