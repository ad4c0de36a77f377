//! A point a row, its vector a list of floats. `docs/import-export.md` says what becomes of which column.
//!
//! Types are those that Parquet itself tells of; the Arrow schema that some writers put beside it is not read: it would only say how the same values
//! are laid out in memory.
#![expect(clippy::disallowed_types, reason = "a file of the user's, which is only read; the crate wants one of this type")]

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, RecordBatch, RecordBatchReader as _};
use arrow_schema::{DataType, Fields};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use super::super::Failure;
use super::super::import::source::{Fault, Row, open};
use crate::error::quoted;

/// Columns of points, as an export names them.
pub const ID: &str = "id";
pub const VALUES: &str = "values";
pub const METADATA: &str = "metadata";

/// Where vectors are looked for.
const VECTORS: [&str; 3] = [VALUES, "vector", "embedding"];

/// Rows that are decoded at once, and bytes of their vectors: metadata of 64 KiB each takes 64 MiB.
const ROWS_AT_ONCE: usize = 1024;
const VECTOR_BYTES_AT_ONCE: usize = 4 << 20;

/// The same, where it is not known yet how long a vector is: of 65,536 values they take 16 MiB.
const FIRST_ROWS_AT_ONCE: usize = 64;

/// Which columns are read as what.
#[derive(Debug, Default, clap::Args)]
pub struct ColumnChoice {
    /// Of a Parquet file, the column of the vectors; where it is not said, values, vector or embedding.
    #[arg(long = "column", value_name = "NAME")]
    pub vectors: Option<String>,
    /// Of a Parquet file, a column that is left out; may be said more than once.
    #[arg(long = "skip-column", value_name = "NAME")]
    pub skipped: Vec<String>,
}

/// Rows of a file.
#[derive(Debug)]
pub struct Table {
    reader: ParquetRecordBatchReader,
    columns: Columns,
    count: u64,
    dimension: usize,
    batch: RecordBatch,
    /// Rows of the batch that were given.
    given_of_batch: usize,
}

impl Table {
    /// # Errors
    /// Where it cannot be read, or has a column that would be lost, naming that.
    pub fn open(path: &Path, choice: &ColumnChoice) -> Result<Self, Failure> {
        let (reader, length) = open(path)?;
        if length.is_none() {
            return Err(Failure::new("is no regular file, and what a Parquet file holds is said at its end"));
        }
        let file = reader.into_inner();
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(|error| Failure::new(error.to_string()))?;
        let groups = metadata.metadata().row_groups().iter();
        let count = groups.map(|group| u64::try_from(group.num_rows()).ok()).try_fold(0_u64, |sum, rows| sum.checked_add(rows?));
        let count = count.ok_or_else(|| Failure::new("no file has as many rows as it says"))?;
        let wanted = Wanted::of(metadata.schema().fields(), choice).map_err(Failure::new)?;
        let begin = |columns: &[usize], rows_at_once: usize| begin(&file, &metadata, columns, rows_at_once).map_err(Failure::new);
        let dimension = first_dimension(begin(&[wanted.vectors], FIRST_ROWS_AT_ONCE)?).map_err(Failure::new)?;
        let rows_at_once = (VECTOR_BYTES_AT_ONCE / size_of::<f32>() / dimension.max(1)).clamp(1, ROWS_AT_ONCE);
        let reader = begin(&wanted.all(), rows_at_once)?;
        let batch = RecordBatch::new_empty(reader.schema());
        let columns = wanted.in_batches();
        Ok(Self { reader, columns, count, dimension, batch, given_of_batch: 0 })
    }

    /// Rows in it.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Floats in a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    pub fn has_ids(&self) -> bool {
        self.columns.id.is_some()
    }

    /// The next row, its vector in place of what `values` held; `None` at the end.
    pub fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        if !self.fill()? {
            return Ok(None);
        }
        let row = self.given_of_batch;
        self.given_of_batch += 1;
        self.columns.row(&self.batch, row, values).map(Some).map_err(Fault::Row)
    }

    /// Decodes more rows, where all that were are given; false at the end.
    fn fill(&mut self) -> Result<bool, Fault> {
        while self.given_of_batch == self.batch.num_rows() {
            match self.reader.next() {
                None => return Ok(false),
                Some(batch) => self.batch = batch.map_err(|error| Fault::File(error.to_string()))?,
            }
            self.given_of_batch = 0;
        }
        Ok(true)
    }
}

fn begin(
    file: &File,
    metadata: &ArrowReaderMetadata,
    columns: &[usize],
    rows_at_once: usize,
) -> Result<ParquetRecordBatchReader, String> {
    let file = file.try_clone().map_err(|error| error.to_string())?;
    let mask = ProjectionMask::roots(metadata.parquet_schema(), columns.iter().copied());
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone());
    let reader = builder.with_projection(mask).with_batch_size(rows_at_once).build();
    reader.map_err(|error| error.to_string())
}

