//! Reading points: filters, explained searches, counts, pages, points by ids, and deletes by ids.

use serde_json::{Value, json};

use crate::support::{KEY, NO_INDEX, OTHER_KEY, TestServer};

/// An index of `count` points `p0`, `p1`, … on a line.
fn index_of(server: &TestServer, count: usize) -> String {
    let created = server.post("/v1/index", &json!({"name": "n", "dimension": 1})).json();
    let path = format!("/v1/index/{}", created["id"].as_str().unwrap());
    let points: Vec<Value> = (0..count)
        .map(|n| json!({"id": format!("p{n}"), "values": [n], "metadata": {"n": n, "even": n % 2 == 0, "tags": [n % 3, "all"]}}))
        .collect();
    assert_eq!(server.post(&format!("{path}/vectors"), &json!({"vectors": points})).status, 201);
    path
}

fn ids(answer: &Value, field: &str) -> Vec<String> {
    answer[field].as_array().unwrap().iter().map(|point| point["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_filter_has_the_whole_language_and_what_is_wrong_in_it_is_named() {
    let server = TestServer::start();
    let path = index_of(&server, 30);
    let search = |filter: &Value| server.post(&format!("{path}/search"), &json!({"vector": [0], "k": 3, "filter": filter}));
    for (filter, expected) in [
        (json!({"n": {"$gte": 10, "$lt": 20}}), ["p10", "p11", "p12"]),
        (json!({"even": true, "tags": 1}), ["p4", "p10", "p16"]),
        (json!({"$or": [{"n": 7}, {"n": {"$in": [28, 29]}}]}), ["p7", "p28", "p29"]),
        (json!({"tags": {"$contains": "all"}, "n": {"$nin": [0, 1]}}), ["p2", "p3", "p4"]),
    ] {
        assert_eq!(ids(&search(&filter).json(), "results"), expected, "{filter}");
    }
    let (code, detail) = search(&json!({"n": {"$near": 1}})).problem(422);
    assert!(code == "invalid_filter" && detail.contains("\"$near\" of \"n\""), "{code}: {detail}");
}

#[test]
fn a_search_says_how_it_was_answered_and_bears_what_is_asked_for() {
    let server = TestServer::start();
    let path = index_of(&server, 30);
    let body = json!({"vector": [4], "k": 2, "filter": {"even": true}, "include_values": true, "include_metadata": false});
    let plain = server.post(&format!("{path}/search"), &body).json();
    assert!(plain.get("explain").is_none());
    assert_eq!(plain["results"][0], json!({"id": "p4", "score": 1.0, "distance": 0.0, "values": [4.0]}));
    let explained = server.post(&format!("{path}/search?explain=true"), &body).json();
    assert_eq!(explained["results"], plain["results"]);
    let segment = json!({"rows": 30, "matched": 15, "how": "scan"});
    let explain = &explained["explain"];
    assert_eq!((&explain["lsn"], &explain["matched"], &explain["segments"]), (&json!(1), &json!(15), &json!([segment])));
    assert_eq!((&explain["plan"]["scan_rows"], &explain["plan"]["ef"]), (&json!(30), &Value::Null));
    let near = server.post(&format!("{path}/search"), &json!({"vector": [4], "min_score": 0.5})).json();
    assert_eq!(ids(&near, "results"), ["p4", "p3", "p5"]);
    server.post(&format!("{path}/search?explain=perhaps"), &body).problem(422);
    for (field, wrong) in [("min_score", json!("high")), ("include_values", json!(1)), ("include_metadata", json!("no"))] {
        let (_, detail) = server.post(&format!("{path}/search"), &json!({"vector": [4], (field): wrong})).problem(422);
        assert!(detail.contains(field), "{detail}");
    }
}

#[test]
fn a_batch_answers_each_query_as_of_one_state_or_names_the_one_that_is_wrong() {
    let server = TestServer::start();
    let path = index_of(&server, 30);
    let batch = |queries: Value| server.post(&format!("{path}/search/batch"), &json!({"queries": queries}));
    let queries = [
        json!({"vector": [4], "k": 2}),
        json!({"vector": [20], "k": 3, "filter": {"even": false}, "include_metadata": false, "include_values": true}),
        json!({"vector": [7], "min_score": 0.5, "unknown": 1}),
        json!({"vector": [7], "filter": {"n": 1000}}),
    ];
    let answer = batch(json!(queries)).json();
    assert_eq!(answer["lsn"], 1);
    // Of a batch, the batch says of which state it is, and of one query its answer.
    let single = |query| {
        let mut found = server.post(&format!("{path}/search"), query).json();
        assert_eq!(found.as_object_mut().unwrap().remove("lsn"), Some(json!(1)));
        found
    };
    assert_eq!(answer["results"], json!(queries.iter().map(single).collect::<Vec<_>>()));
    assert_eq!(ids(&answer["results"][1], "results"), ["p19", "p21", "p17"]);
    for (wrong, field, code) in [
        (json!({"vector": [1, 2]}), "queries[3].vector:", "wrong_dimension"),
        (json!({"vector": "x"}), "queries[3].vector:", "invalid_type"),
        (json!({}), "queries[3].vector:", "missing_field"),
        (json!({"vector": [1], "k": 0}), "queries[3].k:", "invalid_k"),
        (json!({"vector": [1], "params": {"ef": -1}}), "queries[3].params.ef:", "invalid_type"),
        (json!({"vector": [1], "filter": {"a": {"$near": 1}}}), "queries[3].filter:", "invalid_filter"),
        (json!([1]), "queries[3]:", "invalid_type"),
    ] {
        let queries = [&queries[..3], &[wrong]].concat();
        let (found, detail) = batch(json!(queries)).problem(422);
        assert!(detail.starts_with(field) && found == code, "{found}: {detail}");
    }
    for wrong in [json!([]), json!({}), json!(vec![json!({"vector": [1]}); 1_001])] {
        let (_, detail) = batch(wrong).problem(422);
        assert!(detail.starts_with("queries: "), "{detail}");
    }
    let (_, detail) = server.post(&format!("{path}/search/batch"), &json!({})).problem(422);
    assert!(detail.starts_with("queries: "), "{detail}");
    server.get(&format!("{path}/search/batch")).problem(405);
}

#[test]
fn a_range_search_gives_all_that_is_near_enough_and_says_whether_it_was_cut() {
    let server = TestServer::start();
    let path = index_of(&server, 30);
    let range = |body: &Value| server.post(&format!("{path}/range_search"), body);
    let found = range(&json!({"vector": [4], "radius": 4})).json();
    assert_eq!(ids(&found, "results"), ["p4", "p3", "p5", "p2", "p6"]);
    assert_eq!((&found["truncated"], &found["lsn"]), (&json!(false), &json!(1)));
    assert_eq!(
        found["results"][3],
        json!({"id": "p2", "score": 0.2, "distance": 4.0, "metadata": {"n": 2, "even": true, "tags": [2, "all"]}})
    );
    let found =
        range(&json!({"vector": [4], "radius": 4, "limit": 2, "filter": {"even": true}, "include_metadata": false})).json();
    assert_eq!(
        found,
        json!({"results": [{"id": "p4", "score": 1.0, "distance": 0.0}, {"id": "p2", "score": 0.2, "distance": 4.0}], "truncated": true, "lsn": 1})
    );
    // The score as it was answered.
    assert_eq!(ids(&range(&json!({"vector": [4], "min_score": 0.2})).json(), "results"), ["p4", "p3", "p5", "p2", "p6"]);
    assert_eq!(range(&json!({"vector": [4], "radius": 1e9})).json()["results"].as_array().unwrap().len(), 30);
    for (body, field) in [
        (json!({"vector": [4]}), "radius: radius or min_score"),
        (json!({"vector": [4], "radius": 1, "min_score": 1}), "radius: radius and min_score"),
        (json!({"vector": [4], "radius": "1"}), "radius: "),
        (json!({"vector": [4], "min_score": []}), "min_score: "),
        (json!({"radius": 1}), "vector: "),
        (json!({"vector": [4, 5], "radius": 1}), "vector: "),
        (json!({"vector": [4], "radius": 1, "limit": 0}), "limit: "),
        (json!({"vector": [4], "radius": 1, "limit": 10_001}), "limit: "),
        (json!({"vector": [4], "radius": 1, "filter": 3}), "filter: "),
    ] {
        let (_, detail) = range(&body).problem(422);
        assert!(detail.starts_with(field), "{detail}");
    }
    server.get(&format!("{path}/range_search")).problem(405);
}

#[test]
fn points_are_counted_fetched_listed_and_deleted_by_ids() {
    let server = TestServer::start();
    let path = index_of(&server, 30);
    let counted = server.post(&format!("{path}/count"), &json!({"filter": {"n": {"$lt": 7}}})).json();
    assert_eq!(counted, json!({"count": 7, "lsn": 1}));
    assert_eq!(server.post(&format!("{path}/count"), &json!({})).json()["count"], 30);

    let fetched = server.post(&format!("{path}/vectors/fetch"), &json!({"ids": ["p9", "absent", "p0"]})).json();
    assert_eq!(ids(&fetched, "vectors"), ["p9", "p0"]);
    assert_eq!(fetched["vectors"][0]["values"], json!([9.0]));

    let mut seen = Vec::new();
    let mut cursor = String::new();
    for page in 0.. {
        let listed = server
            .get(&format!("{path}/vectors?limit=4&filter=%7B%22even%22:true%7D&include_values={}{cursor}", page == 0))
            .json();
        assert_eq!(listed["vectors"][0].get("values").is_some(), page == 0);
        seen.extend(ids(&listed, "vectors"));
        let Some(next) = listed["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let mut expected: Vec<String> = (0..30).step_by(2).map(|n| format!("p{n}")).collect();
    expected.sort();
    assert_eq!(seen, expected, "by rising ids, each once");

    let deleted = server.post(&format!("{path}/vectors/delete"), &json!({"ids": ["p0", "absent", "p1", "p1"]})).json();
    assert_eq!(deleted, json!({"deleted_count": 2, "lsn": 2}));
    assert_eq!(server.get(&path).json()["vector_count"], 28);
    // A point may be called so.
    let point = json!({"vectors": [{"id": "fetch", "values": [1]}]});
    assert_eq!(server.post(&format!("{path}/vectors"), &point).status, 201);
    assert_eq!(server.get(&format!("{path}/vectors/fetch")).json()["id"], "fetch");
}

#[test]
fn points_are_listed_by_lsns_at_one_state_or_are_told_to_be_gone() {
    let server = TestServer::start();
    let path = server.create_index(1);
    let put = |name: &str| {
        let points: Vec<_> = (0..3).map(|n| json!({"id": format!("{name}{n}"), "values": [n], "metadata": {"n": n}})).collect();
        assert_eq!(server.post(&format!("{path}/vectors"), &json!({ "vectors": points })).json()["failed_count"], 0);
    };
    let list = |rest: &str| server.get(&format!("{path}/vectors?order=lsn&{rest}"));
    put("z");
    put("a");
    let first = list("limit=2&include_values=true").json();
    assert_eq!((ids(&first, "vectors"), &first["lsn"]), (vec!["z0".to_owned(), "z1".to_owned()], &json!(2)));
    assert_eq!(first["vectors"][1]["values"], json!([1.0]));
    // None of this is in the state of the first page.
    put("m");
    assert_eq!(server.delete(&format!("{path}/vectors/z2")).status, 204);
    put("a");
    let rest = format!("limit=3&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = list(&rest).json();
    assert_eq!((ids(&second, "vectors"), &second["lsn"]), (["z2", "a0", "a1"].map(str::to_owned).to_vec(), &json!(2)));
    assert!(second["vectors"][0].get("values").is_none());
    let third = list(&format!("limit=3&cursor={}", second["next_cursor"].as_str().unwrap())).json();
    assert_eq!((ids(&third, "vectors"), &third["next_cursor"]), (vec!["a2".to_owned()], &json!(null)));
    // The state is no longer kept after this.
    assert_eq!(server.post(&format!("{path}/checkpoint"), &json!({})).status, 200);
    assert_eq!(list(&rest).problem(410).0, "lsn_gone");
    assert_eq!(ids(&list("filter=%7B%22n%22:1%7D").json(), "vectors"), ["z1", "m1", "a1"]);
}

#[test]
fn wrong_reads_are_refused_by_field_and_those_of_another_tenant_find_nothing() {
    let server = TestServer::start();
    let path = index_of(&server, 3);
    for (call, field) in [
        ("vectors?limit=0", "limit"),
        ("vectors?limit=x", "limit"),
        ("vectors?limit=10001", "limit"),
        ("vectors?cursor=i7", "cursor"),
        ("vectors?cursor=nothing", "cursor"),
        ("vectors?cursor=iff", "cursor"),
        ("vectors?cursor=s1.1.1", "cursor"),
        ("vectors?order=size", "order"),
        ("vectors?order=lsn&limit=0", "limit"),
        ("vectors?order=lsn&cursor=i70", "cursor"),
        ("vectors?order=lsn&cursor=s1.1", "cursor"),
        ("vectors?order=lsn&cursor=s1.1.1.1", "cursor"),
        ("vectors?order=lsn&cursor=s1.x.1", "cursor"),
        ("vectors?order=lsn&cursor=s99.1.1", "cursor"),
        ("vectors?filter=1", "filter"),
        ("vectors?include_values=2", "include_values"),
    ] {
        let (_, detail) = server.get(&format!("{path}/{call}")).problem(422);
        assert!(detail.starts_with(field), "{call}: {detail}");
    }
    for (call, body, field) in [
        ("vectors/fetch", json!({}), "ids"),
        ("vectors/fetch", json!({"ids": "p1"}), "ids"),
        ("vectors/delete", json!({"ids": [1]}), "ids"),
        ("vectors/delete", json!({"ids": [""]}), "id"),
        ("count", json!({"filter": {"a": {"$gt": "1"}}}), "filter"),
    ] {
        let (_, detail) = server.post(&format!("{path}/{call}"), &body).problem(422);
        assert!(detail.starts_with(field), "{call}: {detail}");
    }
    let id = path.rsplit('/').next().unwrap();
    for (key, id) in [(OTHER_KEY, id), (KEY, NO_INDEX)] {
        let call = |method, rest: &str| server.call(method, &format!("/v1/index/{id}/{rest}")).key(key);
        call("GET", "vectors").send().problem(404);
        call("POST", "count").json(&json!({})).send().problem(404);
        call("POST", "search/batch").json(&json!({"queries": [{"vector": [1]}]})).send().problem(404);
        call("POST", "range_search").json(&json!({"vector": [1], "radius": 1})).send().problem(404);
        call("POST", "vectors/fetch").json(&json!({"ids": ["p1"]})).send().problem(404);
        call("POST", "vectors/delete").json(&json!({"ids": ["p1"]})).send().problem(404);
    }
    server.call("POST", &format!("{path}/vectors/p1")).key(KEY).json(&json!({})).send().problem(405);
}
