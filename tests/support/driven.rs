//! A store that is driven by bytes, beside a record of what it answered: the fuzzer `store` runs this, and `tests/driven.rs` its seeds.

use arbitrary::{Arbitrary, Unstructured};
use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{Durability, Error, IndexOptions, IndexSpec, Metric, Opening, Query, Result};

use crate::support::{Before, NewPoint, Session, point, spec, tiny_limits};

/// More steps say nothing new, and take long.
const STEPS_MAX: u64 = 64;

/// So few ids that most batches replace something.
const IDS: u8 = 12;

/// What the bytes begin with; steps follow, up to the end of the bytes.
#[derive(Arbitrary, Debug)]
struct Shape {
    kind: Kind,
    is_cosine: bool,
    is_tiny: bool,
    seal_rows: u8,
}

/// Index types that are built of very few rows.
#[derive(Arbitrary, Debug)]
enum Kind {
    Flat,
    Graph,
    Lists,
    Scalar,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Upsert {
        points: Vec<(u8, u8)>,
        is_durable: bool,
    },
    Delete {
        ids: Vec<u8>,
        is_durable: bool,
    },
    Search {
        of: u8,
        k: u8,
        is_exact: bool,
    },
    Checkpoint,
    Settle,
    Train,
    Compact,
    Erase,
    Sync,
    CloseAndOpenAgain,
    Close {
        is_lazy: bool,
    },
    Kill {
        is_lazy: bool,
    },
    PowerCut {
        seed: u16,
        is_lazy: bool,
    },
    /// The power is cut at the n-th operation from now that changes something, of whatever procedure it is, recovery too.
    CrashAt {
        n: u8,
        seed: u16,
    },
    Fault {
        nth: u8,
        fault: StepFault,
    },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum StepFault {
    Eio,
    Enospc,
    ShortWrite,
    FailedSync,
}

/// What a run met.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub steps: u64,
    pub openings: u64,
    pub crashes: u64,
    pub faults: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.openings += other.openings;
        self.crashes += other.crashes;
        self.faults += other.faults;
    }
}

/// Does what `bytes` say. Any bytes say something.
///
/// # Panics
/// Where the store gives an answer that its history does not allow.
pub fn run(bytes: &[u8]) -> Counts {
    let mut bytes = Unstructured::new(bytes);
    let Ok(shape) = bytes.arbitrary() else { return Counts::default() };
    let mut run = Run::new(&shape);
    while !bytes.is_empty() && run.counts.steps < STEPS_MAX {
        let Ok(step) = bytes.arbitrary() else { break };
        run.counts.steps += 1;
        run.step(&step);
        if run.session().disk.is_crashed() {
            run.counts.crashes += 1;
            let seed = run.crash_seed;
            run.reopen(Opening::Lazy, Before::PowerCut, |disk| disk.crash(Survival::Random(seed)));
        }
    }
    run.reopen(Opening::Eager, Before::PowerCut, |disk| disk.crash(Survival::None));
    run.counts
}

struct Run {
    limits: Limits,
    /// `None` only while it is opened anew.
    session: Option<Session>,
    /// Of the crash that is planned.
    crash_seed: u64,
    counts: Counts,
}

impl Run {
    fn new(shape: &Shape) -> Self {
        let limits = if shape.is_tiny { tiny_limits() } else { Limits::default() };
        // Whatever nobody has is closed.
        let limits = Limits { memory_budget_bytes: 1, ..limits };
        let index_type = match shape.kind {
            Kind::Flat => "Flat",
            Kind::Graph => "HNSW4",
            Kind::Lists => "IVF2,Flat",
            Kind::Scalar => "SQ8",
        };
        // IVF needs two rows for each list.
        let options = IndexOptions { seal_rows: Some(4 + u32::from(shape.seal_rows % 12)), ..IndexOptions::default() };
        let metric = if shape.is_cosine { Metric::Cosine } else { Metric::L2 };
        let spec = IndexSpec { index_type: index_type.to_owned(), options, ..spec(4, metric) };
        let session = Some(Session::create_as(&SimIo::new(), &limits, &spec));
        Self { limits, session, crash_seed: 0, counts: Counts::default() }
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().expect("a session is open between two steps")
    }

