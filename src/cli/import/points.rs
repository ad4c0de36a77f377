//! Ids and metadata that stand in a file of their own, a line for each row of another.

use std::path::Path;

use super::super::Failure;
use super::lines::Lines;
use super::source::{Fault, Row, Source};

/// The rows of a source, with what the lines say of them.
pub struct WithPoints {
    vectors: Box<dyn Source>,
    lines: Lines,
    has_row: bool,
    has_line: bool,
}

impl WithPoints {
    /// # Errors
    /// Where the lines cannot be opened.
    pub fn new(vectors: Box<dyn Source>, path: &Path) -> Result<Self, Failure> {
        Ok(Self { vectors, lines: Lines::open(path)?, has_row: false, has_line: false })
    }
}

impl Source for WithPoints {
    fn dimension(&self) -> usize {
        self.vectors.dimension()
    }

    fn has_ids(&self) -> bool {
        true
    }

    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        (self.has_row, self.has_line) = (true, false);
        let row = self.vectors.next(values);
        if let Err(Fault::File(_)) = row {
            return row;
        }
        self.has_row = !matches!(row, Ok(None));
        // Also where the row is wrong: its line is not that of the next one.
        let line = self.lines.read();
        self.has_line = !matches!(line, Ok(false));
        match (row, line) {
            (_, Err(fault @ Fault::File(_))) => Err(fault),
            (row @ Err(_), _) => row,
            (Ok(None), Ok(false)) => Ok(None),
            (Ok(None), _) => Err(Fault::Row("there is no row for it".to_owned())),
            (Ok(Some(_)), Ok(false)) => Err(Fault::Row("there is no line for it in the file of points".to_owned())),
            (Ok(Some(row)), line) => {
                line?;
                let of_line = self.lines.point(None)?;
                Ok(Some(Row { id: of_line.id.or(row.id), metadata: of_line.metadata.or(row.metadata) }))
            }
        }
    }

    fn place(&self) -> String {
        match (self.has_row, self.has_line) {
            (true, true) => format!("{} ({})", self.vectors.place(), self.lines.place()),
            (false, true) => self.lines.place(),
            _ => self.vectors.place(),
        }
    }
}
