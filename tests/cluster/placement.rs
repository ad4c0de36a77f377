//! Nodes of which each has some of the indices: any of them answers for all.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::Node;
use crate::load::SetOnDrop;
use crate::nats::{Servers, free_ports};
use crate::program::refusal;
use crate::record::Chance;
use crate::support::{Call, KEY};
use crate::{create, put, serve};

/// For nodes to notice that somebody is gone, and to do what follows.
const PATIENCE: Duration = Duration::from_secs(120);

const INDICES: usize = 8;

fn start(servers: &Servers) -> Node {
    let address = format!("127.0.0.1:{}", free_ports(1)[0]);
    Node::start_with(servers, &["--listen", &address, "--placement", "hash:2", "--advertise", &format!("http://{address}")])
}

/// Asked of a node as of one that has it.
fn is_on(node: &Node, index: &str) -> bool {
    let id = index.rsplit('/').next().unwrap();
    node.directory.path().join("tenant-1").join(id).is_dir()
}

/// Calls until it is so.
#[track_caller]
pub fn until(what: &str, nodes: &[Node], is_so: impl Fn(&[Node]) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so(nodes) {
        assert!(Instant::now() < end, "{what}");
        // A pause that does something.
        nodes.iter().for_each(|node| drop(node.process.call("GET", "/v1/health").try_send()));
    }
}

fn is_settled(nodes: &[Node], indices: &[String]) -> bool {
    indices.iter().all(|index| nodes.iter().filter(|node| is_on(node, index)).count() == 2)
}

fn listed(node: &Node, query: &str) -> Vec<String> {
    let page = node.get(&format!("/v1/index{query}"));
    page["indices"].as_array().unwrap().iter().map(|index| format!("/v1/index/{}", index["id"].as_str().unwrap())).collect()
}

/// Through each node, about each index.
#[track_caller]
fn all_answer_for_all(nodes: &[Node], indices: &[String], round: usize) {
    for (n, index) in indices.iter().enumerate() {
        for (at, node) in nodes.iter().enumerate() {
            let id = format!("r{round}-{at}");
            let lsn = put(node, index, &id, n as f32);
            for reader in nodes {
                let point = reader.get(&format!("{index}/vectors/{id}?min_lsn={lsn}"));
                assert_eq!((&point["lsn"], &point["metadata"]["value"]), (&json!(lsn), &json!(n as f32)), "{point}");
                let search = json!({"vector": [n as f32, 1.0], "k": 1000});
                let found = reader.call("POST", &format!("{index}/search?min_lsn={lsn}")).json(&search).send().json();
                let ids: Vec<&Value> = found["results"].as_array().unwrap().iter().map(|result| &result["id"]).collect();
                assert!(ids.contains(&&json!(id)), "{found}");
            }
        }
    }
    let expected: Vec<String> = indices.to_vec();
    for node in nodes {
        assert_eq!(listed(node, ""), expected, "oldest first, each once");
    }
}

