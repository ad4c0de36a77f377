//! What the fuzzers call, and nobody else: one function for each decoder that takes bytes from the disk or from a client. Each panics
//! where a promise is broken. `fuzz/README.md` tells how to run them; unit tests run their seeds.
//!
//! A whole store that is driven by bytes needs none of this: see `tests/support/driven.rs`.
//!
//! Checksums are made right before the bytes are decoded: no mutation guesses a CRC-32, and what is behind it is what wants testing.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::Limits;
use crate::engine::{Index, Opening, Store, StoreOptions};
use crate::error::{Error, Result};
use crate::format::frame::{FRAME_ALIGN, FRAME_HEADER, FrameHeader};
use crate::format::header::{FIRST_FRAME, LogHeader};
use crate::format::manifest::{Checksum, LOG_DIRECTORY, Manifest, SEGMENT_DIRECTORY, Settings, parse_file_name};
use crate::format::position::{Position, SegmentName};
use crate::format::segment::{ALIGN, BLOCK, SegmentHeader};
use crate::format::{crc32, put};
use crate::io::Io;
use crate::io::sim::SimIo;
use crate::segment::Rows;
use crate::segment::filter::Filter;
use crate::segment::sealed::{self, Sealed};
use crate::types::{Durability, IndexId, IndexSpec, Metric, Query, TenantId};
use crate::wal::file_log::{FileLog, LogOptions};
use crate::wal::operation::Operation;

mod dead;
mod fields;
mod index_type;
mod keys;
#[cfg(feature = "server")]
mod request;
#[cfg(test)]
mod tests;

pub use dead::dead;
pub use fields::fields;
pub use index_type::index_type;
pub use keys::keys;
#[cfg(feature = "server")]
pub use request::request;

const DATA_DIR: &str = "/data";
const TENANT: &str = "t";
const INDEX: IndexId = IndexId::from_bytes([7; 16]);

/// The header of the log that [`log_scan`] reads.
const LOG: LogHeader = LogHeader {
    index: INDEX,
    epoch: 1,
    first_lsn: 1,
    predecessor_last_lsn: 0,
    predecessor_chain: 0,
    salt: 0x0102_0304_0506_0708,
};

/// A segment file that [`segment`] builds is no larger: room for two checksums in its table.
const SEGMENT_BYTES_MAX: usize = BLOCK + BLOCK / 4;

/// Rows whose texts overlap could make the file that is written of them as large as the square of theirs.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// A log segment through the whole of recovery. `input`: how many frames are given right checksums (7 bits) and whether a store opens it
/// too (1 bit), then what follows the header.
///
/// Either the log is refused as corrupt and nothing on the disk has changed; or a prefix is replayed, the next recovery replays the same,
/// one from the end of the log replays nothing, and a store serves it, checkpoints it and finds it again.
pub fn log_scan(input: &[u8]) {
    let Some((&first, frames)) = input.split_first() else { return };
    let (right, is_served) = (first & 0x7f, first & 0x80 != 0);
    let mut file = LOG.encode().to_vec();
    file.resize(FIRST_FRAME as usize, 0);
    file.extend_from_slice(frames);
    make_frames_right(&mut file, right.into());
    let name = SegmentName { first_lsn: LOG.first_lsn, epoch: LOG.epoch };
    let disk = disk_with(INDEX);
    write_file(&disk, &name.path(&index_dir(INDEX).join(LOG_DIRECTORY)), &file);

    let served = disk.fork();
    let mutations = disk.mutations();
    // What is looked at when a store is opened lazily.
    let verified = FileLog::verify(&log_options(&disk), &[name], Position::START, &mut |_, _| Ok(()));
    assert_eq!(disk.mutations(), mutations, "looking changes nothing");
    let (operations, listed, end) = match recover_log(&disk, vec![name], Position::START) {
        Ok(recovered) => recovered,
        Err(error) => {
            assert_corrupt(&error);
            assert_eq!(disk.mutations(), mutations, "a log that is refused is left as it was");
            assert_eq!(verified.expect_err("the start refuses what recovery refuses").to_string(), error.to_string());
            return;
        }
    };
    let report = verified.expect("the start refuses nothing else");
    assert_eq!(report.replayed_operations, operations.len() as u64);
    let (again, ..) = recover_log(&disk, listed.clone(), Position::START).expect("what was recovered can be recovered again");
    assert_eq!(again, operations);
    let (after, ..) = recover_log(&disk, listed, end).expect("recovery goes on from where the log ended");
    assert_eq!(after, Vec::<Vec<u8>>::new());

    if is_served {
        serve_log(&served, name, &operations);
    }
}

