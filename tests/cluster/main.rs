//! Nodes as processes, and nats-servers, on loopback: what one node is asked, all of them have, whoever of them is killed.

mod access;
#[path = "../processes/disk.rs"]
#[allow(dead_code, reason = "a node needs a disk that is full, and no other")]
mod disk;
mod faults;
mod full;
mod history;
mod load;
mod nats;
mod placement;
#[path = "../http/program.rs"]
mod program;
mod proxy;
#[path = "../support/mod.rs"]
mod record;
#[cfg(feature = "cloud")]
#[path = "../support/s3.rs"]
mod s3;
mod snapshots;
#[path = "../processes/supervisor.rs"]
#[allow(dead_code, reason = "disks are compiled with it")]
mod supervisor;
#[path = "../http/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nats::{Servers, Settings};
use program::{ServerProcess, program, refusal};
use proxy::{Line, Proxy};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Call, KEY};
use tempfile::TempDir;

#[expect(clippy::disallowed_methods, reason = "it is no file of a store's")]
fn write_file(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// A server that can be killed and started again, with its directory or without.
struct Node {
    directory: TempDir,
    urls: String,
    replicas: usize,
    /// What else it is started with.
    more: Vec<String>,
    variables: Vec<(&'static str, String)>,
    /// Its lines to the servers, in their order, where it does not reach them directly.
    lines: Vec<Proxy>,
    process: ServerProcess,
}

impl Node {
    fn start(servers: &Servers) -> Self {
        Self::start_with(servers, &[])
    }

    fn start_with(servers: &Servers, more: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), servers, Vec::new(), more, Vec::new())
    }

    /// One that can be cut off.
    fn start_cuttable(servers: &Servers) -> Self {
        let lines = servers.clients.iter().map(|&server| Proxy::start(server)).collect();
        Self::start_in(tempfile::tempdir().unwrap(), servers, lines, &[], Vec::new())
    }

    fn start_in(
        directory: TempDir,
        servers: &Servers,
        lines: Vec<Proxy>,
        more: &[&str],
        variables: Vec<(&'static str, String)>,
    ) -> Self {
        let replicas = servers.servers.len();
        let urls: Vec<String> = lines.iter().map(|line| format!("nats://{}", line.address)).collect();
        let urls = if lines.is_empty() { servers.urls.clone() } else { urls.join(",") };
        let process = ServerProcess::start(serve_with(directory.path(), &urls, replicas, more).envs(variables.clone()));
        let more = more.iter().map(ToString::to_string).collect();
        Self { directory, urls, replicas, more, variables, lines, process }
    }

    /// kill -9, and the same node again.
    fn kill_and_restart(&mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
        self.restart();
    }

    fn set_lines(&self, line: Line) {
        self.lines.iter().for_each(|proxy| proxy.set(line));
    }

    /// Ends it in good order.
    fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        assert_eq!(self.process.child.wait().unwrap().code(), Some(0));
    }

    /// What the directory of a node that was stopped has: LSN, points and state digest of each index.
    fn verified(&self) -> BTreeMap<String, [String; 3]> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
        command.args(["verify", "--json", "--data-dir"]).arg(self.directory.path());
        let output = program::without_settings(&mut command).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        let lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| (line["index"].to_string(), ["lsn", "points", "digest"].map(|field| line[field].to_string()))).collect()
    }

    fn restart(&mut self) {
        let more: Vec<&str> = self.more.iter().map(String::as_str).collect();
        let mut command = serve_with(self.directory.path(), &self.urls, self.replicas, &more);
        self.process = ServerProcess::start(command.envs(self.variables.clone()));
    }

    /// The same, and its disk is lost with it.
    fn lose_disk_and_restart(&mut self) {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
        self.directory = tempfile::tempdir().unwrap();
        self.restart();
    }

    fn call(&self, method: &str, path: &str) -> Call {
        self.process.call(method, path).key(KEY)
    }

    fn get(&self, path: &str) -> Value {
        let response = self.call("GET", path).send();
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// Every point of an index, and the LSN that they are of.
    fn points(&self, index: &str, min_lsn: u64) -> (Vec<Value>, u64) {
        let (mut points, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = format!("{index}/vectors?limit=1000&include_values=true&min_lsn={min_lsn}{cursor}");
            let page = self.get(&page);
            points.extend(page["vectors"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return (points, page["lsn"].as_u64().unwrap()),
            }
        }
    }
}

fn serve(directory: &Path, urls: &str, replicas: usize) -> std::process::Command {
    serve_with(directory, urls, replicas, &[])
}

/// With any free port, where it is not said which.
fn serve_with(directory: &Path, urls: &str, replicas: usize, more: &[&str]) -> std::process::Command {
    let mut command = program(directory);
    command.args(["--dev", "--nats", urls, "--nats-replicas", &replicas.to_string()]).args(more);
    if !more.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command
}

fn start(directory: &Path, urls: &str, replicas: usize) -> ServerProcess {
    ServerProcess::start(&mut serve(directory, urls, replicas))
}

fn create(node: &Node, name: &str) -> String {
    let response = node.call("POST", "/v1/index").json(&json!({"name": name, "dimension": 2, "index_type": "Flat"})).send();
    assert_eq!(response.status, 201, "{response:?}");
    format!("/v1/index/{}", response.json()["id"].as_str().unwrap())
}

/// The LSN of the write.
fn put(node: &Node, index: &str, id: &str, value: f32) -> u64 {
    let body = json!({"vectors": [{"id": id, "values": [value, 1.0], "metadata": {"value": value}}]});
    let response = node.call("POST", &format!("{index}/vectors")).json(&body).send();
    assert_eq!(response.status, 201, "{response:?}");
    response.json()["lsn"].as_u64().unwrap()
}

/// Stops nodes in good order, and holds their directories against each other.
fn stop_and_compare(nodes: &mut [Node]) {
    nodes.iter_mut().for_each(Node::stop);
    let first = nodes[0].verified();
    assert!(!first.is_empty() && first.values().flatten().all(|told| told != "null"), "{first:?}");
    for node in &nodes[1..] {
        assert_eq!(node.verified(), first);
    }
}

#[test]
fn what_one_node_is_told_every_node_answers() {
    let Some(servers) = Servers::start(1) else { return };
    let (a, mut b) = (Node::start(&servers), Node::start(&servers));
    let index = create(&a, "first");
    let lsn = put(&a, &index, "x", 1.0);
    // It may not have been told of the index yet.
    assert_eq!(b.get(&format!("{index}/vectors/x?min_lsn={lsn}"))["metadata"]["value"], 1.0);
    let search = json!({"vector": [2.0, 1.0], "k": 5});
    let lsn = put(&b, &index, "y", 2.0);
    for node in [&a, &b] {
        let found = node.call("POST", &format!("{index}/search?min_lsn={lsn}")).json(&search).send().json();
        assert_eq!(found["results"][0]["id"], "y", "{found}");
        assert_eq!(node.get(&format!("{index}?min_lsn={lsn}"))["vector_count"], 2);
    }
    let ahead = a.call("GET", &format!("{index}/ntotal?min_lsn={}", lsn + 1)).send();
    assert_eq!(ahead.problem(422).0, "lsn_ahead");

    let renamed = b.call("PATCH", &index).json(&json!({"name": "second"})).send();
    assert_eq!(renamed.status, 200, "{renamed:?}");
    // One that begins after a change has it.
    b.lose_disk_and_restart();
    let document = b.get(&format!("{index}?min_lsn={lsn}"));
    assert_eq!((&document["name"], &document["vector_count"], &document["lsn"]), (&json!("second"), &json!(2), &json!(lsn)));
    assert_eq!(a.points(&index, lsn), b.points(&index, lsn));

    assert_eq!(a.call("DELETE", &index).send().status, 204);
    b.kill_and_restart();
    assert_eq!(b.call("GET", &index).send().status, 404);
    assert_eq!(b.get("/v1/index")["indices"], json!([]));
}

#[test]
fn a_directory_is_a_nodes_or_one_servers_and_not_both() {
    let Some(servers) = Servers::start(1) else { return };
    let node = Node::start(&servers);
    let index = create(&node, "shared");
    put(&node, &index, "x", 1.0);
    let Node { directory, process, urls, .. } = node;
    drop(process);
    let alone = ServerProcess::start(program(directory.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let refused = alone.call("GET", &index).key(KEY).send();
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("other nodes write to the log"), "{refused:?}");
    let response = alone.call("POST", "/v1/index").key(KEY).json(&json!({"name": "own", "dimension": 2})).send();
    let own = format!("/v1/index/{}", response.json()["id"].as_str().unwrap());
    drop(alone);
    let node = start(directory.path(), &urls, 1);
    assert_eq!(node.call("GET", &format!("{index}/ntotal")).key(KEY).send().status, 200);
    let refused = node.call("GET", &own).key(KEY).send();
    assert!(refused.status == 503 && refused.body.contains("export it"), "{refused:?}");
}

#[test]
fn a_node_that_cannot_be_one_does_not_start() {
    let directory = tempfile::tempdir().unwrap();
    let said = refusal(&mut serve(directory.path(), "http://127.0.0.1:1", 1));
    assert!(said.contains("--nats") && said.contains("nats://localhost:4222"), "{said}");
    let Some(servers) = Servers::start(1) else { return };
    let said = refusal(&mut serve(directory.path(), &servers.urls, 3));
    assert!(said.contains("--nats") && said.contains("replicas"), "{said}");
}

#[test]
fn a_nats_server_that_does_not_sync_what_it_acknowledges_is_warned_of() {
    let said = |jetstream: &str| {
        let servers = Servers::start_with(1, &Settings { jetstream, ..Settings::default() })?;
        let directory = tempfile::tempdir().unwrap();
        let monitors = format!("{},http://127.0.0.1:1", servers.monitors);
        let mut command = serve(directory.path(), &servers.urls, 1);
        let node = ServerProcess::try_start_logging(command.args(["--nats-monitor", &monitors]), Stdio::piped());
        let mut node = node.unwrap_or_else(|said| panic!("{said}"));
        let log = node.child.stderr.take().unwrap();
        drop(node);
        Some(std::io::read_to_string(log).unwrap())
    };
    let Some(said_of_always) = said("sync_interval: always") else { return };
    let said_of_default = said("sync_interval: 2m").unwrap();
    let warning = "acknowledges messages before they are on its disk";
    assert!(!said_of_always.contains(warning) && said_of_default.contains(warning), "{said_of_always}{said_of_default}");
    // Of one that does not answer it is said that nothing can be seen.
    for said in [said_of_always, said_of_default] {
        assert_eq!(said.matches("cannot see whether this nats-server syncs").count(), 1, "{said}");
    }
}
