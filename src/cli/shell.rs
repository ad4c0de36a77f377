//! `faiss-proxy completions` and `faiss-proxy man`: for whoever packages the program.

use std::io::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Failure;
use crate::io::durable;
use crate::io::os::OsIo;

/// Prints the completions of a shell.
///
/// # Errors
/// Standard output cannot be written to.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::Arguments::command(), "faiss-proxy", &mut text);
    std::io::stdout().write_all(&text).map_err(|error| Failure::new(format!("standard output: {error}")))
}

/// Writes a man page for the program and one for each command into a directory, which is made where it is absent.
///
/// # Errors
/// The directory cannot be written to.
pub fn man(directory: &Path) -> Result<(), Failure> {
    durable::create_dirs_durably(&OsIo, directory).map_err(|error| Failure::new(error.to_string()))?;
    let written = clap_mangen::generate_to(super::Arguments::command(), directory);
    written.map_err(|error| Failure::new(format!("{}: {error}", directory.display())))
}
