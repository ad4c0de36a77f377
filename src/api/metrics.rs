//! What Prometheus reads of the server: how long calls and the steps of their work take, and how things stand.
//!
//! Series are bounded whatever clients send: routes are those of the contract, statuses and codes our own, and of indices only the largest are told
//! each for itself.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, get_current_pid};
use warp::http::header::CONTENT_TYPE;
use warp::http::{HeaderValue, StatusCode};
use warp::reply::Response;

use super::Server;
use super::admission::Queue;
use super::reply::Problem;
use super::service::disk_bytes;
use crate::Store;
use crate::engine::SHORT;
use crate::io::os::own_memory_bytes;
use crate::time::now_us;
use crate::types::{IndexCounts, IndexInfo, IndexState, TenantId};

/// Of a backup.
const OUTCOMES: [&str; 2] = ["made", "failed"];

const WORDS: &str = "the names are words";

/// What is counted from the start of the server on.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// By method, route and status.
    requests: HistogramVec,
    /// By code.
    problems: IntCounterVec,
    /// By outcome.
    backups: IntCounterVec,
    last_backup: Gauge,
}

impl Metrics {
    pub fn new() -> Self {
        let options = HistogramOpts::new("faiss_proxy_request_seconds", "Time from a request's head to its answer's.");
        let requests = HistogramVec::new(options.buckets(SHORT.to_vec()), &["method", "route", "status"]);
        let options = Opts::new("faiss_proxy_problems_total", "Answers that were problem documents, by their code.");
        let problems = IntCounterVec::new(options, &["code"]);
        let options = Opts::new("faiss_proxy_backups_total", "Backups of an index that were made, by how they ended.");
        let backups = IntCounterVec::new(options, &["outcome"]).expect(WORDS);
        for outcome in OUTCOMES {
            // There from the start: an alert looks at how it rises.
            backups.with_label_values(&[outcome]);
        }
        let help = "When the last backup of an index ended well, since unix epoch in seconds; 0: none did since the start.";
        let last_backup = Gauge::new("faiss_proxy_last_backup_timestamp_seconds", help).expect(WORDS);
        let (requests, problems) = (requests.expect(WORDS), problems.expect(WORDS));
        Self { registry: Registry::new(), requests, problems, backups, last_backup }
    }

    /// Adds what the store and the queues count.
    pub fn register(&self, store: &Store, queues: [&Queue; 5]) {
        let own: [Box<dyn Collector>; 4] = [
            Box::new(self.requests.clone()),
            Box::new(self.problems.clone()),
            Box::new(self.backups.clone()),
            Box::new(self.last_backup.clone()),
        ];
        let registered = own.into_iter().try_for_each(|collector| self.registry.register(collector));
        let registered = registered.and_then(|()| store.stages().register(&self.registry));
        let registered = registered.and_then(|()| queues.iter().try_for_each(|queue| queue.register(&self.registry)));
        registered.expect("each has a name of its own");
    }

    pub fn answered(&self, method: &str, route: &str, status: StatusCode, after: Duration) {
        self.requests.with_label_values(&[method, route, status.as_str()]).observe(after.as_secs_f64());
    }

    pub fn backed_up(&self, is_well: bool) {
        let [well, failed] = OUTCOMES;
        self.backups.with_label_values(&[if is_well { well } else { failed }]).inc();
        if is_well {
            self.last_backup.set(now_us() as f64 / 1e6);
        }
    }

    pub fn refused(&self, problem: &Problem) {
        self.problems.with_label_values(&[problem.code()]).inc();
    }
}

/// The page that Prometheus reads. Of single indices it has those of the tenant, or of all tenants. It takes some system calls, and the files' sizes of
/// [`metrics_indices_max`](super::ServerConfig) indices.
pub fn page(server: &Server, tenant: Option<&TenantId>) -> Response {
    let mut families = server.metrics.registry.gather();
    families.extend(of_the_process());
    families.extend(of_the_server(server));
    families.extend(of_indices(server, tenant));
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let text = TextEncoder::new().encode_to_string(&families).expect("every family has a name and a metric");
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
    response
}

/// Under the names that Prometheus's own libraries have.
fn of_the_process() -> Vec<MetricFamily> {
    let mut system = System::new();
    let Ok(pid) = get_current_pid() else { return Vec::new() };
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, kind);
    let Some(process) = system.process(pid) else { return Vec::new() };
    let files = |count: Option<usize>| count.unwrap_or(0) as f64;
    let mut families = gauge("process_resident_memory_bytes", "Resident memory size in bytes.", process.memory() as f64);
    families.extend(gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", process.virtual_memory() as f64));
    let help = "Start time of the process since unix epoch in seconds.";
    families.extend(gauge("process_start_time_seconds", help, process.start_time() as f64));
    families.extend(gauge("process_open_fds", "Number of open file descriptors.", files(process.open_files())));
    families.extend(gauge("process_max_fds", "Maximum number of open file descriptors.", files(process.open_files_limit())));
    let cpu =
        prometheus::Counter::new("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.").expect(WORDS);
    cpu.inc_by(process.accumulated_cpu_time() as f64 / 1_000.0);
    families.extend(cpu.collect());
    families
}

