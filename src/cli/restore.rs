//! `faiss-proxy restore`: makes new indices of what is in a repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::{Failure, print_line};
use crate::backup::{self, Directory, Location, Repository, RestoreReport, Target};
use crate::config::Limits;
use crate::engine::{Opening, Store, StoreOptions};
use crate::error::{Error, Result};
use crate::io::os::OsIo;
use crate::io::{Io, durable};
use crate::time;
use crate::types::{IndexId, Lsn, TenantId};

/// Where an archive is unpacked, below the data directory: no tenant has such a name.
const UNPACKED: &str = ".unpacked";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where from: what was given to `backup --to`.
    #[arg(long, value_name = "URL", value_parser = |text: &str| Location::parse("--from", text))]
    from: Location,
    /// Where the indices are restored to; created where it is absent. No server may have it.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Only the indices of this tenant.
    #[arg(long, value_name = "TENANT", value_parser = |tenant: &str| TenantId::new(tenant))]
    tenant: Option<TenantId>,
    /// Only this index, by the id that it had.
    #[arg(long, value_name = "ID")]
    index: Option<IndexId>,
    /// As it was after this mutation. For one index.
    #[arg(long, value_name = "LSN", conflicts_with = "at_time")]
    at_lsn: Option<Lsn>,
    /// As it was at this time: RFC 3339, like 2024-02-29T12:34:56Z.
    #[arg(long, value_name = "TIME", value_parser = time::parse_rfc3339)]
    at_time: Option<i64>,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

/// How it went with one index, as a line of JSON has it.
#[derive(Serialize)]
struct Line<'a> {
    tenant: &'a str,
    /// The one that was backed up.
    from_index: IndexId,
    #[serde(flatten)]
    report: Option<Restored>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Restored {
    index: IndexId,
    lsn: Lsn,
    vector_count: u64,
    bytes: u64,
}

/// Restores every index that is meant, and says of each how it went. One that fails does not keep the others from it.
///
/// # Errors
/// Where the directory or the repository cannot be opened, no index is meant, or one failed.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { from, data_dir, .. } = arguments;
    let failed = |error: Error| Failure::new(format!("{from}: {error}"));
    // Else a repository that is mistyped would leave a data directory behind.
    let repository = match from {
        Location::Archive(path) => {
            OsIo.open(path).map_err(|error| Failure::new(format!("{from}: {error}")))?;
            None
        }
        from => Some(from.open("--from").map_err(failed)?),
    };
    let found = repository.as_deref().map(|repository| meant(arguments, repository)).transpose()?;
    let store = open(data_dir)?;
    let (Some(repository), Some(found)) = (repository, found) else {
        return unpacked(arguments, &store);
    };
    each(arguments, &store, &*repository, &found)
}

/// The indices of a repository that are meant.
fn meant(arguments: &Arguments, repository: &dyn Repository) -> Result<Vec<(TenantId, IndexId)>, Failure> {
    let Arguments { from, tenant, index, at_lsn, .. } = arguments;
    let mut found = backup::indices(repository).map_err(|error| Failure::new(format!("{from}: {error}")))?;
    found.retain(|(owner, id)| tenant.as_ref().is_none_or(|tenant| tenant == owner) && index.is_none_or(|index| index == *id));
    if found.is_empty() {
        return Err(Failure::new(format!("{from} has no backup of such an index")));
    }
    if at_lsn.is_some() && found.len() > 1 {
        return Err(Failure::new(format!("--at-lsn is of one index, and {} are meant: give --index", found.len())));
    }
    Ok(found)
}

/// The same of an archive, by way of a directory beside the tenants'.
fn unpacked(arguments: &Arguments, store: &Store) -> Result<(), Failure> {
    let Location::Archive(path) = &arguments.from else { return Ok(()) };
    let io: Arc<dyn Io> = Arc::new(OsIo);
    let place = arguments.data_dir.join(UNPACKED);
    let failed = |error: Error| Failure::new(format!("{}: {error}", arguments.from));
    // A crash may have left one.
    durable::remove_tree(&*io, &place).map_err(failed)?;
    let restored = backup::unpack(&io, path, &place)
        .map_err(failed)
        .and_then(|directory: Directory| each(arguments, store, &directory, &meant(arguments, &directory)?));
    let removed = durable::remove_tree(&*io, &place).map_err(failed);
    restored.and(removed)
}

fn each(
    arguments: &Arguments,
    store: &Store,
    repository: &dyn Repository,
    indices: &[(TenantId, IndexId)],
) -> Result<(), Failure> {
    let target = match (arguments.at_lsn, arguments.at_time) {
        (Some(lsn), _) => Target::Lsn(lsn),
        (None, Some(time_us)) => Target::Time(time_us),
        (None, None) => Target::Newest,
    };
    let mut failed = 0;
    for (tenant, index) in indices {
        let restored = backup::restore(store, repository, tenant, *index, target).map(|(_, report)| report);
        failed += u32::from(restored.is_err());
        print_line(&line(tenant, *index, restored, arguments.json))?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::new(format!("{failed} of {} indices failed", indices.len()))),
    }
}

fn open(data_dir: &Path) -> Result<Store, Failure> {
    // An index that is done with is closed when the next one is restored.
    let limits = Limits { memory_budget_bytes: 1, ..Limits::default() };
    let options = StoreOptions { limits, background: false, opening: Opening::Lazy, ..StoreOptions::new(data_dir) };
    Store::open(options).map_err(|error| Failure::new(format!("--data-dir {}: {error}", data_dir.display())))
}

fn line(tenant: &TenantId, from_index: IndexId, restored: Result<RestoreReport>, json: bool) -> String {
    match restored {
        restored if json => {
            let error = restored.as_ref().err().map(ToString::to_string);
            let report = restored.ok().map(|report| {
                let RestoreReport { index, lsn, vector_count, bytes, .. } = report;
                Restored { index, lsn, vector_count, bytes }
            });
            serde_json::to_string(&Line { tenant: tenant.as_str(), from_index, report, error }).expect("a line is JSON")
        }
        Ok(RestoreReport { index, lsn, vector_count, bytes, .. }) => {
            format!("{tenant} {from_index}\n  is now {index}\n  LSN {lsn}, {vector_count} points, {bytes} bytes fetched")
        }
        Err(error) => format!("{tenant} {from_index}\n  failed: {error}"),
    }
}
