//! Registers that clients set by way of different nodes, most of them where they are what they were read to be, and whether one order of the
//! calls explains all answers. It is the check of `tests/linearizability`, on what nodes promise.
//!
//! **What is in a history**: writes with conditions and without, and conditions that did not hold; those are decided by the newest state of all nodes. Reads
//! are not: one with `min_lsn` has that mutation, and may lack newer ones that somebody else was told of.
//!
//! **What was not answered** may be done at any time later, in between what was. The check wants every LSN to be somebody's, so the change feed says which of those writes
//! were done, and with which LSN; they end at the end of time. The others never were. One that was answered that nothing was stored is not in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use check::explain;
use faiss_proxy::{Condition, Durability};
use record::{Call, Outcome, What};
use serde_json::{Value, json};

use crate::Node;
use crate::record as support;
use crate::record::{Chance, NewPoint, Row, State};
use crate::support as http;

#[path = "../linearizability/check.rs"]
mod check;
#[path = "../linearizability/record.rs"]
#[allow(dead_code, reason = "its recorder is of an index of this process")]
mod record;

const IDS: [&str; 3] = ["a", "b", "c"];

pub struct History {
    index: String,
    clock: AtomicU64,
}

/// A call, and by what its write is known in the log.
#[derive(Debug)]
pub struct Asked {
    tag: String,
    call: Call,
}

impl Asked {
    /// The LSN of what it stored.
    pub fn stored(&self) -> Option<u64> {
        match self.call.what.outcome() {
            Some(Outcome::Acknowledged { lsn, count: 1 }) => Some(*lsn),
            _ => None,
        }
    }

    /// Whether what became of it was said, and that it was decided.
    pub fn is_answered(&self) -> bool {
        matches!(self.call.what.outcome(), Some(Outcome::Acknowledged { .. }))
    }
}

impl History {
    pub fn create(node: &Node) -> Self {
        // All of its log is needed in the end.
        let options = json!({"log_retention_bytes": 1_000_000_000});
        let index = json!({"name": "registers", "dimension": 2, "index_type": "Flat", "options": options});
        let response = node.call("POST", "/v1/index").json(&index).send();
        assert_eq!(response.status, 201, "{response:?}");
        Self { index: format!("/v1/index/{}", response.json()["id"].as_str().unwrap()), clock: AtomicU64::new(0) }
    }

    /// A register, and how it is set: where its point is what this node says of it, or else whatever it is. `None`: it does not say.
    pub fn choose(&self, address: SocketAddr, patience: Duration, chance: &mut Chance) -> Option<(&'static str, Condition)> {
        let id = IDS[chance.below(IDS.len())];
        if chance.below(4) == 0 {
            return Some((id, Condition::Always));
        }
        let read = http::Call::new(address, "GET", &format!("{}/vectors/{id}", self.index)).key(http::KEY);
        let read = read.try_send_within(patience).ok()?;
        match read.status {
            200 => Some((id, Condition::StoredBy(read.json()["lsn"].as_u64().unwrap()))),
            404 if read.body.contains("vector_not_found") => Some((id, Condition::Absent)),
            // A node that has not been told of the index yet, or does not reach the others.
            _ => None,
        }
    }

    /// Sets a register by way of this node.
    pub fn set(
        &self,
        thread: usize,
        tag: &str,
        (id, condition): (&str, Condition),
        address: SocketAddr,
        patience: Duration,
    ) -> Asked {
        let call = http::Call::new(address, "POST", &format!("{}/vectors", self.index)).key(http::KEY);
        let (call, stored_by) = match condition {
            Condition::StoredBy(lsn) => (call.header("If-Match", &format!("\"{lsn}\"")), Some(Some(lsn))),
            Condition::Absent => (call.header("If-None-Match", "*"), Some(None)),
            Condition::Always | Condition::Present => (call, None),
        };
        let metadata = json!({ "tag": tag });
        let point = NewPoint { id: id.to_owned(), values: vec![1.0, 2.0], metadata: metadata.to_string() };
        let call = call.json(&json!({"vectors": [{"id": id, "values": point.values, "metadata": metadata}]}));
        let began = self.clock.fetch_add(1, SeqCst);
        let outcome = outcome(call.try_send_within(patience));
        let ended = self.clock.fetch_add(1, SeqCst);
        let durability = Durability::Fsync;
        let what = match stored_by {
            Some(stored_by) => What::CompareAndSet { point, stored_by, durability, outcome },
            None => What::Upsert { points: vec![point], durability, outcome },
        };
        Asked { tag: tag.to_owned(), call: Call { thread, began, ended, what } }
    }

