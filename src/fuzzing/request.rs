//! What comes from a client over HTTP, behind the reading of its body.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{open_store, tenant};
use crate::api::binary;
use crate::api::bodies::{self, VectorsBody};
use crate::engine::{Index, Store};
use crate::io::sim::SimIo;
use crate::types::{Durability, IndexSpec, Metric};

/// Floats in the vectors of the indices here.
const DIMENSION: usize = 2;

/// A body, or a part of a path or a query. `input`: what it is (u8), then its bytes.
///
/// It is refused by a status that says that the client is wrong, or it means what it says: an index as it is written again, an answer
/// whose counts are right and whose points are there, a part of a path that is the same when it is encoded anew. A body of the binary form is answered as one
/// in JSON is.
pub fn request(input: &[u8]) {
    let Some((&kind, body)) = input.split_first() else { return };
    match kind % 14 {
        0 => create(body),
        1 => add(&Sent::json(body), false),
        2 => add(&Sent::json(body), true),
        3 => search(&Sent::json(body)),
        4 => part(body),
        5 => cursor(body),
        6 => batch(&Sent::json(body)),
        7 => range(&Sent::json(body)),
        8 => change(body),
        9 => delete(body),
        10 => add(&Sent::binary(body), false),
        11 => search(&Sent::binary(body)),
        12 => batch(&Sent::binary(body)),
        _ => range(&Sent::binary(body)),
    }
}

/// A body with vectors, in one of its two forms.
struct Sent<'a> {
    body: VectorsBody,
    /// All of its JSON, where that can be told.
    json: &'a [u8],
    /// Vectors behind the JSON.
    rows: Option<Vec<[f32; DIMENSION]>>,
}

impl<'a> Sent<'a> {
    fn json(bytes: &'a [u8]) -> Self {
        Self { body: VectorsBody::of(bytes, false), json: bytes, rows: None }
    }

    fn binary(bytes: &'a [u8]) -> Self {
        let (json, rows) = binary::split(bytes).unwrap_or_default();
        let row =
            |row: &[u8; DIMENSION * 4]| std::array::from_fn(|at| f32::from_le_bytes([0, 1, 2, 3].map(|byte| row[at * 4 + byte])));
        Self { body: VectorsBody::of(bytes, true), json, rows: Some(rows.as_chunks().0.iter().map(row).collect()) }
    }

    /// The vector of the item at `at`, which has it as `in_json` where it is not behind the JSON.
    fn vector(&self, at: usize, in_json: &Value) -> Option<Vec<f64>> {
        match &self.rows {
            Some(rows) => Some(rows.get(at)?.iter().map(|&value| f64::from(value)).collect()),
            None => in_json.as_array()?.iter().map(Value::as_f64).collect(),
        }
    }

    /// A query of it, of this JSON, as a search in JSON. `None`: what it has for a vector is not easily told.
    fn query(&self, at: usize, json: &'a str) -> Option<String> {
        let Some(rows) = &self.rows else { return Some(json.to_owned()) };
        let rest = json.trim_ascii().strip_prefix('{').filter(|rest| !rest.contains('\\') && !rest.contains("vector"))?;
        let comma = if rest.trim_ascii_start().starts_with('}') { "" } else { "," };
        Some(format!("{{\"vector\":{}{comma}{rest}", serde_json::to_string(rows.get(at)?).expect("floats")))
    }

    /// The same for the one query that it is.
    fn only_query(&self) -> Option<String> {
        self.query(0, std::str::from_utf8(self.json).ok()?)
    }
}

fn create(body: &[u8]) {
    let spec = match bodies::spec(body, &tenant()) {
        Ok(spec) => spec,
        Err(status) => return assert!(matches!(status, 400 | 403 | 422), "{status}"),
    };
    let written = json!({
        "name": spec.name,
        "dimension": spec.dimension,
        "index_type": spec.index_type,
        "metric": spec.metric,
        "options": spec.options,
        "tenant_id": tenant().as_str(),
    });
    assert_eq!(bodies::spec(written.to_string().as_bytes(), &tenant()).as_ref(), Ok(&spec), "{written}");
}

