//! Looks for everything that is wrong with an index, where an opening stops at the first thing. Reads every byte that a manifest names, and writes none.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use serde::Serialize;

use super::find::in_parallel;
use super::recover::{self, Loaded, Lost};
use super::retention::oldest_lsn;
use super::survey::{Survey, rows_of};
use super::view::{Build, Segment};
use crate::checkpoint::manifest::{self, Root};
use crate::error::{Error, Result, quoted};
use crate::format::manifest::{Built, Checksum, Manifest, SEGMENT_DIRECTORY, SegmentFile, fields_name, index_name, segment_name};
use crate::segment::digest::{Digest, Scratch};
use crate::segment::{Rows, check};
use crate::types::{IndexId, Lsn, Metric, Row, TenantId};
use crate::wal::file_log::FileLog;
use crate::wal::operation::Operation;
use crate::wal::read::{Commit, Reading, read};
use crate::wal::recover::missing;

/// Rows of each FAISS index that are asked for their neighbours.
const SAMPLE: usize = 32;

/// How much less of the nearest rows an index may find on that sample than on the larger one when it was built: four standard deviations of a share of 320, so
/// that chance alone does not accuse it.
const RECALL_SLACK: f64 = 0.12;

/// What [`Survey::verify`] found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    /// The last mutation; 0 where that cannot be known.
    pub lsn: Lsn,
    /// Live points.
    pub points: u64,
    /// The state digest: 32 hexadecimal digits that depend on ids, metadata and values alone, and not on the files that they are in.
    /// `docs/offline.md` has the formula. `None` where the points cannot be known.
    pub digest: Option<String>,
    /// Files that were read, and their bytes.
    pub files: u64,
    pub bytes: u64,
    /// Bytes at the end of the log that a crash left and nobody was told of: no fault, and nothing is lost.
    pub torn_bytes: u64,
    pub recall: Vec<SampledRecall>,
    /// Empty where all is well.
    pub findings: Vec<Finding>,
}

/// What a FAISS index finds of the nearest rows, 0 to 1.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SampledRecall {
    pub segment: u64,
    /// Now, on 32 of its own rows.
    pub found: f64,
    /// When it was built, on 100.
    pub built: f64,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub file: PathBuf,
    /// In bytes from the beginning of the file.
    pub offset: u64,
    pub problem: String,
    pub effect: Effect,
}

/// What it does to the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A server refuses the index: data that was acknowledged is damaged or missing.
    Refused,
    /// A server makes the file again of the rows, which are sound.
    MadeAgain,
    /// A server opens the index and does not see it: bytes that pass their checksums and are not what this program writes.
    Unseen,
    /// Only a fallback is damaged: the manifest before the newest one, or what that alone names.
    Spare,
}

