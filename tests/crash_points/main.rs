//! A crash at any I/O operation of any procedure leaves a directory that opens with exactly the acknowledged state, plus, possibly,
//! what was in flight, whole. And any failing operation is reported, and costs nothing that was acknowledged.
//!
//! Each procedure runs once for each mutation of the disk that it makes, and dies there. What is left is then opened after a kill
//! (everything written is there, and nothing more is synced) and after power cuts; what is found is checked, written to, and must
//! survive one more power cut. `FAISS_PROXY_CRASH_SEEDS` sets how many random power cuts each state is given.

#[path = "../support/mod.rs"]
mod support;

mod lifecycle;
mod rewriting;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{Durability, Error, IndexSpec, Metric, Opening};
use support::{Before, History, Session, env_or, tiny_limits};

const FAULTS: [Fault; 4] = [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::FailedSync];

fn seeds() -> u64 {
    env_or("FAISS_PROXY_CRASH_SEEDS", 6)
}

fn power_cuts() -> impl Iterator<Item = Survival> {
    [Survival::None, Survival::All].into_iter().chain((0..seeds()).map(Survival::Random))
}

/// A disk to start from, and what is done on it.
struct Procedure {
    name: &'static str,
    limits: Limits,
    start: SimIo,
    history: History,
    before: Before,
    /// How it is opened, before and after.
    opening: Opening,
    run: fn(&mut Session),
}

impl Procedure {
    /// `prepare` goes well.
    fn new(name: &'static str, limits: Limits, prepare: fn(&mut Session), run: fn(&mut Session)) -> Self {
        Self::of(&support::spec(4, Metric::L2), name, limits, prepare, run)
    }

    /// The same with an index of another type.
    fn of(spec: &IndexSpec, name: &'static str, limits: Limits, prepare: fn(&mut Session), run: fn(&mut Session)) -> Self {
        let start = SimIo::new();
        let mut session = Session::create_as(&start, &limits, spec);
        prepare(&mut session);
        let history = session.history;
        Self { name, limits, start, history, before: Before::Kill, opening: Opening::Eager, run }
    }

    /// The same, the index being recovered when it is used first.
    fn lazily(self) -> Self {
        Self { opening: Opening::Lazy, ..self }
    }

    /// Runs it on `disk`: opening is a part of it. Gives what must be found from then on.
    fn run(&self, disk: &SimIo) -> History {
        match Session::open_as(self.opening, disk, &self.limits, self.history.clone(), self.before) {
            Ok(mut session) => {
                (self.run)(&mut session);
                session.history
            }
            Err(Error::Corrupt(damage)) => panic!("{}: refused for damage that is none: {damage}", self.name),
            Err(_) => self.history.clone(),
        }
    }

    /// Crashes at every mutation. Gives the number of states that were opened.
    fn crash_everywhere(&self) -> u64 {
        let states = AtomicU64::new(0);
        let mut mutations = 0;
        for n in 1.. {
            let disk = self.start.fork();
            disk.crash_at(n);
            let history = self.run(&disk);
            self.check_all(&disk, &history, &states, &format!("crash at {n}"));
            if !disk.is_crashed() {
                break;
            }
            mutations = n;
        }
        println!("{}: {mutations} mutations, {} crash states", self.name, states.load(Relaxed));
        states.into_inner()
    }

    /// Lets every operation fail once, in each way in which it can. Gives the number of states that were opened.
    fn fail_everywhere(&self) -> u64 {
        let states = AtomicU64::new(0);
        let mut faults = 0;
        for fault in FAULTS {
            for n in 1.. {
                let disk = self.start.fork();
                disk.fail_at(n, fault);
                let history = self.run(&disk);
                if disk.faults_left() > 0 {
                    break;
                }
                faults += 1;
                self.check_all(&disk, &history, &states, &format!("{fault:?} at {n}"));
            }
        }
        println!("{}: {faults} faults, {} states", self.name, states.load(Relaxed));
        states.into_inner()
    }

    fn check_all(&self, disk: &SimIo, history: &History, states: &AtomicU64, context: &str) {
        let kill = std::iter::once((disk.fork(), Before::Kill, "kill".to_owned()));
        let cuts = power_cuts().map(|survival| (disk.crash(survival), Before::PowerCut, format!("{survival:?}")));
        for (found, before, what) in kill.chain(cuts) {
            states.fetch_add(1, Relaxed);
            let _told = ToldOnPanic { disk, what: format!("{}: {context}, then {what}", self.name) };
            check(self.opening, &found, &self.limits, history.clone(), before);
        }
    }
}

/// Says, where a check panics, which state it was.
struct ToldOnPanic<'a> {
    disk: &'a SimIo,
    what: String,
}

impl Drop for ToldOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let steps = self.disk.trace();
            eprintln!("{}; the last steps: {:#?}", self.what, &steps[steps.len().saturating_sub(40)..]);
        }
    }
}

