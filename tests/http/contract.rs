//! Every row of the contract that is served, with status and field names.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{KEY, NO_INDEX, OTHER_KEY, TestServer};

fn fields(document: &Value) -> BTreeSet<&str> {
    document.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn root_health_ready_and_docs_answer_without_a_key() {
    let server = TestServer::start();
    let open = |path| server.call("GET", path).send();

    let root = open("/");
    assert_eq!((root.status, &root.json()["status"]), (200, &json!("ok")));
    assert!(root.json()["message"].is_string());
    let health = open("/v1/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));
    assert!(health.json()["uptime"].as_f64().unwrap() >= 0.0);
    let ready = open("/v1/health/ready");
    let none = json!({"serving": 0, "not_verified": 0, "refused": 0});
    assert_eq!((ready.status, ready.json()), (200, json!({"status": "ready", "indices": none})));
    assert_eq!(server.get("/v1/health/ready").json(), json!({"status": "ready", "indices": none, "refused": []}));
    let docs = open("/docs");
    assert_eq!((docs.status, docs.header("content-type")), (200, Some("text/html; charset=utf-8")));
    // Swagger UI, as it was there; `openapi.rs` has the rest.
    assert!(docs.body.contains("swagger-ui-bundle.js"));
}

#[test]
fn metrics_have_the_first_servers_fields_and_the_tenants_own_figures() {
    let server = TestServer::start();
    let index = server.create_index(2);
    server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1, 2]}, {"id": "b", "values": [3, 4]}]}));

    let metrics = server.get("/v1/metrics");
    assert_eq!(metrics.status, 200);
    let metrics = metrics.json();
    let system =
        ["cpu_percent", "memory_percent", "memory_used_mb", "memory_total_mb", "disk_percent", "disk_used_gb", "disk_total_gb"];
    assert_eq!(fields(&metrics["system"]), BTreeSet::from(system));
    for name in system {
        assert!(metrics["system"][name].as_f64().is_some_and(|figure| figure >= 0.0), "{name}");
    }
    assert!(metrics["system"]["memory_total_mb"].as_f64().unwrap() > 0.0);
    assert!(metrics["system"]["disk_total_gb"].as_f64().unwrap() > 0.0);
    assert!(metrics["uptime"].is_number());
    assert_eq!((&metrics["indices"], &metrics["vectors"]), (&json!(1), &json!(2)));
    assert!(metrics["bytes"].as_u64().unwrap() > 0);

    let others = server.call("GET", "/v1/metrics").key(OTHER_KEY).send().json();
    assert_eq!((&others["indices"], &others["vectors"], &others["bytes"]), (&json!(0), &json!(0), &json!(0)));
}

#[test]
fn a_metric_alone_chooses_the_flat_type_that_has_it() {
    let server = TestServer::start();
    for (metric, index_type) in [("l2", "IndexFlatL2"), ("ip", "Flat"), ("cosine", "Flat")] {
        let created = server.post("/v1/index", &json!({"name": "n", "dimension": 2, "metric": metric})).json();
        assert_eq!((&created["metric"], &created["index_type"]), (&json!(metric), &json!(index_type)));
    }
}

#[test]
fn an_index_is_created_described_and_deleted() {
    let server = TestServer::start();
    let created = server.post("/v1/index", &json!({"name": "words", "dimension": 3, "tenant_id": "tenant-1", "later": {}}));
    assert_eq!(created.status, 201);
    let document = created.json();
    let names = [
        "id",
        "name",
        "dimension",
        "index_type",
        "tenant_id",
        "vector_count",
        "metric",
        "factory",
        "state",
        "options",
        "unindexed_rows",
        "lsn",
        "durable_lsn",
        "checkpoint_lsn",
        "segments",
        "builds",
        "tombstones",
        "torn_bytes",
        "metadata_index_bytes",
        "bytes",
        "created_at",
    ];
    assert_eq!(fields(&document), BTreeSet::from(names));
    for (field, value) in [
        ("name", json!("words")),
        ("dimension", json!(3)),
        ("index_type", json!("IndexFlatL2")),
        ("tenant_id", json!("tenant-1")),
        ("vector_count", json!(0)),
        ("metric", json!("l2")),
        ("factory", json!("Flat")),
        ("state", json!("ready")),
    ] {
        assert_eq!(document[field], value, "{field}");
    }
    let id = document["id"].as_str().unwrap();
    assert!(uuid::Uuid::parse_str(id).is_ok());
    let created_at = document["created_at"].as_str().unwrap();
    assert!(created_at.len() == 27 && created_at.starts_with("20") && created_at.ends_with('Z'), "{created_at}");

    let path = format!("/v1/index/{id}");
    let got = server.get(&path);
    assert_eq!(got.status, 200);
    assert_eq!((&got.json()["id"], &got.json()["name"]), (&json!(id), &json!("words")));

    let deleted = server.delete(&path);
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    for gone in [server.get(&path), server.delete(&path), server.get(&format!("/v1/index/{NO_INDEX}"))] {
        assert_eq!(gone.problem(404), ("index_not_found".to_owned(), "Index not found".to_owned()));
    }
}

