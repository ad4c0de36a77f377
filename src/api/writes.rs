//! `/v1/index/{id}/vectors`: storing, changing and deleting points.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Server;
use super::admission::Turn;
use super::decode::{self, BodyVectors, required};
use super::indices::index_id;
use super::reply::{PointError, Problem, json, no_content, with_etag, with_lsn};
use super::request::{JsonBody, Request, VectorsBody, decode_percent};
use super::slow::{Done, watched};
use super::vectors::decode_ids;
use crate::config::Limits;
use crate::engine::{Batch, Index};
use crate::error::{Error, What};
use crate::segment::filter::Filter;
use crate::types::{Condition, Deleted, WriteOptions};

#[derive(Deserialize)]
struct AddBody<'a> {
    #[serde(borrow)]
    vectors: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct PointBody<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    values: Option<&'a RawValue>,
    metadata: Option<&'a RawValue>,
    if_match: Option<&'a RawValue>,
    if_absent: Option<&'a RawValue>,
}

pub async fn add(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let condition = request.condition()?;
    let body = request.vectors_body(&server).await?;
    let options = request.write_options(&[body.bytes()])?;
    let call = Arc::clone(&server);
    let work = move || {
        let index = call.store.index(&tenant, id)?;
        Ok(json(StatusCode::CREATED, &add_points(&index, &call.config.limits, &body, condition, options)?))
    };
    server.writes.run(turn, work).await
}

/// The answer to an upsert.
#[derive(Serialize)]
pub(super) struct Added {
    /// Whether no point failed.
    success: bool,
    added_count: usize,
    failed_count: usize,
    errors: Vec<PointError>,
    warnings: Vec<PointError>,
    /// Null where nothing was stored.
    lsn: Option<u64>,
}

/// Stores the points of a body. A condition of the request is that of its one point.
///
/// # Errors
/// 400 and 422 for the body as a whole; 412 where the condition of the request does not hold, or with `atomic` that of a point; those of the store.
pub(super) fn add_points(
    index: &Index,
    limits: &Limits,
    body: &VectorsBody,
    condition: Condition,
    options: WriteOptions,
) -> Result<Added, Problem> {
    let (text, behind) = body.parts()?;
    let body: AddBody = decode::body(text)?;
    let points: Vec<Result<PointBody, _>> =
        decode::objects(required(body.vectors, "vectors")?, "vectors", limits.batch_points_max)?;
    let vectors = BodyVectors::new(behind, points.len(), index.dimension())?;
    if condition != Condition::Always && points.len() != 1 {
        let detail = "is for one point; a body with several has `if_match` or `if_absent` in each";
        return Err(Error::invalid("If-Match", "invalid_condition", detail).into());
    }

    let is_atomic = options.atomic;
    let mut batch = index.batch();
    // Where each point of the batch stands in the client's array, and what it asks for.
    let mut places = Vec::with_capacity(points.len());
    let mut errors = Vec::new();
    let mut values = Vec::new();
    for (position, point) in points.iter().enumerate() {
        // Who sends a vector twice means something else by the body than what it says.
        if let Ok(point) = point {
            vectors.check(point.values, "values").map_err(|error| error.under(&format!("vectors[{position}]")))?;
        }
        let pushed = match point {
            Ok(point) => {
                let read = |values: &mut _| vectors.read(position, point.values, "values", limits, values);
                push_point(&mut batch, point, condition, read, &mut values)
            }
            Err(problem) => Err(Error::invalid("vectors", "invalid_point", problem.as_str())),
        };
        match pushed {
            Ok(condition) => places.push((position, condition)),
            Err(error) => errors.push(point_error(position, point, limits, &error)),
        }
    }
    if is_atomic && !errors.is_empty() {
        let detail = format!("vectors: {} of {} are at fault, and nothing was stored", errors.len(), points.len());
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_points", detail).with_errors(errors));
    }
    let upserted = if batch.is_empty() { None } else { Some(index.upsert(batch, options)?) };
    let at = |in_batch: &[usize]| in_batch.iter().filter_map(|&at| places.get(at).copied()).collect::<Vec<_>>();
    let (superseded, unmet) = upserted.as_ref().map_or((vec![], vec![]), |u| (at(&u.superseded), at(&u.unmet)));
    if condition != Condition::Always && !unmet.is_empty() {
        return Err(Error::Unmet(condition.unmet()).into());
    }
    for (position, condition) in unmet {
        let error = Error::Unmet(condition.unmet());
        errors.extend(points.get(position).map(|point| point_error(position, point, limits, &error)));
    }
    errors.sort_by_key(|error| error.position);
    if is_atomic && !errors.is_empty() {
        let detail =
            format!("vectors: the conditions of {} of {} do not hold, and nothing was stored", errors.len(), points.len());
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail).with_errors(errors));
    }
    let added_count = upserted.as_ref().map_or(0, |upserted| upserted.added_count);
    Ok(Added {
        success: errors.is_empty(),
        added_count,
        failed_count: errors.len(),
        errors,
        warnings: warnings(&superseded, &points, limits),
        lsn: upserted.filter(|_| added_count > 0).map(|upserted| upserted.lsn),
    })
}

