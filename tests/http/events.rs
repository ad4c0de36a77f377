//! The change feed as server-sent events.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpStream;
use std::time::Duration;

use faiss_proxy::{Durability, IndexOptions, IndexSpec, Store, StoreOptions, TenantId};
use serde_json::{Value, json};

use crate::support::{Call, KEY, TestServer};

/// Longer than any test waits for anything.
const NEVER: Duration = Duration::from_secs(3_600);

/// A stream that is open.
struct Events {
    connection: BufReader<TcpStream>,
    /// What was read and is no whole event yet.
    text: String,
    comments: usize,
    /// As an `EventSource` has it: of the last event, or id alone, that came whole.
    last_id: Option<String>,
}

#[derive(Debug, PartialEq)]
struct Event {
    id: Option<String>,
    name: String,
    data: Value,
}

impl Events {
    fn open(call: Call) -> Self {
        let (connection, response) = call.key(KEY).header("accept", "text/event-stream").send_and_keep();
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("content-type"), Some("text/event-stream"));
        connection.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { connection: BufReader::new(connection), text: String::new(), comments: 0, last_id: None }
    }

    /// More text; whether there is any before the end.
    fn read_chunk(&mut self) -> bool {
        let mut size = String::new();
        self.connection.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut bytes = vec![0; size + 2];
        self.connection.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes[size..], b"\r\n");
        self.text += std::str::from_utf8(&bytes[..size]).unwrap();
        size > 0
    }

    /// The next event that an `EventSource` would dispatch; `None` at the end of the stream.
    fn next(&mut self) -> Option<Event> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let (mut event, mut data) = (Event { id: None, name: String::new(), data: Value::Null }, String::new());
                for line in block.lines() {
                    match line.split_once(':').unwrap() {
                        ("", _) => self.comments += 1,
                        ("id", id) => event.id = Some(id.trim().to_owned()),
                        ("event", name) => name.trim().clone_into(&mut event.name),
                        ("data", line) => data += line,
                        other => panic!("{other:?}"),
                    }
                }
                if event.id.is_some() {
                    self.last_id.clone_from(&event.id);
                }
                if !data.is_empty() {
                    event.data = serde_json::from_str(&data).unwrap();
                    return Some(event);
                }
            }
            if !self.read_chunk() {
                return None;
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.next().unwrap()).collect()
    }
}

fn event(id: Option<u64>, name: &str, data: Value) -> Event {
    Event { id: id.map(|id| id.to_string()), name: name.to_owned(), data }
}

fn upserted(id: Option<u64>, lsn: u64, point: &str) -> Event {
    event(id, "upsert", json!({"lsn": lsn, "op": "upsert", "id": point, "metadata": {}}))
}

fn put(server: &TestServer, path: &str, ids: &[&str]) {
    let points: Vec<Value> = ids.iter().map(|id| json!({"id": id, "values": [1]})).collect();
    assert_eq!(server.post(&format!("{path}/vectors"), &json!({"vectors": points})).status, 201);
}

#[test]
fn a_stream_has_what_there_is_and_then_what_comes_and_goes_on_after_the_last_whole_mutation() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| config.connections.stream_heartbeat = NEVER);
    let path = server.create_index(1);
    put(&server, &path, &["a"]);
    let mut events = Events::open(server.call("GET", &format!("{path}/changes")));
    assert_eq!(events.next().unwrap(), upserted(Some(1), 1, "a"));
    put(&server, &path, &["b", "c", "d"]);
    assert_eq!(events.take(3), [upserted(None, 2, "b"), upserted(None, 2, "c"), upserted(Some(2), 2, "d")]);
    let interval = format!("{path}/vectors?durability=interval");
    assert_eq!(server.post(&interval, &json!({"vectors": [{"id": "e", "values": [1]}]})).status, 201);
    assert_eq!(events.next().unwrap(), upserted(Some(3), 3, "e"), "when it is synced");
    assert_eq!(server.delete(&format!("{path}/vectors/a")).status, 204);
    assert_eq!(events.next().unwrap(), event(Some(4), "delete", json!({"lsn": 4, "op": "delete", "id": "a"})));

    // Cut off within the second mutation: none of it is lost.
    let mut events = Events::open(server.call("GET", &format!("{path}/changes")));
    events.take(3);
    let last_id = events.last_id.clone().unwrap();
    assert_eq!(last_id, "1");
    drop(events);
    let mut events = Events::open(server.call("GET", &format!("{path}/changes?from_lsn=4")).header("last-event-id", &last_id));
    assert_eq!(events.take(3), [upserted(None, 2, "b"), upserted(None, 2, "c"), upserted(Some(2), 2, "d")]);
    let mut events = Events::open(server.call("GET", &format!("{path}/changes?from_lsn=4")));
    assert_eq!(events.next().unwrap().name, "delete");
}

