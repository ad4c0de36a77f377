//! Writes that are decided at their turn: conditions, keys, patches, deletes by a filter. `tests/model.rs` mixes them with everything else.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::{
    Condition, Durability, Error, Filter, IdempotencyKey, Index, Lsn, Metric, Result, Store, Upserted, WriteOptions,
};
use support::{Before, Session, open_store, point, spec, tenant, tiny_limits};

fn new_index(disk: &SimIo) -> (Store, Arc<Index>) {
    let store = open_store(disk.clone(), "/data", &Limits::default()).unwrap();
    let index = store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
    (store, index)
}

fn reopen(disk: &SimIo) -> (Store, Arc<Index>) {
    let store = open_store(disk.clone(), "/data", &Limits::default()).unwrap();
    let index = store.indices(&tenant()).remove(0);
    (store, index)
}

fn key(key: &str, request: &str) -> WriteOptions {
    WriteOptions { key: Some(IdempotencyKey::new(key, &[request.as_bytes()]).unwrap()), ..WriteOptions::default() }
}

fn put(index: &Index, ids: &[&str], condition: Condition, options: WriteOptions) -> Result<Upserted> {
    let mut batch = index.batch();
    for id in ids {
        batch.push_if(id, &[1.0, 2.0, 3.0, 4.0], r#"{"n":0}"#, condition).unwrap();
    }
    index.upsert(batch, options)
}

/// Which field is at fault, and the code.
fn invalid<T: std::fmt::Debug>(result: Result<T>) -> (String, &'static str) {
    match result {
        Err(Error::Invalid { field, code, .. }) => (field.into_owned(), code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn counter_that_many_count_up_by_compare_and_set_loses_no_count() {
    const THREADS: u64 = 8;
    const COUNTS: u64 = 50;
    let (_store, index) = new_index(&SimIo::new());
    put(&index, &["counter"], Condition::Absent, WriteOptions::default()).unwrap();
    let refused = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..COUNTS {
                    loop {
                        let found = index.get("counter").unwrap().unwrap();
                        let n: u64 = found.metadata.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
                        let patch = format!("{{\"n\":{}}}", n + 1);
                        match index.patch("counter", &patch, Condition::StoredBy(found.lsn), Durability::Interval) {
                            Ok(lsn) => break assert!(lsn > found.lsn),
                            Err(Error::Unmet(_)) => drop(refused.fetch_add(1, SeqCst)),
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
        }
    });
    println!("{} counts, {} refused", THREADS * COUNTS, refused.into_inner());
    assert_eq!(index.get("counter").unwrap().unwrap().metadata, format!("{{\"n\":{}}}", THREADS * COUNTS));
    assert_eq!(index.info().lsn, THREADS * COUNTS + 1, "what is refused is not logged");
}

#[test]
fn request_that_many_send_with_one_key_is_done_once_and_all_get_its_answer() {
    let (_store, index) = new_index(&SimIo::new());
    let barrier = std::sync::Barrier::new(16);
    let answers: Vec<Upserted> = std::thread::scope(|scope| {
        let send = || {
            barrier.wait();
            put(&index, &["a", "b", "a"], Condition::Always, key("k", "request")).unwrap()
        };
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(send)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let expected = Upserted { lsn: 1, added_count: 2, superseded: vec![0], unmet: vec![] };
    assert!(answers.iter().all(|answer| *answer == expected), "{answers:?}");
    assert_eq!((index.info().lsn, index.info().vector_count), (1, 2));
}

#[test]
fn retry_with_a_key_gets_the_first_answer_whatever_came_between() {
    let disk = SimIo::new();
    let (store, index) = new_index(&disk);
    let request = |index: &Index| put(index, &["a", "b"], Condition::Absent, key("put", "1"));
    let delete = |index: &Index| index.delete_if("b", Condition::Present, key("delete", "2"));
    let (stored, deleted) = (request(&index).unwrap(), delete(&index).unwrap());
    assert_eq!((stored.lsn, stored.added_count, deleted.lsn, deleted.deleted_count), (1, 2, 2, 1));
    // What finds nothing is remembered too: somebody stores the point later, and the retry must not take it away.
    let absent = |index: &Index| index.delete(&["c"], key("absent", "3")).map(|deleted| (deleted.lsn, deleted.deleted_count));
    assert_eq!(absent(&index).unwrap(), (3, 0));
    put(&index, &["b", "c"], Condition::Always, WriteOptions::default()).unwrap();
    let unmet = |index: &Index| put(index, &["c"], Condition::Absent, key("unmet", "4"));
    assert_eq!(unmet(&index).unwrap(), Upserted { lsn: 5, added_count: 0, superseded: vec![], unmet: vec![0] });
    index.delete(&["c"], Durability::Fsync).unwrap();
    let check = |index: &Index, when: &str| {
        let before = index.info();
        assert_eq!(request(index).unwrap(), stored, "{when}");
        assert_eq!(delete(index).unwrap(), deleted, "{when}");
        assert_eq!(absent(index).unwrap(), (3, 0), "{when}");
        assert_eq!(unmet(index).unwrap().unmet, [0], "{when}");
        assert!(index.get("b").unwrap().is_some() && index.get("c").unwrap().is_none(), "{when}");
        assert_eq!((index.info().lsn, index.info().vector_count), (before.lsn, before.vector_count), "{when}");
        let other = put(index, &["z"], Condition::Always, key("put", "another request"));
        assert!(matches!(other, Err(Error::Invalid { code: "idempotency_key_reused", .. })), "{when}: {other:?}");
    };
    check(&index, "at once");
    drop((store, index));
    // From here on every opening finds what the one before left.
    let disk = disk.crash(Survival::None);
    let (store, index) = reopen(&disk);
    check(&index, "after a crash");
    index.checkpoint().unwrap();
    drop((store, index));
    let (store, index) = reopen(&disk);
    index.checkpoint().unwrap();
    drop((store, index));
    let mut last = None;
    for when in ["after a checkpoint", "after a checkpoint that had a new key"] {
        let (_store, index) = reopen(&disk);
        check(&index, when);
        let new = |when: &str| put(&index, &["d"], Condition::Always, key(when, "d")).unwrap();
        if let Some((earlier, answer)) = last {
            assert_eq!(new(earlier), answer, "{when}");
        }
        last = Some((when, new(when)));
        index.checkpoint().unwrap();
        index.erase().unwrap();
        check(&index, "after an erasure");
    }
}

#[test]
fn index_is_created_once_by_requests_with_one_key() {
    let disk = SimIo::new();
    let (store, _first) = new_index(&disk);
    let created_by = |request: &str| faiss_proxy::IndexSpec { key: key("create", request).key, ..spec(3, Metric::L2) };
    let index = store.create_index(&tenant(), &created_by("1")).unwrap();
    let again = store.create_index(&tenant(), &created_by("1")).unwrap();
    assert_eq!(index.id(), again.id());
    let other = store.create_index(&tenant(), &created_by("2"));
    assert_eq!(invalid(other), ("Idempotency-Key".to_owned(), "idempotency_key_reused"));
    let id = index.id();
    drop((store, index, again, _first));
    let store = open_store(disk.crash(Survival::None), "/data", &Limits::default()).unwrap();
    assert_eq!(store.create_index(&tenant(), &created_by("1")).unwrap().id(), id, "after a crash");
    assert_eq!(store.list(&tenant()).unwrap().len(), 2);
    store.delete_index(&tenant(), id).unwrap();
    assert_ne!(store.create_index(&tenant(), &created_by("1")).unwrap().id(), id, "a deleted one does not come back");
}

#[test]
fn conditions_see_what_comes_before_them_in_their_batch_and_an_atomic_batch_is_all_or_nothing() {
    let (_store, index) = new_index(&SimIo::new());
    let upsert = |points: &[(&str, Condition)], atomic| {
        let mut batch = index.batch();
        for (id, condition) in points {
            batch.push_if(id, &[0.0; 4], "{}", *condition).unwrap();
        }
        index.upsert(batch, WriteOptions { atomic, ..WriteOptions::default() }).unwrap()
    };
    use Condition::{Absent, Always, Present, StoredBy};
    let answer = upsert(&[("a", Absent), ("a", Absent), ("b", Present), ("a", StoredBy(1)), ("c", Always)], false);
    assert_eq!(answer, Upserted { lsn: 1, added_count: 2, superseded: vec![0], unmet: vec![1, 2] });
    let refused = upsert(&[("d", Absent), ("a", StoredBy(7))], true);
    assert_eq!(refused, Upserted { lsn: 1, added_count: 0, superseded: vec![], unmet: vec![1] });
    assert_eq!((index.info().lsn, index.info().vector_count), (1, 2));
    assert_eq!(upsert(&[("d", Absent), ("a", StoredBy(1))], true).added_count, 2);
    let refused = index.delete_if("a", StoredBy(1), Durability::Fsync);
    assert!(matches!(&refused, Err(Error::Unmet(why)) if why.contains("mutation 1")), "{refused:?}");
    assert_eq!(index.delete_if("a", StoredBy(2), Durability::Fsync).unwrap().deleted_count, 1);
}

#[test]
fn patch_keeps_the_vector_and_what_it_does_not_name_and_is_held_to_the_limits() {
    let (_store, index) = new_index(&SimIo::new());
    let mut batch = index.batch();
    batch.push("a", &[-0.0, 1e-40, 3.5, 4.0], r#"{"n": 12345678901234567890123, "gone": 1, "o": {"x": 1, "y": 2}}"#).unwrap();
    index.upsert(batch, Durability::Fsync).unwrap();
    let patch = |id: &str, patch: &str| index.patch(id, patch, Condition::Always, Durability::Fsync);
    assert_eq!(patch("a", r#" {"gone": null, "o": {"y": null, "z": {"w": null}}} "#).unwrap(), 2);
    let found = index.get("a").unwrap().unwrap();
    assert_eq!(found.metadata, r#"{"n":12345678901234567890123,"o":{"x":1,"z":{}}}"#);
    assert_eq!(
        found.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(),
        [-0.0_f32, 1e-40, 3.5, 4.0].map(f32::to_bits)
    );
    let half = format!("{{\"{}\":\"{}\"}}", "k", "x".repeat(40 << 10));
    patch("a", &half).unwrap();
    for (wrong, expected) in [
        ("[1]".to_owned(), "invalid_metadata"),
        ("null".to_owned(), "invalid_metadata"),
        ("{\"a\":".to_owned(), "invalid_metadata"),
        (half.replace("\"k\"", "\"l\""), "metadata_too_large"),
        (format!("{{\"a\":{}1{}}}", "[".repeat(32), "]".repeat(32)), "metadata_too_deep"),
    ] {
        assert_eq!(invalid(patch("a", &wrong)), ("metadata".to_owned(), expected));
    }
    assert!(matches!(patch("b", "{}"), Err(Error::NotFound(_))));
    assert_eq!(invalid(patch("", "{}")), ("id".to_owned(), "invalid_id"));
    let lsn: Lsn = index.info().lsn;
    assert_eq!(lsn, 3, "what is refused is not logged");
}

#[test]
fn delete_by_a_filter_spans_frames_and_is_bounded() {
    let disk = SimIo::new();
    let mut session = Session::create(&disk, &tiny_limits(), 4, Metric::L2);
    let ids: Vec<String> = (0..100).map(|n| format!("{n:0>30}")).collect();
    session.put(&ids.iter().map(String::as_str).collect::<Vec<_>>(), 7).unwrap();
    session.put(&["other"], 8).unwrap();
    session.delete_matching(r#"{"version":7}"#, Durability::Fsync, |metadata| metadata.contains("\"version\":7")).unwrap();
    session.delete_matching(r#"{"version":7}"#, Durability::Fsync, |metadata| metadata.contains("\"version\":7")).unwrap();
    let history = session.history.clone();
    drop(session);
    let mut session = Session::open(&disk.crash(Survival::None), &tiny_limits(), history, Before::PowerCut).unwrap();
    assert_eq!((session.index.info().vector_count, session.index.info().lsn), (1, 3));
    session.delete_matching("{}", Durability::Fsync, |_| true).unwrap();
    assert_eq!(session.index.info().vector_count, 0);

    let limits = Limits { operation_bytes_max: 4_000, ..Limits::default() };
    let store = open_store(SimIo::new(), "/data", &limits).unwrap();
    let index = store.create_index(&tenant(), &spec(4, Metric::L2)).unwrap();
    for some in ids.chunks(10) {
        let mut batch = index.batch();
        some.iter().map(|id| point(id, 1)).for_each(|new| batch.push(&new.id, &new.values, &new.metadata).unwrap());
        index.upsert(batch, Durability::Fsync).unwrap();
    }
    let all = index.delete_matching(&Filter::parse("{}").unwrap(), Durability::Fsync);
    assert!(matches!(&all, Ok(deleted) if deleted.deleted_count == 100), "{all:?}");
    for some in ids.chunks(10) {
        put(
            &index,
            &some
                .iter()
                .map(|id| format!("{id}{}", "x".repeat(20)))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>(),
            Condition::Always,
            WriteOptions::default(),
        )
        .unwrap();
    }
    let refused = index.delete_matching(&Filter::parse("{}").unwrap(), Durability::Fsync);
    assert_eq!(invalid(refused), ("filter".to_owned(), "too_many_matches"));
    assert_eq!(index.info().vector_count, 100);
}
