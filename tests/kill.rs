//! SIGKILL under load: a child process ingests with four threads, and is killed at some acknowledgement; whatever it said is there,
//! and nothing else.
//!
//! The child is this test binary itself, started again with an environment variable that gives it its part. `FAISS_PROXY_KILLS` sets how
//! many times it is killed.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use faiss_proxy::config::Limits;
use faiss_proxy::{Durability, Index, Metric, Opening, Store, StoreOptions};
use support::{Chance, dump, env_or, spec, tenant};

/// Names the data directory; whoever has it is the child.
const DATA_DIR: &str = "FAISS_PROXY_KILL_TEST_DATA_DIR";
const START: &str = "FAISS_PROXY_KILL_TEST_START";

const THREADS: u64 = 4;

/// Ids of a thread. It stores or deletes a few of them each time.
const IDS: u64 = 12;

/// Rotation, markers, interval syncs and checkpoints in the background, as often as they come.
fn options(data_dir: &Path) -> StoreOptions {
    let limits = Limits {
        log_segment_bytes: 32 << 10,
        checkpoint_log_bytes: 48 << 10,
        checkpoint_interval_ms: 20,
        interval_sync_ms: 5,
        marker_delay_ms: 1,
        ..Limits::default()
    };
    StoreOptions { limits, opening: Opening::Lazy, ..StoreOptions::new(data_dir) }
}

fn id(thread: u64, n: u64) -> String {
    format!("t{thread}-{n}")
}

/// What step `step` of a thread does: these ids are stored, or deleted. The same for whoever asks.
fn step(thread: u64, step: u64) -> (Vec<u64>, bool) {
    let mut chance = Chance::new(thread << 48 | step);
    let count = 1 + chance.below(5);
    let first = chance.below(IDS as usize) as u64;
    let ids = (0..count as u64).map(|n| (first + n) % IDS).collect();
    (ids, chance.below(4) == 0)
}

fn values(thread: u64, step: u64, n: u64) -> Vec<f32> {
    vec![thread as f32, step as f32, n as f32, 0.5]
}

/// What the ids of a thread hold after a step: the step that stored them.
fn state_after(thread: u64, last_step: u64) -> BTreeMap<u64, u64> {
    let mut state = BTreeMap::new();
    for at in 1..=last_step {
        let (ids, is_delete) = step(thread, at);
        for id in ids {
            if is_delete {
                state.remove(&id)
            } else {
                state.insert(id, at)
            };
        }
    }
    state
}

fn write(index: &Index, thread: u64, at: u64) {
    let (ids, is_delete) = step(thread, at);
    // A kill keeps what was written: it may be acknowledged before it is synced.
    let durability = if at.is_multiple_of(2) { Durability::Fsync } else { Durability::Interval };
    if is_delete {
        let ids: Vec<String> = ids.iter().map(|&n| id(thread, n)).collect();
        index.delete(&ids.iter().map(String::as_str).collect::<Vec<_>>(), durability).unwrap();
    } else {
        let mut batch = index.batch();
        for n in ids {
            batch.push(&id(thread, n), &values(thread, at, n), &format!("{{\"step\":{at}}}")).unwrap();
        }
        index.upsert(batch, durability).unwrap();
    }
}

