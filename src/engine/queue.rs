//! Who commits: writers wait in one line, and the first of them leads for a whole group.
//!
//! There is no thread for it. Who finds no leader becomes one; the others sleep, each on a *seat* of its own, until they have their answer, or
//! until they are made the next leader. Whoever leads takes the requests at the head of the line, does them, and hands on the lead before it gives
//! the answers. `tests/schedules/` runs this file under a scheduler: everybody is answered once, in groups that keep the order, and there is one
//! leader at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex};

/// Requests `R` that wait for a leader, and the way in which answers `A` come back.
#[derive(Debug)]
pub(super) struct Queue<R, A> {
    line: Mutex<Line<R, A>>,
}

#[derive(Debug)]
struct Line<R, A> {
    waiting: VecDeque<(R, Arc<Seat<A>>)>,
    /// Somebody commits, or was told to.
    has_leader: bool,
    /// Requests in the last group: as many writers may be about to come back.
    last_group: usize,
}

/// Where a writer sleeps.
#[derive(Debug)]
struct Seat<A> {
    call: Mutex<Option<Call<A>>>,
    called: Condvar,
}

#[derive(Debug)]
enum Call<A> {
    Lead,
    Done(A),
}

impl<R, A> Queue<R, A> {
    pub(super) fn new() -> Self {
        Self { line: Mutex::new(Line { waiting: VecDeque::new(), has_leader: false, last_group: 0 }) }
    }

    /// Requests in line, of which none is taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.line.lock().waiting.len()
    }

    /// Waits in line for the answer to a request. `lead` is called where the caller is to lead: it takes a [`Turn`]. `None`: as many wait already
    /// as may, and nothing was done.
    pub(super) fn ask(&self, request: R, waiting_max: usize, lead: impl FnOnce()) -> Option<A> {
        let seat = Arc::new(Seat { call: Mutex::new(None), called: Condvar::new() });
        {
            let mut line = self.line.lock();
            if line.waiting.len() >= waiting_max {
                return None;
            }
            line.waiting.push_back((request, Arc::clone(&seat)));
            if std::mem::replace(&mut line.has_leader, true) {
                drop(line);
                if let Call::Done(answer) = seat.wait() {
                    return Some(answer);
                }
            }
        }
        lead();
        match seat.wait() {
            Call::Done(answer) => Some(answer),
            Call::Lead => unreachable!("a leader's own request is in its group: it is the first that waits"),
        }
    }

    /// The requests at the head of the line, as many as `fits` says yes to in their order, and one at least. For the leader. Where fewer wait than
    /// were in the last group, it first waits for more, while `is_patient`. `lost` is the answer of all, should the turn end without one.
    pub(super) fn take<L: FnOnce() -> A>(
        &self,
        mut is_patient: impl FnMut() -> bool,
        mut fits: impl FnMut(&R) -> bool,
        lost: L,
    ) -> Turn<'_, R, A, L>
    where
        A: Clone,
    {
        let mut line = self.line.lock();
        let expected = line.last_group;
        while line.waiting.len() < expected {
            drop(line);
            let goes_on = is_patient();
            line = self.line.lock();
            if !goes_on {
                break;
            }
        }
        let (mut requests, mut seats) = (Vec::new(), Vec::new());
        while let Some((request, _)) = line.waiting.front() {
            if !fits(request) && !requests.is_empty() {
                break;
            }
            let Some((request, seat)) = line.waiting.pop_front() else { break };
            requests.push(request);
            seats.push(seat);
        }
        line.last_group = requests.len();
        Turn { queue: self, requests, seats, lost: Some(lost) }
    }

    /// The next in line leads, if there is one.
    fn hand_on(&self) {
        let mut line = self.line.lock();
        match line.waiting.front() {
            Some((_, seat)) => seat.call(Call::Lead),
            None => line.has_leader = false,
        }
    }
}

impl<A> Seat<A> {
    fn call(&self, call: Call<A>) {
        *self.call.lock() = Some(call);
        self.called.notify_one();
    }

    fn wait(&self) -> Call<A> {
        let mut call = self.call.lock();
        loop {
            match call.take() {
                Some(call) => return call,
                None => self.called.wait(&mut call),
            }
        }
    }
}

/// A leader's turn. However it ends, by a panic too, everybody of the group is answered, and the lead is handed on.
#[derive(Debug)]
pub(super) struct Turn<'a, R, A: Clone, L: FnOnce() -> A> {
    queue: &'a Queue<R, A>,
    pub(super) requests: Vec<R>,
    /// Whose requests they are; empty once they are answered.
    seats: Vec<Arc<Seat<A>>>,
    lost: Option<L>,
}

impl<R, A: Clone, L: FnOnce() -> A> Turn<'_, R, A, L> {
    /// Ends it with an answer for each request.
    pub(super) fn answer(mut self, answers: Vec<A>) {
        debug_assert_eq!(answers.len(), self.seats.len());
        let seats = std::mem::take(&mut self.seats);
        // The next leader first: it can begin while the others are still being woken.
        drop(self);
        for (seat, answer) in seats.iter().zip(answers) {
            seat.call(Call::Done(answer));
        }
    }
}

impl<R, A: Clone, L: FnOnce() -> A> Drop for Turn<'_, R, A, L> {
    fn drop(&mut self) {
        if !self.seats.is_empty()
            && let Some(lost) = self.lost.take()
        {
            // Before anybody else leads: it may be that nobody may go on.
            let answer = lost();
            for seat in &self.seats {
                seat.call(Call::Done(answer.clone()));
            }
        }
        self.queue.hand_on();
    }
}
