//! Every index type through its whole life.

use super::*;
use crate::segment::faiss::SearchKind;
use crate::segment::recipe::resolve;

/// Types at dimension 100, where all of them fit; the others below are for what padding and odd numbers do.
const TYPES: [&str; 47] = [
    "HNSW16",
    "HNSW32,SQ8",
    "HNSW16,SQfp16",
    "HNSW16,SQ4",
    "HNSW16,PQ20",
    "NSG16",
    "NSG16,SQ8",
    "NSG16,PQ20",
    "SQ4",
    "SQ6",
    "SQ8",
    "SQfp16",
    "SQbf16",
    "PQ25",
    "PQ20x4",
    "PQ20x6",
    "PQ25x4fs",
    "RQ4x5",
    "RQ8x4",
    "LSQ4x4",
    "PRQ2x2x5",
    "PLSQ2x2x4",
    "LSH",
    "LSH128r",
    "LSH64t",
    "RaBitQ",
    "IVF16,Flat",
    "IVF16,SQ8",
    "IVF16,SQ4",
    "IVF16,SQfp16",
    "IVF16,PQ20",
    "IVF16,PQ20x4",
    "IVF16,PQ25x4fs",
    "IVF16,RQ4x5",
    "IVF16,LSQ4x4",
    "IVF16,PRQ2x2x5",
    "IVF16,PLSQ2x2x4",
    "IVF16,RaBitQ",
    "IVF64_HNSW8,Flat",
    "IVF64_HNSW8,SQ8",
    "OPQ20,PQ20",
    "OPQ20_80,IVF16,PQ20",
    "PCA64,Flat",
    "PCAR60,SQ8",
    "RR,IVF16,RaBitQ",
    "RR128,PQ16",
    "ITQ64,LSH",
];

/// Whose training takes a second: with one metric.
const SLOW: [&str; 9] = [
    "RQ8x4",
    "LSQ4x4",
    "PRQ2x2x5",
    "PLSQ2x2x4",
    "IVF16,RQ4x5",
    "IVF16,LSQ4x4",
    "IVF16,PRQ2x2x5",
    "IVF16,PLSQ2x2x4",
    "OPQ20,PQ20",
];

fn types(metric: Metric) -> impl Iterator<Item = &'static str> {
    TYPES.into_iter().filter(move |factory| metric == Metric::L2 || !SLOW.contains(factory))
}

/// What a type must find of the nearest ten, with the overfetch that the build settled on.
fn survey(fixture: &Fixture, factory: &str) {
    let started = std::time::Instant::now();
    let recipe = fixture.recipe(factory);
    let (ann, recall) = match fixture.build(&recipe, 0.9).unwrap() {
        Built::Ann { file, tuning, recall } => (fixture.open(file, &recipe, tuning).unwrap(), recall),
        Built::Exact { recall, why } => {
            println!("{factory:20} {:7} {:4} exact at {recall:?}: {why}", fixture.metric.as_str(), fixture.sealed.dimension());
            fixture.io.remove_file(&fixture.path()).unwrap_err();
            return;
        }
    };
    let count = fixture.sealed.len();
    let hidden: Positions = (0..count).filter(|row| row % 3 == 0 || row % 7 == 1).collect();
    let (all, some) = (check(fixture, &ann, &fixture.extreme), check(fixture, &ann, &hidden));
    println!(
        "{factory:20} {:7} {:4} built at {recall:.3}, found {all:.3} of all and {some:.3} of the visible, {:?}, {} ms",
        fixture.metric.as_str(),
        fixture.sealed.dimension(),
        ann.tuning,
        started.elapsed().as_millis(),
    );
    assert!(all > 0.8 && some > 0.8, "{factory}");
    let query = fixture.query(3);
    assert_eq!(found(&ann, &query, 10, &Params::default(), &hidden).len(), 10, "{factory}");
    fixture.io.remove_file(&fixture.path()).unwrap();
}

#[test]
fn every_type_is_built_opened_and_finds_what_is_visible() {
    for metric in METRICS {
        let fixture = Fixture::new(&rows(1_000, 100, 1), 100, metric);
        for factory in types(metric) {
            match Recipe::new(factory, metric, 100) {
                Ok(_) => survey(&fixture, factory),
                Err(error) => println!("{factory:20} {:7} refused: {error}", metric.as_str()),
            }
        }
    }
}

#[test]
fn padding_and_odd_dimensions_change_nothing_for_the_caller() {
    let types = [
        "HNSW16",
        "HNSW16,SQ8",
        "HNSW16,SQ4",
        "SQ8",
        "SQ6",
        "SQbf16",
        "IVF8,SQ8",
        "NSG16",
        "PQ1x6",
        "RaBitQ",
        "IVF8,RaBitQ",
        "PQ1x4fs",
    ];
    for dimension in [3, 17, 128] {
        for metric in METRICS {
            let fixture = Fixture::new(&rows(600, dimension, 2), dimension, metric);
            for factory in types {
                survey(&fixture, factory);
            }
        }
    }
}

#[test]
fn every_class_name_is_built_at_its_own_numbers() {
    let fixture = Fixture::new(&rows(600, 16, 4), 16, Metric::L2);
    for class in [
        "IndexHNSWFlat",
        "IndexHNSWSQ",
        "IndexHNSWPQ",
        "IndexNSGFlat",
        "IndexNSGSQ",
        "IndexNSGPQ",
        "IndexIVFFlat",
        "IndexIVFPQ",
        "IndexIVFPQFastScan",
        "IndexIVFScalarQuantizer",
        "IndexIVFRaBitQ",
        "IndexPQ",
        "IndexPQFastScan",
        "IndexScalarQuantizer",
        "IndexLSH",
        "IndexRaBitQ",
    ] {
        let resolved = resolve(class, None, 16, &IndexOptions::default(), 600).unwrap();
        survey(&fixture, &resolved.factory);
    }
}

/// FAISS is asked with a selector whatever the table says.
#[test]
fn the_table_of_selectors_is_what_faiss_does() {
    let hidden: Positions = (0..300).filter(|row| row % 2 == 0).collect();
    let pages: Vec<Option<&Page>> = hidden.pages().collect();
    for metric in [Metric::L2, Metric::InnerProduct] {
        let fixture = Fixture::new(&rows(300, 100, 3), 100, metric);
        for factory in types(metric).filter(|factory| !factory.starts_with("OPQ")) {
            let Ok(recipe) = Recipe::new(factory, metric, 100) else { continue };
            if recipe.is_ivf() && !recipe.takes_selector() {
                // It throws out of a parallel region of OpenMP, which ends the process: IndexIVFAdditiveQuantizer.cpp, `IF_NOT(!sel)`.
                continue;
            }
            let Built::Ann { file, tuning, .. } = fixture.build(&recipe, 0.0).unwrap() else { panic!("{factory}") };
            let ann = fixture.open(file, &recipe, tuning).unwrap();
            let kind = match recipe.kind(64, 64) {
                SearchKind::Bare => SearchKind::Selected,
                kind => kind,
            };
            let (mut distances, mut labels) = ([0.0; 50], [-1; 50]);
            let outcome = ann.index.search(kind, &fixture.query(1), 50, &pages, &mut distances, &mut labels);
            assert_eq!(outcome.is_ok(), recipe.takes_selector(), "{factory}: {outcome:?}");
            if outcome.is_ok() {
                assert!(labels.iter().all(|label| label % 2 != 0), "{factory} gives hidden rows: {labels:?}");
            }
            fixture.io.remove_file(&fixture.path()).unwrap();
        }
    }
}
