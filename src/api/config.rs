//! What the server is started with, and its limits, each with its unit and its reason.
//!
//! [`Queues`] and [`Connections`] are options of the program as they stand here: their names, ranges and defaults are in this place alone.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;

use super::auth::Gate;
use super::backups::BackupConfig;
use super::memory::memory_bytes_max;
use super::snapshots::SnapshotConfig;
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
    /// Indices of which `/metrics` tells each for itself: those with the most points. Prometheus keeps ten series of each.
    pub metrics_indices_max: usize,
    pub queues: Queues,
    pub connections: Connections,
    /// A search, a count or a delete that takes so long, from when it comes to its queue, is told of in the log.
    pub slow_call: Duration,
    /// `None`: this server makes no backups.
    pub backups: Option<BackupConfig>,
    /// `None`: it takes no snapshots.
    pub snapshots: Option<SnapshotConfig>,
}

impl ServerConfig {
    /// 10,000 vectors of 768 floats written with 8 digits are as much.
    pub const BODY_BYTES_MAX: usize = 64 << 20;
    pub const METRICS_INDICES_MAX: usize = 200;
    /// Of 16 clients that send as much as they may.
    pub const BODIES_BYTES_MAX: usize = 1 << 30;
    /// A search takes some milliseconds, also where a million rows are scanned: one that takes a second has a reason that somebody will look for, and then it is there.
    pub const SLOW_CALL: Duration = Duration::from_secs(1);

    pub fn new(gate: Gate, data_dir: PathBuf) -> Self {
        Self {
            gate,
            tls: None,
            limits: Limits::default(),
            data_dir,
            body_bytes_max: Self::BODY_BYTES_MAX,
            bodies_bytes_max: Self::BODIES_BYTES_MAX,
            memory_bytes_max: memory_bytes_max(),
            metrics_indices_max: Self::METRICS_INDICES_MAX,
            queues: Queues::default(),
            connections: Connections::default(),
            slow_call: Self::SLOW_CALL,
            backups: None,
            snapshots: None,
        }
    }
}

/// How many calls run at one time, and how many wait.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Queues")]
pub struct Queues {
    /// Searches that run at one time; as many as there are processors where it is not said. Each keeps one busy, so that more would slow each other down.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_SEARCHES_RUNNING_MAX", value_parser = running())]
    pub searches_running_max: Option<usize>,
    /// Searches that wait; more are turned away, whose clients would give up before their turn.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_SEARCHES_WAITING_MAX", value_parser = waiting(), default_value_t = Self::default().searches_waiting_max)]
    pub searches_waiting_max: usize,
    /// Writes that run at one time. They wait for the disk together: the more, the larger the groups that share a sync.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_WRITES_RUNNING_MAX", value_parser = running(), default_value_t = Self::default().writes_running_max)]
    pub writes_running_max: usize,
    /// Writes that wait.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_WRITES_WAITING_MAX", value_parser = waiting(), default_value_t = Self::default().writes_waiting_max)]
    pub writes_waiting_max: usize,
    /// Short reads (a point, an index document, a page) that run at one time.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_READS_RUNNING_MAX", value_parser = running(), default_value_t = Self::default().reads_running_max)]
    pub reads_running_max: usize,
    /// Short reads that wait.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_READS_WAITING_MAX", value_parser = waiting(), default_value_t = Self::default().reads_waiting_max)]
    pub reads_waiting_max: usize,
    /// Checkpoints, compactions and trainings that run at one time: each keeps a disk and a processor busy.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_REWRITES_RUNNING_MAX", value_parser = running(), default_value_t = Self::default().rewrites_running_max)]
    pub rewrites_running_max: usize,
    /// Checkpoints, compactions and trainings that wait.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_REWRITES_WAITING_MAX", value_parser = waiting(), default_value_t = Self::default().rewrites_waiting_max)]
    pub rewrites_waiting_max: usize,
    /// Backups that run at one time: each reads as fast as it may.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_BACKUPS_RUNNING_MAX", value_parser = running(), default_value_t = Self::default().backups_running_max)]
    pub backups_running_max: usize,
    /// Backups that wait.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_BACKUPS_WAITING_MAX", value_parser = waiting(), default_value_t = Self::default().backups_waiting_max)]
    pub backups_waiting_max: usize,
    /// A search, a write or a read that would wait for its turn for longer, as calls go lately, is turned away at once.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_QUEUE_WAIT_MAX", value_parser = seconds, default_value = text(Self::default().queue_wait_max))]
    pub queue_wait_max: Duration,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            searches_running_max: None,
            searches_waiting_max: 256,
            writes_running_max: 128,
            writes_waiting_max: 256,
            reads_running_max: 16,
            reads_waiting_max: 1_024,
            rewrites_running_max: 2,
            rewrites_waiting_max: 16,
            backups_running_max: 1,
            backups_waiting_max: 16,
            queue_wait_max: Duration::from_secs(10),
        }
    }
}

