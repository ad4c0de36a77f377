//! nats-servers on loopback, as a cluster of their own or one alone, killed and started again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::proxy::{Line, Proxy};

/// Set where these tests must not be skipped.
const REQUIRED: &str = "FAISS_PROXY_NATS_REQUIRED";

/// `None`, and says so, where there is no nats-server and none can be installed.
pub fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/nats-server");
        let output = Command::new(script).stdin(Stdio::null()).output().unwrap();
        output.status.success().then(|| PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end()))
    });
    if found.is_none() {
        assert!(std::env::var_os(REQUIRED).is_none(), "{REQUIRED} is set, and there is no nats-server: run scripts/nats-server");
        // Past the capture of what a test prints that does not fail.
        let _ =
            std::io::stderr().write_all(b"\n*** NOT TESTED: nodes. There is no nats-server; scripts/nats-server says why. ***\n");
    }
    found.as_deref()
}

/// Killed when it is dropped.
pub struct Nats {
    program: &'static Path,
    config: PathBuf,
    child: Child,
}

impl Nats {
    fn start(program: &'static Path, config: PathBuf) -> Self {
        let child = spawn(program, &config);
        Self { program, config, child }
    }

    /// kill -9, and the same server again.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.program, &self.config);
    }
}

impl Nats {
    /// The same with another configuration: this in the place of that.
    pub fn restart_with(&mut self, old: &str, new: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(text.contains(old), "{text}");
        crate::write_file(&self.config, &text.replace(old, new));
        self.kill_and_restart();
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Until it says that it is ready; a cluster may have no leader yet.
fn spawn(program: &Path, config: &Path) -> Child {
    let mut child =
        Command::new(program).arg("--config").arg(config).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said: Vec<String> = lines.by_ref().map_while(Result::ok).take_while(|line| !line.contains("Server is ready")).collect();
    let is_running = child.try_wait().unwrap().is_none();
    assert!(is_running, "a nats-server that ended: {said:#?}");
    // It would stop at a pipe that nobody reads.
    std::thread::spawn(move || lines.count());
    child
}

/// So many servers, and what `--nats` and `--nats-monitor` say of them.
pub struct Servers {
    pub servers: Vec<Nats>,
    pub urls: String,
    pub monitors: String,
    /// Where each takes clients.
    pub clients: Vec<SocketAddr>,
    /// The lines from one to another, where they are not connected directly.
    routes: Vec<(usize, usize, Proxy)>,
    _directory: TempDir,
}

/// How servers are started.
pub struct Settings<'a> {
    pub jetstream: &'a str,
    /// Whether each reaches each other by a line that can be cut. They tell nobody of each other then, neither clients nor servers: what
    /// they would tell is the way around the line.
    pub is_cuttable: bool,
    /// Where the first keeps its streams.
    pub first_store: Option<&'a Path>,
    /// Lines of the configuration.
    pub more: &'a str,
}

impl Default for Settings<'_> {
    fn default() -> Self {
        Self { jetstream: "sync_interval: always", is_cuttable: false, first_store: None, more: "" }
    }
}

impl Servers {
    pub fn start(count: usize) -> Option<Self> {
        Self::start_with(count, &Settings::default())
    }

    pub fn start_with(count: usize, settings: &Settings<'_>) -> Option<Self> {
        let program = program()?;
        let directory = tempfile::tempdir().unwrap();
        // Ports that stay the same when a server is started again.
        let ports: Vec<[u16; 3]> = free_ports(count * 3).as_chunks().0.to_vec();
        let pairs = || (0..count).flat_map(|from| (0..count).map(move |to| (from, to))).filter(|(from, to)| from != to);
        let routes: Vec<(usize, usize, Proxy)> = if settings.is_cuttable {
            pairs().map(|(from, to)| (from, to, Proxy::start(local(ports[to][1])))).collect()
        } else {
            Vec::new()
        };
        let start = |(at, [client, route, monitor]): (usize, &[u16; 3])| {
            let store = directory.path().join(format!("store-{at}"));
            let store = settings.first_store.filter(|_| at == 0).unwrap_or(&store);
            let Settings { jetstream, more, .. } = settings;
            let mut text = format!(
                "server_name: nats-{at}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
                 jetstream {{ store_dir: {store:?}, {jetstream} }}\n{more}"
            );
            if count > 1 {
                let mut others: Vec<u16> = ports.iter().map(|ports| ports[1]).collect();
                let mut more = "";
                if settings.is_cuttable {
                    let own = routes.iter().filter(|(from, ..)| *from == at);
                    others = own.map(|(.., proxy)| proxy.address.port()).collect();
                    // Nobody is at the address that it tells other servers.
                    more = ", no_advertise: true, advertise: \"127.0.0.1:1\"";
                }
                let others: Vec<String> = others.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
                let others = others.join(", ");
                text += &format!("cluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: [{others}]{more} }}\n");
            }
            let config = directory.path().join(format!("nats-{at}.conf"));
            crate::write_file(&config, &text);
            Nats::start(program, config)
        };
        let servers = ports.iter().enumerate().map(start).collect();
        let urls = |scheme: &str, of: fn(&[u16; 3]) -> u16| {
            ports.iter().map(|ports| format!("{scheme}://127.0.0.1:{}", of(ports))).collect::<Vec<_>>().join(",")
        };
        let (urls, monitors) = (urls("nats", |ports| ports[0]), urls("http", |ports| ports[2]));
        let clients = ports.iter().map(|ports| local(ports[0])).collect();
        Some(Self { servers, urls, monitors, clients, routes, _directory: directory })
    }

    /// All lines between this one and the others.
    pub fn set_routes(&self, server: usize, line: Line) {
        for (from, to, proxy) in &self.routes {
            if [*from, *to].contains(&server) {
                proxy.set(line);
            }
        }
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Somebody else may take one before it is used: a server says so, and the test fails.
pub fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
