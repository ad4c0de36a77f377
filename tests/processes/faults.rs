//! Calls of the running program that fail: what its clients are told, and what is there when it is started again.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::thread;

use faiss_proxy::Durability;
use rustix::process::Signal;
use serde_json::json;

use crate::kills::INDEX;
use crate::load::{Site, call, created, read, serve, step};
use crate::program::ServerProcess;
use crate::record::SetOnDrop;
use crate::record::script::{Step, WRITERS};
use crate::supervisor::Action::{self, Eio, Enospc};
use crate::supervisor::{Rule, Supervisor};
use crate::support::Response;

/// A call, a pattern for its file, and what becomes of it.
type Fault = (&'static str, &'static str, Action);

/// After these nobody knows what the disk has.
const UNKNOWN: &[(&str, &[Fault])] = &[
    ("the log's sync", &[("fdatasync", "*.wal", Eio)]),
    ("the log's sync, of a full disk", &[("fdatasync", "*.wal", Enospc)]),
    ("cutting off what a write left", &[("write", "*.wal", Eio), ("truncate", "*.wal", Eio)]),
    ("syncing that it was cut off", &[("write", "*.wal", Enospc), ("fdatasync", "*.wal", Eio)]),
];

#[test]
fn a_failed_sync_leaves_the_index_read_only_and_a_restart_has_what_was_acknowledged() {
    for (what, rules) in UNKNOWN {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        let supervisor = Supervisor::new(&data_dir);
        let server = ServerProcess::start(&mut supervisor.command(&serve(&data_dir)));
        let mut site = Site::create(&server);
        let failing = site.path(FAILING).rsplit('/').next().unwrap().to_owned();
        let rules: Vec<Rule> =
            rules.iter().map(|(call, pattern, action)| Rule::always(call, &format!("*/{failing}/{pattern}"), *action)).collect();
        let (codes, others) = strike(&server, &mut site, || supervisor.set(&rules));
        assert!(!supervisor.struck().is_empty(), "{what}");
        // One at least had waited for the sync that failed.
        assert!(codes.iter().any(|code| code == "outcome_unknown"), "{what}: {codes:?}");
        assert!(codes.iter().all(|code| code == "outcome_unknown" || code == "closed"), "{what}: {codes:?}");

        supervisor.set(&[]);
        let (path, told) = site.index(FAILING);
        let document = call(server.address, "GET", path).send().json();
        assert_eq!(document["state"], "read_only", "{what}: {document}");
        assert!(document["reason"].as_str().is_some_and(|reason| reason.contains(".wal")), "{what}: {document}");
        // Also now that the disk is well: what it has is still not known.
        let (code, _) = step(server.address, path, &mut told[0], Durability::Fsync).unwrap().unwrap_err().problem(503);
        assert_eq!(code, "closed", "{what}");
        let found = read(server.address, path, told);
        told.iter().for_each(|told| assert_eq!(told.writer.standing(&found, told.acked()..=told.acked()), told.acked()));
        let query = json!({"vector": vec![0.5; told[0].writer.dimension]});
        assert_eq!(call(server.address, "POST", &format!("{path}/search")).json(&query).send().status, 200);

        server.signal(Signal::KILL);
        server.wait();
        let server = ServerProcess::start(&mut serve(&data_dir));
        site.settle(&server);
        put(&server, &mut site, FAILING).unwrap();
        println!("{what}: writers were told {codes:?}, and the other index took {others} writes meanwhile");
    }
}

/// The index that is struck: the exact one, of which nothing is synced but what is written. The other must go on.
const FAILING: usize = 0;

/// Steps within which a writer must have met a fault that is there for all of them.
const STEPS_MAX: usize = 1_000;

