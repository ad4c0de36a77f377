//! JSON, an object a line.

use std::io::{BufRead as _, Read as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::Failure;
use super::source::{Fault, FileReader, Row, open};
use crate::api::decode;

/// More than the largest point takes: 65,536 values of 25 characters, and metadata of 64 KiB of which each byte is written as six.
const LINE_BYTES_MAX: usize = 4 << 20;

/// The lines of a file, of which one is held at a time.
#[derive(Debug)]
pub struct Lines {
    reader: FileReader,
    name: String,
    /// Of the line that was read last, from 1.
    number: u64,
    line: Vec<u8>,
}

/// The fields of a line. One that is not known is refused: what it holds would be lost.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    values: Option<&'a RawValue>,
    metadata: Option<&'a RawValue>,
    /// The metadata as it was stored, where that has line breaks in it.
    metadata_text: Option<&'a RawValue>,
}

impl Lines {
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let (reader, _) = open(path)?;
        Ok(Self { reader, name: path.display().to_string(), number: 0, line: Vec::new() })
    }

    pub fn place(&self) -> String {
        format!("{}: line {}", self.name, self.number)
    }

    /// Reads the next line; false at the end.
    pub fn read(&mut self) -> Result<bool, Fault> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut self.line);
        let read = read.map_err(|error| Fault::of_read(&error))?;
        if read == LINE_BYTES_MAX && self.line.last() != Some(&b'\n') {
            self.line.clear();
            self.reader.skip_until(b'\n').map_err(|error| Fault::of_read(&error))?;
            return Err(Fault::Row(format!("is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(read > 0)
    }

    /// Whether nothing is on the line that was read.
    pub fn is_blank(&self) -> bool {
        self.line.trim_ascii().is_empty()
    }

    /// The point on the line that was read. Its vector comes in place of what `values` held, where they are given; else a line may have none.
    pub fn point(&self, values: Option<&mut Vec<f32>>) -> Result<Row, Fault> {
        let wrong = Fault::Row;
        let text = std::str::from_utf8(&self.line).map_err(|_| wrong("is not UTF-8".to_owned()))?.trim_ascii();
        // Serde would take an array for a struct, field by field.
        if !text.starts_with('{') {
            return Err(wrong("is no JSON object".to_owned()));
        }
        let fields: Fields<'_> = serde_json::from_str(text).map_err(|error| wrong(format!("is no point in JSON: {error}")))?;
        match (values, fields.values) {
            (Some(values), Some(raw)) => decode::floats(raw, usize::MAX, values)
                .map_err(|problem| wrong(format!("values: {}", problem.detail(usize::MAX))))?,
            (Some(_), None) => return Err(wrong("values: is required".to_owned())),
            (None, Some(_)) => return Err(wrong("values: the vectors come from the other file".to_owned())),
            (None, None) => {}
        }
        let string = |raw: Option<&RawValue>, field| raw.map(|raw| decode::string(raw, field)).transpose();
        let strings = string(fields.id, "id").and_then(|id| Ok((id, string(fields.metadata_text, "metadata_text")?)));
        let (id, metadata_text) = strings.map_err(|error| wrong(error.to_string()))?;
        Ok(Row { id, metadata: metadata_text.or_else(|| fields.metadata.map(|raw| raw.get().to_owned())) })
    }
}