fn add(sent: &Sent<'_>, is_atomic: bool) {
    let (_store, index) = index();
    let answer = match bodies::add(&sent.body, &index, is_atomic) {
        Ok(answer) => answer,
        Err(status) => {
            assert!(matches!(status, 400 | 412 | 422), "{status}");
            assert_eq!(index.info().lsn, 0, "nothing is stored of what is refused");
            return;
        }
    };
    let count = |field: &str| answer[field].as_u64().expect("a count");
    let positions = |field: &str| -> BTreeSet<u64> {
        answer[field].as_array().expect("a list").iter().map(|error| error["position"].as_u64().expect("a position")).collect()
    };
    let (failed, superseded) = (positions("errors"), positions("warnings"));
    assert_eq!(failed.len() as u64, count("failed_count"));
    assert!(failed.is_disjoint(&superseded));
    assert_eq!(answer["success"], json!(failed.is_empty()));
    assert_eq!(index.info().vector_count, count("added_count"));
    assert_eq!(answer["lsn"], if count("added_count") > 0 { json!(1) } else { Value::Null });
    let points = serde_json::from_slice::<Value>(sent.json).ok();
    // Text that the server takes and `Value` does not (numbers beyond a f64, deep metadata) is not looked at further.
    let Some(points) = points.as_ref().and_then(|body| body["vectors"].as_array()) else { return };
    assert_eq!(points.len() as u64, count("added_count") + (failed.len() + superseded.len()) as u64);
    for (position, point) in points.iter().enumerate().filter(|(at, _)| !failed.contains(&(*at as u64))) {
        let id = point["id"].as_str().expect("a point that was stored has an id");
        let stored = index.get(id).expect("reading").expect("what was added is there");
        if !superseded.contains(&(position as u64)) {
            // What stands there as base64 is not looked at.
            let Some(values) = sent.vector(position, &point["values"]) else {
                assert!(point["values"].is_string(), "a point that was stored has a vector: {point}");
                continue;
            };
            assert!(stored.values.iter().zip(&values).all(|(&found, &sent)| is_near(found, sent)), "{:?} of {values:?}", stored);
        }
    }
}

/// `f64` rounds twice on the way to a f32.
fn is_near(found: f32, sent: f64) -> bool {
    (f64::from(found) - sent).abs() <= f64::from(f32::EPSILON) * sent.abs() + f64::from(f32::MIN_POSITIVE)
}

/// An index that is searched, and never changes.
fn searched() -> &'static Index {
    static SEARCHED: OnceLock<(Store, Arc<Index>)> = OnceLock::new();
    let (_, index) = SEARCHED.get_or_init(|| {
        let (store, index) = index();
        fill(&index);
        (store, index)
    });
    index
}

/// Stores four points.
fn fill(index: &Index) {
    let mut batch = index.batch();
    for n in 0..4_u8 {
        let metadata = format!("{{\"n\":{n},\"tags\":[\"a\",{n}]}}");
        batch.push(&n.to_string(), &[f32::from(n), 1.0], &metadata).expect("a valid point");
    }
    index.upsert(batch, Durability::Fsync).expect("a disk without faults");
}

/// What is refused changes nothing, and what was answered can be sent back.
fn change(body: &[u8]) {
    let (store, index) = index();
    let send = |body: &[u8]| bodies::change(body, &store, &tenant(), index.id());
    let before = send(b"{}").expect("a change of nothing");
    match send(body) {
        Ok(answer) => assert_eq!(send(answer.to_string().as_bytes()), Ok(answer)),
        Err(status) => {
            assert!(matches!(status, 400 | 409 | 422), "{status}");
            assert_eq!(send(b"{}"), Ok(before));
        }
    }
}

