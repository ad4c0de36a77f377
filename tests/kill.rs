//! SIGKILL under load: a child process ingests with four threads into two indices, one of which is built and compacted all the time, and is killed at
//! some acknowledgement; whatever it said is there, and nothing else.
//!
//! `FAISS_PROXY_KILLS` sets how many times it is killed.

mod support;

use support::child::{self, Ingested};
use support::{Before, Chance, env_or};

#[test]
fn child_role() {
    child::play();
}

#[test]
fn every_acknowledged_write_is_there_after_sigkill_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let mut told = child::create(&data_dir);
    let kills = env_or("FAISS_PROXY_KILLS", 20);
    let seed = env_or("FAISS_PROXY_KILL_SEED", 1);
    println!("{kills} kills, FAISS_PROXY_KILL_SEED={seed}");
    let mut chance = Chance::new(seed);
    let (mut total, mut built) = (0, 0);
    let mut checkpoints = Vec::new();
    for kill in 0..kills {
        // Some soon, while the child is still at its recovery or its first writes; some after checkpoints.
        let count = 1 + chance.below(if kill % 3 == 0 { 20 } else { 1500 });
        let Ingested { acks, failures } = child::ingest(&data_dir, &mut told, |acks, _, child| {
            if acks == count {
                child.kill().unwrap();
            }
        });
        assert!(acks >= count && failures.is_empty(), "the child ended by itself after {acks} acknowledgements: {failures:?}");
        total += acks;
        let settled = child::settle(&data_dir, &mut told, Before::Kill);
        checkpoints = settled.checkpoint_lsns;
        built += settled.built;
    }
    println!(
        "{kills} kills after {total} acknowledged writes; the last checkpoints are at the LSNs {checkpoints:?}; {built} FAISS indexes were found"
    );
    assert!(checkpoints.iter().all(|&lsn| lsn > 0), "no checkpoint was made under load");
    assert!(built > 0, "nothing was built under load");
}
