//! Changing an index that is there: its name, its options, and all of its points.

use serde_json::{Value, json};

use crate::support::{KEY, OTHER_KEY, Response, TestServer};

fn change(server: &TestServer, path: &str, body: &Value) -> Response {
    server.call("PATCH", path).key(KEY).json(body).send()
}

#[test]
fn name_and_options_are_changed_and_survive_a_restart() {
    let server = TestServer::start();
    let options = json!({"ef_search": 80, "unindexed": ["a.b"]});
    let body = json!({"name": "before", "dimension": 4, "index_type": "HNSW32", "options": options});
    let created = server.post("/v1/index", &body).json();
    let path = format!("/v1/index/{}", created["id"].as_str().unwrap());
    assert_eq!(
        change(&server, &path, &json!({"name": "after"})).json()["options"],
        created["options"],
        "what is not named stays"
    );
    let body = json!({"options": {"ef_search": null, "min_recall": 0.7, "log_retention_bytes": 4096}});
    let changed = change(&server, &path, &body);
    assert_eq!(changed.status, 200, "{changed:?}");
    let (mut changed, options) = (changed.json(), json!({"min_recall": 0.7, "log_retention_bytes": 4096, "unindexed": ["a.b"]}));
    assert_eq!((&changed["name"], &changed["options"]), (&json!("after"), &options));
    let names = |server: &TestServer, name: &str| {
        server.get(&format!("/v1/index?name={name}")).json()["indices"].as_array().unwrap().len()
    };
    assert_eq!((names(&server, "after"), names(&server, "before")), (1, 0), "and the list knows");
    // A document that was read may be sent back.
    assert_eq!(change(&server, &path, &changed).json()["options"], options);
    let server = TestServer::start_with(server.stop(), |_| {});
    assert_eq!(names(&server, "after"), 1);
    let mut found = server.get(&path).json();
    // Files are another's, and who looks for something to build may be at it or not.
    for document in [&mut found, &mut changed] {
        document["bytes"].take();
        document["state"].take();
    }
    assert_eq!(found, changed);
}

#[test]
fn what_cannot_be_changed_is_refused_by_name_and_nothing_changes() {
    let server = TestServer::start();
    let body = json!({"name": "n", "dimension": 4, "options": {"unindexed": ["a"]}});
    let before = server.post("/v1/index", &body).json();
    let path = format!("/v1/index/{}", before["id"].as_str().unwrap());
    for (body, status, field) in [
        (json!({"name": "x", "dimension": 5}), 409, "dimension"),
        (json!({"name": "x", "index_type": "HNSW32"}), 409, "index_type"),
        (json!({"name": "x", "metric": "cosine"}), 409, "metric"),
        (json!({"name": "x", "tenant_id": "tenant-2"}), 409, "tenant_id"),
        (json!({"name": "x", "options": {"unindexed": ["b"]}}), 409, "options.unindexed"),
        (json!({"name": "x", "options": {"unindexed": null}}), 409, "options.unindexed"),
        (json!({"name": "x", "options": {"compact_dead_share": 2}}), 422, "options.compact_dead_share"),
        (json!({"name": "x", "options": {"ef_search": 64}}), 422, "options.ef_search"),
        (json!({"name": "x", "options": [1]}), 422, "options"),
        (json!({"name": "", "options": {"seal_rows": 5}}), 422, "name"),
        (json!({"name": 5}), 422, "name"),
        (json!([]), 422, "body"),
    ] {
        let (_, detail) = change(&server, &path, &body).problem(status);
        assert!(detail.contains(field), "{body}: {detail}");
    }
    assert_eq!(server.get(&path).json(), before);
    server.call("PATCH", &path).key(OTHER_KEY).json(&json!({"name": "theirs"})).send().problem(404);
    assert_eq!(change(&server, &path, &json!({})).json(), before, "what changes nothing writes nothing");
}

#[test]
fn reset_deletes_every_point_and_leaves_the_index() {
    let server = TestServer::start();
    let path = server.create_index(2);
    let points = json!({"vectors": [{"id": "a", "values": [1, 2]}, {"id": "b", "values": [3, 4], "metadata": {"n": 1}}]});
    server.post(&format!("{path}/vectors"), &points);
    server.call("POST", &format!("{path}/reset")).key(OTHER_KEY).send().problem(404);
    let reset = || server.call("POST", &format!("{path}/reset")).key(KEY).header("Idempotency-Key", "once").send();
    assert_eq!(reset().json(), json!({"deleted_count": 2, "lsn": 2}));
    assert_eq!(server.get(&format!("{path}/ntotal")).json(), json!({"ntotal": 0}));
    server.post(&format!("{path}/vectors"), &points);
    assert_eq!(reset().json(), json!({"deleted_count": 2, "lsn": 2}), "a retry deletes nothing more");
    assert_eq!(server.get(&format!("{path}/ntotal")).json(), json!({"ntotal": 2}));
    let again = server.call("POST", &format!("{path}/reset")).key(KEY).send();
    assert_eq!(again.json(), json!({"deleted_count": 2, "lsn": 4}));
    assert_eq!(server.call("POST", &format!("{path}/reset")).key(KEY).send().json(), json!({"deleted_count": 0, "lsn": 4}));
}
