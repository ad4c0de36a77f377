//! So many of something in a time: a bucket from which each takes a token, and which is filled at a constant rate.

use std::time::Instant;

#[derive(Debug)]
pub struct Bucket {
    tokens: f64,
    counted: Instant,
}

impl Bucket {
    pub fn full(max: f64, now: Instant) -> Self {
        Self { tokens: max, counted: now }
    }

    /// When it was taken from last.
    pub fn counted(&self) -> Instant {
        self.counted
    }

    /// Whether a token is there, of a bucket that holds `max` and is filled by `per_second`.
    pub fn has_token(&self, max: f64, per_second: f64, now: Instant) -> bool {
        self.tokens_at(max, per_second, now) >= 1.0
    }

    /// Takes a token, also where there is none: then it takes the longer.
    pub fn take(&mut self, max: f64, per_second: f64, now: Instant) {
        *self = Self { tokens: self.tokens_at(max, per_second, now) - 1.0, counted: now };
    }

    fn tokens_at(&self, max: f64, per_second: f64, now: Instant) -> f64 {
        let filled = now.saturating_duration_since(self.counted).as_secs_f64() * per_second;
        (self.tokens + filled).min(max)
    }
}
