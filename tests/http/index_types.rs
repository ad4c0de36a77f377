//! Index types over HTTP: what is taken and refused, what is built, how it is searched, and giving space back.

use serde_json::{Value, json};

use crate::support::{KEY, OTHER_KEY, TestServer};

/// Points on a spiral: no two are alike, and neighbours have neighbouring numbers.
fn points(from: usize, to: usize) -> Value {
    let point = |n: usize| {
        let (sin, cos) = (n as f64 * 0.01).sin_cos();
        json!({"id": format!("p{n}"), "values": [sin, cos, n as f64 * 0.002, 1.0]})
    };
    json!({"vectors": (from..to).map(point).collect::<Vec<_>>()})
}

fn create(server: &TestServer, body: &Value) -> Value {
    let mut whole = json!({"name": "n", "dimension": 4});
    whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
    let created = server.post("/v1/index", &whole);
    assert_eq!(created.status, 201, "{whole}: {created:?}");
    created.json()
}

fn path(document: &Value) -> String {
    format!("/v1/index/{}", document["id"].as_str().unwrap())
}

fn ids(found: &Value) -> Vec<&str> {
    found["results"].as_array().unwrap().iter().map(|result| result["id"].as_str().unwrap()).collect()
}

#[test]
fn class_names_resolve_by_the_documented_rule() {
    let server = TestServer::start();
    for (index_type, dimension, factory) in [
        ("IndexFlatL2", 3, "Flat"),
        ("IndexHNSWFlat", 3, "HNSW32"),
        ("IndexIVFFlat", 3, "IVF256,Flat"),
        ("IndexIVFPQ", 100, "IVF256,PQ25"),
        ("IndexPQ", 100, "PQ25"),
        ("IndexScalarQuantizer", 3, "SQ8"),
        ("IndexLSH", 64, "LSH"),
        ("HNSW32,SQ8", 17, "HNSW32,SQ8"),
        ("IVF256,RaBitQ", 64, "IVF256,RaBitQ"),
        ("OPQ16,IVF256,PQ16", 64, "OPQ16,IVF256,PQ16"),
        ("auto", 3, "auto"),
    ] {
        let document = create(&server, &json!({"index_type": index_type, "dimension": dimension}));
        assert_eq!((&document["index_type"], &document["factory"]), (&json!(index_type), &json!(factory)));
    }
    let auto = create(&server, &json!({"index_type": "auto"}));
    assert_eq!(auto["picked"]["factory"], "Flat");
    assert!(auto["picked"]["reason"].as_str().unwrap().contains("exact"), "{auto}");
}

#[test]
fn what_cannot_be_built_is_refused_at_creation_with_the_reason() {
    let server = TestServer::start();
    for (body, field, reason) in [
        (json!({"index_type": "IVF1000000000,Flat"}), "index_type", "1048576"),
        (json!({"index_type": "IndexBinaryFlat"}), "index_type", ""),
        (json!({"index_type": "IDMap,Flat"}), "index_type", ""),
        (json!({"index_type": "PQ3"}), "index_type", ""),
        (json!({"index_type": "OPQ16,PQ16", "dimension": 60_000}), "index_type", ""),
        (json!({"index_type": "IVF256,Flat", "options": {"seal_rows": 100}}), "index_type", "256 rows"),
        (json!({"index_type": "IndexFlatL2", "metric": "cosine"}), "metric", "Flat"),
        (json!({"index_type": "IndexLSH", "metric": "ip"}), "metric", ""),
        (json!({"options": 3}), "options", "object"),
        (json!({"options": {"seal_rows": 0}}), "options.seal_rows", ""),
        (json!({"options": {"seal_rows": "many"}}), "options.seal_rows", "number"),
        (json!({"options": {"min_recall": 1.5}}), "options.min_recall", "0 to 1"),
        (json!({"options": {"compact_dead_share": 0}}), "options.compact_dead_share", ""),
        (json!({"options": {"ef_search": 64}}), "options.ef_search", "Flat"),
        (json!({"options": {"unindexed": "text"}}), "options.unindexed", "array"),
        (json!({"options": {"unindexed": ["text", 1]}}), "options.unindexed", "string"),
        (json!({"options": {"unindexed": [""]}}), "options.unindexed", "1 to 512 bytes"),
        (json!({"options": {"unindexed": vec!["text"; 65]}}), "options.unindexed", "64"),
        (json!({"index_type": "HNSW32", "options": {"nprobe": 4}}), "options.nprobe", "HNSW32"),
        (json!({"index_type": "HNSW32", "options": {"ef_construction": 1}}), "options.ef_construction", ""),
        (json!({"index_type": "IVF16,Flat", "options": {"nprobe": 17}}), "options.nprobe", "16"),
    ] {
        let mut whole = json!({"name": "n", "dimension": 4});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let (_, detail) = server.post("/v1/index", &whole).problem(422);
        assert!(detail.contains(field) && detail.contains(reason), "{body}: {detail}");
    }
    let options = json!({"ef_construction": 80, "ef_search": 32, "min_recall": 0.5, "seal_rows": 100, "compact_dead_share": 0.5, "unindexed": ["text", "a.b"]});
    assert_eq!(create(&server, &json!({"index_type": "HNSW16", "options": options}))["options"], options);
}

