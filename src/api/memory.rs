//! Whether there is memory for more points: before the system ends the process, it refuses what would make it larger.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sysinfo::System;
use warp::http::StatusCode;

use super::reply::Problem;
use crate::io::os::own_memory_bytes;

/// How long a look at the memory is good for. What is accepted meanwhile is bounded by the bodies that may be held.
const GOOD_FOR: Duration = Duration::from_millis(100);

/// Share of the memory that there is, as numerator and divisor: the rest is for files that are mapped, and for what calls need while they run.
const SHARE: (u64, u64) = (9, 10);

/// What the process may take of its own, mapped files not counted.
#[derive(Debug)]
pub struct Memory {
    bytes_max: u64,
    looked: Mutex<(Instant, u64)>,
}

impl Memory {
    /// `bytes_max` 0: no limit.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes_max, looked: Mutex::new((Instant::now(), own_memory_bytes())) }
    }

    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// # Errors
    /// 503 where the process has all that it may have.
    pub fn check(&self) -> Result<(), Problem> {
        if self.bytes_max == 0 {
            return Ok(());
        }
        let mut looked = self.looked.lock();
        if looked.0.elapsed() >= GOOD_FOR {
            *looked = (Instant::now(), own_memory_bytes());
        }
        if looked.1 < self.bytes_max {
            return Ok(());
        }
        let [has, most] = [looked.1, self.bytes_max].map(|bytes| bytes >> 20);
        let detail = format!(
            "the server has {has} MiB of memory, and may have {most}: it takes no more points for now; searches and deletes go on"
        );
        Err(Problem::unavailable_for(StatusCode::SERVICE_UNAVAILABLE, "memory_full", &detail, 10))
    }
}

/// Most of the memory that this machine has, or that its control group may have.
pub fn memory_bytes_max() -> u64 {
    let mut system = System::new();
    system.refresh_memory();
    let total = system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory.min(system.total_memory()));
    let (share, of) = SHARE;
    total / of * share
}
