//! A repository in JetStream's object store: on the same servers as the log, for snapshots that these have room for.
//!
//! An object is a run of messages, and one more that names them and is stored last; `nats object` shows it. Its name is not part of a hierarchy there: what is
//! below a name is found by reading all names. What was stored of an object whose putting failed stays, and nothing names it.

use std::collections::BTreeSet;
use std::fmt::{self, Display};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::jetstream::object_store::{Config, DeleteErrorKind, GetErrorKind, InfoErrorKind, ObjectStore, PutErrorKind};
use async_nats::jetstream::{self, stream::StorageType};
use futures_util::TryStreamExt as _;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::timeout;

use super::repository::{CHUNK_BYTES, Chunks, Repository};
use crate::error::{Error, Result};
use crate::io::{Entry, Lock};
use crate::wal::jetstream::connection::Connection;

/// The bucket's name. `nats object ls` shows it.
const BUCKET: &str = "faiss-snapshots";

/// Objects in the bucket.
pub(crate) struct Bucket {
    store: ObjectStore,
    connection: Connection,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Opens the bucket, and makes it where there is none, with so many replicas.
    ///
    /// # Errors
    /// [`Error::Io`]: the servers do not answer, or there are too few of them.
    pub(crate) fn open(connection: &Connection, replicas: usize) -> Result<Self> {
        let made = connection.block(async {
            // Within the runtime: it has a task of its own.
            let context = jetstream::new(connection.client().clone());
            if let Ok(store) = context.get_object_store(BUCKET).await {
                return Ok(store);
            }
            let config =
                Config { bucket: BUCKET.to_owned(), storage: StorageType::File, num_replicas: replicas, ..Config::default() };
            context.create_object_store(config).await
        });
        let store = made.map_err(|error| Error::io("make the bucket", &path(""), io::Error::other(error)))?;
        Ok(Self { store, connection: connection.clone() })
    }

    fn fault(&self, operation: &'static str, name: &str, error: impl Display) -> Error {
        Error::io(operation, &self.path(name), io::Error::other(error.to_string()))
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("nats:").join(BUCKET).join(name)
}

impl Repository for Bucket {
    fn path(&self, name: &str) -> PathBuf {
        path(name)
    }

    fn lock(&self, _name: &str) -> Result<Option<Lock>> {
        Ok(None)
    }

    fn put(&self, name: &str, _bytes: u64, chunks: &mut Chunks<'_>) -> Result<()> {
        let mut reader = Reader { chunks, chunk: Vec::new(), at: 0, failed: None };
        let put = self.connection.block(self.store.put(name, &mut reader));
        match put.map_err(|error| (error.kind(), error)) {
            // It is there; what it takes the place of was not all removed.
            Ok(_) | Err((PutErrorKind::PurgeOldChunks, _)) => Ok(()),
            Err((PutErrorKind::PublishMetadata, error)) => Err(self.fault("put", name, error).into_unanswered()),
            Err((_, error)) => Err(reader.failed.take().unwrap_or_else(|| self.fault("put", name, error))),
        }
    }

    /// Two that put at the same time may both be told that theirs is the new one: for objects whose names tell their content.
    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        match self.connection.block(self.store.info(name)) {
            Ok(info) if !info.deleted => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == InfoErrorKind::NotFound => {}
            Err(error) => return Err(self.fault("put", name, error)),
        }
        self.put(name, bytes.len() as u64, &mut std::iter::once(Ok(bytes.to_vec()))).map(|()| true)
    }

    fn get(&self, name: &str) -> Result<Option<Box<Chunks<'_>>>> {
        let mut object = match self.connection.block(self.store.get(name)) {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.fault("get", name, error)),
        };
        let name = name.to_owned();
        let next = move || {
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut buffer = ReadBuf::new(&mut chunk);
            let read = poll_fn(|context| Pin::new(&mut object).poll_read(context, &mut buffer));
            // Its consumer is made anew for as long as it takes, where servers are away.
            let read = self.connection.block(async { timeout(self.connection.patience().call, read).await });
            let filled = buffer.filled().len();
            match read.map_err(io::Error::from).flatten() {
                Ok(()) if filled == 0 => None,
                Ok(()) => {
                    chunk.truncate(filled);
                    Some(Ok(chunk))
                }
                Err(error) => Some(Err(self.fault("get", &name, error))),
            }
        };
        Ok(Some(Box::new(std::iter::from_fn(next))))
    }

    fn list(&self, name: &str) -> Result<Vec<Entry>> {
        let prefix = if name.is_empty() { String::new() } else { format!("{name}/") };
        let listing = async {
            let mut objects = self.store.list().await.map_err(|error| self.fault("list", name, error))?;
            let mut entries = BTreeSet::new();
            while let Some(object) = objects.try_next().await.map_err(|error| self.fault("list", name, error))? {
                if let Some(below) = object.name.strip_prefix(&prefix) {
                    let (name, is_dir) = below.split_once('/').map_or((below, false), |(name, _)| (name, true));
                    entries.insert(Entry { name: name.to_owned(), is_dir });
                }
            }
            Ok(entries.into_iter().collect())
        };
        let patience = self.connection.patience().call;
        let listed = self.connection.block(async { timeout(patience, listing).await });
        listed.unwrap_or_else(|_| Err(self.fault("list", name, "no answer")))
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.connection.block(self.store.delete(name)) {
            Err(error) if error.kind() != DeleteErrorKind::NotFound => Err(self.fault("remove", name, error)),
            _ => Ok(()),
        }
    }
}

/// Chunks as the client reads them. It is polled on the thread that blocks on it, which may wait for a disk.
struct Reader<'a, 'b> {
    chunks: &'a mut Chunks<'b>,
    chunk: Vec<u8>,
    /// Given of the chunk.
    at: usize,
    /// What the chunks ended with.
    failed: Option<Error>,
}

impl AsyncRead for Reader<'_, '_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.at == self.chunk.len() {
            match self.chunks.next() {
                None => return Poll::Ready(Ok(())),
                Some(Ok(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Some(Err(error)) => {
                    self.failed = Some(error);
                    return Poll::Ready(Err(io::Error::other("the bytes to be put cannot be read")));
                }
            }
        }
        let given = buffer.remaining().min(self.chunk.len() - self.at);
        let at = self.at;
        buffer.put_slice(&self.chunk[at..at + given]);
        self.at += given;
        Poll::Ready(Ok(()))
    }
}
