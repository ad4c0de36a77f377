//! One suite for every implementation of [`Io`]: what the contract in `io/mod.rs` promises, seen on each.

use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;

use super::os::OsIo;
use super::sim::{Chance, SimIo};
use super::{File, Io};

/// Runs `check` with each implementation and an empty directory of it.
fn on_each_disk(check: impl Fn(&dyn Io, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    check(&OsIo, directory.path());
    let sim = SimIo::new();
    sim.create_dir(Path::new("/root")).unwrap();
    check(&sim, Path::new("/root"));
}

fn write(file: &dyn File, offset: u64, bytes: &[u8]) {
    file.write_at(offset, &[IoSlice::new(bytes)]).unwrap();
}

fn read(io: &dyn Io, path: &Path) -> Vec<u8> {
    io.map(path).unwrap().to_vec()
}

fn names(io: &dyn Io, directory: &Path) -> Vec<String> {
    io.list(directory).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|e| e.kind())
}

#[test]
fn write_is_seen_at_once_through_every_handle() {
    on_each_disk(|io, root| {
        let path = root.join("f");
        let writer = io.create(&path).unwrap();
        let reader = io.open(&path).unwrap();
        writer.write_at(2, &[IoSlice::new(b"cd"), IoSlice::new(b""), IoSlice::new(b"ef")]).unwrap();
        let mut buffer = [9; 8];
        assert_eq!(reader.read_at(0, &mut buffer).unwrap(), 6);
        assert_eq!(&buffer, b"\0\0cdef\x09\x09", "a gap reads as zeros, and nothing is read past the end");
        assert_eq!(reader.read_at(6, &mut buffer).unwrap(), 0);
        assert_eq!(reader.read_at(1 << 40, &mut buffer).unwrap(), 0);
        assert_eq!(reader.len().unwrap(), 6);
        assert_eq!(read(io, &path), b"\0\0cdef");
    });
}

#[test]
fn write_of_nothing_changes_nothing() {
    on_each_disk(|io, root| {
        let file = io.create(&root.join("f")).unwrap();
        file.write_at(100, &[]).unwrap();
        file.write_at(100, &[IoSlice::new(b""), IoSlice::new(b"")]).unwrap();
        assert_eq!(file.len().unwrap(), 0);
        assert!(io.map(&root.join("f")).unwrap().is_empty());
    });
}

#[test]
fn what_was_cut_off_does_not_come_back_when_the_file_grows() {
    on_each_disk(|io, root| {
        let path = root.join("f");
        let file = io.create(&path).unwrap();
        write(&*file, 0, &[7; 1500]);
        file.sync_data().unwrap();
        file.set_len(700).unwrap();
        file.set_len(2000).unwrap();
        file.sync_data().unwrap();
        assert_eq!(read(io, &path), [vec![7; 700], vec![0; 1300]].concat());
    });
}

#[test]
fn map_is_aligned_and_outlives_the_name() {
    on_each_disk(|io, root| {
        let path = root.join("f");
        write(&*io.create(&path).unwrap(), 0, b"bytes");
        let map = io.map(&path).unwrap();
        io.remove_file(&path).unwrap();
        assert_eq!(&map[..], b"bytes");
        assert_eq!(map.as_ptr().align_offset(64), 0);
    });
}

#[test]
fn removed_or_replaced_file_stays_readable_through_its_handle() {
    on_each_disk(|io, root| {
        let (a, b) = (root.join("a"), root.join("b"));
        let (old, new) = (io.create(&a).unwrap(), io.create(&b).unwrap());
        write(&*old, 0, b"old");
        write(&*new, 0, b"new");
        io.rename(&b, &a).unwrap();
        assert_eq!(names(io, root), ["a"]);
        assert_eq!(read(io, &a), b"new");
        io.remove_file(&a).unwrap();
        io.sync_dir(root).unwrap();
        for (file, expected) in [(old, b"old"), (new, b"new")] {
            let mut buffer = [0; 3];
            assert_eq!(file.read_at(0, &mut buffer).unwrap(), 3);
            assert_eq!(&buffer, expected);
            file.sync_data().unwrap();
        }
    });
}

