//! The server itself: is it there, is it ready, how is it doing.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, System};
use utoipa::ToSchema;
use warp::http::StatusCode;
use warp::reply::Response;

use super::Server;
use super::admission::Turn;
use super::auth::{Caller, Quota};
use super::metrics;
use super::reply::{Problem, json};
use super::request::Request;
use crate::Usage;
use crate::types::{IndexCounts, IndexId};

#[derive(Serialize, ToSchema)]
pub(super) struct Greeting {
    status: &'static str,
    message: &'static str,
}

pub fn root() -> Response {
    greeting("FAISS Proxy Server is running; /docs lists the calls")
}

pub fn greeting(message: &'static str) -> Response {
    json(StatusCode::OK, &Greeting { status: "ok", message })
}

#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
    /// Seconds since the server began to serve.
    uptime: f64,
}

pub fn health(server: &Server) -> Response {
    json(StatusCode::OK, &Health { status: "ok", uptime: uptime_s(server) })
}

/// Seconds since the server began to serve, to the millisecond.
pub fn uptime_s(server: &Server) -> f64 {
    (server.started.elapsed().as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[derive(Serialize, ToSchema)]
pub(super) struct Ready {
    status: &'static str,
    indices: IndexCounts,
    /// Of the tenant's indices, to a key of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Vec<Refused>>,
    /// Why it is not known which indices the tenant has.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// An index that cannot be opened, and why.
#[derive(Serialize, ToSchema)]
struct Refused {
    #[schema(value_type = String, format = Uuid)]
    id: IndexId,
    reason: String,
}

/// The server listens only after every index was recovered or looked at, so who is answered finds it ready. Everybody learns how many
/// indices serve, how many are not verified yet and how many refuse; a tenant learns it of its own, and which refuse, and why.
pub async fn ready(server: Arc<Server>, request: Request) -> Result<Response, Problem> {
    let Ok(Caller { tenant, .. }) = server.config.gate.caller(&request.headers, request.peer) else {
        // A probe must not wait behind other calls, and counting waits for nobody.
        let indices = server.store.counts(None);
        return Ok(json(StatusCode::OK, &Ready { status: "ready", indices, refused: None, reason: None }));
    };
    let turn = Turn { tenant: tenant.clone(), deadline: request.deadline()? };
    let store = Arc::clone(&server.store);
    let work = move || {
        let refused = store.refused(&tenant).into_iter().map(|(id, error)| Refused { id, reason: error.to_string() });
        let ready = Ready {
            status: "ready",
            indices: store.counts(Some(&tenant)),
            refused: Some(refused.collect()),
            reason: store.list(&tenant).err().map(|error| error.to_string()),
        };
        Ok(json(StatusCode::OK, &ready))
    };
    server.reads.run(turn, work).await
}

#[derive(Serialize, ToSchema)]
pub(super) struct Metrics {
    system: SystemFigures,
    /// Seconds since the server began to serve.
    uptime: f64,
    /// The tenant's own figures; none of anybody else's.
    indices: usize,
    /// Indices that are not open.
    closed: usize,
    /// Those of them that were not since the server started: vectors and bytes leave them out, for to count them would be to open them.
    uncounted: usize,
    vectors: u64,
    bytes: u64,
    quota: Quota,
}

#[derive(Serialize, ToSchema)]
struct SystemFigures {
    cpu_percent: f64,
    memory_percent: f64,
    memory_used_mb: f64,
    memory_total_mb: f64,
    disk_percent: f64,
    disk_used_gb: f64,
    disk_total_gb: f64,
}

pub async fn figures(server: Arc<Server>, turn: Turn) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let call = Arc::clone(&server);
    let work = move || {
        // Which says so where nothing is known of the tenant's indices.
        let indices = call.store.list(&tenant)?.len();
        let Usage { points, bytes, uncounted, .. } = call.store.usage(&tenant);
        let metrics = Metrics {
            system: SystemFigures::now(&call.processor, &call.config.data_dir),
            uptime: uptime_s(&call),
            indices,
            closed: indices.saturating_sub(call.store.opened(Some(&tenant)).len()),
            uncounted,
            vectors: points,
            bytes,
            quota: call.config.gate.quota(&tenant),
        };
        Ok(json(StatusCode::OK, &metrics))
    };
    server.reads.run(turn, work).await
}

/// Prometheus's page: of indices, those of the caller's tenant. The operators' listener has all.
pub async fn exposition(server: Arc<Server>, turn: Turn) -> Result<Response, Problem> {
    let (tenant, call) = (turn.tenant.clone(), Arc::clone(&server));
    server.reads.run(turn, move || Ok(metrics::page(&call, Some(&tenant)))).await
}

const MB: f64 = (1 << 20) as f64;
const GB: f64 = (1 << 30) as f64;

impl SystemFigures {
    fn now(processor: &Processor, data_dir: &Path) -> Self {
        let mut memory = System::new();
        memory.refresh_memory();
        let (memory_used, memory_total) = (memory.used_memory() as f64, memory.total_memory() as f64);
        let (disk_used, disk_total) = disk_bytes(data_dir);
        Self {
            cpu_percent: tenth(processor.busy_percent()),
            memory_percent: percent(memory_used, memory_total),
            memory_used_mb: tenth(memory_used / MB),
            memory_total_mb: tenth(memory_total / MB),
            disk_percent: percent(disk_used, disk_total),
            disk_used_gb: tenth(disk_used / GB),
            disk_total_gb: tenth(disk_total / GB),
        }
    }
}

/// Bytes used and bytes that there are on the file system that holds `path`; zeros where it does not say.
pub fn disk_bytes(path: &Path) -> (f64, f64) {
    match rustix::fs::statvfs(path) {
        Ok(disk) => {
            let block = disk.f_frsize as f64;
            ((disk.f_blocks.saturating_sub(disk.f_bfree)) as f64 * block, disk.f_blocks as f64 * block)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot ask how full the disk is");
            (0.0, 0.0)
        }
    }
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { tenth(part / whole * 100.0) } else { 0.0 }
}

fn tenth(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// How busy the processor is: a figure between two samples, so they are kept from one request to the next.
pub struct Processor {
    samples: Mutex<(System, Instant)>,
}

impl Processor {
    pub fn new() -> Self {
        let mut system = System::new();
        system.refresh_cpu_usage();
        Self { samples: Mutex::new((system, Instant::now())) }
    }

    /// Percent of all cores since the last request that asked, or, where that is too short ago to tell, what it was told.
    fn busy_percent(&self) -> f64 {
        let (system, sampled) = &mut *self.samples.lock();
        if sampled.elapsed() >= MINIMUM_CPU_UPDATE_INTERVAL {
            system.refresh_cpu_usage();
            *sampled = Instant::now();
        }
        f64::from(system.global_cpu_usage())
    }
}
