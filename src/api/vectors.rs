//! `/v1/index/{id}/vectors`: storing, reading and deleting points.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Server;
use super::decode::{self, NotFloats, required};
use super::indices::index_id;
use super::reply::{PointError, Problem, json, no_content, stored_json};
use super::request::{JsonBody, Request, decode_percent};
use crate::config::Limits;
use crate::engine::{Batch, Index};
use crate::error::{Error, What};
use crate::segment::filter::Filter;
use crate::types::{Deleted, Durability, PageQuery, Point, TenantId, Upserted};

/// Points in a page where the client does not say.
const PAGE_DEFAULT: usize = 100;

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
}

/// What a write asks for beside its body.
#[derive(Clone, Copy)]
pub(super) struct WriteOptions {
    pub(super) durability: Durability,
    /// All points or none.
    pub(super) atomic: bool,
}

impl WriteOptions {
    fn of(request: &Request) -> Result<Self, Problem> {
        Ok(Self { durability: request.durability()?, atomic: request.flag("atomic")? })
    }
}

pub async fn add(server: Arc<Server>, tenant: TenantId, id: String, mut request: Request) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let options = WriteOptions::of(&request)?;
    let body = request.json_body(&server).await?;
    let call = Arc::clone(&server);
    let work = move || {
        let index = call.store.index(&tenant, id)?;
        Ok(json(StatusCode::CREATED, &add_points(&index, &call.config.limits, &body, options)?))
    };
    server.writes.run(work).await
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

/// Stores the points of a body.
///
/// # Errors
/// 400 and 422 for the body as a whole; those of the store.
pub(super) fn add_points(index: &Index, limits: &Limits, body: &JsonBody, options: WriteOptions) -> Result<Added, Problem> {
    let body: AddBody = decode::body(body.text()?)?;
    let items = decode::items(required(body.vectors, "vectors")?, "vectors", limits.batch_points_max)?;

    let mut batch = index.batch();
    // Where each point of the batch stands in the client's array.
    let mut positions = Vec::with_capacity(items.len());
    let mut errors = Vec::new();
    let mut values = Vec::new();
    for (position, item) in items.iter().enumerate() {
        match push_point(&mut batch, item, limits, &mut values) {
            Ok(()) => positions.push(position),
            Err(error) => errors.push(point_error(position, item, limits, &error)),
        }
    }
    if options.atomic && !errors.is_empty() {
        let detail = format!("vectors: {} of {} are at fault, and nothing was stored", errors.len(), items.len());
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_points", detail).with_errors(errors));
    }
    let upserted = if batch.is_empty() { None } else { Some(index.upsert(batch, options.durability)?) };
    let warnings = superseded(upserted.as_ref(), &positions, &items, limits);
    Ok(Added {
        success: errors.is_empty(),
        added_count: upserted.as_ref().map_or(0, |upserted| upserted.added_count),
        failed_count: errors.len(),
        errors,
        warnings,
        lsn: upserted.map(|upserted| upserted.lsn),
    })
}

/// Only the shape is checked here; what is in it, the batch checks.
fn push_point(batch: &mut Batch, item: &RawValue, limits: &Limits, values: &mut Vec<f32>) -> Result<(), Error> {
    let point: PointBody = decode::object(item).map_err(|problem| Error::invalid("vectors", "invalid_point", problem))?;
    let id = required(point.id, "id").and_then(|raw| decode::string(raw, "id"));
    let id = id.map_err(|error| with_code(error, "invalid_id"))?;
    let raw = required(point.values, "values").map_err(|error| with_code(error, "invalid_values"))?;
    decode::floats(raw, limits.dimension_max, values).map_err(|problem| match problem {
        NotFloats::WrongShape => Error::invalid("values", "invalid_values", "must be an array of numbers"),
        NotFloats::TooMany => {
            Error::invalid("values", "wrong_dimension", format!("has more than {} numbers", limits.dimension_max))
        }
    })?;
    batch.push(&id, values, point.metadata.map_or("{}", RawValue::get))
}

