//! Clients that write to nodes and read from them while those fail, and what they were told beside what the nodes have in the end.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use faiss_proxy::Condition;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::history::{Asked, History};
use crate::record::Chance;
use crate::support::{Call, KEY, Response};
use crate::{Node, create, put, stop_and_compare};

pub const NODES: usize = 3;

/// A client that one node has not answered for so long goes to the next one, and asks that one nothing for a while.
const PATIENCE: Duration = Duration::from_secs(5);
const AVOIDED: Duration = Duration::from_secs(10);

/// No client is without an acknowledgement for so long, whatever fails.
const STALL_MAX: Duration = Duration::from_secs(120);

/// Acknowledgements from one fault to the next.
const ACKS: usize = 40;

/// What clients learnt.
#[derive(Debug, Default)]
struct Told {
    /// Each id that was acknowledged, and the LSN of its write.
    stored: BTreeMap<String, u64>,
    /// Increments of the counter that were acknowledged, and that may have been done.
    counted: u64,
    uncertain: u64,
    /// Calls on the registers.
    asked: Vec<Asked>,
    longest_stall: Duration,
}

pub struct Load {
    index: String,
    /// One that nobody writes to but faults.
    quiet: String,
    counter_lsn: u64,
    history: History,
    /// Where the nodes are now.
    addresses: [Mutex<SocketAddr>; NODES],
    is_over: AtomicBool,
}

/// A message for each write that was acknowledged, by whichever node.
pub struct Acks(Receiver<()>);

impl Acks {
    /// Until so many more were acknowledged. `None`: nobody writes any more.
    pub fn wait(&self) -> Option<()> {
        self.wait_for(Duration::ZERO)
    }

