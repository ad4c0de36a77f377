//! What it costs to have more points: ingest, build, searches, replay, reopening and memory at 10,000 points, 100,000, all words and a million, beside raw
//! FAISS with the same threads; by which power of the number each grows; and a picture of it, `target/tmp/growth.svg`.
//!
//! `FAISS_PROXY_WORDS` names all words (see `benches/ann.rs`), else clusters are generated, as they are for the million. `FAISS_PROXY_GROWTH_MAX`: no more
//! points than that.

mod harness;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use faiss::index::IndexImpl;
use faiss::index::autotune::ParameterSpace;
use faiss::index::index_factory;
use faiss::index::io::{read_index, write_index};
use faiss::{Idx, Index as _, MetricType};
use faiss_proxy::config::Limits;
use faiss_proxy::{Index, IndexId, IndexOptions, IndexSpec, Metric, Opening, Query, SearchParams, Store, StoreOptions};
use harness::data::{Data, ids, recall};
use harness::{directory, fill_with, quantile, report, resident, tenant};
use plotters::prelude::*;

const SIZES: [usize; 4] = [10_000, 100_000, 350_000, 1_000_000];
const K: usize = 10;
const EF: u32 = 64;
const EF_CONSTRUCTION: u32 = 100;
/// Of a build, ours and FAISS's.
const THREADS: usize = 2;
const SECONDS: Duration = Duration::from_secs(2);

/// Names what a child process is to measure.
const MEASURE: &str = "FAISS_PROXY_GROWTH_MEASURE";

/// What is measured, in the order of [`Figures`].
const NAMES: [&str; 8] = [
    "ingest, vectors/s",
    "replay, vectors/s",
    "build, vectors/s",
    "searches/s, ef 64",
    "p99 of a search, ms",
    "exact searches/s",
    "reopened, ms",
    "resident, MiB",
];

type Figures = [f64; NAMES.len()];

fn main() {
    if let Ok(what) = std::env::var(MEASURE) {
        return measure(&what);
    }
    let max = std::env::var("FAISS_PROXY_GROWTH_MAX").map_or(usize::MAX, |max| max.parse().expect("a number"));
    let words = Data::load();
    let mut all: Vec<(usize, Figures)> = Vec::new();
    for size in SIZES.into_iter().filter(|&size| size <= max) {
        let mut data = match size {
            1_000_000 => Data::clusters(size, words.dimension),
            _ => Data { rows: words.first(size).to_vec(), queries: words.queries.clone(), ..words },
        };
        data.normalise();
        println!("growth: {}: {} rows of {} floats", data.name, data.rows(), data.dimension);
        all.push((data.rows(), figures(&data)));
    }
    table(&all);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("growth.svg");
    draw(&path, &all).expect("drawn");
    println!("growth: {}", path.display());
}

/// A row for each figure: at each size, and the power of the size that it grows with.
fn table(all: &[(usize, Figures)]) {
    let cells = |cells: Vec<String>| cells.iter().map(|cell| format!("{cell:>12}")).collect::<String>();
    println!("{:<22}{}{:>12}", "points", cells(all.iter().map(|(size, _)| size.to_string()).collect()), "exponent");
    for (at, name) in NAMES.iter().enumerate() {
        let digits = if name.contains("ms") || name.contains("MiB") { 2 } else { 0 };
        let row = cells(all.iter().map(|(_, figures)| format!("{:.digits$}", figures[at])).collect());
        println!("{name:<22}{row}{:>12.2}", exponent(all.iter().map(|(size, figures)| (*size as f64, figures[at]))));
    }
}

/// The slope of a straight line through the logarithms, by least squares.
fn exponent(points: impl Iterator<Item = (f64, f64)>) -> f64 {
    let points: Vec<(f64, f64)> = points.map(|(x, y)| (x.ln(), y.ln())).collect();
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / count, sum.1 + point.1 / count));
    let over = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>();
    over / points.iter().map(|point| (point.0 - x).powi(2)).sum::<f64>()
}

