//! Building FAISS indexes over sealed segments, and rewriting segments: without their dead rows, and several as one.
//!
//! Reads and writes go on meanwhile. What is written holds no effect beyond the newest checkpoint: it leaves out the rows that are dead by
//! that one, and rows that die later are carried over, into the manifest as of its checkpoint and into the View as of now. Nothing counts
//! before the manifest names it; a crash leaves files that the next opening removes.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::checkpoint::{Files, SealedFile, carry_over, open_new, publish, write_dead, write_segment};
use super::index::Index;
use super::policy::{self, Candidate, Job};
use super::stages::Stages;
use super::view::{Build, Segment};
use crate::error::{Error, Result};
use crate::format::manifest::{Built, IndexFile, SEGMENT_DIRECTORY, SegmentFile, dead_name, index_name, segment_name};
use crate::segment::Rows;
use crate::segment::ann::{self, Ann, BuildOptions, Tuning};
use crate::segment::positions::Positions;
use crate::segment::recipe::{self, Recipe};
use crate::segment::sealed::Sealed;
use crate::types::CompactReport;

/// Share of its bytes that a compaction wants free beside what it writes, as a divisor: writers go on meanwhile.
const SPARE_SHARE: u64 = 8;

impl Index {
    /// Builds an index over rows that have none, if enough wait for one; whether there were.
    ///
    /// # Errors
    /// [`Error::Full`] where there is too little space for it: nothing was begun. [`Error::Io`], [`Error::Closed`]: all is as before.
    pub(super) fn build_one(&self) -> Result<bool> {
        self.build(policy::build)
    }

    fn build(&self, choose: impl FnOnce(&policy::Policy, &[Candidate]) -> Option<Job>) -> Result<bool> {
        let _one = self.building.lock();
        begin(self, choose)?.map(|work| work.run()).transpose().map(|done| done.is_some())
    }

    /// Rewrites a segment of which much is dead, or several small ones as one, if any are due; whether there were.
    ///
    /// # Errors
    /// As [`build_one`](Self::build_one).
    pub(super) fn compact_one(&self) -> Result<bool> {
        self.rewrite(policy::compaction)
    }

    fn rewrite(&self, choose: impl FnOnce(&policy::Policy, &[Candidate]) -> Option<Job>) -> Result<bool> {
        let _one = self.compacting.lock();
        begin(self, choose)?.map(|work| work.run()).transpose().map(|done| done.is_some())
    }

    /// Does all building and compaction that is due, as the background does it by and by. Rows that are stored meanwhile are for the next time: writers
    /// could keep it busy for ever.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub fn settle(&self) -> Result<()> {
        let end = self.shared.view.load().segments.last().map_or(0, |last| last.row(last.len.saturating_sub(1)) + 1);
        let of_now = |segments: &[Candidate]| segments.partition_point(|segment| segment.first_row < end);
        while self.build(|policy, segments| policy::build(policy, &segments[..of_now(segments)]))?
            || self.rewrite(|policy, segments| policy::compaction(policy, &segments[..of_now(segments)]))?
        {}
        Ok(())
    }

    /// Builds what FAISS can be trained on, though it may not be as much as advised.
    ///
    /// # Errors
    /// As [`compact`](Self::compact). [`Error::Conflict`] where there are too few rows for the type.
    pub fn train(&self) -> Result<()> {
        self.checkpoint()?;
        let _one = self.building.lock();
        let (policy, recipe) = self.policy()?;
        let rows = policy.train_rows.max(1);
        let now = |policy: &policy::Policy, segments: &[Candidate]| {
            if policy.build_rows == u64::MAX {
                return None;
            }
            policy::build(&policy::Policy { build_rows: rows.min(policy.build_rows), ..policy.clone() }, segments)
        };
        let live = self.shared.view.load().live();
        if recipe.is_some() && live < rows {
            let detail = format!("{} trains on {rows} rows at least, and there are {live}", self.settings.factory);
            return Err(Error::Conflict(detail));
        }
        while let Some(mut work) = begin(self, now)? {
            work.is_urgent = true;
            work.run()?;
        }
        Ok(())
    }

    /// Checkpoints, rewrites everything into as few segments as may be, without dead rows, and builds their indexes. What is deleted
    /// meanwhile stays for the next time.
    ///
    /// # Errors
    /// [`Error::Full`]: there is too little space for it, and it was not begun. [`Error::Io`], [`Error::Closed`]: what was done stays done.
    /// [`Error::OutcomeUnknown`]: a sync failed, and the index is read-only.
    pub fn compact(&self) -> Result<CompactReport> {
        let bytes_before = self.bytes();
        let segments_before = self.shared.view.load().segments.len();
        let lsn = self.checkpoint()?.lsn;
        let _one = self.compacting.lock();
        let (mut at, mut rows_dropped) = (0, 0);
        while at < self.files.lock().segments.len() {
            let work = {
                let _no_build = self.building.lock();
                self.begin_alone(|policy, segments| policy::all(policy, segments, at))?
            };
            if let Some(work) = work {
                rows_dropped += work.rows_dropped();
                work.run()?;
            }
            at += 1;
        }
        let segments_after = self.shared.view.load().segments.len();
        Ok(CompactReport { lsn, segments_before, segments_after, rows_dropped, bytes_before, bytes_after: self.bytes() })
    }
}

