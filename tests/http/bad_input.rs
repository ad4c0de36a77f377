//! Input that is wrong: a clear 4xx that names the field, nothing stored, nothing crashed.

use serde_json::{Value, json};

use crate::support::{KEY, TestServer};

#[test]
fn an_index_that_cannot_be_is_refused_by_field() {
    let server = TestServer::start();
    let long_name = "n".repeat(256);
    for (body, field) in [
        (json!({"dimension": 3}), "name"),
        (json!({"name": null, "dimension": 3}), "name"),
        (json!({"name": 3, "dimension": 3}), "name"),
        (json!({"name": "", "dimension": 3}), "name"),
        (json!({"name": long_name, "dimension": 3}), "name"),
        (json!({"name": "n"}), "dimension"),
        (json!({"name": "n", "dimension": 0}), "dimension"),
        (json!({"name": "n", "dimension": -1}), "dimension"),
        (json!({"name": "n", "dimension": 1.5}), "dimension"),
        (json!({"name": "n", "dimension": 65_537}), "dimension"),
        (json!({"name": "n", "dimension": 1e30}), "dimension"),
        (json!({"name": "n", "dimension": u64::MAX}), "dimension"),
        (json!({"name": "n", "dimension": "3"}), "dimension"),
        (json!({"name": "n", "dimension": true}), "dimension"),
        (json!({"name": "n", "dimension": 3, "index_type": 1}), "index_type"),
        (json!({"name": "n", "dimension": 3, "index_type": ""}), "index_type"),
        (json!({"name": "n", "dimension": 3, "index_type": "IndexOfNothing"}), "index_type"),
        (json!({"name": "n", "dimension": 3, "metric": "hamming"}), "metric"),
        (json!({"name": "n", "dimension": 3, "metric": 2}), "metric"),
    ] {
        let (_, detail) = server.post("/v1/index", &body).problem(422);
        assert!(detail.contains(field), "{body}: {detail}");
    }
    assert_eq!(server.get("/v1/index").json()["indices"], json!([]));
    assert_eq!(server.post("/v1/index", &json!({"name": "n", "dimension": 3.0})).json()["dimension"], 3);
}

#[test]
fn a_search_that_cannot_be_is_refused_by_field() {
    let server = TestServer::start();
    let index = server.create_index(2);
    server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1, 2]}]}));
    let huge = vec![0; 65_537];
    for (body, field) in [
        (json!({}).to_string(), "vector"),
        (json!({"vector": null}).to_string(), "vector"),
        (json!({"vector": "[1, 2]"}).to_string(), "vector"),
        (json!({"vector": {"0": 1}}).to_string(), "vector"),
        (json!({"vector": []}).to_string(), "vector"),
        (json!({"vector": [1]}).to_string(), "vector"),
        (json!({"vector": [1, 2, 3]}).to_string(), "vector"),
        (json!({"vector": [1, null]}).to_string(), "vector"),
        (json!({"vector": [1, [2]]}).to_string(), "vector"),
        (json!({"vector": huge}).to_string(), "vector"),
        (r#"{"vector": [1, 1e39]}"#.to_owned(), "vector"),
        (r#"{"vector": [1, -1e400]}"#.to_owned(), "vector"),
        (json!({"vector": [1, 2], "k": 0}).to_string(), "k"),
        (json!({"vector": [1, 2], "k": -1}).to_string(), "k"),
        (json!({"vector": [1, 2], "k": 1.5}).to_string(), "k"),
        (json!({"vector": [1, 2], "k": 10_001}).to_string(), "k"),
        (json!({"vector": [1, 2], "k": "1"}).to_string(), "k"),
        (r#"{"vector": [1, 2], "k": 1e400}"#.to_owned(), "k"),
        (json!({"vector": [1, 2], "filter": 1}).to_string(), "filter"),
        (json!({"vector": [1, 2], "filter": [1]}).to_string(), "filter"),
    ] {
        for method in ["POST", "GET"] {
            let (_, detail) = server.call(method, &format!("{index}/search")).key(KEY).body(body.clone()).send().problem(422);
            assert!(detail.contains(field), "{body}: {detail}");
        }
    }
    let most = server.post(&format!("{index}/search"), &json!({"vector": [1, 2], "k": 10_000}));
    assert_eq!(most.json()["results"].as_array().unwrap().len(), 1);
}

#[test]
fn a_zero_vector_has_no_cosine() {
    let server = TestServer::start();
    let created = server.post("/v1/index", &json!({"name": "n", "dimension": 2, "index_type": "Flat", "metric": "cosine"}));
    let index = format!("/v1/index/{}", created.json()["id"].as_str().unwrap());
    let added = server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [0, 0]}]})).json();
    assert_eq!(added["errors"][0]["code"], "zero_vector");
    assert!(server.post(&format!("{index}/search"), &json!({"vector": [0, 0]})).problem(422).1.contains("vector"));
}

