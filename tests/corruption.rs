//! Damaged bytes are never served: whatever happens to a file, its index opens with exactly the same data or refuses and names the file,
//! and the others serve. Only damage to the log above the highest surviving watermark cannot be told from a crash: it leaves a prefix.

mod support;

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use faiss_proxy::config::Limits;
use faiss_proxy::io::os::OsIo;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::io::{Io, durable};
use faiss_proxy::{Durability, Error, Index, IndexId, Lsn, Metric, Opening, Store};
use support::{Before, Chance, Session, State, dump, files_below, open_store, open_store_as, point, spec, tenant};

/// The log is rotated a few times, and the frames above the last marker begin in the middle of a file.
fn limits() -> Limits {
    Limits { log_segment_bytes: 2560, ..Limits::default() }
}

/// What was stored, by LSN.
type States = Vec<State>;

/// Two indices of one tenant on one disk, each with merged segments, tombstones, two manifests and a log after the checkpoint.
struct Sample {
    disk: SimIo,
    victim: IndexId,
    bystander: IndexId,
    states: [States; 2],
    checkpoint_lsn: Lsn,
}

fn upsert(index: &Index, ids: &[String], version: u64, states: &mut States) {
    let mut batch = index.batch();
    for id in ids {
        let new = point(id, version);
        batch.push(&new.id, &new.values, &new.metadata).unwrap();
    }
    index.upsert(batch, Durability::Fsync).unwrap();
    states.push(dump(index));
}

fn delete(index: &Index, ids: &[&str], states: &mut States) {
    index.delete(ids, Durability::Fsync).unwrap();
    states.push(dump(index));
}

fn fill(index: &Index, prefix: &str) -> States {
    let mut states = vec![State::new()];
    let id = |n: u64| format!("{prefix}{n}");
    upsert(index, &(0..30).map(id).collect::<Vec<_>>(), 1, &mut states);
    index.checkpoint().unwrap();
    for n in 30..38 {
        upsert(index, &[id(n)], 2, &mut states);
        index.checkpoint().unwrap();
    }
    delete(index, &[&id(3), &id(31)], &mut states);
    upsert(index, &[id(4), id(40)], 3, &mut states);
    index.checkpoint().unwrap();
    for n in 41..46 {
        upsert(index, &[id(n), id(5)], n, &mut states);
    }
    delete(index, &[&id(41)], &mut states);
    upsert(index, &[id(46)], 5, &mut states);
    states
}

impl Sample {
    fn new() -> Self {
        let disk = SimIo::new();
        let store = open_store(disk.clone(), "/data", &limits()).unwrap();
        let [victim, bystander] = [(); 2].map(|()| store.create_index(&tenant(), &spec(4, Metric::Cosine)).unwrap());
        let states = [fill(&victim, "v"), fill(&bystander, "b")];
        Self {
            victim: victim.id(),
            bystander: bystander.id(),
            states,
            checkpoint_lsn: victim.info().checkpoint_lsn,
            disk: disk.fork(),
        }
    }

    fn directory(&self, id: IndexId) -> PathBuf {
        Path::new("/data").join(tenant().as_str()).join(id.to_string())
    }

    fn last_lsn(&self) -> Lsn {
        self.states[0].len() as Lsn - 1
    }

    /// Opens a damaged disk. Panics unless what is found is allowed.
    fn open(&self, disk: &SimIo, damage: &Damage) -> Outcome {
        let lazy = disk.fork();
        let store = open_store(disk.clone(), "/data", &limits()).unwrap();
        let bystander = dump(&store.index(&tenant(), self.bystander).expect("the other index serves"));
        assert_eq!(bystander, *self.states[1].last().unwrap(), "the other index");
        match store.index(&tenant(), self.victim) {
            Err(Error::Corrupt(found)) => {
                let expected = if damage.moves_files { self.directory(self.victim) } else { damage.path.clone() };
                assert!(found.path.starts_with(expected), "{found} names another file than was damaged");
                self.check_lazy(&lazy, Err(&found));
                Outcome::Refused
            }
            Err(other) => panic!("{other:?}"),
            Ok(index) => {
                let lsn = index.info().lsn;
                assert_eq!(dump(&index), self.states[0][lsn as usize], "data of another time");
                self.check_lazy(&lazy, Ok(&dump(&index)));
                self.write_and_reopen(disk, store, index);
                if lsn == self.last_lsn() {
                    return Outcome::Same;
                }
                let is_log = damage.path.extension().is_some_and(|e| e == "wal");
                // Every frame vouches for those before it: only the last can go unnoticed where the others' headers are left.
                let least = if damage.loses_the_rest { self.checkpoint_lsn } else { self.last_lsn() - 1 };
                assert!(is_log && lsn >= least, "a prefix up to LSN {lsn}");
                let torn = files_below(disk, &self.directory(self.victim))
                    .iter()
                    .any(|path| path.extension().is_some_and(|e| e == "torn"));
                assert!(torn || !damage.leaves_traces, "a prefix that nobody is told of");
                Outcome::Prefix
            }
        }
    }

