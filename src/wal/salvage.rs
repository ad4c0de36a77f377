//! What can be known of a log that is damaged: how far it is sound, and what was behind. Changes nothing.

use std::collections::BTreeSet;

use super::file_log::{FileLog, LogOptions};
use super::operation::Operation;
use super::pieces::operations;
use super::recover::open;
use crate::error::{Error, Result};
use crate::format::frame::FrameKind;
use crate::format::position::{Position, SegmentName};
use crate::types::Lsn;

/// Where a log stops being sound.
#[derive(Debug)]
pub(crate) struct Break {
    /// The last mutation before.
    pub(crate) lsn: Lsn,
    /// The first of the listed segments that is not sound to its end.
    pub(crate) segment: usize,
}

/// Replays what is sound of the log after `from`, and says where it breaks off; `None`: nowhere.
///
/// # Errors
/// [`Error::Io`] where the disk fails. Errors of `replay` are passed on where they are no damage.
pub(crate) fn replay_sound(
    options: &LogOptions,
    listed: &[SegmentName],
    from: Position,
    replay: &mut dyn FnMut(Lsn, &Operation<'_>) -> Result<()>,
) -> Result<Option<Break>> {
    // Recovery opens a segment before it reads the one before it: what is in front of a segment that is missing is sound all the same.
    let mut readable = 0;
    for &name in listed {
        match open(options, name) {
            Ok(Some(_)) => readable += 1,
            Ok(None) | Err(Error::Corrupt(_)) => break,
            Err(error) => return Err(error),
        }
    }
    let mut lsn = from.lsn;
    let verified = FileLog::verify(options, &listed[..readable], from, &mut |at, operation| {
        replay(at, operation)?;
        lsn = at;
        Ok(())
    });
    match verified {
        Err(Error::Corrupt(_)) => {
            let first = |name: &SegmentName| name.first_lsn > lsn + 1;
            let segment = listed[..readable].iter().position(first).unwrap_or(readable).saturating_sub(1);
            Ok(Some(Break { lsn, segment }))
        }
        Err(error) => Err(error),
        Ok(_) if readable < listed.len() => Ok(Some(Break { lsn, segment: readable })),
        Ok(_) => Ok(None),
    }
}

/// What is known of mutations that are given up.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    /// The last that was ever written, as far as anything that is left says so.
    pub(crate) last_lsn: Lsn,
    /// Of points that they stored or deleted.
    pub(crate) ids: BTreeSet<String>,
    /// Mutations whose points are not known.
    pub(crate) unknown: u64,
}

/// Looks for what was after an LSN in these segments.
///
/// # Errors
/// [`Error::Io`] where the disk fails.
pub(crate) fn behind(options: &LogOptions, segments: &[SegmentName], lsn: Lsn) -> Result<Behind> {
    let mut behind = Behind { last_lsn: lsn, ..Behind::default() };
    let mut known: BTreeSet<Lsn> = BTreeSet::new();
    for &name in segments {
        let mut scan = match open(options, name) {
            Ok(Some(scan)) => scan,
            Ok(None) | Err(Error::Corrupt(_)) => continue,
            Err(error) => return Err(error),
        };
        behind.last_lsn = behind.last_lsn.max(scan.header.predecessor_last_lsn);
        scan.remains(&mut |header, payload| {
            behind.last_lsn = behind.last_lsn.max(header.last_lsn).max(header.watermark);
            let Some(payload) = payload.filter(|_| header.kind == FrameKind::Operations && header.first_lsn > lsn) else {
                return;
            };
            // What checks and cannot be decoded is as little known as what does not check.
            let _ = operations(payload, header.first_lsn..=header.last_lsn, &mut |at, operation| {
                known.insert(at);
                behind.ids.extend(ids(operation));
                Ok(std::ops::ControlFlow::Continue(()))
            });
        })?;
    }
    behind.unknown = behind.last_lsn - lsn - known.len() as u64;
    Ok(behind)
}

fn ids(operation: &Operation<'_>) -> Vec<String> {
    match operation {
        Operation::Upsert(upsert) => upsert.points().map(|(id, ..)| id.to_owned()).collect(),
        Operation::Delete(delete) => delete.ids().map(str::to_owned).collect(),
        Operation::Keyed(keyed) => keyed.operation.as_deref().map(ids).unwrap_or_default(),
    }
}
