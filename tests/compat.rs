//! Directories that earlier versions wrote are opened, with every point, and go on.

mod support;

use std::path::Path;

use faiss_proxy::config::Limits;
use faiss_proxy::io::os::OsIo;
use faiss_proxy::{Durability, Index, Metric, Query};
use support::{open_store, tenant};

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

fn newest_manifest(directory: &Path) -> Vec<u8> {
    let manifests = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let newest = manifests.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("manifest-")).max();
    std::fs::read(newest.unwrap()).unwrap()
}

#[test]
fn directory_of_version_1_opens_with_every_point_and_goes_on_as_version_2() {
    let temporary = tempfile::tempdir().unwrap();
    let data_dir = temporary.path().join("data");
    copy(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/v1")), &data_dir);
    for is_compacted in [false, true, false] {
        let store = open_store(OsIo, &data_dir, &Limits::default()).unwrap();
        assert!(store.refused(&tenant()).is_empty(), "{:?}", store.refused(&tenant()));
        let indices = store.indices(&tenant());
        let kinds: Vec<_> = indices.iter().map(|index| (index.info().name, index.dimension(), index.metric())).collect();
        assert_eq!(kinds, [("v1 l2".to_owned(), 3, Metric::L2), ("v1 cosine".to_owned(), 5, Metric::Cosine)]);
        for index in &indices {
            assert_points(index);
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
            assert_eq!(newest_manifest(&directory)[8], 2, "what is written is of version 2");
        }
    }
}
