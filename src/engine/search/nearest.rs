//! The rows that are nearest to one query, so far.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::part::Part;
use super::sieve::Sieve;
use crate::engine::view::View;
use crate::plan::{Access, Plan};
use crate::segment::faiss::{self, Kernel};
use crate::segment::norm;
use crate::types::{Metric, Query, Row};

/// Rows whose distances are computed at once: their floats and their distances stay in the first-level cache's reach.
pub(super) const BLOCK_ROWS: usize = 256;

/// Rows that are compared with the bound at once.
const GROUP_ROWS: usize = 16;

/// A row among the best so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Smaller is nearer: the distance, or the negated product.
    pub(super) key: f64,
    row: Row,
    pub(super) segment: usize,
    pub(super) position: usize,
}

impl Candidate {
    fn new(key: f64, part: &Part<'_>, position: usize) -> Self {
        Self { key, row: part.segment.row(position), segment: part.at, position }
    }
}

impl Ord for Candidate {
    /// The farthest is the greatest, and of equally far ones the youngest: an answer's order does not change from call to call.
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

/// A query, and the `k` nearest rows so far. Which rows these are in the end does not depend on the order in which rows are looked at.
pub(super) struct Nearest<'q> {
    metric: Metric,
    pub(super) query: &'q Query,
    /// What the f32 kernels get: with a unit query, a row's product only needs the row's scale to be the cosine.
    pub(super) kernel_query: Cow<'q, [f32]>,
    /// All rows are looked at in f64.
    pub(super) is_extreme: bool,
    heap: BinaryHeap<Candidate>,
    /// Rows whose f32 keys are greater are not wanted, however few there are.
    farthest: f32,
    /// Memory of one vector.
    scratch: Vec<f32>,
    pub(super) plan: Plan,
    /// How it looked at which segment, where somebody wants to know.
    pub(super) ways: Option<Vec<(usize, Access)>>,
}

impl<'q> Nearest<'q> {
    /// `squared_norm` is the query vector's.
    pub(super) fn new(metric: Metric, query: &'q Query, squared_norm: f64) -> Self {
        let kernel_query = match metric {
            Metric::Cosine => query.vector.iter().map(|&x| (f64::from(x) / squared_norm.sqrt()) as f32).collect(),
            _ => Cow::Borrowed(&*query.vector),
        };
        let is_extreme = metric != Metric::Cosine && norm::is_extreme(metric, squared_norm);
        Self {
            metric,
            query,
            kernel_query,
            is_extreme,
            heap: BinaryHeap::new(),
            farthest: f32::INFINITY,
            scratch: Vec::new(),
            plan: Plan::default(),
            ways: None,
        }
    }

    /// The same, where only rows are wanted whose f32 keys are at most `farthest`.
    pub(super) fn within(self, farthest: f32) -> Self {
        Self { farthest, ..self }
    }

    /// The same, where how segments are looked at is kept.
    pub(super) fn explained(self) -> Self {
        Self { ways: Some(Vec::new()), ..self }
    }

    /// No row with a greater key than this can enter.
    pub(super) fn bound(&self) -> f32 {
        match self.heap.peek() {
            // Rounded up: the key of an extreme row need not be an f32.
            Some(worst) if self.heap.len() == self.query.k => (worst.key as f32).next_up().min(self.farthest),
            _ => self.farthest,
        }
    }

    /// Takes what an index found: positions and distances.
    pub(super) fn take(&mut self, part: &Part<'_>, found: &[(usize, f32)]) {
        let sign = sign(self.metric);
        for &(position, distance) in found {
            self.push(Candidate::new(f64::from(sign * distance), part, position));
        }
    }

    /// Looks at the rows that match, one by one.
    pub(super) fn visit(&mut self, part: &Part<'_>) {
        let mut positions = Vec::with_capacity(BLOCK_ROWS);
        let mut visible = part.visible();
        loop {
            positions.clear();
            positions.extend(visible.by_ref().take(BLOCK_ROWS));
            if positions.is_empty() {
                return;
            }
            let mut distances = [0.0_f32; BLOCK_ROWS];
            let distances = &mut distances[..positions.len()];
            let rows = &part.segment.rows;
            faiss::distances_of(self.kernel(), &self.kernel_query, rows.floats(0..part.segment.len), &positions, distances);
            if self.metric == Metric::Cosine {
                for (distance, &position) in distances.iter_mut().zip(&positions) {
                    rows.scales(position..position + 1).multiply_into(std::slice::from_mut(distance));
                }
            }
            for (&distance, &position) in distances.iter().zip(&positions) {
                self.offer(part, position, distance);
            }
        }
    }

