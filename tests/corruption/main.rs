//! Damaged bytes are never served: whatever happens to a file, its index opens with exactly the same data or refuses and names the file,
//! and the others serve. Only damage to the log above the highest surviving watermark cannot be told from a crash: it leaves a prefix, and
//! says so. A damaged FAISS index costs nothing but the time to build it again.
//!
//! `FAISS_PROXY_MUTATIONS` sets how many damaged stores there are, about.

mod damage;
mod log;
mod memory;
mod sample;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};

use damage::{Mutation, Outcome, Table, damage_each, each, flips, places, siblings, strangers};
use faiss_proxy::config::Limits;
use faiss_proxy::io::Io;
use faiss_proxy::io::os::OsIo;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::{Error, IndexId, Lsn, Metric};
use sample::{Sample, has_extension, limits, write};
use support::{Before, Session, files_below, open_store, spec, tenant};

#[test]
fn flipped_bit_anywhere_is_refused_or_harmless() {
    let samples = Sample::all();
    let each = each(&samples, 60);
    let table = damage_each(&samples, |sample, _, bytes| flips(bytes, each(sample)));
    assert_all(&table, &["manifest", ".seg", ".dead", ".keys"], Outcome::Refused);
    assert_all(&table, &["manifest before", ".fields", ".torn", "RESERVE"], Outcome::Same);
    assert!(table.count(".faiss", Outcome::Rebuilt) > 20 && table.count("log, last", Outcome::Prefix) > 10, "{table}");
}

#[test]
fn file_cut_anywhere_is_refused_or_harmless_or_leaves_a_prefix() {
    let samples = Sample::all();
    let each = each(&samples, 20);
    let cuts = |sample: &Sample, _: &Path, bytes: &[u8]| {
        places(bytes, each(sample)).into_iter().map(|length| Mutation::Cut { length }).collect()
    };
    let table = damage_each(&samples, cuts);
    assert_all(&table, &["manifest", ".seg", ".dead", ".keys"], Outcome::Refused);
    assert_all(&table, &["manifest before", ".torn", "RESERVE"], Outcome::Same);
    assert!(table.count(".faiss", Outcome::Rebuilt) > 10 && table.count("log, last", Outcome::Prefix) > 3, "{table}");
}

#[test]
fn zeroed_tail_or_sector_is_refused_or_harmless_or_leaves_a_prefix() {
    let samples = Sample::all();
    let each = each(&samples, 20);
    let table = damage_each(&samples, |sample, _, bytes| {
        let tails = places(bytes, each(sample)).into_iter().map(|from| Mutation::ZeroTail { from });
        tails.chain((0..bytes.len()).step_by(512).map(|start| Mutation::ZeroSector { start })).collect()
    });
    assert_all(&table, &["manifest", ".seg", ".dead", ".keys"], Outcome::Refused);
    assert_all(&table, &["manifest before", ".torn"], Outcome::Same);
    assert!(table.count(".faiss", Outcome::Rebuilt) > 10 && table.count("log, last", Outcome::Prefix) > 3, "{table}");
}

#[test]
fn appended_bytes_are_refused_or_harmless() {
    let table = damage_each(&Sample::all(), |_, _, _| {
        let ways = [1, 511, 512, 65_536].into_iter().flat_map(|bytes| [0, 0xff].map(|with| (bytes, with)));
        ways.map(|(bytes, with)| Mutation::Grow { bytes, with }).collect()
    });
    assert_all(&table, &["manifest", ".seg", ".dead", ".keys"], Outcome::Refused);
    assert_all(&table, &["manifest before", "log, last", ".torn", "LOCK", "RESERVE"], Outcome::Same);
    assert_eq!(table.total(Outcome::Prefix), 0, "{table}");
}

#[test]
fn missing_file_is_refused_or_harmless() {
    let table = damage_each(&Sample::all(), |_, _, _| vec![Mutation::Remove]);
    assert_all(&table, &["manifest", "manifest before", "log, last"], Outcome::Refused);
    assert_all(&table, &[".torn", "LOCK", "RESERVE"], Outcome::Same);
    assert!(table.count(".seg", Outcome::Refused) > 0 && table.count(".dead", Outcome::Refused) > 0, "{table}");
    assert!(table.count(".faiss", Outcome::Rebuilt) > 0, "{table}");
}

