//! What the server is started with, and its limits, each with its unit and its reason.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::auth::Gate;
use super::backups::BackupConfig;
use super::memory::memory_bytes_max;
use super::tls::Tls;
use crate::config::Limits;

/// Settings of [`serve`](super::serve).
#[derive(Clone, Debug)]
pub struct ServerConfig {
    pub gate: Gate,
    /// `None`: connections are in clear.
    pub tls: Option<Tls>,
    /// Those that the store was opened with.
    pub limits: Limits,
    /// Whose disk `/v1/metrics` reports.
    pub data_dir: PathBuf,
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Bytes of all bodies that are held at one time: many clients with large bodies must not take all memory.
    pub bodies_bytes_max: usize,
    /// Bytes of memory of the process's own from which on no more points are taken; 0: no limit.
    pub memory_bytes_max: u64,
    /// Connections that are open at one time; more wait in the kernel until one ends.
    pub connections_max: usize,
    /// Searches that run at one time: each keeps a core busy, so more of them would only slow each other down.
    pub searches_running_max: usize,
    /// Searches that wait for a core; more are turned away, because their clients would give up before their turn.
    pub searches_waiting_max: usize,
    /// Writes that run at one time. They wait for the disk together: the more, the larger the groups that share a sync.
    pub writes_running_max: usize,
    pub writes_waiting_max: usize,
    /// Checkpoints, compactions and trainings that run at one time: each keeps a disk and a core busy.
    pub rewrites_running_max: usize,
    pub rewrites_waiting_max: usize,
    /// A write, a search or a read that would wait for its turn for longer, as calls go lately, is turned away at once.
    pub queue_wait_max: Duration,
    /// `None`: this server makes no backups.
    pub backups: Option<BackupConfig>,
    /// Backups that run at one time: each reads as fast as it may.
    pub backups_running_max: usize,
    pub backups_waiting_max: usize,
    /// Short reads (a point, an index document) that run at one time.
    pub reads_running_max: usize,
    pub reads_waiting_max: usize,
    /// Indices of which `/metrics` tells each for itself: those with the most points. Prometheus keeps ten series of each.
    pub metrics_indices_max: usize,
    /// Streams of changes that are open at one time. Each keeps a connection, its index open, and a page of changes in memory.
    pub streams_max: usize,
    /// A stream on which nothing happens sends a comment after this long: what is in between closes connections that are idle for a minute.
    pub stream_heartbeat: Duration,
    /// A client that takes nothing of its stream for this long is disconnected: its place is for others.
    pub stream_stall_timeout: Duration,
    /// A client that has sent nothing by then, or has not shaken hands, is disconnected.
    pub beginning_timeout: Duration,
    /// A client that has not sent its request's head by then, or is idle for as long, is disconnected.
    pub head_timeout: Duration,
    /// A client that sends nothing of its body for this long is answered 408.
    pub body_timeout: Duration,
    /// Bytes a second that a body must come with, once it has come for the timeout above; slower ones are answered 408 too.
    pub body_rate_min: f64,
    /// At the end, how long requests that run are waited for.
    pub shutdown_timeout: Duration,
}

impl ServerConfig {
    /// 10,000 vectors of 768 floats written with 8 digits are as much.
    pub const BODY_BYTES_MAX: usize = 64 << 20;
    /// Of 16 clients that send as much as they may.
    pub const BODIES_BYTES_MAX: usize = 1 << 30;

    pub fn new(gate: Gate, data_dir: PathBuf) -> Self {
        Self {
            gate,
            tls: None,
            limits: Limits::default(),
            data_dir,
            body_bytes_max: Self::BODY_BYTES_MAX,
            bodies_bytes_max: Self::BODIES_BYTES_MAX,
            memory_bytes_max: memory_bytes_max(),
            connections_max: 4_096,
            searches_running_max: thread::available_parallelism().map_or(1, |cores| cores.get()),
            searches_waiting_max: 256,
            writes_running_max: 128,
            writes_waiting_max: 256,
            rewrites_running_max: 2,
            rewrites_waiting_max: 16,
            queue_wait_max: Duration::from_secs(10),
            backups: None,
            backups_running_max: 1,
            backups_waiting_max: 16,
            reads_running_max: 16,
            reads_waiting_max: 1_024,
            metrics_indices_max: 200,
            streams_max: 64,
            stream_heartbeat: Duration::from_secs(15),
            stream_stall_timeout: Duration::from_secs(60),
            beginning_timeout: Duration::from_secs(8),
            head_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            body_rate_min: 1_024.0,
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}
