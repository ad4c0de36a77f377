//! Clients that write, delete, get and search a few ids of one index at the same time, beside checkpoints, builds, compactions and
//! erasures, on a simulated disk that fails, and that is killed or loses its power between rounds: every answer of every round is
//! explained by one order of the calls (`check.rs`), and what is found after each opening by what was answered before it.
//!
//! `FAISS_PROXY_HISTORIES` says how many histories at least, `FAISS_PROXY_MODEL_SECONDS` for how long they go on. Threads are the system's, so that a seed
//! (printed; `FAISS_PROXY_HISTORY_SEED`) brings back the calls and not their order: a failure prints what happened. `tests/schedules/`
//! has the repeatable orders.

mod check;
mod record;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use check::{Explained, explain};
use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{Durability, IndexOptions, IndexSpec, Metric, Opening};
use record::{Call, Outcome, Recorder, What};
use support::{Chance, Session, SetOnDrop, State, dump, env_or, open_store, point, spec, tenant, tiny_limits};

const CLIENTS: usize = 4;
const CALLS: usize = 16;
const ROUNDS: usize = 4;

#[derive(Debug, Default)]
struct Counts {
    rounds: u64,
    calls: u64,
    reads: u64,
    contended_reads: u64,
    unknown: u64,
    faults: u64,
    crashes: u64,
}

/// One index's life: rounds of calls, with an opening after each.
fn live(seed: u64, counts: &mut Counts) {
    let mut chance = Chance::new(seed);
    let limits = if chance.below(2) == 0 { tiny_limits() } else { Limits::default() };
    let options = IndexOptions { seal_rows: Some(1 + chance.below(4) as u32), min_recall: Some(0.0), ..IndexOptions::default() };
    let index_type = ["Flat", "HNSW4", "SQ8"][chance.below(3)].to_owned();
    let spec = IndexSpec { index_type, options, ..spec(4, Metric::L2) };
    let mut disk = SimIo::new();
    let mut store = open_store(disk.clone(), "/data", &limits).unwrap();
    let mut index = store.create_index(&tenant(), &spec).unwrap();
    let (mut lsn, mut state) = (0, State::new());
    let versions = AtomicU64::new(1);
    for round in 0..ROUNDS {
        if chance.below(3) == 0 {
            let fault = [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::FailedSync][chance.below(4)];
            disk.fail_at(1 + chance.below(40) as u64, fault);
            counts.faults += 1;
        }
        if chance.below(4) == 0 {
            disk.crash_at(1 + chance.below(60) as u64);
        }
        let is_crashed = || disk.is_crashed();
        let recorder = Recorder::new(&index, &is_crashed);
        run(&recorder, &versions, &mut chance);
        let calls = recorder.into_calls();
        let fail = |problem: String| -> ! {
            panic!("FAISS_PROXY_HISTORY_SEED={seed}, round {round}: {problem}\n{calls:#?}\n{:?}", disk.trace())
        };
        let explained = explain(lsn, &state, &calls).unwrap_or_else(|problem| fail(problem));
        count(counts, &calls, &explained);
        let is_power_cut = chance.below(2) == 0;
        let after = if is_power_cut { disk.crash(Survival::Random(chance.next())) } else { disk.fork() };
        let opening = [Opening::Eager, Opening::Lazy][chance.below(2)];
        drop((index, store));
        store = support::open_store_as(opening, after.clone(), "/data", &limits).unwrap();
        index = store.indices(&tenant()).pop().unwrap_or_else(|| fail(format!("{:?}", store.refused(&tenant()))));
        (lsn, state) = (index.info().lsn, dump(&index));
        explained.may_be_found(is_power_cut, lsn, &state).unwrap_or_else(|problem| fail(problem));
        counts.crashes += 1;
        disk = after;
    }
}

