//! Sealed segments with FAISS indexes, through the library, against raw FAISS of the same build; a search is one query on one thread.
//!
//! `cargo bench --bench ann -- [hnsw] [ingest] [deletes] [reopen] [quantised] [curves]` runs some parts, without an argument all. On the words of
//! `examples/words` where `FAISS_PROXY_WORDS` names a file of all of them (`make_words.py --count all`), else on generated clusters. The picture of the curves
//! is `target/tmp/curves.svg`.

mod harness;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use faiss::index::autotune::ParameterSpace;
use faiss::index::{Idx, IndexImpl, index_factory};
use faiss::{Index as _, MetricType};
use faiss_proxy::config::Limits;
use faiss_proxy::{
    Durability, Index, IndexId, IndexOptions, IndexSpec, Metric, Opening, Query, SearchParams, Store, StoreOptions,
};
use harness::data::{Data, QUERIES, ids, recall};
use harness::{directory, files, floats, quantile, report, resident, tenant};
use plotters::prelude::*;

const K: usize = 10;
const ROUNDS: usize = 4;
/// What recall is compared at.
const RECALL: f64 = 0.95;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let [child, path, rest @ ..] = &arguments[..]
        && child.starts_with("child-")
    {
        return child_process(child, path.as_ref(), rest);
    }
    let runs = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    let data = Data::load();
    println!("{}: {} rows of {} floats, {QUERIES} queries that are none of them", data.name, data.rows(), data.dimension);
    if runs("hnsw") {
        hnsw(&data);
        hnsw(&Data::clusters(50_000, 768));
    }
    if runs("ingest") {
        ingest(&data);
    }
    if runs("deletes") {
        deletes(&data);
    }
    if runs("reopen") {
        reopen(&data);
    }
    if runs("quantised") {
        quantised(&data);
    }
    if runs("curves") {
        curves(&data);
    }
}

/// A store that does only what it is told, so that nothing runs beside a measurement.
fn open_quiet(path: &Path, limits: Limits) -> Store {
    Store::open(StoreOptions { limits, background: false, ..StoreOptions::new(path) }).expect("the store opens")
}

fn create(store: &Store, index_type: &str, dimension: usize, options: IndexOptions) -> Arc<Index> {
    let spec = IndexSpec {
        name: "bench".into(),
        dimension,
        index_type: index_type.into(),
        metric: Some(Metric::L2),
        options,
        ..IndexSpec::default()
    };
    store.create_index(&tenant(), &spec).expect("the index is created")
}

fn upsert(index: &Index, first: usize, vectors: &[f32]) {
    let mut batch = index.batch();
    for (row, vector) in vectors.chunks(index.dimension()).enumerate() {
        batch.push(&format!("v{}", first + row), vector, "{}").expect("a valid point");
    }
    index.upsert(batch, Durability::Interval).expect("stored");
}

fn fill(index: &Index, first: usize, vectors: &[f32]) {
    for (number, vectors) in vectors.chunks(1_000 * index.dimension()).enumerate() {
        upsert(index, first + number * 1_000, vectors);
    }
}

fn query(vector: &[f32], ef: u32) -> Query {
    Query { vector: vector.to_vec(), k: K, params: SearchParams { ef: Some(ef), ..SearchParams::default() }, ..Query::default() }
}

fn truth(index: &Index, data: &Data) -> Vec<HashSet<String>> {
    data.queries().map(|vector| ids(index, &Query { exact: true, ..query(vector, 1) })).collect()
}

/// The smallest of the usual efSearch at which the index finds enough.
fn ef_for(index: &Index, data: &Data, truth: &[HashSet<String>]) -> (u32, f64) {
    let at = |ef: u32| recall(data.queries().map(|vector| ids(index, &query(vector, ef))), truth);
    let mut tried = [16, 32, 64, 96, 128, 192, 256, 384, 512].into_iter().map(|ef| (ef, at(ef)));
    tried.find(|&(ef, recall)| recall >= RECALL || ef == 512).expect("one of them")
}

