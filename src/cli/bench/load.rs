//! Clients that send requests, and how long each took.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::super::Failure;
use super::interrupt::Interrupt;
use super::target::{Client as _, Target};
use crate::types::IndexId;

/// Digits of a latency that are right: an error of 0.1 % at most.
const DIGITS: u8 = 3;

/// A longer latency counts as this one.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);

/// How requests are sent.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    pub clients: usize,
    pub duration: Duration,
    /// Requests of all clients together at most.
    pub requests_max: usize,
    /// Requests a second of all clients together, each sent when it is due; `None`: each client sends the next one when it has the answer to the last.
    pub rate: Option<f64>,
    /// Whether requests are sent again when all of them were.
    pub repeats: bool,
    /// Ends it when it is true.
    pub ended: Option<&'a AtomicBool>,
    pub interrupt: &'a Interrupt,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Of requests that succeeded.
    pub latencies: Latencies,
    /// Requests that did not, by why.
    pub failed: BTreeMap<String, u64>,
}

/// How long requests took.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Self {
        let most = LATENCY_MAX.as_nanos() as u64;
        Self(Histogram::new_with_bounds(1, most, DIGITS).expect("bounds and digits that a histogram can have"))
    }

    /// Nanoseconds are counted; 0 as 1.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    fn add(&mut self, others: &Self) {
        self.0.add(&others.0).expect("their bounds are the same");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds; 0 where there is none.
    pub fn quantile(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    pub fn max(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    pub fn mean(&self) -> f64 {
        self.0.mean() / 1e3
    }
}

/// What the clients of one load share.
struct Shared<'a, R> {
    load: &'a Load<'a>,
    requests: &'a [R],
    /// Requests that were begun.
    next: AtomicUsize,
    start: Barrier,
    started: OnceLock<Instant>,
}

/// Sends requests until the time is over, all are sent, or somebody interrupts it.
///
/// # Errors
/// Where a client cannot connect; or it was interrupted.
pub fn run<T: Target>(target: &T, index: IndexId, requests: &[T::Request], load: &Load<'_>) -> Result<Outcome, Failure> {
    let clients = (0..load.clients).map(|_| target.client(index)).collect::<Result<Vec<_>, _>>()?;
    let shared =
        Shared { load, requests, next: AtomicUsize::new(0), start: Barrier::new(load.clients), started: OnceLock::new() };
    let outcome = thread::scope(|scope| {
        let clients: Vec<_> = clients.into_iter().map(|client| scope.spawn(|| shared.send_all::<T>(client))).collect();
        let mut all = Outcome { elapsed: Duration::ZERO, latencies: Latencies::new(), failed: BTreeMap::new() };
        for client in clients {
            let of_client = client.join().expect("a client does not panic");
            all.elapsed = all.elapsed.max(of_client.elapsed);
            all.latencies.add(&of_client.latencies);
            for (reason, count) in of_client.failed {
                *all.failed.entry(reason).or_default() += count;
            }
        }
        all
    });
    load.interrupt.check()?;
    Ok(outcome)
}

