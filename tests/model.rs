//! The store against a `BTreeMap` and brute force in f64: random sequences of operations, with kills, power cuts and failing disks.
//!
//! `PROPTEST_CASES` sets how many sequences, and `FAISS_PROXY_MODEL_SEED` which; with `FAISS_PROXY_MODEL_SECONDS` other ones follow, from the seeds after that, for
//! so long. A failing one is shrunk, printed, and its seed kept in `tests/model-failures.txt`, which every later run tries first. One thread does
//! everything, and the same sequence does the same to the disk (the last test holds that). `tests/linearizability/` has several threads.

mod support;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{
    Condition, Durability, Error, Filter, IndexOptions, IndexSpec, Lsn, Metric, Opening, PageQuery, Query, WriteOptions,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestRng, TestRunner};
use support::{Before, Chance, NewPoint, Row, Session, State, env_or, tiny_limits};

/// So few that most batches replace something, and some name an id twice.
const IDS: usize = 14;

#[derive(Clone, Debug)]
enum Op {
    Upsert {
        points: Vec<(usize, u64)>,
        durability: Durability,
    },
    Delete {
        ids: Vec<usize>,
        durability: Durability,
    },
    /// Points with conditions; with a key, one of few, so that most are a retry.
    UpsertIf {
        points: Vec<(usize, u64, Wish)>,
        atomic: bool,
        key: Option<usize>,
        durability: Durability,
    },
    Patch {
        id: usize,
        patch: usize,
        durability: Durability,
    },
    DeleteMatching {
        tag: u64,
        durability: Durability,
    },
    Search {
        seed: u64,
        k: usize,
        tag: Option<u64>,
        exact: bool,
    },
    Get {
        id: usize,
    },
    Pages {
        limit: usize,
        tag: Option<u64>,
    },
    Checkpoint,
    Settle,
    Train,
    Compact,
    Erase,
    Sync,
    CloseAndOpenAgain,
    Reopen {
        opening: Opening,
    },
    Kill {
        opening: Opening,
    },
    PowerCut {
        seed: u64,
        opening: Opening,
    },
    Fault {
        nth: u64,
        fault: Fault,
    },
    /// The power is cut inside whatever does the `nth` mutation of the disk from here on.
    Crash {
        nth: u64,
    },
}

/// A condition, before it is known which mutation stored the point.
#[derive(Clone, Copy, Debug)]
enum Wish {
    Always,
    Absent,
    Present,
    /// Stored by the mutation that stored it before the batch.
    AsItIs,
    /// Stored by this one.
    StoredBy(Lsn),
}

/// Of which the first two change nothing of what a filter sees.
const PATCHES: [&str; 5] =
    [r#"{"text":null}"#, r#"{"new":[1,{"a":null}],"big":1.50}"#, r#"{"tag":3}"#, r#"{"tag":null}"#, r#"{"tag":[0,2],"n":null}"#];

#[derive(Clone, Debug)]
struct Case {
    metric: Metric,
    dimension: usize,
    /// What is built of very few rows.
    index_type: &'static str,
    options: IndexOptions,
    is_tiny: bool,
    ops: Vec<Op>,
}

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![3 => Just(Durability::Fsync), 1 => Just(Durability::Interval)]
}

fn wish() -> impl Strategy<Value = Wish> {
    let exactly = (1_u64..40).prop_map(Wish::StoredBy);
    prop_oneof![2 => Just(Wish::Always), 1 => Just(Wish::Absent), 1 => Just(Wish::Present), 2 => Just(Wish::AsItIs), 1 => exactly]
}

fn opening() -> impl Strategy<Value = Opening> {
    prop_oneof![Just(Opening::Eager), Just(Opening::Lazy)]
}

