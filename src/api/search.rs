//! `/v1/index/{id}/search`, `…/search/batch` and `…/range_search`: the nearest points, and those within a distance.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::span::EnteredSpan;
use utoipa::ToSchema;
use warp::reply::Response;

use super::Server;
use super::admission::{Turn, block_if};
use super::decode::{self, BodyVectors};
use super::indices::index_id;
use super::listen::STAGES;
use super::openapi::Vector;
use super::reply::{AnswerVectors, Problem, shortest, stored_json};
use super::request::{Request, VectorsBody};
use super::slow::{Done, Watch, watched};
use crate::config::{Limits, RANGE_LIMIT_DEFAULT};
use crate::engine::Index;
use crate::error::Error;
use crate::plan::Explanation;
use crate::segment::filter::Filter;
use crate::types::{BatchHits, Hit, Lsn, Query, QueryHits, RangeQuery, SearchParams, Within};

/// Answers where the client does not say how many.
const K_DEFAULT: usize = 10;

/// Bytes of a body, and floats of an answer, from which on sockets are served by another thread while it is decoded or encoded: a millisecond.
const LARGE_BODY: usize = 1 << 18;
const LARGE_ANSWER: usize = 1 << 14;
/// What a hit without its vector counts for, in floats.
const HIT_FLOATS: usize = 16;

/// A search for the nearest points.
#[derive(Deserialize, ToSchema)]
#[schema(as = Query, example = json!({"vector": [0.1, 0.2, 0.3], "k": 2, "filter": {"year": {"$gte": 2020}}}))]
pub(super) struct SearchBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = Vector, required)]
    vector: Option<&'a RawValue>,
    /// Points at most.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10000, default = 10)]
    k: Option<&'a RawValue>,
    /// Only points whose metadata match are counted among the k: `{"field": value}`, or operators, as `docs/filters.md` has them.
    #[schema(value_type = Option<Object>)]
    filter: Option<&'a RawValue>,
    /// Looks at all rows, whatever FAISS index there is.
    #[schema(value_type = Option<bool>, default = false)]
    exact: Option<&'a RawValue>,
    #[schema(value_type = Option<bool>, default = false)]
    include_values: Option<&'a RawValue>,
    #[schema(value_type = Option<bool>, default = true)]
    include_metadata: Option<&'a RawValue>,
    /// Points with a lower score are not found.
    #[schema(value_type = Option<f64>)]
    min_score: Option<&'a RawValue>,
    /// Searches the state after this mutation, as long as it is kept.
    #[schema(value_type = Option<u64>)]
    as_of_lsn: Option<&'a RawValue>,
    #[schema(value_type = Option<Params>)]
    params: Option<&'a RawValue>,
}

/// How hard a search looks. What the index type has no use for is ignored.
#[derive(Deserialize, ToSchema)]
#[schema(as = SearchParams)]
pub(super) struct Params<'a> {
    /// HNSW: rows that are kept in sight (efSearch).
    #[serde(borrow)]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 65536)]
    ef: Option<&'a RawValue>,
    /// IVF: lists that are looked into.
    #[schema(value_type = Option<u32>, format = Int64, minimum = 1, maximum = 4294967295_u32)]
    nprobe: Option<&'a RawValue>,
    /// Quantised types: whether more candidates are taken, to be ranked by their raw vectors.
    #[schema(value_type = Option<bool>, default = true)]
    rescore: Option<&'a RawValue>,
}

/// Searches that are answered together, as of one LSN.
#[derive(Deserialize, ToSchema)]
#[schema(as = QueryBatch, example = json!({"queries": [{"vector": [0.1, 0.2, 0.3], "k": 1}, {"vector": [0.3, 0.2, 0.1], "k": 1}]}))]
pub(super) struct BatchBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = Vec<SearchBody>, required, min_items = 1, max_items = 1000)]
    queries: Option<&'a RawValue>,
}