/// Only the shape is checked here; what is in it, the batch checks. `read` gives the vector of the point in the place of what `values` holds. Gives the
/// condition of the point: its own, or that of the request.
fn push_point(
    batch: &mut Batch,
    point: &PointBody,
    of_request: Condition,
    read: impl FnOnce(&mut Vec<f32>) -> Result<(), Error>,
    values: &mut Vec<f32>,
) -> Result<Condition, Error> {
    let id = required(point.id, "id").and_then(|raw| decode::string(raw, "id"));
    let id = id.map_err(|error| with_code(error, "invalid_id"))?;
    read(values).map_err(|error| match error {
        Error::Invalid { code: "wrong_dimension", .. } => error,
        error => with_code(error, "invalid_values"),
    })?;
    let if_absent = point.if_absent.map_or(Ok(false), |raw| decode::boolean(raw, "if_absent"))?;
    let condition = match point.if_match {
        Some(_) if if_absent => {
            return Err(Error::invalid("if_match", "invalid_condition", "a point cannot be of a mutation and absent"));
        }
        Some(raw) => Condition::StoredBy(decode::count(raw, "if_match")? as u64),
        None if if_absent => Condition::Absent,
        None => of_request,
    };
    batch.push_if(&id, values, point.metadata.map_or("{}", RawValue::get), condition)?;
    Ok(condition)
}

fn with_code(error: Error, code: &'static str) -> Error {
    match error {
        Error::Invalid { field, detail, .. } => Error::Invalid { field, code, detail },
        other => other,
    }
}

fn point_error(position: usize, point: &Result<PointBody, String>, limits: &Limits, error: &Error) -> PointError {
    let code = match error {
        Error::Invalid { code, .. } => code,
        Error::Unmet(_) => "precondition_failed",
        _ => "invalid_point",
    };
    PointError { position, id: point_id(point, limits), code, detail: error.to_string() }
}

/// The id of a point, where it has one that can be one.
fn point_id(point: &Result<PointBody, String>, limits: &Limits) -> Option<String> {
    decode::string(point.as_ref().ok()?.id?, "id").ok().filter(|id| id.len() <= limits.id_bytes_max)
}

fn warnings(superseded: &[(usize, Condition)], points: &[Result<PointBody, String>], limits: &Limits) -> Vec<PointError> {
    let warning = |&(position, _): &(usize, Condition)| PointError {
        position,
        id: points.get(position).and_then(|point| point_id(point, limits)),
        code: "superseded",
        detail: "the same id comes again later in this batch, and the last wins".to_owned(),
    };
    superseded.iter().map(warning).collect()
}