impl Index {
    /// Begins what somebody waits for. For who holds `compacting`, and `building`: no build is under way then that has taken what is chosen.
    pub(super) fn begin_alone(
        &self,
        choose: impl FnOnce(&policy::Policy, &[Candidate]) -> Option<Job>,
    ) -> Result<Option<Work<'_>>> {
        let mut work = begin(self, choose)?;
        if let Some(work) = &mut work {
            work.is_urgent = true;
        }
        Ok(work)
    }
}

/// A job, and the segments that it is about, as they were when it began.
pub(super) struct Work<'a> {
    index: &'a Index,
    job: Job,
    inputs: Vec<Segment>,
    /// By the newest checkpoint, which no file may be ahead of: rows that are left out. No state that is kept has them.
    dead: Vec<Positions>,
    /// Of the inputs.
    numbers: Vec<u64>,
    /// What is built, if anything.
    recipe: Option<Recipe>,
    /// For the new files: a segment, an index, dead rows.
    new_numbers: [u64; 3],
    /// Somebody waits for it.
    is_urgent: bool,
}

/// What a job wrote.
struct New {
    /// `None`: it is the segment that was, with an index.
    file: Option<SegmentFile>,
    segment: Segment,
}

/// Chooses, and marks what is chosen, so that no checkpoint merges it away.
fn begin(index: &Index, choose: impl FnOnce(&policy::Policy, &[Candidate]) -> Option<Job>) -> Result<Option<Work<'_>>> {
    index.check_compactable()?;
    let (policy, recipe) = index.policy()?;
    let mut files = index.files.lock();
    let view = index.shared.view.load_full();
    let sealed = &view.segments[..files.segments.len()];
    let droppable = index.droppable(&view, &files);
    let candidates: Vec<Candidate> = sealed
        .iter()
        .zip(&files.segments)
        .zip(&droppable)
        .map(|((segment, file), droppable)| Candidate {
            first_row: segment.rows.first_row(),
            number: file.file.number,
            rows: segment.len as u64,
            dead: droppable.len(),
            is_built: file.file.built.is_some(),
            has_index: file.file.index().is_some(),
            is_busy: file.busy,
        })
        .collect();
    let Some(job) = choose(&policy, &candidates) else { return Ok(None) };
    let live: u64 = candidates[job.run.clone()].iter().map(|candidate| candidate.rows - candidate.dead).sum();
    let chosen = &mut files.segments[job.run.clone()];
    chosen.iter_mut().for_each(|file| file.busy = true);
    let mut work = Work {
        index,
        inputs: sealed[job.run.clone()].to_vec(),
        dead: droppable[job.run.clone()].to_vec(),
        numbers: chosen.iter().map(|file| file.file.number).collect(),
        recipe: recipe.filter(|_| job.builds),
        job,
        new_numbers: [0; 3],
        is_urgent: false,
    };
    let bytes: u64 = chosen.iter().map(|file| file.file.checksum.bytes).sum();
    work.new_numbers = std::array::from_fn(|_| files.number());
    drop(files);
    let wanted = if work.job.rewrites { bytes } else { 0 } + work.recipe.as_ref().map_or(0, |recipe| recipe.bytes(live));
    // Checked while `work` holds the marks: it lets go of them where there is too little.
    index.check_space(wanted + wanted / SPARE_SHARE)?;
    Ok(Some(work))
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        for file in &mut self.index.files.lock().segments {
            file.busy &= !self.numbers.contains(&file.file.number);
        }
    }
}

