//! Reads a words file (layout: README.md beside this). The demo, tests and benches include this file by `#[path]`.
#![allow(dead_code, reason = "not every user of this file needs every field")]

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes before the words.
const HEADER_BYTES: u64 = 24;

/// Words and their vectors, the most frequent word first.
#[derive(Debug)]
pub struct Words {
    /// Floats in a vector.
    pub dimension: usize,
    pub words: Vec<String>,
    /// `dimension` floats for each word, one vector after the other.
    pub vectors: Vec<f32>,
}

impl Words {
    /// The vector of the `n`-th word.
    pub fn vector(&self, n: usize) -> &[f32] {
        &self.vectors[n * self.dimension..][..self.dimension]
    }

    /// The vector of a word, where it is in the set.
    pub fn vector_of(&self, word: &str) -> Option<&[f32]> {
        self.words.iter().position(|w| w == word).map(|n| self.vector(n))
    }
}

/// # Errors
/// [`io::ErrorKind::InvalidData`] where the file is no words file, or is longer or shorter than its header says. Nothing is
/// allocated before that is known.
pub fn read(path: &Path) -> io::Result<Words> {
    let mut file = File::open(path)?;
    let file_bytes = file.metadata()?.len();
    if file_bytes < HEADER_BYTES {
        return Err(invalid(format!("{file_bytes} bytes are too few for a header")));
    }
    let magic: [u8; 8] = read_array(&mut file)?;
    if &magic != b"FPWORDS1" {
        return Err(invalid("it does not begin with FPWORDS1".to_owned()));
    }
    let count = u64::from(u32::from_le_bytes(read_array(&mut file)?));
    let dimension = u64::from(u32::from_le_bytes(read_array(&mut file)?));
    let text_bytes = u64::from_le_bytes(read_array(&mut file)?);
    let vectors_bytes = count.checked_mul(dimension).and_then(|floats| floats.checked_mul(4));
    let expected = vectors_bytes.and_then(|bytes| bytes.checked_add(text_bytes)?.checked_add(HEADER_BYTES));
    let (Some(vectors_bytes), true) = (vectors_bytes, expected == Some(file_bytes)) else {
        return Err(invalid(format!("its header promises {expected:?} bytes, and it has {file_bytes}")));
    };

    let text = String::from_utf8(read_vec(&mut file, text_bytes)?).map_err(|error| invalid(error.to_string()))?;
    let words: Vec<String> = text.split_terminator('\n').map(str::to_owned).collect();
    if words.len() as u64 != count {
        return Err(invalid(format!("its header promises {count} words, and it has {}", words.len())));
    }
    let bytes = read_vec(&mut file, vectors_bytes)?;
    let vectors = bytes.as_chunks::<4>().0.iter().map(|float| f32::from_le_bytes(*float)).collect();
    Ok(Words { dimension: dimension as usize, words, vectors })
}

fn read_array<const N: usize>(file: &mut File) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_vec(file: &mut File, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a words file: {problem}"))
}