#[test]
fn index_names_need_not_be_unique_and_the_list_finds_them_page_by_page() {
    let server = TestServer::start();
    let create = |name: &str| server.post("/v1/index", &json!({"name": name, "dimension": 2})).json()["id"].clone();
    let ids = [create("same"), create("other ä"), create("same")];
    assert!(ids[0] != ids[2]);
    let listed = |query: &str| {
        let page = server.get(&format!("/v1/index{query}"));
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        let ids: Vec<Value> = page["indices"].as_array().unwrap().iter().map(|index| index["id"].clone()).collect();
        (ids, page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(listed(""), (ids.to_vec(), None));
    assert_eq!(listed("?name=same"), (vec![ids[0].clone(), ids[2].clone()], None));
    assert_eq!(listed("?name=other+%C3%A4"), (vec![ids[1].clone()], None));
    assert_eq!(listed("?name=none"), (vec![], None));
    let (first, cursor) = listed("?limit=2");
    assert_eq!(first, ids[..2]);
    assert_eq!(listed(&format!("?limit=2&cursor={}", cursor.unwrap())), (vec![ids[2].clone()], None));
    for wrong in ["?limit=0", "?limit=x", "?limit=-1", "?limit=1001", "?cursor=x", "?name=%ff", "?name=%2"] {
        server.get(&format!("/v1/index{wrong}")).problem(422);
    }
}

#[test]
fn valid_points_of_a_batch_are_stored_and_the_others_are_counted_and_named() {
    let server = TestServer::start();
    let index = server.create_index(2);
    let vectors = format!("{index}/vectors");

    let added = server.post(&vectors, &json!({"vectors": [{"id": "a", "values": [1, 2]}]}));
    assert_eq!(added.status, 201);
    let expected = json!({"success": true, "added_count": 1, "failed_count": 0, "errors": [], "warnings": [], "lsn": 1});
    assert_eq!(added.json(), expected);

    let added = server.post(
        &vectors,
        &json!({"vectors": [
            {"id": "short", "values": [1]},
            {"id": "b", "values": [3, 4], "metadata": {"k": 1}},
            {"values": [1, 2]},
            {"id": "c", "values": [5, 6], "metadata": null, "later": 1},
        ]}),
    );
    assert_eq!(added.status, 201);
    let added = added.json();
    assert_eq!(added["success"], false);
    assert_eq!((&added["added_count"], &added["failed_count"], &added["lsn"]), (&json!(2), &json!(2), &json!(2)));
    let errors = added["errors"].as_array().unwrap();
    assert_eq!(
        (&errors[0]["position"], &errors[0]["id"], &errors[0]["code"]),
        (&json!(0), &json!("short"), &json!("wrong_dimension"))
    );
    assert_eq!((&errors[1]["position"], &errors[1]["id"], &errors[1]["code"]), (&json!(2), &json!(null), &json!("invalid_id")));
    assert!(errors.iter().all(|error| error["detail"].is_string()));
    assert_eq!(server.get(&index).json()["vector_count"], 3);
}

#[test]
fn a_batch_in_which_every_point_failed_stores_nothing_and_has_no_lsn() {
    let server = TestServer::start();
    let index = server.create_index(2);
    for (vectors, failed) in [(json!([{"id": "a", "values": [1]}]), 1), (json!([]), 0)] {
        let added = server.post(&format!("{index}/vectors"), &json!({"vectors": vectors}));
        assert_eq!(added.status, 201);
        let added = added.json();
        assert_eq!((&added["added_count"], &added["failed_count"]), (&json!(0), &json!(failed)));
        assert_eq!((&added["success"], &added["lsn"]), (&json!(failed == 0), &json!(null)));
    }
    assert_eq!(server.get(&index).json()["lsn"], 0);
}

#[test]
fn an_id_twice_in_a_batch_counts_once_and_the_last_wins_and_is_no_failure() {
    let server = TestServer::start();
    let index = server.create_index(1);
    let batch = json!({"vectors": [
        {"id": "bad", "values": []}, {"id": "a", "values": [1]}, {"id": "b", "values": [2]}, {"id": "a", "values": [3]},
    ]});
    let added = server.post(&format!("{index}/vectors"), &batch).json();
    assert_eq!((&added["added_count"], &added["failed_count"]), (&json!(2), &json!(1)));
    let warnings = added["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1);
    assert_eq!(
        (&warnings[0]["position"], &warnings[0]["id"], &warnings[0]["code"]),
        (&json!(1), &json!("a"), &json!("superseded"))
    );
    assert!(warnings[0]["detail"].is_string());
    assert_eq!(server.get(&format!("{index}/vectors/a")).json()["values"], json!([3.0]));
}

#[test]
fn an_atomic_batch_with_a_bad_point_is_refused_whole() {
    let server = TestServer::start();
    let index = server.create_index(1);
    let batch = json!({"vectors": [{"id": "a", "values": [1]}, {"id": "b", "values": [1, 2]}]});
    let refused = server.post(&format!("{index}/vectors?atomic=true"), &batch);
    assert_eq!(refused.problem(422).0, "invalid_points");
    let errors: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!((&errors["errors"][0]["position"], &errors["errors"][0]["code"]), (&json!(1), &json!("wrong_dimension")));
    assert_eq!(server.get(&index).json()["vector_count"], 0);
    assert_eq!(server.post(&format!("{index}/vectors?atomic=false"), &batch).json()["added_count"], 1);
    assert!(server.post(&format!("{index}/vectors?atomic=maybe"), &batch).problem(422).1.contains("atomic"));
}

#[test]
fn an_id_that_exists_is_replaced() {
    let server = TestServer::start();
    let index = server.create_index(1);
    for value in [1.0, 2.0] {
        let point = json!({"id": "a", "values": [value], "metadata": {"value": value}});
        assert_eq!(server.post(&format!("{index}/vectors"), &json!({"vectors": [point]})).json()["added_count"], 1);
    }
    assert_eq!(server.get(&index).json()["vector_count"], 1);
    let point = server.get(&format!("{index}/vectors/a")).json();
    assert_eq!(point, json!({"id": "a", "values": [2.0], "metadata": {"value": 2.0}, "lsn": 2}));
}

#[test]
fn stored_values_are_the_nearest_f32_bit_for_bit_and_metadata_the_clients_own_text() {
    let server = TestServer::start();
    let index = server.create_index(5);
    let metadata = r#"{"big": 123456789012345678901234567890, "z":1.10, "a" : ["\u00e4", null]}"#;
    let body = format!(
        r#"{{"vectors": [{{"id": "a", "values": [0.1, -0.0, 1e-45, 1.00000005960464477540, 3.4028235e38], "metadata": {metadata}}}]}}"#
    );
    let added = server.call("POST", &format!("{index}/vectors")).key(KEY).body(body).send();
    assert_eq!(added.json()["success"], true, "{added:?}");
    let got = server.get(&format!("{index}/vectors/a"));
    assert!(got.body.contains(&format!("\"metadata\":{metadata}")), "{}", got.body);
    let values: Vec<u32> =
        got.json()["values"].as_array().unwrap().iter().map(|value| (value.as_f64().unwrap() as f32).to_bits()).collect();
    let stored = [0.1_f32, -0.0, f32::from_bits(1), f32::from_bits(1.0_f32.to_bits() + 1), f32::MAX];
    assert_eq!(values, stored.map(f32::to_bits));
    assert!(got.body.contains("[0.1,-0.0,"), "{}", got.body);
}

#[test]
fn a_vector_is_deleted_once() {
    let server = TestServer::start();
    let index = server.create_index(1);
    server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1]}]}));
    let path = format!("{index}/vectors/a");
    let deleted = server.delete(&path);
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    for gone in [server.delete(&path), server.get(&path)] {
        assert_eq!(gone.problem(404), ("vector_not_found".to_owned(), "Vector not found".to_owned()));
    }
    assert_eq!(server.get(&index).json()["vector_count"], 0);
}

