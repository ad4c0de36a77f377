//! A nats-server that is there and can do nothing, being cut off from the others: the client stays with it, since it answers a ping.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// For so long no question has had an answer: longer than an election takes, during which no server answers.
const FIRST: Duration = Duration::from_secs(10);

/// The same once that made us look for another, which may have been the same again. Twice as long each time: where a majority is lost, no other
/// helps.
const AGAIN: Duration = Duration::from_secs(4);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Since when asking is in vain.
#[derive(Debug, Default)]
pub(super) struct Vain {
    leave: Mutex<Option<Leave>>,
}

#[derive(Debug)]
struct Leave {
    at: Instant,
    /// Until the next time.
    then: Duration,
}

impl Vain {
    /// Whether another server is to be looked for, now that a question had an answer, or none.
    pub(super) fn should_leave(&self, is_in_vain: bool, now: Instant) -> bool {
        let mut leave = self.leave.lock();
        if !is_in_vain {
            *leave = None;
            return false;
        }
        let leave = leave.get_or_insert(Leave { at: now + FIRST, then: AGAIN });
        let is_over = now >= leave.at;
        if is_over {
            *leave = Leave { at: now + leave.then, then: (leave.then * 2).min(AGAIN_MAX) };
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_left_after_a_time_in_vain_and_again_and_any_answer_begins_anew() {
        let (vain, start) = (Vain::default(), Instant::now());
        let asked = |is_in_vain, seconds| vain.should_leave(is_in_vain, start + Duration::from_secs(seconds));
        for (is_in_vain, seconds, should_leave) in [
            (false, 0, false),
            (true, 1, false),
            (true, 10, false),
            (true, 11, true),
            (true, 12, false),
            (true, 15, true),
            (true, 22, false),
            (true, 23, true),
            (true, 38, false),
            (true, 39, true),
            (true, 71, true),
            (true, 130, false),
            (true, 131, true),
            (true, 191, true),
            (false, 192, false),
            (true, 200, false),
            (true, 209, false),
            (true, 210, true),
            (true, 214, true),
        ] {
            assert_eq!(asked(is_in_vain, seconds), should_leave, "after {seconds} s");
        }
    }
}
