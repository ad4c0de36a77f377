//! Building, writing, reading and searching, and what goes wrong on the way.

use super::*;
use crate::io::sim::Operation;

fn built(fixture: &Fixture, recipe: &Recipe) -> (Checksum, Tuning) {
    match fixture.build(recipe, 0.0).unwrap() {
        Built::Ann { file, tuning, .. } => (file, tuning),
        Built::Exact { why, .. } => panic!("{why}"),
    }
}

/// The reason for which a segment stays exact; there must be no file then.
fn exact(fixture: &Fixture, built: Built) -> (Option<f32>, String) {
    let Built::Exact { recall, why } = built else { panic!("{built:?}") };
    assert!(fixture.io.open(&fixture.path()).is_err(), "a file is left");
    (recall, why)
}

#[test]
fn graph_over_raw_rows_holds_no_copy_of_them() {
    let (count, dimension) = (500, 64);
    for metric in METRICS {
        let fixture = Fixture::new(&rows(count, dimension, 1), dimension, metric);
        let recipe = fixture.recipe("HNSW16");
        let (file, tuning) = built(&fixture, &recipe);
        let ann = fixture.open(file, &recipe, tuning).unwrap();
        let floats = (count * dimension * 4) as u64;
        let expected = if metric == Metric::Cosine { file.bytes } else { file.bytes - floats };
        assert_eq!(ann.resident_bytes(), expected);
        // The segment is there for as long as the index is.
        let query = fixture.query(1);
        let before = found(&ann, &query, 10, &Params::default(), &Positions::default());
        let Fixture { sealed, .. } = fixture;
        drop(sealed);
        assert_eq!(found(&ann, &query, 10, &Params::default(), &Positions::default()), before);
    }
}

#[test]
fn rows_beyond_f32_are_never_in_faiss_and_do_not_disturb_it() {
    for (metric, large) in [(Metric::L2, 1e30), (Metric::InnerProduct, 3e38), (Metric::Cosine, 3e38), (Metric::Cosine, 1e-30)] {
        let mut vectors = rows(600, 8, 5);
        for row in [0, 7, 599] {
            vectors[row * 8..][..8].fill(large);
        }
        let fixture = Fixture::new(&vectors, 8, metric);
        assert_eq!(fixture.extreme.iter().collect::<Vec<_>>(), [0, 7, 599]);
        for factory in ["HNSW16", "NSG16", "IVF8,Flat", "SQ8", "PQ2x4"] {
            let recipe = fixture.recipe(factory);
            let (ann, recall) = fixture.ann(&recipe);
            assert!(recall > 0.9, "{factory} {metric:?}: {recall}");
            assert_eq!(
                ann.resident_bytes(),
                fixture.io.open(&fixture.path()).unwrap().len().unwrap(),
                "its zeros are not in the rows"
            );
            for seed in 0..50 {
                // From a row that may be extreme itself.
                let query = fixture.query(seed);
                let found = found(&ann, &query, 10, &Params::default(), &fixture.extreme);
                let truth = fixture.exact(&query, 10, &fixture.extreme);
                let hits = found.iter().filter(|(position, _)| truth.contains(position)).count();
                let is_beyond = norm::is_extreme(Metric::L2, norm::squared_norm(&query));
                assert!(
                    if is_beyond { found.is_empty() } else { hits >= 6 },
                    "{factory} {metric:?} {seed}: {found:?} for {truth:?}"
                );
            }
            fixture.io.remove_file(&fixture.path()).unwrap();
        }
    }
}

#[test]
fn sums_that_would_overflow_keep_a_segment_exact_and_a_query_unanswered() {
    let mut vectors = rows(600, 8, 5);
    vectors[80] = 2e12;
    let fixture = Fixture::new(&vectors, 8, Metric::L2);
    assert!(fixture.extreme.is_empty());
    for factory in ["IVF8,Flat", "SQ8", "PQ2x4", "NSG16", "PCA4,Flat"] {
        let (_, why) = exact(&fixture, fixture.build(&fixture.recipe(factory), 0.0).unwrap());
        assert!(why.contains("too large"), "{why}");
    }
    let (ann, _) = fixture.ann(&fixture.recipe("HNSW16"));
    assert_eq!(found(&ann, &vectors[80..88], 3, &Params::default(), &Positions::default())[0].0, 10);

    let fixture = Fixture::new(&rows(600, 8, 5), 8, Metric::L2);
    let (ann, _) = fixture.ann(&fixture.recipe("SQ8"));
    assert!(found(&ann, &[1e12; 8], 3, &Params::default(), &Positions::default()).is_empty());
}

