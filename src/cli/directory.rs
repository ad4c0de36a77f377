//! A data directory that no server has open, as the offline commands open it.

use std::path::Path;
use std::sync::Arc;

use super::Failure;
use crate::config::Limits;
use crate::engine::{Index, Opening, Store, StoreOptions};
use crate::error::Error;
use crate::io::Io as _;
use crate::io::os::OsIo;
use crate::types::{IndexId, TenantId};

/// Opens it, and nothing in it yet. `instead` says what to do where a server has it.
///
/// # Errors
/// Where it is not there, cannot be opened, or another process has it.
pub fn open(data_dir: &Path, instead: &str) -> Result<Store, Failure> {
    // Nothing is done but what was asked for; an index that is done with is closed when the next one is opened.
    let limits = Limits { memory_budget_bytes: 1, ..limits() };
    open_with(StoreOptions { limits, background: false, opening: Opening::Lazy, ..StoreOptions::new(data_dir) }, instead)
}

/// The same, with all that a server does in the background.
///
/// # Errors
/// As [`open`].
pub fn open_as_server(data_dir: &Path, instead: &str) -> Result<Store, Failure> {
    open_with(StoreOptions { limits: limits(), opening: Opening::Lazy, ..StoreOptions::new(data_dir) }, instead)
}

fn limits() -> Limits {
    Limits { reserve_bytes: Limits::SERVER_RESERVE_BYTES, ..Limits::default() }
}

fn open_with(options: StoreOptions, instead: &str) -> Result<Store, Failure> {
    let data_dir = options.data_dir.clone();
    // Opening would create it, and somebody who mistyped it would be told that all is well.
    OsIo.list(&data_dir).map_err(|error| Failure::new(format!("--data-dir {}: {error}", data_dir.display())))?;
    Store::open(options).map_err(|error| match error {
        Error::Conflict(why) => Failure::new(format!("{why}; {instead}")),
        error => Failure::new(format!("cannot open {}: {error}", data_dir.display())),
    })
}

/// Opens one index.
///
/// # Errors
/// Where the tenant has no such index, or it refuses.
pub fn index(store: &Store, tenant: &TenantId, id: IndexId) -> Result<Arc<Index>, Failure> {
    store.index(tenant, id).map_err(|error| match error {
        Error::NotFound(_) => Failure::new(format!("--index {id}: tenant {tenant} has no such index")),
        error => Failure::new(format!("index {id} cannot be opened: {error}")),
    })
}

/// Closes it, which checkpoints what is open.
///
/// # Errors
/// Where a checkpoint failed. Nothing that was stored is lost by it.
pub fn close(store: &Store) -> Result<(), Failure> {
    store.close().map_err(|error| Failure::new(format!("the last checkpoint failed: {error}")))
}
