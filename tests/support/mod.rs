//! A store beside a record of what it was told and what it answered: what the promises about durability are checked against.
#![allow(dead_code, reason = "every test file is a crate of its own, and none uses all of this")]

pub mod child;
pub mod detour;
pub mod script;
pub mod together;
mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use faiss_proxy::config::Limits;
use faiss_proxy::io::Io;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::{
    CheckpointReport, Durability, Error, Index, IndexSpec, IndexState, Lsn, Metric, Opening, Point, Query, Result, Store,
    StoreOptions, TenantId, Upserted,
};
use twox_hash::XxHash3_128;

/// SplitMix64, so that a seed in a failure message brings the failure back on every machine.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `count - 1`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}

/// A number from the environment, for the long forms of a test.
pub fn env_or(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

pub fn tenant() -> TenantId {
    TenantId::new("tenant-1").unwrap()
}

pub fn spec(dimension: usize, metric: Metric) -> IndexSpec {
    IndexSpec { name: "test".to_owned(), dimension, index_type: "Flat".to_owned(), metric: Some(metric), ..IndexSpec::default() }
}

/// Everything is as small as it goes, so that a handful of writes rotates the log and spans frames.
pub fn tiny_limits() -> Limits {
    Limits { log_segment_bytes: 2048, frame_bytes_max: 512, ..Limits::default() }
}

/// Opens a store that does only what it is told.
pub fn open_store(io: impl Io + 'static, data_dir: impl Into<PathBuf>, limits: &Limits) -> Result<Store> {
    open_store_as(Opening::Eager, io, data_dir, limits)
}

/// The same, of which each index is recovered at once, or at its first use.
pub fn open_store_as(opening: Opening, io: impl Io + 'static, data_dir: impl Into<PathBuf>, limits: &Limits) -> Result<Store> {
    let options =
        StoreOptions { data_dir: data_dir.into(), limits: limits.clone(), io: Arc::new(io), background: false, opening };
    Store::open(options)
}

/// A point to store: id, values, metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct NewPoint {
    pub id: String,
    pub values: Vec<f32>,
    pub metadata: String,
}

/// The point of an id in a version: what it holds tells both, so that a wrong one is recognised.
pub fn point(id: &str, version: u64) -> NewPoint {
    let mut chance = Chance::new(version.wrapping_mul(31).wrapping_add(id.bytes().map(u64::from).sum()));
    let values = (0..4).map(|_| 1.0 + chance.below(1000) as f32).collect();
    NewPoint { id: id.to_owned(), values, metadata: format!("{{\"id\":\"{id}\",\"version\":{version}}}") }
}

/// What an index holds for an id. Floats by their bits: `-0.0` is not `0.0` here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub bits: Vec<u32>,
    pub metadata: String,
    pub lsn: Lsn,
}

impl From<Point> for Row {
    fn from(point: Point) -> Self {
        Self { bits: point.values.iter().map(|value| value.to_bits()).collect(), metadata: point.metadata, lsn: point.lsn }
    }
}

pub type State = BTreeMap<String, Row>;

/// The state digest, by the formula of `docs/offline.md`.
pub fn digest_of(state: &State) -> String {
    let hash = |id: &str, row: &Row| {
        let values: Vec<u8> = row.bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let parts = [id.as_bytes(), row.metadata.as_bytes(), &values].map(|part| XxHash3_128::oneshot(part).to_le_bytes());
        XxHash3_128::oneshot(&parts.concat())
    };
    format!("{:032x}", state.iter().fold(0_u128, |sum, (id, row)| sum.wrapping_add(hash(id, row))))
}

/// Everything that an index holds, read back point by point.
pub fn dump(index: &Index) -> State {
    let info = index.info();
    let k = usize::try_from(info.vector_count).unwrap().max(1);
    let mut vector = vec![0.0; index.dimension()];
    vector[0] = 1.0;
    let hits = index.search(&Query { vector, k, exact: true, ..Query::default() }).unwrap();
    let state: State = hits
        .iter()
        .map(|hit| {
            let point = index.get(&hit.id).unwrap().unwrap_or_else(|| panic!("a search finds {:?}, and get does not", hit.id));
            assert_eq!(point.metadata, hit.metadata, "of {:?}", hit.id);
            (point.id.clone(), Row::from(point))
        })
        .collect();
    assert_eq!(state.len(), hits.len(), "an id came twice");
    assert_eq!(state.len() as u64, info.vector_count, "live points are not as many as the index says");
    state
}

