//! Whether the server is a node of a cluster, as options: then its log is on NATS JetStream, and other nodes append to it too.

use std::fmt;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::value_parser;
use tokio::runtime::{Builder, Runtime};

use super::super::{Failure, key};
use crate::api::SnapshotConfig;
use crate::backup::{Bucket, Location, Repository, SnapshotRepository};
use crate::config::Limits;
use crate::engine::placement::Placement;
use crate::engine::snapshots::{Sharing, Snapshots};
use crate::error::Error;
use crate::wal::jetstream::access::Access;
use crate::wal::jetstream::cluster::JetStream;
use crate::wal::jetstream::connection::Patience;

/// Under which `--help` shows them. In a file they are a table of this name, in small letters.
const HEADING: &str = "Cluster";

/// For an answer of a server's monitoring.
const MONITOR_PATIENCE: Duration = Duration::from_secs(5);

/// What makes the server a node: with `--nats` every write is in a replicated log before it is answered, and the data directory is this node's copy.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = HEADING)]
pub struct ClusterArguments {
    /// NATS servers with JetStream, nats://HOST:4222, or tls://HOST:4222 where all is to be encrypted, with commas between them: the log is there, and every server that is
    /// given them has the same indices. Without it the log is in files of this machine.
    #[arg(long, value_name = "URLS", env = "FAISS_PROXY_NATS", value_delimiter = ',')]
    nats: Vec<String>,
    /// As whom the NATS servers know this one; its password is in the file of --nats-password-file.
    #[arg(long, value_name = "NAME", env = "FAISS_PROXY_NATS_USER", requires = "nats_password_file")]
    nats_user: Option<String>,
    /// File with that user's password, on its first line.
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_NATS_PASSWORD_FILE", requires = "nats_user")]
    nats_password_file: Option<PathBuf>,
    /// File of certificates (PEM) that vouch for the NATS servers. Without it, those that the system has do.
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_NATS_CA")]
    nats_ca: Option<PathBuf>,
    /// File of the certificate (PEM) by which the NATS servers know this one, where they ask for one.
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_NATS_CERT", requires = "nats_key")]
    nats_cert: Option<PathBuf>,
    /// File of that certificate's key (PEM).
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_NATS_KEY", requires = "nats_cert")]
    nats_key: Option<PathBuf>,
    /// NATS servers that have each message, of those that make the streams: a majority has it before a write is answered.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_NATS_REPLICAS", value_parser = value_parser!(u8).range(1..=5), default_value_t = 3)]
    nats_replicas: u8,
    /// Where these servers are monitored, http://HOST:8222, with commas between them: the server looks there at its start, and warns of each that does not sync a
    /// message before it acknowledges it (sync_interval: always).
    #[arg(long, value_name = "URLS", env = "FAISS_PROXY_NATS_MONITOR", value_delimiter = ',', requires = "nats")]
    nats_monitor: Vec<String>,
    /// Where the nodes keep snapshots, from which a new one begins, and below which the log is trimmed: nats: for the object store of the NATS servers, a directory that
    /// all nodes see, or s3://, gs:// or az:// with a bucket and a prefix. Without it the log keeps everything. All nodes need the same.
    #[arg(long, value_name = "URL", env = "FAISS_PROXY_SNAPSHOTS", value_parser = SnapshotsTo::parse)]
    snapshots: Option<SnapshotsTo>,
    /// How long after a round of snapshots the next one begins, more or less.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_SNAPSHOT_EVERY", default_value_t = NonZeroU32::new(3_600).expect("it is not 0"))]
    snapshot_every: NonZeroU32,
    /// Which indices this node has: all, or hash:R, and each is on R of the nodes that are alive, which the others send requests about it to. All nodes need the same.
    #[arg(long, value_name = "all|hash:R", env = "FAISS_PROXY_PLACEMENT", default_value_t = PlacementArgument::All)]
    placement: PlacementArgument,
    /// Where the other nodes reach this one, http://HOST:PORT, for --placement hash:R.
    #[arg(long, value_name = "URL", env = "FAISS_PROXY_ADVERTISE", value_parser = advertised)]
    advertise: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlacementArgument {
    All,
    /// Nodes that have an index.
    Hash(u8),
}

impl fmt::Display for PlacementArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Hash(count) => write!(f, "hash:{count}"),
        }
    }
}

