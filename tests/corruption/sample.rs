//! Sound disks to be damaged, and what may be found when they are.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use faiss_proxy::config::Limits;
use faiss_proxy::io::Io;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::{
    Damage, Durability, Effect, Error, Filter, Finding, IdempotencyKey, Index, IndexId, IndexOptions, IndexSpec, Lsn, Metric,
    Opening, Query, Store, Survey, TenantId, Verified, WriteOptions,
};

use crate::damage::{Case, Outcome};
use crate::log::Log;
use crate::support::{State, digest_of, dump, files_below, open_store, open_store_as, point, spec, tenant};

const DATA: &str = "/data";

/// The log is rotated a few times, and the frames above the last watermark begin in the middle of a file.
pub fn limits() -> Limits {
    Limits { log_segment_bytes: 2560, reserve_bytes: 4096, ..Limits::default() }
}

/// One index on a sample's disk, and what was stored in it, by LSN.
pub struct Kept {
    pub tenant: TenantId,
    pub id: IndexId,
    pub states: Vec<State>,
    pub checkpoint_lsn: Lsn,
}

impl Kept {
    pub fn directory(&self) -> PathBuf {
        Path::new(DATA).join(self.tenant.as_str()).join(self.id.to_string())
    }

    fn last(&self) -> &State {
        self.states.last().unwrap()
    }

    fn last_lsn(&self) -> Lsn {
        self.states.len() as Lsn - 1
    }
}

/// Three indices of one type on one disk, each with several segments, tombstones, two manifests, a log before and after the checkpoint, a torn
/// tail that was copied aside and, where the type has them, FAISS indexes.
pub struct Sample {
    pub index_type: &'static str,
    pub disk: SimIo,
    /// Whose files are damaged.
    pub victim: Kept,
    /// One of the same tenant, one of another: they serve whatever happens to the victim.
    pub bystanders: [Kept; 2],
}

impl Sample {
    /// One for each way in which files of indices differ: no FAISS index, a graph that reads the segment's own floats, lists of codes.
    pub fn all() -> Vec<Self> {
        [("Flat", Metric::Cosine), ("HNSW4", Metric::L2), ("IVF2,SQ8", Metric::InnerProduct)]
            .map(|(index_type, metric)| Self::new(index_type, metric))
            .into()
    }

    pub fn new(index_type: &'static str, metric: Metric) -> Self {
        let disk = SimIo::new();
        // A recall that is not reached is not what is tested here.
        let options = IndexOptions { min_recall: (index_type != "Flat").then_some(0.0), ..IndexOptions::default() };
        let spec = IndexSpec { index_type: index_type.to_owned(), options, ..spec(4, metric) };
        let other = TenantId::new("tenant-2").unwrap();
        // No two have a point in common, so that one's data is not taken for another's.
        let mut kept =
            [("v", tenant()), ("n", tenant()), ("o", other)].map(|(prefix, tenant)| fill(&disk, tenant, prefix, &spec));
        // Each opening that finds frames which nothing vouches for wrote them to a log of their own. The last log has some more.
        let store = open_store(disk.clone(), DATA, &limits()).unwrap();
        for kept in &mut kept {
            let index = store.index(&kept.tenant, kept.id).unwrap();
            for version in 0..3 {
                upsert(&index, &[format!("last-{}", kept.id)], version, &mut kept.states);
            }
        }
        drop(store);
        // Fewer zeros at the end of logs, which are allocated ahead, make it quicker to look at all of them thousands of times.
        for log in files_below(&disk, Path::new(DATA)).into_iter().filter(|path| has_extension(path, "wal")) {
            disk.open(&log).unwrap().set_len((used_bytes(&disk.map(&log).unwrap()) + 2048) as u64).unwrap();
        }
        let [victim, neighbour, stranger] = kept;
        Self { index_type, disk: disk.fork(), victim, bystanders: [neighbour, stranger] }
    }

