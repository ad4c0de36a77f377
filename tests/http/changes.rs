//! The change feed over HTTP.

use serde_json::{Value, json};

use crate::support::{KEY, NO_INDEX, OTHER_KEY, TestServer};

fn create(server: &TestServer, options: &Value) -> String {
    let created = server.post("/v1/index", &json!({"name": "n", "dimension": 1, "options": options}));
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.json()["options"], *options);
    format!("/v1/index/{}", created.json()["id"].as_str().unwrap())
}

fn put(server: &TestServer, path: &str, points: &Value) {
    assert_eq!(server.post(&format!("{path}/vectors"), &json!({"vectors": points})).status, 201);
}

#[test]
fn a_page_has_whole_mutations_in_order_and_the_next_one_goes_on() {
    let server = TestServer::start();
    let path = create(&server, &json!({}));
    put(&server, &path, &json!([{"id": "a", "values": [1], "metadata": {"n": 1}}, {"id": "b", "values": [0.1]}]));
    put(&server, &path, &json!([{"id": "a", "values": [2], "metadata": {"n": 2}}]));
    server.post(&format!("{path}/vectors/delete"), &json!({"ids": ["b", "absent"]}));
    let first = server.get(&format!("{path}/changes?limit=1&include_values=true")).json();
    let a = json!({"lsn": 1, "op": "upsert", "id": "a", "values": [1.0], "metadata": {"n": 1}});
    let b = json!({"lsn": 1, "op": "upsert", "id": "b", "values": [0.1], "metadata": {}});
    assert_eq!(first, json!({"changes": [a, b], "next_lsn": 2, "oldest_lsn": 1, "durable_lsn": 3}));
    let rest = server.get(&format!("{path}/changes?from_lsn=2")).json();
    let upserted = json!({"lsn": 2, "op": "upsert", "id": "a", "metadata": {"n": 2}});
    let deleted = json!({"lsn": 3, "op": "delete", "id": "b"});
    assert_eq!(rest, json!({"changes": [upserted, deleted], "next_lsn": 4, "oldest_lsn": 1, "durable_lsn": 3}));
    let none = server.get(&format!("{path}/changes?from_lsn=4")).json();
    assert_eq!(none, json!({"changes": [], "next_lsn": 4, "oldest_lsn": 1, "durable_lsn": 3}));
    let filtered = server.get(&format!("{path}/changes?filter=%7B%22n%22:1%7D")).json();
    let lsns: Vec<_> = filtered["changes"].as_array().unwrap().iter().map(|change| change["lsn"].as_u64().unwrap()).collect();
    assert_eq!(lsns, [1, 3], "the upsert that matches, and the delete");
}

#[test]
fn what_the_log_no_longer_has_is_a_410_that_says_where_it_begins_and_log_that_is_kept_survives_checkpoints_and_restarts() {
    let server = TestServer::start();
    let (erased, kept) = (create(&server, &json!({})), create(&server, &json!({"log_retention_bytes": 1_000_000_000})));
    for path in [&erased, &kept] {
        for n in 0..3 {
            put(&server, path, &json!([{"id": "a", "values": [n]}]));
            server.post(&format!("{path}/checkpoint"), &json!({}));
        }
    }
    assert_eq!(server.post(&format!("{erased}/compact?erase=true"), &json!({})).json()["lsn"], 3);
    let gone = server.get(&format!("{erased}/changes?from_lsn=3"));
    let (code, detail) = gone.problem(410);
    assert!(code == "lsn_gone" && detail.contains("LSN 4"), "{code}: {detail}");
    let document: Value = serde_json::from_str(&gone.body).unwrap();
    assert_eq!(document["oldest_lsn"], 4);
    assert_eq!(server.get(&format!("{erased}/changes?from_lsn=4")).json()["changes"], json!([]));
    let server = TestServer::start_with(server.stop(), |_| {});
    assert_eq!(server.get(&format!("{kept}/changes?from_lsn=0")).json()["changes"].as_array().unwrap().len(), 3);
    server.get(&format!("{erased}/changes")).problem(410);
}

#[test]
fn wrong_requests_for_changes_are_refused_by_field_and_those_of_another_tenant_find_nothing() {
    let server = TestServer::start();
    let path = create(&server, &json!({}));
    for (query, field) in [
        ("from_lsn=x", "from_lsn"),
        ("from_lsn=-1", "from_lsn"),
        ("from_lsn=2", "from_lsn"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("filter=x", "filter"),
        ("include_values=1", "include_values"),
    ] {
        let (_, detail) = server.get(&format!("{path}/changes?{query}")).problem(422);
        assert!(detail.starts_with(field), "{query}: {detail}");
    }
    let wrong = json!({"name": "n", "dimension": 1, "options": {"log_retention_bytes": -1}});
    let (_, detail) = server.post("/v1/index", &wrong).problem(422);
    assert!(detail.starts_with("options.log_retention_bytes"), "{detail}");
    server.get(&format!("/v1/index/{NO_INDEX}/changes")).problem(404);
    server.call("GET", &format!("{path}/changes")).key(OTHER_KEY).send().problem(404);
    server.call("POST", &format!("{path}/changes")).key(KEY).body("").send().problem(405);
}

/// It said that the index refuses, and the index goes on serving.
#[test]
fn a_damaged_log_is_a_503_of_the_feed_alone() {
    let server = TestServer::start();
    let path = create(&server, &json!({"log_retention_bytes": 1_000_000_000}));
    put(&server, &path, &json!([{"id": "a", "values": [1]}]));
    let data_dir = server.stop();
    let wal = data_dir.path().join("tenant-1").join(path.rsplit('/').next().unwrap()).join("wal");
    let segment = std::fs::read_dir(wal).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[512 + 64] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let server = TestServer::start_with(data_dir, |_| {});
    let (code, detail) = server.get(&format!("{path}/changes")).problem(503);
    assert!(code == "log_damaged" && detail.contains(".wal at byte 512") && !detail.contains("refuses"), "{code}: {detail}");
    assert_eq!(server.get(&format!("{path}/vectors/a")).json()["lsn"], 1);
    put(&server, &path, &json!([{"id": "b", "values": [1]}]));
    assert_eq!(server.get(&format!("{path}/changes?from_lsn=2")).json()["changes"][0]["id"], "b");
}
