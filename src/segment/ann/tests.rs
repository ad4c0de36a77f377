use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::io::sim::{Fault, SimIo};
use crate::segment::Rows;
use crate::segment::growing::{Growing, NewRow};
use crate::segment::sealed;
use crate::segment::words::TextEnd;
use crate::types::{IndexId, IndexOptions};
use std::sync::atomic::AtomicBool;

mod life;
mod python;
mod types;

const INDEX: IndexId = IndexId::nil();

/// Numbers that look random and are the same each time, -1 to 1.
pub(super) struct Noise(u64);

impl Noise {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}

/// Rows around as many centres as there are for forty each, so that neighbours mean something.
pub(super) fn rows(count: usize, dimension: usize, seed: u64) -> Vec<f32> {
    let mut noise = Noise::new(seed);
    let centres: Vec<f32> = (0..count.div_ceil(40) * dimension).map(|_| noise.next() * 0.7).collect();
    let mut rows = Vec::with_capacity(count * dimension);
    for row in 0..count {
        let centre = (row * 7919) % count.div_ceil(40);
        rows.extend((0..dimension).map(|i| centres[centre * dimension + i] + noise.next()));
    }
    rows
}

/// A sealed segment on a simulated disk.
pub(super) struct Fixture {
    pub(super) io: SimIo,
    pub(super) sealed: Arc<Sealed>,
    pub(super) extreme: Positions,
    pub(super) metric: Metric,
}

impl Fixture {
    pub(super) fn new(vectors: &[f32], dimension: usize, metric: Metric) -> Self {
        let io = SimIo::new();
        let (sealed, extreme) = seal(&io, Path::new("/1.seg"), vectors, dimension, metric);
        Self { io, sealed, extreme, metric }
    }

    pub(super) fn recipe(&self, factory: &str) -> Recipe {
        Recipe::new(factory, self.metric, self.sealed.dimension()).unwrap()
    }

    pub(super) fn build(&self, recipe: &Recipe, min_recall: f32) -> Result<Built> {
        self.build_with(recipe, min_recall, recipe.tuning(&IndexOptions::default()), &AtomicBool::new(false))
    }

    pub(super) fn build_with(&self, recipe: &Recipe, min_recall: f32, tuning: Tuning, stop: &AtomicBool) -> Result<Built> {
        let options = BuildOptions { ef_construction: 40, tuning, min_recall, threads: if recipe.has_ef() { 2 } else { 1 } };
        build(&self.io, &self.path(), recipe, &options, &self.sealed, &self.extreme, stop)
    }

    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from("/1.faiss")
    }

    /// Built and opened, with the recall that the build measured.
    pub(super) fn ann(&self, recipe: &Recipe) -> (Ann, f32) {
        match self.build(recipe, 0.0).unwrap() {
            Built::Ann { file, tuning, recall } => (self.open(file, recipe, tuning).unwrap(), recall),
            Built::Exact { why, .. } => panic!("{}: {why}", recipe.factory()),
        }
    }

    pub(super) fn open(&self, file: Checksum, recipe: &Recipe, tuning: Tuning) -> Result<Ann> {
        Ann::open(&self.io, &self.path(), file, recipe, tuning, Arc::clone(&self.sealed), &self.extreme)
    }

    /// The nearest rows that are not hidden, nearest first.
    pub(super) fn exact(&self, query: &[f32], k: usize, hidden: &Positions) -> Vec<usize> {
        let mut distances = vec![0.0; self.sealed.len()];
        raw_distances(&self.sealed, self.metric, query, 0, &mut distances);
        let sign = if self.metric == Metric::L2 { 1.0 } else { -1.0 };
        let mut order: Vec<usize> = (0..distances.len()).filter(|&position| !hidden.contains(position)).collect();
        order.sort_by(|&a, &b| (sign * distances[a]).total_cmp(&(sign * distances[b])));
        order.truncate(k);
        order
    }

    pub(super) fn query(&self, seed: u64) -> Vec<f32> {
        let mut noise = Noise::new(seed + 1_000);
        let at = (seed as usize * 131) % self.sealed.len();
        let mut query: Vec<f32> = mapped(self.sealed.floats(at..at + 1)).iter().map(|x| x + noise.next() * 0.3).collect();
        if self.metric == Metric::Cosine {
            let norm = norm::squared_norm(&query).sqrt();
            query.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
        query
    }
}

pub(super) fn seal(io: &dyn Io, path: &Path, vectors: &[f32], dimension: usize, metric: Metric) -> (Arc<Sealed>, Positions) {
    let count = vectors.len() / dimension;
    let scaled = metric == Metric::Cosine;
    let growing = Growing::new(0, count, dimension, scaled);
    growing.store_vectors(0, vectors);
    let mut end = TextEnd::default();
    let mut extreme = Positions::default();
    for (position, vector) in vectors.chunks(dimension).enumerate() {
        let (scale, is_extreme) = norm::summary(metric, vector);
        if is_extreme {
            extreme.insert(position);
        }
        growing.store(position, &mut end, &NewRow { lsn: 1, id: "i", metadata: "{}", scale, extreme: is_extreme });
    }
    let rows = Rows::Growing(Arc::new(growing));
    let selection = [(&rows, (0..count as u32).collect())];
    let checksum = sealed::write(io, path, INDEX, 1, dimension, scaled, &selection).unwrap();
    (Arc::new(Sealed::open(io, path, checksum, INDEX, 1, 0).unwrap()), extreme)
}

pub(super) fn found(ann: &Ann, query: &[f32], k: usize, params: &Params, hidden: &Positions) -> Vec<(usize, f32)> {
    let mut found = Vec::new();
    let counts = ann.search(&[query], k, params, hidden, &mut |_, position, distance| found.push((position, distance))).unwrap();
    assert_eq!(counts, [found.len()]);
    found
}

/// The share of the true ten that a search finds with some rows hidden; all that it finds must be right.
fn check(fixture: &Fixture, ann: &Ann, hidden: &Positions) -> f32 {
    let mut hits = 0;
    for seed in 0..20 {
        let query = fixture.query(seed);
        let found = found(ann, &query, 10, &Params::default(), hidden);
        let positions: BTreeSet<usize> = found.iter().map(|(position, _)| *position).collect();
        assert_eq!(positions.len(), found.len(), "a row twice");
        assert!(found.len() <= 10 && positions.iter().all(|&position| !hidden.contains(position)));
        for &(position, distance) in &found {
            let expected = raw_distance(&fixture.sealed, fixture.metric, &query, position);
            assert!((distance - expected).abs() <= expected.abs().max(1.0) * 1e-4, "{distance} for {expected}");
        }
        hits += fixture.exact(&query, 10, hidden).iter().filter(|position| positions.contains(position)).count();
    }
    hits as f32 / 200.0
}

const METRICS: [Metric; 3] = [Metric::L2, Metric::InnerProduct, Metric::Cosine];

#[test]
fn hnsw_finds_what_a_scan_finds_for_every_metric() {
    for metric in METRICS {
        let fixture = Fixture::new(&rows(2_000, 17, 1), 17, metric);
        let (ann, recall) = fixture.ann(&fixture.recipe("HNSW32"));
        let hidden = (0..2_000).filter(|row| row % 3 == 0).collect();
        let (all, some) = (check(&fixture, &ann, &fixture.extreme), check(&fixture, &ann, &hidden));
        println!("{metric:?}: built at {recall}, found {all} of all and {some} of the visible");
        assert!(recall > 0.9 && all > 0.9 && some > 0.9);
    }
}