    /// Opened lazily, it is the same; and what is wrong with manifest or log shows at the start, not at the first use.
    fn check_lazy(&self, disk: &SimIo, expected: Result<&State, &faiss_proxy::Damage>) {
        let store = open_store_as(Opening::Lazy, disk.clone(), "/data", &limits()).unwrap();
        let refused = store.refused(&tenant());
        assert_eq!(dump(&store.index(&tenant(), self.bystander).unwrap()), *self.states[1].last().unwrap(), "the other index");
        let found = store.index(&tenant(), self.victim).map(|index| dump(&index)).map_err(|error| error.to_string());
        assert_eq!(found.as_ref().ok(), expected.ok());
        match expected {
            Ok(_) => assert!(refused.is_empty(), "{refused:?}"),
            Err(damage) => {
                assert!(found.is_err_and(|text| text.contains(&damage.to_string())));
                let in_segment = damage.path.extension().is_some_and(|e| e == "seg" || e == "dead");
                assert_eq!(refused.is_empty(), in_segment, "{damage} is refused at the start: {refused:?}");
            }
        }
    }

    fn write_and_reopen(&self, disk: &SimIo, store: Store, index: Arc<Index>) {
        upsert(&index, &["later".to_owned()], 1, &mut Vec::new());
        let expected = (index.info().lsn, dump(&index));
        drop((index, store));
        let store = open_store(disk.clone(), "/data", &limits()).unwrap();
        let index = store.index(&tenant(), self.victim).unwrap();
        assert_eq!((index.info().lsn, dump(&index)), expected, "after one more write");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Same,
    Prefix,
    Refused,
}

/// What was done, as far as it decides on what may be found.
struct Damage {
    path: PathBuf,
    /// All that followed in the file is gone, watermarks too.
    loses_the_rest: bool,
    /// Something is left in the place of what was damaged.
    leaves_traces: bool,
    moves_files: bool,
}

#[derive(Debug, Default)]
struct Tally {
    cases: u64,
    same: u64,
    prefix: u64,
    refused: u64,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        self.cases += 1;
        *match outcome {
            Outcome::Same => &mut self.same,
            Outcome::Prefix => &mut self.prefix,
            Outcome::Refused => &mut self.refused,
        } += 1;
    }
}

/// Applies `damage` to each file of the victim, in each of the ways that `ways` gives for it.
fn damage_each<W: std::fmt::Debug>(
    sample: &Sample,
    kind: &str,
    ways: impl Fn(&Path, &[u8]) -> Vec<W>,
    damage: impl Fn(&SimIo, &Path, &W) -> Damage,
) -> Tally {
    let mut tally = Tally::default();
    for path in files_below(&sample.disk, &sample.directory(sample.victim)) {
        let bytes = sample.disk.map(&path).unwrap().to_vec();
        for way in ways(&path, &bytes) {
            let disk = sample.disk.fork();
            let damage = damage(&disk, &path, &way);
            let _told = ToldOnPanic(format!("{kind} {way:?} of {}", path.display()));
            tally.add(sample.open(&disk, &damage));
        }
    }
    println!("{kind}: {tally:?}");
    tally
}

struct ToldOnPanic(String);

impl Drop for ToldOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

fn in_place(path: &Path) -> Damage {
    Damage { path: path.to_owned(), loses_the_rest: false, leaves_traces: true, moves_files: false }
}

fn write(disk: &SimIo, path: &Path, offset: usize, bytes: &[u8]) {
    disk.open(path).unwrap().write_at(offset as u64, &[IoSlice::new(bytes)]).unwrap();
}

/// Every byte of what is small or says something, and some of the zeros that a log is allocated ahead with.
fn interesting_bytes(bytes: &[u8]) -> Vec<usize> {
    let mut chance = Chance::new(bytes.len() as u64);
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| (last + 1).next_multiple_of(512).min(bytes.len()));
    let step = used / 1500 + 1;
    (0..used).step_by(step).chain((0..20).map(|_| chance.below(bytes.len()))).collect()
}

#[test]
fn flipped_bit_anywhere_is_refused_or_harmless() {
    let sample = Sample::new();
    let tally = damage_each(
        &sample,
        "flip",
        |_, bytes| interesting_bytes(bytes).into_iter().map(|at| (at, bytes[at] ^ (1 << (at % 8)))).collect(),
        |disk, path, &(at, byte)| {
            write(disk, path, at, &[byte]);
            in_place(path)
        },
    );
    assert!(tally.cases > 3000 && tally.refused > 1000 && tally.same > 100 && tally.prefix > 10, "{tally:?}");
}

