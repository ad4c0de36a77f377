//! `faiss-proxy checkpoint` and `faiss-proxy compact`: what a server does of itself, on a data directory that no server has open.

use std::sync::Arc;

use serde::Serialize;

use super::selection::{Selection, Told};
use super::{Failure, directory};
use crate::engine::{Index, Store, Survey};
use crate::error::Result;
use crate::types::{IndexId, TenantId};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Say what there is to do, and write nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What is done with each index.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    Checkpoint,
    Compact,
}

impl Work {
    fn instead(self) -> String {
        let name = match self {
            Self::Checkpoint => "checkpoint",
            Self::Compact => "compact",
        };
        format!("a server that has it does this on POST /v1/index/{{id}}/{name}")
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

/// What there is to do with an index.
#[derive(Serialize)]
struct Planned {
    lsn: u64,
    /// Mutations that are in the log alone.
    log_mutations: u64,
    /// Bytes that a crash left at the end of the log, which are copied aside.
    torn_bytes: u64,
    segments: usize,
    /// Dead rows of the checkpoint.
    dead_rows: u64,
    bytes: u64,
}

/// Does it with every index that is meant, one after the other, and says of each how it went. One that fails does not keep the others from it.
///
/// # Errors
/// Where the directory cannot be opened, no index is meant, or one failed.
pub fn run(work: Work, arguments: &Arguments) -> Result<(), Failure> {
    let selection = &arguments.selection;
    if arguments.dry_run {
        let survey = selection.survey(&work.instead())?;
        return selection.for_each(&survey, |tenant, id| planned(&survey, tenant, id), plan_text);
    }
    let store = directory::open(&selection.data_dir, &work.instead())?;
    let done = each_index(&store, selection, |index| work.done(index), done_text);
    directory::close(&store)?;
    done
}

/// Does something with every index that is meant, one after the other, and prints what it gives.
///
/// # Errors
/// No index is meant, or some failed.
pub(super) fn each_index<T: Serialize>(
    store: &Store,
    selection: &Selection,
    work: impl Fn(&Index) -> Result<T>,
    text: impl Fn(&TenantId, IndexId, &T) -> String,
) -> Result<(), Failure> {
    let mut told = Told::new(selection);
    let bar = selection.progress(0, "{pos} indices done; {msg}");
    for tenant in store.tenants().into_iter().filter(|tenant| selection.has_tenant(tenant)) {
        let refused = store.refused(&tenant).into_iter().map(|(id, error)| (id, Some(error)));
        let listed = match store.list(&tenant) {
            Ok(listed) => listed,
            Err(error) => {
                told.unreadable(&tenant, &error);
                continue;
            }
        };
        let indices = listed.into_iter().map(|index| (index.id, None)).chain(refused);
        for (id, refused) in indices.filter(|&(id, _)| selection.has_index(id)) {
            bar.set_message(format!("{tenant} {id}"));
            let done = refused.map_or_else(|| store.index(&tenant, id), Err).and_then(|index: Arc<Index>| work(&index));
            bar.suspend(|| told.tell(&tenant, id, done, &text))?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    told.end()
}

fn planned(survey: &Survey, tenant: &TenantId, id: IndexId) -> Result<Planned> {
    let outline = survey.outline(tenant, id)?;
    Ok(Planned {
        lsn: outline.lsn,
        log_mutations: outline.lsn - outline.checkpoint_lsn,
        torn_bytes: outline.torn_bytes,
        segments: outline.segments.len(),
        dead_rows: outline.segments.iter().map(|segment| segment.dead).sum(),
        bytes: outline.bytes,
    })
}

fn plan_text(tenant: &TenantId, id: IndexId, planned: &Planned) -> String {
    let Planned { lsn, log_mutations, torn_bytes, segments, dead_rows, bytes } = planned;
    let torn =
        if *torn_bytes > 0 { format!("\n  {torn_bytes} torn bytes of the log would be copied aside") } else { String::new() };
    format!(
        "{tenant} {id}\n  LSN {lsn}, of which {log_mutations} in the log alone, segments {segments}\n  dead rows {dead_rows}, bytes {bytes}{torn}"
    )
}

fn done_text(tenant: &TenantId, id: IndexId, done: &Done) -> String {
    let Done { lsn, segments, rows_dropped, bytes_before, bytes_after } = done;
    format!("{tenant} {id}\n  LSN {lsn}, segments {segments}, rows dropped {rows_dropped}, bytes {bytes_before} -> {bytes_after}")
}
