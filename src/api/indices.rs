//! `/v1/index` and `/v1/index/{id}`: creating, describing, checkpointing and deleting indices.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;
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
use crate::types::{
    BuildInfo, IndexId, IndexInfo, IndexOptions, IndexSpec, IndexState, IndexSummary, Lsn, Metric, Picked, TenantId,
};

/// Indices in one page of a list, where the client does not say.
const LIST_LIMIT_DEFAULT: usize = 100;
const LIST_LIMIT_MAX: usize = 1_000;

/// What an index is created with.
#[derive(Deserialize, ToSchema)]
#[schema(as = NewIndex, example = json!({"name": "words", "dimension": 3, "index_type": "HNSW32", "metric": "cosine"}))]
pub(super) struct CreateBody<'a> {
    /// Free text for people, at most 255 bytes of UTF-8. It need not be unique.
    #[serde(borrow)]
    #[schema(value_type = String, required, min_length = 1, max_length = 255)]
    name: Option<&'a RawValue>,
    /// Floats in a vector.
    #[schema(value_type = u32, required, minimum = 1, maximum = 65536)]
    dimension: Option<&'a RawValue>,
    /// A FAISS class name, a FAISS factory string, or `auto`. What FAISS cannot build of this dimension is refused here.
    #[schema(value_type = Option<String>, default = "IndexFlatL2")]
    index_type: Option<&'a RawValue>,
    /// The tenant of the API key; another one is a 403.
    #[schema(value_type = Option<String>)]
    tenant_id: Option<&'a RawValue>,
    #[schema(value_type = Option<Metric>)]
    metric: Option<&'a RawValue>,
    #[schema(value_type = Option<OptionsBody>)]
    options: Option<&'a RawValue>,
}

/// What may be set of an index; what is absent, or null, is the default. `docs/index-types.md` has those.
#[derive(Deserialize, ToSchema)]
#[schema(as = IndexOptions, example = json!({"ef_search": 64, "min_recall": 0.95}))]
pub(super) struct OptionsBody<'a> {
    /// HNSW: rows that are kept in sight while the graph is built (efConstruction).
    #[serde(borrow)]
    #[schema(value_type = Option<u32>, minimum = 4, maximum = 4096)]
    ef_construction: Option<&'a RawValue>,
    /// HNSW: where tuning begins.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 65536)]
    ef_search: Option<&'a RawValue>,
    /// IVF: where tuning begins.
    #[schema(value_type = Option<u32>, format = Int64, minimum = 1, maximum = 4294967295_u32)]
    nprobe: Option<&'a RawValue>,
    /// An index that finds a smaller share of the ten nearest rows is not used.
    #[schema(value_type = Option<f32>, minimum = 0, maximum = 1)]
    min_recall: Option<&'a RawValue>,
    /// Rows in memory that are sealed into a segment.
    #[schema(value_type = Option<u32>, format = Int64, minimum = 1, maximum = 4294967295_u32)]
    seal_rows: Option<&'a RawValue>,
    /// A segment of which this share is dead is rewritten.
    #[schema(value_type = Option<f32>, exclusive_minimum = 0, maximum = 1)]
    compact_dead_share: Option<&'a RawValue>,
    /// Fields of the metadata, as paths, that take no memory of the metadata index.
    #[schema(value_type = Option<Vec<String>>, max_items = 64)]
    unindexed: Option<&'a RawValue>,
    /// Bytes of log that a checkpoint leaves for the change feed, at least.
    #[schema(value_type = Option<u64>)]
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

#[derive(Serialize, ToSchema)]
pub(super) struct Total {
    ntotal: u64,
}

/// How many points there are.
pub async fn ntotal(server: Arc<Server>, turn: Turn, id: String) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let id = index_id(&id)?;
    let store = Arc::clone(&server.store);
    let work = move || Ok(json(StatusCode::OK, &Total { ntotal: store.index(&tenant, id)?.vector_count() }));
    server.reads.run(turn, work).await
}

/// Indices, oldest first.
#[derive(Serialize, ToSchema)]
#[schema(as = IndexPage)]
pub(super) struct Page {
    indices: Vec<IndexDocument>,
    /// What the next page is asked for with; null after the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// The tenant's indices that serve, oldest first; `next_cursor` is null on the last page.
pub async fn list(server: Arc<Server>, turn: Turn, request: Request) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let wanted = WantedPage::of(&request)?;
    let store = Arc::clone(&server.store);
    let work = move || {
        let (listed, next_cursor) = wanted.select(store.list(&tenant)?);
        // Only what is on the page is opened, one after the other.
        let documents = listed.iter().filter_map(|index| document_in_list(&store, &tenant, index.id).transpose());
        let indices = documents.collect::<Result<Vec<_>, _>>()?;
        Ok(json(StatusCode::OK, &Page { indices, next_cursor }))
    };
    server.reads.run(turn, work).await
}