/// Opens a store over the log that these operations were recovered from.
fn serve_log(disk: &SimIo, name: SegmentName, operations: &[Vec<u8>]) {
    let settings = Settings {
        name: "n".to_owned(),
        dimension: 2,
        index_type: "Flat".to_owned(),
        factory: "Flat".to_owned(),
        metric: 0,
        created_at_us: 0,
        options: "{}".to_owned(),
        created_by: None,
    };
    let fits = operations.iter().all(|bytes| Operation::decode(bytes).is_ok_and(|(operation, _)| operation.fits(2)));
    let manifest = Manifest {
        index: *INDEX.as_bytes(),
        generation: 2,
        settings,
        position: Position::START,
        log: vec![name],
        segments: Vec::new(),
        keys: None,
        shared: None,
        copy: None,
    };
    write_manifest(disk, &manifest, &manifest.encode());
    match open_index(disk, INDEX) {
        Ok((_store, index)) => {
            assert_eq!(index.info().lsn, operations.len() as u64);
            checkpoint_and_reopen(disk, &index);
        }
        Err(error) => {
            assert_corrupt(&error);
            assert!(!fits, "{error}");
        }
    }
}

/// The two headers of a log, alone. `input`: 64 bytes, then a payload.
pub fn frame(input: &[u8]) {
    let Some((&head, payload)) = input.split_first_chunk::<FRAME_HEADER>() else { return };
    let _ = (FrameHeader::decode(&head), LogHeader::decode(&head));
    let mut head = head;
    make_header_right(&mut head);
    if let Some(header) = FrameHeader::decode(&head) {
        assert!(header.frame_bytes() >= FRAME_HEADER as u64 + u64::from(header.payload_bytes));
        assert!(header.frame_bytes().is_multiple_of(FRAME_ALIGN as u64));
        let _ = header.chains(&head, 0, payload);
        let mut sealed = header.clone();
        let bytes = sealed.seal(1, &[payload]);
        assert!(sealed.chains(&bytes, 1, payload));
        assert_eq!(FrameHeader::decode(&bytes), Some(sealed.clone()));
        assert_eq!(FrameHeader { chain: header.chain, ..sealed }, header);
    }
    if let Ok(header) = LogHeader::decode(&head) {
        assert_eq!(LogHeader::decode(&header.encode()), Ok(header));
    }
}

/// Operations one after the other, as in a frame's payload.
pub fn operation(mut input: &[u8]) {
    while let Ok((operation, rest)) = Operation::decode(input) {
        assert!(input.ends_with(rest) && rest.len() < input.len());
        let bytes = encoded(&operation);
        let (again, none) = Operation::decode(&bytes).expect("what was encoded can be decoded");
        assert!(none.is_empty());
        // Compared as bytes: a NaN is not equal to itself.
        assert_eq!(encoded(&again), bytes);
        match &operation {
            Operation::Upsert(upsert) => {
                let points = upsert.points().inspect(|(_, _, vector)| assert_eq!(vector.len(), upsert.dimension as usize));
                assert_eq!(points.count(), upsert.count as usize);
            }
            Operation::Delete(delete) => assert_eq!(delete.ids().count(), delete.count as usize),
            Operation::Keyed(keyed) => {
                if let Some(operation) = &keyed.operation {
                    self::operation(&encoded(operation));
                }
            }
        }
        input = rest;
    }
}

