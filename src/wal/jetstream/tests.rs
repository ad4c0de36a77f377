//! JetStream by a real nats-server on loopback, and what may go wrong between it and us. What every log promises is in `wal/conformance.rs`.

/// The catalogue, and who follows.
mod cluster;
/// A server that says what it is told to say.
mod fake;
/// What loses answers.
mod proxy;

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine as _;
use fake::{Fake, Says};
use proxy::Proxy;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::JetStreamLog;
use super::access::Access;
use super::cluster::JetStream;
use super::connection::{Connection, Patience, Subject};
use super::frames::Tail;
use crate::error::{Error, Result, What};
use crate::io::Io as _;
use crate::io::os::OsIo;
use crate::types::{IndexId, Lsn};
use crate::wal::cluster::Cluster;
use crate::wal::conformance::{Logs, append, append_all, point, read};
use crate::wal::log::{Appended, Log, Place};
use crate::wal::nodes::Nodes;

const FRAME_BYTES_MAX: usize = 600;

/// Set where a test that cannot be run is a failure: in CI.
const REQUIRED: &str = "FAISS_PROXY_NATS_REQUIRED";

/// A nats-server with one stream, for one test. It ends with it.
#[derive(Debug)]
pub(crate) struct Servers {
    runtime: Runtime,
    directory: tempfile::TempDir,
    server: Child,
    address: SocketAddr,
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Servers {
    /// `None`, and says so, where there is no nats-server and none can be installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&json!({}))
    }

    /// With more settings of the stream.
    fn start_with(settings: &Value) -> Option<Self> {
        let program = program()?;
        let directory = tempfile::tempdir().unwrap();
        let (server, address) = spawn(program, directory.path(), -1);
        let servers = Self { runtime: runtime(), directory, server, address };
        // As docs/decisions/0031-jetstream-layout.md has it.
        let mut stream = json!({
            "name": "faiss-log-0", "subjects": ["faiss.log.0.>"], "storage": "file", "allow_direct": true, "allow_rollup_hdrs": true,
        });
        stream.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        servers.ask("$JS.API.STREAM.CREATE.faiss-log-0", &stream);
        Some(servers)
    }

    /// kill -9, and the same server again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        (self.server, _) = spawn(program().unwrap(), self.directory.path(), i32::from(self.address.port()));
    }

    /// What nodes share, by one more connection.
    pub(crate) fn cluster(&self) -> Arc<dyn Cluster> {
        Arc::new(self.reach_by(&self.url(), 1).unwrap())
    }

    /// The nodes, by one more connection.
    pub(crate) fn nodes(&self) -> Arc<dyn Nodes> {
        Arc::new(self.reach_by(&self.url(), 1).unwrap().nodes(1))
    }

    fn reach_by(&self, url: &str, replicas: usize) -> Result<JetStream> {
        JetStream::connect(self.runtime.handle(), &access(url), patience(), replicas, FRAME_BYTES_MAX)
    }

    fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    fn ask(&self, subject: &str, body: &Value) -> Value {
        self.runtime.block_on(async {
            let client = async_nats::connect(self.url()).await.unwrap();
            let answer = client.request(subject.to_owned(), body.to_string().into()).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            assert!(answer.get("error").is_none(), "{answer}");
            answer
        })
    }

    /// What somebody who is none of us publishes.
    fn publish(&self, expected: u64, payload: Vec<u8>) {
        self.runtime.block_on(async {
            let client = async_nats::connect(self.url()).await.unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Last-Subject-Sequence", expected.to_string().as_str());
            let answer = client.request_with_headers(subject().name, headers, payload.into()).await.unwrap();
            assert!(!String::from_utf8_lossy(&answer.payload).contains("error"), "{answer:?}");
        });
    }

    fn payload(&self, sequence: u64) -> Vec<u8> {
        let answer = self.ask("$JS.API.STREAM.MSG.GET.faiss-log-0", &json!({ "seq": sequence }));
        base64::engine::general_purpose::STANDARD.decode(answer["message"]["data"].as_str().unwrap()).unwrap()
    }

    fn messages(&self) -> u64 {
        self.ask("$JS.API.STREAM.INFO.faiss-log-0", &json!({}))["state"]["messages"].as_u64().unwrap()
    }

    /// One more connection.
    pub(crate) fn connection(&self) -> Connection {
        self.connect(&self.url())
    }

    fn connect(&self, url: &str) -> Connection {
        Connection::connect(self.runtime.handle(), &access(url), patience()).unwrap()
    }

    fn log_by(&self, url: &str, index: IndexId, from: Place) -> Result<JetStreamLog> {
        JetStreamLog::open(&self.connect(url), subject(), index, FRAME_BYTES_MAX, from)
    }
}