fn raw_hnsw(dimension: usize, rows: &[f32]) -> IndexImpl {
    let mut raw = index_factory(dimension as u32, "HNSW32", MetricType::L2).expect("FAISS makes an index");
    raw.add(rows).expect("FAISS adds");
    raw
}

fn set_ef(raw: &mut IndexImpl, ef: u32) {
    ParameterSpace::new().expect("made").set_index_parameter(raw, "efSearch", f64::from(ef)).expect("FAISS takes it");
}

fn raw_ids(raw: &mut [IndexImpl], offsets: &[usize], vector: &[f32]) -> HashSet<String> {
    let mut all: Vec<(f32, usize)> = Vec::new();
    for (raw, offset) in raw.iter_mut().zip(offsets) {
        let found = raw.search(vector, K).expect("FAISS searches");
        let rows = found.labels.iter().map(|label: &Idx| label.get().map(|row| row as usize + offset));
        all.extend(found.distances.iter().copied().zip(rows).filter_map(|(distance, row)| Some((distance, row?))));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    all.iter().take(K).map(|(_, row)| format!("v{row}")).collect()
}

/// HNSW32 in one segment and in four, against raw FAISS over the same rows in one and in four.
fn hnsw(data: &Data) {
    for parts in [1, 4] {
        let dir = directory();
        let rows = data.rows().div_ceil(parts);
        let limits = Limits { segment_rows_max: rows as u64, unbuilt_rows_max: u64::MAX / 4, ..Limits::default() };
        let store = open_quiet(dir.path(), limits);
        let options = IndexOptions { seal_rows: Some(rows as u32 / 2), ..IndexOptions::default() };
        let index = create(&store, "HNSW32", data.dimension, options);
        let (mut raws, mut offsets) = (Vec::new(), Vec::new());
        let started = Instant::now();
        for (part, vectors) in data.rows.chunks(rows * data.dimension).enumerate() {
            fill(&index, part * rows, vectors);
            index.checkpoint().expect("checkpointed");
            index.settle().expect("built");
            offsets.push(part * rows);
        }
        let built = started.elapsed();
        let started = Instant::now();
        raws.extend(data.rows.chunks(rows * data.dimension).map(|vectors| raw_hnsw(data.dimension, vectors)));
        println!(
            "{} segments: stored and built in {built:.1?}, raw FAISS built in {:.1?}",
            index.info().segments,
            started.elapsed()
        );
        for build in index.info().builds {
            println!("  {build:?}");
        }
        assert_eq!(index.info().segments, parts);
        let truth = truth(&index, data);
        let (ef, ours) = ef_for(&index, data, &truth);
        raws.iter_mut().for_each(|raw| set_ef(raw, ef));
        let raw = recall(data.queries().map(|vector| raw_ids(&mut raws, &offsets, vector)), &truth);
        let (mut times, mut raw_times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for vector in data.queries() {
                let query = query(vector, ef);
                let started = Instant::now();
                std::hint::black_box(index.search(&query).expect("searched"));
                times.push(started.elapsed());
                let started = Instant::now();
                for raw in &mut raws {
                    std::hint::black_box(raw.search(vector, K).expect("FAISS searches"));
                }
                raw_times.push(started.elapsed());
            }
        }
        let qps = |times: &[Duration]| times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64();
        let (ours_qps, raw_qps) = (qps(&times), qps(&raw_times));
        let what = format!("ann: HNSW32, {} x {}-d, {parts} segments, ef {ef}", data.rows(), data.dimension);
        report(&what, format!("{ours_qps:.0}/s"), format!("{raw_qps:.0}/s"), ours_qps / raw_qps, ">= 0.90");
        report(&format!("{what}, recall@10"), format!("{ours:.4}"), format!("{raw:.4}"), ours / raw, "recall >= 0.95");
    }
}

/// Searches beside an ingest of 2,000 vectors a second and the builds that it brings.
fn ingest(data: &Data) {
    const RATE: usize = 2_000;
    const BATCH: usize = 100;
    const SECONDS: usize = 40;
    let preloaded = (data.rows() - RATE * SECONDS).min(100_000);
    let dir = directory();
    let store = Store::open(StoreOptions::new(dir.path())).expect("the store opens");
    // The same efSearch in every segment: what a build would raise it to is another question.
    let options = IndexOptions { ef_search: Some(96), min_recall: Some(0.0), ..IndexOptions::default() };
    let index = create(&store, "HNSW32", data.dimension, options);
    fill(&index, 0, data.first(preloaded));
    index.checkpoint().expect("checkpointed");
    index.settle().expect("built");
    let searches = |until: &dyn Fn() -> bool| {
        let mut times = Vec::new();
        for vector in data.queries().cycle() {
            if until() {
                return times;
            }
            let started = Instant::now();
            std::hint::black_box(index.search(&Query { vector: vector.to_vec(), k: K, ..Query::default() }).expect("searched"));
            times.push(started.elapsed());
        }
        times
    };
    let rest_until = Instant::now() + Duration::from_secs(5);
    let mut rest = searches(&|| Instant::now() > rest_until);
    let is_over = AtomicBool::new(false);
    let (mut busy, mut writes, mut unindexed) = (Vec::new(), Vec::new(), 0);
    std::thread::scope(|scope| {
        let searcher = scope.spawn(|| searches(&|| is_over.load(SeqCst)));
        let started = Instant::now();
        for number in 0..RATE * SECONDS / BATCH {
            let due = Duration::from_secs_f64((number * BATCH) as f64 / RATE as f64);
            while let Some(left) = due.checked_sub(started.elapsed()) {
                std::thread::park_timeout(left);
            }
            let first = preloaded + number * BATCH;
            let vectors = &data.rows[first * data.dimension..][..BATCH * data.dimension];
            let call = Instant::now();
            upsert(&index, first, vectors);
            writes.push(call.elapsed());
            unindexed = unindexed.max(index.info().unindexed_rows);
        }
        is_over.store(true, SeqCst);
        busy = searcher.join().expect("searched");
    });
    let info = index.info();
    println!("{} segments after it, {} rows unindexed, {unindexed} at most", info.segments, info.unindexed_rows);
    let (p50, longest) = (quantile(&mut writes, 0.5), quantile(&mut writes, 1.0));
    println!(
        "ann: writes of {BATCH} beside builds: p50 {p50:.1?}, longest {longest:.1?}   (target: none waits 50 ms for a build)"
    );
    let started = Instant::now();
    index.checkpoint().expect("checkpointed");
    index.settle().expect("built");
    println!("ann: all that was due was built {:.1?} after the last write", started.elapsed());
    let until = Instant::now() + Duration::from_secs(5);
    let mut after = searches(&|| Instant::now() > until);
    for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
        let busy = quantile(&mut busy, q);
        for (when, rest) in [("before", &mut rest), ("after", &mut after)] {
            let rest = quantile(rest, q);
            let what = format!("ann: search {name}, {RATE} vectors/s, at rest {when}");
            report(&what, format!("{busy:.2?}"), format!("{rest:.2?}"), busy.as_secs_f64() / rest.as_secs_f64(), "p99 <= 3.00");
        }
    }
}