/// A manifest, and the opening of an index that has it for its root. `input`: the file.
///
/// The index is refused as corrupt, or as one that other nodes write to; or it takes a write and a checkpoint, and is there again when it is
/// reopened.
pub fn manifest(input: &[u8]) {
    let _ = Manifest::decode(input);
    let mut file = input.to_vec();
    let Some(body) = file.len().checked_sub(20) else { return };
    file[12..16].copy_from_slice(&(body as u32).to_le_bytes());
    let crc = crc32(&[&file[..body + 16]]);
    file[body + 16..].copy_from_slice(&crc.to_le_bytes());
    let Ok(manifest) = Manifest::decode(&file) else { return };
    assert_eq!(Manifest::decode(&manifest.encode()).as_ref(), Ok(&manifest));
    assert_eq!(parse_file_name(&manifest.file_name()), Some(manifest.generation));
    assert!(manifest.log.iter().all(|name| SegmentName::parse(&name.file_name()) == Some(*name)));

    let id = IndexId::from_bytes(manifest.index);
    let disk = disk_with(id);
    write_manifest(&disk, &manifest, &file);
    for name in manifest.log.iter().take(4) {
        let path = name.path(&index_dir(id).join(LOG_DIRECTORY));
        let header = LogHeader {
            index: id,
            epoch: name.epoch,
            first_lsn: name.first_lsn,
            predecessor_last_lsn: manifest.position.lsn,
            predecessor_chain: manifest.position.chain,
            salt: LOG.salt,
        };
        if disk.open(&path).is_err() {
            write_file(&disk, &path, &header.encode());
        }
    }
    match open_index(&disk, id) {
        // A vector of any dimension would be as large as the dimension says.
        Ok((_store, index)) if index.dimension() <= 64 => {
            assert_eq!(manifest.shared, None, "nobody said where its log is");
            let mut batch = index.batch();
            batch.push("a", &vec![1.0; index.dimension()], "{}").expect("a point of the index's dimension");
            index.upsert(batch, Durability::Fsync).expect("an index that opens takes a write");
            assert!(index.get("a").expect("reading").is_some());
            checkpoint_and_reopen(&disk, &index);
        }
        Ok(_) => assert_eq!(manifest.shared, None),
        Err(Error::Closed(_)) => assert!(manifest.shared.is_some(), "nothing else closes it"),
        Err(error) => assert_corrupt(&error),
    }
}

/// A sealed segment. `input`: the file, but for its checksums, which are made right.
///
/// It is refused as corrupt, or every row can be read, and a segment written of its rows has the same rows.
pub fn segment(input: &[u8]) {
    let mut file = input.to_vec();
    file.resize(file.len().max(ALIGN), 0);
    let mut head = [0; ALIGN];
    head.copy_from_slice(&file[..ALIGN]);
    make_header_right(&mut head);
    file[..ALIGN].copy_from_slice(&head);
    let Ok(header) = SegmentHeader::decode(&head) else { return };
    assert_eq!(SegmentHeader::decode(&header.encode()).as_ref(), Ok(&header));
    if let Some(layout) = header.layout().filter(|layout| layout.checksums.end <= SEGMENT_BYTES_MAX) {
        file.resize(layout.checksums.start, 0);
        let mut table: Vec<u8> = file.chunks(BLOCK).flat_map(|block| crc32(&[block]).to_le_bytes()).collect();
        table.extend(crc32(&[&table]).to_le_bytes());
        file.extend(table);
    }
    let disk = SimIo::new();
    let path = Path::new("/found");
    write_file(&disk, path, &file);
    let checksum = Checksum { bytes: file.len() as u64, crc: crc32(&[&file]) };
    let sealed = match Sealed::open(&disk, path, checksum, header.index, header.number, 5) {
        Ok(sealed) => sealed,
        Err(error) => return assert_corrupt(&error),
    };
    assert_eq!((sealed.len(), sealed.dimension()), (header.rows as usize, header.dimension as usize));
    let text_bytes: u64 = (0..sealed.len())
        .map(|position| {
            assert_eq!(sealed.position(sealed.offset(position)), Some(position));
            let (id, metadata) = (sealed.id(position), sealed.metadata(position));
            assert!(std::str::from_utf8(id).is_ok() && std::str::from_utf8(metadata).is_ok());
            (id.len() + metadata.len()) as u64
        })
        .sum();
    if text_bytes > TEXT_BYTES_MAX {
        return;
    }
    let scaled = sealed.is_scaled();
    let (positions, rows) = ((0..sealed.len() as u32).collect(), Rows::Sealed(Arc::new(sealed)));
    let path = Path::new("/again");
    let selection = [(&rows, positions)];
    let checksum = sealed::write(&disk, path, header.index, header.number, header.dimension as usize, scaled, &selection)
        .expect("rows that can be read can be written");
    let again = Sealed::open(&disk, path, checksum, header.index, header.number, 5).expect("what was written can be opened");
    let again = Rows::Sealed(Arc::new(again));
    for position in 0..header.rows as usize {
        assert_eq!(row_of(&again, position), row_of(&rows, position));
    }
}

