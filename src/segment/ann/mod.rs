//! A FAISS index over one sealed segment: how it is searched. `build` makes one, `file` is how its bytes reach the disk and come back.

mod build;
mod file;

#[cfg(test)]
mod tests;

pub(crate) use build::{BuildOptions, Built, build, stopped};

use std::path::Path;
use std::sync::Arc;

use super::faiss::{self, Floats, Index, Kernel};
use super::norm;
use super::positions::{Page, Positions};
use super::recipe::Recipe;
use super::sealed::{self, Sealed};
use crate::config::EF_MAX;
use crate::error::{Error, Result};
use crate::format::manifest::Checksum;
use crate::io::Io;
use crate::types::Metric;
pub(crate) use crate::types::SearchParams as Params;

/// Squared norms up to here can be added up a million times in f32, and their products too. Types that sum over rows or codebooks see no larger
/// ones.
const SUMMED_SQUARED_NORM_MAX: f64 = (1_u128 << 80) as f64;

/// Candidates that one search may ask FAISS for, beyond `k` itself: 12 bytes each, and a heap of them.
const CANDIDATES_MAX: usize = 1 << 16;

/// `ef` and `nprobe` grow with the share of hidden rows up to so many times: beyond that, few rows are left, and a scan of them is better.
const HIDDEN_FACTOR_MAX: u64 = 64;

/// Rows that cost as much to look at as one of the `ef` candidates of a graph's search: each has its links looked at, all over the memory.
/// Measured by `benches/filters.rs`.
const ROWS_PER_CANDIDATE: u64 = 64;

/// Codes that cost as much to look at as one row that is fetched for itself.
const CODES_PER_ROW: u64 = 4;

/// What a segment is searched with where the query does not say; 0 where it has no meaning for the type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tuning {
    /// Candidates of a graph's search; at least `k` are kept anyway.
    pub(crate) ef: u32,
    /// Lists that an IVF index looks into.
    pub(crate) nprobe: u32,
    /// Candidates for each result that is wanted, where results are ranked again from the raw rows.
    pub(crate) overfetch: u32,
}

/// A FAISS index over all rows of one sealed segment: FAISS's id is the row's position.
#[derive(Debug)]
pub(crate) struct Ann {
    index: Index,
    recipe: Recipe,
    sealed: Arc<Sealed>,
    tuning: Tuning,
    /// Bytes that the index holds in memory of its own.
    resident_bytes: u64,
}

impl Ann {
    /// Reads the file that [`build`] wrote for these rows, after every byte of it was compared with its checksum.
    ///
    /// `extreme` are the rows that FAISS did not get (see `norm.rs`).
    ///
    /// # Errors
    /// [`Error::Corrupt`] by file: it may be removed and built again, since all that is in it comes from the rows.
    pub(crate) fn open(
        io: &dyn Io,
        path: &Path,
        expected: Checksum,
        recipe: &Recipe,
        tuning: Tuning,
        sealed: Arc<Sealed>,
        extreme: &Positions,
    ) -> Result<Self> {
        let map = sealed::map_verified(io, path, "index", expected)?;
        let corrupt = |problem: String| Error::corrupt(path, 0, problem);
        let in_place = recipe.is_over_raw_rows() && extreme.is_empty();
        let index = Index::read(&map, recipe.is_flat_graph(), in_place.then(|| Arc::clone(&sealed)))
            .map_err(|why| corrupt(format!("FAISS does not read it: {why}")))?;
        let model = recipe.index().map_err(|why| corrupt(format!("{} is not taken any more: {why}", recipe.factory())))?;
        if !index.is_like(&model)
            || index.dimension() != sealed.dimension()
            || index.is_inner_product() != recipe.is_inner_product()
            || index.len() != sealed.len()
        {
            return Err(corrupt(format!("it is no {} of these {} rows", recipe.factory(), sealed.len())));
        }
        let in_rows = if in_place { sealed.len() * sealed.dimension() * 4 } else { 0 };
        let resident_bytes = expected.bytes.saturating_sub(in_rows as u64);
        Ok(Self { index, recipe: recipe.clone(), sealed, tuning, resident_bytes })
    }

