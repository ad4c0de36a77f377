//! How far the log goes, segment by segment, for whoever copies it: up to the end of a frame, with everything before it checked.

use super::file_log::LogOptions;
use super::recover::{missing, open};
use super::scan::{Place, Scan};
use crate::error::{Error, Result};
use crate::format::position::SegmentName;
use crate::types::Lsn;

/// The end of a frame of a segment, or of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Bytes of the file before it.
    pub(crate) bytes: u64,
    /// Chain value after the frame.
    pub(crate) chain: u32,
    /// Every mutation up to this one is before it.
    pub(crate) lsn: Lsn,
    /// When the last frame before it was committed; `None`: there is none.
    pub(crate) time_us: Option<u64>,
}

/// Where a segment has everything up to an LSN and a chain value, which its successor's header has or which the log ends with. `known` is an end
/// that was found before, from which it is looked on: a part that was checked is not read again where it need not be. Where `known` is behind the
/// end, because markers that were never needed followed it, `known` is given.
///
/// # Errors
/// [`Error::Corrupt`]: a frame on the way does not check, or the segment is missing.
pub(crate) fn extent(options: &LogOptions, name: SegmentName, known: Option<Extent>, until: (Lsn, u32)) -> Result<Extent> {
    for from in known.iter().map(Some).chain([None]) {
        let mut scan = open_listed(options, name)?;
        let mut time_us = None;
        if let Some(from) = from.filter(|from| scan.holds(from.bytes)) {
            scan.seek(Place { offset: from.bytes, chain: from.chain }, from.lsn);
            time_us = from.time_us;
        }
        loop {
            let Place { offset, chain } = scan.place();
            if (scan.last_lsn, chain) == until {
                let found = Extent { bytes: offset, chain, lsn: scan.last_lsn, time_us };
                return Ok(known.filter(|known| known.bytes > offset).unwrap_or(found));
            }
            if scan.last_lsn > until.0 || scan.next_frame()?.is_none() {
                break;
            }
            time_us = Some(scan.time_us);
        }
        if from.is_none() {
            let problem =
                format!("no valid frame for LSN {}, and everything up to LSN {} is durable", scan.last_lsn + 1, until.0);
            return Err(Error::corrupt(&scan.path, scan.next().offset, problem));
        }
    }
    unreachable!("the last way is from the beginning, and returns")
}

/// With which LSN and chain value the predecessor of a segment ends, as the segment's header says.
///
/// # Errors
/// [`Error::Corrupt`]: the header does not check, or the segment is missing.
pub(crate) fn predecessor(options: &LogOptions, name: SegmentName) -> Result<(Lsn, u32)> {
    let header = open_listed(options, name)?.header;
    Ok((header.predecessor_last_lsn, header.predecessor_chain))
}

/// Gives each frame that ends an operation, as far as frames check: its last LSN, and when it was committed.
///
/// # Errors
/// [`Error::Corrupt`]: the segment is missing, or its header does not check.
pub(crate) fn commits(options: &LogOptions, name: SegmentName, each: &mut dyn FnMut(Lsn, u64)) -> Result<()> {
    let mut scan = open_listed(options, name)?;
    let mut before = scan.last_lsn;
    while scan.next_frame()?.is_some() {
        if scan.last_lsn > before {
            before = scan.last_lsn;
            each(before, scan.time_us);
        }
    }
    Ok(())
}

fn open_listed(options: &LogOptions, name: SegmentName) -> Result<Scan> {
    open(options, name)?.ok_or_else(|| missing(options, name))
}
