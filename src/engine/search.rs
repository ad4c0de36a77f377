//! Search over one View, without a lock.
//!
//! A filter is answered first, from the metadata index: which rows of each segment match, exactly, and so how many. Then each segment is looked at in the
//! way that costs least: through its FAISS index, from match to match, or by a scan. A scan takes blocks: FAISS's kernel gives the f32 distances of a
//! block of rows; only rows that would enter the best `k` so far are looked at further (dead? a match?), so that a filter is applied before the top
//! k and not after. The distances of the rows that are left are computed again in f64, by the one kernel for all: a score does not depend on how
//! its row was found.
//!
//! One query is a batch of one: queries with one filter share its answer, ask an index together, and are scanned for together.

mod nearest;
mod part;
mod range;
mod sieve;

use std::collections::BTreeMap;
use std::time::Instant;

pub(super) use part::Part;

use super::batch::check_vector;
use super::index::Index;
use super::view::{Segment, View};
use crate::config::EF_MAX;
use crate::error::{Error, Result};
use crate::plan::{Access, Effort, Explanation, How, Plan};
use crate::segment::filter::Filter;
use crate::segment::positions::Positions;
use crate::types::{BatchHits, Hit, Metric, Query, QueryHits};
use nearest::{BLOCK_ROWS, Candidate, Nearest};
use sieve::Sieve;

/// Queries of a batch that are answered together: bounds the memory of what their filters select, a bit a row of the largest segment for each.
const QUERIES_AT_ONCE: usize = 128;

impl Index {
    /// The nearest points, best first; `k` of them where there are `k` that match.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `vector`, `k`, one of `params`, or `as_of_lsn` where there is no such state yet. [`Error::Gone`]: that state is no
    /// longer kept.
    pub fn search(&self, query: &Query) -> Result<Vec<Hit>> {
        Ok(self.search_planned(query)?.hits)
    }