    /// Every file that can be damaged: the victim's, and those of the data directory itself.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files = files_below(&self.disk, &self.victim.directory());
        files.extend(["LOCK", "RESERVE"].map(|name| Path::new(DATA).join(name)));
        files
    }

    /// What kind of file it is, for people.
    pub fn kind(&self, path: &Path) -> &'static str {
        let name = path.file_name().unwrap().to_str().unwrap();
        let alike = || {
            let in_directory = files_below(&self.disk, path.parent().unwrap());
            let mut alike: Vec<PathBuf> = in_directory.into_iter().filter(|other| extension(other) == extension(path)).collect();
            alike.retain(|other| other.parent() == path.parent());
            // In the order in which they were made: an epoch has as many digits as it needs.
            alike.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
            alike
        };
        match extension(path) {
            Some("seg") => ".seg",
            Some("dead") => ".dead",
            Some("keys") => ".keys",
            Some("fields") => ".fields",
            Some("faiss") => ".faiss",
            Some("torn") => ".torn",
            Some("wal") if alike().first().is_some_and(|first| first == path) => "log, first",
            Some("wal") if alike().last().is_some_and(|last| last == path) => "log, last",
            Some("wal") => "log, middle",
            None if name.starts_with("manifest-") && alike().last().is_some_and(|last| last == path) => "manifest",
            None if name.starts_with("manifest-") => "manifest before",
            None if name == "LOCK" => "LOCK",
            None if name == "RESERVE" => "RESERVE",
            _ => panic!("{}", path.display()),
        }
    }

    /// Opens a damaged disk, at once and lazily. Panics unless what is found is allowed.
    pub fn open(&self, disk: &SimIo, case: &Case) -> Outcome {
        let lazy = disk.fork();
        let verified = verify(disk, &self.victim);
        let damaged = disk.open(&case.path).is_ok().then(|| disk.map(&case.path).unwrap().to_vec());
        let store = open_store(disk.clone(), DATA, &limits()).unwrap();
        self.check_bystanders(&store);
        match store.index(&self.victim.tenant, self.victim.id) {
            Err(Error::Corrupt(found)) => {
                let expected = if case.mutation.moves_files() { self.victim.directory() } else { case.path.clone() };
                assert!(found.path.starts_with(expected), "{found} names another file than was damaged");
                check_text(&Error::Corrupt(Arc::clone(&found)));
                self.check_lazy(&lazy, Err(&found));
                let is_it = |finding: &Finding| {
                    (&finding.file, finding.offset, &finding.problem) == (&found.path, found.offset, &found.problem)
                };
                let told = verified.findings.iter().filter(|finding| finding.effect == Effect::Refused);
                assert!(told.clone().any(is_it), "verify does not tell of {found}: {told:?}");
                Outcome::Refused
            }
            Err(other) => panic!("{other:?}"),
            Ok(index) => {
                let (lsn, torn_bytes) = (index.info().lsn, index.info().torn_bytes);
                assert_eq!(dump(&index), self.victim.states[lsn as usize], "data of another time");
                self.check_lazy(&lazy, Ok(&dump(&index)));
                check_count(&index);
                let is_rebuilt = check_searches(&index, self.index_type);
                self.check_verified(&verified, lsn, is_rebuilt, self.kind(&case.path));
                self.write_and_reopen(disk, store, index);
                if lsn == self.victim.last_lsn() {
                    return if is_rebuilt { Outcome::Rebuilt } else { Outcome::Same };
                }
                let log = damaged.as_deref().filter(|_| self.kind(&case.path) == "log, last").and_then(Log::read);
                let kind = self.kind(&case.path);
                let log = log.unwrap_or_else(|| panic!("a prefix up to LSN {lsn} is left by damage of a {kind}"));
                assert!(lsn >= log.vouched_lsn().max(self.victim.checkpoint_lsn), "LSN {} was vouched for", lsn + 1);
                assert_eq!(torn_bytes, log.bytes_after(lsn) as u64, "bytes that were lost, and nobody is told of");
                Outcome::Prefix
            }
        }
    }

    fn check_bystanders(&self, store: &Store) {
        for other in &self.bystanders {
            let index = store.index(&other.tenant, other.id).expect("the other index serves");
            assert_eq!(dump(&index), *other.last(), "the other index");
        }
    }

    /// Opened lazily, it is the same; and what is wrong with manifest or log shows at the start, not at the first use.
    fn check_lazy(&self, disk: &SimIo, expected: Result<&State, &Damage>) {
        let store = open_store_as(Opening::Lazy, disk.clone(), DATA, &limits()).unwrap();
        let refused = store.refused(&self.victim.tenant);
        self.check_bystanders(&store);
        let found = store.index(&self.victim.tenant, self.victim.id).map(|index| dump(&index)).map_err(|error| error.to_string());
        assert_eq!(found.as_ref().ok(), expected.ok());
        match expected {
            Ok(_) => assert!(refused.is_empty(), "{refused:?}"),
            Err(damage) => {
                assert!(found.is_err_and(|text| text.contains(&damage.to_string())));
                let in_segment = ["seg", "dead", "keys"].iter().any(|kind| has_extension(&damage.path, kind));
                assert_eq!(refused.is_empty(), in_segment, "{damage} is refused at the start: {refused:?}");
            }
        }
    }

    /// What `verify` said before of a disk on which the index serves.
    fn check_verified(&self, verified: &Verified, lsn: Lsn, is_rebuilt: bool, kind: &str) {
        let effects: Vec<Effect> = verified.findings.iter().map(|finding| finding.effect).collect();
        assert!(!effects.contains(&Effect::Refused), "the index serves: {verified:?}");
        assert_eq!(verified.digest.as_deref(), Some(&*digest_of(&self.victim.states[lsn as usize])));
        assert_eq!((verified.lsn, verified.points), (lsn, self.victim.states[lsn as usize].len() as u64));
        assert!(!is_rebuilt || effects.contains(&Effect::MadeAgain), "{verified:?}");
        let expected = match kind {
            ".fields" | ".faiss" => Some(Effect::MadeAgain),
            "manifest before" => Some(Effect::Spare),
            _ => None,
        };
        assert!(expected.is_none_or(|effect| effects.contains(&effect)), "damage of a {kind} goes unseen: {verified:?}");
    }

    fn write_and_reopen(&self, disk: &SimIo, store: Store, index: Arc<Index>) {
        upsert(&index, &["later".to_owned()], 1, &mut Vec::new());
        let expected = (index.info().lsn, dump(&index));
        drop((index, store));
        let store = open_store(disk.clone(), DATA, &limits()).unwrap();
        let index = store.index(&self.victim.tenant, self.victim.id).unwrap();
        assert_eq!((index.info().lsn, dump(&index)), expected, "after one more write");
    }
}

