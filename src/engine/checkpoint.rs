//! A checkpoint writes what is new since the last one, names it in a manifest, and lets the log go.
//!
//! Rows keep their numbers: a file takes the place of the same rows in memory, so that the id map and what is deleted meanwhile need
//! no translation, and writers wait only while the View is exchanged.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use roaring::RoaringBitmap;

use super::index::Index;
use super::retention::oldest_lsn;
use super::shared_log::SharedLog;
use super::view::{Segment, View};
use crate::checkpoint::keys::Answer;
use crate::checkpoint::{dead, file, keys};
use crate::error::{Error, Result};
use crate::format::manifest::{
    Manifest, SEGMENT_DIRECTORY, SegmentFile, SideFile, dead_name, fields_name, keys_name, segment_name,
};
use crate::format::position::{Place, Position};
use crate::io::Io;
use crate::segment::Rows;
use crate::segment::filter::fields::Fields;
use crate::segment::positions::Positions;
use crate::segment::sealed::{self, Sealed};
use crate::types::{CheckpointReport, Lsn, Metric, Row};

/// So many segments of about the same size are written as one. Each row is then written again once for each power of this that the index
/// grows by.
const MERGE_SEGMENTS: usize = 8;

/// A checkpoint lets the log go on in a new segment where the present one has grown past this and past such a share of the data (a divisor): only
/// whole segments are removed, and what is in them is in the checkpoint.
const ROTATE_BYTES_MIN: u64 = 4 << 20;
const ROTATE_SHARE: u64 = 16;

/// The files of the newest manifest.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) next_number: u64,
    /// By rising first row, as the sealed segments of the state.
    pub(super) segments: Vec<SealedFile>,
    pub(super) keys: Option<WrittenKeys>,
}

/// The keys that the newest manifest has.
#[derive(Clone, Debug)]
pub(super) struct WrittenKeys {
    pub(super) file: SideFile,
    /// The first mutation that has one of them, and the last.
    pub(super) span: (Lsn, Lsn),
}

/// The first and the last mutation that has a key; `None`: no key is remembered.
pub(super) fn span(answers: &VecDeque<Arc<Answer>>) -> Option<(Lsn, Lsn)> {
    Some((answers.front()?.lsn, answers.back()?.lsn))
}

/// A sealed segment, as the newest manifest has it.
#[derive(Clone, Debug)]
pub(super) struct SealedFile {
    pub(super) file: SegmentFile,
    /// The rows that are dead by it.
    pub(super) dead: Positions,
    /// A compaction reads it: it stays as it is, but for rows that die.
    pub(super) busy: bool,
}