/// What is found is what may be found, takes writes, and keeps them.
fn check(opening: Opening, found: &SimIo, limits: &Limits, history: History, before: Before) {
    let mut session = Session::open_as(opening, found, limits, history, before).unwrap();
    session.put(&["a", "after"], 1000).unwrap();
    session.delete(&["after"], Durability::Fsync).unwrap();
    let history = session.history.clone();
    drop((session.index, session.store));
    let again = found.crash(Survival::None);
    let session = Session::open_as(opening, &again, limits, history, Before::PowerCut).unwrap();
    assert_eq!(session.history.attempted(), session.history.durable());
}

fn appends(session: &mut Session) {
    // Errors are the disk's: the session notes what they promise.
    let _ = session.put(&["a", "b"], 1);
    let _ = session.put(&["c"], 2);
    let _ = session.delete(&["b", "absent"], Durability::Fsync);
    // Spans frames.
    let many: Vec<String> = (0..24).map(|i| format!("id-{i}")).collect();
    let _ = session.put(&many.iter().map(String::as_str).collect::<Vec<_>>(), 3);
    let _ = session.sync();
    let _ = session.put(&["a", "d"], 4);
    let _ = session.put(&["e"], 5);
}

fn append() -> Procedure {
    Procedure::new("append and rotate", tiny_limits(), |session| session.put(&["a"], 0).unwrap(), appends)
}

/// Acknowledged before they are synced: a power cut may take them, from the end.
fn interval() -> Procedure {
    let run = |session: &mut Session| {
        for version in 1..4 {
            let _ = session.upsert(&[support::point("a", version), support::point("b", version)], Durability::Interval);
        }
        let _ = session.delete(&["b"], Durability::Interval);
        let _ = session.delete(&["b"], Durability::Fsync);
        let _ = session.upsert(&[support::point("c", 9)], Durability::Interval);
        let _ = session.sync();
        let _ = session.upsert(&[support::point("a", 10)], Durability::Interval);
    };
    Procedure::new("interval", Limits::default(), |session| session.put(&["a"], 0).unwrap(), run)
}

fn checkpoint() -> Procedure {
    let prepare = |session: &mut Session| {
        session.put(&["a", "b", "c"], 0).unwrap();
        session.checkpoint().unwrap();
        session.put(&["d"], 0).unwrap();
    };
    let run = |session: &mut Session| {
        let _ = session.put(&["e", "a"], 1);
        let _ = session.delete(&["b", "d"], Durability::Fsync);
        let _ = session.checkpoint();
        let _ = session.put(&["f"], 2);
        let _ = session.checkpoint();
        let _ = session.checkpoint();
        let _ = session.put(&["g"], 3);
    };
    Procedure::new("checkpoint", Limits::default(), prepare, run)
}

/// Checkpoints that write many small segments as one, and drop a dead one.
fn merge() -> Procedure {
    let prepare = |session: &mut Session| {
        for (version, id) in ["a", "b", "c", "d", "e", "f", "g"].iter().enumerate() {
            session.put(&[id], version as u64).unwrap();
            session.checkpoint().unwrap();
        }
    };
    let run = |session: &mut Session| {
        let _ = session.delete(&["c"], Durability::Fsync);
        let _ = session.put(&["h", "a"], 20);
        let _ = session.checkpoint();
        let _ = session.delete(&["a", "b", "d", "e", "f", "g", "h"], Durability::Fsync);
        let _ = session.checkpoint();
        let _ = session.put(&["i"], 21);
        let _ = session.checkpoint();
    };
    Procedure::new("merge", Limits::default(), prepare, run)
}

/// A sync failed, and the process was killed: the new bytes are in the page cache, look clean, and are nowhere else.
fn recovery_with_rescue() -> Procedure {
    let prepare = |session: &mut Session| {
        session.put(&["a", "b"], 0).unwrap();
        session.checkpoint().unwrap();
        session.put(&["c"], 0).unwrap();
        let points: Vec<_> = (0..20).map(|i| support::point(&format!("id-{i}"), 1)).collect();
        session.upsert(&points, Durability::Interval).unwrap();
        session.upsert(&[support::point("a", 1)], Durability::Interval).unwrap();
        session.disk.fail_at(1, Fault::FailedSync);
        session.put(&["d"], 1).unwrap_err();
    };
    Procedure::new("recovery with a rescue", tiny_limits(), prepare, |session| drop(session.put(&["e"], 2)))
}

/// A kill between the writing of a marker and its sync: the marker is what the next frame would chain to.
fn recovery_after_marker() -> Procedure {
    let prepare = |session: &mut Session| {
        session.put(&["a", "b"], 0).unwrap();
        session.disk.fail_at(1, Fault::FailedSync);
        session.sync().unwrap_err();
    };
    let run = |session: &mut Session| {
        let _ = session.put(&["c"], 2);
        let _ = session.checkpoint();
        let _ = session.sync();
    };
    Procedure::new("recovery after an unsynced marker", Limits::default(), prepare, run)
}