impl Logs for Servers {
    type Log = JetStreamLog;

    fn open(&self, from: Option<Place>) -> Result<JetStreamLog> {
        self.log_by(&self.url(), IndexId::nil(), from.unwrap_or(Place::START))
    }
}

/// Shorter than a server's default, so that what waits for it does not wait long.
fn patience() -> Patience {
    Patience { answer: Duration::from_millis(500), call: Duration::from_secs(10) }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn access(url: &str) -> Access {
    Access { urls: vec![url.to_owned()], ..Access::default() }
}

fn subject() -> Subject {
    Subject { stream: "faiss-log-0".to_owned(), name: "faiss.log.0.acme.index".to_owned() }
}

fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/nats-server");
        let output = Command::new(script).stdin(Stdio::null()).output().unwrap();
        output.status.success().then(|| PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end()))
    });
    if found.is_none() {
        assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and there is no nats-server: run scripts/nats-server");
        // Past the capture of what a test prints that does not fail.
        let _ =
            io::stderr().write_all(b"\n*** NOT TESTED: JetStream. There is no nats-server; scripts/nats-server says why. ***\n");
    }
    found.as_deref()
}

/// Until it is ready: it says so, and at which port.
fn spawn(program: &Path, directory: &Path, port: i32) -> (Child, SocketAddr) {
    let config = directory.join("nats.conf");
    let store = directory.join("store");
    let text = format!("listen: \"127.0.0.1:{port}\"\njetstream {{ store_dir: {store:?}, sync_interval: always }}\n");
    let file = OsIo.open(&config).or_else(|_| OsIo.create(&config)).unwrap();
    file.set_len(0).unwrap();
    file.write_at(0, &[io::IoSlice::new(text.as_bytes())]).unwrap();
    let mut server =
        Command::new(program).arg("--config").arg(&config).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
    let mut address = None;
    for line in lines.by_ref() {
        let line = line.unwrap();
        if let Some((_, at)) = line.split_once("Listening for client connections on ") {
            address = Some(at.parse().unwrap());
        }
        if line.contains("Server is ready") {
            break;
        }
    }
    // It would stop at a pipe that nobody reads.
    std::thread::spawn(move || lines.count());
    (server, address.expect("a nats-server that says where it listens"))
}

/// By the server itself, whatever a log was told.
fn all(servers: &Servers) -> Vec<(Lsn, String)> {
    read(&mut servers.open(None).unwrap()).unwrap()
}

fn expected(names: &[&str]) -> Vec<(Lsn, String)> {
    (1..).zip(names.iter().map(|name| (*name).to_owned())).collect()
}

#[test]
fn answer_that_is_lost_is_asked_for_again_and_nothing_is_stored_twice() {
    let Some(servers) = Servers::start() else { return };
    let proxy = Proxy::start(servers.address);
    let mut log = servers.log_by(&proxy.url(), IndexId::nil(), Place::START).unwrap();
    append_all(&mut log, &["1"]);
    proxy.lose_acknowledgements(2);
    append_all(&mut log, &["2", "3"]);
    assert_eq!(proxy.lost(), 2);
    append_all(&mut log, &["4"]);
    assert_eq!(all(&servers), expected(&["1", "2", "3", "4"]));
    assert_eq!(servers.messages(), 4);
}

/// A server remembers ids for two minutes, and here for so short a time that it has forgotten.
#[test]
fn what_is_ours_is_known_by_its_id_after_the_server_forgot_it() {
    let Some(servers) = Servers::start_with(&json!({ "duplicate_window": 100_000_000 })) else { return };
    let proxy = Proxy::start(servers.address);
    let mut log = servers.log_by(&proxy.url(), IndexId::nil(), Place::START).unwrap();
    append_all(&mut log, &["1"]);
    proxy.lose_acknowledgements(1);
    append_all(&mut log, &["2"]);
    assert_eq!(proxy.lost(), 1);
    append_all(&mut log, &["3"]);
    assert_eq!(all(&servers), expected(&["1", "2", "3"]));
}

