//! SIGTERM while something takes long.

use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;

use crate::load::{call, created, serve};
use crate::program::ServerProcess;
use crate::record::Chance;

const ROWS: usize = 12_000;
const DIMENSION: usize = 32;

#[test]
fn sigterm_ends_a_compaction_with_a_503_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(&mut serve(directory.path()));
    // Nothing is built before all rows are there, and then it takes minutes.
    let spec = json!({
        "name": "n", "dimension": DIMENSION, "index_type": "HNSW64", "options": {"seal_rows": ROWS, "ef_construction": 4_096},
    });
    let path = created(&call(server.address, "POST", "/v1/index").json(&spec).send());
    let mut chance = Chance::new(1);
    for batch in 0..ROWS / 1_000 {
        if batch == ROWS / 2_000 {
            assert_eq!(call(server.address, "POST", &format!("{path}/checkpoint")).send().status, 200);
        }
        let points = (0..1_000).map(|n| {
            let values: Vec<f32> = (0..DIMENSION).map(|_| chance.below(1 << 20) as f32 / 1024.0).collect();
            json!({"id": format!("{batch}-{n}"), "values": values})
        });
        let points = json!({"vectors": points.collect::<Vec<_>>()});
        assert_eq!(call(server.address, "POST", &format!("{path}/vectors")).json(&points).send().status, 201);
    }

    let address = server.address;
    let (ended, compacted) = thread::scope(|scope| {
        let compaction = scope.spawn(|| call(address, "POST", &format!("{path}/compact")).send());
        // It has begun when the rows are in a segment, and the index says that it builds.
        let is_building = || {
            let document = call(address, "GET", &path).send().json();
            document["state"] == "building" && document["checkpoint_lsn"] == document["lsn"]
        };
        while !is_building() && !compaction.is_finished() {}
        let asked = Instant::now();
        server.signal(Signal::TERM);
        let ended = server.wait();
        println!(
            "a compaction of {ROWS} rows was stopped, and the server had ended {} ms after SIGTERM",
            asked.elapsed().as_millis()
        );
        (ended, compaction.join().unwrap())
    });
    let (code, detail) = compacted.problem(503);
    assert_eq!(code, "closed", "{detail}");
    assert!(detail.contains("stopped") && detail.contains("nothing is lost"), "{detail}");
    assert_eq!(ended.code(), Some(0));

    let server = ServerProcess::start(&mut serve(directory.path()));
    let document = call(server.address, "GET", &path).send().json();
    assert_eq!((&document["vector_count"], &document["checkpoint_lsn"]), (&json!(ROWS), &json!(ROWS / 1_000)), "{document}");
}
