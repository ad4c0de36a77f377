//! `/v1/index` and `/v1/index/{id}`: creating, describing, checkpointing and deleting indices.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Server;
use super::admission::Turn;
use super::decode::{self, required};
use super::reply::{Problem, json, no_content};
use super::request::{JsonBody, Request, decode_percent};
use crate::config::UNINDEXED_MAX;
use crate::engine::{Store, merge_patch};
use crate::error::{Error, What};
use crate::time::rfc3339;
use crate::types::{BuildInfo, IndexId, IndexInfo, IndexOptions, IndexSpec, IndexState, IndexSummary, Metric, Picked, TenantId};

/// Indices in one page of a list, where the client does not say.
const LIST_LIMIT_DEFAULT: usize = 100;
const LIST_LIMIT_MAX: usize = 1_000;

#[derive(Deserialize)]
struct CreateBody<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    dimension: Option<&'a RawValue>,
    index_type: Option<&'a RawValue>,
    tenant_id: Option<&'a RawValue>,
    metric: Option<&'a RawValue>,
    options: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OptionsBody<'a> {
    #[serde(borrow)]
    ef_construction: Option<&'a RawValue>,
    ef_search: Option<&'a RawValue>,
    nprobe: Option<&'a RawValue>,
    min_recall: Option<&'a RawValue>,
    seal_rows: Option<&'a RawValue>,
    compact_dead_share: Option<&'a RawValue>,
    unindexed: Option<&'a RawValue>,
    log_retention_bytes: Option<&'a RawValue>,
}

pub async fn create(server: Arc<Server>, turn: Turn, mut request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let body = request.json_body(&server).await?;
    let key = request.idempotency_key(&[body.bytes()])?;
    let store = Arc::clone(&server.store);
    let quota = server.config.gate.quota(&tenant);
    let work = move || {
        let tenant_indices_max = quota.indices.map(usize::from);
        let spec = IndexSpec { key, tenant_indices_max, ..decode_spec(&body, &tenant)? };
        if let Some(max) = quota.dimension.filter(|max| spec.dimension > max.get()) {
            return Err(Error::Quota(format!("dimension: the tenant's quota is {max}")).into());
        }
        let index = store.create_index(&tenant, &spec)?;
        Ok(json(StatusCode::CREATED, &IndexDocument::of(&index.info())))
    };
    server.writes.run(turn, work).await
}

/// The index that a body asks for.
///
/// # Errors
/// 400 and 422 for the body, 403 where it names another tenant.
pub(super) fn decode_spec(body: &JsonBody, tenant: &TenantId) -> Result<IndexSpec, Problem> {
    let body: CreateBody = decode::body(body.text()?)?;
    if let Some(raw) = body.tenant_id
        && decode::string(raw, "tenant_id")? != tenant.as_str()
    {
        let detail = "tenant_id is not the tenant of this API key";
        return Err(Problem::new(StatusCode::FORBIDDEN, "wrong_tenant", detail));
    }
    let metric = body.metric.map(|raw| decode::string(raw, "metric")?.parse::<Metric>()).transpose()?;
    Ok(IndexSpec {
        name: decode::string(required(body.name, "name")?, "name")?,
        dimension: decode::count(required(body.dimension, "dimension")?, "dimension")?,
        index_type: match (body.index_type, metric) {
            (Some(raw), _) => decode::string(raw, "index_type")?,
            (None, None | Some(Metric::L2)) => "IndexFlatL2".to_owned(),
            // The default is of another metric; who asks only for the metric wants the flat type that has it.
            (None, Some(_)) => "Flat".to_owned(),
        },
        metric,
        options: body.options.map_or(Ok(IndexOptions::default()), decode_options)?,
        ..IndexSpec::default()
    })
}

