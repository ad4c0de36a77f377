//! Filters lose no results: whatever share of the points matches and whatever the index type is, there are `k` results where `k` match, the count is
//! exact, and the recall is that of the type without a filter.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use faiss_proxy::io::os::OsIo;
use faiss_proxy::{
    Durability, Filter, How, Index, IndexOptions, IndexSpec, Metric, PageQuery, Plan, Query, QueryHits, RangeQuery, SearchParams,
    Within, config::Limits,
};
use support::{Chance, open_store, tenant};

const ROWS: usize = 12_000;
const DIMENSION: usize = 16;
const K: usize = 10;
const QUERIES: usize = 40;

fn vector(chance: &mut Chance) -> Vec<f32> {
    let centre = chance.below(50) as f32;
    (0..DIMENSION).map(|at| ((centre * (at as f32 + 1.0)) % 7.0) + chance.below(1000) as f32 / 500.0).collect()
}

/// Of `parts` rows one matches: the field `p<parts>` is 0.
const PARTS: [usize; 5] = [1, 2, 20, 200, 4_000];

fn metadata(row: usize) -> String {
    let fields: Vec<String> = PARTS.iter().map(|parts| format!("\"p{parts}\":{}", row * 7919 % parts)).collect();
    format!("{{\"n\":{row},\"name\":\"row {row}\",{}}}", fields.join(","))
}

fn fill(index: &Index, rows: std::ops::Range<usize>, chance: &mut Chance) {
    let rows: Vec<usize> = rows.collect();
    for rows in rows.chunks(2_000) {
        let mut batch = index.batch();
        for &row in rows {
            batch.push(&format!("v{row}"), &vector(chance), &metadata(row)).unwrap();
        }
        index.upsert(batch, Durability::Interval).unwrap();
    }
}

fn ids(index: &Index, query: &Query) -> BTreeSet<String> {
    index.search(query).unwrap().into_iter().map(|hit| hit.id).collect()
}

/// The share of the exact answers that is found.
fn recall(index: &Index, filter: Option<&Filter>) -> f64 {
    let mut chance = Chance::new(99);
    let (mut found, mut all) = (0, 0);
    for _ in 0..QUERIES {
        let query = Query { vector: vector(&mut chance), k: K, filter: filter.cloned(), ..Query::default() };
        let truth = ids(index, &Query { exact: true, ..query.clone() });
        let answer = ids(index, &query);
        assert_eq!(answer.len(), truth.len(), "there are k results where k match");
        found += answer.intersection(&truth).count();
        all += truth.len();
    }
    found as f64 / all as f64
}

fn check(index_type: &str, metric: Metric) {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits { unbuilt_rows_max: 1 << 40, ..Limits::default() }).unwrap();
    let options = IndexOptions { min_recall: (index_type != "Flat").then_some(0.0), ..IndexOptions::default() };
    let spec = IndexSpec { index_type: index_type.to_owned(), options, ..support::spec(DIMENSION, metric) };
    let index: Arc<Index> = store.create_index(&tenant(), &spec).unwrap();
    let mut chance = Chance::new(5);
    fill(&index, 0..ROWS - 1_500, &mut chance);
    index.compact().unwrap();
    // Rows in memory, some of them in no block of the metadata index yet, and dead ones everywhere.
    fill(&index, ROWS - 1_500..ROWS, &mut chance);
    let dead: BTreeSet<usize> = (0..ROWS).filter(|row| row % 10 == 3).collect();
    let doomed: Vec<String> = dead.iter().map(|row| format!("v{row}")).collect();
    index.delete(&doomed.iter().map(String::as_str).collect::<Vec<_>>(), Durability::Interval).unwrap();

    let unfiltered = recall(&index, None);
    let mut ways = BTreeSet::new();
    for parts in PARTS {
        let filter = Filter::parse(&format!("{{\"p{parts}\":0}}")).unwrap();
        let expected = (0..ROWS).filter(|row| !dead.contains(row) && row * 7919 % parts == 0).count();
        assert_eq!(index.count(&filter).0, expected as u64, "{index_type}: 1 of {parts}");
        let recall = recall(&index, Some(&filter));
        let query = Query { vector: vec![1.0; DIMENSION], k: K, filter: Some(filter), ..Query::default() };
        let (_, explanation) = index.explain(&query).unwrap();
        assert_eq!(explanation.segments.iter().map(|segment| segment.matched).sum::<u64>(), expected as u64);
        ways.extend(explanation.segments.iter().map(|segment| format!("{:?}", segment.how)));
        println!("{index_type}, {metric:?}: 1 of {parts}: recall {recall:.3}, without a filter {unfiltered:.3}");
        assert!(
            recall >= unfiltered.min(0.95) - 0.005,
            "{index_type}: 1 of {parts}: {recall}, and {unfiltered} without a filter"
        );
    }
    assert!(ways.contains("Matches"), "{ways:?}");
}