/// Power cuts that left a torn tail, as many as there are among some seeds.
fn recoveries_of_torn_tails() -> Vec<Procedure> {
    let limits = tiny_limits();
    let disk = SimIo::new();
    let mut session = Session::create(&disk, &limits, 4, Metric::L2);
    session.put(&["a", "b"], 0).unwrap();
    let points: Vec<_> = (0..20).map(|i| support::point(&format!("id-{i}"), 1)).collect();
    session.upsert(&points[..2], Durability::Interval).unwrap();
    session.upsert(&points, Durability::Interval).unwrap();
    let is_torn = |disk: &SimIo| {
        let probe = disk.fork();
        Session::open(&probe, &limits, session.history.clone(), Before::PowerCut).unwrap();
        support::files_below(&probe, "/data".as_ref()).iter().any(|path| path.extension().is_some_and(|e| e == "torn"))
    };
    let mut history = session.history.clone();
    history.cut_power();
    let torn = (0..100).map(|seed| disk.crash(Survival::Random(seed))).filter(is_torn).take(3);
    let procedures: Vec<Procedure> = torn
        .map(|start| Procedure {
            name: "recovery of a torn tail",
            limits: limits.clone(),
            start,
            history: history.clone(),
            before: Before::PowerCut,
            opening: Opening::Eager,
            run: |session| drop(session.put(&["e"], 2)),
        })
        .collect();
    assert_eq!(procedures.len(), 3, "no power cut left a torn tail");
    procedures
}

fn recoveries() -> Vec<Procedure> {
    let mut procedures = recoveries_of_torn_tails();
    procedures.extend([recovery_with_rescue(), recovery_after_marker()]);
    procedures
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_append_and_rotation() {
    let states = append().crash_everywhere();
    assert!(states >= 50 * (3 + seeds()), "{states} crash states");
}

#[test]
fn acked_write_survives_crash_at_every_operation_with_interval_durability() {
    let states = interval().crash_everywhere();
    assert!(states >= 15 * (3 + seeds()), "{states} crash states");
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_checkpoint() {
    let states = checkpoint().crash_everywhere() + merge().crash_everywhere();
    assert!(states >= 60 * (3 + seeds()), "{states} crash states");
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_recovery() {
    let states: u64 = recoveries().iter().map(Procedure::crash_everywhere).sum();
    assert!(states >= 60 * (3 + seeds()), "{states} crash states");
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_a_first_use() {
    let states: u64 = recoveries().into_iter().map(|procedure| procedure.lazily().crash_everywhere()).sum();
    assert!(states >= 60 * (3 + seeds()), "{states} crash states");
}

#[test]
fn refused_write_leaves_no_file_behind() {
    let prepare = |session: &mut Session| {
        session.put(&["a"], 0).unwrap();
        session.sync().unwrap();
    };
    let procedure = Procedure::new("refused write", tiny_limits(), prepare, |_| ());
    let mut refused = 0;
    for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
        for n in 1.. {
            let disk = procedure.start.fork();
            let mut session = Session::open(&disk, &procedure.limits, procedure.history.clone(), Before::Kill).unwrap();
            let before = support::files_below(&disk, "/data".as_ref());
            disk.fail_at(n, fault);
            let result = session.put(&["b"], 1);
            if disk.faults_left() > 0 {
                break;
            }
            let after = support::files_below(&disk, "/data".as_ref());
            // A new log segment that a manifest names already is the next write's.
            let is_manifest = |path: &&PathBuf| path.to_string_lossy().contains("manifest");
            let has_segment = before.iter().filter(is_manifest).ne(after.iter().filter(is_manifest));
            if matches!(result, Err(Error::Io(_) | Error::Full(_))) && !has_segment {
                refused += 1;
                assert_eq!(after, before, "{fault:?} at {n}");
            }
        }
    }
    println!("{refused} writes were refused");
    assert!(refused >= 15, "{refused}");
}

#[test]
fn failing_operation_of_a_write_is_reported_and_loses_nothing_acked() {
    let states = append().fail_everywhere() + interval().fail_everywhere();
    assert!(states >= 100 * (3 + seeds()), "{states} states");
}

#[test]
fn failing_operation_of_a_checkpoint_is_reported_and_loses_nothing_acked() {
    let states = checkpoint().fail_everywhere() + merge().fail_everywhere();
    assert!(states >= 150 * (3 + seeds()), "{states} states");
}

#[test]
fn failing_operation_of_recovery_is_reported_and_loses_nothing_acked() {
    let states: u64 = recoveries().iter().map(Procedure::fail_everywhere).sum();
    assert!(states >= 150 * (3 + seeds()), "{states} states");
}

#[test]
fn failing_operation_of_a_first_use_is_reported_and_loses_nothing_acked() {
    let states: u64 = recoveries().into_iter().map(|procedure| procedure.lazily().fail_everywhere()).sum();
    assert!(states >= 150 * (3 + seeds()), "{states} states");
}