fn decode_options(raw: &RawValue) -> Result<IndexOptions, Error> {
    let body: OptionsBody = decode::object(raw).map_err(|detail| Error::invalid("options", "invalid_type", detail))?;
    let count = |raw: Option<&RawValue>, field| raw.map(|raw| decode::count_u32(raw, field)).transpose();
    let share = |raw: Option<&RawValue>, field| raw.map(|raw| decode::share(raw, field)).transpose();
    Ok(IndexOptions {
        ef_construction: count(body.ef_construction, "options.ef_construction")?,
        ef_search: count(body.ef_search, "options.ef_search")?,
        nprobe: count(body.nprobe, "options.nprobe")?,
        min_recall: share(body.min_recall, "options.min_recall")?,
        seal_rows: count(body.seal_rows, "options.seal_rows")?,
        compact_dead_share: share(body.compact_dead_share, "options.compact_dead_share")?,
        unindexed: body.unindexed.map_or(Ok(Vec::new()), |raw| {
            let paths = decode::items(raw, "options.unindexed", UNINDEXED_MAX)?;
            paths.into_iter().map(|path| decode::string(path, "options.unindexed")).collect()
        })?,
        log_retention_bytes: body
            .log_retention_bytes
            .map(|raw| decode::count(raw, "options.log_retention_bytes"))
            .transpose()?
            .map(|bytes| bytes as u64),
    })
}

pub async fn get(server: Arc<Server>, turn: Turn, id: String) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let store = Arc::clone(&server.store);
    let work = move || Ok(json(StatusCode::OK, &IndexDocument::of(&store.index(&tenant, id)?.info())));
    server.reads.run(turn, work).await
}

/// How many points there are.
pub async fn ntotal(server: Arc<Server>, turn: Turn, id: String) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    #[derive(Serialize)]
    struct Total {
        ntotal: u64,
    }
    let id = index_id(&id)?;
    let store = Arc::clone(&server.store);
    let work = move || Ok(json(StatusCode::OK, &Total { ntotal: store.index(&tenant, id)?.vector_count() }));
    server.reads.run(turn, work).await
}

/// The tenant's indices that serve, oldest first; `next_cursor` is null on the last page.
pub async fn list(server: Arc<Server>, turn: Turn, request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let name = request.query("name")?;
    let limit = match request.query("limit")? {
        None => LIST_LIMIT_DEFAULT,
        Some(limit) => limit.parse().ok().filter(|limit| (1..=LIST_LIMIT_MAX).contains(limit)).ok_or_else(|| {
            Error::invalid("limit", "invalid_limit", format!("must be a whole number from 1 to {LIST_LIMIT_MAX}"))
        })?,
    };
    let after = request.query("cursor")?.map(|cursor| Position::parse(&cursor)).transpose()?;
    let store = Arc::clone(&server.store);
    let work = move || {
        #[derive(Serialize)]
        struct Page {
            indices: Vec<IndexDocument>,
            next_cursor: Option<String>,
        }
        let mut listed = store.list(&tenant)?;
        listed.retain(|index| name.as_ref().is_none_or(|name| *name == index.name));
        listed.retain(|index| after.is_none_or(|after| Position::of(index) > after));
        let more = listed.len() > limit;
        listed.truncate(limit);
        let next_cursor = listed.last().filter(|_| more).map(|last| Position::of(last).to_cursor());
        // Only what is on the page is opened, one after the other. One that is refused now, or was deleted meanwhile, is not in it.
        let documents = listed.iter().filter_map(|index| match store.index(&tenant, index.id) {
            Ok(index) => Some(Ok(IndexDocument::of(&index.info()))),
            Err(Error::Corrupt(_) | Error::NotFound(_)) => None,
            Err(error) => Some(Err(error)),
        });
        let indices = documents.collect::<Result<Vec<_>, _>>()?;
        Ok(json(StatusCode::OK, &Page { indices, next_cursor }))
    };
    server.reads.run(turn, work).await
}

/// Where an index stands in a list: it stays there whatever is created or deleted around it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    created_at_us: i64,
    id: IndexId,
}

impl Position {
    fn of(index: &IndexSummary) -> Self {
        Self { created_at_us: index.created_at_us, id: index.id }
    }

    pub(super) fn to_cursor(self) -> String {
        format!("{}.{}", self.created_at_us, self.id)
    }

