//! Every limit and default, with its unit and its reason.

use crate::error::{Error, Result};
use crate::format::frame::{OPERATION_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Limits that the library enforces. [`Limits::default`] is what API.md documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Floats in a vector. FAISS takes more; a JSON body of 64 MiB holds few vectors of this size already.
    pub dimension_max: usize,
    /// Bytes of a point's id, as UTF-8. Ids are held in memory for every live point.
    pub id_bytes_max: usize,
    /// Bytes of a point's metadata, as JSON text.
    pub metadata_bytes_max: usize,
    /// Nesting of a point's metadata: `{}` is 1. Bounds the stack of whoever parses it.
    pub metadata_depth_max: usize,
    /// Points in one batch.
    pub batch_points_max: usize,
    /// Neighbours that one search may ask for.
    pub k_max: usize,
    /// Bytes of an index's name.
    pub index_name_bytes_max: usize,
    /// Writers that may wait for one index's log; more are answered [`Busy`](crate::Error::Busy).
    pub queued_writes_max: usize,
    /// A log segment is rotated when it has grown past this, at most 1 GiB. Old segments are removed whole.
    pub log_segment_bytes: u64,
    /// Bytes of operations in one frame, at most 64 MiB. A larger operation spans frames. Bounds what recovery allocates for a frame.
    pub frame_bytes_max: usize,
    /// Bytes of one operation, all its frames together, at most 1 GiB. Bounds what recovery allocates for an operation.
    pub operation_bytes_max: usize,
    /// A checkpoint is started when the log has grown by this since the last one, or by a quarter of the data where that is more: bounds
    /// recovery time.
    pub checkpoint_log_bytes: u64,
    /// A dirty index is checkpointed after this long, so that a quiet one recovers at once.
    pub checkpoint_interval_ms: u64,
    /// With [`Durability::Interval`](crate::Durability), how long after a write the sync of its frame begins, where the timer's thread is
    /// not held up by the syncs of other indices.
    pub interval_sync_ms: u64,
    /// Bytes set aside in the data directory for deletes and checkpoints on a full disk. 0: none, which is the library's default; the
    /// server sets [`Limits::SERVER_RESERVE_BYTES`].
    pub reserve_bytes: u64,
    /// How long after the last group a marker frame is written, so that a watermark covers that group too.
    pub marker_delay_ms: u64,
}

impl Limits {
    /// Checks that no limit is beyond what the format or the memory layout can hold.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that is.
    pub(crate) fn check(&self) -> Result<()> {
        let within = |field: &'static str, value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(field, "invalid_limit", format!("this limit is {min} to {max}, and not {value}")))
        };
        within("dimension_max", self.dimension_max as u64, 1, 1 << 20)?;
        within("id_bytes_max", self.id_bytes_max as u64, 1, u64::from(u16::MAX))?;
        within("metadata_bytes_max", self.metadata_bytes_max as u64, 2, 16 << 20)?;
        within("metadata_depth_max", self.metadata_depth_max as u64, 1, 128)?;
        within("batch_points_max", self.batch_points_max as u64, 1, 1 << 24)?;
        within("k_max", self.k_max as u64, 1, 1 << 24)?;
        within("queued_writes_max", self.queued_writes_max as u64, 1, 1 << 20)?;
        within("log_segment_bytes", self.log_segment_bytes, 512, 1 << 30)?;
        within("frame_bytes_max", self.frame_bytes_max as u64, 1, PAYLOAD_BYTES_MAX as u64)?;
        within("operation_bytes_max", self.operation_bytes_max as u64, 64, OPERATION_BYTES_MAX as u64)
    }

    /// Some log segments' first allocations and a small checkpoint.
    pub const SERVER_RESERVE_BYTES: u64 = 16 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dimension_max: 65_536,
            id_bytes_max: 512,
            metadata_bytes_max: 64 << 10,
            metadata_depth_max: 32,
            batch_points_max: 10_000,
            k_max: 10_000,
            index_name_bytes_max: 255,
            queued_writes_max: 1_024,
            log_segment_bytes: 64 << 20,
            frame_bytes_max: 16 << 20,
            operation_bytes_max: 1 << 30,
            checkpoint_log_bytes: 64 << 20,
            checkpoint_interval_ms: 300_000,
            interval_sync_ms: 50,
            reserve_bytes: 0,
            marker_delay_ms: 500,
        }
    }
}
