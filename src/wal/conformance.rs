//! One suite for every implementation of [`Log`]: what the contract in `wal/log.rs` promises, seen on each.

/// The same for every implementation of what nodes share.
pub(crate) mod cluster;
/// The log of files, with the list of its segments that a manifest has otherwise.
mod files;
/// A log in memory that several writers share: the least that keeps the contract.
pub(crate) mod memory;
/// Any number of these, with a catalogue.
pub(crate) mod memory_cluster;
/// The same for every implementation of who is alive.
mod nodes;

use std::borrow::Cow;
use std::sync::Barrier;

use super::log::{Appended, Log};
use super::operation::{Operation, Upsert};
use crate::error::{Error, Result};
use crate::format::codec;
use crate::types::Lsn;

/// Where logs of one index come from.
pub(super) trait Logs {
    type Log: Log;

    /// The log as whoever comes next finds it, behind a place or from the beginning. A log that only one may have is left by who had it, and
    /// the power is cut.
    fn open(&self, from: Option<<Self::Log as Log>::Place>) -> Result<Self::Log>;
}

/// One operation that stores a point of this name.
pub(super) fn point(id: &str, metadata_bytes: usize) -> Operation<'static> {
    let mut texts = Vec::new();
    codec::encode_into(id, &mut texts);
    codec::encode_into("x".repeat(metadata_bytes).as_str(), &mut texts);
    Operation::Upsert(Upsert { count: 1, dimension: 1, texts: Cow::Owned(texts), vectors: Cow::Borrowed(&[1.0]) })
}

/// Names of the points that an operation stores.
fn names(operation: &Operation<'_>) -> Vec<String> {
    let Operation::Upsert(upsert) = operation else { panic!("only upserts are written here") };
    upsert.points().map(|(id, ..)| id.to_owned()).collect()
}

/// Appends as one frame, and syncs.
pub(super) fn append(log: &mut (impl Log + ?Sized), ids: &[&str]) -> Result<Appended> {
    let operations: Vec<Operation<'_>> = ids.iter().map(|id| point(id, 10)).collect();
    let appended = log.append(&operations.iter().collect::<Vec<_>>())?;
    log.sync()?;
    Ok(appended)
}

#[track_caller]
pub(super) fn append_all(log: &mut (impl Log + ?Sized), ids: &[&str]) {
    for id in ids {
        let next = log.written_lsn() + 1;
        assert_eq!(append(log, &[id]).unwrap(), Appended::At(next));
    }
}

/// LSN and name of what is new.
pub(super) fn read(log: &mut (impl Log + ?Sized)) -> Result<Vec<(Lsn, String)>> {
    let mut found = Vec::new();
    log.read_new(&mut |commit, operation| {
        found.extend(names(operation).into_iter().map(|name| (commit.lsn, name)));
        Ok(())
    })?;
    Ok(found)
}

/// The same of a log that was just opened.
fn read_behind<L: Logs>(logs: &L, from: Option<<L::Log as Log>::Place>) -> Vec<(Lsn, String)> {
    read(&mut logs.open(from).unwrap()).unwrap()
}

fn numbered(lsns: std::ops::RangeInclusive<Lsn>) -> Vec<(Lsn, String)> {
    lsns.map(|lsn| (lsn, lsn.to_string())).collect()
}

fn a_new_log_is_empty(logs: impl Logs) {
    let mut log = logs.open(None).unwrap();
    assert_eq!(read(&mut log).unwrap(), []);
    assert_eq!((log.written_lsn(), log.durable_lsn()), (0, 0));
    log.sync().unwrap();
    assert_eq!(log.place(), logs.open(None).unwrap().place());
}

fn what_was_synced_is_read_in_order_from_any_place(logs: impl Logs) {
    let mut log = logs.open(None).unwrap();
    let mut places = vec![(0, log.place())];
    // Frames of one operation, and of several.
    for ids in [&["1"][..], &["2", "3", "4"], &["5"], &["6", "7"], &["8"]] {
        let last: Lsn = ids.last().unwrap().parse().unwrap();
        assert_eq!(append(&mut log, ids).unwrap(), Appended::At(last));
        assert_eq!((log.written_lsn(), log.durable_lsn()), (last, last));
        assert_eq!(read(&mut log).unwrap(), [], "what one appended is not new to it");
        places.push((last, log.place()));
    }
    assert_eq!(read_behind(&logs, None), numbered(1..=8));
    for (lsn, place) in places {
        let mut found = logs.open(Some(place)).unwrap();
        assert_eq!(found.place(), place);
        assert_eq!(read(&mut found).unwrap(), numbered(lsn + 1..=8), "behind LSN {lsn}");
        assert_eq!((found.written_lsn(), found.durable_lsn()), (8, 8));
        assert_eq!(read(&mut found).unwrap(), [], "behind LSN {lsn}, a second time");
    }
}