#[test]
fn filtered_recall_is_that_of_the_type_at_every_selectivity_in_a_graph() {
    check("HNSW16", Metric::L2);
    check("HNSW16,SQ8", Metric::Cosine);
    check("NSG16", Metric::L2);
}

#[test]
fn filtered_recall_is_that_of_the_type_at_every_selectivity_in_lists() {
    check("IVF64,Flat", Metric::InnerProduct);
    check("IVF64,SQ8", Metric::L2);
    check("IVF64,PQ4", Metric::L2);
}

#[test]
fn filtered_recall_is_that_of_the_type_at_every_selectivity_in_codes_and_scans() {
    check("Flat", Metric::Cosine);
    check("SQ8", Metric::L2);
    check("PQ4", Metric::L2);
    check("PQ4x4fs", Metric::L2);
    check("RaBitQ", Metric::L2);
    check("LSH", Metric::L2);
}

/// The whole of an index, page by page, while points come, go and are replaced, and checkpoints and compactions move the rows.
#[test]
fn pages_have_every_point_that_lives_throughout_once_whatever_is_written_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
    let options = IndexOptions { seal_rows: Some(256), ..IndexOptions::default() };
    let spec = IndexSpec { index_type: "HNSW8".to_owned(), options, ..support::spec(DIMENSION, Metric::L2) };
    let index = store.create_index(&tenant(), &spec).unwrap();
    let mut chance = Chance::new(3);
    fill(&index, 0..1_000, &mut chance);
    let filter = Filter::parse("{\"p2\":0}").unwrap();
    let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let query = PageQuery { filter: Some(filter.clone()), after, limit: 37, include_values: pages % 2 == 0 };
        let page = index.page(&query).unwrap();
        assert!(page.points.iter().all(|point| point.values.is_empty() != query.include_values));
        seen.extend(page.points.into_iter().map(|point| point.id));
        pages += 1;
        // Rows from 600 on are replaced, deleted and stored anew.
        let from = 600 + chance.below(380);
        fill(&index, from..from + 20, &mut chance);
        let doomed: Vec<String> = (from + 10..from + 30).map(|row| format!("v{row}")).collect();
        index.delete(&doomed.iter().map(String::as_str).collect::<Vec<_>>(), Durability::Fsync).unwrap();
        match pages % 3 {
            0 => {
                index.checkpoint().unwrap();
            }
            1 => index.settle().unwrap(),
            _ => {
                index.compact().unwrap();
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(seen.is_sorted(), "by rising ids");
    let distinct: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len(), "no point comes twice");
    let missed: Vec<usize> = (0..600).filter(|row| row * 7919 % 2 == 0 && !distinct.contains(&format!("v{row}"))).collect();
    assert!(missed.is_empty(), "{missed:?}");
    println!("{} points in {pages} pages", seen.len());
    assert!(pages > 7);
}

#[test]
fn points_are_fetched_as_of_one_state_in_the_order_of_their_ids() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
    let index = store.create_index(&tenant(), &support::spec(DIMENSION, Metric::L2)).unwrap();
    fill(&index, 0..50, &mut Chance::new(3));
    index.checkpoint().unwrap();
    fill(&index, 40..60, &mut Chance::new(4));
    let (points, lsn) = index.fetch(&["v59", "absent", "v3", "v45", "v3"]).unwrap();
    assert_eq!(lsn, index.info().lsn);
    assert_eq!(points.iter().map(|point| point.id.as_str()).collect::<Vec<_>>(), ["v59", "v3", "v45", "v3"]);
    assert!(points.iter().all(|point| Some(point) == index.get(&point.id).unwrap().as_ref()));
}