impl FromStr for PlacementArgument {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if text == "all" {
            return Ok(Self::All);
        }
        let count = text.strip_prefix("hash:").and_then(|count| count.parse().ok()).filter(|count| *count > 0);
        count.map(Self::Hash).ok_or("must be all, or hash: and how many nodes have an index, as in hash:2")
    }
}

/// A node's address, as all nodes write it.
fn advertised(text: &str) -> Result<String, String> {
    let wrong = || format!("{text:?} is no URL like http://node-a.example:8000");
    if text.starts_with("https://") {
        return Err("nodes reach each other in clear: http://HOST:PORT".to_owned());
    }
    let authority = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest)).ok_or_else(wrong)?;
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    let is_name = |host: &str| {
        let is_part =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        host.split('.').all(is_part)
    };
    let is_ipv6 = |host: &str| host.strip_prefix('[').and_then(|host| host.strip_suffix(']')?.parse::<Ipv6Addr>().ok()).is_some();
    let is_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    if is_port && (is_name(host) || is_ipv6(host)) { Ok(format!("http://{authority}")) } else { Err(wrong()) }
}

/// Where snapshots go.
#[derive(Clone, Debug)]
enum SnapshotsTo {
    /// JetStream's object store.
    Nats,
    Location(Location),
}

impl SnapshotsTo {
    fn parse(text: &str) -> Result<Self, Error> {
        if text == "nats:" { Ok(Self::Nats) } else { Location::parse("--snapshots", text).map(Self::Location) }
    }

    fn open(&self, cluster: &JetStream, replicas: usize) -> Result<Box<dyn Repository>, Error> {
        match self {
            Self::Nats => Ok(Box::new(Bucket::open(cluster.connection(), replicas)?)),
            Self::Location(location) => location.open("--snapshots"),
        }
    }
}

/// The cluster, as this node reaches it.
pub struct Reached {
    pub sharing: Sharing,
    /// `None`: this node takes none.
    pub snapshots: Option<SnapshotConfig>,
    /// Drives the connection, whatever the server's own threads do.
    runtime: Runtime,
}

impl ClusterArguments {
    /// What of it cannot be.
    pub fn problem(&self) -> Option<String> {
        match (self.placement, &self.advertise) {
            (PlacementArgument::Hash(_), _) if self.nats.is_empty() => {
                return Some("--placement: says nothing without --nats: one server has all indices".to_owned());
            }
            (PlacementArgument::Hash(_), None) => {
                return Some(
                    "--placement: hash:R needs --advertise http://HOST:PORT, where the other nodes reach this one".to_owned(),
                );
            }
            (PlacementArgument::All, Some(_)) => return Some("--advertise: says nothing without --placement hash:R".to_owned()),
            _ => {}
        }
        if let Some(snapshots) = &self.snapshots {
            if self.nats.is_empty() {
                return Some("--snapshots: says nothing without --nats; --backup-to is where one server's backups go".to_owned());
            }
            // Now, and not when the first one is due.
            if let SnapshotsTo::Location(location) = snapshots
                && let Err(error) = location.open("--snapshots")
            {
                return Some(error.to_string());
            }
        }
        if self.nats.iter().any(|url| url.contains('@')) {
            return Some("--nats: give the user by --nats-user and --nats-password-file, for a URL is logged".to_owned());
        }
        let is_strange = |url: &&String| url.split_once("://").is_some_and(|(scheme, _)| !["nats", "tls"].contains(&scheme));
        let strange = self.nats.iter().find(is_strange)?;
        Some(format!("--nats: {strange:?} is no URL like nats://localhost:4222 or tls://localhost:4222"))
    }

    /// # Errors
    /// The password cannot be read.
    fn access(&self) -> Result<Access, Failure> {
        let password = self.nats_password_file.as_deref().map(key::read).transpose()?;
        let password = password.map(|text| text.lines().next().unwrap_or_default().to_owned());
        Ok(Access {
            urls: self.nats.clone(),
            user: self.nats_user.clone().zip(password),
            authorities: self.nats_ca.clone(),
            certificate: self.nats_cert.clone().zip(self.nats_key.clone()),
        })
    }