#[test]
fn who_is_cut_off_is_told_in_time_that_it_is_not_known_and_finds_out_when_it_is_back() {
    let Some(servers) = Servers::start() else { return };
    let proxy = Proxy::start(servers.address);
    let short = Patience { answer: Duration::from_millis(500), call: Duration::from_secs(2) };
    let connection = Connection::connect(servers.runtime.handle(), &access(&proxy.url()), short).unwrap();
    let mut log = JetStreamLog::open(&connection, subject(), IndexId::nil(), FRAME_BYTES_MAX, Place::START).unwrap();
    append_all(&mut log, &["1"]);
    proxy.cut();
    let cut_off = append(&mut log, &["2"]);
    assert!(matches!(cut_off, Err(Error::OutcomeUnknown(_))), "{cut_off:?}");
    assert!(matches!(read(&mut log), Err(Error::Io(_))));
    assert_eq!(log.written_lsn(), 1);

    proxy.mend();
    let mut known = vec![(1, "1".to_owned())];
    let lsn = loop {
        match append(&mut log, &["3"]) {
            Ok(Appended::At(lsn)) => break lsn,
            // What was not known is, or what came of a try of this one.
            Ok(Appended::Moved) => known.extend(read(&mut log).unwrap()),
            Err(Error::OutcomeUnknown(_)) => {}
            Err(other) => panic!("{other}"),
        }
    };
    let found = all(&servers);
    assert_eq!(found.iter().filter(|(_, name)| name == "2").count(), known.iter().filter(|(_, name)| name == "2").count());
    assert_eq!((known.len() as Lsn, found.len() as Lsn), (lsn - 1, lsn), "{found:?}");
    assert_eq!(found[..known.len()], known);
}

#[test]
fn acknowledged_frames_survive_the_kill_of_the_server_and_logs_go_on() {
    let Some(mut servers) = Servers::start() else { return };
    let mut log = servers.open(None).unwrap();
    append_all(&mut log, &["1", "2"]);
    servers.kill_and_restart();
    append_all(&mut log, &["3"]);
    assert_eq!(all(&servers), expected(&["1", "2", "3"]));
}

#[test]
fn message_that_is_no_frame_of_this_index_is_refused_by_its_sequence() {
    let Some(servers) = Servers::start() else { return };
    append_all(&mut servers.open(None).unwrap(), &["1", "2"]);
    let refused = |index, path: &str| {
        let mut log = servers.log_by(&servers.url(), index, Place::START).unwrap();
        match read(&mut log) {
            Err(Error::Corrupt(damage)) => assert_eq!(damage.path, Path::new(path), "{damage}"),
            other => panic!("{other:?}"),
        }
    };
    refused(IndexId::from_u128(1), "nats:/faiss-log-0/faiss.log.0.acme.index/1");
    // The same frame again, and then anything at all.
    servers.publish(2, servers.payload(2));
    refused(IndexId::nil(), "nats:/faiss-log-0/faiss.log.0.acme.index/3");
    let mut log = servers.open(None).unwrap();
    read(&mut log).unwrap_err();
    assert_eq!(log.written_lsn(), 2, "what is before it was given");
}

#[test]
fn operation_whose_writer_died_between_its_frames_is_passed_over() {
    let Some(servers) = Servers::start() else { return };
    let mut log = servers.open(None).unwrap();
    append_all(&mut log, &["1"]);
    let large = point("large", FRAME_BYTES_MAX * 2);
    let frames = log.tail.encode(&[&large], FRAME_BYTES_MAX);
    assert!(frames.len() > 2);
    servers.publish(1, frames[0].payload.clone());
    servers.publish(2, frames[1].payload.clone());
    let mut next = servers.open(None).unwrap();
    assert_eq!(read(&mut next).unwrap(), expected(&["1"]));
    let place = next.place();
    assert_eq!(next.append(&[]).unwrap(), Appended::At(1), "behind them, and this is the newest");
    append_all(&mut next, &["2"]);
    assert_eq!(next.append(&[&large]).unwrap(), Appended::At(3));
    assert_eq!(all(&servers), expected(&["1", "2", "large"]));
    assert_eq!(read(&mut servers.open(Some(place)).unwrap()).unwrap(), expected(&["1", "2", "large"])[1..]);
}

