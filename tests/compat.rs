//! Directories that earlier versions wrote are opened, with every point, and go on.

mod support;

use std::path::{Path, PathBuf};

use faiss_proxy::config::Limits;
use faiss_proxy::io::os::OsIo;
use faiss_proxy::{Durability, Error, Index, IndexId, IndexOptions, IndexSpec, Metric, Opening, Query};
use support::{files_below, open_store, open_store_as, spec, tenant};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// As `tests/data/v1/README.md` says.
fn values(n: usize, dimension: usize) -> Vec<f32> {
    (0..dimension).map(|j| ((n * 7 + j * 3) % 11) as f32 - 4.5).collect()
}

fn lives(n: usize) -> bool {
    n < 59 && (n >= 40 || !n.is_multiple_of(5))
}

fn assert_points(index: &Index) {
    for n in 0..60 {
        let point = index.get(&format!("p{n}")).unwrap();
        assert_eq!(point.is_some(), lives(n), "p{n}");
        if let Some(point) = point {
            assert_eq!((point.values, point.metadata), (values(n, index.dimension()), format!("{{\"n\": {n}}}")), "p{n}");
        }
    }
    let live = (0..60).filter(|&n| lives(n)).count();
    let hits = index.search(&Query { vector: values(3, index.dimension()), k: 100, ..Query::default() }).unwrap();
    assert_eq!(hits.len(), live + usize::from(index.get("new").unwrap().is_some()));
}

fn newest_manifest(directory: &Path) -> PathBuf {
    let manifests = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    manifests.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("manifest-")).max().unwrap()
}

/// Opens a copy of a saved directory three times, writes, checkpoints and compacts, and finds every point each time.
fn check_saved(version: &str, expected: &[(&str, usize, Metric)]) {
    let temporary = tempfile::tempdir().unwrap();
    let data_dir = temporary.path().join("data");
    copy(&saved(version), &data_dir);
    let mut points = 0;
    for is_compacted in [false, true, false] {
        let store = open_store(OsIo, &data_dir, &Limits::default()).unwrap();
        assert!(store.refused(&tenant()).is_empty(), "{:?}", store.refused(&tenant()));
        let indices = store.indices(&tenant());
        let kinds: Vec<_> = indices.iter().map(|index| (index.info().name, index.dimension(), index.metric())).collect();
        let expected: Vec<_> = expected.iter().map(|&(name, dimension, metric)| (name.to_owned(), dimension, metric)).collect();
        assert_eq!(kinds, expected);
        for index in &indices {
            assert_points(index);
            points += index.info().vector_count;
            let mut batch = index.batch();
            batch.push("new", &vec![1.5; index.dimension()], "{}").unwrap();
            index.upsert(batch, Durability::Fsync).unwrap();
            if is_compacted {
                index.compact().unwrap();
                assert_eq!(index.info().tombstones, 0);
            } else {
                index.checkpoint().unwrap();
            }
            assert_points(index);
            let directory = data_dir.join(tenant().as_str()).join(index.id().to_string());
            assert_eq!(std::fs::read(newest_manifest(&directory)).unwrap()[8], 3, "what is written is of version 3");
        }
    }
    println!("{version}: {} indices, {points} points found in 3 openings", expected.len());
}

fn saved(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(version)
}

#[test]
fn directory_of_version_1_opens_with_every_point_and_goes_on_as_version_3() {
    check_saved("v1", &[("v1 l2", 3, Metric::L2), ("v1 cosine", 5, Metric::Cosine)]);
}

#[test]
fn directory_of_version_2_opens_with_every_point_and_its_faiss_indexes_and_goes_on() {
    let temporary = tempfile::tempdir().unwrap();
    let data_dir = temporary.path().join("data");
    copy(&saved("v2"), &data_dir);
    let store = open_store(OsIo, &data_dir, &Limits::default()).unwrap();
    for index in store.indices(&tenant()) {
        let info = index.info();
        // FAISS of today reads what FAISS of then wrote: nothing was rebuilt or is scanned.
        assert!(info.builds.iter().any(|build| build.factory.is_some()), "{info:?}");
        assert!(info.builds.iter().all(|build| build.reason.is_none()), "{info:?}");
        assert!(info.tombstones > 0 && info.lsn > info.checkpoint_lsn, "{info:?}");
    }
    drop(store);
    check_saved("v2", &V2);
}