impl Queues {
    pub(super) fn searches_running_max(&self) -> usize {
        self.searches_running_max.unwrap_or_else(|| thread::available_parallelism().map_or(1, |cores| cores.get()))
    }

    /// Calls that run at one time, each on a thread of its own: who has fewer threads would have calls wait beside the queues, where no limit holds.
    pub fn threads(&self) -> usize {
        let others = self.writes_running_max + self.reads_running_max + self.rewrites_running_max + self.backups_running_max;
        self.searches_running_max() + others
    }
}

/// Limits of connections, and for how long a client may keep what it has.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Connections")]
pub struct Connections {
    /// Connections that are open at one time; more wait in the kernel until one ends.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_CONNECTIONS_MAX", value_parser = counted(1), default_value_t = Self::default().connections_max)]
    pub connections_max: usize,
    /// A client that has sent nothing by then, or has not shaken hands, is disconnected.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_BEGINNING_TIMEOUT", value_parser = seconds, default_value = text(Self::default().beginning_timeout))]
    pub beginning_timeout: Duration,
    /// A client that has not sent its request's head by then, or is idle for as long, is disconnected.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_HEAD_TIMEOUT", value_parser = seconds, default_value = text(Self::default().head_timeout))]
    pub head_timeout: Duration,
    /// A client that sends nothing of its body for this long is answered 408.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_BODY_TIMEOUT", value_parser = seconds, default_value = text(Self::default().body_timeout))]
    pub body_timeout: Duration,
    /// Bytes a second that a body must come with, once it has come for --body-timeout; slower ones are answered 408 too.
    #[arg(long, value_name = "BYTES", env = "FAISS_PROXY_BODY_RATE_MIN", value_parser = RangedU64ValueParser::<u64>::new().range(1..), default_value_t = Self::default().body_rate_min)]
    pub body_rate_min: u64,
    /// Streams of changes that are open at one time. Each keeps a connection, its index open, and a page of changes in memory.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_STREAMS_MAX", value_parser = counted(0), default_value_t = Self::default().streams_max)]
    pub streams_max: usize,
    /// A stream on which nothing happens sends a comment after this long: what is in between closes connections that are idle for a minute.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_STREAM_HEARTBEAT", value_parser = seconds, default_value = text(Self::default().stream_heartbeat))]
    pub stream_heartbeat: Duration,
    /// A client that takes nothing of its stream for this long is disconnected: its place is for others.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_STREAM_STALL_TIMEOUT", value_parser = seconds, default_value = text(Self::default().stream_stall_timeout))]
    pub stream_stall_timeout: Duration,
    /// At the end, how long requests that run are waited for.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_SHUTDOWN_TIMEOUT", value_parser = seconds, default_value = text(Self::default().shutdown_timeout))]
    pub shutdown_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            beginning_timeout: Duration::from_secs(8),
            head_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            body_rate_min: 1_024,
            streams_max: 64,
            stream_heartbeat: Duration::from_secs(15),
            stream_stall_timeout: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(30),
        }
    }
}

/// Each is a thread.
fn running() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1_024)
}

/// Each holds its body.
fn waiting() -> RangedU64ValueParser<usize> {
    counted(0)
}

/// More is a slip of the finger: a machine has some tens of thousands of ports for one client.
fn counted(least: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(least..=1_000_000)
}

/// Whole seconds or not; a day is for ever.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number of seconds, 0.001 to 86400".to_owned();
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    (0.001..=86_400.0).contains(&seconds).then(|| Duration::from_secs_f64(seconds)).ok_or_else(wrong)
}

fn text(duration: Duration) -> String {
    duration.as_secs_f64().to_string()
}
