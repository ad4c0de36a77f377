//! Calls of several threads on one index, with the order in which they began and ended.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};

use faiss_proxy::{Condition, Durability, Error, Index, Lsn, Point, Query};

use super::support::{Chance, NewPoint, Row, point};

pub const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One call and its answer.
#[derive(Clone, Debug)]
pub struct Call {
    #[expect(dead_code, reason = "for who reads the history of a failure")]
    pub thread: usize,
    /// When it began and ended, by a clock that all threads share and that counts both.
    pub began: u64,
    pub ended: u64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Upsert {
        points: Vec<NewPoint>,
        durability: Durability,
        outcome: Outcome,
    },
    Delete {
        ids: Vec<String>,
        durability: Durability,
        outcome: Outcome,
    },
    /// Stores a point where this mutation stored the one that is there; `None`: where there is none.
    CompareAndSet {
        point: NewPoint,
        stored_by: Option<Lsn>,
        durability: Durability,
        outcome: Outcome,
    },
    Get {
        id: String,
        found: Option<Row>,
    },
    /// For every point there is: the metadata of each.
    Search {
        found: BTreeMap<String, String>,
    },
    /// Said that everything acknowledged before is durable.
    Sync,
}

/// What the answer of a write says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of an upsert the ids that it stored, of a delete those that it found. A compare-and-set of none says that its condition does not hold,
    /// and its LSN nothing.
    Acknowledged {
        lsn: Lsn,
        count: usize,
    },
    NothingStored,
    /// It may be there after the next opening, and is not seen before.
    Unknown,
}

impl What {
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Upsert { outcome, .. } | Self::Delete { outcome, .. } | Self::CompareAndSet { outcome, .. } => Some(outcome),
            Self::Get { .. } | Self::Search { .. } | Self::Sync => None,
        }
    }
}

/// The test's way to an index, which notes what is called and answered.
pub struct Recorder<'a> {
    pub index: &'a Index,
    /// Whether the process that is simulated is dead: then an error says nothing about what was stored.
    pub is_crashed: &'a (dyn Fn() -> bool + Sync),
    clock: AtomicU64,
    calls: Mutex<Vec<Call>>,
    /// A mutant: the first answer of a get is given again, for ever.
    pub stale: Option<OnceLock<Option<Point>>>,
}

impl<'a> Recorder<'a> {
    pub fn new(index: &'a Index, is_crashed: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { index, is_crashed, clock: AtomicU64::new(0), calls: Mutex::default(), stale: None }
    }

    pub fn into_calls(self) -> Vec<Call> {
        self.calls.into_inner().unwrap()
    }

    fn call(&self, thread: usize, run: impl FnOnce() -> Option<What>) -> Option<Outcome> {
        let began = self.clock.fetch_add(1, SeqCst);
        let what = run()?;
        let ended = self.clock.fetch_add(1, SeqCst);
        let outcome = what.outcome().cloned();
        self.calls.lock().unwrap().push(Call { thread, began, ended, what });
        outcome
    }

    fn outcome(&self, answer: Result<(Lsn, usize), Error>) -> Outcome {
        match answer {
            Ok((lsn, count)) => Outcome::Acknowledged { lsn, count },
            Err(Error::OutcomeUnknown(_)) => Outcome::Unknown,
            Err(_) if (self.is_crashed)() => Outcome::Unknown,
            Err(Error::Io(_) | Error::Full(_) | Error::Closed(_)) => Outcome::NothingStored,
            Err(other) => panic!("a failing disk is no reason for {other:?}"),
        }
    }

    pub fn upsert(&self, thread: usize, points: Vec<NewPoint>, durability: Durability) -> Option<Outcome> {
        let mut batch = self.index.batch();
        points.iter().for_each(|point| batch.push(&point.id, &point.values, &point.metadata).unwrap());
        self.call(thread, || {
            let answer = self.index.upsert(batch, durability).map(|upserted| (upserted.lsn, upserted.added_count));
            Some(What::Upsert { points, durability, outcome: self.outcome(answer) })
        })
    }

    pub fn delete(&self, thread: usize, ids: Vec<String>, durability: Durability) -> Option<Outcome> {
        self.call(thread, || {
            let named: Vec<&str> = ids.iter().map(String::as_str).collect();
            let answer = self.index.delete(&named, durability).map(|deleted| (deleted.lsn, deleted.deleted_count));
            Some(What::Delete { ids, durability, outcome: self.outcome(answer) })
        })
    }

