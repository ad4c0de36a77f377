//! A procedure, and every way in which the disk can end or spoil it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{Durability, Error, IndexSpec, Metric, Opening};
use parking_lot::Mutex;

use super::sites::Sites;
use super::states::{Count, Left, Only, ToldOnPanic, left, nth_left};
use super::support::detour::{Ask, Course, Detour};
use super::support::{self, Before, History, Session};

/// Works at them on all processors.
pub fn in_parallel(procedures: Vec<Procedure>, work: impl Fn(&Procedure) + Sync) {
    let todo = Mutex::new(procedures);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some(procedure) = todo.lock().pop() else { break };
                    work(&procedure);
                }
            });
        }
    });
}

/// The defaults but for the log's segments, and so for what is allocated ahead of them: most of the time that a state takes goes by it.
pub fn small_limits() -> Limits {
    Limits { log_segment_bytes: 16 << 10, ..Limits::default() }
}

/// A disk to start from, and what is done on it.
pub struct Procedure {
    pub name: String,
    pub limits: Limits,
    pub start: SimIo,
    pub history: History,
    pub before: Before,
    /// How it is opened, before and after.
    pub opening: Opening,
    /// What each operation comes by first while it runs.
    pub ask: Ask,
    pub run: Box<dyn Fn(&mut Session) + Send + Sync>,
    pub only: Only,
}

impl Procedure {
    /// `prepare` goes well.
    pub fn new(
        name: &str,
        limits: Limits,
        prepare: impl Fn(&mut Session),
        run: impl Fn(&mut Session) + Send + Sync + 'static,
    ) -> Self {
        Self::of(&support::spec(4, Metric::L2), name, limits, prepare, run)
    }

    /// The same with an index of another type.
    pub fn of(
        spec: &IndexSpec,
        name: &str,
        limits: Limits,
        prepare: impl Fn(&mut Session),
        run: impl Fn(&mut Session) + Send + Sync + 'static,
    ) -> Self {
        let start = SimIo::new();
        let mut session = Session::create_as(&start, &limits, spec);
        prepare(&mut session);
        Self::from_left(name, limits, start, session.history, Before::Kill, run)
    }