#[test]
fn file_cut_anywhere_is_refused_or_harmless_or_leaves_a_prefix() {
    let sample = Sample::new();
    let tally = damage_each(
        &sample,
        "cut",
        |_, bytes| interesting_bytes(bytes).into_iter().step_by(5).collect(),
        |disk, path, &length| {
            disk.open(path).unwrap().set_len(length as u64).unwrap();
            // A cut between two frames is the end of a shorter log.
            Damage { loses_the_rest: true, leaves_traces: false, ..in_place(path) }
        },
    );
    assert!(tally.cases > 600 && tally.refused > 300 && tally.prefix > 5, "{tally:?}");
}

#[test]
fn missing_file_is_refused_or_harmless() {
    let sample = Sample::new();
    let tally = damage_each(
        &sample,
        "remove",
        |_, _| vec![()],
        |disk, path, ()| {
            disk.remove_file(path).unwrap();
            Damage { moves_files: true, ..in_place(path) }
        },
    );
    assert!(tally.cases > 5 && tally.refused > 3, "{tally:?}");
    assert_eq!(tally.prefix, 0, "{tally:?}");
}

#[test]
fn zeroed_bytes_are_refused_or_harmless() {
    let sample = Sample::new();
    let tally = damage_each(
        &sample,
        "zero",
        |_, bytes| {
            let sectors = (0..bytes.len()).step_by(512).map(|start| (start, (start + 512).min(bytes.len())));
            let used: Vec<(usize, usize)> =
                sectors.filter(|&(start, end)| bytes[start..end].iter().any(|&byte| byte != 0)).collect();
            // Each sector, and the whole file.
            used.into_iter().chain([(0, bytes.len())]).collect()
        },
        |disk, path, &(start, end)| {
            write(disk, path, start, &vec![0; end - start]);
            // A frame's sector that never reached the disk is what a crash leaves, too.
            Damage { leaves_traces: false, ..in_place(path) }
        },
    );
    assert!(tally.cases >= 30 && tally.refused >= 20, "{tally:?}");
}

#[test]
fn file_of_the_other_index_is_refused_or_harmless() {
    let sample = Sample::new();
    let (victim, bystander) = (sample.directory(sample.victim), sample.directory(sample.bystander));
    let tally = damage_each(
        &sample,
        "take from the other index",
        |path, _| {
            let source = bystander.join(path.strip_prefix(&victim).unwrap());
            if sample.disk.open(&source).is_ok() { vec![source] } else { Vec::new() }
        },
        |disk, path, source| {
            disk.rename(source, path).unwrap();
            // It lost a file: make it whole, so that it can be asked for what it has.
            durable::replace(disk, source.parent().unwrap(), name(source), &[IoSlice::new(&sample.disk.map(source).unwrap())])
                .unwrap();
            Damage { moves_files: true, ..in_place(path) }
        },
    );
    assert!(tally.cases > 5 && tally.refused > 3, "{tally:?}");
    assert_eq!(tally.prefix, 0, "{tally:?}");
}

#[test]
fn files_of_one_index_in_each_others_place_are_refused_or_harmless() {
    let sample = Sample::new();
    let victim = sample.directory(sample.victim);
    let tally = damage_each(
        &sample,
        "exchange",
        |path, _| {
            let others = files_below(&sample.disk, &victim);
            others.into_iter().filter(|other| other > path && other.parent() == path.parent()).collect()
        },
        |disk, path, other| {
            let aside = path.with_extension("aside");
            disk.rename(path, &aside).unwrap();
            disk.rename(other, path).unwrap();
            disk.rename(&aside, other).unwrap();
            Damage { moves_files: true, ..in_place(path) }
        },
    );
    assert!(tally.cases > 3 && tally.refused > 2, "{tally:?}");
    assert_eq!(tally.prefix, 0, "{tally:?}");
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn refused_index_is_left_as_it_was_and_can_be_deleted() {
    let sample = Sample::new();
    let directory = sample.directory(sample.victim);
    let first_lsn = |path: &Path| name(path)[..20].parse::<Lsn>().unwrap();
    let logs = files_below(&sample.disk, &directory.join("wal"));
    let log = logs.into_iter().find(|path| first_lsn(path) > sample.checkpoint_lsn).unwrap();
    let disk = sample.disk.fork();
    write(&disk, &log, 600, &[0xff; 8]);
    let contents = |disk: &SimIo| -> Vec<(PathBuf, Vec<u8>)> {
        files_below(disk, &directory).into_iter().map(|path| (path.clone(), disk.map(&path).unwrap().to_vec())).collect()
    };
    let before = contents(&disk);
    let store = open_store(disk.clone(), "/data", &limits()).unwrap();
    let error = store.index(&tenant(), sample.victim).unwrap_err();
    assert!(error.to_string().contains(name(&log)) && error.to_string().contains(" at byte "), "{error}");
    assert_eq!(store.refused(&tenant()).len(), 1);
    assert_eq!(store.indices(&tenant()).len(), 1, "only the sound one is listed");
    assert!(contents(&disk) == before, "refusing changed something");
    store.delete_index(&tenant(), sample.victim).unwrap();
    assert!(matches!(store.index(&tenant(), sample.victim), Err(Error::NotFound(_))));
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
