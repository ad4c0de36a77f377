//! HTTP only: routes, decoding, calls of the store, encoding.
//!
//! A request passes `listen` (connection, request id) → `routes` (path and method) → `auth` (which tenant, and whether it may) → a handler in `indices`,
//! `vectors`, `search`, `changes` (and `events`), `service`, `openapi` or `docs`. A handler reads the body (`request`), waits for its turn (`admission`) and then, where it may
//! block, decodes the body (`decode`), calls the store, and encodes the answer (`reply`).

mod admission;
mod auth;
mod backups;
pub(crate) mod binary;
#[cfg(any(fuzzing, test))]
pub(crate) mod bodies;
mod changes;
mod config;
pub(crate) mod decode;
mod docs;
mod drain;
mod events;
mod forward;
mod idle;
mod indices;
mod listen;
mod memory;
mod metrics;
mod openapi;
mod operators;
mod reply;
mod request;
mod routes;
mod search;
mod service;
mod slow;
mod snapshots;
mod spans;
mod tls;
mod together;
mod vectors;
mod writes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

pub use auth::{ApiKeys, Entry, Gate, Quota, Role};
pub use backups::BackupConfig;
pub use config::{Connections, Queues, ServerConfig};
pub use listen::{ACCESS_LOG, REQUESTS, STAGES, serve};
pub use snapshots::SnapshotConfig;
pub use tls::Tls;

use self::admission::{Queue, Turn};
use self::forward::Forwarder;
use self::memory::Memory;
use self::metrics::Metrics;
use self::reply::Problem;
use self::together::Together;
use crate::types::IndexId;
use crate::{Index, Store};

/// What every request shares.
struct Server {
    store: Arc<Store>,
    config: ServerConfig,
    started: Instant,
    /// Calls that write.
    writes: Queue,
    /// Calls that rewrite an index, and can take minutes.
    rewrites: Queue,
    /// Backups, which can take hours where they are throttled.
    backups: Queue,
    searches: Queue,
    together: Together,
    /// Where nodes have some of the indices only.
    forwarder: Option<Forwarder>,
    /// Calls that are short and do not write.
    reads: Queue,
    /// A permit is a stream of changes that may be open.
    streams: Arc<Semaphore>,
    /// Becomes true when the server ends: streams end then, and nothing else would end them.
    ending: watch::Receiver<bool>,
    /// A permit is a byte of a request body that is held.
    bodies_bytes: Arc<Semaphore>,
    /// A permit is a connection that may be open.
    connections: Arc<Semaphore>,
    memory: Memory,
    processor: service::Processor,
    metrics: Metrics,
}

impl Server {
    fn new(store: Arc<Store>, config: ServerConfig, ending: watch::Receiver<bool>) -> Self {
        let queues = &config.queues;
        let queue = |name, running_max, waiting_max| Queue::new(name, running_max, waiting_max, queues.queue_wait_max);
        // Of these, one takes minutes, and who asks for it knows that.
        let slow_queue = |name, running_max, waiting_max| Queue::new(name, running_max, waiting_max, Duration::MAX);
        let forwarder = store.placement().map(|_| Forwarder::new(&config.connections));
        let server = Self {
            forwarder,
            metrics: Metrics::new(),
            store,
            started: Instant::now(),
            writes: queue("writes", queues.writes_running_max, queues.writes_waiting_max),
            rewrites: slow_queue("compactions", queues.rewrites_running_max, queues.rewrites_waiting_max),
            backups: slow_queue("backups", queues.backups_running_max, queues.backups_waiting_max),
            searches: queue("searches", queues.searches_running_max(), queues.searches_waiting_max),
            together: Together::default(),
            reads: queue("reads", queues.reads_running_max, queues.reads_waiting_max),
            streams: Arc::new(Semaphore::new(config.connections.streams_max)),
            ending,
            bodies_bytes: Arc::new(Semaphore::new(config.bodies_bytes_max.min(Semaphore::MAX_PERMITS))),
            memory: Memory::new(config.memory_bytes_max),
            processor: service::Processor::new(),
            connections: Arc::new(Semaphore::new(config.connections.connections_max.min(Semaphore::MAX_PERMITS))),
            config,
        };
        server.metrics.register(&server.store, server.queues());
        server
    }

    /// An index that is searched. One that is not open is opened when its turn comes.
    async fn searched_index(&self, turn: &Turn, id: IndexId) -> Result<Arc<Index>, Problem> {
        match self.store.index_if_open(&turn.tenant, id) {
            Some(index) => Ok(index),
            None => self.searches.run(turn.clone(), || Ok(self.store.index(&turn.tenant, id)?)).await,
        }
    }

    fn queues(&self) -> [&Queue; 5] {
        [&self.writes, &self.rewrites, &self.backups, &self.searches, &self.reads]
    }
}