impl Survey {
    /// Reads all of an index, several files at a time, and tells everything that is wrong with it. `progress` is told of bytes as they are read.
    pub fn verify(&self, tenant: &TenantId, id: IndexId, progress: &(dyn Fn(u64) + Sync)) -> Verified {
        let directory = self.directory(tenant, id);
        let check = Check {
            survey: self,
            id,
            directory,
            progress,
            findings: Mutex::default(),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let mut verified = check.index().unwrap_or_default();
        verified.files = check.files.into_inner();
        verified.bytes = check.bytes.into_inner();
        verified.findings = check.findings.into_inner();
        // They come from several threads.
        verified.findings.sort_by(|a, b| (&a.file, a.offset, &a.problem).cmp(&(&b.file, b.offset, &b.problem)));
        verified
    }
}

struct Check<'a> {
    survey: &'a Survey,
    id: IndexId,
    directory: PathBuf,
    progress: &'a (dyn Fn(u64) + Sync),
    findings: Mutex<Vec<Finding>>,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// A segment that can be opened.
struct Sound {
    at: usize,
    segment: Segment,
    recall: Option<SampledRecall>,
}

/// What was found of some rows of a segment: of those that are live.
struct Read {
    digest: Digest,
    /// 64 bits of the hash of each id, by their highest bits.
    ids: Vec<Vec<u64>>,
}

/// Rows that are looked at as one task.
const TASK_ROWS: usize = 8 << 10;

/// Ids are compared within so many parts.
const ID_PARTS: usize = 64;

impl Check<'_> {
    /// `None`: what the index is cannot be known.
    fn index(&self) -> Option<Verified> {
        let root = self.note(Root::look(Arc::clone(&self.survey.io), &self.directory, self.id), Effect::Refused)?;
        let manifest = root.current();
        self.count(1, manifest.encode().len() as u64);
        let created = self.note(recover::settings_of(manifest, &self.directory), Effect::Refused)?;
        let metric = created.metric;
        self.note(root.next_number(), Effect::Refused);
        self.spare(manifest);
        let unindexed = created.options.unindexed.as_slice().into();
        let mut sound = self.segments(manifest, metric, &unindexed);
        let answers = self.note(recover::load_keys(&*self.survey.io, &self.directory, manifest), Effect::Refused);
        self.count(manifest.keys.iter().len() as u64, manifest.keys.as_ref().map_or(0, |keys| keys.checksum.bytes));
        self.log_before(manifest, Effect::Unseen);

        sound.sort_by_key(|sound| sound.at);
        let recall = sound.iter().filter_map(|sound| sound.recall).collect();
        let is_whole = sound.len() == manifest.segments.len();
        let (ats, segments): (Vec<usize>, Vec<Segment>) = sound.into_iter().map(|sound| (sound.at, sound.segment)).unzip();
        let digest = self.rows(manifest, metric, &ats, &segments);
        let answers = answers.filter(|_| is_whole);
        // The ids are mapped to their rows only where there is something to replay: that takes longer than to read the rows.
        let mut loaded: Option<Loaded> = None;
        let log_options = self.survey.log_options(&self.directory, self.id);
        let dimension = manifest.settings.dimension;
        let report = FileLog::verify(&log_options, &manifest.log, manifest.position, &mut |lsn, operation| {
            let Some(answers) = &answers else {
                return recover::check_operation(operation, lsn, dimension, &log_options.directory);
            };
            let load = || Loaded::new(manifest, created.clone(), segments.clone(), answers.clone());
            loaded.get_or_insert_with(load).replay(lsn, operation, &log_options.directory)
        });
        self.count_log(manifest);
        let report = self.note(report, Effect::Refused)?;
        let lsn = manifest.position.lsn + report.replayed_operations;
        let (points, digest) = match (&loaded, answers) {
            (Some(loaded), _) => replayed(loaded, &segments, digest),
            (None, Some(_)) => (segments.iter().map(Segment::live).sum(), digest),
            (None, None) => return Some(Verified { lsn, torn_bytes: report.torn_bytes, recall, ..Verified::default() }),
        };
        let digest = Some(digest.to_string());
        Some(Verified { lsn, points, digest, torn_bytes: report.torn_bytes, recall, ..Verified::default() })
    }

    /// Looks at every row of these segments, the `ats`th of the manifest. Gives the digest of those that are live.
    fn rows(&self, manifest: &Manifest, metric: Metric, ats: &[usize], segments: &[Segment]) -> Digest {
        let tasks = segments.iter().zip(ats).flat_map(|(segment, &at)| {
            (0..segment.len).step_by(TASK_ROWS).map(move |start| (segment, at, start..(start + TASK_ROWS).min(segment.len)))
        });
        let read = in_parallel(threads(), tasks.collect(), |(segment, at, positions)| {
            let Rows::Sealed(sealed) = &segment.rows else { unreachable!("it was opened from a file") };
            let path = self.segment_path(manifest, at);
            self.note(check::rows(sealed, positions.clone(), &path, metric, manifest.position.lsn), Effect::Unseen);
            let mut read = Read { digest: Digest::default(), ids: vec![Vec::new(); ID_PARTS] };
            let mut scratch = Scratch::default();
            for position in positions.filter(|&position| segment.dead.is_empty() || !segment.dead.contains(position)) {
                let id = read.digest.add(&segment.rows, position, &mut scratch);
                read.ids[(id >> 58) as usize].push(id);
            }
            read
        });
        let twice = in_parallel(threads(), (0..ID_PARTS).collect(), |part| {
            let mut ids: Vec<u64> = read.iter().flat_map(|read| &read.ids[part]).copied().collect();
            ids.sort_unstable();
            ids.windows(2).any(|pair| pair[0] == pair[1])
        });
        if twice.contains(&true) {
            self.same_ids(manifest, ats, segments);
        }
        read.iter().fold(Digest::default(), |all, read| all.and(read.digest))
    }

