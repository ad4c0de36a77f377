//! Nodes that share a log and a place for snapshots: each a store on a simulated disk of its own, and the repository on another.

use std::fmt;
use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Barrier};

use super::super::copy::backup;
use super::super::repository::Directory;
use super::super::throttle::Throttle;
use super::*;
use crate::config::Limits;
use crate::engine::snapshots::Sharing;
use crate::engine::{Opening, Store, StoreOptions};
use crate::error::What;
use crate::format::manifest::Settings;
use crate::io::sim::{SimIo, Survival};
use crate::io::{Entry, Lock};
use crate::types::{Durability, IdempotencyKey, IndexSpec, Point};
use crate::wal::cluster::Cluster;
use crate::wal::conformance::memory_cluster::MemoryCluster;
use crate::write_options::WriteOptions;

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn spec() -> IndexSpec {
    IndexSpec { name: "n".into(), dimension: 1, index_type: "Flat".into(), ..IndexSpec::default() }
}

/// What the nodes share.
#[derive(Clone, Debug, Default)]
struct Shared {
    cluster: MemoryCluster,
    /// The disk of the repository.
    disk: SimIo,
}

impl Shared {
    fn repository(&self) -> SnapshotRepository {
        SnapshotRepository::new(Box::new(Directory::new(Arc::new(self.disk.clone()), "/repository")))
    }

    /// The first operation that the log has still.
    fn first_lsn(&self, index: &Index) -> Lsn {
        self.cluster.log(&tenant(), index.id()).first_lsn()
    }

    /// Every snapshot of an index, by its LSN, and whether all of it can be read.
    fn snapshots(&self, index: &Index) -> Vec<(Lsn, bool)> {
        let repository = self.repository();
        let shelf = repository.shelf(&tenant(), index.id());
        let names = shelf.repository.list(&shelf.directory).unwrap().into_iter().map(|entry| entry.name);
        names.filter_map(|name| Some((lsn_of(&name)?, shelf.read_back(&name).is_ok()))).collect()
    }

    /// What the log does not have, a snapshot has.
    #[track_caller]
    fn check(&self, index: &Index) {
        let whole = self.snapshots(index).into_iter().filter(|(_, is_whole)| *is_whole).map(|(lsn, _)| lsn).max();
        let first_lsn = self.first_lsn(index);
        assert!(first_lsn <= whole.unwrap_or(0) + 1, "the log begins at {first_lsn}, and {whole:?} is the newest snapshot");
    }

    fn open(&self, disk: &SimIo, opening: Opening, has_snapshots: bool) -> (Store, Arc<SnapshotRepository>) {
        let repository = Arc::new(self.repository());
        // Some segments of the log, so that checkpoints let it go.
        let limits = Limits { log_segment_bytes: 2048, ..Limits::default() };
        let io = Arc::new(disk.clone());
        let options = StoreOptions { io, background: false, limits, opening, ..StoreOptions::new("/data") };
        let cluster: Arc<dyn Cluster> = Arc::new(self.cluster.clone());
        let snapshots = has_snapshots.then(|| Arc::clone(&repository) as Arc<dyn Snapshots>);
        (Store::open_with(options, Some(Sharing { cluster, snapshots, placement: None })).unwrap(), repository)
    }

    /// Opens an index for the first time, and crashes at the n-th step of it. Not of opening the store, which other tests have.
    fn open_until(&self, disk: &SimIo, n: u64, id: IndexId) {
        let (store, _) = self.open(disk, Opening::Lazy, true);
        disk.crash_at(n);
        let _ = store.index(&tenant(), id);
    }

    /// A node with what a crash left, and whether the index was on its disk still. Nothing is refused.
    fn reopen(&self, disk: SimIo, id: IndexId, context: &str) -> (Node, bool) {
        let (store, repository) = self.open(&disk, Opening::Lazy, true);
        assert!(store.refused(&tenant()).is_empty(), "{context}");
        let was_there = !store.list(&tenant()).unwrap_or_default().is_empty();
        let index = store.index(&tenant(), id).unwrap_or_else(|error| panic!("{context}: {error}"));
        (Node { shared: self.clone(), disk, store, repository, index }, was_there)
    }
}

