//! Reads operations again, from a log that is being appended to: what the change feed is made of. Takes no lock, and changes nothing.
//!
//! The caller says up to where the log is durable; what is above it is not looked at. So every frame on the way must check, and one that does not is
//! damage: there is no torn tail here.

use std::ops::{ControlFlow, RangeInclusive};

use super::file_log::LogOptions;
use super::operation::Operation;
use super::pieces::{Pieces, operations};
use super::recover::open;
use super::scan::Place;
use crate::error::{Error, Result};
use crate::format::frame::FrameKind;
use crate::format::position::SegmentName;
use crate::types::Lsn;

/// A place between two frames that a reading came to, for the next one to begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    name: SegmentName,
    place: Place,
    /// Every operation up to this one is before the place.
    pub(crate) lsn: Lsn,
}

/// Which mutation an operation is, and when it was committed: UTC, microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) lsn: Lsn,
    pub(crate) time_us: u64,
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// With the last operation, or where it was broken off.
    Done(Mark),
    /// This segment is not there. A checkpoint may have removed it, if no manifest lists it any more.
    Missing(SegmentName),
}

/// Gives the operations of these LSNs, which are durable and not before the first `listed` segment, to `each`, until it breaks off. Begins at `from` where
/// that is a place in the right segment, else at the segment's first frame.
///
/// # Errors
/// [`Error::Corrupt`] where a frame does not check, or segments do not fit together. Those of `each` are passed on.
pub(crate) fn read(
    options: &LogOptions,
    listed: &[SegmentName],
    lsns: RangeInclusive<Lsn>,
    from: Option<Mark>,
    each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<ControlFlow<()>>,
) -> Result<Reading> {
    let (first_lsn, last_lsn) = lsns.into_inner();
    let first = listed.partition_point(|name| name.first_lsn <= first_lsn).saturating_sub(1);
    let mut names = listed.iter().copied().skip(first);
    let Some(mut name) = names.next() else {
        return Err(Error::corrupt(
            &options.directory,
            0,
            format!("there is no log, and everything up to LSN {last_lsn} was durable"),
        ));
    };
    let Some(mut scan) = open(options, name)? else { return Ok(Reading::Missing(name)) };
    if let Some(mark) = from.filter(|mark| mark.name == name && mark.lsn < first_lsn) {
        scan.seek(mark.place, mark.lsn);
    }
    let mut next_name = names.next();
    let mut pieces = Pieces::default();
    loop {
        let mark = Mark { name, place: scan.place(), lsn: scan.last_lsn };
        if scan.last_lsn >= last_lsn {
            return Ok(Reading::Done(mark));
        }
        if let Some(after) = next_name.filter(|after| after.first_lsn == scan.last_lsn + 1) {
            let Some(next) = open(options, after)? else { return Ok(Reading::Missing(after)) };
            // Else there are markers in between, which are no operations.
            if next.header.predecessor_chain == scan.place().chain {
                (name, scan, next_name) = (after, next, names.next());
                pieces.clear();
                continue;
            }
        }
        let (path, offset) = (scan.path.clone(), scan.next().offset);
        let damaged = |problem: String| Error::corrupt(&path, offset, problem);
        let bad_lsn = scan.last_lsn + 1;
        let Some(frame) = scan.next_frame()? else {
            return Err(damaged(format!("no valid frame for LSN {bad_lsn}, and everything up to LSN {last_lsn} was durable")));
        };
        let header = frame.header;
        if header.kind != FrameKind::Marker && next_name.is_some_and(|after| header.last_lsn >= after.first_lsn) {
            return Err(damaged(format!("LSN {} is in this segment, and the one after it begins before", header.last_lsn)));
        }
        if header.last_lsn < first_lsn {
            continue;
        }
        let Some(whole) = pieces.add(header.kind, frame.payload).map_err(|problem| problem.at(&damaged))? else { continue };
        let wanted = &mut |lsn, operation: &Operation<'_>| {
            let commit = Commit { lsn, time_us: header.time_us };
            if lsn < first_lsn { Ok(ControlFlow::Continue(())) } else { each(commit, operation) }
        };
        // A frame is not durable in part: its last operation is not above the last that is wanted.
        if operations(&whole, header.first_lsn..=header.last_lsn, wanted).map_err(|problem| problem.at(&damaged))?.is_break() {
            return Ok(Reading::Done(mark));
        }
    }
}
