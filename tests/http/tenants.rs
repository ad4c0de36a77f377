//! Keys, and tenants apart from each other.

use serde_json::json;

use crate::support::{KEY, NO_INDEX, OTHER_KEY, TestServer};

/// Every call that names an index, with a body where it takes one.
fn calls_on(index: &str) -> Vec<(&'static str, String, &'static str)> {
    vec![
        ("GET", index.to_owned(), ""),
        ("DELETE", index.to_owned(), ""),
        ("POST", format!("{index}/checkpoint"), ""),
        ("POST", format!("{index}/vectors"), r#"{"vectors": [{"id": "x", "values": [1]}]}"#),
        ("GET", format!("{index}/vectors/a"), ""),
        ("DELETE", format!("{index}/vectors/a"), ""),
        ("POST", format!("{index}/search"), r#"{"vector": [1]}"#),
        ("GET", format!("{index}/search"), r#"{"vector": [1]}"#),
    ]
}

#[test]
fn another_tenants_index_is_as_one_that_is_not_there_on_every_call() {
    let server = TestServer::start();
    let index = server.create_index(1);
    server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1]}]}));
    let absent = calls_on(&format!("/v1/index/{NO_INDEX}"));
    for ((method, path, body), (_, absent, _)) in calls_on(&index).into_iter().zip(absent) {
        let others = server.call(method, &path).key(OTHER_KEY).body(body).send();
        let expected = ("index_not_found".to_owned(), "Index not found".to_owned());
        assert_eq!(others.problem(404), expected, "{method} {path}");
        assert_eq!(server.call(method, &absent).key(OTHER_KEY).body(body).send().problem(404), expected);
    }
    assert_eq!(server.call("GET", "/v1/index").key(OTHER_KEY).send().json()["indices"], json!([]));
    assert_eq!(server.get(&index).json()["vector_count"], 1);
    assert_eq!(server.get(&format!("{index}/vectors/a")).status, 200);
}

#[test]
fn no_call_but_the_open_ones_is_answered_without_a_key_that_is_known() {
    let server = TestServer::start();
    let index = server.create_index(1);
    let mut calls = calls_on(&index);
    calls.push(("POST", "/v1/index".to_owned(), r#"{"name": "n", "dimension": 1}"#));
    calls.push(("GET", "/v1/index".to_owned(), ""));
    calls.push(("GET", "/v1/metrics".to_owned(), ""));
    for (method, path, body) in calls {
        let without = server.call(method, &path).body(body).send();
        assert_eq!(without.problem(401).0, "unauthorized", "{method} {path}");
        assert!(without.header("www-authenticate").is_some());
        for wrong in ["", "test-key", "test-key-11", "tenant-1", "test-key-1:tenant-1"] {
            server.call(method, &path).key(wrong).body(body).send().problem(401);
        }
    }
    assert_eq!(server.get(&index).status, 200);
}

#[test]
fn a_key_is_taken_as_x_api_key_or_as_bearer_token() {
    let server = TestServer::start();
    assert_eq!(server.call("GET", "/v1/metrics").header("X-API-Key", KEY).send().status, 200);
    assert_eq!(server.call("GET", "/v1/metrics").header("Authorization", &format!("Bearer {KEY}")).send().status, 200);
    server.call("GET", "/v1/metrics").header("Authorization", &format!("Basic {KEY}")).send().problem(401);
    server.call("GET", &format!("/v1/metrics?x-api-key={KEY}")).send().problem(401);
}

#[test]
fn an_index_can_be_created_for_the_keys_own_tenant_only() {
    let server = TestServer::start();
    let body = |tenant| json!({"name": "n", "dimension": 1, "tenant_id": tenant});
    assert_eq!(server.post("/v1/index", &body(json!("tenant-1"))).status, 201);
    assert_eq!(server.post("/v1/index", &body(json!(null))).status, 201);
    for other in ["tenant-2", "../tenant-1", "", "TENANT-1"] {
        assert_eq!(server.post("/v1/index", &body(json!(other))).problem(403).0, "wrong_tenant");
    }
    assert!(server.post("/v1/index", &body(json!(1))).problem(422).1.contains("tenant_id"));
}
