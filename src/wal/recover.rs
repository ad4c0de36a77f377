//! Opens the log of an index: reads what follows the checkpoint, and decides what of it may be served.

use std::io::IoSlice;
use std::ops::ControlFlow;

use super::file_log::{FileLog, LogOptions, Prepared, SavedFrame};
use super::operation::Operation;
use super::pieces::{Pieces, Problem, operations};
use super::scan::{End, Place, Scan};
use crate::error::{Error, Result};
use crate::format::frame::FrameKind;
use crate::format::position::{Position, SegmentName};
use crate::types::Lsn;

/// What opening a log found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) log: FileLog,
    /// Where there is one: name it in a manifest and have the log adopt it *before* the index serves. It holds the frames above the
    /// highest watermark again: a sync that failed may have left them in memory, looking clean, and nowhere else.
    pub(crate) rescued: Option<Prepared>,
    pub(crate) report: LogReport,
}

/// What a person is told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogReport {
    pub(crate) replayed_operations: u64,
    /// Bytes after the last whole frame that a crash left, which recovery copies aside.
    pub(crate) torn_bytes: u64,
}

impl FileLog {
    /// Replays, in order, every operation after `from` that the `listed` segments hold, and makes the log ready to append.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where an acknowledged frame does not check, a listed segment is missing, or segments do not fit together:
    /// nothing was changed. Errors of `replay` are passed on.
    pub(crate) fn recover(
        options: LogOptions,
        listed: &[SegmentName],
        from: Position,
        replay: &mut dyn FnMut(Lsn, &Operation<'_>) -> Result<()>,
    ) -> Result<Recovered> {
        let mut reader = Reader::new(replay);
        let Found { log_end, time_us, torn } = reader.read_all(&options, listed, from)?;
        let Reader { saved, frame_bytes, mut report, .. } = reader;
        if let Some((scan, offset)) = torn {
            report.torn_bytes = copy_torn(&options, &scan, offset)?;
        }
        let mut log = FileLog {
            active: None,
            written_lsn: log_end.lsn,
            durable_lsn: log_end.lsn,
            marked_lsn: log_end.lsn,
            chain: log_end.chain,
            end: log_end.at,
            time_us,
            appended_bytes: frame_bytes,
            next_epoch: next_epoch(&options, listed)?,
            poisoned: None,
            options,
        };
        let rescued = match saved.first() {
            Some(first) => Some(log.write_segment(first.first_lsn - 1, first.chain_before, &saved)?),
            None => None,
        };
        if let Some(rescued) = &rescued {
            debug_assert_eq!(rescued.last_lsn, log.written_lsn);
            log.marked_lsn = log.marked_lsn.min(rescued.name().first_lsn - 1);
        }
        Ok(Recovered { log, rescued, report })
    }

    /// Reads what [`recover`](Self::recover) would read and refuses what it would refuse, and leaves everything as it is. Tells what recovery
    /// would have to do.
    ///
    /// # Errors
    /// Those of `recover`; those of `examine`, which is given each operation, are passed on.
    pub(crate) fn verify(
        options: &LogOptions,
        listed: &[SegmentName],
        from: Position,
        examine: &mut dyn FnMut(Lsn, &Operation<'_>) -> Result<()>,
    ) -> Result<LogReport> {
        let mut reader = Reader { saves: false, ..Reader::new(examine) };
        let found = reader.read_all(options, listed, from)?;
        next_epoch(options, listed)?;
        let mut report = reader.report;
        if let Some((scan, offset)) = found.torn {
            report.torn_bytes = torn_tail(options, &scan, offset)?.len() as u64;
        }
        Ok(report)
    }
}

/// How the log ends.
struct Found {
    log_end: Position,
    time_us: u64,
    /// The segment whose tail is torn, and where its last whole frame ends.
    torn: Option<(Scan, u64)>,
}

struct Reader<'a> {
    /// Whether frames are to be written again: not where the log is only looked at.
    saves: bool,
    /// Frames above the highest watermark so far.
    saved: Vec<SavedFrame>,
    pieces: Pieces,
    /// Bytes of the frames read.
    frame_bytes: u64,
    report: LogReport,
    replay: &'a mut dyn FnMut(Lsn, &Operation<'_>) -> Result<()>,
}

