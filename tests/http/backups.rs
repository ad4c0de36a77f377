//! `faiss-proxy backup` and `restore`, as processes, and `POST /v1/index/{id}/backup` and its schedule.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{ServerProcess, program, refusal};
use crate::support::{KEY, OTHER_KEY, TestServer};

fn tool(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.env_remove("FAISS_DATA_DIR").env("RUST_LOG", "off").args(arguments).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A data directory as a kill leaves it, with one index for each key; and their paths.
fn killed(keys: &[&str]) -> (TempDir, Vec<String>) {
    let data_dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let mut paths = Vec::new();
    for key in keys {
        let post = |path: &str, body: &Value| server.call("POST", path).key(key).json(body).send();
        let created = post("/v1/index", &json!({"name": "n", "dimension": 2})).json();
        let path = format!("/v1/index/{}", created["id"].as_str().unwrap());
        for batch in 0..4 {
            let points: Vec<Value> = (0..25).map(|n| json!({"id": format!("{batch}-{n}"), "values": [n, batch]})).collect();
            post(&format!("{path}/vectors"), &json!({"vectors": points}));
        }
        paths.push(path);
    }
    server.signal(rustix::process::Signal::KILL);
    server.wait();
    (data_dir, paths)
}

fn id(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

/// What `verify` says of each index: how many points, and their digest.
fn digests(data_dir: &Path) -> Vec<(Value, Value)> {
    let found = lines(&tool(&["verify", "--json", "--data-dir", text(data_dir)]));
    let mut digests: Vec<_> = found.iter().map(|line| (line["tenant"].clone(), line["digest"].clone())).collect();
    assert!(digests.iter().all(|(_, digest)| digest.is_string()), "{found:?}");
    digests.sort_by_key(|digest| format!("{digest:?}"));
    digests
}

#[test]
fn what_a_killed_server_left_is_backed_up_and_restored_with_equal_digests_by_every_kind_of_place() {
    let (data_dir, paths) = killed(&[KEY, KEY, OTHER_KEY]);
    let work = tempfile::tempdir().unwrap();
    let url = format!("file://{}", text(&work.path().join("by url")).replace(' ', "%20"));
    for to in [text(&work.path().join("directory")), &url, text(&work.path().join("one.tar.zst"))] {
        let arguments = ["backup", "--json", "--data-dir", text(data_dir.path()), "--to", to];
        let made = lines(&tool(&arguments));
        assert_eq!(made.len(), 3);
        for line in &made {
            assert_eq!((&line["seq"], &line["lsn"], &line["is_new"]), (&json!(1), &json!(4), &json!(true)), "{to}: {line}");
        }
        let new = tempfile::tempdir().unwrap();
        let restored = lines(&tool(&["restore", "--json", "--from", to, "--data-dir", text(new.path())]));
        assert_eq!(restored.len(), 3);
        for line in &restored {
            assert!(paths.iter().any(|path| id(path) == line["from_index"]) && line["index"] != line["from_index"], "{line}");
            assert_eq!((&line["lsn"], &line["vector_count"]), (&json!(4), &json!(100)));
        }
        assert_eq!(digests(new.path()), digests(data_dir.path()), "{to}");
        let names: Vec<_> = std::fs::read_dir(new.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().starts_with('.')), "{names:?}");
    }
    // What is there already is not copied again, and one file is not written over.
    let again =
        lines(&tool(&["backup", "--json", "--data-dir", text(data_dir.path()), "--to", text(&work.path().join("directory"))]));
    assert!(again.iter().all(|line| line["bytes_moved"].as_u64().unwrap() < 10_000), "{again:?}");
    let archive = text(&work.path().join("one.tar.zst")).to_owned();
    let output = tool(&["backup", "--data-dir", text(data_dir.path()), "--to", &archive]);
    assert!(output.status.code() == Some(1) && said(&output).contains("is there already"), "{output:?}");
}

#[test]
fn dry_run_says_what_is_then_copied_and_copies_nothing() {
    let (data_dir, _) = killed(&[KEY]);
    let work = tempfile::tempdir().unwrap();
    let to = work.path().join("to");
    // Else it recovers what the kill left, and the second time there is nothing to recover.
    assert!(tool(&["checkpoint", "--data-dir", text(data_dir.path())]).status.success());
    let arguments = ["backup", "--json", "--data-dir", text(data_dir.path()), "--to", text(&to)];
    let planned = lines(&tool(&[&arguments[..], &["--dry-run"]].concat()));
    assert!(!to.exists());
    assert_eq!(lines(&tool(&arguments)), planned);
}

#[test]
fn one_index_is_restored_as_of_an_lsn_and_as_of_a_time() {
    let (data_dir, paths) = killed(&[KEY, OTHER_KEY]);
    let work = tempfile::tempdir().unwrap();
    let to = work.path().join("to");
    lines(&tool(&["backup", "--json", "--data-dir", text(data_dir.path()), "--to", text(&to)]));
    let restore = |name: &str, arguments: &[&str]| {
        let new = work.path().join(name);
        tool(&[&["restore", "--json", "--from", text(&to), "--data-dir", text(&new)], arguments].concat())
    };
    let at_lsn = lines(&restore("lsn", &["--index", id(&paths[0]), "--at-lsn", "2"]));
    assert_eq!((at_lsn.len(), &at_lsn[0]["lsn"], &at_lsn[0]["vector_count"]), (1, &json!(2), &json!(50)));
    let now = lines(&restore("now", &["--tenant", "tenant-2", "--at-time", "2199-01-01T00:00:00Z"]));
    assert_eq!((now.len(), &now[0]["tenant"], &now[0]["lsn"]), (1, &json!("tenant-2"), &json!(4)));
    let early = restore("early", &["--at-time", "2001-01-01T00:00:00+01:00"]);
    assert!(early.status.code() == Some(1) && said(&early).contains("2 of 2 indices failed"), "{early:?}");
    let beyond = restore("beyond", &["--index", id(&paths[0]), "--at-lsn", "9"]);
    let told = String::from_utf8(beyond.stdout).unwrap();
    assert!(told.contains("from LSN 0 to 4"), "{told}");
    for (arguments, expected) in [
        (&["--at-lsn", "2"][..], "give --index"),
        (&["--index", "67e55044-10b1-426f-9247-bb680e5fe0c8"], "has no backup of such an index"),
        (&["--at-lsn", "2", "--at-time", "2001-01-01T00:00:00Z"], "cannot be used with"),
        (&["--at-time", "yesterday"], "RFC 3339"),
    ] {
        let output = restore("wrong", arguments);
        assert!(!output.status.success() && said(&output).contains(expected), "{arguments:?}: {output:?}");
    }
    let second = restore("lsn", &["--index", id(&paths[0])]);
    assert!(second.status.success(), "the index that was restored there has another id: {second:?}");
}

#[test]
fn people_are_told_of_a_backup_and_a_restore_in_lines_that_fit_a_terminal() {
    let (data_dir, _) = killed(&[KEY]);
    let work = tempfile::tempdir().unwrap();
    let to = work.path().join("to");
    let new = work.path().join("new");
    for arguments in [
        &["backup", "--data-dir", text(data_dir.path()), "--to", text(&to), "--dry-run"][..],
        &["backup", "--data-dir", text(data_dir.path()), "--to", text(&to), "--max-bytes-per-second", "100000000"],
        &["restore", "--from", text(&to), "--data-dir", text(&new)],
    ] {
        let output = tool(arguments);
        let text = std::str::from_utf8(&output.stdout).unwrap();
        assert!(output.status.success() && text.lines().count() == 3, "{output:?}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }
}

#[test]
fn wrong_place_is_told_of_and_changes_nothing() {
    let (data_dir, _) = killed(&[KEY]);
    let data = text(data_dir.path());
    for (arguments, code, expected) in [
        (&["backup", "--data-dir", data, "--to", "ftp://x"][..], 2, "--to"),
        (&["backup", "--data-dir", "/absent", "--to", "x"], 1, "/absent"),
        (&["restore", "--from", "/absent", "--data-dir", "/absent/new"], 1, "no backup"),
        (&["restore", "--from", "/absent.tar.zst", "--data-dir", "/absent/new"], 1, "absent.tar.zst"),
    ] {
        let output = tool(arguments);
        assert!(output.status.code() == Some(code) && said(&output).contains(expected), "{output:?}");
    }
    assert!(!Path::new("/absent").exists());
    let server = ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let output = tool(&["backup", "--data-dir", data, "--to", "x"]);
    assert!(said(&output).contains("POST /v1/index/{id}/backup"), "{output:?}");
    drop(server);
    let refused = refusal(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0", "--backup-to", "x.tar.zst"]));
    assert!(refused.contains("--backup-to"), "{refused}");
}

/// A server that backs up to a directory of its own.
fn server_with_backups(every: Option<std::time::Duration>) -> (TestServer, TempDir) {
    let to = tempfile::tempdir().unwrap();
    let location = faiss_proxy::backup::Location::Directory(to.path().join("backups"));
    let backups = faiss_proxy::api::BackupConfig { to: location, every, bytes_per_second: None };
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| config.backups = Some(backups));
    (server, to)
}

fn put(server: &TestServer, path: &str, id: &str) -> u64 {
    let stored = server.post(&format!("{path}/vectors"), &json!({"vectors": [{"id": id, "values": [1, 2]}]})).json();
    stored["lsn"].as_u64().unwrap()
}

#[test]
fn a_running_server_backs_an_index_up_where_its_operator_lets_it_and_it_is_restored() {
    let (server, to) = server_with_backups(None);
    let path = server.create_index(2);
    put(&server, &path, "a");
    let first = server.post(&format!("{path}/backup"), &json!({})).json();
    assert_eq!((&first["seq"], &first["lsn"], &first["is_new"]), (&json!(1), &json!(1), &json!(true)));
    put(&server, &path, "b");
    let without_body = server.call("POST", &format!("{path}/backup")).key(KEY).send().json();
    assert_eq!((&without_body["seq"], &without_body["lsn"]), (&json!(2), &json!(2)));
    let again = server.post(&format!("{path}/backup"), &json!({})).json();
    assert_eq!((&again["seq"], &again["is_new"], &again["bytes_moved"]), (&json!(2), &json!(false), &json!(0)));
    let below = server.post(&format!("{path}/backup"), &json!({"to": "weekly/one"})).json();
    assert_eq!((&below["seq"], &below["lsn"]), (&json!(1), &json!(2)));
    for wrong in ["/etc", "../x", "a/../../b", "s3://bucket", "file:///tmp/x", ".hidden"] {
        let (code, detail) = server.post(&format!("{path}/backup"), &json!({"to": wrong})).problem(422);
        assert_eq!(code, "invalid_location", "{wrong}: {detail}");
    }
    assert_eq!(server.post(&format!("{path}/backup"), &json!({"to": 7})).problem(422).0, "invalid_type");
    let other = server.call("POST", &format!("{path}/backup")).key(OTHER_KEY).json(&json!({})).send();
    assert_eq!(other.problem(404).0, "index_not_found", "nobody learns of another tenant's index");
    let data_dir = server.stop();
    for (from, name) in [("backups", "one"), ("backups/weekly/one", "two")] {
        let new = to.path().join(name);
        let restored = lines(&tool(&["restore", "--json", "--from", text(&to.path().join(from)), "--data-dir", text(&new)]));
        assert_eq!((restored.len(), &restored[0]["from_index"], &restored[0]["lsn"]), (1, &json!(id(&path)), &json!(2)));
        assert_eq!(digests(&new), digests(data_dir.path()));
    }
}

#[test]
fn a_server_without_a_place_for_backups_says_how_to_give_it_one() {
    let server = TestServer::start();
    let path = server.create_index(2);
    let (code, detail) = server.post(&format!("{path}/backup"), &json!({})).problem(409);
    assert!(code == "conflict" && detail.contains("--backup-to"), "{detail}");
}

/// The newest record of each index below a directory of backups.
fn records(to: &Path) -> Vec<PathBuf> {
    fn below(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|kind| kind == "json") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    below(to, &mut found);
    found
}

#[test]
fn scheduled_backups_are_made_of_every_index_and_again_when_there_is_something_new() {
    let (server, to) = server_with_backups(Some(std::time::Duration::from_millis(20)));
    let paths = [server.create_index(2), server.create_index(2)];
    let wait_for = |count: usize| {
        while records(to.path()).len() < count {
            // Each look is a call of the server's.
            assert_eq!(server.get(&paths[0]).status, 200);
        }
    };
    wait_for(2);
    put(&server, &paths[1], "a");
    wait_for(3);
    let data_dir = server.stop();
    let new = to.path().join("new");
    lines(&tool(&["restore", "--json", "--from", text(&to.path().join("backups")), "--data-dir", text(&new)]));
    assert_eq!(digests(&new), digests(data_dir.path()));
}