    /// The same, and what was done for it.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn search_planned(&self, query: &Query) -> Result<QueryHits> {
        let _timed = self.stages.search.start_timer();
        let squared_norm = self.check_query(query)?;
        let view = self.view_at(query.as_of_lsn)?;
        let mut nearest = Nearest::new(self.metric, query, squared_norm);
        seek(&view, self.metric, std::slice::from_mut(&mut nearest));
        found(&view, self.metric, nearest)
    }

    /// The same, and how each segment was looked at.
    ///
    /// # Errors
    /// As [`search`](Self::search).
    pub fn explain(&self, query: &Query) -> Result<(Vec<Hit>, Explanation)> {
        let _timed = self.stages.search.start_timer();
        let squared_norm = self.check_query(query)?;
        let view = self.view_at(query.as_of_lsn)?;
        let mut nearest = Nearest::new(self.metric, query, squared_norm).explained();
        seek(&view, self.metric, std::slice::from_mut(&mut nearest));
        let mut ways = nearest.ways.take().unwrap_or_default();
        ways.sort_by_key(|(at, _)| *at);
        let segments = ways.into_iter().map(|(_, access)| access).collect();
        let explanation = Explanation { lsn: view.lsn, plan: nearest.plan, segments };
        Ok((hits(&view, self.metric, nearest)?, explanation))
    }

    /// The answers to several queries that came each for itself, in their order: each is what [`search_planned`](Self::search_planned) gives it. Together
    /// they take less time where rows are scanned.
    pub fn search_each(&self, queries: &[Query]) -> Vec<Result<QueryHits>> {
        let (began, view) = (Instant::now(), self.shared.view.load_full());
        let checked: Vec<Result<(&Query, f64)>> = queries.iter().map(|query| Ok((query, self.check_query(query)?))).collect();
        let of_now = |query: &Query| query.as_of_lsn.is_none();
        let good: Vec<(&Query, f64)> = checked.iter().flatten().copied().filter(|(query, _)| of_now(query)).collect();
        let mut answers = self.answer(&view, &good).into_iter();
        let answer = |checked: Result<(&Query, f64)>| match checked? {
            (query, _) if of_now(query) => answers.next().expect("one for each of these"),
            (query, _) => self.search_planned(query),
        };
        let answers = checked.into_iter().map(answer).collect();
        let each = began.elapsed().as_secs_f64();
        queries.iter().for_each(|_| self.stages.search.observe(each));
        answers
    }

    /// Answers queries, each with the squared norm of its vector, from one state.
    fn answer(&self, view: &View, queries: &[(&Query, f64)]) -> Vec<Result<QueryHits>> {
        let mut answers = Vec::with_capacity(queries.len());
        for queries in queries.chunks(QUERIES_AT_ONCE) {
            let mut nearest: Vec<Nearest<'_>> =
                queries.iter().map(|&(query, norm)| Nearest::new(self.metric, query, norm)).collect();
            seek(view, self.metric, &mut nearest);
            answers.extend(nearest.into_iter().map(|nearest| found(view, self.metric, nearest)));
        }
        answers
    }

    /// How much a search has to look at, before it does. A filter that few points match makes it less.
    pub fn effort(&self, query: &Query) -> Effort {
        let view = self.shared.view.load();
        let (mut scanned, mut indexed) = (0, 0);
        for segment in &view.segments {
            let rows = segment.len as u64;
            match segment.ann().filter(|_| !query.exact) {
                Some(ann) => indexed += ann.cost_in_rows(query.k, &query.params, segment.len).min(rows),
                None => scanned += rows,
            }
        }
        let dimension = self.dimension() as u64;
        Effort { scanned: scanned * dimension, indexed: indexed * dimension }
    }

    /// The answers to several queries, in their order, found in one state. Each is what [`search`](Self::search) finds;
    /// together they take less time: scans by FAISS's matrix kernels, FAISS indexes and equal filters asked once.
    ///
    /// At most [`Limits::batch_queries_max`](crate::config::Limits) queries, for [`Limits::batch_hits_max`](crate::config::Limits) points together.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `queries`, or a field of the first query that is wrong: `queries[3].vector`. None is answered then.
    pub fn search_batch(&self, queries: &[Query]) -> Result<BatchHits> {
        let _timed = self.stages.search.start_timer();
        let limits = &self.limits;
        if queries.is_empty() || queries.len() > limits.batch_queries_max {
            let detail = format!("a batch has 1 to {} queries, and not {}", limits.batch_queries_max, queries.len());
            return Err(Error::invalid("queries", "invalid_batch", detail));
        }
        let check = |(at, query)| self.check_query(query).map_err(|error: Error| error.under(&format!("queries[{at}]")));
        let squared_norms = queries.iter().enumerate().map(check).collect::<Result<Vec<f64>>>()?;
        let wanted: usize = queries.iter().map(|query| query.k).sum();
        if wanted > limits.batch_hits_max {
            let detail =
                format!("the queries of a batch ask for at most {} points together, and not {wanted}", limits.batch_hits_max);
            return Err(Error::invalid("queries", "batch_too_large", detail));
        }
        let as_of_lsn = queries.first().and_then(|query| query.as_of_lsn);
        if queries.iter().any(|query| query.as_of_lsn != as_of_lsn) {
            let detail = "a batch is answered from one state: as_of_lsn must be the same in all of its queries";
            return Err(Error::invalid("queries", "invalid_batch", detail));
        }
        let view = self.view_at(as_of_lsn)?;
        let queries: Vec<(&Query, f64)> = queries.iter().zip(squared_norms).collect();
        let (mut answers, mut plan) = (Vec::with_capacity(queries.len()), Plan::default());
        for answer in self.answer(&view, &queries) {
            let answer = answer?;
            plan.add(&answer.plan);
            answers.push(answer.hits);
        }
        Ok(BatchHits { answers, lsn: view.lsn, plan })
    }

    /// The squared norm of a query that can be answered.
    fn check_query(&self, query: &Query) -> Result<f64> {
        if query.k == 0 || query.k > self.limits.k_max {
            return Err(Error::invalid("k", "invalid_k", format!("k is 1 to {}, and not {}", self.limits.k_max, query.k)));
        }
        let within = |field: &'static str, value: Option<u32>, max: u32| match value {
            Some(value) if value == 0 || value > max => {
                Err(Error::invalid(field, "invalid_params", format!("must be 1 to {max}, and not {value}")))
            }
            _ => Ok(()),
        };
        within("params.ef", query.params.ef, EF_MAX)?;
        within("params.nprobe", query.params.nprobe, u32::MAX)?;
        check_vector("vector", &query.vector, self.dimension(), self.metric)
    }
}