fn op() -> impl Strategy<Value = Op> {
    let fault = prop_oneof![Just(Fault::Eio), Just(Fault::Enospc), Just(Fault::ShortWrite), Just(Fault::FailedSync)];
    prop_oneof![
        8 => (prop::collection::vec((0..IDS, any::<u64>()), 1..8), durability())
            .prop_map(|(points, durability)| Op::Upsert { points, durability }),
        3 => (prop::collection::vec(0..IDS + 2, 1..5), durability()).prop_map(|(ids, durability)| Op::Delete { ids, durability }),
        3 => (prop::collection::vec((0..IDS, any::<u64>(), wish()), 1..5), any::<bool>(), prop::option::of(0_usize..3), durability())
            .prop_map(|(points, atomic, key, durability)| Op::UpsertIf { points, atomic, key, durability }),
        2 => (0..IDS, 0..PATCHES.len(), durability()).prop_map(|(id, patch, durability)| Op::Patch { id, patch, durability }),
        1 => (0_u64..4, durability()).prop_map(|(tag, durability)| Op::DeleteMatching { tag, durability }),
        8 => (any::<u64>(), 1..IDS + 3, prop::option::of(0_u64..4), any::<bool>())
            .prop_map(|(seed, k, tag, exact)| Op::Search { seed, k, tag, exact }),
        2 => (0..IDS + 2).prop_map(|id| Op::Get { id }),
        2 => (1..IDS, prop::option::of(0_u64..4)).prop_map(|(limit, tag)| Op::Pages { limit, tag }),
        3 => Just(Op::Checkpoint),
        3 => Just(Op::Settle),
        1 => Just(Op::Train),
        1 => Just(Op::Compact),
        1 => Just(Op::Erase),
        2 => Just(Op::Sync),
        2 => Just(Op::CloseAndOpenAgain),
        1 => opening().prop_map(|opening| Op::Reopen { opening }),
        2 => opening().prop_map(|opening| Op::Kill { opening }),
        2 => (any::<u64>(), opening()).prop_map(|(seed, opening)| Op::PowerCut { seed, opening }),
        1 => (1_u64..12, fault).prop_map(|(nth, fault)| Op::Fault { nth, fault }),
        1 => (1_u64..40).prop_map(|nth| Op::Crash { nth }),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let metric = prop_oneof![Just(Metric::L2), Just(Metric::InnerProduct), Just(Metric::Cosine)];
    let dimension = prop_oneof![Just(1_usize), Just(3), Just(8), Just(17)];
    let index_type = prop_oneof![
        4 => Just("Flat"),
        3 => Just("HNSW4"),
        2 => Just("IVF2,Flat"),
        2 => Just("SQ8"),
        1 => Just("PQ1x2"),
        1 => Just("HNSW4,SQ8"),
        1 => Just("LSH"),
        1 => Just("auto"),
    ];
    let options = (1_u32..6, 1..6, any::<bool>()).prop_map(|(seal_rows, tenths, takes_any)| IndexOptions {
        seal_rows: Some(seal_rows),
        compact_dead_share: Some(tenths as f32 / 10.0),
        min_recall: takes_any.then_some(0.0),
        ..IndexOptions::default()
    });
    let ops = prop::collection::vec(op(), 1..60);
    (metric, dimension, index_type, options, any::<bool>(), ops).prop_map(
        |(metric, dimension, index_type, options, is_tiny, ops)| {
            // FAISS has it for the other metrics only.
            let index_type = if index_type == "LSH" && metric == Metric::InnerProduct { "SQ8" } else { index_type };
            // Two rows to train on are more than one segment may have.
            let needs = if matches!(index_type, "IVF2,Flat" | "PQ1x2") { 4 } else { 1 };
            let options = IndexOptions { seal_rows: options.seal_rows.map(|rows| rows.max(needs)), ..options };
            Case { metric, dimension, index_type, options, is_tiny, ops }
        },
    )
}

fn id(n: usize) -> String {
    // Of different lengths, and not only ASCII.
    format!("{}-{n}", "é".repeat(n % 5))
}

/// A vector of some kind: few small integers (so that distances tie), fractions, or values that f32 kernels cannot bear.
fn vector(seed: u64, dimension: usize) -> Vec<f32> {
    let mut chance = Chance::new(seed);
    let kind = chance.below(12);
    let mut vector: Vec<f32> = (0..dimension)
        .map(|_| {
            let unit = chance.below(2001) as f32 / 1000.0 - 1.0;
            let whole = chance.below(5) as f32 - 2.0;
            match kind {
                0..=2 => whole,
                3..=6 => unit,
                7 => unit * 1e30,
                8 => unit * 1e-30,
                9 => f32::from_bits(chance.below(1 << 10) as u32),
                10 => whole * (f32::MAX / 2.0),
                _ => [unit, 1e18, -1e19, 1e-20, 0.0][chance.below(5)],
            }
        })
        .collect();
    if vector.iter().all(|&x| x == 0.0) {
        // With the metric cosine, a vector without a direction is refused.
        vector[0] = 1.0;
    }
    vector
}

fn metadata(seed: u64) -> String {
    match seed % 7 {
        0 => "{}".to_owned(),
        1 => format!("{{ \"tag\" : {}.0 , \"text\":\"naïve\\n\\\"{seed}\\\"\" }}", seed % 4),
        2 => format!("{{\"n\":[1,{{\"m\":null}}],\"tag\":[9,{}]}}", seed % 4),
        _ => format!("{{\"tag\":{},\"big\":12345678901234567890123}}", seed % 4),
    }
}

/// Whether `{"tag": wanted}` matches: by number, also in an array.
fn has_tag(metadata: &str, wanted: u64) -> bool {
    let value: serde_json::Value = serde_json::from_str(metadata).unwrap();
    let is_it = |value: &serde_json::Value| value.as_f64() == Some(wanted as f64);
    is_it(&value["tag"]) || value["tag"].as_array().is_some_and(|elements| elements.iter().any(is_it))
}

/// Squared distance, product or cosine, and the sum of the magnitudes that went into it.
fn brute_force(metric: Metric, a: &[f32], b: &[f32]) -> (f64, f64) {
    let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let product: f64 = pairs().map(|(a, b)| a * b).sum();
    let magnitude: f64 = pairs().map(|(a, b)| (a * b).abs()).sum();
    let norm = |v: &[f32]| v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    match metric {
        Metric::L2 => {
            let squared: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
            (squared, squared)
        }
        Metric::InnerProduct => (product, magnitude),
        Metric::Cosine => (product / (norm(a) * norm(b)), 1.0),
    }
}

/// What squares and products of f32 lose where they fall under the smallest one, for each value of the longest vector here.
const UNDERFLOW: f64 = 1e-43;

/// An `exact` answer is the best there is; any other has as many live points, each once, as they are, best first.
fn check_search(session: &Session, metric: Metric, query: &[f32], k: usize, tag: Option<u64>, exact: bool) {
    let filter = tag.map(|tag| Filter::parse(&format!("{{\"tag\":{tag}}}")).unwrap());
    let hits = session.index.search(&Query { vector: query.to_vec(), k, filter, exact, ..Query::default() }).unwrap();
    // Smaller is nearer.
    let sign = if metric == Metric::L2 { 1.0 } else { -1.0 };
    let matching = |row: &&Row| tag.is_none_or(|tag| has_tag(&row.metadata, tag));
    let state = session.history.state(session.index.info().lsn);
    assert_eq!(hits.len(), k.min(state.values().filter(matching).count()), "hits");

    let truth = |row: &Row| {
        let values: Vec<f32> = row.bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        brute_force(metric, query, &values)
    };
    let mut before = f64::NEG_INFINITY;
    let mut worst = (f64::NEG_INFINITY, 0.0);
    for hit in &hits {
        let row = state.get(&hit.id).unwrap_or_else(|| panic!("{:?} is not alive", hit.id));
        assert!(matching(&row), "{:?} does not match", hit.id);
        assert_eq!(hit.metadata, row.metadata);
        let (distance, magnitude) = truth(row);
        let tolerance = 1e-5 * distance.abs() + 1e-13 * magnitude + UNDERFLOW;
        assert!((hit.distance - distance).abs() <= tolerance, "{:?} is at {distance}, and not {}", hit.id, hit.distance);
        let score = if metric == Metric::L2 { 1.0 / (1.0 + hit.distance) } else { hit.distance };
        assert!((hit.score - score).abs() <= 1e-12 * score.abs(), "score {} for {score}", hit.score);
        assert!(hit.distance * sign >= before, "best first");
        before = hit.distance * sign;
        if distance * sign > worst.0 {
            worst = (distance * sign, magnitude);
        }
    }
    let mut ids: Vec<&String> = hits.iter().map(|hit| &hit.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), hits.len(), "an id came twice");
    if !exact && tag.is_none() {
        return;
    }
    // f32 kernels choose: who is as near as the last one, within their precision, may be in its place.
    for (id, row) in state.iter().filter(|(id, row)| matching(row) && !ids.contains(id)) {
        let (distance, magnitude) = truth(row);
        let tolerance = 1e-5 * magnitude.max(worst.1) + UNDERFLOW;
        assert!(distance * sign >= worst.0 - tolerance, "{id:?} at {distance} is missed, and {} is not", worst.0 * sign);
    }
}

