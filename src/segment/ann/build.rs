//! Building: train, add, measure, tune, write.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Ann, Params, SUMMED_SQUARED_NORM_MAX, Tuning, file, mapped, raw_distance, raw_distances};
use crate::error::{Error, Result};
use crate::format::manifest::Checksum;
use crate::io::Io;
use crate::segment::faiss::{self, Index};
use crate::segment::norm;
use crate::segment::positions::Positions;
use crate::segment::recipe::Recipe;
use crate::segment::sealed::Sealed;
use crate::types::Metric;

/// Rows added at once, which takes memory beside the index where they are transformed or encoded.
const BATCH_ROWS: usize = 8_192;

/// FAISS takes no more than 256 rows for each centre itself.
const TRAIN_ROWS_PER_CENTRE: u64 = 256;
/// Rows that a type without centres is trained on at most; so many are enough for a range or a mean.
const TRAIN_ROWS: u64 = 65_536;

/// Rows up to which an NSG graph begins with a comparison of all pairs; above, with NN-descent.
const ALL_PAIRS_ROWS_MAX: usize = 20_000;

/// Rows of the segment that are asked for their neighbours, and neighbours of each.
const SAMPLE: usize = 100;
const SAMPLE_K: usize = 10;

/// Rows compared with every query of the sample at once: they stay in a cache.
const BLOCK_ROWS: usize = 256;

const EF_TUNED_MAX: u32 = 1_024;
const OVERFETCH_TUNED_MAX: u32 = 128;

#[derive(Clone, Copy, Debug)]
pub(crate) struct BuildOptions {
    /// Candidates that HNSW keeps while it links a row.
    pub(crate) ef_construction: u32,
    /// What the search parameters are at first.
    pub(crate) tuning: Tuning,
    /// Recall@10 that the index must have on the sample, 0 to 1.
    pub(crate) min_recall: f32,
    /// That add rows; a training has one.
    pub(crate) threads: usize,
}

/// What came of a build.
#[derive(Debug)]
pub(crate) enum Built {
    /// The file is written and synced, and its name is not durable yet.
    Ann { file: Checksum, tuning: Tuning, recall: f32 },
    /// The segment stays exact, for this reason; there is no file. `recall`: the best that was reached, where it came to that.
    Exact { recall: Option<f32>, why: String },
}

/// Builds the index of a segment: trains, adds, measures recall@10 on a sample of the segment's own rows, through the search that will serve, raises
/// the search parameters while it is below `min_recall`, and writes the file.
///
/// `extreme`: rows beyond f32, whose places are taken by others that mean nothing; whoever searches hides them. Memory: an index, and what FAISS's
/// training takes.
///
/// # Errors
/// [`Error::Full`] and [`Error::Io`] of the file, which is gone then; [`Error::Closed`] soon after `stop` was set. What FAISS refuses is no error: the
/// segment stays exact.
pub(crate) fn build(
    io: &dyn Io,
    path: &Path,
    recipe: &Recipe,
    options: &BuildOptions,
    sealed: &Arc<Sealed>,
    extreme: &Positions,
    stop: &AtomicBool,
) -> Result<Built> {
    let exact = |recall, why: String| Ok(Built::Exact { recall, why });
    let factory = recipe.factory();
    if recipe.is_exact() {
        return exact(None, format!("{factory} is exact as it is"));
    }
    let usable = sealed.len() - extreme.len() as usize;
    let rows_min = recipe.train_rows_min().max(1);
    if (usable as u64) < rows_min {
        return exact(None, format!("{factory} is built from {rows_min} rows on, and there are {usable}"));
    }
    if recipe.is_summing() && recipe.metric() != Metric::Cosine && has_large_row(sealed, extreme) {
        return exact(None, format!("a vector is too large for {factory}: sums over rows would overflow"));
    }
    let index = match fill(recipe, options, sealed, extreme, stop) {
        Ok(index) => index,
        Err(_) if stop.load(Relaxed) => return Err(stopped()),
        Err(why) => return exact(None, format!("FAISS could not build {factory}: {why}")),
    };
    let mut ann = Ann { index, recipe: recipe.clone(), sealed: Arc::clone(sealed), tuning: options.tuning, resident_bytes: 0 };
    let sample = Sample::take(sealed, recipe.metric(), extreme, SAMPLE, stop)?;
    let recall = ann.tune(&sample, options.min_recall, extreme, stop)?;
    if recall < options.min_recall {
        return exact(
            Some(recall),
            format!("{factory} finds {recall:.3} of the nearest rows at best, and {} are wanted", options.min_recall),
        );
    }
    // For whoever opens the file without us.
    ann.index.set_defaults(ann.tuning.ef, ann.tuning.nprobe);
    let file = file::write(io, path, &ann.index)?;
    Ok(Built::Ann { file, tuning: ann.tuning, recall })
}