#[test]
fn rows_are_built_searched_compacted_and_erased() {
    let server = TestServer::start();
    let document = create(&server, &json!({"index_type": "HNSW16", "options": {"seal_rows": 200}}));
    let path = path(&document);
    assert_eq!(server.post(&format!("{path}/vectors"), &points(0, 1_000)).status, 201);
    let trained = server.post(&format!("{path}/train"), &json!({}));
    assert_eq!(trained.status, 200, "{trained:?}");
    let document = server.get(&path).json();
    assert_eq!((&document["unindexed_rows"], &document["vector_count"]), (&json!(0), &json!(1_000)), "{document}");
    for build in document["builds"].as_array().unwrap() {
        assert_eq!(build["factory"], "HNSW16");
        assert!(build["recall"].as_f64().unwrap() >= 0.9 && build["ef"].as_u64().unwrap() > 0, "{build}");
    }

    let (sin, cos) = 5_f64.sin_cos();
    let query = json!({"vector": [sin, cos, 1.0, 1.0], "k": 5});
    let with = |field: &str, value: Value| {
        let mut query = query.clone();
        query[field] = value;
        server.post(&format!("{path}/search"), &query)
    };
    let exact = with("exact", json!(true)).json();
    assert_eq!(ids(&exact)[0], "p500");
    let built = with("params", json!({"ef": 200, "nprobe": 3, "rescore": false})).json();
    assert_eq!(built, exact, "scores do not depend on how a row was found");
    for (field, value, name) in [
        ("exact", json!(1), "exact"),
        ("params", json!([]), "params"),
        ("params", json!({"ef": 0}), "params.ef"),
        ("params", json!({"ef": 1_000_000}), "params.ef"),
        ("params", json!({"ef": -1}), "params.ef"),
        ("params", json!({"nprobe": 0}), "params.nprobe"),
        ("params", json!({"rescore": "no"}), "params.rescore"),
    ] {
        let (_, detail) = with(field, value.clone()).problem(422);
        assert!(detail.contains(name), "{value}: {detail}");
    }

    for n in (0..1_000).step_by(4) {
        assert_eq!(server.delete(&format!("{path}/vectors/p{n}")).status, 204);
    }
    assert!(!ids(&with("k", json!(1_000)).json()).contains(&"p500"));
    let report = server.post(&format!("{path}/compact"), &json!({})).json();
    assert_eq!((&report["segments_after"], &report["lsn"]), (&json!(1), &json!(251)), "{report}");
    server.delete(&format!("{path}/vectors/p501"));
    let receipt = server.post(&format!("{path}/compact?erase=true"), &json!({})).json();
    assert_eq!((&receipt["rows_erased"], &receipt["lsn"]), (&json!(1), &json!(252)), "{receipt}");
    assert!(receipt["files_removed"].as_u64().unwrap() > 0);
    let document = server.get(&path).json();
    assert_eq!((&document["tombstones"], &document["vector_count"]), (&json!(0), &json!(749)));
    assert_eq!(ids(&with("k", json!(10_000)).json()).len(), 749, "all that live are found");
    server.post(&format!("{path}/compact?erase=maybe"), &json!({})).problem(422);
}

#[test]
fn an_index_that_has_too_little_to_train_on_says_so() {
    let server = TestServer::start();
    let path = path(&create(&server, &json!({"index_type": "IVF256,Flat"})));
    server.post(&format!("{path}/vectors"), &points(0, 50));
    let (_, detail) = server.post(&format!("{path}/train"), &json!({})).problem(409);
    assert!(detail.contains("256"), "{detail}");
    assert_eq!(ids(&server.post(&format!("{path}/search"), &json!({"vector": [0, 1, 0, 1], "k": 60})).json()).len(), 50);
}

#[test]
fn the_new_routes_are_the_tenant_s_alone_and_take_post() {
    let server = TestServer::start();
    let path = path(&create(&server, &json!({})));
    for route in ["compact", "train"] {
        assert_eq!(server.call("POST", &format!("{path}/{route}")).key(OTHER_KEY).send().status, 404);
        assert_eq!(server.call("GET", &format!("{path}/{route}")).key(KEY).send().status, 405);
        assert_eq!(server.call("POST", &format!("{path}/{route}")).send().status, 401);
    }
}