/// The pages together have every point that matches, as it is, once, by rising ids; and as many as are counted.
fn check_pages(session: &Session, limit: usize, tag: Option<u64>) {
    let filter = Filter::parse(&tag.map_or("{}".to_owned(), |tag| format!("{{\"tag\":{tag}}}"))).unwrap();
    let state = session.history.state(session.index.info().lsn);
    let matching = state.iter().filter(|(_, row)| tag.is_none_or(|tag| has_tag(&row.metadata, tag)));
    let expected: Vec<(&String, &Row)> = matching.collect();
    assert_eq!(session.index.count(&filter).0, expected.len() as u64);
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let query = PageQuery { filter: Some(filter.clone()), after, limit, include_values: true };
        let page = session.index.page(&query).unwrap();
        assert!(page.points.len() == limit || page.next.is_none());
        found.extend(page.points);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let found: Vec<(String, Row)> = found
        .into_iter()
        .map(|point| (point.id, Row { bits: bits(&point.values), metadata: point.metadata, lsn: point.lsn }))
        .collect();
    assert!(found.iter().map(|(id, row)| (id, row)).eq(expected), "the pages have {found:?}");
}

#[derive(Debug, Default)]
struct Counts {
    operations: AtomicU64,
    searches: AtomicU64,
    /// FAISS indexes that searches asked.
    asked: AtomicU64,
    reopenings: AtomicU64,
    closings: AtomicU64,
    faults: AtomicU64,
    /// States of the disk after kills and power cuts that were opened: between operations, and inside one.
    crashes_between: AtomicU64,
    crashes_inside: AtomicU64,
    /// Operations of the simulated disks.
    io: AtomicU64,
}