/// A server with its own disk.
struct Node {
    shared: Shared,
    disk: SimIo,
    store: Store,
    repository: Arc<SnapshotRepository>,
    index: Arc<Index>,
}

impl Node {
    fn create(shared: &Shared) -> Self {
        let disk = SimIo::new();
        let (store, repository) = shared.open(&disk, Opening::Eager, true);
        let index = store.create_index(&tenant(), &spec()).unwrap();
        Self { shared: shared.clone(), disk, store, repository, index }
    }

    fn on(shared: &Shared, disk: SimIo, id: IndexId) -> Result<Self> {
        let (store, repository) = shared.open(&disk, Opening::Lazy, true);
        let index = store.index(&tenant(), id)?;
        Ok(Self { shared: shared.clone(), disk, store, repository, index })
    }

    /// A new node, which learns of the index from the catalogue.
    fn join(&self) -> Self {
        Self::on(&self.shared, SimIo::new(), self.index.id()).unwrap()
    }

    /// The power is cut, and it is away with what is left of its disk.
    fn leave(self) -> (SimIo, IndexId) {
        (self.disk.crash(Survival::None), self.index.id())
    }

    fn put(&self, ids: std::ops::Range<u32>) {
        for id in ids {
            let mut batch = self.index.batch();
            batch.push(&id.to_string(), &[id as f32], &format!("{{\"n\": {id}}}")).unwrap();
            self.index.upsert(batch, Durability::Fsync).unwrap();
        }
    }

    /// A snapshot, which there is something for.
    #[track_caller]
    fn take(&self) -> SnapshotReport {
        let report = self.repository.take(&self.index).unwrap().expect("it is ahead");
        self.shared.check(&self.index);
        report
    }

    /// LSN and points, at the end of the log.
    fn state(&self) -> (Lsn, Vec<Point>) {
        self.index.catch_up().unwrap();
        let mut points = Vec::new();
        let lsn = self.index.visit(|point| {
            points.push(point);
            Ok::<(), Error>(())
        });
        points.sort_by(|a, b| a.id.cmp(&b.id));
        (lsn.unwrap(), points)
    }
}

#[track_caller]
fn assert_equal(one: &Node, other: &Node) {
    assert_eq!(one.state(), other.state());
}

/// Three snapshots, and something behind them that only the log has.
fn with_snapshots(shared: &Shared) -> Node {
    let node = Node::create(shared);
    node.put(0..10);
    node.index.delete(&["3", "7"], Durability::Fsync).unwrap();
    for ids in [10..20, 15..25, 20..30] {
        node.put(ids);
        node.take();
    }
    node.put(28..33);
    node
}

#[test]
fn new_node_begins_with_the_newest_snapshot_and_what_the_log_has_behind_it_and_goes_on() {
    let shared = Shared::default();
    let a = Node::create(&shared);
    let keyed = |index: &Index| {
        let mut batch = index.batch();
        batch.push("keyed", &[1.0], "{}").unwrap();
        let key = Some(IdempotencyKey { key: "k".to_owned(), fingerprint: 1 });
        index.upsert(batch, WriteOptions { key, ..WriteOptions::default() }).unwrap().lsn
    };
    let lsn_of_key = keyed(&a.index);
    a.put(0..10);
    a.index.delete(&["3"], Durability::Fsync).unwrap();
    let first = a.take();
    assert_eq!((first.lsn, first.trimmed_lsn, shared.first_lsn(&a.index)), (12, 0, 1), "the first one trims nothing");
    assert_eq!(a.repository.take(&a.index).unwrap(), None, "there is nothing new");
    a.put(5..15);
    let second = a.take();
    assert_eq!((second.lsn, second.trimmed_lsn, shared.first_lsn(&a.index)), (22, 12, 13));
    a.put(30..35);
    let renamed = a.store.configure_index(&tenant(), a.index.id(), |config| {
        config.name = "another".to_owned();
        Ok(())
    });
    renamed.unwrap();

    let b = a.join();
    assert_equal(&a, &b);
    let info = b.index.info();
    assert_eq!((info.lsn, info.checkpoint_lsn, &*info.name), (27, 22, "another"));
    assert_eq!(keyed(&b.index), lsn_of_key, "what is remembered is in the snapshot");
    b.put(33..40);
    assert_equal(&a, &b);
    // Before it has a checkpoint of its own, too.
    let (disk, id) = b.leave();
    let b = Node::on(&shared, disk, id).unwrap();
    assert_equal(&a, &b);

    let third = b.take();
    assert_eq!((third.lsn, third.trimmed_lsn), (34, 22));
    assert!(third.bytes_moved < third.bytes, "{third:?}: what was fetched is there already");
    let c = a.join();
    assert_equal(&a, &c);
    c.put(0..3);
    assert_equal(&a, &c);
}