#[test]
fn any_k_and_any_parameters_are_taken() {
    let fixture = Fixture::new(&rows(300, 16, 1), 16, Metric::L2);
    let query = fixture.query(2);
    let all_but_three: Positions = (0..300).filter(|row| ![5, 100, 299].contains(row)).collect();
    let odd = Params { ef: Some(0), nprobe: Some(0), rescore: Some(false) };
    let large = Params { ef: Some(u32::MAX), nprobe: Some(u32::MAX), rescore: Some(true) };
    for factory in
        ["HNSW16", "HNSW16,SQ4", "NSG16", "IVF8,Flat", "IVF8,PQ4x4fs", "IVF8_HNSW4,SQ8", "PQ4x6", "LSH", "RQ2x4", "SQ8", "RaBitQ"]
    {
        let (ann, _) = fixture.ann(&fixture.recipe(factory));
        for params in [Params::default(), odd, large] {
            for k in [0, 1, 2, 299, 300, 301, 10_000] {
                let found = found(&ann, &query, k, &params, &Positions::default());
                assert!(found.len() <= k.min(300), "{factory} {k}");
                if k == 1 {
                    assert_eq!(found.len(), 1, "{factory} {params:?}");
                }
            }
            assert!(found(&ann, &query, 10, &params, &all_but_three).len() <= 3, "{factory}");
            let everything: Positions = (0..300).collect();
            assert!(found(&ann, &query, 10, &params, &everything).is_empty(), "{factory}");
        }
        if factory != "NSG16" {
            assert_eq!(found(&ann, &query, 300, &large, &Positions::default()).len(), 300, "{factory}");
        }
        fixture.io.remove_file(&fixture.path()).unwrap();
    }
}

#[test]
fn rescoring_finds_more_and_distances_are_exact_without_it_too() {
    let fixture = Fixture::new(&rows(1_000, 32, 1), 32, Metric::Cosine);
    let (ann, _) = fixture.ann(&fixture.recipe("PQ4x4"));
    let bare = Params { rescore: Some(false), ..Params::default() };
    let (mut with, mut without) = (0, 0);
    for seed in 0..50 {
        let query = fixture.query(seed);
        let truth = fixture.exact(&query, 10, &Positions::default());
        let hits = |params: &Params| {
            let found = found(&ann, &query, 10, params, &Positions::default());
            for &(position, distance) in &found {
                assert_eq!(distance, raw_distance(&fixture.sealed, Metric::Cosine, &query, position));
            }
            found.iter().filter(|(position, _)| truth.contains(position)).count()
        };
        with += hits(&Params::default());
        without += hits(&bare);
    }
    println!("recall@10 of PQ4x4: {} rescored, {} without", with as f32 / 500.0, without as f32 / 500.0);
    assert!(with > without + 50);
}

#[test]
fn search_parameters_are_raised_until_the_recall_is_reached() {
    // Noise without structure: the hardest there is.
    let mut noise = Noise::new(9);
    let vectors: Vec<f32> = (0..3_000 * 24).map(|_| noise.next()).collect();
    let fixture = Fixture::new(&vectors, 24, Metric::L2);
    for (factory, start) in [
        ("HNSW4", Tuning { ef: 1, nprobe: 0, overfetch: 1 }),
        ("IVF64,Flat", Tuning { ef: 0, nprobe: 1, overfetch: 1 }),
        ("IVF64,SQ4", Tuning { ef: 0, nprobe: 1, overfetch: 1 }),
        ("PQ6x4", Tuning { ef: 0, nprobe: 0, overfetch: 1 }),
        ("NSG8", Tuning { ef: 2, nprobe: 0, overfetch: 1 }),
    ] {
        let recipe = fixture.recipe(factory);
        let go = AtomicBool::new(false);
        let at_start = match fixture.build_with(&recipe, 0.0, start, &go).unwrap() {
            Built::Ann { recall, tuning, .. } => {
                assert_eq!(tuning, start);
                recall
            }
            built => panic!("{built:?}"),
        };
        fixture.io.remove_file(&fixture.path()).unwrap();
        let Built::Ann { file, tuning, recall } = fixture.build_with(&recipe, 0.95, start, &go).unwrap() else {
            panic!("{factory}")
        };
        println!("{factory}: {at_start} with {start:?}, {recall} with {tuning:?}");
        assert!(at_start < 0.9 && recall >= 0.95);
        let ann = fixture.open(file, &recipe, tuning).unwrap();
        // The sample is the build's; other queries do about as well.
        assert!(check(&fixture, &ann, &Positions::default()) > 0.85, "{factory}");
        fixture.io.remove_file(&fixture.path()).unwrap();
    }
}

