//! Exact search through the library, against a raw FAISS `IndexFlat` of the same build, one thread each; and a batch of searches against as many single
//! ones.

mod harness;

use std::time::{Duration, Instant};

use faiss::Index as _;
use faiss::index::flat::FlatIndex;
use faiss_proxy::{Index, Metric, Query};
use harness::data::words;
use harness::{create, directory, fill, floats, open, quantile, report};

const ROWS: usize = 100_000;
const DIMENSION: usize = 128;
const K: usize = 10;
const QUERIES: usize = 20;
const ROUNDS: usize = 5;

fn main() {
    let vectors = floats(ROWS * DIMENSION, 1);
    let queries = floats(QUERIES * DIMENSION, 2);
    for (metric, mut raw) in [
        (Metric::L2, FlatIndex::new_l2(DIMENSION as u32).expect("FAISS makes an index")),
        (Metric::InnerProduct, FlatIndex::new_ip(DIMENSION as u32).expect("FAISS makes an index")),
    ] {
        raw.add(&vectors).expect("FAISS adds");
        let dir = directory();
        let store = open(dir.path());
        let index = create(&store, DIMENSION, metric);
        fill(&index, &vectors);
        compare(&format!("search_exact: {}, growing", metric.as_str()), &index, &mut raw, &queries);
        index.checkpoint().expect("checkpointed");
        compare(&format!("search_exact: {}, sealed", metric.as_str()), &index, &mut raw, &queries);
    }
    words();
    for metric in [Metric::L2, Metric::InnerProduct, Metric::Cosine] {
        batches(metric);
    }
}

/// The 5,000 words of `examples/words`: real vectors, and the cosine. FAISS has them normalised, in an index of the inner product.
fn words() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/words/words-5000.bin");
    let words = words::read(path.as_ref()).expect("the words are there");
    let mut normalised = words.vectors.clone();
    for vector in normalised.chunks_mut(words.dimension) {
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|x| *x /= norm);
    }
    let mut raw = FlatIndex::new_ip(words.dimension as u32).expect("FAISS makes an index");
    raw.add(&normalised).expect("FAISS adds");
    let dir = directory();
    let store = open(dir.path());
    let index = create(&store, words.dimension, Metric::Cosine);
    fill(&index, &words.vectors);
    index.checkpoint().expect("checkpointed");
    compare("search_exact: words, cosine, sealed", &index, &mut raw, &normalised[..QUERIES * words.dimension]);
}

fn compare(what: &str, index: &Index, raw: &mut FlatIndex, queries: &[f32]) {
    for vector in queries.chunks(index.dimension()) {
        let expected = raw.search(vector, K).expect("FAISS searches");
        let found = index.search(&query(vector)).expect("searched");
        let ids: Vec<String> = expected.labels.iter().filter_map(|label| label.get()).map(|row| format!("v{row}")).collect();
        assert_eq!(found.into_iter().map(|hit| hit.id).collect::<Vec<_>>(), ids, "the neighbours are FAISS's own");
    }
    let (ours, plain) = times(index, raw, queries);
    let ratio = ours.as_secs_f64() / plain.as_secs_f64();
    report(what, format!("{ours:.2?}"), format!("{plain:.2?}"), ratio, "<= 1.10");
}

/// Median time of a search, ours and FAISS's, in alternation.
fn times(index: &Index, raw: &mut FlatIndex, queries: &[f32]) -> (Duration, Duration) {
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for vector in queries.chunks(index.dimension()) {
            let query = query(vector);
            let started = Instant::now();
            std::hint::black_box(index.search(&query).expect("searched"));
            ours.push(started.elapsed());
            let started = Instant::now();
            std::hint::black_box(raw.search(vector, K).expect("FAISS searches"));
            plain.push(started.elapsed());
        }
    }
    (quantile(&mut ours, 0.5), quantile(&mut plain, 0.5))
}

/// Batches of some sizes and a scan of all rows for each of their queries, against the same searches one by one, in alternation.
fn batches(metric: Metric) {
    const DIMENSION: usize = 100;
    let dir = directory();
    let store = open(dir.path());
    let index = create(&store, DIMENSION, metric);
    fill(&index, &floats(ROWS * DIMENSION, 1));
    index.checkpoint().expect("checkpointed");
    let queries: Vec<Query> = floats(100 * DIMENSION, 2).chunks(DIMENSION).map(query).collect();
    for count in [2, 20, 100] {
        let queries = &queries[..count];
        let (mut together, mut single) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let started = Instant::now();
            let found = index.search_batch(queries).expect("searched");
            together.push(started.elapsed());
            let started = Instant::now();
            let singles: Vec<_> = queries.iter().map(|query| index.search(query).expect("searched")).collect();
            single.push(started.elapsed());
            assert_eq!(found.answers, singles, "the answers are the same");
        }
        let (together, single) = (quantile(&mut together, 0.5), quantile(&mut single, 0.5));
        let ratio = together.as_secs_f64() / single.as_secs_f64();
        let what = format!("search_batch: {}, 100k x 100-d, {count} at once", metric.as_str());
        report(&what, format!("{together:.2?}"), format!("{single:.2?}"), ratio, "< 1.00");
    }
}

fn query(vector: &[f32]) -> Query {
    Query { vector: vector.to_vec(), k: K, filter: None, ..Query::default() }
}