impl<'a> Reader<'a> {
    fn new(replay: &'a mut dyn FnMut(Lsn, &Operation<'_>) -> Result<()>) -> Self {
        Self { saves: true, saved: Vec::new(), pieces: Pieces::default(), frame_bytes: 0, report: LogReport::default(), replay }
    }

    /// Replays the segments from a position on, and judges how the last one ends. Changes nothing on the disk.
    fn read_all(&mut self, options: &LogOptions, listed: &[SegmentName], from: Position) -> Result<Found> {
        let mut log_end = from;
        let mut watermark = from.lsn;
        let mut time_us = 0;
        let start = from.at.map_or(0, |(name, _)| listed.partition_point(|&other| other < name));
        let names = &listed[start..];
        if let Some((name, _)) = from.at
            && names.first() != Some(&name)
        {
            return Err(Error::corrupt(
                &name.path(&options.directory),
                0,
                "the manifest begins to replay here, and does not list it",
            ));
        }
        let mut torn = None;
        let mut next = names.first().map(|&name| open_listed(options, name)).transpose()?;
        for (at, &name) in names.iter().enumerate() {
            let Some(mut scan) = next.take() else { break };
            next = names.get(at + 1).map(|&name| open_listed(options, name)).transpose()?;
            match from.at {
                Some((start, offset)) if start == name => {
                    if !scan.holds(offset) {
                        return Err(Error::corrupt(&scan.path, scan.file_bytes(), format!("the file ends before byte {offset}")));
                    }
                    scan.seek(Place { offset, chain: from.chain }, from.lsn);
                }
                _ if scan.header.predecessor_last_lsn != log_end.lsn || scan.header.predecessor_chain != log_end.chain => {
                    return Err(Error::corrupt(&scan.path, 0, "this segment does not go on where the one before ends"));
                }
                _ => {}
            }
            let ends_at = next.as_ref().map(|next| (next.header.predecessor_last_lsn, next.header.predecessor_chain));
            watermark = self.read(&mut scan, ends_at, watermark)?;
            time_us = time_us.max(scan.time_us);
            let whole = if ends_at.is_some() { scan.place() } else { scan.operations_end() };
            log_end = Position { lsn: scan.last_lsn, chain: whole.chain, at: Some((name, whole.offset)) };
            if ends_at.is_none() {
                let offset = scan.place().offset;
                match scan.end(watermark)? {
                    End::Clean => {}
                    End::Torn => torn = Some((scan, offset)),
                    End::Corrupt => {
                        return Err(Error::corrupt(
                            &scan.path,
                            offset,
                            format!(
                                "no valid frame for LSN {}, and everything up to LSN {} was durable",
                                scan.last_lsn + 1,
                                scan.watermark.max(watermark)
                            ),
                        ));
                    }
                }
            }
        }
        Ok(Found { log_end, time_us, torn })
    }

    /// Replays a segment up to where its successor says that it ends, or to its last whole frame. Gives the highest watermark.
    fn read(&mut self, scan: &mut Scan, ends_at: Option<(Lsn, u32)>, mut watermark: Lsn) -> Result<Lsn> {
        loop {
            if ends_at == Some((scan.last_lsn, scan.place().chain)) {
                self.pieces.clear();
                // The successor was named only after everything that its header speaks of was synced.
                watermark = watermark.max(scan.last_lsn);
                self.saved.clear();
                return Ok(watermark);
            }
            let chain_before = scan.place().chain;
            let (path, offset) = (scan.path.clone(), scan.place().offset);
            let Some(frame) = scan.next_frame()? else { break };
            let header = frame.header.clone();
            self.frame_bytes += header.frame_bytes();
            if header.watermark > watermark {
                watermark = header.watermark;
                self.saved.retain(|saved| saved.last_lsn > watermark);
            }
            if self.saves && header.kind != FrameKind::Marker {
                self.saved.push(SavedFrame {
                    kind: header.kind,
                    first_lsn: header.first_lsn,
                    last_lsn: header.last_lsn,
                    time_us: header.time_us,
                    payload: frame.payload.to_vec(),
                    chain_before,
                });
            }
            let damaged = |problem: String| Error::corrupt(&path, offset, problem);
            if let Some(whole) = self.pieces.add(header.kind, frame.payload).map_err(|problem| problem.at(&damaged))? {
                self.replay_frame(&whole, header.first_lsn, header.last_lsn).map_err(|problem| problem.at(&damaged))?;
            }
        }
        self.pieces.clear();
        self.saved.retain(|saved| saved.last_lsn <= scan.last_lsn);
        match ends_at {
            None => Ok(watermark),
            Some((lsn, _)) => Err(Error::corrupt(
                &scan.path,
                scan.place().offset,
                format!("no valid frame for LSN {}, and the segment after it begins behind LSN {lsn}", scan.last_lsn + 1),
            )),
        }
    }

    fn replay_frame(&mut self, payload: &[u8], first_lsn: Lsn, last_lsn: Lsn) -> Result<(), Problem> {
        let Self { replay, report, .. } = self;
        let each = &mut |lsn, operation: &Operation<'_>| {
            replay(lsn, operation)?;
            report.replayed_operations += 1;
            Ok(ControlFlow::Continue(()))
        };
        operations(payload, first_lsn..=last_lsn, each).map(drop)
    }
}

