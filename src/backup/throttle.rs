//! How fast a backup reads and writes, so that searches beside it hardly notice.

use std::num::NonZeroU64;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A bound for the bytes that are moved a second, on the average since it was made; of all who share it together.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: Option<NonZeroU64>,
    started: Instant,
    moved: AtomicU64,
    waiting: Mutex<()>,
    /// Nobody notifies: it is waited on for its deadline.
    never: Condvar,
}

impl Throttle {
    /// `None`: as fast as it goes.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        let (moved, waiting, never) = (AtomicU64::new(0), Mutex::new(()), Condvar::new());
        Self { bytes_per_second, started: Instant::now(), moved, waiting, never }
    }

    /// Returns when so many bytes more may have been moved.
    pub(super) fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let moved = self.moved.fetch_add(bytes, Relaxed) + bytes;
        let until = self.started + due(rate, moved);
        let mut waiting = self.waiting.lock();
        while !self.never.wait_until(&mut waiting, until).timed_out() {}
    }
}

/// How long so many bytes take at least.
fn due(bytes_per_second: NonZeroU64, bytes: u64) -> Duration {
    let us = u128::from(bytes) * 1_000_000 / u128::from(bytes_per_second.get());
    Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_as_long_as_their_rate_says() {
        let due = |rate, bytes| due(NonZeroU64::new(rate).unwrap(), bytes);
        assert_eq!(due(1 << 20, 0), Duration::ZERO);
        assert_eq!(due(1 << 20, 10 << 20), Duration::from_secs(10));
        assert_eq!(due(2_000_000, 3), Duration::from_micros(1));
        assert_eq!(due(u64::MAX, u64::MAX), Duration::from_secs(1));
        assert_eq!(due(1, u64::MAX), Duration::from_micros(u64::MAX), "and no overflow");
    }

    #[test]
    fn what_is_taken_is_waited_for() {
        let rate = NonZeroU64::new(1 << 20).unwrap();
        let throttle = Throttle::new(Some(rate));
        throttle.take(64 << 10);
        throttle.take(64 << 10);
        assert!(throttle.started.elapsed() >= due(rate, 128 << 10));
        Throttle::new(None).take(u64::MAX);
    }
}