const V2: [(&str, usize, Metric); 2] = [("v2 graph", 3, Metric::L2), ("v2 lists", 5, Metric::Cosine)];

/// Writes a directory as `tests/data/v2/README.md` describes it, by the code of now.
fn write_directory(data_dir: &Path) {
    let limits = Limits { log_segment_bytes: 4096, ..Limits::default() };
    let store = open_store(OsIo, data_dir, &limits).unwrap();
    for ((name, dimension, metric), index_type) in V2.into_iter().zip(["HNSW8", "IVF4,SQ8"]) {
        let options = IndexOptions { min_recall: Some(0.0), ..IndexOptions::default() };
        let spec = IndexSpec { name: name.to_owned(), index_type: index_type.to_owned(), options, ..spec(dimension, metric) };
        let index = store.create_index(&tenant(), &spec).unwrap();
        let upsert = |ids: std::ops::Range<usize>| {
            let mut batch = index.batch();
            for n in ids {
                batch.push(&format!("p{n}"), &values(n, dimension), &format!("{{\"n\": {n}}}")).unwrap();
            }
            index.upsert(batch, Durability::Fsync).unwrap();
        };
        let delete = |n: usize| {
            index.delete(&[&format!("p{n}")], Durability::Fsync).unwrap();
        };
        upsert(0..40);
        index.train().unwrap();
        (0..40).step_by(10).for_each(delete);
        index.compact().unwrap();
        index.train().unwrap();
        (5..40).step_by(10).for_each(delete);
        index.checkpoint().unwrap();
        upsert(38..60);
        delete(59);
    }
    drop(store);
    for log in files_below(&OsIo, data_dir).into_iter().filter(|path| path.extension().is_some_and(|e| e == "wal")) {
        let bytes = std::fs::read(&log).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1).next_multiple_of(512);
        std::fs::write(&log, &bytes[..used]).unwrap();
    }
    // Of the process that had it open.
    std::fs::remove_file(data_dir.join("LOCK")).unwrap();
}

/// The code that wrote `tests/data/v2` is still the code that wrote it: what it writes now is opened, too. With `FAISS_PROXY_WRITE_DIRECTORY` it
/// writes there; that is how the next version's directory is made.
#[test]
fn directory_that_is_written_now_is_like_the_saved_one() {
    let temporary = tempfile::tempdir().unwrap();
    let data_dir = std::env::var_os("FAISS_PROXY_WRITE_DIRECTORY").map_or_else(|| temporary.path().join("data"), PathBuf::from);
    write_directory(&data_dir);
    // An opening changes a directory.
    let opened = temporary.path().join("opened");
    copy(&data_dir, &opened);
    open_store(OsIo, &opened, &Limits::default()).unwrap().indices(&tenant()).iter().for_each(|index| assert_points(index));
    let kinds = |data_dir: &Path| -> Vec<String> {
        let files = files_below(&OsIo, data_dir).into_iter();
        let mut kinds: Vec<String> = files.filter_map(|path| Some(path.extension()?.to_string_lossy().into_owned())).collect();
        kinds.retain(|kind| kind != "md");
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(&data_dir), kinds(&saved("v2")));
}

