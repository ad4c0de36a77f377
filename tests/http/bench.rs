//! `faiss-proxy bench`, as a process: against a server, a directory, and servers that do not do what they should.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::offline::said;
use crate::support::{KEY, NO_INDEX, TestServer};

/// The program, with the key of `tenant-1` and vectors that are made.
fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.env_remove("FAISS_DATA_DIR").env("RUST_LOG", "off").env("FAISS_PROXY_API_KEY", KEY);
    command.arg("bench").args(arguments);
    command
}

/// Of a few small vectors, and bounded by requests.
const SMALL: [&str; 10] = ["--generate", "400", "--dimension", "8", "--queries", "20", "--requests", "30", "--seconds", "3600"];

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

fn of_server(server: &TestServer, arguments: &[&str]) -> Output {
    bench(&["--url", &url(server.address)]).args(arguments).output().unwrap()
}

#[track_caller]
fn report(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn runs(report: &Value) -> &Vec<Value> {
    report["runs"].as_array().unwrap()
}

/// Phases and what they do, without repetition.
fn kinds(report: &Value) -> BTreeSet<&str> {
    runs(report).iter().map(|run| run["what"].as_str().unwrap()).collect()
}

#[track_caller]
fn is_sound(report: &Value) {
    assert_eq!(report["failed_requests"], 0);
    for run in runs(report) {
        let (requests, latency) = (run["requests"].as_u64().unwrap(), &run["latency_us"]);
        // What is written beside searches ends when they do, which can be at once.
        let is_writer = run["what"] == "mixed: write, batch 100";
        assert!(requests <= 30 && (requests > 0 || is_writer), "{run}");
        assert!(run["failed"].as_object().unwrap().is_empty(), "{run}");
        let quantiles = ["p50", "p90", "p99", "p99_9", "max"].map(|name| latency[name].as_f64().unwrap());
        assert!(quantiles.is_sorted() && (quantiles[0] > 0.0 || is_writer), "{run}");
        let rate = run["requests_per_second"].as_f64().unwrap() * run["seconds"].as_f64().unwrap();
        assert!((rate - requests as f64).abs() < 1e-3, "{run}");
    }
}

fn indices(server: &TestServer) -> Value {
    server.get("/v1/index").json()["indices"].clone()
}

#[test]
fn every_phase_of_a_server_is_measured_and_its_indices_are_gone_afterwards() {
    let server = TestServer::start();
    let arguments =
        ["--index-type", "HNSW8", "--options", r#"{"ef_construction": 80, "seal_rows": 200}"#, "--metric", "cosine", "--json"];
    let more = ["--clients", "1,3", "--batch", "7,100", "--ef", "16,200", "--recall", "0.5", "--filter-selectivity", "0.5,0.1"];
    let report = report(&of_server(&server, &[&SMALL[..], &arguments, &more].concat()));
    is_sound(&report);
    let expected = [
        "exact",
        "filter 10 %, ef 16",
        "filter 50 %, ef 16",
        "ingest, batch 100",
        "ingest, batch 7",
        "mixed: search, ef 16",
        "mixed: write, batch 100",
        "search, ef 16",
        "search, ef 200",
        "write, one vector",
    ];
    assert_eq!(kinds(&report).into_iter().collect::<Vec<_>>(), expected);
    assert_eq!(runs(&report).len(), 2 * expected.len(), "with one client and with three");
    let index = &report["index"];
    assert_eq!((&index["factory"], &index["vector_count"], &index["unindexed_rows"]), (&json!("HNSW8"), &json!(400), &json!(0)));
    assert_eq!((&report["data"]["rows"], &report["data"]["queries"]), (&json!(400), &json!(20)));
    for run in runs(&report) {
        match run["what"].as_str().unwrap() {
            "exact" => assert_eq!(run["recall"], 1.0),
            "search, ef 200" => assert!(run["recall"].as_f64().unwrap() > 0.95, "{run}"),
            // 400 rows are four batches of 100, and of those of 7 there may be 30.
            "ingest, batch 100" => assert_eq!((&run["requests"], &run["batch"]), (&json!(4), &json!(100))),
            "filter 10 %, ef 16" => assert!((10..100).contains(&run["matching_rows"].as_u64().unwrap()), "{run}"),
            what if !what.starts_with("mixed: write") => assert_eq!(run["requests"], 30, "{run}"),
            _ => {}
        }
    }
    let at_recall: Vec<(&Value, &Value)> =
        report["at_recall"].as_array().unwrap().iter().map(|at| (&at["clients"], &at["what"])).collect();
    assert_eq!(at_recall, [(&json!(1), &json!("search, ef 16")), (&json!(3), &json!("search, ef 16"))]);
    assert_eq!(indices(&server), json!([]));
}

#[test]
fn every_phase_of_a_directory_is_measured_and_its_indices_are_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--data-dir", dir.path().to_str().unwrap(), "--tenant", "tenant-1", "--clients", "2", "--batch", "50"];
    let output = bench(&[&arguments[..], &SMALL, &["--json", "--durability", "interval"]].concat()).output().unwrap();
    let report = report(&output);
    is_sound(&report);
    // 8 floats, an id and the metadata of three filters.
    assert!(kinds(&report).contains("write + fdatasync, 512 B"), "{report}");
    assert_eq!(runs(&report).len(), 10);
    assert_eq!(report["index"]["factory"], "HNSW32");
    let store = faiss_proxy::Store::open(faiss_proxy::StoreOptions::new(dir.path())).unwrap();
    assert_eq!(store.list(&faiss_proxy::TenantId::new("tenant-1").unwrap()).unwrap().len(), 0);
    assert!(!dir.path().join("bench-baseline.tmp").exists());
}

#[test]
fn an_exact_index_finds_all_of_the_nearest_by_each_metric_and_with_filters() {
    let server = TestServer::start();
    for metric in ["l2", "ip", "cosine"] {
        let arguments =
            ["--index-type", "Flat", "--metric", metric, "--phases", "search,exact,filter", "--clients", "1", "--json"];
        let report = report(&of_server(&server, &[&SMALL[..], &arguments].concat()));
        // The rarest filter matches two rows or so: fewer than are asked for.
        assert_eq!(runs(&report).len(), 5);
        for run in runs(&report) {
            assert_eq!(run["recall"], 1.0, "{metric}: {run}");
        }
    }
}

#[test]
fn vectors_come_from_a_file_and_those_that_are_searched_for_are_not_stored() {
    let server = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("some.fvecs");
    let row = |n: u32| [&2_i32.to_le_bytes()[..], &(n as f32).to_le_bytes(), &((n * n) as f32).to_le_bytes()].concat();
    std::fs::write(&file, (1..=100).flat_map(row).collect::<Vec<u8>>()).unwrap();
    let of_file = |arguments: &[&str]| {
        let vectors = ["--vectors", file.to_str().unwrap(), "--phases", "search", "--index-type", "Flat", "--requests", "5"];
        of_server(&server, &[&vectors[..], &["--clients", "1", "--json"], arguments].concat())
    };
    let rows = |report: &Value| (report["data"]["rows"].as_u64().unwrap(), report["index"]["vector_count"].as_u64().unwrap());
    assert_eq!(rows(&report(&of_file(&["--queries", "10"]))), (90, 90));
    assert_eq!(rows(&report(&of_file(&["--queries", "10", "--rows", "30"]))), (30, 30));
    let none = of_file(&["--queries", "100"]);
    assert!(none.status.code() == Some(1) && said(&none).contains("--queries 100: there are 100 vectors"), "{none:?}");
    std::fs::write(&file, [row(1), row(2), row(0)].concat()).unwrap();
    let zero = of_file(&["--queries", "1", "--metric", "cosine"]);
    assert!(zero.status.code() == Some(1) && said(&zero).contains("some.fvecs: row 2: values"), "{zero:?}");
    assert_eq!(indices(&server), json!([]));
}

#[test]
fn people_are_told_in_lines_that_fit_a_terminal_with_the_unit_of_each_figure() {
    let server = TestServer::start();
    let output = of_server(&server, &[&SMALL[..], &["--rate", "5000", "--clients", "2", "--recall", "0.01"]].concat());
    let text = std::str::from_utf8(&output.stdout).unwrap();
    assert!(output.status.success() && text.lines().all(|line| line.len() <= 80), "{output:?}");
    for part in
        ["machine: ", "flags: --url http://", "data: 400 rows x 8", "index: HNSW32", "latency in ms", " v/s", " q/s", "rec@10"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(text.contains("recall@10 >= 0.01:  2 clients "), "{text}");
}

#[test]
fn a_wrong_command_line_is_refused_before_anything_is_done() {
    let server = TestServer::start();
    let url = url(server.address);
    let url = ["--url", url.as_str()];
    let cases: [(&[&str], &str); 13] = [
        (&SMALL, "--url"),
        (&["--url", url[1]], "--vectors"),
        (&[&url[..], &["--generate", "5"]].concat(), "--dimension"),
        (&[&url[..], &["--data-dir", ".", "--tenant", "t"], &SMALL].concat(), "--data-dir"),
        (&[&["--data-dir", "."], &SMALL[..]].concat(), "--tenant"),
        (&[&url[..], &SMALL, &["--clients", "1,0"]].concat(), "--clients"),
        (&[&url[..], &SMALL, &["--batch", "10001"]].concat(), "--batch"),
        (&[&url[..], &SMALL, &["--filter-selectivity", "1.5"]].concat(), "--filter-selectivity"),
        (&[&url[..], &SMALL, &["--ef", "8", "--nprobe", "8"]].concat(), "--nprobe"),
        (&[&url[..], &SMALL, &["--phases", "search,none"]].concat(), "--phases"),
        (&[&url[..], &SMALL, &["--rate", "0"]].concat(), "--rate"),
        (&[&url[..], &SMALL, &["--options", "[]"]].concat(), "--options"),
        (&[&url[..], &SMALL, &["--options", r#"{"ef_destruction": 1}"#]].concat(), "ef_destruction is no option"),
    ];
    for (arguments, named) in cases {
        let output = bench(arguments).output().unwrap();
        assert!(output.status.code() == Some(2) && said(&output).contains(named), "{arguments:?}: {output:?}");
    }
    assert_eq!(indices(&server), json!([]));
}

#[test]
fn what_cannot_be_measured_is_said() {
    let server = TestServer::start();
    let address = url(server.address);
    let small = [&["--url", address.as_str()], &SMALL[..]].concat();
    let wrong_key = bench(&small).env("FAISS_PROXY_API_KEY", "wrong").output().unwrap();
    assert!(wrong_key.status.code() == Some(1) && said(&wrong_key).contains("401"), "{wrong_key:?}");
    let no_key = bench(&small).env_remove("FAISS_PROXY_API_KEY").output().unwrap();
    assert!(no_key.status.code() == Some(1) && said(&no_key).contains("FAISS_PROXY_API_KEY has no API key"), "{no_key:?}");
    let cases = [("--index-type", "HNSW1000000", "index_type"), ("--vectors", "absent.npy", "absent.npy: No such file")];
    for (flag, value, reason) in cases {
        let vectors = ["--url", &address, flag, value];
        let arguments = if flag == "--vectors" { vectors.to_vec() } else { [&vectors[..], &SMALL].concat() };
        let output = bench(&arguments).output().unwrap();
        assert!(output.status.code() == Some(1) && said(&output).contains(reason), "{output:?}");
        assert!(output.stdout.is_empty());
    }
    for url in ["https://127.0.0.1:1", "127.0.0.1:8000"] {
        let output = bench(&[&["--url", url], &SMALL[..]].concat()).output().unwrap();
        assert!(output.status.code() == Some(1) && said(&output).contains("--url"), "{output:?}");
    }
    let data_dir = server.stop();
    let held = faiss_proxy::Store::open(faiss_proxy::StoreOptions::new(data_dir.path())).unwrap();
    let path = data_dir.path().to_str().unwrap();
    let output = bench(&[&["--data-dir", path, "--tenant", "t"], &SMALL[..]].concat()).output().unwrap();
    assert!(output.status.code() == Some(1) && said(&output).contains("--url http://HOST:PORT"), "{output:?}");
    held.close().unwrap();
}

#[test]
fn at_a_signal_the_index_is_deleted_and_the_exit_code_is_that_of_a_signal() {
    let server = TestServer::start();
    let address = url(server.address);
    let endless = ["--generate", "400", "--dimension", "8", "--seconds", "86400", "--phases", "search"];
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = bench(&[&["--url", &address], &endless[..]].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        while indices(&server) == json!([]) {
            assert_eq!(child.try_wait().unwrap(), None, "it has ended and there was no index");
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.code() == Some(130) && said(&output).contains("interrupted"), "{output:?}");
        assert!(output.stdout.is_empty());
        assert_eq!(indices(&server), json!([]));
    }
}

/// Answers each request by its method and path, until the process ends; and keeps what it was asked.
struct FakeServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeServer {
    /// `answer` gives status and body.
    fn start(answer: fn(&str) -> (u16, Value)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let asked = Arc::clone(&server.asked);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let asked = Arc::clone(&asked);
                thread::spawn(move || while answer_one(connection.as_ref().unwrap(), &asked, answer).is_some() {});
            }
        });
        server
    }
}

fn answer_one(mut connection: &TcpStream, asked: &Mutex<Vec<String>>, answer: fn(&str) -> (u16, Value)) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).ok()?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    connection.read_exact(&mut vec![0; length.parse().unwrap()]).ok()?;
    let line = head.lines().next().unwrap().strip_suffix(" HTTP/1.1").unwrap();
    asked.lock().unwrap().push(line.to_owned());
    let (status, body) = answer(line);
    let body = body.to_string();
    write!(connection, "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).ok()
}

#[test]
fn requests_that_fail_are_counted_apart_and_the_run_says_so() {
    let server = FakeServer::start(|line| match line.split(' ').next().unwrap() {
        "DELETE" => (204, json!({})),
        _ if line == "POST /v1/index" => (201, json!({"id": NO_INDEX})),
        _ => (429, json!({"code": "queue_full", "detail": "too many writes wait"})),
    });
    let arguments = ["--url", &url(server.address), "--phases", "ingest", "--clients", "2", "--batch", "20"];
    let output = bench(&[&arguments[..], &SMALL, &["--json"]].concat()).output().unwrap();
    assert!(
        output.status.code() == Some(1) && said(&output).contains("20 of the requests that were measured failed"),
        "{output:?}"
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let run = &runs(&report)[0];
    assert_eq!((&run["requests"], &run["failed"]), (&json!(0), &json!({"429 queue_full": 20})));
    assert_eq!((&run["latency_us"]["max"], &report["failed_requests"]), (&json!(0.0), &json!(20)));
    assert_eq!(server.asked.lock().unwrap().last().unwrap(), &format!("DELETE /v1/index/{NO_INDEX}"));

    let output = bench(&[&arguments[..], &SMALL].concat()).output().unwrap();
    let text = std::str::from_utf8(&output.stdout).unwrap();
    assert!(text.contains("FAILED: ingest, batch 20, 2 clients: 20 x 429 queue_full"), "{text}");
}

#[test]
fn an_index_that_could_not_be_deleted_is_named_whether_the_bench_succeeded_or_not() {
    let refuses_delete: fn(&str) -> (u16, Value) = |line| match line {
        "POST /v1/index" => (201, json!({"id": NO_INDEX})),
        _ if line.starts_with("DELETE") => (503, json!({"code": "down", "detail": "going down"})),
        _ if line.contains("/vectors?") => (201, json!({})),
        _ => (500, json!({"code": "broken", "detail": "does not compact"})),
    };
    let server = FakeServer::start(refuses_delete);
    for (phase, why) in [("ingest", None), ("search", Some("does not compact"))] {
        let output = bench(&[&["--url", &url(server.address), "--phases", phase], &SMALL[..]].concat()).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(said.contains(NO_INDEX) && said.contains("could not be deleted") && said.contains("going down"), "{said}");
        assert!(why.is_none_or(|why| said.contains(why)), "{said}");
    }
}

#[test]
fn what_is_written_is_as_durable_as_was_asked_for_and_stored_as_a_whole_or_not_at_all() {
    let server = FakeServer::start(|line| match line {
        "POST /v1/index" => (201, json!({"id": NO_INDEX})),
        _ => (200, json!({})),
    });
    for durability in ["fsync", "interval"] {
        let arguments = ["--url", &url(server.address), "--phases", "write", "--durability", durability];
        let output = bench(&[&arguments[..], &SMALL].concat()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let wanted = format!("POST /v1/index/{NO_INDEX}/vectors?atomic=true&durability={durability}");
        let asked = server.asked.lock().unwrap().split_off(0);
        // With one client and with eight.
        assert_eq!(asked.iter().filter(|line| **line == wanted).count(), 60, "{asked:?}");
    }
}
