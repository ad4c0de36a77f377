//! Changing points: patches, conditions, idempotency keys, deletes by a filter.

use serde_json::{Value, json};

use crate::support::{Call, KEY, Response, TestServer};

/// A call with headers of its own.
fn call(server: &TestServer, method: &str, path: &str, headers: &[(&str, &str)]) -> Call {
    headers.iter().fold(server.call(method, path).key(KEY), |call, (name, value)| call.header(name, value))
}

fn put(server: &TestServer, path: &str, points: Value, query: &str, headers: &[(&str, &str)]) -> Response {
    call(server, "POST", &format!("{path}/vectors{query}"), headers).json(&json!({"vectors": points})).send()
}

fn point(id: &str) -> Value {
    json!({"id": id, "values": [1, 2], "metadata": {"n": 1}})
}

#[test]
fn a_point_is_patched_and_keeps_what_the_patch_does_not_name() {
    let server = TestServer::start();
    let path = server.create_index(2);
    let metadata = json!({"kept": 1, "gone": 2, "deep": {"a": 1, "b": 2}});
    put(&server, &path, json!([{"id": "a/b", "values": [0.1, 2], "metadata": metadata}]), "", &[]);
    let patch = |id: &str, body: &Value| call(&server, "PATCH", &format!("{path}/vectors/{id}"), &[]).json(body).send();
    let patched = patch("a%2Fb", &json!({"metadata": {"gone": null, "deep": {"b": 3}, "new": [1]}}));
    assert_eq!((patched.status, patched.header("etag")), (200, Some("\"2\"")));
    assert_eq!(patched.json(), json!({"id": "a/b", "lsn": 2}));
    let found = server.get(&format!("{path}/vectors/a%2Fb")).json();
    assert_eq!(found["metadata"], json!({"kept": 1, "deep": {"a": 1, "b": 3}, "new": [1]}));
    assert_eq!((&found["values"], &found["lsn"]), (&json!([0.1, 2.0]), &json!(2)));
    patch("absent", &json!({"metadata": {}})).problem(404);
    for (body, code) in [(json!({}), "missing_field"), (json!({"metadata": [1]}), "invalid_metadata")] {
        let (found, detail) = patch("a%2Fb", &body).problem(422);
        assert!(found == code && detail.contains("metadata"), "{found}: {detail}");
    }
}

#[test]
fn a_write_on_a_condition_is_made_or_is_a_412() {
    let server = TestServer::start();
    let path = server.create_index(2);
    let of = |id: &str, method: &str, tag: (&str, &str)| match method {
        "POST" => put(&server, &path, json!([point(id)]), "", &[tag]),
        "PATCH" => call(&server, "PATCH", &format!("{path}/vectors/{id}"), &[tag]).json(&json!({"metadata": {"n": 2}})).send(),
        _ => call(&server, method, &format!("{path}/vectors/{id}"), &[tag]).send(),
    };
    assert_eq!(of("a", "POST", ("If-None-Match", "*")).status, 201);
    let (code, detail) = of("a", "POST", ("If-None-Match", "*")).problem(412);
    assert!(code == "precondition_failed" && detail.contains("there is a point"), "{code}: {detail}");
    let found = server.get(&format!("{path}/vectors/a"));
    let tag = found.header("etag").unwrap();
    assert_eq!(tag, "\"1\"");
    assert_eq!(of("a", "PATCH", ("If-Match", tag)).json()["lsn"], 2);
    of("a", "PATCH", ("If-Match", tag)).problem(412);
    of("a", "DELETE", ("If-Match", tag)).problem(412);
    of("b", "PATCH", ("If-Match", "*")).problem(412);
    of("b", "DELETE", ("If-Match", "7")).problem(412);
    for (name, wrong) in [("If-Match", "W/\"2\""), ("If-Match", "two"), ("If-None-Match", "\"2\"")] {
        let (code, detail) = of("a", "DELETE", (name, wrong)).problem(422);
        assert!(code == "invalid_condition" && detail.contains(name), "{code}: {detail}");
    }
    let gone = of("a", "DELETE", ("If-Match", "2"));
    assert_eq!((gone.status, gone.header("x-lsn")), (204, Some("3")));
    let (_, detail) = put(&server, &path, json!([point("a"), point("b")]), "", &[("If-Match", "*")]).problem(422);
    assert!(detail.contains("If-Match") && detail.contains("if_match"), "{detail}");
}