#[test]
fn node_that_was_away_until_the_log_was_trimmed_is_taken_anew_and_without_snapshots_refused() {
    for opening in [Opening::Eager, Opening::Lazy] {
        let shared = Shared::default();
        let a = Node::create(&shared);
        a.put(0..5);
        let (b, late) = (a.join(), a.join());
        b.put(5..8);
        b.index.checkpoint().unwrap();
        let (disk, id) = b.leave();
        for ids in [8..20, 3..10, 20..25] {
            a.put(ids);
            a.take();
        }
        assert!(shared.first_lsn(&a.index) > 9);
        // One that runs answers from what it has, until it is opened again.
        for _ in 0..2 {
            let refused = late.index.catch_up();
            assert!(matches!(&refused, Err(Error::Closed(why)) if why.contains("newer snapshot")), "{refused:?}");
        }
        let (late_disk, _) = late.leave();
        {
            let (store, _) = shared.open(&disk, opening, false);
            let refused = store.index(&tenant(), id).map(drop);
            assert!(matches!(&refused, Err(Error::Closed(why)) if why.contains("newer snapshot")), "{refused:?}");
        }
        for disk in [disk.clone(), late_disk] {
            let (store, repository) = shared.open(&disk, opening, true);
            let index = store.index(&tenant(), id).unwrap();
            let b = Node { shared: shared.clone(), disk, store, repository, index };
            assert_equal(&a, &b);
            b.put(40..42);
            assert_equal(&a, &b);
            let names: Vec<String> = b.disk.list(Path::new("/data/t")).unwrap().into_iter().map(|entry| entry.name).collect();
            assert_eq!(names, [id.to_string()], "what it had is gone");
            let (disk, _) = b.leave();
            assert_equal(&a, &Node::on(&shared, disk, id).unwrap());
        }
    }
}

#[test]
fn what_a_node_takes_from_a_snapshot_is_a_copy_of_its_own_and_is_not_backed_up_over_another() {
    let shared = Shared::default();
    let a = Node::create(&shared);
    a.put(0..5);
    let b = a.join();
    b.put(5..8);
    b.index.checkpoint().unwrap();
    let place_of_its_own = || Directory::new(Arc::new(SimIo::new()), "/backups");
    let back_up = |node: &Node, place: &Directory| backup(&node.index, place, &Throttle::new(None));
    let copy = |node: &Node| node.index.pin().unwrap().manifest().copy.expect("a node has one");
    let (of_a, of_b) = (place_of_its_own(), place_of_its_own());
    back_up(&a, &of_a).unwrap();
    back_up(&b, &of_b).unwrap();
    let mut copies = vec![copy(&a), copy(&b)];
    let (disk, id) = b.leave();
    for ids in [8..20, 3..10, 20..25] {
        a.put(ids);
        a.take();
    }
    // The log has let go of what it lacks: all that it has is the snapshot's.
    let b = Node::on(&shared, disk, id).unwrap();
    let c = a.join();
    copies.extend([copy(&b), copy(&c)]);
    for (node, place) in [(&b, &of_a), (&b, &of_b), (&c, &of_a), (&c, &of_b)] {
        let refused = back_up(node, place);
        assert!(matches!(&refused, Err(Error::Conflict(why)) if why.contains("another place")), "{refused:?}");
        back_up(node, &place_of_its_own()).unwrap();
    }
    back_up(&a, &of_a).unwrap();
    assert_eq!(copies[0], copy(&a));
    copies.sort_unstable();
    copies.dedup();
    assert_eq!(copies.len(), 4);
    // Nobody's: which node took one does not matter.
    let repository = shared.repository();
    let shelf = repository.shelf(&tenant(), id);
    for name in shelf.documents().unwrap() {
        assert_eq!(shelf.read(&name).unwrap().0.copy, None);
    }
}