/// Every state that an index was in, or was asked to go to, by LSN.
#[derive(Clone, Debug)]
pub struct History {
    states: Vec<State>,
    /// Mutations up to this one must survive a power cut.
    durable: Lsn,
    /// Mutations up to this one must survive a kill. What is above was in flight: it may be there, whole.
    acked: Lsn,
    /// What writes with a key were answered, or would have been.
    answers: BTreeMap<String, Upserted>,
}

impl Default for History {
    fn default() -> Self {
        Self { states: vec![State::new()], durable: 0, acked: 0, answers: BTreeMap::new() }
    }
}

impl History {
    pub fn last(&self) -> &State {
        self.states.last().unwrap()
    }

    /// What is served: the last but for what a process that died, or met a failing disk, did not come to tell of.
    fn acked_state(&self) -> &State {
        self.state(self.acked)
    }

    pub fn state(&self, lsn: Lsn) -> &State {
        &self.states[lsn as usize]
    }

    pub fn durable(&self) -> Lsn {
        self.durable
    }

    pub fn acked(&self) -> Lsn {
        self.acked
    }

    pub fn attempted(&self) -> Lsn {
        self.states.len() as Lsn - 1
    }

    /// The power was cut: what was acknowledged and not durable may be gone.
    pub fn cut_power(&mut self) {
        self.acked = self.durable;
    }

    /// The index must be in one of the states from `least` on; gives its LSN.
    pub fn check(&self, index: &Index, least: Lsn) -> Result<Lsn, String> {
        let info = index.info();
        if info.lsn < least || info.lsn > self.attempted() {
            return Err(format!("LSN {} is not from {least} to {}", info.lsn, self.attempted()));
        }
        let (found, expected) = (dump(index), &self.states[info.lsn as usize]);
        if found != *expected {
            return Err(format!("at LSN {}: found {found:#?}, expected {expected:#?}", info.lsn));
        }
        let known: BTreeSet<&String> = self.states.iter().flat_map(BTreeMap::keys).collect();
        for id in known.into_iter().filter(|id| !expected.contains_key(*id)) {
            if index.get(id).unwrap().is_some() {
                return Err(format!("{id:?} is not alive at LSN {}, and get finds it", info.lsn));
            }
        }
        Ok(info.lsn)
    }

    /// What was found after opening is what there is, and it has been served: from now on it must stay.
    pub fn adopt(&mut self, lsn: Lsn) {
        self.truncate(lsn);
        (self.durable, self.acked) = (lsn, lsn);
    }

    fn truncate(&mut self, lsn: Lsn) {
        self.states.truncate(lsn as usize + 1);
        self.answers.retain(|_, answer| answer.lsn <= lsn);
    }
}

/// What a disk went through before a store is opened on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Kill,
    PowerCut,
}

/// One store with one index on a simulated disk, and what it was told.
#[derive(Debug)]
pub struct Session {
    pub disk: SimIo,
    pub store: Store,
    pub index: Arc<Index>,
    pub history: History,
    /// A sync failed: no write may succeed any more.
    is_poisoned: bool,
}

impl Session {
    /// A new store with an empty index.
    pub fn create(disk: &SimIo, limits: &Limits, dimension: usize, metric: Metric) -> Self {
        Self::create_as(disk, limits, &spec(dimension, metric))
    }

    pub fn create_as(disk: &SimIo, limits: &Limits, spec: &IndexSpec) -> Self {
        let store = open_store(disk.clone(), "/data", limits).unwrap();
        let index = store.create_index(&tenant(), spec).unwrap();
        Self { disk: disk.clone(), store, index, history: History::default(), is_poisoned: false }
    }