/// A segment that the manifest lists, which must be there.
fn open_listed(options: &LogOptions, name: SegmentName) -> Result<Scan> {
    open(options, name)?.ok_or_else(|| missing(options, name))
}

pub(crate) fn missing(options: &LogOptions, name: SegmentName) -> Error {
    Error::corrupt(&name.path(&options.directory), 0, "the manifest lists this segment, and it is missing")
}

/// `None`: there is no such file.
pub(super) fn open(options: &LogOptions, name: SegmentName) -> Result<Option<Scan>> {
    let path = name.path(&options.directory);
    let file = match options.io.open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|error| Error::io("open", &path, error))?,
    };
    let scan = Scan::open(&path, file)?;
    let header = &scan.header;
    if header.index != options.index || header.first_lsn != name.first_lsn || header.epoch != name.epoch {
        return Err(Error::corrupt(
            &path,
            0,
            format!("this is segment {} epoch {} of index {}", header.first_lsn, header.epoch, header.index),
        ));
    }
    Ok(Some(scan))
}

/// What follows the last whole frame, but for the zeros at its end.
fn torn_tail(options: &LogOptions, scan: &Scan, offset: u64) -> Result<Vec<u8>> {
    let path = &scan.path;
    let file = options.io.open(path).map_err(|error| Error::io("open", path, error))?;
    let mut bytes = vec![0; scan.file_bytes().saturating_sub(offset) as usize];
    let read = file.read_at(offset, &mut bytes).map_err(|error| Error::io("read", path, error))?;
    bytes.truncate(read);
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(used);
    Ok(bytes)
}

/// Copies it to `<segment>.torn`, and gives the number of bytes.
fn copy_torn(options: &LogOptions, scan: &Scan, offset: u64) -> Result<u64> {
    let bytes = torn_tail(options, scan, offset)?;
    let (path, io, used) = (&scan.path, &options.io, bytes.len());
    let name = format!("{}.torn", path.file_name().unwrap_or_default().to_string_lossy());
    match crate::io::durable::replace(&**io, &options.directory, &name, &[IoSlice::new(&bytes)]) {
        Ok(_) => tracing::warn!(
            segment = %path.display(), offset, bytes = used,
            "the log ends with a torn frame that nobody was told of; it was copied aside to {name}"
        ),
        // Nothing writes over the tail in its own file: an index need not refuse because there is no room for a copy.
        Err(error @ Error::Full(_)) => tracing::warn!(
            segment = %path.display(), offset, bytes = used, %error,
            "the log ends with a torn frame that nobody was told of; there is no room for a copy"
        ),
        Err(error) => return Err(error),
    }
    Ok(used as u64)
}

/// Names are never reused: not those of segments that were written and never named in a manifest either.
fn next_epoch(options: &LogOptions, listed: &[SegmentName]) -> Result<u32> {
    let entries = options.io.list(&options.directory).map_err(|error| Error::io("list", &options.directory, error))?;
    let found = entries.iter().filter_map(|entry| SegmentName::parse(&entry.name));
    let last = found.chain(listed.iter().copied()).max_by_key(|name| name.epoch);
    last.map_or(Some(1), |name| name.epoch.checked_add(1)).ok_or_else(|| {
        let path = last.map(|name| name.path(&options.directory)).unwrap_or_default();
        Error::corrupt(&path, 0, "no log has this epoch: move the file away")
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::config::Limits;
    use crate::io::Io;
    use crate::io::sim::SimIo;
    use crate::types::IndexId;

    #[test]
    fn a_stranger_s_file_of_the_last_epoch_is_an_error_and_no_overflow() {
        let disk = SimIo::new();
        let options = LogOptions::new(Arc::new(disk.clone()), "/".into(), IndexId::nil(), &Limits::default());
        assert_eq!(next_epoch(&options, &[]).unwrap(), 1);
        let name = SegmentName { first_lsn: 1, epoch: u32::MAX };
        disk.create(&name.path(Path::new("/"))).unwrap();
        let error = next_epoch(&options, &[]).unwrap_err().to_string();
        assert!(error.contains("4294967295.wal"), "{error}");
    }
}