    pub fn compare_and_set(
        &self,
        thread: usize,
        point: NewPoint,
        stored_by: Option<Lsn>,
        durability: Durability,
    ) -> Option<Outcome> {
        let mut batch = self.index.batch();
        let condition = stored_by.map_or(Condition::Absent, Condition::StoredBy);
        batch.push_if(&point.id, &point.values, &point.metadata, condition).unwrap();
        self.call(thread, || {
            let answer = self.index.upsert(batch, durability).map(|upserted| (upserted.lsn, 1 - upserted.unmet.len()));
            Some(What::CompareAndSet { point, stored_by, durability, outcome: self.outcome(answer) })
        })
    }

    pub fn get(&self, thread: usize, id: &str) {
        self.call(thread, || {
            let get = || self.index.get(id).unwrap();
            let point = self.stale.as_ref().map_or_else(get, |first| first.get_or_init(get).clone());
            let found = point.map(Row::from);
            Some(What::Get { id: id.to_owned(), found })
        });
    }

    pub fn search(&self, thread: usize, exact: bool) {
        self.call(thread, || {
            let query = Query { vector: vec![1.0; self.index.dimension()], k: 2 * IDS.len(), exact, ..Query::default() };
            let hits = self.index.search(&query).unwrap();
            let count = hits.len();
            let found: BTreeMap<String, String> = hits.into_iter().map(|hit| (hit.id, hit.metadata)).collect();
            assert_eq!(found.len(), count, "an id came twice");
            Some(What::Search { found })
        });
    }

    /// A sync, or what begins with one.
    pub fn sync(&self, thread: usize, sync: impl FnOnce(&Index) -> Result<(), Error>) {
        self.call(thread, || match sync(self.index) {
            Ok(()) => Some(What::Sync),
            Err(Error::Io(_) | Error::Full(_) | Error::Closed(_) | Error::OutcomeUnknown(_)) => None,
            Err(other) => panic!("a failing disk is no reason for {other:?}"),
        });
    }

    /// A client's random calls. It ends where the outcome of a write is not known, as a client that has to ask what is there.
    pub fn run_client(&self, thread: usize, calls: usize, versions: &AtomicU64, mut chance: Chance) {
        for _ in 0..calls {
            let durability = if chance.below(4) == 0 { Durability::Interval } else { Durability::Fsync };
            let outcome = match chance.below(10) {
                0..=2 => {
                    let version = versions.fetch_add(1, SeqCst);
                    let points = (0..1 + chance.below(3)).map(|_| point(IDS[chance.below(IDS.len())], version)).collect();
                    self.upsert(thread, points, durability)
                }
                3 => {
                    let ids = (0..1 + chance.below(2)).map(|_| IDS[chance.below(IDS.len())].to_owned()).collect();
                    self.delete(thread, ids, durability)
                }
                4 => {
                    let id = IDS[chance.below(IDS.len())];
                    // What it is now, or was a while ago for whoever is overtaken.
                    let stored_by = self.index.get(id).unwrap().map(|point| point.lsn);
                    self.compare_and_set(thread, point(id, versions.fetch_add(1, SeqCst)), stored_by, durability)
                }
                5 | 6 => {
                    self.get(thread, IDS[chance.below(IDS.len())]);
                    None
                }
                _ => {
                    self.search(thread, chance.below(2) == 0);
                    None
                }
            };
            if outcome == Some(Outcome::Unknown) {
                return;
            }
            if chance.below(3) == 0 {
                std::thread::yield_now();
            }
        }
    }

    /// What goes on beside clients.
    pub fn run_rewriter(&self, thread: usize, mut chance: Chance, is_over: impl Fn() -> bool) {
        while !is_over() {
            match chance.below(6) {
                0 | 1 => self.sync(thread, |index| index.checkpoint().map(drop)),
                2 => self.sync(thread, |index| index.compact().map(drop)),
                3 => self.sync(thread, |index| index.erase().map(drop)),
                4 => self.sync(thread, Index::sync),
                // Builds sync nothing of the log.
                _ => drop(self.index.settle()),
            }
            std::thread::yield_now();
        }
    }
}
