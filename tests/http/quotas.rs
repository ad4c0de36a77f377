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
        ("[quota.t]\npoints = 1", "line 2"),
        ("[quota.Upper]\nindices = 1", "tenant"),
    ] {
        let problem = ApiKeys::of_file(wrong).unwrap_err();
        assert!(problem.contains(place), "{problem}");
    }
}