/// Merges a patch into the metadata of a point.
pub async fn patch(
    server: Arc<Server>,
    turn: Turn,
    id: String,
    vector_id: String,
    mut request: Request,
) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    #[derive(Deserialize)]
    struct PatchBody<'a> {
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    struct Patched {
        id: String,
        lsn: u64,
    }
    let id = index_id(&id)?;
    let vector_id = decode_percent(&vector_id, "vector_id")?;
    let condition = request.condition()?;
    let body = request.json_body(&server).await?;
    let options = request.write_options(&[vector_id.as_bytes(), body.bytes()])?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let body: PatchBody = decode::body(body.text()?)?;
        let patch = required(body.metadata, "metadata")?.get();
        let lsn = store.index(&tenant, id)?.patch(&vector_id, patch, condition, options)?;
        Ok(with_etag(json(StatusCode::OK, &Patched { id: vector_id, lsn }), lsn))
    };
    server.writes.run(turn, work).await
}

/// Deletes the points of some ids, or those that match a filter, as one mutation.
pub async fn delete_many(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let body = request.json_body(&server).await?;
    let options = request.write_options(&[body.bytes()])?;
    let work = move |server: &Server, index: &Index, done: &mut Done| {
        let deleted = delete_points(index, &server.config.limits, &body, options, done)?;
        Ok(json(StatusCode::OK, &DeletedDocument::of(deleted)))
    };
    watched(&server, &server.writes, turn, "delete", id, work).await
}

/// Deletes what a body names.
///
/// # Errors
/// 400 and 422 for the body; those of the store.
pub(super) fn delete_points(
    index: &Index,
    limits: &Limits,
    body: &JsonBody,
    options: WriteOptions,
    done: &mut Done,
) -> Result<Deleted, Problem> {
    #[derive(Deserialize)]
    struct DeleteBody<'a> {
        #[serde(borrow)]
        ids: Option<&'a RawValue>,
        filter: Option<&'a RawValue>,
    }
    let body: DeleteBody = decode::body(body.text()?)?;
    match (body.ids, body.filter) {
        (Some(_), Some(_)) => Err(Error::invalid("filter", "invalid_body", "give ids or a filter, and not both").into()),
        (None, Some(filter)) => {
            let filter = Filter::parse(filter.get())?;
            let deleted = done.by_engine(|| index.delete_matching(&filter, options))?;
            done.plan.matched = deleted.deleted_count as u64;
            Ok(deleted)
        }
        (ids, None) => {
            let ids = decode_ids(required(ids, "ids")?, limits)?;
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            done.k = ids.len();
            Ok(done.by_engine(|| index.delete(&ids, options))?)
        }
    }
}

/// Deletes every point, as one mutation; the index stays.
pub async fn reset(server: Arc<Server>, turn: Turn, id: String, request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let options = request.write_options(&[b"reset"])?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let deleted = store.index(&tenant, id)?.delete_matching(&Filter::all(), options)?;
        Ok(json(StatusCode::OK, &DeletedDocument::of(deleted)))
    };
    server.writes.run(turn, work).await
}

/// The answer to a delete of several points.
#[derive(Serialize)]
struct DeletedDocument {
    deleted_count: usize,
    lsn: u64,
}

impl DeletedDocument {
    fn of(Deleted { deleted_count, lsn }: Deleted) -> Self {
        Self { deleted_count, lsn }
    }
}

pub async fn delete(
    server: Arc<Server>,
    turn: Turn,
    id: String,
    vector_id: String,
    request: Request,
) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let vector_id = decode_percent(&vector_id, "vector_id")?;
    let condition = request.condition()?;
    let options = request.write_options(&[vector_id.as_bytes()])?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let deleted = store.index(&tenant, id)?.delete_if(&vector_id, condition, options)?;
        if deleted.deleted_count == 0 {
            return Err(Error::NotFound(What::Vector).into());
        }
        Ok(with_lsn(no_content(), deleted.lsn))
    };
    server.writes.run(turn, work).await
}