    /// Whether other nodes send requests to this one.
    pub fn is_forwarded_to(&self) -> bool {
        self.placement != PlacementArgument::All
    }

    /// # Errors
    /// None of the servers answers, or they are not what is needed.
    pub fn reach(&self, limits: &Limits) -> Result<Option<Reached>, Failure> {
        if self.nats.is_empty() {
            return Ok(None);
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("nats").enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
        let replicas = usize::from(self.nats_replicas);
        let access = self.access()?;
        let reached = JetStream::connect(runtime.handle(), &access, Patience::default(), replicas, limits.frame_bytes_max);
        let cluster = reached.map_err(|error| Failure::new(format!("--nats: {error}")))?;
        self.nats_monitor.iter().for_each(|url| warn_of_syncs(url));
        tracing::info!(servers = self.nats.join(","), "the log is on NATS JetStream");
        let every = Duration::from_secs(self.snapshot_every.get().into());
        let opened = self.snapshots.as_ref().map(|to| to.open(&cluster, replicas)).transpose();
        let opened = opened.map_err(|error| Failure::new(format!("--snapshots: {error}")))?;
        let snapshots = opened.map(|opened| SnapshotConfig { repository: Arc::new(SnapshotRepository::new(opened)), every });
        let kept = snapshots.as_ref().map(|config| Arc::clone(&config.repository) as Arc<dyn Snapshots>);
        let placement = match (self.placement, &self.advertise) {
            (PlacementArgument::Hash(count), Some(own)) => {
                let nodes = Arc::new(cluster.nodes(replicas));
                Some(Arc::new(Placement::new(nodes, own, count.into())))
            }
            _ => None,
        };
        let sharing = Sharing { cluster: Arc::new(cluster), snapshots: kept, placement };
        Ok(Some(Reached { sharing, snapshots, runtime }))
    }
}

/// A connection of a client does not tell how a server syncs; its monitoring does.
fn warn_of_syncs(url: &str) {
    match syncs_always(url) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            server = url,
            "this nats-server acknowledges messages before they are on its disk: a power cut may take what this server has acknowledged. \
             Set sync_interval: always in its jetstream"
        ),
        Err(why) => tracing::warn!(server = url, why, "cannot see whether this nats-server syncs what it acknowledges"),
    }
}

fn syncs_always(url: &str) -> Result<bool, String> {
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).timeout_global(Some(MONITOR_PATIENCE)).build().into();
    let url = format!("{}/varz", url.trim_end_matches('/'));
    let mut answer = agent.get(&url).call().map_err(|error| error.to_string())?;
    let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
    let varz: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let config = varz.pointer("/jetstream/config").ok_or("it says nothing of JetStream")?;
    Ok(config["sync_always"] == true)
}

impl Reached {
    /// For when the store is closed.
    pub fn leave(self) {
        drop((self.sharing, self.snapshots));
        self.runtime.shutdown_background();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_a_node_is_checked_and_written_one_way() {
        for (text, expected) in [
            ("http://127.0.0.1:8001", "http://127.0.0.1:8001"),
            ("http://node-a.example:8000/", "http://node-a.example:8000"),
            ("http://[::1]:8000", "http://[::1]:8000"),
        ] {
            assert_eq!(advertised(text).as_deref(), Ok(expected));
        }
        let wrong =
            ["", "node-a:8000", "http://node-a", "http://:8000", "http://a..b:80", "http://.a:80", "http://a:0", "http://a:x"];
        for wrong in
            wrong.into_iter().chain(["http://a:80/path", "http://u@a:80", "http://[::x]:80", "http://*:80", "http://a b:80"])
        {
            assert!(advertised(wrong).is_err(), "{wrong}");
        }
        assert!(advertised("https://a:80").unwrap_err().contains("in clear"));
    }

    #[test]
    fn placement_is_a_word_or_a_number_of_nodes() {
        for placement in [PlacementArgument::All, PlacementArgument::Hash(1), PlacementArgument::Hash(3)] {
            assert_eq!(placement.to_string().parse(), Ok(placement));
        }
        for wrong in ["", "hash", "hash:", "hash:0", "hash:-1", "hash:x", "ALL"] {
            assert!(wrong.parse::<PlacementArgument>().is_err(), "{wrong}");
        }
    }
}