/// Looks at an index on a disk, and changes nothing.
fn verify(disk: &SimIo, kept: &Kept) -> Verified {
    let disk = disk.fork();
    let before = disk.mutations();
    let survey = Survey::open(Arc::new(disk.clone()), DATA).unwrap();
    let verified = survey.verify(&kept.tenant, kept.id, &|_| {});
    assert_eq!(disk.mutations(), before, "looking changed something");
    verified
}

/// A person learns from a refusal which file it is, where in it, and what there is to do.
fn check_text(refusal: &Error) {
    let text = refusal.to_string();
    assert!(text.contains(DATA) && text.contains(" at byte "), "{text}");
    assert!(text.contains("restored from a backup, repaired or deleted"), "{text}");
}

/// What a filter selects is right, whether its metadata index was read or made again.
fn check_count(index: &Index) {
    let state = dump(index);
    for version in [1, 2, 3] {
        let filter = format!("\"version\":{version}");
        let expected = state.values().filter(|row| row.metadata.contains(&filter)).count() as u64;
        assert_eq!(index.count(&Filter::parse(&format!("{{{filter}}}")).unwrap()).0, expected, "{filter}");
    }
}

/// A search by the index is right, with its FAISS indexes or without; where one is lost that is said, and it is built again. Whether that was so.
fn check_searches(index: &Index, index_type: &str) -> bool {
    if index_type == "Flat" {
        return false;
    }
    let state = dump(index);
    let ids = |exact: bool| -> Vec<String> {
        let query = Query { vector: vec![300.0, 500.0, 700.0, 1.0], k: 7, exact, ..Query::default() };
        let hits = index.search(&query).unwrap();
        assert!(hits.iter().all(|hit| state.get(&hit.id).is_some_and(|row| row.metadata == hit.metadata)), "{hits:?}");
        hits.into_iter().map(|hit| hit.id).collect()
    };
    let builds = index.info().builds;
    let lost: Vec<&str> = builds.iter().filter_map(|build| build.reason.as_deref()).collect();
    assert_eq!(ids(false).len(), 7);
    for why in &lost {
        assert!(why.contains(".faiss at byte ") && why.contains("built again"), "{why}");
    }
    if lost.is_empty() {
        return false;
    }
    if builds.iter().all(|build| build.factory.is_none()) {
        assert_eq!(ids(false), ids(true), "rows without an index are scanned");
    }
    // As an operator may; the background does it when there are as many rows as FAISS advises.
    index.train().unwrap();
    let builds = index.info().builds;
    assert!(builds.iter().all(|build| build.factory.is_some() && build.reason.is_none()), "{builds:?}");
    assert_eq!(ids(false).len(), 7);
    true
}

