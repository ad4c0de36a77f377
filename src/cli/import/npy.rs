//! `.npy`: an array of NumPy's, two-dimensional, of floats, a vector a row.
//!
//! The format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. `docs/decisions/0019-import-crates.md` says why it is read here.

use std::io::Read;

use super::super::Failure;
use super::source::{Fault, Row, Source, read_floats};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Of arrays of numbers it has some hundred; NumPy itself refuses more than 10,000 by default.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// Rows of an array.
#[derive(Debug)]
pub struct Npy<R> {
    reader: R,
    name: String,
    header: Header,
    /// Rows that were given.
    given: u64,
    bytes: Vec<u8>,
}

impl<R: Read> Npy<R> {
    /// `name` is that of the file in messages; `length` are its bytes, where that is known.
    ///
    /// # Errors
    /// Where it is no array of vectors that this can read, naming what it is.
    pub fn new(mut reader: R, name: String, length: Option<u64>) -> Result<Self, Failure> {
        let failed = |why: String| Failure::new(format!("{name}: {why}"));
        let (header, header_bytes) = read_header(&mut reader).map_err(failed)?;
        let expected = header.bytes().map(|bytes| bytes + header_bytes);
        let expected = expected.ok_or_else(|| failed(format!("no file has {} x {} values", header.rows, header.dimension)))?;
        if let Some(length) = length.filter(|length| *length != expected) {
            let why = format!(
                "the file has {length} bytes, and an array of {} x {} values takes {expected} with its header",
                header.rows, header.dimension
            );
            return Err(failed(why));
        }
        Ok(Self { reader, name, header, given: 0, bytes: Vec::new() })
    }
}

impl<R: Read> Source for Npy<R> {
    fn dimension(&self) -> usize {
        self.header.dimension
    }

    fn has_ids(&self) -> bool {
        false
    }

    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        if self.given == self.header.rows {
            return Ok(None);
        }
        self.given += 1;
        let Header { float, big_endian, dimension, .. } = self.header;
        let read = if float == Float::Single && !big_endian {
            read_floats(&mut self.reader, dimension, values)
        } else {
            self.bytes.resize(dimension * float.bytes(), 0);
            self.reader.read_exact(&mut self.bytes)
        };
        read.map_err(|error| Fault::of_read(&error))?;
        if float != Float::Single || big_endian {
            values.clear();
            values.extend(self.bytes.chunks_exact(float.bytes()).map(|bytes| float.value(bytes, big_endian)));
        }
        Ok(Some(Row::default()))
    }

    fn place(&self) -> String {
        format!("{}: row {}", self.name, self.given.saturating_sub(1))
    }
}

/// IEEE 754, by width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Float {
    Half,
    Single,
    Double,
}

impl Float {
    fn bytes(self) -> usize {
        match self {
            Self::Half => 2,
            Self::Single => 4,
            Self::Double => 8,
        }
    }

    /// The nearest f32; beyond the f32 it is an infinity, which the store refuses. `bytes` are as many as it has.
    fn value(self, bytes: &[u8], big_endian: bool) -> f32 {
        let mut word = [0; 8];
        for (at, byte) in bytes.iter().enumerate() {
            word[if big_endian { bytes.len() - 1 - at } else { at }] = *byte;
        }
        let word = u64::from_le_bytes(word);
        match self {
            Self::Half => from_half(word as u16),
            Self::Single => f32::from_bits(word as u32),
            Self::Double => f64::from_bits(word) as f32,
        }
    }
}