fn delete(body: &[u8]) {
    let (_store, index) = index();
    fill(&index);
    match bodies::delete(body, &index) {
        Ok(deleted) => {
            let info = index.info();
            assert_eq!(info.vector_count + deleted.deleted_count as u64, 4);
            assert_eq!((info.lsn, deleted.lsn), if deleted.deleted_count == 0 { (1, 1) } else { (2, 2) });
        }
        Err(status) => {
            assert!(matches!(status, 400 | 422), "{status}");
            assert_eq!((index.info().lsn, index.info().vector_count), (1, 4), "nothing is deleted by what is refused");
        }
    }
}

fn search(sent: &Sent<'_>) {
    match bodies::search(&sent.body, searched()) {
        Ok(answer) => {
            check_results(&answer);
            if let Some(query) = sent.only_query() {
                assert_eq!(alone(&query), answer["results"], "{query}");
            }
        }
        Err(status) => assert!(matches!(status, 400 | 422), "{status}"),
    }
}

/// The results of a search in JSON.
fn alone(query: &str) -> Value {
    let answer = bodies::search(&VectorsBody::of(query.as_bytes(), false), searched());
    answer.expect("what is taken in one form is taken in the other, and alone")["results"].take()
}

fn check_results(answer: &Value) {
    let results = answer["results"].as_array().expect("a list");
    let scores: Vec<f64> = results.iter().map(|hit| hit["score"].as_f64().expect("a finite score")).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "best first: {answer}");
    let ids: BTreeSet<&str> = results.iter().map(|hit| hit["id"].as_str().expect("an id")).collect();
    assert!(ids.len() == results.len() && ids.len() <= 4, "{answer}");
}

/// Each query is answered as it is alone.
fn batch(sent: &Sent<'_>) {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        queries: Vec<&'a RawValue>,
    }
    match bodies::batch(&sent.body, searched()) {
        Ok(answer) => {
            let body: Body<'_> = serde_json::from_slice(sent.json).expect("a body that was answered");
            let together = answer["results"].as_array().expect("a list");
            assert_eq!(together.len(), body.queries.len());
            for (at, (query, found)) in body.queries.iter().zip(together).enumerate() {
                if let Some(query) = sent.query(at, query.get()) {
                    assert_eq!(alone(&query), found["results"], "{query}");
                }
            }
        }
        Err(status) => assert!(matches!(status, 400 | 422), "{status}"),
    }
}

fn range(sent: &Sent<'_>) {
    match bodies::range(&sent.body, searched()) {
        Ok(answer) => {
            check_results(&answer);
            let count = answer["results"].as_array().map_or(0, Vec::len);
            assert!(answer["truncated"] == json!(false) || (1..4).contains(&count), "{answer}");
            if let Some(query) = sent.only_query() {
                assert_eq!(bodies::range(&VectorsBody::of(query.as_bytes(), false), searched()), Ok(answer), "{query}");
            }
        }
        Err(status) => assert!(matches!(status, 400 | 422), "{status}"),
    }
}

fn part(part: &[u8]) {
    let Ok(part) = std::str::from_utf8(part) else { return };
    match bodies::text(part) {
        Ok(text) => {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            assert_eq!(bodies::text(&encoded), Ok(text));
        }
        Err(status) => assert_eq!(status, 422),
    }
    match bodies::index_id(part) {
        Ok(id) => assert_eq!(bodies::index_id(&id), Ok(id)),
        Err(status) => assert_eq!(status, 404),
    }
}

fn cursor(cursor: &[u8]) {
    let Ok(cursor) = std::str::from_utf8(cursor) else { return };
    match bodies::cursor(cursor) {
        Ok(written) => assert_eq!(bodies::cursor(&written), Ok(written)),
        Err(status) => assert_eq!(status, 422),
    }
}

/// An empty index.
fn index() -> (Store, Arc<Index>) {
    let store = open_store(&SimIo::new());
    let spec = IndexSpec {
        name: "n".to_owned(),
        dimension: DIMENSION,
        index_type: "Flat".to_owned(),
        metric: Some(Metric::L2),
        ..IndexSpec::default()
    };
    let index = store.create_index(&tenant(), &spec).expect("creating an index");
    (store, index)
}