impl Files {
    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

/// The state that a checkpoint writes: nothing after it changes the rows in it.
struct Frozen {
    view: Arc<View>,
    /// The place in the log up to which the state has everything.
    position: Position,
    /// A place in the shared log, where there is one, of which the state has everything before.
    shared: Option<Place>,
    /// [`FileLog::appended_bytes`](crate::wal::file_log::FileLog::appended_bytes) at that place.
    appended_bytes: u64,
    /// By rising LSN.
    answers: VecDeque<Arc<Answer>>,
}

/// With `rotates`, the log goes on in a new segment, and the checkpoint needs nothing of those before.
pub(super) fn checkpoint(index: &Index, rotates: bool) -> Result<CheckpointReport> {
    let mut files = index.files.lock();
    // 1. Choose n: the end of a group, durable. What no file may hold an effect of begins after it, in a new chunk.
    let frozen = freeze(index, &files, rotates);
    // It synced the log.
    index.listeners.wake();
    let Some(frozen) = frozen? else {
        let lsn = index.checkpoint_lsn.load(Relaxed);
        return Ok(CheckpointReport { lsn, bytes_written: 0, log_files_removed: 0 });
    };
    // What was deleted stays in the log and in the past: an erasure keeps none.
    let history_bytes = if rotates { 0 } else { index.config.load().options.log_retention_bytes.unwrap_or(0) };
    let n = frozen.view.lsn;
    let horizon = if history_bytes == 0 { n } else { index.history.horizon() };
    let kept_dead = index.history.dead_since(horizon, &frozen.view.segments);
    let mut plan = Plan::new(&frozen.view, &files, horizon, kept_dead, index.policy()?.0.build_rows);
    plan.history_bytes = history_bytes;
    let mut done = write_or_clean_up(index, &mut files, &frozen, &plan);
    // No room is left for what is kept for the feed alone.
    plan.history_bytes = 0;
    if matches!(done, Err(Error::Full(_))) && index.release_history()? {
        done = write_or_clean_up(index, &mut files, &frozen, &plan);
    }
    if matches!(done, Err(Error::Full(_))) && index.reserve.release() {
        done = write_or_clean_up(index, &mut files, &frozen, &plan);
    }
    if done.is_ok() {
        index.reserve.restore();
        index.schedule_builds();
    }
    done
}

fn write_or_clean_up(index: &Index, files: &mut Files, frozen: &Frozen, plan: &Plan) -> Result<CheckpointReport> {
    let _timed = index.stages.checkpoint.start_timer();
    let first_number = files.next_number;
    let done = write_and_publish(index, files, frozen, plan);
    if let Err(error) = &done
        && !matches!(error, Error::OutcomeUnknown(_))
    {
        // No manifest names what was written: on a full disk, let go of it now and not at the next opening.
        for number in first_number..files.next_number {
            for name in [segment_name, dead_name, fields_name, keys_name].map(|name_of| name_of(number)) {
                let _ = index.io.remove_file(&index.directory.join(SEGMENT_DIRECTORY).join(name));
            }
        }
    }
    done
}

fn write_and_publish(index: &Index, files: &mut Files, frozen: &Frozen, plan: &Plan) -> Result<CheckpointReport> {
    let Frozen { view, position, shared, appended_bytes, answers } = frozen;
    let directory = index.directory.join(SEGMENT_DIRECTORY);
    // 2. Write the files, each synced. No manifest names them: a crash here leaves nothing but what the next opening removes.
    let mut written = write_files(index, &directory, view, plan, files)?;
    let keys = write_keys(index, &directory, answers, files, &mut written.bytes)?;
    // 3. Make their names durable: the manifest must never name a file that a crash can lose.
    index.io.sync_dir(&directory).map_err(|error| Error::io("sync", &directory, error))?;
    // 4. Open what was written, as the next opening will: what cannot be read back must not replace what can.
    let merged = &view.segments[plan.merge_from..];
    let sealed = written
        .new
        .as_ref()
        .map(|file| open_new(index, &directory, file, merged, |at| plan.kept_positions(view, plan.merge_from + at)))
        .transpose()?;
    // 5. The one atomic step. It also lets go of log before n that is not kept for the change feed, and of what only older manifests name.
    let mut segments = written.kept;
    segments.extend(written.new.map(|file| SealedFile { file, dead: written.new_dead, busy: false }));
    let (manifest_bytes, log_files_removed) = publish(index, files, segments, |manifest| {
        (manifest.position, manifest.shared) = (*position, *shared);
        index.drop_log(manifest, plan.history_bytes);
        manifest.keys = keys.as_ref().map(|keys| keys.file.clone());
    })?;
    files.keys = keys;
    index.checkpoint_lsn.store(position.lsn, Relaxed);
    // 6. Serve from the files, and free the memory.
    let mut writer = index.writer.lock();
    writer.checkpoint_appended_bytes = *appended_bytes;
    // Before the View that lacks rows: who has that one finds their state gone.
    index.history.raise(plan.horizon.max(oldest_lsn(index.root.lock().current()) - 1));
    let now = &mut writer.state.segments;
    let run = plan.merge_from..view.segments.len();
    let new = sealed
        .map(|new| carry_over(new, &now[run.clone()], |at, position| plan.leaves_out(view, plan.merge_from + at, position)));
    now.splice(run, new);
    for &at in plan.dropped.iter().rev() {
        now.remove(at);
    }
    index.shared.exchange(writer.state.view());
    Ok(CheckpointReport { lsn: position.lsn, bytes_written: written.bytes + manifest_bytes, log_files_removed })
}

/// Publishes a manifest with these segments, and takes it over into `files`. Gives the manifest's bytes and how many log segments went.
///
/// # Errors
/// As [`Root::publish`](crate::checkpoint::manifest::Root::publish); where the outcome is unknown, the index is read-only from now on.
pub(super) fn publish(
    index: &Index,
    files: &mut Files,
    segments: Vec<SealedFile>,
    change: impl FnOnce(&mut Manifest),
) -> Result<(u64, usize)> {
    let published = index.root.lock().publish(|manifest| {
        manifest.segments = segments.iter().map(|segment| segment.file.clone()).collect();
        change(manifest);
    });
    if let Err(error @ Error::OutcomeUnknown(_)) = &published {
        index.poison(&error.to_string());
    }
    let published = published?;
    files.segments = segments;
    index.sealed_bytes.store(files.segments.iter().map(|segment| segment.file.checksum.bytes).sum(), Relaxed);
    Ok(published)
}

/// Syncs the log, and gives the state at its end; `None` where the newest checkpoint has it.
fn freeze(index: &Index, files: &Files, rotates: bool) -> Result<Option<Frozen>> {
    let mut writer = index.writer.lock();
    if let Some(why) = index.poison.get() {
        return Err(Error::Closed(Arc::clone(why)));
    }
    if let Some(error @ Error::NotFound(_)) = &writer.closed {
        return Err(error.clone());
    }
    let is_large = writer.log.segment_bytes() > ROTATE_BYTES_MIN.max(index.sealed_bytes.load(Relaxed) / ROTATE_SHARE);
    let mut synced = if rotates || is_large { index.start_log_segment(&mut writer.log) } else { writer.log.sync() };
    if !rotates && matches!(synced, Err(Error::Full(_) | Error::Io(_))) {
        // It was to save space, and can wait.
        synced = writer.log.sync();
    }
    index.note_log(&writer.log);
    synced?;
    let position = writer.log.position();
    let view = index.shared.view.load_full();
    // Metadata indexes are no part of the state, and may have been made since.
    let has_new_fields = || view.segments.iter().zip(&files.segments).any(|(segment, kept)| new_fields(segment, kept).is_some());
    if position.lsn == index.checkpoint_lsn.load(Relaxed) && !rotates && !has_new_fields() {
        return Ok(None);
    }
    writer.state.freeze();
    debug_assert_eq!(view.lsn, writer.log.written_lsn());
    let (appended_bytes, answers) = (writer.log.appended_bytes(), writer.state.keys.answers());
    let shared = writer.shared_log.as_ref().map(SharedLog::place);
    Ok(Some(Frozen { view, position, shared, appended_bytes, answers }))
}

/// What a checkpoint does with each segment of its View.
struct Plan {
    /// Segments from here on are written into one new file.
    merge_from: usize,
    /// Segments before that of which no row is kept: they are dropped.
    dropped: Vec<usize>,
    /// The oldest state of which it leaves out no row.
    horizon: Lsn,
    /// Of each segment, the dead rows that are kept for that.
    kept_dead: Vec<Positions>,
    /// Bytes of log that it keeps for the change feed.
    history_bytes: u64,
}

impl Plan {
    /// Segments of `build_rows` live rows wait for an index and are merged by a compaction, with their indexes.
    fn new(view: &View, files: &Files, horizon: Lsn, kept_dead: Vec<Positions>, build_rows: u64) -> Self {
        let kept = |at: usize| view.segments[at].live() + kept_dead[at].len();
        let sealed = files.segments.len();
        let merges = |at: usize| {
            let segment = &view.segments[at];
            !files.segments[at].busy && segment.build.is_none() && kept(at) < build_rows
        };
        debug_assert!(view.segments[..sealed].iter().all(|segment| matches!(segment.rows, Rows::Sealed(_))));
        let new_rows: u64 = (sealed..view.segments.len()).map(kept).sum();
        // Merging when enough segments of at most this size have gathered keeps their number to some for each power of the fan-in: what is
        // merged may in turn be one of enough segments of its size.
        let (mut merge_from, mut rows) = (sealed, new_rows);
        loop {
            let small = (0..merge_from).rev().take_while(|&at| merges(at) && kept(at) <= 2 * rows).count();
            if small + 1 < MERGE_SEGMENTS {
                break;
            }
            rows += (merge_from - small..merge_from).map(kept).sum::<u64>();
            merge_from -= small;
        }
        // A file numbers its rows by 32-bit offsets from the first.
        if let (Some(first), Some(last)) = (view.segments.get(merge_from), view.segments.last())
            && last.rows.first_row() - first.rows.first_row() > Row::from(u32::MAX / 2)
        {
            merge_from = sealed;
        }
        let dropped = (0..merge_from).filter(|&at| kept(at) == 0 && !files.segments[at].busy).collect();
        Self { merge_from, dropped, horizon, kept_dead, history_bytes: 0 }
    }

