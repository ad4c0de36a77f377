//! `/v1/index/{id}/vectors`: reading points.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Server;
use super::admission::Turn;
use super::decode::{self, required};
use super::indices::index_id;
use super::reply::{AnswerVectors, Problem, json, stored_json, with_etag};
use super::request::{JsonBody, Request, decode_percent};
use super::slow::{Done, watched};
use crate::config::Limits;
use crate::engine::Index;
use crate::error::{Error, What};
use crate::segment::filter::Filter;
use crate::types::{PageQuery, Point, ScanPosition, ScanQuery};

/// Points in a page where the client does not say.
const PAGE_DEFAULT: usize = 100;

pub async fn get(server: Arc<Server>, turn: Turn, id: String, vector_id: String, request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let as_of_lsn = request.number("as_of_lsn", "invalid_lsn")?;
    let id = index_id(&id)?;
    let vector_id = decode_percent(&vector_id, "vector_id")?;
    let mut rows = AnswerVectors::wanted(&request.headers);
    let store = Arc::clone(&server.store);
    let work = move || {
        let index = store.index(&tenant, id)?;
        let point = as_of_lsn.map_or_else(|| index.get(&vector_id), |lsn| index.get_as_of(&vector_id, lsn))?;
        let point = point.ok_or(Error::NotFound(What::Vector))?;
        let lsn = point.lsn;
        let document = PointDocument::of(point, true, &mut rows)?;
        Ok(with_etag(rows.answer(&document), lsn))
    };
    server.reads.run(turn, work).await
}

/// A point, as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Point)]
pub(super) struct PointDocument {
    id: String,
    /// Bit for bit the f32 that were stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<f32>>,
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    /// The mutation that stored it.
    lsn: u64,
}

impl PointDocument {
    fn of(point: Point, with_values: bool, rows: &mut AnswerVectors) -> Result<Self, Problem> {
        let Point { id, values, metadata, lsn } = point;
        Ok(Self { id, values: rows.place(with_values.then_some(values)), metadata: stored_json(metadata)?, lsn })
    }
}

#[derive(Deserialize, ToSchema)]
#[schema(as = Ids, example = json!({"ids": ["a", "b"]}))]
pub(super) struct IdsBody<'a> {
    #[serde(borrow)]
    #[schema(value_type = Vec<String>, required, max_items = 10000)]
    ids: Option<&'a RawValue>,
}

/// The ids of a body `{ids: […]}`.
fn ids(body: &JsonBody, limits: &Limits) -> Result<Vec<String>, Problem> {
    let body: IdsBody = decode::body(body.text()?)?;
    Ok(decode_ids(required(body.ids, "ids")?, limits)?)
}

/// # Errors
/// [`Error::Invalid`] naming `ids`.
pub(super) fn decode_ids(ids: &RawValue, limits: &Limits) -> Result<Vec<String>, Error> {
    let items = decode::items(ids, "ids", limits.batch_points_max)?;
    items.into_iter().map(|item| decode::string(item, "ids")).collect()
}

#[derive(Serialize, ToSchema)]
#[schema(as = Points)]
pub(super) struct Fetched {
    vectors: Vec<PointDocument>,
    /// The state that they are of.
    lsn: u64,
}

/// The points of some ids; those that do not exist are left out.
pub async fn fetch(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let body = request.json_body(&server).await?;
    let mut rows = AnswerVectors::wanted(&request.headers);
    let call = Arc::clone(&server);
    let work = move || {
        let ids = ids(&body, &call.config.limits)?;
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let (points, lsn) = call.store.index(&tenant, id)?.fetch(&ids)?;
        let vectors = points.into_iter().map(|point| PointDocument::of(point, true, &mut rows)).collect::<Result<_, _>>()?;
        Ok(rows.answer(&Fetched { vectors, lsn }))
    };
    server.reads.run(turn, work).await
}

#[derive(Serialize, ToSchema)]
#[schema(as = PointPage)]
pub(super) struct Listed {
    vectors: Vec<PointDocument>,
    /// What the next page is asked for with; null after the last.
    #[schema(required)]
    next_cursor: Option<String>,
    /// The state that the page is of.
    lsn: u64,
}

