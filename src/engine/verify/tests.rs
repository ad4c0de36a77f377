use std::io::IoSlice;

use super::*;
use crate::engine::{Index, Store, StoreOptions};
use crate::format::manifest::file_name;
use crate::format::segment::{ALIGN, BLOCK, Layout, RECORD, SegmentHeader};
use crate::io::sim::SimIo;
use crate::io::{Io, durable};
use crate::segment::filter::Filter;
use crate::types::{Durability, IndexOptions, IndexSpec};

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn store(disk: &SimIo) -> Store {
    let options = StoreOptions { io: Arc::new(disk.clone()), background: false, ..StoreOptions::new("/data") };
    Store::open(options).unwrap()
}

fn verify(disk: &SimIo, id: IndexId) -> Verified {
    Survey::open(Arc::new(disk.clone()), "/data").unwrap().verify(&tenant(), id, &|_| {})
}

fn put(index: &Index, ids: std::ops::Range<u32>) {
    let mut batch = index.batch();
    for id in ids {
        let values = [1.0, id as f32, (id * id % 97) as f32];
        batch.push(&format!("{id:04}"), &values, &format!("{{\"n\":\"{id:04}\"}}")).unwrap();
    }
    index.upsert(batch, Durability::Fsync).unwrap();
}

/// An index of two segments on a disk that nobody has open.
fn sample(index_type: &str, metric: Metric) -> (SimIo, IndexId) {
    let disk = SimIo::new();
    let store = store(&disk);
    let options = IndexOptions { min_recall: Some(0.0), ..IndexOptions::default() };
    let spec = IndexSpec {
        name: "n".into(),
        dimension: 3,
        index_type: index_type.into(),
        metric: Some(metric),
        options,
        ..IndexSpec::default()
    };
    let index = store.create_index(&tenant(), &spec).unwrap();
    put(&index, 0..500);
    index.train().unwrap();
    index.count(&Filter::parse(r#"{"n": "0005"}"#).unwrap());
    put(&index, 500..502);
    index.checkpoint().unwrap();
    (disk.clone(), index.id())
}

/// Changes the bytes of the segment with the most rows, and makes every checksum right again.
fn damage(disk: &SimIo, id: IndexId, change: impl FnOnce(&mut [u8], &Layout)) {
    let directory = Path::new("/data/t").join(id.to_string());
    let root = Root::look(Arc::new(disk.clone()), &directory, id).unwrap();
    let mut manifest = root.current().clone();
    let file = manifest.segments.iter_mut().max_by_key(|file| file.checksum.bytes).unwrap();
    let segments = directory.join(SEGMENT_DIRECTORY);
    let mut bytes = disk.map(&segments.join(segment_name(file.number))).unwrap().to_vec();
    let layout = SegmentHeader::decode(bytes.first_chunk::<ALIGN>().unwrap()).unwrap().layout().unwrap();
    change(&mut bytes, &layout);
    let (rows, table) = bytes.split_at_mut(layout.checksums.start);
    for (block, entry) in rows.chunks(BLOCK).zip(table.chunks_mut(4)) {
        entry.copy_from_slice(&crc32fast::hash(block).to_le_bytes());
    }
    let (entries, own) = table.split_last_chunk_mut::<4>().unwrap();
    *own = crc32fast::hash(entries).to_le_bytes();
    file.checksum.crc = crc32fast::hash(&bytes);
    durable::replace(disk, &segments, &segment_name(file.number), &[IoSlice::new(&bytes)]).unwrap();
    durable::replace(disk, &directory, &file_name(manifest.generation), &[IoSlice::new(&manifest.encode())]).unwrap();
}

/// What no checksum tells: each is a mistake of a program, or damage in memory before a file was written.
#[test]
fn rows_that_this_program_does_not_write_are_found_and_an_opening_does_not_see_them() {
    type Change = fn(&mut [u8], &Layout);
    let changes: [(Change, &str); 9] = [
        (
            |bytes, at| bytes[at.vectors.start + 12..][..4].copy_from_slice(&f32::NAN.to_le_bytes()),
            "row 1 has a value that is not finite",
        ),
        (|bytes, at| bytes[at.records.start..][..8].fill(0), "row 0 has LSN 0, and the checkpoint is at LSN 2"),
        (|bytes, at| bytes[at.records.start + RECORD] = 3, "row 1 has LSN 3, and the checkpoint is at LSN 2"),
        (|bytes, at| bytes[at.records.start + 16] = 0, "row 0 has no id"),
        (|bytes, at| bytes[at.records.start + 18] = 1, "row 0 has a norm beside it"),
        (|bytes, at| bytes[at.scales.start] ^= 1, "row 0 has a norm beside it"),
        (|bytes, at| bytes[at.text.start + 4] = b'[', "row 0 has metadata that is no JSON object"),
        (|bytes, at| bytes[at.text.start + 3] = b'1', "has an id that another live row has: \"0001\""),
        (|bytes, at| bytes[at.text.start + 10] = b'7', "it is not the metadata index of its rows"),
    ];
    for (change, expected) in changes {
        let (disk, id) = sample("Flat", Metric::Cosine);
        assert_eq!(verify(&disk, id).findings, []);
        damage(&disk, id, change);
        let findings = verify(&disk, id).findings;
        assert!(findings.iter().any(|finding| finding.problem.contains(expected)), "{expected}: {findings:?}");
        assert!(findings.iter().all(|finding| finding.effect == Effect::Unseen), "{findings:?}");
        assert!(store(&disk).index(&tenant(), id).is_ok());
    }
}

#[test]
fn an_index_of_faiss_that_finds_less_than_when_it_was_built_is_found() {
    let (disk, id) = sample("HNSW8", Metric::L2);
    let [recall] = verify(&disk, id).recall[..] else { panic!("one segment has an index") };
    assert!(recall.found > 0.95 && recall.built > 0.95, "{recall:?}");
    // The graph leads by the rows as they were.
    damage(&disk, id, |bytes, at| {
        let mut vectors = bytes[at.vectors.clone()].to_vec();
        let order = (0..500).map(|row| row * 7 % 500);
        vectors
            .chunks_exact_mut(12)
            .zip(order)
            .for_each(|(to, from)| to.copy_from_slice(&bytes[at.vectors.clone()][from * 12..][..12]));
        bytes[at.vectors.clone()].copy_from_slice(&vectors);
    });
    let findings = verify(&disk, id).findings;
    assert!(findings.iter().any(|finding| finding.problem.contains("of the nearest rows, and found")), "{findings:?}");
}

/// An opening stops at the first.
#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let (disk, id) = sample("Flat", Metric::L2);
    let directory = Path::new("/data/t").join(id.to_string());
    let segments = directory.join(SEGMENT_DIRECTORY);
    let listed = disk.list(&segments).unwrap().into_iter().filter(|entry| entry.name.ends_with(".seg"));
    let paths: Vec<PathBuf> = listed.map(|entry| segments.join(entry.name)).collect();
    for path in &paths {
        disk.open(path).unwrap().write_at(70, &[IoSlice::new(&[0xff])]).unwrap();
    }
    let log = disk.list(&directory.join("wal")).unwrap().pop().unwrap().name;
    disk.open(&directory.join("wal").join(log)).unwrap().write_at(600, &[IoSlice::new(&[0xff; 4])]).unwrap();
    let verified = verify(&disk, id);
    let refused: Vec<&Path> = verified.findings.iter().filter(|f| f.effect == Effect::Refused).map(|f| &*f.file).collect();
    assert_eq!(refused, paths.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    // The checkpoint has what this frame held: only the change feed needs it.
    let unseen: Vec<&Finding> = verified.findings.iter().filter(|f| f.effect == Effect::Unseen).collect();
    assert!(
        matches!(&unseen[..], [frame] if frame.offset == 512 && frame.problem.contains("no valid frame for LSN 1")),
        "{unseen:?}"
    );
    assert_eq!(verified.digest, None);
}
