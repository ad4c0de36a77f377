//! The program as a process, on real file systems: killed by the clock and by the call, with disks that fail, are full, lose their power, are
//! read-only, copied, or damaged.
//!
//! What needs root (mounts) says so on standard error where there is none, and does nothing.

mod copies;
mod disk;
mod faults;
mod full;
mod kills;
mod load;
mod power_cuts;
#[path = "../http/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod record;
mod refusals;
mod shutdown;
mod supervisor;
#[path = "../http/support.rs"]
mod support;

#[test]
fn child_role() {
    record::child::play();
}
