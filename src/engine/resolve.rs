//! What each request of a group comes to at its turn: against the state, and against what those before it in the group do.
//!
//! Conditions, keys, filters and patches are decided here, by the leader, in order; what is logged has none of them left.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::apply::{State, find};
use super::batch::{Batch, check_metadata};
use super::merge_patch;
use super::search::{self, Part};
use super::writer::{Outcome, Request, Write};
use crate::checkpoint::keys::Answer;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::codec;
use crate::segment::filter::Filter;
use crate::segment::id_map::IdMap;
use crate::types::{Condition, IdempotencyKey, Lsn};
use crate::wal::operation::{Delete, Effect, Keyed, Operation, Upsert};

/// Bytes of a delete in the log beside its ids, at most: some counts and a key.
const KEYED_BYTES_MAX: usize = 64 + IdempotencyKey::BYTES_MAX;

/// What a request comes to.
#[derive(Debug)]
pub(super) struct Resolved<'a> {
    /// What is logged and applied, if anything.
    pub(super) operation: Option<Operation<'a>>,
    /// The answer; `None`: what applying the operation gives.
    pub(super) answer: Option<Outcome>,
}

/// `ids` are those of the state.
pub(super) fn resolve<'a>(state: &State, ids: &IdMap, limits: &Limits, group: &'a [Write]) -> Vec<Resolved<'a>> {
    let plain = group.iter().map(|write| match &write.request {
        Request::Upsert(batch)
            if batch.is_unconditional() && write.options.key.is_none() && write.options.points_max.is_none() =>
        {
            Some(batch)
        }
        _ => None,
    });
    // Most groups: nothing is to be looked up.
    if let Some(batches) = plain.collect::<Option<Vec<&Batch>>>() {
        return batches.into_iter().map(|batch| Resolved { operation: Some(batch.operation()), answer: None }).collect();
    }
    let is_counted = group.iter().any(|write| write.options.points_max.is_some());
    let live = is_counted.then(|| state.view().live());
    let mut turns = Turns { state, ids, limits, lsn: state.lsn, live, changed: HashMap::new(), answers: HashMap::new() };
    group.iter().map(|write| turns.next(write)).collect()
}

struct Turns<'a, 's> {
    state: &'s State,
    ids: &'s IdMap,
    limits: &'s Limits,
    /// The last mutation so far.
    lsn: Lsn,
    /// Live points so far, where somebody wants to know.
    live: Option<u64>,
    /// What the group has made so far of the ids that it names; `None`: the point is deleted.
    changed: HashMap<&'a str, Option<Current<'a>>>,
    /// Answers of the group to requests with a key.
    answers: HashMap<&'a str, Answer>,
}

/// A point as it is at some turn.
#[derive(Clone, Debug)]
struct Current<'a> {
    lsn: Lsn,
    metadata: Cow<'a, str>,
    vector: Cow<'a, [f32]>,
}

/// What is to be logged of a request, and its effect.
type Made<'a> = (Option<Operation<'a>>, Effect);

