//! The change feed gives every mutation in order, whole and unharmed, as long as the log has it, and says where it begins when it does not.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use faiss_proxy::config::Limits;
use faiss_proxy::io::Io as _;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::{
    Change, ChangePage, ChangesQuery, Durability, Error, Filter, IdempotencyKey, Index, IndexOptions, IndexSpec, Listener, Lsn,
    Metric, Point, Result, Store, What, WriteOptions,
};
use support::{Chance, env_or, files_below, open_store, point, spec, tenant, tiny_limits};

/// More than any of these tests writes.
const ALL_LOG: u64 = 1 << 30;

fn spec_keeping(log_retention_bytes: u64) -> IndexSpec {
    let options = IndexOptions { log_retention_bytes: Some(log_retention_bytes), ..IndexOptions::default() };
    IndexSpec { options, ..spec(4, Metric::L2) }
}

fn create(disk: &SimIo, limits: &Limits, log_retention_bytes: u64) -> (Store, Arc<Index>) {
    let store = open_store(disk.clone(), "/data", limits).unwrap();
    let index = store.create_index(&tenant(), &spec_keeping(log_retention_bytes)).unwrap();
    (store, index)
}

fn open(disk: &SimIo, limits: &Limits) -> (Store, Arc<Index>) {
    let store = open_store(disk.clone(), "/data", limits).unwrap();
    let index = store.indices(&tenant()).into_iter().next().unwrap();
    (store, index)
}

fn query(from_lsn: Lsn, limit: usize) -> ChangesQuery {
    ChangesQuery { from_lsn, limit, filter: None, include_values: true }
}

fn put(index: &Index, id: &str, version: u64) -> Lsn {
    let point = point(id, version);
    let mut batch = index.batch();
    batch.push(id, &point.values, &point.metadata).unwrap();
    index.upsert(batch, Durability::Fsync).unwrap().lsn
}

/// All changes from an LSN on, page by page.
fn all_changes(index: &Index, mut from_lsn: Lsn, limit: usize) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    loop {
        let ChangePage { changes: page, next_lsn, durable_lsn, .. } = index.changes(&query(from_lsn, limit))?;
        assert!(page.iter().all(|change| (from_lsn..next_lsn).contains(&change.lsn())));
        let before_last = page.iter().filter(|change| change.lsn() + 1 < next_lsn).count();
        assert!(before_last < limit, "a page of {limit} goes on after {before_last} changes");
        changes.extend(page);
        if next_lsn > durable_lsn {
            return Ok(changes);
        }
        assert!(next_lsn > from_lsn, "a page without a mutation, at LSN {from_lsn} of {durable_lsn}");
        from_lsn = next_lsn;
    }
}