/// A search for all points that are near enough: `radius` or `min_score`.
#[derive(Deserialize, ToSchema)]
#[schema(as = RangeQuery, example = json!({"vector": [0.1, 0.2, 0.3], "min_score": 0.5, "limit": 100}))]
pub(super) struct RangeBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = Vector, required)]
    vector: Option<&'a RawValue>,
    /// L2: a squared distance of at most this; inner product and cosine: a product or a cosine of at least this.
    #[schema(value_type = Option<f64>)]
    radius: Option<&'a RawValue>,
    #[schema(value_type = Option<f64>)]
    min_score: Option<&'a RawValue>,
    #[schema(value_type = Option<Object>)]
    filter: Option<&'a RawValue>,
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10000, default = 1000)]
    limit: Option<&'a RawValue>,
    #[schema(value_type = Option<bool>, default = false)]
    include_values: Option<&'a RawValue>,
    #[schema(value_type = Option<bool>, default = true)]
    include_metadata: Option<&'a RawValue>,
}

/// The answer to a search.
#[derive(Serialize, ToSchema)]
pub(super) struct Found {
    /// Best first.
    results: Vec<FoundPoint>,
    /// The state in which they were found. Of a batch, the batch has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    lsn: Option<Lsn>,
    /// Where `explain=true` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explained>,
}

/// The answer to a batch of searches, in the order of its queries.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundTogether {
    results: Vec<Found>,
    /// The state in which all of them were found.
    #[schema(value_type = u64)]
    lsn: Lsn,
}

/// The answer to a range search.
#[derive(Serialize, ToSchema)]
pub(super) struct FoundWithin {
    results: Vec<FoundPoint>,
    /// Whether there are more than the limit.
    truncated: bool,
    #[schema(value_type = u64)]
    lsn: Lsn,
}

/// How the answer was found.
#[derive(Serialize, ToSchema)]
struct Explained {
    #[serde(flatten)]
    explanation: Explanation,
    /// Points that match, of all segments.
    matched: u64,
}

#[derive(Serialize, ToSchema)]
struct FoundPoint {
    id: String,
    /// Higher is better. L2: `1 / (1 + distance)`; inner product and cosine: the distance.
    #[serde(serialize_with = "shortest")]
    score: f64,
    /// L2: squared; inner product: the product; cosine: the cosine.
    #[serde(serialize_with = "shortest")]
    distance: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    metadata: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<f32>>,
}

impl FoundPoint {
    fn of(hit: Hit, with_metadata: bool, vectors: &mut AnswerVectors) -> Result<Self, Problem> {
        let metadata = with_metadata.then(|| stored_json(hit.metadata)).transpose()?;
        let values = vectors.place(hit.values);
        Ok(Self { id: hit.id, score: hit.score, distance: hit.distance, metadata, values })
    }
}

pub async fn search(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let explains = request.flag("explain")?;
    let body = request.vectors_body(&server).await?;
    let mut vectors = AnswerVectors::wanted(&request.headers);
    let (watch, mut done) = (Watch::new("search", id), Done::default());
    let index = server.searched_index(&turn, id).await?;
    let is_large = body.bytes().len() > LARGE_BODY;
    let (query, with_metadata) = block_if(is_large, || asked(&index, &server.config.limits, &body, &mut done))?;
    drop(body);
    let floats = if query.include_values { index.dimension() } else { 0 };
    let is_large = query.k * (HIT_FLOATS + floats) > LARGE_ANSWER;
    let (QueryHits { hits, lsn, plan }, explain) = if explains {
        server.searches.run(turn, || explained(&index, &query, &mut done)).await?
    } else {
        (server.together.search(&server.searches, &turn, &index, query, &mut done).await?, None)
    };
    done.plan = plan;
    let response = block_if(is_large, || {
        let found = Found { results: points(hits, with_metadata, &mut vectors)?, lsn: Some(lsn), explain };
        Ok::<_, Problem>(encoded(vectors, &found))
    });
    watch.end(&server, &index, &done);
    response
}

