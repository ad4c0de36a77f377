//! Whether calls that overlapped can have happened one after the other.
//!
//! Linearizable means: there is an order of all calls, each at one moment between its beginning and its end, in which every answer is right. To
//! find one is exponential in general (Wing & Gong). Here it is not, because **answers tell the order**: an acknowledged write says its LSN, and the
//! state after each LSN is a function of the writes up to it. What is left is to place the reads, and the earliest place that a read can
//! have is always the best, since it only leaves more room for later ones. So this check is exact, and says of a whole run in moments
//! which answer no order explains.

use std::collections::BTreeMap;

use faiss_proxy::{Durability, Lsn};

use super::record::{Call, Outcome, What};
use super::support::{NewPoint, Row, State};

/// What a run began with, and what became of it.
#[derive(Clone, Debug)]
pub struct Explained {
    base: Lsn,
    /// After LSN `base`, `base + 1`, …
    states: Vec<State>,
    /// Mutations up to this one were made durable.
    durable: Lsn,
    /// Writes whose outcome is not known.
    unknown: Vec<Call>,
    /// Reads that more than one state could have answered, as far as time goes: writes were under way.
    pub contended_reads: u64,
}

/// Explains the calls on an index that was in this state, at this LSN; or says which answer is wrong.
pub fn explain(base: Lsn, state: &State, calls: &[Call]) -> Result<Explained, String> {
    let mut writes: Vec<(Lsn, &Call)> = calls.iter().filter_map(|call| Some((logged(call)?, call))).collect();
    writes.sort_by_key(|&(lsn, _)| lsn);
    let mut states = vec![state.clone()];
    for (expected, (lsn, call)) in (base + 1..).zip(&writes) {
        if *lsn != expected {
            return Err(format!("LSN {lsn} is acknowledged where {expected} is next: {call:?}"));
        }
        let (next, count) = apply(states.last().unwrap(), &call.what, *lsn);
        if !matches!(call.what.outcome(), Some(Outcome::Acknowledged { count: said, .. }) if *said == count) {
            return Err(format!("it did so to {count} points, and not as it says: {call:?}"));
        }
        states.push(next);
    }
    for (lsn, call) in &writes {
        if let Some((later, before)) = writes.iter().find(|(other, before)| other > lsn && before.ended < call.began) {
            return Err(format!("LSN {later} was acknowledged before that of {lsn} began: {before:?}, {call:?}"));
        }
    }
    let mut explained = Explained { base, states, durable: base, unknown: Vec::new(), contended_reads: 0 };
    explained.place_reads(calls, &writes)?;
    explained.durable = calls.iter().filter_map(|call| made_durable(call, &writes)).fold(base, Lsn::max);
    explained.unknown = calls.iter().filter(|call| call.what.outcome() == Some(&Outcome::Unknown)).cloned().collect();
    Ok(explained)
}

/// The LSN of a write that was acknowledged and changed something.
fn logged(call: &Call) -> Option<Lsn> {
    match call.what {
        What::Upsert { outcome: Outcome::Acknowledged { lsn, .. }, .. } => Some(lsn),
        What::Delete { outcome: Outcome::Acknowledged { lsn, count: 1.. }, .. }
        | What::CompareAndSet { outcome: Outcome::Acknowledged { lsn, count: 1.. }, .. } => Some(lsn),
        _ => None,
    }
}

/// The state after a write, and to how many points it did something.
fn apply(state: &State, what: &What, lsn: Lsn) -> (State, usize) {
    let mut next = state.clone();
    let count = match what {
        What::Upsert { points, .. } => {
            let rows: BTreeMap<String, Row> = points.iter().map(|point| (point.id.clone(), row(point, lsn))).collect();
            let count = rows.len();
            next.extend(rows);
            count
        }
        What::Delete { ids, .. } => ids.iter().filter(|id| next.remove(*id).is_some()).count(),
        What::CompareAndSet { point, stored_by, .. } if holds(&next, &point.id, *stored_by) => {
            next.insert(point.id.clone(), row(point, lsn));
            1
        }
        What::CompareAndSet { .. } | What::Get { .. } | What::Search { .. } | What::Sync => 0,
    };
    (next, count)
}

/// Whether this mutation stored the point that is there; `None`: whether there is none.
fn holds(state: &State, id: &str, stored_by: Option<Lsn>) -> bool {
    state.get(id).map(|row| row.lsn) == stored_by
}

fn row(point: &NewPoint, lsn: Lsn) -> Row {
    Row { bits: point.values.iter().map(|value| value.to_bits()).collect(), metadata: point.metadata.clone(), lsn }
}