    /// Tells of live rows that have an id which another live row has.
    fn same_ids(&self, manifest: &Manifest, ats: &[usize], segments: &[Segment]) {
        let mut seen = HashSet::new();
        for (segment, &at) in segments.iter().zip(ats) {
            let Rows::Sealed(sealed) = &segment.rows else { unreachable!("it was opened from a file") };
            for position in segment.live_positions().filter(|&position| !seen.insert(sealed.id(position))) {
                let id = quoted(&String::from_utf8_lossy(sealed.id(position)));
                let problem = format!("row {position} has an id that another live row has: {id}");
                self.found(
                    &Error::corrupt(&self.segment_path(manifest, at), sealed.record_offset(position), problem),
                    Effect::Unseen,
                );
            }
        }
    }

    fn segment_path(&self, manifest: &Manifest, at: usize) -> PathBuf {
        self.directory.join(SEGMENT_DIRECTORY).join(segment_name(manifest.segments[at].number))
    }

    fn count(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        (self.progress)(bytes);
    }

    fn count_log(&self, manifest: &Manifest) {
        let directory = self.survey.log_options(&self.directory, self.id).directory;
        for name in &manifest.log {
            let length = self.survey.io.open(&name.path(&directory)).and_then(|file| file.len());
            self.count(1, length.unwrap_or(0));
        }
    }

    /// Keeps the error as a finding.
    fn note<T>(&self, result: Result<T>, effect: Effect) -> Option<T> {
        result.map_err(|error| self.found(&error, effect)).ok()
    }

    fn found(&self, error: &Error, effect: Effect) {
        let (file, offset, problem) = match error {
            Error::Corrupt(damage) => (damage.path.clone(), damage.offset, damage.problem.clone()),
            Error::Io(fault) | Error::Full(fault) => (fault.path.clone(), 0, format!("{}: {}", fault.operation, fault.source)),
            other => (self.directory.clone(), 0, other.to_string()),
        };
        let finding = Finding { file, offset, problem, effect };
        let mut findings = self.findings.lock();
        // The same frame is met again by who reads on from the checkpoint.
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }

    /// The manifest before the newest one, and what it alone names.
    fn spare(&self, newest: &Manifest) {
        let io = &*self.survey.io;
        let Some(before) = self.note(manifest::read(io, &self.directory, newest.generation - 1), Effect::Spare) else { return };
        self.count(1, before.encode().len() as u64);
        let kept: Vec<u64> = newest.file_numbers().collect();
        let directory = self.directory.join(SEGMENT_DIRECTORY);
        for (name, checksum) in
            before.segment_files().filter(|(_, number, _)| !kept.contains(number)).map(|(name, _, sum)| (name, sum))
        {
            self.note(whole(self.survey, &directory.join(name), checksum), Effect::Spare);
            self.count(1, checksum.bytes);
        }
        self.log_before(&before, Effect::Spare);
    }

