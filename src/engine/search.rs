//! Search over one View, without a lock.
//!
//! Segments that have a FAISS index are asked through it; the others, and those where it finds too few, are scanned: FAISS's kernel gives the f32 distances of a block of rows; only rows that would enter the best `k` so far are looked at further (dead?
//! does the filter match?), so that a filter is applied before the top k and not after. The distances of the rows that are left are
//! computed again in f64, by the one kernel for all: a score does not depend on how its row was found.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::view::{Segment, View};
use crate::error::{Error, Result};
use crate::segment::faiss::{self, Kernel};
use crate::segment::filter::Filter;
use crate::segment::norm;
use crate::types::{Hit, Metric, Query, Row, SearchParams};

/// Rows whose distances are computed at once: their floats and their distances stay in the first-level cache's reach.
const BLOCK_ROWS: usize = 256;

/// Rows that are compared with the bound at once.
const GROUP_ROWS: usize = 16;

/// The `k` best rows of a view, best first.
///
/// `squared_norm` is the query vector's. Memory: `k` candidates of 32 bytes, and the answer.
pub(super) fn search(view: &View, metric: Metric, query: &Query, squared_norm: f64) -> Result<Vec<Hit>> {
    let mut nearest =
        Nearest { k: query.k, heap: BinaryHeap::new(), filter: query.filter.as_ref(), scratch: Vec::new(), found: Vec::new() };
    if metric != Metric::Cosine && norm::is_extreme(metric, squared_norm) {
        for (at, segment) in view.segments.iter().enumerate() {
            for position in segment.live_positions() {
                nearest.offer_in_f64(metric, &query.vector, at, segment, position);
            }
        }
    } else {
        // With a unit query, a row's product only needs the row's scale to be the cosine.
        let kernel_query: Vec<f32> = match metric {
            Metric::Cosine => query.vector.iter().map(|&x| (f64::from(x) / squared_norm.sqrt()) as f32).collect(),
            _ => query.vector.clone(),
        };
        // Those with an index first: what they find bounds what a scan needs to look at.
        let indexed = |segment: &&Segment| segment.ann().is_some() && !query.exact && query.filter.is_none();
        let segments = || view.segments.iter().enumerate();
        for (at, segment) in segments().filter(|(_, segment)| indexed(segment)) {
            if !nearest.ask(metric, &kernel_query, &query.params, at, segment) {
                nearest.scan(metric, &kernel_query, at, segment);
            }
        }
        for (at, segment) in segments().filter(|(_, segment)| !indexed(segment)) {
            nearest.scan(metric, &kernel_query, at, segment);
        }
        for (at, segment) in segments() {
            for position in segment.extreme.iter().filter(|&position| !segment.dead.contains(position)) {
                nearest.offer_in_f64(metric, &query.vector, at, segment, position);
            }
        }
    }
    nearest.into_hits(view, metric, &query.vector)
}

/// A row among the best so far.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Smaller is nearer: the distance, or the negated product.
    key: f64,
    row: Row,
    segment: usize,
    position: usize,
}

impl Candidate {
    fn new(key: f64, at: usize, segment: &Segment, position: usize) -> Self {
        Self { key, row: segment.row(position), segment: at, position }
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

/// The `k` nearest rows so far.
struct Nearest<'a> {
    k: usize,
    heap: BinaryHeap<Candidate>,
    filter: Option<&'a Filter>,
    scratch: Vec<u8>,
    /// What an index found: positions and distances.
    found: Vec<(usize, f32)>,
}

impl Nearest<'_> {
    /// Takes the nearest rows of a segment by its FAISS index; whether that gave as many as there are.
    fn ask(&mut self, metric: Metric, query: &[f32], params: &SearchParams, at: usize, segment: &Segment) -> bool {
        let Some(ann) = segment.ann() else { return false };
        let mut hidden = segment.dead.clone();
        hidden.extend(segment.extreme.iter());
        let wanted = self.k.min(segment.len - hidden.len() as usize);
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let searched = ann.search(query, wanted, params, &hidden, &mut |position, distance| found.push((position, distance)));
        if let Err(error) = &searched {
            tracing::warn!(%error, "FAISS failed; the segment is scanned");
        }
        // Too few where a graph is not connected, where too few lists were looked into, or where FAISS cannot leave dead rows out.
        let is_enough = searched.is_ok() && found.len() >= wanted;
        if is_enough {
            let sign = sign(metric);
            for &(position, distance) in &found {
                self.push(Candidate::new(f64::from(sign * distance), at, segment, position), segment);
            }
        }
        self.found = found;
        is_enough
    }