fn files(disk: &SimIo, extension: &str) -> Vec<PathBuf> {
    let all = files_below(disk, Path::new("/data"));
    all.into_iter().filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// An index, and what each of its mutations must be in the feed.
struct Model {
    disk: SimIo,
    store: Store,
    index: Arc<Index>,
    /// Of each mutation.
    mutations: Vec<Vec<Change>>,
    live: BTreeSet<String>,
    /// Up to here a power cut leaves everything.
    durable_lsn: Lsn,
    /// Up to here the feed was read.
    seen_lsn: Lsn,
    erased_lsn: Lsn,
    chance: Chance,
}

impl Model {
    fn next_lsn(&self) -> Lsn {
        self.mutations.len() as Lsn + 1
    }

    fn durability(&mut self) -> Durability {
        if self.chance.below(3) == 0 { Durability::Interval } else { Durability::Fsync }
    }

    fn wrote(&mut self, changes: Vec<Change>, lsn: Lsn, durability: Durability) {
        assert_eq!(lsn, self.next_lsn());
        self.mutations.push(changes);
        if durability == Durability::Fsync {
            self.durable_lsn = lsn;
        }
    }

    /// Few ids, so that some come twice in a batch; many points, so that it spans frames.
    fn upsert(&mut self) {
        let count = if self.chance.below(8) == 0 { 40 } else { 1 + self.chance.below(4) };
        let (mut batch, lsn, durability) = (self.index.batch(), self.next_lsn(), self.durability());
        let mut changes: Vec<Change> = Vec::new();
        for version in 0..count {
            let id = format!("id-{}", self.chance.below(12));
            let new = point(&id, lsn * 100 + version as u64);
            batch.push(&id, &new.values, &new.metadata).unwrap();
            changes.retain(|change| !matches!(change, Change::Upsert(point) if point.id == id));
            changes.push(Change::Upsert(Point { id: id.clone(), values: new.values, metadata: new.metadata, lsn }));
            self.live.insert(id);
        }
        let stored = self.index.upsert(batch, durability).unwrap();
        self.wrote(changes, stored.lsn, durability);
    }

    fn delete(&mut self) {
        let (lsn, durability) = (self.next_lsn(), self.durability());
        let ids: Vec<String> = (0..3).map(|_| format!("id-{}", self.chance.below(12))).collect();
        let found: Vec<Change> =
            ids.iter().filter(|&id| self.live.remove(id)).map(|id| Change::Delete { lsn, id: id.clone() }).collect();
        let deleted = self.index.delete(&ids.iter().map(String::as_str).collect::<Vec<_>>(), durability).unwrap();
        if !found.is_empty() {
            self.wrote(found, deleted.lsn, durability);
        }
    }

    fn reopen(&mut self, disk: SimIo, limits: &Limits) {
        (self.store, self.index) = open(&disk, limits);
        self.disk = disk;
        let lsn = self.index.info().lsn;
        assert!(lsn >= self.durable_lsn && lsn >= self.seen_lsn, "the feed was ahead: {lsn} is left of {}", self.seen_lsn);
        self.mutations.truncate(lsn as usize);
        self.durable_lsn = lsn;
        self.live = BTreeSet::new();
        for change in self.mutations.iter().flatten() {
            match change {
                Change::Upsert(point) => drop(self.live.insert(point.id.clone())),
                Change::Delete { id, .. } => drop(self.live.remove(id)),
            }
        }
    }

    fn step(&mut self, limits: &Limits) {
        match self.chance.below(20) {
            0..9 => self.upsert(),
            9..13 => self.delete(),
            13 | 14 => {
                self.index.checkpoint().unwrap();
                self.durable_lsn = self.next_lsn() - 1;
            }
            15 => {
                self.index.sync().unwrap();
                self.durable_lsn = self.next_lsn() - 1;
            }
            16 => self.reopen(self.disk.fork(), limits),
            17 => {
                let survival = match self.chance.below(3) {
                    0 => Survival::None,
                    1 => Survival::Random(self.chance.next()),
                    _ => Survival::Torn(self.chance.next()),
                };
                self.reopen(self.disk.crash(survival), limits);
            }
            18 => {
                self.index.compact().unwrap();
                self.durable_lsn = self.next_lsn() - 1;
            }
            _ if self.chance.below(3) == 0 => {
                self.erased_lsn = self.index.erase().unwrap().lsn;
                self.durable_lsn = self.next_lsn() - 1;
            }
            _ => {}
        }
    }

    /// The feed, from somewhere, in pages of some size. Gives its oldest LSN.
    fn check(&mut self) -> Lsn {
        let newest_lsn = self.next_lsn() - 1;
        let limit = 1 + self.chance.below(30);
        let page = self.index.changes(&query(newest_lsn + 1, limit)).unwrap();
        assert!(page.changes.is_empty() && page.next_lsn == newest_lsn + 1, "nothing is beyond the newest");
        let (oldest_lsn, durable_lsn) = (page.oldest_lsn, page.durable_lsn);
        assert!(self.durable_lsn <= durable_lsn && durable_lsn <= newest_lsn, "{durable_lsn} of {newest_lsn}");
        let beyond = self.index.changes(&query(newest_lsn + 2, limit)).unwrap_err();
        assert!(matches!(&beyond, Error::Invalid { field, code: "lsn_ahead", .. } if field == "from_lsn"), "{beyond}");
        if oldest_lsn > 1 {
            let gone = self.index.changes(&query(self.chance.below(oldest_lsn as usize) as Lsn, limit)).unwrap_err();
            assert!(matches!(gone, Error::Gone { oldest_lsn: oldest } if oldest == oldest_lsn), "{gone}");
        }
        let from_lsn = oldest_lsn + self.chance.below((newest_lsn + 2 - oldest_lsn) as usize) as Lsn;
        let found = all_changes(&self.index, from_lsn, limit).unwrap();
        let expected = self.mutations.iter().flatten().filter(|change| (from_lsn..=durable_lsn).contains(&change.lsn()));
        assert_eq!(found, expected.cloned().collect::<Vec<_>>(), "from {from_lsn} to {durable_lsn}");
        self.seen_lsn = self.seen_lsn.max(durable_lsn);
        oldest_lsn
    }
}

/// Every mutation, through rotations, checkpoints, compactions, erasures, reopening and power cuts; and nothing that a power cut takes back.
#[test]
fn feed_is_the_list_of_mutations_from_the_oldest_that_is_kept_to_the_newest_that_is_durable() {
    let limits = tiny_limits();
    let seeds = env_or("FAISS_PROXY_CHANGES_SEEDS", 60);
    let mut checked = 0;
    for seed in 0..seeds {
        let mut chance = Chance::new(seed);
        let retention = [0, 6_000, ALL_LOG][chance.below(3)];
        let disk = SimIo::new();
        let (store, index) = create(&disk, &limits, retention);
        let (mutations, live) = (Vec::new(), BTreeSet::new());
        let mut model = Model { disk, store, index, mutations, live, durable_lsn: 0, seen_lsn: 0, erased_lsn: 0, chance };
        for step in 0..120 {
            model.step(&limits);
            let oldest_lsn = model.check();
            checked += 1;
            assert!(oldest_lsn > model.erased_lsn, "seed {seed}, step {step}: an erasure leaves LSN {oldest_lsn}");
            if retention == ALL_LOG {
                assert_eq!(oldest_lsn, model.erased_lsn + 1, "seed {seed}, step {step}: log that is to be kept is gone");
            }
        }
        println!("seed {seed}: {} mutations, {retention} bytes kept, erased up to {}", model.mutations.len(), model.erased_lsn);
    }
    println!("{checked} feeds checked");
}

#[test]
fn checkpoints_keep_as_much_log_as_was_asked_for_and_not_much_more() {
    const KEPT_BYTES: u64 = 256 << 10;
    // What ten mutations fill, for the older manifest names what the newer one has let go; and the last file is kept whole.
    const MORE_BYTES: u64 = 32 << 10;
    let limits = tiny_limits();
    let disk = SimIo::new();
    let (store, index) = create(&disk, &limits, KEPT_BYTES);
    let log_bytes = |disk: &SimIo| -> u64 {
        files(disk, "wal").iter().map(|path| disk.open(path).and_then(|file| file.len()).unwrap()).sum()
    };
    for round in 0..60 {
        for version in 0..10 {
            put(&index, "a", round * 100 + version);
        }
        index.checkpoint().unwrap();
        let bytes = log_bytes(&disk);
        assert!(bytes <= KEPT_BYTES + MORE_BYTES, "{bytes} bytes of log");
        assert!(index.info().bytes + MORE_BYTES >= bytes, "they are among the bytes of the index");
    }
    let page = index.changes(&query(600, 1)).unwrap();
    println!("{} bytes of log hold LSN {} to 600", log_bytes(&disk), page.oldest_lsn);
    assert!(page.oldest_lsn > 1 && page.oldest_lsn < 590, "{}", page.oldest_lsn);
    assert!(log_bytes(&disk) >= KEPT_BYTES);
    // Recovery does not replay what is kept for the feed.
    drop((index, store));
    let (_store, index) = open(&disk, &limits);
    assert_eq!(index.checkpoint().unwrap().bytes_written, 0, "nothing was replayed");
    assert_eq!(index.changes(&query(600, 1)).unwrap().oldest_lsn, page.oldest_lsn);
}

#[test]
fn a_filter_chooses_among_upserts_and_leaves_deletes_and_a_page_of_nothing_still_goes_on() {
    let disk = SimIo::new();
    let (_store, index) = create(&disk, &Limits::default(), 0);
    for version in 1..=5 {
        put(&index, "a", version);
    }
    index.delete(&["a"], Durability::Fsync).unwrap();
    let filter = |json: &str| Some(Filter::parse(json).unwrap());
    let query = ChangesQuery { filter: filter(r#"{"version": {"$in": [2, 4]}}"#), include_values: false, ..query(2, 2) };
    let lsns = |page: &ChangePage| page.changes.iter().map(Change::lsn).collect::<Vec<_>>();
    let page = index.changes(&query).unwrap();
    assert_eq!((lsns(&page), page.next_lsn), (vec![2, 4], 5));
    assert!(matches!(&page.changes[0], Change::Upsert(point) if point.values.is_empty() && point.metadata.contains("2")));
    let rest = index.changes(&ChangesQuery { from_lsn: 5, ..query.clone() }).unwrap();
    assert_eq!(rest.changes, [Change::Delete { lsn: 6, id: "a".to_owned() }]);
    let none = index.changes(&ChangesQuery { filter: filter(r#"{"absent": 1}"#), limit: 1, ..query.clone() }).unwrap();
    assert_eq!((lsns(&none), none.next_lsn), (vec![6], 7));
    for limit in [0, 10_001] {
        let error = index.changes(&ChangesQuery { limit, ..query.clone() }).unwrap_err();
        assert!(matches!(&error, Error::Invalid { field, .. } if field == "limit"), "{error}");
    }
}

/// A retry is no mutation, and a request that changed nothing has an LSN only to be remembered by.
#[test]
fn writes_with_a_key_are_in_the_feed_as_what_they_did() {
    let disk = SimIo::new();
    let (_store, index) = create(&disk, &Limits::default(), 0);
    let options = |key: &str| {
        let key = IdempotencyKey::new(key, &[key.as_bytes()]).unwrap();
        WriteOptions { key: Some(key), ..WriteOptions::default() }
    };
    for _ in 0..2 {
        let mut batch = index.batch();
        batch.push("a", &[1.0; 4], "{}").unwrap();
        assert_eq!(index.upsert(batch, options("first")).unwrap().lsn, 1);
    }
    assert_eq!(index.delete(&["absent"], options("nothing")).unwrap().deleted_count, 0);
    index.delete(&["a"], options("last")).unwrap();
    let page = index.changes(&query(1, 10)).unwrap();
    let stored = Point { id: "a".to_owned(), values: vec![1.0; 4], metadata: "{}".to_owned(), lsn: 1 };
    let last_lsn = index.info().lsn;
    assert_eq!(page.changes, [Change::Upsert(stored), Change::Delete { lsn: last_lsn, id: "a".to_owned() }]);
    assert_eq!(page.next_lsn, last_lsn + 1);
}

/// Log that only the feed has a use for is not looked at by recovery: damage in it must be found by who reads it.
#[test]
fn a_damaged_frame_is_named_by_file_and_offset_and_never_skipped() {
    let disk = SimIo::new();
    let limits = tiny_limits();
    let (store, index) = create(&disk, &limits, ALL_LOG);
    for version in 1..=12 {
        put(&index, "a", version);
        if version % 4 == 0 {
            index.checkpoint().unwrap();
        }
    }
    drop((index, store));
    let wal = files(&disk, "wal");
    assert!(wal.len() > 2, "{wal:?}");
    let path = &wal[0];
    // Each part of the first frame but its padding, of which there is no checksum.
    for at in [512, 512 + 8, 512 + 24, 512 + 56, 512 + 63, 512 + 64 + 3] {
        let damaged = disk.fork();
        let file = damaged.open(path).unwrap();
        let mut byte = [0];
        file.read_at(at, &mut byte).unwrap();
        file.write_at(at, &[std::io::IoSlice::new(&[byte[0] ^ 4])]).unwrap();
        let (_store, index) = open(&damaged, &limits);
        let error = index.changes(&query(1, 10)).unwrap_err();
        assert!(matches!(&error, Error::Corrupt(damage) if damage.path == *path && damage.offset == 512), "byte {at}: {error}");
        assert_eq!(index.get("a").unwrap().unwrap().lsn, 12);
        assert_eq!(index.changes(&query(12, 10)).unwrap().changes.len(), 1, "what is not damaged is still there");
        put(&index, "b", 1);
    }
    // A whole segment that is gone is damage too, and no 410.
    let damaged = disk.fork();
    damaged.remove_file(path).unwrap();
    let (_store, index) = open(&damaged, &limits);
    let error = index.changes(&query(1, 10)).unwrap_err();
    assert!(matches!(&error, Error::Corrupt(damage) if damage.path == *path), "{error}");
}

#[test]
fn log_that_is_kept_for_the_feed_goes_before_a_write_is_refused_on_a_full_disk() {
    for reserve_bytes in [0, 2 << 20] {
        let disk = SimIo::new();
        let limits = Limits { reserve_bytes, ..tiny_limits() };
        let (store, index) = create(&disk, &limits, ALL_LOG);
        for version in 1..=60 {
            put(&index, "a", version);
            if version % 10 == 0 {
                index.checkpoint().unwrap();
            }
        }
        assert_eq!(index.changes(&query(1, 1)).unwrap().oldest_lsn, 1);
        // Room for a manifest, and for no log segment; with a reserve, not even for that.
        let room = if reserve_bytes == 0 { 16 << 10 } else { 0 };
        disk.set_capacity(Some(disk.used_bytes() + room));
        for version in 61..=90 {
            put(&index, "a", version);
        }
        let Err(Error::Gone { oldest_lsn }) = index.changes(&query(1, 1)) else { panic!("there was room for it all") };
        println!("{reserve_bytes} bytes of reserve: the log begins at {oldest_lsn} of 90");
        assert!(oldest_lsn > 50);
        assert_eq!(all_changes(&index, oldest_lsn, 7).unwrap().len() as Lsn, 91 - oldest_lsn);
        drop((index, store));
        let (_store, index) = open(&disk.crash(Survival::None), &limits);
        assert_eq!(index.get("a").unwrap().unwrap().lsn, 90);
        assert_eq!(all_changes(&index, oldest_lsn, 7).unwrap().len() as Lsn, 91 - oldest_lsn);
    }
}

/// Wakes a thread, as a runtime wakes a task.
struct Thread(thread::Thread);

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Sleeps until the mutation of this LSN is durable.
fn wait(listener: &Listener, lsn: Lsn) -> Result<()> {
    let waker = Waker::from(Arc::new(Thread(thread::current())));
    loop {
        match listener.poll_durable(lsn, &mut Context::from_waker(&waker)) {
            Poll::Ready(ready) => return ready,
            Poll::Pending => {
                let until = std::time::Instant::now() + Duration::from_secs(60);
                thread::park_timeout(Duration::from_secs(60));
                assert!(std::time::Instant::now() < until, "nobody woke who waits for LSN {lsn}");
            }
        }
    }
}

/// The id and the version that the mutation of an LSN stores.
fn mutation(lsn: Lsn) -> (String, u64) {
    (format!("id-{}", lsn % 7), lsn)
}

#[test]
fn readers_beside_a_writer_and_checkpoints_that_remove_log_miss_nothing_but_what_they_are_told_is_gone() {
    const MUTATIONS: Lsn = 1_000;
    let disk = SimIo::new();
    // Less is kept than a slow reader would need.
    let (_store, index) = create(&disk, &tiny_limits(), 16 << 10);
    thread::scope(|scope| {
        // The writer is at most two checkpoints ahead, so that there are many.
        let (due, are_due) = sync_channel(2);
        let index = &index;
        let checkpoints = scope.spawn(move || {
            for () in are_due {
                index.checkpoint().unwrap();
            }
        });
        let readers: Vec<_> = [(1, true), (64, true), (3, false)]
            .into_iter()
            .map(|(limit, follows)| {
                scope.spawn(move || {
                    let listener = index.listen().unwrap();
                    let (mut next_lsn, mut read, mut gone) = (1, 0, 0);
                    while next_lsn <= MUTATIONS {
                        match index.changes(&query(next_lsn, limit)) {
                            Ok(page) => {
                                for (lsn, change) in (next_lsn..).zip(&page.changes) {
                                    let (id, version) = mutation(lsn);
                                    let new = point(&id, version);
                                    let expected = Point { id, values: new.values, metadata: new.metadata, lsn };
                                    assert_eq!(*change, Change::Upsert(expected));
                                }
                                assert_eq!(next_lsn + page.changes.len() as Lsn, page.next_lsn);
                                read += page.changes.len();
                                next_lsn = page.next_lsn;
                            }
                            Err(Error::Gone { oldest_lsn }) => {
                                assert!(oldest_lsn > next_lsn);
                                gone += oldest_lsn - next_lsn;
                                next_lsn = oldest_lsn;
                            }
                            Err(error) => panic!("from {next_lsn}: {error}"),
                        }
                        if follows {
                            wait(&listener, next_lsn.min(MUTATIONS)).unwrap();
                        } else {
                            thread::yield_now();
                        }
                    }
                    assert_eq!(read as Lsn + gone, MUTATIONS);
                    (read, gone)
                })
            })
            .collect();
        let writer = scope.spawn(move || {
            for lsn in 1..=MUTATIONS {
                let (id, version) = mutation(lsn);
                assert_eq!(put(index, &id, version), lsn);
                if lsn.is_multiple_of(10) {
                    due.send(()).unwrap();
                }
            }
        });
        writer.join().unwrap();
        for reader in readers {
            let (read, gone) = reader.join().unwrap();
            println!("{read} mutations read, {gone} gone");
            assert!(read > 0);
        }
        checkpoints.join().unwrap();
        // Who removes a file is who publishes next, a checkpoint or the writer that rotates: what counts is that it is gone.
        let Err(Error::Gone { oldest_lsn }) = index.changes(&query(1, 1)) else {
            panic!("the log was kept from the beginning on")
        };
        assert!(oldest_lsn > MUTATIONS / 2, "the log goes back to LSN {oldest_lsn}");
    });
}

#[test]
fn who_waits_is_woken_by_what_becomes_durable_and_by_the_end() {
    let disk = SimIo::new();
    let (store, index) = create(&disk, &Limits::default(), 0);
    let listener = index.listen().unwrap();
    let is_ready = |lsn| listener.poll_durable(lsn, &mut Context::from_waker(Waker::noop())).is_ready();
    assert!(!is_ready(1));
    let mut batch = index.batch();
    batch.push("a", &[1.0; 4], "{}").unwrap();
    index.upsert(batch, Durability::Interval).unwrap();
    assert!(!is_ready(1), "it was written, and is not durable");
    thread::scope(|scope| {
        let waits = scope.spawn(|| wait(&listener, 1));
        index.sync().unwrap();
        waits.join().unwrap().unwrap();
        let waits = scope.spawn(|| wait(&listener, 2));
        store.delete_index(&tenant(), index.id()).unwrap();
        assert!(matches!(waits.join().unwrap(), Err(Error::NotFound(What::Index))));
    });
    assert!(matches!(index.listen(), Err(Error::NotFound(What::Index))));
    assert!(matches!(index.changes(&query(1, 1)), Err(Error::NotFound(What::Index))));
}