    /// Whether the calls are explained, and the nodes have what they lead to. Gives what is to be said of them.
    pub fn check(&self, nodes: &[Node], asked: Vec<Asked>) -> String {
        let log = self.log(&nodes[0]);
        for node in &nodes[1..] {
            assert_eq!(self.log(node), log);
        }
        let mut lsns = BTreeMap::new();
        for (lsn, tag) in &log {
            assert_eq!(lsns.insert(tag.as_str(), *lsn), None, "{tag} was stored twice: {log:?}");
        }
        let (mut calls, mut unmet, mut unanswered) = (Vec::new(), 0, [0, 0]);
        for Asked { tag, mut call } in asked {
            let found = lsns.get(tag.as_str()).copied();
            match (call.what.outcome().unwrap(), found) {
                (Outcome::Acknowledged { lsn, count: 1 }, found) => assert_eq!(found, Some(*lsn), "{call:?}"),
                (Outcome::Acknowledged { .. }, None) => unmet += 1,
                (Outcome::NothingStored, None) => {}
                (Outcome::Unknown, found) => {
                    unanswered[usize::from(found.is_some())] += 1;
                    let Some(lsn) = found else { continue };
                    *outcome_of(&mut call.what) = Outcome::Acknowledged { lsn, count: 1 };
                    call.ended = u64::MAX;
                }
                (said, Some(lsn)) => panic!("{said:?} was said of what is in the log with LSN {lsn}: {call:?}"),
            }
            calls.push(call);
        }
        let explained = explain(0, &State::new(), &calls).unwrap_or_else(|problem| panic!("{problem}\n{calls:#?}\n{log:?}"));
        assert_eq!(explained.acknowledged(), log.len() as u64, "what nobody asked for");
        for node in nodes {
            let (points, lsn) = node.points(&self.index, explained.acknowledged());
            explained.may_be_found(false, lsn, &state(&points)).unwrap_or_else(|problem| panic!("{problem}"));
        }
        let [lost, done] = unanswered;
        let contended = explained.contended_reads;
        format!(
            "{} register writes and {unmet} refusals ({contended} beside writes), {done} of {} unanswered done",
            log.len(),
            done + lost
        )
    }

    /// The LSN and the tag of everything that was stored.
    fn log(&self, node: &Node) -> Vec<(u64, String)> {
        let (mut log, mut from) = (Vec::new(), 1);
        loop {
            let page = node.get(&format!("{}/changes?limit=10000&from_lsn={from}", self.index));
            let changes = page["changes"].as_array().unwrap();
            log.extend(
                changes
                    .iter()
                    .map(|change| (change["lsn"].as_u64().unwrap(), change["metadata"]["tag"].as_str().unwrap().to_owned())),
            );
            from = page["next_lsn"].as_u64().unwrap();
            if from > page["durable_lsn"].as_u64().unwrap() {
                return log;
            }
        }
    }
}

fn outcome(answer: std::io::Result<http::Response>) -> Outcome {
    let Ok(answer) = answer else { return Outcome::Unknown };
    match answer.status {
        201 => Outcome::Acknowledged { lsn: answer.json()["lsn"].as_u64().unwrap(), count: 1 },
        412 => Outcome::Acknowledged { lsn: 0, count: 0 },
        status => match answer.problem(status).0.as_str() {
            "outcome_unknown" => Outcome::Unknown,
            "io_error" | "closed" | "disk_full" | "busy" => Outcome::NothingStored,
            _ => panic!("no reason for {answer:?}"),
        },
    }
}

fn outcome_of(what: &mut What) -> &mut Outcome {
    match what {
        What::Upsert { outcome, .. } | What::CompareAndSet { outcome, .. } => outcome,
        _ => unreachable!("registers are set, and nothing else"),
    }
}

fn state(points: &[Value]) -> State {
    let row = |point: &Value| {
        let values = point["values"].as_array().unwrap();
        let bits = values.iter().map(|value| (value.as_f64().unwrap() as f32).to_bits()).collect();
        Row { bits, metadata: point["metadata"].to_string(), lsn: point["lsn"].as_u64().unwrap() }
    };
    points.iter().map(|point| (point["id"].as_str().unwrap().to_owned(), row(point))).collect()
}
