//! The same for creating, configuring and deleting: an index is there, whole, or it is not there; it is configured, or as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use faiss_proxy::io::sim::{Fault, SimIo, Survival};
use faiss_proxy::{Durability, Error, Index, IndexId, Metric, Result, Store, TenantId};

use super::procedure::small_limits;
use super::sites::Sites;
use super::states::{Count, Only, ToldOnPanic, left};
use super::support::{Row, dump, files_below, open_store, point, spec};

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
    /// What each of them may be called: one name, or also that of a change that was in flight.
    names: BTreeMap<(TenantId, IndexId), BTreeSet<String>>,
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
    /// Gives its id, where it was made.
    fn create(&mut self, disk: &SimIo, store: &Store, tenant: &TenantId) -> Option<IndexId> {
        match store.create_index(tenant, &spec(4, Metric::L2)) {
            Ok(index) => {
                self.known.insert((tenant.clone(), index.id()), (Existence::Certain, 0));
                self.names.insert((tenant.clone(), index.id()), [index.info().name].into());
                // Whether or not this is stored, the index must open.
                if let Ok(points) = write(&index) {
                    self.known.insert((tenant.clone(), index.id()), (Existence::Certain, points));
                }
                Some(index.id())
            }
            Err(error) => {
                self.possible += usize::from(is_open(disk, &error));
                None
            }
        }
    }

    /// Gives it a name, and an option that goes with it.
    fn configure(&mut self, disk: &SimIo, store: &Store, tenant: &TenantId, id: IndexId, name: &str) {
        let names = self.names.get_mut(&(tenant.clone(), id)).unwrap();
        let configured = store.configure_index(tenant, id, |config| {
            config.name = name.to_owned();
            config.options.log_retention_bytes = Some(retention(name));
            Ok(())
        });
        match configured {
            Ok(_) => *names = [name.to_owned()].into(),
            Err(error) if is_open(disk, &error) => drop(names.insert(name.to_owned())),
            // It is as it was.
            Err(_) => {}
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
        let store = open_store(found.clone(), "/data", &small_limits()).unwrap();
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
                let info = index.info();
                if let Some(names) = self.names.get(&key) {
                    assert!(names.contains(&info.name), "it is called {}, and can be {names:?}", info.name);
                    let expected = info.name.starts_with("new").then(|| retention(&info.name));
                    assert_eq!(info.options.log_retention_bytes, expected, "half of a change is there");
                }
                now.names.insert(key.clone(), [info.name].into());
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

/// The option that goes with a name.
fn retention(name: &str) -> u64 {
    name.len() as u64
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
    loop {
        let disk = SimIo::new();
        let store = open_store(disk.clone(), "/data", &small_limits()).unwrap();
        let mut fleet = Fleet::default();
        let [first, second] = [(); 2].map(|()| fleet.create(&disk, &store, &tenants()[0]).unwrap());
        for index in store.indices(&tenants()[0]) {
            index.checkpoint().unwrap();
        }
        // Ids are random, and indices are opened in their order: a state has a name that brings it back only where that is the same.
        if first < second {
            return (disk, fleet);
        }
    }
}

/// A store is opened, an index is made for a tenant that has some and for one that is new, one is configured, and one is deleted.
fn run(disk: &SimIo, fleet: &mut Fleet) {
    let Ok(store) = open_store(disk.clone(), "/data", &small_limits()) else { return };
    let [old, new] = tenants();
    if !store.refused(&old).is_empty() {
        return;
    }
    let doomed = fleet.known.keys().next().unwrap().1;
    let changed = fleet.known.keys().nth(1).unwrap().1;
    fleet.configure(disk, &store, &old, changed, "new");
    fleet.create(disk, &store, &old);
    fleet.create(disk, &store, &new);
    // What failed is tried again: a later success must not lean on what a failed sync left.
    fleet.create(disk, &store, &new);
    fleet.configure(disk, &store, &old, changed, "newer");
    fleet.delete(disk, &store, &old, doomed);
    fleet.create(disk, &store, &old);
}

fn check_all(disk: &SimIo, fleet: &Fleet, only: &Only, n: u64, context: &str) -> u64 {
    let mut states = 0;
    for left in left(disk, n) {
        let state = format!("create and delete: {context}, then {}", left.how);
        if only.has(&state) {
            states += 1;
            let _told = ToldOnPanic { disk, state: &state };
            fleet.check(&left.disk).check(&left.disk.crash(Survival::None));
        }
    }
    states
}

#[test]
fn index_is_whole_or_absent_after_crash_at_every_operation_of_create_and_delete() {
    let ((disk, fleet), only) = (start(), Only::from_env());
    let mut count = Count::default();
    for n in 1.. {
        let (disk, mut fleet) = (disk.fork(), fleet.clone());
        disk.crash_at(n);
        run(&disk, &mut fleet);
        count.states += check_all(&disk, &fleet, &only, n, &format!("crash at {n}"));
        if !disk.is_crashed() {
            break;
        }
        count.points = n;
    }
    println!("create and delete: {count}");
    assert!(count.points >= 100 && (count.states >= 300 || !only.is_all()), "{count}");
}

/// Lets every operation fail once, in each way in which it can.
pub fn fail_everywhere() -> (Count, Sites) {
    let ((start, before), only) = (start(), Only::from_env());
    let normal = start.fork();
    run(&normal, &mut before.clone());
    let (mut sites, mut states) = (Sites::default(), 0);
    for fault in Fault::ALL {
        for n in 1.. {
            let (disk, mut fleet) = (start.fork(), before.clone());
            disk.fail_at(n, fault);
            run(&disk, &mut fleet);
            if disk.faults_left() > 0 {
                break;
            }
            sites.add(&disk);
            states += check_all(&disk, &fleet, &only, n, &format!("{fault:?} at {n}"));
        }
    }
    assert_eq!(sites.missing(&Sites::of(&normal)), [], "create and delete: nothing failed there");
    let count = Count { points: sites.faults(), states };
    println!("create and delete, failing: {count}");
    (count, sites)
}
