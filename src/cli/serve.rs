//! `faiss-proxy serve`: the server.

mod cluster;
mod limits;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::value_parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::logging::LogArguments;
use super::{Failure, key};
use crate::api::{self, ApiKeys, BackupConfig, Connections, Gate, Queues, ServerConfig, Tls};
use crate::backup::Location;
use crate::config::Limits;
use crate::engine::snapshots::Sharing;
use crate::engine::{Opening, Store, StoreOptions};
use crate::segment::faiss;
use crate::types::IndexCounts;

const KEYS_VARIABLE: &str = "FAISS_PROXY_API_KEYS";

/// Clap's name of the option that has the keys: no value of it is ever shown.
pub const API_KEYS: &str = "api_keys";

/// Serve the store over HTTP.
///
/// API keys come from a file of their hashes, which `faiss-proxy key new` makes and SIGHUP has read again, and from the environment variable
/// FAISS_PROXY_API_KEYS, as `key1:tenant1,key2:tenant2`, or from the file of options.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A file of TOML that has these options too, each under its name, with '_' for '-'. The command line and the environment go before it.
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_CONFIG")]
    config: Option<PathBuf>,
    /// API keys, each with the tenant that it opens: key1:tenant1,key2:tenant2; in a file an array of strings. A tenant sees only its own indices.
    #[arg(long, id = API_KEYS, value_name = "KEYS", env = KEYS_VARIABLE, hide = true, hide_env_values = true)]
    api_keys: Option<String>,
    /// Address and port; port 0 takes any that is free.
    #[arg(long, value_name = "ADDR", env = "FAISS_PROXY_LISTEN", default_value = "127.0.0.1:8000")]
    listen: String,
    /// Address and port of a second listener, for operators: /metrics, /admin/indices, /admin/tenants, of all tenants, in clear and without a key. Keep it to
    /// a network that only operators reach.
    #[arg(long, value_name = "ADDR", env = "FAISS_PROXY_OPERATORS_LISTEN")]
    operators_listen: Option<String>,
    /// Where the data is; created where it is absent.
    #[arg(long, value_name = "DIR", env = "FAISS_DATA_DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// A file with hashes of API keys, as `faiss-proxy key new` makes it.
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_KEY_FILE")]
    key_file: Option<PathBuf>,
    /// Requests with a wrong API key that an address may send in a minute, before it is turned away with any key. 0: any number, for a server behind a
    /// proxy, from which all come.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_KEY_FAILURES_PER_MINUTE", default_value_t = 60)]
    key_failures_per_minute: u32,
    /// The server's certificate, in PEM, with those that vouch for it behind it: with it, only TLS is spoken. SIGHUP has it read again.
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM.
    #[arg(long, value_name = "FILE", env = "FAISS_PROXY_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// When an index is recovered: each at its first use, or all of them before the server listens.
    #[arg(long, value_enum, value_name = "WHEN", env = "FAISS_PROXY_OPENING", default_value_t = OpeningArgument::Lazy)]
    opening: OpeningArgument,
    /// Memory that open indices may take together, in MiB, without what is mapped from files; past it those that were not used for longest
    /// are closed until their next use. 0: no limit.
    #[arg(long, value_name = "MIB", env = "FAISS_PROXY_MEMORY_BUDGET_MB", default_value_t = 0)]
    memory_budget_mb: u64,
    /// Memory of the process's own, in MiB, from which on it takes no more points, while searches and deletes go on; nine tenths of what the machine or its control group has
    /// where it is not said. 0: no limit.
    #[arg(long, value_name = "MIB", env = "FAISS_PROXY_MEMORY_MAX_MB")]
    memory_max_mb: Option<u64>,
    /// Open indices of which /metrics tells each for itself: those with the most points.
    #[arg(long, value_name = "COUNT", env = "FAISS_PROXY_METRICS_INDICES_MAX", default_value_t = ServerConfig::METRICS_INDICES_MAX)]
    metrics_indices_max: usize,
    /// Threads that build one FAISS index; half of the processors where it is not said.
    #[arg(long, value_name = "THREADS", env = "FAISS_PROXY_BUILD_THREADS", value_parser = value_parser!(u16).range(1..=1024))]
    build_threads: Option<u16>,
    /// Memory that one index of type auto may take before its vectors are quantised, in MiB.
    #[arg(long, value_name = "MIB", env = "FAISS_PROXY_AUTO_MEMORY_MB", default_value_t = Limits::default().auto_memory_bytes >> 20)]
    auto_memory_mb: u64,
    /// Where backups go: a directory, or s3://, gs:// or az:// with a bucket and a prefix. Without it this server makes none.
    #[arg(long, value_name = "URL", env = "FAISS_PROXY_BACKUP_TO", value_parser = |text: &str| Location::parse("--backup-to", text))]
    backup_to: Option<Location>,
    /// Back every index up, so many seconds after the last time.
    #[arg(long, value_name = "SECONDS", env = "FAISS_PROXY_BACKUP_EVERY")]
    backup_every: Option<NonZeroU32>,
    /// What a backup reads and writes a second at most.
    #[arg(long, value_name = "BYTES", env = "FAISS_PROXY_BACKUP_MAX_BYTES_PER_SECOND")]
    backup_max_bytes_per_second: Option<NonZeroU64>,
    /// For trying it out: takes the keys test-key-1 (of tenant-1) and test-key-2 (of tenant-2), and only loopback addresses.
    #[arg(long)]
    dev: bool,
    #[command(flatten)]
    log: LogArguments,
    #[command(flatten)]
    cluster: cluster::ClusterArguments,
    #[command(flatten)]
    limits: limits::LimitArguments,
    #[command(flatten)]
    queues: Queues,
    #[command(flatten)]
    connections: Connections,
}