#[test]
fn any_node_answers_for_any_index_whoever_joins_leaves_or_is_killed() {
    let Some(servers) = Servers::start(1) else { return };
    let mut nodes: Vec<Node> = (0..3).map(|_| start(&servers)).collect();
    let mut indices: Vec<String> = (0..INDICES).map(|n| create(&nodes[n % 3], &format!("n{n}"))).collect();
    // At once, wherever each of them is by then.
    for index in &indices {
        for node in &nodes {
            put(node, index, "first", 0.0);
        }
    }
    until("each index is on two nodes", &nodes, |nodes| is_settled(nodes, &indices));
    all_answer_for_all(&nodes, &indices, 0);
    for node in &nodes {
        let first = node.get("/v1/index?limit=3");
        let cursor = first["next_cursor"].as_str().unwrap();
        assert_eq!(first["indices"].as_array().unwrap().len(), 3);
        assert_eq!(listed(node, &format!("?cursor={cursor}")), indices[3..]);
        assert_eq!(listed(node, "?name=n5"), indices[5..6]);
        assert_eq!(node.get(&format!("{}/vectors", indices[0]))["vectors"].as_array().unwrap().len(), 4);
    }

    // What was wrong is told as by the node itself, under the id of the request.
    let (away, index) = {
        let index = &indices[0];
        (nodes.iter().find(|node| !is_on(node, index)).unwrap(), index)
    };
    let problem =
        away.call("POST", &format!("{index}/search")).json(&json!({"vector": [1.0]})).header("X-Request-Id", "own").send();
    assert_eq!((problem.status, problem.header("x-request-id")), (422, Some("own")), "{problem:?}");
    assert_eq!(away.call("GET", &format!("{index}/vectors/none")).send().problem(404).0, "vector_not_found");
    let none = "/v1/index/00000000-0000-4000-8000-000000000000";
    nodes.iter().for_each(|node| assert_eq!(node.call("GET", none).send().problem(404).0, "index_not_found"));

    // One is killed. The others answer at once.
    let killed = nodes.pop().unwrap();
    let Node { directory, process, .. } = killed;
    drop(process);
    all_answer_for_all(&nodes, &indices, 1);
    until("the others have all", &nodes, |nodes| is_settled(nodes, &indices));

    // One joins, and what it is to have comes to it, and goes elsewhere.
    nodes.push(start(&servers));
    all_answer_for_all(&nodes, &indices, 2);
    until("each index is on two nodes again", &nodes, |nodes| is_settled(nodes, &indices));
    all_answer_for_all(&nodes, &indices, 3);
    drop(directory);

    // Deleted through a node that does not have it, it is gone everywhere.
    let deleted = indices.remove(0);
    let away = nodes.iter().find(|node| !is_on(node, &deleted)).unwrap();
    assert_eq!(away.call("DELETE", &deleted).send().status, 204);
    until("it is listed by none", &nodes, |nodes| nodes.iter().all(|node| listed(node, "") == indices));
    nodes.iter().for_each(|node| assert_eq!(node.call("GET", &deleted).send().status, 404));

    // One leaves in good order: it is asked no more, and the others have all soon.
    let left = nodes.remove(0);
    left.process.signal(Signal::TERM);
    assert!(left.process.wait().success());
    all_answer_for_all(&nodes, &indices, 4);
    until("the others have all", &nodes, |nodes| is_settled(nodes, &indices));
}

/// Each of two nodes does what it is asked for, wherever an index is by then, while a third one joins and leaves in good order.
#[test]
fn no_read_and_no_write_is_lost_while_indices_move() {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 3;
    let Some(servers) = Servers::start(1) else { return };
    let mut nodes: Vec<Node> = (0..2).map(|_| start(&servers)).collect();
    let indices: Vec<String> = (0..INDICES).map(|n| create(&nodes[0], &format!("n{n}"))).collect();
    until("each index is on two nodes", &nodes, |nodes| is_settled(nodes, &indices));
    let asked = [nodes[0].process.address, nodes[1].process.address];
    let is_over = AtomicBool::new(false);
    let stored: Vec<Vec<Stored>> = thread::scope(|scope| {
        let client = |number| store_and_read(number, &asked, &indices, &is_over);
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        {
            let _over = SetOnDrop(&is_over);
            for _ in 0..ROUNDS {
                nodes.push(start(&servers));
                until("the third has its share", &nodes, |nodes| {
                    indices.iter().any(|index| is_on(&nodes[2], index)) && is_settled(nodes, &indices)
                });
                let third = nodes.pop().unwrap();
                third.process.signal(Signal::TERM);
                assert!(third.process.wait().success());
                until("the others have all", &nodes, |nodes| is_settled(nodes, &indices));
            }
        }
        clients.into_iter().map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    println!("{:?} points were stored", stored.iter().map(Vec::len).collect::<Vec<_>>());
    for Stored { index, id, lsn } in stored.iter().flatten() {
        for node in &nodes {
            assert_eq!(node.get(&format!("{index}/vectors/{id}?min_lsn={lsn}"))["lsn"], *lsn);
        }
    }
}

struct Stored<'a> {
    index: &'a str,
    id: String,
    lsn: u64,
}

/// One client, until it is told to end.
fn store_and_read<'a>(number: usize, nodes: &[SocketAddr], indices: &'a [String], is_over: &AtomicBool) -> Vec<Stored<'a>> {
    let (mut chance, mut stored) = (Chance::new(number as u64), Vec::new());
    for n in 0.. {
        if is_over.load(Relaxed) {
            break;
        }
        let (index, id) = (&indices[chance.below(indices.len())], format!("{number}-{n}"));
        let mut call = |method, path: &str| Call::new(nodes[chance.below(2)], method, &format!("{index}/{path}")).key(KEY);
        let point = json!({"vectors": [{"id": id, "values": [n as f32, 1.0]}]});
        let response = call("POST", "vectors").json(&point).send();
        assert_eq!(response.status, 201, "{response:?}");
        let lsn = response.json()["lsn"].as_u64().unwrap();
        let response = call("GET", &format!("vectors/{id}?min_lsn={lsn}")).send();
        assert_eq!(response.status, 200, "{response:?}");
        let search = json!({"vector": [n as f32, 1.0], "k": 1});
        let response = call("POST", &format!("search?min_lsn={lsn}")).json(&search).send();
        assert_eq!(response.status, 200, "{response:?}");
        stored.push(Stored { index, id, lsn });
    }
    stored
}

