//! Idempotency keys: what was answered to the requests that had one, so that a retry gets the first answer.
//!
//! Part of the state, and so a function of the log alone: keys are forgotten by how many mutations came after them, and never by a clock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::checkpoint::keys::Answer;
use crate::types::Lsn;
use crate::wal::operation::Keyed;

/// A key is forgotten this many mutations after the one that had it.
pub(crate) const KEY_MUTATIONS: Lsn = 100_000;

/// And the oldest of them where all together take more than so many bytes of memory, about.
const MEMORY_BYTES_MAX: u64 = 16 << 20;

/// Bytes that an answer takes beside its key and its positions.
const ANSWER_BYTES: usize = 176;

/// Bytes of memory that it takes, about.
fn memory_bytes(answer: &Answer) -> u64 {
    (ANSWER_BYTES + answer.key.len() + 4 * (answer.effect.superseded.len() + answer.effect.unmet.len())) as u64
}

/// The answers that are remembered.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By rising LSN. Shared with checkpoints.
    answers: VecDeque<Arc<Answer>>,
    lsns: HashMap<Arc<str>, Lsn>,
    memory_bytes: u64,
}

impl Keys {
    /// Those of a checkpoint.
    pub(crate) fn new(answers: Vec<Answer>) -> Self {
        let mut keys = Self::default();
        for answer in answers {
            keys.push(answer);
        }
        keys
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Answer> {
        let lsn = self.lsns.get(key)?;
        let at = self.answers.binary_search_by_key(lsn, |answer| answer.lsn).ok()?;
        self.answers.get(at).map(Arc::as_ref)
    }

    pub(crate) fn add(&mut self, lsn: Lsn, keyed: &Keyed<'_>) {
        let Keyed { key, fingerprint, effect, .. } = keyed;
        self.push(Answer { key: (&**key).into(), lsn, fingerprint: *fingerprint, effect: effect.clone() });
    }

    fn push(&mut self, answer: Answer) {
        self.memory_bytes += memory_bytes(&answer);
        self.lsns.insert(Arc::clone(&answer.key), answer.lsn);
        self.answers.push_back(Arc::new(answer));
    }

    /// Forgets what is old, `lsn` being the last mutation.
    pub(crate) fn forget(&mut self, lsn: Lsn) {
        while let Some(oldest) = self.answers.front()
            && (oldest.lsn + KEY_MUTATIONS <= lsn || self.memory_bytes > MEMORY_BYTES_MAX)
        {
            self.memory_bytes -= memory_bytes(oldest);
            // Each key is here once: a request whose key is remembered logs nothing.
            self.lsns.remove(&oldest.key);
            self.answers.pop_front();
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// All of them, by rising LSN, for a checkpoint: later ones do not change it.
    pub(crate) fn answers(&self) -> VecDeque<Arc<Answer>> {
        self.answers.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::operation::Effect;

    fn keyed(key: String, unmet: usize) -> Keyed<'static> {
        let effect = Effect { unmet: vec![0; unmet], ..Effect::default() };
        Keyed { key: key.into(), fingerprint: 7, effect, operation: None }
    }

    #[test]
    fn a_key_is_found_until_so_many_mutations_came_after_it() {
        let mut keys = Keys::default();
        keys.add(5, &keyed("a".into(), 0));
        keys.add(9, &keyed("b".into(), 0));
        keys.forget(5 + KEY_MUTATIONS - 1);
        assert_eq!(keys.get("a").map(|answer| answer.lsn), Some(5));
        keys.forget(5 + KEY_MUTATIONS);
        assert_eq!(keys.get("a"), None);
        assert_eq!(keys.get("b").map(|answer| answer.lsn), Some(9));
        keys.add(10, &keyed("a".into(), 0));
        assert_eq!(keys.get("a").map(|answer| answer.lsn), Some(10));
    }

    #[test]
    fn keys_take_no_more_memory_than_said_however_large_their_answers_are() {
        let mut keys = Keys::default();
        for lsn in 1..1_000 {
            keys.add(lsn, &keyed(format!("{lsn}"), 10_000));
            keys.forget(lsn);
            assert!(keys.memory_bytes() <= MEMORY_BYTES_MAX);
        }
        assert!(keys.get("999").is_some() && keys.get("1").is_none());
        let sum: u64 = keys.answers.iter().map(|answer| memory_bytes(answer)).sum();
        assert_eq!((keys.memory_bytes(), keys.lsns.len()), (sum, keys.answers.len()));
    }
}
