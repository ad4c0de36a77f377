//! A crash, or a failing disk, at every operation of a backup and of a restore.

use faiss_proxy::backup::{Target, restore};
use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{Error, IndexId, Lsn, Metric};

use super::support::{self, Before, History, Session, dump, env_or, open_store, spec, tenant};
use super::{back_up, limits, repository, restored, some_writes};

/// An index with one backup and something new, on one disk with its repository.
fn prepared() -> (SimIo, History, IndexId, Lsn) {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let backed_up = back_up(&session.index, &disk).unwrap().lsn;
    session.put(&["g", "a"], 7).unwrap();
    session.checkpoint().unwrap();
    session.put(&["h"], 8).unwrap();
    (disk, session.history.clone(), session.index.id(), backed_up)
}

fn power_cuts(n: u64) -> impl Iterator<Item = Survival> {
    let seeds = env_or("FAISS_PROXY_CRASH_SEEDS", 3);
    let random =
        (n * seeds..(n + 1) * seeds).map(|seed| if seed % 2 == 0 { Survival::Random(seed) } else { Survival::Torn(seed) });
    [Survival::None, Survival::All].into_iter().chain(random)
}

/// What is left after a crash: the repository has the backups that were made, and another one can be made and restored.
fn check_backup(left: &SimIo, history: &History, before: Before, id: IndexId, backed_up: Lsn, context: &str) {
    let (state, lsn) = restored(left, id, Target::Newest).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(lsn >= backed_up, "{context}: a backup that was made is gone");
    assert_eq!(state, *history.state(lsn), "{context}");
    let mut session = Session::open(left, &limits(), history.clone(), before).unwrap();
    // With nothing new, it is one that was made already, which it vouches for.
    let report = back_up(&session.index, left).unwrap_or_else(|error| panic!("{context}: {error}"));
    let (_, found) =
        restored(&left.crash(Survival::None), id, Target::Newest).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert!(found == report.lsn && found == session.history.acked(), "{context}: {found} is left of {report:?}");
    session.put(&["after"], 99).unwrap();
    let report = back_up(&session.index, left).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(report.lsn, session.history.acked());
    drop((session.index, session.store));
    let found = restored(&left.crash(Survival::None), id, Target::Newest).unwrap_or_else(|error| panic!("{context}: {error}"));
    assert_eq!(found, (session.history.state(report.lsn).clone(), report.lsn), "{context}");
}

#[test]
fn backups_are_whole_and_go_on_after_a_crash_at_every_operation_of_one() {
    let (start, history, id, first) = prepared();
    let mut states = 0;
    for n in 1.. {
        let disk = start.fork();
        let session = Session::open(&disk, &limits(), history.clone(), Before::Kill).unwrap();
        // Not of the opening, which other tests have.
        disk.crash_at(n);
        let made = back_up(&session.index, &disk).ok().map(|report| report.lsn);
        let history = session.history.clone();
        drop((session.index, session.store));
        let is_crashed = disk.is_crashed();
        let least = made.unwrap_or(first);
        check_backup(&disk.fork(), &history, Before::Kill, id, least, &format!("crash at {n}, killed"));
        for survival in power_cuts(n) {
            let context = format!("crash at {n}, {survival:?}");
            check_backup(&disk.crash(survival), &history, Before::PowerCut, id, least, &context);
            states += 1;
        }
        if !is_crashed {
            println!("backup: {} points, {states} states", n - 1);
            assert!(n > 20, "{n}");
            break;
        }
    }
}