    pub(super) fn parse(cursor: &str) -> Result<Self, Error> {
        let position = cursor.split_once('.').and_then(|(created_at_us, id)| {
            Some(Self { created_at_us: created_at_us.parse().ok()?, id: IndexId::try_parse(id).ok()? })
        });
        position.ok_or_else(|| Error::invalid("cursor", "invalid_cursor", "is none that this server gave"))
    }
}

/// Changes the name and the options: those that the body names, and of the options those; null is the default again.
pub async fn change(server: Arc<Server>, turn: Turn, id: String, mut request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let body = request.json_body(&server).await?;
    let store = Arc::clone(&server.store);
    let work = move || Ok(json(StatusCode::OK, &change_index(&store, &tenant, id, &body)?));
    server.writes.run(turn, work).await
}

/// Changes an index as a body asks for, and gives it as it is then.
///
/// # Errors
/// 400 and 422 for the body, 409 where it changes what cannot change any more; those of the store.
pub(super) fn change_index(
    store: &Store,
    tenant: &TenantId,
    id: IndexId,
    body: &JsonBody,
) -> Result<impl Serialize + use<>, Problem> {
    let now = IndexDocument::of(&store.index(tenant, id)?.info());
    let body: CreateBody = decode::body(body.text()?)?;
    check_unchanged(&body, &now)?;
    let name = body.name.map(|raw| decode::string(raw, "name")).transpose()?;
    // What is wrong in the patch is told of it, and not of what comes of it.
    body.options.map(decode_options).transpose()?;
    let index = store.configure_index(tenant, id, |config| {
        if let Some(name) = name {
            config.name = name;
        }
        if let Some(patch) = body.options {
            let merged = merge_patch::merge(&config.options.to_text(), patch.get());
            let merged =
                RawValue::from_string(merged).map_err(|error| Error::invalid("options", "invalid_type", error.to_string()))?;
            config.options = decode_options(&merged)?;
        }
        Ok(())
    })?;
    Ok(IndexDocument::of(&index.info()))
}

/// # Errors
/// 409 where the body has what cannot change any more, and not as it is: a document that was read may be sent back.
fn check_unchanged(body: &CreateBody, now: &IndexDocument) -> Result<(), Error> {
    let is = |raw: Option<&RawValue>, now: Value| {
        raw.is_none_or(|raw| serde_json::from_str::<Value>(raw.get()).is_ok_and(|sent| sent == now))
    };
    let fixed = [
        ("dimension", is(body.dimension, now.dimension.into())),
        ("index_type", is(body.index_type, now.index_type.as_str().into())),
        ("metric", is(body.metric, now.metric.into())),
        ("tenant_id", is(body.tenant_id, now.tenant_id.as_str().into())),
    ];
    match fixed.iter().find(|(_, is_as_it_is)| !is_as_it_is) {
        Some((field, _)) => Err(Error::Conflict(format!("{field} of an index cannot be changed"))),
        None => Ok(()),
    }
}

pub async fn delete(server: Arc<Server>, turn: Turn, id: String) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let store = Arc::clone(&server.store);
    let work = move || {
        store.delete_index(&tenant, id)?;
        Ok(no_content())
    };
    server.writes.run(turn, work).await
}

pub async fn checkpoint(server: Arc<Server>, turn: Turn, id: String) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    #[derive(Serialize)]
    struct Done {
        lsn: u64,
        bytes_written: u64,
        log_files_removed: usize,
    }
    let id = index_id(&id)?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let report = store.index(&tenant, id)?.checkpoint()?;
        let done = Done { lsn: report.lsn, bytes_written: report.bytes_written, log_files_removed: report.log_files_removed };
        Ok(json(StatusCode::OK, &done))
    };
    server.rewrites.run(turn, work).await
}

/// Rewrites the index into as few segments as may be, and answers when that is done.
pub async fn compact(server: Arc<Server>, turn: Turn, id: String, request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let erases = request.flag("erase")?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let index = store.index(&tenant, id)?;
        Ok(if erases { json(StatusCode::OK, &index.erase()?) } else { json(StatusCode::OK, &index.compact()?) })
    };
    server.rewrites.run(turn, work).await
}

