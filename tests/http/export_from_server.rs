//! `faiss-proxy export --url`, as a process.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::import::{FORMATS, directory, odd_index, refused, succeeds, tool};
use crate::program::{ServerProcess, program};
use crate::support::KEY;

fn server(dir: &TempDir) -> ServerProcess {
    ServerProcess::start(program(&dir.path().join("data")).args(["--dev", "--listen", "127.0.0.1:0"]))
}

/// The program, of which `work` is a command that talks to a server.
fn from_server(work: &str, dir: &Path, server: &ServerProcess, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.env_remove("FAISS_DATA_DIR").env("RUST_LOG", "off").env("FAISS_PROXY_API_KEY", KEY).current_dir(dir);
    command.args([work, "--json", "--url", &format!("http://{}", server.address)]).args(arguments).output().unwrap()
}

/// What depends on the points alone, of a server that has ended.
fn digest(dir: &TempDir, index: &Value) -> Value {
    succeeds(&tool("verify", dir).args(["--index", index.as_str().unwrap()]).output().unwrap())["digest"].clone()
}

#[test]
fn a_server_gives_the_bytes_that_its_directory_does_and_what_is_imported_of_them_is_the_same_state() {
    let dir = directory();
    let index = odd_index(&dir);
    let id = index.as_str().unwrap();
    for format in FORMATS {
        let out = format!("offline.{format}");
        succeeds(&tool("export", &dir).args(["--index", id, "--format", format, "--out", &out]).output().unwrap());
    }
    let server = server(&dir);
    let mut imported = Vec::new();
    for format in FORMATS {
        let out = format!("served.{format}");
        let report = succeeds(&from_server("export", dir.path(), &server, &["--index", id, "--format", format, "--out", &out]));
        let told = ["tenant", "index", "points", "dimension", "lsn"].map(|field| report[field].clone());
        assert_eq!(told, [json!("tenant-1"), index.clone(), json!(11), json!(3), json!(8)]);
        for suffix in ["", ".points.jsonl"] {
            let read = |name: &str| fs::read(dir.path().join(format!("{name}.{format}{suffix}"))).ok();
            assert_eq!(read("served"), read("offline"), "{format}{suffix}");
        }
        let points = format!("{out}.points.jsonl");
        let mut arguments = vec!["--create", format, &out];
        if dir.path().join(&points).exists() {
            arguments.extend(["--points", &points]);
        }
        imported.push(succeeds(&from_server("import", dir.path(), &server, &arguments))["index"].clone());
    }
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    let expected = digest(&dir, &index);
    assert!(expected.as_str().is_some_and(|digest| digest.len() == 32), "{expected}");
    for index in imported {
        assert_eq!(digest(&dir, &index), expected);
    }
}

#[test]
fn an_index_of_many_pages_or_of_none_is_exported_from_a_server() {
    let dir = directory();
    let mut lines = String::new();
    for n in 0..2_500 {
        lines += &format!("{{\"id\":\"{n}\",\"values\":[{n}.5],\"metadata\":{{\"n\":{n}}}}}\n");
    }
    fs::write(dir.path().join("many.jsonl"), &lines).unwrap();
    fs::write(dir.path().join("none.jsonl"), "").unwrap();
    let server = server(&dir);
    let many = succeeds(&from_server("import", dir.path(), &server, &["--create", "many", "many.jsonl"]))["index"].clone();
    let created = server.call("POST", "/v1/index").key(KEY).json(&json!({"name": "none", "dimension": 3})).send();
    for (index, expected) in [(&many, lines.as_str()), (&created.json()["id"], "")] {
        let arguments = ["--index", index.as_str().unwrap(), "--format", "jsonl", "--out", "out.jsonl"];
        let report = succeeds(&from_server("export", dir.path(), &server, &arguments));
        assert_eq!(report["points"], expected.lines().count());
        assert!(fs::read_to_string(dir.path().join("out.jsonl")).unwrap() == expected);
        fs::remove_file(dir.path().join("out.jsonl")).unwrap();
    }
    let arguments = ["--index", "67e55044-10b1-426f-9247-bb680e5fe0c8", "--format", "npy", "--out", "out.npy"];
    let said = refused(&from_server("export", dir.path(), &server, &arguments));
    assert!(said.contains("404: Index not found"), "{said}");
    assert!(!dir.path().join("out.npy").exists());
}
