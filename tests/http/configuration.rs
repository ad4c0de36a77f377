//! Options from the command line, the environment and a file.

use std::fs;
use std::process::{Command, Output};

use serde_json::json;
use tempfile::TempDir;

use crate::program::{ServerProcess, without_settings};
use crate::support::KEY;

fn config(work: &str, dir: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    without_settings(&mut command).current_dir(dir.path());
    command.args(["config", work]).args(arguments);
    command
}

fn with_file(text: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f.toml"), text).unwrap();
    dir
}

#[track_caller]
fn wrong(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_flag_goes_before_the_environment_which_goes_before_the_file_which_goes_before_the_default() {
    let dir = with_file(
        "api_keys = [\"s3cret:t\", \"s3cret2:u\"]\nlisten = \"127.0.0.1:1\"\nopening = \"eager\"\nmemory_budget_mb = 7\n[limits]\nk_max = 5\n",
    );
    let mut print = config("print", &dir, &["--config", "f.toml", "--listen", "127.0.0.1:3"]);
    print.env("FAISS_PROXY_LISTEN", "127.0.0.1:2").env("FAISS_PROXY_OPENING", "lazy").env("FAISS_PROXY_BACKUP_EVERY", "60");
    let output = print.output().unwrap();
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{output:?}");
    for line in [
        "api_keys = \"…\" # f.toml",
        "listen = \"127.0.0.1:3\" # --listen",
        "opening = \"lazy\" # FAISS_PROXY_OPENING",
        "memory_budget_mb = 7 # f.toml",
        "data_dir = \"./data\" # default",
        "# build_threads is not set",
        "dev = false # default",
        "backup_every = 60 # FAISS_PROXY_BACKUP_EVERY",
        "[limits]",
        "k_max = 5 # f.toml",
        "dimension_max = 65536 # default",
    ] {
        assert!(said.lines().any(|other| other == line), "{line} in {said}");
    }
    assert!(!said.contains("s3cret"), "{said}");
    // What is printed is a file, but for the keys.
    let again = with_file(&said.replace("\"…\"", "\"a:t\""));
    let again = config("print", &again, &["--config", "f.toml"]).output().unwrap();
    let values = |text: &str| text.lines().map(|line| line.split(" # ").next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(values(&String::from_utf8(again.stdout).unwrap()), values(&said));
}

#[test]
fn everything_that_is_wrong_with_a_file_is_told_at_once() {
    let text = "api_keys = 7\nlistn = \"127.0.0.1:1\"\nopening = \"never\"\nbuild_threads = 0\ndev = \"yes\"\nconfig = \"x\"\nk_max = 3\n\
                [limits]\nk_max = \"many\"\nlisten = \"x\"\n[limit]\nx = 1\n";
    let dir = with_file(text);
    let said = wrong(&config("check", &dir, &["--config", "f.toml"]).output().unwrap());
    for complaint in [
        "f.toml: \"listn\": there is no such option",
        "f.toml: opening: invalid value 'never'",
        "f.toml: build_threads: invalid value '0'",
        "f.toml: dev: must be true or false",
        "f.toml: \"config\": there is no such option",
        "f.toml: \"k_max\": there is no such option",
        "f.toml: limits.k_max: invalid value 'many'",
        "f.toml: \"limits.listen\": there is no such option",
        "f.toml: \"limit.x\": there is no such option",
    ] {
        assert!(said.contains(complaint), "{complaint} in {said}");
    }
    // The server does not start with it either.
    let mut serve = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    without_settings(&mut serve).args(["serve", "--config", "f.toml"]).current_dir(dir.path());
    assert!(wrong(&serve.output().unwrap()).contains("\"listn\""));
    assert!(!dir.path().join("data").exists());
}

#[test]
fn options_that_cannot_be_together_are_told_of_and_no_key_is_shown() {
    let dir = with_file(
        "api_keys = [\"s3cret\"]\nlisten = \"nonsense\"\nbackup_every = 5\n[limits]\ndimension_max = 2097152\nbody_bytes_max = 0\n",
    );
    let said = wrong(&config("check", &dir, &["--config", "f.toml"]).output().unwrap());
    for complaint in
        ["api_keys", "\"nonsense\"", "--backup-every", "dimension_max: this limit is 1 to 1048576", "body_bytes_max: "]
    {
        assert!(said.contains(complaint), "{complaint} in {said}");
    }
    let broken = with_file("listen = \"x\"\napi_keys = [\"s3cret:t\" \"x\"]\n");
    let unreadable = wrong(&config("check", &broken, &["--config", "f.toml"]).output().unwrap());
    assert!(unreadable.contains("--config f.toml: line 2: "), "{unreadable}");
    let typed = wrong(&config("check", &dir, &["--api-keys", "s3cret:t"]).output().unwrap());
    for said in [said, unreadable, typed] {
        assert!(!said.contains("s3cret"), "{said}");
    }
    let said = wrong(&config("check", &dir, &["--config", "absent.toml"]).output().unwrap());
    assert!(said.contains("--config absent.toml: ") && said.contains("No such file"), "{said}");
    let fine = config("check", &dir, &["--dev"]).output().unwrap();
    assert!(fine.status.success() && fine.stderr.is_empty() && fine.stdout.is_empty(), "{fine:?}");
}

#[test]
fn a_server_keeps_to_its_file() {
    let text = format!(
        "api_keys = \"{KEY}:tenant-1\"\nlisten = \"127.0.0.1:0\"\n[limits]\ndimension_max = 2\nbatch_points_max = 2\nk_max = 1\nid_bytes_max = 4\n\
         metadata_bytes_max = 16\nmetadata_depth_max = 2\nbody_bytes_max = 1000\n"
    );
    let dir = with_file(&text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    without_settings(&mut command).arg("serve").env("FAISS_PROXY_CONFIG", "f.toml").current_dir(dir.path());
    let server = ServerProcess::start(&mut command);
    let send = |path: &str, body: serde_json::Value| server.call("POST", path).key(KEY).json(&body).send();
    assert_eq!(send("/v1/index", json!({"name": "n", "dimension": 3})).status, 422);
    let path = format!("/v1/index/{}", send("/v1/index", json!({"name": "n", "dimension": 2})).json()["id"].as_str().unwrap());
    let vectors = format!("{path}/vectors?atomic=true");
    let add = |points: serde_json::Value| send(&vectors, json!({"vectors": points})).status;
    let point = |id: &str, metadata: serde_json::Value| json!({"id": id, "values": [1, 2], "metadata": metadata});
    assert_eq!(add(json!([point("a", json!({})), point("bcde", json!({"a": {}}))])), 201);
    assert_eq!(add(json!([point("abcde", json!({}))])), 422);
    assert_eq!(add(json!([point("a", json!({"a": {"b": {}}}))])), 422);
    assert_eq!(add(json!([point("a", json!({"a": "0123456789"}))])), 422);
    assert_eq!(add(json!([point("a", json!({})), point("b", json!({})), point("c", json!({}))])), 422);
    assert_eq!(send(&format!("{path}/search"), json!({"vector": [1, 2], "k": 2})).status, 422);
    assert_eq!(send(&format!("{path}/search"), json!({"vector": [1, 2], "k": 1})).status, 200);
    assert_eq!(send(&format!("{path}/search"), json!({"vector": [1, 2], "k": 1, "filler": "x".repeat(1000)})).status, 413);
}

#[test]
fn what_a_queue_or_a_timeout_cannot_be_is_told_by_flag_or_key() {
    let dir = with_file(
        "dev = true\n[queues]\nsearches_running_max = 0\nwrites_running_max = 1025\nreads_waiting_max = -1\nqueue_wait_max = 0.0\n[connections]\n\
         connections_max = 0\nhead_timeout = \"soon\"\nbody_timeout = 1e9\nbody_rate_min = 0\nshutdown_timeout = true\n",
    );
    let said = wrong(&config("check", &dir, &["--config", "f.toml"]).output().unwrap());
    for complaint in [
        "queues.searches_running_max: invalid value '0'",
        "queues.writes_running_max: invalid value '1025'",
        "queues.reads_waiting_max: invalid value '-1'",
        "queues.queue_wait_max: invalid value '0'",
        "connections.connections_max: invalid value '0'",
        "connections.head_timeout: invalid value 'soon'",
        "connections.body_timeout: invalid value '1000000000'",
        "must be a number of seconds, 0.001 to 86400",
        "connections.body_rate_min: invalid value '0'",
        "connections.shutdown_timeout: must be a string or a number",
    ] {
        assert!(said.contains(complaint), "{complaint} in {said}");
    }
    let typed = wrong(&config("check", &dir, &["--dev", "--streams-max", "1000001"]).output().unwrap());
    assert!(typed.contains("--streams-max"), "{typed}");
}

#[test]
fn numbers_of_a_file_may_have_a_fraction_and_a_server_has_as_many_streams_as_it_says() {
    let dir = with_file(
        "dev = true\nlisten = \"127.0.0.1:0\"\n[connections]\nhead_timeout = 2.5\nstreams_max = 0\n[queues]\nreads_running_max = 1\n",
    );
    let said = config("print", &dir, &["--config", "f.toml"]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("[queues]\n")
            && said.contains("head_timeout = 2.5 # f.toml")
            && said.contains("body_timeout = 30 # default"),
        "{said}"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    without_settings(&mut command).args(["serve", "--config", "f.toml"]).current_dir(dir.path());
    let server = ServerProcess::start(&mut command);
    let created = server.call("POST", "/v1/index").key(KEY).json(&json!({"name": "n", "dimension": 2})).send();
    let changes = format!("/v1/index/{}/changes", created.json()["id"].as_str().unwrap());
    let streamed = server.call("GET", &changes).key(KEY).header("accept", "text/event-stream").send();
    assert_eq!(streamed.problem(429).0, "busy");
}