    /// No row with a greater key than this can enter.
    fn bound(&self) -> f32 {
        match self.heap.peek() {
            // Rounded up: the key of an extreme row need not be an f32.
            Some(worst) if self.heap.len() == self.k => (worst.key as f32).next_up(),
            _ => f32::INFINITY,
        }
    }

    fn scan(&mut self, metric: Metric, query: &[f32], at: usize, segment: &Segment) {
        let kernel = if metric == Metric::L2 { Kernel::L2 } else { Kernel::InnerProduct };
        let mut distances = [0.0_f32; BLOCK_ROWS];
        let mut start = 0;
        while start < segment.len {
            let end = (start + BLOCK_ROWS).min(segment.len);
            let distances = &mut distances[..end - start];
            faiss::distances(kernel, query, segment.rows.floats(start..end), distances);
            if metric == Metric::Cosine {
                segment.rows.scales(start..end).multiply_into(distances);
            }
            let sign = sign(metric);
            let mut bound = self.bound();
            for (group, first) in distances.chunks(GROUP_ROWS).zip((start..).step_by(GROUP_ROWS)) {
                // Few rows are near enough to be looked at one by one: this loop is over vectors of the processor.
                if !group.iter().fold(false, |any, &distance| any | (sign * distance <= bound)) {
                    continue;
                }
                for (&distance, position) in group.iter().zip(first..) {
                    // Not a number (of an extreme row) is not under any bound.
                    if sign * distance <= bound {
                        self.offer(Candidate::new(f64::from(sign * distance), at, segment, position), segment);
                        bound = self.bound();
                    }
                }
            }
            start = end;
        }
    }

    /// Takes a row that the f32 kernels bear.
    fn offer(&mut self, candidate: Candidate, segment: &Segment) {
        if !segment.dead.contains(candidate.position) && !segment.extreme.contains(candidate.position) {
            self.push(candidate, segment);
        }
    }

    /// Takes a live row at its f64 distance.
    fn offer_in_f64(&mut self, metric: Metric, query: &[f32], at: usize, segment: &Segment, position: usize) {
        let mut vector = Vec::new();
        segment.rows.vector(position, &mut vector);
        let key = key(metric, norm::distance(metric, query, &vector));
        self.push(Candidate::new(key, at, segment, position), segment);
    }

    fn push(&mut self, candidate: Candidate, segment: &Segment) {
        if self.heap.len() == self.k && self.heap.peek().is_some_and(|worst| candidate >= *worst) {
            return;
        }
        if let Some(filter) = self.filter {
            self.scratch.clear();
            segment.rows.metadata(candidate.position, &mut self.scratch);
            if !filter.matches(&self.scratch) {
                return;
            }
        }
        if self.heap.len() == self.k {
            self.heap.pop();
        }
        self.heap.push(candidate);
    }

    fn into_hits(self, view: &View, metric: Metric, query: &[f32]) -> Result<Vec<Hit>> {
        let mut candidates = self.heap.into_vec();
        let mut vector = Vec::new();
        for candidate in &mut candidates {
            view.segments[candidate.segment].rows.vector(candidate.position, &mut vector);
            candidate.key = key(metric, norm::distance(metric, query, &vector));
        }
        candidates.sort_unstable();
        candidates.iter().map(|candidate| hit(metric, candidate, &view.segments[candidate.segment])).collect()
    }
}

/// What makes of a distance one of which smaller is nearer.
fn sign(metric: Metric) -> f32 {
    if metric == Metric::L2 { 1.0 } else { -1.0 }
}

/// Smaller is nearer.
fn key(metric: Metric, distance: f64) -> f64 {
    if metric == Metric::L2 { distance } else { -distance }
}

fn hit(metric: Metric, candidate: &Candidate, segment: &Segment) -> Result<Hit> {
    let exact = key(metric, candidate.key);
    // As FAISS gives it, in f32, where it has one.
    let distance = Some(f64::from(exact as f32)).filter(|rounded| rounded.is_finite()).unwrap_or(exact) + 0.0;
    let (id, metadata) = texts(segment, candidate.position)?;
    Ok(Hit { id, score: if metric == Metric::L2 { 1.0 / (1.0 + distance) } else { distance }, distance, metadata })
}

/// The id and the metadata of a row.
pub(super) fn texts(segment: &Segment, position: usize) -> Result<(String, String)> {
    let (mut id, mut metadata) = (Vec::new(), Vec::new());
    segment.rows.id(position, &mut id);
    segment.rows.metadata(position, &mut metadata);
    let text = |bytes| {
        // It was UTF-8 when it was stored and when the file was verified: memory is failing.
        String::from_utf8(bytes).map_err(|_| Error::Closed("a text in memory is no longer UTF-8; restart the server".into()))
    };
    Ok((text(id)?, text(metadata)?))
}
