//! Search over one View, without a lock.
//!
//! A filter is answered first, from the metadata index: which rows of each segment match, exactly, and so how many. Then each segment is looked at in the
//! way that costs least: through its FAISS index, from match to match, or by a scan. A scan takes blocks: FAISS's kernel gives the f32 distances of a
//! block of rows; only rows that would enter the best `k` so far are looked at further (dead? a match?), so that a filter is applied before the top
//! k and not after. The distances of the rows that are left are computed again in f64, by the one kernel for all: a score does not depend on how
//! its row was found.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::view::{Segment, View};
use crate::error::{Error, Result};
use crate::segment::bits::Bits;
use crate::segment::faiss::{self, Kernel};
use crate::segment::filter::Filter;
use crate::segment::norm;
use crate::segment::positions::Positions;
use crate::types::{Access, Explanation, Hit, How, Metric, Query, Row, SearchParams};

/// Rows whose distances are computed at once: their floats and their distances stay in the first-level cache's reach.
const BLOCK_ROWS: usize = 256;

/// Rows that are compared with the bound at once.
const GROUP_ROWS: usize = 16;

/// Where one row of fewer than this many matches, it is cheaper to go from match to match than to scan them all: a scan streams.
const SCAN_SHARE: usize = 4;

/// The `k` best rows of a view, best first, and how they were found.
///
/// `squared_norm` is the query vector's. Memory: `k` candidates of 32 bytes, the answer, and with a filter some bits a row.
pub(super) fn search(view: &View, metric: Metric, query: &Query, squared_norm: f64) -> Result<(Vec<Hit>, Explanation)> {
    let mut nearest = Nearest { k: query.k, heap: BinaryHeap::new(), found: Vec::new() };
    let mut parts: Vec<Part<'_>> =
        view.segments.iter().enumerate().map(|(at, segment)| Part::new(at, segment, query.filter.as_ref())).collect();
    if metric != Metric::Cosine && norm::is_extreme(metric, squared_norm) {
        for part in &mut parts {
            part.how = How::Matches;
            for position in part.visible() {
                nearest.offer_in_f64(metric, &query.vector, part, position);
            }
        }
    } else {
        // With a unit query, a row's product only needs the row's scale to be the cosine.
        let kernel_query: Vec<f32> = match metric {
            Metric::Cosine => query.vector.iter().map(|&x| (f64::from(x) / squared_norm.sqrt()) as f32).collect(),
            _ => query.vector.clone(),
        };
        parts.iter_mut().for_each(|part| part.plan(query));
        // Those with an index first: what they find bounds what a scan needs to look at.
        parts.sort_by_key(|part| part.how != How::Index);
        for part in &mut parts {
            if part.how == How::Index && !nearest.ask(metric, &kernel_query, &query.params, part) {
                part.how = part.without_index();
            }
            match part.how {
                How::Index => {}
                How::Matches => nearest.visit(metric, &kernel_query, part),
                How::Scan => nearest.scan(metric, &kernel_query, part),
            }
        }
        for part in &parts {
            for position in part.segment.extreme.iter().filter(|&position| part.shows(position)) {
                nearest.offer_in_f64(metric, &query.vector, part, position);
            }
        }
        parts.sort_by_key(|part| part.at);
    }
    let segments = parts.iter().map(|part| Access { rows: part.segment.len as u64, matched: part.count as u64, how: part.how });
    let explanation = Explanation { lsn: view.lsn, segments: segments.collect() };
    Ok((nearest.into_hits(view, metric, query)?, explanation))
}

/// A segment as one query sees it.
pub(super) struct Part<'a> {
    pub(super) at: usize,
    pub(super) segment: &'a Segment,
    /// Live rows that match; `None`: there is no filter, and all that are live do.
    matches: Option<Bits>,
    /// Live rows that match.
    pub(super) count: usize,
    how: How,
}

impl<'a> Part<'a> {
    pub(super) fn new(at: usize, segment: &'a Segment, filter: Option<&Filter>) -> Self {
        let matches = filter.filter(|filter| !filter.is_all()).map(|filter| {
            let mut matches = segment.rows.select(filter, segment.len);
            matches.remove_all(&segment.dead);
            matches
        });
        let count = matches.as_ref().map_or(segment.live() as usize, Bits::count);
        Self { at, segment, matches, count, how: How::Scan }
    }

    /// Whether the row is alive and matches.
    fn shows(&self, position: usize) -> bool {
        match &self.matches {
            Some(matches) => matches.contains(position),
            None => self.segment.dead.is_empty() || !self.segment.dead.contains(position),
        }
    }

    /// Positions of live rows that match, rising.
    pub(super) fn visible(&self) -> impl Iterator<Item = usize> {
        let matches = self.matches.as_ref().into_iter().flat_map(Bits::iter);
        let all = self.matches.is_none().then(|| self.segment.live_positions());
        matches.chain(all.into_iter().flatten())
    }

    /// The rows that an index must leave out: they are dead, do not match, or are not in it.
    fn hidden(&self) -> Positions {
        let mut hidden = match &self.matches {
            Some(matches) => matches.hidden(),
            None => self.segment.dead.clone(),
        };
        hidden.extend(self.segment.extreme.iter());
        hidden
    }