    /// Opens what is on the disk and checks that it is what `history` allows. What is found is served, and so must stay.
    ///
    /// # Errors
    /// The store's, or the index's refusal.
    ///
    /// # Panics
    /// Where something else is found than what may be.
    pub fn open(disk: &SimIo, limits: &Limits, history: History, before: Before) -> Result<Self> {
        Self::open_as(Opening::Eager, disk, limits, history, before)
    }

    /// The same, where the index is recovered at once, or at its first use.
    pub fn open_as(opening: Opening, disk: &SimIo, limits: &Limits, history: History, before: Before) -> Result<Self> {
        Self::open_through(disk.clone(), opening, disk, limits, history, before)
    }

    /// The same by way of `io`, which has `disk` behind it.
    pub fn open_through(
        io: impl Io + 'static,
        opening: Opening,
        disk: &SimIo,
        limits: &Limits,
        mut history: History,
        before: Before,
    ) -> Result<Self> {
        let store = open_store_as(opening, io, "/data", limits)?;
        let listed = store.list(&tenant())?;
        if let Some((_, error)) = store.refused(&tenant()).into_iter().next() {
            return Err(error);
        }
        let id = listed.first().expect("the index is there").id;
        // Where it could not be opened for now, it is asked for again, as a client does.
        let index = store.index(&tenant(), id).or_else(|_| store.index(&tenant(), id))?;
        if before == Before::PowerCut {
            history.cut_power();
        }
        let lsn = history.check(&index, history.acked).unwrap_or_else(|problem| panic!("after {before:?}: {problem}"));
        history.adopt(lsn);
        Ok(Self { disk: disk.clone(), store, index, history, is_poisoned: false })
    }

    pub fn upsert(&mut self, points: &[NewPoint], durability: Durability) -> Result<()> {
        let mut batch = self.index.batch();
        let lsn = self.history.attempted() + 1;
        let mut next = self.history.last().clone();
        let mut last_position = BTreeMap::new();
        for (position, NewPoint { id, values, metadata }) in points.iter().enumerate() {
            batch.push(id, values, metadata).unwrap();
            let bits = values.iter().map(|value| value.to_bits()).collect();
            next.insert(id.clone(), Row { bits, metadata: metadata.clone(), lsn });
            last_position.insert(id.clone(), position);
        }
        self.history.states.push(next);
        let result = self.index.upsert(batch, durability);
        if let Ok(upserted) = &result {
            assert_eq!(upserted.added_count, last_position.len());
            let mut superseded = upserted.superseded.clone();
            superseded.sort_unstable();
            let expected: Vec<usize> = (0..points.len()).filter(|&at| last_position[&points[at].id] != at).collect();
            assert_eq!(superseded, expected);
        }
        self.settle(result.map(|upserted| upserted.lsn), durability)
    }

    /// Stores these ids in this version, durably.
    pub fn put(&mut self, ids: &[&str], version: u64) -> Result<()> {
        let points: Vec<NewPoint> = ids.iter().map(|id| point(id, version)).collect();
        self.upsert(&points, Durability::Fsync)
    }

    pub fn delete(&mut self, ids: &[&str], durability: Durability) -> Result<()> {
        let mut next = self.history.last().clone();
        let count = ids.iter().filter(|&&id| next.remove(id).is_some()).count();
        if count > 0 {
            self.history.states.push(next);
        }
        let result = self.index.delete(ids, durability);
        if let Ok(deleted) = &result {
            assert_eq!(deleted.deleted_count, count);
        }
        if let (0, Err(error)) = (count, &result) {
            // Nothing was to be stored: there is nothing to take back.
            self.note_failure(error);
            return Err(error.clone());
        }
        self.settle(result.map(|deleted| deleted.lsn), durability)
    }

    pub fn checkpoint(&mut self) -> Result<CheckpointReport> {
        let report = self.index.checkpoint();
        if let Ok(report) = &report {
            assert_eq!(report.lsn, self.history.acked);
        }
        self.note_sync(report)
    }

    /// Compacts, rewriting everything, or what is due.
    pub fn compact(&mut self) -> Result<()> {
        let compacted = self.index.compact().map(|report| assert_eq!(report.lsn, self.history.acked));
        self.note_sync(compacted)
    }