    /// Bytes in memory beside the segment's map: the graph, the codes, or floats that FAISS keeps for itself.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Calls `found(query, position, distance)`, the query being counted from 0, for the nearest rows to each of the queries that are not in `hidden`:
    /// at most `k`, in no order. Returns how many these were for each query.
    ///
    /// A query is normalised for the cosine. The distance is FAISS's f32 for the metric over raw rows: the squared distance, the product or the
    /// cosine. Fewer than `k` does not mean that there are no more: the caller compares with the number of rows that are not hidden, and scans
    /// them. A query beyond what the type can compute with finds nothing.
    pub(crate) fn search(
        &self,
        queries: &[&[f32]],
        k: usize,
        params: &Params,
        hidden: &Positions,
        found: &mut dyn FnMut(usize, usize, f32),
    ) -> Result<Vec<usize>> {
        let rows = self.sealed.len();
        let visible = rows.saturating_sub(hidden.len() as usize);
        let k = k.min(visible);
        let mut counts = vec![0; queries.len()];
        if k == 0 {
            return Ok(counts);
        }
        let wanted = if self.recipe.is_quantised() && params.rescore != Some(false) {
            k.saturating_mul(self.tuning.overfetch.max(1) as usize).min(CANDIDATES_MAX.max(k)).min(visible)
        } else {
            k
        };
        // Those that have not found enough.
        let mut open: Vec<usize> = (0..queries.len()).filter(|&at| self.bears(queries[at])).collect();
        let fetches = self.fetches(wanted, hidden);
        for (tries, &fetch) in (1..).zip(&fetches) {
            for some in std::mem::take(&mut open).chunks((CANDIDATES_MAX / fetch).max(1)) {
                let asked: Vec<&[f32]> = some.iter().map(|&at| queries[at]).collect();
                for (&at, mut candidates) in some.iter().zip(self.fetch(&asked, fetch, params, hidden)?) {
                    if candidates.len() < wanted && tries < fetches.len() {
                        open.push(at);
                        continue;
                    }
                    self.keep_nearest(queries[at], k, &mut candidates);
                    counts[at] = candidates.len();
                    candidates.iter().for_each(|&(position, distance)| found(at, position, distance));
                }
            }
        }
        Ok(counts)
    }

    /// Whether its distances are numbers: infinite ones, and what is no number, can keep a graph's search busy for minutes.
    fn bears(&self, query: &[f32]) -> bool {
        let squared_norm = norm::squared_norm(query);
        let is_too_large_to_sum = self.recipe.is_summing() && squared_norm > SUMMED_SQUARED_NORM_MAX;
        squared_norm.is_finite() && !norm::is_extreme(Metric::L2, squared_norm) && !is_too_large_to_sum
    }

    /// Leaves the `k` nearest of what FAISS found, by their raw rows.
    fn keep_nearest(&self, query: &[f32], k: usize, candidates: &mut Vec<(usize, f32)>) {
        if self.recipe.is_quantised() {
            self.measure(query, candidates);
        }
        if candidates.len() > k {
            let sign = if self.metric() == Metric::L2 { 1.0 } else { -1.0 };
            candidates.select_nth_unstable_by(k - 1, |a, b| (sign * a.1).total_cmp(&(sign * b.1)));
            candidates.truncate(k);
        }
    }

    /// What a search for `k` of `visible` rows costs, where the others are hidden: as much as computing the distances of so many rows one by one.
    pub(crate) fn cost_in_rows(&self, k: usize, params: &Params, visible: usize) -> u64 {
        let rows = self.sealed.len() as u64;
        let grown = |value: u64| value.saturating_mul(rows) / (visible as u64).max(1);
        if self.recipe.is_graph() {
            grown(u64::from(params.ef.unwrap_or(self.tuning.ef)).max(k as u64)).saturating_mul(ROWS_PER_CANDIDATE)
        } else if let Some(lists) = self.recipe.lists() {
            let nprobe = grown(params.nprobe.unwrap_or(self.tuning.nprobe).into()).min(lists.into());
            rows * nprobe / u64::from(lists) / CODES_PER_ROW
        } else {
            rows / CODES_PER_ROW
        }
    }

    fn metric(&self) -> Metric {
        self.recipe.metric()
    }

    /// How many results FAISS is asked for, one try after the other. A type that cannot leave out hidden rows is asked for as many more as there
    /// should be hidden ones among them, twice, and then for as many as there are.
    fn fetches(&self, wanted: usize, hidden: &Positions) -> Vec<usize> {
        let rows = self.sealed.len();
        if hidden.is_empty() || self.recipe.takes_selector() {
            return vec![wanted];
        }
        let visible = rows - hidden.len() as usize;
        let expected = (wanted as u128 * rows as u128 / visible as u128) as usize;
        let most = (wanted + hidden.len() as usize).min(CANDIDATES_MAX.max(wanted)).min(rows);
        let first = (wanted + 2 * (expected - wanted) + 16).min(most);
        if first < most { vec![first, most] } else { vec![most] }
    }