/// Half of an index deleted and compacted, against a new index of the other half.
fn deletes(data: &Data) {
    let all = data.first(100_000);
    let rows = all.len() / data.dimension;
    let dir = directory();
    let store = open_quiet(dir.path(), Limits { unbuilt_rows_max: u64::MAX / 4, ..Limits::default() });
    let half: Vec<f32> = all.chunks(data.dimension).step_by(2).flatten().copied().collect();
    let fresh = create(&store, "HNSW32", data.dimension, IndexOptions::default());
    for (number, vector) in half.chunks(1_000 * data.dimension).enumerate() {
        let mut batch = fresh.batch();
        for (row, vector) in vector.chunks(data.dimension).enumerate() {
            batch.push(&format!("v{}", (number * 1_000 + row) * 2), vector, "{}").expect("a valid point");
        }
        fresh.upsert(batch, Durability::Interval).expect("stored");
    }
    let index = create(&store, "HNSW32", data.dimension, IndexOptions::default());
    fill(&index, 0, all);
    index.compact().expect("compacted");
    let doomed: Vec<String> = (1..rows).step_by(2).map(|row| format!("v{row}")).collect();
    for doomed in doomed.chunks(1_000) {
        let doomed: Vec<&str> = doomed.iter().map(String::as_str).collect();
        index.delete(&doomed, Durability::Interval).expect("deleted");
    }
    // What the background does by itself, and no more.
    index.checkpoint().expect("checkpointed");
    index.settle().expect("compacted");
    fresh.compact().expect("compacted");
    // Two checkpoints each: the older manifest, and what only it names, goes.
    for index in [&index, &fresh] {
        for _ in 0..2 {
            upsert(index, usize::MAX / 2, data.first(1));
            index.delete(&[&format!("v{}", usize::MAX / 2)], Durability::Fsync).expect("deleted");
            index.checkpoint().expect("checkpointed");
        }
    }
    let truth = truth(&fresh, data);
    let (ef, fresh_recall) = ef_for(&fresh, data, &truth);
    let ours = recall(data.queries().map(|vector| ids(&index, &query(vector, ef))), &truth);
    let (mut times, mut fresh_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for vector in data.queries() {
            let query = query(vector, ef);
            for (index, times) in [(&index, &mut times), (&fresh, &mut fresh_times)] {
                let started = Instant::now();
                std::hint::black_box(index.search(&query).expect("searched"));
                times.push(started.elapsed());
            }
        }
    }
    let qps = |times: &[Duration]| times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64();
    let size = |index: &Index| -> u64 {
        let directory = dir.path().join(tenant().as_str()).join(index.id().to_string());
        files(&directory).iter().map(|path| path.metadata().expect("a file").len()).sum()
    };
    let what = format!("ann: half of {rows} deleted, ef {ef}");
    report(
        &format!("{what}: QPS"),
        format!("{:.0}/s", qps(&times)),
        format!("{:.0}/s", qps(&fresh_times)),
        qps(&times) / qps(&fresh_times),
        "0.90 to 1.10",
    );
    report(
        &format!("{what}: recall@10"),
        format!("{ours:.4}"),
        format!("{fresh_recall:.4}"),
        ours / fresh_recall,
        "0.90 to 1.10",
    );
    let (bytes, fresh_bytes) = (size(&index), size(&fresh));
    report(
        &format!("{what}: directory"),
        format!("{bytes}"),
        format!("{fresh_bytes}"),
        bytes as f64 / fresh_bytes as f64,
        "<= 1.15",
    );
}