fn draw(path: &Path, all: &[(usize, Figures)]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (1_200, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    for (at, (area, name)) in root.split_evenly((2, 4)).iter().zip(NAMES).enumerate() {
        let points: Vec<(f64, f64)> = all.iter().map(|(size, figures)| (*size as f64, figures[at])).collect();
        let range = |values: Vec<f64>| {
            let (least, most) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), &value| (a.min(value), b.max(value)));
            (least / 1.5..most * 1.5).log_scale()
        };
        let x = range(points.iter().map(|point| point.0).collect());
        let y = range(points.iter().map(|point| point.1).collect());
        let mut chart = ChartBuilder::on(area)
            .caption(name, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(56)
            .build_cartesian_2d(x, y)?;
        chart.configure_mesh().x_labels(4).y_labels(5).draw()?;
        chart.draw_series(LineSeries::new(points.iter().copied(), &BLUE).point_size(3))?;
    }
    root.present()?;
    Ok(())
}

fn quiet(path: &Path) -> Store {
    let limits = Limits { unbuilt_rows_max: u64::MAX / 4, build_threads: THREADS, ..Limits::default() };
    Store::open(StoreOptions { limits, background: false, ..StoreOptions::new(path) }).expect("the store opens")
}

fn create(store: &Store, index_type: &str, data: &Data) -> std::sync::Arc<Index> {
    let options = IndexOptions { ef_construction: (index_type != "Flat").then_some(EF_CONSTRUCTION), ..IndexOptions::default() };
    let spec = IndexSpec {
        name: "bench".into(),
        dimension: data.dimension,
        index_type: index_type.into(),
        metric: Some(Metric::L2),
        options,
        ..IndexSpec::default()
    };
    store.create_index(&tenant(), &spec).expect("created")
}

fn figures(data: &Data) -> Figures {
    let (dir, rows) = (directory(), data.rows() as f64);
    let per_second = |began: Instant| rows / began.elapsed().as_secs_f64();
    let metadata = |row: usize| format!("{{\"n\":{}}}", row % 200);

    // All in the log, as after a kill.
    let log_dir = dir.path().join("log");
    let store = quiet(&log_dir);
    let began = Instant::now();
    fill_with(&create(&store, "Flat", data), &data.rows, metadata);
    let ingest = per_second(began);
    drop(store);
    let began = Instant::now();
    let store = quiet(&log_dir);
    let replay = per_second(began);
    assert_eq!(store.indices(&tenant())[0].info().vector_count, data.rows() as u64);
    drop(store);

    let data_dir = dir.path().join("data");
    let store = quiet(&data_dir);
    let index = create(&store, "HNSW16", data);
    fill_with(&index, &data.rows, metadata);
    // Which writes the rows too.
    let began = Instant::now();
    index.compact().expect("compacted");
    let build = per_second(began);
    let info = index.info();
    assert_eq!((info.segments, info.unindexed_rows), (1, 0), "{:?}", info.builds);
    let raw_file = dir.path().join("raw.faiss");
    let began = Instant::now();
    let mut raw = build_raw(data);
    let raw_build = per_second(began);
    report(
        &format!("growth: {} rows, build, vectors/s", data.rows()),
        format!("{build:.0}"),
        format!("{raw_build:.0}"),
        build / raw_build,
        ">= 0.90",
    );
    write_index(&raw, raw_file.to_string_lossy()).expect("written");

    let (mut times, mut raw_times) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for vector in data.queries().cycle().take_while(|_| began.elapsed() < SECONDS) {
        let query = query(vector, false);
        times.push(timed(|| drop(index.search(&query).expect("searched"))));
        raw_times.push(timed(|| drop(raw.search(vector, K).expect("FAISS searches"))));
    }
    let (qps, raw_qps) = (rate(&times), rate(&raw_times));
    let p99 = quantile(&mut times, 0.99).as_secs_f64() * 1e3;
    report(
        &format!("growth: {} rows, searches/s", data.rows()),
        format!("{qps:.0}"),
        format!("{raw_qps:.0}"),
        qps / raw_qps,
        ">= 1.00",
    );
    let truth: Vec<_> = data.queries().map(|vector| ids(&index, &query(vector, true))).collect();
    let found = data.queries().map(|vector| ids(&index, &query(vector, false)));
    let labels = data.queries().map(|vector| raw.search(vector, K).expect("FAISS searches").labels);
    let names = |labels: Vec<Idx>| labels.into_iter().flat_map(Idx::get).map(|row| format!("v{row}")).collect();
    println!("growth: recall@10 {:.4}, raw FAISS {:.4}", recall(found, &truth), recall(labels.map(names), &truth));
    let began = Instant::now();
    let exact = data.queries().cycle().take_while(|_| began.elapsed() < SECONDS);
    let exact: Vec<Duration> =
        exact.map(|vector| timed(|| drop(index.search(&query(vector, true)).expect("searched")))).collect();
    let id = index.id();
    store.close().expect("closed");
    drop((raw, index, store));

    let ours = child(&format!("{} {id} {}", data_dir.display(), data.dimension));
    let of_raw = child(&format!("{} - {}", raw_file.display(), data.dimension));
    let mib = |bytes: f64| format!("{:.1} MiB", bytes / f64::from(1 << 20));
    report(&format!("growth: {} rows, resident", data.rows()), mib(ours[1]), mib(of_raw[1]), ours[1] / of_raw[1], "<= 1.25");
    report(
        &format!("growth: {} rows, reopened", data.rows()),
        format!("{:.1} ms", ours[0]),
        format!("{:.1} ms", of_raw[0]),
        ours[0] / of_raw[0],
        "100k: 100 ms",
    );
    [ingest, replay, build, qps, p99, rate(&exact), ours[0], ours[1] / f64::from(1 << 20)]
}

