//! Vectors that have neighbours: words, or points around centres.

use std::collections::HashSet;

use faiss_proxy::{Index, Query};

use super::floats;

#[path = "../../examples/words/reader.rs"]
pub mod words;

/// Queries that each set has.
pub const QUERIES: usize = 500;

/// Rows, and queries that are none of them.
pub struct Data {
    pub name: &'static str,
    pub dimension: usize,
    pub rows: Vec<f32>,
    pub queries: Vec<f32>,
}

impl Data {
    /// The words of `examples/words` where `FAISS_PROXY_WORDS` names a file of all of them (`make_words.py --count all`), else generated clusters.
    pub fn load() -> Self {
        let Some(path) = std::env::var_os("FAISS_PROXY_WORDS") else { return Self::clusters(100_000, 100) };
        let words = words::read(path.as_ref()).expect("a file of words");
        let (dimension, every) = (words.dimension, words.words.len() / QUERIES);
        let (mut rows, mut queries) = (Vec::new(), Vec::new());
        for (number, vector) in words.vectors.chunks(dimension).enumerate() {
            let is_query = number % every == every / 2 && queries.len() < QUERIES * dimension;
            if is_query { queries.extend_from_slice(vector) } else { rows.extend_from_slice(vector) }
        }
        Self { name: "words", dimension, rows, queries }
    }

    /// Points around centres, as embeddings are: evenly spread ones have no neighbours worth the name.
    pub fn clusters(count: usize, dimension: usize) -> Self {
        let centres = floats(1_000 * dimension, 11);
        let noise = floats((count + QUERIES) * dimension, 12);
        let mut all: Vec<f32> = noise;
        for (number, vector) in all.chunks_mut(dimension).enumerate() {
            let centre = &centres[(number * 7919) % 1_000 * dimension..][..dimension];
            vector.iter_mut().zip(centre).for_each(|(x, c)| *x = 0.8 * *x + 0.6 * c);
        }
        let queries = all.split_off(count * dimension);
        Self { name: "clusters", dimension, rows: all, queries }
    }

    /// To unit vectors, whose L2 distances are in the order of their cosines.
    pub fn normalise(&mut self) {
        for vector in self.rows.chunks_mut(self.dimension).chain(self.queries.chunks_mut(self.dimension)) {
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
            vector.iter_mut().for_each(|x| *x /= norm);
        }
    }

    pub fn rows(&self) -> usize {
        self.rows.len() / self.dimension
    }

    pub fn first(&self, rows: usize) -> &[f32] {
        &self.rows[..rows.min(self.rows()) * self.dimension]
    }

    pub fn queries(&self) -> std::slice::Chunks<'_, f32> {
        self.queries.chunks(self.dimension)
    }
}

/// What a search finds.
pub fn ids(index: &Index, query: &Query) -> HashSet<String> {
    index.search(query).expect("searched").into_iter().map(|hit| hit.id).collect()
}

/// The share of the true neighbours that was found, query by query.
pub fn recall(found: impl Iterator<Item = HashSet<String>>, truth: &[HashSet<String>]) -> f64 {
    let hits: usize = found.zip(truth).map(|(found, truth)| found.intersection(truth).count()).sum();
    hits as f64 / truth.iter().map(HashSet::len).sum::<usize>() as f64
}
