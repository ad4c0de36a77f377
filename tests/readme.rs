//! The README's four curl commands work as pasted.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// What `make run` listens on, and so what the README's commands call.
const README_ADDRESS: &str = "127.0.0.1:8000";

#[test]
fn the_readmes_curl_commands_work_as_pasted() {
    let commands = curl_commands();
    assert_eq!(commands.matches("curl ").count(), 4, "{commands}");
    assert!(commands.contains(README_ADDRESS), "{commands}");

    let data_dir = tempfile::tempdir().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"))
        .args(["serve", "--dev", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(data_dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim_end().strip_prefix("listening on http://").map(str::to_owned);
    let shell = address.map(|address| {
        // A terminal's shell goes on after a command that failed, and so does this one.
        let commands = commands.replace(README_ADDRESS, &address);
        Command::new("bash").args(["--noprofile", "--norc", "-c", &commands]).env("no_proxy", "*").output()
    });
    server.kill().unwrap();
    server.wait().unwrap();

    let output = shell.unwrap_or_else(|| panic!("the server said {line:?}")).unwrap();
    let (said, complained) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(complained, "", "{said}");
    let answers: Vec<&str> = said.lines().collect();
    let [added, found, deleted] = answers[..] else { panic!("three answers are expected: {said}") };
    assert!(added.contains("\"added_count\":3"), "{added}");
    let found: serde_json::Value = serde_json::from_str(found).unwrap();
    let ids: Vec<_> = found["results"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["apple", "cherry"]);
    assert_eq!(deleted, "HTTP 204");
}

/// The first block of the README that calls curl.
fn curl_commands() -> String {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    blocks.into_iter().find(|block| block.contains("curl ")).expect("a block with curl").to_owned()
}
