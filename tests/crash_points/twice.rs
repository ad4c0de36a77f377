//! A crash while recovering from a crash.

use faiss_proxy::Metric;
use parking_lot::Mutex;

use super::procedure::{Procedure, in_parallel};
use super::states::{Count, KINDS, Only, seeds};
use super::{closing, group, recovering, rewriting, support, writing};

/// What the recovery of does something else than that of others. All of them in the long form.
fn procedures(is_long: bool) -> Vec<Procedure> {
    let mut procedures = vec![writing::append(), writing::checkpoint(), group::group_commit(&Default::default())];
    procedures.extend(recovering::recoveries());
    procedures.extend(recovering::recoveries().pop().map(Procedure::lazily));
    if is_long {
        procedures.extend([writing::interval(), writing::decided(), writing::merge(), writing::full_disk()]);
        procedures.extend(closing::closings());
        procedures.extend(rewriting::rewritings());
    } else {
        procedures.push(rewriting::erase("erase", &support::spec(4, Metric::L2)));
    }
    procedures
}

#[test]
fn acked_write_survives_crash_at_every_operation_of_the_recovery_from_a_crash_at_every_operation() {
    let is_long = seeds() > 100;
    // Once, or with every kind of crash at each of the two.
    let rounds = if is_long { KINDS } else { 1 };
    let done = Mutex::new(Count::default());
    in_parallel(procedures(is_long), |procedure| *done.lock() += procedure.crash_twice_everywhere(rounds));
    let count = done.into_inner();
    println!("all procedures and their recoveries: {count}");
    assert!(count.points >= 9_000 && (count.states >= 9_000 || !Only::from_env().is_all()), "{count}");
}
