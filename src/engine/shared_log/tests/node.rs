use super::*;
use crate::engine::Opening;
use crate::error::Unknown;

#[test]
fn write_that_is_larger_than_a_frame_is_whole_on_every_node() {
    large_writes(&in_memory().1);
}

/// Each larger than a frame of the shared log, and than one of the files.
pub(super) fn large_writes(logs: &Arc<dyn Cluster>) {
    let (one, other) = (Node::new(logs), Node::new(logs));
    let large = |node: &Node, prefix: &str| {
        let mut batch = node.index.batch();
        for n in 0..100 {
            batch.push(&format!("{prefix}{n}"), &[n as f32, 1.0], "{\"n\": 1}").unwrap();
        }
        assert!(batch.log_bytes() > limits().frame_bytes_max);
        node.index.upsert(batch, Durability::Fsync).unwrap().lsn
    };
    one.put("a").unwrap();
    assert_eq!(large(&one, "b"), 2);
    one.put("c").unwrap();
    // It has all of those to read first.
    assert_eq!(large(&other, "d"), 4);
    assert_eq!(large(&other, "d"), 5);
    // And the first node these.
    assert_eq!(one.put("e").unwrap(), 6);
    assert_equal(&one.index, &other.index);
    let one = one.restart(Survival::None);
    let other = other.restart(Survival::Torn(3));
    assert_equal(&one.index, &other.index);
    let matching = Filter::parse("{\"n\": 1}").unwrap();
    assert_eq!(other.index.delete_matching(&matching, Durability::Fsync).unwrap().deleted_count, 203);
    assert_equal(&one.index, &other.index);
    assert_eq!((one.index.info().lsn, one.index.vector_count()), (7, 0));
}

#[test]
fn dormant_index_of_a_node_opens_at_its_first_use_with_all_that_others_wrote_meanwhile() {
    for survival in [Survival::None, Survival::All, Survival::Torn(2)] {
        let (_, logs) = in_memory();
        let (one, other) = (Node::new(&logs), Node::new(&logs));
        one.put_all("a", 3);
        other.put_all("b", 3);
        other.index.checkpoint().unwrap();
        other.put_all("c", 3);
        let disk = other.disk.crash(survival);
        let store =
            Store::open_with(StoreOptions { opening: Opening::Lazy, ..options(&disk) }, Some(Arc::clone(&logs).into())).unwrap();
        assert_eq!((store.counts(None).serving, store.counts(None).not_verified), (0, 1));
        one.put_all("d", 3);
        let index = store.index(&tenant(), ID).unwrap();
        assert_eq!((index.info().lsn, index.info().durable_lsn, store.counts(None).serving), (12, 12, 1));
        put(&index, "e", 1.0, Condition::Absent).unwrap();
        assert_equal(&index, &one.index);
    }
}

/// One that opens its indices at their first use says so at the start all the same.
#[test]
fn index_of_a_shared_log_is_refused_at_the_start_without_it_however_a_store_opens() {
    let (_, logs) = in_memory();
    let one = Node::new(&logs);
    one.put("a").unwrap();
    for opening in [Opening::Eager, Opening::Lazy] {
        let disk = one.disk.crash(Survival::All);
        let store = Store::open(StoreOptions { opening, ..options(&disk) }).unwrap();
        let [(id, refusal @ Error::Closed(why))] = &store.refused(&tenant())[..] else { panic!("{opening:?}: it is refused") };
        assert!(*id == ID && why.contains("other nodes write"), "{id}: {why}");
        assert_eq!(store.index(&tenant(), ID).map(drop).unwrap_err().to_string(), refusal.to_string());
    }
}

#[test]
fn append_that_is_refused_leaves_all_as_it_was_and_its_writer_is_told_that_nothing_was_stored() {
    let (memory, logs) = in_memory();
    let (one, other) = (Node::new(&logs), Node::new(&logs));
    one.put("a").unwrap();
    let before = state(&one.index);
    memory.fail_next(Fault::Refused);
    let Err(error @ Error::Io(_)) = one.put("b") else { panic!("it was refused") };
    assert!(error.to_string().ends_with("nothing was stored"), "{error}");
    assert_eq!((state(&one.index), memory.operations()), (before.clone(), 1));
    assert_equal(&one.index, &other.index);
    // What is known is not asked for again.
    assert!(!one.index.writer.lock().shared_log.as_ref().unwrap().is_unsure);
    let one = one.restart(Survival::All);
    assert_eq!(state(&one.index), before, "in its files neither");
    let appends = memory.appends();
    assert_eq!((one.put("c").unwrap(), memory.appends()), (2, appends + 1));
    assert!(one.index.get("b").unwrap().is_none());
    assert_equal(&one.index, &other.index);
}

/// The index is not read-only after it, so nobody is asked to restart anything.
#[test]
fn who_has_no_answer_is_told_when_it_can_be_known() {
    let (memory, logs) = in_memory();
    let one = Node::new(&logs);
    for fault in [Fault::Lost, Fault::NotStored] {
        memory.fail_next(fault);
        let Err(error @ Error::OutcomeUnknown(Unknown::Unanswered(_))) = one.put("a") else { panic!("nobody knows") };
        assert!(error.to_string().ends_with("look when the next write to this index is answered"), "{error}");
        one.put("b").unwrap();
    }
    one.disk.fail_at(1, DiskFault::Enospc);
    let kept = one.put("c");
    assert!(matches!(kept, Err(Error::OutcomeUnknown(Unknown::Unanswered(_)))), "the shared log has it: {kept:?}");
    one.put("d").unwrap();
    assert!(one.index.get("c").unwrap().is_some());
}

#[test]
fn state_with_a_mutation_is_read_for_where_it_is_missing_and_one_beyond_the_log_is_refused() {
    let (memory, logs) = in_memory();
    let (one, other) = (Node::new(&logs), Node::new(&logs));
    one.put_all("a", 3);
    assert_eq!(other.index.catch_up_to(0).unwrap(), 0, "it has that, and does not ask");
    assert_eq!(other.index.catch_up_to(1).unwrap(), 3);
    one.put("b").unwrap();
    assert_eq!(other.index.catch_up_to(3).unwrap(), 3, "it has that too");
    assert_eq!(other.index.catch_up_to(4).unwrap(), 4, "the newest");
    let beyond = |refused: Result<Lsn>| {
        let Err(Error::Invalid { field, code: "lsn_ahead", detail }) = &refused else { panic!("{refused:?}") };
        assert_eq!((&**field, detail.as_str()), ("min_lsn", "the newest mutation is LSN 4, and 5 is beyond it"));
    };
    beyond(other.index.catch_up_to(5));
    beyond(one.index.catch_up_to(5));
    memory.delete();
    assert_eq!(other.index.catch_up_to(4).unwrap(), 4, "it has that, and nobody was asked");
    assert!(matches!(other.index.catch_up_to(5), Err(Error::NotFound(What::Index))));

    // On one machine there is nobody to ask.
    let alone = Store::open(options(&SimIo::new())).unwrap();
    let alone = alone.create_index(&tenant(), &spec()).unwrap();
    (0..4).for_each(|n| assert!(put(&alone, &n.to_string(), 1.0, Condition::Always).is_ok()));
    assert_eq!((alone.catch_up().unwrap(), alone.catch_up_to(4).unwrap()), (4, 4));
    beyond(alone.catch_up_to(5));
}
