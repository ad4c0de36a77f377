//! Every I/O call of every procedure, failing in every way in which it can.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::procedure::{Procedure, in_parallel};
use super::sites::Sites;
use super::states::{Count, Only};
use super::{closing, group, lifecycle, recovering, rewriting, writing};

fn procedures() -> Vec<Procedure> {
    let mut procedures = vec![
        writing::append(),
        writing::interval(),
        writing::checkpoint(),
        writing::decided(),
        writing::merge(),
        writing::full_disk(),
    ];
    procedures.push(group::group_commit(&Default::default()));
    procedures.extend(closing::closings());
    procedures.extend(recovering::recoveries());
    procedures.extend(recovering::recoveries().into_iter().map(Procedure::lazily));
    procedures.extend(rewriting::rewritings());
    procedures
}

/// The kinds of files and directories that there are: one that no procedure touches any more is one that nobody tests.
const KINDS: [&str; 20] = [
    ".creating",
    ".dead",
    ".deleting",
    ".faiss",
    ".fields",
    ".keys",
    ".seg",
    ".torn.tmp",
    ".wal",
    ".wal.tmp",
    "LOCK",
    "RESERVE",
    "above the data",
    "data directory",
    "index",
    "manifest",
    "manifest.tmp",
    "segments/",
    "tenant",
    "wal/",
];

#[test]
fn failing_operation_of_every_procedure_is_reported_and_loses_nothing_acked() {
    let done = Mutex::new((Count::default(), Sites::default()));
    let add = |(count, sites): (Count, Sites)| {
        let mut done = done.lock();
        done.0 += count;
        done.1.merge(&sites);
    };
    in_parallel(procedures(), |procedure| add(procedure.fail_everywhere()));
    add(lifecycle::fail_everywhere());
    let (count, sites) = done.into_inner();
    println!("{sites}\nall procedures, failing: {count}");
    assert_eq!(sites.missing(sites.sites()), [], "nothing failed there");
    let touched: BTreeSet<&str> = sites.sites().map(|(_, kind)| *kind).collect();
    assert_eq!(touched, BTreeSet::from(KINDS), "kinds of files");
    assert!(count.points >= 3000 && (count.states >= 5000 || !Only::from_env().is_all()), "{count}");
}
