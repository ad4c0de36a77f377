//! The Dockerfile, the systemd unit, the Kubernetes manifests and the compose file name flags, variables and commands of the program; what they name is there. And `health`.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use rustix::process::Signal;

use crate::program::{ServerProcess, program, without_settings};

const FILES: [&str; 5] = [
    "Dockerfile",
    "deploy/systemd/faiss-proxy.service",
    "deploy/kubernetes/faiss-proxy.yaml",
    "deploy/kubernetes/cluster.yaml",
    "deploy/compose.yaml",
];

/// Of the build, and none of the program's.
const BUILD_VARIABLE: &str = "FAISS_PROXY_COMMIT";

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn run(arguments: &[&str]) -> Output {
    without_settings(&mut Command::new(env!("CARGO_BIN_EXE_faiss-proxy"))).args(arguments).output().unwrap()
}

/// The words of a file that begin with `start`, cut where no such name goes on; those in comments are left out.
fn words<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-'));
    words.filter(move |word| word.starts_with(start))
}

#[test]
fn variables_of_the_deployment_files_are_options_of_the_server() {
    let help = String::from_utf8(run(&["serve", "--help"]).stdout).unwrap();
    let mut seen = 0;
    for file in FILES {
        let text = text(file);
        for variable in words(&text, "FAISS_").filter(|variable| *variable != BUILD_VARIABLE) {
            // An option's, or the one of the keys.
            let is_known = help.contains(&format!("[env: {variable}=")) || help.contains(&format!("variable {variable},"));
            assert!(is_known, "{file}: {variable} is in no `faiss-proxy serve --help`");
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen}: are the files written in another way now?");
}

#[test]
fn command_lines_of_the_deployment_files_have_commands_and_flags_that_there_are() {
    let unit = text("deploy/systemd/faiss-proxy.service");
    let unit = unit.lines().find_map(|line| line.strip_prefix("ExecStart=faiss-proxy ")).expect("a line that starts the server");
    let docker = text("Dockerfile");
    let in_list = |line: &str| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let docker_line = |start: &str| in_list(docker.lines().find(|line| line.starts_with(start)).expect(start));
    assert_eq!(docker_line("ENTRYPOINT "), ["faiss-proxy"]);
    let health = docker_line("HEALTHCHECK ");
    let manifest = text("deploy/kubernetes/faiss-proxy.yaml");
    let arguments = manifest.lines().find_map(|line| line.trim().strip_prefix("args: [")?.strip_suffix(']')).expect("args: […]");

    // What somebody types in the night.
    let operations = text("docs/operations.md");
    let words = |line: &str| line.strip_prefix("faiss-proxy ").map(|line| line.split_whitespace().map(str::to_owned).collect());
    let typed = operations.lines().chain(operations.split('`')).filter_map(words);

    let lines: [Vec<String>; 4] = [
        unit.split(' ').map(str::to_owned).collect(),
        docker_line("CMD "),
        health[1..].to_vec(),
        arguments.split(", ").map(str::to_owned).collect(),
    ];
    for line in lines.into_iter().chain(typed) {
        let command = &line[0];
        let help = String::from_utf8(run(&[command, "--help"]).stdout).unwrap();
        assert!(help.contains(&format!("Usage: faiss-proxy {command}")), "{command} is no command");
        for flag in line.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!(" {flag} ")) || help.contains(&format!(" {flag}\n")), "{command} has no {flag}");
        }
    }
}

#[test]
fn the_options_of_the_service_are_options() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/faiss-proxy.toml");
    let printed = run(&["config", "print", "--config", file.to_str().unwrap()]);
    assert!(printed.status.success(), "{printed:?}");
    let said = String::from_utf8(printed.stdout).unwrap();
    // What the unit and its file have to agree about.
    assert!(said.contains("data_dir = \"/var/lib/faiss-proxy\""), "{said}");
    assert!(text("deploy/systemd/faiss-proxy.service").contains("\nStateDirectory=faiss-proxy\n"));
}

#[test]
fn health_tells_by_its_exit_code_whether_the_server_answers() {
    let data_dir = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(program(data_dir.path()).args(["--dev", "--listen", "127.0.0.1:0"]));
    let port = server.address.port();
    let health = |listen: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
        without_settings(&mut command).arg("health").env("FAISS_PROXY_LISTEN", listen).output().unwrap()
    };
    // As the container has it: all addresses.
    for listen in [format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}")] {
        let asked = health(&listen);
        assert_eq!((asked.status.code(), asked.stdout.len(), asked.stderr.len()), (Some(0), 0, 0), "{asked:?}");
    }
    server.signal(Signal::KILL);
    server.wait();
    let asked = health(&format!("127.0.0.1:{port}"));
    let said = String::from_utf8(asked.stderr).unwrap();
    assert_eq!(asked.status.code(), Some(1), "{said}");
    assert!(said.starts_with(&format!("faiss-proxy: http://127.0.0.1:{port}/v1/health: ")), "{said}");
}

#[test]
fn health_says_that_it_does_not_ask_a_server_that_speaks_tls() {
    let asked = run(&["health", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    assert_eq!(asked.status.code(), Some(1));
    assert!(String::from_utf8(asked.stderr).unwrap().contains("--tls-cert: "));
}
