//! Nodes that keep snapshots in one place, and a log that is trimmed below them.

use std::path::Path;

use serde_json::json;

use crate::nats::Servers;
use crate::program::refusal;
use crate::support::KEY;
use crate::{Node, create, put, serve};

/// Calls while a snapshot is waited for that is due within two seconds.
const CALLS_MAX: usize = 100_000;

/// The documents of an index: what is there besides its files.
#[expect(clippy::disallowed_methods, reason = "they are no files of a store's")]
fn documents(snapshots: &Path, index: &str) -> usize {
    let id = index.rsplit('/').next().unwrap();
    let Ok(listed) = std::fs::read_dir(snapshots.join("snapshots/tenant-1").join(id)) else { return 0 };
    // Not those that are being written.
    listed.filter(|entry| entry.as_ref().unwrap().file_name().len() == 29).count()
}

#[test]
fn node_that_lost_its_disk_begins_with_a_snapshot_where_the_log_has_not_everything_any_more() {
    let Some(servers) = Servers::start(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    let with_snapshots = ["--snapshots", path, "--snapshot-every", "1"];
    let (a, mut b) = (Node::start_with(&servers, &with_snapshots), Node::start_with(&servers, &with_snapshots));
    let index = create(&a, "n");
    let mut written = 0;
    // When there is a third one, what came of the second is over: the log was trimmed to where the first one ends.
    for round in 1..=3 {
        for _ in 0..5 {
            let node = [&a, &b][written % 2];
            // It may not have been told of the index yet.
            node.get(&index);
            put(node, &index, &format!("p{written}"), written as f32);
            written += 1;
        }
        let is_there = (0..CALLS_MAX).any(|_| {
            a.get(&index);
            documents(directory.path(), &index) >= round
        });
        assert!(is_there, "no snapshot {round} came");
    }
    let lsn = put(&a, &index, "last", 99.0);

    b.lose_disk_and_restart();
    assert_eq!(a.points(&index, lsn), b.points(&index, lsn));
    let lsn = put(&b, &index, "after", 100.0);
    assert_eq!(a.points(&index, lsn), b.points(&index, lsn));
    b.kill_and_restart();
    assert_eq!(a.points(&index, lsn), b.points(&index, lsn));

    // The log alone is not enough.
    let without = Node::start(&servers);
    let refused = without.call("GET", &format!("{index}/ntotal")).send();
    assert!(refused.status == 503 && refused.body.contains("newer snapshot"), "{refused:?}");
    let search = json!({"vector": [99.0, 1.0], "k": 1});
    let found = b.process.call("POST", &format!("{index}/search")).key(KEY).json(&search).send().json();
    assert_eq!(found["results"][0]["id"], "last", "{found}");
}

#[test]
fn snapshots_are_of_nodes_only() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = crate::program::program(directory.path());
    let said = refusal(command.args(["--dev", "--listen", "127.0.0.1:0", "--snapshots", "/nowhere"]));
    assert!(said.contains("--snapshots") && said.contains("--nats"), "{said}");
    let said = refusal(serve(directory.path(), "nats://127.0.0.1:1", 1).args(["--snapshots", "x.tar.zst"]));
    assert!(said.contains("--snapshots") && said.contains("one file"), "{said}");
}
