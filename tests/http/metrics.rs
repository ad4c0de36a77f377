//! What operators see: `/metrics`, and the listener that is theirs.

use std::collections::BTreeSet;

use faiss_proxy::api::{ApiKeys, Gate};
use serde_json::json;

use crate::support::{Call, KEY, OTHER_KEY, Response, TestServer};

fn operators(server: &TestServer, path: &str) -> Response {
    Call::new(server.operators, "GET", path).send()
}

/// The value of a series, written as the page has it.
fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn text(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.body.clone()
}

fn add(server: &TestServer, path: &str, ids: &[&str]) {
    let points: Vec<_> = ids.iter().map(|id| json!({"id": id, "values": [1.0]})).collect();
    assert_eq!(server.post(&format!("{path}/vectors"), &json!({"vectors": points})).status, 201);
}

#[test]
fn each_stage_of_a_call_is_timed_and_each_answer_counted() {
    let server = TestServer::start();
    let path = server.create_index(1);
    add(&server, &path, &["a", "b"]);
    add(&server, &path, &["c"]);
    assert_eq!(server.post(&format!("{path}/search"), &json!({"vector": [1.0]})).status, 200);
    assert_eq!(server.post(&format!("{path}/search"), &json!({"vector": [1.0, 2.0]})).status, 422);
    assert_eq!(server.post(&format!("{path}/checkpoint"), &json!({})).status, 200);
    let page = operators(&server, "/metrics");
    assert!(page.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let page = text(&page);
    let of_search = |status: u16| {
        format!(r#"faiss_proxy_request_seconds_count{{method="POST",route="/v1/index/{{index_id}}/search",status="{status}"}}"#)
    };
    let id = path.rsplit('/').next().unwrap();
    for (series, expected) in [
        (of_search(200).as_str(), 1.0),
        (of_search(422).as_str(), 1.0),
        (r#"faiss_proxy_problems_total{code="wrong_dimension"}"#, 1.0),
        (r#"faiss_proxy_queue_wait_seconds_count{queue="searches"}"#, 2.0),
        (r#"faiss_proxy_queue_wait_seconds_count{queue="writes"}"#, 3.0),
        ("faiss_proxy_commit_seconds_count", 2.0),
        ("faiss_proxy_commit_group_requests_sum", 2.0),
        ("faiss_proxy_log_append_seconds_count", 2.0),
        ("faiss_proxy_log_sync_seconds_count", 2.0),
        ("faiss_proxy_apply_seconds_count", 2.0),
        ("faiss_proxy_checkpoint_seconds_count", 1.0),
        ("faiss_proxy_points", 3.0),
        (r#"faiss_proxy_indices{state="serving"}"#, 1.0),
        (&format!(r#"faiss_proxy_index_checkpoint_lsn{{index="{id}",tenant="tenant-1"}}"#), 2.0),
        (&format!(r#"faiss_proxy_index_read_only{{index="{id}",tenant="tenant-1"}}"#), 0.0),
        (r#"faiss_proxy_running{queue="searches"}"#, 0.0),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series}\n{page}");
    }
    for series in
        ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "faiss_proxy_disk_free_bytes"]
    {
        assert!(value(&page, series).is_some_and(|value| value > 0.0), "{series}\n{page}");
    }
    assert!(value(&page, "faiss_proxy_search_seconds_count") >= Some(1.0), "{page}");
}

#[test]
fn with_a_key_the_page_has_no_other_tenant_s_indices_and_for_operators_it_has_all() {
    let server = TestServer::start();
    let mine = server.create_index(1);
    let created = server.call("POST", "/v1/index").key(OTHER_KEY).json(&json!({"name": "secret", "dimension": 1})).send().json();
    let (mine, other) = (mine.rsplit('/').next().unwrap(), created["id"].as_str().unwrap());
    let page = text(&server.get("/metrics"));
    assert!(page.contains(mine) && !page.contains(other) && !page.contains("tenant-2"), "{page}");
    assert_eq!(server.call("GET", "/metrics").send().problem(401).0, "unauthorized");
    let page = text(&operators(&server, "/metrics"));
    assert!(page.contains(mine) && page.contains(other), "{page}");
}

#[test]
fn series_are_as_few_whatever_clients_send_and_however_many_indices_there_are() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| config.metrics_indices_max = 1);
    let (small, large) = (server.create_index(1), server.create_index(1));
    add(&server, &small, &["a"]);
    add(&server, &large, &["a", "b"]);
    text(&operators(&server, "/metrics"));
    let series =
        || text(&operators(&server, "/metrics")).lines().filter(|line| line.starts_with("faiss_proxy_request_seconds")).count();
    assert_eq!(server.get("/nowhere").status, 404);
    let before = series();
    for n in 0..20 {
        assert_eq!(server.get(&format!("/nowhere/{n}")).status, 404);
        assert_eq!(server.call(&format!("VERB{n}"), &format!("/{n}")).key(KEY).send().status, 404);
    }
    assert_eq!(series(), before);
    let page = text(&operators(&server, "/metrics"));
    assert_eq!(value(&page, "faiss_proxy_indices_unlisted"), Some(1.0), "{page}");
    assert_eq!(value(&page, "faiss_proxy_points"), Some(3.0), "{page}");
    assert!(page.contains(large.rsplit('/').next().unwrap()) && !page.contains(small.rsplit('/').next().unwrap()), "{page}");
}

#[test]
fn operators_see_how_every_index_stands_and_clients_do_not() {
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        let mut keys = ApiKeys::of_file("[quota.tenant-2]\npoints = 7").unwrap();
        keys.extend(ApiKeys::for_development());
        config.gate = Gate::new(keys, 0);
    });
    let mine = server.create_index(1);
    add(&server, &mine, &["a", "b"]);
    server.call("POST", "/v1/index").key(OTHER_KEY).json(&json!({"name": "second", "dimension": 1})).send();
    let indices = operators(&server, "/admin/indices").json()["indices"].clone();
    let of = |at: usize| (indices[at]["tenant_id"].clone(), indices[at]["state"].clone(), indices[at]["points"].clone());
    assert_eq!(of(0), (json!("tenant-1"), json!("open"), json!(2)));
    assert_eq!(of(1), (json!("tenant-2"), json!("open"), json!(0)));
    let tenants = operators(&server, "/admin/tenants").json()["tenants"].clone();
    assert_eq!((&tenants[0]["usage"]["points"], &tenants[0]["usage"]["indices"]), (&json!(2), &json!(1)), "{tenants}");
    assert_eq!(tenants[1]["quota"]["points"], 7, "{tenants}");
    assert_eq!(operators(&server, "/v1/health").json()["status"], "ok");
    assert_eq!(operators(&server, "/v1/index").problem(404).0, "route_not_found");
    assert_eq!(Call::new(server.operators, "POST", "/metrics").send().problem(405).0, "method_not_allowed");
    assert_eq!(server.get("/admin/indices").problem(404).0, "route_not_found");
}

/// The names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("faiss_proxy_") || word.starts_with("process_")).collect()
}

#[test]
fn what_alerts_and_dashboard_look_at_is_on_the_page_and_each_alert_says_what_to_do() {
    let server = TestServer::start();
    let path = server.create_index(1);
    assert_eq!(server.post(&format!("{path}/search"), &json!({})).status, 422);
    let page = text(&operators(&server, "/metrics"));
    let there = names(&page);
    let read = |path: &str| std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (alerts, dashboard) = (read("deploy/prometheus/alerts.yml"), read("deploy/grafana/faiss-proxy.json"));
    for name in names(&alerts).into_iter().chain(names(&dashboard)) {
        assert!(there.contains(name), "{name} is not on the page");
    }
    let operations = read("docs/operations.md");
    for runbook in alerts.lines().filter_map(|line| line.trim().strip_prefix("runbook: ")) {
        let anchor = runbook.trim_matches('\'').strip_prefix("docs/operations.md#").expect(runbook);
        assert!(operations.contains(&format!("<a id=\"{anchor}\"></a>")), "{anchor}");
    }
}
