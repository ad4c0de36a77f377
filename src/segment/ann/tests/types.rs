//! Every index type through its whole life.

use super::*;
use crate::segment::recipe::resolve;

/// Types at dimension 100, where all of them fit; the others below are for what padding and odd numbers do.
const TYPES: [&str; 48] = [
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
    "IVF16,PQ25x4fsr",
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
        ann.tuning(),
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
        for factory in TYPES {
            match Recipe::new(factory, metric, 100) {
                Ok(_) => survey(&fixture, factory),
                Err(error) => println!("{factory:20} {:7} refused: {error}", metric.as_str()),
            }
        }
    }
}
