//! `/v1/index/{id}/search`: the nearest points.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Server;
use super::decode::{self, NotFloats, required};
use super::indices::index_id;
use super::reply::{Problem, json, shortest, stored_json};
use super::request::{JsonBody, Request};
use crate::config::Limits;
use crate::engine::Index;
use crate::error::Error;
use crate::segment::filter::Filter;
use crate::types::{Explanation, Hit, Query, SearchParams, TenantId};

/// Answers where the client does not say how many.
const K_DEFAULT: usize = 10;

#[derive(Deserialize)]
struct SearchBody<'a> {
    #[serde(borrow)]
    vector: Option<&'a RawValue>,
    k: Option<&'a RawValue>,
    filter: Option<&'a RawValue>,
    exact: Option<&'a RawValue>,
    include_values: Option<&'a RawValue>,
    include_metadata: Option<&'a RawValue>,
    min_score: Option<&'a RawValue>,
    as_of_lsn: Option<&'a RawValue>,
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    ef: Option<&'a RawValue>,
    nprobe: Option<&'a RawValue>,
    rescore: Option<&'a RawValue>,
}

/// The answer to a search.
#[derive(Serialize)]
pub(super) struct Found {
    results: Vec<FoundPoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explained>,
}

/// How the answer was found: see [`Explanation`].
#[derive(Serialize)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    /// Points that match, of all segments.
    matched: u64,
}

#[derive(Serialize)]
struct FoundPoint {
    id: String,
    #[serde(serialize_with = "shortest")]
    score: f64,
    #[serde(serialize_with = "shortest")]
    distance: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<f32>>,
}

impl FoundPoint {
    fn of(hit: Hit, with_metadata: bool) -> Result<Self, Problem> {
        let metadata = with_metadata.then(|| stored_json(hit.metadata)).transpose()?;
        Ok(Self { id: hit.id, score: hit.score, distance: hit.distance, metadata, values: hit.values })
    }
}

pub async fn search(server: Arc<Server>, tenant: TenantId, id: String, mut request: Request) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let explains = request.flag("explain")?;
    let body = request.json_body(&server).await?;
    let call = Arc::clone(&server);
    let work = move || {
        let index = call.store.index(&tenant, id)?;
        Ok(json(StatusCode::OK, &find(&index, &call.config.limits, &body, explains)?))
    };
    server.searches.run(work).await
}

/// Answers the search that a body asks for.
///
/// # Errors
/// 400 and 422 for the body; those of the index.
pub(super) fn find(index: &Index, limits: &Limits, body: &JsonBody, explains: bool) -> Result<Found, Problem> {
    let (query, with_metadata) = decode_query(body, limits)?;
    let (hits, explanation) = index.explain(&query)?;
    let results = hits.into_iter().map(|hit| FoundPoint::of(hit, with_metadata)).collect::<Result<_, _>>()?;
    let matched = explanation.segments.iter().map(|segment| segment.matched).sum();
    Ok(Found { results, explain: explains.then_some(Explained { explanation, matched }) })
}

/// The query, and whether its hits bear their metadata.
fn decode_query(body: &JsonBody, limits: &Limits) -> Result<(Query, bool), Problem> {
    let body: SearchBody = decode::body(body.text()?)?;
    let mut vector = Vec::new();
    decode::floats(required(body.vector, "vector")?, limits.dimension_max, &mut vector).map_err(|problem| match problem {
        NotFloats::WrongShape => Error::invalid("vector", "invalid_type", "must be an array of numbers"),
        NotFloats::TooMany => {
            Error::invalid("vector", "wrong_dimension", format!("has more than {} numbers", limits.dimension_max))
        }
    })?;
    let k = body.k.map_or(Ok(K_DEFAULT), |raw| decode::count(raw, "k"))?;
    let filter = body.filter.map(|raw| Filter::parse(raw.get())).transpose()?;
    let exact = body.exact.map_or(Ok(false), |raw| decode::boolean(raw, "exact"))?;
    let include_values = body.include_values.map_or(Ok(false), |raw| decode::boolean(raw, "include_values"))?;
    let include_metadata = body.include_metadata.map_or(Ok(true), |raw| decode::boolean(raw, "include_metadata"))?;
    let min_score = body.min_score.map(|raw| decode::number(raw, "min_score")).transpose()?;
    let as_of_lsn = body.as_of_lsn.map(|raw| decode::lsn(raw, "as_of_lsn")).transpose()?;
    let params = body.params.map_or(Ok(SearchParams::default()), decode_params)?;
    Ok((Query { vector, k, filter, exact, include_values, min_score, as_of_lsn, params }, include_metadata))
}

fn decode_params(raw: &RawValue) -> Result<SearchParams, Error> {
    let params: Params = decode::object(raw).map_err(|detail| Error::invalid("params", "invalid_type", detail))?;
    Ok(SearchParams {
        ef: params.ef.map(|raw| decode::count_u32(raw, "params.ef")).transpose()?,
        nprobe: params.nprobe.map(|raw| decode::count_u32(raw, "params.nprobe")).transpose()?,
        rescore: params.rescore.map(|raw| decode::boolean(raw, "params.rescore")).transpose()?,
    })
}