/// A round: clients beside what rewrites segments.
fn run(recorder: &Recorder<'_>, versions: &AtomicU64, chance: &mut Chance) {
    let (barrier, is_over) = (Barrier::new(CLIENTS + 1), AtomicBool::new(false));
    let mut chances: Vec<Chance> = (0..=CLIENTS).map(|_| Chance::new(chance.next())).collect();
    std::thread::scope(|scope| {
        let (barrier, is_over) = (&barrier, &is_over);
        let rewriter = chances.pop().unwrap();
        scope.spawn(move || {
            barrier.wait();
            recorder.run_rewriter(CLIENTS, rewriter, || is_over.load(SeqCst));
        });
        let _stop = SetOnDrop(is_over);
        let clients: Vec<_> = chances
            .into_iter()
            .enumerate()
            .map(|(thread, chance)| {
                scope.spawn(move || {
                    barrier.wait();
                    recorder.run_client(thread, CALLS, versions, chance);
                })
            })
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        is_over.store(true, SeqCst);
        ended.into_iter().for_each(|client| client.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
}

fn count(counts: &mut Counts, calls: &[Call], explained: &Explained) {
    counts.rounds += 1;
    counts.calls += calls.len() as u64;
    counts.reads += calls.iter().filter(|call| matches!(call.what, What::Get { .. } | What::Search { .. })).count() as u64;
    counts.contended_reads += explained.contended_reads;
    counts.unknown += calls.iter().filter(|call| call.what.outcome() == Some(&Outcome::Unknown)).count() as u64;
}

#[test]
fn every_answer_of_concurrent_clients_is_explained_by_one_order_of_their_calls() {
    let until = Instant::now() + Duration::from_secs(env_or("FAISS_PROXY_MODEL_SECONDS", 0));
    let started = Instant::now();
    let first = env_or("FAISS_PROXY_HISTORY_SEED", std::process::id().into());
    println!("FAISS_PROXY_HISTORY_SEED={first}");
    let mut counts = Counts::default();
    let mut histories = 0;
    while histories < env_or("FAISS_PROXY_HISTORIES", 150) || Instant::now() < until {
        live(first + histories, &mut counts);
        histories += 1;
    }
    println!("{histories} histories in {:?}: {counts:?}", started.elapsed());
    assert!(counts.contended_reads > 0 || histories < 10, "no read met a write");
}

/// Calls of one thread, one after the other, through a recorder.
fn recorded(change: impl FnOnce(&mut Recorder<'_>)) -> Vec<Call> {
    let session = Session::create(&SimIo::new(), &Limits::default(), 4, Metric::L2);
    let mut recorder = Recorder::new(&session.index, &|| false);
    change(&mut recorder);
    let put = |version| recorder.upsert(0, vec![point("a", version), point("b", version)], Durability::Fsync);
    recorder.get(1, "a");
    put(1);
    recorder.get(1, "a");
    recorder.search(1, true);
    put(2);
    recorder.get(1, "a");
    recorder.search(0, true);
    recorder.delete(0, vec!["a".to_owned()], Durability::Fsync);
    recorder.delete(1, vec!["a".to_owned()], Durability::Interval);
    recorder.get(2, "a");
    recorder.search(2, false);
    let set = |stored_by, version| recorder.compare_and_set(1, point("b", version), stored_by, Durability::Fsync);
    set(Some(1), 3);
    set(Some(2), 4);
    set(None, 5);
    recorder.into_calls()
}

#[test]
fn a_stale_read_is_found() {
    assert!(explain(0, &State::new(), &recorded(|_| {})).is_ok());
    let problem = explain(0, &State::new(), &recorded(|recorder| recorder.stale = Some(Default::default()))).unwrap_err();
    assert!(problem.contains("no state from LSN 1 to 1 answers so"), "{problem}");
}

/// Each change of a right history makes it wrong, and is seen.
#[test]
fn a_history_that_no_order_explains_is_refused() {
    let right = recorded(|_| {});
    let refused = |name: &str, change: &dyn Fn(&mut Vec<Call>)| {
        let mut calls = right.clone();
        change(&mut calls);
        assert!(explain(0, &State::new(), &calls).is_err(), "{name} is explained: {calls:#?}");
    };
    let swap = |calls: &mut Vec<Call>, a: usize, b: usize| {
        let what = calls[a].what.clone();
        calls[a].what = std::mem::replace(&mut calls[b].what, what);
    };
    refused("a read of the future", &|calls| swap(calls, 0, 2));
    refused("a read that goes back", &|calls| swap(calls, 2, 5));
    refused("a search that goes back", &|calls| swap(calls, 3, 6));
    refused("a read after a delete", &|calls| swap(calls, 5, 9));
    refused("writes whose LSNs are not in their order", &|calls| swap(calls, 1, 4));
    refused("a write that nobody made", &|calls| drop(calls.remove(4)));
    refused("a write that came twice", &|calls| calls.push(calls[4].clone()));
    refused("a delete of what is there that finds nothing", &|calls| swap(calls, 7, 8));
    let set_condition = |call: &mut Call, lsn| {
        let What::CompareAndSet { stored_by, .. } = &mut call.what else { unreachable!() };
        *stored_by = Some(lsn);
    };
    refused("a condition that did not hold", &|calls| set_condition(&mut calls[12], 1));
    refused("a condition that held, and is said not to", &|calls| set_condition(&mut calls[11], 2));
    refused("the same after the write that made it hold", &|calls| set_condition(&mut calls[13], 4));
    refused("a part of a batch", &|calls| {
        let What::Search { found } = &mut calls[6].what else { unreachable!() };
        found.remove("a");
    });
    refused("a count that is wrong", &|calls| {
        let What::Upsert { outcome: Outcome::Acknowledged { count, .. }, .. } = &mut calls[4].what else { unreachable!() };
        *count += 1;
    });
    // Two readers overlap a write; the second begins after the first has ended, and sees less. Without the first, it may.
    let mut calls = right[..5].to_vec();
    calls[4].ended = 1_000;
    calls.push(Call { thread: 3, began: 500, ended: 501, ..right[2].clone() });
    assert!(explain(0, &State::new(), &calls).is_ok());
    calls.push(right[5].clone());
    assert!(explain(0, &State::new(), &calls).is_err(), "readers who disagree are explained");
}

#[test]
fn what_is_lost_or_made_up_by_an_opening_is_refused() {
    let mut calls = recorded(|_| {});
    // Up to the last delete.
    calls.truncate(11);
    let explained = explain(0, &State::new(), &calls).unwrap();
    let all = explained.acknowledged();
    let (last, before) = (explained.state(all).clone(), explained.state(all - 1).clone());
    assert!(explained.may_be_found(false, all, &last).is_ok());
    assert!(explained.may_be_found(false, all - 1, &before).is_err(), "an acknowledged write is lost");
    assert!(explained.may_be_found(true, all - 1, &before).is_err(), "a durable write is lost");
    assert!(explained.may_be_found(true, all, &before).is_err(), "another state than the LSN says");
    assert!(explained.may_be_found(true, all + 1, &last).is_err(), "a write that nobody made");

    // The last write is not acknowledged: it may be there.
    calls.truncate(8);
    let What::Delete { outcome, .. } = &mut calls[7].what else { unreachable!() };
    *outcome = Outcome::Unknown;
    let explained = explain(0, &State::new(), &calls).unwrap();
    assert!(explained.may_be_found(true, all - 1, &before).is_ok());
    assert!(explained.may_be_found(true, all, &last).is_ok());
    assert!(explained.may_be_found(true, all, &before).is_err());
}
