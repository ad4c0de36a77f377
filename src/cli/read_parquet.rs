//! `faiss-proxy read-parquet`, which only `faiss-proxy import` calls: reads a Parquet file, and writes its points to standard output.
//!
//! The crate that reads them panics at some damaged files, and a page of a few bytes may be made to take all memory
//! (`docs/decisions/0019-import-crates.md`). So it is done in a process of its own, with limits on memory and time.

pub mod row;
pub mod table;

use std::io::{self, Write as _};

use self::table::{ColumnChoice, Table};
use super::Failure;
use super::confined::{Confinement, Head};
use super::import::source::Fault;

/// Write the points of a Parquet file to standard output.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    confinement: Confinement,
    #[command(flatten)]
    choice: ColumnChoice,
}

/// Reads the file, within the limits.
///
/// # Errors
/// The crate's reason, or what is wrong with a column.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    arguments.confinement.enter()?;
    let mut table = Table::open(&arguments.confinement.file, &arguments.choice)?;
    let mut stdout = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let written = |error: io::Error| Failure::new(format!("standard output: {error}"));
    let head = Head { dimension: table.dimension(), count: table.count(), has_ids: table.has_ids() };
    stdout.write_all(&head.encode()).map_err(written)?;
    let mut values = Vec::new();
    loop {
        match table.next(&mut values) {
            Ok(Some(row)) => row::write(&mut stdout, Ok((&row, &values))),
            Ok(None) => return stdout.flush().map_err(written),
            Err(Fault::Row(why)) => row::write(&mut stdout, Err(&why)),
            Err(Fault::File(why)) => {
                // The rows before it are whole.
                stdout.flush().map_err(written)?;
                return Err(Failure::new(why));
            }
        }
        .map_err(written)?;
    }
}
