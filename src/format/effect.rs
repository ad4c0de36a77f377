//! What a write came to, as it is kept with its idempotency key: in the log, and in the keys of a checkpoint.

use super::codec::{Decode, Encode};

/// What an operation did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Effect {
    /// Points stored (each id once) or deleted.
    pub(crate) count: u64,
    /// Positions in the request of points whose id came again later in it.
    pub(crate) superseded: Vec<u32>,
    /// Positions in the request of what was not done because its condition did not hold.
    pub(crate) unmet: Vec<u32>,
}