/// Has everybody write, then the fault set, and goes on until both writers of the failing index were refused. Gives the codes that they were told,
/// and how many writes the other index took.
fn strike(server: &ServerProcess, site: &mut Site, set: impl FnOnce()) -> (Vec<String>, usize) {
    let address = server.address;
    let is_over = AtomicBool::new(false);
    let paths = [site.path(FAILING).to_owned(), site.path(1 - FAILING).to_owned()];
    let (failing, others) = site.told.split_at_mut(WRITERS);
    thread::scope(|scope| {
        let others: Vec<_> = others
            .iter_mut()
            .map(|told| {
                let (path, is_over) = (&paths[1], &is_over);
                let mut step = move || step(address, path, told, Durability::Fsync).unwrap().unwrap();
                scope.spawn(move || {
                    let steps = std::iter::repeat_with(&mut step).take_while(|()| !is_over.load(SeqCst)).count();
                    // One that began after the other index had failed.
                    step();
                    steps
                })
            })
            .collect();
        let over = SetOnDrop(&is_over);
        let (is_writing, writing) = channel();
        let failing: Vec<_> = failing
            .iter_mut()
            .map(|told| {
                let (path, is_writing) = (&paths[0], is_writing.clone());
                scope.spawn(move || {
                    let answers = (0..STEPS_MAX).map(|_| {
                        let answer = step(address, path, told, Durability::Fsync).unwrap();
                        let _ = is_writing.send(());
                        answer
                    });
                    answers.filter_map(Result::err).next().expect("a writer is refused").problem(503).0
                })
            })
            .collect();
        drop(is_writing);
        // Who waits for a sync is told of it, and nobody else: they must be writing.
        writing.iter().take(20).for_each(drop);
        set();
        let codes = failing.into_iter().map(|thread| thread.join().unwrap()).collect();
        drop(over);
        (codes, others.into_iter().map(|thread| thread.join().unwrap()).sum())
    })
}

/// Makes steps of a writer up to the first that stores something.
fn put(server: &ServerProcess, site: &mut Site, index: usize) -> Result<(), Response> {
    let (path, told) = site.index(index);
    let told = &mut told[0];
    loop {
        let is_put = matches!(told.writer.step(told.acked() + 1), Step::Put(_));
        step(server.address, path, told, Durability::Fsync).unwrap()?;
        if is_put {
            return Ok(());
        }
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// The first write after a start, for which a log segment is begun.
    FirstWrite,
    Write,
    Checkpoint,
    Compact,
    Create,
}

impl Ask {
    /// Only the second index has FAISS indexes, and only of the first it is known when it is checkpointed: when it is asked to be.
    fn index(self) -> usize {
        usize::from(self == Self::Compact)
    }
}

/// After these nothing was stored: what was asked for, and the call that fails. In the order in which one server can be asked for them.
const REFUSED: &[(Ask, &str, &str, Action)] = &[
    (Ask::FirstWrite, "create", "*.wal.tmp", Eio),
    (Ask::FirstWrite, "create", "*.wal.tmp", Enospc),
    (Ask::FirstWrite, "write", "*.wal.tmp", Eio),
    (Ask::FirstWrite, "write", "*.wal.tmp", Enospc),
    (Ask::FirstWrite, "fdatasync", "*.wal.tmp", Eio),
    (Ask::FirstWrite, "rename", "*.wal", Eio),
    (Ask::FirstWrite, "fsync", "*/wal", Eio),
    (Ask::FirstWrite, "create", "*/manifest-*.tmp", Enospc),
    (Ask::FirstWrite, "write", "*/manifest-*.tmp", Eio),
    (Ask::FirstWrite, "write", "*/manifest-*.tmp", Enospc),
    (Ask::FirstWrite, "fdatasync", "*/manifest-*.tmp", Eio),
    (Ask::FirstWrite, "rename", "*/manifest-*", Enospc),
    (Ask::Write, "write", "*.wal", Eio),
    (Ask::Write, "write", "*.wal", Enospc),
    (Ask::Checkpoint, "create", "*.seg", Enospc),
    (Ask::Checkpoint, "write", "*.seg", Eio),
    (Ask::Checkpoint, "write", "*.seg", Enospc),
    (Ask::Checkpoint, "fdatasync", "*.seg", Eio),
    (Ask::Checkpoint, "fsync", "*/segments", Eio),
    (Ask::Checkpoint, "write", "*/manifest-*.tmp", Enospc),
    (Ask::Checkpoint, "rename", "*/manifest-*", Eio),
    (Ask::Compact, "create", "*.faiss", Eio),
    (Ask::Compact, "write", "*.faiss", Eio),
    (Ask::Compact, "write", "*.faiss", Enospc),
    (Ask::Compact, "fdatasync", "*.faiss", Eio),
    (Ask::Compact, "write", "*.seg", Enospc),
    (Ask::Compact, "fsync", "*/segments", Eio),
    (Ask::Create, "mkdir", "*/.creating-*", Enospc),
    (Ask::Create, "mkdir", "*/.creating-*/wal", Eio),
    (Ask::Create, "write", "*/.creating-*/manifest-*", Enospc),
    (Ask::Create, "rename", INDEX, Eio),
];

#[test]
fn a_fault_before_anything_counts_is_answered_and_the_next_attempt_works() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let supervisor = Supervisor::new(&data_dir);
    let mut server = ServerProcess::start(&mut serve(&data_dir));
    let mut site = Site::create(&server);
    for n in 0..2 {
        let (path, told) = site.index(n);
        told.iter_mut()
            .for_each(|told| (0..60).for_each(|_| step(server.address, path, told, Durability::Fsync).unwrap().unwrap()));
    }
    // Not killed: recovery would have to begin a log segment.
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    server = ServerProcess::start(&mut supervisor.command(&serve(&data_dir)));
    let mut before = Ask::FirstWrite;
    for &(what, call_that_fails, pattern, action) in REFUSED {
        let case = format!("{what:?}: {call_that_fails} {pattern} {action:?}");
        if before == Ask::FirstWrite && what != before {
            assert!(ask(&server, &mut site, Ask::FirstWrite).is_ok(), "{case}");
        }
        before = what;
        if matches!(what, Ask::Checkpoint | Ask::Compact) {
            // So that there is something to do.
            assert!(put(&server, &mut site, what.index()).is_ok(), "{case}");
        }
        supervisor.clear();
        supervisor.set(&[Rule::always(call_that_fails, pattern, action)]);
        let (code, detail) = match ask(&server, &mut site, what) {
            Ok(()) => panic!("{case}: it was done"),
            Err(response) => response.problem(if action == Enospc { 507 } else { 503 }),
        };
        supervisor.set(&[]);
        assert!(!supervisor.struck().is_empty(), "{case}");
        assert_eq!(code, if action == Enospc { "disk_full" } else { "io_error" }, "{case}: {detail}");
        let (path, told) = site.index(what.index());
        assert_ne!(call(server.address, "GET", path).send().json()["state"], "read_only", "{case}");
        let found = read(server.address, path, told);
        told.iter().for_each(|told| assert_eq!(told.writer.standing(&found, told.acked()..=told.acked()), told.acked()));
        if what != Ask::FirstWrite {
            assert!(ask(&server, &mut site, what).is_ok(), "{case}: the next attempt");
        }
    }
    server.signal(Signal::KILL);
    server.wait();
    site.settle(&ServerProcess::start(&mut serve(&data_dir)));
    println!("{} faults were answered, and nothing was stored", REFUSED.len());
}

