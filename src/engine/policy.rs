//! Which segments are built, rewritten or merged next. Nothing here does I/O.

use std::ops::Range;

use crate::types::Row;

/// So many segments of about the same size become one. A row is built into an index again once for each power of this that an index grows by,
/// and a search asks fewer than this many segments of each size.
pub(super) const MERGE_SEGMENTS: usize = 4;

/// What decides.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    /// Live rows from which on an index is built over a segment; `u64::MAX` where every segment is searched exactly.
    pub(super) build_rows: u64,
    /// Rows without which FAISS does not train.
    pub(super) train_rows: u64,
    /// A segment of which this share is dead is rewritten.
    pub(super) dead_share: f64,
    /// A merged segment has at most so many rows.
    pub(super) rows_max: u64,
}

impl Policy {
    /// Live rows from which on a segment that is rewritten gets an index, though it may not have as many as one that is new: those that died
    /// do not take its index away.
    pub(super) fn rebuild_rows(&self) -> u64 {
        if self.build_rows == u64::MAX {
            return u64::MAX;
        }
        (self.build_rows / 4).max(self.train_rows).max(1)
    }
}

/// A sealed segment, by its newest checkpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) first_row: Row,
    pub(super) number: u64,
    pub(super) rows: u64,
    /// That no state that is kept has.
    pub(super) dead: u64,
    /// Whether a build was tried: what came of it counts only for its size, until somebody asks for all to be done again.
    pub(super) is_built: bool,
    pub(super) has_index: bool,
    /// Another job is about it.
    pub(super) is_busy: bool,
}

impl Candidate {
    fn live(&self) -> u64 {
        self.rows - self.dead
    }
}

/// A run of segments that become one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) run: Range<usize>,
    /// Whether the rows are written anew. Else an index is built over the one segment as it is.
    pub(super) rewrites: bool,
    pub(super) builds: bool,
}

/// What makes space and fewer segments, if it is due. It takes as long as its segments are large: [`build`] does not wait for it.
pub(super) fn compaction(policy: &Policy, segments: &[Candidate]) -> Option<Job> {
    decayed(policy, segments).or_else(|| tier(policy, segments))
}

/// Segments without an index that are large enough for one, together if need be: what spares searches a scan, if it is due.
pub(super) fn build(policy: &Policy, segments: &[Candidate]) -> Option<Job> {
    let waits = |segment: &Candidate| !segment.is_built && !segment.is_busy;
    let mut at = 0;
    while at < segments.len() {
        if !waits(&segments[at]) {
            at += 1;
            continue;
        }
        if segments[at].live() >= policy.build_rows {
            return Some(Job { run: at..at + 1, rewrites: is_decayed(policy, &segments[at]), builds: true });
        }
        let (mut end, mut live) = (at, 0);
        while end < segments.len() && waits(&segments[end]) && live < policy.build_rows {
            live += segments[end].live();
            end += 1;
        }
        if live >= policy.build_rows {
            return Some(Job { run: at..end, rewrites: true, builds: true });
        }
        at = end;
    }
    None
}

fn is_decayed(policy: &Policy, segment: &Candidate) -> bool {
    segment.dead > 0 && segment.dead as f64 >= policy.dead_share * segment.rows as f64
}

fn decayed(policy: &Policy, segments: &[Candidate]) -> Option<Job> {
    // One without a live row is dropped by the next checkpoint, and is not worth a job.
    let at = segments.iter().position(|segment| segment.live() > 0 && !segment.is_busy && is_decayed(policy, segment))?;
    Some(alone(policy, segments, at))
}

/// Rewriting one segment.
pub(super) fn alone(policy: &Policy, segments: &[Candidate], at: usize) -> Job {
    Job { run: at..at + 1, rewrites: true, builds: segments[at].live() >= policy.rebuild_rows() }
}

/// Neighbours of at most one size, enough of them; smaller ones between them go along. None is written again for rows that are fewer than its
/// own.
fn tier(policy: &Policy, segments: &[Candidate]) -> Option<Job> {
    if policy.build_rows == u64::MAX {
        // A checkpoint merges what has no index.
        return None;
    }
    let tier_of = |segment: &Candidate| (segment.live() / policy.build_rows.max(1)).max(1).ilog(MERGE_SEGMENTS as u64);
    let highest = segments.iter().filter(|segment| segment.is_built).map(tier_of).max()?;
    for tier in 0..=highest {
        let is_in = |segment: &Candidate| segment.is_built && !segment.is_busy && tier_of(segment) <= tier;
        let mut at = 0;
        while at < segments.len() {
            let (mut end, mut live, mut largest) = (at, 0, 0);
            while end < segments.len() && is_in(&segments[end]) && live + segments[end].live() <= policy.rows_max {
                live += segments[end].live();
                largest = largest.max(segments[end].live());
                end += 1;
            }
            if end - at >= MERGE_SEGMENTS && live >= 2 * largest {
                return Some(Job { run: at..end, rewrites: true, builds: live >= policy.rebuild_rows() });
            }
            at = end.max(at + 1);
        }
    }
    None
}

