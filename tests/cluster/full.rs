//! A node whose disk is full, and a nats-server that has no room.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::disk::Mounted;
use crate::nats::{Servers, Settings};
use crate::support::Response;
use crate::{Node, create, put, stop_and_compare};

/// Calls until what is waited for has come.
const CALLS_MAX: usize = 10_000;

/// A point that takes room: its metadata is as long as that.
const POINT_BYTES: usize = 30_000;

/// A file that takes all room that there is.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(directory: &Path) -> Self {
        let path = directory.join("ballast");
        let mut file = File::create(&path).unwrap();
        for bytes in [1 << 20, 4096] {
            while file.write_all(&vec![1; bytes]).is_ok() {}
        }
        Self(path)
    }

    fn remove(self) {
        std::fs::remove_file(self.0).unwrap();
    }
}

fn put_large(node: &Node, index: &str, id: &str) -> Response {
    let body = json!({"vectors": [{"id": id, "values": [1.0, 1.0], "metadata": {"text": "x".repeat(POINT_BYTES)}}]});
    node.call("POST", &format!("{index}/vectors")).json(&body).send()
}

#[test]
fn a_node_whose_disk_is_full_stores_nothing_and_has_everything_when_there_is_room() {
    // 16 MiB of it are the node's reserve.
    let Some(disk) = Mounted::tmpfs("a node's full disk", 48 << 20) else { return };
    let Some(servers) = Servers::start(1) else { return };
    let data = tempfile::tempdir_in(disk.path()).unwrap();
    let mut nodes = [Node::start_in(data, &servers, Vec::new(), &[], Vec::new()), Node::start(&servers)];
    let [full, other] = &nodes;
    let index = create(full, "n");
    let mut newest = put(full, &index, "first", 0.0);
    other.get(&index);

    let ballast = Ballast::fill(disk.path());
    let (mut stored, mut said) = (0, Vec::new());
    // The other one goes on all the while, with what this one must keep a copy of.
    for n in 0.. {
        assert!(n < CALLS_MAX, "the disk is not full");
        let response = put_large(full, &index, &format!("full-{n}"));
        if response.status == 201 {
            stored += 1;
        } else {
            let is_unknown = response.status == 503;
            let (code, detail) = response.problem(if is_unknown { 503 } else { 507 });
            assert_eq!(code, if is_unknown { "outcome_unknown" } else { "disk_full" }, "{detail}");
            said.push(code);
        }
        let written = put_large(other, &index, &format!("other-{n}"));
        assert_eq!(written.status, 201, "{written:?}");
        newest = written.json()["lsn"].as_u64().unwrap();
        if said.len() == 10 {
            break;
        }
    }
    assert!(said.iter().filter(|code| *code == "disk_full").count() >= 5, "{said:?}");
    let behind = full.get(&index)["lsn"].as_u64().unwrap();
    assert!(behind < newest, "a full disk has LSN {behind}");
    assert_eq!(full.get(&format!("{index}/vectors/first"))["id"], "first");
    let refused = full.call("GET", &format!("{index}?min_lsn={newest}")).send();
    assert_eq!(refused.problem(507).0, "disk_full");

    ballast.remove();
    assert_eq!(full.get(&format!("{index}?min_lsn={newest}"))["state"], "ready");
    assert_eq!(full.points(&index, newest), other.points(&index, newest));
    let newest = put(full, &index, "last", 1.0);
    assert_eq!(full.points(&index, newest), other.points(&index, newest));
    println!("{stored} writes until a node's disk was full, and then {said:?}");
    stop_and_compare(&mut nodes);
    // Before what it is on.
    drop(nodes);
}