/// Looks at all segments for all of the queries.
///
/// Memory: `k` candidates of 32 bytes for each query, and for each filter some bits a row of one segment.
fn seek(view: &View, metric: Metric, all: &mut [Nearest<'_>]) {
    let mut by_filter: BTreeMap<Option<&Filter>, Vec<&mut Nearest<'_>>> = BTreeMap::new();
    for nearest in all {
        by_filter.entry(nearest.query.filter.as_ref()).or_default().push(nearest);
    }
    let mut order: Vec<(usize, &Segment)> = view.segments.iter().enumerate().collect();
    // Those with an index first: what they find bounds what a scan needs to look at.
    order.sort_by_key(|(_, segment)| segment.ann().is_none());
    for (at, segment) in order {
        let parts: Vec<Part<'_>> = by_filter.keys().map(|filter| Part::new(view, at, *filter)).collect();
        let mut scanning: Vec<(&Part<'_>, &mut Nearest<'_>)> = Vec::new();
        for (part, queries) in parts.iter().zip(by_filter.values_mut()) {
            look(part, queries, &mut scanning);
        }
        scan(metric, segment, &mut scanning);
    }
}

/// Looks at a segment for the queries of one filter; those for which it is to be scanned are added to `scanning`.
fn look<'p, 'n, 'q>(
    part: &'p Part<'p>,
    queries: &'n mut [&mut Nearest<'q>],
    scanning: &mut Vec<(&'p Part<'p>, &'n mut Nearest<'q>)>,
) {
    let mut ways: Vec<How> =
        queries.iter().map(|nearest| if nearest.is_extreme { How::Matches } else { part.plan(nearest.query) }).collect();
    let asking = queries.iter_mut().zip(&mut ways).filter(|(_, how)| **how == How::Index);
    let mut asking: Vec<(&mut Nearest<'q>, &mut How)> = asking.map(|(nearest, how)| (&mut **nearest, how)).collect();
    if !asking.is_empty() {
        let hidden = part.hidden();
        let is_alike = |a: &Query, b: &Query| (a.k, a.params) == (b.k, b.params);
        for some in asking.chunk_by_mut(|(a, _), (b, _)| is_alike(a.query, b.query)) {
            ask(part, &hidden, some);
        }
    }
    for (nearest, how) in queries.iter_mut().zip(ways) {
        nearest.plan.count(how, part.segment.len as u64, part.count as u64, part.segment.rows.is_sealed());
        if let Some(ways) = &mut nearest.ways {
            ways.push((part.at, Access { rows: part.segment.len as u64, matched: part.count as u64, how }));
        }
        if nearest.is_extreme {
            nearest.take_in_f64(part, part.visible());
            continue;
        }
        nearest.take_in_f64(part, part.extreme());
        match how {
            How::Index => {}
            How::Matches => nearest.visit(part),
            How::Scan => scanning.push((part, nearest)),
        }
    }
}

/// Takes the nearest rows of a segment by its FAISS index, for queries that want as many by the same parameters. One for which it does not give as many as
/// there are looks for them otherwise.
fn ask(part: &Part<'_>, hidden: &Positions, asking: &mut [(&mut Nearest<'_>, &mut How)]) {
    let (Some(ann), Some((first, _))) = (part.segment.ann(), asking.first()) else { return };
    let (k, params) = (first.query.k, first.query.params);
    let wanted = k.min(part.segment.len - hidden.len() as usize);
    let vectors: Vec<&[f32]> = asking.iter().map(|(nearest, _)| &*nearest.kernel_query).collect();
    let mut found: Vec<Vec<(usize, f32)>> = vec![Vec::new(); asking.len()];
    let searched = ann.search(&vectors, wanted, &params, hidden, &mut |query, position, distance| {
        found[query].push((position, distance));
    });
    if let Err(error) = &searched {
        tracing::warn!(%error, "FAISS failed; the segment is scanned");
    }
    let (ef, nprobe) = ann.searched_with(&params, hidden);
    for ((nearest, how), found) in asking.iter_mut().zip(found) {
        (nearest.plan.ef, nearest.plan.nprobe) = (nearest.plan.ef.max(ef), nearest.plan.nprobe.max(nprobe));
        // Too few where a graph is not connected, where too few lists were looked into, or where FAISS cannot leave dead rows out.
        if searched.is_ok() && found.len() >= wanted {
            nearest.take(part, &found);
        } else {
            nearest.plan.second_looks += 1;
            **how = part.without_index();
        }
    }
}

