//! `faiss-proxy read-faiss`, which only `faiss-proxy import` calls: reads a file of FAISS's, and writes plain vectors to its standard output.
//!
//! FAISS trusts the bytes that it reads, and a damaged file can crash it, or make it take all memory or never end. So it is done in a process of its own,
//! with limits on memory and time. Behind the head each row is its number as FAISS knows it, where there are such numbers, and its floats; all little endian.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;

use super::Failure;
use super::confined::{Confinement, Head};
use crate::segment::faiss::Vectors;

/// Floats that are written at once, or one vector.
const FLOATS_AT_ONCE: usize = 64 << 10;

/// Reads the file, within the limits.
///
/// # Errors
/// FAISS's reason.
pub fn run(confinement: &Confinement) -> Result<(), Failure> {
    confinement.enter()?;
    let path =
        CString::new(confinement.file.as_os_str().as_bytes()).map_err(|_| Failure::new("no file has a zero in its name"))?;
    let refused = |why: String| Failure::new(format!("FAISS does not read it: {why}"));
    let mut vectors = Vectors::open(&path).map_err(refused)?;
    let Vectors { dimension, count, has_ids, .. } = vectors;
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let written = |error: io::Error| Failure::new(format!("standard output: {error}"));
    stdout.write_all(&Head { dimension, count, has_ids }.encode()).map_err(written)?;
    let (mut values, mut ids) = (Vec::new(), Vec::new());
    loop {
        vectors.next((FLOATS_AT_ONCE / dimension).max(1), &mut values, &mut ids).map_err(refused)?;
        if ids.is_empty() {
            return stdout.flush().map_err(written);
        }
        for (id, vector) in ids.iter().zip(values.chunks_exact(dimension)) {
            if has_ids {
                stdout.write_all(&id.to_le_bytes()).map_err(written)?;
            }
            stdout.write_all(bytemuck::cast_slice(vector)).map_err(written)?;
        }
    }
}