fn whoever_opens_a_log_and_reads_it_goes_on_with_the_next_lsn(logs: impl Logs) {
    append_all(&mut logs.open(None).unwrap(), &["1", "2"]);
    let mut log = logs.open(None).unwrap();
    assert_eq!(read(&mut log).unwrap(), numbered(1..=2));
    append_all(&mut log, &["3", "4"]);
    let place = log.place();
    let mut log = logs.open(Some(place)).unwrap();
    assert_eq!(read(&mut log).unwrap(), []);
    append_all(&mut log, &["5"]);
    assert_eq!(read_behind(&logs, None), numbered(1..=5));
}

fn operation_larger_than_a_frame_is_one_mutation(logs: impl Logs) {
    let mut log = logs.open(None).unwrap();
    append_all(&mut log, &["1"]);
    let before = log.place();
    let bytes = log.frame_bytes_max() * 3;
    assert_eq!(log.append(&[&point("2", bytes)]).unwrap(), Appended::At(2));
    log.sync().unwrap();
    append_all(&mut log, &["3"]);
    assert_eq!(read_behind(&logs, Some(before)), numbered(2..=3));
    let mut sizes = Vec::new();
    let reading = logs.open(None).unwrap().read_new(&mut |_, operation| {
        let (head, tail) = operation.encode();
        sizes.push(head.len() + tail.len());
        Ok(())
    });
    reading.unwrap();
    assert!(sizes.len() == 3 && sizes[1] > bytes, "{sizes:?}");
}

fn append_of_nothing_stores_nothing(logs: impl Logs) {
    let mut log = logs.open(None).unwrap();
    for id in ["1", "2"] {
        for _ in 0..2 {
            let before = (log.place(), log.time_us());
            assert_eq!(log.append(&[]).unwrap(), Appended::At(log.written_lsn()));
            assert_eq!((log.place(), log.time_us()), before);
        }
        append_all(&mut log, &[id]);
    }
    assert_eq!(read_behind(&logs, None), numbered(1..=2));
}

fn times_of_commits_never_decrease_and_are_the_same_to_everybody(logs: impl Logs) {
    let mut log = logs.open(None).unwrap();
    let mut times = Vec::new();
    for id in ["1", "2", "3", "4"] {
        append_all(&mut log, &[id]);
        times.push(log.time_us());
    }
    assert!(times[0] > 0 && times.is_sorted(), "{times:?}");
    let mut read = Vec::new();
    let mut reader = logs.open(None).unwrap();
    let reading = reader.read_new(&mut |commit, _| {
        read.push(commit.time_us);
        Ok(())
    });
    reading.unwrap();
    assert_eq!(read, times, "who reads is told what who appended knows");
    assert_eq!(reader.time_us(), times[3]);
}

fn error_of_who_reads_is_passed_on_and_its_frame_is_given_again(logs: impl Logs) {
    let mut log = logs.open(None).unwrap();
    append_all(&mut log, &["1", "2"]);
    let large = point("3", log.frame_bytes_max() * 2);
    assert_eq!(log.append(&[&large]).unwrap(), Appended::At(3));
    append_all(&mut log, &["4"]);
    let mut log = logs.open(None).unwrap();
    for stop in [2, 3] {
        let stopped = log.read_new(&mut |commit, _| if commit.lsn == stop { Err(Error::Busy("not now")) } else { Ok(()) });
        assert!(matches!(stopped, Err(Error::Busy(_))), "{stopped:?}");
        assert_eq!(log.written_lsn(), stop - 1);
    }
    assert_eq!(read(&mut log).unwrap(), numbered(3..=4));
}

