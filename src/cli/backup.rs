//! `faiss-proxy backup`: copies what is new of each index to a repository.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::selection::Selection;
use super::{Failure, directory, offline};
use crate::backup::{self, Archive, BackupReport, Location, Repository, Throttle};
use crate::engine::Index;
use crate::error::Result;
use crate::io::os::OsIo;
use crate::types::{IndexId, TenantId};

const INSTEAD: &str = "a server that has it does this on POST /v1/index/{id}/backup";

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    selection: Selection,
    /// Where to: a directory, a file whose name ends with .tar.zst (one full backup), or s3://, gs:// or az:// with a bucket and a prefix.
    #[arg(long, value_name = "URL", value_parser = |text: &str| Location::parse("--to", text))]
    to: Location,
    /// Read and write no faster than this.
    #[arg(long, value_name = "BYTES")]
    max_bytes_per_second: Option<NonZeroU64>,
    /// Say what would be copied, and copy nothing. What a killed server left is recovered all the same.
    #[arg(long)]
    dry_run: bool,
}

/// Backs up every index that is meant, and says of each how it went.
///
/// # Errors
/// Where the directory or the repository cannot be opened, no index is meant, or one failed.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { selection, to, dry_run, .. } = arguments;
    let failed = |error: crate::error::Error| Failure::new(format!("{to}: {error}"));
    let throttle = Throttle::new(arguments.max_bytes_per_second);
    let each = |repository: &dyn Repository| {
        let store = directory::open(&selection.data_dir, INSTEAD)?;
        let work = |index: &Index| match dry_run {
            true => backup::plan(index, repository),
            false => backup::backup(index, repository, &throttle),
        };
        // The store is not closed as a server closes it: that would write a checkpoint, which the backup would not have.
        offline::each_index(&store, selection, work, |tenant, id, report| text(tenant, id, report, *dry_run))
    };
    match to {
        Location::Archive(path) => {
            let archive = Archive::create(Arc::new(OsIo), path).map_err(failed)?;
            let done = each(&archive);
            if done.is_err() || *dry_run {
                archive.discard();
                return done;
            }
            archive.finish().map_err(failed)
        }
        to => each(&*to.open("--to").map_err(failed)?),
    }
}

fn text(tenant: &TenantId, id: IndexId, report: &BackupReport, dry_run: bool) -> String {
    let BackupReport { seq, lsn, checkpoint_lsn, is_new, objects_moved, bytes_moved, bytes, .. } = report;
    let moved = match (is_new, dry_run) {
        (false, _) => "nothing is new".to_owned(),
        (true, true) => format!("{bytes_moved} of {bytes} bytes would be copied"),
        (true, false) => format!("{bytes_moved} of {bytes} bytes copied, in {objects_moved} objects"),
    };
    format!("{tenant} {id}\n  backup {seq}, LSN {lsn}, checkpoint {checkpoint_lsn}\n  {moved}")
}