/// A filter and metadata. `input`: the filter's text, a line feed, the metadata.
///
/// Metadata may be any bytes; a filter and its negation never agree; and what has no operator matches itself.
pub fn filter(input: &[u8]) {
    let at = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    let (text, metadata) = (&input[..at], input.get(at + 1..).unwrap_or_default());
    let Ok(text) = std::str::from_utf8(text) else { return };
    match Filter::parse(text) {
        Ok(filter) => {
            // It may be as deep as a filter can be.
            if let Ok(negated) = Filter::parse(&format!("{{\"$not\":{text}}}")) {
                assert_ne!(filter.matches(metadata), negated.matches(metadata), "{text} and its negation");
            }
            assert!(has_operator(text) || filter.matches(text.as_bytes()), "{text} does not match itself");
        }
        Err(error) => assert_invalid(&error),
    }
}

/// Whether this filter may be more than values to be equal to.
fn has_operator(text: &str) -> bool {
    text.contains('$') || text.contains("\\u0024")
}

/// Points on their way into a store. `input`: metric and dimension (u8), then for each of up to 4 points: bytes of the id (u8), the id,
/// floats, bytes of the metadata (u16), the metadata.
///
/// A point is refused as invalid and the batch is as before; or it is given back as it came, also after reopening and after a checkpoint,
/// and a search finds it, also by its own metadata where that is a filter.
pub fn point(mut input: &[u8]) {
    let first = usize::from(take(&mut input, 1).first().copied().unwrap_or(0));
    let metric = [Metric::L2, Metric::InnerProduct, Metric::Cosine][first % 3];
    let dimension = 1 + first / 3 % 8;
    let disk = SimIo::new();
    let store = open_store(&disk);
    let spec = IndexSpec {
        name: "n".to_owned(),
        dimension,
        index_type: "Flat".to_owned(),
        metric: Some(metric),
        ..IndexSpec::default()
    };
    let index = store.create_index(&tenant(), &spec).expect("creating an index");
    let mut batch = index.batch();
    let mut expected = BTreeMap::new();
    for _ in 0..4 {
        let id_bytes = take(&mut input, 1).first().copied().unwrap_or(0);
        let id = String::from_utf8_lossy(take(&mut input, id_bytes.into())).into_owned();
        let mut floats = take(&mut input, dimension * 4).to_vec();
        floats.resize(dimension * 4, 0);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&floats);
        let metadata_bytes = take(&mut input, 2).iter().rev().fold(0, |bytes, &byte| bytes << 8 | usize::from(byte));
        let metadata = String::from_utf8_lossy(take(&mut input, metadata_bytes)).into_owned();
        let before = batch.len();
        match batch.push(&id, &values, &metadata) {
            Ok(()) => {
                assert_eq!(batch.len(), before + 1);
                expected.insert(id, (values, metadata.trim_ascii().to_owned()));
            }
            Err(error) => {
                assert_invalid(&error);
                assert_eq!(batch.len(), before);
            }
        }
    }
    if expected.is_empty() {
        return;
    }
    let upserted = index.upsert(batch, Durability::Fsync).expect("a batch of valid points is stored");
    assert_eq!(upserted.added_count, expected.len());
    assert_points(&index, &expected);
    let (_store, reopened) = open_index(&disk.fork(), index.id()).expect("what was stored can be opened");
    assert_points(&reopened, &expected);
    assert_points(&checkpoint_and_reopen(&disk, &index), &expected);
}