/// Looks at every row of a segment, block by block.
fn scan(metric: Metric, segment: &Segment, scanning: &mut [(&Part<'_>, &mut Nearest<'_>)]) {
    let blocks = (0..segment.len).step_by(BLOCK_ROWS).map(|start| start..(start + BLOCK_ROWS).min(segment.len));
    match scanning {
        [] => return,
        [(part, nearest)] => return blocks.for_each(|block| nearest.block(part, block)),
        _ => {}
    }
    let mut sieve = Sieve::new(metric, segment, scanning.iter().map(|(_, nearest)| &*nearest.kernel_query));
    for block in blocks {
        sieve.fill(block);
        for (at, (part, nearest)) in scanning.iter_mut().enumerate() {
            nearest.sift(&sieve, at, part);
        }
    }
}

fn found(view: &View, metric: Metric, nearest: Nearest<'_>) -> Result<QueryHits> {
    let plan = nearest.plan;
    Ok(QueryHits { hits: hits(view, metric, nearest)?, lsn: view.lsn, plan })
}

fn hits(view: &View, metric: Metric, nearest: Nearest<'_>) -> Result<Vec<Hit>> {
    let query = nearest.query;
    let candidates = nearest.into_candidates(view);
    // Best first: those behind one that is not good enough are no better.
    let candidates = candidates.iter().take_while(|candidate| {
        let (score, _) = scored(metric, candidate.key);
        query.min_score.is_none_or(|least| reaches(score, least))
    });
    candidates.map(|candidate| hit(view, metric, candidate, query.include_values)).collect()
}

/// The score and the distance of a key. The distance is as FAISS gives it, in f32, where it has one.
fn scored(metric: Metric, key: f64) -> (f64, f64) {
    let exact = nearest::key(metric, key);
    let distance = Some(f64::from(exact as f32)).filter(|rounded| rounded.is_finite()).unwrap_or(exact) + 0.0;
    (if metric == Metric::L2 { 1.0 / (1.0 + distance) } else { distance }, distance)
}

/// Whether a score is at least what is wanted, which may be one that was written as an f32 is.
fn reaches(score: f64, least: f64) -> bool {
    score >= least || score == f64::from(least as f32)
}

fn hit(view: &View, metric: Metric, candidate: &Candidate, with_values: bool) -> Result<Hit> {
    let segment = &view.segments[candidate.segment];
    let (score, distance) = scored(metric, candidate.key);
    let (id, metadata) = texts(segment, candidate.position)?;
    let values = with_values.then(|| {
        let mut values = Vec::new();
        segment.rows.vector(candidate.position, &mut values);
        values
    });
    Ok(Hit { id, score, distance, metadata, values })
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
