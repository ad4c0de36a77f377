//! `faiss-proxy checkpoint` and `faiss-proxy compact`: what a server does of itself, on a data directory that no server has open.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{Failure, directory, print_line};
use crate::engine::Index;
use crate::error::Result;
use crate::types::{IndexId, TenantId};

/// Which indices, and how what was done is told.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the data is. It must be there.
    #[arg(long, value_name = "DIR", env = "FAISS_DATA_DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// Only the indices of this tenant.
    #[arg(long, value_name = "TENANT", value_parser = |tenant: &str| TenantId::new(tenant))]
    tenant: Option<TenantId>,
    /// Only this index.
    #[arg(long, value_name = "ID")]
    index: Option<IndexId>,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

/// What is done with each index.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    Checkpoint,
    Compact,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Compact => "compact",
        }
    }

    fn done(self, index: &Index) -> Result<Done> {
        let bytes_before = index.info().bytes;
        let (lsn, rows_dropped) = match self {
            Self::Checkpoint => (index.checkpoint()?.lsn, 0),
            Self::Compact => {
                let report = index.compact()?;
                (report.lsn, report.rows_dropped)
            }
        };
        let now = index.info();
        Ok(Done { lsn, segments: now.segments, rows_dropped, bytes_before, bytes_after: now.bytes })
    }
}

/// What was done with an index.
#[derive(Serialize)]
struct Done {
    /// Everything up to this mutation is in the checkpoint.
    lsn: u64,
    segments: usize,
    /// Dead rows that were dropped.
    rows_dropped: u64,
    /// Bytes of the index's files.
    bytes_before: u64,
    bytes_after: u64,
}

/// How it went with one index, as a line of JSON has it.
#[derive(Serialize)]
struct Outcome<'a> {
    tenant: &'a str,
    index: IndexId,
    #[serde(flatten)]
    done: Option<Done>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Does it with every index that is meant, one after the other, and says of each how it went. One that fails does not keep the others from it.
///
/// # Errors
/// Where the directory cannot be opened, no index is meant, or one failed.
pub fn run(work: Work, arguments: &Arguments) -> Result<(), Failure> {
    let instead = format!("a server that has it does this on POST /v1/index/{{id}}/{}", work.name());
    let store = directory::open(&arguments.data_dir, &instead)?;
    let (mut found, mut failed) = (0, 0);
    let tenants = store.tenants().into_iter().filter(|tenant| arguments.tenant.as_ref().is_none_or(|wanted| wanted == tenant));
    for tenant in tenants {
        let refused = store.refused(&tenant).into_iter().map(|(id, error)| (id, Some(error)));
        let listed = store.list(&tenant).map_err(|error| Failure::new(error.to_string()))?;
        let indices = listed.into_iter().map(|index| (index.id, None)).chain(refused);
        for (id, refused) in indices.filter(|(id, _)| arguments.index.is_none_or(|wanted| wanted == *id)) {
            found += 1;
            let done = refused.map_or_else(|| store.index(&tenant, id), Err).and_then(|index: Arc<Index>| work.done(&index));
            failed += u32::from(done.is_err());
            tell(&tenant, id, done, arguments.json)?;
        }
    }
    directory::close(&store)?;
    match (found, failed) {
        (0, _) => Err(Failure::new(format!("{} has no such index", arguments.data_dir.display()))),
        (_, 0) => Ok(()),
        _ => Err(Failure::new(format!("{failed} of {found} indices failed"))),
    }
}

fn tell(tenant: &TenantId, index: IndexId, done: Result<Done>, json: bool) -> Result<(), Failure> {
    let line = match done {
        _ if json => {
            let (done, error) = done.map_or_else(|error| (None, Some(error.to_string())), |done| (Some(done), None));
            let outcome = Outcome { tenant: tenant.as_str(), index, done, error };
            serde_json::to_string(&outcome).expect("an outcome is JSON")
        }
        Ok(Done { lsn, segments, rows_dropped, bytes_before, bytes_after }) => format!(
            "{tenant} {index}\n  LSN {lsn}, segments {segments}, rows dropped {rows_dropped}, bytes {bytes_before} -> {bytes_after}"
        ),
        Err(error) => format!("{tenant} {index}\n  failed: {error}"),
    };
    print_line(&line)
}
