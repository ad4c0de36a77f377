//! The same for a group commit: several writers wait for one leader, and each is told what is true of its own write.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use faiss_proxy::Durability::{Fsync, Interval};
use faiss_proxy::config::Limits;

use super::procedure::Procedure;
use super::support::detour::Course;
use super::support::together::{Gate, Wish};

/// Two groups after a lone leader each. They see each other's effects, disagree about the sync, and need a new log segment between them. Counts
/// the requests that were in a group.
pub fn group_commit(grouped: &Arc<AtomicU64>) -> Procedure {
    let gate = Arc::new(Gate::default());
    let run = {
        let (gate, grouped) = (Arc::clone(&gate), Arc::clone(grouped));
        move |session: &mut super::Session| {
            let first = [
                Wish::Put(&["a", "b"], 1, Fsync),
                Wish::Put(&["a", "c"], 2, Fsync),
                Wish::Delete(&["b", "c"], Interval),
                Wish::Put(&["c"], 3, Interval),
                Wish::Delete(&["absent"], Interval),
            ];
            let second = [
                Wish::Delete(&["a"], Fsync),
                Wish::Delete(&["a"], Interval),
                Wish::Put(&["a", "d", "e"], 4, Interval),
                Wish::Put(&["e", "d"], 5, Fsync),
            ];
            grouped.fetch_add(session.commit_together(&gate, &first) as u64, Relaxed);
            grouped.fetch_add(session.commit_together(&gate, &second) as u64, Relaxed);
        }
    };
    let limits = Limits { log_segment_bytes: 1536, ..Limits::default() };
    let procedure = Procedure::new("group commit", limits, |session| session.put(&["a"], 0).unwrap(), run);
    let ask = Arc::new(move |_: &_, _, _: &_| {
        gate.pass();
        Ok(Course::Do)
    });
    Procedure { ask, ..procedure }
}

#[test]
fn every_waiter_of_a_group_is_told_the_truth_after_crash_at_every_operation_of_group_commit() {
    let grouped = Arc::new(AtomicU64::new(0));
    let procedure = group_commit(&grouped);
    procedure.run(&procedure.start.fork());
    assert_eq!(grouped.load(Relaxed), 4 + 3, "all but the two leaders are in a group");
    let count = procedure.crash_everywhere();
    let grouped = grouped.load(Relaxed);
    println!("{grouped} writers waited in groups");
    assert!(grouped > 7 * count.points / 2);
    assert!(count.points >= 40 && (count.states >= 150 || !procedure.only.is_all()), "{count}");
}
