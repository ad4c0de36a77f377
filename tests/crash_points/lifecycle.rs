//! The same for creating and deleting: an index is there, whole, or it is not there.

use std::collections::BTreeMap;
use std::sync::Arc;

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::{Durability, Error, Index, IndexId, Metric, Result, Store, TenantId};

use super::support::{Row, dump, files_below, open_store, point, spec};
use super::{FAULTS, ToldOnPanic, power_cuts, seeds};

/// What is known of an index.
#[derive(Clone, Debug, PartialEq)]
enum Existence {
    Certain,
    /// A delete of it was in flight.
    Possible,
    Gone,
}

/// All indices that anybody was told of.
#[derive(Clone, Debug, Default)]
struct Fleet {
    known: BTreeMap<(TenantId, IndexId), (Existence, usize)>,
    /// Creations that were in flight: as many empty indices may be there that nobody was told of.
    possible: usize,
}

fn tenants() -> [TenantId; 2] {
    ["old", "new"].map(|name| TenantId::new(name).unwrap())
}

/// Whether the caller must take it for possible that it happened.
fn is_open(disk: &SimIo, error: &Error) -> bool {
    match error {
        Error::OutcomeUnknown(_) => true,
        Error::Io(_) | Error::Full(_) | Error::Closed(_) => disk.is_crashed(),
        other => panic!("a failing disk is no reason for {other:?}"),
    }
}

impl Fleet {
    fn create(&mut self, disk: &SimIo, store: &Store, tenant: &TenantId) {
        match store.create_index(tenant, &spec(4, Metric::L2)) {
            Ok(index) => {
                self.known.insert((tenant.clone(), index.id()), (Existence::Certain, 0));
                // Whether or not this is stored, the index must open.
                if let Ok(points) = write(&index) {
                    self.known.insert((tenant.clone(), index.id()), (Existence::Certain, points));
                }
            }
            Err(error) => self.possible += usize::from(is_open(disk, &error)),
        }
    }

    fn delete(&mut self, disk: &SimIo, store: &Store, tenant: &TenantId, id: IndexId) {
        let key = (tenant.clone(), id);
        match store.delete_index(tenant, id) {
            Ok(()) => self.known.get_mut(&key).unwrap().0 = Existence::Gone,
            Err(Error::NotFound(_)) => panic!("an index that is there was not found"),
            Err(error) if is_open(disk, &error) => self.known.get_mut(&key).unwrap().0 = Existence::Possible,
            // It is there after the next opening.
            Err(_) => {}
        }
    }

    /// Opens what was left, compares, and writes to everything that is there. Gives the fleet as it is from now on.
    fn check(&self, found: &SimIo) -> Self {
        let store = open_store(found.clone(), "/data", &Limits::default()).unwrap();
        let mut now = Self::default();
        for tenant in tenants() {
            assert!(store.refused(&tenant).is_empty(), "refused: {:?}", store.refused(&tenant));
            for index in store.indices(&tenant) {
                let key = (tenant.clone(), index.id());
                let least = match self.known.get(&key) {
                    Some((Existence::Gone, _)) => panic!("a deleted index came back"),
                    Some((_, points)) => *points,
                    None => 0,
                };
                assert!(dump(&index).len() >= least, "{} points are there, and {least} were acknowledged", dump(&index).len());
                let points = write(&index).unwrap();
                now.known.insert(key, (Existence::Certain, points));
            }
        }
        for (key, (existence, _)) in &self.known {
            assert!(*existence != Existence::Certain || now.known.contains_key(key), "an index is gone: {key:?}");
        }
        let strangers = now.known.keys().filter(|key| !self.known.contains_key(*key)).count();
        assert!(strangers <= self.possible, "{strangers} indices that nobody made, {} possible", self.possible);
        let files = files_below(found, "/data".as_ref());
        assert!(!files.iter().any(|path| path.to_string_lossy().contains("ing-")), "leftovers: {files:#?}");
        now
    }
}

/// Adds a point, and gives how many there are then.
fn write(index: &Arc<Index>) -> Result<usize> {
    let before: BTreeMap<String, Row> = dump(index);
    let new = point(&format!("p{}", before.len()), 1);
    let mut batch = index.batch();
    batch.push(&new.id, &new.values, &new.metadata).unwrap();
    index.upsert(batch, Durability::Fsync)?;
    Ok(before.len() + 1)
}

fn start() -> (SimIo, Fleet) {
    let disk = SimIo::new();
    let store = open_store(disk.clone(), "/data", &Limits::default()).unwrap();
    let mut fleet = Fleet::default();
    for _ in 0..2 {
        fleet.create(&disk, &store, &tenants()[0]);
    }
    for index in store.indices(&tenants()[0]) {
        index.checkpoint().unwrap();
    }
    (disk, fleet)
}

/// A store is opened, an index is made for a tenant that has some and for one that is new, and one is deleted.
fn run(disk: &SimIo, fleet: &mut Fleet) {
    let Ok(store) = open_store(disk.clone(), "/data", &Limits::default()) else { return };
    let [old, new] = tenants();
    if !store.refused(&old).is_empty() {
        return;
    }
    let doomed = fleet.known.keys().next().unwrap().1;
    fleet.create(disk, &store, &old);
    fleet.create(disk, &store, &new);
    // What failed is tried again: a later success must not lean on what a failed sync left.
    fleet.create(disk, &store, &new);
    fleet.delete(disk, &store, &old, doomed);
    fleet.create(disk, &store, &old);
}

fn check_all(disk: &SimIo, fleet: &Fleet, context: &str) -> u64 {
    let kill = std::iter::once((disk.fork(), "kill".to_owned()));
    let mut states = 0;
    for (found, what) in kill.chain(power_cuts().map(|survival| (disk.crash(survival), format!("{survival:?}")))) {
        states += 1;
        let _told = ToldOnPanic { disk, what: format!("{context}, then {what}") };
        fleet.check(&found).check(&found.crash(Survival::None));
    }
    states
}

#[test]
fn index_is_whole_or_absent_after_crash_at_every_operation_of_create_and_delete() {
    let (disk, fleet) = start();
    let mut states = 0;
    for n in 1.. {
        let (disk, mut fleet) = (disk.fork(), fleet.clone());
        disk.crash_at(n);
        run(&disk, &mut fleet);
        states += check_all(&disk, &fleet, &format!("crash at {n}"));
        if !disk.is_crashed() {
            break;
        }
    }
    println!("create and delete: {states} crash states");
    assert!(states >= 80 * (3 + seeds()), "{states} crash states");
}

#[test]
fn failing_operation_of_create_and_delete_is_reported_and_loses_no_index() {
    let (disk, fleet) = start();
    let mut states = 0;
    for fault in FAULTS {
        for n in 1.. {
            let (disk, mut fleet) = (disk.fork(), fleet.clone());
            disk.fail_at(n, fault);
            run(&disk, &mut fleet);
            if disk.faults_left() > 0 {
                break;
            }
            states += check_all(&disk, &fleet, &format!("{fault:?} at {n}"));
        }
    }
    println!("create and delete: {states} states after faults");
    assert!(states >= 150 * (3 + seeds()), "{states} states");
}
