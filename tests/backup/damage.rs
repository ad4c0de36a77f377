//! What is not what was backed up is told by its name, and nothing is restored of it; what is damaged already is not backed up.

use std::path::Path;

use faiss_proxy::backup::{Target, restore};
use faiss_proxy::io::Io as _;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::{Error, IndexId, Metric};

use super::support::{Session, files_below, spec, tenant};
use super::{back_up, contents, limits, new_store, objects, overwrite, repository, restored, some_writes};

/// Two backups of an index, one after the other.
fn backed_up() -> (SimIo, IndexId) {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    back_up(&session.index, &disk).unwrap();
    session.put(&["g"], 7).unwrap();
    back_up(&session.index, &disk).unwrap();
    let id = session.index.id();
    let keep = SimIo::new();
    for path in objects(&disk) {
        for directory in path.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            let _ = keep.create_dir(directory);
        }
        keep.create(&path).unwrap().write_at(0, &[std::io::IoSlice::new(&contents(&disk, &path))]).unwrap();
    }
    (keep, id)
}

/// Restoring fails for a reason that names the object, and leaves nothing.
#[track_caller]
fn assert_refused(disk: &SimIo, id: IndexId, object: &Path, what: &str) {
    let to = SimIo::new();
    let store = new_store(&to);
    match restore(&store, &repository(disk), &tenant(), id, Target::Newest) {
        Err(Error::Backup(damage)) => assert_eq!(damage.path, object, "{what}: {damage}"),
        other => panic!("{what} {}: {other:?}", object.display()),
    }
    assert!(files_below(&to, "/restored/".as_ref()).iter().all(|path| path.ends_with("LOCK")), "{what}: something is left");
}

/// Whether the newest backup is made of it.
fn is_needed(path: &Path) -> bool {
    // The manifest of the first backup, and all of its records: they are links of the chain.
    !path.to_string_lossy().contains("manifests/")
}

#[test]
fn object_that_is_damaged_cut_grown_or_missing_is_told_by_its_name() {
    let (disk, id) = backed_up();
    let all = objects(&disk);
    assert!(all.len() >= 8, "{all:?}");
    for path in all.iter().filter(|path| is_needed(path)) {
        let bytes = contents(&disk, path);
        for at in [0, bytes.len() / 2, bytes.len() - 2] {
            let damaged = disk.fork();
            let mut bytes = bytes.clone();
            bytes[at] ^= 4;
            overwrite(&damaged, path, &bytes);
            assert_refused(&damaged, id, path, "damaged");
        }
        for (what, bytes) in [("cut", &bytes[..bytes.len() - 5]), ("grown", &[&bytes[..], b"more"].concat()), ("emptied", &[])] {
            let damaged = disk.fork();
            overwrite(&damaged, path, bytes);
            assert_refused(&damaged, id, path, what);
        }
        let is_last_record = path.to_string_lossy().ends_with("2.json");
        if !is_last_record {
            let damaged = disk.fork();
            damaged.remove_file(path).unwrap();
            assert_refused(&damaged, id, path, "missing");
        }
    }
    assert_eq!(restored(&disk, id, Target::Newest).unwrap().1, restored(&disk, id, Target::Newest).unwrap().1);
}

#[test]
fn objects_that_were_swapped_are_told() {
    let (disk, id) = backed_up();
    let all: Vec<_> = objects(&disk).into_iter().filter(|path| is_needed(path)).collect();
    for pair in all.windows(2) {
        let (one, other) = (contents(&disk, &pair[0]), contents(&disk, &pair[1]));
        let damaged = disk.fork();
        overwrite(&damaged, &pair[0], &other);
        overwrite(&damaged, &pair[1], &one);
        let to = SimIo::new();
        let refused = restore(&new_store(&to), &repository(&damaged), &tenant(), id, Target::Newest).unwrap_err();
        assert!(matches!(refused, Error::Backup(_)), "{pair:?}: {refused}");
    }
}

#[test]
fn record_of_another_series_breaks_the_chain() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let other = SimIo::new();
    back_up(&session.index, &other).unwrap();
    session.put(&["g"], 7).unwrap();
    back_up(&session.index, &disk).unwrap();
    session.put(&["h"], 8).unwrap();
    back_up(&session.index, &disk).unwrap();
    let id = session.index.id();
    let record = |disk: &SimIo| objects(disk).into_iter().find(|path| path.to_string_lossy().ends_with("1.json")).unwrap();
    overwrite(&disk, &record(&disk), &contents(&other, &record(&other)));
    let refused = restored(&disk, id, Target::Newest).unwrap_err().to_string();
    assert!(refused.contains("2.json") && refused.contains("made after"), "{refused}");
}

#[test]
fn damaged_file_of_an_index_is_not_backed_up_and_told_by_its_name() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let index = Path::new("/data/tenant-1").join(session.index.id().to_string());
    let all: Vec<_> =
        files_below(&disk, &index).into_iter().filter(|path| !path.to_string_lossy().contains("manifest")).collect();
    let mut refused = 0;
    for path in all {
        let repository_disk = SimIo::new();
        let file = disk.open(&path).unwrap();
        // Of a segment or a file beside it anything, of the log a frame.
        let at = if path.extension().is_some_and(|kind| kind == "wal") { 600 } else { 10 };
        let mut byte = [0];
        file.read_at(at, &mut byte).unwrap();
        let write = |byte: u8| file.write_at(at, &[std::io::IoSlice::new(&[byte])]).unwrap();
        write(byte[0] ^ 1);
        match back_up(&session.index, &repository_disk) {
            Err(Error::Corrupt(damage)) => {
                assert_eq!(damage.path, path);
                refused += 1;
            }
            // The manifest does not name it any more.
            Ok(_) => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
        let records = objects_if_any(&repository_disk).into_iter().filter(|path| path.to_string_lossy().contains("backups/"));
        let is_named = refused > 0 && records.count() == 0;
        write(byte[0]);
        if is_named {
            back_up(&session.index, &repository_disk).unwrap();
            restored(&repository_disk, session.index.id(), Target::Newest).unwrap();
        }
    }
    assert!(refused >= 4, "{refused}");
}

fn objects_if_any(disk: &SimIo) -> Vec<std::path::PathBuf> {
    if disk.list(super::REPOSITORY.as_ref()).is_ok() { objects(disk) } else { Vec::new() }
}
