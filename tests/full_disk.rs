//! A full disk refuses clearly, loses nothing, and still takes what gives space back.

use std::sync::Arc;

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::{Durability, Error, Index, IndexSpec, Store, StoreOptions, TenantId};

fn open(disk: &SimIo) -> Store {
    let limits = Limits { reserve_bytes: 2 << 20, ..Limits::default() };
    Store::open(StoreOptions { io: Arc::new(disk.clone()), background: false, limits, ..StoreOptions::new("/data") }).unwrap()
}

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn upsert(index: &Index, id: &str) -> Result<u64, Error> {
    let mut batch = index.batch();
    batch.push(id, &[0.5; 256], "{}")?;
    index.upsert(batch, Durability::Fsync).map(|upserted| upserted.lsn)
}

#[test]
fn deletes_and_a_checkpoint_work_on_a_full_disk_and_upserts_say_that_it_is_full() {
    let disk = SimIo::new();
    let store = open(&disk);
    let index = store
        .create_index(
            &tenant(),
            &IndexSpec { name: "n".into(), dimension: 256, index_type: "Flat".into(), metric: None, ..IndexSpec::default() },
        )
        .unwrap();
    for number in 0..300 {
        upsert(&index, &format!("kept-{number}")).unwrap();
    }
    disk.set_capacity(Some(disk.used_bytes()));
    // What was allocated ahead is used up first.
    let mut stored = 0;
    let error = loop {
        match upsert(&index, &format!("more-{stored}")) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 10_000, "the disk is full");
    };
    assert!(matches!(error, Error::Full(_)), "{error}");
    assert_eq!(index.info().vector_count, 300 + stored);
    assert!(matches!(upsert(&index, "again"), Err(Error::Full(_))), "and again, with no harm done");

    let ids: Vec<String> = (0..200).map(|number| format!("kept-{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    assert_eq!(index.delete(&ids, Durability::Fsync).unwrap().deleted_count, 200);
    index.checkpoint().unwrap();
    let expected = 100 + stored;
    assert_eq!(index.info().vector_count, expected);
    let id = index.id();
    drop((index, store));

    let disk = disk.crash(Survival::None);
    let store = open(&disk);
    let index = store.index(&tenant(), id).unwrap();
    assert_eq!(index.info().vector_count, expected);
    assert!(index.get("kept-0").unwrap().is_none() && index.get("kept-299").unwrap().is_some());
    disk.set_capacity(None);
    upsert(&index, "room again").unwrap();
}

#[test]
fn what_recovery_must_write_on_a_full_disk_is_paid_by_the_reserve() {
    let disk = SimIo::new();
    let store = open(&disk);
    let spec = IndexSpec { name: "n".into(), dimension: 256, index_type: "Flat".into(), metric: None, ..IndexSpec::default() };
    let id = store.create_index(&tenant(), &spec).unwrap().id();
    upsert(&store.index(&tenant(), id).unwrap(), "kept").unwrap();
    // Killed: nothing vouches for the last frame yet, so that it must be copied into a new segment.
    let killed = disk.fork();
    killed.set_capacity(Some(killed.used_bytes()));
    let store = open(&killed);
    assert!(store.index(&tenant(), id).unwrap().get("kept").unwrap().is_some());
}
