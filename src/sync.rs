//! The locks that threads of the engine meet at, in one place.
//!
//! The modules that have the protocols of the engine (`engine/queue.rs`, `engine/published.rs`, `engine/slot.rs`, `engine/listeners.rs`) take their locks from here and from
//! nowhere else, and have no I/O and no clock. `tests/schedules/` compiles the same files against locks of the same names that a scheduler
//! holds, and tries interleavings.

pub(crate) use arc_swap::ArcSwap;
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
