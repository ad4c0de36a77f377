//! `faiss-proxy checkpoint` and `faiss-proxy compact`, as processes.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{ServerProcess, program};
use crate::support::{KEY, TestServer};

pub fn tool(work: &str, data_dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.env_remove("FAISS_DATA_DIR").env("RUST_LOG", "off");
    command.arg(work).arg("--data-dir").arg(data_dir).args(arguments).output().unwrap()
}

/// What it said of each index, one line after the other.
pub fn lines(output: &Output) -> Vec<Value> {
    std::str::from_utf8(&output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A data directory as a kill leaves it: three indices of two tenants, all of whose points are in the log alone. Gives the paths of the indices.
pub fn killed() -> (TempDir, Vec<String>) {
    let data_dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let mut paths = Vec::new();
    for key in [KEY, KEY, "test-key-2"] {
        let post = |path: &str, body: &Value| server.call("POST", path).key(key).json(body).send();
        let created = post("/v1/index", &json!({"name": "n", "dimension": 2})).json();
        let path = format!("/v1/index/{}", created["id"].as_str().unwrap());
        let points: Vec<Value> = (0..100).map(|n| json!({"id": n.to_string(), "values": [n, 1]})).collect();
        post(&format!("{path}/vectors"), &json!({"vectors": points}));
        let ids: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        post(&format!("{path}/vectors/delete"), &json!({"ids": ids}));
        paths.push(path);
    }
    server.signal(rustix::process::Signal::KILL);
    server.wait();
    (data_dir, paths)
}

pub fn id(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

#[test]
fn a_checkpoint_and_a_compaction_are_made_of_what_a_killed_server_left() {
    let (data_dir, paths) = killed();
    let first = tool("checkpoint", data_dir.path(), &["--json", "--index", id(&paths[0])]);
    assert!(first.status.success(), "{first:?}");
    let done = lines(&first);
    assert_eq!((done.len(), &done[0]["index"], &done[0]["lsn"]), (1, &json!(id(&paths[0])), &json!(2)));
    let all = tool("compact", data_dir.path(), &["--json"]);
    assert!(all.status.success(), "{all:?}");
    let done = lines(&all);
    let mut indices: Vec<&str> = done.iter().map(|line| line["index"].as_str().unwrap()).collect();
    let mut expected: Vec<&str> = paths.iter().map(|path| id(path)).collect();
    indices.sort_unstable();
    expected.sort_unstable();
    assert_eq!(indices, expected);
    for line in &done {
        assert_eq!((&line["lsn"], &line["segments"]), (&json!(2), &json!(1)), "{line}");
    }
    let of_one = lines(&tool("checkpoint", data_dir.path(), &["--json", "--tenant", "tenant-2"]));
    assert_eq!((of_one.len(), &of_one[0]["tenant"]), (1, &json!("tenant-2")));
    assert_eq!(of_one[0]["bytes_before"], of_one[0]["bytes_after"], "there was nothing left to do");

    let server = TestServer::start_with(data_dir, |_| {});
    for path in &paths[..2] {
        let document = server.get(path).json();
        let counts = ["vector_count", "lsn", "checkpoint_lsn", "tombstones"].map(|field| document[field].as_u64().unwrap());
        assert_eq!(counts, [60, 2, 2, 0]);
    }
}

#[test]
fn people_are_told_in_lines_that_fit_a_terminal() {
    let (data_dir, _) = killed();
    let output = tool("compact", data_dir.path(), &[]);
    let text = std::str::from_utf8(&output.stdout).unwrap();
    assert!(text.lines().count() == 6 && text.lines().all(|line| line.len() <= 80), "{text}");
    assert!(text.contains("LSN 2, segments 1, rows dropped ") && text.contains(" -> "), "{text}");
}

#[test]
fn one_damaged_index_is_told_of_and_the_others_are_done() {
    let (data_dir, paths) = killed();
    let index = data_dir.path().join("tenant-1").join(id(&paths[0]));
    let manifest =
        std::fs::read_dir(&index).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).max().unwrap();
    std::fs::write(&manifest, b"not a manifest").unwrap();
    let output = tool("compact", data_dir.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("1 of 3 indices failed"), "{}", said(&output));
    let done = lines(&output);
    let failed: Vec<&Value> = done.iter().filter(|line| line.get("error").is_some()).collect();
    assert_eq!((done.len(), failed.len(), &failed[0]["index"]), (3, 1, &json!(id(&paths[0]))));
    let name = manifest.file_name().unwrap().to_str().unwrap();
    assert!(failed[0]["error"].as_str().unwrap().contains(name), "{}", failed[0]);
}

#[test]
fn what_cannot_be_done_is_said_and_changes_nothing() {
    let empty = tempfile::tempdir().unwrap();
    let absent = empty.path().join("absent");
    let output = tool("checkpoint", &absent, &[]);
    assert!(output.status.code() == Some(1) && said(&output).contains("absent: No such file or directory"), "{output:?}");
    assert!(!absent.exists(), "it is not created");
    let output = tool("checkpoint", empty.path(), &["--index", "67e55044-10b1-426f-9247-bb680e5fe0c8"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("has no such index"), "{output:?}");
    for arguments in [["--index", "seven"], ["--tenant", "../up"]] {
        let output = tool("checkpoint", empty.path(), &arguments);
        assert!(output.status.code() == Some(2) && said(&output).contains(arguments[0]), "{output:?}");
    }
    let server = ServerProcess::start(program(empty.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let output = tool("compact", empty.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let told = said(&output);
    assert!(told.contains("open in another process") && told.contains("POST /v1/index/{id}/compact"), "{told}");
    drop(server);
}
