//! The engine's protocols under a scheduler that tries interleavings (`shuttle`): the very files of `src`, against locks of the names that
//! `src/sync.rs` gives them there. Threads are coroutines here, and which goes on at each lock is drawn: at random, and by PCT, which finds with a known
//! probability what needs few preemptions (Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", 2010).
//!
//! `FAISS_PROXY_SCHEDULES` says how many interleavings of each scenario. A run prints its seed, and `FAISS_PROXY_SCHEDULE_SEED` brings it back; of a
//! failure `shuttle` prints the schedule itself, for `shuttle::replay`.
//!
//! What it does not see: orders of plain atomics (`ArcSwap` is a lock here, as if its loads and stores were sequentially consistent), and `Arc`'s own
//! counts. Each scenario has mutants, kept here, that it must catch.

mod commits;
mod listening;
mod openings;
mod views;

mod sync;

#[path = "../../src/engine/listeners.rs"]
mod listeners;
#[path = "../../src/segment/positions.rs"]
#[expect(dead_code, reason = "the engine uses more of it than is checked here")]
mod positions;
#[path = "../../src/engine/published.rs"]
#[expect(dead_code, reason = "the engine uses more of it than is checked here")]
mod published;
#[path = "../../src/engine/queue.rs"]
mod queue;
#[path = "../../src/engine/slot.rs"]
#[expect(dead_code, reason = "the engine uses more of it than is checked here")]
mod slot;
#[path = "../support/mod.rs"]
mod support;

/// What the files of `src` find under this name there.
mod error {
    pub(crate) use faiss_proxy::{Error, Result, What};
}

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};
use support::env_or;

/// Preemptions that PCT places.
const PCT_DEPTH: usize = 3;

/// Runs a scenario under many schedules; it panics under one that is wrong, and where all its threads sleep.
fn explore(name: &str, scenario: impl Fn() + Send + Sync + Copy + 'static) {
    let schedules = env_or("FAISS_PROXY_SCHEDULES", 10_000) as usize;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = env_or("FAISS_PROXY_SCHEDULE_SEED", now);
    println!("{name}: seed {seed}");
    let random = run(RandomScheduler::new_from_seed(seed, schedules / 2), FailurePersistence::Print, scenario);
    let pct = run(PctScheduler::new_from_seed(seed, PCT_DEPTH, schedules / 2), FailurePersistence::Print, scenario);
    println!("{name}: {random} random schedules, {pct} by PCT");
    assert_eq!(random + pct, schedules / 2 * 2);
}

/// A scenario with a mistake in it must fail under some schedule.
fn assert_caught(name: &str, mutant: impl Fn() + Send + Sync + Copy + 'static) {
    let survived =
        catch_unwind(AssertUnwindSafe(|| run(RandomScheduler::new_from_seed(1, 2_000), FailurePersistence::None, mutant)));
    assert!(survived.is_err(), "{name}: {survived:?} schedules, and none showed the mistake");
}

fn run(scheduler: impl Scheduler + 'static, failure: FailurePersistence, scenario: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.silence_warnings = true;
    config.failure_persistence = failure;
    Runner::new(scheduler, config).run(scenario)
}