pub async fn batch(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let body = request.vectors_body(&server).await?;
    let mut vectors = AnswerVectors::wanted(&request.headers);
    let work = move |server: &Server, index: &Index, done: &mut Done| {
        let found = find_together(index, &server.config.limits, &body, &mut vectors, done)?;
        Ok(encoded(vectors, &found))
    };
    watched(&server, &server.searches, turn, "search/batch", id, work).await
}

pub async fn range(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let body = request.vectors_body(&server).await?;
    let mut vectors = AnswerVectors::wanted(&request.headers);
    let work = move |server: &Server, index: &Index, done: &mut Done| {
        let found = find_within(index, &server.config.limits, &body, &mut vectors, done)?;
        Ok(encoded(vectors, &found))
    };
    watched(&server, &server.searches, turn, "range_search", id, work).await
}

fn encoded(vectors: AnswerVectors, found: &impl Serialize) -> Response {
    tracing::info_span!(target: STAGES, "encode").in_scope(|| vectors.answer(found))
}

fn decoding() -> EnteredSpan {
    tracing::info_span!(target: STAGES, "decode").entered()
}

/// The search that a body asks for, and whether its hits bear their metadata.
///
/// # Errors
/// 400 and 422.
fn asked(index: &Index, limits: &Limits, body: &VectorsBody, done: &mut Done) -> Result<(Query, bool), Problem> {
    let _decode = decoding();
    let (text, behind) = body.parts()?;
    let body = decode::body(text)?;
    let asked = decode_query(&body, 0, &BodyVectors::new(behind, 1, index.dimension())?, limits)?;
    done.k = asked.0.k;
    Ok(asked)
}

fn explained(index: &Index, query: &Query, done: &mut Done) -> Result<(QueryHits, Option<Explained>), Problem> {
    let (hits, explanation) = done.by_engine(|| index.explain(query))?;
    let (lsn, plan) = (explanation.lsn, explanation.plan);
    Ok((QueryHits { hits, lsn, plan }, Some(Explained { matched: plan.matched, explanation })))
}

/// Answers the search that a body asks for, explained, but for the vectors, which are placed in `vectors`.
///
/// # Errors
/// 400 and 422 for the body; those of the index.
#[cfg(any(fuzzing, test))]
pub(super) fn find(
    index: &Index,
    limits: &Limits,
    body: &VectorsBody,
    vectors: &mut AnswerVectors,
    done: &mut Done,
) -> Result<Found, Problem> {
    let (query, with_metadata) = asked(index, limits, body, done)?;
    let (QueryHits { hits, lsn, .. }, explain) = explained(index, &query, done)?;
    Ok(Found { results: points(hits, with_metadata, vectors)?, lsn: Some(lsn), explain })
}

/// Answers the batch of searches that a body asks for.
///
/// # Errors
/// As [`find`]; what is wrong in a query is named with the query: `queries[3].vector`.
pub(super) fn find_together(
    index: &Index,
    limits: &Limits,
    body: &VectorsBody,
    vectors: &mut AnswerVectors,
    done: &mut Done,
) -> Result<FoundTogether, Problem> {
    let decode = decoding();
    let (text, behind) = body.parts()?;
    let raw = |text| Ok(decode::body::<BatchBody>(text)?.queries);
    let items = decode::objects_of_body(text, "queries", limits.batch_queries_max, raw)?;
    let asked = BodyVectors::new(behind, items.len(), index.dimension())?;
    let (mut queries, mut with_metadata) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
    for (at, item) in items.into_iter().enumerate() {
        let name = || format!("queries[{at}]");
        let body = item.map_err(|detail| Error::invalid(name(), "invalid_type", detail))?;
        let (query, with) = decode_query(&body, at, &asked, limits).map_err(|error| error.under(&name()))?;
        queries.push(query);
        with_metadata.push(with);
    }
    drop(decode);
    done.k = queries.iter().map(|query| query.k).sum();
    let BatchHits { answers, lsn, plan } = done.by_engine(|| index.search_batch(&queries))?;
    done.plan = plan;
    let results = answers.into_iter().zip(with_metadata);
    let results = results.map(|(hits, with)| Ok(Found { results: points(hits, with, vectors)?, lsn: None, explain: None }));
    Ok(FoundTogether { results: results.collect::<Result<_, Problem>>()?, lsn })
}