impl Arguments {
    /// Where the server listens, as it was said.
    pub fn listen(&self) -> &str {
        &self.listen
    }

    pub fn log(&self) -> &LogArguments {
        &self.log
    }

    pub fn speaks_tls(&self) -> bool {
        self.tls_cert.is_some()
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OpeningArgument {
    Eager,
    Lazy,
}

/// What is made of the options before anything is opened.
#[derive(Debug)]
pub struct Prepared {
    keys: ApiKeys,
    addresses: Vec<SocketAddr>,
    operators: Option<Vec<SocketAddr>>,
    backups: Option<BackupConfig>,
    tls: Option<Tls>,
}

/// Checks the options, each for itself and together.
///
/// # Errors
/// All that is wrong with them.
pub fn prepare(arguments: &Arguments) -> Result<Prepared, Vec<String>> {
    let keys = keys(arguments);
    let operators = arguments.operators_listen.as_deref().map(|listen| addresses("--operators-listen", listen, arguments.dev));
    let addresses = addresses("--listen", &arguments.listen, arguments.dev);
    let backups = backups(arguments);
    let tls = tls(arguments);
    let limits: Vec<String> = arguments
        .limits
        .problems()
        .chain(arguments.log.problem())
        .chain(arguments.cluster.problem())
        .chain(tls_between_nodes(arguments))
        .collect();
    match (keys, addresses, operators.transpose(), backups, tls) {
        (Ok(keys), Ok(addresses), Ok(operators), Ok(backups), Ok(tls)) if limits.is_empty() => {
            Ok(Prepared { keys, addresses, operators, backups, tls })
        }
        (keys, addresses, operators, backups, tls) => {
            let problems = [keys.err(), addresses.err(), operators.err(), backups.err(), tls.err()];
            Err(problems.into_iter().flatten().chain(limits).collect())
        }
    }
}

fn tls_between_nodes(arguments: &Arguments) -> Option<String> {
    let is_wrong = arguments.speaks_tls() && arguments.cluster.is_forwarded_to();
    is_wrong.then(|| {
        "--tls-cert: says that only TLS is spoken, and with --placement hash:R the other nodes send requests in clear".to_owned()
    })
}

/// Serves until SIGTERM or SIGINT, then finishes what runs, checkpoints and returns.
///
/// # Errors
/// Where it cannot start, or the last checkpoint failed.
pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Prepared { keys, addresses, operators, backups, tls } =
        prepare(&arguments).map_err(|problems| Failure::new(problems.join("\n")))?;
    let tenants = keys.tenants().cloned().collect::<BTreeSet<_>>();
    raise_descriptor_limit();
    limit_arenas();
    let limits = store_limits(&arguments);
    let reached = arguments.cluster.reach(&limits)?;
    let store = open(&arguments, limits, reached.as_ref().map(|reached| reached.sharing.clone()))?;
    for tenant in &tenants {
        let IndexCounts { serving, not_verified, refused } = store.counts(Some(tenant));
        tracing::info!(%tenant, serving, not_verified, refused, "indices");
        for (id, reason) in store.refused(tenant) {
            tracing::error!(%tenant, index = %id, %reason, "an index refuses; the others serve");
        }
    }
    // One more closes the store.
    let threads = arguments.queues.threads() + 1;
    let runtime = Builder::new_multi_thread().max_blocking_threads(threads).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("cannot start threads: {error}")))?;
    let gate = Gate::new(keys, arguments.key_failures_per_minute);
    let limits = store.limits().clone();
    let (queues, connections) = (arguments.queues.clone(), arguments.connections.clone());
    let config = ServerConfig::new(gate, arguments.data_dir.clone());
    let slow_call = arguments.log.slow_call();
    let memory_bytes_max = arguments.memory_max_mb.map_or(config.memory_bytes_max, |mib| mib.saturating_mul(1 << 20));
    let metrics_indices_max = arguments.metrics_indices_max;
    let snapshots = reached.as_ref().and_then(|reached| reached.snapshots.clone());
    let config = ServerConfig { backups, snapshots, tls, limits, queues, connections, slow_call, ..config };
    let config = ServerConfig { memory_bytes_max, metrics_indices_max, ..config };
    let config = arguments.limits.set_server(config);
    let served = serve(&runtime, Arc::clone(&store), config, &addresses, operators.as_deref(), arguments);
    // Also where it could not serve: what recovery replayed is then checkpointed once, and not replayed at every attempt.
    let closed = close(&runtime, store);
    // A request that did not end in time may still hold a thread, and must not hold up the end.
    runtime.shutdown_background();
    if let Some(reached) = reached {
        reached.leave();
    }
    served.and(closed)
}

