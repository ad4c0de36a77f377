//! Finds in the records of an index what a state is made of, and has it restored.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::chain::{Place, joins, reachable, read_all};
use super::record::{Digest, LogSegment, Object, Piece, Record};
use super::repository::Repository;
use crate::engine::restore::Staging;
use crate::engine::{Index, Store};
use crate::error::{Error, Result, What};
use crate::format::manifest::{LOG_DIRECTORY, MANIFEST_BYTES_MAX, Manifest, SEGMENT_DIRECTORY};
use crate::format::position::SegmentName;
use crate::time;
use crate::types::{IndexId, Lsn, TenantId};
use crate::wal::archive;

/// Which state is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// That of the newest backup.
    Newest,
    Lsn(Lsn),
    /// That after the last mutation that was committed at this time or before: UTC, microseconds since 1970.
    Time(i64),
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The new index.
    pub index: IndexId,
    /// The one that was backed up.
    pub from_index: IndexId,
    pub lsn: Lsn,
    pub vector_count: u64,
    /// What was fetched.
    pub bytes: u64,
}

/// The indices that have a backup in a repository.
///
/// # Errors
/// Those of the repository.
pub fn indices(repository: &dyn Repository) -> Result<Vec<(TenantId, IndexId)>> {
    let mut found = Vec::new();
    let directories = |name: &str| -> Result<Vec<String>> {
        Ok(repository.list(name)?.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect())
    };
    for tenant in directories("")?.iter().filter_map(|name| TenantId::new(name).ok()) {
        for name in directories(tenant.as_str())? {
            let Some(index) = IndexId::try_parse(&name).ok().filter(|id| id.to_string() == name) else { continue };
            if (Place { repository, tenant: &tenant, index }).newest()?.is_some() {
                found.push((tenant.clone(), index));
            }
        }
    }
    Ok(found)
}

/// Restores an index into a store that does not have it, as a new index of the same tenant, under another UUID. Every byte is verified before it
/// is used.
///
/// # Errors
/// [`Error::NotFound`]: there is no backup of the index. [`Error::Invalid`] naming `at_lsn` or `at_time`: what is there does not reach that
/// state. [`Error::Backup`]: what is in the repository is not what was put there. [`Error::Conflict`]: the index is in the store.
/// [`Error::Full`], [`Error::Io`]: a disk or the repository fails. There is no new index then. [`Error::OutcomeUnknown`]: there may be one.
pub fn restore(
    store: &Store,
    repository: &dyn Repository,
    tenant: &TenantId,
    index: IndexId,
    target: Target,
) -> Result<(Arc<Index>, RestoreReport)> {
    let place = Place { repository, tenant, index };
    let records = place.records()?;
    let mut fetching = Fetching { place: &place, records: &records, bytes: 0 };
    let restored = store.restore(tenant, index, |staging| fetching.fetch(staging, target))?;
    let info = restored.info();
    let report = RestoreReport {
        index: info.id,
        from_index: index,
        lsn: info.lsn,
        vector_count: info.vector_count,
        bytes: fetching.bytes,
    };
    Ok((restored, report))
}

struct Fetching<'a> {
    place: &'a Place<'a>,
    /// By rising LSN.
    records: &'a [Record],
    /// What was fetched.
    bytes: u64,
}

