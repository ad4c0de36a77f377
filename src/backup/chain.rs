//! The records of an index in a repository, each of which vouches for the one before.

use std::ops::RangeInclusive;

use uuid::Uuid;

use super::record::{Digest, RECORD_BYTES_MAX, RECORDS, Record};
use super::repository::Repository;
use crate::error::{Error, Result};
use crate::types::{IndexId, Lsn, TenantId};

/// The object that says, from before the first record on, which copy of an index that nodes share is backed up, below the index's name.
const COPY: &str = "copy";

/// No copy of an index has more bytes.
const COPY_BYTES_MAX: u64 = 64;

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

    /// Takes a place without a record for a node's copy of the index: another may begin there at the same time, and nothing but this keeps it from putting
    /// objects of the same names where the repository has no lock.
    ///
    /// # Errors
    /// [`Error::Conflict`]: another has it. [`Error::Io`], [`Error::Full`], [`Error::OutcomeUnknown`]: the repository fails; it may be taken.
    pub(super) fn take(&self, copy: Uuid) -> Result<()> {
        let (name, text) = (self.name(COPY), copy.to_string());
        if self.repository.put_new(&name, text.as_bytes())?
            || read_all(self.repository, &name, COPY_BYTES_MAX)? == text.as_bytes()
        {
            return Ok(());
        }
        Err(another_copy())
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

/// What a backup is refused with that would mix the files of two copies of an index.
pub(super) fn another_copy() -> Error {
    let why = "what is backed up there is another copy of this index: another node's, this node's from before it began the index anew, or that of a \
               version that did not say whose; nothing was put: back it up to another place";
    Error::Conflict(why.to_owned())
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
