//! Publishing: Views, the ids that belong to them, and dead sets that Views share with the writer.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use super::positions::{PAGE_ROWS, Positions};
use super::published::Published;
use super::{assert_caught, explore};

const MUTATIONS: u64 = 4;

#[derive(Clone, Copy, PartialEq)]
enum Writer {
    Sound,
    /// A mutant: lets go of the ids before the View is there.
    PublishesLate,
    /// A mutant: its Views have the set that it goes on changing.
    SharesTheSet,
}

struct View {
    lsn: u64,
    dead: Dead,
}

enum Dead {
    Cloned(Positions),
    Shared(Arc<Mutex<Positions>>),
}

impl View {
    fn dead(&self) -> Vec<usize> {
        match &self.dead {
            Dead::Cloned(dead) => dead.iter().collect(),
            Dead::Shared(dead) => dead.lock().unwrap().iter().collect(),
        }
    }

    /// What died up to this state, twice: others go on between.
    fn check(&self) {
        let expected: Vec<usize> = (1..=self.lsn).map(position).collect();
        assert_eq!(self.dead(), expected, "another state's dead rows");
        thread::yield_now();
        assert_eq!(self.dead(), expected, "a View has changed");
    }
}

/// Of what dies by this mutation: two in each page.
fn position(lsn: u64) -> usize {
    lsn as usize * PAGE_ROWS / 2
}

/// What the writer's lock guards.
struct State {
    lsn: u64,
    dead: Positions,
    shared: Arc<Mutex<Positions>>,
}

impl State {
    fn view(&self, writer: Writer) -> Arc<View> {
        let dead = match writer {
            Writer::SharesTheSet => Dead::Shared(Arc::clone(&self.shared)),
            _ => Dead::Cloned(self.dead.clone()),
        };
        Arc::new(View { lsn: self.lsn, dead })
    }
}

fn readers(writer: Writer) {
    let state = State { lsn: 0, dead: Positions::default(), shared: Arc::default() };
    // The ids are as many as there were mutations.
    let published = Arc::new(Published::new(state.view(writer), 0_u64));
    let state = Arc::new(Mutex::new(state));
    let mutations = {
        let (published, state) = (Arc::clone(&published), Arc::clone(&state));
        thread::spawn(move || {
            for _ in 0..MUTATIONS {
                let mut state = state.lock().unwrap();
                let before = published.view.load_full();
                published.change(|ids| {
                    *ids += 1;
                    state.lsn += 1;
                    let dead = position(state.lsn);
                    assert!(state.dead.insert(dead));
                    state.shared.lock().unwrap().insert(dead);
                    (if writer == Writer::PublishesLate { before } else { state.view(writer) }, ())
                });
                if writer == Writer::PublishesLate {
                    published.exchange(state.view(writer));
                }
            }
        })
    };
    let exchanges = {
        let (published, state) = (Arc::clone(&published), Arc::clone(&state));
        thread::spawn(move || {
            for _ in 0..2 {
                let state = state.lock().unwrap();
                published.exchange(state.view(writer));
            }
        })
    };
    let looks = {
        let published = Arc::clone(&published);
        thread::spawn(move || {
            for _ in 0..2 {
                let (view, ids) = published.look_up(|&ids, view| {
                    assert_eq!(ids, view.lsn, "ids of one state with the View of another");
                    ids
                });
                assert_eq!(view.lsn, ids);
                view.check();
            }
        })
    };
    let mut newest = 0;
    for _ in 0..3 {
        let view = published.view.load_full();
        assert!(view.lsn >= newest, "from {newest} back to {}", view.lsn);
        newest = view.lsn;
        view.check();
    }
    [mutations, exchanges, looks].into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(published.view.load_full().lsn, MUTATIONS);
}

#[test]
fn a_view_never_changes_and_its_ids_are_of_the_same_state() {
    explore("views", || readers(Writer::Sound));
}

#[test]
fn a_view_that_is_published_late_or_shares_its_dead_rows_is_caught() {
    assert_caught("published late", || readers(Writer::PublishesLate));
    assert_caught("shares the set", || readers(Writer::SharesTheSet));
}
