//! What a tenant may use.

use faiss_proxy::api::{ApiKeys, Gate};
use serde_json::json;

use crate::support::{KEY, OTHER_KEY, Response, TestServer};

/// A server with these quotas for `tenant-1`, and others for all else.
fn server_with(quotas: &str) -> TestServer {
    TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        let mut keys = ApiKeys::of_file(quotas).unwrap();
        keys.extend(ApiKeys::for_development());
        config.gate = Gate::new(keys, 0);
    })
}

fn create(server: &TestServer, key: &str, dimension: usize, idempotency_key: &str) -> Response {
    let call = server.call("POST", "/v1/index").key(key).header("idempotency-key", idempotency_key);
    call.json(&json!({"name": "n", "dimension": dimension})).send()
}

#[test]
fn a_tenant_has_so_many_indices_and_so_many_dimensions_and_a_retry_is_no_new_index() {
    let server = server_with("[quota.tenant-1]\nindices = 2\ndimension = 8");
    let first = create(&server, KEY, 8, "a");
    assert_eq!((first.status, create(&server, KEY, 1, "b").status), (201, 201));
    for (dimension, key) in [(1, "c"), (9, "d")] {
        assert_eq!(create(&server, KEY, dimension, key).problem(403).0, "quota_exceeded");
    }
    assert_eq!(create(&server, KEY, 8, "a").json()["id"], first.json()["id"], "a retry is given what it created");
    assert_eq!(create(&server, OTHER_KEY, 9, "a").status, 201);
    let path = format!("/v1/index/{}", first.json()["id"].as_str().unwrap());
    assert_eq!(server.delete(&path).status, 204);
    assert_eq!(create(&server, KEY, 1, "c").status, 201);
}

fn add(server: &TestServer, path: &str, ids: &[&str]) -> Response {
    let points: Vec<_> = ids.iter().map(|id| json!({"id": id, "values": [1.0]})).collect();
    server.post(&format!("{path}/vectors"), &json!({"vectors": points}))
}

fn path_of(created: &Response) -> String {
    format!("/v1/index/{}", created.json()["id"].as_str().unwrap())
}

#[test]
fn a_tenant_has_so_many_points_in_all_of_its_indices_and_what_replaces_one_is_none_more() {
    let quotas = "[quota.tenant-1]\npoints = 3";
    let server = server_with(quotas);
    let paths = ["a", "b"].map(|key| path_of(&create(&server, KEY, 1, key)));
    assert_eq!(add(&server, &paths[0], &["x", "y"]).status, 201);
    let refused = add(&server, &paths[1], &["x", "y"]);
    assert_eq!(refused.problem(403).0, "quota_exceeded");
    assert_eq!(add(&server, &paths[1], &["x", "x"]).status, 201, "an id that comes twice is one point");
    assert_eq!(add(&server, &paths[0], &["z"]).status, 403);
    assert_eq!(add(&server, &paths[0], &["x", "y"]).status, 201, "they replace what is there");
    assert_eq!(server.delete(&format!("{}/vectors/x", paths[1])).status, 204);
    assert_eq!(add(&server, &paths[0], &["z"]).status, 201, "what was deleted has made room");
    assert_eq!(add(&server, &paths[0], &["z", "new"]).status, 403);
    let patch = json!({"metadata": {"a": 1}});
    assert_eq!(server.call("PATCH", &format!("{}/vectors/z", paths[0])).key(KEY).json(&patch).send().status, 200);

    // Of an index that nobody has opened yet the points are counted too.
    let server = TestServer::start_with(server.stop(), |config| {
        let mut keys = ApiKeys::of_file(quotas).unwrap();
        keys.extend(ApiKeys::for_development());
        config.gate = Gate::new(keys, 0);
    });
    let figures = server.get("/v1/metrics").json();
    assert_eq!((&figures["uncounted"], &figures["vectors"], &figures["quota"]["points"]), (&json!(2), &json!(0), &json!(3)));
    assert_eq!(add(&server, &paths[1], &["w"]).problem(403).0, "quota_exceeded");
    let figures = server.get("/v1/metrics").json();
    assert_eq!((&figures["uncounted"], &figures["vectors"]), (&json!(0), &json!(3)));
}

#[test]
fn writes_of_one_group_are_counted_one_after_the_other() {
    let server = server_with("[quota.tenant-1]\npoints = 20");
    let path = path_of(&create(&server, KEY, 1, "a"));
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let add = |n: u32| add(&server, &path, &[&n.to_string()]).status;
        let threads: Vec<_> = (0..32).map(|n| scope.spawn(move || add(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|&&status| status == 201).count(), 20, "{statuses:?}");
    assert_eq!(server.get(&format!("{path}/ntotal")).json()["ntotal"], 20);
}

#[test]
fn with_as_many_bytes_of_files_as_it_may_have_a_tenant_deletes_and_adds_nothing() {
    let server = server_with("[quota.tenant-1]\nbytes = 1");
    let path = path_of(&create(&server, KEY, 1, "a"));
    assert_eq!(add(&server, &path, &["x"]).problem(403).0, "quota_exceeded");
    assert_eq!(server.post(&format!("{path}/vectors/delete"), &json!({"ids": ["x"]})).status, 200);
    assert_eq!(server.get(&format!("{path}/ntotal")).json()["ntotal"], 0);
}

#[test]
fn calls_over_the_rate_are_a_429_that_says_when_to_come_back_and_no_other_tenant_s_are() {
    let server = server_with("[quota.tenant-1]\nrequests_per_second = 1\n[quota.\"*\"]\nrequests_in_flight = 1");
    // A bucket of one call: of two that come within a second, the second is one too many.
    let refused = (0..1_000).map(|_| server.get("/v1/index")).find(|response| response.status != 200).unwrap();
    assert_eq!(refused.problem(429).0, "busy");
    assert!(refused.header("retry-after").is_some());
    for _ in 0..100 {
        assert_eq!(server.call("GET", "/v1/index").key(OTHER_KEY).send().status, 200);
    }
}

#[test]
fn a_file_with_a_quota_that_is_none_is_refused() {
    for (wrong, place) in [
        ("[quota.t]\nindices = 0", "line 2"),
        ("[quota.t]\nindices = -1", "line 2"),
        ("[quota.t]\nrows = 1", "line 2"),
        ("[quota.Upper]\nindices = 1", "tenant"),
    ] {
        let problem = ApiKeys::of_file(wrong).unwrap_err();
        assert!(problem.contains(place), "{problem}");
    }
}

#[test]
fn a_server_that_has_all_the_memory_that_it_may_takes_no_more_points_and_answers_all_else() {
    let server = TestServer::start();
    let path = server.create_index(1);
    assert_eq!(add(&server, &path, &["x"]).status, 201);
    let server = TestServer::start_with(server.stop(), |config| config.memory_bytes_max = 1);
    let refused = add(&server, &path, &["new"]);
    assert_eq!(refused.problem(503).0, "memory_full");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(server.call("PATCH", &format!("{path}/vectors/x")).key(KEY).json(&json!({"metadata": {}})).send().status, 503);
    assert_eq!(server.post(&format!("{path}/search"), &json!({"vector": [1.0]})).json()["results"][0]["id"], "x");
    assert_eq!(server.delete(&format!("{path}/vectors/x")).status, 204);
}
