//! `.parquet`: its points, as a process of its own reads them (`cli/read_parquet.rs`).

use std::ffi::OsStr;
use std::path::Path;

use super::super::Failure;
use super::super::read_parquet::row;
use super::super::read_parquet::table::ColumnChoice;
use super::reader::{Reader, ReaderLimits};
use super::source::{Fault, Row, Source};

/// Rows of a file.
#[derive(Debug)]
pub struct ParquetFile {
    reader: Reader,
    name: String,
}

impl ParquetFile {
    /// # Errors
    /// Where it cannot be read, or has a column that would be lost, naming it.
    pub fn open(path: &Path, choice: &ColumnChoice, limits: ReaderLimits) -> Result<Self, Failure> {
        let vectors = choice.vectors.iter().map(|name| format!("--column={name}"));
        let skipped = choice.skipped.iter().map(|name| format!("--skip-column={name}"));
        let arguments: Vec<String> = vectors.chain(skipped).collect();
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let reader = Reader::start("read-parquet", "the crate parquet", path, &arguments, limits)?;
        Ok(Self { reader, name: path.display().to_string() })
    }
}

impl Source for ParquetFile {
    fn dimension(&self) -> usize {
        self.reader.head().dimension
    }

    fn has_ids(&self) -> bool {
        self.reader.head().has_ids
    }

    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        self.reader.row(|output| row::read(output, values)).map_err(Fault::File)?.transpose()
    }

    fn place(&self) -> String {
        format!("{}: row {}", self.name, self.reader.at())
    }
}