fn of_the_server(server: &Server) -> Vec<MetricFamily> {
    let config = &server.config;
    let (disk_used, disk_total) = disk_bytes(&config.data_dir);
    let held = |max: usize, free: usize| max.saturating_sub(free) as f64;
    let loads = server.queues().map(|queue| (queue.name(), queue.load()));
    let mut families =
        gauges("faiss_proxy_build_info", "The version that runs.", &["version"], [(vec![env!("CARGO_PKG_VERSION")], 1.0)]);
    families.extend(gauges(
        "faiss_proxy_running",
        "Calls that run.",
        &["queue"],
        loads.map(|(name, (running, _))| (vec![name], running as f64)),
    ));
    families.extend(gauges(
        "faiss_proxy_waiting",
        "Calls that wait.",
        &["queue"],
        loads.map(|(name, (_, waiting))| (vec![name], waiting as f64)),
    ));
    for (name, help, value) in [
        (
            "faiss_proxy_connections",
            "Connections that are open.",
            // One place is held for who comes next.
            held(config.connections.connections_max, server.connections.available_permits() + 1),
        ),
        ("faiss_proxy_connections_max", "Connections that may be open.", config.connections.connections_max as f64),
        (
            "faiss_proxy_bodies_bytes",
            "Bytes of request bodies that are held.",
            held(config.bodies_bytes_max, server.bodies_bytes.available_permits()),
        ),
        ("faiss_proxy_bodies_bytes_max", "Bytes of request bodies that may be held.", config.bodies_bytes_max as f64),
        (
            "faiss_proxy_streams",
            "Streams of changes that are open.",
            held(config.connections.streams_max, server.streams.available_permits()),
        ),
        ("faiss_proxy_disk_bytes", "Bytes of the disk that has the data directory.", disk_total),
        ("faiss_proxy_disk_free_bytes", "Bytes of it that are free.", disk_total - disk_used),
        (
            "faiss_proxy_memory_bytes",
            "Bytes of memory that open indices take, mapped files not counted.",
            server.store.memory_bytes() as f64,
        ),
        ("faiss_proxy_own_memory_bytes", "Bytes of memory of the process's own.", own_memory_bytes() as f64),
        (
            "faiss_proxy_own_memory_bytes_max",
            "From so many on it takes no more points; 0: no limit.",
            server.memory.bytes_max() as f64,
        ),
        (
            "faiss_proxy_memory_budget_bytes",
            "Bytes of memory that they may take; 0: no limit.",
            config.limits.memory_budget_bytes as f64,
        ),
    ] {
        families.extend(gauge(name, help, value));
    }
    families
}

/// What is told of an index, under which name.
type OfIndex = (&'static str, &'static str, fn(&IndexInfo) -> u64);

const OF_INDEX: [OfIndex; 9] = [
    ("points", "Live points.", |info| info.vector_count),
    ("tombstones", "Rows that are dead and still take space.", |info| info.tombstones),
    ("unindexed_rows", "Rows that a search scans because no FAISS index covers them.", |info| info.unindexed_rows),
    ("bytes", "Bytes of the files.", |info| info.bytes),
    ("segments", "Segments.", |info| info.segments as u64),
    ("lsn", "The last mutation that was applied.", |info| info.lsn),
    ("durable_lsn", "The last mutation that is known to be synced.", |info| info.durable_lsn),
    ("checkpoint_lsn", "The last mutation that the newest checkpoint has.", |info| info.checkpoint_lsn),
    ("read_only", "1: it takes no more writes, because a sync failed.", |info| {
        matches!(info.state, IndexState::ReadOnly { .. }).into()
    }),
];

fn of_indices(server: &Server, tenant: Option<&TenantId>) -> Vec<MetricFamily> {
    let IndexCounts { serving, not_verified, refused } = server.store.counts(tenant);
    let mut open = server.store.opened(tenant);
    open.sort_by_cached_key(|index| std::cmp::Reverse(index.vector_count()));
    let points: u64 = open.iter().map(|index| index.vector_count()).sum();
    let unlisted = open.len().saturating_sub(server.config.metrics_indices_max);
    open.truncate(server.config.metrics_indices_max);
    let infos: Vec<(IndexInfo, String)> = open.iter().map(|index| (index.info(), index.id().to_string())).collect();

    let states = [("serving", serving), ("not_verified", not_verified), ("refused", refused)];
    let states = states.map(|(state, count)| (vec![state], count as f64));
    let mut families = gauges("faiss_proxy_indices", "Indices by what they can do; not_verified: not open.", &["state"], states);
    families.extend(gauge("faiss_proxy_points", "Live points of the indices that are open.", points as f64));
    families.extend(gauge(
        "faiss_proxy_indices_unlisted",
        "Indices that are open and have no series of their own.",
        unlisted as f64,
    ));
    for (what, help, value) in OF_INDEX {
        let values = infos.iter().map(|(info, id)| (vec![info.tenant_id.as_str(), id], value(info) as f64));
        families.extend(gauges(&format!("faiss_proxy_index_{what}"), help, &["tenant", "index"], values));
    }
    families
}

fn gauge(name: &str, help: &str, value: f64) -> Vec<MetricFamily> {
    let gauge = Gauge::new(name, help).expect(WORDS);
    gauge.set(value);
    gauge.collect()
}

/// One family; none where there is no value.
fn gauges<'a>(
    name: &str,
    help: &str,
    labels: &[&str],
    values: impl IntoIterator<Item = (Vec<&'a str>, f64)>,
) -> Vec<MetricFamily> {
    let gauges = GaugeVec::new(Opts::new(name, help), labels).expect(WORDS);
    for (labels, value) in values {
        gauges.with_label_values(&labels).set(value);
    }
    gauges.collect().into_iter().filter(|family| !family.get_metric().is_empty()).collect()
}
