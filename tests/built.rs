//! What is built over segments: damage of it costs no data, and builds and compactions lose nothing that happens beside them.

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use faiss_proxy::config::Limits;
use faiss_proxy::io::os::OsIo;
use faiss_proxy::io::sim::{Fault, SimIo};
use faiss_proxy::io::{Io, durable};
use faiss_proxy::{Durability, Error, Index, IndexOptions, IndexSpec, Metric, Opening, Query, Store, StoreOptions};
use support::{Before, Session, SetOnDrop, dump, files_below, spec, tenant};

fn graph(index_type: &str, seal_rows: u32) -> IndexSpec {
    let options = IndexOptions { seal_rows: Some(seal_rows), ..IndexOptions::default() };
    IndexSpec { index_type: index_type.to_owned(), options, ..spec(4, Metric::L2) }
}

/// A disk with an index that is built, and what is in it.
fn built() -> (SimIo, Session) {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &Limits::default(), &graph("HNSW8", 20));
    let ids: Vec<String> = (0..50).map(|n| format!("document-{n}")).collect();
    session.put(&ids.iter().map(String::as_str).collect::<Vec<_>>(), 1).unwrap();
    session.delete(&["document-7"], Durability::Interval).unwrap();
    session.checkpoint().unwrap();
    session.settle_builds().unwrap();
    assert!(session.index.info().builds[0].factory.is_some());
    (disk, session)
}