    /// The `ef` of a graph and the `nprobe` of lists that it is searched with; `None`: it has none.
    pub(crate) fn searched_with(&self, params: &Params, hidden: &Positions) -> (Option<u32>, Option<u32>) {
        let (ef, nprobe) = self.effort(params, hidden);
        (self.recipe.is_graph().then_some(ef), self.recipe.lists().map(|_| nprobe))
    }

    /// `ef` and `nprobe`, whether it has them or not.
    fn effort(&self, params: &Params, hidden: &Positions) -> (u32, u32) {
        let rows = self.sealed.len();
        // Hidden rows take places among the candidates, and in the lists.
        let grown = |value: u32| {
            let visible = (rows as u64).saturating_sub(hidden.len()).max(1);
            let most = u64::from(value) * HIDDEN_FACTOR_MAX;
            u32::try_from((u64::from(value) * rows as u64 / visible).min(most)).unwrap_or(u32::MAX)
        };
        let ef = grown(params.ef.unwrap_or(self.tuning.ef));
        let ef = ef.clamp(1, EF_MAX).min(u32::try_from(rows).unwrap_or(u32::MAX));
        (ef, grown(params.nprobe.unwrap_or(self.tuning.nprobe)).clamp(1, self.recipe.lists().unwrap_or(1)))
    }

    /// For each query at most `fetch` rows that are not hidden, with FAISS's distances.
    fn fetch(&self, queries: &[&[f32]], fetch: usize, params: &Params, hidden: &Positions) -> Result<Vec<Vec<(usize, f32)>>> {
        let rows = self.sealed.len();
        // NSG fills its pool with rows drawn at random until it has as many: of a pool as large as the segment it would never finish.
        if self.recipe.is_nsg() && fetch > rows / 2 {
            return Ok(vec![Vec::new(); queries.len()]);
        }
        let (ef, nprobe) = self.effort(params, hidden);
        let pages: Vec<Option<&Page>> =
            if self.recipe.takes_selector() && !hidden.is_empty() { hidden.pages().collect() } else { Vec::new() };
        let mut distances = vec![0.0; queries.len() * fetch];
        let mut labels = vec![-1; queries.len() * fetch];
        self.index
            .search(self.recipe.kind(ef, nprobe), &queries.concat(), fetch, &pages, &mut distances, &mut labels)
            .map_err(|why| Error::Closed(format!("FAISS cannot search {}: {why}", self.recipe.factory()).into()))?;
        let found = labels.chunks(fetch).zip(distances.chunks(fetch)).map(|(labels, distances)| {
            let found = labels.iter().zip(distances).filter_map(|(&label, &distance)| {
                let position = usize::try_from(label).ok().filter(|&position| position < rows)?;
                (!hidden.contains(position)).then_some((position, distance))
            });
            found.collect()
        });
        Ok(found.collect())
    }

    /// Puts the distances of the raw rows in the place of those of their codes.
    fn measure(&self, query: &[f32], candidates: &mut [(usize, f32)]) {
        for (position, distance) in candidates {
            *distance = raw_distance(&self.sealed, self.metric(), query, *position);
        }
    }
}

/// As a scan computes it.
fn raw_distance(sealed: &Sealed, metric: Metric, query: &[f32], position: usize) -> f32 {
    let mut distance = [0.0];
    raw_distances(sealed, metric, query, position, &mut distance);
    distance[0]
}

/// The distances of as many rows from `first` on as `out` has room for.
fn raw_distances(sealed: &Sealed, metric: Metric, query: &[f32], first: usize, out: &mut [f32]) {
    let positions = first..first + out.len();
    let kernel = if metric == Metric::L2 { Kernel::L2 } else { Kernel::InnerProduct };
    faiss::distances(kernel, query, sealed.floats(positions.clone()), out);
    if metric == Metric::Cosine {
        sealed.scales(positions).multiply_into(out);
    }
}

/// Vectors that are in a file, as they are.
fn mapped(floats: Floats<'_>) -> &[f32] {
    match floats {
        Floats::Mapped(floats) => floats,
        Floats::Growing(_) => unreachable!("sealed rows are in a file"),
    }
}