#[test]
fn index_that_was_deleted_is_not_taken_anew() {
    let shared = Shared::default();
    let a = Node::create(&shared);
    a.put(0..5);
    let (disk, id) = a.join().leave();
    for ids in [0..5, 5..9] {
        a.put(ids);
        a.take();
    }
    a.store.delete_index(&tenant(), id).unwrap();
    for disk in [disk, SimIo::new()] {
        let (store, _) = shared.open(&disk, Opening::Lazy, true);
        assert!(matches!(store.index(&tenant(), id), Err(Error::NotFound(What::Index))));
    }
}

#[test]
fn node_that_finds_damage_in_the_newest_snapshot_begins_with_the_one_before_or_names_it() {
    let shared = Shared::default();
    let a = with_snapshots(&shared);
    let repository = shared.repository();
    let shelf = repository.shelf(&tenant(), a.index.id());
    let [before, newest] = shelf.documents().unwrap().try_into().unwrap();
    let (files_before, files) = (shelf.read(&before).unwrap().1, shelf.read(&newest).unwrap().1);
    let objects = files.iter().map(|file| (shelf.file(&file.sha256.to_string()), files_before.contains(file)));
    let objects: Vec<_> = objects.chain([(shelf.name(&newest), false)]).collect();
    assert!(
        objects.iter().any(|(_, is_in_both)| *is_in_both) && objects.iter().filter(|(_, is_in_both)| !is_in_both).count() > 1
    );
    for (object, is_in_both) in objects {
        let path = repository.repository.path(&object);
        for cut in [false, true] {
            let damaged = Shared { disk: shared.disk.fork(), ..shared.clone() };
            let file = damaged.disk.open(&path).unwrap();
            let at = file.len().unwrap() / 2;
            if cut {
                file.set_len(at).unwrap();
            } else {
                let mut byte = [0];
                file.read_at(at, &mut byte).unwrap();
                file.write_at(at, &[IoSlice::new(&[byte[0] ^ 1])]).unwrap();
            }
            let disk = SimIo::new();
            if !is_in_both {
                let node = Node::on(&damaged, disk.fork(), a.index.id()).unwrap();
                assert_equal(&a, &node);
                continue;
            }
            let (store, _) = damaged.open(&disk, Opening::Lazy, true);
            let refused = store.index(&tenant(), a.index.id()).map(drop).unwrap_err();
            let is_named = matches!(&refused, Error::Backup(damage) if damage.path == path);
            assert!(is_named, "{} cut {cut}: {refused}", path.display());
            assert!(disk.list(Path::new("/data/t")).unwrap().is_empty(), "nothing is left of it");
            // As soon as it is whole again.
            let healed = Shared { disk: shared.disk.fork(), ..shared.clone() };
            assert_equal(&a, &Node::on(&healed, disk.fork(), a.index.id()).unwrap());
        }
    }
}

