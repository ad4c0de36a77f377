//! The decoders of requests without a server around them, for the fuzzers. A refusal is given as its status.

use serde_json::Value;

use super::indices::{self, Position};
use super::reply::{AnswerVectors, Problem};
pub(crate) use super::request::VectorsBody;
use super::request::{JsonBody, decode_percent};
use super::search;
use super::slow::Done;
use super::writes;
use crate::config::Limits;
use crate::engine::{Index, Store};
use crate::types::{Condition, Deleted, IndexId, IndexSpec, TenantId, WriteOptions};

/// The index that the body of a `POST /v1/index` asks for.
pub(crate) fn spec(body: &[u8], tenant: &TenantId) -> Result<IndexSpec, u16> {
    indices::decode_spec(&JsonBody::of(body), tenant).map_err(status)
}

/// The answer to the body of a `POST …/vectors`.
pub(crate) fn add(body: &VectorsBody, index: &Index, atomic: bool) -> Result<Value, u16> {
    let options = WriteOptions { atomic, ..WriteOptions::default() };
    let added = writes::add_points(index, &Limits::default(), body, Condition::Always, options).map_err(status)?;
    Ok(serde_json::to_value(added).expect("an answer is JSON"))
}

/// The answer to the body of a `POST …/search`.
pub(crate) fn search(body: &VectorsBody, index: &Index) -> Result<Value, u16> {
    let found =
        search::find(index, &Limits::default(), body, &mut AnswerVectors::Inside, &mut Done::default()).map_err(status)?;
    Ok(serde_json::to_value(found).expect("an answer is JSON"))
}

/// The answer to the body of a `POST …/search/batch`.
pub(crate) fn batch(body: &VectorsBody, index: &Index) -> Result<Value, u16> {
    let found = search::find_together(index, &Limits::default(), body, &mut AnswerVectors::Inside, &mut Done::default())
        .map_err(status)?;
    Ok(serde_json::to_value(found).expect("an answer is JSON"))
}

/// The answer to the body of a `POST …/range_search`.
pub(crate) fn range(body: &VectorsBody, index: &Index) -> Result<Value, u16> {
    let found =
        search::find_within(index, &Limits::default(), body, &mut AnswerVectors::Inside, &mut Done::default()).map_err(status)?;
    Ok(serde_json::to_value(found).expect("an answer is JSON"))
}

/// The answer to the body of a `PATCH /v1/index/{id}`.
pub(crate) fn change(body: &[u8], store: &Store, tenant: &TenantId, id: IndexId) -> Result<Value, u16> {
    let changed = indices::change_index(store, tenant, id, &JsonBody::of(body)).map_err(status)?;
    Ok(serde_json::to_value(changed).expect("an answer is JSON"))
}

/// What the body of a `POST …/vectors/delete` came to.
pub(crate) fn delete(body: &[u8], index: &Index) -> Result<Deleted, u16> {
    writes::delete_points(index, &Limits::default(), &JsonBody::of(body), WriteOptions::default(), &mut Done::default())
        .map_err(status)
}

/// A part of a path or of a query, decoded.
pub(crate) fn text(part: &str) -> Result<String, u16> {
    decode_percent(part, "part").map_err(status)
}

/// The index that a part of a path names, as text.
pub(crate) fn index_id(part: &str) -> Result<String, u16> {
    indices::index_id(part).map(|id| id.to_string()).map_err(status)
}

/// A cursor, as the server would write it again.
pub(crate) fn cursor(cursor: &str) -> Result<String, u16> {
    Position::parse(cursor).map(Position::to_cursor).map_err(|error| status(error.into()))
}

fn status(problem: Problem) -> u16 {
    problem.status().as_u16()
}
