//! The log on the simulated disk: how a segment's end is judged, and what is refused.

/// What is appended, synced, rolled back, rescued and rotated.
mod append;
/// What is read again beside the writer.
mod read;

use std::borrow::Cow;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file_log::{FileLog, LogOptions};
use super::operation::{Operation, Upsert};
use super::recover::LogReport;
use crate::error::{Error, Result};
use crate::format::codec;
use crate::format::frame::{FRAME_ALIGN, FrameHeader, FrameKind};
use crate::format::header::FIRST_FRAME;
use crate::format::position::{Position, SegmentName};
use crate::io::sim::{SimIo, Survival};
use crate::io::{File, Io};
use crate::types::{IndexId, Lsn};

/// A log with what a manifest and an engine would know of it.
struct Bench {
    disk: SimIo,
    listed: Vec<SegmentName>,
    from: Position,
    segment_bytes: u64,
    frame_bytes_max: usize,
    log: Option<FileLog>,
    /// What was replayed: LSN and id.
    replayed: Vec<(Lsn, String)>,
    report: LogReport,
    /// Whether the last opening copied frames to a new segment.
    has_rescued: bool,
}

impl Bench {
    fn new() -> Self {
        let disk = SimIo::new();
        disk.create_dir(Path::new("/wal")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let mut bench = Self {
            disk,
            listed: Vec::new(),
            from: Position::START,
            segment_bytes: 1 << 20,
            frame_bytes_max: 4096,
            log: None,
            replayed: Vec::new(),
            report: LogReport::default(),
            has_rescued: false,
        };
        bench.open().unwrap();
        bench
    }

    fn options(&self, index: IndexId) -> LogOptions {
        LogOptions {
            io: Arc::new(self.disk.clone()),
            directory: PathBuf::from("/wal"),
            index,
            segment_bytes: self.segment_bytes,
            frame_bytes_max: self.frame_bytes_max,
        }
    }

    /// Opens what is on the disk now, as recovery does.
    fn open(&mut self) -> Result<()> {
        self.log = None;
        let mut replayed = Vec::new();
        let recovered = FileLog::recover(self.options(IndexId::nil()), &self.listed, self.from, &mut |lsn, operation| {
            let Operation::Upsert(upsert) = operation else { panic!("only upserts are written here") };
            replayed.extend(upsert.points().map(|(id, _, _)| (lsn, id.to_owned())));
            Ok(())
        })?;
        let mut log = recovered.log;
        self.has_rescued = recovered.rescued.is_some();
        if let Some(rescued) = recovered.rescued {
            self.listed.push(rescued.name());
            log.adopt(rescued);
        }
        (self.log, self.replayed, self.report) = (Some(log), replayed, recovered.report);
        Ok(())
    }

    /// The same manifest on another disk: after a kill, a power cut, or damage.
    fn on(&self, disk: SimIo) -> Self {
        Self { disk, listed: self.listed.clone(), log: None, replayed: Vec::new(), ..*self }
    }

    fn log(&mut self) -> &mut FileLog {
        self.log.as_mut().unwrap()
    }

    /// Writes one operation of one point, in a new segment where one is due. Not synced.
    fn write(&mut self, id: &str, metadata_bytes: usize) -> Result<Lsn> {
        self.write_group(&[id], metadata_bytes)
    }

    /// The same with an operation for each id, in one frame.
    fn write_group(&mut self, ids: &[&str], metadata_bytes: usize) -> Result<Lsn> {
        let log = self.log.as_mut().unwrap();
        if log.needs_segment() {
            let prepared = log.prepare_segment()?;
            self.listed.push(prepared.name());
            log.adopt(prepared);
        }
        let texts = ids.iter().map(|&id| {
            let mut texts = Vec::new();
            codec::encode_into(id, &mut texts);
            codec::encode_into("x".repeat(metadata_bytes).as_str(), &mut texts);
            texts
        });
        let upsert = |texts| {
            Operation::Upsert(Upsert { count: 1, dimension: 1, texts: Cow::Owned(texts), vectors: Cow::Borrowed(&[1.0]) })
        };
        let operations: Vec<Operation<'_>> = texts.map(upsert).collect();
        log.append(&operations.iter().collect::<Vec<_>>())
    }

    fn append(&mut self, id: &str) {
        self.write(id, 10).unwrap();
        self.log().sync().unwrap();
    }

    fn last_path(&self) -> PathBuf {
        self.path(self.listed.len() - 1)
    }

    fn path(&self, at: usize) -> PathBuf {
        self.listed[at].path(Path::new("/wal"))
    }

    fn end(&mut self) -> u64 {
        self.log().position().at.unwrap().1
    }
}

fn ids(range: std::ops::RangeInclusive<u64>) -> Vec<(Lsn, String)> {
    range.map(|n| (n, n.to_string())).collect()
}

/// A log of `count` synced groups of one frame each, without a marker.
fn bench_of(count: u64) -> Bench {
    let mut bench = Bench::new();
    (1..=count).for_each(|n| bench.append(&n.to_string()));
    bench
}

fn file(disk: &SimIo, path: &Path) -> Arc<dyn File> {
    disk.open(path).unwrap()
}

fn put(disk: &SimIo, path: &Path, offset: u64, bytes: &[u8]) {
    file(disk, path).write_at(offset, &[IoSlice::new(bytes)]).unwrap();
}

#[track_caller]
fn assert_corrupt(result: Result<()>, path: &Path, offset: Option<u64>) {
    match result {
        Err(Error::Corrupt(damage)) => {
            assert_eq!(damage.path, path, "{damage}");
            assert!(offset.is_none_or(|offset| damage.offset == offset), "{damage}, expected at {offset:?}");
        }
        other => panic!("{other:?}"),
    }
}

const FRAME: u64 = FRAME_ALIGN as u64;

#[test]
fn log_cut_at_any_byte_leaves_the_frames_that_are_whole() {
    let mut bench = bench_of(3);
    let (path, end) = (bench.last_path(), bench.end());
    let bytes = bench.disk.map(&path).unwrap().to_vec();
    let payload_end = |frame: u64| {
        let frame = &bytes[(FIRST_FRAME + frame * FRAME) as usize..];
        frame[..FRAME_ALIGN].iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1
    };
    let mut torn = 0;
    for length in FIRST_FRAME..end {
        let disk = bench.disk.fork();
        file(&disk, &path).set_len(length).unwrap();
        let mut found = bench.on(disk);
        found.open().unwrap();
        let whole = (0..3).take_while(|&frame| length >= FIRST_FRAME + frame * FRAME + payload_end(frame)).count() as u64;
        assert_eq!(found.replayed, ids(1..=whole), "cut at {length}");
        // At a frame's edge nothing shows; in a frame, what is left of it is put aside.
        let left = length.saturating_sub(FIRST_FRAME + whole * FRAME);
        assert_eq!(found.report.torn_bytes > 0, left > 0, "cut at {length}");
        torn += u64::from(left > 0);
        found.append("next");
        let mut again = found.on(found.disk.crash(Survival::None));
        again.open().unwrap();
        assert_eq!(again.replayed.last(), Some(&(whole + 1, "next".to_owned())), "cut at {length}");
    }
    for length in 0..64 {
        let disk = bench.disk.fork();
        file(&disk, &path).set_len(length).unwrap();
        assert_corrupt(bench.on(disk).open(), &path, Some(0));
    }
    println!("{} cuts, {torn} of them torn", end - FIRST_FRAME + 64);
    assert!(torn > 100);
}

#[test]
fn torn_tail_is_copied_aside_and_its_file_is_left_as_it_was() {
    let mut bench = bench_of(3);
    let path = bench.last_path();
    let offset = bench.end() - FRAME;
    let garbage: Vec<u8> = (0..1200_u32).map(|n| (n * 7 + 1) as u8).collect();
    let frame = bench.disk.map(&path).unwrap()[offset as usize..][..FRAME_ALIGN].to_vec();
    let half = frame[..70].to_vec();
    for (what, tail) in [("garbage", garbage), ("a header and zeros", [half, vec![0; 442]].concat()), ("zeros", vec![0; 512])] {
        let disk = bench.disk.fork();
        put(&disk, &path, offset, &tail);
        let before = disk.map(&path).unwrap().to_vec();
        let mut found = bench.on(disk);
        found.open().unwrap();
        assert_eq!(found.replayed, ids(1..=2), "{what}");
        let used = tail.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        assert_eq!(found.report.torn_bytes, used as u64, "{what}");
        let aside = found.disk.map(&path.with_extension("wal.torn"));
        assert_eq!(aside.map(|map| map.to_vec()).unwrap_or_default(), tail[..used], "{what}");
        assert_eq!(found.disk.map(&path).unwrap().to_vec(), before, "{what}");
    }
}

#[test]
fn torn_tail_without_room_for_a_copy_is_no_reason_to_refuse() {
    let mut bench = bench_of(3);
    bench.log().append_marker().unwrap();
    let path = bench.last_path();
    let disk = bench.disk.fork();
    put(&disk, &path, bench.end(), &[7; 512]);
    disk.set_capacity(Some(disk.used_bytes()));
    let mut found = bench.on(disk);
    found.open().unwrap();
    assert_eq!((found.replayed, found.report.torn_bytes), (ids(1..=3), 512));
    assert!(found.disk.map(&path.with_extension("wal.torn")).is_err(), "there was no room");
}

#[test]
fn damage_at_or_under_a_watermark_is_refused_by_file_and_offset() {
    let mut bench = bench_of(4);
    let path = bench.last_path();
    let refuses = |bench: &Bench, frame: u64| {
        for at in [0, 20, 63, 64, 80] {
            let disk = bench.disk.fork();
            let offset = FIRST_FRAME + frame * FRAME;
            let byte = disk.map(&path).unwrap()[(offset + at) as usize];
            put(&disk, &path, offset + at, &[byte ^ 4]);
            assert_corrupt(bench.on(disk).open(), &path, Some(offset));
        }
    };
    (0..3).for_each(|frame| refuses(&bench, frame));
    // The last one is covered once a marker follows it.
    bench.log().append_marker().unwrap();
    (0..4).for_each(|frame| refuses(&bench, frame));
}

#[test]
fn damage_in_a_segment_with_a_listed_successor_is_refused_even_in_its_last_frame() {
    let mut bench = Bench::new();
    bench.segment_bytes = 1024;
    bench.open().unwrap();
    (1..=2).for_each(|n| bench.append(&n.to_string()));
    assert_eq!(bench.listed.len(), 2, "one frame, then a new segment with one");
    let first = bench.path(0);
    let disk = bench.disk.fork();
    put(&disk, &first, FIRST_FRAME + 70, &[0xff]);
    assert_corrupt(bench.on(disk).open(), &first, Some(FIRST_FRAME));
    let disk = bench.disk.fork();
    file(&disk, &first).set_len(FIRST_FRAME).unwrap();
    assert_corrupt(bench.on(disk).open(), &first, Some(FIRST_FRAME));
}

#[test]
fn file_that_ends_before_the_manifests_position_is_refused() {
    let mut bench = bench_of(3);
    bench.from = bench.log().position();
    let (path, end) = (bench.last_path(), bench.end());
    let disk = bench.disk.fork();
    file(&disk, &path).set_len(end - FRAME).unwrap();
    assert_corrupt(bench.on(disk).open(), &path, Some(end - FRAME));
    // Up to there, only what follows counts; and the zeros that pad the last frame are no loss.
    for length in [end, end - 1] {
        let disk = bench.disk.fork();
        file(&disk, &path).set_len(length).unwrap();
        let mut found = bench.on(disk);
        found.open().unwrap();
        assert_eq!(found.replayed, []);
        assert_eq!(found.log().written_lsn(), 3);
    }
}

#[test]
fn listed_segment_that_is_missing_is_refused_and_an_unlisted_one_is_ignored() {
    let mut bench = Bench::new();
    bench.segment_bytes = 1024;
    bench.open().unwrap();
    (1..=3).for_each(|n| bench.append(&n.to_string()));
    for at in 0..3 {
        let disk = bench.disk.fork();
        disk.remove_file(&bench.path(at)).unwrap();
        assert_corrupt(bench.on(disk).open(), &bench.path(at), None);
    }
    let unlisted = bench.log().prepare_segment().unwrap().name();
    let mut found = bench.on(bench.disk.fork());
    found.segment_bytes = 1024;
    found.open().unwrap();
    assert_eq!(found.replayed, ids(1..=3));
    found.append("4");
    for name in &found.listed[bench.listed.len()..] {
        assert!(name.epoch > unlisted.epoch, "{name:?} after {unlisted:?}");
    }
}

#[test]
fn segments_in_each_others_place_or_of_another_index_are_refused() {
    let mut bench = Bench::new();
    bench.segment_bytes = 1024;
    bench.open().unwrap();
    (1..=3).for_each(|n| bench.append(&n.to_string()));
    let copy = |disk: &SimIo, from: &Path, to: &Path| {
        let bytes = bench.disk.map(from).unwrap();
        disk.remove_file(to).unwrap();
        disk.create(to).unwrap();
        put(disk, to, 0, &bytes);
    };
    for (one, other) in [(0, 1), (1, 2), (0, 2)] {
        let disk = bench.disk.fork();
        copy(&disk, &bench.path(one), &bench.path(other));
        copy(&disk, &bench.path(other), &bench.path(one));
        assert_corrupt(bench.on(disk).open(), &bench.path(one), Some(0));
    }
    let stranger = IndexId::from_u128(1);
    let result = FileLog::recover(bench.options(stranger), &bench.listed, Position::START, &mut |_, _| panic!("replayed"));
    assert_corrupt(result.map(drop), &bench.path(0), Some(0));
    // A segment of the same name, from another history of the same index.
    let mut other = Bench::new();
    other.segment_bytes = 1024;
    other.open().unwrap();
    ["1", "other", "3"].iter().for_each(|id| other.append(id));
    let disk = bench.disk.fork();
    disk.remove_file(&bench.path(2)).unwrap();
    disk.create(&bench.path(2)).unwrap();
    put(&disk, &bench.path(2), 0, &other.disk.map(&other.path(2)).unwrap());
    assert!(matches!(bench.on(disk).open(), Err(Error::Corrupt(_))));
}

#[test]
fn operation_that_spans_frames_is_there_whole_or_not_at_all() {
    let mut bench = bench_of(1);
    bench.frame_bytes_max = 600;
    bench.open().unwrap();
    bench.append("2");
    let start = bench.end();
    bench.write("large", 3000).unwrap();
    bench.log().sync().unwrap();
    let (path, end) = (bench.last_path(), bench.end());
    assert!((end - start) / FRAME >= 6, "several frames");
    let mut found = bench.on(bench.disk.crash(Survival::None));
    found.open().unwrap();
    assert_eq!(found.replayed.last(), Some(&(3, "large".to_owned())));

    for length in (start..end).step_by(FRAME_ALIGN) {
        let disk = bench.disk.fork();
        file(&disk, &path).set_len(length).unwrap();
        let mut found = bench.on(disk);
        found.frame_bytes_max = 600;
        found.open().unwrap();
        assert_eq!(found.replayed, ids(1..=2), "cut at {length}");
        // What follows takes its LSN, and its pieces never come back.
        found.append("3");
        let mut again = found.on(found.disk.crash(Survival::None));
        again.open().unwrap();
        assert_eq!(again.replayed, ids(1..=3), "cut at {length}");
    }
}

#[test]
fn frame_that_claims_more_than_any_may_have_is_not_believed() {
    let mut bench = bench_of(2);
    let (path, offset) = (bench.last_path(), bench.end());
    let salt = u64::from_le_bytes(bench.disk.map(&path).unwrap()[48..56].try_into().unwrap());
    let mut header = FrameHeader {
        kind: FrameKind::Operations,
        payload_bytes: u32::MAX,
        offset: offset as u32,
        salt,
        first_lsn: 3,
        last_lsn: 3,
        watermark: 1,
        time_us: 0,
        chain: 0,
    };
    let bytes = header.seal(bench.log().position().chain, &[]);
    let disk = bench.disk.fork();
    put(&disk, &path, offset, &bytes);
    let mut found = bench.on(disk);
    found.open().unwrap();
    assert_eq!(found.replayed, ids(1..=2));
    assert!(found.report.torn_bytes > 0);
}
