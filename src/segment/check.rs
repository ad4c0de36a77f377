//! What a checksum cannot say of a sealed segment: whether its rows are rows that this program writes.

use std::ops::Range;
use std::path::Path;

use serde::de::IgnoredAny;

use super::norm;
use super::sealed::Sealed;
use crate::error::{Error, Result};
use crate::types::{Lsn, Metric};

/// Looks at these rows of a segment that was opened, and so passed its checksums: LSN, id, metadata, values, and what is kept of the values beside them.
///
/// # Errors
/// [`Error::Corrupt`] for the first row that is none: it was damaged before it was written, or by a mistake of ours.
pub(crate) fn rows(sealed: &Sealed, positions: Range<usize>, path: &Path, metric: Metric, checkpoint_lsn: Lsn) -> Result<()> {
    let mut scratch = Vec::new();
    for position in positions {
        let damaged =
            |problem: &str| Err(Error::corrupt(path, sealed.record_offset(position), format!("row {position} {problem}")));
        let record = sealed.record(position);
        if record.lsn == 0 || record.lsn > checkpoint_lsn {
            return damaged(&format!("has LSN {}, and the checkpoint is at LSN {checkpoint_lsn}", record.lsn));
        }
        if record.id_bytes == 0 {
            return damaged("has no id");
        }
        if !is_object(sealed.metadata(position)) {
            return damaged("has metadata that is no JSON object");
        }
        let vector = sealed.floats(position..position + 1).to_slice(&mut scratch);
        let (scale, extreme) = norm::summary(metric, vector);
        // Of a vector with a value that is not finite, one of the two is odd.
        if (extreme || !scale.is_finite()) && !vector.iter().all(|value| value.is_finite()) {
            return damaged("has a value that is not finite");
        }
        let kept = sealed.scales(position..position + 1).iter().next().unwrap_or(scale);
        if extreme != record.extreme || kept.to_bits() != scale.to_bits() {
            return damaged("has a norm beside it that is not that of its values");
        }
    }
    Ok(())
}

fn is_object(text: &[u8]) -> bool {
    // What most rows have, where they have none.
    text == b"{}" || (text.first() == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(text).is_ok())
}