/// Points in pages: by their ids, each page of the state that is present then, or by the mutations that stored them, all of one state.
pub async fn list(server: Arc<Server>, turn: Turn, id: String, request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let limit = request.number("limit", "invalid_limit")?.unwrap_or(PAGE_DEFAULT);
    let filter = request.query("filter")?.map(|filter| Filter::parse(&filter)).transpose()?;
    let order = Order::parse(request.query("order")?.as_deref(), request.query("cursor")?.as_deref())?;
    let include_values = request.flag("include_values")?;
    let mut rows = AnswerVectors::wanted(&request.headers);
    let store = Arc::clone(&server.store);
    let work = move || {
        let index = store.index(&tenant, id)?;
        let (points, next_cursor, lsn) = match order {
            Order::Ids { after } => {
                let page = index.page(&PageQuery { filter, after, limit, include_values })?;
                (page.points, page.next.map(cursor_of_id), page.lsn)
            }
            Order::Lsns { after } => {
                let page = index.scan(&ScanQuery { filter, after, limit, include_values })?;
                (page.points, page.next.map(cursor_of_position), page.lsn)
            }
        };
        let vectors = points.into_iter().map(|point| PointDocument::of(point, include_values, &mut rows));
        let vectors = vectors.collect::<Result<_, _>>()?;
        Ok(rows.answer(&Listed { vectors, next_cursor, lsn }))
    };
    server.reads.run(turn, work).await
}

/// By what the points of a list rise, and which of them the page comes after.
enum Order {
    Ids { after: Option<String> },
    Lsns { after: Option<ScanPosition> },
}

impl Order {
    fn parse(word: Option<&str>, cursor: Option<&str>) -> Result<Self, Error> {
        match word {
            None | Some("id") => Ok(Self::Ids { after: cursor.map(id_of_cursor).transpose()? }),
            Some("lsn") => Ok(Self::Lsns { after: cursor.map(position_of_cursor).transpose()? }),
            Some(_) => Err(Error::invalid("order", "invalid_order", "must be id or lsn")),
        }
    }
}

/// Opaque to clients: the id that the page comes after. In hexadecimal, since an id may have any character in it, and a URL may not.
fn cursor_of_id(id: String) -> String {
    id.bytes().fold(String::from("i"), |cursor, byte| cursor + &format!("{byte:02x}"))
}

fn id_of_cursor(cursor: &str) -> Result<String, Error> {
    let digits = cursor.strip_prefix('i').filter(|digits| digits.is_ascii() && digits.len().is_multiple_of(2));
    let digits = digits.ok_or_else(wrong_cursor)?;
    let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
    bytes.collect::<Result<_, _>>().ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(wrong_cursor)
}

fn cursor_of_position(ScanPosition { state, lsn, given }: ScanPosition) -> String {
    format!("s{state}.{lsn}.{given}")
}

fn position_of_cursor(cursor: &str) -> Result<ScanPosition, Error> {
    let position = || {
        let mut numbers = cursor.strip_prefix('s')?.split('.');
        let position = ScanPosition {
            state: numbers.next()?.parse().ok()?,
            lsn: numbers.next()?.parse().ok()?,
            given: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(position)
    };
    position().ok_or_else(wrong_cursor)
}

fn wrong_cursor() -> Error {
    Error::invalid("cursor", "invalid_cursor", "this cursor is none that the server gave, or of another order")
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CountQuery, example = json!({"filter": {"year": {"$gte": 2020}}}))]
pub(super) struct CountBody<'a> {
    /// Without it, all are counted.
    #[serde(borrow)]
    #[schema(value_type = Option<Object>)]
    filter: Option<&'a RawValue>,
    /// Counts in the state after this mutation, as long as it is kept.
    #[schema(value_type = Option<u64>)]
    as_of_lsn: Option<&'a RawValue>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Counted {
    count: u64,
    /// The state in which they were counted.
    lsn: u64,
}

/// How many points match a filter.
pub async fn count(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let body = request.json_body(&server).await?;
    let work = move |_: &Server, index: &Index, done: &mut Done| {
        let body: CountBody = decode::body(body.text()?)?;
        let filter = Filter::parse(body.filter.map_or("{}", RawValue::get))?;
        let as_of_lsn = body.as_of_lsn.map(|raw| decode::lsn(raw, "as_of_lsn")).transpose()?;
        let counted = || as_of_lsn.map_or_else(|| Ok(index.count(&filter)), |lsn| index.count_as_of(&filter, lsn));
        let (count, lsn) = done.by_engine(counted)?;
        done.plan.matched = count;
        Ok(json(StatusCode::OK, &Counted { count, lsn }))
    };
    watched(&server, &server.searches, turn, "count", id, work).await
}