fn trimmed_log_begins_at_the_place_and_who_is_before_it_is_refused(logs: impl Logs) {
    let mut log = logs.open(None).unwrap();
    let start = log.place();
    append_all(&mut log, &["1", "2", "3", "4", "5", "6"]);
    let place = log.place();
    append_all(&mut log, &["7", "8"]);
    log.trim(place).unwrap();
    // To an older one, and to none.
    log.trim(place).unwrap();
    log.trim(start).unwrap();
    assert_eq!(read_behind(&logs, Some(place)), numbered(7..=8));
    let refused = logs.open(None).and_then(|mut log| read(&mut log));
    assert!(matches!(refused, Err(Error::Gone { .. } | Error::Corrupt(_))), "{refused:?}");

    let mut log = logs.open(Some(place)).unwrap();
    assert_eq!(read(&mut log).unwrap(), numbered(7..=8));
    append_all(&mut log, &["9"]);
    let end = log.place();
    log.trim(end).unwrap();
    assert_eq!(read_behind(&logs, Some(end)), []);
    let mut log = logs.open(Some(end)).unwrap();
    assert_eq!(read(&mut log).unwrap(), [], "where all of it is in a snapshot");
    append_all(&mut log, &["10"]);
    assert_eq!(read_behind(&logs, Some(end)), numbered(10..=10));
}

// Of logs that several may have open.

fn who_does_not_know_the_newest_is_refused_until_it_has_read(logs: impl Logs) {
    let (mut one, mut other) = (logs.open(None).unwrap(), logs.open(None).unwrap());
    append_all(&mut one, &["1"]);
    for _ in 0..2 {
        assert_eq!(append(&mut other, &["2"]).unwrap(), Appended::Moved);
        assert_eq!(other.written_lsn(), 0, "nothing was stored");
    }
    assert_eq!(read_behind(&logs, None), numbered(1..=1));
    assert_eq!(read(&mut other).unwrap(), numbered(1..=1));
    append_all(&mut other, &["2"]);
    assert_eq!(append(&mut one, &["3", "4"]).unwrap(), Appended::Moved);
    assert_eq!(read(&mut one).unwrap(), numbered(2..=2));
    assert_eq!(append(&mut one, &["3", "4"]).unwrap(), Appended::At(4));
    assert_eq!(read_behind(&logs, None), numbered(1..=4));
}

fn append_of_nothing_says_whether_this_is_the_newest(logs: impl Logs) {
    let (mut one, mut other) = (logs.open(None).unwrap(), logs.open(None).unwrap());
    for lsn in 1..=3 {
        append_all(&mut one, &[&lsn.to_string()]);
        assert_eq!(one.append(&[]).unwrap(), Appended::At(lsn));
        for _ in 0..2 {
            assert_eq!(other.append(&[]).unwrap(), Appended::Moved, "it does not know LSN {lsn}");
        }
        assert_eq!(read(&mut other).unwrap(), numbered(lsn..=lsn));
        assert_eq!(other.append(&[]).unwrap(), Appended::At(lsn));
    }
}

fn who_is_far_behind_is_refused_and_reads_all_of_it(logs: impl Logs) {
    let (mut one, mut other) = (logs.open(None).unwrap(), logs.open(None).unwrap());
    append_all(&mut one, &numbered(1..=300).iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>());
    assert_eq!(append(&mut other, &["301"]).unwrap(), Appended::Moved);
    assert_eq!(read(&mut other).unwrap(), numbered(1..=300));
    append_all(&mut other, &["301"]);
}

fn trimmed_log_is_never_taken_for_a_new_one(logs: impl Logs) {
    let mut late = logs.open(None).unwrap();
    let mut log = logs.open(None).unwrap();
    append_all(&mut log, &["1", "2", "3"]);
    let place = log.place();
    log.trim(place).unwrap();
    assert_eq!(append(&mut late, &["stranger"]).unwrap(), Appended::Moved);
    let refused = read(&mut late);
    assert!(matches!(refused, Err(Error::Gone { oldest_lsn }) if oldest_lsn > 1), "{refused:?}");
    append_all(&mut log, &["4"]);
}