/// Gives the state at the end.
fn run(case: &Case, counts: &Counts) -> State {
    let limits = if case.is_tiny { Limits { log_segment_bytes: 4096, ..tiny_limits() } } else { Limits::default() };
    // Whatever nobody has is closed.
    let limits = Limits { memory_budget_bytes: 1, build_threads: 1, ..limits };
    let spec = IndexSpec {
        index_type: case.index_type.to_owned(),
        options: case.options.clone(),
        ..support::spec(case.dimension, case.metric)
    };
    let mut session = Session::create_as(&SimIo::new(), &limits, &spec);
    for op in &case.ops {
        counts.operations.fetch_add(1, Relaxed);
        // Whether a write failed, and what that means, the session notes.
        match op {
            Op::Upsert { points, durability } => {
                let points: Vec<NewPoint> = points
                    .iter()
                    .map(|&(n, seed)| NewPoint { id: id(n), values: vector(seed, case.dimension), metadata: metadata(seed) })
                    .collect();
                let _ = session.upsert(&points, *durability);
            }
            Op::Delete { ids, durability } => {
                let ids: Vec<String> = ids.iter().map(|&n| id(n)).collect();
                let _ = session.delete(&ids.iter().map(String::as_str).collect::<Vec<_>>(), *durability);
            }
            Op::UpsertIf { points, atomic, key, durability } => {
                let points: Vec<_> = points.iter().map(|point| conditional(&session, point, case.dimension)).collect();
                let options = WriteOptions { atomic: *atomic, ..WriteOptions::from(*durability) };
                let key = key.map(|key| format!("key-{key}"));
                let _ = session.upsert_if(&points, &options, key.as_deref());
            }
            Op::Patch { id: n, patch, durability } => drop(session.patch(&id(*n), PATCHES[*patch], *durability)),
            Op::DeleteMatching { tag, durability } => {
                drop(session.delete_matching(&format!("{{\"tag\":{tag}}}"), *durability, |metadata| has_tag(metadata, *tag)));
            }
            Op::Search { seed, k, tag, exact } => {
                counts.searches.fetch_add(1, Relaxed);
                let built = session.index.info().builds.iter().filter(|build| build.factory.is_some()).count() as u64;
                counts.asked.fetch_add(built * u64::from(!exact && tag.is_none()), Relaxed);
                check_search(&session, case.metric, &vector(*seed, case.dimension), *k, *tag, *exact);
            }
            Op::Pages { limit, tag } => check_pages(&session, *limit, *tag),
            Op::Get { id: n } => {
                let found = session.index.get(&id(*n)).unwrap().map(Row::from);
                assert_eq!(found.as_ref(), session.history.state(session.index.info().lsn).get(&id(*n)));
            }
            Op::Checkpoint => drop(session.checkpoint()),
            Op::Settle => drop(session.settle_builds()),
            Op::Train => drop(session.train()),
            Op::Compact => drop(session.compact()),
            Op::Erase => drop(session.erase()),
            Op::Sync => drop(session.sync()),
            Op::CloseAndOpenAgain => match session.close_and_open_again() {
                Ok(is_closed) => {
                    counts.closings.fetch_add(u64::from(is_closed), Relaxed);
                }
                Err(_) => {
                    let disk = session.disk.fork();
                    session = reopen(Opening::Lazy, session, disk, &limits, Before::Kill, counts);
                }
            },
            Op::Reopen { opening } => {
                let _ = session.store.close();
                if !session.disk.is_crashed() {
                    let disk = session.disk.clone();
                    session = reopen(*opening, session, disk, &limits, Before::Kill, counts);
                }
            }
            Op::Kill { opening } => {
                counts.crashes_between.fetch_add(1, Relaxed);
                let disk = session.disk.fork();
                session = reopen(*opening, session, disk, &limits, Before::Kill, counts);
            }
            Op::PowerCut { seed, opening } => {
                counts.crashes_between.fetch_add(1, Relaxed);
                let disk = session.disk.crash(Survival::Random(*seed));
                session = reopen(*opening, session, disk, &limits, Before::PowerCut, counts);
            }
            Op::Fault { nth, fault } => {
                counts.faults.fetch_add(1, Relaxed);
                session.disk.fail_at(*nth, *fault);
            }
            Op::Crash { nth } => session.disk.crash_at(*nth),
        }
        if session.disk.is_crashed() {
            let disk = cut_power_inside(&session.disk, counts);
            session = reopen(Opening::Lazy, session, disk, &limits, Before::PowerCut, counts);
        }
    }
    let disk = session.disk.crash(Survival::None);
    let session = reopen(Opening::Lazy, session, disk, &limits, Before::PowerCut, counts);
    counts.io.fetch_add(session.disk.operations(), Relaxed);
    session.history.last().clone()
}