#[test]
fn files_of_one_index_in_each_others_place_are_refused_or_harmless() {
    let table = damage_each(&Sample::all(), |sample, path, _| {
        let others = siblings(sample, path);
        let duplicates = others.iter().map(|of| Mutation::Duplicate { of: of.clone() });
        let exchanged = others.iter().filter(|other| *other > path).map(|with| Mutation::Exchange { with: with.clone() });
        duplicates.chain(exchanged).collect()
    });
    assert!(table.count("log, last", Outcome::Refused) > 0 && table.count(".dead", Outcome::Refused) > 0, "{table}");
    assert!(table.count(".seg", Outcome::Refused) > 0 && table.count(".faiss", Outcome::Rebuilt) > 0, "{table}");
    assert_eq!(table.total(Outcome::Prefix), 0, "{table}");
}

#[test]
fn file_of_another_index_or_another_tenant_is_refused_or_harmless() {
    let table = damage_each(&Sample::all(), |sample, path, _| {
        strangers(sample, path).into_iter().map(|of| Mutation::Foreign { of }).collect()
    });
    assert_all(&table, &["manifest", "log, last"], Outcome::Refused);
    assert!(table.count(".seg", Outcome::Refused) > 0 && table.count(".faiss", Outcome::Rebuilt) > 0, "{table}");
    assert_eq!(table.total(Outcome::Prefix), 0, "{table}");
}

/// No accident makes a checksum right. What is behind it must not be believed all the same: a length is compared with what there is.
#[test]
fn length_that_lies_under_a_right_checksum_is_refused_or_leaves_a_prefix_and_allocates_nothing() {
    let table = damage_each(&Sample::all(), |_, path, bytes| {
        let fields = |covered: std::ops::Range<usize>, fields: &[usize]| -> Vec<Mutation> {
            let lies = fields.iter().flat_map(|&at| [u32::MAX, i32::MAX as u32, 1 << 26, 1 << 20].map(|value| (at, value)));
            lies.map(|(at, value)| Mutation::Lie { covered: covered.clone(), at: covered.start + at, value }).collect()
        };
        if path.file_name().unwrap().to_string_lossy().starts_with("manifest-") {
            return fields(0..bytes.len() - 4, &[12]);
        }
        if has_extension(path, "seg") {
            return fields(0..60, &[12, 40, 44, 48]);
        }
        if !has_extension(path, "wal") {
            return Vec::new();
        }
        let frames = (512..bytes.len()).step_by(512).filter(|&at| bytes[at..].starts_with(b"FPXF"));
        frames.flat_map(|at| fields(at..at + 60, &[8])).collect()
    });
    assert_all(&table, &["manifest", ".seg"], Outcome::Refused);
    assert!(table.count("log, last", Outcome::Refused) > 0 && table.count("log, last", Outcome::Prefix) > 0, "{table}");
    // A segment's writer holds up to 2 MiB of what it writes, here less, and all else that opening does, in the other tests too, allocates less.
    println!("the largest allocation had {} bytes", memory::largest_bytes());
    assert!(memory::largest_bytes() <= 1 << 20, "{} bytes", memory::largest_bytes());
}

/// A damage of one of these files ends like this, whatever it is; of each there were some.
fn assert_all(table: &Table, kinds: &[&str], outcome: Outcome) {
    for kind in kinds {
        let all: u64 =
            [Outcome::Same, Outcome::Rebuilt, Outcome::Prefix, Outcome::Refused].map(|o| table.count(kind, o)).iter().sum();
        assert!(all > 0 && table.count(kind, outcome) == all, "{kind}: {table}");
    }
}

