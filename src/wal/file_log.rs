//! Appends to the log, syncs it, and starts new segments. One writer at a time: the engine's commit leader.
//!
//! *Written* means in the file; *durable* means synced.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::operation::Operation;
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::frame::{FRAME_ALIGN, FRAME_HEADER, FrameHeader, FrameKind, frame_bytes};
use crate::format::header::{FIRST_FRAME, LogHeader};
use crate::format::position::{Position, SegmentName};
use crate::io::{File, Io};
use crate::types::{IndexId, Lsn};

/// The first step by which a segment is allocated ahead; each step doubles, so that thousands of small indices stay small.
const ALLOCATE_BYTES_MIN: u64 = 256 << 10;

/// The largest such step: what one writer in some thousands waits for.
const ALLOCATE_BYTES_MAX: u64 = 4 << 20;

/// Writes of at least this much are not allocated ahead. Allocating spares a small write the journal commit that a growing file costs,
/// and doubles the bytes written; from about here on the bytes cost more. See `docs/decisions/0005-preallocation.md`.
const ALLOCATE_FOR_BELOW: u64 = 64 << 10;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Where a log lives and what bounds it.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    pub(crate) io: Arc<dyn Io>,
    /// The `wal` directory of the index.
    pub(crate) directory: PathBuf,
    pub(crate) index: IndexId,
    pub(crate) segment_bytes: u64,
    pub(crate) frame_bytes_max: usize,
}

impl LogOptions {
    pub(crate) fn new(io: Arc<dyn Io>, directory: PathBuf, index: IndexId, limits: &Limits) -> Self {
        Self { io, directory, index, segment_bytes: limits.log_segment_bytes, frame_bytes_max: limits.frame_bytes_max }
    }

    /// Not more than a segment will have.
    fn first_allocation_bytes(&self) -> u64 {
        ALLOCATE_BYTES_MIN.min(self.segment_bytes.next_multiple_of(FRAME_ALIGN as u64))
    }
}

/// The log of an open index.
#[derive(Debug)]
pub(crate) struct FileLog {
    pub(super) options: LogOptions,
    /// The segment that is appended to. `None` after opening: an old file is never appended to.
    pub(super) active: Option<Active>,
    /// Last LSN in the log.
    pub(super) written_lsn: Lsn,
    /// Last LSN known to be synced. `durable_lsn <= written_lsn`.
    pub(super) durable_lsn: Lsn,
    /// Highest watermark in the log: a crash now would need what is above it to be copied.
    pub(super) marked_lsn: Lsn,
    /// Chain value after the last frame.
    pub(super) chain: u32,
    /// The segment that holds the last frame, and where it ends.
    pub(super) end: Option<(SegmentName, u64)>,
    pub(super) time_us: u64,
    /// Bytes of the frames that were replayed and appended since the log was opened.
    pub(super) appended_bytes: u64,
    pub(super) next_epoch: u32,
    /// Set once a sync failed, for good: what it is that failed.
    pub(super) poisoned: Option<Error>,
}

#[derive(Debug)]
pub(super) struct Active {
    name: SegmentName,
    path: PathBuf,
    file: Arc<dyn File>,
    salt: u64,
    /// Where the next frame goes: a multiple of 512.
    offset: u64,
    /// The file is this long. What is between `offset` and here are zeros that were synced.
    allocated: u64,
    allocate_next: u64,
    /// Bytes were written that were not synced.
    dirty: bool,
}

/// A new segment, synced and named in its directory, that no manifest names yet.
#[derive(Debug)]
#[must_use = "name it in a manifest, then adopt it"]
pub(crate) struct Prepared {
    active: Active,
    /// LSN of the last frame in it.
    pub(super) last_lsn: Lsn,
    pub(super) chain: u32,
}

impl Prepared {
    pub(crate) fn name(&self) -> SegmentName {
        self.active.name
    }
}

/// A frame's content, as recovery keeps it to write it again.
#[derive(Clone, Debug)]
pub(super) struct SavedFrame {
    pub(super) kind: FrameKind,
    pub(super) first_lsn: Lsn,
    pub(super) last_lsn: Lsn,
    pub(super) time_us: u64,
    pub(super) payload: Vec<u8>,
    /// Chain value of the frame before it, in the old segment.
    pub(super) chain_before: u32,
}

