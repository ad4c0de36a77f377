//! The library in this process, on a data directory that no server has open.

use std::path::Path;
use std::sync::Arc;

use super::super::{Failure, directory};
use super::target::{Client, Refusal, Search, Settings, Status, Target};
use crate::config::Limits;
use crate::engine::{Batch, Index, Store};
use crate::error::Error;
use crate::segment::filter::Filter;
use crate::types::{Durability, Hit, IndexId, IndexSpec, IndexState, Query, TenantId};

/// A store that works as that of a server does, background threads included.
#[derive(Debug)]
pub struct Library {
    store: Store,
    tenant: TenantId,
    durability: Durability,
}

impl Library {
    /// # Errors
    /// Where the directory is not there, cannot be opened, or another process has it.
    pub fn open(data_dir: &Path, tenant: TenantId, durability: Durability) -> Result<Self, Failure> {
        let store = directory::open_as_server(data_dir, "measure the server that has it, with --url http://HOST:PORT")?;
        Ok(Self { store, tenant, durability })
    }

    /// # Errors
    /// Where a checkpoint failed.
    pub fn close(self) -> Result<(), Failure> {
        directory::close(&self.store)
    }
}

/// What is asked of an index.
#[derive(Debug)]
pub enum Request {
    Write(Batch),
    Search(Query),
}

impl Target for Library {
    type Request = Request;
    type Client = LibraryClient;

    fn limits(&self) -> Limits {
        self.store.limits().clone()
    }

    fn create(&self, name: &str, settings: &Settings) -> Result<IndexId, Failure> {
        let Settings { dimension, index_type, metric, options } = settings;
        let spec = IndexSpec {
            name: name.to_owned(),
            dimension: *dimension,
            index_type: index_type.clone(),
            metric: Some(*metric),
            options: options.clone(),
            ..IndexSpec::default()
        };
        Ok(self.store.create_index(&self.tenant, &spec)?.id())
    }

    fn delete(&self, index: IndexId) -> Result<(), Failure> {
        Ok(self.store.delete_index(&self.tenant, index)?)
    }

    fn compact(&self, index: IndexId) -> Result<(), Failure> {
        self.store.index(&self.tenant, index)?.compact()?;
        Ok(())
    }

    fn status(&self, index: IndexId) -> Result<Status, Failure> {
        let info = self.store.index(&self.tenant, index)?.info();
        let state = match info.state {
            IndexState::Ready => "ready",
            IndexState::Building => "building",
            IndexState::ReadOnly { .. } => "read_only",
        };
        let build = |build| serde_json::to_value(build).expect("numbers and texts are JSON");
        Ok(Status {
            factory: info.factory,
            state: state.to_owned(),
            vector_count: info.vector_count,
            unindexed_rows: info.unindexed_rows,
            segments: info.segments as u64,
            builds: info.builds.iter().map(build).collect(),
        })
    }

    fn write(&self, _: IndexId, points: Batch) -> Request {
        Request::Write(points)
    }

    fn search(&self, _: IndexId, search: &Search<'_>) -> Request {
        let Search { vector, k, exact, params, filter } = search.clone();
        let filter = filter.map(|text| Filter::parse(text).expect("the bench writes filters that are right"));
        Request::Search(Query { vector: vector.to_vec(), k, exact, params, filter, ..Query::default() })
    }

    fn client(&self, index: IndexId) -> Result<LibraryClient, Failure> {
        let index = self.store.index(&self.tenant, index)?;
        Ok(LibraryClient { index, durability: self.durability, batch: None, hits: Vec::new() })
    }
}

/// A thread that calls the library.
#[derive(Debug)]
pub struct LibraryClient {
    index: Arc<Index>,
    durability: Durability,
    /// The points of the request that was prepared: an upsert takes them.
    batch: Option<Batch>,
    hits: Vec<Hit>,
}

impl Client<Request> for LibraryClient {
    fn prepare(&mut self, request: &Request) {
        if let Request::Write(points) = request {
            self.batch = Some(points.clone());
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), Refusal> {
        let done = match request {
            Request::Search(query) => self.index.search(query).map(|hits| self.hits = hits),
            Request::Write(_) => {
                let batch = self.batch.take().expect("a request is prepared before it is sent");
                self.index.upsert(batch, self.durability).map(drop)
            }
        };
        done.map_err(|error| Refusal { reason: error.to_string(), is_busy: matches!(error, Error::Busy(_)), is_final: false })
    }

    fn found(&self) -> Result<Vec<String>, Failure> {
        Ok(self.hits.iter().map(|hit| hit.id.clone()).collect())
    }
}
