//! `.fvecs`: for each vector its dimension as a 32-bit number, and as many floats, all little endian (<http://corpus-texmex.irisa.fr>).

use std::io::{BufRead as _, Read as _};
use std::path::Path;

use super::super::Failure;
use super::source::{Fault, FileReader, Row, Source, open, read_floats};

/// Vectors of a file.
#[derive(Debug)]
pub struct Fvecs {
    reader: FileReader,
    name: String,
    dimension: usize,
    /// Rows that were given.
    given: u64,
}

impl Fvecs {
    /// # Errors
    /// Where it cannot be read, or its length is not that of whole vectors.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let (mut reader, length) = open(path)?;
        let name = path.display().to_string();
        let failed = |why: String| Failure::new(format!("{name}: {why}"));
        let start = reader.fill_buf().map_err(|error| failed(error.to_string()))?;
        let first = start.first_chunk().ok_or_else(|| failed("there is no vector in it".to_owned()))?;
        let dimension = i32::from_le_bytes(*first);
        let dimension = usize::try_from(dimension).ok().filter(|dimension| *dimension > 0);
        let dimension = dimension.ok_or_else(|| failed("is no .fvecs file: it does not begin with a dimension".to_owned()))?;
        let row_bytes = 4 + 4 * dimension as u64;
        if let Some(length) = length.filter(|length| length % row_bytes != 0) {
            return Err(failed(format!("has {length} bytes, and vectors of {dimension} values take {row_bytes} each")));
        }
        Ok(Self { reader, name, dimension, given: 0 })
    }
}

impl Source for Fvecs {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn has_ids(&self) -> bool {
        false
    }

    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        if self.reader.fill_buf().map_err(|error| Fault::of_read(&error))?.is_empty() {
            return Ok(None);
        }
        self.given += 1;
        let mut dimension = [0; 4];
        self.reader.read_exact(&mut dimension).map_err(|error| Fault::of_read(&error))?;
        let dimension = i32::from_le_bytes(dimension);
        if usize::try_from(dimension) != Ok(self.dimension) {
            return Err(Fault::File(format!("is of dimension {dimension}, and the first of {}", self.dimension)));
        }
        read_floats(&mut self.reader, self.dimension, values).map_err(|error| Fault::of_read(&error))?;
        Ok(Some(Row::default()))
    }

    fn place(&self) -> String {
        format!("{}: row {}", self.name, self.given.saturating_sub(1))
    }
}
