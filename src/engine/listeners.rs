//! Who waits for the next change of an index, without a thread: wakers, called after each commit.
//!
//! Who waits registers first and looks at the state afterwards; who commits publishes the state first and looks for wakers afterwards. Both pass through one
//! lock, so one of the two sees the other. Where nobody waits, a commit pays for that lock and nothing else. `tests/schedules/` runs this file under a
//! scheduler.

use std::task::Waker;

use crate::error::{Error, Result};
use crate::sync::Mutex;

#[derive(Debug)]
pub(super) struct Listeners {
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    next_key: u64,
    /// At most one of each listener.
    waiting: Vec<(u64, Waker)>,
    /// Why there will be no more changes.
    closed: Option<Error>,
}

impl Line {
    /// Wakers are called and dropped without the lock: to drop one may be to drop the task that listens.
    fn take(&mut self, key: u64) -> Option<Waker> {
        let at = self.waiting.iter().position(|(known, _)| *known == key)?;
        Some(self.waiting.swap_remove(at).1)
    }
}

impl Listeners {
    pub(super) fn new() -> Self {
        Self { line: Mutex::new(Line { next_key: 0, waiting: Vec::new(), closed: None }) }
    }

    /// A key for one who is going to wait.
    pub(super) fn key(&self) -> u64 {
        let mut line = self.line.lock();
        line.next_key += 1;
        line.next_key
    }

    /// Has `waker` called at the next change, or at the end, in the place of the one that was registered under this key. Look at the state *after* this.
    ///
    /// # Errors
    /// Why there will be no more changes.
    pub(super) fn register(&self, key: u64, waker: &Waker) -> Result<()> {
        let mut line = self.line.lock();
        if let Some(error) = &line.closed {
            return Err(error.clone());
        }
        let before = line.take(key);
        line.waiting.push((key, waker.clone()));
        drop(line);
        drop(before);
        Ok(())
    }

    pub(super) fn forget(&self, key: u64) {
        let waker = self.line.lock().take(key);
        drop(waker);
    }

    /// Calls and forgets the wakers. For who has published a change.
    pub(super) fn wake(&self) {
        let waiting = std::mem::take(&mut self.line.lock().waiting);
        waiting.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Tells everybody, now and later, that there will be no more changes.
    pub(super) fn close(&self, error: Error) {
        self.line.lock().closed.get_or_insert(error);
        self.wake();
    }

    pub(super) fn closed(&self) -> Option<Error> {
        self.line.lock().closed.clone()
    }
}