impl<'a> Turns<'a, '_> {
    fn next(&mut self, write: &'a Write) -> Resolved<'a> {
        let key = write.options.key.as_ref();
        if let Some(answer) = key.and_then(|key| self.remembered(key)) {
            return Resolved { operation: None, answer: Some(answer) };
        }
        let made = match &write.request {
            Request::Upsert(batch) => self.upsert(batch, write),
            Request::Delete { ids, condition } => Ok(self.delete(ids, *condition)),
            Request::DeleteMatching(filter) => self.delete_matching(filter),
            Request::Patch { id, patch, condition } => self.patch(id, patch, *condition),
        };
        let (operation, effect) = match made {
            Ok(made) => made,
            Err(error) => return Resolved { operation: None, answer: Some(Err(error)) },
        };
        self.lsn += u64::from(operation.is_some() || key.is_some());
        let operation = match key {
            Some(IdempotencyKey { key, fingerprint }) => {
                let answer =
                    Answer { key: key.as_str().into(), lsn: self.lsn, fingerprint: *fingerprint, effect: effect.clone() };
                self.answers.insert(key, answer);
                let (effect, operation) = (effect.clone(), operation.map(Box::new));
                Some(Operation::Keyed(Keyed { key: key.into(), fingerprint: *fingerprint, effect, operation }))
            }
            None => operation,
        };
        Resolved { operation, answer: Some(Ok((self.lsn, effect))) }
    }

    /// The first answer to a request with this key, if it had one.
    fn remembered(&self, key: &IdempotencyKey) -> Option<Outcome> {
        let answer = self.answers.get(key.key.as_str()).or_else(|| self.state.keys.get(&key.key))?;
        Some(if answer.fingerprint == key.fingerprint {
            Ok((answer.lsn, answer.effect.clone()))
        } else {
            Err(IdempotencyKey::reused())
        })
    }

    fn upsert(&mut self, batch: &'a Batch, write: &Write) -> Result<Made<'a>> {
        let lsn = self.lsn + 1;
        let mut unmet = Vec::new();
        if !batch.is_unconditional() {
            // A condition sees the points before it in its own batch, where they are stored.
            let mut stored = HashMap::new();
            for ((at, id), condition) in (0..).zip(batch.ids()).zip(batch.conditions()) {
                let current = stored.get(id).copied().or_else(|| self.lsn_of(id));
                if condition.holds(current) {
                    stored.insert(id, lsn);
                } else {
                    unmet.push(at);
                }
            }
            if unmet.len() == batch.len() || (write.options.atomic && !unmet.is_empty()) {
                return Ok((None, Effect { unmet, ..Effect::default() }));
            }
        }
        let is_kept = |at: u32| unmet.binary_search(&at).is_err();
        if let Some(live) = self.live {
            let kept = (0..).zip(batch.ids()).filter(|&(at, _)| is_kept(at)).map(|(_, id)| id);
            let new: HashSet<&str> = kept.filter(|id| self.lsn_of(id).is_none()).collect();
            let would_be = live + new.len() as u64;
            if let Some(max) = write.options.points_max.filter(|&max| !new.is_empty() && would_be > max) {
                let detail = format!(
                    "the index would have {would_be} points, and the tenant's quota leaves it {max}; delete some first, or ask for more"
                );
                return Err(Error::Quota(detail));
            }
            self.live = Some(would_be);
        }
        let mut last = HashMap::new();
        let mut superseded = Vec::new();
        for (at, (id, metadata, vector)) in (0..).zip(batch.points()).filter(|&(at, _)| is_kept(at)) {
            superseded.extend(last.insert(id, at));
            self.changed.insert(id, Some(Current { lsn, metadata: metadata.into(), vector: vector.into() }));
        }
        let operation = if unmet.is_empty() { batch.operation() } else { batch.operation_of(|at| is_kept(at as u32)) };
        Ok((Some(operation), Effect { count: last.len() as u64, superseded, unmet }))
    }

    fn delete(&mut self, wanted: &'a [String], condition: Condition) -> Made<'a> {
        let mut deleted = Ids::default();
        let mut unmet = Vec::new();
        for (at, id) in (0..).zip(wanted) {
            let current = self.lsn_of(id);
            if !condition.holds(current) {
                unmet.push(at);
            } else if current.is_some() {
                deleted.push(id.as_bytes());
                self.changed.insert(id, None);
            }
        }
        let effect = Effect { count: deleted.count.into(), unmet, ..Effect::default() };
        self.live = self.live.map(|live| live - effect.count);
        (deleted.operation(), effect)
    }

    /// The request is a group of its own: [`Write::log_bytes`] says that nothing fits beside it.
    fn delete_matching(&mut self, filter: &Filter) -> Result<Made<'a>> {
        debug_assert!(self.changed.is_empty());
        let mut deleted = Ids::default();
        let mut id = Vec::new();
        let view = self.state.view();
        for at in 0..view.segments.len() {
            let part = Part::new(&view, at, Some(filter));
            for position in part.visible() {
                id.clear();
                part.segment.rows.id(position, &mut id);
                deleted.push(&id);
            }
            // Beside the ids there is their number, and perhaps a key.
            if deleted.encoded.len() + KEYED_BYTES_MAX > self.limits.operation_bytes_max {
                let detail = "more points match than one mutation can delete: narrow it, and delete in several calls";
                return Err(Error::invalid("filter", "too_many_matches", detail));
            }
        }
        let effect = Effect { count: deleted.count.into(), ..Effect::default() };
        Ok((deleted.operation(), effect))
    }

    fn patch(&mut self, id: &'a str, patch: &str, condition: Condition) -> Result<Made<'a>> {
        if !condition.holds(self.lsn_of(id)) {
            return Ok((None, Effect { unmet: vec![0], ..Effect::default() }));
        }
        let Some(Current { metadata, vector, .. }) = self.point(id)? else { return Ok((None, Effect::default())) };
        let metadata = merge_patch::merge(&metadata, patch);
        check_metadata(&metadata, self.limits)?;
        let mut texts = Vec::new();
        codec::encode_into((id, metadata.as_str()), &mut texts);
        let upsert = Upsert { count: 1, dimension: vector.len() as u32, texts: texts.into(), vectors: vector.clone() };
        self.changed.insert(id, Some(Current { lsn: self.lsn + 1, metadata: metadata.into(), vector }));
        Ok((Some(Operation::Upsert(upsert)), Effect { count: 1, ..Effect::default() }))
    }

    /// The mutation that stored the point of this id, if there is one.
    fn lsn_of(&self, id: &str) -> Option<Lsn> {
        match self.changed.get(id) {
            Some(changed) => changed.as_ref().map(|current| current.lsn),
            None => find(self.ids, &self.state.segments, id).map(|(segment, position)| segment.rows.record(position).lsn),
        }
    }

    fn point(&self, id: &str) -> Result<Option<Current<'a>>> {
        if let Some(changed) = self.changed.get(id) {
            return Ok(changed.clone());
        }
        let Some((segment, position)) = find(self.ids, &self.state.segments, id) else { return Ok(None) };
        let (_, metadata) = search::texts(segment, position)?;
        let mut vector = Vec::new();
        segment.rows.vector(position, &mut vector);
        Ok(Some(Current { lsn: segment.rows.record(position).lsn, metadata: metadata.into(), vector: vector.into() }))
    }
}

/// Ids that are deleted, as they are logged.
#[derive(Default)]
struct Ids {
    count: u32,
    encoded: Vec<u8>,
}

impl Ids {
    /// `id` is UTF-8.
    fn push(&mut self, id: &[u8]) {
        self.count += 1;
        codec::encode_into(id, &mut self.encoded);
    }

    fn operation<'a>(self) -> Option<Operation<'a>> {
        (self.count > 0).then(|| Operation::Delete(Delete { count: self.count, ids: self.encoded.into() }))
    }
}