impl Work<'_> {
    fn rows_dropped(&self) -> u64 {
        if self.job.rewrites { self.dead.iter().map(Positions::len).sum() } else { 0 }
    }

    fn is_kept(&self, input: usize, position: usize) -> bool {
        !self.dead[input].contains(position)
    }

    fn kept(&self, input: usize) -> impl Iterator<Item = usize> {
        (0..self.inputs[input].len).filter(move |&position| self.is_kept(input, position))
    }

    pub(super) fn run(mut self) -> Result<()> {
        let directory = self.index.directory.join(SEGMENT_DIRECTORY);
        let started = std::time::Instant::now();
        let done = self.write(&directory).and_then(|new| self.finish(&directory, new));
        match &done {
            Ok(()) => {
                let Stages { build, compaction, .. } = &*self.index.stages;
                (if self.job.builds { build } else { compaction }).observe(started.elapsed().as_secs_f64());
                tracing::info!(
                    index = %self.index.id, segments = self.inputs.len(), rewritten = self.job.rewrites, dropped = self.rows_dropped(),
                    ms = started.elapsed().as_millis() as u64, "compacted"
                );
                // Publishing has taken the marks away. One that is there now is another job's, on the segment that this one has built.
                self.numbers.clear();
            }
            Err(Error::OutcomeUnknown(_)) => {}
            Err(_) => {
                // No manifest names what was written.
                for number in self.new_numbers {
                    for name in [segment_name(number), index_name(number), dead_name(number)] {
                        let _ = self.index.io.remove_file(&directory.join(name));
                    }
                }
            }
        }
        // Writers may be held up until there is less to build.
        self.index.progressed.notify_all();
        done
    }

    /// Writes the new files and opens them, as the next opening will. `None`: no row is left.
    fn write(&self, directory: &Path) -> Result<Option<New>> {
        let [segment_number, index_number, _] = self.new_numbers;
        let mut new = if self.job.rewrites {
            let rows: Vec<(&Rows, Vec<u32>)> = (0..self.inputs.len())
                .map(|at| (&self.inputs[at].rows, self.kept(at).map(|position| position as u32).collect()))
                .collect();
            if rows.iter().all(|(_, positions)| positions.is_empty()) {
                return Ok(None);
            }
            let file = write_segment(self.index, directory, segment_number, &rows)?;
            let segment = open_new(self.index, directory, &file, &self.inputs, |at| self.kept(at))?;
            New { file: Some(file), segment }
        } else {
            New { file: None, segment: self.inputs[0].clone() }
        };
        if let Some(recipe) = &self.recipe
            && let Rows::Sealed(sealed) = &new.segment.rows
        {
            // A thread that yields gets little of a machine that searches keep busy, and each of them scans what is not built.
            let waits = self.inputs.iter().any(|input| input.build.is_none());
            let is_urgent =
                self.is_urgent || waits && self.index.shared.view.load().unbuilt() >= 2 * self.index.build_rows.load(Relaxed);
            let build = build(self.index, directory, index_number, recipe, sealed, &new.segment.extreme, is_urgent)?;
            new.segment.build = Some(Arc::new(build));
        }
        Ok(Some(new))
    }

    /// Puts what was written in the place of the inputs: in the manifest, then for readers.
    fn finish(&self, directory: &Path, new: Option<New>) -> Result<()> {
        let index = self.index;
        let mut files = index.files.lock();
        let run = self.place(&files);
        let replacement = new.as_ref().map(|new| self.sealed_file(directory, new, &files.segments[run.clone()])).transpose()?;
        // The manifest must never name a file that a crash can lose.
        index.io.sync_dir(directory).map_err(|error| Error::io("sync", directory, error))?;
        let mut segments = files.segments.clone();
        segments.splice(run.clone(), replacement);
        publish(index, &mut files, segments, |_| {})?;
        let mut writer = index.writer.lock();
        let now = &mut writer.state.segments;
        let new = new.map(|New { file, segment }| match file {
            Some(_) => carry_over(segment, &now[run.clone()], |at, position| !self.is_kept(at, position)),
            None => Segment { build: segment.build, ..now[run.start].clone() },
        });
        now.splice(run, new);
        index.shared.exchange(writer.state.view());
        Ok(())
    }

    /// How the manifest has what was written, in the place of `old`: with those rows dead that are by the newest checkpoint.
    fn sealed_file(&self, directory: &Path, new: &New, old: &[SealedFile]) -> Result<SealedFile> {
        let built = new.segment.build.as_ref().map(|build| build.record.clone());
        let Some(file) = &new.file else {
            let old = old[0].clone();
            return Ok(SealedFile { file: SegmentFile { built, ..old.file }, busy: false, ..old });
        };
        let inputs = self.inputs.iter().zip(old);
        let then: Vec<Segment> = inputs.map(|(input, old)| Segment { dead: old.dead.clone(), ..input.clone() }).collect();
        let dead = carry_over(new.segment.clone(), &then, |at, position| !self.is_kept(at, position)).dead;
        let [.., dead_number] = self.new_numbers;
        let dead_file = if dead.is_empty() { None } else { Some(write_dead(&*self.index.io, directory, dead_number, &dead)?) };
        Ok(SealedFile { file: SegmentFile { dead: dead_file, built, ..file.clone() }, dead, busy: false })
    }

    /// Where the inputs are now.
    fn place(&self, files: &Files) -> Range<usize> {
        let start = files.segments.iter().position(|file| file.file.number == self.numbers[0]).expect("a busy segment stays");
        let run = start..start + self.numbers.len();
        debug_assert!(files.segments[run.clone()].iter().map(|file| file.file.number).eq(self.numbers.iter().copied()));
        run
    }
}