impl<R: Sync> Shared<'_, R> {
    fn send_all<T: Target<Request = R>>(&self, mut client: T::Client) -> Outcome {
        let (mut latencies, mut failed) = (Latencies::new(), BTreeMap::new());
        self.start.wait();
        let started = *self.started.get_or_init(Instant::now);
        while let Some((request, due)) = self.next(started) {
            client.prepare(request);
            let sent = due.unwrap_or_else(Instant::now);
            match client.send(request) {
                Ok(()) => latencies.record(sent.elapsed()),
                Err(refusal) => {
                    *failed.entry(refusal.reason).or_default() += 1;
                    if refusal.is_final {
                        break;
                    }
                }
            }
        }
        Outcome { elapsed: started.elapsed(), latencies, failed }
    }

    /// The next request, and when it is due, where it is not due at once. Waits until then.
    fn next(&self, started: Instant) -> Option<(&R, Option<Instant>)> {
        let Load { duration, requests_max, rate, repeats, ended, interrupt, .. } = *self.load;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let is_over = |at: Instant| {
            at.duration_since(started) >= duration
                || interrupt.is_set()
                || ended.is_some_and(|ended| ended.load(Ordering::Relaxed))
        };
        let most = if repeats { requests_max } else { requests_max.min(self.requests.len()) };
        if number >= most || is_over(Instant::now()) {
            return None;
        }
        let due = rate.map(|rate| started + Duration::from_secs_f64(number as f64 / rate));
        if let Some(due) = due {
            if is_over(due) {
                return None;
            }
            interrupt.wait_until(due);
            if is_over(due) {
                return None;
            }
        }
        Some((&self.requests[number % self.requests.len()], due))
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::{Client, Refusal, Search, Settings, Status};
    use super::*;
    use crate::config::Limits;
    use crate::engine::Batch;

    #[test]
    fn quantiles_are_within_a_thousandth_of_those_of_the_sorted_latencies() {
        let mut nanoseconds: Vec<u64> = (1..10_000_u64).map(|n| n * n * 37 % 1_000_003 + n * n).collect();
        let mut latencies = Latencies::new();
        nanoseconds.iter().for_each(|&n| latencies.record(Duration::from_nanos(n)));
        nanoseconds.sort_unstable();
        for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = (quantile * nanoseconds.len() as f64).ceil() as usize;
            let expected = nanoseconds[rank - 1] as f64 / 1e3;
            let error = (latencies.quantile(quantile) - expected).abs() / expected;
            assert!(error <= 1e-3, "{quantile}: {} and not {expected}", latencies.quantile(quantile));
        }
        assert_eq!(latencies.count(), 9_999);
    }

    #[test]
    fn latencies_of_clients_are_added_up_and_none_is_out_of_bounds() {
        let (mut one, mut other) = (Latencies::new(), Latencies::new());
        one.record(Duration::ZERO);
        other.record(Duration::MAX);
        one.add(&other);
        assert_eq!(one.count(), 2);
        assert!(one.max() >= LATENCY_MAX.as_secs_f64() * 1e6 && one.quantile(0.0) <= 0.001);
        assert_eq!((Latencies::new().quantile(0.5), Latencies::new().mean()), (0.0, 0.0));
    }

    /// Refuses every third request, and answers the others at once.
    struct Refusing;

    struct RefusingClient;

    impl Target for Refusing {
        type Request = usize;
        type Client = RefusingClient;

        fn limits(&self) -> Limits {
            Limits::default()
        }
        fn create(&self, _: &str, _: &Settings) -> Result<IndexId, Failure> {
            unreachable!("a load needs no more than a client")
        }
        fn delete(&self, _: IndexId) -> Result<(), Failure> {
            unreachable!("a load needs no more than a client")
        }
        fn compact(&self, _: IndexId) -> Result<(), Failure> {
            unreachable!("a load needs no more than a client")
        }
        fn status(&self, _: IndexId) -> Result<Status, Failure> {
            unreachable!("a load needs no more than a client")
        }
        fn write(&self, _: IndexId, _: Batch) -> usize {
            unreachable!("a load needs no more than a client")
        }
        fn search(&self, _: IndexId, _: &Search<'_>) -> usize {
            unreachable!("a load needs no more than a client")
        }
        fn client(&self, _: IndexId) -> Result<RefusingClient, Failure> {
            Ok(RefusingClient)
        }
    }

    impl Client<usize> for RefusingClient {
        fn prepare(&mut self, _: &usize) {}
        fn send(&mut self, request: &usize) -> Result<(), Refusal> {
            if request.is_multiple_of(3) {
                return Err(Refusal { reason: "429".to_owned(), is_busy: true, is_final: false });
            }
            Ok(())
        }
        fn found(&self) -> Result<Vec<String>, Failure> {
            Ok(Vec::new())
        }
    }

    fn outcome(change: impl FnOnce(&mut Load<'_>)) -> Outcome {
        let interrupt = Interrupt::default();
        let duration = Duration::from_secs(3_600);
        let mut load =
            Load { clients: 4, duration, requests_max: 300, rate: None, repeats: true, ended: None, interrupt: &interrupt };
        change(&mut load);
        run(&Refusing, IndexId::nil(), &(0..30).collect::<Vec<_>>(), &load).unwrap()
    }

    #[test]
    fn each_request_is_sent_once_by_one_of_the_clients_and_refusals_are_no_latencies() {
        let all = outcome(|_| {});
        assert_eq!((all.latencies.count(), all.failed["429"]), (200, 100));
        let once = outcome(|load| load.repeats = false);
        assert_eq!((once.latencies.count(), once.failed["429"]), (20, 10));
    }

    #[test]
    fn at_a_rate_no_request_is_sent_before_it_is_due_and_latencies_count_from_then() {
        let all = outcome(|load| load.rate = Some(10_000.0));
        assert_eq!(all.latencies.count(), 200);
        assert!(all.elapsed >= Duration::from_micros(29_900), "{:?}", all.elapsed);
    }

    #[test]
    fn it_ends_when_its_time_is_over_or_what_runs_beside_it_is() {
        assert_eq!(outcome(|load| load.duration = Duration::ZERO).latencies.count(), 0);
        static ENDED: AtomicBool = AtomicBool::new(true);
        assert_eq!(outcome(|load| load.ended = Some(&ENDED)).latencies.count(), 0);
    }
}