#[test]
fn what_neither_of_the_two_newest_snapshots_needs_is_removed() {
    let shared = Shared::default();
    let a = Node::create(&shared);
    let b = a.join();
    let repository = shared.repository();
    let shelf = repository.shelf(&tenant(), a.index.id());
    let mut removed = 0;
    for round in 0..8 {
        let node = [&a, &b][round as usize % 2];
        node.put(round * 5..round * 5 + 8);
        if round == 5 {
            // Of all that there was, no file stays.
            node.index.compact().unwrap();
        }
        removed += node.take().objects_removed;
        let documents = shelf.documents().unwrap();
        assert_eq!(documents.len(), 2.min(round as usize + 1));
        let needed = documents.iter().flat_map(|name| shelf.read(name).unwrap().1).map(|file| file.sha256.to_string());
        assert_eq!(shelf.files().unwrap(), needed.collect());
        assert!(shared.snapshots(&a.index).iter().all(|(_, is_whole)| *is_whole));
    }
    assert!(removed > 6, "{removed}: six documents, and files");
    assert_equal(&a, &b.join());
}

#[test]
fn snapshots_of_deleted_indices_are_removed_and_no_others() {
    let shared = Shared::default();
    let (a, b) = (with_snapshots(&shared), with_snapshots(&shared));
    let is_deleted = |tenant: &TenantId, id| a.store.is_deleted(tenant, id);
    assert_eq!(shared.repository().remove_deleted(&is_deleted).unwrap(), 0);
    // By another node, and this one was not told: the catalogue says so of what is not here.
    b.store.delete_index(&tenant(), b.index.id()).unwrap();
    let cannot = |_: &TenantId, _| Err(Error::Busy("no answer"));
    assert!(matches!(shared.repository().remove_deleted(&cannot), Err(Error::Busy(_))));
    assert_eq!(shared.repository().remove_deleted(&is_deleted).unwrap(), 1);
    let repository = shared.repository();
    let shelf = repository.shelf(&tenant(), b.index.id());
    assert!(shelf.documents().unwrap().is_empty() && shelf.files().unwrap().is_empty());
    assert_eq!(shared.repository().remove_deleted(&is_deleted).unwrap(), 0);
    assert_equal(&a, &a.join());
}

/// A repository that damages one of the objects that are put, counted from 0, and in which something happens before the first file is read.
#[derive(Debug)]
struct Damaging {
    inner: Directory,
    at: usize,
    puts: Arc<AtomicUsize>,
    meanwhile: Meanwhile,
}

#[derive(Default)]
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Damaging {
    fn is_due(&self) -> bool {
        self.puts.fetch_add(1, Relaxed) == self.at
    }
}

impl Repository for Damaging {
    fn path(&self, name: &str) -> PathBuf {
        self.inner.path(name)
    }

    fn lock(&self, name: &str) -> Result<Option<Lock>> {
        self.inner.lock(name)
    }

    fn put(&self, name: &str, bytes: u64, chunks: &mut Chunks<'_>) -> Result<()> {
        let mut flip = self.is_due();
        let damage = |chunk: Result<Vec<u8>>| {
            let mut chunk = chunk?;
            if std::mem::take(&mut flip) {
                chunk[0] ^= 1;
            }
            Ok(chunk)
        };
        self.inner.put(name, bytes, &mut chunks.map(damage))
    }

    fn put_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= u8::from(self.is_due());
        self.inner.put_new(name, &bytes)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name)
    }

    fn get(&self, name: &str) -> Result<Option<Box<Chunks<'_>>>> {
        if let Some(todo) = self.meanwhile.0.lock().take_if(|_| name.contains("/files/")) {
            todo();
        }
        self.inner.get(name)
    }

    fn list(&self, name: &str) -> Result<Vec<Entry>> {
        self.inner.list(name)
    }
}

#[test]
fn snapshot_that_cannot_be_read_back_trims_nothing() {
    let shared = Shared::default();
    let a = Node::create(&shared);
    a.put(0..10);
    a.take();
    a.put(5..20);
    let mut damaged = 0;
    loop {
        let puts = Arc::new(AtomicUsize::new(0));
        let inner = Directory::new(Arc::new(shared.disk.fork()), "/repository");
        let repository = SnapshotRepository::new(Box::new(Damaging {
            inner,
            at: damaged,
            puts: Arc::clone(&puts),
            meanwhile: Meanwhile::default(),
        }));
        let taken = repository.take(&a.index);
        if puts.load(Relaxed) <= damaged {
            assert_eq!(taken.unwrap().unwrap().trimmed_lsn, 10);
            break;
        }
        assert!(matches!(&taken, Err(Error::Backup(_))), "{taken:?}");
        assert_eq!(shared.first_lsn(&a.index), 1);
        damaged += 1;
    }
    assert!(damaged >= 2, "a segment and the document at least");
    assert_eq!(shared.first_lsn(&a.index), 11);
}