#[test]
fn metadata_with_line_breaks_is_one_event_and_what_a_filter_hides_is_not_asked_for_again() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| config.connections.stream_heartbeat = NEVER);
    let path = server.create_index(1);
    let body = "{\"vectors\": [{\"id\": \"a\", \"values\": [1], \"metadata\": {\"n\":\r\n 1,\n\n\"text\": \"\\n\"}}]}";
    assert_eq!(server.call("POST", &format!("{path}/vectors")).key(KEY).body(body).send().status, 201);
    put(&server, &path, &["hidden"]);
    let mut events = Events::open(server.call("GET", &format!("{path}/changes?filter=%7B%22n%22:1%7D&include_values=true")));
    let data = json!({"lsn": 1, "op": "upsert", "id": "a", "values": [1.0], "metadata": {"n": 1, "text": "\n"}});
    assert_eq!(events.next().unwrap(), event(Some(1), "upsert", data));
    assert_eq!(server.delete(&format!("{path}/vectors/a")).status, 204);
    assert_eq!(events.next().unwrap().id.as_deref(), Some("3"));
    put(&server, &path, &["hidden"]);
    assert!(events.read_chunk() && events.text == "id: 4\n\n", "{:?}", events.text);
}

#[test]
fn what_cannot_be_streamed_is_answered_by_its_status_and_by_an_event_where_it_ends_later() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| config.connections.stream_heartbeat = NEVER);
    let path = server.create_index(1);
    put(&server, &path, &["a"]);
    let ask = |query: &str, last_id: Option<&str>| {
        let call =
            server.call("GET", &format!("{path}/changes{query}")).key(KEY).header("accept", "text/html, text/event-stream;q=1");
        last_id.into_iter().fold(call, |call, id| call.header("last-event-id", id)).send()
    };
    ask("?from_lsn=3", None).problem(422);
    let (_, detail) = ask("", Some("x")).problem(422);
    assert!(detail.starts_with("Last-Event-ID"), "{detail}");
    let mut events = Events::open(server.call("GET", &format!("{path}/changes?from_lsn=2")));
    assert_eq!(server.post(&format!("{path}/compact?erase=true"), &json!({})).status, 200);
    ask("", None).problem(410);
    ask("", Some("0")).problem(410);
    // Who has read all is not behind.
    put(&server, &path, &["b"]);
    assert_eq!(events.next().unwrap(), upserted(Some(2), 2, "b"));
    assert_eq!(server.delete(&path).status, 204);
    let end = events.next().unwrap();
    assert_eq!((end.id, end.name.as_str()), (None, "problem"));
    assert_eq!((&end.data["status"], &end.data["code"]), (&json!(404), &json!("index_not_found")));
    assert_eq!(events.next(), None);
}

#[test]
fn a_quiet_stream_has_a_heartbeat_and_streams_are_as_many_as_they_may() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.connections.stream_heartbeat = Duration::from_millis(10);
        config.connections.streams_max = 1;
    });
    let path = server.create_index(1);
    let url = format!("{path}/changes");
    let mut events = Events::open(server.call("GET", &url));
    for _ in 0..4 {
        assert!(events.read_chunk());
        assert!(events.text.lines().all(|line| line.is_empty() || line.starts_with(':')), "{:?}", events.text);
    }
    let second = server.call("GET", &url).key(KEY).header("accept", "text/event-stream").send();
    assert_eq!(second.problem(429).0, "busy");
    assert_eq!(server.get(&url).status, 200, "pages are no streams");
    drop(events);
    // The server learns of it by what it sends next.
    wait_for_a_place(&server, &url);
}

