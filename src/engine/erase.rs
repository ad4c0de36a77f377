//! Erasure: no byte of what was deleted stays in a file of the index.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::checkpoint::{self, publish};
use super::index::Index;
use super::policy::{self, Candidate};
use super::repair::ASIDE;
use crate::error::{Error, Result};
use crate::format::manifest::{LOG_DIRECTORY, SEGMENT_DIRECTORY, parse_number};
use crate::format::position::SegmentName;
use crate::types::EraseReport;

impl Index {
    /// Checkpoints into a new log, rewrites every segment that has dead rows, and removes what only the log and the manifests before
    /// needed, copies of torn tails and of damaged files included. When it returns, no vector, id or metadata that was deleted or replaced up to the LSN of the answer is
    /// in any file of this index. Backups, and what a disk keeps of a file that was removed, are beyond its reach.
    ///
    /// # Errors
    /// [`Error::Conflict`]: a backup that is under way reads files that have it; nothing was begun.
    /// [`Error::Full`], [`Error::Io`]: some of it may still be there; call it again. [`Error::OutcomeUnknown`]: the same, and the index is
    /// read-only.
    pub fn erase(&self) -> Result<EraseReport> {
        let Some(_no_pin) = self.pinning.try_write() else {
            let why = "a backup of this index is under way, and reads files that hold what was deleted; erase when it has ended";
            return Err(Error::Conflict(why.to_owned()));
        };
        let _one = self.compacting.lock();
        // Nor a build: one that is under way copies what is deleted meanwhile, and what it has written would be swept with what no manifest names,
        // before its manifest names it.
        let _no_build = self.building.lock();
        let (before, bytes_before) = (self.file_names()?, self.bytes());
        let rows_erased = self.shared.view.load().tombstones();
        // 1. From here on, nothing that is deleted already is written anywhere: neither to this log nor to a segment.
        let lsn = checkpoint::checkpoint(self, true)?.lsn;
        // 2. Segments with dead rows, once each: what dies meanwhile died after the LSN.
        let decayed: Vec<u64> =
            self.files.lock().segments.iter().filter(|file| !file.dead.is_empty()).map(|file| file.file.number).collect();
        for number in decayed {
            let place = |segments: &[Candidate]| segments.iter().position(|segment| segment.number == number);
            if let Some(work) =
                self.begin_alone(|policy, segments| place(segments).map(|at| policy::alone(policy, segments, at)))?
            {
                work.run()?;
            }
        }
        // 3. Two manifests that name nothing older. Publishing removes what only the ones before named.
        let mut files = self.files.lock();
        for _ in 0..2 {
            let segments = files.segments.clone();
            publish(self, &mut files, segments, |_| {})?;
        }
        // 4. What no manifest named: leftovers and copies. What is being written is not named yet either: that is no segment while no build,
        // compaction or checkpoint is under way, and no log while the writer is held.
        {
            let _no_rotation = self.writer.lock();
            self.root.lock().sweep()?;
        }
        for directory in self.directories() {
            let entries = self.io.list(&directory).map_err(|error| Error::io("list", &directory, error))?;
            for entry in entries.into_iter().filter(|entry| is_copy(&entry.name)) {
                let path = directory.join(&entry.name);
                self.io.remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
            }
        }
        // 5. A crash must not bring a name back.
        for path in self.directories() {
            self.io.sync_dir(&path).map_err(|error| Error::io("sync", &path, error))?;
        }
        drop(files);
        let files_removed = before.difference(&self.file_names()?).count();
        Ok(EraseReport { lsn, rows_erased, files_removed, bytes_before, bytes_after: self.bytes() })
    }

    fn directories(&self) -> [PathBuf; 3] {
        [self.directory.clone(), self.directory.join(LOG_DIRECTORY), self.directory.join(SEGMENT_DIRECTORY)]
    }

    fn file_names(&self) -> Result<BTreeSet<PathBuf>> {
        let mut names = BTreeSet::new();
        for directory in self.directories() {
            let entries = self.io.list(&directory).map_err(|error| Error::io("list", &directory, error))?;
            names.extend(entries.into_iter().filter(|entry| !entry.is_dir).map(|entry| directory.join(entry.name)));
        }
        Ok(names)
    }
}

/// Whether this is what recovery copied aside of a log, or began to, or what a repair copied aside of any file.
fn is_copy(name: &str) -> bool {
    let is_damaged = |name: &str| SegmentName::parse(name).is_some() || parse_number(name).is_some();
    let torn = name.strip_suffix(".tmp").unwrap_or(name).strip_suffix(".torn");
    torn.is_some_and(|name| SegmentName::parse(name).is_some()) || name.strip_suffix(ASIDE).is_some_and(is_damaged)
}