/// What who waits for a build or a compaction is told where the index is being closed.
pub(crate) fn stopped() -> Error {
    Error::Closed("stopped: the index is being closed; nothing is lost, and what was built or rewritten by then stays".into())
}

fn has_large_row(sealed: &Sealed, extreme: &Positions) -> bool {
    let vectors = mapped(sealed.floats(0..sealed.len())).chunks_exact(sealed.dimension());
    vectors
        .enumerate()
        .any(|(position, vector)| norm::squared_norm(vector) > SUMMED_SQUARED_NORM_MAX && !extreme.contains(position))
}

/// A trained index with all rows.
fn fill(
    recipe: &Recipe,
    options: &BuildOptions,
    sealed: &Arc<Sealed>,
    extreme: &Positions,
    stop: &AtomicBool,
) -> Result<Index, String> {
    let rows = sealed.len();
    let mut index = recipe.index()?;
    let in_place = recipe.is_over_raw_rows() && extreme.is_empty();
    let nn_descent = rows > ALL_PAIRS_ROWS_MAX;
    index.prepare(options.ef_construction.max(1), nn_descent, in_place.then(|| Arc::clone(sealed)))?;
    // A training is made of many small parallel regions, and where other threads want the cores, each one's barrier waits for a time slice: 25
    // codebooks from 1,000 rows take 50 ms on one thread, and took 10 s on two beside a compiler.
    faiss::set_threads(1);
    let outcome = if recipe.train_rows_min() > 0 || recipe.is_quantised() {
        index.train(&training_rows(recipe, sealed, extreme), stop)
    } else {
        Ok(())
    };
    faiss::set_threads(options.threads);
    let outcome = outcome.and_then(|()| add(&mut index, recipe, sealed, extreme, stop));
    // The same thread may search next.
    faiss::set_threads(1);
    outcome.map(|()| index)
}

fn add(index: &mut Index, recipe: &Recipe, sealed: &Sealed, extreme: &Positions, stop: &AtomicBool) -> Result<(), String> {
    let rows = sealed.len();
    // Of the rows that it is given at once, a graph takes those of its upper levels first and the others in no order: in batches, one of rows
    // that are ordered by anything is worse. NSG takes all rows at once or none.
    let batch = if recipe.is_graph() { rows } else { BATCH_ROWS };
    for start in (0..rows).step_by(batch) {
        if stop.load(Relaxed) {
            return Err("stopped".to_owned());
        }
        let end = (start + batch).min(rows);
        let vectors = mapped(sealed.floats(start..end));
        let mut add = |vectors: &[f32]| if recipe.is_nsg() { index.add_nsg(vectors, stop) } else { index.add(vectors, stop) };
        if (start..end).any(|position| extreme.contains(position)) {
            let mut copy = vectors.to_vec();
            for (position, vector) in (start..end).zip(copy.chunks_exact_mut(sealed.dimension())) {
                if extreme.contains(position) {
                    vector.fill(0.0);
                    // A vector that can be normalised.
                    vector[0] = if recipe.metric() == Metric::Cosine { 1.0 } else { 0.0 };
                }
            }
            add(&copy)?;
        } else {
            add(vectors)?;
        }
    }
    Ok(())
}

