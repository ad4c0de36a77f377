//! What each role may do, and keys of a file.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use faiss_proxy::TenantId;
use faiss_proxy::api::{ApiKeys, BackupConfig, Entry, Gate, Role};
use faiss_proxy::backup::Location;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{ServerProcess, program, refusal};
use crate::support::{Call, TestServer};

const ROLES: [Role; 3] = [Role::Reader, Role::Writer, Role::Admin];

/// Every call, with a body where it takes one, and the role that it needs. `{}` is an index.
const CALLS: [(&str, &str, &str, Role); 28] = [
    ("GET", "/v1/metrics", "", Role::Reader),
    ("GET", "/metrics", "", Role::Admin),
    ("GET", "/v1/index", "", Role::Reader),
    ("GET", "{}", "", Role::Reader),
    ("GET", "{}/ntotal", "", Role::Reader),
    ("GET", "{}/changes?from_lsn=1", "", Role::Reader),
    ("GET", "{}/search", r#"{"vector": [1]}"#, Role::Reader),
    ("POST", "{}/search", r#"{"vector": [1]}"#, Role::Reader),
    ("POST", "{}/search/batch", r#"{"queries": [{"vector": [1]}]}"#, Role::Reader),
    ("POST", "{}/range_search", r#"{"vector": [1], "radius": 1}"#, Role::Reader),
    ("POST", "{}/count", "{}", Role::Reader),
    ("GET", "{}/vectors", "", Role::Reader),
    ("GET", "{}/vectors/a", "", Role::Reader),
    ("GET", "{}/vectors/fetch", "", Role::Reader),
    ("POST", "{}/vectors/fetch", r#"{"ids": ["a"]}"#, Role::Reader),
    ("POST", "{}/vectors", r#"{"vectors": [{"id": "b", "values": [1]}]}"#, Role::Writer),
    ("PATCH", "{}/vectors/a", r#"{"metadata": {"n": 1}}"#, Role::Writer),
    ("DELETE", "{}/vectors/a", "", Role::Writer),
    ("POST", "{}/vectors/delete", r#"{"ids": ["a"]}"#, Role::Writer),
    ("POST", "{}/reset", "", Role::Writer),
    ("POST", "/v1/index", r#"{"name": "n", "dimension": 1}"#, Role::Admin),
    ("PATCH", "{}", r#"{"name": "m"}"#, Role::Admin),
    ("POST", "{}/checkpoint", "", Role::Admin),
    ("POST", "{}/compact", "", Role::Admin),
    ("POST", "{}/compact?erase=true", "", Role::Admin),
    ("POST", "{}/train", "", Role::Admin),
    ("POST", "{}/backup", "", Role::Admin),
    ("DELETE", "{}", "", Role::Admin),
];

/// A key of each role for each of two tenants, and the server that knows them beside those of `--dev`, which are of admins.
fn server_with_roles(backups: &Path) -> (TestServer, Vec<(&'static str, Role, String)>) {
    let (mut file, mut keys) = (String::new(), Vec::new());
    for tenant in ["tenant-1", "tenant-2"] {
        for role in ROLES {
            let (key, entry) = Entry::generate(String::new(), TenantId::new(tenant).unwrap(), role, None).unwrap();
            file += &entry.to_string();
            keys.push((tenant, role, key));
        }
    }
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        let mut known = ApiKeys::of_file(&file).unwrap();
        known.extend(ApiKeys::for_development());
        config.gate = Gate::new(known, 0);
        config.backups = Some(BackupConfig { to: Location::Directory(backups.to_owned()), every: None, bytes_per_second: None });
    });
    (server, keys)
}

#[test]
fn every_call_is_for_the_roles_that_may_make_it_and_for_their_own_tenant() {
    let backups = tempfile::tempdir().unwrap();
    let (server, keys) = server_with_roles(backups.path());
    for (method, path, body, needed) in CALLS {
        for (tenant, role, key) in &keys {
            let index = server.create_index(1);
            server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1]}]}));
            let before = server.get(&index).json();
            let made = server.call(method, &path.replace("{}", &index)).key(key).body(body).send();
            let what = format!("{method} {path} by a {role:?} of {tenant}: {made:?}");
            if *role < needed {
                let (code, detail) = made.problem(403);
                assert_eq!(code, "role", "{what}");
                assert!(detail.contains(needed.as_str()) && detail.contains(role.as_str()), "{what}");
            } else if *tenant == "tenant-2" && path.contains("{}") {
                assert_eq!(made.problem(404).0, "index_not_found", "{what}");
            } else {
                // There is no point that is called so.
                let expected = if (method, path) == ("GET", "{}/vectors/fetch") { 404..405 } else { 200..300 };
                assert!(expected.contains(&made.status), "{what}");
                continue;
            }
            assert_eq!(server.get(&index).json(), before, "it was done all the same: {what}");
        }
    }
}

#[test]
fn a_method_that_a_path_does_not_take_is_told_with_those_that_it_does_to_whom_has_a_key() {
    let backups = tempfile::tempdir().unwrap();
    let (server, keys) = server_with_roles(backups.path());
    let index = server.create_index(1);
    for (path, allow) in [
        (format!("{index}/vectors/fetch"), "GET, PATCH, DELETE, POST"),
        (format!("{index}/vectors"), "GET, POST"),
        (index, "GET, PATCH, DELETE"),
    ] {
        server.call("PUT", &path).send().problem(401);
        let refused = server.call("PUT", &path).key(&keys[0].2).send();
        assert_eq!(refused.problem(405).0, "method_not_allowed");
        assert_eq!(refused.header("allow"), Some(allow));
    }
}

#[test]
fn an_address_that_tries_wrong_keys_is_turned_away_with_any_key() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.gate = Gate::new(ApiKeys::for_development(), 3);
    });
    let status = |key: Option<&str>, path: &str| {
        let call = server.call("GET", path);
        key.map_or_else(|| server.call("GET", path), |key| call.key(key)).send().status
    };
    // Who sends none guesses none.
    for _ in 0..10 {
        assert_eq!((status(None, "/v1/index"), status(None, "/v1/health/ready")), (401, 200));
    }
    for _ in 0..3 {
        assert_eq!(status(Some("wrong"), "/v1/index"), 401);
    }
    let refused = server.get("/v1/index");
    assert_eq!(refused.problem(429).0, "busy");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(status(None, "/v1/health"), 200);
}

