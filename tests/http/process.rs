//! The program itself: how it starts, refuses to start, and ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::json;

use crate::program::{ServerProcess, program, refusal};
use crate::support::{Call, KEY};

#[test]
fn without_keys_it_does_not_start_and_says_how_to_set_one() {
    let data_dir = tempfile::tempdir().unwrap();
    for keys in [None, Some(""), Some(" , ")] {
        let mut command = program(data_dir.path());
        command.args(["--listen", "127.0.0.1:0"]);
        if let Some(keys) = keys {
            command.env("FAISS_PROXY_API_KEYS", keys);
        }
        let said = refusal(&mut command);
        assert!(said.contains("FAISS_PROXY_API_KEYS") && said.contains("--dev"), "{said}");
    }
}

#[test]
fn a_wrong_key_list_is_refused_by_its_variable_and_no_key_is_shown() {
    let data_dir = tempfile::tempdir().unwrap();
    for keys in ["s3cret", "s3cret:../up", "s3cret:Upper", "good:t,s3cret:", "tenant:s3cret:x/y", "s3cret:a\\b"] {
        let said = refusal(program(data_dir.path()).args(["--listen", "127.0.0.1:0"]).env("FAISS_PROXY_API_KEYS", keys));
        assert!(said.contains("FAISS_PROXY_API_KEYS"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
    assert_eq!(std::fs::read_dir(data_dir.path()).unwrap().count(), 0);
}

#[test]
fn with_keys_that_everybody_knows_it_listens_on_loopback_only() {
    let data_dir = tempfile::tempdir().unwrap();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let said = refusal(program(data_dir.path()).args(["--dev", "--listen", address]));
        assert!(said.contains("--dev") && said.contains("loopback"), "{said}");
    }
    let said = refusal(program(data_dir.path()).args(["--dev", "--listen", "nonsense"]));
    assert!(said.contains("nonsense"), "{said}");
}

#[test]
fn a_second_server_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let data_dir = tempfile::tempdir().unwrap();
    let first = ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let said = refusal(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    assert!(said.contains(&data_dir.path().display().to_string()), "{said}");
    let created = first.call("POST", "/v1/index").key(KEY).json(&json!({"name": "n", "dimension": 1})).send();
    assert_eq!(created.status, 201, "{created:?}");
}

#[test]
fn at_sigterm_it_ends_with_0_and_the_next_start_has_the_data() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut path = String::new();
    for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
        let server = ServerProcess::start(
            program(data_dir.path())
                .env("FAISS_PROXY_LISTEN", "127.0.0.1:0")
                .env("FAISS_PROXY_API_KEYS", format!("first:tenant-1,{KEY}:tenant-1")),
        );
        if round == 0 {
            let created = server.call("POST", "/v1/index").key(KEY).json(&json!({"name": "n", "dimension": 1})).send();
            path = format!("/v1/index/{}", created.json()["id"].as_str().unwrap());
        }
        let points = json!({"vectors": [{"id": format!("point {round}"), "values": [round]}]});
        assert_eq!(server.call("POST", &format!("{path}/vectors")).key(KEY).json(&points).send().status, 201);
        let index = server.call("GET", &path).key("first").send().json();
        assert_eq!((&index["vector_count"], &index["checkpoint_lsn"]), (&json!(round + 1), &json!(round)));
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn indices_open_at_their_first_use_unless_it_is_told_to_open_them_at_the_start() {
    let data_dir = tempfile::tempdir().unwrap();
    let start = |arguments: &[&str]| {
        ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]).args(arguments))
    };
    let counts = |server: &ServerProcess| server.call("GET", "/v1/health/ready").send().json()["indices"].clone();
    let server = start(&[]);
    let created = server.call("POST", "/v1/index").key(KEY).json(&json!({"name": "n", "dimension": 1})).send();
    assert_eq!(created.status, 201);
    drop(server);
    let (not_yet, serving) =
        (json!({"serving": 0, "not_verified": 1, "refused": 0}), json!({"serving": 1, "not_verified": 0, "refused": 0}));
    let server = start(&["--memory-budget-mb", "64"]);
    assert_eq!(counts(&server), not_yet);
    assert_eq!(server.call("GET", "/v1/index").key(KEY).send().status, 200);
    assert_eq!(counts(&server), serving);
    drop(server);
    assert_eq!(counts(&start(&["--opening", "eager"])), serving);
}

