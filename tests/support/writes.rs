//! Writes that are decided at their turn: conditions, keys, patches, filters. What they come to is worked out here as simply as can be.

use std::collections::BTreeMap;

use faiss_proxy::{Condition, Durability, Error, Filter, IdempotencyKey, Lsn, Result, Upserted, WriteOptions};
use serde_json::value::RawValue;

use super::{NewPoint, Row, Session, State};

impl Session {
    /// Stores points each of which has a condition. With a key that was answered before, the first answer is expected, and nothing else.
    pub fn upsert_if(&mut self, points: &[(NewPoint, Condition)], options: &WriteOptions, key: Option<&str>) -> Result<()> {
        let mut batch = self.index.batch();
        for (NewPoint { id, values, metadata }, condition) in points {
            batch.push_if(id, values, metadata, *condition).unwrap();
        }
        // The request is not looked at: which answer a key has depends on the key alone.
        let options = WriteOptions { key: key.map(|key| IdempotencyKey::new(key, &[]).unwrap()), ..options.clone() };
        let first = key.and_then(|key| self.history.answers.get(key)).cloned();
        let (next, expected) = match &first {
            Some(first) => (None, first.clone()),
            None => self.expected_upsert(points, options.atomic),
        };
        let is_logged = first.is_none() && (key.is_some() || next.is_some());
        if is_logged {
            self.history.states.push(next.unwrap_or_else(|| self.history.acked_state().clone()));
            let answer = Upserted { lsn: self.history.attempted(), ..expected.clone() };
            self.history.answers.extend(key.map(|key| (key.to_owned(), answer)));
        }
        let durability = options.durability;
        let result = self.index.upsert(batch, options);
        if let Ok(upserted) = &result {
            let lsn = first.map_or(if is_logged { self.history.attempted() } else { self.history.acked }, |first| first.lsn);
            let mut upserted = upserted.clone();
            upserted.superseded.sort_unstable();
            assert_eq!(upserted, Upserted { lsn, ..expected });
        }
        self.settle_decided(is_logged, result.map(drop), durability)
    }

    fn expected_upsert(&self, points: &[(NewPoint, Condition)], atomic: bool) -> (Option<State>, Upserted) {
        let lsn = self.history.attempted() + 1;
        let mut next = self.history.acked_state().clone();
        let (mut unmet, mut superseded, mut last) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (at, (NewPoint { id, values, metadata }, condition)) in points.iter().enumerate() {
            let stored_by = next.get(id).map(|row| row.lsn);
            let holds = match condition {
                Condition::Always => true,
                Condition::Absent => stored_by.is_none(),
                Condition::Present => stored_by.is_some(),
                Condition::StoredBy(lsn) => stored_by == Some(*lsn),
            };
            if !holds {
                unmet.push(at);
                continue;
            }
            let bits = values.iter().map(|value| value.to_bits()).collect();
            next.insert(id.clone(), Row { bits, metadata: metadata.clone(), lsn });
            superseded.extend(last.insert(id, at));
        }
        superseded.sort_unstable();
        let is_refused = last.is_empty() || (atomic && !unmet.is_empty());
        if is_refused {
            return (None, Upserted { lsn: 0, added_count: 0, superseded: vec![], unmet });
        }
        (Some(next), Upserted { lsn: 0, added_count: last.len(), superseded, unmet })
    }

    /// Merges a patch, an object whose values are no objects, into a point's metadata.
    pub fn patch(&mut self, id: &str, patch: &str, durability: Durability) -> Result<()> {
        let lsn = self.history.attempted() + 1;
        let mut next = self.history.acked_state().clone();
        let is_there = next.contains_key(id);
        if let Some(row) = next.get_mut(id) {
            let mut fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&row.metadata).unwrap();
            let patch: BTreeMap<String, Box<RawValue>> = serde_json::from_str(patch).unwrap();
            for (name, value) in patch {
                match value.get() {
                    "null" => drop(fields.remove(&name)),
                    _ => drop(fields.insert(name, value)),
                }
            }
            (row.metadata, row.lsn) = (serde_json::to_string(&fields).unwrap(), lsn);
            self.history.states.push(next);
        }
        match self.index.patch(id, patch, Condition::Always, durability) {
            Err(Error::NotFound(_)) if !is_there => self.settle_decided(false, Ok(()), durability),
            result => {
                self.settle_decided(is_there, result.map(|stored_by| assert_eq!((is_there, stored_by), (true, lsn))), durability)
            }
        }
    }

    /// Deletes what a filter matches: `matches` says of which metadata it does.
    pub fn delete_matching(&mut self, filter: &str, durability: Durability, matches: impl Fn(&str) -> bool) -> Result<()> {
        let mut next = self.history.acked_state().clone();
        let before = next.len();
        next.retain(|_, row| !matches(&row.metadata));
        let count = before - next.len();
        if count > 0 {
            self.history.states.push(next);
        }
        let result = self.index.delete_matching(&Filter::parse(filter).unwrap(), durability);
        if let Ok(deleted) = &result {
            assert_eq!(
                (deleted.deleted_count, deleted.lsn),
                (count, if count > 0 { self.history.attempted() } else { self.history.acked })
            );
        }
        self.settle_decided(count > 0, result.map(drop), durability)
    }

    /// Where nothing was logged, there is nothing to take back, and what was acknowledged before may have become durable.
    fn settle_decided(&mut self, is_logged: bool, result: Result<()>, durability: Durability) -> Result<()> {
        match result {
            _ if is_logged => {
                let lsn: Lsn = self.history.attempted();
                self.settle(result.map(|()| lsn), durability)
            }
            Ok(()) => {
                assert!(!self.is_poisoned, "a write is acknowledged after a sync failed");
                if durability == Durability::Fsync {
                    self.history.durable = self.history.acked;
                }
                self.history.check(&self.index, self.history.acked).map(drop).unwrap_or_else(|problem| panic!("{problem}"));
                Ok(())
            }
            Err(error) => {
                self.note_failure(&error);
                Err(error)
            }
        }
    }
}