/// Time to the first answer, and memory, of a store that was closed; each in a process of its own.
fn reopen(data: &Data) {
    let dir = directory();
    let raw_file = dir.path().join("raw.faiss");
    let data_dir = dir.path().join("data");
    let id = {
        let store = open_quiet(&data_dir, Limits { unbuilt_rows_max: u64::MAX / 4, ..Limits::default() });
        let index = create(&store, "HNSW32", data.dimension, IndexOptions::default());
        fill(&index, 0, &data.rows);
        index.compact().expect("compacted");
        store.close().expect("closed");
        index.id()
    };
    let raw = raw_hnsw(data.dimension, &data.rows);
    faiss::index::io::write_index(&raw, raw_file.to_string_lossy()).expect("written");
    drop(raw);
    let run = |kind: &str, path: &Path, rest: &[String]| -> Vec<f64> {
        let program = std::env::current_exe().expect("this program");
        let out = std::process::Command::new(program).arg(kind).arg(path).args(rest).output().expect("a process");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).split_whitespace().map(|number| number.parse().expect("a number")).collect()
    };
    let rest = [id.to_string(), data.dimension.to_string()];
    let mut first: Vec<f64> = (0..5).map(|_| run("child-open", &data_dir, &rest)[0]).collect();
    first.sort_by(f64::total_cmp);
    let what = format!("ann: {} x {}-d HNSW32", data.rows(), data.dimension);
    report(
        &format!("{what}, reopened lazily to first answer"),
        format!("{:.0} ms", first[2]),
        "200 ms".into(),
        first[2] / 200.0,
        "<= 1.00",
    );
    let [ours, ids] = run("child-open", &data_dir, &rest)[1..] else { panic!("two figures") };
    let raw = run("child-raw", &raw_file, &rest)[0];
    let allowed = 1.15 * raw + ids;
    let mib = |bytes: f64| format!("{:.0} MiB", bytes / f64::from(1 << 20));
    println!("ann: resident: {} of which ids and metadata {}; raw FAISS {}", mib(ours), mib(ids), mib(raw));
    report(&format!("{what}, resident"), mib(ours), format!("1.15 x + ids {}", mib(allowed)), ours / allowed, "<= 1.00");
}

