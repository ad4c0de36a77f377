//! All points within a distance.

use super::nearest::{BLOCK_ROWS, Nearest};
use super::part::Part;
use super::sieve::Sieve;
use super::{hit, reaches, scored};
use crate::engine::batch::check_vector;
use crate::engine::index::Index;
use crate::error::{Error, Result};
use crate::plan::How;
use crate::types::{Metric, Query, RangeHits, RangeQuery, Within};

impl Index {
    /// All points that are near enough, best first, up to a limit. Exact: rows are scanned, or visited from match to match, whatever index there is.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `vector`, `radius`, `min_score` or `limit`.
    pub fn range_search(&self, range: &RangeQuery) -> Result<RangeHits> {
        let _timed = self.stages.search.start_timer();
        let (metric, most) = (self.metric, self.limits.range_hits_max);
        if range.limit == 0 || range.limit > most {
            return Err(Error::invalid("limit", "invalid_limit", format!("must be 1 to {most}, and not {}", range.limit)));
        }
        let (Within::Radius(wanted) | Within::MinScore(wanted)) = range.within;
        if wanted.is_nan() {
            let field = if matches!(range.within, Within::Radius(_)) { "radius" } else { "min_score" };
            return Err(Error::invalid(field, "not_finite", "must be a number"));
        }
        let squared_norm = check_vector("vector", &range.vector, self.dimension(), metric)?;
        let view = self.shared.view.load_full();
        // One more tells whether there are more.
        let query = Query { vector: range.vector.clone(), k: range.limit + 1, exact: true, ..Query::default() };
        let mut nearest = Nearest::new(metric, &query, squared_norm).within(farthest(metric, range.within));
        for at in 0..view.segments.len() {
            sweep(metric, &Part::new(&view, at, range.filter.as_ref()), &mut nearest);
        }
        let plan = nearest.plan;
        let mut candidates = nearest.into_candidates(&view);
        candidates.retain(|candidate| is_within(metric, range.within, scored(metric, candidate.key)));
        let truncated = candidates.len() > range.limit;
        candidates.truncate(range.limit);
        let hits = candidates.iter().map(|candidate| hit(&view, metric, candidate, range.include_values));
        Ok(RangeHits { hits: hits.collect::<Result<_>>()?, truncated, lsn: view.lsn, plan })
    }
}

/// Takes the rows of a segment that are near enough, at their f64 distances.
fn sweep(metric: Metric, part: &Part<'_>, nearest: &mut Nearest<'_>) {
    let how = if nearest.is_extreme { How::Matches } else { part.without_index() };
    nearest.plan.count(how, part.segment.len as u64, part.count as u64, part.segment.rows.is_sealed());
    if how == How::Matches {
        return nearest.take_in_f64(part, part.visible());
    }
    nearest.take_in_f64(part, part.extreme());
    let segment = part.segment;
    let mut sieve = Sieve::new(metric, segment, std::iter::once(&*nearest.kernel_query));
    for start in (0..segment.len).step_by(BLOCK_ROWS) {
        sieve.fill(start..(start + BLOCK_ROWS).min(segment.len));
        sieve.near(0, nearest.bound(), |position| {
            if part.shows(position) && !segment.extreme.contains(position) {
                nearest.take_in_f64(part, std::iter::once(position));
            }
            nearest.bound()
        });
    }
}

/// Whether a score and a distance, as they are answered, are wanted.
fn is_within(metric: Metric, within: Within, (score, distance): (f64, f64)) -> bool {
    match within {
        Within::Radius(radius) if metric == Metric::L2 => reaches(-distance, -radius),
        Within::Radius(radius) => reaches(distance, radius),
        Within::MinScore(least) => reaches(score, least),
    }
}

/// The greatest key that a row within can have, and a little more: what is found by it is looked at again.
fn farthest(metric: Metric, within: Within) -> f32 {
    let key = match within {
        Within::Radius(radius) => super::nearest::key(metric, radius),
        Within::MinScore(least) if metric != Metric::L2 => -least,
        // All scores are over 0.
        Within::MinScore(least) if least <= 0.0 => f64::INFINITY,
        // The score is 1 / (1 + distance); one that is the same f32 can be less.
        Within::MinScore(least) => 1.0 / least.min(f64::from(least as f32)) * (1.0 + 4.0 * f64::EPSILON) - 1.0,
    };
    // Its own rounding, and that of the distance.
    (key as f32).next_up().next_up()
}
