//! One index of a store, open or not. It is in one state at a time, under one lock:
//!
//! ```text
//!            ┌──────────── Opening ───────────┐
//!            ▼                │               ▲
//!   Open ─► Closing ─► Dormant ◄──────────────┤ (an error that may pass)
//!    │                    │                   │
//!    │                    └───────────────────┘ first use
//!    └──► Deleted ◄── Refused ◄── Opening (damage)
//! ```
//!
//! An instance of an index is made only by the thread that turned its slot from `Dormant` to `Opening`, and none is there then: a slot comes to
//! `Dormant` only from `Closing`, after the instance was *taken out of its last `Arc`* and dropped, or from an opening that failed. So
//! there are never two instances, and two writers on one log, whatever callers keep and however long. `tests/schedules/` runs this file
//! under a scheduler.

use std::sync::Arc;

use crate::error::{Error, Result, What};
use crate::sync::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
pub(super) enum State<T> {
    /// Nothing of it is in memory. Manifest and log were checked; the rest will be when it is opened.
    Dormant,
    /// One thread recovers it; the others wait.
    Opening,
    Open(Arc<T>),
    /// One thread ends the instance, or moves the directory of an index that has none; the others wait.
    Closing,
    Refused(Error),
    /// No longer among the slots. Who waited for it learns it here.
    Deleted,
}

impl<T> State<T> {
    pub(super) fn open(&self) -> Option<&Arc<T>> {
        match self {
            Self::Open(index) => Some(index),
            _ => None,
        }
    }
}

/// The state of an index, and who waits for it to change.
#[derive(Debug)]
pub(super) struct Slot<T> {
    state: Mutex<State<T>>,
    /// The state is neither `Opening` nor `Closing` any more.
    settled: Condvar,
}

impl<T> Slot<T> {
    pub(super) fn new(state: State<T>) -> Self {
        Self { state: Mutex::new(state), settled: Condvar::new() }
    }

    /// The state as it is now, perhaps about to change.
    pub(super) fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }

    /// The state, once no thread is about to change it.
    pub(super) fn settled(&self) -> MutexGuard<'_, State<T>> {
        let mut state = self.state.lock();
        while matches!(*state, State::Opening | State::Closing) {
            self.settled.wait(&mut state);
        }
        state
    }

    /// The open instance, made now where the slot is dormant and `may_make` agrees, which is asked under the slot's lock; and whether it was.
    /// Who finds it being opened or closed waits. An error of `make` that `may_pass` leaves the slot dormant; any other is given from now on.
    pub(super) fn open(
        &self,
        may_make: impl FnOnce() -> Result<()>,
        make: impl FnOnce() -> Result<Arc<T>>,
        may_pass: impl FnOnce(&Error) -> bool,
    ) -> Result<(Arc<T>, bool)> {
        let state = self.settled();
        match &*state {
            State::Open(index) => return Ok((Arc::clone(index), false)),
            State::Refused(error) => return Err(error.clone()),
            State::Deleted => return Err(Error::NotFound(What::Index)),
            State::Dormant | State::Opening | State::Closing => {}
        }
        may_make()?;
        let (transition, _) = self.begin(state, State::Opening);
        let made = make();
        transition.end(match &made {
            Ok(index) => State::Open(Arc::clone(index)),
            Err(error) if may_pass(error) => State::Dormant,
            Err(error) => State::Refused(error.clone()),
        });
        made.map(|index| (index, true))
    }

    /// Ends the instance where nobody has it: `prepare` says whether it may end, while it still serves; `end` drops it, or gives it back.
    pub(super) fn close_idle(&self, prepare: impl FnOnce(&T) -> bool, end: impl FnOnce(T) -> Result<(), Arc<T>>) {
        let index = match &*self.state.lock() {
            State::Open(index) if Arc::strong_count(index) == 1 => Arc::clone(index),
            _ => return,
        };
        if !prepare(&index) {
            return;
        }
        drop(index);
        let state = self.state.lock();
        if state.open().is_none() {
            return;
        }
        let (transition, State::Open(index)) = self.begin(state, State::Closing) else {
            unreachable!("it was open, under the same lock")
        };
        transition.end(match Arc::try_unwrap(index) {
            // Somebody came meanwhile.
            Err(index) => State::Open(index),
            // It is ours alone: no caller has it, no task under way, and no `Weak` leads to it any more.
            Ok(index) => match end(index) {
                Ok(()) => State::Dormant,
                Err(index) => State::Open(index),
            },
        });
    }

    /// Deletes it: `take_away` does it on the disk. While it does, nobody can open it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is deleted; those of `take_away`.
    pub(super) fn delete(&self, take_away: impl FnOnce(Option<&T>) -> Result<()>) -> Result<()> {
        let state = self.settled();
        match &*state {
            State::Deleted => Err(Error::NotFound(What::Index)),
            State::Open(index) => {
                // Who asks for it meanwhile still has it, to read: it is not made anew, and cannot be closed while it is held here.
                let index = Arc::clone(index);
                drop(state);
                take_away(Some(&index))?;
                *self.state.lock() = State::Deleted;
                Ok(())
            }
            _ => {
                let (transition, before) = self.begin(state, State::Closing);
                let taken = take_away(None);
                transition.end(match &taken {
                    Ok(()) => State::Deleted,
                    // Not known under which name it is on the disk: to write to it would be to lose what is written.
                    Err(error @ Error::OutcomeUnknown(_)) => State::Refused(error.clone()),
                    Err(_) => before,
                });
                taken
            }
        }
    }

    fn settle(&self, state: State<T>) {
        *self.state.lock() = state;
        self.settled.notify_all();
    }

    /// Turns it to `Opening` or `Closing`, until what this gives is told how it ended. Gives the state before, too.
    fn begin<'a>(&'a self, mut state: MutexGuard<'a, State<T>>, transition: State<T>) -> (Transition<'a, T>, State<T>) {
        (Transition { slot: self }, std::mem::replace(&mut *state, transition))
    }
}

/// A slot is about to change, and others wait for it. However it ends, by a panic too, nobody waits for ever.
#[derive(Debug)]
struct Transition<'a, T> {
    slot: &'a Slot<T>,
}

impl<T> Transition<'_, T> {
    fn end(self, state: State<T>) {
        self.slot.settle(state);
        // From here on, what is `Opening` or `Closing` is another's.
        std::mem::forget(self);
    }
}

impl<T> Drop for Transition<'_, T> {
    fn drop(&mut self) {
        let error = Error::Closed("opening or closing this index failed by a bug; restart the server".into());
        self.slot.settle(State::Refused(error));
    }
}