#[test]
fn snapshot_that_is_removed_while_it_is_fetched_gives_way_to_the_newest() {
    let shared = Shared::default();
    let a = with_snapshots(&shared);
    let index = Arc::clone(&a.index);
    let newest = move || {
        for n in 0..2 {
            a.put(40 + n..45 + n);
            a.index.compact().unwrap();
            a.take();
        }
    };
    let inner = Directory::new(Arc::new(shared.disk.clone()), "/repository");
    let meanwhile = Meanwhile(Mutex::new(Some(Box::new(newest))));
    let damaging = Damaging { inner, at: usize::MAX, puts: Arc::default(), meanwhile };
    let (disk, directory) = (SimIo::new(), Path::new("/i"));
    crate::io::durable::create_dirs_durably(&disk, &directory.join(SEGMENT_DIRECTORY)).unwrap();
    let fetched = SnapshotRepository::new(Box::new(damaging)).fetch(&tenant(), index.id(), &disk, directory).unwrap().unwrap();
    assert_eq!(fetched.position.lsn, index.info().lsn);
    // And nothing is left of the other.
    let mut names: Vec<String> = fetched.segment_files().map(|(name, ..)| name).collect();
    names.sort_unstable();
    let there = disk.list(&directory.join(SEGMENT_DIRECTORY)).unwrap();
    assert_eq!(there.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), names);
}

#[test]
fn damaged_file_of_the_index_is_never_put() {
    let shared = Shared::default();
    let a = Node::create(&shared);
    a.put(0..10);
    a.index.checkpoint().unwrap();
    let segments = Path::new("/data/t").join(a.index.id().to_string()).join(SEGMENT_DIRECTORY);
    let name = a.disk.list(&segments).unwrap().remove(0).name;
    let file = a.disk.open(&segments.join(name)).unwrap();
    file.write_at(file.len().unwrap() - 1, &[IoSlice::new(b"!")]).unwrap();
    let refused = a.repository.take(&a.index);
    assert!(matches!(&refused, Err(Error::Corrupt(_))), "{refused:?}");
    assert_eq!(shared.snapshots(&a.index), []);
}

/// Stops what `begin` does on a disk at each of its steps, and gives what is left of the disk to `check`.
fn crash_at_each_step(start: &SimIo, mut begin: impl FnMut(&SimIo, u64), mut check: impl FnMut(SimIo, String)) {
    for n in 1.. {
        assert!(n < 1000, "it never ends");
        let disk = start.fork();
        begin(&disk, n);
        for survival in [Survival::None, Survival::All, Survival::Random(n), Survival::Torn(n)] {
            check(disk.crash(survival), format!("step {n}, {survival:?}"));
        }
        if !disk.is_crashed() {
            assert!(n > 10, "it does more than that");
            return;
        }
    }
}

#[test]
fn crash_at_each_step_of_fetching_leaves_no_index_or_a_whole_one() {
    let shared = Shared::default();
    let a = with_snapshots(&shared);
    let (id, expected) = (a.index.id(), a.state());
    let away = {
        let shared = Shared { disk: SimIo::new(), ..shared.clone() };
        let disk = SimIo::new();
        drop(shared.open(&disk, Opening::Lazy, true));
        disk.crash(Survival::All)
    };
    let (mut none, mut whole) = (0, 0);
    crash_at_each_step(
        &away,
        |disk, n| shared.open_until(disk, n, id),
        |disk, context| {
            let (node, was_there) = shared.reopen(disk, id, &context);
            if was_there {
                whole += 1
            } else {
                none += 1
            }
            assert_eq!(node.state(), expected, "{context}");
        },
    );
    assert!(none > 10 && whole > 0, "{none} without, {whole} with");
}