/// Every index that was written to since it was opened holds a file of its log open, and every connection a socket: 1,024, which many
/// systems begin with for programs that use `select`, is few. What an administrator allows is the hard limit.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => tracing::debug!(before = ?limit.current, now = ?limit.maximum, "files that can be open at one time"),
        Err(error) => tracing::warn!(%error, limit = ?limit.current, "cannot raise how many files can be open at one time"),
    }
}

/// glibc gives threads arenas of their own, eight for each processor, and a free page of one arena is of no use to the others: under churn the
/// process grows to what each of its threads once needed, one after the other (docs/performance.md). Here small blocks are each thread's own anyway
/// and most threads wait for the disk: one arena for two processors is enough.
fn limit_arenas() {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    faiss::limit_arenas(processors / 2);
}

fn backups(arguments: &Arguments) -> Result<Option<BackupConfig>, String> {
    let Some(to) = arguments.backup_to.clone() else {
        return match arguments {
            Arguments { backup_every: Some(_), .. } => Err("--backup-every: says nothing without --backup-to".to_owned()),
            Arguments { backup_max_bytes_per_second: Some(_), .. } => {
                Err("--backup-max-bytes-per-second: says nothing without --backup-to".to_owned())
            }
            _ => Ok(None),
        };
    };
    // Now, and not when the first backup is due.
    to.open("--backup-to").map_err(|error| error.to_string())?;
    let every = arguments.backup_every.map(|seconds| Duration::from_secs(seconds.get().into()));
    Ok(Some(BackupConfig { to, every, bytes_per_second: arguments.backup_max_bytes_per_second }))
}

