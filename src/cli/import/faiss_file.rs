//! An index that FAISS wrote: its vectors, as a process of its own reads them (`cli/read_faiss.rs`).

use std::io::Read as _;
use std::path::Path;

use super::super::Failure;
use super::reader::{Reader, ReaderLimits};
use super::source::{Fault, Row, Source, read_floats};

/// Rows of an index.
#[derive(Debug)]
pub struct FaissFile {
    reader: Reader,
    name: String,
}

impl FaissFile {
    /// # Errors
    /// Where it cannot be read, with what FAISS says of it, or what it did to the process that read it.
    pub fn open(path: &Path, limits: ReaderLimits) -> Result<Self, Failure> {
        let reader = Reader::start("read-faiss", "FAISS", path, &[], limits)?;
        Ok(Self { reader, name: path.display().to_string() })
    }

    /// Rows in it.
    pub fn count(&self) -> u64 {
        self.reader.head().count
    }
}

impl Source for FaissFile {
    fn dimension(&self) -> usize {
        self.reader.head().dimension
    }

    fn has_ids(&self) -> bool {
        self.reader.head().has_ids
    }

    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        let (dimension, has_ids) = (self.dimension(), self.has_ids());
        let row = self.reader.row(|output| {
            let mut id = [0; 8];
            if has_ids {
                output.read_exact(&mut id)?;
            }
            read_floats(output, dimension, values)?;
            Ok(Row { id: has_ids.then(|| i64::from_le_bytes(id).to_string()), metadata: None })
        });
        row.map_err(Fault::File)
    }

    fn place(&self) -> String {
        format!("{}: row {}", self.name, self.reader.at())
    }
}