    /// The log from its beginning to the checkpoint, which no opening reads: what the change feed is made of.
    fn log_before(&self, manifest: &Manifest, effect: Effect) {
        let lsns = oldest_lsn(manifest)..=manifest.position.lsn;
        if lsns.is_empty() {
            return;
        }
        let options = self.survey.log_options(&self.directory, self.id);
        let dimension = manifest.settings.dimension;
        let each = &mut |Commit { lsn, .. }, operation: &Operation<'_>| {
            recover::check_operation(operation, lsn, dimension, &options.directory).map(|()| ControlFlow::Continue(()))
        };
        let reading = read(&options, &manifest.log, lsns, None, each).and_then(|reading| match reading {
            Reading::Done(_) => Ok(()),
            Reading::Missing(name) => Err(missing(&options, name)),
        });
        self.note(reading, effect);
    }

    /// Those that can be opened, in no order.
    fn segments(&self, manifest: &Manifest, metric: Metric, unindexed: &Arc<[String]>) -> Vec<Sound> {
        let directory = self.directory.join(SEGMENT_DIRECTORY);
        let mut first_row: Row = 0;
        let mut todo = Vec::new();
        for (at, file) in manifest.segments.iter().enumerate() {
            todo.push((at, file, first_row));
            // Where the header cannot be read, its opening says so.
            first_row += rows_of(&*self.survey.io, &directory, file).unwrap_or(0);
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let opened =
            in_parallel(threads, todo, |(at, file, first_row)| self.segment(manifest, metric, unindexed, at, file, first_row));
        opened.into_iter().flatten().collect()
    }

    fn segment(
        &self,
        manifest: &Manifest,
        metric: Metric,
        unindexed: &Arc<[String]>,
        at: usize,
        file: &SegmentFile,
        first_row: Row,
    ) -> Option<Sound> {
        let directory = self.directory.join(SEGMENT_DIRECTORY);
        let mut has_fields = file.fields.is_some();
        let lost = &mut |lost, error: &Error| {
            has_fields &= lost != Lost::Fields;
            self.found(error, Effect::MadeAgain);
        };
        let io = &*self.survey.io;
        let segment = recover::load_segment(io, &self.directory, metric, manifest, file, first_row, lost);
        let side_files = [file.dead.is_some(), file.fields.is_some(), file.index().is_some()];
        self.count(1 + side_files.into_iter().filter(|&is_there| is_there).count() as u64, file.bytes());
        let segment = self.note(segment, Effect::Refused)?;
        let Rows::Sealed(sealed) = &segment.rows else { unreachable!("it was opened from a file") };
        if let Some(fields) = file.fields.as_ref().filter(|_| has_fields)
            && !sealed.stored_fields_are_right(unindexed)
        {
            let error =
                Error::corrupt(&directory.join(fields_name(fields.number)), 0, "it is not the metadata index of its rows");
            self.found(&error, Effect::Unseen);
        }
        let recall = self.recall(&segment, file, &directory);
        Some(Sound { at, segment, recall })
    }

    /// What FAISS finds, against the raw rows.
    fn recall(&self, segment: &Segment, file: &SegmentFile, directory: &Path) -> Option<SampledRecall> {
        let Build { ann: Some(ann), record: Built::Index(index) } = &**segment.build.as_ref()? else { return None };
        let found = self.note(ann.sampled_recall(&segment.extreme, SAMPLE), Effect::Unseen)?.into();
        let built = f64::from(index.recall) / 10_000.0;
        if found + RECALL_SLACK < built {
            let problem = format!("it finds {found:.3} of the nearest rows, and found {built:.3} when it was built");
            self.found(&Error::corrupt(&directory.join(index_name(index.number)), 0, problem), Effect::Unseen);
        }
        Some(SampledRecall { segment: file.number, found, built })
    }
}

/// Live points, and their digest, once the log was replayed. `before` are the segments of the checkpoint, and `digest` that of their live rows.
fn replayed(loaded: &Loaded, before: &[Segment], mut digest: Digest) -> (u64, Digest) {
    let segments = &loaded.state.segments;
    let mut scratch = Scratch::default();
    for (segment, before) in segments.iter().zip(before).filter(|(segment, before)| segment.dead.len() > before.dead.len()) {
        for position in segment.dead.iter().filter(|&position| !before.dead.contains(position)) {
            digest.take_out(&segment.rows, position, &mut scratch);
        }
    }
    for segment in &segments[before.len()..] {
        for position in segment.live_positions() {
            digest.add(&segment.rows, position, &mut scratch);
        }
    }
    (segments.iter().map(Segment::live).sum(), digest)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A file as a manifest names it.
fn whole(survey: &Survey, path: &Path, expected: Checksum) -> Result<()> {
    let map = survey.io.map(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::corrupt(path, 0, "the manifest before the newest one lists this file, and it is missing")
        }
        _ => Error::io("map", path, error),
    })?;
    if map.len() as u64 == expected.bytes && crc32fast::hash(&map) == expected.crc {
        Ok(())
    } else {
        Err(Error::corrupt(path, 0, "this is not the file that the manifest before the newest one names: checksum mismatch"))
    }
}

#[cfg(test)]
mod tests;