#[test]
fn crash_at_each_step_of_taking_an_index_anew_leaves_the_old_one_none_or_the_new_one() {
    let shared = Shared::default();
    let a = Node::create(&shared);
    a.put(0..5);
    let (away, id) = a.join().leave();
    for ids in [3..10, 10..14, 12..20] {
        a.put(ids);
        a.take();
    }
    let expected = a.state();
    crash_at_each_step(
        &away,
        |disk, n| shared.open_until(disk, n, id),
        |disk, context| {
            assert_eq!(shared.reopen(disk, id, &context).0.state(), expected, "{context}");
        },
    );
}

#[test]
fn nodes_take_snapshots_of_one_index_in_turn_and_at_the_same_time() {
    let shared = Shared::default();
    let a = Node::create(&shared);
    a.put(0..5);
    let b = a.join();
    for round in 0..3 {
        a.put(round..round + 5);
        a.take();
        b.put(round + 50..round + 55);
        b.take();
        assert_eq!(a.repository.take(&b.index).unwrap(), None, "who has it does not matter");
    }
    {
        let _other = shared.repository().repository.lock(&a.repository.shelf(&tenant(), a.index.id()).directory).unwrap();
        a.put(0..1);
        assert!(matches!(a.repository.take(&a.index), Err(Error::Conflict(_))));
    }
    let (taken, both) = (AtomicUsize::new(0), Barrier::new(2));
    std::thread::scope(|scope| {
        for (node, first) in [(&a, 100), (&b, 200)] {
            let (taken, both) = (&taken, &both);
            scope.spawn(move || {
                for id in first..first + 20 {
                    // So that neither is two snapshots behind.
                    both.wait();
                    node.index.catch_up().unwrap();
                    both.wait();
                    node.put(id..id + 1);
                    match node.repository.take(&node.index) {
                        Ok(report) => taken.fetch_add(usize::from(report.is_some()), Relaxed),
                        Err(Error::Conflict(_)) => 0,
                        Err(error) => panic!("{error}"),
                    };
                }
            });
        }
    });
    assert!(taken.load(Relaxed) > 0);
    assert_equal(&a, &b);
    shared.check(&a.index);
    assert!(shared.snapshots(&a.index).iter().all(|(_, is_whole)| *is_whole));
    assert_equal(&a, &a.join());
}

#[test]
fn document_is_the_documented_json() {
    let settings = Settings {
        name: "n".into(),
        dimension: 1,
        index_type: "Flat".into(),
        factory: "Flat".into(),
        metric: 0,
        created_at_us: 0,
        options: "{}".into(),
        created_by: None,
    };
    let manifest = Manifest::empty(IndexId::nil(), settings, Some(Place::START));
    let document = encode(&manifest, Vec::new());
    let text = format!("{{\"version\":1,\"manifest\":\"{}\",\"files\":[]}}", STANDARD.encode(manifest.encode()));
    assert_eq!(String::from_utf8(document.clone()).unwrap(), text);
    assert_eq!(decode(&document).unwrap(), (manifest.clone(), Vec::new()));
    let name = document_name(7, &document);
    assert_eq!((&name[..21], lsn_of(&name)), ("00000000000000000007-", Some(7)));
    for name in [
        "",
        "files",
        "00000000000000000007",
        "00000000000000000007-0123456",
        "00000000000000000007-0123456G",
        "+0000000000000000007-01234567",
    ] {
        assert_eq!(lsn_of(name), None, "{name}");
    }

    assert!(decode(b"{\"version\":2}").unwrap_err().contains("newer version"));
    let alone = Manifest { shared: None, ..manifest.clone() };
    assert!(decode(&encode(&alone, Vec::new())).unwrap_err().contains("shared log"));
    let file = Object { name: "segments/x".into(), bytes: 1, crc32: 2, sha256: Digest::of(b"x") };
    assert!(decode(&encode(&manifest, vec![file])).unwrap_err().contains("does not name"));
}
