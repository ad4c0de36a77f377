//! What the program logs, read from its standard error.

use std::fs::{self, File};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{ServerProcess, program};
use crate::support::{KEY, NO_INDEX, Response};

/// A server whose log is kept.
struct Logging {
    server: ServerProcess,
    dir: TempDir,
}

impl Logging {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, |_| {})
    }

    fn start_with(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = program(&dir.path().join("data"));
        command.args(["--dev", "--listen", "127.0.0.1:0"]).args(arguments);
        change(&mut command);
        let log = File::create(dir.path().join("log")).unwrap();
        let server = ServerProcess::try_start_logging(&mut command, log).unwrap_or_else(|said| panic!("{said}"));
        Self { server, dir }
    }

    /// With a request id of the test's.
    fn send(&self, id: &str, method: &str, path: &str, body: Option<&Value>) -> Response {
        let call = self.server.call(method, path).key(KEY).header("x-request-id", id);
        match body {
            Some(body) => call.json(body),
            None => call,
        }
        .send()
    }

    /// An index with two points; its path.
    fn with_points(&self) -> String {
        let created = self.send("create", "POST", "/v1/index", Some(&json!({"name": "n", "dimension": 2})));
        let path = format!("/v1/index/{}", created.json()["id"].as_str().unwrap());
        let points = json!({"vectors": [
            {"id": "a", "values": [0.125, 77.75], "metadata": {"colour": "vermilion"}},
            {"id": "b", "values": [1, 2], "metadata": {"colour": "ochre"}},
        ]});
        assert_eq!(self.send("add", "POST", &format!("{path}/vectors"), Some(&points)).status, 201);
        path
    }

    /// Ends the server; all that it logged.
    fn end(self) -> String {
        self.server.signal(Signal::TERM);
        assert_eq!(self.server.wait().code(), Some(0));
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

fn objects(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn each_line_is_json_and_a_requests_lines_have_its_id_and_no_key_vector_or_metadata() {
    let server = Logging::start(&["--log-format", "json", "--access-log"]);
    let path = server.with_points();
    let search = json!({"vector": [0.125, 77.75], "filter": {"colour": "vermilion"}});
    let found = server.send("find-1", "POST", &format!("{path}/search?api_key=s3cret"), Some(&search));
    assert_eq!(found.status, 200);
    // An id of the server's own, and a tenant that it never came to.
    let own = server.server.call("GET", "/v1/metrics").key("s3cret-key").send();
    assert_eq!(own.problem(401).0, "unauthorized");
    let log = server.end();
    for secret in [KEY, "s3cret", "77.75", "vermilion"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    let lines = objects(&log);
    let answered = |id: &str| {
        let of_it = |line: &&Value| line["target"] == "faiss_proxy::access" && line["span"]["request_id"] == id;
        let mut lines = lines.iter().filter(of_it);
        let line = lines.next().unwrap_or_else(|| panic!("{id} in {log}"));
        assert_eq!(lines.next(), None);
        assert_eq!((&line["message"], &line["level"]), (&json!("answered"), &json!("DEBUG")));
        assert!(line["micros"].as_u64().is_some_and(|micros| micros > 0), "{line}");
        line.clone()
    };
    let line = answered("find-1");
    assert_eq!((&line["status"], &line["bytes"]), (&json!(200), &json!(found.body.len())));
    let span = &line["span"];
    assert_eq!((&span["tenant"], &span["method"]), (&json!("tenant-1"), &json!("POST")));
    assert_eq!(span["path"], format!("{path}/search"));
    let line = answered(own.header("x-request-id").unwrap());
    assert_eq!((&line["status"], &line["span"]["tenant"]), (&json!(401), &Value::Null));
}

#[test]
fn what_a_request_logs_has_its_id_however_little_is_logged() {
    for levels in ["error", "off,faiss_proxy::api=error"] {
        let server = Logging::start(&["--log-format", "json", "--log", levels]);
        let late =
            server.server.call("GET", "/v1/index").key(KEY).header("x-request-id", "late-1").header("x-request-timeout", "0");
        assert_eq!(late.send().problem(504).0, "deadline_exceeded");
        let log = server.end();
        let lines = objects(&log);
        assert_eq!(lines.len(), 1, "{log}");
        assert_eq!(
            (&lines[0]["code"], &lines[0]["span"]["request_id"]),
            (&json!("deadline_exceeded"), &json!("late-1")),
            "{log}"
        );
    }
}

#[test]
fn the_levels_are_those_of_the_option_and_else_of_the_environment() {
    let log = |arguments: &[&str], variable: &str| {
        let server = Logging::start_with(arguments, |command| {
            command.env("RUST_LOG", variable);
        });
        server.send("get-1", "GET", &format!("/v1/index/{NO_INDEX}"), None);
        server.end()
    };
    assert!(!log(&[], "info").contains("get-1"));
    assert!(log(&[], "debug").contains("get-1"));
    assert_eq!(log(&["--log", "off"], "debug"), "");
    let only_answers = log(&["--log", "off", "--access-log"], "debug");
    let wrong = program(tempfile::tempdir().unwrap().path()).args(["--dev", "--log", "faiss_proxy=loud"]).output().unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(wrong.status.code() == Some(2) && said.contains("--log"), "{said}");
    assert!(only_answers.contains("request_id=\"get-1\"") && only_answers.lines().count() == 1, "{only_answers}");
}

#[test]
fn why_the_server_does_not_start_is_a_line_of_json_too() {
    let data_dir = tempfile::tempdir().unwrap();
    let mut command = program(data_dir.path());
    let output = command.args(["--dev", "--log-format", "json", "--listen", "nonsense"]).output().unwrap();
    let lines = objects(&String::from_utf8(output.stderr).unwrap());
    assert!(lines.iter().any(|line| line["message"].as_str().is_some_and(|said| said.contains("--listen"))), "{lines:?}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_slow_call_is_told_with_its_plan_and_no_vector_or_metadata() {
    let server = Logging::start(&["--log-format", "json", "--slow-query", "0"]);
    let path = server.with_points();
    let search = json!({"vector": [0.125, 77.75], "k": 1, "filter": {"colour": "vermilion"}});
    assert_eq!(server.send("find-1", "POST", &format!("{path}/search"), Some(&search)).status, 200);
    let batch = json!({"queries": [{"vector": [1, 2], "k": 2}, search]});
    assert_eq!(server.send("batch-1", "POST", &format!("{path}/search/batch"), Some(&batch)).status, 200);
    let range = json!({"vector": [1, 2], "radius": 5, "limit": 9});
    assert_eq!(server.send("range-1", "POST", &format!("{path}/range_search"), Some(&range)).status, 200);
    let filter = json!({"filter": {"colour": "vermilion"}});
    assert_eq!(server.send("count-1", "POST", &format!("{path}/count"), Some(&filter)).status, 200);
    assert_eq!(server.send("delete-1", "POST", &format!("{path}/vectors/delete"), Some(&filter)).status, 200);
    assert_eq!(server.send("get-1", "GET", &format!("{path}/vectors/b"), None).status, 200);
    let log = server.end();
    for secret in [KEY, "77.75", "vermilion"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
    let lines = objects(&log);
    let lines: Vec<&Value> = lines.iter().filter(|line| line["target"] == "faiss_proxy::slow").collect();
    let told: Vec<_> = lines.iter().map(|line| line["span"]["request_id"].as_str().unwrap()).collect();
    assert_eq!(told, ["find-1", "batch-1", "range-1", "count-1", "delete-1"], "{log}");
    let matched: Vec<_> = lines.iter().map(|line| line["plan.matched"].as_u64().unwrap()).collect();
    assert_eq!(matched, [1, 3, 2, 1, 1]);
    let line = lines[0];
    assert_eq!((&line["level"], &line["call"], &line["k"]), (&json!("WARN"), &json!("search"), &json!(1)));
    assert_eq!((&line["index_type"], &line["span"]["tenant"]), (&json!("Flat"), &json!("tenant-1")));
    assert_eq!(path.rsplit('/').next(), line["index"].as_str());
    assert_eq!((&line["plan.memory_rows"], &line["plan.scan_rows"], &line.get("plan.ef")), (&json!(2), &json!(2), &None));
    let times = ["total_ms", "queue_ms", "engine_ms"].map(|time| line[time].as_f64().unwrap());
    assert!(times[0] >= times[1] + times[2], "{line}");
}

#[test]
fn a_call_that_is_not_slow_is_not_told_of() {
    let server = Logging::start(&["--log-format", "json", "--slow-query", "86400000"]);
    let path = server.with_points();
    assert_eq!(server.send("find-1", "POST", &format!("{path}/search"), Some(&json!({"vector": [1, 2]}))).status, 200);
    assert!(!server.end().contains("find-1"));
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_without_traces_says_so() {
    let said =
        crate::program::refusal(program(tempfile::tempdir().unwrap().path()).args(["--dev", "--otlp-endpoint", "http://x:4318"]));
    assert!(said.contains("--otlp-endpoint") && said.contains("--features otlp"), "{said}");
}