#[test]
fn refused_index_is_left_as_it_was_and_can_be_deleted() {
    let sample = Sample::new("Flat", Metric::Cosine);
    let directory = sample.victim.directory();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let first_lsn = |path: &Path| name(path)[..20].parse::<Lsn>().unwrap();
    let logs = files_below(&sample.disk, &directory.join("wal"));
    let log = logs.into_iter().find(|path| first_lsn(path) > sample.victim.checkpoint_lsn && has_extension(path, "wal")).unwrap();
    let disk = sample.disk.fork();
    write(&disk, &log, 600, &[0xff; 8]);
    let contents = |disk: &SimIo| -> Vec<(PathBuf, Vec<u8>)> {
        files_below(disk, &directory).into_iter().map(|path| (path.clone(), disk.map(&path).unwrap().to_vec())).collect()
    };
    let before = contents(&disk);
    let store = open_store(disk.clone(), "/data", &limits()).unwrap();
    let error = store.index(&tenant(), sample.victim.id).unwrap_err();
    assert!(error.to_string().contains(&name(&log)) && error.to_string().contains(" at byte "), "{error}");
    assert_eq!(store.refused(&tenant()).len(), 1);
    assert_eq!(store.indices(&tenant()).len(), 1, "only the sound one is listed");
    assert!(contents(&disk) == before, "refusing changed something");
    store.delete_index(&tenant(), sample.victim.id).unwrap();
    assert!(matches!(store.index(&tenant(), sample.victim.id), Err(Error::NotFound(_))));
    assert!(disk.list(&directory).is_err());
}

#[test]
fn strangers_are_tolerated_and_what_crashes_left_is_removed() {
    let disk = SimIo::new();
    let mut session = Session::create(&disk, &limits(), 4, Metric::L2);
    session.put(&["a", "b"], 1).unwrap();
    session.checkpoint().unwrap();
    session.put(&["c"], 1).unwrap();
    let tenant_dir = Path::new("/data/tenant-1");
    let directory = tenant_dir.join(session.index.id().to_string());
    let history = session.history.clone();
    drop((session.store, session.index));

    let strangers = [
        PathBuf::from("/data/notes.txt"),
        tenant_dir.join("notes.txt"),
        directory.join("notes.txt"),
        directory.join("wal/00000000000000000001-1.wal.torn"),
        directory.join("segments/notes"),
        directory.join("segments/7.seg"),
        directory.join("wal/7-7.wal"),
        directory.join("manifest-+0000000000000000009"),
        PathBuf::from("/data/Not A Tenant/x"),
        tenant_dir.join("not-an-index/x"),
    ];
    let leftovers = [
        tenant_dir.join(format!(".creating-{}/wal/x", IndexId::nil())),
        tenant_dir.join(format!(".deleting-{}/manifest-00000000000000000001", IndexId::nil())),
        directory.join("manifest-00000000000000000009.tmp"),
        directory.join("wal/00000000000000000009-9.wal"),
        directory.join("wal/00000000000000000009-9.wal.tmp"),
        directory.join("segments/00000000000000000099.seg"),
        directory.join("segments/00000000000000000099.dead"),
    ];
    for path in strangers.iter().chain(&leftovers) {
        let mut missing: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| disk.list(parent).is_err()).collect();
        missing.reverse();
        missing.iter().for_each(|parent| disk.create_dir(parent).unwrap());
        disk.create(path).unwrap();
    }
    Session::open(&disk, &limits(), history, Before::Kill).unwrap();
    for path in &strangers {
        assert!(disk.open(path).is_ok(), "{} is no file of ours, and is gone", path.display());
    }
    for path in &leftovers {
        assert!(disk.open(path).is_err(), "{} is left", path.display());
    }
    assert_eq!(disk.list(tenant_dir).unwrap().iter().filter(|entry| entry.name.starts_with('.')).count(), 0);
}

#[test]
fn directory_that_is_open_cannot_be_opened_again_while_anybody_can_write_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let open = || open_store(OsIo, directory.path(), &Limits::default());
    let store = open().unwrap();
    let index = store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
    let error = open().unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert!(error.to_string().contains(directory.path().to_str().unwrap()), "{error}");
    drop(store);
    // An index that somebody still holds takes writes: two writers would destroy its log.
    assert!(matches!(open(), Err(Error::Conflict(_))));
    drop(index);
    open().unwrap();
}
