//! An index of a server, over HTTP, by bodies of the binary form.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::super::Failure;
use super::super::server::{Document, Server};
use super::sink::{Sink, Stored};
use crate::api::binary;
use crate::config::Limits;
use crate::engine::Batch;
use crate::types::{IndexId, IndexSpec, Lsn, Metric};

#[derive(Deserialize)]
struct Checkpointed {
    lsn: Lsn,
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
        let document = server.get(&format!("/v1/index/{id}"))?;
        Ok(Self::of(server, document, dry_run))
    }

    /// The index that the key created before, or one that it creates now.
    ///
    /// # Errors
    /// Where the server refuses it, or cannot be reached.
    pub fn create(server: Server, spec: &IndexSpec, key: &str) -> Result<Self, Failure> {
        let mut body = json!({"name": spec.name, "dimension": spec.dimension, "index_type": spec.index_type});
        if let Some(metric) = spec.metric {
            body["metric"] = metric.as_str().into();
        }
        let document = server.post("/v1/index", &body, Some(key))?;
        Ok(Self::of(server, document, false))
    }

    fn of(server: Server, Document { id, tenant_id, dimension, metric }: Document, dry_run: bool) -> Self {
        let limits = Arc::new(Limits::default());
        Self { path: format!("/v1/index/{id}"), server, id, tenant: tenant_id, dimension, metric, limits, dry_run }
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
            let found = self.server.points(&path, Some(&json!({ "ids": ids })))?;
            let (head, rows) = self.server.read(&path, &found, self.dimension)?;
            let mut pairs = batch.points().zip(&head.vectors).enumerate();
            let is_same = pairs.all(|(at, ((id, metadata, vector), found))| {
                found.id == id && found.metadata.get() == metadata && rows.bytes(at) == bytemuck::cast_slice::<f32, u8>(vector)
            });
            if head.vectors.len() != ids.len() || !is_same {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The body of a write.
fn body(batch: &Batch) -> Vec<u8> {
    let mut head = b"{\"vectors\":[".to_vec();
    let mut vectors = Vec::with_capacity(batch.log_bytes());
    for (at, (id, metadata, vector)) in batch.points().enumerate() {
        head.extend_from_slice(if at == 0 { b"{\"id\":" } else { b",{\"id\":" });
        serde_json::to_writer(&mut head, id).expect("a text is JSON");
        head.extend_from_slice(b",\"metadata\":");
        head.extend_from_slice(metadata.as_bytes());
        head.push(b'}');
        vectors.extend_from_slice(bytemuck::cast_slice(vector));
    }
    head.extend_from_slice(b"]}");
    binary::join(&head, &vectors)
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
            self.server.send(&format!("{}/vectors?atomic=true", self.path), &body(&batch))?;
        }
        Ok(Stored::Now)
    }

    fn finish(&mut self) -> Result<Option<Lsn>, Failure> {
        if self.dry_run {
            return Ok(None);
        }
        let Checkpointed { lsn } = self.server.post(&format!("{}/checkpoint", self.path), &json!({}), None)?;
        Ok(Some(lsn))
    }
}
