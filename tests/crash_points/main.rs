//! A crash at any I/O operation of any procedure leaves a directory that opens with exactly the acknowledged state, plus, possibly,
//! what was in flight, whole. And any failing operation is reported, and costs nothing that was acknowledged.
//!
//! Each procedure runs once for each mutation of the disk that it makes, and dies there. What is left is then opened after a kill
//! (everything written is there, and nothing more is synced) and after power cuts; what is found is checked, written to, and must
//! survive one more power cut. Of states of one crash point that are the same disk one is opened.
//!
//! `FAISS_PROXY_CRASH_SEEDS` sets how many random power cuts each crash point is given. A state that fails is printed by its name, and
//! `FAISS_PROXY_CRASH_STATE` with that name opens it alone.

#[path = "../support/mod.rs"]
mod support;

mod closing;
mod faults;
mod group;
mod lifecycle;
mod mutants;
mod procedure;
mod recovering;
mod replay;
mod rewriting;
mod sites;
mod states;
mod twice;
mod writing;

use procedure::Procedure;
use states::Count;
use support::Session;

/// Crashes everywhere in each of them; at least `points` times.
fn survives_crashes(procedures: Vec<Procedure>, points: u64) {
    let only_one = procedures.iter().any(|procedure| !procedure.only.is_all());
    let count: Count = procedures.iter().map(Procedure::crash_everywhere).sum();
    assert!(count.points >= points, "{count}");
    // Nearly everywhere something is not synced, or it was removed.
    assert!(only_one || count.states >= 2 * points, "{count}");
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_append_and_rotation() {
    survives_crashes(vec![writing::append()], 50);
}

#[test]
fn acked_write_survives_crash_at_every_operation_with_interval_durability() {
    survives_crashes(vec![writing::interval()], 15);
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_checkpoint() {
    survives_crashes(vec![writing::checkpoint(), writing::merge()], 100);
}

#[test]
fn acked_write_survives_crash_at_every_operation_with_its_condition_and_its_key() {
    survives_crashes(vec![writing::decided()], 90);
}

#[test]
fn acked_write_survives_crash_at_every_operation_on_a_full_disk() {
    survives_crashes(vec![writing::full_disk()], 30);
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_recovery() {
    survives_crashes(recovering::recoveries(), 100);
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_a_first_use() {
    survives_crashes(recovering::recoveries().into_iter().map(Procedure::lazily).collect(), 100);
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_closing() {
    survives_crashes(closing::closings(), 100);
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_seal_build_compaction_and_erasure() {
    survives_crashes(rewriting::rewritings(), 400);
}