/// Whether a read answers so in this state; `None` for what is no read. A delete that found nothing is one, and so is a condition that did not hold.
fn reads(call: &Call, lsn: Lsn, state: &State) -> Option<bool> {
    match &call.what {
        What::Get { id, found } => Some(state.get(id) == found.as_ref()),
        What::Search { found } => Some(state.iter().map(|(id, row)| (id, &row.metadata)).eq(found.iter())),
        What::Delete { ids, outcome: Outcome::Acknowledged { lsn: said, count: 0 }, .. } => {
            Some(*said == lsn && !ids.iter().any(|id| state.contains_key(id)))
        }
        What::CompareAndSet { point, stored_by, outcome: Outcome::Acknowledged { count: 0, .. }, .. } => {
            Some(!holds(state, &point.id, *stored_by))
        }
        _ => None,
    }
}

/// The LSN up to which all is durable once this call has ended.
fn made_durable(call: &Call, writes: &[(Lsn, &Call)]) -> Option<Lsn> {
    match call.what {
        What::Upsert { durability: Durability::Fsync, outcome: Outcome::Acknowledged { lsn, .. }, .. }
        | What::Delete { durability: Durability::Fsync, outcome: Outcome::Acknowledged { lsn, .. }, .. }
        | What::CompareAndSet { durability: Durability::Fsync, outcome: Outcome::Acknowledged { lsn, count: 1.. }, .. } => {
            Some(lsn)
        }
        What::Sync => writes.iter().filter(|(_, write)| write.ended < call.began).map(|&(lsn, _)| lsn).max(),
        _ => None,
    }
}

impl Explained {
    fn place_reads(&mut self, calls: &[Call], writes: &[(Lsn, &Call)]) -> Result<(), String> {
        let mut calls: Vec<&Call> = calls.iter().filter(|call| reads(call, 0, &self.states[0]).is_some()).collect();
        // Who ended before another began, began before it: all that a read has to come after is placed before it.
        calls.sort_by_key(|call| call.began);
        let mut placed: Vec<(Lsn, &Call)> = Vec::new();
        for call in calls {
            let is_before = |(_, other): &&(Lsn, &Call)| other.ended < call.began;
            let least = writes.iter().filter(is_before).chain(placed.iter().filter(is_before)).map(|&(lsn, _)| lsn);
            let least = least.fold(self.base, Lsn::max);
            let later = writes.iter().find(|(_, write)| write.began > call.ended).map(|&(lsn, _)| lsn - 1);
            let most = later.unwrap_or(self.acknowledged());
            let place = (least..=most).find(|&lsn| reads(call, lsn, self.state(lsn)) == Some(true));
            let Some(place) = place else {
                let states: Vec<(Lsn, &State)> = (least..=most).map(|lsn| (lsn, self.state(lsn))).collect();
                return Err(format!("no state from LSN {least} to {most} answers so: {call:?}, {states:#?}"));
            };
            self.contended_reads += u64::from(least < most);
            placed.push((place, call));
        }
        Ok(())
    }

    pub fn state(&self, lsn: Lsn) -> &State {
        &self.states[(lsn - self.base) as usize]
    }

    /// The highest LSN that was acknowledged.
    pub fn acknowledged(&self) -> Lsn {
        self.base + self.states.len() as Lsn - 1
    }

    /// Whether this may be found, after a kill or a power cut.
    pub fn may_be_found(&self, is_power_cut: bool, lsn: Lsn, found: &State) -> Result<(), String> {
        let least = if is_power_cut { self.durable } else { self.acknowledged() };
        if lsn < least {
            return Err(format!("LSN {lsn} is found, and {least} must be there"));
        }
        let is_right = if lsn <= self.acknowledged() {
            found == self.state(lsn)
        } else {
            self.may_follow(&mut Vec::new(), self.state(self.acknowledged()), lsn, found)
        };
        let unknown = &self.unknown;
        if is_right { Ok(()) } else { Err(format!("at LSN {lsn} there is {found:#?}; not acknowledged: {unknown:?}; {self:#?}")) }
    }

    /// Whether writes of unknown outcome, in some order, lead from a state to what is found. There are as many as threads, at most.
    fn may_follow(&self, taken: &mut Vec<usize>, state: &State, lsn: Lsn, found: &State) -> bool {
        let next = self.acknowledged() + taken.len() as Lsn + 1;
        if next > lsn {
            return state == found;
        }
        (0..self.unknown.len()).any(|at| {
            let call = &self.unknown[at];
            let is_late = taken.iter().any(|&other| call.ended < self.unknown[other].began);
            let (after, count) = apply(state, &call.what, next);
            if taken.contains(&at) || is_late || count == 0 {
                return false;
            }
            taken.push(at);
            let may = self.may_follow(taken, &after, lsn, found);
            taken.pop();
            may
        })
    }
}
