//! A repair gives up what was consented to by name and nothing else, copies what is damaged aside first, says what is lost, and leaves an index that serves; a crash at
//! any operation of it leaves the index as it was, or repaired.

#[path = "support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use faiss_proxy::io::Io;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::{
    Consent, Durability, Effect, Error, IdempotencyKey, IndexId, IndexOptions, IndexSpec, Metric, Survey, WriteOptions,
};
use support::{State, digest_of, dump, files_below, open_store, point, spec, tenant, tiny_limits};

/// Two segments with dead rows and FAISS indexes, keys, and five mutations in the log alone: LSN 7 to 11. And the states after each mutation.
fn sample() -> (SimIo, IndexId, Vec<State>) {
    let disk = SimIo::new();
    let options = IndexOptions { min_recall: Some(0.0), ..IndexOptions::default() };
    let spec = IndexSpec { index_type: "HNSW4".into(), options, ..spec(4, Metric::L2) };
    let store = open_store(disk.clone(), "/data", &tiny_limits()).unwrap();
    let index = store.create_index(&tenant(), &spec).unwrap();
    let states = RefCell::new(vec![State::new()]);
    let put = |ids: &[String], version: u64| {
        let mut batch = index.batch();
        for point in ids.iter().map(|id| point(id, version)) {
            batch.push(&point.id, &point.values, &point.metadata).unwrap();
        }
        index.upsert(batch, Durability::Fsync).unwrap();
        states.borrow_mut().push(dump(&index));
    };
    let delete = |ids: &[&str], options: WriteOptions| {
        index.delete(ids, options).unwrap();
        states.borrow_mut().push(dump(&index));
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    put(&(0..40).map(|n| format!("a{n}")).collect::<Vec<_>>(), 1);
    index.train().unwrap();
    put(&names(&["b0", "b1", "b2"]), 1);
    put(&names(&["b3"]), 1);
    index.checkpoint().unwrap();
    delete(&["a1", "b1"], WriteOptions::default());
    put(&names(&["b4"]), 1);
    delete(&["absent"], WriteOptions { key: Some(IdempotencyKey::new("key", &[]).unwrap()), ..WriteOptions::default() });
    index.checkpoint().unwrap();
    put(&names(&["c0"]), 9);
    put(&names(&["a0", "c1"]), 9);
    delete(&["a2"], WriteOptions::default());
    put(&names(&["c2"]), 9);
    put(&names(&["c3"]), 9);
    // All of it is vouched for.
    index.sync().unwrap();
    assert_eq!((index.info().lsn, index.info().checkpoint_lsn), (11, 6));
    let id = index.id();
    (disk.fork(), id, states.take())
}

fn directory(id: IndexId) -> PathBuf {
    Path::new("/data/tenant-1").join(id.to_string())
}

fn files(disk: &SimIo, id: IndexId, kind: &str) -> Vec<PathBuf> {
    let mut files = files_below(disk, &directory(id));
    files.retain(|path| path.extension().is_some_and(|extension| extension == kind));
    files.sort_by_key(|path| disk.map(path).unwrap().len());
    files
}

fn number(path: &Path) -> u64 {
    path.file_stem().unwrap().to_str().unwrap().parse().unwrap()
}

fn flip(disk: &SimIo, path: &Path, at: usize) {
    let byte = disk.map(path).unwrap()[at] ^ 1;
    disk.open(path).unwrap().write_at(at as u64, &[std::io::IoSlice::new(&[byte])]).unwrap();
}

/// Damages the frame that holds this text.
fn damage_log(disk: &SimIo, id: IndexId, text: &str) -> PathBuf {
    for path in files(disk, id, "wal") {
        let bytes = disk.map(&path).unwrap().to_vec();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text.as_bytes()) {
            flip(disk, &path, at);
            return path;
        }
    }
    panic!("{text} is in no log");
}

fn survey(disk: &SimIo) -> Survey {
    Survey::open(Arc::new(disk.clone()), "/data").unwrap()
}

fn repairs(disk: &SimIo, id: IndexId) -> Vec<(Consent, bool)> {
    survey(disk).repairs(&tenant(), id).unwrap()
}

fn repair(disk: &SimIo, id: IndexId, consents: &[Consent]) -> Result<faiss_proxy::Repaired, Error> {
    Survey::open_alone(Arc::new(disk.clone()), "/data")?.repair(&tenant(), id, consents, false)
}