/// The keys that are good: of the environment variable, and of the file as it is now.
fn keys(arguments: &Arguments) -> Result<ApiKeys, String> {
    let list = arguments.api_keys.as_deref().unwrap_or_default();
    let mut keys: ApiKeys = list.parse().map_err(|problem| format!("{KEYS_VARIABLE} ({API_KEYS} in a file): {problem}"))?;
    if let Some(path) = &arguments.key_file {
        let read = key::read(path).map_err(|error| error.to_string())?;
        keys.extend(ApiKeys::of_file(&read).map_err(|problem| format!("{}: {problem}", path.display()))?);
    }
    if arguments.dev {
        keys.extend(ApiKeys::for_development());
    }
    if keys.is_empty() {
        return Err(format!(
            "no API keys: make one with faiss-proxy key new and name its file with --key-file, set {KEYS_VARIABLE} to \
             key1:tenant1,key2:tenant2, or try it out with --dev"
        ));
    }
    Ok(keys)
}

/// Two files in PEM, as they are now.
struct Certificate {
    chain: Vec<u8>,
    key: Vec<u8>,
}

#[expect(clippy::disallowed_methods, reason = "they are none of the store's files")]
fn certificate(arguments: &Arguments) -> Result<Option<Certificate>, String> {
    let read = |flag: &str, path: &PathBuf| std::fs::read(path).map_err(|error| format!("{flag}: {}: {error}", path.display()));
    match (&arguments.tls_cert, &arguments.tls_key) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => Ok(Some(Certificate { chain: read("--tls-cert", chain)?, key: read("--tls-key", key)? })),
        _ => Err("--tls-cert and --tls-key: one needs the other".to_owned()),
    }
}

fn tls(arguments: &Arguments) -> Result<Option<Tls>, String> {
    let tls = certificate(arguments)?.map(|Certificate { chain, key }| Tls::new(&chain, &key)).transpose();
    tls.map_err(wrong_certificate)
}

fn wrong_certificate(problem: String) -> String {
    format!("--tls-cert, --tls-key: {problem}")
}

fn addresses(flag: &str, listen: &str, dev: bool) -> Result<Vec<SocketAddr>, String> {
    let addresses: Vec<SocketAddr> = listen
        .to_socket_addrs()
        .map_err(|error| format!("{flag} {listen:?} is no address like 127.0.0.1:8000: {error}"))?
        .collect();
    if dev && !addresses.iter().all(|address| address.ip().is_loopback()) {
        return Err(format!("--dev has keys that everybody knows, and listens on loopback addresses only, not on {listen}"));
    }
    Ok(addresses)
}

fn store_limits(arguments: &Arguments) -> Limits {
    let default = arguments.limits.set(Limits::default());
    Limits {
        reserve_bytes: Limits::SERVER_RESERVE_BYTES,
        memory_budget_bytes: arguments.memory_budget_mb.saturating_mul(1 << 20),
        build_threads: arguments.build_threads.map_or(default.build_threads, usize::from),
        auto_memory_bytes: arguments.auto_memory_mb.saturating_mul(1 << 20),
        ..default
    }
}

fn open(arguments: &Arguments, limits: Limits, sharing: Option<Sharing>) -> Result<Arc<Store>, Failure> {
    let Arguments { data_dir, opening, .. } = arguments;
    let opening = match opening {
        OpeningArgument::Eager => Opening::Eager,
        OpeningArgument::Lazy => Opening::Lazy,
    };
    let options = StoreOptions { limits, opening, ..StoreOptions::new(data_dir) };
    let store = Store::open_with(options, sharing);
    let store = store.map_err(|error| Failure::new(format!("cannot open {}: {error}", data_dir.display())))?;
    tracing::info!(data_dir = %data_dir.display(), "the data directory is open");
    Ok(Arc::new(store))
}