#[test]
fn what_nats_servers_have_no_room_for_is_refused_until_there_is() {
    let jetstream = "sync_interval: always, max_file_store: 8MB";
    let Some(mut servers) = Servers::start_with(1, &Settings { jetstream, ..Settings::default() }) else { return };
    let mut nodes = [Node::start(&servers), Node::start(&servers)];
    let (index, large) = (create(&nodes[0], "n"), create(&nodes[0], "large"));
    let mut newest = put(&nodes[0], &index, "first", 0.0);
    nodes[1].get(&large);
    let mut stored = Vec::new();
    let refused = loop {
        let id = format!("{}", stored.len());
        let response = put_large(&nodes[stored.len() % 2], &large, &id);
        if response.status != 201 {
            break response;
        }
        stored.push((id, response.json()["lsn"].as_u64().unwrap()));
        assert!(stored.len() < CALLS_MAX, "there is always room");
    };
    let (code, detail) = refused.problem(507);
    assert_eq!(code, "disk_full", "{detail}");
    // Whoever asks, whatever for; and what is there goes on to be.
    for (node, n) in nodes.iter().zip(0..) {
        assert_eq!(put_large(node, &index, &format!("no-{n}")).problem(507).0, "disk_full");
        let (points, _) = node.points(&large, stored.last().unwrap().1);
        let found: Vec<u64> = points.iter().map(|point| point["lsn"].as_u64().unwrap()).collect();
        assert_eq!(found.len(), stored.len());
        assert!(stored.iter().all(|(_, lsn)| found.contains(lsn)));
    }

    // A deletion is written before it is done, so that it makes no room either.
    assert_eq!(nodes[0].call("DELETE", &large).send().problem(507).0, "disk_full");

    servers.servers[0].restart_with("max_file_store: 8MB", "max_file_store: 16MB");
    for node in &nodes {
        newest = put(node, &index, "again", 1.0).max(newest);
        assert_eq!(node.get(&format!("{index}?min_lsn={newest}"))["vector_count"], 2);
    }
    assert_eq!(nodes[0].points(&large, 1), nodes[1].points(&large, 1));
    assert_eq!(nodes[0].points(&large, 1).0.len(), stored.len());
    println!("{} writes until the nats-server was full: {detail}", stored.len());
    stop_and_compare(&mut nodes);
}

/// It takes no part any more until it is started again, and two of three are enough. How it catches up with them is between them.
#[test]
fn a_nats_server_of_three_whose_disk_is_full_costs_no_acknowledged_write() {
    let Some(disk) = Mounted::tmpfs("a nats-server's full disk", 32 << 20) else { return };
    let settings = Settings { first_store: Some(&disk.path().join("store")), ..Settings::default() };
    let Some(mut servers) = Servers::start_with(3, &settings) else { return };
    let mut nodes = [Node::start(&servers), Node::start(&servers)];
    let index = create(&nodes[0], "n");
    let newest = put(&nodes[0], &index, "first", 0.0);
    nodes[1].get(&format!("{index}?min_lsn={newest}"));
    let ballast = Ballast::fill(disk.path());
    let (mut stored, mut said) = (Vec::new(), Vec::new());
    for n in 0..100 {
        let id = format!("{n}");
        let response = put_large(&nodes[n % 2], &index, &id);
        if response.status == 201 {
            stored.push((id, response.json()["lsn"].as_u64().unwrap()));
        } else {
            assert!([503, 507].contains(&response.status), "{response:?}");
            said.push(response.problem(response.status).0);
        }
    }
    assert!(stored.len() >= 50, "{said:?}");
    ballast.remove();
    servers.servers[0].kill_and_restart();
    let newest = put(&nodes[0], &index, "room", 1.0);
    let (points, _) = nodes[0].points(&index, newest);
    assert_eq!(nodes[1].points(&index, newest).0, points);
    for (id, lsn) in &stored {
        assert!(points.iter().any(|point| point["id"] == **id && point["lsn"] == *lsn), "{id} was acknowledged with {lsn}");
    }
    println!("a nats-server's disk was full: {} writes acknowledged, and {said:?}", stored.len());
    stop_and_compare(&mut nodes);
    drop((nodes, servers));
}
