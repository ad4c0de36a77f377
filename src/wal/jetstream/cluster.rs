//! What nodes share, on JetStream (docs/decisions/0034-catalogue-and-following.md): an entry of the catalogue is the newest message of its
//! subject, and its revision that message's sequence. A deletion is a message that stays for good, as the tools of NATS write it.

use std::io;
use std::sync::mpsc::Sender;

use async_nats::HeaderMap;
use tokio::runtime::Handle;

use super::JetStreamLog;
use super::access::Access;
use super::connection::{Connection, OPERATION, Patience, Published};
use super::follow::follow;
use super::streams::Stream;
use crate::error::{Error, Result, What};
use crate::types::{IndexId, TenantId};
use crate::wal::cluster::{Cluster, Entry, Told};
use crate::wal::log::{Log, Place};

/// How often a deletion is begun anew because somebody else wrote the entry.
const ROUNDS_MAX: usize = 32;

/// The servers, as one node reaches them.
#[derive(Debug)]
pub(crate) struct JetStream {
    pub(super) connection: Connection,
    pub(super) frame_bytes_max: usize,
}

impl JetStream {
    /// Connects, and makes the streams that are not there, with so many replicas. The runtime drives all of it, and has threads of its own.
    ///
    /// # Errors
    /// [`Error::Io`]: no server answers, it is older than 2.12, there are too few for so many replicas, or a stream is there that is not what is
    /// needed.
    ///
    /// # Panics
    /// As every call here, on a thread that is running the runtime's tasks.
    pub(crate) fn connect(
        runtime: &Handle,
        access: &Access,
        patience: Patience,
        replicas: usize,
        frame_bytes_max: usize,
    ) -> Result<Self> {
        let connection = Connection::connect(runtime, access, patience)?;
        connection.block(async {
            for stream in Stream::all() {
                stream.make(&connection, replicas).await?;
            }
            Ok::<(), Error>(())
        })?;
        Ok(Self { connection, frame_bytes_max })
    }

    /// By which the servers are reached.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The marker of a deletion, in the place of an entry.
    fn mark_deleted(&self, tenant: &TenantId, index: IndexId, revision: u64) -> Result<Published> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        self.connection.publish_with(headers, &Stream::Catalogue.subject(tenant, index), revision, Vec::new())
    }
}

impl Cluster for JetStream {
    fn open(&self, tenant: &TenantId, index: IndexId, from: Place) -> Result<Box<dyn Log<Place = Place>>> {
        let subject = Stream::of_log(index).subject(tenant, index);
        Ok(Box::new(JetStreamLog::open(&self.connection, subject, index, self.frame_bytes_max, from)?))
    }

    fn entry(&self, tenant: &TenantId, index: IndexId) -> Result<Option<Entry>> {
        let subject = Stream::Catalogue.subject(tenant, index);
        let Some(newest) = self.connection.newest(&subject)? else { return Ok(None) };
        let entry = entry_of(newest.operation.as_deref(), newest.sequence, newest.payload);
        let strange = |why| Error::io("read", &subject.path(), io::Error::new(io::ErrorKind::InvalidData, why));
        entry.map(Some).map_err(strange)
    }

    fn set_entry(&self, tenant: &TenantId, index: IndexId, revision: u64, about: &[u8]) -> Result<Option<u64>> {
        if revision > 0 {
            // A server would take what names the revision of a deletion. What a revision is never changes, so this cannot be late.
            let newest = self.entry(tenant, index)?;
            if newest.is_none_or(|newest| newest.revision != revision || newest.about.is_none()) {
                return Ok(None);
            }
        }
        let subject = Stream::Catalogue.subject(tenant, index);
        Ok(match self.connection.publish(&subject, revision, about.to_vec())? {
            Published::At(sequence) => Some(sequence),
            Published::Moved => None,
        })
    }

    fn delete(&self, tenant: &TenantId, index: IndexId) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            let Some(entry) = self.entry(tenant, index)? else { return Err(Error::NotFound(What::Index)) };
            // The entry first: whoever finds the log empty must find out why.
            if entry.about.is_some() && self.mark_deleted(tenant, index, entry.revision)? == Published::Moved {
                continue;
            }
            let emptied = self.connection.empty(&Stream::of_log(index).subject(tenant, index));
            return emptied.map_err(Error::into_unanswered);
        }
        let why = io::Error::other("others write the entry as fast as it is read");
        Err(Error::io("delete", &Stream::Catalogue.subject(tenant, index).path(), why))
    }

    fn follow(&self, told: Sender<Told>) {
        follow(&self.connection, told);
    }
}

/// What a message of the catalogue says.
pub(super) fn entry_of(operation: Option<&str>, revision: u64, payload: Vec<u8>) -> Result<Entry, String> {
    match operation {
        None | Some("PUT") => Ok(Entry { revision, about: Some(payload) }),
        // Ours, and that of who purges a key by the tools of NATS.
        Some("DEL" | "PURGE") => Ok(Entry { revision, about: None }),
        Some(other) => Err(format!("an entry that is neither written nor deleted, but {other:?}")),
    }
}