fn serve(
    runtime: &Runtime,
    store: Arc<Store>,
    config: ServerConfig,
    addresses: &[SocketAddr],
    operators: Option<&[SocketAddr]>,
    arguments: Arguments,
) -> Result<(), Failure> {
    runtime.block_on(async {
        let listener = listen(addresses).await?;
        let operators = match operators {
            Some(addresses) => Some(listen(addresses).await?),
            None => None,
        };
        let shutdown = shutdown().map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let reload = reload(config.gate.clone(), config.tls.clone(), arguments);
        reload.map_err(|error| Failure::new(format!("cannot wait for signals: {error}")))?;
        let address = listener.local_addr().map_err(|error| Failure::new(format!("cannot tell the address: {error}")))?;
        tracing::info!(%address, "listening");
        announce(&format!("on {scheme}"), address);
        if let Some(address) = operators.as_ref().and_then(|operators| operators.local_addr().ok()) {
            tracing::info!(%address, "listening for operators");
            announce("for operators on http", address);
        }
        api::serve(store, config, listener, operators, shutdown).await;
        Ok(())
    })
}

async fn listen(addresses: &[SocketAddr]) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(addresses).await;
    listener.map_err(|error| Failure::new(format!("cannot listen on {addresses:?}: {error}")))
}

/// At every SIGHUP from now on, has the keys and the certificate read again. Where one is wrong, that of before stays good.
fn reload(gate: Gate, tls: Option<Tls>, arguments: Arguments) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match keys(&arguments) {
                Ok(keys) => {
                    tracing::info!(?keys, "SIGHUP: these keys are good from now on");
                    gate.replace(keys);
                }
                Err(error) => tracing::error!(%error, "SIGHUP: the keys of before stay good"),
            }
            let replace = |tls: &Tls| match certificate(&arguments)? {
                Some(Certificate { chain, key }) => tls.replace(&chain, &key).map_err(wrong_certificate),
                None => Ok(()),
            };
            match tls.as_ref().map(replace) {
                Some(Ok(())) => tracing::info!("SIGHUP: connections that come are shown this certificate from now on"),
                Some(Err(error)) => tracing::error!(%error, "SIGHUP: the certificate of before stays"),
                None => {}
            }
        }
    });
    Ok(())
}

/// On standard output, for whoever started the server with port 0. Nobody may be reading it.
fn announce(what: &str, address: SocketAddr) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = writeln!(stdout, "listening {what}://{address}").and_then(|()| stdout.flush()) {
        tracing::debug!(%error, "standard output");
    }
}

/// Ready at the first SIGTERM or SIGINT. The second ends the process at once.
fn shutdown() -> std::io::Result<impl Future<Output = ()>> {
    let (first, is_first) = oneshot::channel();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!("{name}: shutting down; a second one ends the process at once");
        // The receiver is gone only when the server has ended already.
        let _ = first.send(());
        let name = next().await;
        tracing::warn!("{name} again: ending at once; what was acknowledged is in the log");
        process::exit(130);
    });
    Ok(async move {
        let _ = is_first.await;
    })
}

fn close(runtime: &Runtime, store: Arc<Store>) -> Result<(), Failure> {
    // On a thread of the runtime's, so that the second signal is still heard.
    match runtime.block_on(runtime.spawn_blocking(move || store.close())) {
        Ok(Ok(())) => {
            tracing::info!("closed");
            Ok(())
        }
        Ok(Err(error)) => Err(Failure::new(format!("the last checkpoint failed: {error}"))),
        Err(error) => Err(Failure::new(format!("the last checkpoint failed: {error}"))),
    }
}
