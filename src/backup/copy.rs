//! Puts into a repository what it lacks of an index, and then the record that makes it a backup.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::chain::{Place, another_copy};
use super::record::{Digest, LogSegment, Object, Piece, Record};
use super::repository::{CHUNK_BYTES, Repository};
use super::throttle::Throttle;
use crate::engine::Index;
use crate::engine::pin::Pin;
use crate::error::{Error, Result};
use crate::format::manifest::{Checksum, LOG_DIRECTORY, SEGMENT_DIRECTORY};
use crate::format::position::SegmentName;
use crate::io::File;
use crate::time;
use crate::types::Lsn;
use crate::wal::archive::{self, Extent};

/// What a backup did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct BackupReport {
    /// Which backup of the index in this repository it is.
    pub seq: u64,
    /// Every mutation up to this one is in it.
    #[cfg_attr(feature = "server", schema(value_type = u64))]
    pub lsn: Lsn,
    #[cfg_attr(feature = "server", schema(value_type = u64))]
    pub checkpoint_lsn: Lsn,
    /// Whether there was something new. Where there was not, it is the last one that was made.
    pub is_new: bool,
    /// What was put, but for the record.
    pub objects_moved: usize,
    pub bytes_moved: u64,
    /// Of all that it is made of, what was there before included.
    pub bytes: u64,
}

/// Backs up an index as it is now, while it is written to: what was acknowledged before the call is in it.
///
/// # Errors
/// [`Error::Conflict`]: another backup of the index to this repository is under way, or the repository has a later state of it than there is, or another
/// node's.
/// [`Error::Backup`]: the newest record is damaged. [`Error::Corrupt`]: a file of the index is not what its manifest says. [`Error::NotFound`],
/// [`Error::Closed`]: the index was deleted or closed meanwhile. [`Error::Io`], [`Error::Full`]: a disk or the repository fails. There is no
/// new backup then, and the next one begins where this one did. [`Error::OutcomeUnknown`]: perhaps there is one.
pub fn backup(index: &Index, repository: &dyn Repository, throttle: &Throttle) -> Result<BackupReport> {
    let place = Place { repository, tenant: index.tenant(), index: index.id() };
    let _no_other = repository.lock(&place.directory())?;
    // After the lock: what another has backed up meanwhile is not ahead of it.
    let pin = index.pin()?;
    let mut plan = Plan::new(&pin, &place)?;
    let report = plan.report();
    if !report.is_new {
        return Ok(report);
    }
    let copying = Copying { pin: &pin, place: &place, throttle };
    let Plan { record, manifest, missing_files, missing_pieces, .. } = &mut plan;
    if let (1, Some(copy)) = (record.seq, record.copy) {
        // Before all else. Where there is a record, it says whose they are.
        place.take(copy)?;
    }
    for &at in missing_files.iter() {
        let file = &mut record.files[at];
        file.sha256 = copying.put_file(&file.name, file.checksum())?;
    }
    for &(segment, piece) in missing_pieces.iter() {
        let segment = &mut record.log[segment];
        let Piece { from, to, .. } = segment.pieces[piece];
        segment.pieces[piece].sha256 = copying.put_piece(segment, from..to)?;
    }
    let name = place.name(&record.manifest.name);
    repository.put(&name, manifest.len() as u64, &mut std::iter::once(Ok(manifest.clone())))?;
    // Last: without it all of this is nothing.
    record.time = time::rfc3339(time::now_us());
    if !repository.put_new(&place.record_name(record.seq), &record.encode())? {
        return Err(Error::Conflict(format!("another backup {} of {} was made meanwhile", record.seq, place.index)));
    }
    Ok(report)
}

/// What [`backup`] would do. Puts nothing.
///
/// # Errors
/// Those of [`backup`], as far as they show without reading files of segments.
pub fn plan(index: &Index, repository: &dyn Repository) -> Result<BackupReport> {
    let place = Place { repository, tenant: index.tenant(), index: index.id() };
    let pin = index.pin()?;
    Ok(Plan::new(&pin, &place)?.report())
}

/// What a backup is to be made of.
struct Plan {
    /// Of what is missing, the digests are not known yet.
    record: Record,
    manifest: Vec<u8>,
    /// Which of its files are to be put.
    missing_files: Vec<usize>,
    /// Which segment of its log, and which piece of that.
    missing_pieces: Vec<(usize, usize)>,
    is_new: bool,
}

