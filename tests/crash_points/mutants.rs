//! The enumeration is tested too: a procedure with a step left out or in the wrong place is caught.

use std::io;
use std::path::Path;
use std::sync::Arc;

use faiss_proxy::io::Io as _;
use faiss_proxy::io::sim::{Operation, SimIo};

use super::procedure::Procedure;
use super::states::Only;
use super::support::detour::Course;
use super::writing;

/// What a procedure would be with a mistake in it, seen from the disk.
pub struct Mutant {
    mistake: &'static str,
    procedure: fn() -> Procedure,
    /// The mistake: asked before each operation.
    make: fn(&SimIo, Operation, &Path) -> io::Result<Course>,
    /// Why what it leaves does not pass.
    why: &'static str,
}

impl Mutant {
    pub fn procedure(&self) -> Procedure {
        let make = self.make;
        let ask = Arc::new(move |disk: &SimIo, operation, path: &Path| make(disk, operation, path));
        Procedure { ask, only: Only::default(), ..(self.procedure)() }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_manifest(path: &Path) -> bool {
    name(path).starts_with("manifest-")
}

fn skip_if(is_it: bool) -> io::Result<Course> {
    Ok(if is_it { Course::Skip } else { Course::Do })
}

/// The manifest gets its name, and then its contents are synced.
fn rename_before_sync(disk: &SimIo, operation: Operation, path: &Path) -> io::Result<Course> {
    if operation == Operation::Rename && is_manifest(path) {
        let target = path.with_extension("");
        disk.rename(path, &target)?;
        disk.open(&target)?.sync_data()?;
        return Ok(Course::Skip);
    }
    skip_if(operation == Operation::SyncData && is_manifest(path))
}

fn no_sync_of_the_manifests_name(_: &SimIo, operation: Operation, path: &Path) -> io::Result<Course> {
    skip_if(operation == Operation::SyncDir && path.components().count() == 4)
}

/// The manifest before the last goes when the next one is only begun.
fn removed_too_early(disk: &SimIo, operation: Operation, path: &Path) -> io::Result<Course> {
    if operation == Operation::Create && is_manifest(path) {
        let generation: u64 = path.with_extension("").to_string_lossy().rsplit('-').next().unwrap().parse().unwrap();
        // Of a new index there is none.
        let _ = disk.remove_file(&path.with_file_name(format!("manifest-{:020}", generation.saturating_sub(2))));
    }
    Ok(Course::Do)
}

/// The log is appended to through the file that was made under a temporary name.
fn acknowledged_before_sync(disk: &SimIo, operation: Operation, path: &Path) -> io::Result<Course> {
    skip_if(operation == Operation::SyncData && name(path).contains(".wal") && disk.open(path).is_err())
}

fn no_sync_of_the_log_segments_name(_: &SimIo, operation: Operation, path: &Path) -> io::Result<Course> {
    skip_if(operation == Operation::SyncDir && name(path) == "wal")
}

fn no_sync_of_a_segment(_: &SimIo, operation: Operation, path: &Path) -> io::Result<Course> {
    skip_if(operation == Operation::SyncData && name(path).ends_with(".seg"))
}

pub const ACKNOWLEDGED_BEFORE_SYNC: Mutant = Mutant {
    mistake: "a write is acknowledged before its frame is synced",
    procedure: writing::append,
    make: acknowledged_before_sync,
    why: "is not from",
};

const MUTANTS: [Mutant; 6] = [
    ACKNOWLEDGED_BEFORE_SYNC,
    Mutant {
        mistake: "a manifest is renamed before it is synced",
        procedure: writing::append,
        make: rename_before_sync,
        why: "manifest",
    },
    Mutant {
        mistake: "the directory is not synced after a manifest was renamed",
        procedure: writing::append,
        make: no_sync_of_the_manifests_name,
        why: "this manifest is missing",
    },
    Mutant {
        mistake: "a manifest is removed before the next one is there",
        procedure: writing::checkpoint,
        make: removed_too_early,
        why: "this manifest is missing",
    },
    Mutant {
        mistake: "a log segment is listed before its name is synced",
        procedure: writing::append,
        make: no_sync_of_the_log_segments_name,
        why: "the manifest lists this segment, and it is missing",
    },
    Mutant {
        mistake: "a segment is listed before it is synced",
        procedure: writing::checkpoint,
        make: no_sync_of_a_segment,
        why: ".seg",
    },
];

#[test]
fn procedure_with_a_mistake_is_caught_and_by_the_state_that_shows_it() {
    for mutant in MUTANTS {
        let Some((state, why)) = mutant.procedure().first_failure() else { panic!("{}: not caught", mutant.mistake) };
        println!("{}: caught by '{state}': {}", mutant.mistake, why.lines().next().unwrap_or_default());
        assert!(why.contains(mutant.why), "{}: caught for another reason: {why}", mutant.mistake);
    }
}
