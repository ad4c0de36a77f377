use std::collections::BTreeSet;

use super::*;

const ROWS_MAX: u64 = 1_000_000;

fn resolve_at(index_type: &str, metric: Option<Metric>, dimension: usize) -> Result<Resolved, String> {
    resolve(index_type, metric, dimension, &IndexOptions::default(), ROWS_MAX).map_err(|error| error.to_string())
}

fn factory(index_type: &str, dimension: usize) -> String {
    resolve_at(index_type, None, dimension).unwrap().factory
}

#[test]
fn class_names_resolve_by_the_documented_rule() {
    let cases = [
        ("IndexFlat", "Flat"),
        ("IndexFlatL2", "Flat"),
        ("IndexFlatIP", "Flat"),
        ("IndexHNSW", "HNSW32"),
        ("IndexHNSWFlat", "HNSW32"),
        ("IndexHNSWSQ", "HNSW32,SQ8"),
        ("IndexHNSWPQ", "HNSW32,PQ25"),
        ("IndexNSG", "NSG32"),
        ("IndexNSGFlat", "NSG32"),
        ("IndexNSGSQ", "NSG32,SQ8"),
        ("IndexNSGPQ", "NSG32,PQ25"),
        ("IndexIVFFlat", "IVF256,Flat"),
        ("IndexIVFPQ", "IVF256,PQ25"),
        ("IndexIVFPQFastScan", "IVF256,PQ25x4fs"),
        ("IndexIVFScalarQuantizer", "IVF256,SQ8"),
        ("IndexIVFRaBitQ", "IVF256,RaBitQ"),
        ("IndexIVFResidualQuantizer", "IVF256,RQ8x8"),
        ("IndexIVFLocalSearchQuantizer", "IVF256,LSQ8x8"),
        ("IndexIVFProductResidualQuantizer", "IVF256,PRQ2x4x8"),
        ("IndexIVFProductLocalSearchQuantizer", "IVF256,PLSQ2x4x8"),
        ("IndexPQ", "PQ25"),
        ("IndexPQFastScan", "PQ25x4fs"),
        ("IndexScalarQuantizer", "SQ8"),
        ("IndexLSH", "LSH"),
        ("IndexRaBitQ", "RaBitQ"),
        ("IndexResidualQuantizer", "RQ8x8"),
        ("IndexLocalSearchQuantizer", "LSQ8x8"),
        ("IndexProductResidualQuantizer", "PRQ2x4x8"),
        ("IndexProductLocalSearchQuantizer", "PLSQ2x4x8"),
    ];
    for (class, expected) in cases {
        assert_eq!(factory(class, 100), expected, "{class}");
        for dimension in [1, 3, 17, 128, 768] {
            factory(class, dimension);
        }
    }
    let parts = [(1, 1), (3, 1), (17, 1), (8, 2), (100, 25), (128, 32), (256, 64), (768, 64), (1_024, 64)];
    for (dimension, expected) in parts {
        assert_eq!(classes::product_parts(dimension), expected, "{dimension}");
    }
}

#[test]
fn factory_strings_are_written_one_way_and_read_again_the_same() {
    let cases = [
        ("Flat", "Flat"),
        ("HNSW", "HNSW32"),
        ("HNSW16,Flat", "HNSW16"),
        ("HNSW16_SQ8", "HNSW16,SQ8"),
        ("HNSW32,PQ20np", "HNSW32,PQ20"),
        ("NSG", "NSG32"),
        ("IVF1k,Flat", "IVF1024,Flat"),
        ("IVF256_HNSW,PQ10", "IVF256_HNSW32,PQ10"),
        ("IVF256,PQ10x8", "IVF256,PQ10"),
        ("IVF256,PQ10x4fs", "IVF256,PQ10x4fs"),
        ("IVF256,PQ10x12", "IVF256,PQ10x12"),
        ("OPQ10_60,IVF256,PQ10", "OPQ10_60,IVF256,PQ10"),
        ("PCA64,HNSW32", "PCA64,HNSW32"),
        ("PCAR64,RR,SQbf16", "PCAR64,RR,SQbf16"),
        ("RR128,LSH128rt", "RR128,LSH128rt"),
        ("ITQ64,LSH", "ITQ64,LSH"),
        ("PRQ2x4x6", "PRQ2x4x6"),
        ("IVF256,PLSQ2x4x6", "IVF256,PLSQ2x4x6"),
    ];
    for (text, expected) in cases {
        let recipe = Recipe::new(text, Metric::L2, 100).unwrap();
        assert_eq!(recipe.factory(), expected);
        assert_eq!(Recipe::new(recipe.factory(), Metric::L2, 100).unwrap(), recipe);
    }
}

