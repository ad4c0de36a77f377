use std::ops::ControlFlow;

use super::{Bench, put};
use crate::error::{Error, Result};
use crate::format::frame::{FRAME_ALIGN, FRAME_HEADER, FrameHeader};
use crate::format::header::FIRST_FRAME;
use crate::io::Io as _;
use crate::types::{IndexId, Lsn};
use crate::wal::operation::Operation;
use crate::wal::read::{Mark, Reading, read};

/// Groups of several, operations that span frames, markers, rotations, and a kill whose last frames were copied to a new segment. Ids are LSNs.
fn bench() -> Bench {
    let mut bench = Bench::new();
    (bench.segment_bytes, bench.frame_bytes_max) = (3_000, 512);
    bench.open().unwrap();
    let mut lsn = 0;
    for (group, metadata_bytes) in [(1, 10), (3, 10), (1, 2_000), (2, 10), (1, 10), (5, 10), (1, 1_500), (1, 10), (4, 10)] {
        let ids: Vec<String> = (lsn + 1..=lsn + group).map(|lsn| lsn.to_string()).collect();
        lsn = bench.write_group(&ids.iter().map(String::as_str).collect::<Vec<_>>(), metadata_bytes).unwrap();
        bench.log().sync().unwrap();
        match lsn {
            5 | 7 => bench.log().append_marker().unwrap(),
            8 | 14 => {
                bench = bench.on(bench.disk.fork());
                bench.open().unwrap();
                assert!(bench.has_rescued);
            }
            _ => {}
        }
    }
    assert_eq!(lsn, 19);
    bench
}

/// What a reading gives that is broken off after `count` operations.
fn take(bench: &Bench, lsns: (Lsn, Lsn), from: Option<Mark>, count: usize) -> Result<(Vec<(Lsn, String)>, Reading)> {
    let mut found = Vec::new();
    let reading = read(&bench.options(IndexId::nil()), &bench.listed, lsns.0..=lsns.1, from, &mut |commit, operation| {
        let Operation::Upsert(upsert) = operation else { panic!("only upserts are written here") };
        found.extend(upsert.points().map(|(id, ..)| (commit.lsn, id.to_owned())));
        Ok(if found.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok((found, reading))
}

#[test]
fn any_part_of_the_log_is_read_from_any_place_that_a_reading_came_to() {
    let bench = bench();
    assert!(bench.listed.len() > 4, "{:?}", bench.listed);
    let mut marks = vec![None];
    let mut readings = 0;
    for first in 1..=19 {
        for last in first..=19 {
            let count = (last % 4 + 1) as usize;
            for mark in marks.clone() {
                let (found, reading) = take(&bench, (first, last), mark, count).unwrap();
                let expected = (first..=last).take(count).map(|lsn| (lsn, lsn.to_string()));
                // A frame is taken whole where nobody breaks off: the caller's last LSN is the end of one.
                assert!(
                    found.iter().take(expected.clone().count()).cloned().eq(expected),
                    "{first}..={last} from {mark:?}: {found:?}"
                );
                let Reading::Done(mark) = reading else { panic!("{reading:?}") };
                assert!(mark.lsn + 5 >= first, "no frame has more than five operations, and {mark:?} is before another one");
                if !marks.contains(&Some(mark)) {
                    marks.push(Some(mark));
                }
                readings += 1;
            }
        }
    }
    println!("{readings} readings, from {} places", marks.len());
}

#[test]
fn every_frame_on_the_way_must_check_and_its_segment_be_there() {
    let bench = bench();
    let mut frames = 0;
    for (at, name) in bench.listed.iter().enumerate() {
        let path = bench.path(at);
        let bytes = bench.disk.map(&path).unwrap().to_vec();
        // What a successor took over is not on the way.
        let after = bench.listed.get(at + 1).map_or(Lsn::MAX, |after| after.first_lsn);
        let mut offset = FIRST_FRAME as usize;
        while let Some(header) = bytes.get(offset..).and_then(<[u8]>::first_chunk).and_then(FrameHeader::decode) {
            if header.last_lsn < after {
                for byte in [4, FRAME_HEADER / 2, FRAME_HEADER - 1, FRAME_HEADER + header.payload_bytes as usize / 2] {
                    // A marker has no payload, and padding is in no checksum.
                    if byte >= FRAME_HEADER + header.payload_bytes as usize {
                        continue;
                    }
                    let damaged = bench.on(bench.disk.fork());
                    put(&damaged.disk, &path, (offset + byte) as u64, &[bytes[offset + byte] ^ 1]);
                    match take(&damaged, (1, 19), None, 99) {
                        Err(Error::Corrupt(damage)) => {
                            assert_eq!((&damage.path, damage.offset), (&path, offset as u64), "byte {byte}: {damage}");
                        }
                        other => panic!("{name:?}, byte {byte} of the frame at {offset}: {other:?}"),
                    }
                }
                frames += 1;
            }
            offset += header.frame_bytes() as usize;
            assert!(offset.is_multiple_of(FRAME_ALIGN));
        }
        let missing = bench.on(bench.disk.fork());
        missing.disk.remove_file(&path).unwrap();
        let (found, reading) = take(&missing, (1, 19), None, 99).unwrap();
        assert_eq!(reading, Reading::Missing(*name));
        assert!(found.iter().all(|(lsn, _)| *lsn < name.first_lsn), "{found:?}");
    }
    println!("{frames} frames");
}