    /// The same on a disk that somebody else left.
    pub fn from_left(
        name: &str,
        limits: Limits,
        start: SimIo,
        history: History,
        before: Before,
        run: impl Fn(&mut Session) + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.to_owned(),
            limits,
            start,
            history,
            before,
            opening: Opening::Eager,
            ask: Arc::new(|_, _, _| Ok(Course::Do)),
            run: Box::new(run),
            only: Only::from_env(),
        }
    }

    /// The same, the index being recovered when it is used first.
    pub fn lazily(self) -> Self {
        Self { opening: Opening::Lazy, name: format!("{}, at a first use", self.name), ..self }
    }

    /// Runs it on `disk`: opening is a part of it. Gives what must be found from then on.
    pub fn run(&self, disk: &SimIo) -> History {
        let io = Detour { disk: disk.clone(), ask: self.ask.clone() };
        match Session::open_through(io, self.opening, disk, &self.limits, self.history.clone(), self.before) {
            Ok(mut session) => {
                (self.run)(&mut session);
                session.history
            }
            Err(Error::Corrupt(damage)) => panic!("{}: refused for damage that is none: {damage}", self.name),
            Err(_) => self.history.clone(),
        }
    }

    /// Runs it once for each mutation of the disk that it makes, and lets it die there; the last time it is left to end. Gives the number of
    /// mutations.
    pub fn die_everywhere(&self, mut then: impl FnMut(u64, SimIo, History)) -> u64 {
        for n in 1.. {
            let disk = self.start.fork();
            disk.crash_at(n);
            let history = self.run(&disk);
            let is_crashed = disk.is_crashed();
            then(n, disk, history);
            if !is_crashed {
                return n - 1;
            }
        }
        unreachable!()
    }

    /// Crashes at every mutation, and checks all that may be left.
    pub fn crash_everywhere(&self) -> Count {
        let mut states = 0;
        let points =
            self.die_everywhere(|n, disk, history| states += self.check_all(&disk, &history, n, &format!("crash at {n}")));
        let count = Count { points, states };
        println!("{}: {count}", self.name);
        count
    }

    /// Crashes at every mutation, and then at every mutation of the opening that follows and of the first write after it. What is left of
    /// each crash is one of several, in turn; `rounds` times another one.
    pub fn crash_twice_everywhere(&self, rounds: u64) -> Count {
        let mut count = Count::default();
        self.die_everywhere(|n, disk, history| {
            for round in 0..rounds {
                let first = nth_left(&disk, n + round);
                count += self.crash_while_recovering(n + round, &format!("crash at {n}, then {}", first.how), &first, &history);
            }
        });
        println!("{}, and its recovery: {count}", self.name);
        count
    }

    fn crash_while_recovering(&self, n: u64, context: &str, first: &Left, history: &History) -> Count {
        let mut history = history.clone();
        if first.before == Before::PowerCut {
            history.cut_power();
        }
        let recovery = Self::from_left(&self.name, self.limits.clone(), first.disk.fork(), history, first.before, |session| {
            let _ = session.put(&["again"], 7);
        });
        let recovery = Self { opening: self.opening, only: self.only.clone(), ..recovery };
        let mut states = 0;
        let points = recovery.die_everywhere(|m, disk, history| {
            let second = nth_left(&disk, n + m);
            let state = format!("{}: {context}; crash at {m}, then {}", self.name, second.how);
            states += u64::from(self.check(&disk, second, &history, &state));
        });
        Count { points, states }
    }

    /// Lets every operation fail once, in each way in which it can.
    pub fn fail_everywhere(&self) -> (Count, Sites) {
        let normal = self.start.fork();
        self.run(&normal);
        let (mut sites, mut states) = (Sites::default(), 0);
        for fault in Fault::ALL {
            for n in 1.. {
                let disk = self.start.fork();
                disk.fail_at(n, fault);
                let history = self.run(&disk);
                if disk.faults_left() > 0 {
                    break;
                }
                sites.add(&disk);
                let context = format!("{fault:?} at {n}");
                states += match fault {
                    // Nobody is told of it, and the run itself shows what came of it.
                    Fault::ShortTransfer => {
                        let left = nth_left(&disk, n);
                        let state = format!("{}: {context}, then {}", self.name, left.how);
                        u64::from(self.check(&disk, left, &history, &state))
                    }
                    _ => self.check_all(&disk, &history, n, &context),
                };
            }
        }
        assert_eq!(sites.missing(&Sites::of(&normal)), [], "{}: nothing failed there", self.name);
        states += self.fail_in_pairs(&mut sites);
        let count = Count { points: sites.faults(), states };
        println!("{}, failing: {count}", self.name);
        (count, sites)
    }

    /// Lets every write end in the middle, and then fail one of the two operations that follow, which are to take the half back.
    fn fail_in_pairs(&self, sites: &mut Sites) -> u64 {
        let mut states = 0;
        for n in 1.. {
            let disk = self.start.fork();
            disk.fail_at(n, Fault::ShortWrite);
            self.run(&disk);
            let Some((_, first)) = disk.struck().pop() else { break };
            let seconds = [1, 2].into_iter().flat_map(|later| [Fault::Eio, Fault::Enospc, Fault::FailedSync].map(|f| (later, f)));
            for (later, fault) in seconds {
                let disk = self.start.fork();
                disk.fail_at(n, Fault::ShortWrite);
                disk.fail_step(first.number + later, fault);
                let history = self.run(&disk);
                if disk.faults_left() == 0 {
                    sites.add(&disk);
                    states += self.check_all(&disk, &history, n, &format!("ShortWrite at {n}, {fault:?} {later} later"));
                }
            }
        }
        states
    }

    /// The first state after a crash that does not pass its check, and why not.
    pub fn first_failure(&self) -> Option<(String, String)> {
        let mut failure = None;
        self.die_everywhere(|n, disk, history| {
            if failure.is_some() {
                return;
            }
            for left in left(&disk, n) {
                let state = format!("{}: crash at {n}, then {}", self.name, left.how);
                let checked = catch_unwind(AssertUnwindSafe(|| self.check(&disk, left, &history, &state)));
                if let Err(panic) = checked {
                    let why = panic.downcast::<String>().map_or_else(|_| "no text".to_owned(), |text| *text);
                    failure = Some((state, why));
                    break;
                }
            }
        });
        failure
    }

    /// Gives how many states there were.
    fn check_all(&self, disk: &SimIo, history: &History, n: u64, context: &str) -> u64 {
        let checked = left(disk, n).filter_map(|left| {
            let state = format!("{}: {context}, then {}", self.name, left.how);
            self.check(disk, left, history, &state).then_some(())
        });
        checked.count() as u64
    }

    /// What is found is what may be found, takes writes, and keeps them. Whether this state is one that is to be looked at.
    fn check(&self, disk: &SimIo, left: Left, history: &History, state: &str) -> bool {
        if !self.only.has(state) {
            return false;
        }
        let _told = ToldOnPanic { disk, state };
        let Left { disk: found, before, .. } = left;
        found.set_capacity(None);
        let mut session = Session::open_as(self.opening, &found, &self.limits, history.clone(), before).unwrap();
        session.put(&["a", "after"], 1000).unwrap();
        session.delete(&["after"], Durability::Fsync).unwrap();
        let history = session.history.clone();
        drop((session.index, session.store));
        let again = found.crash(Survival::None);
        let session = Session::open_as(self.opening, &again, &self.limits, history, Before::PowerCut).unwrap();
        assert_eq!(session.history.attempted(), session.history.durable());
        true
    }
}
