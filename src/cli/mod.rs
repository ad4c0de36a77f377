//! One subcommand per file.

pub mod backup;
pub mod bench;
pub mod config;
pub mod confined;
mod directory;
pub mod export;
pub mod health;
pub mod import;
pub mod inspect;
pub mod key;
pub mod logging;
pub mod ls;
pub mod offline;
#[cfg(feature = "otlp")]
mod otlp;
pub mod read_faiss;
#[cfg(feature = "parquet")]
pub mod read_parquet;
pub mod repair;
pub mod restore;
mod scan;
pub mod selection;
pub mod serve;
mod server;
pub mod settings;
pub mod shell;
pub mod verify;

use std::fmt;
use std::io::Write as _;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use logging::Logging;
use offline::Work;
use selection::Selection;

use crate::error::Error;

/// A durable vector store server on FAISS.
#[derive(Debug, Parser)]
#[command(name = "faiss-proxy", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Arguments),
    #[command(subcommand)]
    Config(config::Work),
    /// Tell by the exit code whether the server that has these options answers: 0 where it does. For the health check of a container.
    Health(Box<serve::Arguments>),
    /// Write what is new of each index to a checkpoint, so that the next opening has no log to replay. No server may have the directory.
    Checkpoint(offline::Arguments),
    /// Rewrite each index into as few segments as may be, without dead rows, and build its FAISS indexes. No server may have the directory.
    Compact(offline::Arguments),
    /// List indices. Nothing is written.
    Ls(Selection),
    /// Tell what an index is made of: settings, segments, log. Nothing is written.
    Inspect(inspect::Arguments),
    /// Add up what each tenant has. Nothing is written.
    Stats(Selection),
    /// Read every byte of the indices and tell everything that is wrong, and a digest of what they hold. Nothing is written.
    Verify(Selection),
    /// Give up what is damaged of an index, by name, so that the rest serves again; the damaged bytes are copied aside.
    Repair(repair::Arguments),
    /// Copy what is new of each index to a repository of backups. No server may have the directory.
    Backup(backup::Arguments),
    /// Restore indices from a repository of backups, as new indices under other ids.
    Restore(restore::Arguments),
    /// Print completions for a shell.
    Completions {
        shell: Shell,
    },
    /// Write man pages into a directory.
    Man {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    Import(import::Arguments),
    Export(export::Arguments),
    Key(key::Arguments),
    Bench(Box<bench::Arguments>),
    /// Write the vectors of a FAISS index to standard output.
    #[command(hide = true)]
    ReadFaiss(confined::Confinement),
    #[cfg(feature = "parquet")]
    #[command(hide = true)]
    ReadParquet(read_parquet::Arguments),
}

impl Arguments {
    /// Logs from now on: what the server does, and of a command, which tells what it does itself, only what is wrong.
    pub fn start_logging(&self) -> Logging {
        match &self.command {
            Command::Serve(arguments) => Logging::start("info", Some(arguments.log())),
            _ => Logging::start("warn", None),
        }
    }

    /// Does what was asked for.
    ///
    /// # Errors
    /// A sentence for the person at the terminal.
    pub fn run(self, given: &settings::Given) -> Result<(), Failure> {
        match self.command {
            Command::Serve(arguments) => serve::run(arguments),
            Command::Config(work) => config::run(&work, given),
            Command::Health(arguments) => health::run(&arguments),
            Command::Checkpoint(arguments) => offline::run(Work::Checkpoint, &arguments),
            Command::Import(arguments) => import::run(&arguments),
            Command::Export(arguments) => export::run(&arguments),
            Command::Key(arguments) => key::run(arguments),
            Command::Bench(arguments) => bench::run(&arguments),
            Command::ReadFaiss(confinement) => read_faiss::run(&confinement),
            #[cfg(feature = "parquet")]
            Command::ReadParquet(arguments) => read_parquet::run(&arguments),
            Command::Compact(arguments) => offline::run(Work::Compact, &arguments),
            Command::Ls(selection) => ls::list(&selection),
            Command::Inspect(arguments) => inspect::run(&arguments),
            Command::Stats(selection) => ls::stats(&selection),
            Command::Verify(selection) => verify::run(&selection),
            Command::Repair(arguments) => repair::run(&arguments),
            Command::Backup(arguments) => backup::run(&arguments),
            Command::Restore(arguments) => restore::run(&arguments),
            Command::Completions { shell } => shell::completions(shell),
            Command::Man { directory } => shell::man(&directory),
        }
    }
}

/// Why a command ends with another exit code than 0.
#[derive(Debug)]
pub struct Failure {
    sentence: String,
    code: u8,
}

impl Failure {
    fn new(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), code: 1 }
    }

    /// With an exit code that says more than 1, "it could not be done".
    fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    pub fn code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Writes a line to standard output.
///
/// # Errors
/// Where nobody reads it any more, or the disk that it goes to is full.
fn print_line(line: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").map_err(|error| Failure::new(format!("standard output: {error}")))
}