    /// The same, and that long at least.
    pub fn wait_for(&self, least: Duration) -> Option<()> {
        // Not those that came while nobody waited.
        self.drain();
        let (until, mut count) = (Instant::now() + least, 0);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() && count >= ACKS {
                return Some(());
            }
            match self.0.recv_timeout(if left.is_zero() { STALL_MAX } else { left }) {
                Ok(()) => count += 1,
                Err(RecvTimeoutError::Timeout) => assert!(!left.is_zero(), "nobody was acknowledged for {STALL_MAX:?}"),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// How many there were since it was last asked.
    pub fn drain(&self) -> usize {
        self.0.try_iter().count()
    }
}

impl Load {
    pub fn create(nodes: &[Node]) -> Self {
        let index = create(&nodes[0], "n");
        let counter_lsn = put(&nodes[0], &index, "counter", 0.0);
        let addresses = std::array::from_fn(|at| Mutex::new(nodes[at].process.address));
        let quiet = create(&nodes[0], "quiet");
        put(&nodes[0], &quiet, "first", 0.0);
        Self { index, quiet, counter_lsn, history: History::create(&nodes[0]), addresses, is_over: AtomicBool::new(false) }
    }

    pub fn index(&self) -> &str {
        &self.index
    }

    pub fn quiet(&self) -> &str {
        &self.quiet
    }

    /// A node is somewhere else since it was started again.
    pub fn moved(&self, at: usize, node: &Node) {
        *self.addresses[at].lock() = node.process.address;
    }

    /// Runs clients until `faults` returns, which ends where there are no acknowledgements any more. Then all nodes must have what was acknowledged,
    /// and be in the same state; they are stopped. `faults` says what they were.
    pub fn run(&self, nodes: &mut [Node], faults: impl FnOnce(&mut [Node], &Acks) -> String) {
        let (acknowledged, acks) = channel();
        let (faults, told) = thread::scope(|scope| {
            let clients: Vec<_> = (0..NODES)
                .map(|number| {
                    let client = Client::new(number, self, acknowledged.clone());
                    scope.spawn(move || client.run())
                })
                .collect();
            // So that clients that panic end the faults.
            drop(acknowledged);
            let faults = {
                // Where a fault panics, the clients end too.
                let _over = SetOnDrop(&self.is_over);
                faults(nodes, &Acks(acks))
            };
            let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
            let told: Vec<Told> =
                ended.into_iter().map(|told| told.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect();
            (faults, told)
        });
        // What clients did not wait for is over too then.
        nodes.iter_mut().for_each(Node::stop);
        nodes.iter_mut().for_each(Node::restart);
        self.compare(nodes, told, &faults);
        stop_and_compare(nodes);
    }

    fn compare(&self, nodes: &[Node], told: Vec<Told>, faults: &str) {
        let mut all = Told::default();
        for told in told {
            all.stored.extend(told.stored);
            all.asked.extend(told.asked);
            all.counted += told.counted;
            all.uncertain += told.uncertain;
            all.longest_stall = all.longest_stall.max(told.longest_stall);
        }
        let Told { stored, counted, uncertain, asked, longest_stall } = all;
        let newest = *stored.values().max().unwrap();
        let (points, lsn) = nodes[0].points(&self.index, newest);
        for node in &nodes[1..] {
            assert_eq!(node.points(&self.index, lsn), (points.clone(), lsn));
        }
        let by_id: BTreeMap<&str, &Value> = points.iter().map(|point| (point["id"].as_str().unwrap(), point)).collect();
        for (id, lsn) in &stored {
            assert_eq!(by_id.get(id.as_str()).map(|point| &point["lsn"]), Some(&json!(lsn)), "{id} was acknowledged");
        }
        let counter = by_id["counter"]["metadata"]["value"].as_f64().unwrap() as u64;
        assert!(
            (counted..=counted + uncertain).contains(&counter),
            "{counter}, and {counted} were acknowledged, {uncertain} uncertain"
        );
        // Nobody knows whether what was asked of it while a node was cut off was done: each reads to the end of the log as it opens the index.
        let quiet: Vec<u64> = nodes.iter().map(|node| node.get(&self.quiet)["lsn"].as_u64().unwrap()).collect();
        assert_eq!(quiet, vec![quiet[0]; NODES]);
        let registers = self.history.check(nodes, asked);
        println!(
            "{faults}: acknowledged {} points, {counted} increments, {registers}; uncertain {uncertain} increments; longest stall {:.1} s",
            stored.len(),
            longest_stall.as_secs_f64()
        );
    }
}

pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

struct Client<'a> {
    number: usize,
    load: &'a Load,
    acknowledged: Sender<()>,
    /// The node that it asks.
    at: usize,
    /// When each node did not answer in time.
    silent: [Option<Instant>; NODES],
    /// The newest mutation that it was told of, by whichever node.
    newest: u64,
    chance: Chance,
    told: Told,
}

impl<'a> Client<'a> {
    fn new(number: usize, load: &'a Load, acknowledged: Sender<()>) -> Self {
        let (newest, chance) = (load.counter_lsn, Chance::new(number as u64));
        Self { number, load, acknowledged, at: number, silent: [None; NODES], newest, chance, told: Told::default() }
    }

    fn run(mut self) -> Told {
        let mut last_ack = Instant::now();
        for n in 0.. {
            if self.load.is_over.load(Relaxed) {
                break;
            }
            let is_done = match n % 8 {
                0 | 4 => self.count(),
                2 | 6 => self.set_register(n),
                _ => self.store(n),
            };
            if is_done {
                self.told.longest_stall = self.told.longest_stall.max(last_ack.elapsed());
                last_ack = Instant::now();
                let _ = self.acknowledged.send(());
            } else {
                assert!(last_ack.elapsed() < STALL_MAX, "client {} was not answered for {STALL_MAX:?}", self.number);
                self.at = self.after(self.at);
            }
        }
        self.told
    }

    fn address(&self, node: usize) -> SocketAddr {
        *self.load.addresses[node].lock()
    }

    fn call(&self, node: usize, method: &str, path: &str) -> Call {
        Call::new(self.address(node), method, &format!("{}{path}", self.load.index)).key(KEY)
    }

    /// `None`: the node is gone, or does not answer in time.
    fn send(&mut self, node: usize, call: Call) -> Option<Response> {
        let answer = call.try_send_within(PATIENCE);
        let is_silent = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        self.silent[node] = is_silent.then(Instant::now);
        answer.ok()
    }

    /// The next node of which it may expect an answer.
    fn after(&self, node: usize) -> usize {
        let next = (node + 1) % NODES;
        if self.is_avoided(next) { (next + 1) % NODES } else { next }
    }

    fn is_avoided(&self, node: usize) -> bool {
        self.silent[node].is_some_and(|since| since.elapsed() < AVOIDED)
    }

    /// A read of the newest state that this client was told of. A node that was killed, or cannot reach the log, says nothing, or that.
    fn read(&mut self, node: usize, call: Call) -> Option<Response> {
        let read = self.send(node, call)?;
        assert!(![404, 422].contains(&read.status), "client {} was told of LSN {}: {read:?}", self.number, self.newest);
        (read.status == 200).then_some(read)
    }

    fn store(&mut self, n: usize) -> bool {
        let id = format!("{}-{n}", self.number);
        let body = json!({"vectors": [{"id": id, "values": [1.0, 2.0]}]});
        let call = self.call(self.at, "POST", "/vectors").json(&body);
        let Some(response) = self.send(self.at, call) else { return false };
        if response.status != 201 {
            return false;
        }
        let lsn = response.json()["lsn"].as_u64().unwrap();
        assert!(lsn > self.newest, "client {} was told of LSN {}, and of {lsn} for what it wrote then", self.number, self.newest);
        self.newest = lsn;
        // Its own write is found, by the state that it names, whichever node is asked.
        let other = self.after(self.at);
        let call = self.call(other, "GET", &format!("/vectors/{id}?min_lsn={lsn}"));
        if let Some(read) = self.read(other, call) {
            assert_eq!(read.json()["lsn"], lsn);
        }
        self.told.stored.insert(id, lsn);
        self.look();
        true
    }

    /// No read goes back before its `min_lsn`, whichever node is asked, and whatever it is.
    fn look(&mut self) {
        let (node, newest) = (self.chance.below(NODES), self.newest);
        if self.is_avoided(node) {
            return;
        }
        let call = match self.chance.below(3) {
            0 => self.call(node, "GET", &format!("?min_lsn={newest}")),
            1 => self.call(node, "GET", &format!("/vectors?limit=1&min_lsn={newest}")),
            _ => {
                let search = json!({"vector": [1.0, 2.0], "k": 1});
                self.call(node, "POST", &format!("/search?min_lsn={newest}")).json(&search)
            }
        };
        if let Some(read) = self.read(node, call) {
            let lsn = read.json()["lsn"].as_u64().unwrap();
            assert!(lsn >= newest, "min_lsn {newest}, and the answer is of {lsn}");
            self.newest = lsn;
        }
    }

    /// Whether the counter was incremented, where its value is what it was read to be, or somebody else was faster.
    fn count(&mut self) -> bool {
        let call = self.call(self.at, "GET", &format!("/vectors/counter?min_lsn={}", self.newest));
        let Some(read) = self.read(self.at, call) else { return false };
        let tag = read.header("etag").unwrap().to_owned();
        let value = read.json()["metadata"]["value"].as_f64().unwrap();
        let patch = self.call(self.at, "PATCH", "/vectors/counter").header("If-Match", &tag);
        let patched = self.send(self.at, patch.json(&json!({"metadata": {"value": value + 1.0}})));
        match patched.map(|response| response.status) {
            Some(200) => self.told.counted += 1,
            // Nothing was stored: no failure of a node's.
            Some(412) => {}
            _ => {
                self.told.uncertain += 1;
                return false;
            }
        }
        true
    }

    /// Sets a register by way of one node, and at once again by way of another, which may not have followed yet: there too it is what the first answer said,
    /// unless somebody else was faster.
    fn set_register(&mut self, n: usize) -> bool {
        let (began, history) = (Instant::now(), &self.load.history);
        let Some(choice) = history.choose(self.address(self.at), PATIENCE, &mut self.chance) else { return false };
        let asked = history.set(self.number, &format!("{}-{n}", self.number), choice, self.address(self.at), PATIENCE);
        let (is_done, stored) = (asked.is_answered(), asked.stored());
        self.told.asked.push(asked);
        self.silent[self.at] = (!is_done && began.elapsed() >= PATIENCE).then(Instant::now);
        if let Some(lsn) = stored {
            let choice = (choice.0, Condition::StoredBy(lsn));
            let other = self.address(self.after(self.at));
            self.told.asked.push(history.set(self.number, &format!("{}-{n}-again", self.number), choice, other, PATIENCE));
        }
        is_done
    }
}