/// Rows to train on, spread over the segment.
fn training_rows(recipe: &Recipe, sealed: &Sealed, extreme: &Positions) -> Vec<f32> {
    let usable = sealed.len() - extreme.len() as usize;
    let wanted = (recipe.train_rows_min() * TRAIN_ROWS_PER_CENTRE).max(TRAIN_ROWS).min(usable as u64) as usize;
    let mut rows = Vec::with_capacity(wanted * sealed.dimension());
    let positions = (0..sealed.len()).filter(|&position| !extreme.contains(position));
    let mut taken = 0;
    for (number, position) in positions.enumerate() {
        // The next one is due as often as `wanted` is in `usable`.
        if (number as u128 + 1) * wanted as u128 > taken as u128 * usable as u128 && taken < wanted {
            rows.extend_from_slice(mapped(sealed.floats(position..position + 1)));
            taken += 1;
        }
    }
    rows
}

/// One position of each of so many equal stretches of the rows, rising, drawn so that no regularity of their order shows: rows that come in turns
/// are not all of one kind.
fn sample_positions(rows: usize, queries: usize) -> impl Iterator<Item = usize> {
    let stretches = queries.min(rows);
    (0..stretches).map(move |number| {
        let [start, end] = [number, number + 1].map(|n| n * rows / stretches);
        // 2^64 divided by the golden ratio: the fractional parts of its multiples are spread evenly (Knuth, The Art of Computer Programming 3,
        // §6.4).
        let drawn = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        start + ((drawn * (end - start) as u64) >> 32) as usize
    })
}

/// Rows of the segment as queries, and how far their true neighbours are.
struct Sample {
    queries: Vec<Sampled>,
}

struct Sampled {
    position: usize,
    /// Normalised for the cosine.
    query: Vec<f32>,
    /// Of the nearest other rows, how many there are to find and the distance of the farthest of them.
    count: usize,
    bound: f32,
}

impl Sample {
    fn take(sealed: &Sealed, metric: Metric, extreme: &Positions, queries: usize, stop: &AtomicBool) -> Result<Self> {
        let rows = sealed.len();
        let positions = sample_positions(rows, queries).filter(|&position| !extreme.contains(position));
        let mut queries: Vec<Sampled> = positions
            .map(|position| {
                let mut query = mapped(sealed.floats(position..position + 1)).to_vec();
                if metric == Metric::Cosine {
                    let norm = norm::squared_norm(&query).sqrt();
                    query.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
                }
                Sampled { position, query, count: 0, bound: 0.0 }
            })
            .collect();
        // The nearest so far of each query, as keys: smaller is nearer.
        let mut nearest: Vec<Vec<f32>> = vec![Vec::new(); queries.len()];
        let sign = if metric == Metric::L2 { 1.0 } else { -1.0 };
        let mut distances = [0.0; BLOCK_ROWS];
        for start in (0..rows).step_by(BLOCK_ROWS) {
            if stop.load(Relaxed) {
                return Err(stopped());
            }
            let distances = &mut distances[..BLOCK_ROWS.min(rows - start)];
            for (sampled, nearest) in queries.iter().zip(&mut nearest) {
                raw_distances(sealed, metric, &sampled.query, start, distances);
                for (&distance, position) in distances.iter().zip(start..) {
                    let key = sign * distance;
                    let is_near = nearest.len() < SAMPLE_K || nearest.last().is_some_and(|&last| key < last);
                    if is_near && position != sampled.position && !extreme.contains(position) {
                        let at = nearest.partition_point(|other| other.total_cmp(&key) == Ordering::Less);
                        nearest.insert(at, key);
                        nearest.truncate(SAMPLE_K);
                    }
                }
            }
        }
        for (sampled, nearest) in queries.iter_mut().zip(nearest) {
            sampled.count = nearest.len();
            sampled.bound = nearest.last().copied().unwrap_or(f32::INFINITY);
        }
        Ok(Self { queries })
    }

