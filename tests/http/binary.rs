//! Vectors as bytes: base64 in JSON, and bodies and answers of the binary form (`docs/binary.md`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Call, KEY, Response, TestServer};

const OCTETS: &str = "application/octet-stream";

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().copied().flat_map(f32::to_le_bytes).collect()
}

fn base64(values: &[f32]) -> String {
    STANDARD.encode(bytes(values))
}

/// A body of the binary form.
fn body(head: &Value, values: &[f32]) -> Vec<u8> {
    let head = head.to_string();
    [&(head.len() as u64).to_le_bytes()[..], head.as_bytes(), &bytes(values)].concat()
}

/// The JSON of an answer, and the floats behind it.
#[track_caller]
fn parts(answer: &Response) -> (Value, Vec<f32>) {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(OCTETS)), "{answer:?}");
    assert_eq!(answer.header("vary"), Some("accept"));
    let (length, rest) = answer.bytes.split_first_chunk().unwrap();
    let (head, rows) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let (floats, none) = rows.as_chunks();
    assert!(none.is_empty());
    (serde_json::from_slice(head).unwrap(), floats.iter().copied().map(f32::from_le_bytes).collect())
}

/// Takes the values out of an answer in JSON, in the order in which they stand there.
fn take_values(answer: &mut Value, found: &mut Vec<f32>) {
    match answer {
        Value::Array(items) => items.iter_mut().for_each(|item| take_values(item, found)),
        Value::Object(fields) => {
            if let Some(Value::Array(values)) = fields.remove("values") {
                found.extend(values.iter().map(|value| value.as_f64().unwrap() as f32));
            }
            fields.values_mut().for_each(|field| take_values(field, found));
        }
        _ => {}
    }
}

impl TestServer {
    fn post_bytes(&self, path: &str, body: impl Into<Vec<u8>>) -> Response {
        self.call("POST", path).key(KEY).header("content-type", OCTETS).body(body).send()
    }

    /// An index of two dimensions, with five points in it, and its path.
    fn filled(&self) -> String {
        let path = self.create_index(2);
        let point = |n: u32| json!({"id": format!("p{n}"), "values": [n, 0.1], "metadata": {"n": n}});
        let added = self.post(&format!("{path}/vectors"), &json!({"vectors": (0..5).map(point).collect::<Vec<_>>()}));
        assert_eq!(added.json()["added_count"], 5);
        path
    }
}

#[test]
fn base64_is_a_vector_wherever_a_body_has_one() {
    let server = TestServer::start();
    let path = server.create_index(2);
    let odd = [f32::from_bits(1), -0.0];
    let vectors = json!([
        {"id": "text", "values": base64(&[3.0, 4.0])},
        {"id": "odd", "values": base64(&odd)},
        {"id": "list", "values": [3, 5]},
    ]);
    let added = server.post(&format!("{path}/vectors"), &json!({ "vectors": vectors }));
    assert_eq!((added.status, &added.json()["added_count"]), (201, &json!(3)));
    let found = server.get(&format!("{path}/vectors/odd")).json();
    let bits: Vec<u32> = found["values"].as_array().unwrap().iter().map(|v| (v.as_f64().unwrap() as f32).to_bits()).collect();
    assert_eq!(bits, odd.map(f32::to_bits));
    for (call, in_array, in_text) in [
        ("search", json!({"vector": [3, 4]}), json!({"vector": base64(&[3.0, 4.0])})),
        ("search/batch", json!({"queries": [{"vector": [3, 4]}]}), json!({"queries": [{"vector": base64(&[3.0, 4.0])}]})),
        ("range_search", json!({"vector": [3, 4], "radius": 2}), json!({"vector": base64(&[3.0, 4.0]), "radius": 2})),
    ] {
        let [expected, found] = [in_array, in_text].map(|body| server.post(&format!("{path}/{call}"), &body).json());
        assert_eq!(found, expected);
        assert!(expected.to_string().contains("\"text\""), "{expected}");
    }
}