#[test]
fn ids_in_a_path_are_percent_decoded_and_opaque() {
    let server = TestServer::start();
    let index = server.create_index(1);
    for (id, path) in [
        ("a/b", "a%2Fb"),
        ("..", ".."),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"),
        ("Grüße 東京 🦀", "Gr%C3%BC%C3%9Fe%20%E6%9D%B1%E4%BA%AC%20%F0%9F%A6%80"),
        ("a\0b", "a%00b"),
        ("100%", "100%25"),
        ("a+b", "a+b"),
        ("a?b#c", "a%3Fb%23c"),
    ] {
        let added = server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": id, "values": [1]}]}));
        assert_eq!(added.json()["added_count"], 1, "{id:?}");
        let got = server.get(&format!("{index}/vectors/{path}"));
        assert_eq!((got.status, &got.json()["id"]), (200, &json!(id)));
        assert_eq!(server.delete(&format!("{index}/vectors/{path}")).status, 204, "{id:?}");
    }
    assert_eq!(server.get(&index).json()["vector_count"], 0);
}

#[test]
fn search_answers_by_post_and_by_get_with_a_body_best_first() {
    let server = TestServer::start();
    let index = server.create_index(2);
    let points = json!([
        {"id": "far", "values": [3, 4], "metadata": {"n": 1}},
        {"id": "near", "values": [0, 1], "metadata": {"n": 2}},
        {"id": "there", "values": [0, 0]},
    ]);
    server.post(&format!("{index}/vectors"), &json!({"vectors": points}));
    let query = json!({"vector": [0, 0], "k": 2, "unknown": [1, {"a": null}]});
    let expected = r#"{"results":[{"id":"there","score":1.0,"distance":0.0,"metadata":{}},{"id":"near","score":0.5,"distance":1.0,"metadata":{"n":2}}],"lsn":1}"#;
    for method in ["POST", "GET"] {
        let found = server.call(method, &format!("{index}/search")).key(KEY).json(&query).send();
        assert_eq!((found.status, found.body.as_str()), (200, expected), "{method}");
    }
    // k is 10 where nobody says, and a filter leaves as many of k as match.
    let found = server.post(&format!("{index}/search"), &json!({"vector": [0, 0], "filter": null})).json();
    assert_eq!(found["results"].as_array().unwrap().len(), 3);
    assert_eq!(found["results"][2]["distance"], 25.0);
    let found = server.post(&format!("{index}/search"), &json!({"vector": [0, 0], "k": 1, "filter": {"n": 1}})).json();
    assert_eq!(found["results"][0]["id"], "far");
    assert_eq!(found["results"].as_array().unwrap().len(), 1);
}