/// A new index with a history, as [`Sample`] describes it.
fn fill(disk: &SimIo, tenant: TenantId, prefix: &str, spec: &IndexSpec) -> Kept {
    let open = || open_store(disk.clone(), DATA, &limits()).unwrap();
    let id = |n: u64| format!("{prefix}{n}");
    let (store, mut states) = (open(), vec![State::new()]);
    let index = store.create_index(&tenant, spec).unwrap();
    let kept = Kept { tenant, id: index.id(), states: Vec::new(), checkpoint_lsn: 0 };
    upsert(&index, &[id(100), id(101)], 1, &mut states);
    upsert(&index, &[id(102)], 1, &mut Vec::new());
    drop((index, store));
    // Nothing vouches for the last frame: opening copies what is left of it aside.
    let logs = files_below(disk, &kept.directory().join("wal"));
    let last = used_bytes(&disk.map(&logs[0]).unwrap()) - 1;
    write(disk, &logs[0], last, &[0xff]);

    let store = open();
    let index = store.index(&kept.tenant, kept.id).unwrap();
    assert_eq!(index.info().lsn, 1);
    upsert(&index, &(0..30).map(id).collect::<Vec<_>>(), 1, &mut states);
    index.train().unwrap();
    for n in 30..38 {
        upsert(&index, &[id(n)], 2, &mut states);
        index.checkpoint().unwrap();
    }
    delete(&index, &[&id(3), &id(31)], &mut states);
    // Two checkpoints with keys: a file for each.
    for key in ["one", "two"] {
        let options = WriteOptions { key: Some(IdempotencyKey::new(key, &[]).unwrap()), ..WriteOptions::default() };
        index.delete(&[&id(32), &id(200)], options).unwrap();
        states.push(dump(&index));
        // A metadata index is made, and written.
        check_count(&index);
        index.checkpoint().unwrap();
    }
    upsert(&index, &[id(4), id(40)], 3, &mut states);
    index.train().unwrap();
    for n in 41..46 {
        upsert(&index, &[id(n), id(5)], n, &mut states);
    }
    delete(&index, &[&id(41)], &mut states);
    upsert(&index, &[id(46)], 5, &mut states);
    Kept { states, checkpoint_lsn: index.info().checkpoint_lsn, ..kept }
}

fn upsert(index: &Index, ids: &[String], version: u64, states: &mut Vec<State>) {
    let mut batch = index.batch();
    for id in ids {
        let new = point(id, version);
        batch.push(&new.id, &new.values, &new.metadata).unwrap();
    }
    index.upsert(batch, Durability::Fsync).unwrap();
    states.push(dump(index));
}

fn delete(index: &Index, ids: &[&str], states: &mut Vec<State>) {
    index.delete(ids, Durability::Fsync).unwrap();
    states.push(dump(index));
}

pub fn write(disk: &SimIo, path: &Path, offset: usize, bytes: &[u8]) {
    disk.open(path).unwrap().write_at(offset as u64, &[IoSlice::new(bytes)]).unwrap();
}

/// Bytes of a file up to and with the last one that is not zero.
pub fn used_bytes(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

fn extension(path: &Path) -> Option<&str> {
    path.extension().map(|extension| extension.to_str().unwrap())
}

pub fn has_extension(path: &Path, wanted: &str) -> bool {
    extension(path) == Some(wanted)
}