/// The answer to its last frame never came, and whoever wrote it goes on.
#[test]
fn operation_that_is_there_after_all_is_read_by_its_own_writer() {
    let Some(servers) = Servers::start() else { return };
    let mut log = servers.open(None).unwrap();
    append_all(&mut log, &["1"]);
    let frames = log.tail.encode(&[&point("2", FRAME_BYTES_MAX)], FRAME_BYTES_MAX);
    assert_eq!(frames.len(), 2);
    for (behind, frame) in (1..).zip(&frames) {
        servers.publish(behind, frame.payload.clone());
    }
    log.tail.wrote(&frames[0], 2);
    assert_eq!(append(&mut log, &["3"]).unwrap(), Appended::Moved);
    assert_eq!(read(&mut log).unwrap(), [(2, "2".to_owned())]);
    append_all(&mut log, &["3"]);
    assert_eq!(all(&servers), expected(&["1", "2", "3"]));
}

#[test]
fn log_of_a_deleted_index_is_said_to_be_gone_and_takes_nothing() {
    let Some(servers) = Servers::start() else { return };
    let mut log = servers.open(None).unwrap();
    append_all(&mut log, &["1"]);
    servers.ask("$JS.API.STREAM.PURGE.faiss-log-0", &json!({ "filter": subject().name }));
    assert_eq!(append(&mut log, &["2"]).unwrap(), Appended::Moved);
    assert!(matches!(read(&mut log), Err(Error::NotFound(What::Index))));
    assert_eq!(servers.messages(), 0);
}

#[test]
fn server_that_is_too_old_is_refused() {
    let runtime = runtime();
    for (version, is_taken) in [("2.9.10", false), ("2.11.99", false), ("2.12.0", true), ("2.14.0", true), ("3.0.0", true)] {
        let fake = Fake::start(version, []);
        match Connection::connect(runtime.handle(), &access(&fake.url()), patience()) {
            Ok(_) => assert!(is_taken, "{version}"),
            Err(error) => assert!(!is_taken && error.to_string().contains("at least 2.12"), "{version}: {error}"),
        }
    }
}

fn stored(sequence: u64) -> Says {
    Says::Json(json!({ "stream": "faiss-log-0", "seq": sequence }).to_string())
}

fn refuses(code: u32) -> Says {
    Says::Json(
        json!({ "error": { "code": 400, "err_code": code, "description": "no" }, "stream": "faiss-log-0", "seq": 0 }).to_string(),
    )
}

/// A log on a server that says this, one after the other; and the server. The runtime goes last.
fn log_on(answers: impl IntoIterator<Item = Says>) -> (JetStreamLog, Fake, Runtime) {
    let runtime = runtime();
    let fake = Fake::start("2.14.0", answers);
    // A machine that is busy answers later than one that is not.
    let patience = Patience { answer: Duration::from_secs(1), call: Duration::from_secs(3) };
    let connection = Connection::connect(runtime.handle(), &access(&fake.url()), patience).unwrap();
    let log = JetStreamLog::open(&connection, subject(), IndexId::nil(), FRAME_BYTES_MAX, Place::START).unwrap();
    (log, fake, runtime)
}

/// What appending comes to there.
fn append_to(answers: impl IntoIterator<Item = Says>) -> (Result<Appended>, Fake) {
    let (mut log, fake, _runtime) = log_on(answers);
    (append(&mut log, &["1"]), fake)
}

#[test]
fn what_is_missing_in_a_batch_is_asked_of_the_leader_before_it_counts_as_trimmed() {
    let mut tail = Tail::new(IndexId::nil(), Place::START);
    let frames: Vec<Vec<u8>> = ["1", "2", "3"]
        .into_iter()
        .zip(1..)
        .map(|(id, sequence)| {
            let frame = tail.encode(&[&point(id, 10)], FRAME_BYTES_MAX).remove(0);
            tail.wrote(&frame, sequence);
            frame.payload
        })
        .collect();
    let headers = |sequence: usize| format!("Nats-Expected-Last-Subject-Sequence: {}\r\n", sequence - 1);
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let by_leader = |sequence: usize| {
        let headers = base64(format!("NATS/1.0\r\n{}\r\n", headers(sequence)).as_bytes());
        let message = json!({ "seq": sequence, "hdrs": headers, "data": base64(&frames[sequence - 1]) });
        Says::Json(json!({ "message": message }).to_string())
    };
    let in_batch = |sequence: usize| {
        Says::Message(format!("{}Nats-Sequence: {sequence}\r\n", headers(sequence)), frames[sequence - 1].clone())
    };
    // The newest; a batch that lacks its first; that; a batch that lags; and what follows it.
    let says = [by_leader(3), in_batch(2), by_leader(1), Says::NobodyThere, by_leader(2)];
    let (mut log, fake, _runtime) = log_on(says);
    assert_eq!(read(&mut log).unwrap(), expected(&["1", "2", "3"]));
    assert_eq!(fake.unsaid(), 0);
    let subjects: Vec<String> = fake.requests().iter().map(|subject| subject.replace(".faiss-log-0", "")).collect();
    let (leader, any) = ("$JS.API.STREAM.MSG.GET", "$JS.API.DIRECT.GET");
    assert_eq!(subjects, [leader, any, leader, any, leader]);
}