#[test]
fn an_automatic_index_keeps_to_the_memory_that_it_was_given() {
    let data_dir = tempfile::tempdir().unwrap();
    for (given, factory) in [("0", "IVF128,PQ1"), ("64", "HNSW32")] {
        let arguments = ["--dev", "--listen", "127.0.0.1:0", "--build-threads", "1", "--auto-memory-mb", given];
        let server = ServerProcess::start(program(data_dir.path()).args(arguments));
        let spec = json!({"name": "n", "dimension": 1, "index_type": "auto"});
        let created = server.call("POST", "/v1/index").key(KEY).json(&spec).send().json();
        let path = format!("/v1/index/{}", created["id"].as_str().unwrap());
        let points: Vec<_> = (0..10_000).map(|n| json!({"id": n.to_string(), "values": [n]})).collect();
        let added = server.call("POST", &format!("{path}/vectors")).key(KEY).json(&json!({"vectors": points})).send();
        assert_eq!(added.status, 201);
        assert_eq!(server.call("GET", &path).key(KEY).send().json()["picked"]["factory"], factory);
    }
    let output = program(data_dir.path()).args(["--dev", "--build-threads", "0"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("--build-threads"), "{said}");
}

#[test]
fn it_may_have_as_many_files_open_as_the_system_allows() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_faiss-proxy");
    let script = format!("ulimit -Sn 64; exec {program} serve --dev --listen 127.0.0.1:0 --data-dir \"$0\"");
    let server = ServerProcess::start(command.args(["-c", &script]).arg(data_dir.path()));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let mut words = line["Max open files".len()..].split_whitespace();
    let (soft, hard) = (words.next().unwrap(), words.next().unwrap());
    assert_eq!(soft, hard, "{line}");
}

/// An arena of glibc reserves 64 MiB of addresses, of which it makes readable what it needs.
#[test]
fn its_allocator_has_an_arena_for_two_processors_and_not_one_for_each_thread() {
    let data_dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let create = |number: usize| {
        let call = Call::new(server.address, "POST", "/v1/index").key(KEY);
        let name = format!("index {number}");
        assert_eq!(call.json(&json!({ "name": name, "dimension": 2, "index_type": "HNSW" })).send().status, 201);
    };
    std::thread::scope(|scope| (0..8).for_each(|number| drop(scope.spawn(move || create(number)))));
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.child.id())).unwrap();
    let arenas = maps.lines().filter(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        rest.starts_with("---p 00000000 00:00") && end - start > 32 << 20
    });
    let allowed = std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1));
    // The first is the heap, and has no such range.
    assert!(arenas.count() < allowed, "{maps}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let data_dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    // A request that does not end keeps the first signal from ending it.
    let mut connection = std::net::TcpStream::connect(server.address).unwrap();
    let head =
        format!("POST /v1/index HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n");
    std::io::Write::write_all(&mut connection, head.as_bytes()).unwrap();
    assert_eq!(crate::support::Response::read(&mut connection).status, 100);
    server.signal(Signal::TERM);
    // It has heard the first one when it no longer listens.
    while std::net::TcpStream::connect(server.address).is_ok() {}
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(130));
}

#[test]
fn operators_have_a_listener_of_their_own_that_is_announced_behind_that_of_the_clients() {
    let data_dir = tempfile::tempdir().unwrap();
    let arguments = ["--dev", "--listen", "127.0.0.1:0", "--operators-listen"];
    let mut command = program(data_dir.path());
    let mut child = command.args(arguments).arg("127.0.0.1:0").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut next = |what: &str| {
        let line = lines.next().unwrap();
        line.strip_prefix(what).unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    };
    let _server = ServerProcess { child, address: next("listening on http://") };
    let address = next("listening for operators on http://");
    let page = Call::new(address, "GET", "/metrics").send();
    assert!(page.status == 200 && page.body.contains("faiss_proxy_build_info"), "{page:?}");
    let said = refusal(program(data_dir.path()).args(arguments).arg("0.0.0.0:0"));
    assert!(said.contains("--operators-listen") || said.contains("loopback"), "{said}");
}