#[test]
fn our_transforms_stand_where_faiss_and_python_expect_them() {
    let native = |factory, metric, dimension| Recipe::new(factory, metric, dimension).unwrap().native;
    assert_eq!(native("HNSW32", Metric::L2, 100), "HNSW32");
    assert_eq!(native("HNSW32", Metric::Cosine, 100), "L2norm,HNSW32");
    assert_eq!(native("SQ8", Metric::Cosine, 17), "L2norm,Pad32,SQ8");
    assert_eq!(native("HNSW32,SQ8", Metric::InnerProduct, 100), "Pad112,HNSW32,SQ8");
    assert_eq!(native("IVF16,SQ4", Metric::L2, 96), "IVF16,SQ4");
    assert_eq!(native("PCA50,SQfp16", Metric::Cosine, 100), "L2norm,PCA50,Pad64,SQfp16");
}

#[test]
fn metrics_go_with_types_as_faiss_has_them() {
    let metric = |index_type, metric| resolve_at(index_type, metric, 100).map(|resolved| resolved.metric);
    assert_eq!(metric("IndexFlatL2", None), Ok(Metric::L2));
    assert_eq!(metric("IndexFlatIP", None), Ok(Metric::InnerProduct));
    assert_eq!(metric("IndexFlatIP", Some(Metric::Cosine)), Ok(Metric::Cosine));
    assert_eq!(metric("HNSW32", None), Ok(Metric::L2));
    assert_eq!(metric("AUTO", Some(Metric::Cosine)), Ok(Metric::Cosine));
    assert_eq!(resolve_at("Auto", None, 3).unwrap().factory, AUTO);
    for (index_type, asked) in [
        ("IndexFlatL2", Metric::Cosine),
        ("IndexFlatIP", Metric::L2),
        ("HNSW32,PQ10", Metric::InnerProduct),
        ("IndexLSH", Metric::InnerProduct),
    ] {
        let why = metric(index_type, Some(asked)).unwrap_err();
        assert!(why.starts_with("metric: "), "{why}");
    }
}

#[test]
fn what_cannot_be_is_refused_with_a_reason_and_without_allocating() {
    let long = "PQ1,".repeat(100);
    let cases: [(&str, &str); 45] = [
        ("", "1 to 256 bytes"),
        (&long, "1 to 256 bytes"),
        ("Flät", "no part"),
        ("HNSW32,", "no part"),
        ("hnsw32", "no part"),
        ("HNSW32,Flat,Flat", "no part"),
        ("HNSW32,HNSW32", "no part"),
        ("IVF256", "needs a code"),
        ("IVF99999999999,Flat", "no part"),
        ("IVF1000000000,Flat", "not in 1 to 1048576"),
        ("IVF4000M,Flat", "not in 1 to 1048576"),
        ("IVF0,Flat", "not in 1 to"),
        ("IVF1M,PQ25", "too_many_training_rows?needs 1048576 rows"),
        ("HNSW0", "not in 2 to 512"),
        ("HNSW100000", "not in 2 to 512"),
        ("NSG1", "not in 2 to 512"),
        ("PQ16", "a multiple of 16, and not 100"),
        ("PQ0", "a multiple of 0"),
        ("PQ25x24", "not in 1 to 16"),
        ("HNSW32,PQ100x16", "the tables of distances would take"),
        ("OPQ16,PQ10", "a multiple of 16, and not 100"),
        ("PCA200,Flat", "cannot make 200 dimensions of 100"),
        ("PCA0,Flat", "cannot make 0"),
        ("RR20000,Flat", "a matrix of 20000 x 20000, 1525 MiB"),
        ("PCAW64,Flat", "whitening"),
        ("RR,RR,RR,RR,RR,Flat", "5 transforms"),
        ("RR", "a transform alone"),
        ("LSH100000r", "not in 1 to 65536"),
        ("LSH200", "FAISS refuses"),
        ("RQ64x12", "would take"),
        ("PRQ3x2x4", "cannot be split into 3"),
        ("SQ8_direct", "takes bytes"),
        ("IVF16,PQ25x4fsr", "reads beyond its tables"),
        ("MinMax,SQ8", "encode with this type and not search"),
        ("ZnLattice2x3_4", "encode with this type and not search"),
        ("IDMap,Flat", "ids of its own"),
        ("HNSW32,IDMap2", "ids of its own"),
        ("PQ10,RFlat", "refinement is built in"),
        ("IVF16,PQ10,Refine(SQ8)", "refinement is built in"),
        ("IVF16(HNSW8),Flat", "no parentheses"),
        ("L2norm,Flat", "metric \"cosine\""),
        ("Pad128,SQ8", "padding is built in"),
        ("BIVF100", "vectors here are floats"),
        ("IndexBinaryFlat", "vectors here are floats"),
        ("IndexMadeUp", "docs/index-types.md"),
    ];
    for (index_type, expected) in cases {
        let expected = expected.rsplit('?').next().unwrap();
        let why = resolve_at(index_type, None, 100).unwrap_err();
        assert!(why.starts_with("index_type: ") && why.contains(expected), "{index_type}: {why}");
        assert!(!why.contains(".cpp"), "{why}");
    }
    for class in ["IndexIDMap", "IndexRefineFlat", "IndexPreTransform", "IndexShards"] {
        assert!(resolve_at(class, None, 100).is_err_and(|why| why.contains(class)));
    }
    // At the dimension that the server takes at most.
    for (index_type, expected) in
        [("OPQ16,PQ16", "16384 MiB"), ("PCA64,Flat", "16384 MiB"), ("IVF65536,Flat", "the lists' centres")]
    {
        let why = resolve_at(index_type, None, 65_536).unwrap_err();
        assert!(why.contains(expected), "{why}");
    }
}