#[test]
fn refusal_that_will_pass_is_answered_by_the_same_message_until_it_has_passed() {
    let (appended, fake) =
        append_to([refuses(10164), refuses(10158), refuses(10008), Says::NobodyThere, Says::Nothing, stored(7)]);
    assert_eq!((appended.unwrap(), fake.unsaid()), (Appended::At(1), 0));
    let ids = fake.requests();
    assert!(ids.len() == 6 && ids.iter().all(|id| id.len() == 36 && *id == ids[0]), "{ids:?}");
}

#[test]
fn proof_that_a_log_ends_here_is_kept_once_and_is_no_part_of_it() {
    let Some(servers) = Servers::start() else { return };
    let mut log = servers.open(None).unwrap();
    append_all(&mut log, &["1", "2"]);
    (0..3).for_each(|_| assert_eq!(log.append(&[]).unwrap(), Appended::At(2)));
    assert_eq!((servers.messages(), all(&servers)), (3, expected(&["1", "2"])));
    append_all(&mut log, &["3"]);
}

#[test]
fn whether_a_log_ends_here_is_asked_until_it_is_said_and_an_answer_that_never_came_leaves_nothing_open() {
    let prove = |answers: Vec<Says>| {
        let (mut log, fake, _runtime) = log_on(answers);
        (log.append(&[]), fake.unsaid())
    };
    let will_pass = vec![refuses(10164), refuses(10008), Says::NobodyThere, Says::Nothing, stored(7)];
    assert!(matches!(prove(will_pass), (Ok(Appended::At(0)), 0)));
    assert!(matches!(prove(vec![Says::Nothing, refuses(10071)]), (Ok(Appended::Moved), 0)));
    for full in [10047, 10077] {
        assert!(matches!(prove(vec![refuses(full)]).0, Err(Error::Full(_))));
    }
    for silence in [vec![refuses(10076)], vec![Says::Nothing; 99], vec![Says::NobodyThere; 99]] {
        assert!(matches!(prove(silence).0, Err(Error::Io(_))));
    }
}

#[test]
fn nothing_is_said_of_what_may_be_stored_but_that_it_is_not_known() {
    let nothing = |answers: Vec<Says>| append_to(answers).0.unwrap_err();
    let message_behind = |sequence: u64| {
        let headers = format!("NATS/1.0\r\nNats-Msg-Id: other\r\nNats-Expected-Last-Subject-Sequence: {sequence}\r\n\r\n");
        let headers = base64::engine::general_purpose::STANDARD.encode(headers);
        Says::Json(json!({ "message": { "seq": 5, "hdrs": headers, "data": "" } }).to_string())
    };
    // Nothing can have been stored.
    assert!(matches!(nothing(vec![refuses(10047)]), Error::Full(_)));
    assert!(matches!(nothing(vec![refuses(10076)]), Error::Io(_)));
    assert!(matches!(nothing(vec![Says::NobodyThere; 99]), Error::Io(_)));
    assert!(matches!(nothing(vec![refuses(10164); 2_000]), Error::Io(_)));
    assert_eq!(append_to([refuses(10071), message_behind(4)]).0.unwrap(), Appended::Moved);
    assert_eq!(append_to([refuses(10071), refuses(10037)]).0.unwrap(), Appended::Moved);
    // The first says so itself; the others stand behind an answer that never came.
    assert!(matches!(nothing(vec![refuses(10077)]), Error::OutcomeUnknown(_)));
    for refusal in [refuses(10047), refuses(10076), Says::Nothing] {
        let error = nothing(vec![Says::Nothing, refusal]);
        assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    }
    // Somebody else's stands where ours would be.
    assert_eq!(append_to([Says::Nothing, refuses(10071), message_behind(0)]).0.unwrap(), Appended::Moved);
    let error = nothing(vec![Says::Nothing, refuses(10071), message_behind(4)]);
    assert!(matches!(error, Error::OutcomeUnknown(_)), "ours may have been there, and been trimmed: {error}");
}