    fn leaves_out(&self, view: &View, at: usize, position: usize) -> bool {
        view.segments[at].dead.contains(position) && !self.kept_dead[at].contains(position)
    }

    /// Positions of a segment's rows that are written again.
    fn kept_positions(&self, view: &View, at: usize) -> impl Iterator<Item = usize> {
        (0..view.segments[at].len).filter(move |&position| !self.leaves_out(view, at, position))
    }
}

/// The files of the new checkpoint.
struct Written {
    /// Of segments that stay, with their dead rows.
    kept: Vec<SealedFile>,
    new: Option<SegmentFile>,
    /// Its rows that are dead.
    new_dead: Positions,
    bytes: u64,
}

fn write_files(index: &Index, directory: &Path, view: &View, plan: &Plan, files: &mut Files) -> Result<Written> {
    let mut written = Written { kept: Vec::new(), new: None, new_dead: Positions::default(), bytes: 0 };
    for at in (0..plan.merge_from).filter(|at| !plan.dropped.contains(at)) {
        let segment = &view.segments[at];
        let mut kept = files.segments[at].clone();
        // Rows of a sealed segment only ever die: an equal count is an equal set.
        if segment.dead.len() != kept.dead.len() {
            let dead = write_dead(&*index.io, directory, files.number(), &segment.dead)?;
            written.bytes += dead.checksum.bytes;
            kept.file.dead = Some(dead);
            kept.dead = segment.dead.clone();
        }
        if let Some(fields) = new_fields(segment, &kept) {
            let number = files.number();
            let checksum = file::write(&*index.io, &directory.join(fields_name(number)), &fields.encode())?;
            written.bytes += checksum.bytes;
            kept.file.fields = Some(SideFile { number, checksum });
        }
        written.kept.push(kept);
    }
    let rows: Vec<(&Rows, Vec<u32>)> = (plan.merge_from..view.segments.len())
        .map(|at| (&view.segments[at].rows, plan.kept_positions(view, at).map(|position| position as u32).collect()))
        .collect();
    if rows.iter().any(|(_, positions)| !positions.is_empty()) {
        let mut file = write_segment(index, directory, files.number(), &rows)?;
        written.bytes += file.checksum.bytes;
        let merged = plan.merge_from..view.segments.len();
        let is_dead = merged.flat_map(|at| plan.kept_positions(view, at).map(move |position| (at, position)));
        let is_dead = is_dead.map(|(at, position)| view.segments[at].dead.contains(position));
        written.new_dead = is_dead.enumerate().filter(|&(_, is_dead)| is_dead).map(|(position, _)| position).collect();
        if !written.new_dead.is_empty() {
            let dead = write_dead(&*index.io, directory, files.number(), &written.new_dead)?;
            written.bytes += dead.checksum.bytes;
            file.dead = Some(dead);
        }
        written.new = Some(file);
    }
    Ok(written)
}

/// The metadata index of a sealed segment, where it was made and no file has it.
fn new_fields<'a>(segment: &'a Segment, kept: &SealedFile) -> Option<&'a Fields> {
    match &segment.rows {
        Rows::Sealed(sealed) if kept.file.fields.is_none() => sealed.made_fields(),
        _ => None,
    }
}