#[test]
fn list_is_sorted_and_tells_directories() {
    on_each_disk(|io, root| {
        for name in ["b", "a.tmp", "C"] {
            io.create(&root.join(name)).unwrap();
        }
        io.create_dir(&root.join("a")).unwrap();
        io.create(&root.join("a/inner")).unwrap();
        let found: Vec<_> = io.list(root).unwrap().into_iter().map(|e| (e.name, e.is_dir)).collect();
        let expected = [("C", false), ("a", true), ("a.tmp", false), ("b", false)];
        assert_eq!(found, expected.map(|(name, is_dir)| (name.to_owned(), is_dir)));
    });
}

#[test]
fn renamed_directory_keeps_its_files_and_their_handles() {
    on_each_disk(|io, root| {
        io.create_dir(&root.join("d")).unwrap();
        let file = io.create(&root.join("d/f")).unwrap();
        io.rename(&root.join("d"), &root.join("e")).unwrap();
        write(&*file, 0, b"x");
        assert_eq!(read(io, &root.join("e/f")), b"x");
        assert_eq!(names(io, root), ["e"]);
    });
}

#[test]
fn errors_have_the_kinds_of_linux() {
    on_each_disk(|io, root| {
        let (file, directory, absent) = (root.join("f"), root.join("d"), root.join("absent"));
        io.create(&file).unwrap();
        io.create_dir(&directory).unwrap();
        io.create(&directory.join("inner")).unwrap();

        assert_eq!(kind(io.open(&absent)), Some(ErrorKind::NotFound));
        assert_eq!(kind(io.map(&absent)), Some(ErrorKind::NotFound));
        assert_eq!(kind(io.list(&absent)), Some(ErrorKind::NotFound));
        assert_eq!(kind(io.sync_dir(&absent)), Some(ErrorKind::NotFound));
        assert_eq!(kind(io.create(&absent.join("f"))), Some(ErrorKind::NotFound));
        assert_eq!(kind(io.create_dir(&absent.join("d"))), Some(ErrorKind::NotFound));
        assert_eq!(kind(io.lock(&absent.join("LOCK"))), Some(ErrorKind::NotFound));
        assert_eq!(kind(io.rename(&absent, &file)), Some(ErrorKind::NotFound));
        assert_eq!(kind(io.create(&file)), Some(ErrorKind::AlreadyExists));
        assert_eq!(kind(io.create_dir(&file)), Some(ErrorKind::AlreadyExists));
        assert_eq!(kind(io.create_dir(&directory)), Some(ErrorKind::AlreadyExists));
        assert_eq!(kind(io.open(&directory)), Some(ErrorKind::IsADirectory));
        assert_eq!(kind(io.remove_file(&directory)), Some(ErrorKind::IsADirectory));
        assert_eq!(kind(io.rename(&file, &directory)), Some(ErrorKind::IsADirectory));
        assert_eq!(kind(io.rename(&directory, &file)), Some(ErrorKind::NotADirectory));
        assert_eq!(kind(io.rename(&directory, &directory.join("deeper"))), Some(ErrorKind::InvalidInput));
        assert_eq!(kind(io.list(&file)), Some(ErrorKind::NotADirectory));
        assert_eq!(kind(io.sync_dir(&file)), Some(ErrorKind::NotADirectory));
        assert_eq!(kind(io.create(&file.join("f"))), Some(ErrorKind::NotADirectory));
        assert_eq!(kind(io.remove_dir(&directory)), Some(ErrorKind::DirectoryNotEmpty));
    });
}

#[test]
fn lock_is_exclusive_until_dropped() {
    on_each_disk(|io, root| {
        let path = root.join("LOCK");
        let lock = io.lock(&path).unwrap();
        assert_eq!(kind(io.lock(&path)), Some(ErrorKind::WouldBlock));
        assert!(io.lock(&root.join("other")).is_ok());
        drop(lock);
        assert!(io.lock(&path).is_ok());
        assert_eq!(names(io, root), ["LOCK", "other"]);
    });
}

