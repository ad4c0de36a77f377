//! The program, run as a process of its own.
#![allow(dead_code, reason = "tests/processes and tests/otlp.rs have these too, and use some")]

use std::env;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::Call;

/// The program, with nothing of this process's environment that it would look at.
pub fn program(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.args(["serve", "--data-dir"]).arg(data_dir);
    without_settings(&mut command);
    command
}

/// Takes away what it would find in the environment.
pub fn without_settings(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FAISS_")) {
        command.env_remove(name);
    }
    command.env_remove("RUST_LOG")
}

/// A server in a process of its own, killed when it is dropped.
pub struct ServerProcess {
    pub child: Child,
    pub address: SocketAddr,
}

impl ServerProcess {
    pub fn start(command: &mut Command) -> Self {
        Self::try_start(command).unwrap_or_else(|said| panic!("{said}"))
    }

    /// # Errors
    /// What it said, and how it ended, where it does not come to listen.
    pub fn try_start(command: &mut Command) -> Result<Self, String> {
        Self::try_start_logging(command, Stdio::null())
    }

    /// The same, with its log going there.
    ///
    /// # Errors
    /// As [`try_start`](Self::try_start).
    pub fn try_start_logging(command: &mut Command, log: impl Into<Stdio>) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().split_once("://").map(|(_, address)| address).and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            return Err(format!("the server said {line:?}, and then {:?}", child.wait()));
        };
        Ok(Self { child, address })
    }

    pub fn call(&self, method: &str, path: &str) -> Call {
        Call::new(self.address, method, path)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a server that must refuse to start, and gives what it said.
pub fn refusal(command: &mut Command) -> String {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut announced = String::new();
    // Ends when the server does, or has one line where it serves, and would not end.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut announced).unwrap();
    if !announced.is_empty() {
        let _ = child.kill();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), announced.as_str()), (Some(1), ""), "{said}");
    said
}