    /// Whether a write failed, and what that means, the session notes.
    fn step(&mut self, step: &Step) {
        let durability = |is_durable: bool| if is_durable { Durability::Fsync } else { Durability::Interval };
        let opening = |is_lazy: bool| if is_lazy { Opening::Lazy } else { Opening::Eager };
        match step {
            Step::Upsert { points, is_durable } => {
                let points: Vec<NewPoint> = points.iter().take(8).map(|&(n, version)| point(&id(n), version.into())).collect();
                if !points.is_empty() {
                    let _ = self.session().upsert(&points, durability(*is_durable));
                }
            }
            Step::Delete { ids, is_durable } => {
                let ids: Vec<String> = ids.iter().take(8).map(|&n| id(n)).collect();
                if !ids.is_empty() {
                    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                    let _ = self.session().delete(&ids, durability(*is_durable));
                }
            }
            Step::Search { of, k, is_exact } => check_search(self.session(), *of, 1 + usize::from(k % 16), *is_exact),
            Step::Checkpoint => drop(self.session().checkpoint()),
            Step::Settle => drop(self.session().settle_builds()),
            Step::Train => drop(self.session().train()),
            Step::Compact => drop(self.session().compact()),
            Step::Erase => drop(self.session().erase()),
            Step::Sync => drop(self.session().sync()),
            Step::CloseAndOpenAgain => {
                if self.session().close_and_open_again().is_err() && !self.session().disk.is_crashed() {
                    self.reopen(Opening::Lazy, Before::Kill, SimIo::fork);
                }
            }
            Step::Close { is_lazy } => {
                let _ = self.session().store.close();
                if !self.session().disk.is_crashed() {
                    // The same disk: what is planned for it may strike the opening.
                    self.reopen(opening(*is_lazy), Before::Kill, SimIo::clone);
                }
            }
            Step::Kill { is_lazy } => self.reopen(opening(*is_lazy), Before::Kill, SimIo::fork),
            Step::PowerCut { seed, is_lazy } => {
                let survival = Survival::Random(u64::from(*seed));
                self.reopen(opening(*is_lazy), Before::PowerCut, |disk| disk.crash(survival));
            }
            Step::CrashAt { n, seed } => {
                self.crash_seed = u64::from(*seed);
                self.session().disk.crash_at(1 + u64::from(*n));
            }
            Step::Fault { nth, fault } => {
                self.counts.faults += 1;
                let fault = match fault {
                    StepFault::Eio => Fault::Eio,
                    StepFault::Enospc => Fault::Enospc,
                    StepFault::ShortWrite => Fault::ShortWrite,
                    StepFault::FailedSync => Fault::FailedSync,
                };
                self.session().disk.fail_at(1 + u64::from(nth % 16), fault);
            }
        }
    }

    /// Opens what is left of the disk, as often as a crash or a fault that was planned strikes the opening.
    fn reopen(&mut self, opening: Opening, before: Before, left: impl FnOnce(&SimIo) -> SimIo) {
        let Session { disk, store, index, history, .. } = self.session.take().expect("a session is open between two steps");
        let (mut disk, mut before) = (left(&disk), before);
        drop((index, store));
        let session = loop {
            self.counts.openings += 1;
            let faults = disk.faults_left();
            match Session::open_as(opening, &disk, &self.limits, history.clone(), before) {
                Ok(session) => break session,
                Err(_) if disk.is_crashed() => {
                    self.counts.crashes += 1;
                    (disk, before) = (disk.crash(Survival::Random(self.crash_seed)), Before::PowerCut);
                }
                Err(Error::Io(_) | Error::Full(_) | Error::OutcomeUnknown(_)) if disk.faults_left() < faults => {}
                Err(error) => panic!("{error:?}"),
            }
        };
        self.session = Some(session);
    }
}

fn id(n: u8) -> String {
    format!("id-{}", n % IDS)
}

/// Live points, each once, as they are, best first, and as many as there are up to `k`.
fn check_search(session: &Session, of: u8, k: usize, exact: bool) {
    let vector = point(&id(of), of.into()).values;
    let found: Result<_> = session.index.search(&Query { vector, k, exact, ..Query::default() });
    let hits = found.expect("a search reads memory");
    let state = session.history.state(session.index.info().lsn);
    assert_eq!(hits.len(), k.min(state.len()));
    assert!(hits.is_sorted_by(|a, b| a.score >= b.score), "best first: {hits:?}");
    let mut ids: Vec<&str> = hits.iter().map(|hit| hit.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), hits.len(), "an id came twice");
    for hit in &hits {
        let row = state.get(&hit.id).unwrap_or_else(|| panic!("{:?} is not alive", hit.id));
        assert_eq!(hit.metadata, row.metadata);
    }
}