#[test]
fn backup_that_fails_at_any_operation_says_so_and_the_next_one_is_made() {
    let (start, history, id, first) = prepared();
    for fault in Fault::ALL {
        for n in 1.. {
            let disk = start.fork();
            let session = Session::open(&disk, &limits(), history.clone(), Before::Kill).unwrap();
            disk.fail_at(n, fault);
            let made = back_up(&session.index, &disk);
            let is_over = disk.faults_left() > 0;
            let least = made.map_or(first, |report| report.lsn);
            let history = session.history.clone();
            drop((session.index, session.store));
            let survival = power_cuts(n).nth(n as usize % 4).unwrap();
            check_backup(
                &disk.crash(survival),
                &history,
                Before::PowerCut,
                id,
                least,
                &format!("{fault:?} at {n}, {survival:?}"),
            );
            // On the same disk, where what a failed sync lost is seen as if it were there.
            check_backup(&disk.fork(), &history, Before::Kill, id, least, &format!("{fault:?} at {n}, killed"));
            if is_over {
                break;
            }
        }
    }
}

/// After whatever befell a restore: the store opens, and has the index whole, or no trace of it and it can be restored.
fn check_restore(left: &SimIo, repository_disk: &SimIo, history: &History, id: IndexId, is_done: bool, context: &str) {
    let store = open_store(left.clone(), "/restored", &limits()).unwrap();
    assert!(store.refused(&tenant()).is_empty(), "{context}: {:?}", store.refused(&tenant()));
    let indices = store.indices(&tenant());
    assert!(indices.len() <= 1 && (!is_done || indices.len() == 1), "{context}: {} indices", indices.len());
    let index = match indices.into_iter().next() {
        Some(index) => index,
        None => {
            let names: Vec<_> = support::files_below(left, "/restored".as_ref());
            assert!(names.iter().all(|path| path.ends_with("LOCK")), "{context}: {names:?} are left");
            restore(&store, &repository(repository_disk), &tenant(), id, Target::Newest).unwrap().0
        }
    };
    assert_eq!(dump(&index), *history.state(index.info().lsn), "{context}");
    assert_eq!(index.info().lsn, history.acked(), "{context}");
}

#[test]
fn restored_index_is_whole_or_absent_after_a_crash_at_every_operation() {
    let (source, history, id, _) = prepared();
    let session = Session::open(&source, &limits(), history, Before::Kill).unwrap();
    back_up(&session.index, &source).unwrap();
    let history = session.history.clone();
    let mut states = 0;
    for n in 1.. {
        let disk = SimIo::new();
        let store = open_store(disk.clone(), "/restored", &limits()).unwrap();
        disk.crash_at(n);
        let is_done = restore(&store, &repository(&source), &tenant(), id, Target::Newest).is_ok();
        drop(store);
        let is_crashed = disk.is_crashed();
        check_restore(&disk.fork(), &source, &history, id, is_done, &format!("crash at {n}, killed"));
        for survival in power_cuts(n) {
            check_restore(&disk.crash(survival), &source, &history, id, is_done, &format!("crash at {n}, {survival:?}"));
            states += 1;
        }
        if !is_crashed {
            println!("restore: {} points, {states} states", n - 1);
            assert!(n > 30 && is_done, "{n}");
            break;
        }
    }
}

#[test]
fn restore_that_fails_at_any_operation_leaves_the_index_whole_or_absent() {
    let (source, history, id, _) = prepared();
    let session = Session::open(&source, &limits(), history, Before::Kill).unwrap();
    back_up(&session.index, &source).unwrap();
    let history = session.history.clone();
    for fault in Fault::ALL {
        for n in 1.. {
            let disk = SimIo::new();
            let store = open_store(disk.clone(), "/restored", &limits()).unwrap();
            disk.fail_at(n, fault);
            let outcome = restore(&store, &repository(&source), &tenant(), id, Target::Newest);
            let is_over = disk.faults_left() > 0;
            let is_done = match outcome {
                Ok(_) => true,
                Err(Error::Io(_) | Error::Full(_) | Error::OutcomeUnknown(_)) => false,
                Err(error) => panic!("{fault:?} at {n}: a failing disk is no reason for {error}"),
            };
            drop(store);
            let survival = power_cuts(n).nth(n as usize % 4).unwrap();
            let context = format!("{fault:?} at {n}, {survival:?}");
            check_restore(&disk.crash(survival), &source, &history, id, is_done, &context);
            if is_over {
                break;
            }
        }
    }
}
