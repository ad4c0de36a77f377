//! A table of points, as `read_parquet/table.rs` reads it: `id`, `values`, `metadata`.

use std::io;
use std::mem;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::{FixedSizeListArray, Float32Array, RecordBatch};
use arrow_schema::{DataType, Field, FieldRef, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::super::Failure;
use super::super::read_parquet::table::{ID, METADATA, VALUES};
use super::Writer;
use crate::io::durable::Replacement;
use crate::types::Point;

/// Points that are encoded at once, and bytes of their vectors.
const ROWS_AT_ONCE: usize = 1024;
const VECTOR_BYTES_AT_ONCE: usize = 4 << 20;

/// Bytes of a row group, which is held in memory until it is written.
const ROW_GROUP_BYTES: usize = 64 << 20;

pub struct Table {
    writer: ArrowWriter<Destination>,
    schema: SchemaRef,
    element: FieldRef,
    dimension: i32,
    rows_at_once: usize,
    rows: usize,
    ids: StringBuilder,
    values: Vec<f32>,
    metadata: StringBuilder,
}

impl Table {
    /// # Errors
    /// The file cannot be written to.
    pub fn begin(file: Replacement<'static>, dimension: usize) -> Result<Self, Failure> {
        let rows_at_once = (VECTOR_BYTES_AT_ONCE / size_of::<f32>() / dimension).clamp(1, ROWS_AT_ONCE);
        let dimension = i32::try_from(dimension).expect("dimensions are bounded");
        let element = Arc::new(Field::new("element", DataType::Float32, false));
        let schema = Arc::new(Schema::new(vec![
            Field::new(ID, DataType::Utf8, false),
            Field::new(VALUES, DataType::FixedSizeList(Arc::clone(&element), dimension), false),
            Field::new(METADATA, DataType::Utf8, false),
        ]));
        // Floats of vectors become no smaller by compression or a dictionary, and nobody looks for their least.
        let floats = ColumnPath::from(vec![VALUES.to_owned(), "list".to_owned(), "element".to_owned()]);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_column_compression(floats.clone(), Compression::UNCOMPRESSED)
            .set_column_dictionary_enabled(floats, false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .build();
        let writer = ArrowWriter::try_new(Destination(file), Arc::clone(&schema), Some(properties)).map_err(failed)?;
        let (ids, values, metadata) = (StringBuilder::new(), Vec::new(), StringBuilder::new());
        Ok(Self { writer, schema, element, dimension, rows_at_once, rows: 0, ids, values, metadata })
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.rows = 0;
        let floats = Float32Array::from(mem::take(&mut self.values));
        let values = FixedSizeListArray::new(Arc::clone(&self.element), self.dimension, Arc::new(floats), None);
        let columns = vec![Arc::new(self.ids.finish()) as _, Arc::new(values) as _, Arc::new(self.metadata.finish()) as _];
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("columns of the schema");
        self.writer.write(&batch).map_err(failed)
    }
}

impl Writer for Table {
    fn point(&mut self, point: &Point) -> Result<(), Failure> {
        self.ids.append_value(&point.id);
        self.values.extend(&point.values);
        self.metadata.append_value(&point.metadata);
        self.rows += 1;
        if self.rows == self.rows_at_once { self.flush() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<(), Failure> {
        if self.rows > 0 {
            self.flush()?;
        }
        let Destination(file) = self.writer.into_inner().map_err(failed)?;
        Ok(file.finish()?)
    }
}

fn failed(error: ParquetError) -> Failure {
    match error {
        ParquetError::External(error) => Failure::new(error.to_string()),
        error => Failure::new(error.to_string()),
    }
}

/// The file, as the crate wants it.
struct Destination(Replacement<'static>);

impl io::Write for Destination {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