    /// The share of the true neighbours that a search finds; any row that is as near as the farthest of them is one.
    fn recall(&self, ann: &Ann, extreme: &Positions, stop: &AtomicBool) -> Result<f32> {
        let sign = if ann.metric() == Metric::L2 { 1.0 } else { -1.0 };
        let (mut found, mut wanted) = (0, 0);
        for sampled in &self.queries {
            if stop.load(Relaxed) {
                return Err(stopped());
            }
            let mut keys = Vec::with_capacity(SAMPLE_K + 1);
            ann.search(&[&sampled.query], SAMPLE_K + 1, &Params::default(), extreme, &mut |_, position, _| {
                if position != sampled.position {
                    // By the kernel that the bound came from.
                    keys.push(sign * raw_distance(&ann.sealed, ann.metric(), &sampled.query, position));
                }
            })?;
            found += keys.iter().filter(|&&key| key <= sampled.bound).count().min(sampled.count);
            wanted += sampled.count;
        }
        Ok(if wanted == 0 { 1.0 } else { found as f32 / wanted as f32 })
    }
}

impl Ann {
    /// Recall@10 on so many of the segment's own rows, 0 to 1, with what it is searched with by default.
    ///
    /// # Errors
    /// Those of FAISS.
    pub(crate) fn sampled_recall(&self, extreme: &Positions, queries: usize) -> Result<f32> {
        let never = AtomicBool::new(false);
        let sample = Sample::take(&self.sealed, self.metric(), extreme, queries, &never)?;
        sample.recall(self, extreme, &never)
    }

    /// Raises the search parameters until the recall is `wanted` or they are at their ends, and returns the recall.
    fn tune(&mut self, sample: &Sample, wanted: f32, extreme: &Positions, stop: &AtomicBool) -> Result<f32> {
        self.set_tuning(self.tuning);
        let mut recall = sample.recall(self, extreme, stop)?;
        while recall < wanted {
            // The step that gains most; each costs the search about the same.
            let mut best = None;
            for tuning in self.raised() {
                let before = self.tuning;
                self.set_tuning(tuning);
                let raised = sample.recall(self, extreme, stop)?;
                self.set_tuning(before);
                if best.is_none_or(|(_, other)| raised > other) {
                    best = Some((tuning, raised));
                }
            }
            let Some((tuning, raised)) = best else { break };
            self.set_tuning(tuning);
            recall = raised;
        }
        Ok(recall)
    }

    /// The present parameters with one of them doubled, each in turn.
    fn raised(&self) -> Vec<Tuning> {
        let now = self.tuning;
        let rows = u32::try_from(self.sealed.len()).unwrap_or(u32::MAX);
        let double = |value: u32, most: u32| (value > 0 && value < most).then(|| value.saturating_mul(2).min(most));
        let ef = double(now.ef, EF_TUNED_MAX.min(rows)).map(|ef| Tuning { ef, ..now });
        let nprobe = double(now.nprobe, self.recipe.lists().unwrap_or(0)).map(|nprobe| Tuning { nprobe, ..now });
        let overfetch = double(now.overfetch, if self.recipe.is_quantised() { OVERFETCH_TUNED_MAX } else { 0 });
        let overfetch = overfetch.map(|overfetch| Tuning { overfetch, ..now });
        [ef, nprobe, overfetch].into_iter().flatten().collect()
    }

    fn set_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
        if self.recipe.is_nsg() {
            // A pool as large as the segment would never be filled.
            let ef = tuning.ef.min(u32::try_from(self.sealed.len() / 2).unwrap_or(u32::MAX));
            self.index.set_defaults(ef, 0);
        }
    }
}
