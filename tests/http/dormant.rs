//! Indices that are not open: who can tell, and what opens them.

use serde_json::{Value, json};

use crate::contract::damage_every_file_of;
use crate::support::{KEY, OTHER_KEY, TestServer};

/// A server that was started on as many indices of `tenant-1`, with a point each, and their paths in the order of their creation.
fn restarted(count: usize, damage: impl FnOnce(&std::path::Path, &[String])) -> (TestServer, Vec<String>) {
    let server = TestServer::start();
    let indices: Vec<String> = (0..count).map(|_| server.create_index(1)).collect();
    for index in &indices {
        let added = server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1]}]}));
        assert_eq!(added.status, 201);
    }
    let data_dir = server.stop();
    damage(&data_dir.path().join("tenant-1"), &indices);
    (TestServer::start_with(data_dir, |_| {}), indices)
}

fn id_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

fn counts(server: &TestServer, key: Option<&str>) -> Value {
    let call = server.call("GET", "/v1/health/ready");
    let ready = if let Some(key) = key { call.key(key) } else { call }.send();
    assert_eq!((ready.status, &ready.json()["status"]), (200, &json!("ready")));
    ready.json()["indices"].clone()
}

#[test]
fn readiness_tells_what_serves_from_what_is_not_verified_and_what_refuses() {
    let (server, indices) = restarted(4, |tenant_dir, indices| {
        damage_every_file_of(&tenant_dir.join(id_of(&indices[0])));
        damage_every_file_of(&tenant_dir.join(id_of(&indices[1])).join("segments"));
    });
    // The manifest of the first is damaged; the segment of the second shows when it is used.
    assert_eq!(counts(&server, None), json!({"serving": 0, "not_verified": 3, "refused": 1}));
    server.get(&indices[1]).problem(503);
    assert_eq!(server.get(&indices[2]).json()["vector_count"], 1);
    let now = json!({"serving": 1, "not_verified": 1, "refused": 2});
    assert_eq!(counts(&server, None), now);
    assert_eq!(counts(&server, Some(KEY)), now);
    assert_eq!(counts(&server, Some(OTHER_KEY)), json!({"serving": 0, "not_verified": 0, "refused": 0}));

    let named = |key| {
        let ready = server.call("GET", "/v1/health/ready").key(key).send().json();
        let mut ids: Vec<String> =
            ready["refused"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let mut expected = vec![id_of(&indices[0]).to_owned(), id_of(&indices[1]).to_owned()];
    expected.sort();
    assert_eq!(named(KEY), expected);
    assert!(named(OTHER_KEY).is_empty());
    let open = server.call("GET", "/v1/health/ready").send();
    assert!(!indices.iter().any(|index| open.body.contains(id_of(index))), "{open:?}");
}

#[test]
fn a_page_of_the_list_opens_what_is_on_it_and_nothing_else() {
    let (server, indices) = restarted(5, |_, _| {});
    let page = server.get("/v1/index?limit=2").json();
    assert_eq!(counts(&server, None), json!({"serving": 2, "not_verified": 3, "refused": 0}));
    let metrics = server.get("/v1/metrics").json();
    assert_eq!((&metrics["indices"], &metrics["closed"], &metrics["vectors"]), (&json!(5), &json!(3), &json!(2)));

    let mut found = Vec::new();
    let mut next = Some(page);
    while let Some(page) = next {
        for index in page["indices"].as_array().unwrap() {
            assert_eq!(index["vector_count"], 1);
            found.push(format!("/v1/index/{}", index["id"].as_str().unwrap()));
        }
        let cursor = page["next_cursor"].as_str().map(str::to_owned);
        next = cursor.map(|cursor| server.get(&format!("/v1/index?limit=2&cursor={cursor}")).json());
    }
    assert_eq!(found, indices, "in the order in which they were made");
    assert_eq!(counts(&server, None), json!({"serving": 5, "not_verified": 0, "refused": 0}));
}

#[test]
fn an_index_that_is_not_open_can_be_deleted_and_is_not_opened_for_it() {
    let (server, indices) = restarted(2, |_, _| {});
    assert_eq!(server.delete(&indices[0]).status, 204);
    assert_eq!(counts(&server, None), json!({"serving": 0, "not_verified": 1, "refused": 0}));
    server.get(&indices[0]).problem(404);
    assert_eq!(server.get("/v1/index").json()["indices"].as_array().unwrap().len(), 1);
}