#[test]
fn scores_are_the_metrics_own() {
    let server = TestServer::start();
    for (metric, score) in [("ip", json!(10.0)), ("cosine", json!(1.0))] {
        let created = server.post("/v1/index", &json!({"name": "n", "dimension": 2, "index_type": "Flat", "metric": metric}));
        assert_eq!(created.status, 201, "{created:?}");
        assert_eq!(created.json()["metric"], metric);
        let index = format!("/v1/index/{}", created.json()["id"].as_str().unwrap());
        server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1, 2]}]}));
        let found = server.post(&format!("{index}/search"), &json!({"vector": [2, 4]})).json();
        let found_score = found["results"][0]["score"].as_f64().unwrap();
        assert!((found_score - score.as_f64().unwrap()).abs() < 1e-6, "{metric}: {found_score}");
        assert_eq!(found["results"][0]["score"], found["results"][0]["distance"]);
    }
}

#[test]
fn a_checkpoint_says_what_it_holds() {
    let server = TestServer::start();
    let index = server.create_index(1);
    server.post(&format!("{index}/vectors?durability=interval"), &json!({"vectors": [{"id": "a", "values": [1]}]}));
    let done = server.call("POST", &format!("{index}/checkpoint")).key(KEY).send();
    assert_eq!(done.status, 200, "{done:?}");
    assert_eq!(fields(&done.json()), BTreeSet::from(["lsn", "bytes_written", "log_files_removed"]));
    assert_eq!(done.json()["lsn"], 1);
    assert_eq!(server.get(&index).json()["checkpoint_lsn"], 1);
}

