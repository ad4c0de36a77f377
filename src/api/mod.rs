//! HTTP only: routes, decoding, calls of the store, encoding.
//!
//! A request passes `listen` (connection, request id) → `routes` (path and method) → `auth` (which tenant, and whether it may) → a handler in `indices`,
//! `vectors`, `search`, `changes` (and `events`) or `service`. A handler reads the body (`request`), waits for its turn (`admission`) and then, on a blocking
//! thread, decodes the body (`decode`), calls the store, and encodes the answer (`reply`).

mod admission;
mod auth;
mod backups;
pub(crate) mod binary;
#[cfg(any(fuzzing, test))]
pub(crate) mod bodies;
mod changes;
mod config;
pub(crate) mod decode;
mod drain;
mod events;
mod idle;
mod indices;
mod listen;
mod reply;
mod request;
mod routes;
mod search;
mod service;
mod slow;
mod spans;
mod tls;
mod vectors;
mod writes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

pub use auth::{ApiKeys, Entry, Gate, Quota, Role};
pub use backups::BackupConfig;
pub use config::{Connections, Queues, ServerConfig};
pub use listen::{ACCESS_LOG, REQUESTS, STAGES, serve};
pub use tls::Tls;

use crate::Store;

/// What every request shares.
struct Server {
    store: Arc<Store>,
    config: ServerConfig,
    started: Instant,
    /// Calls that write.
    writes: admission::Queue,
    /// Calls that rewrite an index, and can take minutes.
    rewrites: admission::Queue,
    /// Backups, which can take hours where they are throttled.
    backups: admission::Queue,
    searches: admission::Queue,
    /// Calls that are short and do not write.
    reads: admission::Queue,
    /// A permit is a stream of changes that may be open.
    streams: Arc<Semaphore>,
    /// Becomes true when the server ends: streams end then, and nothing else would end them.
    ending: watch::Receiver<bool>,
    /// A permit is a byte of a request body that is held.
    bodies_bytes: Arc<Semaphore>,
    processor: service::Processor,
}

impl Server {
    fn new(store: Arc<Store>, config: ServerConfig, ending: watch::Receiver<bool>) -> Self {
        let queues = &config.queues;
        let queue = |running_max, waiting_max, full| admission::Queue::new(running_max, waiting_max, queues.queue_wait_max, full);
        // Of these, one takes minutes, and who asks for it knows that.
        let slow_queue = |running_max, waiting_max, full| admission::Queue::new(running_max, waiting_max, Duration::MAX, full);
        Self {
            store,
            started: Instant::now(),
            writes: queue(queues.writes_running_max, queues.writes_waiting_max, "too many writes wait already"),
            rewrites: slow_queue(queues.rewrites_running_max, queues.rewrites_waiting_max, "too many compactions wait already"),
            backups: slow_queue(queues.backups_running_max, queues.backups_waiting_max, "too many backups wait already"),
            searches: queue(queues.searches_running_max(), queues.searches_waiting_max, "too many searches wait already"),
            reads: queue(queues.reads_running_max, queues.reads_waiting_max, "too many reads wait already"),
            streams: Arc::new(Semaphore::new(config.connections.streams_max)),
            ending,
            bodies_bytes: Arc::new(Semaphore::new(config.bodies_bytes_max.min(Semaphore::MAX_PERMITS))),
            processor: service::Processor::new(),
            config,
        }
    }
}
