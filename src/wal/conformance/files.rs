use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::super::file_log::{FileLog, LogOptions};
use super::super::log::{Appended, Log};
use super::super::operation::Operation;
use super::super::read::{Commit, Reading, read};
use super::super::recover::LogReport;
use super::Logs;
use crate::error::{Error, Result};
use crate::format::position::{Position, SegmentName};
use crate::io::Io as _;
use crate::io::sim::{SimIo, Survival};
use crate::types::{IndexId, Lsn};

/// Small, so that a few frames fill a segment.
const SEGMENT_BYTES: u64 = 2048;

const FRAME_BYTES_MAX: usize = 600;

/// The disk and the segments that a manifest on it lists, of the log that was changed last.
#[derive(Clone, Debug)]
pub(super) struct Files(Arc<Mutex<Disk>>);

#[derive(Clone, Debug)]
struct Disk {
    io: SimIo,
    listed: Vec<SegmentName>,
}

/// What the engine has of a log: the log, and the list.
#[derive(Debug)]
pub(super) struct ListedLog {
    log: FileLog,
    options: LogOptions,
    disk: Disk,
    files: Files,
    /// Behind what was given to be read, or appended.
    place: Position,
    /// Up to here it was given.
    given_lsn: Lsn,
    time_us: u64,
}

impl Files {
    pub(super) fn new() -> Self {
        let disk = SimIo::new();
        disk.create_dir(Path::new("/wal")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        Self(Arc::new(Mutex::new(Disk { io: disk, listed: Vec::new() })))
    }
}

impl Logs for Files {
    type Log = ListedLog;

    fn open(&self, from: Option<Position>) -> Result<ListedLog> {
        let mut disk = {
            let found = self.0.lock();
            Disk { io: found.io.crash(Survival::None), listed: found.listed.clone() }
        };
        let options = LogOptions {
            io: Arc::new(disk.io.clone()),
            directory: PathBuf::from("/wal"),
            index: IndexId::nil(),
            segment_bytes: SEGMENT_BYTES,
            frame_bytes_max: FRAME_BYTES_MAX,
        };
        let from = from.unwrap_or(Position::START);
        let mut replayed = Vec::new();
        let recovered = FileLog::recover(options.clone(), &disk.listed, from, &mut |lsn, _| {
            replayed.push(lsn);
            Ok(())
        })?;
        assert!((from.lsn + 1..).zip(&replayed).all(|(next, lsn)| next == *lsn), "{replayed:?}");
        // All of it was synced.
        let report = LogReport { replayed_operations: replayed.len() as u64, torn_bytes: 0 };
        assert_eq!((recovered.report, recovered.log.written_lsn()), (report, from.lsn + replayed.len() as Lsn));
        let mut log = recovered.log;
        if let Some(rescued) = recovered.rescued {
            disk.listed.push(rescued.name());
            log.adopt(rescued);
        }
        Ok(ListedLog { log, options, disk, files: self.clone(), place: from, given_lsn: from.lsn, time_us: 0 })
    }
}

impl Log for ListedLog {
    type Place = Position;

    fn place(&self) -> Position {
        self.place
    }

    fn written_lsn(&self) -> Lsn {
        self.given_lsn
    }

    fn durable_lsn(&self) -> Lsn {
        self.log.durable_lsn().min(self.given_lsn)
    }

    fn time_us(&self) -> u64 {
        self.time_us
    }

    fn frame_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX
    }

    fn append(&mut self, operations: &[&Operation<'_>]) -> Result<Appended> {
        // Only one has it, and it is replayed before anybody appends.
        assert_eq!(self.given_lsn, self.log.written_lsn());
        if operations.is_empty() {
            return Ok(Appended::At(self.given_lsn));
        }
        if self.log.needs_segment() {
            let prepared = self.log.prepare_segment()?;
            self.disk.listed.push(prepared.name());
            self.log.adopt(prepared);
        }
        self.given_lsn = self.log.append(operations)?;
        self.place = self.log.position();
        self.time_us = self.log.time_us;
        *self.files.0.lock() = self.disk.clone();
        Ok(Appended::At(self.given_lsn))
    }

    fn sync(&mut self) -> Result<()> {
        self.log.sync()
    }

    fn read_new(&mut self, each: &mut dyn FnMut(Commit, &Operation<'_>) -> Result<()>) -> Result<()> {
        let lsns = self.given_lsn + 1..=self.log.durable_lsn();
        if lsns.is_empty() {
            return Ok(());
        }
        let (given_lsn, time_us) = (&mut self.given_lsn, &mut self.time_us);
        let reading = read(&self.options, &self.disk.listed, lsns, None, &mut |commit, operation| {
            each(commit, operation)?;
            (*given_lsn, *time_us) = (commit.lsn, commit.time_us);
            Ok(ControlFlow::Continue(()))
        })?;
        assert!(matches!(reading, Reading::Done(_)), "{reading:?}");
        self.place = self.log.position();
        Ok(())
    }

    /// As a checkpoint does it: the manifest that no longer lists them first, then the files.
    fn trim(&mut self, to: Position) -> Result<()> {
        let Some((first, _)) = to.at else { return Ok(()) };
        let kept = self.disk.listed.partition_point(|&name| name < first);
        for name in self.disk.listed.drain(..kept) {
            let path = name.path(&self.options.directory);
            self.options.io.remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
        *self.files.0.lock() = self.disk.clone();
        Ok(())
    }
}
