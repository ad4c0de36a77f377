//! What refuses, and what serves beside it: a directory that cannot be written, and one damaged index of a hundred.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use faiss_proxy::{Durability, IndexId, Metric, Store, StoreOptions};
use serde_json::json;

use crate::disk::Mounted;
use crate::load::{call, hits, serve};
use crate::program::{ServerProcess, refusal};
use crate::record::{spec, tenant};

#[test]
fn a_read_only_directory_is_refused_and_serves_when_it_can_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let id = create(&data_dir, 1)[0];
    let Some(read_only) = Mounted::read_only("a read-only directory", directory.path()) else { return };
    for name in ["data", "none-yet"] {
        let path = read_only.path().join(name);
        let said = refusal(&mut serve(&path));
        assert!(said.contains(&path.display().to_string()) && said.contains("Read-only file system"), "{said}");
    }
    drop(read_only);
    let server = ServerProcess::start(&mut serve(&data_dir));
    assert_eq!(search(&server, id), ["a", "b"]);
}

/// Creates indices of two points each, checkpointed.
fn create(data_dir: &Path, count: usize) -> Vec<IndexId> {
    let store = Store::open(StoreOptions::new(data_dir)).unwrap();
    let created = (0..count).map(|_| {
        let index = store.create_index(&tenant(), &spec(2, Metric::L2)).unwrap();
        let mut batch = index.batch();
        batch.push("a", &[1.0, 0.0], "{}").unwrap();
        batch.push("b", &[0.0, 1.0], "{}").unwrap();
        index.upsert(batch, Durability::Fsync).unwrap();
        index.id()
    });
    let ids = created.collect();
    store.close().unwrap();
    ids
}

fn search(server: &ServerProcess, id: IndexId) -> Vec<String> {
    let query = json!({"vector": [1.0, 1.0]});
    hits(&call(server.address, "POST", &format!("/v1/index/{id}/search")).json(&query).send())
}

#[test]
fn of_a_hundred_indices_one_is_damaged_and_the_other_99_serve() {
    let directory = tempfile::tempdir().unwrap();
    let ids = create(directory.path(), 100);
    // The first is found at the start, the other at the first use.
    for (damaged, folder, extension) in [(ids[7], "", "manifest"), (ids[42], "segments", "seg")] {
        let index = directory.path().join("tenant-1").join(damaged.to_string());
        let file = newest(&index.join(folder), extension);
        let sound = fs::read(&file).unwrap();
        let mut bytes = sound.clone();
        bytes[sound.len() / 2] ^= 1;
        fs::write(&file, bytes).unwrap();

        let started = Instant::now();
        let server = ServerProcess::start(&mut serve(directory.path()));
        for &id in ids.iter().filter(|&&id| id != damaged) {
            assert_eq!(search(&server, id), ["a", "b"]);
        }
        println!("99 of 100 indices have answered a search {} ms after the start", started.elapsed().as_millis());
        let (code, detail) = call(server.address, "GET", &format!("/v1/index/{damaged}")).send().problem(503);
        assert_eq!(code, "index_refused", "{detail}");
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(detail.contains(name) && detail.contains(" at byte ") && detail.contains("refuses until"), "{detail}");
        let ready = server.call("GET", "/v1/health/ready").send().json();
        assert_eq!(ready["indices"], json!({"serving": 99, "not_verified": 0, "refused": 1}));
        drop(server);
        fs::write(&file, sound).unwrap();
    }
}

fn newest(directory: &Path, kind: &str) -> PathBuf {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().contains(kind)).max().unwrap()
}