#[test]
fn each_way_in_which_a_point_can_be_wrong_fails_that_point_alone() {
    let server = TestServer::start();
    let index = server.create_index(2);
    let quoted = |text: String| format!("\"{text}\"");
    let nested = |depth: usize| format!("{}{}", "{\"a\":".repeat(depth - 1) + "{}", "}".repeat(depth - 1));
    let long_id = quoted("i".repeat(513));
    let wrong: Vec<(String, &str)> = vec![
        ("3".to_owned(), "invalid_point"),
        ("null".to_owned(), "invalid_point"),
        (r#"["a", [1, 2]]"#.to_owned(), "invalid_point"),
        (r#"{"id": "a", "id": "b", "values": [1, 2]}"#.to_owned(), "invalid_point"),
        (r#"{"values": [1, 2]}"#.to_owned(), "invalid_id"),
        (r#"{"id": null, "values": [1, 2]}"#.to_owned(), "invalid_id"),
        (r#"{"id": 7, "values": [1, 2]}"#.to_owned(), "invalid_id"),
        (r#"{"id": "", "values": [1, 2]}"#.to_owned(), "invalid_id"),
        (r#"{"id": "\ud800", "values": [1, 2]}"#.to_owned(), "invalid_id"),
        (format!(r#"{{"id": {long_id}, "values": [1, 2]}}"#), "invalid_id"),
        (r#"{"id": "a"}"#.to_owned(), "invalid_values"),
        (r#"{"id": "a", "values": null}"#.to_owned(), "invalid_values"),
        (r#"{"id": "a", "values": "1,2"}"#.to_owned(), "invalid_values"),
        (r#"{"id": "a", "values": [1, "2"]}"#.to_owned(), "invalid_values"),
        (r#"{"id": "a", "values": [1, null]}"#.to_owned(), "invalid_values"),
        (r#"{"id": "a", "values": []}"#.to_owned(), "wrong_dimension"),
        (r#"{"id": "a", "values": [1]}"#.to_owned(), "wrong_dimension"),
        (r#"{"id": "a", "values": [1, 2, 3]}"#.to_owned(), "wrong_dimension"),
        (format!(r#"{{"id": "a", "values": [1{}]}}"#, ",1".repeat(65_536)), "wrong_dimension"),
        (r#"{"id": "a", "values": [1, 1e39]}"#.to_owned(), "not_finite"),
        (r#"{"id": "a", "values": [1, -3.5e38]}"#.to_owned(), "not_finite"),
        (r#"{"id": "a", "values": [1e400, 1]}"#.to_owned(), "not_finite"),
        (r#"{"id": "a", "values": [1, 2], "metadata": []}"#.to_owned(), "invalid_metadata"),
        (r#"{"id": "a", "values": [1, 2], "metadata": "{}"}"#.to_owned(), "invalid_metadata"),
        (r#"{"id": "a", "values": [1, 2], "metadata": 1}"#.to_owned(), "invalid_metadata"),
        (format!(r#"{{"id": "a", "values": [1, 2], "metadata": {{"k": "{}"}}}}"#, "x".repeat(64 << 10)), "metadata_too_large"),
        (format!(r#"{{"id": "a", "values": [1, 2], "metadata": {}}}"#, nested(33)), "metadata_too_deep"),
        (
            format!(r#"{{"id": "a", "values": [1, 2], "metadata": {{"k": {}1{}}}}}"#, "[".repeat(30_000), "]".repeat(30_000)),
            "metadata_too_deep",
        ),
    ];
    for (position, (point, code)) in wrong.iter().enumerate() {
        let good = format!(r#"{{"id": "good {position}", "values": [1, 2], "metadata": {}}}"#, nested(32));
        let body = format!(r#"{{"vectors": [{point}, {good}]}}"#);
        let added = server.call("POST", &format!("{index}/vectors")).key(KEY).body(body).send();
        let point = &point[..point.len().min(80)];
        assert_eq!(added.status, 201, "{point}: {added:?}");
        let added = added.json();
        assert_eq!((&added["added_count"], &added["failed_count"]), (&json!(1), &json!(1)), "{point}: {added}");
        assert_eq!((&added["errors"][0]["position"], &added["errors"][0]["code"]), (&json!(0), &json!(code)), "{point}: {added}");
    }
    assert_eq!(server.get(&index).json()["vector_count"], wrong.len());
    server.get(&format!("{index}/vectors/a")).problem(404);
}

#[test]
fn a_batch_that_is_none_or_too_large_is_refused_whole() {
    let server = TestServer::start();
    let index = server.create_index(1);
    let point = json!({"id": "a", "values": [1]});
    for body in [
        json!({}),
        json!({"vectors": null}),
        json!({"vectors": point}),
        json!({"vectors": "x"}),
        json!({"vectors": vec![point.clone(); 10_001]}),
    ] {
        let (_, detail) = server.post(&format!("{index}/vectors"), &body).problem(422);
        assert!(detail.contains("vectors"), "{detail}");
    }
    let wrong = server.post(&format!("{index}/vectors?durability=maybe"), &json!({"vectors": [point]}));
    assert!(wrong.problem(422).1.contains("durability"));
    assert_eq!(server.get(&index).json()["lsn"], 0);
}

#[test]
fn wrong_json_is_a_400_and_no_object_a_422_on_every_call_that_takes_a_body() {
    let server = TestServer::start();
    let index = server.create_index(1);
    let deep_arrays = "[".repeat(100_000);
    let deep_objects = "{\"a\":".repeat(100_000);
    let deep_field =
        format!("{{\"name\":{0}1{1},\"vectors\":{0}1{1},\"vector\":{0}1{1}}}", "[".repeat(100_000), "]".repeat(100_000));
    for path in ["/v1/index".to_owned(), format!("{index}/vectors"), format!("{index}/search")] {
        let send = |body: &[u8]| server.call("POST", &path).key(KEY).body(body).send();
        let wrong = [
            "",
            " ",
            "{",
            "nul",
            "{\"a\": NaN}",
            "{\"a\": Infinity}",
            "{'a': 1}",
            "{\"a\":1,}",
            "{} {}",
            "[1",
            &deep_arrays,
            &deep_objects,
        ];
        for body in wrong {
            let (code, detail) = send(body.as_bytes()).problem(400);
            assert_eq!(code, "invalid_json");
            assert!(body.trim().is_empty() || detail.contains("column"), "{detail}");
        }
        send(b"{\"a\": \"\xff\"}").problem(400);
        send(b"\xef\xbb\xbf{}").problem(400);
        for body in ["[]", "3", "null", "\"a\"", "true", "[{\"name\": \"n\", \"dimension\": 1}]"] {
            assert!(send(body.as_bytes()).problem(422).1.contains("body"));
        }
        // As one field of a body, what is deep is only a wrong value; as one of its points, a failed one.
        let deep = send(deep_field.as_bytes());
        assert!(deep.status == 422 || deep.json()["failed_count"] == 1, "{deep:?}");
    }
    assert_eq!(server.get(&index).json()["lsn"], 0);
}

#[test]
fn a_deep_filter_is_refused() {
    let server = TestServer::start();
    let index = server.create_index(1);
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let filter = format!("{{\"a\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));
        let body = format!("{{\"vector\":[1],\"filter\":{filter}}}");
        let refused = server.call("POST", &format!("{index}/search")).key(KEY).body(body).send();
        assert!(refused.problem(422).1.contains("filter"));
    }
}

#[test]
fn only_json_is_taken() {
    let server = TestServer::start();
    let body = json!({"name": "n", "dimension": 1}).to_string();
    let send =
        |media_type: &str| server.call("POST", "/v1/index").key(KEY).header("content-type", media_type).body(body.clone()).send();
    for taken in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
        assert_eq!(send(taken).status, 201, "{taken}");
    }
    assert_eq!(server.call("POST", "/v1/index").key(KEY).body(body.clone()).send().status, 201);
    for refused in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json", ""] {
        assert_eq!(send(refused).problem(415).0, "unsupported_media_type", "{refused}");
    }
}

#[test]
fn a_path_that_names_nothing_is_a_404_and_a_wrong_method_a_405_that_says_which() {
    let server = TestServer::start();
    let index = server.create_index(1);
    for path in
        ["/v2", "/v1", "/nothing", "/v1/index/a/b", "/v1//index", &format!("{index}/vectors/a/b"), "/../etc/passwd", "/%00"]
    {
        assert_eq!(server.call("GET", path).send().problem(404).0, "route_not_found", "{path}");
    }
    for part in ["..", "%2e%2e", "%00", "%", "%ff", "x", "not-a-uuid", "%2Fetc%2Fpasswd"] {
        for (method, rest) in
            [("GET", ""), ("DELETE", ""), ("POST", "/checkpoint"), ("GET", "/vectors/a"), ("DELETE", "/vectors/a")]
        {
            let answer = server.call(method, &format!("/v1/index/{part}{rest}")).key(KEY).send();
            assert_eq!(answer.problem(404).0, "index_not_found", "{method} {part}{rest}");
        }
    }
    for part in ["%", "%2", "%zz", "%ff", "%C3"] {
        for method in ["GET", "DELETE"] {
            let answer = server.call(method, &format!("{index}/vectors/{part}")).key(KEY).send();
            assert!(answer.problem(422).1.contains("vector_id"), "{part}");
        }
    }
    for (method, path, allow) in [
        ("POST", "/", "GET"),
        ("DELETE", "/v1/index", "GET, POST"),
        ("PUT", index.as_str(), "GET, PATCH, DELETE"),
        ("PUT", &format!("{index}/vectors"), "GET, POST"),
        ("DELETE", &format!("{index}/vectors/"), "GET, POST"),
        ("POST", &format!("{index}/vectors/v"), "GET, PATCH, DELETE"),
        ("PUT", &format!("{index}/vectors/fetch"), "GET, PATCH, DELETE, POST"),
        ("GET", &format!("{index}/count"), "POST"),
        ("PUT", &format!("{index}/search"), "GET, POST"),
        ("OPTIONS", "/v1/health", "GET"),
    ] {
        let refused = server.call(method, path).key(KEY).send();
        refused.problem(405);
        assert_eq!(refused.header("allow"), Some(allow), "{method} {path}");
    }
    for open in ["/", "/docs", "/openapi.json", "/docs/start.js", "/v1/health", "/v1/health/ready"] {
        server.call("DELETE", open).send().problem(405);
    }
    assert_eq!(server.get(&index).status, 200);
}

#[test]
fn every_response_bears_a_request_id_the_clients_own_where_it_is_safe() {
    let server = TestServer::start();
    let id_for = |sent: &str| {
        let response = server.call("GET", "/v1/health").header("x-request-id", sent).send();
        response.header("x-request-id").unwrap().to_owned()
    };
    let longest = "a".repeat(64);
    for safe in ["abc-1.2_3", "A", longest.as_str()] {
        assert_eq!(id_for(safe), safe);
    }
    let too_long = "a".repeat(65);
    for unsafe_id in ["", "a b", "a\"b", "<script>", "ä", too_long.as_str()] {
        let id = id_for(unsafe_id);
        assert!(uuid::Uuid::parse_str(&id).is_ok(), "{id}");
    }
    let response = server.call("GET", "/v1/index").header("x-request-id", "mine").send();
    response.problem(401);
    let document: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(document["request_id"], "mine");
    assert_eq!(server.call("GET", "/docs").header("x-request-id", "mine").send().header("x-request-id"), Some("mine"));
}
