//! Reads as of an LSN.

use serde_json::{Value, json};

use crate::support::TestServer;

#[test]
fn search_count_and_get_answer_from_the_state_that_is_asked_for() {
    let server = TestServer::start();
    let path = server.create_index(1);
    let put = |id: &str, value: i32| {
        let points = json!({"vectors": [{"id": id, "values": [value], "metadata": {"n": value}}]});
        server.post(&format!("{path}/vectors"), &points).json()["lsn"].as_u64().unwrap()
    };
    assert_eq!((put("a", 1), put("b", 2), put("a", 3)), (1, 2, 3));
    assert_eq!(server.delete(&format!("{path}/vectors/b")).status, 204);
    // Of each state: what there is, by its distance from 0.
    for (lsn, expected) in
        [(0, vec![]), (1, vec![("a", 1)]), (2, vec![("a", 1), ("b", 2)]), (3, vec![("b", 2), ("a", 3)]), (4, vec![("a", 3)])]
    {
        let query = json!({"vector": [0], "as_of_lsn": lsn});
        let found = server.post(&format!("{path}/search"), &query).json();
        let found: Vec<(&str, i64)> = found["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|point| (point["id"].as_str().unwrap(), point["metadata"]["n"].as_i64().unwrap()))
            .collect();
        assert_eq!(found, expected, "LSN {lsn}");
        let batch = server.post(&format!("{path}/search/batch"), &json!({"queries": [query, query]})).json();
        assert_eq!(batch["lsn"], lsn);
        let counted = server.post(&format!("{path}/count"), &json!({"filter": {"n": {"$gt": 1}}, "as_of_lsn": lsn})).json();
        assert_eq!(counted, json!({"count": expected.iter().filter(|(_, n)| *n > 1).count(), "lsn": lsn}));
        for id in ["a", "b"] {
            let got = server.get(&format!("{path}/vectors/{id}?as_of_lsn={lsn}"));
            match expected.iter().find(|(known, _)| *known == id) {
                Some((_, n)) => assert_eq!(got.json()["values"], json!([f64::from(*n as i32)])),
                None => assert_eq!(got.problem(404).0, "vector_not_found"),
            }
        }
    }
}

#[test]
fn a_state_that_is_not_there_is_a_410_or_a_422_and_the_option_keeps_it_over_checkpoints() {
    let server = TestServer::start();
    for (options, is_kept) in [(json!({}), false), (json!({"log_retention_bytes": 1_000_000_000}), true)] {
        let created = server.post("/v1/index", &json!({"name": "n", "dimension": 1, "options": options})).json();
        let path = format!("/v1/index/{}", created["id"].as_str().unwrap());
        for n in 1..=2 {
            server.post(&format!("{path}/vectors"), &json!({"vectors": [{"id": "a", "values": [n]}]}));
        }
        assert_eq!(server.post(&format!("{path}/checkpoint"), &json!({})).json()["lsn"], 2);
        let read = server.get(&format!("{path}/vectors/a?as_of_lsn=1"));
        let searched = server.post(&format!("{path}/search"), &json!({"vector": [0], "as_of_lsn": 1}));
        if is_kept {
            assert_eq!((&read.json()["values"], &searched.json()["results"][0]["distance"]), (&json!([1.0]), &json!(1.0)));
        } else {
            for gone in [read, searched] {
                assert_eq!(gone.problem(410).0, "lsn_gone");
                assert_eq!(serde_json::from_str::<Value>(&gone.body).unwrap()["oldest_lsn"], 2);
            }
        }
        for (as_of_lsn, code) in [("3", "lsn_ahead"), ("-1", "invalid_lsn")] {
            let (found, detail) = server.get(&format!("{path}/vectors/a?as_of_lsn={as_of_lsn}")).problem(422);
            assert!(found == code && detail.starts_with("as_of_lsn"), "{found}: {detail}");
        }
        for wrong in [json!(3), json!(-1), json!("1")] {
            let (_, detail) = server.post(&format!("{path}/count"), &json!({"as_of_lsn": wrong})).problem(422);
            assert!(detail.starts_with("as_of_lsn"), "{detail}");
        }
        let mixed = json!({"queries": [{"vector": [0], "as_of_lsn": 2}, {"vector": [0]}]});
        assert_eq!(server.post(&format!("{path}/search/batch"), &mixed).problem(422).0, "invalid_batch");
    }
}