fn assert_points(index: &Index, expected: &BTreeMap<String, (Vec<f32>, String)>) {
    for (id, (values, metadata)) in expected {
        let found = index.get(id).expect("reading").expect("the point is there");
        assert_eq!((&found.id, &found.metadata), (id, metadata));
        assert_eq!(bits(&found.values), bits(values));
        for filter in [None, Filter::parse(metadata).ok().filter(|_| !has_operator(metadata))] {
            let hits = index
                .search(&Query { vector: values.clone(), k: 10, filter, ..Query::default() })
                .expect("a stored vector can be searched for");
            assert!(hits.iter().any(|hit| hit.id == *id), "{id} is not found");
            assert!(hits.iter().all(|hit| hit.distance.is_finite() && hit.score.is_finite()), "{hits:?}");
        }
    }
}

/// Salt, offset, chain and CRC of the first `count` frames in a log file. Stops where one claims more than there is.
fn make_frames_right(file: &mut [u8], count: usize) {
    let (mut at, mut chain) = (FIRST_FRAME as usize, LOG.predecessor_chain);
    for _ in 0..count {
        let Some((head, after)) = file.get_mut(at..).and_then(|rest| rest.split_first_chunk_mut::<FRAME_HEADER>()) else {
            return;
        };
        put(head, 12, (at as u32).to_le_bytes());
        put(head, 16, LOG.salt.to_le_bytes());
        make_header_right(head);
        // The decoder says how long the payload is; `seal` would write over reserved bytes that the fuzzer chose.
        let Some(header) = FrameHeader::decode(head) else { return };
        let Some(payload) = after.get(..header.payload_bytes as usize) else { return };
        chain = crate::format::crc32_from(chain, &[&head[..56], payload]);
        put(head, 56, chain.to_le_bytes());
        make_header_right(head);
        at += header.frame_bytes() as usize;
    }
}

/// The CRC at the end of a 64-byte header.
fn make_header_right(head: &mut [u8; 64]) {
    let crc = crc32(&[&head[..60]]);
    put(head, 60, crc.to_le_bytes());
}

fn log_options(disk: &SimIo) -> LogOptions {
    let directory = index_dir(INDEX).join(LOG_DIRECTORY);
    LogOptions::new(Arc::new(disk.clone()), directory, INDEX, &Limits::default())
}

/// What recovery replays, each operation as bytes; the segments that a manifest then lists; and where the log ends.
fn recover_log(disk: &SimIo, mut listed: Vec<SegmentName>, from: Position) -> Result<(Vec<Vec<u8>>, Vec<SegmentName>, Position)> {
    let mut operations = Vec::new();
    let recovered = FileLog::recover(log_options(disk), &listed, from, &mut |lsn, operation| {
        operations.push(encoded(operation));
        assert_eq!(lsn, from.lsn + operations.len() as u64, "LSNs are consecutive");
        Ok(())
    })?;
    let mut log = recovered.log;
    if let Some(rescued) = recovered.rescued {
        listed.push(rescued.name());
        log.adopt(rescued);
    }
    assert_eq!(recovered.report.replayed_operations, operations.len() as u64);
    assert_eq!(log.written_lsn(), from.lsn + operations.len() as u64);
    Ok((operations, listed, log.position()))
}

