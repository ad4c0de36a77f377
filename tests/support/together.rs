//! Several writers at the same time, and always the same group of them: the leader is held up while the others queue behind it.

use std::sync::Arc;
use std::thread;

use faiss_proxy::{Durability, Error, Index, Lsn, Result};
use parking_lot::{Condvar, Mutex};

use super::{Row, Session, State, point};

/// What one writer wants.
#[derive(Clone, Debug)]
pub enum Wish {
    Put(&'static [&'static str], u64, Durability),
    Delete(&'static [&'static str], Durability),
}

impl Wish {
    /// Gives its LSN, and `None` where it changes nothing.
    fn ask(&self, index: &Index) -> Result<Option<Lsn>> {
        match self {
            Self::Put(ids, version, durability) => {
                let mut batch = index.batch();
                for new in ids.iter().map(|id| point(id, *version)) {
                    batch.push(&new.id, &new.values, &new.metadata).unwrap();
                }
                index.upsert(batch, *durability).map(|upserted| Some(upserted.lsn))
            }
            Self::Delete(ids, durability) => {
                index.delete(ids, *durability).map(|deleted| (deleted.deleted_count > 0).then_some(deleted.lsn))
            }
        }
    }

    /// What it makes of a state by this LSN.
    fn apply(&self, state: &State, lsn: Lsn) -> State {
        let mut next = state.clone();
        match self {
            Self::Put(ids, version, _) => next.extend(ids.iter().map(|id| {
                let new = point(id, *version);
                let bits = new.values.iter().map(|value| value.to_bits()).collect();
                (new.id, Row { bits, metadata: new.metadata, lsn })
            })),
            Self::Delete(ids, _) => ids.iter().for_each(|id| drop(next.remove(*id))),
        }
        next
    }

    fn durability(&self) -> Durability {
        match self {
            Self::Put(_, _, durability) | Self::Delete(_, durability) => *durability,
        }
    }
}

/// Holds up the first who comes by after it was armed, until it is opened.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<Passing>,
    opened: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Passing {
    #[default]
    Open,
    Armed,
    Held,
}

impl Gate {
    pub fn pass(&self) {
        let mut state = self.state.lock();
        if *state == Passing::Armed {
            *state = Passing::Held;
            while *state == Passing::Held {
                self.opened.wait(&mut state);
            }
        }
    }

    fn arm(&self) {
        *self.state.lock() = Passing::Armed;
    }

    fn is_held(&self) -> bool {
        *self.state.lock() == Passing::Held
    }

    fn open(&self) {
        *self.state.lock() = Passing::Open;
        self.opened.notify_all();
    }
}

/// Also where the one who armed it panics: else whoever is held up would be for ever.
struct OpenOnDrop<'a>(&'a Gate);

impl Drop for OpenOnDrop<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Session {
    /// The first wish is a group of its own, whose first operation on the disk waits at the gate; the others are the next group, in
    /// their order. Gives how many of them were.
    pub fn commit_together(&mut self, gate: &Gate, wishes: &[Wish]) -> usize {
        let wants_sync = |wish: &Wish| wish.durability() == Durability::Fsync;
        assert!(wants_sync(&wishes[0]) && wishes[1..].iter().any(wants_sync), "in each of the two groups");
        let (in_group, answers) = ask_together(&self.index, gate, wishes);
        for (wish, answer) in wishes.iter().zip(&answers) {
            let lsn = self.history.attempted() + 1;
            let next = wish.apply(self.history.last(), lsn);
            let changes_something = next != *self.history.last();
            match answer {
                Ok(answered) => {
                    assert!(!self.is_poisoned, "a write is acknowledged after a sync failed");
                    assert_eq!(*answered, changes_something.then_some(lsn), "{wish:?}");
                    if changes_something {
                        self.history.states.push(next);
                    }
                    self.history.acked = self.history.attempted();
                }
                // "Nothing was stored", said by a process that lives, means it.
                Err(Error::OutcomeUnknown(_)) if changes_something => self.history.states.push(next),
                Err(_) if changes_something && self.disk.is_crashed() => self.history.states.push(next),
                Err(_) => {}
            }
            self.is_poisoned |= matches!(answer, Err(Error::OutcomeUnknown(_)));
        }
        // One who asks for a sync has it for all of the group.
        self.history.durable = self.history.acked;
        answers.iter().filter_map(|answer| answer.as_ref().err()).for_each(|error| self.note_failure(error));
        if !self.disk.is_crashed() {
            let acked = self.history.acked;
            self.history.check(&self.index, acked).unwrap_or_else(|problem| panic!("after {answers:?}: {problem}"));
        }
        in_group
    }
}

/// The answers in the order of the wishes, and how many waited in the queue at the same time.
fn ask_together(index: &Arc<Index>, gate: &Gate, wishes: &[Wish]) -> (usize, Vec<Result<Option<Lsn>>>) {
    thread::scope(|scope| {
        let _open = OpenOnDrop(gate);
        gate.arm();
        let mut threads = Vec::new();
        for wish in wishes {
            let thread = scope.spawn(move || wish.ask(index));
            let waiting = threads.len();
            // The first is held up, or needs no disk for its answer; each of the others has come to its place in the queue, or to its answer.
            while !(thread.is_finished() || gate.is_held() && index.waiting_writes() == waiting) {
                thread::yield_now();
            }
            if threads.is_empty() && !gate.is_held() {
                gate.open();
            }
            threads.push(thread);
        }
        let in_group = index.waiting_writes();
        gate.open();
        (in_group, threads.into_iter().map(|thread| thread.join().unwrap()).collect())
    })
}