/// Runs `faiss-proxy key`; gives what it printed, and what it complained of.
fn key_command(file: &Path, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    let output = command.arg("key").args(arguments).arg("--key-file").arg(file).stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn new_key(file: &Path, arguments: &[&str]) -> String {
    key_command(file, &[&["new", "--tenant", "tenant-1"], arguments].concat()).unwrap().trim_end().to_owned()
}

fn status_of(address: SocketAddr, key: &str) -> u16 {
    Call::new(address, "GET", "/v1/index").key(key).send().status
}

#[test]
fn keys_are_made_listed_and_taken_back_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.toml");
    let first = new_key(&file, &["--role", "reader", "--name", "dashboard"]);
    let server = ServerProcess::start(
        program(&dir.path().join("data"))
            .args(["--listen", "127.0.0.1:0", "--key-failures-per-minute", "0", "--key-file"])
            .arg(&file),
    );
    assert_eq!(status_of(server.address, &first), 200);
    let created = server.call("POST", "/v1/index").key(&first).json(&json!({"name": "n", "dimension": 1})).send();
    assert_eq!(created.problem(403).0, "role");

    // A second one, and one that is over.
    let only_first = std::fs::read_to_string(&file).unwrap();
    let second = new_key(&file, &["--role", "admin"]);
    let over = new_key(&file, &["--role", "admin", "--expires", "2020-01-01T00:00:00Z"]);
    assert_eq!(status_of(server.address, &second), 401, "the file is read when the server is told to");
    server.signal(Signal::HUP);
    while status_of(server.address, &second) != 200 {}
    let refused = server.call("GET", "/v1/index").key(&over).send();
    assert!(refused.problem(401).1.contains("expired at 2020-01-01"), "{refused:?}");
    let listed = key_command(&file, &["ls", "--json"]).unwrap();
    let listed: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        listed[0],
        json!({"name": "dashboard", "tenant": "tenant-1", "role": "reader", "expires": null, "expired": false})
    );
    assert_eq!((listed.len(), &listed[2]["expired"]), (3, &json!(true)));
    let table = key_command(&file, &["ls"]).unwrap();
    assert!(table.lines().all(|line| line.len() <= 80) && table.contains("expired"), "{table}");

    // The first is taken back; then the file is spoiled, which changes nothing.
    let all = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, all.strip_prefix(&only_first).unwrap()).unwrap();
    server.signal(Signal::HUP);
    while status_of(server.address, &first) != 401 {}
    assert_eq!(status_of(server.address, &second), 200);
    std::fs::write(&file, "spoiled").unwrap();
    server.signal(Signal::HUP);
    assert!(key_command(&file, &["new", "--tenant", "t", "--role", "admin"]).unwrap_err().contains("line 1"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "spoiled");
    for _ in 0..50 {
        assert_eq!(status_of(server.address, &second), 200);
    }
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    let said = refusal(program(&dir.path().join("data")).args(["--listen", "127.0.0.1:0", "--key-file"]).arg(&file));
    assert!(said.contains("keys.toml") && said.contains("line 1"), "{said}");
}
