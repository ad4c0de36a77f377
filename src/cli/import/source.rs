//! What every format is read as: rows, one after the other.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "files of the user's, which are only read: io::Io opens for writing too"
)]

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::super::Failure;

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// A file that is read from its beginning to its end.
pub type FileReader = BufReader<File>;

/// Rows of a file. The dimension is known before the first is read, and one row is held at a time.
pub trait Source {
    /// Floats in a vector.
    fn dimension(&self) -> usize;

    /// Whether a row may bring an id of its own.
    fn has_ids(&self) -> bool;

    /// The next row, its vector in place of what `values` held; `None` at the end.
    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault>;

    /// Where what the last call gave stands, or what it complained of: `vectors.npy: row 17`.
    fn place(&self) -> String;
}

/// What a row has beside its vector.
#[derive(Debug, Default)]
pub struct Row {
    /// `None`: its number in the file, from 0.
    pub id: Option<String>,
    /// The JSON text of an object; `None`: `{}`.
    pub metadata: Option<String>,
}

/// Why a row is not given.
#[derive(Debug)]
pub enum Fault {
    /// This one is wrong, and the next call gives the one after it.
    Row(String),
    /// The rest cannot be read.
    File(String),
}

impl Fault {
    /// What the system says of a file that is read; its end is that of a file that was cut short.
    pub fn of_read(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::File("the file ends within it".to_owned()),
            _ => Self::File(error.to_string()),
        }
    }
}

/// Opens a file to be read from its beginning to its end. Gives its length too, where it is one that has a length.
///
/// # Errors
/// Naming the file.
pub fn open(path: &Path) -> Result<(FileReader, Option<u64>), Failure> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, file) = opened.map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
    if metadata.is_dir() {
        return Err(Failure::new(format!("{} is a directory, and no file", path.display())));
    }
    Ok((BufReader::with_capacity(BUFFER_BYTES, file), metadata.is_file().then_some(metadata.len())))
}

/// Bytes of a file that somebody else will open.
///
/// # Errors
/// Naming it, also where it is no file that is all there.
pub fn length(path: &Path) -> Result<u64, Failure> {
    let failed = |why: String| Failure::new(format!("{}: {why}", path.display()));
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(failed("is no regular file".to_owned())) }
}

/// Fills `values` with so many little-endian floats.
pub fn read_floats(reader: &mut impl Read, count: usize, values: &mut Vec<f32>) -> std::io::Result<()> {
    values.resize(count, 0.0);
    reader.read_exact(bytemuck::cast_slice_mut(values))
}
