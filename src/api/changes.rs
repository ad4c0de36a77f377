//! `/v1/index/{id}/changes`: the change feed. `docs/changes.md` says what a consumer may rely on.

use std::sync::Arc;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use super::admission::Turn;
use super::indices::index_id;
use super::openapi::ChangeOp;
use super::reply::{Problem, json, stored_json};
use super::request::Request;
use super::{Server, events};
use crate::engine::{Index, PAGE_LOG_BYTES};
use crate::error::Error;
use crate::segment::filter::Filter;
use crate::types::{Change, ChangePage, ChangesQuery, Lsn, Point};

/// Changes in a page where the client does not say.
const PAGE_DEFAULT: usize = 1_000;

/// Whole mutations, in order.
#[derive(Serialize, ToSchema)]
#[schema(as = ChangePage)]
pub(super) struct Page {
    changes: Vec<ChangeDocument>,
    /// What the next page is asked for with.
    #[schema(value_type = u64)]
    next_lsn: Lsn,
    /// The first mutation that the log has.
    #[schema(value_type = u64)]
    oldest_lsn: Lsn,
    /// The last mutation that a page could have had.
    #[schema(value_type = u64)]
    durable_lsn: Lsn,
}

/// A page of what changed, from an LSN on; or a stream of it, to who accepts that.
pub async fn changes(server: Arc<Server>, turn: Turn, id: String, request: Request) -> Result<Response, Problem> {
    let id = index_id(&id)?;
    let query = query(&request)?;
    if events::are_wanted(&request.headers) {
        return events::stream(server, turn, id, &request.headers, query).await;
    }
    let tenant = turn.tenant.clone();
    let store = Arc::clone(&server.store);
    let work = move || {
        let ChangePage { changes, next_lsn, oldest_lsn, durable_lsn } =
            read(&*store.index(&tenant, id)?, &query, PAGE_LOG_BYTES)?;
        let changes = changes.into_iter().map(|change| ChangeDocument::of(change, query.include_values));
        let changes = changes.collect::<Result<_, _>>()?;
        Ok(json(StatusCode::OK, &Page { changes, next_lsn, oldest_lsn, durable_lsn }))
    };
    server.reads.run(turn, work).await
}

fn query(request: &Request) -> Result<ChangesQuery, Problem> {
    Ok(ChangesQuery {
        from_lsn: request.number("from_lsn", "invalid_lsn")?.unwrap_or(1),
        limit: request.number("limit", "invalid_limit")?.unwrap_or(PAGE_DEFAULT),
        filter: request.query("filter")?.map(|filter| Filter::parse(&filter)).transpose()?,
        include_values: request.flag("include_values")?,
    })
}

/// A page of the store, of about so many bytes of log. Damage in it is the feed's alone: an index that is open has all of its points, whatever its log has become.
pub(super) fn read(index: &Index, query: &ChangesQuery, log_bytes: usize) -> Result<ChangePage, Problem> {
    index.changes_within(query, log_bytes).map_err(|error| match &error {
        Error::Corrupt(damage) => {
            let detail = format!("{damage}; reads and writes go on, and the changes after it need a copy of the points first");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log_damaged", detail)
        }
        _ => error.into(),
    })
}

/// A change, as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Change)]
pub(super) struct ChangeDocument {
    #[schema(value_type = u64)]
    pub(super) lsn: Lsn,
    #[schema(value_type = ChangeOp)]
    pub(super) op: &'static str,
    id: String,
    /// Where `include_values=true` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<Vec<f32>>,
    /// Absent of what was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object)]
    metadata: Option<Box<RawValue>>,
}

impl ChangeDocument {
    pub(super) fn of(change: Change, with_values: bool) -> Result<Self, Problem> {
        Ok(match change {
            Change::Upsert(Point { id, values, metadata, lsn }) => {
                Self { lsn, op: "upsert", id, values: with_values.then_some(values), metadata: Some(stored_json(metadata)?) }
            }
            Change::Delete { lsn, id } => Self { lsn, op: "delete", id, values: None, metadata: None },
        })
    }
}
