//! The commit queue: writers who lead for each other.

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::sync::atomic::{AtomicBool, Ordering::SeqCst};
use shuttle::thread;

use super::queue::Queue;
use super::{assert_caught, explore};

const WRITERS: usize = 3;
const REQUESTS: usize = 2;
const GROUP_MAX: usize = 2;

/// Who wants it, and their how-manieth request it is.
type Request = (usize, usize);

/// What was committed, in order; or the leader was lost.
type Answer = Result<Request, ()>;

#[derive(Clone, Copy, PartialEq)]
enum Leader {
    Sound,
    /// One of them ends without an answer, as by a panic.
    Lost,
    /// A mutant: does not hand on the lead.
    KeepsTheLead,
    /// A mutant: hands it on, and goes on committing.
    HandsItOnEarly,
}

struct Index {
    queue: Queue<Request, Answer>,
    leader: Leader,
    is_committing: AtomicBool,
    is_poisoned: AtomicBool,
    committed: Mutex<Vec<Request>>,
}

impl Index {
    fn new(leader: Leader) -> Arc<Self> {
        let (is_committing, is_poisoned) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { queue: Queue::new(), leader, is_committing, is_poisoned, committed: Mutex::new(Vec::new()) })
    }

    fn commit(&self, request: Request, waiting_max: usize) -> Option<Answer> {
        self.queue.ask(request, waiting_max, || self.lead(request))
    }

    fn lead(&self, own: Request) {
        let mut tries = 2;
        let is_patient = || {
            thread::yield_now();
            tries -= 1;
            tries > 0
        };
        let mut requests = 0;
        let fits = |_: &Request| {
            requests += 1;
            requests <= GROUP_MAX
        };
        let turn = self.queue.take(is_patient, fits, || {
            self.is_poisoned.store(true, SeqCst);
            Err(())
        });
        assert_eq!(turn.requests[0], own, "who leads is the first in line");
        assert!(turn.requests.len() <= GROUP_MAX);
        let is_early = self.leader == Leader::HandsItOnEarly;
        assert!(!self.is_committing.swap(true, SeqCst), "two leaders at once");
        if self.leader == Leader::Lost && own == (0, 1) {
            self.is_committing.store(false, SeqCst);
            return;
        }
        let answers: Vec<Answer> = if self.is_poisoned.load(SeqCst) {
            turn.requests.iter().map(|_| Err(())).collect()
        } else {
            self.committed.lock().unwrap().extend(&turn.requests);
            turn.requests.iter().map(|&request| Ok(request)).collect()
        };
        if !is_early {
            self.is_committing.store(false, SeqCst);
        }
        match self.leader {
            Leader::KeepsTheLead => std::mem::forget(turn),
            _ => turn.answer(answers),
        }
        if is_early {
            self.is_committing.store(false, SeqCst);
        }
    }
}

fn writers(leader: Leader) {
    let index = Index::new(leader);
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let index = Arc::clone(&index);
            thread::spawn(move || {
                let answers = (0..REQUESTS).map(|n| ((writer, n), index.commit((writer, n), WRITERS).expect("there is room")));
                let answered: Vec<(Request, Answer)> = answers.collect();
                assert!(answered.iter().all(|&(request, answer)| answer.is_err() || answer == Ok(request)), "another's answer");
                answered.iter().filter(|(_, answer)| answer.is_ok()).count()
            })
        })
        .collect();
    let acknowledged: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let mut committed = index.committed.lock().unwrap().clone();
    assert_eq!(committed.len(), acknowledged, "what was committed was acknowledged, and nothing else");
    assert!(leader != Leader::Sound || committed.len() == WRITERS * REQUESTS, "all were committed");
    assert!(leader == Leader::Lost || committed.len() == WRITERS * REQUESTS);
    committed.sort_unstable();
    committed.dedup();
    assert_eq!(committed.len(), acknowledged, "each once");
    // Nobody is left in line, or who has the lead and sleeps: who comes now leads.
    assert_eq!(index.queue.waiting(), 0);
    assert!(index.commit((WRITERS, 0), 1).is_some());
}

#[test]
fn every_writer_is_answered_once_and_the_lead_is_always_handed_on() {
    explore("commits", || writers(Leader::Sound));
}

#[test]
fn a_lost_leader_leaves_nobody_asleep_and_nobody_commits_after_it() {
    explore("commits with a lost leader", || writers(Leader::Lost));
}

#[test]
fn a_full_line_refuses_and_the_others_go_on() {
    explore("commits in a short line", || {
        let index = Index::new(Leader::Sound);
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let index = Arc::clone(&index);
                thread::spawn(move || index.commit((writer, 0), 1).is_some())
            })
            .collect();
        let acknowledged = threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&is| is).count();
        assert!(acknowledged > 0, "the first in line was refused");
        assert_eq!(index.committed.lock().unwrap().len(), acknowledged);
        assert!(index.commit((WRITERS, 0), 1).is_some());
    });
}

#[test]
fn a_leader_that_keeps_the_lead_or_hands_it_on_early_is_caught() {
    assert_caught("keeps the lead", || writers(Leader::KeepsTheLead));
    assert_caught("hands it on early", || writers(Leader::HandsItOnEarly));
}
