//! Slots: an index that is opened at its first use, and closed when nobody has it.

use std::sync::Arc;

use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use shuttle::thread;

use super::error::Error;
use super::slot::{Slot, State};
use super::{assert_caught, explore};

/// What there must never be two of.
struct Instance {
    alive: Arc<AtomicUsize>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, SeqCst);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Closer {
    Sound,
    /// Cannot end it, and gives it back.
    GivesBack,
    /// A mutant: says that it is gone, and somebody still has it.
    Keeps,
}

struct Index {
    slot: Slot<Instance>,
    alive: Arc<AtomicUsize>,
    openings: AtomicUsize,
    store_closes: AtomicBool,
    /// From here on, nothing may be opened.
    store_is_closed: AtomicBool,
}

impl Index {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            slot: Slot::new(State::Dormant),
            alive: Arc::default(),
            openings: AtomicUsize::new(0),
            store_closes: AtomicBool::new(false),
            store_is_closed: AtomicBool::new(false),
        })
    }

    /// Every second opening fails in a way that may pass.
    fn open(&self) -> Result<Arc<Instance>, Error> {
        let may_make = || if self.store_closes.load(SeqCst) { Err(Error::Closed("the store is closed".into())) } else { Ok(()) };
        let make = || {
            assert!(!self.store_is_closed.load(SeqCst), "opened after the store was closed");
            assert_eq!(self.alive.fetch_add(1, SeqCst), 0, "two instances of one index");
            let instance = Instance { alive: Arc::clone(&self.alive) };
            thread::yield_now();
            match self.openings.fetch_add(1, SeqCst) % 2 {
                0 => Err(Error::Busy("try again")),
                _ => Ok(Arc::new(instance)),
            }
        };
        self.slot.open(may_make, make, |error| matches!(error, Error::Busy(_))).map(|(instance, _)| instance)
    }

    fn close_idle(&self, closer: Closer) {
        let end = |instance| {
            match closer {
                Closer::Sound => drop(instance),
                Closer::GivesBack => return Err(Arc::new(instance)),
                Closer::Keeps => std::mem::forget(instance),
            }
            Ok(())
        };
        self.slot.close_idle(|instance| instance.alive.load(SeqCst) == 1, end);
    }
}

fn users(closer: Closer) {
    let index = Index::new();
    let users = (0..2).map(|_| {
        let index = Arc::clone(&index);
        thread::spawn(move || {
            for _ in 0..2 {
                match index.open() {
                    Ok(instance) => assert_eq!(instance.alive.load(SeqCst), 1),
                    Err(Error::Busy(_)) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        })
    });
    let mut threads: Vec<_> = users.collect();
    let closing = Arc::clone(&index);
    threads.push(thread::spawn(move || (0..2).for_each(|_| closing.close_idle(closer))));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let is_open = index.slot.settled().open().is_some();
    assert_eq!(index.alive.load(SeqCst), usize::from(is_open), "an instance that no slot has");
}

#[test]
fn there_is_one_instance_of_an_index_whoever_opens_and_closes_it() {
    explore("openings", || users(Closer::Sound));
    explore("openings of one that cannot be closed", || users(Closer::GivesBack));
}

#[test]
fn who_waits_for_an_index_that_is_deleted_is_told_and_nobody_opens_it_again() {
    explore("deletes", || {
        let index = Index::new();
        let is_deleted = Arc::new(AtomicBool::new(false));
        let using = {
            let (index, is_deleted) = (Arc::clone(&index), Arc::clone(&is_deleted));
            thread::spawn(move || {
                for _ in 0..3 {
                    let was_deleted = is_deleted.load(SeqCst);
                    match index.open() {
                        Ok(_) => assert!(!was_deleted, "a deleted index serves"),
                        Err(Error::Busy(_)) => assert!(!was_deleted, "a deleted index is opened"),
                        Err(Error::NotFound(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
            })
        };
        let closing = {
            let index = Arc::clone(&index);
            thread::spawn(move || index.close_idle(Closer::Sound))
        };
        // A rename, which nobody may have an instance made beside.
        let deletes = |index: &Index| {
            index.slot.delete(|open| {
                let openings = index.openings.load(SeqCst);
                thread::yield_now();
                assert!(open.is_some() || index.alive.load(SeqCst) == 0);
                assert_eq!(index.openings.load(SeqCst), openings, "opened while it is deleted");
                Ok(())
            })
        };
        let other = {
            let index = Arc::clone(&index);
            thread::spawn(move || deletes(&index).is_ok())
        };
        let own = deletes(&index).is_ok();
        is_deleted.store(true, SeqCst);
        let deleted = [own, other.join().unwrap()];
        assert!(deleted.contains(&true));
        [using, closing].into_iter().for_each(|thread| thread.join().unwrap());
        assert!(matches!(*index.slot.settled(), State::Deleted));
        assert_eq!(index.alive.load(SeqCst), 0, "an instance that no slot has");
    });
}

#[test]
fn nothing_is_opened_once_the_store_is_closed() {
    explore("openings beside the closing of the store", || {
        let index = Index::new();
        let users: Vec<_> = (0..2)
            .map(|_| {
                let index = Arc::clone(&index);
                thread::spawn(move || drop(index.open().or_else(|_| index.open())))
            })
            .collect();
        index.store_closes.store(true, SeqCst);
        drop(index.slot.settled());
        index.store_is_closed.store(true, SeqCst);
        users.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_closer_that_keeps_the_instance_is_caught() {
    assert_caught("keeps the instance", || users(Closer::Keeps));
}