#[test]
fn a_shared_lock_keeps_out_who_wants_it_alone_and_nobody_else() {
    on_each_disk(|io, root| {
        let path = root.join("LOCK");
        assert_eq!(kind(io.lock_shared(&path)), Some(ErrorKind::NotFound));
        let alone = io.lock(&path).unwrap();
        assert_eq!(kind(io.lock_shared(&path)), Some(ErrorKind::WouldBlock));
        drop(alone);
        let (first, second) = (io.lock_shared(&path).unwrap(), io.lock_shared(&path).unwrap());
        drop(first);
        assert_eq!(kind(io.lock(&path)), Some(ErrorKind::WouldBlock));
        drop(second);
        assert!(io.lock(&path).is_ok());
    });
}

/// A random walk over a few names: both disks answer each step alike, and hold the same at the end.
#[test]
fn simulated_disk_answers_as_the_real_one_does() {
    for seed in 0..60 {
        let directory = tempfile::tempdir().unwrap();
        let sim = SimIo::new();
        sim.create_dir(Path::new("/root")).unwrap();
        let disks: [(&dyn Io, &Path); 2] = [(&OsIo, directory.path()), (&sim, Path::new("/root"))];
        let mut history = Vec::new();
        let mut chance = Chance::new(seed);
        for _ in 0..120 {
            let (choice, path, other) = (chance.below(11), random_path(&mut chance), random_path(&mut chance));
            let (offset, length) = (chance.below(2000), chance.below(2000));
            let answers = disks.map(|(io, root)| step(io, choice, &root.join(&path), &root.join(&other), offset, length));
            history.push((choice, path, other, offset, length));
            assert_eq!(answers[0], answers[1], "seed {seed}: {history:?}");
        }
        let [real, simulated] = disks.map(|(io, root)| tree(io, root, ""));
        assert_eq!(real, simulated, "seed {seed}: {history:?}");
        assert_eq!(tree(&sim.fork(), Path::new("/root"), ""), simulated);
    }
}

fn random_path(chance: &mut Chance) -> String {
    let names = ["a", "b", "c"];
    let depth = 1 + chance.below(3);
    (0..depth).map(|_| names[chance.below(names.len())]).collect::<Vec<_>>().join("/")
}

fn step(io: &dyn Io, choice: usize, path: &Path, other: &Path, offset: usize, length: usize) -> Result<Vec<u8>, ErrorKind> {
    let done = |result: io::Result<()>| result.map(|()| Vec::new());
    let result = match choice {
        0 | 1 => io.create(path).and_then(|file| done(file.write_at(0, &[IoSlice::new(&vec![1; length])]))),
        2 | 3 => done(io.create_dir(path)),
        4 => done(io.rename(path, other)),
        5 => done(io.remove_file(path)),
        6 => done(io.remove_dir(path)),
        7 => io.open(path).and_then(|file| done(file.write_at(offset as u64, &[IoSlice::new(&vec![2; length])]))),
        8 => io.open(path).and_then(|file| done(file.set_len(length as u64))),
        9 => io.open(path).and_then(|file| {
            let mut buffer = vec![0; length];
            file.read_at(offset as u64, &mut buffer).map(|read| buffer[..read].to_vec())
        }),
        _ => done(io.sync_dir(path)),
    };
    result.map_err(|e| e.kind())
}

/// Every path below `root` with its contents (`None`: a directory).
pub(super) fn tree(io: &dyn Io, root: &Path, prefix: &str) -> Vec<(String, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in io.list(&root.join(prefix)).unwrap() {
        let path = format!("{prefix}{}", entry.name);
        if entry.is_dir {
            found.push((path.clone(), None));
            found.extend(tree(io, root, &format!("{path}/")));
        } else {
            let contents = read(io, &root.join(&path));
            found.push((path, Some(contents)));
        }
    }
    found
}
