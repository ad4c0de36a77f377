//! Who may work now, who waits, and who is turned away: every queue has a limit, and tenants take turns in it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts, IntCounter, Opts, Registry};
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use tracing::Instrument as _;
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

/// A bounded queue in front of the blocking threads, in which tenants take turns: who sends a thousand calls at one time makes others wait for one of them, and
/// not for all.
///
/// The store blocks on disks and on other writers, and a search keeps a core busy: neither may happen on the threads that serve
/// sockets.
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
    /// Dropped, it turns away who waits with it.
    call: oneshot::Sender<Slot>,
}

/// Held by a call while it runs; the next one's turn comes when it is dropped.
#[derive(Debug)]
struct Slot {
    lines: Arc<Mutex<Lines>>,
    began: Instant,
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

    /// Runs `work` on a blocking thread when its turn comes.
    ///
    /// Whoever waits may go away (the future is dropped): before the turn, nothing happens; after it, `work` runs to its end and
    /// holds its slot until then.
    ///
    /// # Errors
    /// 429 where the queue is full or too slow; 504 where the deadline came before the turn; else what `work` returns.
    pub async fn run<T, F>(&self, turn: Turn, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Problem> + Send + 'static,
    {
        let came = Instant::now();
        let slot = self.slot(&turn).instrument(tracing::info_span!(target: STAGES, "queue")).await?;
        self.wait.observe(came.elapsed().as_secs_f64());
        let span = tracing::info_span!(target: STAGES, "work").or_current();
        let call = tokio::task::spawn_blocking(move || {
            let _held = slot;
            span.in_scope(work)
        });
        match call.await {
            Ok(result) => result,
            Err(error) => Err(Problem::internal(&error)),
        }
    }

    async fn slot(&self, turn: &Turn) -> Result<Slot, Problem> {
        let too_late = || {
            let detail = "its turn did not come within X-Request-Timeout; nothing was done";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", detail)
        };
        if turn.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(too_late());
        }
        let (call, mut called) = oneshot::channel();
        let _waiting = {
            let mut lines = self.lines.lock();
            if lines.running < self.running_max {
                lines.running += 1;
                return Ok(Slot::new(&self.lines));
            }
            let number = self.enter(&mut lines, &turn.tenant, call)?;
            Waiting { lines: &self.lines, tenant: &turn.tenant, number }
        };
        let called = match turn.deadline {
            Some(deadline) => timeout_at(deadline.into(), &mut called).await.map_err(|_| too_late())?,
            None => called.await,
        };
        called.map_err(|_| self.turn_away(1))
    }

    /// Puts a call at the end of its tenant's line. In a full queue it takes the place of the newest call of the longest line, if its own is shorter.
    fn enter(&self, lines: &mut Lines, tenant: &TenantId, call: oneshot::Sender<Slot>) -> Result<u64, Problem> {
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
        lines.of.entry(tenant.clone()).or_default().push_back(Ticket { number: lines.tickets, call });
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
    fn next(&mut self) -> Option<oneshot::Sender<Slot>> {
        let tenant = self.turns.pop_front()?;
        let line = self.of.get_mut(&tenant)?;
        let ticket = line.pop_front();
        if line.is_empty() {
            self.of.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        self.waiting -= 1;
        ticket.map(|ticket| ticket.call)
    }

    fn leave(&mut self, tenant: &TenantId, number: u64) {
        let Some(line) = self.of.get_mut(tenant) else { return };
        let Some(at) = line.iter().position(|ticket| ticket.number == number) else { return };
        line.remove(at);
        self.waiting -= 1;
        if line.is_empty() {
            self.of.remove(tenant);
            self.turns.retain(|other| other != tenant);
        }
    }
}

impl Slot {
    fn new(lines: &Arc<Mutex<Lines>>) -> Self {
        Self { lines: Arc::clone(lines), began: Instant::now() }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let next = {
            let mut lines = self.lines.lock();
            lines.call_seconds += NEWEST_SHARE * (self.began.elapsed().as_secs_f64() - lines.call_seconds);
            let next = lines.next();
            if next.is_none() {
                lines.running -= 1;
            }
            next
        };
        // Outside the lock: where nobody waits for it any more, the slot that comes back is dropped, and it is the next one's turn.
        if let Some(next) = next {
            drop(next.send(Self::new(&self.lines)));
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.lines.lock().leave(self.tenant, self.number);
    }
}

#[cfg(test)]
mod tests;
