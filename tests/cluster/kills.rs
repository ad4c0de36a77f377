//! Three nodes and three nats-servers, of which one after the other is killed under load.
//!
//! `FAISS_PROXY_CLUSTER_KILLS` says how many, a node and a nats-server in turn.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::nats::Servers;
use crate::support::{Call, KEY};
use crate::{Node, create, put};

const NODES: usize = 3;

/// Acknowledgements between two kills.
const ACKS: usize = 40;

/// What clients learnt.
#[derive(Debug, Default)]
struct Told {
    /// Each id that was acknowledged, and the LSN of its write.
    stored: BTreeMap<String, u64>,
    /// Increments of the counter that were acknowledged, and that may have been done.
    counted: u64,
    uncertain: u64,
    longest_stall: Duration,
}

/// Where the nodes are now: a client that has no answer from one goes to the next.
type Addresses = [parking_lot::Mutex<SocketAddr>; NODES];

fn kills() -> usize {
    std::env::var("FAISS_PROXY_CLUSTER_KILLS").map_or(4, |kills| kills.parse().unwrap())
}

#[test]
fn what_was_acknowledged_is_on_all_nodes_whoever_was_killed() {
    let Some(mut servers) = Servers::start(3) else { return };
    let mut nodes: Vec<Node> = (0..NODES).map(|_| Node::start(&servers)).collect();
    let index = create(&nodes[0], "n");
    let counter_lsn = put(&nodes[0], &index, "counter", 0.0);
    let addresses: Addresses = std::array::from_fn(|at| parking_lot::Mutex::new(nodes[at].process.address));
    let is_over = AtomicBool::new(false);
    let (acknowledged, acks) = channel();
    let told: Vec<Told> = thread::scope(|scope| {
        let clients: Vec<_> = (0..NODES)
            .map(|client| {
                let (index, addresses, is_over, acknowledged) = (&index, &addresses, &is_over, acknowledged.clone());
                scope.spawn(move || write(client, index, counter_lsn, addresses, is_over, &acknowledged))
            })
            .collect();
        // So that a client that panics ends the loop below.
        drop(acknowledged);
        for kill in 0..kills() {
            if wait(&acks).is_none() {
                break;
            }
            let victim = kill / 2 % NODES;
            if kill % 2 == 0 {
                nodes[victim].kill_and_restart();
                *addresses[victim].lock() = nodes[victim].process.address;
            } else {
                servers.servers[victim].kill_and_restart();
            }
        }
        wait(&acks);
        is_over.store(true, Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let stored: BTreeMap<&String, &u64> = told.iter().flat_map(|told| &told.stored).collect();
    let (counted, uncertain) = (told.iter().map(|told| told.counted).sum(), told.iter().map(|told| told.uncertain).sum::<u64>());
    let stall = told.iter().map(|told| told.longest_stall).max().unwrap();
    println!(
        "{} kills: {} points and {counted} increments acknowledged, {uncertain} increments uncertain, longest stall {stall:?}",
        kills(),
        stored.len()
    );
    let newest = **stored.values().max().unwrap();
    let (all, lsn) = nodes[0].points(&index, newest);
    for node in &nodes[1..] {
        assert_eq!(node.points(&index, lsn), (all.clone(), lsn));
    }
    let by_id: BTreeMap<&str, &Value> = all.iter().map(|point| (point["id"].as_str().unwrap(), point)).collect();
    for (id, lsn) in stored {
        assert_eq!(by_id.get(id.as_str()).map(|point| &point["lsn"]), Some(&json!(lsn)), "{id} was acknowledged");
    }
    let counter = by_id["counter"]["metadata"]["value"].as_f64().unwrap() as u64;
    assert!(
        (counted..=counted + uncertain).contains(&counter),
        "{counter}, and {counted} were acknowledged, {uncertain} uncertain"
    );
}

/// Until so many more were acknowledged. `None`: nobody writes any more.
fn wait(acks: &Receiver<()>) -> Option<()> {
    for _ in 0..ACKS {
        acks.recv().ok()?;
    }
    Some(())
}

/// New points, and increments of the counter, each where its value is what it was read to be.
fn write(
    client: usize,
    index: &str,
    counter_lsn: u64,
    addresses: &Addresses,
    is_over: &AtomicBool,
    acknowledged: &Sender<()>,
) -> Told {
    let (mut told, mut at, mut newest) = (Told::default(), client, counter_lsn);
    let mut last_ack = Instant::now();
    for n in 0.. {
        if is_over.load(Relaxed) {
            break;
        }
        let address = *addresses[at % NODES].lock();
        let is_done = if n % 4 == 0 {
            count(address, index, newest, &mut told)
        } else {
            let id = format!("{client}-{n}");
            let stored = store(address, index, &id);
            if let Some(lsn) = stored {
                // This client's own write is found, by the state that it names, whichever node is asked.
                read_own(*addresses[(at + 1) % NODES].lock(), index, &id, lsn);
                newest = newest.max(lsn);
                told.stored.insert(id, lsn);
            }
            stored.is_some()
        };
        if is_done {
            told.longest_stall = told.longest_stall.max(last_ack.elapsed());
            last_ack = Instant::now();
            let _ = acknowledged.send(());
        } else {
            assert!(last_ack.elapsed() < Duration::from_secs(120), "client {client} was not answered for two minutes");
            at += 1;
        }
    }
    told
}

/// The LSN of a point that was acknowledged.
fn store(address: SocketAddr, index: &str, id: &str) -> Option<u64> {
    let body = json!({"vectors": [{"id": id, "values": [1.0, 2.0]}]});
    let (_, response) = Call::new(address, "POST", &format!("{index}/vectors")).key(KEY).json(&body).try_send().ok()?;
    (response.status == 201).then(|| response.json()["lsn"].as_u64().unwrap())
}

/// A node that was killed, or cannot reach the log, says nothing, or that.
fn read_own(address: SocketAddr, index: &str, id: &str, lsn: u64) {
    let path = format!("{index}/vectors/{id}?min_lsn={lsn}");
    let Ok((_, response)) = Call::new(address, "GET", &path).key(KEY).try_send() else { return };
    assert!(![404, 422].contains(&response.status), "{id} was acknowledged with LSN {lsn}: {response:?}");
    if response.status == 200 {
        assert_eq!(response.json()["lsn"], lsn);
    }
}

/// Whether the counter was incremented.
fn count(address: SocketAddr, index: &str, newest: u64, told: &mut Told) -> bool {
    let path = format!("{index}/vectors/counter");
    let read = Call::new(address, "GET", &format!("{path}?min_lsn={newest}")).key(KEY).try_send();
    let Ok((_, read)) = read else { return false };
    if read.status != 200 {
        assert!(![404, 422].contains(&read.status), "{read:?}");
        return false;
    }
    let tag = read.header("etag").unwrap().to_owned();
    let value = read.json()["metadata"]["value"].as_f64().unwrap();
    let patch = Call::new(address, "PATCH", &path).key(KEY).header("If-Match", &tag);
    match patch.json(&json!({"metadata": {"value": value + 1.0}})).try_send().map(|(_, response)| response.status) {
        Ok(200) => told.counted += 1,
        // Somebody else did, and nothing was stored: no failure of a node's.
        Ok(412) => {}
        Ok(_) | Err(_) => {
            told.uncertain += 1;
            return false;
        }
    }
    true
}