impl FileLog {
    pub(crate) fn written_lsn(&self) -> Lsn {
        self.written_lsn
    }

    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// Bytes of the frames that were replayed and appended since the log was opened.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.appended_bytes
    }

    /// Bytes of the segment that is appended to.
    pub(crate) fn segment_bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| active.offset)
    }

    /// Whether something is above every watermark, so that a marker would spare the next opening some work.
    pub(crate) fn wants_marker(&self) -> bool {
        self.marked_lsn < self.written_lsn
    }

    /// The place after the last frame.
    pub(crate) fn position(&self) -> Position {
        Position { lsn: self.written_lsn, chain: self.chain, at: self.end }
    }

    /// # Errors
    /// [`Error::OutcomeUnknown`] for good, once a sync of this log failed.
    pub(crate) fn check(&self) -> Result<()> {
        self.poisoned.clone().map_or(Ok(()), Err)
    }

    /// Refuses every later append: what is on the disk is no longer known.
    pub(crate) fn poison(&mut self, error: Error) {
        tracing::error!(%error, index = %self.options.index, "the log is poisoned; the index is read-only until it is reopened");
        self.poisoned.get_or_insert(error);
    }

    /// Whether the next append needs a new segment first: [`prepare_segment`](Self::prepare_segment), a manifest that names it,
    /// [`adopt`](Self::adopt).
    pub(crate) fn needs_segment(&self) -> bool {
        self.active.as_ref().is_none_or(|active| active.offset >= self.options.segment_bytes)
    }

    /// Makes the next segment, in this order: sync the old one, so that the new one's header speaks of durable frames; write the new
    /// one under a temporary name and sync it, so that a name never stands for less than a header; rename; sync the directory.
    ///
    /// # Errors
    /// Nothing has changed, but for a failed sync of the old segment, which poisons the log.
    pub(crate) fn prepare_segment(&mut self) -> Result<Prepared> {
        self.sync()?;
        self.write_segment(self.written_lsn, self.chain, &[])
    }

    /// A segment that begins after `last_lsn` and holds `frames`.
    pub(super) fn write_segment(&mut self, last_lsn: Lsn, chain: u32, frames: &[SavedFrame]) -> Result<Prepared> {
        let name = SegmentName { first_lsn: last_lsn + 1, epoch: self.next_epoch };
        self.next_epoch += 1;
        let header = LogHeader {
            index: self.options.index,
            epoch: name.epoch,
            first_lsn: name.first_lsn,
            predecessor_last_lsn: last_lsn,
            predecessor_chain: chain,
            salt: uuid::Uuid::new_v4().as_u64_pair().0,
        };
        let io = &self.options.io;
        let path = name.path(&self.options.directory);
        let temporary = path.with_extension("wal.tmp");
        let built = self.fill_segment(&temporary, &header, chain, frames).and_then(|(file, offset, allocated, chain)| {
            io.rename(&temporary, &path).map_err(|error| Error::io("rename", &temporary, error))?;
            // A segment that no manifest names is discarded by the next opening: if this fails, nothing was lost.
            io.sync_dir(&self.options.directory).map_err(|error| Error::io("sync", &self.options.directory, error))?;
            Ok((file, offset, allocated, chain))
        });
        match built {
            Ok((file, offset, allocated, chain)) => Ok(Prepared {
                active: Active {
                    name,
                    path,
                    file,
                    salt: header.salt,
                    offset,
                    allocated,
                    allocate_next: self.options.first_allocation_bytes() * 2,
                    dirty: false,
                },
                last_lsn: frames.last().map_or(last_lsn, |frame| frame.last_lsn),
                chain,
            }),
            Err(error) => {
                // Best effort: a leftover is removed by the next opening.
                let _ = io.remove_file(&temporary);
                let _ = io.remove_file(&path);
                Err(error)
            }
        }
    }

    /// Header, frames and the first allocation, synced. Gives the file, where the frames end, the file's length, the chain value.
    fn fill_segment(
        &self,
        path: &Path,
        header: &LogHeader,
        mut chain: u32,
        frames: &[SavedFrame],
    ) -> Result<(Arc<dyn File>, u64, u64, u32)> {
        let io = &self.options.io;
        match io.remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", path, error)),
            _ => {}
        }
        let file = io.create(path).map_err(|error| Error::io("create", path, error))?;
        let write = |offset, parts: &[&[u8]]| write_all(&*file, path, offset, parts);
        let mut offset = FIRST_FRAME;
        write(0, &[&header.encode(), &ZEROS[..FRAME_ALIGN - 64]])?;
        for frame in frames {
            let mut head = FrameHeader {
                kind: frame.kind,
                payload_bytes: length_u32(frame.payload.len()),
                offset: offset_u32(offset),
                salt: header.salt,
                first_lsn: frame.first_lsn,
                last_lsn: frame.last_lsn,
                // This segment serves only once all of it is synced, but its frames do not vouch for themselves.
                watermark: header.predecessor_last_lsn,
                time_us: frame.time_us,
                chain: 0,
            };
            let bytes = head.seal(chain, &[&frame.payload]);
            write(offset, &[&bytes, &frame.payload, padding(frame.payload.len())])?;
            offset += head.frame_bytes();
            chain = head.chain;
        }
        let allocated = offset + self.options.first_allocation_bytes();
        write_zeros(&*file, path, offset, allocated)?;
        file.sync_data().map_err(|error| Error::io("sync", path, error))?;
        Ok((file, offset, allocated, chain))
    }

    /// Appends go to this segment from now on. A manifest names it.
    pub(crate) fn adopt(&mut self, prepared: Prepared) {
        debug_assert!(prepared.last_lsn >= self.written_lsn);
        self.chain = prepared.chain;
        self.written_lsn = prepared.last_lsn;
        self.durable_lsn = prepared.last_lsn;
        self.end = Some((prepared.active.name, prepared.active.offset));
        self.active = Some(prepared.active);
    }

    /// Removes a segment that no manifest names. Best effort: a leftover is removed by the next opening.
    pub(crate) fn discard(&self, prepared: Prepared) {
        let _ = self.options.io.remove_file(&prepared.active.path);
    }

    /// Writes one group of operations as one frame, or one operation that is too large for a frame as several; nothing is synced.
    /// Gives the LSN of the last operation: they have consecutive ones.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::Io`]: nothing was stored, and the log is as before. [`Error::OutcomeUnknown`]: that could not be made
    /// sure, and the log is poisoned.
    ///
    /// # Panics
    /// Where [`needs_segment`](Self::needs_segment), or where several operations are more than a frame together: our own mistake.
    pub(crate) fn append(&mut self, operations: &[&Operation<'_>]) -> Result<Lsn> {
        self.append_at(operations, self.clock_us())
    }

    /// The same with the commit time that a shared log has of these operations, so that every node's log says the same of them.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(crate) fn append_at(&mut self, operations: &[&Operation<'_>], time_us: u64) -> Result<Lsn> {
        self.check()?;
        let encoded: Vec<(Vec<u8>, &[u8])> = operations.iter().map(|operation| operation.encode()).collect();
        let parts: Vec<&[u8]> = encoded.iter().flat_map(|(head, tail)| [head.as_slice(), tail]).collect();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let first_lsn = self.written_lsn + 1;
        let last_lsn = self.written_lsn + operations.len() as u64;
        if bytes <= self.options.frame_bytes_max {
            self.append_frames(&[(FrameKind::Operations, parts)], first_lsn, last_lsn, time_us)?;
        } else {
            assert_eq!(operations.len(), 1, "only a single operation spans frames");
            let pieces = cut(&parts, self.options.frame_bytes_max);
            let last = pieces.len() - 1;
            let kind = |at| if at == last { FrameKind::LastPart } else { FrameKind::Part };
            let frames: Vec<_> = pieces.into_iter().enumerate().map(|(at, piece)| (kind(at), piece)).collect();
            self.append_frames(&frames, first_lsn, last_lsn, time_us)?;
        }
        self.written_lsn = last_lsn;
        Ok(last_lsn)
    }

    /// Writes and syncs a frame that holds nothing but a watermark over everything before it.
    ///
    /// # Errors
    /// As [`append`](Self::append) and [`sync`](Self::sync).
    pub(crate) fn append_marker(&mut self) -> Result<()> {
        self.sync()?;
        if self.active.is_some() {
            self.append_frames(&[(FrameKind::Marker, Vec::new())], self.written_lsn + 1, self.written_lsn, self.clock_us())?;
            self.sync()?;
        }
        Ok(())
    }

    /// Makes everything that is written durable.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`]: the log is poisoned. There is no second try: Linux may by now call pages clean that never
    /// reached the disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.check()?;
        if let Some(active) = self.active.as_mut().filter(|active| active.dirty) {
            if let Err(error) = active.file.sync_data() {
                let error = Error::io("sync", &active.path, error).into_outcome_unknown();
                self.poison(error.clone());
                return Err(error);
            }
            active.dirty = false;
        }
        self.durable_lsn = self.written_lsn;
        Ok(())
    }

    /// Now, and never before the frame before.
    fn clock_us(&self) -> u64 {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        now_us.max(self.time_us)
    }

    fn append_frames(&mut self, frames: &[(FrameKind, Vec<&[u8]>)], first_lsn: Lsn, last_lsn: Lsn, time_us: u64) -> Result<()> {
        let (watermark, mut chain) = (self.durable_lsn, self.chain);
        let active = self.active.as_mut().expect("a segment was adopted before appending");
        let mut offset = active.offset;
        let mut written = active.allocate(frames);
        for (kind, payload) in frames {
            let payload_bytes = payload.iter().map(|part| part.len()).sum();
            let mut header = FrameHeader {
                kind: *kind,
                payload_bytes: length_u32(payload_bytes),
                offset: offset_u32(offset),
                salt: active.salt,
                first_lsn,
                last_lsn,
                watermark,
                time_us,
                chain: 0,
            };
            let head = header.seal(chain, payload);
            let mut parts = Vec::with_capacity(payload.len() + 2);
            parts.push(&head[..]);
            parts.extend_from_slice(payload);
            parts.push(padding(payload_bytes));
            written = written.and_then(|()| write_all(&*active.file, &active.path, offset, &parts));
            chain = header.chain;
            offset += header.frame_bytes();
        }
        active.dirty = true;
        match written {
            Ok(()) => {}
            Err(error @ Error::OutcomeUnknown(_)) => {
                self.poison(error.clone());
                return Err(error);
            }
            Err(error) => return Err(self.roll_back(error)),
        }
        self.appended_bytes += offset - active.offset;
        active.offset = offset;
        active.allocated = active.allocated.max(offset);
        self.end = Some((active.name, offset));
        (self.chain, self.time_us) = (chain, time_us);
        self.marked_lsn = watermark;
        Ok(())
    }

    /// Cuts off what a failed append may have left, durably: a frame whose writer was told "nothing was stored" must not come back.
    fn roll_back(&mut self, error: Error) -> Error {
        let active = self.active.as_mut().expect("an append failed on it");
        match active.file.set_len(active.offset).and_then(|()| active.file.sync_data()) {
            Ok(()) => {
                active.allocated = active.offset;
                // The sync covered the frames before as well.
                active.dirty = false;
                self.durable_lsn = self.written_lsn;
                error
            }
            Err(second) => {
                tracing::error!(error = %second, "rolling back a failed append failed");
                let unknown = error.into_outcome_unknown();
                self.poison(unknown.clone());
                unknown
            }
        }
    }
}