impl Fetching<'_> {
    /// Puts into the staging directory what the state is made of. Gives the manifest that names it, and the LSN of the state.
    fn fetch(&mut self, staging: &Staging<'_>, target: Target) -> Result<(Manifest, Lsn)> {
        let Some(newest) = self.records.last() else { return Err(Error::NotFound(What::Index)) };
        let (lsn, field, code) = match target {
            Target::Newest => (newest.lsn, "at_lsn", "lsn_not_reachable"),
            Target::Lsn(lsn) => (lsn, "at_lsn", "lsn_not_reachable"),
            Target::Time(time_us) => (self.lsn_at(staging, time_us)?, "at_time", "time_not_reachable"),
        };
        let ranges = reachable(self.records);
        // The newest checkpoint that is not beyond it: the least log to replay.
        let base = self.records.iter().rposition(|record| record.checkpoint_lsn <= lsn);
        let Some(at) = base.filter(|_| ranges.iter().any(|range| range.contains(&lsn))) else {
            let ranges: Vec<String> = ranges.iter().map(|range| format!("{} to {}", range.start(), range.end())).collect();
            let detail = format!("LSN {lsn} is not in the backups, which reach from LSN {}", ranges.join(", and from "));
            return Err(Error::invalid(field, code, detail));
        };
        let base = &self.records[at];
        let next = self.records.get(at + 1).filter(|next| lsn > base.lsn && joins(base, next));
        let mut manifest = self.manifest(base)?;
        let log = joined(std::iter::once(base).chain(next));
        let begins_in = manifest.position.at.map(|(name, _)| name);
        // A checkpoint can be at the end of what is before the segment that replaying begins in.
        let is_needed = |name: SegmentName| begins_in.is_none_or(|first| name >= first) && name.first_lsn <= lsn;
        let log: Vec<(SegmentName, &LogSegment)> =
            log.into_iter().filter(|&(name, _)| is_needed(name) || begins_in == Some(name)).collect();
        for file in &base.files {
            self.object(staging, file)?;
        }
        for (_, segment) in &log {
            self.segment(staging, segment)?;
        }
        manifest.log = log.into_iter().map(|(name, _)| name).collect();
        Ok((manifest, lsn))
    }

    /// The last mutation that was committed by then.
    fn lsn_at(&mut self, staging: &Staging<'_>, time_us: i64) -> Result<Lsn> {
        let is_by_then = |at_us: u64| i64::try_from(at_us).is_ok_and(|at_us| at_us <= time_us);
        let was_made = |record: &Record| time::parse_rfc3339(&record.time).is_ok_and(|at_us| at_us <= time_us);
        let log = joined(self.records);
        let pieces = || log.iter().flat_map(|(_, segment)| segment.pieces.iter().map(move |piece| (*segment, piece)));
        let ended = pieces().filter(|(_, piece)| piece.time_us.is_some_and(is_by_then)).map(|(_, piece)| piece.lsn);
        let mut found = self.records.iter().filter(|record| was_made(record)).map(|record| record.lsn).chain(ended).max();
        // The one piece that may have some on both sides.
        let after = |(_, piece): &(&LogSegment, &Piece)| piece.time_us.is_some() && found.is_none_or(|lsn| piece.lsn > lsn);
        if let Some((segment, _)) = pieces().find(after) {
            self.segment(staging, segment)?;
            let name = segment.segment_name().ok_or_else(|| self.damage(&segment.name, "is no log segment"))?;
            archive::commits(&staging.log, name, &mut |lsn, at_us| {
                if is_by_then(at_us) {
                    found = found.max(Some(lsn));
                }
            })?;
            let path = name.path(&staging.log.directory);
            staging.io.remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        }
        found.ok_or_else(|| {
            let detail = format!("{} is before everything that the backups have a time of", time::rfc3339(time_us));
            Error::invalid("at_time", "time_not_reachable", detail)
        })
    }

    fn manifest(&mut self, record: &Record) -> Result<Manifest> {
        let object = &record.manifest;
        let bytes = read_all(self.place.repository, &self.place.name(&object.name), MANIFEST_BYTES_MAX)?;
        let damage = |problem: &str| self.damage(&object.name, problem);
        if bytes.len() as u64 != object.bytes || Digest::of(&bytes) != object.sha256 {
            return Err(damage("it is not what the record says: its digest is another"));
        }
        let manifest = Manifest::decode(&bytes).map_err(|problem| damage(&problem))?;
        let files = manifest.segment_files().map(|(name, _, checksum)| (format!("{SEGMENT_DIRECTORY}/{name}"), checksum));
        let is_named = files.eq(record.files.iter().map(|file| (file.name.clone(), file.checksum())));
        let is_of_record =
            IndexId::from_bytes(manifest.index) == record.index && manifest.position.lsn == record.checkpoint_lsn && is_named;
        if !is_of_record {
            return Err(damage("it does not name what the record names"));
        }
        self.bytes += bytes.len() as u64;
        Ok(manifest)
    }

    fn object(&mut self, staging: &Staging<'_>, object: &Object) -> Result<()> {
        self.copy(staging, &object.name, &staging.directory.join(&object.name), 0, object.bytes, object.sha256)
    }

    fn segment(&mut self, staging: &Staging<'_>, segment: &LogSegment) -> Result<()> {
        let path = staging.directory.join(LOG_DIRECTORY).join(&segment.name);
        segment.pieces.iter().try_for_each(|piece| {
            let object = segment.object(piece.from..piece.to);
            self.copy(staging, &object, &path, piece.from, piece.to - piece.from, piece.sha256)
        })
    }

    /// Copies an object into a file, from `offset` on: a new file, where that is its beginning.
    fn copy(&mut self, staging: &Staging<'_>, object: &str, path: &Path, offset: u64, bytes: u64, sha256: Digest) -> Result<()> {
        let name = self.place.name(object);
        let chunks = self.place.repository.get(&name)?.ok_or_else(|| self.damage(object, "it is missing"))?;
        let file = if offset == 0 { staging.io.create(path) } else { staging.io.open(path) };
        let file = file.map_err(|error| Error::io("create", path, error))?;
        let (mut hasher, mut copied) = (Sha256::new(), 0);
        for chunk in chunks {
            let chunk = chunk?;
            // Never more than was promised: a disk is full soon.
            if copied + chunk.len() as u64 > bytes {
                return Err(self.damage(object, &format!("it has more than the {bytes} bytes that the record says")));
            }
            hasher.update(&chunk);
            file.write_at(offset + copied, &[IoSlice::new(&chunk)]).map_err(|error| Error::io("write", path, error))?;
            copied += chunk.len() as u64;
        }
        if copied != bytes {
            return Err(self.damage(object, &format!("it has {copied} bytes, and the record says {bytes}")));
        }
        if Digest::from(hasher) != sha256 {
            return Err(self.damage(object, "it is not what the record says: its digest is another"));
        }
        self.bytes += bytes;
        Ok(())
    }

    fn damage(&self, object: &str, problem: &str) -> Error {
        Error::backup(&self.place.repository.path(&self.place.name(object)), problem)
    }
}

/// The log segments of records one after the other, each as far as any of them has it, in order.
fn joined<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<(SegmentName, &'a LogSegment)> {
    let mut log: BTreeMap<SegmentName, &LogSegment> = BTreeMap::new();
    for segment in records.into_iter().flat_map(|record| &record.log) {
        let Some(name) = segment.segment_name() else { continue };
        let longest = log.entry(name).or_insert(segment);
        if segment.bytes() >= longest.bytes() {
            *longest = segment;
        }
    }
    log.into_iter().collect()
}
