//! Searches with a filter through a graph, against the same search without one: recall, time and the way taken at each selectivity; the memory of
//! the metadata index; and points read in pages.
//!
//! On the words of `examples/words`, all of them where `FAISS_PROXY_WORDS` names a file of them (`make_words.py --count all`), with metadata made of
//! the words: `length`, `first` letter, `bucket` (one of 200, by rank) and `rank`.

mod harness;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use faiss_proxy::config::Limits;
use faiss_proxy::{Durability, Filter, Index, IndexSpec, Metric, PageQuery, Query, SearchParams, Store, StoreOptions};
use harness::data::words;
use harness::{directory, quantile, report, tenant};

const K: usize = 10;
const QUERIES: usize = 200;
const ROUNDS: usize = 3;
const RECALL: f64 = 0.95;
const BUCKETS: usize = 200;

fn main() {
    let path = std::env::var("FAISS_PROXY_WORDS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/examples/words/words-5000.bin").to_owned());
    let words = words::read(path.as_ref()).expect("the words are there");
    let dir = directory();
    let limits = Limits { unbuilt_rows_max: u64::MAX / 4, ..Limits::default() };
    let store =
        Store::open(StoreOptions { limits, background: false, ..StoreOptions::new(dir.path()) }).expect("the store opens");
    let spec = IndexSpec {
        name: "bench".into(),
        dimension: words.dimension,
        index_type: "HNSW32".into(),
        metric: Some(Metric::L2),
        ..IndexSpec::default()
    };
    let index = store.create_index(&tenant(), &spec).expect("the index is created");
    let every = words.words.len() / QUERIES;
    let is_query = |rank: usize| rank % every == every / 2 && rank / every < QUERIES;
    let rows: Vec<usize> = (0..words.words.len()).filter(|&rank| !is_query(rank)).collect();
    let queries: Vec<&[f32]> = (0..words.words.len()).filter(|&rank| is_query(rank)).map(|rank| words.vector(rank)).collect();
    for rows in rows.chunks(1_000) {
        let mut batch = index.batch();
        for &rank in rows {
            let word = &words.words[rank];
            let first: String = word.chars().take(1).collect();
            let (length, bucket) = (word.chars().count(), rank * BUCKETS / words.words.len());
            let metadata = serde_json::json!({"length": length, "first": first, "bucket": bucket, "rank": rank}).to_string();
            batch.push(&format!("v{rank}"), words.vector(rank), &metadata).expect("a valid point");
        }
        index.upsert(batch, Durability::Interval).expect("stored");
    }
    index.compact().expect("compacted");
    println!("{} words, {} queries that are none of them; {:?}", rows.len(), queries.len(), index.info().builds);

    let started = Instant::now();
    index.count(&Filter::parse(r#"{"rank": 0}"#).expect("a filter"));
    let bytes = index.info().metadata_index_bytes as f64 / rows.len() as f64;
    println!("filters: the metadata index of 4 fields: made in {:.2?}, {bytes:.1} bytes a row", started.elapsed());

    let (ef, unfiltered) = ef_for(&index, &queries);
    let mut plain = times(&index, &queries, ef, None);
    let plain = quantile(&mut plain, 0.5);
    println!("filters: without one: ef {ef}, recall@10 {unfiltered:.4}, p50 {plain:.2?}");
    let few = rows.len() / 2_000;
    for (share, filter, target) in [
        ("50 %", r#"{"length": {"$lte": 7}}"#.to_owned(), "<= 3.00"),
        ("5 %", r#"{"first": "f"}"#.to_owned(), "<= 2.50"),
        ("0.5 %", format!("{{\"bucket\": {}}}", BUCKETS / 3), "< 1.00"),
        ("0.05 %", format!("{{\"rank\": {{\"$gte\": 100, \"$lt\": {}}}}}", 100 + few), "< 1.00"),
    ] {
        let filter = Filter::parse(&filter).expect("a filter");
        let matched = index.count(&filter).0;
        let recall = recall(&index, &queries, ef, Some(&filter));
        let (_, explanation) = index.explain(&query(queries[0], ef, Some(&filter), false)).expect("searched");
        let mut times = times(&index, &queries, ef, Some(&filter));
        let p50 = quantile(&mut times, 0.5);
        let what = format!("filters: about {share} ({matched} rows), by {:?}, p50", explanation.segments[0].how);
        report(&what, format!("{p50:.2?}"), format!("{plain:.2?}"), p50.as_secs_f64() / plain.as_secs_f64(), target);
        let mut counts: Vec<Duration> = (0..QUERIES).map(|_| timed(|| index.count(&filter))).collect();
        let counted = quantile(&mut counts, 0.5);
        report(
            "  of which the filter",
            format!("{counted:.2?}"),
            format!("{p50:.2?}"),
            counted.as_secs_f64() / p50.as_secs_f64(),
            "",
        );
        report("  recall@10", format!("{recall:.4}"), format!("{unfiltered:.4}"), recall / unfiltered, "recall >= 0.95");
    }
    pages(&index, rows.len());
}

fn query(vector: &[f32], ef: u32, filter: Option<&Filter>, exact: bool) -> Query {
    let params = SearchParams { ef: Some(ef), ..SearchParams::default() };
    Query { vector: vector.to_vec(), k: K, filter: filter.cloned(), exact, params, ..Query::default() }
}

fn recall(index: &Index, queries: &[&[f32]], ef: u32, filter: Option<&Filter>) -> f64 {
    let ids =
        |query: &Query| -> HashSet<String> { index.search(query).expect("searched").into_iter().map(|hit| hit.id).collect() };
    let (mut found, mut all) = (0, 0);
    for vector in queries {
        let truth = ids(&query(vector, ef, filter, true));
        found += ids(&query(vector, ef, filter, false)).intersection(&truth).count();
        all += truth.len();
    }
    found as f64 / all as f64
}

fn ef_for(index: &Index, queries: &[&[f32]]) -> (u32, f64) {
    let mut tried = [16, 32, 64, 96, 128, 192, 256, 384, 512].into_iter().map(|ef| (ef, recall(index, queries, ef, None)));
    tried.find(|&(ef, recall)| recall >= RECALL || ef == 512).expect("one of them")
}

fn times(index: &Index, queries: &[&[f32]], ef: u32, filter: Option<&Filter>) -> Vec<Duration> {
    let mut times = Vec::new();
    for vector in std::iter::repeat_n(queries, ROUNDS).flatten() {
        let query = query(vector, ef, filter, false);
        times.push(timed(|| index.search(&query).expect("searched")));
    }
    times
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    std::hint::black_box(work());
    started.elapsed()
}

/// All points, by their ids.
fn pages(index: &Index, rows: usize) {
    let started = Instant::now();
    let (mut after, mut read) = (None, 0);
    loop {
        let page = index.page(&PageQuery { after, limit: 10_000, include_values: true, filter: None }).expect("a page");
        read += page.points.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(read, rows);
    let rate = rows as f64 / started.elapsed().as_secs_f64();
    report("filters: points read in pages of 10,000", format!("{rate:.0}/s"), "200000/s".into(), rate / 200_000.0, ">= 1.00");
}