#[test]
fn a_segment_that_a_type_does_not_suit_stays_exact_and_says_why() {
    let mut noise = Noise::new(9);
    let vectors: Vec<f32> = (0..3_000 * 24).map(|_| noise.next()).collect();
    let fixture = Fixture::new(&vectors, 24, Metric::L2);
    let (recall, why) = exact(&fixture, fixture.build(&fixture.recipe("LSH8"), 0.99).unwrap());
    assert!(recall.is_some_and(|recall| recall < 0.99) && why.contains("and 0.99 are wanted"), "{why}");
    let (_, why) = exact(&fixture, fixture.build(&fixture.recipe("IVF4096,Flat"), 0.0).unwrap());
    assert_eq!(why, "IVF4096,Flat is built from 4096 rows on, and there are 3000");
    let (_, why) = exact(&fixture, fixture.build(&fixture.recipe("Flat"), 0.0).unwrap());
    assert!(why.contains("exact as it is"));
}

#[test]
fn few_rows_and_equal_rows_are_built_or_stay_exact() {
    for count in [1, 2, 5, 130] {
        for vectors in [rows(count, 4, 1), vec![0.5; count * 4]] {
            let fixture = Fixture::new(&vectors, 4, Metric::Cosine);
            for factory in ["HNSW32", "NSG32", "IVF4,Flat", "SQ8", "PQ1x4", "PQ2x4fs", "RaBitQ", "LSH", "PCA2,Flat"] {
                match fixture.build(&fixture.recipe(factory), 0.9).unwrap() {
                    Built::Ann { file, tuning, .. } => {
                        let ann = fixture.open(file, &fixture.recipe(factory), tuning).unwrap();
                        assert!(!found(&ann, &fixture.query(1), 1, &Params::default(), &Positions::default()).is_empty());
                        fixture.io.remove_file(&fixture.path()).unwrap();
                    }
                    built => assert!(!exact(&fixture, built).1.is_empty()),
                }
            }
        }
    }
}

#[test]
fn a_write_that_fails_leaves_no_file_and_says_so() {
    let fixture = Fixture::new(&rows(20_000, 64, 1), 64, Metric::L2);
    let recipe = fixture.recipe("SQ8");
    let start = fixture.io.mutations();
    built(&fixture, &recipe);
    let mutations = fixture.io.mutations() - start;
    let syncs =
        fixture.io.trace().iter().filter(|step| step.operation == Operation::SyncData && step.path == fixture.path()).count();
    fixture.io.remove_file(&fixture.path()).unwrap();
    println!("{mutations} mutations, {syncs} syncs");
    // FAISS itself would have reported success on a full device.
    for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite, Fault::FailedSync] {
        for n in 1..=mutations {
            let io = fixture.io.fork();
            io.fail_at(n, fault);
            let there = Fixture { io, sealed: Arc::clone(&fixture.sealed), extreme: Positions::default(), metric: Metric::L2 };
            let outcome = there.build(&recipe, 0.0);
            if there.io.faults_left() > 0 {
                assert!(outcome.is_ok());
                break;
            }
            match (fault, outcome) {
                (Fault::Enospc, Err(Error::Full(_))) | (_, Err(Error::Io(_))) => {}
                (_, outcome) => panic!("{fault:?} at {n}: {outcome:?}"),
            }
            assert!(there.io.open(&there.path()).is_err(), "{fault:?} at {n} leaves a file");
        }
    }
}

#[test]
fn the_file_is_synced_every_four_mebibytes() {
    let fixture = Fixture::new(&rows(40_000, 64, 1), 64, Metric::L2);
    let (file, _) = built(&fixture, &fixture.recipe("SQfp16"));
    let steps = fixture.io.trace();
    let ours = steps.iter().filter(|step| step.path == fixture.path());
    let (mut since, mut syncs) = (0, 0);
    for step in ours {
        match step.operation {
            Operation::WriteAt => since += 1,
            Operation::SyncData => (since, syncs) = (0, syncs + 1),
            _ => {}
        }
        assert!(since <= 4, "a mebibyte each");
    }
    assert!(file.bytes > 4 << 20 && syncs >= 2, "{} bytes, {syncs} syncs", file.bytes);
}