impl Plan {
    fn new(pin: &Pin<'_>, place: &Place<'_>) -> Result<Self> {
        let newest = place.newest()?;
        let before = newest.as_ref().map(|(record, _)| record);
        let manifest = pin.manifest();
        debug_assert_eq!(manifest.copy.is_some(), manifest.shared.is_some());
        let copy = manifest.copy.map(Uuid::from_bytes);
        // First: of another copy's files, nothing else can be said.
        if before.is_some_and(|before| before.copy != copy) {
            return Err(another_copy());
        }
        let went_back = |problem: String| {
            let why = format!("{problem}: the index went back to an older state; back it up to another place");
            Error::Conflict(why)
        };
        if let Some(before) = before.filter(|before| before.lsn > pin.end().lsn) {
            let problem = format!("its newest backup is at LSN {}, and the index at {}", before.lsn, pin.end().lsn);
            return Err(went_back(problem));
        }
        let unknown = Digest::of(&[]);
        let (mut files, mut missing_files) = (Vec::new(), Vec::new());
        let known: HashMap<&str, &Object> =
            before.iter().flat_map(|record| &record.files).map(|file| (&*file.name, file)).collect();
        for (name, _, checksum) in manifest.segment_files() {
            let name = format!("{SEGMENT_DIRECTORY}/{name}");
            match known.get(&*name) {
                Some(file) if file.checksum() == checksum => files.push((*file).clone()),
                Some(_) => return Err(went_back(format!("{name} is another file than the one that was backed up"))),
                None => {
                    missing_files.push(files.len());
                    files.push(Object { name, bytes: checksum.bytes, crc32: checksum.crc, sha256: unknown });
                }
            }
        }
        let (mut log, mut missing_pieces) = (Vec::new(), Vec::new());
        for (at, &name) in manifest.log.iter().enumerate() {
            let known = before.and_then(|record| record.log.iter().find(|segment| segment.name == name.file_name()));
            let (segment, is_longer) = log_segment(pin, name, manifest.log.get(at + 1).copied(), known)?;
            if is_longer {
                missing_pieces.push((at, segment.pieces.len() - 1));
            }
            log.push(segment);
        }
        let bytes = manifest.encode();
        let record = Record {
            format: Record::FORMAT,
            seq: before.map_or(1, |before| before.seq + 1),
            previous: newest.as_ref().map(|(_, digest)| *digest),
            time: String::new(),
            tenant: place.tenant.to_string(),
            index: place.index,
            copy,
            lsn: pin.end().lsn,
            checkpoint_lsn: manifest.position.lsn,
            manifest: Object::manifest(&manifest.file_name(), &bytes),
            files,
            log,
        };
        let is_known = |before: &Record| before.lsn == record.lsn && before.manifest == record.manifest;
        let (record, is_new) = match newest {
            Some((before, _)) if is_known(&before) => (before, false),
            _ => (record, true),
        };
        Ok(Self { record, manifest: bytes, missing_files, missing_pieces, is_new })
    }

    fn report(&self) -> BackupReport {
        let record = &self.record;
        let piece = |&(segment, piece): &(usize, usize)| &record.log[segment].pieces[piece];
        let file_bytes: u64 = self.missing_files.iter().map(|&at| record.files[at].bytes).sum();
        let log_bytes: u64 = self.missing_pieces.iter().map(piece).map(|piece| piece.to - piece.from).sum();
        let all_bytes = record.files.iter().map(|file| file.bytes).chain(record.log.iter().map(LogSegment::bytes));
        let (objects_moved, bytes_moved) = match self.is_new {
            true => {
                (self.missing_files.len() + self.missing_pieces.len() + 1, file_bytes + log_bytes + self.manifest.len() as u64)
            }
            false => (0, 0),
        };
        BackupReport {
            seq: record.seq,
            lsn: record.lsn,
            checkpoint_lsn: record.checkpoint_lsn,
            is_new: self.is_new,
            objects_moved,
            bytes_moved,
            bytes: all_bytes.sum::<u64>() + self.manifest.len() as u64,
        }
    }
}

