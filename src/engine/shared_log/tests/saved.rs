use std::io::IoSlice;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::*;
use crate::checkpoint::manifest::Root;
use crate::format::manifest::Manifest;
use crate::io::os::OsIo;
use crate::io::{Io, durable};

/// What its README says is in it.
fn saved(version: u8) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/v{version}"))
}

fn saved_tenant() -> TenantId {
    TenantId::new("tenant-1").unwrap()
}

fn named(name: &str) -> IndexSpec {
    IndexSpec { name: name.into(), ..spec() }
}

/// Each step a frame of the log.
fn fill(index: &Index) {
    let upsert = |ids: Range<usize>| {
        let mut batch = index.batch();
        for n in ids {
            let values: Vec<f32> = (0..DIMENSION).map(|j| ((n * 7 + j * 3) % 11) as f32 - 4.5).collect();
            batch.push(&format!("p{n}"), &values, &format!("{{\"n\": {n}}}")).unwrap();
        }
        index.upsert(batch, Durability::Fsync).unwrap();
    };
    let delete = |n: usize| assert_eq!(index.delete(&[&format!("p{n}")], Durability::Fsync).unwrap().deleted_count, 1);
    upsert(0..40);
    index.checkpoint().unwrap();
    (0..40).step_by(5).for_each(delete);
    index.checkpoint().unwrap();
    upsert(38..60);
    delete(59);
    index.sync().unwrap();
}

/// Writes the directory, by the code of now.
fn write_directory(disk: &SimIo) {
    let store = Store::open_with(options(disk), Some(in_memory().1.into())).unwrap();
    fill(&store.create_shared_index(&saved_tenant(), &named("v5 shared"), ID).unwrap());
    drop(store);
    let store = Store::open(options(disk)).unwrap();
    fill(&store.create_index(&saved_tenant(), &named("v5 alone")).unwrap());
}

/// All below a directory, logs without the zeros at their ends.
fn copy(from: &dyn Io, from_dir: &Path, to: &dyn Io, to_dir: &Path) {
    durable::create_dirs_durably(to, to_dir).unwrap();
    for entry in from.list(from_dir).unwrap() {
        let path = from_dir.join(&entry.name);
        if entry.is_dir {
            copy(from, &path, to, &to_dir.join(&entry.name));
            continue;
        }
        let mut bytes = from.map(&path).unwrap().to_vec();
        if entry.name.ends_with(".wal") {
            let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1).next_multiple_of(512);
            bytes.truncate(used);
        }
        durable::replace(to, to_dir, &entry.name, &[IoSlice::new(&bytes)]).unwrap();
    }
}

/// The names of all that is below the directory of the shared index, and of all files how many have which ending.
fn names(io: &dyn Io, data_dir: &Path) -> (Vec<String>, BTreeMap<String, usize>) {
    fn below(io: &dyn Io, directory: &Path, each: &mut dyn FnMut(&Path)) {
        for entry in io.list(directory).unwrap() {
            let path = directory.join(&entry.name);
            if entry.is_dir { below(io, &path, each) } else { each(&path) }
        }
    }
    let tenant = data_dir.join(saved_tenant().as_str());
    let shared = tenant.join(ID.to_string());
    let (mut names, mut kinds) = (Vec::new(), BTreeMap::new());
    below(io, &tenant, &mut |path| {
        names.extend(path.strip_prefix(&shared).ok().map(|name| name.display().to_string()));
        *kinds.entry(path.extension().map_or_else(String::new, |kind| kind.to_string_lossy().into_owned())).or_default() += 1;
    });
    names.sort();
    (names, kinds)
}

/// The newest manifest on the disk.
fn manifest(disk: &SimIo) -> Manifest {
    let directory = Path::new("/data").join(saved_tenant().as_str()).join(ID.to_string());
    Root::look(Arc::new(disk.clone()), &directory, ID).unwrap().current().clone()
}

#[test]
fn directory_of_version_4_or_5_is_opened_by_a_node_and_goes_on_where_the_others_are() {
    for version in [4, 5] {
        let (_, logs) = in_memory();
        let others = Store::open_with(options(&SimIo::new()), Some(Arc::clone(&logs).into())).unwrap();
        let other = others.create_shared_index(&saved_tenant(), &spec(), ID).unwrap();
        fill(&other);
        let disk = SimIo::new();
        copy(&OsIo, &saved(version), &disk, Path::new("/data"));
        let saved = manifest(&disk);
        assert_eq!((saved.encode()[8], saved.copy.is_some()), (version, version == 5));
        assert_eq!(saved.shared, Some(Place { lsn: 9, chain: 0, sequence: 9 }));
        let open = |disk: &SimIo| Store::open_with(options(disk), Some(Arc::clone(&logs).into())).unwrap();
        let opened = {
            let store = open(&disk);
            let refused = store.refused(&saved_tenant());
            let [(alone, why)] = &refused[..] else { panic!("the other is one machine's own: {refused:?}") };
            assert!(*alone != ID && why.to_string().contains("one machine's own"), "{why}");
            let index = store.index(&saved_tenant(), ID).unwrap();
            // It knows which copy it is from now on: a crash does not take that away.
            let opened = manifest(&disk.crash(Survival::None));
            assert_eq!((opened.encode()[8], opened.shared), (5, saved.shared));
            assert!(opened.copy.is_some() && saved.copy.is_none_or(|copy| Some(copy) == opened.copy));
            assert_eq!((index.info().name, index.info().lsn), (format!("v{version} shared"), 11));
            assert_equal(&index, &other);
            put(&other, "new", 1.0, Condition::Absent).unwrap();
            put(&index, "newer", 1.0, Condition::Absent).unwrap();
            index.checkpoint().unwrap();
            assert_eq!(index.root.lock().current().shared.map(|place| place.lsn), Some(13));
            put(&index, "newest", 1.0, Condition::Absent).unwrap();
            opened
        };
        let disk = disk.crash(Survival::None);
        let store = open(&disk);
        assert_equal(&store.index(&saved_tenant(), ID).unwrap(), &other);
        assert_eq!(manifest(&disk).copy, opened.copy);
    }
}

/// The code that wrote `tests/data/v5` is still the code that wrote it. With `FAISS_PROXY_WRITE_DIRECTORY` it writes there.
#[test]
fn directory_of_version_5_that_is_written_now_is_like_the_saved_one() {
    let disk = SimIo::new();
    write_directory(&disk);
    let tenant = Path::new("/data").join(saved_tenant().as_str());
    if let Some(data_dir) = std::env::var_os("FAISS_PROXY_WRITE_DIRECTORY") {
        copy(&disk, &tenant, &OsIo, &Path::new(&data_dir).join(saved_tenant().as_str()));
    }
    assert_eq!(manifest(&disk).encode()[8], 5);
    assert_eq!(names(&disk, Path::new("/data")), names(&OsIo, &saved(5)));
}