/// It opens with this state, is sound, takes a write, and opens again.
fn serves(disk: &SimIo, id: IndexId, expected: &State, lsn: u64) {
    let verified = survey(disk).verify(&tenant(), id, &|_| {});
    assert!(verified.findings.iter().all(|finding| finding.effect == Effect::Spare), "{verified:?}");
    assert_eq!((verified.lsn, verified.digest), (lsn, Some(digest_of(expected))));
    let store = open_store(disk.clone(), "/data", &tiny_limits()).unwrap();
    let index = store.index(&tenant(), id).unwrap();
    assert_eq!(dump(&index), *expected);
    let mut batch = index.batch();
    batch.push("later", &[1.0; 4], "{}").unwrap();
    assert_eq!(index.upsert(batch, Durability::Fsync).unwrap().lsn, lsn + 1);
    let after = dump(&index);
    drop((index, store));
    let store = open_store(disk.clone(), "/data", &tiny_limits()).unwrap();
    assert_eq!(dump(&store.index(&tenant(), id).unwrap()), after);
}

#[test]
fn a_damaged_log_is_cut_where_it_is_damaged_and_what_was_behind_is_told_by_lsn_and_id() {
    let (disk, id, states) = sample();
    let log = damage_log(&disk, id, "c1");
    let damaged = disk.map(&log).unwrap().to_vec();
    assert!(open_store(disk.clone(), "/data", &tiny_limits()).unwrap().index(&tenant(), id).is_err());
    assert_eq!(repairs(&disk, id), [(Consent::TruncateLogAt(8), true)]);
    let before = disk.mutations();
    let planned = survey(&disk).repair(&tenant(), id, &[Consent::TruncateLogAt(8)], true).unwrap();
    assert_eq!(disk.mutations(), before, "a dry run wrote");
    let repaired = repair(&disk, id, &[Consent::TruncateLogAt(8)]).unwrap();
    assert_eq!((repaired.lsn, repaired.lost_lsns, repaired.unknown_mutations), (7, Some((8, 11)), 1));
    assert_eq!((planned.lost_lsns, &planned.changed_ids), (repaired.lost_lsns, &repaired.changed_ids));
    assert_eq!(repaired.changed_ids, ["a2", "c2", "c3"].map(str::to_owned).into());
    let copy = repaired.aside.iter().find(|path| path.to_str().unwrap().starts_with(log.to_str().unwrap())).unwrap();
    assert_eq!(disk.map(copy).unwrap().to_vec(), damaged);
    serves(&disk, id, &states[7], 7);
}

#[test]
fn a_log_of_which_a_segment_is_missing_is_cut_there() {
    let (disk, id, states) = sample();
    let mut logs = files(&disk, id, "wal");
    logs.sort();
    disk.remove_file(logs.last().unwrap()).unwrap();
    let [(consent @ Consent::TruncateLogAt(lsn), true)] = repairs(&disk, id)[..] else { panic!("{:?}", repairs(&disk, id)) };
    let repaired = repair(&disk, id, &[consent]).unwrap();
    assert_eq!(repaired.lost_lsns.unwrap().0, lsn);
    serves(&disk, id, &states[lsn as usize - 1], lsn - 1);
}

#[test]
fn a_damaged_segment_is_dropped_and_its_points_are_told_where_they_can_be_read() {
    let (disk, id, states) = sample();
    let large = files(&disk, id, "seg").pop().unwrap();
    // A value of a vector: all of a small file is one block, and nothing of it can be believed.
    flip(&disk, &large, 70);
    let consent = Consent::DropSegment(number(&large));
    assert_eq!(repairs(&disk, id), [(consent, true)]);
    let repaired = repair(&disk, id, &[consent]).unwrap();
    assert_eq!((repaired.lost_rows, repaired.lsn), (40, 11));
    let mut expected = states[11].clone();
    expected.retain(|id, row| !id.starts_with('a') || row.lsn > 6);
    serves(&disk, id, &expected, 11);
}

#[test]
fn dead_rows_that_are_not_known_take_their_segment_with_them_and_its_live_points_are_told() {
    let (disk, id, states) = sample();
    let dead = files(&disk, id, "dead");
    flip(&disk, &dead[0], 9);
    let [(consent, true)] = repairs(&disk, id)[..] else { panic!("{:?}", repairs(&disk, id)) };
    let repaired = repair(&disk, id, &[consent]).unwrap();
    assert!(!repaired.lost_ids.is_empty());
    let mut expected = states[11].clone();
    expected.retain(|id, row| row.lsn > 6 || !repaired.lost_ids.contains(id));
    let gone: BTreeSet<&String> = states[11].keys().filter(|id| !expected.contains_key(*id)).collect();
    // Which of its rows were dead is what is not known.
    assert!(gone.iter().all(|id| repaired.lost_ids.contains(*id)));
    serves(&disk, id, &expected, 11);
}

