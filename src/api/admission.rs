//! Who may work now, who waits, and who is turned away: every queue has a limit, and tenants take turns in it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts, IntCounter, Opts, Registry};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::time::timeout_at;
use tracing::Span;
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
/// The store blocks on disks and on other writers, and a search keeps a core busy: neither may happen on the threads that serve
/// sockets while nobody else does.
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

struct Ticket {
    number: u64,
    /// Dropped, it turns away who waits for it.
    job: Box<dyn Job>,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What is done for a call when its turn comes.
trait Job: Send {
    fn run(&mut self);
    /// Tells whoever waits for it, once the place is free or another's.
    fn answer(self: Box<Self>);
}

struct Call<T, F> {
    work: Option<F>,
    result: Option<Result<T, Problem>>,
    tell: oneshot::Sender<Result<T, Problem>>,
    came: Instant,
    wait: Histogram,
    /// The span of its wait, which ends when it begins, and the span that it came in.
    waiting: Option<Span>,
    parent: Span,
}

impl<T, F> Job for Call<T, F>
where
    T: Send,
    F: FnOnce() -> Result<T, Problem> + Send,
{
    fn run(&mut self) {
        self.wait.observe(self.came.elapsed().as_secs_f64());
        self.waiting = None;
        let Some(work) = self.work.take() else { return };
        let span = tracing::info_span!(target: STAGES, parent: &self.parent, "work");
        let span = if span.is_disabled() { &self.parent } else { &span };
        let done = panic::catch_unwind(AssertUnwindSafe(|| span.in_scope(work)));
        self.result = Some(done.unwrap_or_else(|_| Err(span.in_scope(|| Problem::internal(&"a call panicked")))));
    }

    fn answer(self: Box<Self>) {
        if let Some(result) = self.result {
            // Whoever waited may have gone away.
            let _ = self.tell.send(result);
        }
    }
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

    /// Runs `work` when its turn comes, where it may block.
    ///
    /// Whoever waits may go away (the future is dropped): before the turn, nothing happens; after it, `work` runs to its end and
    /// holds its place until then.
    ///
    /// # Errors
    /// 429 where the queue is full or too slow; 504 where the deadline came before the turn; else what `work` returns.
    pub async fn run<T, F>(&self, turn: Turn, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Problem> + Send + 'static,
    {
        let too_late = || {
            let detail = "its turn did not come within X-Request-Timeout; nothing was done";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", detail)
        };
        let came = Instant::now();
        if turn.deadline.is_some_and(|deadline| deadline <= came) {
            return Err(too_late());
        }
        let (tell, mut told) = oneshot::channel();
        let (waiting, parent) = (Some(tracing::info_span!(target: STAGES, "queue")), Span::current());
        let job = Box::new(Call { work: Some(work), result: None, tell, came, wait: self.wait.clone(), waiting, parent });
        let entered = {
            let mut lines = self.lines.lock();
            if lines.running < self.running_max {
                lines.running += 1;
                Err(job)
            } else {
                Ok(self.enter(&mut lines, &turn.tenant, job)?)
            }
        };
        let waiting = match entered {
            Ok(number) => Some(Waiting { lines: &self.lines, tenant: &turn.tenant, number }),
            Err(job) => {
                self.begin(job);
                None
            }
        };
        let told = match (turn.deadline, &waiting) {
            (Some(deadline), Some(place)) => match timeout_at(deadline.into(), &mut told).await {
                Ok(told) => told,
                Err(_) if place.leave() => return Err(too_late()),
                // It has begun.
                Err(_) => told.await,
            },
            _ => told.await,
        };
        // Of one that has begun there is a result.
        told.unwrap_or_else(|_| Err(self.turn_away(1)))
    }

    /// Does a job for which there was a place. On this thread, where the runtime has others to go on with: to wake one that sleeps, and to be woken by it, takes
    /// longer than many a search.
    fn begin(&self, mut job: Box<dyn Job>) {
        let lines = Arc::clone(&self.lines);
        if Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread {
            tokio::task::spawn_blocking(move || work_off(&lines, job));
            return;
        }
        let next = tokio::task::block_in_place(|| work(&lines, &mut *job));
        job.answer();
        if let Some(next) = next {
            tokio::task::spawn_blocking(move || work_off(&lines, next));
        }
    }

    /// Puts a call at the end of its tenant's line. In a full queue it takes the place of the newest call of the longest line, if its own is shorter.
    fn enter(&self, lines: &mut Lines, tenant: &TenantId, job: Box<dyn Job>) -> Result<u64, Problem> {
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
        lines.of.entry(tenant.clone()).or_default().push_back(Ticket { number: lines.tickets, job });
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
    fn next(&mut self) -> Option<Box<dyn Job>> {
        let tenant = self.turns.pop_front()?;
        let line = self.of.get_mut(&tenant)?;
        let ticket = line.pop_front();
        if line.is_empty() {
            self.of.remove(&tenant);
        } else {
            self.turns.push_back(tenant);
        }
        self.waiting -= 1;
        ticket.map(|ticket| ticket.job)
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

/// Does a job, and gives the one whose turn it is then. Where there is none, the place is free.
fn work(lines: &Mutex<Lines>, job: &mut dyn Job) -> Option<Box<dyn Job>> {
    let began = Instant::now();
    job.run();
    let mut lines = lines.lock();
    lines.call_seconds += NEWEST_SHARE * (began.elapsed().as_secs_f64() - lines.call_seconds);
    let next = lines.next();
    if next.is_none() {
        lines.running -= 1;
    }
    next
}

/// Does one job after the other, as long as there are some: this thread is awake.
fn work_off(lines: &Mutex<Lines>, job: Box<dyn Job>) {
    let mut next = Some(job);
    while let Some(mut job) = next {
        next = work(lines, &mut *job);
        job.answer();
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
