//! A row on its way from the process that reads a Parquet file to the import: one length and so many bytes for each of the reason why it is wrong, its id and its
//! metadata, then the length of its vector and the floats; all little endian. What is not there has [`ABSENT`] for a length.

use std::io::{self, Read, Write};

use super::super::import::source::{Fault, Row, read_floats};
use crate::config::Limits;

const ABSENT: u32 = u32::MAX;

/// More than metadata of 64 KiB takes; what is longer is no point's anyway.
const TEXT_BYTES_MAX: u32 = 4 << 20;

/// Writes a row and its vector, or why it is wrong.
pub fn write(to: &mut impl Write, row: Result<(&Row, &[f32]), &str>) -> io::Result<()> {
    let wrong = row.and_then(|(row, values)| check(row, values)).err();
    let (row, values) = row.ok().filter(|_| wrong.is_none()).unwrap_or((&Row { id: None, metadata: None }, &[]));
    for text in [wrong, row.id.as_deref(), row.metadata.as_deref()] {
        let bytes = text.unwrap_or_default().as_bytes();
        to.write_all(&text.map_or(ABSENT, |text| text.len() as u32).to_le_bytes())?;
        to.write_all(bytes)?;
    }
    to.write_all(&(values.len() as u32).to_le_bytes())?;
    to.write_all(bytemuck::cast_slice(values))
}

/// Whether [`read`] would take it.
fn check(row: &Row, values: &[f32]) -> Result<(), &'static str> {
    let is_long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX as usize);
    if is_long(&row.id) || is_long(&row.metadata) {
        return Err("its id or its metadata is longer than 4 MiB");
    }
    if values.len() > Limits::default().dimension_max { Err("its vector has more values than any may have") } else { Ok(()) }
}

/// Reads a row, its vector in place of what `values` held, or why it is wrong.
///
/// # Errors
/// `InvalidData` where no [`write`] has written it.
pub fn read(from: &mut impl Read, values: &mut Vec<f32>) -> io::Result<Result<Row, Fault>> {
    let (wrong, id, metadata) = (text(from)?, text(from)?, text(from)?);
    let length = length(from)?;
    if length as usize > Limits::default().dimension_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    read_floats(from, length as usize, values)?;
    Ok(match wrong {
        Some(why) => Err(Fault::Row(why)),
        None => Ok(Row { id, metadata }),
    })
}

fn text(from: &mut impl Read) -> io::Result<Option<String>> {
    let length = length(from)?;
    if length == ABSENT {
        return Ok(None);
    }
    if length > TEXT_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map(Some).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn length(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(row: Result<(&Row, &[f32]), &str>) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, row).unwrap();
        bytes
    }

    #[test]
    fn rows_are_read_as_they_were_written_and_believed_within_bounds() {
        let mut values = vec![9.0];
        let row = Row { id: Some(String::new()), metadata: None };
        let bytes = written(Ok((&row, &[1.0, -0.0])));
        let read_of = |bytes: &[u8], values: &mut Vec<f32>| read(&mut &bytes[..], values);
        let got = read_of(&bytes, &mut values).unwrap().unwrap();
        assert_eq!((got.id.as_deref(), got.metadata, &values[..]), (Some(""), None, &[1.0, -0.0][..]));
        for end in 0..bytes.len() {
            assert!(read_of(&bytes[..end], &mut values).is_err());
        }
        for (at, length) in [(4, TEXT_BYTES_MAX + 1), (8, ABSENT - 1), (12, 65_537)] {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(read_of(&bytes, &mut values).unwrap_err().kind(), io::ErrorKind::InvalidData, "{at}");
        }
    }

    #[test]
    fn what_is_too_large_to_be_a_point_is_a_wrong_row() {
        let long = Row { id: None, metadata: Some("x".repeat(TEXT_BYTES_MAX as usize + 1)) };
        let rows = [Ok((&long, &[][..])), Ok((&Row { id: None, metadata: None }, &[0.0; 65_537][..])), Err("a reason")];
        for (row, why) in rows.into_iter().zip(["4 MiB", "more values", "a reason"]) {
            let got = read(&mut &written(row)[..], &mut Vec::new()).unwrap();
            assert!(matches!(&got, Err(Fault::Row(said)) if said.contains(why)), "{got:?}");
        }
    }
}