#[test]
fn keys_are_forgotten_and_an_index_of_faiss_is_given_up_by_name() {
    let (disk, id, states) = sample();
    flip(&disk, &files(&disk, id, "keys").pop().unwrap(), 0);
    let faiss = files(&disk, id, "faiss").pop().unwrap();
    flip(&disk, &faiss, 100);
    let found = repairs(&disk, id);
    let [(rebuild @ Consent::RebuildIndex(_), false), (Consent::ForgetKeys, true)] = found[..] else { panic!("{found:?}") };
    repair(&disk, id, &[Consent::ForgetKeys, rebuild]).unwrap();
    assert!(disk.open(&faiss).is_err() && files(&disk, id, "damaged").len() == 2);
    serves(&disk, id, &states[11], 11);
}

#[test]
fn nothing_is_done_without_consent_to_all_that_is_needed_or_with_consent_to_what_is_sound() {
    let (disk, id, _) = sample();
    let [small, large] = [0, 1].map(|at| files(&disk, id, "seg")[at].clone());
    let refused = |consents: &[Consent], expected: &str| {
        let before = disk.mutations();
        let error = repair(&disk, id, consents).unwrap_err();
        assert!(matches!(&error, Error::Conflict(why) if why.contains(expected) && why.contains("nothing was done")), "{error}");
        assert_eq!(disk.mutations(), before);
    };
    refused(&[Consent::DropSegment(number(&large))], "--drop-segment");
    refused(&[Consent::ForgetKeys], "--forget-keys: verify finds nothing");
    flip(&disk, &large, 70);
    flip(&disk, &small, 70);
    damage_log(&disk, id, "c1");
    refused(
        &[Consent::DropSegment(number(&large))],
        &format!("this needs --truncate-log-at 8 --drop-segment {} too", number(&small)),
    );
    refused(&[Consent::TruncateLogAt(9)], "--truncate-log-at 9: verify finds nothing");
    let missing = repair(&disk, IndexId::nil(), &[Consent::ForgetKeys]).unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)));
    // No part of a manifest can be given up.
    let manifest = files_below(&disk, &directory(id)).into_iter().filter(|path| path.extension().is_none()).max().unwrap();
    flip(&disk, &manifest, 20);
    assert!(matches!(survey(&disk).repairs(&tenant(), id), Err(Error::Corrupt(_))));
}

#[test]
fn an_erasure_takes_what_a_repair_copied_aside() {
    let (disk, id, _) = sample();
    damage_log(&disk, id, "c1");
    flip(&disk, &files(&disk, id, "seg").pop().unwrap(), 70);
    let consents: Vec<Consent> = repairs(&disk, id).into_iter().map(|(consent, _)| consent).collect();
    repair(&disk, id, &consents).unwrap();
    assert!(files(&disk, id, "damaged").len() > 1);
    let store = open_store(disk.clone(), "/data", &tiny_limits()).unwrap();
    store.index(&tenant(), id).unwrap().erase().unwrap();
    assert_eq!(files(&disk, id, "damaged"), [""; 0].map(PathBuf::from));
}

#[test]
fn repair_that_crashes_at_any_operation_leaves_the_index_as_it_was_or_repaired() {
    let (damaged, id, _) = sample();
    damage_log(&damaged, id, "c1");
    flip(&damaged, &files(&damaged, id, "seg").pop().unwrap(), 70);
    // The damage is on the disk, and not in memory alone.
    let damaged = damaged.crash(Survival::All);
    let consents: Vec<Consent> = repairs(&damaged, id).into_iter().map(|(consent, _)| consent).collect();
    let whole = damaged.fork();
    repair(&whole, id, &consents).unwrap();
    let expected = survey(&whole).verify(&tenant(), id, &|_| {}).digest;
    assert!(expected.is_some());
    let (mut points, mut states) = (0, 0);
    for n in 1.. {
        let disk = damaged.fork();
        disk.crash_at(n);
        let is_done = repair(&disk, id, &consents).is_ok() && !disk.is_crashed();
        for survival in [Survival::None, Survival::All].into_iter().chain((0..8).map(Survival::Random)) {
            let after = disk.crash(survival);
            states += 1;
            let found = survey(&after).verify(&tenant(), id, &|_| {});
            if found.digest.is_none() {
                assert!(!is_done, "crash at {n}, {survival:?}: it was told to be repaired");
                assert_eq!(repairs(&after, id).into_iter().map(|(consent, _)| consent).collect::<Vec<_>>(), consents);
                repair(&after, id, &consents).unwrap();
            }
            assert_eq!(survey(&after).verify(&tenant(), id, &|_| {}).digest, expected, "crash at {n}, {survival:?}");
            let store = open_store(after.clone(), "/data", &tiny_limits()).unwrap();
            store.index(&tenant(), id).unwrap();
        }
        points = n;
        if is_done {
            break;
        }
    }
    println!("{points} crash points, {states} states");
    assert!(points > 30, "{points}");
}