fn with_code(error: Error, code: &'static str) -> Error {
    match error {
        Error::Invalid { field, detail, .. } => Error::Invalid { field, code, detail },
        other => other,
    }
}

fn point_error(position: usize, item: &RawValue, limits: &Limits, error: &Error) -> PointError {
    let code = if let Error::Invalid { code, .. } = error { code } else { "invalid_point" };
    PointError { position, id: point_id(item, limits), code, detail: error.to_string() }
}

/// The id of a point, where it has one that can be one.
fn point_id(item: &RawValue, limits: &Limits) -> Option<String> {
    let point: PointBody = decode::object(item).ok()?;
    decode::string(point.id?, "id").ok().filter(|id| id.len() <= limits.id_bytes_max)
}

fn superseded(upserted: Option<&Upserted>, positions: &[usize], items: &[&RawValue], limits: &Limits) -> Vec<PointError> {
    let in_batch = upserted.map_or(&[][..], |upserted| &upserted.superseded);
    let in_request = in_batch.iter().filter_map(|in_batch| positions.get(*in_batch).copied());
    in_request
        .map(|position| PointError {
            position,
            id: items.get(position).and_then(|item| point_id(item, limits)),
            code: "superseded",
            detail: "the same id comes again later in this batch, and the last wins".to_owned(),
        })
        .collect()
}

pub async fn get(
    server: Arc<Server>,
    tenant: TenantId,
    id: String,
    vector_id: String,
    request: Request,
) -> Result<Response, Problem> {
    let as_of_lsn = request.number("as_of_lsn", "invalid_lsn")?;
    let id = index_id(&id)?;
    let vector_id = decode_percent(&vector_id, "vector_id")?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let index = store.index(&tenant, id)?;
        let point = as_of_lsn.map_or_else(|| index.get(&vector_id), |lsn| index.get_as_of(&vector_id, lsn))?;
        let point = point.ok_or(Error::NotFound(What::Vector))?;
        Ok(json(StatusCode::OK, &PointDocument::of(point, true)?))
    };
    server.reads.run(work).await
}

/// A point, as the API shows it.
#[derive(Serialize)]
struct PointDocument {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<f32>>,
    metadata: Box<RawValue>,
    lsn: u64,
}

impl PointDocument {
    fn of(point: Point, with_values: bool) -> Result<Self, Problem> {
        let Point { id, values, metadata, lsn } = point;
        Ok(Self { id, values: with_values.then_some(values), metadata: stored_json(metadata)?, lsn })
    }
}

#[derive(Deserialize)]
struct IdsBody<'a> {
    #[serde(borrow)]
    ids: Option<&'a RawValue>,
}

/// The ids of a body `{ids: […]}`.
fn ids(body: &JsonBody, limits: &Limits) -> Result<Vec<String>, Problem> {
    let body: IdsBody = decode::body(body.text()?)?;
    let items = decode::items(required(body.ids, "ids")?, "ids", limits.batch_points_max)?;
    Ok(items.into_iter().map(|item| decode::string(item, "ids")).collect::<Result<_, _>>()?)
}

/// The points of some ids; those that do not exist are left out.
pub async fn fetch(server: Arc<Server>, tenant: TenantId, id: String, mut request: Request) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Fetched {
        vectors: Vec<PointDocument>,
        lsn: u64,
    }
    let id = index_id(&id)?;
    let body = request.json_body(&server).await?;
    let call = Arc::clone(&server);
    let work = move || {
        let ids = ids(&body, &call.config.limits)?;
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let (points, lsn) = call.store.index(&tenant, id)?.fetch(&ids)?;
        let vectors = points.into_iter().map(|point| PointDocument::of(point, true)).collect::<Result<_, _>>()?;
        Ok(json(StatusCode::OK, &Fetched { vectors, lsn }))
    };
    server.reads.run(work).await
}

