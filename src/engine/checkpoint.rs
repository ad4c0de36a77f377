//! A checkpoint writes what is new since the last one, names it in a manifest, and lets the log go.
//!
//! Rows keep their numbers: a file takes the place of the same rows in memory, so that the id map and what is deleted meanwhile need
//! no translation, and writers wait only while the View is exchanged.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use roaring::RoaringBitmap;

use super::index::Index;
use super::view::{Segment, View};
use crate::checkpoint::dead;
use crate::error::{Error, Result};
use crate::format::manifest::{DeadFile, SEGMENT_DIRECTORY, SegmentFile, dead_name, segment_name};
use crate::format::position::Position;
use crate::io::Io;
use crate::segment::Rows;
use crate::segment::sealed::{self, Sealed};
use crate::types::{CheckpointReport, Metric, Row};

/// So many segments of about the same size are written as one. Each row is then written again once for each power of this that the index
/// grows by.
const MERGE_SEGMENTS: usize = 8;

/// The files of the newest checkpoint.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) next_number: u64,
    /// By rising first row, as the sealed segments of the state.
    pub(super) segments: Vec<SegmentFile>,
    /// How many rows of each are dead by its file.
    pub(super) dead_counts: Vec<u64>,
}

impl Files {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

/// The state that a checkpoint writes: nothing after it changes the rows in it.
struct Frozen {
    view: Arc<View>,
    /// The place in the log up to which the state has everything.
    position: Position,
    /// [`FileLog::appended_bytes`](crate::wal::file_log::FileLog::appended_bytes) at that place.
    appended_bytes: u64,
}

pub(super) fn checkpoint(index: &Index) -> Result<CheckpointReport> {
    let mut files = index.files.lock();
    // 1. Choose n: the end of a group, durable. What no file may hold an effect of begins after it, in a new chunk.
    let Some(frozen) = freeze(index)? else {
        let lsn = index.checkpoint_lsn.load(Relaxed);
        return Ok(CheckpointReport { lsn, bytes_written: 0, log_files_removed: 0 });
    };
    let plan = Plan::new(&frozen.view, &files);
    let mut done = write_or_clean_up(index, &mut files, &frozen, &plan);
    if matches!(done, Err(Error::Full(_))) && index.reserve.release() {
        done = write_or_clean_up(index, &mut files, &frozen, &plan);
    }
    if done.is_ok() {
        index.reserve.restore();
    }
    done
}

fn write_or_clean_up(index: &Index, files: &mut Files, frozen: &Frozen, plan: &Plan) -> Result<CheckpointReport> {
    let first_number = files.next_number;
    let done = write_and_publish(index, files, frozen, plan);
    if let Err(error) = &done
        && !matches!(error, Error::OutcomeUnknown(_))
    {
        // No manifest names what was written: on a full disk, let go of it now and not at the next opening.
        for number in first_number..files.next_number {
            for name in [segment_name(number), dead_name(number)] {
                let _ = index.io.remove_file(&index.directory.join(SEGMENT_DIRECTORY).join(name));
            }
        }
    }
    done
}

fn write_and_publish(index: &Index, files: &mut Files, frozen: &Frozen, plan: &Plan) -> Result<CheckpointReport> {
    let Frozen { view, position, appended_bytes } = frozen;
    let directory = index.directory.join(SEGMENT_DIRECTORY);
    // 2. Write the files, each synced. No manifest names them: a crash here leaves nothing but what the next opening removes.
    let written = write_files(index, &directory, view, plan, files)?;
    // 3. Make their names durable: the manifest must never name a file that a crash can lose.
    index.io.sync_dir(&directory).map_err(|error| Error::io("sync", &directory, error))?;
    // 4. Open what was written, as the next opening will: what cannot be read back must not replace what can.
    let sealed = written.new.as_ref().map(|file| open_new(index, &directory, view, plan, file)).transpose()?;
    // 5. The one atomic step. It also lets go of log before n, and of what only older manifests name.
    let segments = written.segments();
    let published = index.root.lock().publish(|manifest| {
        manifest.position = *position;
        manifest.segments = segments.clone();
        manifest.log.retain(|&name| position.at.is_none_or(|(first, _)| name >= first));
    });
    if let Err(error @ Error::OutcomeUnknown(_)) = &published {
        index.poison(&error.to_string());
    }
    let (manifest_bytes, log_files_removed) = published?;
    // 6. Serve from the files, and free the memory.
    files.segments = segments;
    files.dead_counts = written.dead_counts.clone();
    index.sealed_bytes.store(files.segments.iter().map(|segment| segment.checksum.bytes).sum(), Relaxed);
    index.checkpoint_lsn.store(position.lsn, Relaxed);
    swap(index, view, plan, sealed, *appended_bytes);
    Ok(CheckpointReport { lsn: position.lsn, bytes_written: written.bytes + manifest_bytes, log_files_removed })
}

/// Syncs the log, and gives the state at its end; `None` where the newest checkpoint has it.
fn freeze(index: &Index) -> Result<Option<Frozen>> {
    let mut writer = index.writer.lock();
    if let Some(why) = index.poison.get() {
        return Err(Error::Closed(Arc::clone(why)));
    }
    if let Some(error @ Error::NotFound(_)) = &writer.closed {
        return Err(error.clone());
    }
    let synced = writer.log.sync();
    index.note_log(&writer.log);
    synced?;
    let position = writer.log.position();
    if position.lsn == index.checkpoint_lsn.load(Relaxed) {
        return Ok(None);
    }
    writer.state.freeze();
    let view = index.shared.view.load_full();
    debug_assert_eq!(view.lsn, writer.log.written_lsn());
    Ok(Some(Frozen { view, position, appended_bytes: writer.log.appended_bytes() }))
}

/// What a checkpoint does with each segment of its View.
struct Plan {
    /// Segments from here on are written into one new file.
    merge_from: usize,
    /// Segments before that which have no live row: they are dropped.
    dropped: Vec<usize>,
}

impl Plan {
    fn new(view: &View, files: &Files) -> Self {
        let sealed = files.segments.len();
        debug_assert!(view.segments[..sealed].iter().all(|segment| matches!(segment.rows, Rows::Sealed(_))));
        let new_rows: u64 = view.segments[sealed..].iter().map(Segment::live).sum();
        // Merging when enough segments of at most this size have gathered keeps their number to some for each power of the fan-in: what is
        // merged may in turn be one of enough segments of its size.
        let (mut merge_from, mut rows) = (sealed, new_rows);
        loop {
            let small = view.segments[..merge_from].iter().rev().take_while(|segment| segment.live() <= 2 * rows).count();
            if small + 1 < MERGE_SEGMENTS {
                break;
            }
            rows += view.segments[merge_from - small..merge_from].iter().map(Segment::live).sum::<u64>();
            merge_from -= small;
        }
        // A file numbers its rows by 32-bit offsets from the first.
        if let (Some(first), Some(last)) = (view.segments.get(merge_from), view.segments.last())
            && last.rows.first_row() - first.rows.first_row() > Row::from(u32::MAX / 2)
        {
            merge_from = sealed;
        }
        let dropped = (0..merge_from).filter(|&at| view.segments[at].live() == 0).collect();
        Self { merge_from, dropped }
    }
}

/// The files of the new checkpoint.
struct Written {
    /// Of segments that stay, with their dead rows.
    kept: Vec<SegmentFile>,
    new: Option<SegmentFile>,
    dead_counts: Vec<u64>,
    bytes: u64,
}

impl Written {
    fn segments(&self) -> Vec<SegmentFile> {
        self.kept.iter().chain(&self.new).cloned().collect()
    }
}

fn write_files(index: &Index, directory: &Path, view: &View, plan: &Plan, files: &mut Files) -> Result<Written> {
    let io = &*index.io;
    let mut written = Written { kept: Vec::new(), new: None, dead_counts: Vec::new(), bytes: 0 };
    for at in (0..plan.merge_from).filter(|at| !plan.dropped.contains(at)) {
        let segment = &view.segments[at];
        let mut file = files.segments[at].clone();
        // Rows of a sealed segment only ever die: an equal count is an equal set.
        if segment.dead.len() != files.dead_counts[at] {
            let dead = write_dead(io, directory, files.number(), segment)?;
            written.bytes += dead.checksum.bytes;
            file.dead = Some(dead);
        }
        written.kept.push(file);
        written.dead_counts.push(segment.dead.len());
    }
    let rows: Vec<(&Rows, Vec<u32>)> = view.segments[plan.merge_from..]
        .iter()
        .map(|segment| (&segment.rows, segment.live_positions().map(|position| position as u32).collect()))
        .collect();
    if rows.iter().any(|(_, positions)| !positions.is_empty()) {
        let number = files.number();
        let path = directory.join(segment_name(number));
        let scaled = index.metric == Metric::Cosine;
        let checksum = sealed::write(io, &path, index.id, number, index.dimension(), scaled, &rows)?;
        written.bytes += checksum.bytes;
        written.new = Some(SegmentFile { number, checksum, dead: None });
        written.dead_counts.push(0);
    }
    Ok(written)
}

fn write_dead(io: &dyn Io, directory: &Path, number: u64, segment: &Segment) -> Result<DeadFile> {
    let positions: RoaringBitmap =
        segment.dead.iter().filter_map(|offset| segment.rows.position(offset)).map(|position| position as u32).collect();
    dead::write(io, directory, number, &positions)
}

/// The new file, its rows under the numbers that they have in memory.
fn open_new(index: &Index, directory: &Path, view: &View, plan: &Plan, file: &SegmentFile) -> Result<Segment> {
    let merged = &view.segments[plan.merge_from..];
    let first_row = merged[0].rows.first_row();
    let offsets = merged.iter().flat_map(|segment| {
        let base = (segment.rows.first_row() - first_row) as u32;
        segment.live_positions().map(move |position| base + segment.rows.offset(position))
    });
    let path = directory.join(segment_name(file.number));
    let sealed = Sealed::open(&*index.io, &path, file.checksum, index.id, file.number, first_row)?;
    Ok(segment(sealed.with_offsets(offsets.collect()), RoaringBitmap::new()))
}

/// A sealed segment as a View has it; `dead` are offsets.
pub(super) fn segment(sealed: Sealed, dead: RoaringBitmap) -> Segment {
    let extreme = (0..sealed.len()).filter(|&position| sealed.record(position).extreme).map(|position| sealed.offset(position));
    let (extreme, len) = (Arc::new(extreme.collect()), sealed.len());
    Segment { rows: Rows::Sealed(Arc::new(sealed)), len, dead: Arc::new(dead), extreme }
}

/// Puts the new file in the place of the rows that it holds. What died since the View was taken is dead in it too.
fn swap(index: &Index, view: &View, plan: &Plan, sealed: Option<Segment>, appended_bytes: u64) {
    let mut writer = index.writer.lock();
    writer.checkpoint_appended_bytes = appended_bytes;
    let now = &mut writer.state.segments;
    let merged = plan.merge_from..view.segments.len();
    let new = sealed.map(|mut new| {
        let first_row = new.rows.first_row();
        let died = now[merged.clone()].iter().zip(&view.segments[merged.clone()]).flat_map(|(now, then)| {
            let base = (now.rows.first_row() - first_row) as u32;
            let since = &*now.dead - &*then.dead;
            since.into_iter().map(move |offset| base + offset)
        });
        new.dead = Arc::new(died.collect());
        new
    });
    now.splice(merged, new);
    for &at in plan.dropped.iter().rev() {
        now.remove(at);
    }
    index.shared.view.store(writer.state.view());
}
