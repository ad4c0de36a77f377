//! Limits of a body and of the queues, connections, and the end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use crate::support::{KEY, Response, TestServer};

const BODY_BYTES_MAX: usize = 64 << 10;

fn server_with_small_bodies() -> TestServer {
    TestServer::start_with(tempfile::tempdir().unwrap(), |config| config.body_bytes_max = BODY_BYTES_MAX)
}

fn head(method: &str, path: &str, rest: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\n{rest}\r\n")
}

/// A body of JSON that is right, and of that many bytes.
fn body_of(bytes: usize) -> String {
    let body = json!({"name": "n", "dimension": 1, "padding": ""}).to_string();
    body.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - body.len())))
}

#[test]
fn a_body_of_the_limit_is_taken_and_one_byte_more_is_a_413() {
    let server = server_with_small_bodies();
    let send = |bytes| server.call("POST", "/v1/index").key(KEY).body(body_of(bytes)).send();
    assert_eq!(send(BODY_BYTES_MAX).status, 201);
    assert_eq!(send(BODY_BYTES_MAX + 1).problem(413).0, "body_too_large");
}

#[test]
fn an_announced_length_above_the_limit_is_a_413_before_a_byte_of_it_came() {
    let server = server_with_small_bodies();
    let mut connection = TcpStream::connect(server.address).unwrap();
    let length = format!("content-length: {}\r\n", BODY_BYTES_MAX + 1);
    connection.write_all(head("POST", "/v1/index", &length).as_bytes()).unwrap();
    Response::read(&mut connection).problem(413);
}

#[test]
fn a_chunked_body_is_a_413_as_soon_as_it_passes_the_limit() {
    let server = server_with_small_bodies();
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection.write_all(head("POST", "/v1/index", "transfer-encoding: chunked\r\n").as_bytes()).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", BODY_BYTES_MAX, "x".repeat(BODY_BYTES_MAX));
    connection.write_all(chunk.as_bytes()).unwrap();
    connection.write_all(b"1\r\nx\r\n").unwrap();
    // The end of the body never comes.
    Response::read(&mut connection).problem(413);
}

#[test]
fn a_chunked_body_within_the_limit_is_taken() {
    let server = server_with_small_bodies();
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection.write_all(head("POST", "/v1/index", "transfer-encoding: chunked\r\n").as_bytes()).unwrap();
    for byte in body_of(100).bytes() {
        connection.write_all(&[b'1', b'\r', b'\n', byte, b'\r', b'\n']).unwrap();
    }
    connection.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(Response::read(&mut connection).status, 201);
}

#[test]
fn a_client_that_sends_a_large_body_in_vain_still_reads_its_answer() {
    let server = TestServer::start();
    let body = vec![b' '; 16 << 20];
    server.call("POST", "/v1/index").key("wrong").body(body.clone()).send().problem(401);
    server.call("POST", "/nothing").body(body.clone()).send().problem(404);
    server.call("POST", "/v1/index").key(KEY).header("content-type", "text/plain").body(body).send().problem(415);
}

#[test]
fn who_waits_for_leave_to_send_is_refused_without_being_given_it() {
    let server = server_with_small_bodies();
    let mut connection = TcpStream::connect(server.address).unwrap();
    let rest = format!("expect: 100-continue\r\ncontent-length: {}\r\n", BODY_BYTES_MAX + 1);
    connection.write_all(head("POST", "/v1/index", &rest).as_bytes()).unwrap();
    Response::read(&mut connection).problem(413);
}

#[test]
fn bodies_that_take_too_much_memory_together_are_a_429() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| config.bodies_bytes_max = BODY_BYTES_MAX);
    let refused = server.call("POST", "/v1/index").key(KEY).body(body_of(BODY_BYTES_MAX + 1)).send();
    assert_eq!(refused.problem(429).0, "busy");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // What it held is given back.
    assert_eq!(server.call("POST", "/v1/index").key(KEY).body(body_of(BODY_BYTES_MAX)).send().status, 201);
}

#[test]
fn a_full_queue_is_a_429_that_says_when_to_come_back() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.queues.searches_running_max = Some(0);
        config.queues.searches_waiting_max = 0;
    });
    let index = server.create_index(1);
    let refused = server.post(&format!("{index}/search"), &json!({"vector": [1]}));
    assert_eq!(refused.problem(429).0, "busy");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(server.get(&index).status, 200);
}

#[test]
fn a_body_that_stops_coming_is_a_408() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.connections.body_timeout = std::time::Duration::ZERO
    });
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection.write_all(head("POST", "/v1/index", "content-length: 10\r\n").as_bytes()).unwrap();
    Response::read(&mut connection).problem(408);
}