#[test]
fn a_flipped_bit_anywhere_or_a_cut_is_corrupt_before_faiss_sees_it() {
    for factory in ["HNSW8", "IVF4,PQ2x4"] {
        let fixture = Fixture::new(&rows(60, 4, 1), 4, Metric::Cosine);
        let recipe = fixture.recipe(factory);
        let (file, tuning) = built(&fixture, &recipe);
        let handle = fixture.io.open(&fixture.path()).unwrap();
        let mut byte = [0];
        for offset in 0..file.bytes {
            handle.read_at(offset, &mut byte).unwrap();
            handle.write_at(offset, &[std::io::IoSlice::new(&[byte[0] ^ 1 << (offset % 8)])]).unwrap();
            let outcome = fixture.open(file, &recipe, tuning);
            assert!(matches!(outcome, Err(Error::Corrupt(_))), "byte {offset}: {outcome:?}");
            handle.write_at(offset, &[std::io::IoSlice::new(&byte)]).unwrap();
        }
        fixture.open(file, &recipe, tuning).unwrap();
        handle.set_len(file.bytes - 1).unwrap();
        assert!(matches!(fixture.open(file, &recipe, tuning), Err(Error::Corrupt(_))));
        fixture.io.remove_file(&fixture.path()).unwrap();
        assert!(matches!(fixture.open(file, &recipe, tuning), Err(Error::Corrupt(_))));
    }
}

#[test]
fn a_sound_file_of_another_index_is_corrupt() {
    let fixture = Fixture::new(&rows(100, 8, 1), 8, Metric::L2);
    let (file, tuning) = built(&fixture, &fixture.recipe("HNSW8"));
    for other in ["SQ8", "HNSW8,SQ8", "NSG8", "PCA4,HNSW8"] {
        let outcome = fixture.open(file, &fixture.recipe(other), tuning);
        assert!(matches!(outcome, Err(Error::Corrupt(_))), "{other}: {outcome:?}");
    }
    for (count, dimension, metric) in
        [(99, 8, Metric::L2), (101, 8, Metric::L2), (100, 8, Metric::InnerProduct), (100, 4, Metric::L2), (50, 16, Metric::L2)]
    {
        let (sealed, extreme) = seal(&fixture.io, Path::new("/2.seg"), &rows(count, dimension, 1), dimension, metric);
        let other = Fixture { io: fixture.io.clone(), sealed, extreme, metric };
        let outcome = other.open(file, &other.recipe("HNSW8"), tuning);
        assert!(matches!(outcome, Err(Error::Corrupt(_))), "{count} {dimension} {metric:?}: {outcome:?}");
        other.io.remove_file(Path::new("/2.seg")).unwrap();
    }
}

#[test]
fn a_build_that_is_stopped_ends_and_leaves_nothing() {
    let fixture = Fixture::new(&rows(3_000, 32, 1), 32, Metric::L2);
    for factory in ["HNSW16", "IVF64,Flat", "NSG16", "PQ8x4"] {
        let recipe = fixture.recipe(factory);
        let outcome = fixture.build_with(&recipe, 0.9, recipe.tuning(&IndexOptions::default()), &AtomicBool::new(true));
        assert!(matches!(outcome, Err(Error::Closed(_))), "{factory}: {outcome:?}");
        assert!(fixture.io.open(&fixture.path()).is_err());
    }
}

#[test]
fn a_training_is_stopped_in_its_middle() {
    // Minutes of k-means, did nobody stop it.
    let fixture = Fixture::new(&rows(20_000, 64, 1), 64, Metric::L2);
    let recipe = fixture.recipe("IVF16384,Flat");
    let stop = AtomicBool::new(false);
    let started = std::time::Instant::now();
    let outcome = std::thread::scope(|scope| {
        let build = scope.spawn(|| fixture.build_with(&recipe, 0.9, recipe.tuning(&IndexOptions::default()), &stop));
        // It is in its training for long before and long after this.
        let (_sender, receiver) = std::sync::mpsc::channel::<()>();
        let _ = receiver.recv_timeout(std::time::Duration::from_millis(300));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        build.join().unwrap()
    });
    assert!(matches!(outcome, Err(Error::Closed(_))), "{outcome:?}");
    println!("stopped after {:?}", started.elapsed());
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn searches_run_beside_each_other() {
    let fixture = Fixture::new(&rows(1_000, 16, 1), 16, Metric::L2);
    for factory in ["HNSW16", "IVF16,PQ4x4", "NSG16", "PQ4x4fs"] {
        let (ann, _) = fixture.ann(&fixture.recipe(factory));
        let expected: Vec<_> =
            (0..20).map(|seed| found(&ann, &fixture.query(seed), 10, &Params::default(), &Positions::default())).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for (seed, expected) in (0..20).zip(&expected) {
                        let found = found(&ann, &fixture.query(seed), 10, &Params::default(), &Positions::default());
                        assert_eq!(&found, expected, "{factory}");
                    }
                });
            }
        });
        fixture.io.remove_file(&fixture.path()).unwrap();
    }
}