    pub fn train(&mut self) -> Result<()> {
        match self.index.train() {
            // Too few rows.
            Err(Error::Conflict(_)) => Ok(()),
            trained => trained.inspect_err(|error| self.note_failure(error)),
        }
    }

    pub fn settle_builds(&mut self) -> Result<()> {
        let settled = self.index.settle();
        // Nothing is synced of the log.
        settled.inspect_err(|error| self.note_failure(error))
    }

    pub fn erase(&mut self) -> Result<()> {
        let erased = self.index.erase().map(|report| assert_eq!(report.lsn, self.history.acked));
        self.note_sync(erased)
    }

    pub fn sync(&mut self) -> Result<()> {
        let synced = self.index.sync();
        self.note_sync(synced)
    }

    /// Closes the index as a memory budget does, and opens it again: others are opened while nobody has it. For a budget that one index
    /// alone is over. Whether it was closed: not where a fault struck.
    ///
    /// # Errors
    /// Where it cannot be opened again. The session is of no use then.
    pub fn close_and_open_again(&mut self) -> Result<bool> {
        let other = TenantId::new("other").unwrap();
        let id = self.index.id();
        // A fault that was planned may strike these: then nothing is closed.
        let Ok(first) = self.store.create_index(&other, &spec(1, Metric::L2)) else { return Ok(false) };
        self.index = first;
        drop(self.store.create_index(&other, &spec(1, Metric::L2)));
        let is_closed = self.store.opened(Some(&tenant())).is_empty();
        if is_closed {
            assert!(!self.is_poisoned, "an index whose sync failed was closed");
            self.history.durable = self.history.acked;
        }
        self.index = self.store.index(&tenant(), id).or_else(|_| self.store.index(&tenant(), id))?;
        // A sync may have failed while it was to be closed.
        self.is_poisoned |= matches!(self.index.info().state, IndexState::ReadOnly { .. });
        let acked = self.history.acked;
        assert_eq!(self.history.check(&self.index, acked), Ok(acked), "closed and opened again");
        Ok(is_closed)
    }

    /// Closes the store: the index takes no more writes.
    pub fn close(&mut self) -> Result<()> {
        let closed = self.store.close();
        self.note_sync(closed)
    }

    fn note_sync<T>(&mut self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.history.durable = self.history.acked,
            Err(error) => self.note_failure(error),
        }
        result
    }

    /// Learns from a write's answer what must be found later.
    fn settle(&mut self, result: Result<Lsn>, durability: Durability) -> Result<()> {
        match result {
            Ok(lsn) => {
                assert!(!self.is_poisoned, "a write is acknowledged after a sync failed");
                assert_eq!(lsn, self.history.attempted());
                self.history.acked = lsn;
                if durability == Durability::Fsync {
                    self.history.durable = lsn;
                }
                self.history
                    .check(&self.index, lsn)
                    .unwrap_or_else(|problem| panic!("an acknowledged write is not seen: {problem}"));
                Ok(())
            }
            Err(error) => {
                // "Nothing was stored", said by a process that lives, means it.
                if !matches!(error, Error::OutcomeUnknown(_)) && !self.disk.is_crashed() {
                    self.history.truncate(self.history.attempted() - 1);
                }
                self.note_failure(&error);
                Err(error)
            }
        }
    }

    fn note_failure(&mut self, error: &Error) {
        match error {
            Error::OutcomeUnknown(_) => self.is_poisoned = true,
            Error::Closed(_) => assert!(self.is_poisoned, "closed without a reason: {error}"),
            Error::Io(_) | Error::Full(_) => {}
            other => panic!("a failing disk is no reason for {other:?}"),
        }
        // Reads go on.
        if !self.disk.is_crashed() {
            self.history.check(&self.index, self.history.acked).unwrap_or_else(|problem| panic!("after {error}: {problem}"));
        }
    }
}

/// Tells threads to stop, also where the one that has this panics: else a failed test would never end.
#[derive(Debug)]
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Every file below a directory, sorted.
pub fn files_below(io: &dyn Io, directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in io.list(directory).unwrap() {
        let path = directory.join(&entry.name);
        if entry.is_dir {
            files.extend(files_below(io, &path));
        } else {
            files.push(path);
        }
    }
    files
}
