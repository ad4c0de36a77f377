//! `.jsonl`: a point a line, `{"id", "values", "metadata"}`.

use std::path::Path;

use super::super::Failure;
use super::lines::Lines;
use super::source::{Fault, Row, Source};

/// Points of a file. Lines with nothing on them are passed over.
#[derive(Debug)]
pub struct Jsonl {
    lines: Lines,
    dimension: usize,
}

impl Jsonl {
    /// # Errors
    /// Where it cannot be read, or no line of it has a vector.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Ok(Self { dimension: first_dimension(path)?, lines: Lines::open(path)? })
    }
}

/// That of the first line that has a vector.
fn first_dimension(path: &Path) -> Result<usize, Failure> {
    let mut lines = Lines::open(path)?;
    let (mut values, mut first_fault) = (Vec::new(), None);
    loop {
        let row = match lines.read() {
            Ok(false) => break,
            Ok(true) if lines.is_blank() => continue,
            Ok(true) => lines.point(Some(&mut values)),
            Err(fault) => Err(fault),
        };
        match row {
            Ok(_) => return Ok(values.len()),
            Err(Fault::Row(why)) => drop(first_fault.get_or_insert_with(|| format!("{}: {why}", lines.place()))),
            Err(Fault::File(why)) => return Err(Failure::new(format!("{}: {why}", lines.place()))),
        }
    }
    Err(Failure::new(first_fault.unwrap_or_else(|| format!("{}: there is no point in it", path.display()))))
}

impl Source for Jsonl {
    fn dimension(&self) -> usize {
        self.dimension
    }

    fn has_ids(&self) -> bool {
        true
    }

    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        while self.lines.read()? {
            if !self.lines.is_blank() {
                return self.lines.point(Some(values)).map(Some);
            }
        }
        Ok(None)
    }

    fn place(&self) -> String {
        self.lines.place()
    }
}