#[test]
fn points_of_a_batch_have_conditions_of_their_own() {
    let server = TestServer::start();
    let path = server.create_index(2);
    let with = |id: &str, field: &str, value: Value| {
        let mut point = point(id);
        point[field] = value;
        point
    };
    put(&server, &path, json!([point("a")]), "", &[]);
    let points = json!([
        with("a", "if_match", json!(7)),
        with("b", "if_absent", json!(true)),
        with("b", "if_absent", json!(true)),
        with("c", "if_absent", json!(false)),
        {"id": "d", "values": [1]},
        with("a", "if_absent", json!("yes")),
    ]);
    let answer = put(&server, &path, points.clone(), "", &[]).json();
    assert_eq!((&answer["added_count"], &answer["failed_count"], &answer["lsn"]), (&json!(2), &json!(4), &json!(2)));
    let errors: Vec<_> =
        answer["errors"].as_array().unwrap().iter().map(|e| (e["position"].as_u64(), e["code"].as_str())).collect();
    let expected = [(0, "precondition_failed"), (2, "precondition_failed"), (4, "wrong_dimension"), (5, "invalid_type")];
    assert_eq!(errors, expected.map(|(position, code)| (Some(position), Some(code))));
    let refused = put(&server, &path, json!([with("a", "if_match", json!(7)), point("z")]), "?atomic=true", &[]);
    let (code, _) = refused.problem(412);
    assert_eq!(
        (code.as_str(), &serde_json::from_str::<Value>(&refused.body).unwrap()["errors"][0]["id"]),
        ("precondition_failed", &json!("a"))
    );
    assert_eq!(server.get(&path).json()["vector_count"], 3);
    assert_eq!(put(&server, &path, json!([with("a", "if_match", json!(1))]), "?atomic=true", &[]).json()["lsn"], 3);
}

#[test]
fn a_retry_with_its_key_is_answered_as_the_first_time_after_a_restart_too() {
    let mut server = TestServer::start();
    let path = server.create_index(2);
    let key = |key| [("Idempotency-Key", key)];
    let points = json!([point("a"), {"id": "wrong", "values": [1]}, point("b")]);
    let first = put(&server, &path, points.clone(), "", &key("k-1")).json();
    assert_eq!((&first["added_count"], &first["failed_count"], &first["lsn"]), (&json!(2), &json!(1), &json!(1)));
    let create = json!({"name": "made once", "dimension": 2});
    let created = call(&server, "POST", "/v1/index", &key("k-1")).json(&create).send().json();
    let delete = |server: &TestServer| call(server, "DELETE", &format!("{path}/vectors/a"), &key("k-2")).send();
    assert_eq!(delete(&server).status, 204);
    call(&server, "DELETE", &format!("{path}/vectors/c"), &key("k-3")).send().problem(404);
    put(&server, &path, json!([point("a"), point("c")]), "", &[]);
    for _ in 0..2 {
        assert_eq!(put(&server, &path, points.clone(), "", &key("k-1")).json(), first);
        assert_eq!(delete(&server).header("x-lsn"), Some("2"));
        call(&server, "DELETE", &format!("{path}/vectors/c"), &key("k-3")).send().problem(404);
        assert_eq!(call(&server, "POST", "/v1/index", &key("k-1")).json(&create).send().json()["id"], created["id"]);
        assert_eq!(server.get(&path).json()["vector_count"], 3);
        let (code, detail) = put(&server, &path, json!([point("z")]), "", &key("k-1")).problem(422);
        assert!(code == "idempotency_key_reused" && detail.contains("Idempotency-Key"), "{code}: {detail}");
        let (code, _) =
            call(&server, "POST", "/v1/index", &key("k-1")).json(&json!({"name": "o", "dimension": 2})).send().problem(422);
        assert_eq!(code, "idempotency_key_reused");
        server = TestServer::start_with(server.stop(), |_| {});
    }
    let long = "k".repeat(256);
    for wrong in ["", long.as_str()] {
        let (code, _) = put(&server, &path, json!([point("z")]), "", &key(wrong)).problem(422);
        assert_eq!(code, "invalid_idempotency_key");
    }
}

#[test]
fn points_are_deleted_by_a_filter() {
    let server = TestServer::start();
    let path = server.create_index(2);
    let points: Vec<Value> = (0..10).map(|n| json!({"id": format!("p{n}"), "values": [n, 0], "metadata": {"n": n}})).collect();
    put(&server, &path, json!(points), "", &[]);
    let delete = |body: &Value| server.post(&format!("{path}/vectors/delete"), body);
    assert_eq!(delete(&json!({"filter": {"n": {"$gte": 4}}})).json(), json!({"deleted_count": 6, "lsn": 2}));
    assert_eq!(delete(&json!({"filter": {"n": {"$gte": 4}}})).json(), json!({"deleted_count": 0, "lsn": 2}));
    for (body, field) in
        [(json!({}), "ids"), (json!({"filter": {"$near": 1}}), "$near"), (json!({"ids": [], "filter": {}}), "filter")]
    {
        let (_, detail) = delete(&body).problem(422);
        assert!(detail.contains(field), "{detail}");
    }
    assert_eq!(server.get(&path).json()["vector_count"], 4);
    assert_eq!(delete(&json!({"filter": {}})).json()["deleted_count"], 4);
}
