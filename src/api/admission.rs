//! Who may work now, who waits, and who is turned away: every queue has a limit, and tenants take turns in it.

use std::collections::{HashMap, VecDeque};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts, IntCounter, Opts, Registry};
use tokio::sync::oneshot;
use tokio::task::{block_in_place, yield_now};
use tokio::time::timeout_at;
use warp::http::StatusCode;

use super::listen::STAGES;
use super::reply::Problem;
use crate::engine::SHORT;
use crate::types::TenantId;

/// How much the newest call counts in what a call is expected to take.
const NEWEST_SHARE: f64 = 0.1;

/// For whom a call waits, and until when.
#[derive(Clone, Debug)]
pub struct Turn {
    pub tenant: TenantId,
    /// After it, a call that has not begun is not begun; `None`: it waits for its turn.
    pub deadline: Option<Instant>,
}

/// A bounded queue in front of what blocks, in which tenants take turns: who sends a thousand calls at one time makes others wait for one of them, and
/// not for all.
///
/// It gives turns: a call is done by the task that serves its connection, which nothing has to be handed to or back from. Work that blocks on disks or on
/// other writers, or that keeps a core busy for long, is done in [`block_in_place`], where another thread serves the sockets meanwhile.
#[derive(Debug)]
pub struct Queue {
    /// What the calls are, as the metrics have it.
    name: &'static str,
    /// Said to whom is turned away.
    full: String,
    running_max: usize,
    waiting_max: usize,
    /// Who would wait for longer is turned away at once.
    wait_max: Duration,
    lines: Arc<Mutex<Lines>>,
    /// Seconds that calls waited for their turn.
    wait: Histogram,
    turned_away: IntCounter,
}

/// Those that run, and those that wait. Nobody waits while fewer run than may.
#[derive(Debug, Default)]
struct Lines {
    running: usize,
    waiting: usize,
    tickets: u64,
    /// Tenants that have somebody waiting, in the order of their turns.
    turns: VecDeque<TenantId>,
    of: HashMap<TenantId, VecDeque<Ticket>>,
    /// Seconds that a call takes, lately.
    call_seconds: f64,
}

#[derive(Debug)]
struct Ticket {
    number: u64,
    /// Dropped, it turns away who waits for it.
    tell: oneshot::Sender<Place>,
}

/// A place among the calls that run. Dropped, it is that of the call whose turn it is then.
#[derive(Debug)]
pub struct Place {
    /// `None`: it is none any more.
    lines: Option<Arc<Mutex<Lines>>>,
    began: Instant,
    /// Nobody else ran or waited.
    is_alone: bool,
}

impl Place {
    /// Lets whoever has come meanwhile into the lines: else sockets would be left unread from one call that is done on its connection's thread to the next. Where
    /// nobody else has a call, that would only wake other threads.
    pub async fn let_others_in(&self) {
        if !self.is_alone {
            yield_now().await;
        }
    }

    /// Does a call in it.
    ///
    /// # Errors
    /// What `work` returns; 500 where it panics.
    pub fn work<T>(self, work: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
        let span = tracing::info_span!(target: STAGES, "work");
        span.in_scope(|| {
            let done = panic::catch_unwind(AssertUnwindSafe(work));
            done.unwrap_or_else(|_| Err(Problem::internal(&"a call panicked")))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(shared) = self.lines.take() else { return };
        let now = Instant::now();
        let mut lines = shared.lock();
        lines.call_seconds += NEWEST_SHARE * ((now - self.began).as_secs_f64() - lines.call_seconds);
        while let Some(ticket) = lines.next() {
            drop(lines);
            let place = Self { lines: Some(Arc::clone(&shared)), began: now, is_alone: false };
            // Who went away a moment ago does not take it.
            let Err(mut place) = ticket.tell.send(place) else { return };
            place.lines = None;
            lines = shared.lock();
        }
        lines.running -= 1;
    }
}

/// Does what may take long where another thread serves the sockets meanwhile.
pub fn block_if<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    if is_long { block_in_place(work) } else { work() }
}

/// A call in its line, which it leaves when it is dropped.
struct Waiting<'a> {
    lines: &'a Mutex<Lines>,
    tenant: &'a TenantId,
    number: u64,
}

impl Queue {
    pub fn new(name: &'static str, running_max: usize, waiting_max: usize, wait_max: Duration) -> Self {
        let options = HistogramOpts::new("faiss_proxy_queue_wait_seconds", "Time that calls waited for their turn.");
        let wait = Histogram::with_opts(options.buckets(SHORT.to_vec()).const_label("queue", name));
        let options = Opts::new("faiss_proxy_turned_away_total", "Calls that were turned away because a queue was full or slow.");
        let turned_away = IntCounter::with_opts(options.const_label("queue", name));
        Self {
            name,
            full: format!("too many {name} wait already"),
            running_max,
            waiting_max,
            wait_max,
            lines: Arc::default(),
            wait: wait.expect("the names are words and the buckets rise"),
            turned_away: turned_away.expect("the names are words"),
        }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Calls that run and calls that wait, now.
    pub fn load(&self) -> (usize, usize) {
        let lines = self.lines.lock();
        (lines.running, lines.waiting)
    }

    /// Shows what is counted of the calls to a registry.
    ///
    /// # Errors
    /// Where the registry has a queue of this name already.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.wait.clone()))?;
        registry.register(Box::new(self.turned_away.clone()))
    }