#[test]
fn a_restart_keeps_the_data() {
    let server = TestServer::start();
    let index = server.create_index(2);
    let point = json!({"id": "a", "values": [1, 2], "metadata": {"k": "v"}});
    server.post(&format!("{index}/vectors"), &json!({"vectors": [point, {"id": "b", "values": [3, 4]}]}));
    server.delete(&format!("{index}/vectors/b"));
    let before = server.get(&format!("{index}/vectors/a")).body;

    let server = TestServer::start_with(server.stop(), |_| {});
    assert_eq!(server.get(&format!("{index}/vectors/a")).body, before);
    server.get(&format!("{index}/vectors/b")).problem(404);
    let found = server.post(&format!("{index}/search"), &json!({"vector": [1, 2]})).json();
    assert_eq!(found["results"], json!([{"id": "a", "score": 1.0, "distance": 0.0, "metadata": {"k": "v"}}]));
    assert_eq!(server.get(&index).json()["vector_count"], 1);
}

#[test]
fn an_index_that_refuses_is_a_503_with_its_reason_and_the_others_serve() {
    let server = TestServer::start();
    let (damaged, whole) = (server.create_index(1), server.create_index(1));
    for index in [&damaged, &whole] {
        server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": "a", "values": [1]}]}));
    }
    let data_dir = server.stop();
    let id = damaged.rsplit('/').next().unwrap();
    damage_every_file_of(&data_dir.path().join("tenant-1").join(id));

    let server = TestServer::start_with(data_dir, |_| {});
    let search = json!({"vector": [1]});
    for refused in [
        server.get(&damaged),
        server.get(&format!("{damaged}/vectors/a")),
        server.post(&format!("{damaged}/search"), &search),
        server.post(&format!("{damaged}/vectors"), &json!({"vectors": [{"id": "b", "values": [1]}]})),
    ] {
        let (code, detail) = refused.problem(503);
        assert!(code == "index_refused" && detail.contains(id) && detail.contains("at byte"), "{code}: {detail}");
    }
    let ready = server.get("/v1/health/ready").json();
    assert_eq!(ready["refused"].as_array().unwrap().len(), 1);
    assert_eq!(ready["refused"][0]["id"], id);
    assert!(ready["refused"][0]["reason"].as_str().unwrap().contains("at byte"));
    let others = server.call("GET", "/v1/health/ready").key(OTHER_KEY).send().json();
    assert_eq!(others, json!({"status": "ready", "indices": {"serving": 0, "not_verified": 0, "refused": 0}, "refused": []}));
    server.call("GET", &damaged).key(OTHER_KEY).send().problem(404);
    assert_eq!(server.post(&format!("{whole}/search"), &search).json()["results"][0]["id"], "a");
}

/// Flips a byte in the middle of each, wherever they are.
pub fn damage_every_file_of(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage_every_file_of(&path);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0xff;
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn points_of_many_clients_at_once_are_all_there() {
    let server = TestServer::start();
    let index = server.create_index(1);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, index) = (&server, &index);
            scope.spawn(move || {
                for point in 0..10 {
                    let id = format!("{client}/{point}");
                    let added = server.post(&format!("{index}/vectors"), &json!({"vectors": [{"id": id, "values": [client]}]}));
                    assert_eq!(added.status, 201, "{added:?}");
                    let found = server.post(&format!("{index}/search"), &json!({"vector": [client], "k": 80})).json();
                    assert!(found["results"].as_array().unwrap().iter().any(|hit| hit["id"] == id), "{id}");
                }
            });
        }
    });
    assert_eq!((&server.get(&index).json()["vector_count"], &server.get(&index).json()["lsn"]), (&json!(80), &json!(80)));
}