fn child_process(kind: &str, path: &Path, rest: &[String]) {
    let dimension: usize = rest[1].parse().expect("a dimension");
    let vectors = floats(200 * dimension, 3);
    let before = resident("self").0;
    if kind == "child-raw" {
        let mut raw = faiss::index::io::read_index(path.to_string_lossy()).expect("read");
        vectors.chunks(dimension).for_each(|vector| drop(raw.search(vector, K).expect("FAISS searches")));
        println!("{}", resident("self").0 - before);
        return;
    }
    let started = Instant::now();
    let store = Store::open(StoreOptions { opening: Opening::Lazy, ..StoreOptions::new(path) }).expect("the store opens");
    let index = store.index(&tenant(), rest[0].parse::<IndexId>().expect("an id")).expect("it serves");
    let search = |vector: &[f32]| index.search(&Query { vector: vector.to_vec(), k: K, ..Query::default() }).expect("searched");
    assert_eq!(search(&vectors[..dimension]).len(), K);
    let first = started.elapsed();
    vectors.chunks(dimension).for_each(|vector| drop(search(vector)));
    // As docs/architecture.md has it: 24 bytes of record and at most 21 of the id map a row, and the texts.
    let rows = index.info().vector_count as f64;
    println!("{} {} {}", first.as_secs_f64() * 1e3, resident("self").0 - before, rows * (24.0 + 21.0 + 9.0));
}

/// Codes in the place of floats: memory, and what ranking again by the raw vectors brings.
fn quantised(data: &Data) {
    let data = Data { rows: data.first(100_000).to_vec(), queries: data.queries.clone(), ..*data };
    let dir = directory();
    let store = open_quiet(dir.path(), Limits { unbuilt_rows_max: u64::MAX / 4, ..Limits::default() });
    let mut truth_of = None;
    for index_type in ["IndexScalarQuantizer", "SQ4", "IndexPQ", "IndexIVFPQ", "IVF256,SQ8", "RaBitQ", "HNSW32,SQ8"] {
        let index = create(&store, index_type, data.dimension, IndexOptions::default());
        fill(&index, 0, &data.rows);
        index.compact().expect("compacted");
        let truth = truth_of.get_or_insert_with(|| truth(&index, &data));
        let [before, after] = [false, true].map(|rescore| {
            let params = SearchParams { rescore: Some(rescore), ..SearchParams::default() };
            let search = |vector: &[f32]| ids(&index, &Query { vector: vector.to_vec(), k: K, params, ..Query::default() });
            let started = Instant::now();
            let recall = recall(data.queries().map(search), truth);
            (recall, started.elapsed().as_secs_f64() * 1e6 / QUERIES as f64)
        });
        let directory = dir.path().join(tenant().as_str()).join(index.id().to_string());
        let is_index = |path: &&std::path::PathBuf| path.extension().is_some_and(|extension| extension == "faiss");
        let bytes: u64 = files(&directory).iter().filter(is_index).map(|path| path.metadata().expect("a file").len()).sum();
        let builds: Vec<_> = index.info().builds;
        println!(
            "ann: {index_type:<22} {:>6.1} bytes a vector beside {} raw; recall@10 {:.4} ({:.0} us), ranked again {:.4} ({:.0} us)  {:?}",
            bytes as f64 / data.rows() as f64,
            4 * data.dimension,
            before.0,
            before.1,
            after.0,
            after.1,
            builds[0],
        );
        store.delete_index(&tenant(), index.id()).expect("deleted");
    }
}