/// Writes and syncs the keys, where they are not those that the newest manifest has; the name is made durable by the caller.
fn write_keys(
    index: &Index,
    directory: &Path,
    answers: &VecDeque<Arc<Answer>>,
    files: &mut Files,
    bytes: &mut u64,
) -> Result<Option<WrittenKeys>> {
    let Some(span) = span(answers) else { return Ok(None) };
    if let Some(keys) = files.keys.as_ref().filter(|keys| keys.span == span) {
        return Ok(Some(keys.clone()));
    }
    let file = keys::write(&*index.io, directory, files.number(), answers.iter().map(Arc::as_ref))?;
    *bytes += file.checksum.bytes;
    Ok(Some(WrittenKeys { file, span }))
}

/// Writes and syncs which rows of a segment are dead; the name is made durable by the caller.
pub(super) fn write_dead(io: &dyn Io, directory: &Path, number: u64, dead: &Positions) -> Result<SideFile> {
    let positions: RoaringBitmap = dead.iter().map(|position| position as u32).collect();
    dead::write(io, directory, number, &positions)
}

/// Writes and syncs a new segment of these rows; its name is made durable by the caller.
pub(super) fn write_segment(index: &Index, directory: &Path, number: u64, rows: &[(&Rows, Vec<u32>)]) -> Result<SegmentFile> {
    let path = directory.join(segment_name(number));
    let scaled = index.metric == Metric::Cosine;
    let checksum = sealed::write(&*index.io, &path, index.id, number, index.dimension(), scaled, rows)?;
    Ok(SegmentFile { number, checksum, dead: None, built: None, fields: None })
}