/// The child's part. As a test of its own, in a run without the variable, it does nothing.
#[test]
fn child_role() {
    let Ok(data_dir) = std::env::var(DATA_DIR) else { return };
    let start: Vec<u64> = std::env::var(START).unwrap().split(',').map(|at| at.parse().unwrap()).collect();
    let store = Store::open(options(data_dir.as_ref())).unwrap();
    let index = store.indices(&tenant()).pop().unwrap();
    std::thread::scope(|scope| {
        for (thread, start) in (0..THREADS).zip(start) {
            let index = &index;
            scope.spawn(move || {
                for at in start + 1.. {
                    write(index, thread, at);
                    // One write of one line: threads' lines do not mix, and what is in the pipe survives the process.
                    let line = format!("acked {thread} {at}\n");
                    if std::io::stdout().lock().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn spawn(data_dir: &Path, start: &[u64]) -> Child {
    let start: Vec<String> = start.iter().map(u64::to_string).collect();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_role", "--nocapture", "--test-threads=1"])
        .env(DATA_DIR, data_dir)
        .env(START, start.join(","))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads acknowledgements until there are `count`, kills, and reads what is still in the pipe.
fn kill_after(mut child: Child, count: usize, acked: &mut [u64]) -> usize {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).split(b'\n');
    let mut seen = 0;
    let mut is_killed = false;
    while let Some(line) = lines.next().transpose().unwrap() {
        let line = String::from_utf8_lossy(&line).into_owned();
        // The test harness has its own lines, and one before the first of ours on the same line.
        let Some((_, numbers)) = line.split_once("acked ") else { continue };
        let Some((thread, at)) = numbers.split_once(' ') else { continue };
        let (thread, at): (usize, u64) = (thread.parse().unwrap(), at.parse().unwrap());
        assert_eq!(at, acked[thread] + 1, "a thread's acknowledgements come in order");
        acked[thread] = at;
        seen += 1;
        if seen == count {
            child.kill().unwrap();
            is_killed = true;
        }
    }
    let status = child.wait().unwrap();
    assert!(is_killed && !status.success(), "the child ended by itself after {seen} acknowledgements: {status}");
    seen
}

/// Compares what is there with what was acknowledged; gives for each thread the step that it is at.
fn check(index: &Index, acked: &[u64]) -> Vec<u64> {
    let found = dump(index);
    let states: Vec<u64> = (0..THREADS)
        .map(|thread| {
            let at = acked[thread as usize];
            let own: BTreeMap<u64, u64> = (0..IDS)
                .filter_map(|n| {
                    let row = found.get(&id(thread, n))?;
                    let step: u64 = row.metadata.trim_start_matches("{\"step\":").trim_end_matches('}').parse().unwrap();
                    let bits: Vec<u32> = values(thread, step, n).iter().map(|value| value.to_bits()).collect();
                    assert_eq!(row.bits, bits, "{} has the metadata of one step and the values of another", id(thread, n));
                    Some((n, step))
                })
                .collect();
            // What was acknowledged; or that and the one step that was in flight, whole.
            let state = (at..=at + 1).find(|&at| state_after(thread, at) == own);
            state
                .unwrap_or_else(|| panic!("thread {thread} acknowledged step {at}: {:?}; found {own:?}", state_after(thread, at)))
        })
        .collect();
    let known = (0..THREADS).map(|thread| state_after(thread, states[thread as usize]).len()).sum::<usize>();
    assert_eq!(found.len(), known, "points that nobody stored");
    states
}

#[test]
fn every_acknowledged_write_is_there_after_sigkill_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    {
        let store = Store::open(options(&data_dir)).unwrap();
        store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
    }
    let kills = env_or("FAISS_PROXY_KILLS", 20);
    let seed = env_or("FAISS_PROXY_KILL_SEED", 1);
    println!("{kills} kills, FAISS_PROXY_KILL_SEED={seed}");
    let mut chance = Chance::new(seed);
    let (mut acked, mut total) = (vec![0; THREADS as usize], 0);
    let mut checkpoints = 0;
    for kill in 0..kills {
        // Some soon, while the child is still at its recovery or its first writes; some after checkpoints.
        let count = 1 + chance.below(if kill % 3 == 0 { 20 } else { 1500 });
        total += kill_after(spawn(&data_dir, &acked), count, &mut acked);
        let store = Store::open(options(&data_dir)).unwrap();
        assert!(store.refused(&tenant()).is_empty(), "kill {kill}: {:?}", store.refused(&tenant()));
        let index = store.indices(&tenant()).pop().unwrap();
        acked = check(&index, &acked);
        checkpoints = index.info().checkpoint_lsn;
    }
    println!("{kills} kills after {total} acknowledged writes; the last checkpoint is at LSN {checkpoints}");
    assert!(checkpoints > 0, "no checkpoint was made under load");
}