fn encoded(operation: &Operation<'_>) -> Vec<u8> {
    let (mut bytes, tail) = operation.encode();
    bytes.extend_from_slice(tail);
    bytes
}

/// A disk with the directories of one index, and no file in them.
fn disk_with(index: IndexId) -> SimIo {
    let disk = SimIo::new();
    let directory = index_dir(index);
    let tenant = Path::new(DATA_DIR).join(TENANT);
    for path in [Path::new(DATA_DIR), &tenant, &directory, &directory.join(LOG_DIRECTORY), &directory.join(SEGMENT_DIRECTORY)] {
        disk.create_dir(path).expect("a new disk");
    }
    disk
}

fn index_dir(index: IndexId) -> PathBuf {
    Path::new(DATA_DIR).join(TENANT).join(index.to_string())
}

fn tenant() -> TenantId {
    TenantId::new(TENANT).expect("a name of a directory")
}

fn write_file(disk: &SimIo, path: &Path, bytes: &[u8]) {
    let file = disk.create(path).expect("a new file");
    file.write_at(0, &[IoSlice::new(bytes)]).expect("a disk without faults");
    file.sync_data().expect("a disk without faults");
}

/// A manifest of these bytes, and the one before it, without which no index opens.
fn write_manifest(disk: &SimIo, manifest: &Manifest, bytes: &[u8]) {
    let directory = index_dir(IndexId::from_bytes(manifest.index));
    write_file(disk, &directory.join(manifest.file_name()), bytes);
    if let Some(generation) = manifest.generation.checked_sub(1) {
        let before = Manifest { generation, ..manifest.clone() };
        write_file(disk, &directory.join(before.file_name()), &before.encode());
    }
}

fn open_store(disk: &SimIo) -> Store {
    let options =
        StoreOptions { io: Arc::new(disk.clone()), background: false, opening: Opening::Lazy, ..StoreOptions::new(DATA_DIR) };
    Store::open(options).expect("a store opens, whatever its indices are")
}

fn open_index(disk: &SimIo, id: IndexId) -> Result<(Store, Arc<Index>)> {
    let store = open_store(disk);
    let index = store.index(&tenant(), id)?;
    Ok((store, index))
}

/// The index as another process finds it after a checkpoint: with all that it had.
fn checkpoint_and_reopen(disk: &SimIo, index: &Index) -> Arc<Index> {
    index.checkpoint().expect("an index that serves can be checkpointed");
    let (_store, reopened) = open_index(&disk.fork(), index.id()).expect("a checkpoint can be opened");
    let (before, after) = (index.info(), reopened.info());
    assert_eq!((after.lsn, after.vector_count), (before.lsn, before.vector_count));
    reopened
}

/// All that is kept of a row, floats as bits; but for where its text is.
fn row_of(rows: &Rows, position: usize) -> impl PartialEq + std::fmt::Debug {
    let record = rows.record(position);
    let (mut id, mut metadata, mut vector) = (Vec::new(), Vec::new(), Vec::new());
    rows.id(position, &mut id);
    rows.metadata(position, &mut metadata);
    rows.vector(position, &mut vector);
    let scale: Vec<f32> = rows.scales(position..position + 1).iter().collect();
    (record.lsn, record.extreme, id, metadata, bits(&vector), bits(&scale))
}

fn bits(floats: &[f32]) -> Vec<u32> {
    floats.iter().map(|float| float.to_bits()).collect()
}

/// The next `count` bytes, or what is left.
fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    taken
}

#[track_caller]
fn assert_corrupt(error: &Error) {
    assert!(matches!(error, Error::Corrupt(_)), "{error:?}");
}

#[track_caller]
fn assert_invalid(error: &Error) {
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}
