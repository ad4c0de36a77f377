use std::io::IoSlice;
use std::path::{Path, PathBuf};

use super::*;
use crate::engine::{Consent, Repaired, Survey};
use crate::format::manifest::SEGMENT_DIRECTORY;
use crate::io::Io;

fn survey(disk: &SimIo) -> Survey {
    Survey::open(Arc::new(disk.clone()), "/data").unwrap()
}

fn repairs(disk: &SimIo) -> Vec<(Consent, bool)> {
    survey(disk).repairs(&tenant(), ID).unwrap()
}

fn repair(disk: &SimIo, consent: Consent, dry_run: bool) -> Result<Repaired> {
    Survey::open_alone(Arc::new(disk.clone()), "/data").unwrap().repair(&tenant(), ID, &[consent], dry_run)
}

/// The files in a directory of the index.
fn files(disk: &SimIo, name: &str) -> Vec<PathBuf> {
    let directory = Path::new("/data/t").join(ID.to_string()).join(name);
    disk.list(&directory).unwrap().into_iter().map(|entry| directory.join(entry.name)).collect()
}

fn flip(disk: &SimIo, path: &Path, at: usize) {
    let byte = disk.map(path).unwrap()[at] ^ 1;
    disk.open(path).unwrap().write_at(at as u64, &[IoSlice::new(&[byte])]).unwrap();
}

/// Five points in a checkpoint, one of them by a request with a key, and five in the log alone, all of it durable in the node's own files; and
/// another node.
fn sample(logs: &Arc<dyn Cluster>) -> (Node, Node) {
    let (one, other) = (Node::new(logs), Node::new(logs));
    one.put_all("a", 4);
    let options = WriteOptions { key: Some(IdempotencyKey::new("key", &[]).unwrap()), ..WriteOptions::default() };
    one.index.upsert(batch(&one.index, "a4", 1.0, Condition::Always), options).unwrap();
    one.index.checkpoint().unwrap();
    one.put_all("beta", 5);
    one.index.sync().unwrap();
    other.index.catch_up().unwrap();
    assert_eq!((one.index.info().lsn, one.index.info().checkpoint_lsn), (10, 5));
    (one, other)
}

#[test]
fn index_of_a_shared_log_is_verified_without_that_log() {
    let (_, logs) = in_memory();
    let (one, other) = sample(&logs);
    let disk = one.disk.crash(Survival::All);
    let before = disk.fingerprint();
    let verified = survey(&disk).verify(&tenant(), ID, &|_| {});
    assert_eq!((verified.lsn, verified.points, &verified.findings[..]), (10, 10, &[][..]));
    assert_eq!(verified.digest, Some(state(&other.index).1), "what every node has");
    assert_eq!((repairs(&disk), disk.fingerprint()), (Vec::new(), before));
}

/// What a node gives up of its log, the shared one still has.
#[test]
fn node_whose_log_was_cut_comes_to_the_state_of_the_others() {
    let (_, logs) = in_memory();
    let (one, other) = sample(&logs);
    let disk = one.disk.crash(Survival::All);
    // The frame of LSN 8.
    let (at, path) = files(&disk, LOG_DIRECTORY)
        .into_iter()
        .find_map(|path| Some((disk.map(&path).unwrap().windows(5).position(|bytes| bytes == b"beta2")?, path)))
        .unwrap();
    flip(&disk, &path, at);
    let open = |disk: &SimIo| Store::open_with(options(disk), Some(Arc::clone(&logs).into())).unwrap();
    assert!(matches!(open(&disk).index(&tenant(), ID), Err(Error::Corrupt(_))));
    assert_eq!(repairs(&disk), [(Consent::TruncateLogAt(8), true)]);
    let repaired = repair(&disk, Consent::TruncateLogAt(8), false).unwrap();
    assert_eq!((repaired.lsn, repaired.lost_lsns), (7, Some((8, 10))));

    other.put("c").unwrap();
    let store = open(&disk);
    let index = store.index(&tenant(), ID).unwrap();
    assert_eq!(index.info().lsn, 11);
    assert_equal(&index, &other.index);
    put(&index, "d", 1.0, Condition::Absent).unwrap();
    index.checkpoint().unwrap();
    put(&index, "e", 1.0, Condition::Absent).unwrap();
    for survival in [Survival::None, Survival::All] {
        let disk = disk.crash(survival);
        let store = open(&disk);
        assert_equal(&store.index(&tenant(), ID).unwrap(), &other.index);
        assert_eq!(survey_of_closed(store, &disk), (13, Some(state(&other.index).1)));
    }
}

fn survey_of_closed(store: Store, disk: &SimIo) -> (Lsn, Option<String>) {
    drop(store);
    let verified = survey(disk).verify(&tenant(), ID, &|_| {});
    (verified.lsn, verified.digest)
}

#[test]
fn repair_that_would_give_a_node_another_state_than_the_others_is_refused_and_nothing_is_done() {
    for kind in ["seg", "keys"] {
        let (_, logs) = in_memory();
        let (one, _other) = sample(&logs);
        let disk = one.disk.crash(Survival::All);
        let found = files(&disk, SEGMENT_DIRECTORY).into_iter().find(|path| path.extension().is_some_and(|found| found == kind));
        let path = found.unwrap();
        flip(&disk, &path, 5);
        let number: u64 = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let consent = if kind == "seg" { Consent::DropSegment(number) } else { Consent::ForgetKeys };
        assert_eq!(repairs(&disk), [(consent, true)]);
        for dry_run in [true, false] {
            let before = disk.fingerprint();
            let refused = repair(&disk, consent, dry_run).map(drop);
            let Err(Error::Conflict(why)) = &refused else { panic!("{refused:?}") };
            assert!(
                why.starts_with(&consent.to_string()) && why.contains("other nodes") && why.ends_with("nothing was done"),
                "{why}"
            );
            assert_eq!(disk.fingerprint(), before, "{kind}: something was done");
        }
    }
}