/// Everything that makes the segments from `at` on fewer and free of dead rows: the first run, as large as it may be. `None`: they are
/// as they should be.
pub(super) fn all(policy: &Policy, segments: &[Candidate], at: usize) -> Option<Job> {
    let (mut end, mut live) = (at, 0);
    while end < segments.len() && !segments[end].is_busy && (end == at || live + segments[end].live() <= policy.rows_max) {
        live += segments[end].live();
        end += 1;
    }
    let run = &segments[at..end];
    let rewrites = run.len() > 1 || run.iter().any(|segment| segment.dead > 0);
    let can_build = live >= policy.rebuild_rows();
    let lacks_index = can_build && run.iter().any(|segment| !segment.has_index);
    (rewrites || lacks_index).then_some(Job { run: at..end, rewrites, builds: can_build })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { build_rows: 100, train_rows: 0, dead_share: 0.2, rows_max: 10_000 };

    fn built(live: u64) -> Candidate {
        Candidate { first_row: 0, number: 0, rows: live, dead: 0, is_built: true, has_index: true, is_busy: false }
    }

    fn new(live: u64) -> Candidate {
        Candidate { first_row: 0, number: 0, rows: live, dead: 0, is_built: false, has_index: false, is_busy: false }
    }

    fn due(policy: &Policy, segments: &[Candidate]) -> Option<Job> {
        build(policy, segments).or_else(|| compaction(policy, segments))
    }

    fn job(run: Range<usize>, rewrites: bool) -> Option<Job> {
        Some(Job { run, rewrites, builds: true })
    }

    #[test]
    fn rows_without_an_index_come_first_alone_or_together() {
        assert_eq!(due(&POLICY, &[built(100), new(99)]), None);
        assert_eq!(due(&POLICY, &[built(100), new(100)]), job(1..2, false));
        assert_eq!(due(&POLICY, &[built(100), new(60), new(30), new(20), new(5)]), job(1..4, true));
        assert_eq!(due(&POLICY, &[new(60), built(100), new(60)]), None, "what is between them keeps them apart");
        let busy = |candidate| Candidate { is_busy: true, ..candidate };
        assert_eq!(due(&POLICY, &[busy(new(100)), new(60), busy(new(60)), new(60)]), None, "nor what another job is about");
        let decayed =
            Candidate { first_row: 0, number: 0, rows: 200, dead: 60, is_built: false, has_index: false, is_busy: false };
        assert_eq!(due(&POLICY, &[decayed]), job(0..1, true), "dead rows are not built first and dropped then");
    }

    #[test]
    fn a_fifth_dead_is_rewritten() {
        let with = |dead| Candidate { first_row: 0, number: 0, rows: 100, dead, is_built: true, has_index: true, is_busy: false };
        assert_eq!(due(&POLICY, &[built(100), with(19)]), None);
        assert_eq!(due(&POLICY, &[built(100), with(20)]), job(1..2, true));
        assert_eq!(due(&POLICY, &[with(100)]), None);
        let exact = Policy { build_rows: u64::MAX, ..POLICY };
        assert_eq!(
            due(&exact, &[new(100), Candidate { is_built: false, ..with(20) }]),
            Some(Job { run: 1..2, rewrites: true, builds: false })
        );
    }

    #[test]
    fn four_of_a_size_become_one() {
        assert_eq!(due(&POLICY, &[built(1_700), built(100), built(250), built(120)]), None);
        assert_eq!(due(&POLICY, &[built(1_700), built(100), built(250), built(120), built(50), new(10)]), job(1..5, true));
        assert_eq!(due(&POLICY, &[built(400), built(90), built(400), built(401), built(500)]), job(0..5, true));
        assert_eq!(due(&Policy { rows_max: 400, ..POLICY }, &[built(101); 4]), None);
    }

    #[test]
    fn segments_stay_few_however_many_come() {
        let mut segments: Vec<Candidate> = Vec::new();
        let mut rewritten = 0;
        for _ in 0..1_000 {
            segments.push(new(100));
            while let Some(Job { run, .. }) = due(&POLICY, &segments) {
                let live = segments[run.clone()].iter().map(Candidate::live).sum();
                rewritten += live;
                segments.splice(run, [built(live)]);
            }
            assert!(segments.len() <= 5 * MERGE_SEGMENTS);
        }
        assert!(rewritten <= 5 * 100 * 1_000, "{rewritten}: each row some times only");
    }

    #[test]
    fn compacting_all_leaves_one_segment_without_dead_rows() {
        let decayed = Candidate { first_row: 0, number: 0, rows: 100, dead: 1, is_built: true, has_index: true, is_busy: false };
        assert_eq!(all(&POLICY, &[built(5), decayed, new(3)], 0), job(0..3, true));
        assert_eq!(all(&POLICY, &[built(5)], 0), None);
        assert_eq!(all(&POLICY, &[decayed], 0), job(0..1, true));
        assert_eq!(all(&POLICY, &[new(30)], 0), job(0..1, false));
        assert_eq!(all(&POLICY, &[new(24)], 0), None, "too few rows to build anything over");
        assert_eq!(all(&POLICY, &[built(9_990), built(11)], 0), None, "it would be too large");
        assert_eq!(all(&POLICY, &[built(9_990), built(11)], 1), None);
        assert_eq!(all(&POLICY, &[], 0), None);
    }
}
