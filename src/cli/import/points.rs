//! Ids and metadata that stand in a file of their own, a line for each row of another.

use std::path::Path;

use super::super::Failure;
use super::lines::Lines;
use super::source::{Fault, Row, Source};

/// The rows of a source, with what the lines say of them.
pub struct WithPoints {
    vectors: Box<dyn Source>,
    lines: Lines,
    complains_of_line: bool,
}

impl WithPoints {
    /// # Errors
    /// Where the lines cannot be opened.
    pub fn new(vectors: Box<dyn Source>, path: &Path) -> Result<Self, Failure> {
        Ok(Self { vectors, lines: Lines::open(path)?, complains_of_line: false })
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
        self.complains_of_line = false;
        let row = self.vectors.next(values);
        if let Err(Fault::File(_)) = row {
            return row;
        }
        // Also where the row is wrong: its line is not that of the next one.
        let has_line = self.lines.read();
        match (row, has_line) {
            (Ok(None), Ok(false)) => Ok(None),
            (_, Err(fault @ Fault::File(_))) => {
                self.complains_of_line = true;
                Err(fault)
            }
            (Ok(None), _) => {
                self.complains_of_line = true;
                Err(Fault::Row("there is no row for it".to_owned()))
            }
            (Ok(Some(_)), Ok(false)) => Err(Fault::Row("there is no line for it in the file of points".to_owned())),
            (row @ Err(_), _) => row,
            (Ok(Some(row)), has_line) => {
                self.complains_of_line = true;
                has_line?;
                let of_line = self.lines.point(None)?;
                Ok(Some(Row { id: of_line.id.or(row.id), metadata: of_line.metadata.or(row.metadata) }))
            }
        }
    }

    fn place(&self) -> String {
        if self.complains_of_line { self.lines.place() } else { self.vectors.place() }
    }
}
