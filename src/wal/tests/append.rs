use std::path::Path;

use super::{Bench, bench_of, ids};
use crate::error::Error;
use crate::io::Io;
use crate::io::sim::{Fault, Survival};

/// What PostgreSQL lost data by in 2018: a failed sync leaves pages that look clean, are read back by the next process, and are nowhere.
#[test]
fn frames_that_a_failed_sync_left_in_memory_are_copied_to_a_synced_segment_before_they_are_served() {
    for groups in 1..4 {
        let mut bench = bench_of(2);
        for n in 3..3 + groups {
            bench.write(&n.to_string(), 2000).unwrap();
        }
        bench.disk.fail_at(1, Fault::FailedSync);
        assert!(matches!(bench.log().sync(), Err(Error::OutcomeUnknown(_))));
        let mut found = bench.on(bench.disk.fork());
        found.open().unwrap();
        assert_eq!(found.replayed, ids(1..=2 + groups), "the page cache has them");
        assert!(found.has_rescued);
        for survival in [Survival::None, Survival::All, Survival::Random(1)] {
            let mut after = found.on(found.disk.crash(survival));
            after.open().unwrap();
            assert_eq!(after.replayed, ids(1..=2 + groups), "they were served, and are gone: {survival:?}");
        }
    }
}

#[test]
fn failed_sync_is_final() {
    let mut bench = bench_of(1);
    bench.write("2", 10).unwrap();
    bench.disk.fail_at(1, Fault::FailedSync);
    assert!(matches!(bench.log().sync(), Err(Error::OutcomeUnknown(_))));
    // The disk would say yes now.
    let syncs = bench.disk.operations();
    for _ in 0..2 {
        assert!(matches!(bench.log().sync(), Err(Error::OutcomeUnknown(_))));
        assert!(matches!(bench.write("3", 10), Err(Error::OutcomeUnknown(_))));
        assert!(matches!(bench.log().append_marker(), Err(Error::OutcomeUnknown(_))));
    }
    assert_eq!(bench.disk.operations(), syncs, "a sync was tried again");
    assert_eq!((bench.log().durable_lsn(), bench.log().written_lsn()), (1, 2));
}

#[test]
fn full_disk_stores_nothing_leaves_a_clean_tail_and_is_forgotten_once_there_is_room() {
    /// What was allocated ahead is used up: the next write needs room.
    fn bench_without_room_ahead() -> Bench {
        let mut bench = bench_of(2);
        bench.log().options.frame_bytes_max = 1 << 20;
        while bench.log().active.as_ref().unwrap().allocated() - bench.end() >= 3_000 {
            bench.write("fill", 2_500).unwrap();
        }
        bench.log().sync().unwrap();
        bench
    }
    let (mut refused, mut stored) = (0, 0);
    // A small frame makes room ahead of itself, a large one does not. From no room at all to room for the small one.
    for (metadata_bytes, room) in
        [3_000, 70_000].into_iter().flat_map(|bytes| (0..6_000).step_by(200).map(move |room| (bytes, room)))
    {
        let mut bench = bench_without_room_ahead();
        let before = bench.log().written_lsn();
        bench.disk.set_capacity(Some(bench.disk.used_bytes() + room));
        let written = bench.write("full", metadata_bytes);
        match &written {
            Ok(_) => stored += 1,
            Err(Error::Full(_)) => {
                refused += 1;
                assert_eq!(bench.log().written_lsn(), before);
                for survival in [Survival::None, Survival::All, Survival::Random(room)] {
                    let disk = bench.disk.crash(survival);
                    disk.set_capacity(None);
                    let mut found = bench.on(disk);
                    found.open().unwrap();
                    assert_eq!(found.log().written_lsn(), before, "{room} bytes: it came back");
                    assert_eq!(found.report.torn_bytes, 0, "{room} bytes: the tail is not clean");
                }
            }
            Err(other) => panic!("{other}"),
        }
        bench.disk.set_capacity(None);
        bench.append("room again");
        let mut found = bench.on(bench.disk.crash(Survival::None));
        found.open().unwrap();
        assert_eq!(found.log().written_lsn(), before + 1 + u64::from(written.is_ok()), "{room} bytes");
        assert_eq!(found.replayed.last().unwrap().1, "room again");
    }
    println!("{refused} writes were refused by a full disk, and {stored} fitted");
    assert!(refused > 40 && stored > 5);
}

#[test]
fn marker_covers_the_last_group_so_that_nothing_is_left_to_rescue() {
    let mut bench = bench_of(3);
    let mut found = bench.on(bench.disk.fork());
    found.open().unwrap();
    assert!(found.has_rescued, "without a marker, the last group may be in memory only");
    assert!(bench.log().wants_marker());
    bench.log().append_marker().unwrap();
    assert!(!bench.log().wants_marker());
    let mut found = bench.on(bench.disk.fork());
    found.open().unwrap();
    assert!(!found.has_rescued);
    assert_eq!(found.replayed, ids(1..=3));
}

/// A marker is written after the sync that it tells of, and before its own: a kill in between leaves it in memory only.
#[test]
fn nothing_goes_on_from_a_marker_that_was_never_synced() {
    let mut bench = bench_of(2);
    bench.disk.fail_at(1, Fault::FailedSync);
    bench.log().append_marker().unwrap_err();
    let mut found = bench.on(bench.disk.fork());
    found.open().unwrap();
    found.append("3");
    let position = found.log().position();
    let mut after = found.on(found.disk.crash(Survival::None));
    after.open().unwrap();
    assert_eq!(after.replayed, ids(1..=3));
    assert_eq!(after.log().position().lsn, position.lsn);
}

#[test]
fn log_is_rotated_by_size_and_replayed_from_any_segment_on() {
    let mut bench = Bench::new();
    bench.segment_bytes = 2048;
    bench.open().unwrap();
    let mut positions = Vec::new();
    for n in 1..=30 {
        bench.append(&n.to_string());
        positions.push(bench.log().position());
    }
    assert_eq!(bench.listed.len(), 10, "three frames in each");
    for (n, position) in (1..).zip(positions) {
        let mut found = bench.on(bench.disk.crash(Survival::None));
        found.from = position;
        // As a checkpoint leaves it: what ends before the position is gone.
        let (first, _) = position.at.unwrap();
        for name in bench.listed.iter().filter(|name| **name < first) {
            found.disk.remove_file(&name.path(Path::new("/wal"))).unwrap();
        }
        found.listed.retain(|name| *name >= first);
        found.open().unwrap();
        assert_eq!(found.replayed, ids(n + 1..=30), "from LSN {n}");
        assert_eq!(found.log().written_lsn(), 30);
    }
}

#[test]
fn unsynced_frames_survive_a_kill_and_lose_at_most_their_end_to_a_power_cut() {
    let mut bench = bench_of(3);
    for n in 4..=12 {
        bench.write(&n.to_string(), 10).unwrap();
    }
    assert_eq!((bench.log().durable_lsn(), bench.log().written_lsn()), (3, 12));
    let mut found = bench.on(bench.disk.fork());
    found.open().unwrap();
    assert_eq!(found.replayed, ids(1..=12));
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut found = bench.on(bench.disk.crash(Survival::Random(seed)));
        found.open().unwrap();
        let count = found.replayed.len() as u64;
        assert!(count >= 3, "seed {seed}: something synced is gone");
        assert_eq!(found.replayed, ids(1..=count), "seed {seed}");
        lengths.insert(count);
    }
    println!("power cuts left {lengths:?} operations");
    assert!(lengths.len() > 4, "{lengths:?}");
}
