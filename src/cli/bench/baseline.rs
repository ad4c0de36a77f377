//! What the disk gives without a store around it.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::Failure;
use super::interrupt::Interrupt;
use super::load::{Latencies, Outcome};
use crate::io::Io as _;
use crate::io::os::OsIo;

const FILE: &str = "bench-baseline.tmp";

/// Appends `bytes` to a file in a directory and calls `fdatasync`, again and again, as a writer does who has nothing else to do.
///
/// # Errors
/// Where it cannot; the file is removed all the same, where that can be done.
pub fn synced_writes(
    directory: &Path,
    bytes: usize,
    duration: Duration,
    writes_max: usize,
    interrupt: &Interrupt,
) -> Result<Outcome, Failure> {
    let path = directory.join(FILE);
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let file = OsIo.create(&path).map_err(failed)?;
    let written = (|| {
        let (payload, mut latencies, started) = (vec![7; bytes], Latencies::new(), Instant::now());
        let mut offset = 0;
        while started.elapsed() < duration && latencies.count() < writes_max as u64 && !interrupt.is_set() {
            let begun = Instant::now();
            file.write_at(offset, &[IoSlice::new(&payload)])?;
            file.sync_data()?;
            latencies.record(begun.elapsed());
            offset += bytes as u64;
        }
        Ok(Outcome { elapsed: started.elapsed(), latencies, failed: BTreeMap::new() })
    })();
    let removed = OsIo.remove_file(&path);
    let outcome = written.map_err(failed)?;
    removed.map_err(failed)?;
    interrupt.check()?;
    Ok(outcome)
}
