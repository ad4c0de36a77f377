//! How often an address may try keys that are not good.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Problem;
use super::bucket::Bucket;

/// Addresses that are remembered. When there are as many, those whose failures are a minute old are forgotten, or all: else who has many addresses would
/// take our memory.
const ADDRESSES_MAX: usize = 4_096;

const MINUTE: Duration = Duration::from_secs(60);

/// Failures by address. Who had too many is turned away before the key is looked at, so that one that would be right is not told from one that is wrong.
#[derive(Debug)]
pub struct Attempts {
    /// 0: any number.
    per_minute: u32,
    /// A failure takes a token.
    failures: Mutex<HashMap<IpAddr, Bucket>>,
}

impl Attempts {
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, failures: Mutex::default() }
    }

    /// # Errors
    /// 429 where the address had its failures for now.
    pub fn check(&self, peer: IpAddr) -> Result<(), Problem> {
        self.check_at(peer, Instant::now())
    }

    fn check_at(&self, peer: IpAddr, now: Instant) -> Result<(), Problem> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let failures = self.failures.lock();
        let is_out = failures.get(&site(peer)).is_some_and(|bucket| !bucket.has_token(self.max(), self.per_second(), now));
        if is_out { Err(Problem::busy("too many requests without a good API key came from this address")) } else { Ok(()) }
    }

    pub fn failed(&self, peer: IpAddr) {
        self.failed_at(peer, Instant::now());
    }

    fn failed_at(&self, peer: IpAddr, now: Instant) {
        if self.per_minute == 0 {
            return;
        }
        let mut all = self.failures.lock();
        if all.len() >= ADDRESSES_MAX {
            all.retain(|_, bucket| now.saturating_duration_since(bucket.counted()) < MINUTE);
            if all.len() >= ADDRESSES_MAX {
                all.clear();
            }
        }
        let bucket = all.entry(site(peer)).or_insert_with(|| Bucket::full(self.max(), now));
        bucket.take(self.max(), self.per_second(), now);
    }

    fn max(&self) -> f64 {
        self.per_minute.into()
    }

    fn per_second(&self) -> f64 {
        self.max() / MINUTE.as_secs_f64()
    }
}

/// Whom an address is of: of IPv6 everybody has 2^64, of which the last half says nothing.
fn site(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn who_failed_too_often_waits_for_a_new_token_and_others_do_not() {
        let attempts = Attempts::new(60);
        let start = Instant::now();
        for _ in 0..60 {
            attempts.check_at(peer("10.0.0.1"), start).unwrap();
            attempts.failed_at(peer("10.0.0.1"), start);
        }
        assert_eq!(attempts.check_at(peer("10.0.0.1"), start).unwrap_err().status(), 429);
        attempts.check_at(peer("10.0.0.2"), start).unwrap();
        // The same as IPv6 writes it.
        assert!(attempts.check_at(peer("::ffff:10.0.0.1"), start).is_err());
        let later = start + Duration::from_secs(1);
        attempts.check_at(peer("10.0.0.1"), later).unwrap();
        attempts.failed_at(peer("10.0.0.1"), later);
        assert!(attempts.check_at(peer("10.0.0.1"), later).is_err());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let attempts = Attempts::new(1);
        let now = Instant::now();
        attempts.failed_at(peer("2001:db8::1"), now);
        assert!(attempts.check_at(peer("2001:db8::ffff:2"), now).is_err());
        assert!(attempts.check_at(peer("2001:db8:0:1::1"), now).is_ok());
    }

    #[test]
    fn addresses_do_not_pile_up() {
        let attempts = Attempts::new(1);
        let now = Instant::now();
        for n in 0..10 * ADDRESSES_MAX as u32 {
            attempts.failed_at(IpAddr::V4(n.into()), now);
        }
        assert!(attempts.failures.lock().len() <= ADDRESSES_MAX);
    }

    #[test]
    fn without_a_limit_nobody_is_turned_away() {
        let attempts = Attempts::new(0);
        for _ in 0..1_000 {
            attempts.failed(peer("10.0.0.1"));
        }
        assert!(attempts.check(peer("10.0.0.1")).is_ok());
    }
}