/// That of the first row that has a vector.
fn first_dimension(vectors: ParquetRecordBatchReader) -> Result<usize, String> {
    for batch in vectors {
        let batch = batch.map_err(|error| error.to_string())?;
        let lists = batch.column(0).as_list::<i32>();
        if let Some(row) = (0..lists.len()).find(|row| lists.is_valid(*row)) {
            return Ok(lists.value_length(row) as usize);
        }
    }
    Err("there is no vector in it".to_owned())
}

/// The columns that are read, by their numbers in the file.
#[derive(Debug)]
struct Wanted {
    vectors: usize,
    id: Option<usize>,
    metadata: Option<usize>,
    /// Those that become fields of the metadata, by name.
    fields: Vec<(usize, String)>,
}

impl Wanted {
    /// # Errors
    /// Where there are no vectors, or what a column holds would be lost.
    fn of(columns: &Fields, choice: &ColumnChoice) -> Result<Self, String> {
        let names: Vec<&str> = columns.iter().map(|column| column.name().as_str()).collect();
        let listed = || names.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        if let Some(name) = names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name)) {
            return Err(format!("has two columns {}", quoted(name)));
        }
        if let Some(name) = choice.skipped.iter().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("--skip-column {name}: there is no such column among {}", listed()));
        }
        let is_skipped = |name: &str| choice.skipped.iter().any(|skipped| skipped == name);
        let candidates: Vec<&str> = match &choice.vectors {
            Some(name) => names.iter().copied().filter(|other| other == name).collect(),
            None => names.iter().copied().filter(|name| VECTORS.contains(name) && !is_skipped(name)).collect(),
        };
        let vectors = match (&candidates[..], &choice.vectors) {
            (&[one], _) => one,
            ([], Some(name)) => return Err(format!("--column {name}: there is no such column among {}", listed())),
            ([], None) => {
                return Err(format!(
                    "has no column {}: name that of the vectors with --column; it has {}",
                    VECTORS.join(", "),
                    listed()
                ));
            }
            _ => return Err(format!("has the columns {}: name that of the vectors with --column", candidates.join(" and "))),
        };
        let mut wanted = Self { vectors: 0, id: None, metadata: None, fields: Vec::new() };
        for (at, column) in columns.iter().enumerate() {
            let (name, of_type) = (column.name().as_str(), column.data_type());
            let unfit = |what: &str| Err(format!("column {}: is of type {of_type}, and {what}", quoted(name)));
            match name {
                _ if name == vectors => match of_type {
                    DataType::List(element) if is_float(element.data_type()) => wanted.vectors = at,
                    _ => return unfit("vectors are lists of floats"),
                },
                _ if is_skipped(name) => {}
                ID if *of_type == DataType::Utf8 || of_type.is_integer() => wanted.id = Some(at),
                ID => return unfit("ids are strings or whole numbers"),
                METADATA if *of_type == DataType::Utf8 => wanted.metadata = Some(at),
                METADATA => return unfit("metadata is JSON in a string: leave it out with --skip-column metadata"),
                _ if is_json(of_type) => wanted.fields.push((at, name.to_owned())),
                _ => return unfit(&format!("that is nothing of JSON: leave it out with --skip-column {name}")),
            }
        }
        match &wanted.fields[..] {
            [(_, name), ..] if wanted.metadata.is_some() => {
                Err(format!("column {}: there is a column metadata too: leave one out with --skip-column", quoted(name)))
            }
            _ => Ok(wanted),
        }
    }

    /// Numbers in the file, rising.
    fn all(&self) -> Vec<usize> {
        let fields = self.fields.iter().map(|(at, _)| *at);
        let mut all: Vec<usize> = [self.vectors].into_iter().chain(self.id).chain(self.metadata).chain(fields).collect();
        all.sort_unstable();
        all
    }

    /// The same columns by their numbers in what is read, which has no others.
    fn in_batches(self) -> Columns {
        let all = self.all();
        let place = |at: usize| all.partition_point(|other| *other < at);
        Columns {
            vectors: place(self.vectors),
            id: self.id.map(place),
            metadata: self.metadata.map(place),
            // A name as it stands in JSON, with the colon.
            fields: self
                .fields
                .into_iter()
                .map(|(at, name)| (place(at), format!("{}:", serde_json::Value::from(name))))
                .collect(),
        }
    }
}

/// Columns by their numbers in a batch.
#[derive(Debug)]
struct Columns {
    vectors: usize,
    id: Option<usize>,
    metadata: Option<usize>,
    fields: Vec<(usize, String)>,
}