/// Builds an index over a segment and opens it, or says why the segment stays exact.
fn build(
    index: &Index,
    directory: &Path,
    number: u64,
    recipe: &Recipe,
    sealed: &Arc<Sealed>,
    extreme: &Positions,
    is_urgent: bool,
) -> Result<Build> {
    let path: PathBuf = directory.join(index_name(number));
    let options = &index.config.load().options;
    let build_options = BuildOptions {
        ef_construction: options.ef_construction.unwrap_or(recipe::EF_CONSTRUCTION_DEFAULT),
        tuning: recipe.tuning(options),
        min_recall: options.min_recall.unwrap_or(index.limits.min_recall),
        threads: index.limits.build_threads,
    };
    let built =
        with_low_priority(is_urgent, || ann::build(&*index.io, &path, recipe, &build_options, sealed, extreme, &index.stop))?;
    let factory = recipe.factory().to_owned();
    let in_file = |recall: f32| (recall.clamp(0.0, 1.0) * 10_000.0) as u16;
    match built {
        ann::Built::Exact { recall, why } => {
            tracing::warn!(index = %index.id, why, "a segment stays exact");
            Ok(Build { ann: None, record: Built::Exact { factory, recall: recall.map(in_file), why } })
        }
        ann::Built::Ann { file, tuning, recall } => {
            let ann = Ann::open(&*index.io, &path, file, recipe, tuning, Arc::clone(sealed), extreme)?;
            let Tuning { ef, nprobe, overfetch } = tuning;
            let record = IndexFile { number, checksum: file, factory, recall: in_file(recall), ef, nprobe, overfetch };
            Ok(Build { ann: Some(ann), record: Built::Index(record) })
        }
    }
}

/// How much a build yields to searches and commits: beside one that wants the same processor it has a tenth of it. Less, and it would hardly go on where
/// they keep all of them busy; an idle thread (`SCHED_IDLE`) hardly did, with whoever waited for it to end.
const NICE: i32 = 10;

/// Does work on a thread of its own, which yields to searches and commits unless it is urgent. Only what holds no lock of theirs: who waits for it
/// would wait as long.
fn with_low_priority<T: Send>(is_urgent: bool, work: impl FnOnce() -> T + Send) -> T {
    let thread = move || {
        // On Linux a priority is a thread's, and those that FAISS starts from this one inherit it.
        if !is_urgent && let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
            tracing::warn!(%error, "a build runs at the priority of searches");
        }
        work()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

impl Index {
    fn check_compactable(&self) -> Result<()> {
        if let Some(why) = self.poison.get() {
            return Err(Error::Closed(Arc::clone(why)));
        }
        if self.stop.load(Relaxed) {
            return Err(ann::stopped());
        }
        Ok(())
    }

    fn check_space(&self, wanted: u64) -> Result<()> {
        let free =
            self.io.available(&self.directory).map_err(|error| Error::io("ask for the space of", &self.directory, error))?;
        if free < wanted {
            let problem = format!("this needs {wanted} bytes while it runs, and {free} are free: it was not begun");
            let source = std::io::Error::new(std::io::ErrorKind::StorageFull, problem);
            return Err(Error::io("compact", &self.directory, source));
        }
        Ok(())
    }

    /// Ends a build that is under way, and begins no other.
    pub(super) fn stop_building(&self) {
        self.stop.store(true, SeqCst);
    }
}