#[test]
fn a_string_that_is_no_vector_is_a_422_that_names_its_field() {
    let server = TestServer::start();
    let path = server.create_index(2);
    for (wrong, why) in [
        ("[1, 2]", "not base64"),
        ("AACAPwAAgD8", "not base64"),
        ("AAAAAAAA", "6 bytes"),
        (&base64(&[1.0]), "vectors of 2 values; this one has 1"),
    ] {
        let vectors = json!([{"id": "wrong", "values": wrong}, {"id": "right", "values": [1, 2]}]);
        let added = server.post(&format!("{path}/vectors"), &json!({ "vectors": vectors })).json();
        let error = &added["errors"][0];
        let code = if why.starts_with("vectors of") { "wrong_dimension" } else { "invalid_values" };
        assert_eq!((&error["id"], &error["code"], &added["added_count"]), (&json!("wrong"), &json!(code), &json!(1)), "{added}");
        let detail = error["detail"].as_str().unwrap();
        assert!(detail.starts_with("values: ") && detail.contains(why), "{detail}");
        for (call, field, body) in [
            ("search", "vector: ", json!({ "vector": wrong })),
            ("search/batch", "queries[1].vector: ", json!({"queries": [{"vector": [1, 2]}, {"vector": wrong}]})),
            ("range_search", "vector: ", json!({"vector": wrong, "radius": 1})),
        ] {
            let (_, detail) = server.post(&format!("{path}/{call}"), &body).problem(422);
            assert!(detail.starts_with(field) && detail.contains(why), "{detail}");
        }
    }
}

#[test]
fn a_binary_body_stores_its_rows_bit_for_bit_and_a_bad_one_fails_alone() {
    let server = TestServer::start();
    let path = server.create_index(2);
    // One byte more or less of JSON moves the rows to every alignment.
    for pad in 0..4 {
        let head = json!({"pad": "x".repeat(pad), "vectors": [
            {"id": "odd", "metadata": {"pad": pad}}, {"id": "nan"}, {"id": ""}, 17, {"id": "last"}, {"id": "infinite"},
        ]});
        let rows = [f32::from_bits(1), -0.0, 1.0, f32::NAN, 1.0, 1.0, 2.0, 2.0, f32::MAX, -1.5, f32::INFINITY, 0.0];
        let added = server.post_bytes(&format!("{path}/vectors"), body(&head, &rows));
        assert_eq!(added.status, 201);
        let added = added.json();
        let failed: Vec<_> = added["errors"].as_array().unwrap().iter().map(|e| (&e["position"], &e["code"])).collect();
        let [one, two, three, five] = [1, 2, 3, 5].map(Value::from);
        let [not_finite, id, point] = ["not_finite", "invalid_id", "invalid_point"].map(Value::from);
        assert_eq!(failed, [(&one, &not_finite), (&two, &id), (&three, &point), (&five, &not_finite)]);
        assert_eq!(added["added_count"], 2);
        let odd = server.get(&format!("{path}/vectors/odd"));
        assert!(odd.body.contains("\"values\":[1e-45,-0.0]"), "{odd:?}");
        assert_eq!(odd.json()["metadata"]["pad"], pad);
        let last = server.get(&format!("{path}/vectors/last"));
        assert!(last.body.contains("\"values\":[3.4028235e+38,-1.5]"), "{last:?}");
    }
    let atomic = format!("{path}/vectors?atomic=true");
    let refused = server.post_bytes(&atomic, body(&json!({"vectors": [{"id": "a"}, {"id": "b"}]}), &[1.0, 2.0, f32::NAN, 0.0]));
    assert_eq!(refused.problem(422).0, "invalid_points");
    let met = server.post_bytes(&atomic, body(&json!({"vectors": [{"id": "odd", "if_match": 4}]}), &[7.0, 8.0]));
    assert_eq!(met.status, 201);
    let unmet = server.post_bytes(&atomic, body(&json!({"vectors": [{"id": "odd", "if_absent": true}]}), &[9.0, 9.0]));
    assert_eq!(unmet.status, 412);
    assert_eq!(server.get(&format!("{path}/vectors/odd")).json()["values"], json!([7.0, 8.0]));
}

