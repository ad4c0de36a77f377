//! The records of an index in a repository, each of which vouches for the one before.

use std::ops::RangeInclusive;

use super::record::{Digest, RECORD_BYTES_MAX, RECORDS, Record};
use super::repository::Repository;
use crate::error::{Error, Result};
use crate::types::{IndexId, Lsn, TenantId};

/// Where the objects of an index are.
#[derive(Clone, Debug)]
pub(super) struct Place<'a> {
    pub(super) repository: &'a dyn Repository,
    pub(super) tenant: &'a TenantId,
    pub(super) index: IndexId,
}

impl Place<'_> {
    /// The name that its objects' names begin with.
    pub(super) fn directory(&self) -> String {
        format!("{}/{}", self.tenant, self.index)
    }

    /// The name of an object, from its name below the index's.
    pub(super) fn name(&self, object: &str) -> String {
        format!("{}/{object}", self.directory())
    }

    /// The newest record, and the digest of its file; `None`: there is no backup of this index.
    ///
    /// # Errors
    /// [`Error::Backup`]: it is damaged, or one before it is missing.
    pub(super) fn newest(&self) -> Result<Option<(Record, Digest)>> {
        match self.count()? {
            0 => Ok(None),
            seq => self.read(seq).map(Some),
        }
    }

    /// All records, oldest first.
    ///
    /// # Errors
    /// [`Error::Backup`]: one is damaged or missing, or is not the one that the next was made after.
    pub(super) fn records(&self) -> Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        let mut before = None;
        for seq in 1..=self.count()? {
            let (record, digest) = self.read(seq)?;
            if record.previous != before {
                return Err(self.damage(seq, "the record before it is another than the one that it was made after"));
            }
            if records.last().is_some_and(|last| last.lsn > record.lsn || last.checkpoint_lsn > record.checkpoint_lsn) {
                return Err(self.damage(seq, "it is of an older state than the record before"));
            }
            records.push(record);
            before = Some(digest);
        }
        Ok(records)
    }

    fn count(&self) -> Result<u64> {
        let entries = self.repository.list(&self.name(RECORDS))?;
        let mut found: Vec<u64> = entries.iter().filter_map(|entry| Record::parse_file_name(&entry.name)).collect();
        found.sort_unstable();
        match (1..).zip(&found).find(|(expected, seq)| expected != *seq) {
            Some((missing, _)) => Err(self.damage(missing, "it is missing, and there is one after it")),
            None => Ok(found.len() as u64),
        }
    }

    fn read(&self, seq: u64) -> Result<(Record, Digest)> {
        let name = self.record_name(seq);
        let bytes = read_all(self.repository, &name, RECORD_BYTES_MAX)?;
        let record = Record::decode(&bytes, self.tenant, self.index, seq).map_err(|problem| self.damage(seq, &problem))?;
        Ok((record, Digest::of(&bytes)))
    }

    pub(super) fn record_name(&self, seq: u64) -> String {
        self.name(&format!("{RECORDS}/{}", Record::file_name(seq)))
    }

    fn damage(&self, seq: u64, problem: &str) -> Error {
        Error::backup(&self.repository.path(&self.record_name(seq)), problem)
    }
}

/// All bytes of an object.
///
/// # Errors
/// [`Error::Backup`]: it is missing, or larger than that.
pub(super) fn read_all(repository: &dyn Repository, name: &str, bytes_max: u64) -> Result<Vec<u8>> {
    let damage = |problem: &str| Error::backup(&repository.path(name), problem);
    let mut bytes = Vec::new();
    for chunk in repository.get(name)?.ok_or_else(|| damage("it is missing"))? {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > bytes_max {
            return Err(damage(&format!("it is larger than {bytes_max} bytes")));
        }
    }
    Ok(bytes)
}

/// The states that can be restored, of records by rising LSN: those from the checkpoint of each to its end, and on to the end of the next one where the
/// log of both together has no gap.
pub(super) fn reachable(records: &[Record]) -> Vec<RangeInclusive<Lsn>> {
    let mut ranges: Vec<RangeInclusive<Lsn>> = Vec::new();
    for (at, record) in records.iter().enumerate() {
        let end = records.get(at + 1).filter(|next| joins(record, next)).map_or(record.lsn, |next| next.lsn);
        match ranges.last_mut() {
            Some(last) if record.checkpoint_lsn <= last.end() + 1 => *last = *last.start()..=end.max(*last.end()),
            _ => ranges.push(record.checkpoint_lsn..=end),
        }
    }
    ranges
}

/// Whether the log of a record goes on in that of the next one.
pub(super) fn joins(record: &Record, next: &Record) -> bool {
    let first_lsn = next.log.first().and_then(|segment| segment.segment_name()).map(|name| name.first_lsn);
    first_lsn.is_some_and(|first_lsn| first_lsn <= record.lsn + 1) || next.lsn == record.lsn
}
