//! Opening what a crash or a failed sync left.

use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{Durability, Metric};

use super::procedure::{Procedure, small_limits};
use super::support::{self, Before, Session, tiny_limits};

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
    Procedure::new("recovery after an unsynced marker", small_limits(), prepare, run)
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
    let torn = (0..100).map(|seed| disk.crash(Survival::Torn(seed))).filter(is_torn).take(3);
    let procedures: Vec<Procedure> = torn
        .zip(1..)
        .map(|(start, n)| {
            let (name, history) = (format!("recovery of torn tail {n}"), history.clone());
            Procedure::from_left(&name, limits.clone(), start, history, Before::PowerCut, |session| drop(session.put(&["e"], 2)))
        })
        .collect();
    assert_eq!(procedures.len(), 3, "no power cut left a torn tail");
    procedures
}

pub fn recoveries() -> Vec<Procedure> {
    let mut procedures = recoveries_of_torn_tails();
    procedures.extend([recovery_with_rescue(), recovery_after_marker()]);
    procedures
}
