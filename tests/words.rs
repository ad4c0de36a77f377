//! The words that the demo, tests and benches use are the ones that `examples/words/README.md` describes.

use std::fs;
use std::path::PathBuf;

#[path = "../examples/words/reader.rs"]
mod reader;

fn words_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/words/words-5000.bin")
}

#[test]
fn the_words_are_those_that_the_readme_describes() {
    let words = reader::read(&words_file()).unwrap();
    assert_eq!((words.words.len(), words.dimension, words.vectors.len()), (5_000, 100, 500_000));
    assert_eq!(words.words[..3], ["the", ",", "."]);
    assert_eq!(words.words[4_999], "magazines");
    assert_eq!(words.vector_of("the").unwrap()[..3], [-0.038194, -0.24487, 0.72812]);
    assert!(words.vectors.iter().all(|value| value.is_finite()));
}

#[test]
fn words_of_like_meaning_are_near() {
    let words = reader::read(&words_file()).unwrap();
    for (word, expected) in [("king", "prince"), ("paris", "france"), ("music", "musical"), ("seven", "eight"), ("water", "dry")]
    {
        let query = words.vector_of(word).unwrap();
        let mut others: Vec<(f64, &str)> =
            (0..words.words.len()).map(|n| (cosine(query, words.vector(n)), words.words[n].as_str())).collect();
        others.sort_by(|a, b| b.0.total_cmp(&a.0));
        assert_eq!(others[0].1, word, "a word is nearest to itself");
        let nearest: Vec<&str> = others[1..=5].iter().map(|(_, other)| *other).collect();
        assert!(nearest.contains(&expected), "{expected} is not among the nearest of {word}: {nearest:?}");
    }
}

#[test]
fn a_words_file_of_another_length_than_its_header_says_is_refused() {
    let whole = fs::read(words_file()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("words.bin");
    let mut too_many = whole.clone();
    too_many[8..16].fill(0xff);
    let mut too_much_text = whole.clone();
    too_much_text[16..24].fill(0xff);
    let longer = [whole.as_slice(), &[0]].concat();
    for content in [&whole[..0], &whole[..23], &whole[..24], &whole[..whole.len() - 1], &longer, &too_many, &too_much_text] {
        fs::write(&path, content).unwrap();
        let error = reader::read(&path).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