/// The f32 that a 16-bit float is: each of them is one.
fn from_half(half: u16) -> f32 {
    let (sign, exponent, fraction) = (u32::from(half >> 15) << 31, u32::from(half >> 10 & 0x1f), u32::from(half & 0x3ff));
    let magnitude = match exponent {
        0 => fraction as f32 * 2_f32.powi(-24),
        0x1f => f32::from_bits(0x7f80_0000 | fraction << 13),
        // The exponents' biases are 15 and 127.
        _ => f32::from_bits((exponent + 112) << 23 | fraction << 13),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    float: Float,
    big_endian: bool,
    rows: u64,
    dimension: usize,
}

impl Header {
    /// Bytes of the values.
    fn bytes(&self) -> Option<u64> {
        // With room for the header, and for who adds it.
        self.rows.checked_mul(self.dimension as u64)?.checked_mul(self.float.bytes() as u64).filter(|bytes| *bytes < 1 << 62)
    }
}

/// The header, and how many bytes it took.
fn read_header(reader: &mut impl Read) -> Result<(Header, u64), String> {
    let cut = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "the file ends within the header of an .npy file".to_owned(),
        _ => error.to_string(),
    };
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(cut)?;
    if !start.starts_with(MAGIC) {
        return Err("is no .npy file: it does not begin as one".to_owned());
    }
    // Version 1 has a length of two bytes; 2 and 3, which differ in what names of fields may be, of four.
    let length_bytes = match start[6] {
        1 => 2,
        2 | 3 => 4,
        version => return Err(format!("is of version {version} of the .npy format, and 1, 2 and 3 are known")),
    };
    let mut length = [0; 4];
    reader.read_exact(&mut length[..length_bytes]).map_err(cut)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > HEADER_BYTES_MAX {
        return Err(format!("its header has {length} bytes, of which at most {HEADER_BYTES_MAX} can be right"));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(cut)?;
    let text = std::str::from_utf8(&text).map_err(|_| "its header is no text".to_owned())?;
    Ok((parse_header(text)?, (start.len() + length_bytes + length) as u64))
}

/// A Python literal such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse_header(text: &str) -> Result<Header, String> {
    let unreadable = || format!("its header is not understood: {}", crate::error::quoted(text.trim()));
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    let mut rest = text.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(unreadable)?.trim();
    while !rest.is_empty() {
        let (key, after) = quoted(rest).ok_or_else(unreadable)?;
        let after = after.trim_start().strip_prefix(':').ok_or_else(unreadable)?.trim_start();
        let end = match (key, after.as_bytes().first()) {
            ("descr", Some(b'[')) => return Err("is an array of records, and not of floats".to_owned()),
            (_, Some(b'(')) => after.find(')').map(|at| at + 1),
            _ => Some(after.find(',').unwrap_or(after.len())),
        };
        let (value, after) = after.split_at(end.ok_or_else(unreadable)?);
        *match key {
            "descr" => &mut descr,
            "fortran_order" => &mut fortran_order,
            "shape" => &mut shape,
            _ => return Err(unreadable()),
        } = Some(value.trim());
        let after = after.trim_start();
        rest = after.strip_prefix(',').unwrap_or(after).trim_start();
    }
    let (descr, fortran_order, shape) = (|| Some((descr?, fortran_order?, shape?)))().ok_or_else(unreadable)?;
    let (descr, _) = quoted(descr).ok_or_else(unreadable)?;
    let (big_endian, float) = match descr.split_at_checked(1).ok_or_else(unreadable)? {
        ("<" | ">", "f2") => (descr.starts_with('>'), Float::Half),
        ("<" | ">", "f4") => (descr.starts_with('>'), Float::Single),
        ("<" | ">", "f8") => (descr.starts_with('>'), Float::Double),
        _ => return Err(format!("has values of type '{descr}', and f2, f4 and f8 are taken: save array.astype('float32')")),
    };
    let shape = shape.strip_prefix('(').and_then(|shape| shape.strip_suffix(')')).ok_or_else(unreadable)?;
    let sides = shape.split(',').map(str::trim).filter(|side| !side.is_empty());
    let sides = sides.map(str::parse).collect::<Result<Vec<u64>, _>>().map_err(|_| unreadable())?;
    let &[rows, dimension] = &sides[..] else {
        return Err(format!("has {} dimensions, and vectors are rows of an array of 2", sides.len()));
    };
    let dimension = usize::try_from(dimension).map_err(|_| unreadable())?;
    match fortran_order {
        "False" => Ok(Header { float, big_endian, rows, dimension }),
        "True" => Err("is stored column by column: save numpy.ascontiguousarray(array)".to_owned()),
        _ => Err(unreadable()),
    }
}

/// What stands in the quotes that the text begins with, and what is behind them.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// The header of an array of little-endian f32, as NumPy writes it.
pub fn header(rows: u64, dimension: usize) -> Vec<u8> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dimension}), }}");
    // With the 10 bytes before it and the line break it is a multiple of 64.
    let padding = 63 - (10 + text.len()) % 64;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let length = u16::try_from(text.len()).expect("three numbers").to_le_bytes();
    [MAGIC, &[1, 0], &length, text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(Float, bool, u64, usize), String> {
        parse_header(text).map(|header| (header.float, header.big_endian, header.rows, header.dimension))
    }

    #[test]
    fn headers_of_numpy_are_read() {
        let single = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }            \n";
        assert_eq!(parsed(single), Ok((Float::Single, false, 3, 4)));
        let double = "{\"shape\": (30,4), \"descr\": \">f8\", \"fortran_order\": False}";
        assert_eq!(parsed(double), Ok((Float::Double, true, 30, 4)));
        assert_eq!(parsed("{'descr':'<f2','fortran_order':False,'shape':(0,4),}"), Ok((Float::Half, false, 0, 4)));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, said) in [
            ("{'descr': '<i4', 'fortran_order': False, 'shape': (3, 4), }", "'<i4'"),
            ("{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4), }", "'|u1'"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }", "ascontiguousarray"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "1 dimensions"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", "0 dimensions"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4, 5), }", "3 dimensions"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }", "records"),
        ] {
            assert!(parsed(text).unwrap_err().contains(said), "{text}");
        }
        let whole = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }";
        for end in 0..whole.len() {
            assert!(parsed(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        for text in [
            "{'descr': 'é', 'fortran_order': False, 'shape': (3, 4)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3, 4)}",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_that_lies_about_its_length_takes_no_memory() {
        for bytes in [
            &b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"[..],
            b"\x93NUMPY\x01\x00\x10\x00{",
            b"\x93NUMPY\x09\x00",
            b"PK\x03\x04 and more",
        ] {
            assert!(read_header(&mut &bytes[..]).is_err());
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (rows, dimension) in [(0, 1), (350_000, 100), (u64::MAX >> 20, 65_536)] {
            let bytes = header(rows, dimension);
            assert_eq!(bytes.len() % 64, 0);
            let (read, length) = read_header(&mut &bytes[..]).unwrap();
            assert_eq!((read.rows, read.dimension, length), (rows, dimension, bytes.len() as u64));
        }
    }

    #[test]
    fn every_half_is_the_float_that_it_is() {
        for half in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(half >> 10 & 0x1f), f64::from(half & 0x3ff));
            let magnitude = match exponent {
                0 => fraction * 2_f64.powi(-24),
                31 if fraction == 0.0 => f64::INFINITY,
                31 => f64::NAN,
                _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
            };
            let value = from_half(half);
            assert_eq!(value.is_sign_negative(), half >> 15 == 1);
            assert!(f64::from(value.abs()) == magnitude || value.is_nan() && magnitude.is_nan(), "{half}");
        }
    }
}