    /// Counts a call that waited, and was done with another's turn.
    pub fn has_waited(&self, time: Duration) {
        self.wait.observe(time.as_secs_f64());
    }

    /// Runs `work`, which may block, when its turn comes.
    ///
    /// Whoever waits may go away (the future is dropped): before the turn, nothing happens; after it, `work` runs to its end.
    ///
    /// # Errors
    /// Those of [`place`](Self::place) and of [`Place::work`].
    pub async fn run<T>(&self, turn: Turn, work: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
        let place = self.place(&turn).await?;
        block_in_place(|| place.work(work))
    }

    /// The same for work that is over before it could be handed to another thread, but for what it does in [`block_in_place`].
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_briefly<T>(&self, turn: &Turn, work: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
        let place = self.place(turn).await?;
        place.let_others_in().await;
        place.work(work)
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// 429 where the queue is full or too slow; 504 where the deadline came before the turn.
    pub async fn place(&self, turn: &Turn) -> Result<Place, Problem> {
        let too_late = || {
            let detail = "its turn did not come within X-Request-Timeout; nothing was done";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", detail)
        };
        let came = Instant::now();
        if turn.deadline.is_some_and(|deadline| deadline <= came) {
            return Err(too_late());
        }
        let _waits = tracing::info_span!(target: STAGES, "queue");
        let (number, mut told) = {
            let mut lines = self.lines.lock();
            if lines.running < self.running_max {
                let is_alone = lines.running == 0;
                lines.running += 1;
                self.wait.observe(0.0);
                return Ok(Place { lines: Some(Arc::clone(&self.lines)), began: came, is_alone });
            }
            let (tell, told) = oneshot::channel();
            (self.enter(&mut lines, &turn.tenant, tell)?, told)
        };
        let waiting = Waiting { lines: &self.lines, tenant: &turn.tenant, number };
        let told = match turn.deadline {
            None => told.await,
            Some(deadline) => match timeout_at(deadline.into(), &mut told).await {
                Ok(told) => told,
                Err(_) if waiting.leave() => return Err(too_late()),
                // It has its place.
                Err(_) => told.await,
            },
        };
        // Whoever is told is no longer in the line.
        std::mem::forget(waiting);
        let mut place = told.map_err(|_| self.turn_away(1))?;
        place.began = Instant::now();
        self.wait.observe((place.began - came).as_secs_f64());
        Ok(place)
    }

    /// Puts a call at the end of its tenant's line. In a full queue it takes the place of the newest call of the longest line, if its own is shorter.
    fn enter(&self, lines: &mut Lines, tenant: &TenantId, tell: oneshot::Sender<Place>) -> Result<u64, Problem> {
        let own = lines.of.get(tenant).map_or(0, VecDeque::len);
        let tenants = lines.turns.len() + usize::from(own == 0);
        let before = lines.waiting.min(own * tenants + tenants - 1);
        let wait = lines.call_seconds * (before + 1) as f64 / self.running_max.max(1) as f64;
        if wait > self.wait_max.as_secs_f64() {
            return Err(self.turn_away(wait.ceil() as u64));
        }
        if lines.waiting >= self.waiting_max {
            let longest = lines.of.values_mut().max_by_key(|line| line.len()).filter(|line| line.len() > own + 1);
            longest.and_then(VecDeque::pop_back).ok_or_else(|| self.turn_away(1))?;
            lines.waiting -= 1;
        }
        lines.tickets += 1;
        lines.waiting += 1;
        if own == 0 {
            lines.turns.push_back(tenant.clone());
        }
        lines.of.entry(tenant.clone()).or_default().push_back(Ticket { number: lines.tickets, tell });
        Ok(lines.tickets)
    }

    /// What a call is told that had better come again after so many seconds.
    fn turn_away(&self, seconds: u64) -> Problem {
        self.turned_away.inc();
        Problem::busy_for(&self.full, seconds)
    }
}

impl Lines {
    /// Whose turn it is, of those that wait.
    fn next(&mut self) -> Option<Ticket> {
        let tenant = self.turns.pop_front()?;
        let line = self.of.get_mut(&tenant)?;
        let ticket = line.pop_front();
        if line.is_empty() {
            self.of.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        self.waiting -= 1;
        ticket
    }

    /// Whether it was in the line.
    fn leave(&mut self, tenant: &TenantId, number: u64) -> bool {
        let Some(line) = self.of.get_mut(tenant) else { return false };
        let Some(at) = line.iter().position(|ticket| ticket.number == number) else { return false };
        line.remove(at);
        self.waiting -= 1;
        if line.is_empty() {
            self.of.remove(tenant);
            self.turns.retain(|other| other != tenant);
        }
        true
    }
}

impl Waiting<'_> {
    fn leave(&self) -> bool {
        self.lines.lock().leave(self.tenant, self.number)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests;
