//! Three nodes and three nats-servers, of which one after the other is killed, stopped, or cut off under load.
//!
//! `FAISS_PROXY_CLUSTER_KILLS` says how many are killed, a node and a nats-server in turn.

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::load::{Acks, Load, NODES};
use crate::nats::{Servers, Settings};
use crate::placement::until;
use crate::proxy::{Line, Proxy};
use crate::{Node, create, put};

/// Longer than what JetStream waits before it elects another leader (4 to 9 s), and than the heartbeats that a node waits for (6 s).
const PAUSE: Duration = Duration::from_secs(10);

/// Reads of a node that was cut off, each of which waits for some seconds, until it has what the others have.
const CALLS_MAX: usize = 20;

fn kills() -> usize {
    std::env::var("FAISS_PROXY_CLUSTER_KILLS").map_or(4, |kills| kills.parse().unwrap())
}

#[derive(Debug, Default)]
struct Faults {
    /// Of nodes and of nats-servers.
    killed: [usize; 2],
    paused: [usize; 2],
    cut_off: [usize; 2],
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { killed, paused, cut_off } = self;
        let all = [("killed", killed), ("paused", paused), ("cut off", cut_off)];
        let said = all.map(|(what, [nodes, servers])| format!("{what} {nodes} nodes and {servers} nats-servers"));
        f.write_str(&said.join(", "))
    }
}

#[test]
fn what_was_acknowledged_is_on_all_nodes_whoever_was_killed_paused_or_cut_off() {
    let Some(mut servers) = Servers::start_with(NODES, &Settings { is_cuttable: true, ..Settings::default() }) else { return };
    let mut nodes: Vec<Node> = (0..NODES).map(|_| Node::start_cuttable(&servers)).collect();
    let load = Load::create(&nodes);
    load.run(&mut nodes, |nodes, acks| {
        let mut faults = Faults::default();
        let _ = make(&load, nodes, &mut servers, acks, &mut faults);
        faults.to_string()
    });
}

/// Ends early where nobody writes any more.
fn make(load: &Load, nodes: &mut [Node], servers: &mut Servers, acks: &Acks, faults: &mut Faults) -> Option<()> {
    for kill in 0..kills() {
        acks.wait()?;
        let (round, what) = (kill / 2, kill % 2);
        let victim = round % NODES;
        faults.killed[what] += 1;
        if what == 0 {
            nodes[victim].kill_and_restart();
            load.moved(victim, &nodes[victim]);
            continue;
        }
        servers.servers[victim].kill_and_restart();
        // The rest takes longer: first a node and then a nats-server, once in 25 rounds.
        let (what, victim) = (round % 25, (round + 1) % NODES);
        if what > 1 {
            continue;
        }
        acks.wait()?;
        pause(&nodes[victim], servers, victim, what, acks)?;
        faults.paused[what] += 1;
        acks.wait()?;
        if what == 0 {
            cut_off_node(load, nodes, victim, acks);
        } else {
            let line = if round < 25 { Line::Silent } else { Line::Cut };
            cut_off_server(nodes, servers, line, acks)?;
        }
        faults.cut_off[what] += 1;
    }
    acks.wait()
}

fn pause(node: &Node, servers: &Servers, victim: usize, what: usize, acks: &Acks) -> Option<()> {
    let signal = |signal| if what == 0 { node.process.signal(signal) } else { servers.servers[victim].signal(signal) };
    signal(Signal::STOP);
    let others = acks.wait_for(PAUSE);
    signal(Signal::CONT);
    others
}

/// From all nats-servers. It answers from what it has, stores nothing and says so, and has everything soon after.
fn cut_off_node(load: &Load, nodes: &[Node], victim: usize, acks: &Acks) {
    let (node, index) = (&nodes[victim], load.index());
    let lsn_of = |node: &Node| node.get(index)["lsn"].as_u64().unwrap();
    // It must have been told of it; and nobody else's write is waited for with its own.
    node.get(load.quiet());
    node.set_lines(Line::Silent);
    let reads = || {
        let lsn = lsn_of(node);
        let search = json!({"vector": [1.0, 2.0], "k": 1});
        let found = node.call("POST", &format!("{index}/search")).json(&search).send();
        assert_eq!(found.status, 200, "{found:?}");
        assert_eq!(node.call("GET", &format!("{index}/vectors/counter")).send().status, 200);
        lsn
    };
    reads();
    acks.drain();
    let body = json!({"vectors": [{"id": "cut-off", "values": [1.0, 2.0]}]});
    let written = node.call("POST", &format!("{}/vectors", load.quiet())).json(&body).send();
    let (code, _) = written.problem(503);
    assert!(["outcome_unknown", "io_error"].contains(&code.as_str()), "{written:?}");
    let others = acks.drain();
    assert!(others > 0, "nobody was acknowledged while node {victim} was cut off");
    node.set_lines(Line::Cut);
    let before = reads();
    let newest = lsn_of(&nodes[(victim + 1) % NODES]);
    assert!(before < newest, "node {victim} has LSN {before} while it is cut off, and the next {newest}");
    node.set_lines(Line::Up);
    let has_all = |_| node.call("GET", &format!("{index}?min_lsn={newest}")).send().status == 200;
    assert!((0..CALLS_MAX).any(has_all), "node {victim} has not got LSN {newest}");
}

/// From the other two: the one to which most nodes are connected, which cannot write then until they have found another.
fn cut_off_server(nodes: &[Node], servers: &Servers, line: Line, acks: &Acks) -> Option<()> {
    let connected = |server: usize| nodes.iter().filter(|node| node.lines[server].connections() > 0).count();
    let victim = (0..NODES).max_by_key(|&server| connected(server)).unwrap();
    servers.set_routes(victim, line);
    let others = acks.wait_for(PAUSE);
    servers.set_routes(victim, Line::Up);
    others
}

#[test]
fn a_nats_server_that_hangs_is_left_for_another() {
    let Some(servers) = Servers::start(3) else { return };
    let node = Node::start_cuttable(&servers);
    let index = create(&node, "n");
    put(&node, &index, "before", 0.0);
    let hung = server_of(&node);
    servers.servers[hung].signal(Signal::STOP);
    // It does not fail: it comes when another one was found.
    put(&node, &index, "after", 1.0);
    servers.servers[hung].signal(Signal::CONT);
}

/// It answers pings, and says that there is nothing new.
#[test]
fn a_nats_server_that_is_cut_off_from_the_others_is_left_for_another() {
    let Some(servers) = Servers::start_with(3, &Settings { is_cuttable: true, ..Settings::default() }) else { return };
    let node = Node::start_cuttable(&servers);
    let cut_off = server_of(&node);
    let others = (0..3).filter(|server| *server != cut_off).map(|server| Proxy::start(servers.clients[server])).collect();
    let other = Node::start_in(tempfile::tempdir().unwrap(), &servers, others, &[], Vec::new());
    let index = create(&other, "n");
    let lsn = put(&other, &index, "before", 0.0);
    node.get(&format!("{index}?min_lsn={lsn}"));
    servers.set_routes(cut_off, Line::Silent);
    let lsn = put(&other, &index, "after", 1.0);
    // Of the other node's write nobody asks it.
    until("it follows again", &[node], |nodes| nodes[0].get(&index)["lsn"] == lsn);
}

/// The one to which a node is connected.
fn server_of(node: &Node) -> usize {
    (0..node.lines.len()).find(|&server| node.lines[server].connections() > 0).unwrap()
}
