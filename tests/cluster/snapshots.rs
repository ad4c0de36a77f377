//! Nodes that keep snapshots in one place, and a log that is trimmed below them.

use std::path::Path;

use futures_util::TryStreamExt as _;
use serde_json::json;

use crate::nats::Servers;
use crate::program::refusal;
use crate::support::KEY;
use crate::{Node, create, put, serve};

/// Calls while a snapshot is waited for that is due within two seconds.
const CALLS_MAX: usize = 100_000;

/// The LSN of the newest document in a directory.
#[expect(clippy::disallowed_methods, reason = "they are no files of a store's")]
fn newest_in(snapshots: &Path, id: &str) -> u64 {
    let Ok(listed) = std::fs::read_dir(snapshots.join("snapshots/tenant-1").join(id)) else { return 0 };
    listed.filter_map(|entry| lsn_of(entry.unwrap().file_name().to_str()?)).max().unwrap_or(0)
}

/// The same in the object store of a nats-server.
fn newest_of(servers: &Servers, id: &str) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let context = async_nats::jetstream::new(async_nats::connect(&servers.urls).await.unwrap());
        let Ok(store) = context.get_object_store("faiss-snapshots").await else { return 0 };
        let objects: Vec<_> = store.list().await.unwrap().try_collect().await.unwrap();
        let of_index = format!("snapshots/tenant-1/{id}/");
        objects.iter().filter_map(|object| lsn_of(object.name.strip_prefix(&of_index)?)).max().unwrap_or(0)
    })
}

/// A document's name has it; no other name has so many bytes.
fn lsn_of(name: &str) -> Option<u64> {
    (name.len() == 29).then(|| name[..20].parse().unwrap())
}

#[test]
fn node_that_lost_its_disk_begins_with_a_snapshot_where_the_log_has_not_everything_any_more() {
    let Some(servers) = Servers::start(1) else { return };
    let directory = tempfile::tempdir().unwrap();
    begins_with_a_snapshot(&servers, directory.path().to_str().unwrap(), &[], &|id| newest_in(directory.path(), id));
}

#[test]
fn the_servers_of_the_log_keep_snapshots_too() {
    let Some(servers) = Servers::start(1) else { return };
    begins_with_a_snapshot(&servers, "nats:", &[], &|id| newest_of(&servers, id));
}

#[cfg(feature = "cloud")]
#[test]
fn an_s3_compatible_server_keeps_snapshots_too() {
    let (Some(servers), Some(s3)) = (Servers::start(1), crate::s3::S3::start()) else { return };
    let newest = |id: &str| {
        let of_index = format!("of/nodes/snapshots/tenant-1/{id}/");
        let listed = ureq::get(format!("{}/bucket?list-type=2&prefix={of_index}", s3.endpoint)).call().unwrap();
        let listed = std::io::read_to_string(listed.into_body().into_reader()).unwrap();
        let names = listed.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>")?.0.strip_prefix(&of_index));
        names.filter_map(lsn_of).max().unwrap_or(0)
    };
    begins_with_a_snapshot(&servers, "s3://bucket/of/nodes", &s3.variables(), &newest);
}

/// `variables`: by which nodes reach the place.
fn begins_with_a_snapshot(servers: &Servers, to: &str, variables: &[(&'static str, String)], newest: &dyn Fn(&str) -> u64) {
    let start = || {
        let more = ["--snapshots", to, "--snapshot-every", "1"];
        Node::start_in(tempfile::tempdir().unwrap(), servers, Vec::new(), &more, variables.to_vec())
    };
    let (a, mut b) = (start(), start());
    let index = create(&a, "n");
    let id = index.rsplit('/').next().unwrap();
    let mut written = 0;
    // When there is a third one, what came of the second is over: the log was trimmed to where the first one ends.
    for round in 1..=3 {
        let mut lsn = 0;
        for _ in 0..5 {
            let node = [&a, &b][written % 2];
            // It may not have been told of the index yet.
            node.get(&index);
            lsn = put(node, &index, &format!("p{written}"), written as f32);
            written += 1;
        }
        let is_there = (0..CALLS_MAX).any(|_| {
            a.get(&index);
            newest(id) >= lsn
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
    let without = Node::start(servers);
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
