//! Many queries at once and all points within a distance find what single exact searches find: same points, same scores, same order.

mod support;

use std::sync::Arc;

use faiss_proxy::io::os::OsIo;
use faiss_proxy::{
    BatchHits, Durability, Error, Filter, Hit, Index, IndexOptions, IndexSpec, Metric, Query, RangeQuery, SearchParams, Store,
    Within, config::Limits,
};
use support::{Chance, open_store, tenant};

const ROWS: usize = 3_000;
const DIMENSION: usize = 24;
const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

fn around(chance: &mut Chance, centre: f32, spread: f32) -> Vec<f32> {
    (0..DIMENSION).map(|_| centre + spread * (chance.below(2_001) as f32 / 1_000.0 - 1.0)).collect()
}

/// Rows around the origin; rows near each other and far from it, where the products of a matrix kernel say nothing of which is nearer; and between
/// them some that are equal, and some beyond f32.
fn vector(row: usize, chance: &mut Chance) -> Vec<f32> {
    match row {
        _ if row % 211 == 7 => around(chance, 0.0, 1e25),
        _ if row % 223 == 9 => around(chance, 0.0, 1e-25),
        _ if row % 50 == 1 => vec![0.25; DIMENSION],
        _ if row.is_multiple_of(2) => around(chance, 1_000.0, 0.02),
        _ => around(chance, 0.0, 1.0),
    }
}

/// Sealed rows and rows in memory, dead ones among both.
fn index_of(spec: &IndexSpec) -> (tempfile::TempDir, Store, Arc<Index>) {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits { unbuilt_rows_max: 1 << 40, ..Limits::default() }).unwrap();
    let index = store.create_index(&tenant(), spec).unwrap();
    let mut chance = Chance::new(1);
    for rows in [0..ROWS * 2 / 3, ROWS * 2 / 3..ROWS] {
        index.compact().unwrap();
        let mut batch = index.batch();
        for row in rows {
            let metadata = format!("{{\"half\":{},\"few\":{},\"n\":{row}}}", row % 4 / 2, row % 40);
            batch.push(&format!("v{row}"), &vector(row, &mut chance), &metadata).unwrap();
        }
        index.upsert(batch, Durability::Interval).unwrap();
    }
    let doomed: Vec<String> = (0..ROWS).filter(|row| row % 9 == 4).map(|row| format!("v{row}")).collect();
    index.delete(&doomed.iter().map(String::as_str).collect::<Vec<_>>(), Durability::Interval).unwrap();
    (directory, store, index)
}

/// More than are answered together; with other filters, numbers of results and parameters from one to the next.
fn queries() -> Vec<Query> {
    let mut chance = Chance::new(2);
    let filters = [None, Some("{\"half\":1}"), Some("{\"few\":{\"$lt\":2}}"), Some("{}"), Some("{\"n\":-1}")];
    let query = |number: usize| {
        let vector = match number % 8 {
            0 => around(&mut chance, 0.0, 1e25),
            1 => around(&mut chance, 0.0, 1e-25),
            2..=4 => around(&mut chance, 1_000.0, 0.02),
            _ => around(&mut chance, 0.0, 1.0),
        };
        Query {
            vector,
            k: [10, 1, 200][number % 3],
            filter: filters[number / 3 % filters.len()].map(|filter| Filter::parse(filter).unwrap()),
            exact: number.is_multiple_of(7),
            include_values: number.is_multiple_of(5),
            min_score: number.is_multiple_of(6).then_some(0.5),
            as_of_lsn: None,
            params: SearchParams { ef: number.is_multiple_of(11).then_some(40), ..SearchParams::default() },
        }
    };
    (0..300).map(query).collect()
}

fn check(spec: &IndexSpec) {
    let (_directory, _store, index) = index_of(spec);
    let queries = queries();
    let single: Vec<Vec<Hit>> = queries.iter().map(|query| index.search(query).unwrap()).collect();
    assert!(single.iter().filter(|hits| hits.len() >= 10).count() > 80, "there is something to find");
    for some in [300, 20, 3] {
        let BatchHits { answers: together, lsn, .. } = index.search_batch(&queries[..some]).unwrap();
        assert_eq!(lsn, index.info().lsn);
        assert_eq!(together.len(), some);
        for (at, (together, single)) in together.iter().zip(&single).enumerate() {
            assert!(together == single, "{}, {:?}, query {at} of {some}", spec.index_type, spec.metric);
        }
    }
}

#[test]
fn a_batch_of_exact_searches_finds_what_single_searches_find() {
    for metric in METRICS {
        check(&support::spec(DIMENSION, metric));
    }
}

#[test]
fn a_batch_of_searches_through_indexes_finds_what_single_searches_find() {
    for (index_type, metric) in [
        ("HNSW8", Metric::L2),
        ("HNSW8,SQ8", Metric::Cosine),
        ("IVF16,Flat", Metric::InnerProduct),
        ("PQ4", Metric::L2),
        ("PQ4x4fs", Metric::L2),
        ("LSH", Metric::L2),
        ("NSG8", Metric::L2),
    ] {
        let options = IndexOptions { min_recall: Some(0.0), ..IndexOptions::default() };
        check(&IndexSpec { index_type: index_type.to_owned(), options, ..support::spec(DIMENSION, metric) });
    }
}