impl Columns {
    fn row(&self, batch: &RecordBatch, row: usize, values: &mut Vec<f32>) -> Result<Row, String> {
        vector(batch.column(self.vectors).as_ref(), row, values)?;
        let at = |column: usize| Some(batch.column(column)).filter(|column| column.is_valid(row));
        let id = self.id.and_then(at).map(|ids| match ids.data_type() {
            DataType::Utf8 => ids.as_string::<i32>().value(row).to_owned(),
            _ => integer(ids.as_ref(), row),
        });
        let metadata = match self.metadata {
            Some(column) => at(column).map(|texts| texts.as_string::<i32>().value(row).to_owned()),
            None if self.fields.is_empty() => None,
            None => {
                let mut text = String::from("{");
                for (column, name) in &self.fields {
                    let Some(column) = at(*column) else { continue };
                    text.push_str(if text.len() > 1 { "," } else { "" });
                    text.push_str(name);
                    put_json(column.as_ref(), row, &mut text).map_err(|why| format!("{name} {why}"))?;
                }
                text.push('}');
                Some(text)
            }
        };
        Ok(Row { id, metadata })
    }
}

/// A row of lists of floats.
fn vector(lists: &dyn Array, row: usize, values: &mut Vec<f32>) -> Result<(), String> {
    let lists = lists.as_list::<i32>();
    if lists.is_null(row) {
        return Err("has no vector".to_owned());
    }
    let offsets = lists.value_offsets();
    let range = offsets[row] as usize..offsets[row + 1] as usize;
    let floats = lists.values();
    if let Some(position) = range.clone().position(|at| floats.is_null(at)) {
        return Err(format!("the value at position {position} is null"));
    }
    values.clear();
    match floats.data_type() {
        DataType::Float16 => values.extend(slice::<Float16Type>(floats, range).iter().map(|value| value.to_f32())),
        DataType::Float32 => values.extend(slice::<Float32Type>(floats, range)),
        // Beyond the f32 it is an infinity, which the store refuses.
        _ => values.extend(slice::<Float64Type>(floats, range).iter().map(|value| *value as f32)),
    }
    Ok(())
}

fn slice<T: arrow_array::ArrowPrimitiveType>(array: &dyn Array, range: Range<usize>) -> &[T::Native] {
    &array.as_primitive::<T>().values()[range]
}

fn is_float(of_type: &DataType) -> bool {
    matches!(of_type, DataType::Float16 | DataType::Float32 | DataType::Float64)
}

/// Whether [`put_json`] knows the type.
fn is_json(of_type: &DataType) -> bool {
    let is_plain =
        |of_type: &DataType| matches!(of_type, DataType::Boolean | DataType::Utf8) || of_type.is_integer() || is_float(of_type);
    match of_type {
        DataType::List(element) => is_plain(element.data_type()),
        of_type => is_plain(of_type),
    }
}

/// Appends a value, which is not null.
fn put_json(array: &dyn Array, row: usize, text: &mut String) -> Result<(), String> {
    match array.data_type() {
        DataType::Boolean => text.push_str(if array.as_boolean().value(row) { "true" } else { "false" }),
        DataType::Utf8 => text.push_str(&serde_json::Value::from(array.as_string::<i32>().value(row)).to_string()),
        DataType::Float16 => put_float(array.as_primitive::<Float16Type>().value(row).to_f32(), text)?,
        DataType::Float32 => put_float(array.as_primitive::<Float32Type>().value(row), text)?,
        DataType::Float64 => put_float(array.as_primitive::<Float64Type>().value(row), text)?,
        DataType::List(_) => {
            let elements = array.as_list::<i32>().value(row);
            text.push('[');
            for at in 0..elements.len() {
                text.push_str(if at > 0 { "," } else { "" });
                if elements.is_null(at) {
                    text.push_str("null");
                } else {
                    put_json(elements.as_ref(), at, text)?;
                }
            }
            text.push(']');
        }
        _ => text.push_str(&integer(array, row)),
    }
    Ok(())
}

/// The shortest text whose nearest float of its width it is.
fn put_float<F: serde::Serialize + Into<f64> + Copy>(value: F, text: &mut String) -> Result<(), String> {
    if !value.into().is_finite() {
        return Err(format!("{} is no number of JSON", value.into()));
    }
    text.push_str(&serde_json::to_string(&value).expect("a finite float is JSON"));
    Ok(())
}

/// The decimal text of a whole number of any width.
fn integer(array: &dyn Array, row: usize) -> String {
    match array.data_type() {
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).to_string(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).to_string(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).to_string(),
        _ => array.as_primitive::<UInt64Type>().value(row).to_string(),
    }
}
