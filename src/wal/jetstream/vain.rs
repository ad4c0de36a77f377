//! A nats-server that is there and can do nothing, being cut off from the others: the client stays with it, since it answers a ping.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// For so long no question has had an answer: longer than an election takes, during which no server answers.
const FIRST: Duration = Duration::from_secs(10);

/// The same once that made us look for another, which may have been the same again.
const AGAIN: Duration = Duration::from_secs(4);

/// Since when asking is in vain.
#[derive(Debug, Default)]
pub(super) struct Vain {
    leave_at: Mutex<Option<Instant>>,
}

impl Vain {
    /// Whether another server is to be looked for, now that a question had an answer, or none.
    pub(super) fn should_leave(&self, is_in_vain: bool, now: Instant) -> bool {
        let mut leave_at = self.leave_at.lock();
        if !is_in_vain {
            *leave_at = None;
            return false;
        }
        let is_over = leave_at.is_some_and(|at| now >= at);
        if is_over {
            *leave_at = Some(now + AGAIN);
        } else {
            leave_at.get_or_insert(now + FIRST);
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_left_after_a_time_in_vain_and_sooner_after_that_and_any_answer_begins_anew() {
        let (vain, start) = (Vain::default(), Instant::now());
        let asked = |is_in_vain, seconds| vain.should_leave(is_in_vain, start + Duration::from_secs(seconds));
        for (is_in_vain, seconds, should_leave) in [
            (false, 0, false),
            (true, 1, false),
            (true, 10, false),
            (true, 11, true),
            (true, 12, false),
            (true, 15, true),
            (true, 18, false),
            (false, 19, false),
            (true, 19, false),
            (true, 28, false),
            (true, 29, true),
        ] {
            assert_eq!(asked(is_in_vain, seconds), should_leave, "after {seconds} s");
        }
    }
}