/// Points in pages, by their ids.
pub async fn list(server: Arc<Server>, tenant: TenantId, id: String, request: Request) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct Listed {
        vectors: Vec<PointDocument>,
        /// What the next page is asked for with; null after the last.
        next_cursor: Option<String>,
        lsn: u64,
    }
    let id = index_id(&id)?;
    let limit = request.number("limit", "invalid_limit")?.unwrap_or(PAGE_DEFAULT);
    let filter = request.query("filter")?.map(|filter| Filter::parse(&filter)).transpose()?;
    let after = request.query("cursor")?.map(|cursor| id_of_cursor(&cursor)).transpose()?;
    let include_values = request.flag("include_values")?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let page = store.index(&tenant, id)?.page(&PageQuery { filter, after, limit, include_values })?;
        let vectors = page.points.into_iter().map(|point| PointDocument::of(point, include_values)).collect::<Result<_, _>>()?;
        Ok(json(StatusCode::OK, &Listed { vectors, next_cursor: page.next.map(cursor_of_id), lsn: page.lsn }))
    };
    server.reads.run(work).await
}

/// Opaque to clients: the id that the page comes after. In hexadecimal, since an id may have any character in it, and a URL may not.
fn cursor_of_id(id: String) -> String {
    id.bytes().fold(String::from("i"), |cursor, byte| cursor + &format!("{byte:02x}"))
}

fn id_of_cursor(cursor: &str) -> Result<String, Error> {
    let wrong = || Error::invalid("cursor", "invalid_cursor", "this cursor is none that the server gave");
    let digits =
        cursor.strip_prefix('i').filter(|digits| digits.is_ascii() && digits.len().is_multiple_of(2)).ok_or_else(wrong)?;
    let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
    bytes.collect::<Result<_, _>>().ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong)
}

/// How many points match a filter.
pub async fn count(server: Arc<Server>, tenant: TenantId, id: String, mut request: Request) -> Result<Response, Problem> {
    #[derive(Deserialize)]
    struct CountBody<'a> {
        #[serde(borrow)]
        filter: Option<&'a RawValue>,
        as_of_lsn: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    struct Counted {
        count: u64,
        lsn: u64,
    }
    let id = index_id(&id)?;
    let body = request.json_body(&server).await?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let body: CountBody = decode::body(body.text()?)?;
        let filter = Filter::parse(body.filter.map_or("{}", RawValue::get))?;
        let as_of_lsn = body.as_of_lsn.map(|raw| decode::lsn(raw, "as_of_lsn")).transpose()?;
        let index = store.index(&tenant, id)?;
        let (count, lsn) = as_of_lsn.map_or_else(|| Ok(index.count(&filter)), |lsn| index.count_as_of(&filter, lsn))?;
        Ok(json(StatusCode::OK, &Counted { count, lsn }))
    };
    server.searches.run(work).await
}

/// Deletes the points of some ids: those that exist, as one mutation.
pub async fn delete_many(server: Arc<Server>, tenant: TenantId, id: String, mut request: Request) -> Result<Response, Problem> {
    #[derive(Serialize)]
    struct DeletedDocument {
        deleted_count: usize,
        lsn: u64,
    }
    let id = index_id(&id)?;
    let durability = request.durability()?;
    let body = request.json_body(&server).await?;
    let call = Arc::clone(&server);
    let work = move || {
        let ids = ids(&body, &call.config.limits)?;
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let Deleted { deleted_count, lsn } = call.store.index(&tenant, id)?.delete(&ids, durability)?;
        Ok(json(StatusCode::OK, &DeletedDocument { deleted_count, lsn }))
    };
    server.writes.run(work).await
}

pub async fn delete(
    server: Arc<Server>,
    tenant: TenantId,
    id: String,
    vector_id: String,
    request: Request,
) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let vector_id = decode_percent(&vector_id, "vector_id")?;
    let durability = request.durability()?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let deleted = store.index(&tenant, id)?.delete(&[&vector_id], durability)?;
        if deleted.deleted_count == 0 {
            return Err(Error::NotFound(What::Vector).into());
        }
        Ok(no_content())
    };
    server.writes.run(work).await
}