#[test]
fn a_body_that_comes_byte_by_byte_for_ever_is_a_408() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.connections.body_timeout = std::time::Duration::from_millis(50);
        config.connections.body_rate_min = u64::MAX;
    });
    let mut connection = TcpStream::connect(server.address).unwrap();
    connection.write_all(head("POST", "/v1/index", "transfer-encoding: chunked\r\n").as_bytes()).unwrap();
    let mut sends = connection.try_clone().unwrap();
    // Until the server has had enough, and closes the connection.
    let sender = std::thread::spawn(move || while sends.write_all(b"1\r\n \r\n").is_ok() {});
    Response::read(&mut connection).problem(408);
    connection.shutdown(std::net::Shutdown::Both).unwrap();
    sender.join().unwrap();
}

#[test]
fn a_client_that_sends_no_request_is_disconnected() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.connections.head_timeout = std::time::Duration::from_millis(1)
    });
    let mut connection = TcpStream::connect(server.address).unwrap();
    let mut rest = Vec::new();
    let ended = connection.read_to_end(&mut rest);
    assert!(ended.is_err() || rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
}

#[test]
fn a_client_that_went_away_in_the_middle_of_its_body_stores_nothing() {
    let server = TestServer::start();
    let index = server.create_index(1);
    let mut connection = TcpStream::connect(server.address).unwrap();
    let body = json!({"vectors": [{"id": "a", "values": [1]}]}).to_string();
    let length = format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len() + 1);
    connection.write_all(head("POST", &format!("{index}/vectors"), &length).as_bytes()).unwrap();
    assert_eq!(Response::read(&mut connection).status, 100);
    connection.write_all(body.as_bytes()).unwrap();
    drop(connection);
    // The shutdown waits for the connection to end, so what it would have stored is there by then.
    let server = TestServer::start_with(server.stop(), |_| {});
    assert_eq!(server.get(&index).json()["vector_count"], 0);
}

#[test]
fn one_connection_serves_many_requests() {
    let server = TestServer::start();
    let mut connection = TcpStream::connect(server.address).unwrap();
    for _ in 0..100 {
        connection.write_all(head("GET", "/v1/health", "").as_bytes()).unwrap();
        assert_eq!(Response::read(&mut connection).status, 200);
        connection.write_all(head("GET", "/v1/nothing", "").as_bytes()).unwrap();
        Response::read(&mut connection).problem(404);
    }
}

#[test]
fn more_connections_than_the_limit_wait_their_turn() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| config.connections.connections_max = 1);
    let mut first = TcpStream::connect(server.address).unwrap();
    first.write_all(head("GET", "/v1/health", "").as_bytes()).unwrap();
    assert_eq!(Response::read(&mut first).status, 200);
    let mut second = TcpStream::connect(server.address).unwrap();
    second.write_all(head("GET", "/v1/health", "").as_bytes()).unwrap();
    drop(first);
    assert_eq!(Response::read(&mut second).status, 200);
}

#[test]
fn a_shutdown_finishes_the_requests_that_run_and_takes_no_more() {
    let mut server = TestServer::start();
    let index = server.create_index(1);
    let mut idle = TcpStream::connect(server.address).unwrap();
    let mut connection = TcpStream::connect(server.address).unwrap();
    let body = json!({"vectors": [{"id": "a", "values": [1]}]}).to_string();
    let rest = format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len());
    connection.write_all(head("POST", &format!("{index}/vectors"), &rest).as_bytes()).unwrap();
    // The server asks for the body, so it has the request.
    assert_eq!(Response::read(&mut connection).status, 100);

    server.begin_shutdown();
    // An idle connection is closed, and new ones are refused once the listener is gone.
    let mut nothing = Vec::new();
    let _ = idle.read_to_end(&mut nothing);
    assert!(nothing.is_empty());
    while TcpStream::connect(server.address).is_ok() {}

    connection.write_all(body.as_bytes()).unwrap();
    let added = Response::read(&mut connection);
    assert_eq!((added.status, &added.json()["added_count"]), (201, &json!(1)));
    let server = TestServer::start_with(server.stop(), |_| {});
    assert_eq!(server.get(&format!("{index}/vectors/a")).status, 200);
}

#[test]
fn a_request_is_not_begun_after_the_time_that_it_gave_itself() {
    let server = TestServer::start();
    let index = server.create_index(1);
    let body = json!({"vectors": [{"id": "a", "values": [1]}]});
    let add = |timeout: &str| {
        server.call("POST", &format!("{index}/vectors")).key(KEY).header("x-request-timeout", timeout).json(&body).send()
    };
    assert_eq!(add("0").problem(504).0, "deadline_exceeded");
    assert_eq!(server.get(&index).json()["vector_count"], 0);
    for wrong in ["", "soon", "-1", "NaN", "inf", "1e300"] {
        assert_eq!(add(wrong).problem(422).0, "invalid_timeout", "{wrong:?}");
    }
    assert_eq!(add("3600.5").status, 201);
}