/// Asks the server for it.
fn ask(server: &ServerProcess, site: &mut Site, what: Ask) -> Result<(), Response> {
    let address = server.address;
    let post = |path: &str| {
        let response = call(address, "POST", path).send();
        if response.status == 200 { Ok(()) } else { Err(response) }
    };
    let path = site.path(what.index()).to_owned();
    match what {
        Ask::FirstWrite | Ask::Write => put(server, site, what.index()),
        Ask::Checkpoint => post(&format!("{path}/checkpoint")),
        Ask::Compact => post(&format!("{path}/compact")),
        Ask::Create => {
            let response = call(address, "POST", "/v1/index").json(&json!({"name": "n", "dimension": 1})).send();
            if response.status != 201 {
                return Err(response);
            }
            let path = created(&response);
            assert_eq!(call(address, "DELETE", &path).send().status, 204);
            Ok(())
        }
    }
}

#[test]
fn a_manifest_whose_name_may_not_be_durable_leaves_the_index_read_only() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let supervisor = Supervisor::new(&data_dir);
    let mut server = ServerProcess::start(&mut supervisor.command(&serve(&data_dir)));
    let mut site = Site::create(&server);
    for what in [Ask::FirstWrite, Ask::Checkpoint] {
        if what == Ask::Checkpoint {
            assert!(ask(&server, &mut site, Ask::Write).is_ok());
        }
        supervisor.clear();
        supervisor.set(&[Rule::once("fsync", INDEX, Eio)]);
        let (code, detail) = ask(&server, &mut site, what).expect_err("a sync failed").problem(503);
        assert_eq!((code.as_str(), supervisor.struck().len()), ("outcome_unknown", 1), "{what:?}: {detail}");
        assert_eq!(call(server.address, "GET", site.path(0)).send().json()["state"], "read_only", "{what:?}");
        assert!(ask(&server, &mut site, Ask::Write).is_err(), "{what:?}");
        supervisor.set(&[]);
        drop(server);
        server = ServerProcess::start(&mut supervisor.command(&serve(&data_dir)));
        site.settle(&server);
    }
    // The same of the name of a new index: it is not there, and its maker was told that this is not known.
    supervisor.set(&[Rule::once("fsync", "tenant-1", Eio)]);
    let (code, detail) = ask(&server, &mut site, Ask::Create).expect_err("a sync failed").problem(503);
    assert_eq!(code, "outcome_unknown", "{detail}");
    supervisor.set(&[]);
    assert!(ask(&server, &mut site, Ask::Create).is_ok());
    drop(server);
    site.settle(&ServerProcess::start(&mut serve(&data_dir)));
}