    /// Chooses how its rows are looked at.
    fn plan(&mut self, query: &Query) {
        let asks = self.segment.ann().filter(|_| !query.exact).is_some_and(|ann| {
            // Dead rows alone are few: compaction sees to that.
            self.matches.is_none() || ann.cost_in_rows(query.k, &query.params, self.count) < self.count as u64
        });
        self.how = if asks { How::Index } else { self.without_index() };
    }

    fn without_index(&self) -> How {
        if self.count * SCAN_SHARE < self.segment.len { How::Matches } else { How::Scan }
    }
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

/// The `k` nearest rows so far.
struct Nearest {
    k: usize,
    heap: BinaryHeap<Candidate>,
    /// What an index found: positions and distances.
    found: Vec<(usize, f32)>,
}

impl Nearest {
    /// Takes the nearest rows of a segment by its FAISS index; whether that gave as many as there are.
    fn ask(&mut self, metric: Metric, query: &[f32], params: &SearchParams, part: &Part<'_>) -> bool {
        let Some(ann) = part.segment.ann() else { return false };
        let hidden = part.hidden();
        let wanted = self.k.min(part.segment.len - hidden.len() as usize);
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
                self.push(Candidate::new(f64::from(sign * distance), part, position));
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

    /// Looks at every row, block by block.
    fn scan(&mut self, metric: Metric, query: &[f32], part: &Part<'_>) {
        let mut start = 0;
        while start < part.segment.len {
            let end = (start + BLOCK_ROWS).min(part.segment.len);
            self.block(metric, query, part, start..end);
            start = end;
        }
    }

    /// Looks at the rows that match, run by run.
    fn visit(&mut self, metric: Metric, query: &[f32], part: &Part<'_>) {
        let mut run = 0..0;
        for position in part.visible() {
            if position == run.end && run.len() < BLOCK_ROWS {
                run.end += 1;
            } else {
                self.block(metric, query, part, run);
                run = position..position + 1;
            }
        }
        self.block(metric, query, part, run);
    }

    fn block(&mut self, metric: Metric, query: &[f32], part: &Part<'_>, positions: Range<usize>) {
        let kernel = if metric == Metric::L2 { Kernel::L2 } else { Kernel::InnerProduct };
        let mut distances = [0.0_f32; BLOCK_ROWS];
        let distances = &mut distances[..positions.len()];
        faiss::distances(kernel, query, part.segment.rows.floats(positions.clone()), distances);
        if metric == Metric::Cosine {
            part.segment.rows.scales(positions.clone()).multiply_into(distances);
        }
        let sign = sign(metric);
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

    /// Takes a row that shows at its f64 distance.
    fn offer_in_f64(&mut self, metric: Metric, query: &[f32], part: &Part<'_>, position: usize) {
        let mut vector = Vec::new();
        part.segment.rows.vector(position, &mut vector);
        let key = key(metric, norm::distance(metric, query, &vector));
        self.push(Candidate::new(key, part, position));
    }

    fn push(&mut self, candidate: Candidate) {
        if self.heap.len() < self.k {
            self.heap.push(candidate);
        } else if self.heap.peek().is_some_and(|worst| candidate < *worst) {
            self.heap.pop();
            self.heap.push(candidate);
        }
    }

    fn into_hits(self, view: &View, metric: Metric, query: &Query) -> Result<Vec<Hit>> {
        let mut candidates = self.heap.into_vec();
        let mut vector = Vec::new();
        for candidate in &mut candidates {
            view.segments[candidate.segment].rows.vector(candidate.position, &mut vector);
            candidate.key = key(metric, norm::distance(metric, &query.vector, &vector));
        }
        candidates.sort_unstable();
        let mut hits = Vec::with_capacity(candidates.len());
        for candidate in &candidates {
            let hit = hit(metric, candidate, &view.segments[candidate.segment], query.include_values)?;
            // Best first: those behind it have no higher scores.
            if query.min_score.is_some_and(|least| !reaches(hit.score, least)) {
                break;
            }
            hits.push(hit);
        }
        Ok(hits)
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

/// Whether a score is at least what is wanted, which may be one that was written as an f32 is.
fn reaches(score: f64, least: f64) -> bool {
    score >= least || score == f64::from(least as f32)
}

fn hit(metric: Metric, candidate: &Candidate, segment: &Segment, with_values: bool) -> Result<Hit> {
    let exact = key(metric, candidate.key);
    // As FAISS gives it, in f32, where it has one.
    let distance = Some(f64::from(exact as f32)).filter(|rounded| rounded.is_finite()).unwrap_or(exact) + 0.0;
    let (id, metadata) = texts(segment, candidate.position)?;
    let values = with_values.then(|| {
        let mut values = Vec::new();
        segment.rows.vector(candidate.position, &mut values);
        values
    });
    Ok(Hit { id, score: if metric == Metric::L2 { 1.0 / (1.0 + distance) } else { distance }, distance, metadata, values })
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
