//! What limits can be configured to.

use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::frame::{OPERATION_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Checks that no limit is beyond what the format or the memory layout can hold.
///
/// # Errors
/// [`Error::Invalid`] naming the first that is.
pub(crate) fn check(limits: &Limits) -> Result<()> {
    let within = |field: &'static str, value: u64, min: u64, max: u64| {
        if (min..=max).contains(&value) {
            return Ok(());
        }
        Err(Error::invalid(field, "invalid_limit", format!("this limit is {min} to {max}, and not {value}")))
    };
    within("dimension_max", limits.dimension_max as u64, 1, 1 << 20)?;
    within("id_bytes_max", limits.id_bytes_max as u64, 1, u64::from(u16::MAX))?;
    within("metadata_bytes_max", limits.metadata_bytes_max as u64, 2, 16 << 20)?;
    within("metadata_depth_max", limits.metadata_depth_max as u64, 1, 128)?;
    within("batch_points_max", limits.batch_points_max as u64, 1, 1 << 24)?;
    within("k_max", limits.k_max as u64, 1, 1 << 24)?;
    within("batch_queries_max", limits.batch_queries_max as u64, 1, 1 << 16)?;
    within("batch_hits_max", limits.batch_hits_max as u64, 1, 1 << 24)?;
    within("range_hits_max", limits.range_hits_max as u64, 1, 1 << 24)?;
    within("queued_writes_max", limits.queued_writes_max as u64, 1, 1 << 20)?;
    within("log_segment_bytes", limits.log_segment_bytes, 512, 1 << 30)?;
    within("frame_bytes_max", limits.frame_bytes_max as u64, 1, PAYLOAD_BYTES_MAX as u64)?;
    within("operation_bytes_max", limits.operation_bytes_max as u64, 64, OPERATION_BYTES_MAX as u64)
}