/// Until a stream can be opened.
fn wait_for_a_place(server: &TestServer, url: &str) {
    let is_busy = || server.call("GET", url).key(KEY).header("accept", "text/event-stream").send().status == 429;
    assert!((0..20_000).any(|_| !is_busy()), "no place is given back");
}

#[test]
fn streams_end_when_the_server_does() {
    let mut server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.connections.stream_heartbeat = NEVER;
        config.connections.shutdown_timeout = NEVER;
    });
    let path = server.create_index(1);
    let mut events = Events::open(server.call("GET", &format!("{path}/changes")));
    server.begin_shutdown();
    assert_eq!(events.next(), None, "an end, and no broken connection");
    server.stop();
}

const POINTS: u64 = 2_000;

/// An index of thirty times what a stream holds, all of it in its log, and its path.
fn large_log() -> (tempfile::TempDir, String) {
    let data_dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::new(data_dir.path())).unwrap();
    let options = IndexOptions { log_retention_bytes: Some(1 << 30), ..IndexOptions::default() };
    let spec = IndexSpec { name: "n".into(), dimension: 4_096, index_type: "Flat".into(), options, ..IndexSpec::default() };
    let index = store.create_index(&TenantId::new("tenant-1").unwrap(), &spec).unwrap();
    let path = format!("/v1/index/{}", index.id());
    for n in 0..POINTS {
        let mut batch = index.batch();
        batch.push(&format!("p{n}"), &[0.123_456_79; 4_096], "{}").unwrap();
        index.upsert(batch, Durability::Interval).unwrap();
    }
    store.close().unwrap();
    (data_dir, path)
}

/// With room for more than a page it would have taken all, and gone on to wait for changes.
#[test]
fn a_client_that_does_not_read_costs_a_page_and_then_its_place() {
    let (data_dir, path) = large_log();
    let server = TestServer::start_with(data_dir, |config| {
        config.connections.streams_max = 1;
        config.connections.stream_heartbeat = NEVER;
        config.connections.stream_stall_timeout = Duration::from_millis(50);
    });
    let mut events = Events::open(server.call("GET", &format!("{path}/changes?include_values=true")));
    wait_for_a_place(&server, &format!("{path}/changes"));
    let mut lsn = 0;
    while let Some(event) = events.next() {
        lsn += 1;
        assert_eq!(event.id, Some(lsn.to_string()));
    }
    println!("{lsn} of {POINTS} mutations were on their way");
    assert!(lsn < POINTS);
}

/// The stream waits for its client, and the log is erased behind it.
#[test]
fn a_client_that_is_too_slow_learns_where_the_log_begins() {
    let (data_dir, path) = large_log();
    let server = TestServer::start_with(data_dir, |config| {
        config.connections.stream_heartbeat = NEVER;
        config.connections.stream_stall_timeout = NEVER;
    });
    let mut events = Events::open(server.call("GET", &format!("{path}/changes?include_values=true")));
    assert_eq!(events.next().unwrap().id.as_deref(), Some("1"));
    assert_eq!(server.post(&format!("{path}/compact?erase=true"), &json!({})).json()["lsn"], POINTS);
    for lsn in 2..=POINTS {
        let event = events.next().unwrap();
        if event.name == "problem" {
            println!("{} of {POINTS} mutations were sent, or on their way", lsn - 1);
            assert_eq!((&event.data["status"], &event.data["oldest_lsn"]), (&json!(410), &json!(POINTS + 1)));
            assert_eq!(events.next(), None);
            return;
        }
        assert_eq!(event.id, Some(lsn.to_string()));
    }
    panic!("all of it was held for a client that did not read");
}