#[test]
fn a_search_of_few_matches_goes_from_match_to_match_and_one_of_many_asks_the_index() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits { unbuilt_rows_max: 1 << 40, ..Limits::default() }).unwrap();
    let spec = IndexSpec { index_type: "HNSW16".to_owned(), ..support::spec(DIMENSION, Metric::L2) };
    let index = store.create_index(&tenant(), &spec).unwrap();
    fill(&index, 0..ROWS, &mut Chance::new(5));
    index.compact().unwrap();
    let how = |filter: &str, exact| {
        let filter = Some(Filter::parse(filter).unwrap());
        let query = Query { vector: vec![1.0; DIMENSION], k: K, filter, exact, ..Query::default() };
        index.explain(&query).unwrap().1.segments[0].how
    };
    assert_eq!(how("{\"p200\":0}", false), How::Matches);
    assert_eq!(how("{}", false), How::Index);
    assert_eq!(how("{}", true), How::Scan);
    assert_eq!(how("{\"p2\":0}", true), How::Scan);
    let hits = |min_score| {
        let query = Query { vector: vec![1.0; DIMENSION], k: K, min_score, include_values: true, ..Query::default() };
        index.search(&query).unwrap()
    };
    assert!(index.info().metadata_index_bytes > 0);
    let all = hits(None);
    assert_eq!(hits(Some(all[3].score)).len(), 4, "a score that is reached is enough");
    assert!(hits(Some(2.0)).is_empty());
    assert!(all.iter().all(|hit| hit.values.as_ref() == Some(&index.get(&hit.id).unwrap().unwrap().values)));
}

#[test]
fn a_plan_says_what_was_asked_scanned_and_visited() {
    let in_memory = 1_500;
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits { unbuilt_rows_max: 1 << 40, ..Limits::default() }).unwrap();
    let options = IndexOptions { ef_search: Some(40), min_recall: Some(0.0), ..IndexOptions::default() };
    let spec = IndexSpec { index_type: "HNSW16".to_owned(), options, ..support::spec(DIMENSION, Metric::L2) };
    let index = store.create_index(&tenant(), &spec).unwrap();
    let mut chance = Chance::new(5);
    fill(&index, 0..ROWS - in_memory, &mut chance);
    index.compact().unwrap();
    fill(&index, ROWS - in_memory..ROWS, &mut chance);
    let query = |filter: &str, exact| {
        let filter = Some(Filter::parse(filter).unwrap());
        Query { vector: vec![1.0; DIMENSION], k: K, filter, exact, ..Query::default() }
    };
    let plan = |query: &Query| {
        let QueryHits { hits, plan, .. } = index.search_planned(query).unwrap();
        assert_eq!(hits, index.search(query).unwrap());
        assert_eq!(plan, index.explain(query).unwrap().1.plan);
        plan
    };
    let (sealed, growing) = ((ROWS - in_memory) as u64, in_memory as u64);
    let matching = |parts: usize| (0..ROWS).filter(|row| row * 7919 % parts == 0).count() as u64;
    let segments = index.info().segments as u64;

    let scanned = plan(&query("{}", true));
    let all = Plan { matched: sealed + growing, memory_rows: growing, ..Plan::default() };
    assert_eq!(scanned, Plan { scan_segments: segments, scan_rows: sealed + growing, ..all });
    let asked = plan(&query("{}", false));
    let through_index = Plan { index_segments: 1, index_rows: sealed, scan_segments: segments - 1, scan_rows: growing, ..all };
    assert_eq!(asked, Plan { ef: Some(40), ..through_index });
    let wider = Query { params: SearchParams { ef: Some(99), ..SearchParams::default() }, ..query("{}", false) };
    assert_eq!(plan(&wider), Plan { ef: Some(99), ..through_index });

    // Twice the candidates, where one of two is hidden.
    let half = plan(&query("{\"p2\":0}", false));
    assert_eq!((half.matched, half.index_rows, half.second_looks), (matching(2), sealed, 0));
    assert!(half.ef.is_some_and(|ef| (79..=81).contains(&ef)), "{half:?}");
    let few = plan(&query("{\"p200\":0}", false));
    let visited = Plan { matched: matching(200), matches_segments: segments, matches_rows: matching(200), ..Plan::default() };
    assert_eq!(few, Plan { memory_rows: growing, ..visited });

    let queries = [query("{}", true), query("{}", false), query("{\"p200\":0}", false)];
    let together = index.search_batch(&queries).unwrap().plan;
    assert_eq!(together.matched, scanned.matched + asked.matched + few.matched);
    assert_eq!(
        (together.index_rows, together.scan_rows, together.matches_rows, together.ef),
        (sealed, sealed + 2 * growing, matching(200), Some(40))
    );
    let within =
        RangeQuery { vector: vec![1.0; DIMENSION], within: Within::Radius(1.0), filter: None, limit: K, include_values: false };
    assert_eq!(index.range_search(&within).unwrap().plan, scanned);
}