/// An operation that spans frames is not all-or-nothing by itself where frames of others can come between its own.
fn large_operation_that_others_write_beside_is_there_whole_or_not_at_all(logs: impl Logs + Sync) {
    const LARGE: usize = 5;
    let small_ones = std::thread::scope(|scope| {
        let large = scope.spawn(|| {
            let mut log = logs.open(None).unwrap();
            let bytes = log.frame_bytes_max() * 2;
            (0..LARGE).for_each(|_| {
                while log.append(&[&point("large", bytes)]).unwrap() == Appended::Moved {
                    read(&mut log).unwrap();
                }
            });
        });
        let mut log = logs.open(None).unwrap();
        let mut count = 0;
        // As many as come in between, and not so many that the other never has its turn.
        while !large.is_finished() && count < 100 {
            if append(&mut log, &["small"]).unwrap() == Appended::Moved {
                read(&mut log).unwrap();
            } else {
                count += 1;
            }
        }
        large.join().unwrap();
        count
    });
    let found = read_behind(&logs, None);
    let count = |wanted: &str| found.iter().filter(|(_, name)| name == wanted).count();
    assert_eq!((count("large"), count("small")), (LARGE, small_ones));
    assert!((1..).zip(&found).all(|(lsn, (found, _))| lsn == *found), "{found:?}");
}

/// What is written depends on what was read, as a condition does: a write into another state than it was resolved against would show.
fn all_who_write_at_once_count_on_from_each_other(logs: impl Logs + Sync) {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let begin = Barrier::new(WRITERS);
    let writer = || {
        let mut log = logs.open(None).unwrap();
        let (mut known, mut refused) = (Vec::new(), 0);
        begin.wait();
        for _ in 0..EACH {
            loop {
                let next = (known.len() + 1).to_string();
                match append(&mut log, &[&next]).unwrap() {
                    Appended::At(lsn) => {
                        known.push((lsn, next));
                        break;
                    }
                    Appended::Moved => {
                        refused += 1;
                        known.extend(read(&mut log).unwrap());
                    }
                }
            }
        }
        begin.wait();
        known.extend(read(&mut log).unwrap());
        (known, refused)
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(writer)).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    let refused: usize = all.iter().map(|(_, refused)| refused).sum();
    println!("{WRITERS} writers of {EACH} were refused {refused} times");
    assert!(refused > 0, "nobody met anybody");
    let expected = numbered(1..=(WRITERS * EACH) as Lsn);
    assert_eq!(read_behind(&logs, None), expected);
    for (known, _) in all {
        assert_eq!(known, expected);
    }
}

/// A test for each promise. The logs are an `Option`: `None` where there are none here, which was said.
macro_rules! each_promise {
    ($module:ident, $logs:expr, [$($check:ident),* $(,)?]) => {
        mod $module {
            $(#[test]
            fn $check() {
                if let Some(logs) = $logs {
                    super::$check(logs);
                }
            })*
        }
    };
}
use each_promise;

macro_rules! of_any_log {
    ($module:ident, $logs:expr $(, $more:ident)* $(,)?) => {
        each_promise!($module, $logs, [
            a_new_log_is_empty,
            what_was_synced_is_read_in_order_from_any_place,
            whoever_opens_a_log_and_reads_it_goes_on_with_the_next_lsn,
            operation_larger_than_a_frame_is_one_mutation,
            append_of_nothing_stores_nothing,
            times_of_commits_never_decrease_and_are_the_same_to_everybody,
            error_of_who_reads_is_passed_on_and_its_frame_is_given_again,
            trimmed_log_begins_at_the_place_and_who_is_before_it_is_refused,
            $($more),*
        ]);
    };
}

macro_rules! of_shared_log {
    ($module:ident, $logs:expr) => {
        of_any_log!(
            $module,
            $logs,
            who_does_not_know_the_newest_is_refused_until_it_has_read,
            append_of_nothing_says_whether_this_is_the_newest,
            who_is_far_behind_is_refused_and_reads_all_of_it,
            trimmed_log_is_never_taken_for_a_new_one,
            large_operation_that_others_write_beside_is_there_whole_or_not_at_all,
            all_who_write_at_once_count_on_from_each_other,
        );
    };
}

of_any_log!(on_files, Some(super::files::Files::new()));
of_shared_log!(in_memory, Some(super::memory::Memory::default()));
#[cfg(feature = "server")]
of_shared_log!(on_jetstream, crate::wal::jetstream::tests::Servers::start());
