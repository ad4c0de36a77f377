//! Back-pressure over HTTP: who writes faster than builds go is told to come back.

use std::sync::Arc;

use faiss_proxy::io::os::OsIo;
use serde_json::json;

#[path = "../support/gate.rs"]
mod gate;

use crate::support::TestServer;
use gate::{Gate, OpenOnDrop};

#[test]
fn writers_beyond_the_build_rate_are_a_429_that_says_when_to_come_back() {
    let gate = Gate::new(Arc::new(OsIo));
    let server = TestServer::start_on(
        tempfile::tempdir().unwrap(),
        |options| {
            options.io = Arc::new(gate.clone());
            options.limits.unbuilt_rows_max = 40;
        },
        |_| {},
    );
    let _open = OpenOnDrop(gate.clone());
    let body = json!({"name": "n", "dimension": 2, "index_type": "HNSW8", "options": {"seal_rows": 8}});
    let created = server.post("/v1/index", &body).json();
    let index = format!("/v1/index/{}", created["id"].as_str().unwrap());
    let put = |n: u64| server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": format!("p{n}"), "values": [n, 1]}]}));
    (0..8).for_each(|n| assert_eq!(put(n).status, 201));
    gate.wait_for_build();
    let refused = (8..).map(put).find(|response| response.status != 201).unwrap();
    assert_eq!(refused.problem(429).0, "busy");
    assert_eq!(refused.header("retry-after"), Some("1"));
    let document = server.get(&index).json();
    assert_eq!((&document["vector_count"], &document["unindexed_rows"]), (&json!(80), &json!(80)));
    assert_eq!(document["state"], "building");

    assert_eq!(server.delete(&format!("{index}/vectors/p3")).status, 204);
    assert_eq!(server.post(&format!("{index}/search"), &json!({"vector": [7, 1], "k": 1})).json()["results"][0]["id"], "p7");
    assert_eq!(put(80).status, 201);
    assert_eq!(put(81).status, 429);

    gate.open();
    let answer = std::iter::repeat_with(|| put(81)).find(|response| response.status != 429).unwrap();
    assert_eq!(answer.status, 201);
}