#[test]
fn a_plan_says_that_an_index_found_too_few_and_the_rows_were_looked_at_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits { unbuilt_rows_max: 1 << 40, ..Limits::default() }).unwrap();
    let options = IndexOptions { min_recall: Some(0.0), ..IndexOptions::default() };
    let spec = IndexSpec { index_type: "IVF64,Flat".to_owned(), options, ..support::spec(DIMENSION, Metric::L2) };
    let index = store.create_index(&tenant(), &spec).unwrap();
    fill(&index, 0..ROWS, &mut Chance::new(5));
    index.compact().unwrap();
    let plan = |k| {
        let params = SearchParams { nprobe: Some(1), ..SearchParams::default() };
        index.search_planned(&Query { vector: vec![1.0; DIMENSION], k, params, ..Query::default() }).unwrap().plan
    };
    let rows = ROWS as u64;
    let asked = Plan { matched: rows, nprobe: Some(1), ..Plan::default() };
    assert_eq!(plan(1), Plan { index_segments: 1, index_rows: rows, ..asked });
    assert_eq!(plan(ROWS / 2), Plan { scan_segments: 1, scan_rows: rows, second_looks: 1, ..asked });
}

#[test]
fn where_filters_are_in_use_a_new_segment_has_its_metadata_index_before_the_next_search() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
    let index = store.create_index(&tenant(), &support::spec(DIMENSION, Metric::L2)).unwrap();
    let bytes = || index.info().metadata_index_bytes;
    fill(&index, 0..3_000, &mut Chance::new(5));
    index.checkpoint().unwrap();
    assert_eq!(bytes(), 0, "nobody has asked");
    fill(&index, 3_000..6_000, &mut Chance::new(5));
    let of_empty_blocks = bytes();
    index.count(&Filter::parse("{\"n\":7}").unwrap());
    assert!(bytes() > of_empty_blocks + 6_000);
    for compacts in [false, true] {
        fill(&index, 6_000..6_100, &mut Chance::new(5));
        if compacts {
            index.compact().unwrap();
        } else {
            index.checkpoint().unwrap();
        }
        let (at_once, segments) = (bytes(), index.info().segments);
        index.count(&Filter::parse("{\"n\":7}").unwrap());
        assert_eq!(bytes(), at_once, "{segments} segments, and one had none");
    }
}