/// What each kind finds of the ten nearest, and how fast, from little to much effort.
fn curves(data: &Data) {
    let data = Data { rows: data.first(100_000).to_vec(), queries: data.queries.clone(), ..*data };
    let dir = directory();
    let store = open_quiet(dir.path(), Limits { unbuilt_rows_max: u64::MAX / 4, min_recall: 0.0, ..Limits::default() });
    let (mut truth_of, mut drawn) = (None, Vec::new());
    for index_type in ["HNSW16", "HNSW16,SQ8", "HNSW16,PQ25", "IVF1024,Flat", "IVF1024,SQ8", "IVF1024,PQ25"] {
        let index = create(&store, index_type, data.dimension, IndexOptions::default());
        fill(&index, 0, &data.rows);
        index.compact().expect("compacted");
        let truth = truth_of.get_or_insert_with(|| truth(&index, &data));
        let points = [4, 8, 16, 32, 64, 128, 256].map(|effort| {
            let is_graph = index_type.starts_with("HNSW");
            let params =
                SearchParams { ef: is_graph.then_some(effort), nprobe: (!is_graph).then_some(effort), ..SearchParams::default() };
            let search = |vector: &[f32]| ids(&index, &Query { vector: vector.to_vec(), k: K, params, ..Query::default() });
            let started = Instant::now();
            let recall = recall(data.queries().map(search), truth);
            let per_second = QUERIES as f64 / started.elapsed().as_secs_f64();
            println!(
                "ann: {index_type:<13} {} {effort:>3}: recall@10 {recall:.4}, {per_second:>6.0} searches/s",
                if is_graph { "ef    " } else { "nprobe" }
            );
            (recall, per_second)
        });
        drawn.push((index_type, points));
        store.delete_index(&tenant(), index.id()).expect("deleted");
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("curves.svg");
    draw_curves(&path, &drawn).expect("drawn");
    println!("ann: {}", path.display());
}

fn draw_curves(path: &Path, curves: &[(&str, [(f64, f64); 7])]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (900, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let all = || curves.iter().flat_map(|(_, points)| points);
    let least = all().map(|point| point.0).fold(1.0, f64::min);
    let (slowest, fastest) = all().fold((f64::MAX, 0.0), |(a, b), point| (f64::min(a, point.1), f64::max(b, point.1)));
    let mut chart = ChartBuilder::on(&root)
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(64)
        .build_cartesian_2d(least..1.0, (slowest / 1.5..fastest * 1.5).log_scale())?;
    let whole = |per_second: &f64| format!("{per_second:.0}");
    chart.configure_mesh().x_desc("recall@10").y_desc("searches a second, one thread").y_label_formatter(&whole).draw()?;
    for (number, (index_type, points)) in curves.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), &colour).point_size(3))?
            .label(*index_type)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour));
    }
    // Where no curve is: few searches a second, and a low recall.
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    root.present()?;
    Ok(())
}