/// An index as a list has it. `None`: it is refused now, or was deleted meanwhile.
pub(super) fn document_in_list(store: &Store, tenant: &TenantId, id: IndexId) -> Result<Option<IndexDocument>, Error> {
    match store.index(tenant, id) {
        Ok(index) => Ok(Some(IndexDocument::of(&index.info()))),
        Err(Error::Corrupt(_) | Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Which page of a list a request asks for.
pub(super) struct WantedPage {
    name: Option<String>,
    limit: usize,
    after: Option<Position>,
}

impl WantedPage {
    /// # Errors
    /// 422.
    pub(super) fn of(request: &Request) -> Result<Self, Problem> {
        let limit = match request.query("limit")? {
            None => LIST_LIMIT_DEFAULT,
            Some(limit) => limit.parse().ok().filter(|limit| (1..=LIST_LIMIT_MAX).contains(limit)).ok_or_else(|| {
                Error::invalid("limit", "invalid_limit", format!("must be a whole number from 1 to {LIST_LIMIT_MAX}"))
            })?,
        };
        let after = request.query("cursor")?.map(|cursor| Position::parse(&cursor)).transpose()?;
        Ok(Self { name: request.query("name")?, limit, after })
    }

    /// Of a list in order, what is on the page, and what the next one is asked for with.
    pub(super) fn select(&self, mut listed: Vec<IndexSummary>) -> (Vec<IndexSummary>, Option<String>) {
        listed.retain(|index| self.name.as_ref().is_none_or(|name| *name == index.name));
        listed.retain(|index| self.after.is_none_or(|after| Position::of(index) > after));
        let more = listed.len() > self.limit;
        listed.truncate(self.limit);
        let next_cursor = listed.last().filter(|_| more).map(|last| Position::of(last).to_cursor());
        (listed, next_cursor)
    }
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
        if let Some(name) = &name {
            config.name.clone_from(name);
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
        ("metric", is(body.metric, now.metric.as_str().into())),
        ("tenant_id", is(body.tenant_id, now.tenant_id.as_str().into())),
    ];
    match fixed.iter().find(|(_, is_as_it_is)| !is_as_it_is) {
        Some((field, _)) => Err(Error::Conflict(format!("{field} of an index cannot be changed"))),
        None => Ok(()),
    }
}

/// For a read with `min_lsn`: sees to it that the index has that mutation, which another node may have made.
///
/// # Errors
/// 422 where nobody has made it yet; those of the index.
pub async fn catch_up(server: &Server, turn: &Turn, id: &str, min_lsn: Lsn) -> Result<(), Problem> {
    let id = index_id(id)?;
    let work = || server.store.index(&turn.tenant, id)?.catch_up_to(min_lsn).map_err(Problem::from);
    server.reads.run(turn.clone(), work).await.map(|_| ())
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

/// What a checkpoint did.
#[derive(Serialize, ToSchema)]
#[schema(as = CheckpointReport)]
pub(super) struct Done {
    /// The checkpoint holds every mutation up to this one.
    lsn: u64,
    /// To new files; 0 where there was nothing new.
    bytes_written: u64,
    log_files_removed: usize,
}

pub async fn checkpoint(server: Arc<Server>, turn: Turn, id: String) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
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

/// Whether an index takes writes.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IndexState)]
enum StateWord {
    Ready,
    /// As ready; rows are being built into a FAISS index, or wait for it.
    Building,
    /// Reads go on, and writes are a 503 until the server is restarted.
    ReadOnly,
}

/// An index, as the API shows it.
#[derive(Serialize, ToSchema)]
#[schema(as = Index)]
pub(super) struct IndexDocument {
    #[schema(value_type = String, format = Uuid)]
    id: IndexId,
    name: String,
    /// Floats in a vector.
    dimension: usize,
    /// As the client wrote it.
    index_type: String,
    tenant_id: String,
    /// Live points.
    vector_count: u64,
    metric: Metric,
    /// The FAISS factory string that `index_type` resolved to.
    factory: String,
    state: StateWord,
    /// Why it is read-only, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[schema(value_type = OptionsBody)]
    options: IndexOptions,
    /// For `auto`: what it builds from now on, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    picked: Option<Picked>,
    /// Rows that a search scans because no FAISS index covers them.
    unindexed_rows: u64,
    /// The last mutation.
    lsn: u64,
    /// The last mutation that is synced.
    durable_lsn: u64,
    /// The last mutation that the newest checkpoint holds.
    checkpoint_lsn: u64,
    segments: usize,
    /// What is built over each sealed segment, with the recall that was measured.
    builds: Vec<BuildInfo>,
    /// Rows that are dead and still take space.
    tombstones: u64,
    /// What recovery copied aside of the log, in bytes.
    torn_bytes: u64,
    /// Of the index's files, the log included.
    bytes: u64,
    /// Memory of what answers filters, in bytes.
    metadata_index_bytes: u64,
    #[schema(format = DateTime)]
    created_at: String,
}

impl IndexDocument {
    fn of(info: &IndexInfo) -> Self {
        let (state, reason) = match &info.state {
            IndexState::Ready => (StateWord::Ready, None),
            IndexState::Building => (StateWord::Building, None),
            IndexState::ReadOnly { reason } => (StateWord::ReadOnly, Some(reason.clone())),
        };
        Self {
            id: info.id,
            name: info.name.clone(),
            dimension: info.dimension,
            index_type: info.index_type.clone(),
            tenant_id: info.tenant_id.to_string(),
            vector_count: info.vector_count,
            metric: info.metric,
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