/// Indices on three nodes; first the node that does not have all of them.
fn placed(servers: &Servers) -> (Vec<String>, Node, Vec<Node>) {
    let mut nodes: Vec<Node> = (0..3).map(|_| start(servers)).collect();
    let indices: Vec<String> = (0..INDICES).map(|n| create(&nodes[0], &format!("n{n}"))).collect();
    until("each index is on two nodes", &nodes, |nodes| is_settled(nodes, &indices));
    let at = nodes.iter().position(|node| indices.iter().any(|index| !is_on(node, index))).unwrap();
    let away = nodes.swap_remove(at);
    (indices, away, nodes)
}

#[test]
fn where_no_node_that_has_an_index_answers_it_is_said_and_nothing_is_left_out() {
    let Some(servers) = Servers::start(1) else { return };
    let (indices, node, nodes) = placed(&servers);
    let addresses: BTreeSet<String> = nodes.iter().map(|node| format!("http://{}", node.process.address)).collect();
    drop(nodes);
    // Until it takes them for dead, it says whom it asked; then it has all itself.
    let index = indices.iter().find(|index| !is_on(&node, index)).unwrap();
    for (method, path) in [("GET", index.clone()), ("GET", "/v1/index".to_owned()), ("POST", format!("{index}/reset"))] {
        let response = node.call(method, &path).send();
        if response.status == 200 {
            continue;
        }
        assert_eq!(response.problem(503).0, "holders_unreachable", "{response:?}");
        assert!(addresses.iter().all(|address| response.body.contains(address)), "{response:?}");
    }
    let nodes = [node];
    until("it has all", &nodes, |nodes| nodes[0].call("GET", "/v1/index").send().status == 200);
    until("each of them", &nodes, |nodes| indices.iter().all(|index| nodes[0].call("GET", index).send().status == 200));
    assert_eq!(listed(&nodes[0], ""), indices);
}

#[test]
fn stream_of_changes_of_an_index_that_is_elsewhere_is_passed_on_until_the_node_ends() {
    let Some(servers) = Servers::start(1) else { return };
    let (indices, away, nodes) = placed(&servers);
    let index = indices.iter().find(|index| !is_on(&away, index)).unwrap();
    let call = away.call("GET", &format!("{index}/changes")).header("accept", "text/event-stream");
    let (connection, response) = call.send_and_keep();
    assert_eq!((response.status, response.header("content-type")), (200, Some("text/event-stream")), "{response:?}");
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
    for (node, id) in [(&nodes[0], "one"), (&away, "two"), (&nodes[1], "three")] {
        put(node, index, id, 1.0);
        assert!(lines.any(|line| line.contains(&format!("{id:?}"))), "{id} did not come");
    }
    // Well before it would go on without those that do not end.
    let began = Instant::now();
    away.process.signal(Signal::TERM);
    assert!(lines.all(|line| !line.contains("problem")));
    assert!(away.process.wait().success() && began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn placement_that_cannot_be_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut alone = crate::program::program(directory.path());
    let said = refusal(alone.args(["--dev", "--listen", "127.0.0.1:0", "--placement", "hash:2"]));
    assert!(said.contains("--placement") && said.contains("--nats"), "{said}");
    let said = refusal(serve(directory.path(), "nats://127.0.0.1:1", 1).args(["--placement", "hash:2"]));
    assert!(said.contains("--advertise"), "{said}");
    let said = refusal(serve(directory.path(), "nats://127.0.0.1:1", 1).args(["--advertise", "http://127.0.0.1:1"]));
    assert!(said.contains("--placement"), "{said}");
}
