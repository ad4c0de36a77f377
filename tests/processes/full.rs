//! A disk that is full.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::disk::Mounted;
use crate::load::{call, created, point, serve};
use crate::program::ServerProcess;
use crate::record::Chance;
use crate::support::Response;

const DIMENSION: usize = 256;
const BATCH: usize = 50;

/// What is taken from the disk at first, to be given back: a checkpoint of what fits into the rest needs as much once more.
const BALLAST_BYTES: usize = 40 << 20;

#[test]
fn a_full_tmpfs_refuses_what_it_cannot_store_and_loses_nothing() {
    // 16 MiB of it are the server's reserve.
    let Some(disk) = Mounted::tmpfs("a full tmpfs", 72 << 20) else { return };
    fill_and_make_room(disk.path());
}

#[test]
fn a_full_ext4_refuses_what_it_cannot_store_and_loses_nothing() {
    let Some(disk) = Mounted::ext4("a full ext4", 84 << 20) else { return };
    fill_and_make_room(disk.path());
}

/// A device that has less space than it says: writing back fails, and `fdatasync` returns EIO of the kernel's own.
#[test]
fn a_device_that_fails_to_write_loses_nothing_that_was_acknowledged() {
    let Some(memory) = Mounted::tmpfs("a failing device", 40 << 20) else { return };
    let Some(disk) = Mounted::ext4_in(memory.path(), "a failing device", 256 << 20) else { return };
    let data_dir = disk.path().join("data");
    let server = ServerProcess::start(&mut serve(&data_dir));
    let mut filled = Filled::create(&server);
    let response = loop {
        let response = filled.attempt(&server);
        if response.status != 201 {
            break response;
        }
        assert!(filled.batches < 10_000, "the device does not fail");
    };
    let (code, detail) = response.problem(503);
    println!("after {} batches: {code}: {detail}", filled.batches);
    assert_eq!(code, "outcome_unknown", "{detail}");
    let document = call(server.address, "GET", &filled.path).send().json();
    assert_eq!((&document["state"], &document["vector_count"]), (&json!("read_only"), &json!(filled.stored.len())), "{document}");
    filled.check_points(&server);
    server.signal(Signal::KILL);
    server.wait();

    memory.grow(256 << 20);
    disk.restore_power();
    let server = ServerProcess::start(&mut serve(&data_dir));
    // What was in flight may be there too.
    let count = call(server.address, "GET", &filled.path).send().json()["vector_count"].as_u64().unwrap() as usize;
    assert!(
        [0, BATCH].contains(&(count - filled.stored.len())),
        "{count} points, of which {} were acknowledged",
        filled.stored.len()
    );
    filled.check_points(&server);
    assert!(filled.store(&server), "the device is well");
}

/// An index, and the bits of what it was told to hold and said that it does.
struct Filled {
    path: String,
    stored: BTreeMap<String, Vec<u32>>,
    chance: Chance,
    batches: usize,
}

impl Filled {
    fn create(server: &ServerProcess) -> Self {
        let spec = json!({"name": "n", "dimension": DIMENSION, "index_type": "Flat"});
        let path = created(&call(server.address, "POST", "/v1/index").json(&spec).send());
        Self { path, stored: BTreeMap::new(), chance: Chance::new(1), batches: 0 }
    }

    /// Asks for a batch more to be stored.
    fn attempt(&mut self, server: &ServerProcess) -> Response {
        self.batches += 1;
        let points: Vec<(String, Vec<f32>)> = (0..BATCH)
            .map(|n| {
                let values = (0..DIMENSION).map(|_| self.chance.below(1 << 12) as f32).collect();
                (format!("{}-{n}", self.batches), values)
            })
            .collect();
        let vectors: Vec<_> = points.iter().map(|(id, values)| json!({"id": id, "values": values})).collect();
        let response = call(server.address, "POST", &format!("{}/vectors", self.path)).json(&json!({"vectors": vectors})).send();
        if response.status == 201 {
            let bits = |values: Vec<f32>| values.iter().map(|value| value.to_bits()).collect();
            self.stored.extend(points.into_iter().map(|(id, values)| (id, bits(values))));
        }
        response
    }

    /// Whether a batch more was stored; if not, the disk is full.
    fn store(&mut self, server: &ServerProcess) -> bool {
        let response = self.attempt(server);
        if response.status == 201 {
            return true;
        }
        let (code, detail) = response.problem(507);
        assert!(code == "disk_full" && detail.contains("nothing was stored"), "{detail}");
        false
    }

    fn fill(&mut self, server: &ServerProcess) -> usize {
        let before = self.batches;
        while self.store(server) {
            assert!(self.batches < 10_000, "the disk is not filled");
        }
        // Whatever is answered to these holds too.
        for _ in 0..3 {
            self.store(server);
        }
        self.batches - before
    }

    fn check(&self, server: &ServerProcess) {
        let document = call(server.address, "GET", &self.path).send().json();
        assert_eq!(document["vector_count"], self.stored.len(), "{document}");
        assert_eq!(document["state"], "ready", "{document}");
        self.check_points(server);
    }

    fn check_points(&self, server: &ServerProcess) {
        for (id, bits) in self.stored.iter().step_by(7) {
            let (found, _) =
                point(&call(server.address, "GET", &format!("{}/vectors/{id}", self.path)).send()).expect("it was stored");
            assert_eq!(found, *bits, "{id}");
        }
    }
}

fn fill_and_make_room(disk: &Path) {
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
    let data_dir = disk.join("data");
    let server = ServerProcess::start(&mut serve(&data_dir));
    let mut filled = Filled::create(&server);
    let batches = filled.fill(&server);
    filled.check(&server);

    // The reserve is for these.
    let deleted: Vec<String> = filled.stored.keys().step_by(20).cloned().collect();
    for id in &deleted {
        assert_eq!(call(server.address, "DELETE", &format!("{}/vectors/{id}", filled.path)).send().status, 204);
        filled.stored.remove(id);
    }
    filled.check(&server);

    // Killed while it is full, with nothing in reserve.
    let more = filled.fill(&server);
    server.signal(Signal::KILL);
    server.wait();
    let server = ServerProcess::start(&mut serve(&data_dir));
    // Recovery may have to write: then this is refused until there is room.
    let opened = call(server.address, "GET", &filled.path).send();
    if opened.status != 200 {
        assert_eq!(opened.problem(507).0, "disk_full");
    }
    fs::remove_file(&ballast).unwrap();
    filled.check(&server);
    assert!(filled.store(&server), "there is room again");
    filled.check(&server);
    assert_eq!(call(server.address, "POST", &format!("{}/checkpoint", filled.path)).send().status, 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    filled.check(&ServerProcess::start(&mut serve(&data_dir)));
    println!(
        "filled with {batches} batches, {} deleted, filled with {more} more, killed, {} points found; opening it while it was full: {}",
        deleted.len(),
        filled.stored.len(),
        opened.status
    );
}
