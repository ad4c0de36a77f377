//! One subcommand per file.

mod directory;
pub mod export;
pub mod import;
pub mod offline;
pub mod read_faiss;
pub mod serve;

use std::fmt;
use std::io::Write as _;

use clap::{Parser, Subcommand};
use offline::Work;

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
    /// Write what is new of each index to a checkpoint, so that the next opening has no log to replay. No server may have the directory.
    Checkpoint(offline::Arguments),
    /// Rewrite each index into as few segments as may be, without dead rows, and build its FAISS indexes. No server may have the directory.
    Compact(offline::Arguments),
    Import(import::Arguments),
    Export(export::Arguments),
    #[command(hide = true)]
    ReadFaiss(read_faiss::Arguments),
}

impl Arguments {
    /// Does what was asked for.
    ///
    /// # Errors
    /// A sentence for the person at the terminal.
    pub fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Serve(arguments) => serve::run(arguments),
            Command::Checkpoint(arguments) => offline::run(Work::Checkpoint, &arguments),
            Command::Import(arguments) => import::run(&arguments),
            Command::Export(arguments) => export::run(&arguments),
            Command::ReadFaiss(arguments) => read_faiss::run(&arguments),
            Command::Compact(arguments) => offline::run(Work::Compact, &arguments),
        }
    }
}

/// Why a command ends with exit code 1.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
