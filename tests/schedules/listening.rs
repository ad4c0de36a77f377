//! The listeners: nobody sleeps through a change, or through the end.

use std::sync::Arc;
use std::task::{Wake, Waker};

use faiss_proxy::{Error, What};
use shuttle::sync::atomic::{AtomicU64, Ordering::SeqCst};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use super::listeners::Listeners;
use super::{assert_caught, explore};

const LISTENERS: usize = 2;
const CHANGES: u64 = 3;

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Sound,
    /// A mutant: a listener looks at the state before it registers, and not after.
    LooksFirst,
    /// A mutant: a committer wakes before it publishes.
    WakesFirst,
}

/// Where a listener sleeps.
#[derive(Default)]
struct Bed {
    is_woken: Mutex<bool>,
    woken: Condvar,
}

impl Bed {
    fn sleep(&self) {
        let mut is_woken = self.is_woken.lock().unwrap();
        while !std::mem::take(&mut *is_woken) {
            is_woken = self.woken.wait(is_woken).unwrap();
        }
    }
}

impl Wake for Bed {
    fn wake(self: Arc<Self>) {
        *self.is_woken.lock().unwrap() = true;
        self.woken.notify_one();
    }
}

/// Follows until the end; gives what it saw last.
fn follow(listeners: &Listeners, state: &AtomicU64, order: Order) -> u64 {
    let (key, bed, mut seen) = (listeners.key(), Arc::new(Bed::default()), 0);
    let waker = Waker::from(Arc::clone(&bed));
    loop {
        let before = state.load(SeqCst);
        if listeners.register(key, &waker).is_err() {
            return state.load(SeqCst);
        }
        let now = if order == Order::LooksFirst { before } else { state.load(SeqCst) };
        if now == seen {
            bed.sleep();
        }
        // As in the feed: what is awaited at last is a certain change.
        seen = now;
        if seen == CHANGES {
            listeners.forget(key);
            return seen;
        }
    }
}

fn listening(order: Order, closes: bool) {
    let (listeners, state) = (Arc::new(Listeners::new()), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..LISTENERS)
        .map(|_| {
            let (listeners, state) = (Arc::clone(&listeners), Arc::clone(&state));
            thread::spawn(move || follow(&listeners, &state, order))
        })
        .collect();
    for change in 1..=CHANGES {
        if closes && change == CHANGES {
            listeners.close(Error::NotFound(What::Index));
            break;
        }
        if order == Order::WakesFirst {
            listeners.wake();
            state.store(change, SeqCst);
        } else {
            state.store(change, SeqCst);
            listeners.wake();
        }
    }
    let last = if closes { CHANGES - 1 } else { CHANGES };
    for thread in threads {
        assert_eq!(thread.join().unwrap(), last);
    }
    assert_eq!(listeners.closed().is_some(), closes);
}

#[test]
fn whoever_waits_is_woken_by_the_last_change_and_by_the_end() {
    explore("listening", || listening(Order::Sound, false));
    explore("listening to the end", || listening(Order::Sound, true));
}

#[test]
fn a_listener_that_looks_too_early_and_a_committer_that_wakes_too_early_are_caught() {
    assert_caught("looks first", || listening(Order::LooksFirst, false));
    assert_caught("wakes first", || listening(Order::WakesFirst, false));
}