fn conditional(session: &Session, &(n, seed, wish): &(usize, u64, Wish), dimension: usize) -> (NewPoint, Condition) {
    let condition = match (wish, session.history.last().get(&id(n))) {
        (Wish::Always, _) => Condition::Always,
        (Wish::Absent, _) | (Wish::AsItIs, None) => Condition::Absent,
        (Wish::Present, _) => Condition::Present,
        (Wish::AsItIs, Some(row)) => Condition::StoredBy(row.lsn),
        (Wish::StoredBy(lsn), _) => Condition::StoredBy(lsn),
    };
    (NewPoint { id: id(n), values: vector(seed, dimension), metadata: metadata(seed) }, condition)
}

/// What a disk has whose process died inside an operation. What survives is drawn by how far it came, so that a case repeats exactly.
fn cut_power_inside(disk: &SimIo, counts: &Counts) -> SimIo {
    counts.crashes_inside.fetch_add(1, Relaxed);
    disk.crash(Survival::Random(disk.mutations()))
}

fn reopen(opening: Opening, session: Session, mut disk: SimIo, limits: &Limits, mut before: Before, counts: &Counts) -> Session {
    counts.reopenings.fetch_add(1, Relaxed);
    let Session { disk: old, store, index, history, .. } = session;
    drop((index, store));
    counts.io.fetch_add(old.operations(), Relaxed);
    loop {
        let faults = disk.faults_left();
        match Session::open_as(opening, &disk, limits, history.clone(), before) {
            Ok(session) => return session,
            Err(_) if disk.is_crashed() => {
                disk = cut_power_inside(&disk, counts);
                before = Before::PowerCut;
            }
            // A fault that was planned struck the opening: it strikes once.
            Err(Error::Io(_) | Error::Full(_) | Error::OutcomeUnknown(_)) if disk.faults_left() < faults => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[test]
fn store_answers_as_the_model_does_through_kills_power_cuts_and_faults() {
    let counts = Counts::default();
    let cases = env_or("PROPTEST_CASES", 1000);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let first = env_or("FAISS_PROXY_MODEL_SEED", now);
    let started = Instant::now();
    let until = started + Duration::from_secs(env_or("FAISS_PROXY_MODEL_SECONDS", 0));
    println!("FAISS_PROXY_MODEL_SEED={first}");
    let mut seeds = 0;
    while seeds == 0 || Instant::now() < until {
        let seed = first.wrapping_add(seeds);
        if let Err(error) = runner(seed, cases).run(&case(), |case| {
            run(&case, &counts);
            Ok(())
        }) {
            panic!("{error}\nAgain: FAISS_PROXY_MODEL_SEED={seed} PROPTEST_CASES={cases} cargo test --test model");
        }
        seeds += 1;
    }
    let seconds = started.elapsed().as_secs_f64();
    let operations = counts.operations.load(Relaxed);
    println!(
        "{seeds} seeds of {cases} sequences in {seconds:.1} s, {:.0} operations a second: {counts:?}",
        operations as f64 / seconds
    );
    assert!(counts.asked.into_inner() > 100, "indexes were built and asked");
    assert!(counts.searches.into_inner() > 0 && counts.reopenings.into_inner() > 0);
    assert!(counts.closings.into_inner() > 0 && counts.crashes_inside.into_inner() > 0);
}

/// Sequences from a seed.
fn runner(seed: u64, cases: u64) -> TestRunner {
    let config = Config {
        cases: cases as u32,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model-failures.txt"))),
        max_shrink_iters: 2_000,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

#[test]
fn a_seed_replays_exactly() {
    let replay = || {
        let counts = Counts::default();
        let states = std::cell::RefCell::new(Vec::new());
        runner(7, 40)
            .run(&case(), |case| {
                states.borrow_mut().push(run(&case, &counts));
                Ok(())
            })
            .unwrap();
        (format!("{counts:?}"), states.into_inner())
    };
    let (first, second) = (replay(), replay());
    assert_eq!(first.0, second.0, "the same sequences did something else to the disk");
    assert_eq!(first.1, second.1);
}