/// Opens what was written of `inputs`, its rows under the numbers that they have there: those at the positions that `kept` gives.
pub(super) fn open_new<P: Iterator<Item = usize>>(
    index: &Index,
    directory: &Path,
    file: &SegmentFile,
    inputs: &[Segment],
    kept: impl Fn(usize) -> P,
) -> Result<Segment> {
    let first_row = inputs[0].rows.first_row();
    let rows = inputs.iter().enumerate();
    let offsets = rows.flat_map(|(at, input)| kept(at).map(move |position| (input.row(position) - first_row) as u32));
    let path = directory.join(segment_name(file.number));
    let sealed = Sealed::open(&*index.io, &path, file.checksum, index.id, file.number, first_row)?;
    let sealed = sealed.with_offsets(offsets.collect());
    if inputs.iter().any(|input| input.rows.has_fields()) {
        // Filters are in use: the next one need not wait for it.
        sealed.fields(&index.shared.view.load().unindexed);
    }
    Ok(segment(sealed, Positions::default()))
}

/// A sealed segment as a View has it.
pub(super) fn segment(sealed: Sealed, dead: Positions) -> Segment {
    let extreme = (0..sealed.len()).filter(|&position| sealed.record(position).extreme).collect();
    let len = sealed.len();
    Segment { rows: Rows::Sealed(Arc::new(sealed)), len, dead, extreme, build: None }
}

/// What takes the place of `inputs`, with those rows dead that died in them since it was written: all that are dead now and were not left out.
pub(super) fn carry_over(mut new: Segment, inputs: &[Segment], left_out: impl Fn(usize, usize) -> bool) -> Segment {
    for (at, input) in inputs.iter().enumerate() {
        for position in input.dead.iter().filter(|&position| !left_out(at, position)) {
            let offset = (input.row(position) - new.rows.first_row()) as u32;
            new.dead.insert(new.rows.position(offset).expect("a row that was not left out was written"));
        }
    }
    new
}