impl Active {
    #[cfg(test)]
    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Makes room ahead for small frames, so that their sync need not commit a new file length. Synced before a frame relies on it.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] where the sync failed: earlier frames of this file may be lost with it.
    fn allocate(&mut self, frames: &[(FrameKind, Vec<&[u8]>)]) -> Result<()> {
        let bytes: u64 = frames.iter().map(|(_, payload)| frame_bytes(payload.iter().map(|part| part.len()).sum())).sum();
        if self.offset + bytes <= self.allocated || bytes >= ALLOCATE_FOR_BELOW {
            return Ok(());
        }
        let end = self.allocated.max(self.offset) + self.allocate_next;
        match write_zeros(&*self.file, &self.path, self.allocated, end) {
            Err(Error::Full(_)) => {
                // Less than a step is left, but the frame itself may fit.
                self.file.set_len(self.allocated).map_err(|error| Error::io("truncate", &self.path, error))?;
                self.allocate_next = self.allocate_next.min(ALLOCATE_BYTES_MIN);
                return Ok(());
            }
            other => other?,
        }
        self.file.sync_data().map_err(|error| Error::io("sync", &self.path, error).into_outcome_unknown())?;
        self.allocated = end;
        self.allocate_next = (self.allocate_next * 2).min(ALLOCATE_BYTES_MAX);
        Ok(())
    }
}

