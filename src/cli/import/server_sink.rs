//! An index of a server, over HTTP: as JSON, and so at the speed of JSON.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::Failure;
use super::sink::{Sink, Stored};
use crate::api::decode;
use crate::config::Limits;
use crate::engine::Batch;
use crate::types::{IndexId, IndexSpec, Lsn, Metric};

/// Bytes of an answer: the points of a batch, each float in up to 16 characters.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// A server, and a key that it knows.
#[derive(Debug)]
pub struct Server {
    agent: ureq::Agent,
    url: String,
    key: String,
}

/// What is needed of an index document.
#[derive(Deserialize)]
struct Document {
    id: IndexId,
    tenant_id: String,
    dimension: usize,
    metric: Metric,
}

#[derive(Deserialize)]
struct Points<'a> {
    #[serde(borrow)]
    vectors: Vec<Point<'a>>,
}

#[derive(Deserialize)]
struct Point<'a> {
    id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    values: &'a RawValue,
    metadata: &'a RawValue,
}

#[derive(Deserialize)]
struct Checkpointed {
    lsn: Lsn,
}

impl Server {
    /// # Errors
    /// Where the URL cannot be one.
    pub fn new(url: &str, key: String) -> Result<Self, Failure> {
        if !url.starts_with("http://") {
            return Err(Failure::new(format!("--url {url}: must begin with http://; TLS is not spoken")));
        }
        let agent = ureq::Agent::config_builder().proxy(None).http_status_as_error(false).build().into();
        Ok(Self { agent, url: url.trim_end_matches('/').to_owned(), key })
    }

    /// The answer's body; `body` is JSON, and none is a GET.
    fn call(&self, path: &str, body: Option<&[u8]>, idempotency_key: Option<&str>) -> Result<String, Failure> {
        let url = format!("{}{path}", self.url);
        let failed = |why: String| Failure::new(format!("{url}: {why}"));
        let answer = match body {
            None => self.agent.get(&url).header("x-api-key", &self.key).call(),
            Some(body) => {
                let mut request = self.agent.post(&url).header("x-api-key", &self.key).header("content-type", "application/json");
                if let Some(key) = idempotency_key {
                    request = request.header("idempotency-key", key);
                }
                request.send(body)
            }
        };
        let mut answer = answer.map_err(|error| failed(error.to_string()))?;
        let text = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| failed(error.to_string()))?;
        if answer.status().is_success() { Ok(text) } else { Err(failed(problem(answer.status().as_u16(), &text))) }
    }

    fn decoded<'a, T: Deserialize<'a>>(&self, path: &str, text: &'a str) -> Result<T, Failure> {
        serde_json::from_str(text)
            .map_err(|error| Failure::new(format!("{}{path}: not the answer of this server: {error}", self.url)))
    }
}

/// What a problem document says, or what else came.
fn problem(status: u16, text: &str) -> String {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let detail = serde_json::from_str(text).map_or_else(|_| crate::error::quoted(text), |problem: Problem| problem.detail);
    format!("{status}: {detail}")
}

/// An index of a server.
#[derive(Debug)]
pub struct ServerSink {
    server: Server,
    path: String,
    id: IndexId,
    tenant: String,
    dimension: usize,
    metric: Metric,
    /// Those that a server has where nothing else is said; it has the last word.
    limits: Arc<Limits>,
    dry_run: bool,
}

impl ServerSink {
    /// # Errors
    /// Where the server does not know the index, or cannot be reached.
    pub fn open(server: Server, id: IndexId, dry_run: bool) -> Result<Self, Failure> {
        let text = server.call(&format!("/v1/index/{id}"), None, None)?;
        Self::of(server, &text, dry_run)
    }

    /// The index that the key created before, or one that it creates now.
    ///
    /// # Errors
    /// Where the server refuses it, or cannot be reached.
    pub fn create(server: Server, spec: &IndexSpec, key: &str) -> Result<Self, Failure> {
        let mut body = serde_json::json!({"name": spec.name, "dimension": spec.dimension, "index_type": spec.index_type});
        if let Some(metric) = spec.metric {
            body["metric"] = metric.as_str().into();
        }
        let text = server.call("/v1/index", Some(body.to_string().as_bytes()), Some(key))?;
        Self::of(server, &text, false)
    }

    fn of(server: Server, text: &str, dry_run: bool) -> Result<Self, Failure> {
        let Document { id, tenant_id, dimension, metric } = server.decoded("/v1/index", text)?;
        let limits = Arc::new(Limits::default());
        Ok(Self { path: format!("/v1/index/{id}"), server, id, tenant: tenant_id, dimension, metric, limits, dry_run })
    }

    pub fn id(&self) -> IndexId {
        self.id
    }

    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Whether all points are there, bit for bit. The first of them tells it of most batches.
    fn has(&self, batch: &Batch) -> Result<bool, Failure> {
        let ids: Vec<&str> = batch.points().map(|(id, ..)| id).collect();
        let path = format!("{}/vectors/fetch", self.path);
        for ids in [&ids[..1], &ids] {
            let body = serde_json::json!({ "ids": ids }).to_string();
            let text = self.server.call(&path, Some(body.as_bytes()), None)?;
            let found: Points<'_> = self.server.decoded(&path, &text)?;
            if found.vectors.len() != ids.len() || !is_same(batch, &found) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether what was found are the first points of the batch.
fn is_same(batch: &Batch, found: &Points<'_>) -> bool {
    let mut values = Vec::new();
    batch.points().zip(&found.vectors).all(|((id, metadata, vector), found)| {
        found.id == id
            && found.metadata.get() == metadata
            && decode::floats(found.values, vector.len(), &mut values).is_ok()
            && bytemuck::cast_slice::<f32, u8>(&values) == bytemuck::cast_slice::<f32, u8>(vector)
    })
}

/// The body of a write.
fn body(batch: &Batch) -> Vec<u8> {
    let mut body = b"{\"vectors\":[".to_vec();
    for (at, (id, metadata, vector)) in batch.points().enumerate() {
        body.extend_from_slice(if at == 0 { b"{\"id\":" } else { b",{\"id\":" });
        serde_json::to_writer(&mut body, id).expect("a text is JSON");
        body.extend_from_slice(b",\"values\":");
        serde_json::to_writer(&mut body, vector).expect("finite floats are JSON");
        body.extend_from_slice(b",\"metadata\":");
        body.extend_from_slice(metadata.as_bytes());
        body.push(b'}');
    }
    body.extend_from_slice(b"]}");
    body
}

impl Sink for ServerSink {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn batch(&self) -> Batch {
        Batch::new(Arc::clone(&self.limits), self.dimension, self.metric)
    }

    fn store(&mut self, batch: Batch) -> Result<Stored, Failure> {
        if self.has(&batch)? {
            return Ok(Stored::Already);
        }
        if !self.dry_run {
            self.server.call(&format!("{}/vectors?atomic=true", self.path), Some(&body(&batch)), None)?;
        }
        Ok(Stored::Now)
    }

    fn finish(&mut self) -> Result<Option<Lsn>, Failure> {
        if self.dry_run {
            return Ok(None);
        }
        let path = format!("{}/checkpoint", self.path);
        let text = self.server.call(&path, Some(b"{}"), None)?;
        self.server.decoded(&path, &text).map(|Checkpointed { lsn }| Some(lsn))
    }
}
