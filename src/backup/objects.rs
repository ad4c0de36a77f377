//! A repository in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt as _;
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    WriteMultipart,
};
use tokio::runtime::Runtime;

use super::repository::{Chunks, Repository};
use crate::error::{Error, Result};
use crate::io::{Entry, Lock};

/// Objects up to this size are put in one request, and larger ones in parts of it.
const PART_BYTES_MIN: u64 = 8 << 20;

/// Parts that an object has at most: S3 takes 10,000.
const PARTS_MAX: u64 = 9_000;

/// Parts that are on their way at one time.
const PARTS_UNDER_WAY: usize = 4;

/// Objects below a prefix of a bucket or a container.
///
/// The store's own promise is the repository's: an object is there whole when its put was answered, and one that is put only where there is none is
/// put once.
#[derive(Debug)]
pub(super) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    url: String,
    /// What the store's calls run on: whoever calls blocks.
    runtime: Runtime,
}

impl Objects {
    /// Credentials, region and endpoint come from the environment, by the names that each cloud's own tools have for them.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `field`: the URL or the environment does not say enough.
    pub(super) fn open(field: &'static str, url: &str) -> Result<Self> {
        // Whichever of the program's parts asks first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let invalid = |error: &dyn std::fmt::Display| Error::invalid(field, "invalid_location", format!("{url}: {error}"));
        let parsed = reqwest::Url::parse(url).map_err(|error| invalid(&error))?;
        let environment =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let environment = environment.map(|(name, value)| (name.to_ascii_lowercase(), value));
        let (store, prefix) = object_store::parse_url_opts(&parsed, environment).map_err(|error| invalid(&error))?;
        Self::over(store.into(), prefix, url)
    }

    fn over(store: Arc<dyn ObjectStore>, prefix: Path, url: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::io("start a runtime", url.as_ref(), error))?;
        Ok(Self { store, prefix, url: url.to_owned(), runtime })
    }

    /// The same in memory, as the crate for object stores has it.
    #[cfg(test)]
    pub(super) fn in_memory() -> Self {
        Self::over(Arc::new(object_store::memory::InMemory::new()), Path::from("prefix"), "memory://prefix").unwrap()
    }

    fn at(&self, name: &str) -> Result<Path> {
        let whole = if self.prefix.as_ref().is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        Path::parse(whole.trim_end_matches('/')).map_err(|error| self.fault("name", name, StoreError::from(error)))
    }

    fn fault(&self, operation: &'static str, name: &str, error: StoreError) -> Error {
        Error::io(operation, &self.path(name), std::io::Error::other(error))
    }

    async fn put_in_parts(&self, name: &str, part_bytes: u64, chunks: &mut Chunks<'_>) -> Result<()> {
        let fault = |error| self.fault("put", name, error);
        let upload = self.store.put_multipart_opts(&self.at(name)?, PutMultipartOptions::default()).await.map_err(fault)?;
        let mut write = WriteMultipart::new_with_chunk_size(upload, part_bytes as usize);
        for chunk in chunks {
            let sent = match chunk {
                Ok(chunk) => write.wait_for_capacity(PARTS_UNDER_WAY).await.map_err(fault).map(|()| write.write(&chunk)),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                // Best effort: what the store keeps of it is no object.
                let _ = write.abort().await;
                return Err(error);
            }
        }
        write.finish().await.map(drop).map_err(fault)
    }
}

impl Repository for Objects {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.url))
    }

    fn lock(&self, _name: &str) -> Result<Option<Lock>> {
        Ok(None)
    }

    fn put(&self, name: &str, bytes: u64, chunks: &mut Chunks<'_>) -> Result<()> {
        let part_bytes = PART_BYTES_MIN.max(bytes.div_ceil(PARTS_MAX));
        if bytes > part_bytes {
            return self.runtime.block_on(self.put_in_parts(name, part_bytes, chunks));
        }
        let mut whole = Vec::with_capacity(bytes as usize);
        for chunk in chunks {
            whole.extend_from_slice(&chunk?);
        }
        let location = self.at(name)?;
        let put = self.store.put_opts(&location, PutPayload::from(whole), PutOptions::default());
        self.runtime.block_on(put).map(drop).map_err(|error| self.fault("put", name, error))
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let only_new = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let location = self.at(name)?;
        let put = self.store.put_opts(&location, PutPayload::from(bytes.to_vec()), only_new);
        match self.runtime.block_on(put) {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(self.fault("put", name, error)),
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        let location = self.at(name)?;
        match self.runtime.block_on(self.store.delete(&location)) {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.fault("remove", name, error)),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Box<Chunks<'_>>>> {
        let location = self.at(name)?;
        let found = match self.runtime.block_on(self.store.get_opts(&location, GetOptions::default())) {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| self.fault("get", name, error))?,
        };
        let (name, mut stream) = (name.to_owned(), found.into_stream());
        let next = move || {
            let chunk = self.runtime.block_on(stream.next())?;
            Some(chunk.map(|chunk| chunk.to_vec()).map_err(|error| self.fault("get", &name, error)))
        };
        Ok(Some(Box::new(std::iter::from_fn(next))))
    }

    fn list(&self, name: &str) -> Result<Vec<Entry>> {
        let location = self.at(name)?;
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&location)));
        let listed = listed.map_err(|error| self.fault("list", name, error))?;
        let directories = listed.common_prefixes.iter().map(|path| (path, true));
        let objects = listed.objects.iter().map(|object| (&object.location, false));
        let entries =
            directories.chain(objects).filter_map(|(path, is_dir)| Some(Entry { name: path.filename()?.to_owned(), is_dir }));
        let mut entries: Vec<Entry> = entries.collect();
        entries.sort_unstable();
        Ok(entries)
    }
}