    /// Takes a row that shows, if it is near enough by its f32 distance. Not a number (of an extreme row) is not under any bound.
    fn offer(&mut self, part: &Part<'_>, position: usize, distance: f32) {
        let key = sign(self.metric) * distance;
        if key <= self.bound() && !part.segment.extreme.contains(position) {
            self.push(Candidate::new(f64::from(key), part, position));
        }
    }

    /// Looks at each row of a block, at most [`BLOCK_ROWS`] of them.
    pub(super) fn block(&mut self, part: &Part<'_>, positions: Range<usize>) {
        let mut distances = [0.0_f32; BLOCK_ROWS];
        let distances = &mut distances[..positions.len()];
        self.measure(part, positions.clone(), distances);
        let sign = sign(self.metric);
        let mut bound = self.bound();
        for (group, first) in distances.chunks(GROUP_ROWS).zip(positions.step_by(GROUP_ROWS)) {
            // Few rows are near enough to be looked at one by one: this loop is over vectors of the processor.
            if !group.iter().fold(false, |any, &distance| any | (sign * distance <= bound)) {
                continue;
            }
            for (&distance, position) in group.iter().zip(first..) {
                // Not a number (of an extreme row) is not under any bound.
                if sign * distance <= bound && part.shows(position) && !part.segment.extreme.contains(position) {
                    self.push(Candidate::new(f64::from(sign * distance), part, position));
                    bound = self.bound();
                }
            }
        }
    }

    /// Looks at the rows of a sieve's block that may be near enough. The query is the `at`th of the sieve.
    pub(super) fn sift(&mut self, sieve: &Sieve<'_>, at: usize, part: &Part<'_>) {
        sieve.near(at, self.bound(), |position| {
            if part.shows(position) && !part.segment.extreme.contains(position) {
                let mut distance = [0.0];
                self.measure(part, position..position + 1, &mut distance);
                let key = sign(self.metric) * distance[0];
                if key <= self.bound() {
                    self.push(Candidate::new(f64::from(key), part, position));
                }
            }
            self.bound()
        });
    }

    fn kernel(&self) -> Kernel {
        if self.metric == Metric::L2 { Kernel::L2 } else { Kernel::InnerProduct }
    }

    /// The f32 distances of rows.
    fn measure(&self, part: &Part<'_>, positions: Range<usize>, distances: &mut [f32]) {
        faiss::distances(self.kernel(), &self.kernel_query, part.segment.rows.floats(positions.clone()), distances);
        if self.metric == Metric::Cosine {
            part.segment.rows.scales(positions).multiply_into(distances);
        }
    }

    /// Takes rows that show at their f64 distances.
    pub(super) fn take_in_f64(&mut self, part: &Part<'_>, positions: impl Iterator<Item = usize>) {
        for position in positions {
            part.segment.rows.vector(position, &mut self.scratch);
            let key = key(self.metric, norm::distance(self.metric, &self.query.vector, &self.scratch));
            self.push(Candidate::new(key, part, position));
        }
    }

    fn push(&mut self, candidate: Candidate) {
        if self.heap.len() < self.query.k {
            self.heap.push(candidate);
        } else if self.heap.peek().is_some_and(|worst| candidate < *worst) {
            self.heap.pop();
            self.heap.push(candidate);
        }
    }

    /// The rows, best first, at their f64 distances.
    pub(super) fn into_candidates(self, view: &View) -> Vec<Candidate> {
        let mut candidates = self.heap.into_vec();
        let mut vector = Vec::new();
        for candidate in &mut candidates {
            view.segments[candidate.segment].rows.vector(candidate.position, &mut vector);
            candidate.key = key(self.metric, norm::distance(self.metric, &self.query.vector, &vector));
        }
        candidates.sort_unstable();
        candidates
    }
}

/// What makes of a distance one of which smaller is nearer.
fn sign(metric: Metric) -> f32 {
    if metric == Metric::L2 { 1.0 } else { -1.0 }
}

/// Smaller is nearer; and the distance, of a key.
pub(super) fn key(metric: Metric, distance: f64) -> f64 {
    if metric == Metric::L2 { distance } else { -distance }
}
