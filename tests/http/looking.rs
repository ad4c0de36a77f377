//! `faiss-proxy ls`, `inspect`, `stats`, `verify` and `--dry-run`, as processes: they tell what there is, and write nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::offline::{id, killed, lines, said, tool};
use crate::program::{ServerProcess, program};
use crate::support::TestServer;

/// Every file below a directory, and its bytes.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut contents(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

const COMMANDS: [(&str, &[&str]); 7] = [
    ("ls", &[]),
    ("stats", &[]),
    ("inspect", &[]),
    ("inspect", &["--log"]),
    ("verify", &[]),
    ("checkpoint", &["--dry-run"]),
    ("compact", &["--dry-run"]),
];

#[test]
fn what_a_killed_server_left_is_told_for_people_and_for_programs_and_stays_as_it_is() {
    let (data_dir, paths) = killed();
    let before = contents(data_dir.path());
    for (command, options) in COMMANDS {
        let output = tool(command, data_dir.path(), options);
        assert!(output.status.success(), "{command} {options:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.is_empty() && text.lines().all(|line| line.chars().count() <= 80), "{command} {options:?}:\n{text}");
        let for_programs = tool(command, data_dir.path(), &[options, &["--json"]].concat());
        let first = std::str::from_utf8(&for_programs.stdout).unwrap().lines().next().unwrap();
        let keys = ["tenant", "index"].map(|key| first.matches(&format!("\"{key}\":")).count());
        assert!(keys[0] == 1 && keys[1] <= 1, "a key comes twice: {first}");
        assert!(for_programs.status.success() && !lines(&for_programs).is_empty(), "{command} {options:?}: {for_programs:?}");
        assert!(said(&for_programs).is_empty(), "{command} {options:?}: {}", said(&for_programs));
    }
    assert!(contents(data_dir.path()) == before, "looking changed something");

    let listed = lines(&tool("ls", data_dir.path(), &["--json", "--tenant", "tenant-2"]));
    assert_eq!((listed.len(), &listed[0]["index"], &listed[0]["lsn"]), (1, &json!(id(&paths[2])), &json!(2)));
    let sums = lines(&tool("stats", data_dir.path(), &["--json"]));
    let of = |tenant: &str| sums.iter().find(|sum| sum["tenant"] == tenant).unwrap();
    assert_eq!((&of("tenant-1")["indices"], &of("tenant-1")["log_mutations"]), (&json!(2), &json!(4)));
    let one = ["--json", "--index", id(&paths[0])];
    let log = lines(&tool("inspect", data_dir.path(), &[&one[..], &["--log", "--from-lsn", "2"]].concat()));
    assert_eq!((log.len(), &log[0]["lsn"], &log[0]["kind"]), (1, &json!(2), &json!("delete")));
    assert_eq!(log[0]["ids"].as_array().unwrap().len(), 40);
    let first = lines(&tool("inspect", data_dir.path(), &[&one[..], &["--log", "--limit", "1"]].concat()));
    assert_eq!((first.len(), &first[0]["lsn"]), (1, &json!(1)));
    let absent = tool("inspect", data_dir.path(), &["--log", "--index", "67e55044-10b1-426f-9247-bb680e5fe0c8"]);
    assert!(absent.status.code() == Some(1) && said(&absent).contains("has no such index"), "{absent:?}");
    let planned = lines(&tool("compact", data_dir.path(), &[&one[..], &["--dry-run"]].concat()));
    assert_eq!(planned[0]["log_mutations"], json!(2));
}

#[test]
fn the_digest_stays_through_a_checkpoint_a_compaction_and_a_server() {
    let (data_dir, _) = killed();
    let digests = || -> BTreeMap<String, String> {
        let verified = lines(&tool("verify", data_dir.path(), &["--json"]));
        assert!(verified.iter().all(|line| line["points"] == 60 && line["findings"] == json!([])), "{verified:?}");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        verified.iter().map(|line| (text(&line["index"]), text(&line["digest"]))).collect()
    };
    let before = digests();
    for command in ["checkpoint", "compact"] {
        assert!(tool(command, data_dir.path(), &[]).status.success());
        assert_eq!(digests(), before, "after {command}");
    }
    let server = ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let refused = tool("verify", data_dir.path(), &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("is open in another process; stop the server"), "{}", said(&refused));
    server.signal(rustix::process::Signal::TERM);
    server.wait();
    assert_eq!(digests(), before, "after a server");
}

#[test]
fn damage_is_told_by_file_and_effect_with_an_exit_code_of_its_own_and_the_others_are_verified() {
    let (data_dir, paths) = killed();
    assert!(tool("compact", data_dir.path(), &[]).status.success());
    let index = data_dir.path().join("tenant-1").join(id(&paths[0]));
    let segment = std::fs::read_dir(index.join("segments")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|kind| kind == "seg")).max().unwrap();
    flip(&segment, 70);
    let output = tool("verify", data_dir.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(said(&output).contains("something is wrong with 1 of 3 indices"), "{}", said(&output));
    let verified = lines(&output);
    let damaged = verified.iter().find(|line| line["index"] == id(&paths[0])).unwrap();
    let finding = &damaged["findings"][0];
    assert_eq!((&finding["effect"], &finding["file"], &damaged["digest"]), (&json!("refused"), &json!(segment), &Value::Null));
    assert_eq!(verified.iter().filter(|line| line["findings"] == json!([])).count(), 2);
    let text = tool("verify", data_dir.path(), &[]);
    let text = std::str::from_utf8(&text.stdout).unwrap();
    assert!(
        text.contains("  refused segments/")
            && text.contains("at byte 0")
            && text.contains("Restore it from a backup, or give up"),
        "{text}"
    );
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn completions_and_man_pages_are_there_for_every_command() {
    let program = || Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    for shell in ["bash", "zsh", "fish"] {
        let output = program().args(["completions", shell]).output().unwrap();
        assert!(output.status.success() && std::str::from_utf8(&output.stdout).unwrap().contains("verify"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("new/man1");
    assert!(program().arg("man").arg(&pages).status().unwrap().success());
    for command in ["serve", "checkpoint", "compact", "ls", "inspect", "stats", "verify", "repair"] {
        let page = std::fs::read_to_string(pages.join(format!("faiss-proxy-{command}.1"))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains("data\\-dir"), "{command}");
    }
}

#[test]
fn a_repair_asks_for_consent_tells_what_is_lost_and_leaves_an_index_that_a_server_serves() {
    let (data_dir, paths) = killed();
    let index = data_dir.path().join("tenant-1").join(id(&paths[0]));
    let log = std::fs::read_dir(index.join("wal")).unwrap().next().unwrap().unwrap().path();
    // The first frame, for which the second one vouches.
    flip(&log, 512 + 70);
    let one = ["--index", id(&paths[0])];
    let repair = |options: &[&str]| tool("repair", data_dir.path(), &[&one[..], options].concat());
    let needs = lines(&repair(&["--json"]));
    assert_eq!((&needs[0]["needed"], &needs[0]["possible"]), (&json!(["--truncate-log-at 1"]), &json!([])));
    let before = contents(data_dir.path());
    let refused = repair(&["--truncate-log-at", "2"]);
    assert!(refused.status.code() == Some(1) && refused.stdout.starts_with(b"tenant-1 "), "{refused:?}");
    let planned = repair(&["--truncate-log-at", "1", "--dry-run"]);
    assert!(planned.status.success() && contents(data_dir.path()) == before, "{planned:?}");
    let text = String::from_utf8(planned.stdout).unwrap();
    assert!(text.contains("would be repaired: LSN 0, points 0") && text.contains("lost: LSN 1 to 2, of which 1 of"), "{text}");
    let repaired = lines(&repair(&["--truncate-log-at", "1", "--json"]));
    assert_eq!(
        (&repaired[0]["lost_lsns"], &json!(repaired[0]["changed_ids"].as_array().unwrap().len())),
        (&json!([1, 2]), &json!(40))
    );
    assert_eq!(repaired[0]["aside"], json!([format!("{}.damaged", log.display())]));
    assert!(tool("verify", data_dir.path(), &[]).status.success());
    let without_index = tool("repair", data_dir.path(), &["--forget-keys"]);
    assert_eq!(without_index.status.code(), Some(2), "{without_index:?}");
    let server = TestServer::start_with(data_dir, |_| {});
    assert_eq!(server.get(&paths[0]).json()["vector_count"], 0);
}