/// Builds what FAISS can be trained on, and answers with the index document when that is done.
pub async fn train(server: Arc<Server>, turn: Turn, id: String) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let index = store.index(&tenant, id)?;
        index.train()?;
        Ok(json(StatusCode::OK, &IndexDocument::of(&index.info())))
    };
    server.rewrites.run(turn, work).await
}

/// The index id in a path. What is no UUID names no index.
///
/// # Errors
/// 404.
pub fn index_id(part: &str) -> Result<IndexId, Problem> {
    let not_found = || Problem::from(Error::NotFound(What::Index));
    let part = decode_percent(part, "index_id").map_err(|_| not_found())?;
    // 36 characters: of the ways to write a UUID only the one in which the server gives it.
    IndexId::try_parse(&part).ok().filter(|_| part.len() == 36).ok_or_else(not_found)
}

/// An index, as the API shows it.
#[derive(Serialize)]
struct IndexDocument {
    id: IndexId,
    name: String,
    dimension: usize,
    index_type: String,
    tenant_id: String,
    vector_count: u64,
    metric: &'static str,
    factory: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    options: IndexOptions,
    /// For `auto`: what it builds from now on, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    picked: Option<Picked>,
    unindexed_rows: u64,
    lsn: u64,
    durable_lsn: u64,
    checkpoint_lsn: u64,
    segments: usize,
    /// What is built over each sealed segment, with the recall that was measured.
    builds: Vec<BuildInfo>,
    tombstones: u64,
    /// What recovery copied aside of the log, in bytes.
    torn_bytes: u64,
    bytes: u64,
    /// Memory of what answers filters, in bytes.
    metadata_index_bytes: u64,
    created_at: String,
}

impl IndexDocument {
    fn of(info: &IndexInfo) -> Self {
        let (state, reason) = match &info.state {
            IndexState::Ready => ("ready", None),
            IndexState::Building => ("building", None),
            IndexState::ReadOnly { reason } => ("read_only", Some(reason.clone())),
        };
        Self {
            id: info.id,
            name: info.name.clone(),
            dimension: info.dimension,
            index_type: info.index_type.clone(),
            tenant_id: info.tenant_id.to_string(),
            vector_count: info.vector_count,
            metric: info.metric.as_str(),
            factory: info.factory.clone(),
            state,
            reason,
            options: info.options.clone(),
            picked: info.picked.clone(),
            unindexed_rows: info.unindexed_rows,
            lsn: info.lsn,
            durable_lsn: info.durable_lsn,
            checkpoint_lsn: info.checkpoint_lsn,
            segments: info.segments,
            builds: info.builds.clone(),
            tombstones: info.tombstones,
            torn_bytes: info.torn_bytes,
            bytes: info.bytes,
            metadata_index_bytes: info.metadata_index_bytes,
            created_at: rfc3339(info.created_at_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_uuid_as_the_server_writes_it_names_an_index() {
        let id = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert_eq!(index_id(id).unwrap().to_string(), id);
        assert_eq!(index_id("67e55044%2D10b1-426f-9247-bb680e5fe0c8").unwrap().to_string(), id);
        for wrong in ["", "..", "%00", "%", "%ff", "67e5504410b1426f9247bb680e5fe0c8", "{67e55044-10b1-426f-9247-bb680e5fe0c8}"] {
            assert_eq!(index_id(wrong).unwrap_err().status(), 404, "{wrong:?}");
        }
    }

    #[test]
    fn a_cursor_reads_back_as_the_position_it_was() {
        let position = Position { created_at_us: 1_709_210_096_000_001, id: IndexId::new_v4() };
        assert!(Position::parse(&position.to_cursor()).unwrap() == position);
        for wrong in ["", ".", "1", "1.", "x.67e55044-10b1-426f-9247-bb680e5fe0c8"] {
            assert!(Position::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