#[test]
fn metadata_index_is_in_a_file_after_a_checkpoint_and_is_made_again_where_that_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let filter = Filter::parse("{\"n\":{\"$lt\":500}}").unwrap();
    let files = || {
        let all = support::files_below(&OsIo, directory.path());
        all.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "fields")).collect::<Vec<_>>()
    };
    let open = || {
        let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
        let index = store.indices(&tenant()).pop();
        (store, index)
    };
    let (store, _) = open();
    let index = store.create_index(&tenant(), &support::spec(DIMENSION, Metric::L2)).unwrap();
    fill(&index, 0..3_000, &mut Chance::new(5));
    index.checkpoint().unwrap();
    assert_eq!(index.checkpoint().unwrap().bytes_written, 0);
    let expected = index.count(&filter).0;
    let memory = index.info().metadata_index_bytes;
    assert!(files().is_empty(), "nothing is written for a search");
    let report = index.checkpoint().unwrap();
    assert!(report.bytes_written > 3_000 && report.lsn == index.info().lsn, "{report:?}");
    assert_eq!((files().len(), index.checkpoint().unwrap().bytes_written), (1, 0), "once");
    drop((index, store));
    for is_damaged in [false, true, false] {
        if is_damaged {
            let file = files().remove(0);
            let mut bytes = std::fs::read(&file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }
        let before = files();
        let (store, index) = open();
        let index = index.unwrap();
        assert_eq!(index.info().metadata_index_bytes, 0, "it is read when it is asked");
        assert_eq!((index.count(&filter).0, index.info().metadata_index_bytes), (expected, memory));
        assert_eq!(index.checkpoint().unwrap().bytes_written > 0, is_damaged, "written again where it is damaged");
        assert_eq!(files() == before, !is_damaged);
        drop((index, store));
    }
    let (store, index) = open();
    let index = index.unwrap();
    fill(&index, 0..3_000, &mut Chance::new(6));
    index.checkpoint().unwrap();
    index.compact().unwrap();
    index.checkpoint().unwrap();
    index.checkpoint().unwrap();
    index.erase().unwrap();
    // Nobody has filtered since the opening: the segment that took the place of the one with a file has none.
    assert!(files().is_empty() && index.info().segments == 1, "that of a segment that is gone is gone: {:?}", files());
    store.close().unwrap();
}

#[test]
fn a_least_score_is_reached_by_a_score_that_is_written_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
    let index = store.create_index(&tenant(), &support::spec(1, Metric::InnerProduct)).unwrap();
    let mut batch = index.batch();
    batch.push("a", &[0.7], "{}").unwrap();
    index.upsert(batch, Durability::Interval).unwrap();
    let count =
        |least| index.search(&Query { vector: vec![1.0], k: 1, min_score: Some(least), ..Query::default() }).unwrap().len();
    // The f32 nearest to 0.7 is less than the f64; it is answered as `0.7`.
    assert_eq!((count(0.7), count(0.700_001)), (1, 0));
}

#[test]
fn a_field_that_is_not_indexed_takes_no_memory_and_is_filtered_by_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
    let indexes = [vec![], vec!["name".to_owned(), "p20".to_owned()]].map(|unindexed| {
        let options = IndexOptions { unindexed, ..IndexOptions::default() };
        let index = store.create_index(&tenant(), &IndexSpec { options, ..support::spec(DIMENSION, Metric::L2) }).unwrap();
        fill(&index, 0..3_000, &mut Chance::new(5));
        index.checkpoint().unwrap();
        fill(&index, 2_000..5_000, &mut Chance::new(6));
        index
    });
    let ids: Vec<_> = indexes.iter().map(|index| index.id()).collect();
    let check = |[all, some]: [Arc<Index>; 2]| {
        for filter in [
            r#"{"name":"row 1700"}"#,
            r#"{"name":{"$contains":"7"},"p200":0}"#,
            r#"{"p20":0,"p2":0}"#,
            r#"{"$or":[{"p20":3},{"n":17}]}"#,
            r#"{"p20":{"$exists":false}}"#,
            r#"{"name.first":{"$exists":false},"p200":1}"#,
            r#"{"$not":{"name":{"$in":["row 1","row 2"]}}}"#,
        ] {
            let filter = Filter::parse(filter).unwrap();
            let query = Query { vector: vec![1.0; DIMENSION], k: 100, filter: Some(filter.clone()), ..Query::default() };
            assert_eq!(some.count(&filter).0, all.count(&filter).0, "{filter:?}");
            assert_eq!(some.search(&query).unwrap(), all.search(&query).unwrap(), "{filter:?}");
        }
        let bytes = [&all, &some].map(|index| index.info().metadata_index_bytes);
        assert!(bytes[1] < bytes[0] * 3 / 4, "{bytes:?}");
    };
    check(indexes.clone());
    indexes.iter().for_each(|index| {
        index.compact().unwrap();
    });
    check(indexes);
    store.close().unwrap();
    drop(store);
    let store = open_store(OsIo, directory.path(), &Limits::default()).unwrap();
    check([0, 1].map(|at| store.index(&tenant(), ids[at]).unwrap()));
}