fn with_extension(disk: &SimIo, extension: &str) -> Vec<PathBuf> {
    let files = files_below(disk, Path::new("/data"));
    files.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// The file's bytes, changed, in its place.
fn damage(disk: &SimIo, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = durable::read_all(disk, path, 1 << 30).unwrap();
    change(&mut bytes);
    let name = path.file_name().unwrap().to_string_lossy();
    durable::replace(disk, path.parent().unwrap(), &name, &[std::io::IoSlice::new(&bytes)]).unwrap();
}

#[test]
fn a_damaged_index_file_is_said_scanned_and_built_again() {
    let (disk, session) = built();
    let history = session.history.clone();
    drop(session);
    let [file] = &with_extension(&disk, "faiss")[..] else { panic!("one index") };
    let bytes = durable::read_all(&disk, file, 1 << 30).unwrap().len();
    let mut states = 0;
    let cuts = [0, 1, bytes / 2, bytes - 1].map(|length| (format!("cut to {length}"), length, None));
    let flips = (0..bytes).step_by(bytes / 40).map(|at| (format!("byte {at} flipped"), bytes, Some(at)));
    for (what, length, flipped) in cuts.into_iter().chain(flips) {
        let disk = disk.fork();
        damage(&disk, file, |bytes| {
            bytes.truncate(length);
            if let Some(at) = flipped {
                bytes[at] ^= 0x10;
            }
        });
        check_rebuilt(&disk, file, &history, &what);
        states += 1;
    }
    disk.remove_file(file).unwrap();
    check_rebuilt(&disk, file, &history, "missing");
    println!("{states} damaged index files");
}

fn check_rebuilt(disk: &SimIo, file: &Path, history: &support::History, what: &str) {
    let mut session = Session::open(disk, &Limits::default(), history.clone(), Before::Kill).unwrap();
    let build = &session.index.info().builds[0];
    let reason = build.reason.clone().unwrap_or_default();
    assert!(build.factory.is_none() && reason.contains(".faiss"), "{what}: {build:?}");
    assert_eq!(session.index.info().unindexed_rows, 49, "{what}");
    session.settle_builds().unwrap();
    let build = &session.index.info().builds[0];
    assert!(build.factory.is_some() && build.reason.is_none(), "{what}: {build:?}");
    // The manifest that named it is the older one by now, and gone after the next.
    session.put(&["another"], 2).unwrap();
    session.checkpoint().unwrap();
    assert!(!with_extension(disk, "faiss").iter().any(|path| path == file), "{what}: the damaged file is gone");
    let session = Session::open(&disk.fork(), &Limits::default(), session.history.clone(), Before::Kill).unwrap();
    assert!(session.index.info().builds[0].reason.is_none(), "{what}");
}

#[test]
fn an_index_file_that_cannot_be_read_now_is_no_damage() {
    let (disk, session) = built();
    let history = session.history.clone();
    drop(session);
    let before = files_below(&disk, Path::new("/data"));
    let mut refused = 0;
    for n in 1.. {
        let disk = disk.fork();
        disk.fail_at(n, Fault::Eio);
        match Session::open(&disk, &Limits::default(), history.clone(), Before::Kill) {
            Ok(session) => {
                assert!(session.index.info().builds[0].factory.is_some(), "a fault of the disk at {n} is taken for damage")
            }
            Err(Error::Io(_) | Error::OutcomeUnknown(_)) => refused += 1,
            Err(other) => panic!("{other:?}"),
        }
        if disk.faults_left() > 0 {
            break;
        }
        assert_eq!(files_below(&disk, Path::new("/data")).len(), before.len());
    }
    assert!(refused > 4, "{refused}");
}

/// Writers, deleters and searchers beside everything that rewrites segments.
fn race(index_type: &str) {
    const WRITERS: usize = 3;
    const IDS: usize = 40;
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { log_segment_bytes: 64 << 10, ..Limits::default() };
    let open = || {
        let io = std::sync::Arc::new(OsIo);
        let options = StoreOptions {
            data_dir: directory.path().into(),
            limits: limits.clone(),
            io,
            background: true,
            opening: Opening::Eager,
        };
        Store::open(options).unwrap()
    };
    let store = open();
    let index = store.create_index(&tenant(), &graph(index_type, 30)).unwrap();
    let is_over = AtomicBool::new(false);
    // How often rows died while a rewriting was under way.
    let (overlaps, deaths, rewritings) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let id = |writer: usize, n: usize| format!("{writer}/{n}");
    // Of an id, versions only rise; a version in the values and the metadata tell of each other.
    let put = |index: &Index, writer: usize, ids: std::ops::Range<usize>, version: u64| {
        let mut batch = index.batch();
        for n in ids {
            let values = [writer as f32, n as f32, version as f32, 1.0];
            batch.push(&id(writer, n), &values, &format!("{{\"version\":{version}}}")).unwrap();
        }
        index.upsert(batch, Durability::Interval).unwrap();
    };
    let expected: Vec<BTreeMap<String, u64>> = std::thread::scope(|scope| {
        {
            let (index, is_over) = (&index, &is_over);
            scope.spawn(move || {
                let _stop = SetOnDrop(is_over);
                let mut newest: BTreeMap<String, u64> = BTreeMap::new();
                for exact in [true, false].into_iter().cycle().take_while(|_| !is_over.load(SeqCst)) {
                    let query = Query { vector: vec![1.0, 20.0, 50.0, 1.0], k: 2 * WRITERS * IDS, exact, ..Query::default() };
                    let hits = index.search(&query).unwrap();
                    let mut seen = std::collections::BTreeSet::new();
                    for hit in hits {
                        assert!(seen.insert(hit.id.clone()), "{} came twice", hit.id);
                        let metadata: serde_json::Value = serde_json::from_str(&hit.metadata).unwrap();
                        let version = metadata["version"].as_u64().unwrap();
                        let before = newest.insert(hit.id.clone(), version).unwrap_or(0);
                        assert!(before <= version, "{}: from {before} back to {version}", hit.id);
                    }
                }
            });
        }
        {
            let (index, is_over, deaths, overlaps, rewritings) = (&index, &is_over, &deaths, &overlaps, &rewritings);
            scope.spawn(move || {
                let _stop = SetOnDrop(is_over);
                for round in 0.. {
                    if is_over.load(SeqCst) {
                        break;
                    }
                    let before = deaths.load(SeqCst);
                    match round % 4 {
                        0 => drop(index.checkpoint().unwrap()),
                        1 => index.settle().unwrap(),
                        2 => drop(index.compact().unwrap()),
                        _ => drop(index.erase().unwrap()),
                    }
                    rewritings.fetch_add(1, SeqCst);
                    overlaps.fetch_add(u64::from(round % 4 > 0 && deaths.load(SeqCst) > before), SeqCst);
                }
            });
        }
        let is_enough = || overlaps.load(SeqCst) >= 4;
        let write = |writer: usize| {
            let mut live: BTreeMap<String, u64> = BTreeMap::new();
            for version in 1.. {
                let ids = if version % 3 == 0 { 0..IDS } else { 0..IDS / 2 };
                put(&index, writer, ids.clone(), version);
                live.extend(ids.map(|n| (id(writer, n), version)));
                let own = index.get(&id(writer, 3)).unwrap().unwrap();
                assert_eq!(own.values[2], version as f32, "an acknowledged write is not seen");
                if version % 2 == 0 {
                    let doomed: Vec<String> = (version as usize % 5..IDS).step_by(5).map(|n| id(writer, n)).collect();
                    index.delete(&doomed.iter().map(String::as_str).collect::<Vec<_>>(), Durability::Interval).unwrap();
                    live.retain(|id, _| !doomed.contains(id));
                    assert!(index.get(&doomed[0]).unwrap().is_none());
                }
                deaths.fetch_add(1, SeqCst);
                if (is_enough() && version >= 20) || is_over.load(SeqCst) {
                    return live;
                }
            }
            unreachable!()
        };
        let expected = std::thread::scope(|scope| {
            let write = &write;
            let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
            writers.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        is_over.store(true, SeqCst);
        expected
    });
    println!("{index_type}: {} rewritings, rows died during {} of them", rewritings.load(SeqCst), overlaps.load(SeqCst));
    let expected: BTreeMap<String, u64> = expected.into_iter().flatten().collect();
    let check = |index: &Index| {
        let found: BTreeMap<String, u64> =
            dump(index).into_iter().map(|(id, row)| (id, f32::from_bits(row.bits[2]) as u64)).collect();
        assert_eq!(found, expected);
    };
    check(&index);
    index.settle().unwrap();
    check(&index);
    index.compact().unwrap();
    check(&index);
    let index_id = index.id();
    drop(index);
    store.close().unwrap();
    drop(store);
    let store = open();
    check(&store.index(&tenant(), index_id).unwrap());
}

#[test]
fn builds_and_compactions_lose_nothing_that_happens_beside_them() {
    race("HNSW8");
    race("Flat");
}