/// Versions 4 and 5 are of an index whose log several nodes write to: without them, a server has neither all of it nor the right to write to it.
#[test]
fn index_of_version_4_or_5_is_refused_by_a_server_without_its_cluster_and_left_as_it_is_while_the_other_serves() {
    for (opening, version) in [(Opening::Eager, 4), (Opening::Lazy, 4), (Opening::Eager, 5), (Opening::Lazy, 5)] {
        let temporary = tempfile::tempdir().unwrap();
        let data_dir = temporary.path().join("data");
        copy(&saved(&format!("v{version}")), &data_dir);
        let shared_id = IndexId::from_u128(7);
        let directory = data_dir.join(tenant().as_str()).join(shared_id.to_string());
        assert_eq!(std::fs::read(newest_manifest(&directory)).unwrap()[8], version);
        let contents = || -> Vec<(PathBuf, Vec<u8>)> {
            let files = files_below(&OsIo, &directory).into_iter();
            files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
        };
        let before = contents();
        assert!(before.len() > 4);
        for _ in 0..2 {
            let store = open_store_as(opening, OsIo, &data_dir, &Limits::default()).unwrap();
            let [(id, Error::Closed(why))] = &store.refused(&tenant())[..] else { panic!("{:?}", store.refused(&tenant())) };
            assert_eq!(*id, shared_id);
            assert!(why.contains("other nodes write to the log of this index"), "{why}");
            assert!(matches!(store.index(&tenant(), shared_id).map(drop), Err(Error::Closed(_))));
            let ids: Vec<IndexId> = store.list(&tenant()).unwrap().iter().map(|index| index.id).collect();
            let others: Vec<IndexId> = ids.into_iter().filter(|id| *id != shared_id).collect();
            let [alone] = others[..] else { panic!("{others:?}") };
            let alone = store.index(&tenant(), alone).unwrap();
            assert_eq!(alone.info().name, format!("v{version} alone"));
            assert_points(&alone);
            let mut batch = alone.batch();
            batch.push("new", &[1.5; 2], "{}").unwrap();
            alone.upsert(batch, Durability::Fsync).unwrap();
            alone.checkpoint().unwrap();
            let directory = data_dir.join(tenant().as_str()).join(alone.id().to_string());
            assert_eq!(std::fs::read(newest_manifest(&directory)).unwrap()[8], 3, "it is nobody else's");
            assert!(contents() == before, "{opening:?}: what is refused is left as it was");
        }
    }
}

/// Every kind of file that has a version is refused by it, and by no guess at what is in it; the other index serves, and nothing is changed.
#[test]
fn file_of_an_unknown_newer_version_is_refused_by_its_version() {
    type Newer = (&'static str, fn(&Path) -> PathBuf, fn(&[u8]) -> usize);
    // Where the checksum is that covers the version: behind 60 bytes, or at the end.
    let kinds: [Newer; 3] = [
        ("manifest", newest_manifest, |bytes| bytes.len() - 4),
        ("log segment", |directory| last_file(&directory.join("wal"), "wal"), |_| 60),
        ("segment", |directory| last_file(&directory.join("segments"), "seg"), |_| 60),
    ];
    for (kind, find, checksum_at) in kinds {
        let temporary = tempfile::tempdir().unwrap();
        let data_dir = temporary.path().join("data");
        copy(&saved("v2"), &data_dir);
        let ids: Vec<IndexId> = open_store(OsIo, &data_dir, &Limits::default())
            .unwrap()
            .list(&tenant())
            .unwrap()
            .iter()
            .map(|index| index.id)
            .collect();
        let path = find(&data_dir.join(tenant().as_str()).join(ids[0].to_string()));
        let mut bytes = std::fs::read(&path).unwrap();
        let end = checksum_at(&bytes);
        bytes[8..12].copy_from_slice(&[9, 0, 8, 0]);
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();

        let store = open_store(OsIo, &data_dir, &Limits::default()).unwrap();
        let refusal = store.index(&tenant(), ids[0]).map(|index| index.id()).unwrap_err();
        let text = refusal.to_string();
        assert!(matches!(refusal, Error::Corrupt(_)), "{text}");
        let name = path.file_name().unwrap().to_str().unwrap();
        for part in [name, "written by a newer version", "format version 9", "a reader of version 8", "use a newer faiss-proxy"] {
            assert!(text.contains(part), "{kind}: {part:?} is not in {text:?}");
        }
        assert_points(&store.index(&tenant(), ids[1]).unwrap());
        assert!(std::fs::read(&path).unwrap() == bytes, "{kind}: it is left as it was");
        println!("{kind}: {text}");
    }
}

fn last_file(directory: &Path, extension: &str) -> PathBuf {
    let files = files_below(&OsIo, directory).into_iter();
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).max().unwrap()
}