fn query(vector: &[f32], exact: bool) -> Query {
    let params = SearchParams { ef: Some(EF), ..SearchParams::default() };
    Query { vector: vector.to_vec(), k: K, exact, params, ..Query::default() }
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = Instant::now();
    work();
    began.elapsed()
}

fn rate(times: &[Duration]) -> f64 {
    times.len() as f64 / times.iter().sum::<Duration>().as_secs_f64()
}

fn build_raw(data: &Data) -> IndexImpl {
    let mut raw = index_factory(data.dimension as u32, "HNSW16", MetricType::L2).expect("made");
    for (parameter, value) in [("efConstruction", EF_CONSTRUCTION), ("efSearch", EF)] {
        ParameterSpace::new().expect("made").set_index_parameter(&raw, parameter, f64::from(value)).expect("FAISS takes it");
    }
    // Here OpenMP has all processors, which are as many as `THREADS`.
    raw.add(&data.rows).expect("added");
    raw
}

/// Milliseconds to the first answer, and bytes that are resident more after 500 of them, in a process of its own.
fn child(what: &str) -> [f64; 2] {
    let program = std::env::current_exe().expect("this program");
    let out = Command::new(program).env(MEASURE, what).output().expect("started");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8_lossy(&out.stdout);
    let mut numbers = text.split_whitespace().map(|number| number.parse().expect("a number"));
    [(); 2].map(|()| numbers.next().expect("two of them"))
}

fn measure(what: &str) {
    let [path, id, dimension] = what.split(' ').collect::<Vec<_>>()[..] else { panic!("three words") };
    let dimension: usize = dimension.parse().expect("a number");
    let vectors = harness::floats(500 * dimension, 3);
    let (before, began) = (resident("self").0, Instant::now());
    let first;
    if id == "-" {
        let mut raw = read_index(path).expect("read");
        drop(raw.search(&vectors[..dimension], K).expect("FAISS searches"));
        first = began.elapsed();
        vectors.chunks(dimension).for_each(|vector| drop(raw.search(vector, K).expect("FAISS searches")));
        print(first, resident("self").0 - before);
    } else {
        let store = Store::open(StoreOptions { opening: Opening::Lazy, ..StoreOptions::new(path) }).expect("the store opens");
        let index = store.index(&tenant(), id.parse::<IndexId>().expect("an id")).expect("it serves");
        drop(index.search(&query(&vectors[..dimension], false)).expect("searched"));
        first = began.elapsed();
        vectors.chunks(dimension).for_each(|vector| drop(index.search(&query(vector, false)).expect("searched")));
        print(first, resident("self").0 - before);
    }
}

fn print(first: Duration, bytes: u64) {
    println!("{} {bytes}", first.as_secs_f64() * 1e3);
}
