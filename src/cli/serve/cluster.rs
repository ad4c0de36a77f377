//! Whether the server is a node of a cluster, as options: then its log is on NATS JetStream, and other nodes append to it too.

use std::sync::Arc;

use clap::value_parser;
use tokio::runtime::{Builder, Runtime};

use super::super::Failure;
use crate::config::Limits;
use crate::wal::cluster::Cluster;
use crate::wal::jetstream::cluster::JetStream;
use crate::wal::jetstream::connection::Patience;

/// Under which `--help` shows them. In a file they are a table of this name, in small letters.
const HEADING: &str = "Cluster";

/// What makes the server a node: with `--nats` every write is in a replicated log before it is answered, and the data directory is this node's copy.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub struct ClusterArguments {
    /// NATS servers with JetStream, nats://HOST:4222, with commas between them: the log is there, and every server that is given them has the same
    /// indices. Without it the log is in files of this machine.
    #[arg(long, value_name = "URLS", env = "FAISS_PROXY_NATS", value_delimiter = ',')]
    nats: Vec<String>,
    /// NATS servers that have each message, of those that make the streams: a majority has it before a write is answered.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_NATS_REPLICAS", value_parser = value_parser!(u8).range(1..=5), default_value_t = 3)]
    nats_replicas: u8,
}

/// The cluster, as this node reaches it.
pub struct Reached {
    pub cluster: Arc<dyn Cluster>,
    /// Drives the connection, whatever the server's own threads do.
    runtime: Runtime,
}

impl ClusterArguments {
    /// What of it cannot be.
    pub fn problem(&self) -> Option<String> {
        let is_strange = |url: &&String| url.split_once("://").is_some_and(|(scheme, _)| scheme != "nats");
        let strange = self.nats.iter().find(is_strange)?;
        Some(format!("--nats: {strange:?} is no URL like nats://localhost:4222"))
    }

    /// # Errors
    /// None of the servers answers, or they are not what is needed.
    pub fn reach(&self, limits: &Limits) -> Result<Option<Reached>, Failure> {
        if self.nats.is_empty() {
            return Ok(None);
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("nats").enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
        let urls: Vec<&str> = self.nats.iter().map(String::as_str).collect();
        let replicas = usize::from(self.nats_replicas);
        let reached = JetStream::connect(runtime.handle(), &urls, Patience::default(), replicas, limits.frame_bytes_max);
        let cluster = reached.map_err(|error| Failure::new(format!("--nats: {error}")))?;
        tracing::info!(servers = self.nats.join(","), "the log is on NATS JetStream");
        Ok(Some(Reached { cluster: Arc::new(cluster), runtime }))
    }
}

impl Reached {
    /// For when the store is closed.
    pub fn leave(self) {
        drop(self.cluster);
        self.runtime.shutdown_background();
    }
}
