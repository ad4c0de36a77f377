//! SIGKILL of the program under concurrent load over HTTP, at some acknowledgement, and at some call.

use std::collections::BTreeMap;

use rustix::process::Signal;

use crate::load::{Site, serve};
use crate::program::ServerProcess;
use crate::record::{Chance, env_or};
use crate::supervisor::{Action, Rule, Supervisor};

#[test]
fn every_acknowledged_write_is_there_after_sigkill_under_load_over_http() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let kills = env_or("FAISS_PROXY_HTTP_KILLS", 15);
    let seed = env_or("FAISS_PROXY_HTTP_KILL_SEED", 1);
    println!("{kills} kills, FAISS_PROXY_HTTP_KILL_SEED={seed}");
    let mut chance = Chance::new(seed);
    let mut server = ServerProcess::start(&mut serve(&data_dir));
    let mut site = Site::create(&server);
    let mut total = 0;
    for kill in 0..kills {
        let count = 1 + chance.below(if kill % 3 == 0 { 20 } else { 800 });
        total += site.run(&server, |acks| {
            if acks == count {
                server.signal(Signal::KILL);
            }
        });
        assert_eq!(server.wait().code(), None, "kill {kill}: it ended by itself");
        server = ServerProcess::start(&mut serve(&data_dir));
        site.settle(&server);
    }
    println!("{kills} kills after {total} acknowledged writes over HTTP");
}

/// Every kind of call that changes a file, and how many of a kind are let happen at most: what is frequent is struck somewhere.
const KINDS: &[(&str, &str, usize)] = &[
    ("*", "*", 1_500),
    ("write", "*.wal", 300),
    ("fdatasync", "*.wal", 150),
    // A new log segment.
    ("create", "*.wal.tmp", 3),
    ("write", "*.wal.tmp", 6),
    ("fdatasync", "*.wal.tmp", 3),
    ("rename", "*.wal", 3),
    ("fsync", "*/wal", 3),
    ("remove", "*.wal", 3),
    // A manifest.
    ("create", "*/manifest-*.tmp", 20),
    ("write", "*/manifest-*.tmp", 20),
    ("fdatasync", "*/manifest-*.tmp", 20),
    ("rename", "*/manifest-*[0-9]", 20),
    ("fsync", INDEX, 20),
    ("remove", "*/manifest-*[0-9]", 20),
    // A checkpoint or a compaction.
    ("create", "*.seg", 8),
    ("write", "*.seg", 20),
    ("fdatasync", "*.seg", 8),
    ("create", "*.faiss", 4),
    ("write", "*.faiss", 20),
    ("fdatasync", "*.faiss", 4),
    ("create", "*.dead", 4),
    ("write", "*.dead", 4),
    ("fdatasync", "*.dead", 4),
    ("fsync", "*/segments", 8),
    ("remove", "*.seg", 8),
    ("remove", "*.faiss", 4),
    ("remove", "*.dead", 4),
    // Creating and deleting an index.
    ("mkdir", "*/.creating-*", 6),
    ("rename", INDEX, 2),
    ("fsync", "tenant-1", 4),
    ("rename", "*/.deleting-*", 2),
    ("remove", "*/.deleting-*", 8),
    // The start.
    ("*", "*", 2),
];

/// The directory of an index.
pub const INDEX: &str = "tenant-1/????????-????-????-????-????????????";

/// Acknowledgements within which a kind of call must have been made.
const ACKS_MAX: usize = 20_000;

#[test]
fn every_acknowledged_write_is_there_after_sigkill_at_every_kind_of_call() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let kills = env_or("FAISS_PROXY_CALL_KILLS", KINDS.len() as u64);
    let seed = env_or("FAISS_PROXY_CALL_KILL_SEED", 1);
    println!("{kills} kills, FAISS_PROXY_CALL_KILL_SEED={seed}");
    let mut chance = Chance::new(seed);
    let supervisor = Supervisor::new(&data_dir);
    let mut server = ServerProcess::start(&mut serve(&data_dir));
    let mut site = Site::create(&server);
    let mut total = 0;
    let mut struck: BTreeMap<String, usize> = BTreeMap::new();
    for &(call, pattern, skip_max) in KINDS.iter().cycle().take(kills as usize) {
        drop(server);
        let skip = chance.below(skip_max);
        supervisor.clear();
        supervisor.set(&[Rule { skip, ..Rule::once(call, pattern, Action::Kill) }]);
        // It may not come to listen.
        if let Ok(supervised) = ServerProcess::try_start(&mut supervisor.command(&serve(&data_dir))) {
            total +=
                site.run(&supervised, |acks| assert!(acks < ACKS_MAX, "no {call} of {pattern} within {acks} acknowledgements"));
        }
        let struck_now = supervisor.struck();
        let [at] = &struck_now[..] else { panic!("{call} {pattern} after {skip}: {struck_now:?}") };
        *struck.entry(kind(at)).or_default() += 1;
        server = ServerProcess::start(&mut serve(&data_dir));
        site.settle(&server);
    }
    println!("{kills} kills at {} kinds of calls, after {total} acknowledged writes over HTTP: {struck:#?}", struck.len());
}

/// A call and its path without the names that are this run's.
fn kind(call: &str) -> String {
    let parts = call.split('/').map(|part| {
        let is_id = part.len() >= 36 && part.matches('-').count() >= 4;
        if is_id { part[..part.len() - 36].to_owned() + "ID" } else { part.replace(|c: char| c.is_ascii_digit(), "") }
    });
    parts.collect::<Vec<_>>().join("/")
}