/// Answers the range search that a body asks for.
///
/// # Errors
/// As [`find`].
pub(super) fn find_within(
    index: &Index,
    limits: &Limits,
    body: &VectorsBody,
    vectors: &mut AnswerVectors,
    done: &mut Done,
) -> Result<FoundWithin, Problem> {
    let decode = decoding();
    let (text, behind) = body.parts()?;
    let body: RangeBody = decode::body(text)?;
    let asked = BodyVectors::new(behind, 1, index.dimension())?;
    let within = match (body.radius, body.min_score) {
        (Some(radius), None) => Within::Radius(decode::number(radius, "radius")?),
        (None, Some(least)) => Within::MinScore(decode::number(least, "min_score")?),
        (None, None) => return Err(Error::invalid("radius", "missing_field", "radius or min_score is required").into()),
        (Some(_), Some(_)) => {
            return Err(Error::invalid("radius", "conflicting_fields", "radius and min_score exclude each other").into());
        }
    };
    let range = RangeQuery {
        vector: decode_vector(body.vector, 0, &asked, limits)?,
        within,
        filter: body.filter.map(|raw| Filter::parse(raw.get())).transpose()?,
        limit: body.limit.map_or(Ok(RANGE_LIMIT_DEFAULT.min(limits.range_hits_max)), |raw| decode::count(raw, "limit"))?,
        include_values: body.include_values.map_or(Ok(false), |raw| decode::boolean(raw, "include_values"))?,
    };
    let include_metadata = body.include_metadata.map_or(Ok(true), |raw| decode::boolean(raw, "include_metadata"))?;
    drop(decode);
    done.k = range.limit;
    let found = done.by_engine(|| index.range_search(&range))?;
    done.plan = found.plan;
    Ok(FoundWithin { results: points(found.hits, include_metadata, vectors)?, truncated: found.truncated, lsn: found.lsn })
}

fn points(hits: Vec<Hit>, with_metadata: bool, vectors: &mut AnswerVectors) -> Result<Vec<FoundPoint>, Problem> {
    hits.into_iter().map(|hit| FoundPoint::of(hit, with_metadata, vectors)).collect()
}

/// The `at`th query of a body, and whether its hits bear their metadata.
fn decode_query(body: &SearchBody, at: usize, vectors: &BodyVectors, limits: &Limits) -> Result<(Query, bool), Error> {
    let vector = decode_vector(body.vector, at, vectors, limits)?;
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

fn decode_vector(raw: Option<&RawValue>, at: usize, vectors: &BodyVectors, limits: &Limits) -> Result<Vec<f32>, Error> {
    let mut vector = Vec::new();
    vectors.read(at, raw, "vector", limits, &mut vector)?;
    Ok(vector)
}

fn decode_params(raw: &RawValue) -> Result<SearchParams, Error> {
    let params: Params = decode::object(raw).map_err(|detail| Error::invalid("params", "invalid_type", detail))?;
    Ok(SearchParams {
        ef: params.ef.map(|raw| decode::count_u32(raw, "params.ef")).transpose()?,
        nprobe: params.nprobe.map(|raw| decode::count_u32(raw, "params.nprobe")).transpose()?,
        rescore: params.rescore.map(|raw| decode::boolean(raw, "params.rescore")).transpose()?,
    })
}