#[test]
fn a_binary_body_of_another_length_is_refused_and_says_which_was_expected() {
    let server = TestServer::start();
    let path = server.filled();
    let one = json!({"vectors": [{"id": "new"}]});
    let rows = [1.0, 2.0, 3.0, 4.0];
    let cut = |body: Vec<u8>, less: usize| body[..body.len() - less].to_vec();
    let calls = [
        ("vectors", body(&one, &rows[..1]), "1 x 2 x 4 bytes", "4 came"),
        ("vectors", body(&one, &rows), "1 x 2 x 4 bytes", "16 came"),
        ("vectors", cut(body(&one, &rows[..2]), 1), "1 x 2 x 4 bytes", "7 came"),
        ("vectors", body(&json!({"vectors": []}), &rows[..2]), "0 x 2 x 4 bytes", "8 came"),
        ("vectors", vec![], "begins with 8 bytes", "has 0 bytes"),
        ("vectors", vec![9, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'], "has 9 bytes", "2 come after"),
        ("vectors", vec![0xff; 40], "has 18446744073709551615 bytes", "32 come after"),
        ("search", body(&json!({"k": 3}), &rows), "1 x 2 x 4 bytes", "16 came"),
        ("search", body(&json!({}), &[]), "1 x 2 x 4 bytes", "0 came"),
        ("search/batch", body(&json!({"queries": [{}, {}, {}]}), &rows), "3 x 2 x 4 bytes", "16 came"),
        ("range_search", body(&json!({"radius": 1}), &rows[..3]), "1 x 2 x 4 bytes", "12 came"),
    ];
    for (call, body, expected, came) in calls {
        let (code, detail) = server.post_bytes(&format!("{path}/{call}"), body).problem(422);
        assert_eq!(code, "wrong_length", "{detail}");
        assert!(detail.starts_with("body: ") && detail.contains(expected) && detail.contains(came), "{detail}");
    }
    let wrong_json = [&6_u64.to_le_bytes()[..], b"{\"k\":}", &bytes(&rows[..2])].concat();
    assert_eq!(server.post_bytes(&format!("{path}/search"), wrong_json).problem(400).0, "invalid_json");
    let no_text = [&2_u64.to_le_bytes()[..], b"\xff{", &bytes(&rows[..2])].concat();
    assert_eq!(server.post_bytes(&format!("{path}/search"), no_text).problem(400).0, "invalid_json");
    assert_eq!(server.get(&path).json()["lsn"], 1, "nothing was stored");
}

#[test]
fn a_vector_in_the_json_of_a_binary_body_refuses_the_whole() {
    let server = TestServer::start();
    let path = server.filled();
    let rows = [1.0, 2.0, 3.0, 4.0];
    for (call, head, field, rows) in [
        ("vectors", json!({"vectors": [{"id": "new"}, {"id": "b", "values": [1, 2]}]}), "vectors[1].values: ", &rows[..]),
        ("search", json!({"vector": [1, 2]}), "vector: ", &rows[..2]),
        ("search/batch", json!({"queries": [{}, {"vector": base64(&[1.0, 2.0])}]}), "queries[1].vector: ", &rows[..]),
        ("range_search", json!({"radius": 1, "vector": 5}), "vector: ", &rows[..2]),
    ] {
        let (code, detail) = server.post_bytes(&format!("{path}/{call}"), body(&head, rows)).problem(422);
        assert_eq!(code, "conflicting_fields");
        assert!(detail.starts_with(field), "{detail}");
    }
    assert_eq!(server.get(&path).json()["lsn"], 1, "nothing was stored");
}

#[test]
fn searches_of_binary_bodies_are_answered_as_those_in_json() {
    let server = TestServer::start();
    let path = server.filled();
    let rows = [2.0, 0.1, 4.5, -1.0];
    for (call, head, in_json) in [
        ("search", json!({"k": 2}), json!({"k": 2, "vector": [2, 0.1]})),
        (
            "search/batch",
            json!({"queries": [{"k": 1}, {"filter": {"n": 3}}]}),
            json!({"queries": [{"k": 1, "vector": [2, 0.1]}, {"filter": {"n": 3}, "vector": [4.5, -1]}]}),
        ),
        ("range_search", json!({"radius": 1}), json!({"radius": 1, "vector": [2, 0.1]})),
    ] {
        let path = format!("{path}/{call}");
        let rows = if call == "search/batch" { &rows[..] } else { &rows[..2] };
        assert_eq!(server.post_bytes(&path, body(&head, rows)).json(), server.post(&path, &in_json).json());
    }
    let got = server.call("GET", &format!("{path}/search")).key(KEY).header("content-type", OCTETS);
    assert_eq!(got.body(body(&json!({"k": 1}), &rows[..2])).send().json()["results"][0]["id"], "p2");
    let not_finite = server.post_bytes(&format!("{path}/search"), body(&json!({}), &[f32::NAN, 1.0]));
    assert_eq!(not_finite.problem(422).0, "not_finite");
}

#[test]
fn calls_without_vectors_take_no_binary_body() {
    let server = TestServer::start();
    let path = server.filled();
    let vectors = format!("{path}/vectors");
    for (method, path) in [
        ("POST", "/v1/index"),
        ("PATCH", &path),
        ("POST", &format!("{vectors}/fetch")),
        ("POST", &format!("{vectors}/delete")),
        ("POST", &format!("{path}/count")),
        ("PATCH", &format!("{vectors}/p1")),
    ] {
        let call = server.call(method, path).key(KEY).header("content-type", OCTETS);
        assert_eq!(call.body(body(&json!({}), &[])).send().problem(415).0, "unsupported_media_type", "{method} {path}");
    }
    let text = server.call("POST", &vectors).key(KEY).header("content-type", "text/plain").body("{}").send();
    let (_, detail) = text.problem(415);
    assert!(detail.contains("application/json or application/octet-stream"), "{detail}");
}

/// Every call whose answer can have vectors.
fn reading_calls(server: &TestServer, path: &str) -> Vec<Box<dyn Fn() -> Call>> {
    let address = server.address;
    let get = |path: String| Box::new(move || Call::new(address, "GET", &path).key(KEY)) as Box<dyn Fn() -> Call>;
    let post = |call: &str, body: Value| {
        let path = format!("{path}/{call}");
        Box::new(move || Call::new(address, "POST", &path).key(KEY).json(&body)) as Box<dyn Fn() -> Call>
    };
    vec![
        get(format!("{path}/vectors/p3")),
        get(format!("{path}/vectors?include_values=true&limit=3")),
        get(format!("{path}/vectors")),
        post("vectors/fetch", json!({"ids": ["p4", "absent", "p1", "p4"]})),
        post("search", json!({"vector": [2, 0], "k": 3, "include_values": true})),
        post("search", json!({"vector": [2, 0], "k": 3})),
        post(
            "search/batch",
            json!({"queries": [
                {"vector": [0, 0], "k": 2, "include_values": true},
                {"vector": [0, 0], "k": 2},
                {"vector": [4, 0], "k": 2, "include_values": true},
            ]}),
        ),
        post("range_search", json!({"vector": [2, 0], "radius": 2, "include_values": true})),
    ]
}

#[test]
fn an_answer_of_the_binary_form_is_that_in_json_with_its_values_behind_it() {
    let server = TestServer::start();
    let path = server.filled();
    let mut with_rows = 0;
    for call in reading_calls(&server, &path) {
        let in_json = call().send();
        assert_eq!(in_json.header("vary"), Some("accept"));
        let (mut expected, mut expected_floats) = (in_json.json(), Vec::new());
        take_values(&mut expected, &mut expected_floats);
        let answer = call().header("accept", OCTETS).send();
        assert_eq!(answer.header("etag"), in_json.header("etag"));
        assert_eq!(parts(&answer), (expected, expected_floats.clone()));
        with_rows += usize::from(!expected_floats.is_empty());
    }
    assert_eq!(with_rows, 6);
}

#[test]
fn only_who_names_the_binary_form_is_answered_in_it() {
    let server = TestServer::start();
    let point = format!("{}/vectors/p1", server.filled());
    let media_type = |accept: &str| {
        let answer = server.call("GET", &point).key(KEY).header("accept", accept).send();
        answer.header("content-type").unwrap().to_owned()
    };
    for accept in [
        OCTETS,
        "Application/Octet-Stream;q=0.3",
        "text/html, application/octet-stream, */*",
        "application/json;q=0.5, application/octet-stream",
    ] {
        assert_eq!(media_type(accept), OCTETS, "{accept}");
    }
    for accept in [
        "*/*",
        "application/*",
        "application/json, application/octet-stream;q=0.5",
        "application/octet-stream;q=0, */*",
        "application/octet-stream; q=none",
        "application/octet-streams",
        "",
    ] {
        assert_eq!(media_type(accept), "application/json", "{accept}");
    }
}

#[test]
fn errors_stay_problem_documents_whatever_is_accepted() {
    let server = TestServer::start();
    let path = server.filled();
    let get = |path: &str| server.call("GET", path).key(KEY).header("accept", OCTETS).send();
    assert_eq!(get(&format!("{path}/vectors/absent")).problem(404).0, "vector_not_found");
    assert_eq!(get(&format!("{path}/vectors?limit=0")).problem(422).0, "invalid_limit");
    let call = server.call("POST", &format!("{path}/search")).key(KEY).header("accept", OCTETS);
    call.json(&json!({"vector": [1]})).send().problem(422);
}

#[test]
fn an_idempotency_key_stands_for_every_byte_of_a_binary_body() {
    let server = TestServer::start();
    let path = format!("{}/vectors", server.create_index(1));
    let head = json!({"vectors": [{"id": "a"}]});
    let send = |values: &[f32]| {
        let call = server.call("POST", &path).key(KEY).header("content-type", OCTETS).header("idempotency-key", "k");
        call.body(body(&head, values)).send()
    };
    assert_eq!(send(&[0.0]).json(), send(&[0.0]).json());
    assert_eq!(send(&[-0.0]).problem(422).0, "idempotency_key_reused");
    assert_eq!(server.get(&format!("{path}/a")).json()["lsn"], 1);
}