#[test]
fn a_batch_with_a_wrong_query_is_refused_as_a_whole_and_the_query_is_named() {
    let (_directory, _store, index) = index_of(&support::spec(DIMENSION, Metric::L2));
    let right = Query { vector: vec![1.0; DIMENSION], k: 10, ..Query::default() };
    let wrong = |queries: &[Query]| match index.search_batch(queries) {
        Err(Error::Invalid { field, .. }) => field.into_owned(),
        other => panic!("{other:?}"),
    };
    let after = |query: Query| wrong(&[right.clone(), right.clone(), right.clone(), query]);
    assert_eq!(after(Query { vector: vec![1.0], ..right.clone() }), "queries[3].vector");
    assert_eq!(after(Query { vector: vec![f32::NAN; DIMENSION], ..right.clone() }), "queries[3].vector");
    assert_eq!(after(Query { k: 0, ..right.clone() }), "queries[3].k");
    let params = SearchParams { ef: Some(0), ..SearchParams::default() };
    assert_eq!(after(Query { params, ..right.clone() }), "queries[3].params.ef");
    assert_eq!(wrong(&[]), "queries");
    assert_eq!(wrong(&vec![right.clone(); 1_001]), "queries");
    assert_eq!(wrong(&vec![Query { k: 10_000, ..right.clone() }; 11]), "queries");
    assert_eq!(index.search_batch(&vec![right; 1_000]).unwrap().answers.len(), 1_000);
}

/// All live points that match, by a search that leaves none out.
fn all(index: &Index, vector: &[f32], filter: Option<&Filter>) -> Vec<Hit> {
    let query = Query { vector: vector.to_vec(), k: ROWS, filter: filter.cloned(), exact: true, ..Query::default() };
    index.search(&query).unwrap()
}

#[test]
fn a_range_search_finds_all_points_that_are_near_enough_and_no_other() {
    for metric in METRICS {
        let spec = IndexSpec { index_type: "HNSW8".to_owned(), ..support::spec(DIMENSION, metric) };
        let (_directory, _store, index) = index_of(&spec);
        let mut cut = 0;
        for Query { vector, filter, .. } in queries().into_iter().take(60) {
            let all = all(&index, &vector, filter.as_ref());
            for share in [0, 1, 9, 100, 700] {
                let Some(last) = all.get(share) else { continue };
                let limit = 300;
                // As far as a point that is there, and a little less or more.
                for within in [
                    Within::Radius(last.distance),
                    Within::Radius(last.distance.next_down()),
                    Within::MinScore(last.score),
                    Within::MinScore(last.score.next_up()),
                ] {
                    let is_within = |hit: &&Hit| match within {
                        Within::Radius(radius) if metric == Metric::L2 => {
                            hit.distance <= radius || hit.distance == f64::from(radius as f32)
                        }
                        Within::Radius(radius) => hit.distance >= radius || hit.distance == f64::from(radius as f32),
                        Within::MinScore(least) => hit.score >= least || hit.score == f64::from(least as f32),
                    };
                    let expected: Vec<&Hit> = all.iter().filter(is_within).collect();
                    let range =
                        RangeQuery { vector: vector.clone(), within, filter: filter.clone(), limit, include_values: false };
                    let found = index.range_search(&range).unwrap();
                    assert_eq!(found.lsn, index.info().lsn);
                    assert_eq!(found.truncated, expected.len() > limit, "{metric:?} {within:?}");
                    assert!(found.hits.iter().eq(expected.into_iter().take(limit)), "{metric:?} {within:?} {filter:?}");
                    cut += usize::from(found.truncated);
                }
            }
        }
        assert!(cut > 0, "{metric:?}");
    }
}

#[test]
fn a_range_search_that_cannot_be_is_refused_by_field() {
    let (_directory, _store, index) = index_of(&support::spec(DIMENSION, Metric::Cosine));
    let right =
        RangeQuery { vector: vec![1.0; DIMENSION], within: Within::Radius(0.5), filter: None, limit: 10, include_values: true };
    let field = |range: RangeQuery| match index.range_search(&range) {
        Err(Error::Invalid { field, .. }) => field.into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(field(RangeQuery { limit: 0, ..right.clone() }), "limit");
    assert_eq!(field(RangeQuery { limit: 10_001, ..right.clone() }), "limit");
    assert_eq!(field(RangeQuery { vector: vec![0.0; DIMENSION], ..right.clone() }), "vector");
    assert_eq!(field(RangeQuery { within: Within::Radius(f64::NAN), ..right.clone() }), "radius");
    assert_eq!(field(RangeQuery { within: Within::MinScore(f64::NAN), ..right.clone() }), "min_score");
    let found = index.range_search(&right).unwrap();
    assert!(found.hits.iter().all(|hit| hit.values.as_ref() == Some(&index.get(&hit.id).unwrap().unwrap().values)));
}

#[test]
fn a_radius_is_met_by_a_distance_that_is_written_the_same() {
    let (_directory, store, _) = index_of(&support::spec(DIMENSION, Metric::L2));
    let index = store.create_index(&tenant(), &support::spec(1, Metric::InnerProduct)).unwrap();
    let mut batch = index.batch();
    batch.push("a", &[0.7], "{}").unwrap();
    index.upsert(batch, Durability::Interval).unwrap();
    let count = |within| {
        let range = RangeQuery { vector: vec![1.0], within, filter: None, limit: 1, include_values: false };
        index.range_search(&range).unwrap().hits.len()
    };
    // The f32 nearest to 0.7 is less than the f64; it is answered as `0.7`.
    assert_eq!((count(Within::Radius(0.7)), count(Within::Radius(0.700_001))), (1, 0));
    assert_eq!((count(Within::MinScore(0.7)), count(Within::MinScore(0.700_001))), (1, 0));
}