/// Cuts `parts`, taken as one run of bytes, into pieces of `piece_bytes`; the last one may be shorter.
fn cut<'a>(parts: &[&'a [u8]], piece_bytes: usize) -> Vec<Vec<&'a [u8]>> {
    let mut pieces = vec![Vec::new()];
    let mut room = piece_bytes;
    for mut part in parts.iter().copied() {
        while !part.is_empty() {
            if room == 0 {
                pieces.push(Vec::new());
                room = piece_bytes;
            }
            let (piece, rest) = part.split_at(part.len().min(room));
            pieces.last_mut().expect("never empty").push(piece);
            room -= piece.len();
            part = rest;
        }
    }
    pieces
}

/// The zeros that follow a payload of this length.
fn padding(payload_bytes: usize) -> &'static [u8] {
    &ZEROS[..frame_bytes(payload_bytes) as usize - FRAME_HEADER - payload_bytes]
}

fn length_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a frame is smaller than 4 GiB")
}

fn offset_u32(offset: u64) -> u32 {
    u32::try_from(offset).expect("a log segment is smaller than 4 GiB: it is rotated, and an operation is bounded")
}

fn write_all(file: &dyn File, path: &Path, offset: u64, parts: &[&[u8]]) -> Result<()> {
    let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    file.write_at(offset, &slices).map_err(|error| Error::io("write", path, error))
}

fn write_zeros(file: &dyn File, path: &Path, from: u64, to: u64) -> Result<()> {
    let mut parts = Vec::new();
    let mut left = (to - from) as usize;
    while left > 0 {
        let part = &ZEROS[..left.min(ZEROS.len())];
        parts.push(part);
        left -= part.len();
    }
    write_all(file, path, from, &parts)
}