#[test]
fn a_type_that_no_segment_could_train_is_refused() {
    let at = |rows_max, seal_rows| {
        let options = IndexOptions { seal_rows, ..IndexOptions::default() };
        resolve("IVF1024,PQ25", None, 100, &options, rows_max).map_err(|error| error.to_string())
    };
    assert!(at(1_024, None).is_ok());
    assert!(at(1_023, None).is_err_and(|why| why.contains("needs 1024 rows")));
    assert!(at(1_000_000, Some(1_000)).is_err_and(|why| why.contains("1000 at most")));
}

#[test]
fn options_without_a_meaning_for_the_type_are_refused_by_name() {
    let none = IndexOptions::default;
    let cases = [
        ("Flat", IndexOptions { ef_search: Some(10), ..none() }, "options.ef_search: "),
        ("IVF16,Flat", IndexOptions { ef_construction: Some(10), ..none() }, "options.ef_construction: "),
        ("HNSW32", IndexOptions { nprobe: Some(1), ..none() }, "options.nprobe: "),
        ("IVF16,Flat", IndexOptions { nprobe: Some(17), ..none() }, "options.nprobe: 17 is not in 1 to 16"),
        ("HNSW32", IndexOptions { ef_search: Some(0), ..none() }, "options.ef_search: 0"),
        ("HNSW32", IndexOptions { ef_construction: Some(5_000), ..none() }, "options.ef_construction: 5000"),
        ("HNSW32", IndexOptions { min_recall: Some(1.5), ..none() }, "options.min_recall: "),
        ("HNSW32", IndexOptions { min_recall: Some(f32::NAN), ..none() }, "options.min_recall: "),
        ("HNSW32", IndexOptions { compact_dead_share: Some(0.0), ..none() }, "options.compact_dead_share: "),
        ("auto", IndexOptions { seal_rows: Some(0), ..none() }, "options.seal_rows: "),
        ("auto", IndexOptions { nprobe: Some(0), ..none() }, "options.nprobe: "),
        ("Flat", IndexOptions { unindexed: vec![String::new()], ..none() }, "options.unindexed: "),
        ("auto", IndexOptions { unindexed: vec!["x".repeat(513)], ..none() }, "options.unindexed: "),
        ("auto", IndexOptions { unindexed: vec!["x".to_owned(); 65], ..none() }, "options.unindexed: "),
    ];
    for (index_type, options, expected) in cases {
        let why = resolve(index_type, None, 100, &options, ROWS_MAX).unwrap_err().to_string();
        assert!(why.starts_with(expected), "{why}");
    }
    let all = IndexOptions {
        ef_construction: Some(100),
        ef_search: Some(100),
        nprobe: None,
        min_recall: Some(0.99),
        seal_rows: Some(10_000),
        compact_dead_share: Some(1.0),
        unindexed: vec!["a.b".to_owned(); 64],
        log_retention_bytes: Some(1),
    };
    assert!(resolve("HNSW32,SQ8", None, 100, &all, ROWS_MAX).is_ok());
    assert!(resolve("auto", None, 100, &IndexOptions { nprobe: Some(500), ..all }, ROWS_MAX).is_ok());
}

#[test]
fn auto_takes_the_most_exact_type_that_fits() {
    let pick = |rows, budget| pick(rows, 128, Metric::L2, budget);
    let mut seen = BTreeSet::new();
    for (rows, budget, expected) in [
        (100, 0, "Flat"),
        (9_999, 0, "Flat"),
        (10_000, 1 << 30, "HNSW32"),
        (1_000_000, 1 << 30, "HNSW32"),
        (1_000_000, 500 << 20, "IVF2048,SQ8"),
        (1_000_000, 100 << 20, "IVF2048,PQ32"),
        (1_000_000, 0, "IVF2048,PQ32"),
        (20_000, 1 << 20, "IVF256,SQ8"),
    ] {
        let (factory, why) = pick(rows, budget);
        assert_eq!(factory, expected, "{why}");
        assert!(Recipe::new(&factory, Metric::Cosine, 128).unwrap().train_rows_advised() <= rows.max(39 * 256 * 2), "{factory}");
        println!("{rows} rows, {} MiB: {factory}: {why}", budget >> 20);
        seen.insert(factory);
    }
    assert_eq!(seen.len(), 5);
}
