//! `/v1/index/{id}/vectors`: storing, changing and deleting points.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Server;
use super::admission::Turn;
use super::auth::Quota;
use super::decode::{self, BodyVectors, required};
use super::indices::index_id;
use super::openapi::Vector;
use super::reply::{PointError, Problem, json, no_content, with_etag, with_lsn};
use super::request::{JsonBody, Request, VectorsBody, decode_percent};
use super::slow::{Done, watched};
use super::vectors::decode_ids;
use crate::config::Limits;
use crate::engine::{Batch, Index};
use crate::error::{Error, What};
use crate::segment::filter::Filter;
use crate::types::{Condition, Deleted, TenantId, WriteOptions};

#[derive(Deserialize, ToSchema)]
#[schema(as = NewPoints, example = json!({"vectors": [{"id": "a", "values": [0.1, 0.2, 0.3], "metadata": {"year": 2024}}]}))]
pub(super) struct AddBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = Vec<PointBody>, required, max_items = 10000)]
    vectors: Option<&'a RawValue>,
}

/// A point to store, in the place of the one of its id if there is one.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewPoint)]
pub(super) struct PointBody<'a> {
    /// At most 512 bytes of UTF-8.
    #[serde(borrow)]
    #[schema(value_type = String, required, min_length = 1, max_length = 512)]
    id: Option<&'a RawValue>,
    #[schema(value_type = Vector, required)]
    values: Option<&'a RawValue>,
    /// At most 64 KiB of JSON, 32 deep; `{}` where it is absent.
    #[schema(value_type = Option<Object>)]
    metadata: Option<&'a RawValue>,
    /// Only where this mutation stored the point that is there.
    #[schema(value_type = Option<u64>)]
    if_match: Option<&'a RawValue>,
    /// Only where there is no point of this id.
    #[schema(value_type = Option<bool>, default = false)]
    if_absent: Option<&'a RawValue>,
}

pub async fn add(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    server.memory.check()?;
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let condition = request.condition()?;
    let body = request.vectors_body(&server).await?;
    let options = request.write_options(&[body.bytes()])?;
    let call = Arc::clone(&server);
    let work = move || {
        let index = call.store.index(&tenant, id)?;
        let options = within_quota(&call, &tenant, &index, options)?;
        Ok(json(StatusCode::CREATED, &add_points(&index, &call.config.limits, &body, condition, options)?))
    };
    server.writes.run(turn, work).await
}

/// The same write, which the tenant's quotas of points and bytes bound. Points of its other indices are counted as of now, so writes to several at one
/// time can together pass it by a batch each.
///
/// # Errors
/// [`Error::Quota`] where there are as many bytes as there may be.
fn within_quota(server: &Server, tenant: &TenantId, index: &Index, options: WriteOptions) -> Result<WriteOptions, Error> {
    let Quota { points, bytes, .. } = server.config.gate.quota(tenant);
    if points.is_none() && bytes.is_none() {
        return Ok(options);
    }
    let usage = server.store.full_usage(tenant)?;
    if let Some(max) = bytes.filter(|max| usage.bytes >= max.get()) {
        let used = usage.bytes;
        return Err(Error::Quota(format!(
            "the tenant has {used} bytes of files, and its quota is {max}; delete points or indices and compact"
        )));
    }
    let elsewhere = usage.points.saturating_sub(index.vector_count());
    Ok(WriteOptions { points_max: points.map(|max| max.get().saturating_sub(elsewhere)), ..options })
}

/// The answer to an upsert.
#[derive(Serialize, ToSchema)]
pub(super) struct Added {
    /// Whether no point failed.
    success: bool,
    added_count: usize,
    failed_count: usize,
    errors: Vec<PointError>,
    warnings: Vec<PointError>,
    /// Null where nothing was stored.
    #[schema(required)]
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
    let raw = |text| Ok(decode::body::<AddBody>(text)?.vectors);
    let points: Vec<Result<PointBody, _>> = decode::objects_of_body(text, "vectors", limits.batch_points_max, raw)?;
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

#[derive(Deserialize, ToSchema)]
#[schema(as = MetadataPatch, example = json!({"metadata": {"year": 2025, "draft": null}}))]
pub(super) struct PatchBody<'a> {
    /// A merge patch (RFC 7396): null removes, objects are merged, anything else replaces.
    #[serde(borrow)]
    #[schema(value_type = Object, required)]
    metadata: Option<&'a RawValue>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Patched {
    id: String,
    lsn: u64,
}

/// Merges a patch into the metadata of a point.
pub async fn patch(
    server: Arc<Server>,
    turn: Turn,
    id: String,
    vector_id: String,
    mut request: Request,
) -> Result<Response, Problem> {
    server.memory.check()?;
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let vector_id = decode_percent(&vector_id, "vector_id")?;
    let condition = request.condition()?;
    let body = request.json_body(&server).await?;
    let options = request.write_options(&[vector_id.as_bytes(), body.bytes()])?;
    let call = Arc::clone(&server);
    let work = move || {
        let body: PatchBody = decode::body(body.text()?)?;
        let patch = required(body.metadata, "metadata")?.get();
        let index = call.store.index(&tenant, id)?;
        let options = within_quota(&call, &tenant, &index, options)?;
        let lsn = index.patch(&vector_id, patch, condition, options)?;
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

/// Which points to delete: `ids`, or a `filter`, and not both.
#[derive(Deserialize, ToSchema)]
#[schema(as = Deletion, example = json!({"ids": ["a"]}))]
pub(super) struct DeleteBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<String>>, max_items = 10000)]
    ids: Option<&'a RawValue>,
    /// `{}` matches all.
    #[schema(value_type = Option<Object>)]
    filter: Option<&'a RawValue>,
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
#[derive(Serialize, ToSchema)]
#[schema(as = Deleted)]
pub(super) struct DeletedDocument {
    /// Points that existed and are gone.
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