/// What a record says of a segment of the log, of which `known` is backed up; and whether its last piece is new.
fn log_segment(
    pin: &Pin<'_>,
    name: SegmentName,
    next: Option<SegmentName>,
    known: Option<&LogSegment>,
) -> Result<(LogSegment, bool)> {
    if let Some(known) = known.filter(|known| known.is_closed) {
        return Ok((known.clone(), false));
    }
    let options = pin.log();
    let until = match next {
        Some(next) => archive::predecessor(&options, next)?,
        None => (pin.end().lsn, pin.end().chain),
    };
    let last = known.and_then(|known| known.pieces.last());
    let before = last.map(|last| Extent { bytes: last.to, chain: last.chain, lsn: last.lsn, time_us: last.time_us });
    let found = archive::extent(&options, name, before, until).map_err(|error| deleted_or(pin, error))?;
    let mut pieces = known.map_or(Vec::new(), |known| known.pieces.clone());
    let from = before.map_or(0, |before| before.bytes);
    let is_longer = found.bytes > from;
    if is_longer {
        let Extent { bytes: to, lsn, chain, time_us } = found;
        pieces.push(Piece { from, to, lsn, chain, time_us, sha256: Digest::of(&[]) });
    }
    Ok((LogSegment { name: name.file_name(), is_closed: next.is_some(), pieces }, is_longer))
}

/// Files that are gone because the index was deleted are no damage.
fn deleted_or(pin: &Pin<'_>, error: Error) -> Error {
    pin.check_open().err().unwrap_or(error)
}

struct Copying<'a> {
    pin: &'a Pin<'a>,
    place: &'a Place<'a>,
    throttle: &'a Throttle,
}

impl Copying<'_> {
    /// Puts a file that never changes, if it is what the manifest says.
    fn put_file(&self, name: &str, expected: Checksum) -> Result<Digest> {
        let length = |bytes: u64| -> Result<()> {
            if bytes == expected.bytes {
                return Ok(());
            }
            let problem = format!("the file has {bytes} bytes, and its manifest says {}; it is not backed up", expected.bytes);
            Err(Error::corrupt(&self.pin.directory().join(name), bytes, problem))
        };
        let (digest, crc) = self.put(name, name, 0..expected.bytes, Some(&length), Some(expected.crc))?;
        debug_assert_eq!(crc, expected.crc);
        Ok(digest)
    }

    /// Puts bytes of the log, whose frames were checked.
    fn put_piece(&self, segment: &LogSegment, range: Range<u64>) -> Result<Digest> {
        let file = format!("{LOG_DIRECTORY}/{}", segment.name);
        Ok(self.put(&file, &segment.object(range.clone()), range, None, None)?.0)
    }

    /// Puts a run of bytes of a file. Gives its digest and its CRC.
    fn put(
        &self,
        file_name: &str,
        object: &str,
        range: Range<u64>,
        check_length: Option<&dyn Fn(u64) -> Result<()>>,
        crc: Option<u32>,
    ) -> Result<(Digest, u32)> {
        let path = self.pin.directory().join(file_name);
        let fault = |operation: &'static str, error| deleted_or(self.pin, Error::io(operation, &path, error));
        let file: Arc<dyn File> = self.pin.io().open(&path).map_err(|error| fault("open", error))?;
        if let Some(check_length) = check_length {
            check_length(file.len().map_err(|error| fault("read", error))?)?;
        }
        let (mut sha256, mut crc32) = (Sha256::new(), crc32fast::Hasher::new());
        let mut at = range.start;
        let mut next = || -> Result<Option<Vec<u8>>> {
            self.pin.check_open()?;
            let wanted = (range.end - at).min(CHUNK_BYTES as u64) as usize;
            let mut chunk = vec![0; wanted];
            if file.read_at(at, &mut chunk).map_err(|error| fault("read", error))? < wanted {
                return Err(fault("read", std::io::ErrorKind::UnexpectedEof.into()));
            }
            at += wanted as u64;
            self.throttle.take(wanted as u64);
            sha256.update(&chunk);
            crc32.update(&chunk);
            // Before the last bytes are given: the repository is not to name an object that is not what it is to be.
            if at == range.end && crc.is_some_and(|crc| crc32.clone().finalize() != crc) {
                return Err(Error::corrupt(&path, 0, "checksum mismatch; it is not backed up"));
            }
            Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
        };
        let chunks = &mut std::iter::from_fn(|| next().transpose());
        self.place.repository.put(&self.place.name(object), range.end - range.start, chunks)?;
        Ok((sha256.into(), crc32.finalize()))
    }
}
