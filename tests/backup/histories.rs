//! Rounds, one backup after the other, and the past.

use std::time::{SystemTime, UNIX_EPOCH};

use faiss_proxy::backup::{Target, indices, plan};
use faiss_proxy::io::Io as _;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::{Durability, Error, Filter, IndexOptions, IndexSpec, Metric, Query};

use super::support::{Session, spec, tenant};
use super::{back_up, limits, new_store, repository, restored, some_writes, with_history};

#[test]
fn restored_index_is_the_one_that_was_backed_up_of_every_metric_and_with_what_is_built_over_it() {
    let graph = IndexSpec {
        index_type: "HNSW8".to_owned(),
        options: IndexOptions { seal_rows: Some(4), ..IndexOptions::default() },
        ..spec(4, Metric::L2)
    };
    for spec in [spec(4, Metric::L2), spec(4, Metric::InnerProduct), spec(4, Metric::Cosine), graph] {
        let disk = SimIo::new();
        let mut session = Session::create_as(&disk, &limits(), &spec);
        some_writes(&mut session);
        session.settle_builds().unwrap();
        // A metadata index is made by a search and written by a checkpoint.
        let filter = Some(Filter::parse(r#"{"id": "a"}"#).unwrap());
        session.index.search(&Query { vector: vec![1.0; 4], k: 3, filter: filter.clone(), ..Query::default() }).unwrap();
        session.checkpoint().unwrap();
        session.put(&["g", "a"], 5).unwrap();
        let report = back_up(&session.index, &disk).unwrap();
        assert_eq!((report.seq, report.lsn, report.is_new), (1, session.history.acked(), true));
        assert_eq!(report.bytes, report.bytes_moved, "all of it was new");
        assert_eq!(indices(&repository(&disk)).unwrap(), [(tenant(), session.index.id())]);

        let store = new_store(&SimIo::new());
        let (index, _) =
            faiss_proxy::backup::restore(&store, &repository(&disk), &tenant(), session.index.id(), Target::Newest).unwrap();
        let (was, is) = (session.index.info(), index.info());
        assert_eq!((is.name, is.metric, is.options, is.lsn), (was.name, was.metric, was.options, was.lsn));
        assert_eq!((is.builds.len(), is.factory), (was.builds.len(), was.factory));
        assert_eq!(session.history.state(is.lsn), &super::dump(&index));
        // What was built is used, and means the same rows.
        for vector in [[1.0, 2.0, 3.0, 4.0], [900.0, 1.0, 500.0, 7.0]] {
            for filter in [None, filter.clone()] {
                let query = Query { vector: vector.to_vec(), k: 4, filter, ..Query::default() };
                assert_eq!(index.search(&query).unwrap(), session.index.search(&query).unwrap());
            }
        }
        // It goes on.
        let mut batch = index.batch();
        batch.push("new", &[1.0, 2.0, 3.0, 4.0], "{}").unwrap();
        assert_eq!(index.upsert(batch, Durability::Fsync).unwrap().lsn, is.lsn + 1);
        index.compact().unwrap();
        assert_eq!(index.vector_count(), is.vector_count + 1);
    }
}

#[test]
fn empty_index_and_one_that_was_never_checkpointed_are_restored() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    back_up(&session.index, &disk).unwrap();
    assert_eq!(restored(&disk, session.index.id(), Target::Newest).unwrap(), (session.history.state(0).clone(), 0));
    session.put(&["a"], 1).unwrap();
    assert_eq!(back_up(&session.index, &disk).unwrap().seq, 2);
    assert_eq!(restored(&disk, session.index.id(), Target::Newest).unwrap(), (session.history.state(1).clone(), 1));
    assert_eq!(restored(&disk, session.index.id(), Target::Lsn(0)).unwrap(), (session.history.state(0).clone(), 0));
}

#[test]
fn next_backup_moves_only_what_is_new_and_none_is_made_of_nothing_new() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let first = back_up(&session.index, &disk).unwrap();
    let again = back_up(&session.index, &disk).unwrap();
    assert_eq!((again.seq, again.is_new, again.bytes_moved, again.objects_moved), (1, false, 0, 0));
    session.put(&["x"], 9).unwrap();
    let planned = plan(&session.index, &repository(&disk)).unwrap();
    let before = disk.mutations();
    let second = back_up(&session.index, &disk).unwrap();
    assert_eq!(planned, second, "what is told before is what is done");
    assert!(disk.mutations() > before);
    // One piece of log, and the manifest.
    assert_eq!((second.seq, second.objects_moved), (2, 2));
    assert!(second.bytes_moved * 2 < first.bytes_moved, "{second:?} after {first:?}");
    // Closed and opened again, its log goes on elsewhere.
    let Session { store, index, history, .. } = session;
    let id = index.id();
    drop((store, index));
    let mut session = Session::open(&disk, &limits(), history, super::support::Before::Kill).unwrap();
    session.put(&["y"], 10).unwrap();
    session.checkpoint().unwrap();
    session.put(&["z"], 11).unwrap();
    assert_eq!(back_up(&session.index, &disk).unwrap().seq, 3);
    let lsn = session.history.acked();
    assert_eq!(restored(&disk, id, Target::Newest).unwrap(), (session.history.state(lsn).clone(), lsn));
}

/// A history of puts, deletes and checkpoints, backed up now and then; the disk, the session, and the LSNs of the backups.
fn history(spec: &IndexSpec) -> (SimIo, Session, Vec<(u64, u64)>) {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), spec);
    let mut backups = Vec::new();
    for round in 0..24u64 {
        let ids = ["a", "b", "c", "d", "e"].map(|id| format!("{id}{}", round % 3));
        session.put(&[&ids[round as usize % 5], "every"], round).unwrap();
        if round % 4 == 3 {
            session.delete(&[&ids[round as usize % 5]], Durability::Fsync).unwrap();
        }
        if round % 5 == 4 {
            session.checkpoint().unwrap();
        }
        if round % 7 == 2 {
            let report = back_up(&session.index, &disk).unwrap();
            backups.push((report.checkpoint_lsn, report.lsn));
        }
    }
    (disk, session, backups)
}

#[test]
fn every_lsn_of_a_history_whose_log_is_kept_is_restored_from_the_log_of_several_backups() {
    let (disk, session, backups) = history(&with_history());
    let last = backups.last().unwrap().1;
    assert!(backups.windows(2).any(|pair| pair[1].0 > pair[0].1), "some states are between a backup and the next checkpoint");
    for lsn in 0..=last {
        let found = restored(&disk, session.index.id(), Target::Lsn(lsn)).unwrap();
        assert_eq!(found, (session.history.state(lsn).clone(), lsn));
    }
    let beyond = restored(&disk, session.index.id(), Target::Lsn(last + 1)).unwrap_err().to_string();
    assert!(beyond.contains("at_lsn") && beyond.contains(&format!("from LSN 0 to {last}")), "{beyond}");
}

#[test]
fn lsn_that_no_backup_reaches_is_refused_with_those_that_are_reached() {
    let (disk, session, backups) = history(&spec(4, Metric::L2));
    let id = session.index.id();
    let mut refused = 0;
    for lsn in 0..=backups.last().unwrap().1 {
        let is_surely_there = backups.iter().any(|(from, to)| (*from..=*to).contains(&lsn));
        match restored(&disk, id, Target::Lsn(lsn)) {
            Ok(found) => assert_eq!(found, (session.history.state(lsn).clone(), lsn)),
            Err(Error::Invalid { detail, .. }) => {
                assert!(!is_surely_there, "LSN {lsn} of {backups:?}: {detail}");
                assert!(detail.contains("which reach from LSN"), "{detail}");
                refused += 1;
            }
            Err(error) => panic!("LSN {lsn} of {backups:?}: {error}"),
        }
    }
    assert!(refused > 0, "the log of this one is not kept: {backups:?}");
}

/// A marker that is written after a backup, and after which the next segment begins, would be where the log of the two backups does not join.
#[test]
fn log_of_two_backups_joins_wherever_a_segment_ends() {
    let mut joined = 0;
    for before in 1..=8u64 {
        let disk = SimIo::new();
        let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
        for round in 0..before {
            session.put(&["a"], round).unwrap();
        }
        let first = back_up(&session.index, &disk).unwrap().lsn;
        session.sync().unwrap();
        session.put(&["b", "c"], 1).unwrap();
        session.put(&["d"], 2).unwrap();
        // The log lets go of the segments before the one that it ends in.
        session.checkpoint().unwrap();
        session.put(&["e"], 3).unwrap();
        let last = back_up(&session.index, &disk).unwrap().lsn;
        for lsn in first..=last {
            match restored(&disk, session.index.id(), Target::Lsn(lsn)) {
                Ok(found) => {
                    assert_eq!(found, (session.history.state(lsn).clone(), lsn));
                    joined += u64::from(lsn == first + 1);
                }
                Err(Error::Invalid { .. }) => {}
                Err(error) => panic!("LSN {lsn}, {before} before: {error}"),
            }
        }
    }
    assert!(joined > 0, "no log of two backups was of one piece");
}

fn now_us() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64
}

#[test]
fn state_at_a_time_is_that_after_the_last_mutation_by_then() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &with_history());
    let mut times = Vec::new();
    let tick = || {
        let begin = now_us();
        while now_us() <= begin + 1 {}
        begin + 1
    };
    let before = tick();
    for round in 0..12u64 {
        session.put(&["a", &format!("b{round}")], round).unwrap();
        times.push((tick(), session.history.acked()));
        if round % 5 == 1 {
            back_up(&session.index, &disk).unwrap();
            tick();
        }
        if round == 7 {
            session.checkpoint().unwrap();
        }
    }
    back_up(&session.index, &disk).unwrap();
    let id = session.index.id();
    for (time, lsn) in times {
        assert_eq!(restored(&disk, id, Target::Time(time)).unwrap(), (session.history.state(lsn).clone(), lsn));
    }
    let last = session.history.acked();
    assert_eq!(restored(&disk, id, Target::Time(now_us())).unwrap().1, last);
    let early = restored(&disk, id, Target::Time(before)).unwrap_err();
    assert!(matches!(&early, Error::Invalid { field, .. } if field == "at_time"), "{early}");
}

#[test]
fn index_that_is_there_is_not_restored_beside_itself_and_one_without_a_backup_is_not_found() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let id = session.index.id();
    let restore = |id| faiss_proxy::backup::restore(&session.store, &repository(&disk), &tenant(), id, Target::Newest);
    assert!(matches!(restore(faiss_proxy::IndexId::nil()).unwrap_err(), Error::NotFound(_)));
    back_up(&session.index, &disk).unwrap();
    assert!(matches!(restore(id).unwrap_err(), Error::Conflict(_)));
    assert_eq!(disk.list("/data/tenant-1".as_ref()).unwrap().len(), 1, "nothing is left of it");
    session.store.delete_index(&tenant(), id).unwrap();
    assert_eq!(super::dump(&restore(id).unwrap().0), *session.history.state(session.history.acked()));
}

/// Somebody put back an old copy of the directory, and wrote to it: its LSNs mean other mutations than those that were backed up.
#[test]
fn index_that_went_back_in_time_is_not_backed_up_over_what_it_was() {
    let disk = SimIo::new();
    let mut session = Session::create_as(&disk, &limits(), &spec(4, Metric::L2));
    some_writes(&mut session);
    let old = disk.fork();
    let history = session.history.clone();
    session.put(&["x"], 8).unwrap();
    session.put(&["y"], 9).unwrap();
    session.checkpoint().unwrap();
    back_up(&session.index, &disk).unwrap();
    for writes in [0, 1, 4] {
        let mut session = Session::open(&old.fork(), &limits(), history.clone(), super::support::Before::Kill).unwrap();
        for round in 0..writes {
            session.put(&["other"], 100 + round).unwrap();
            session.checkpoint().unwrap();
        }
        let refused = back_up(&session.index, &disk).unwrap_err();
        assert!(matches!(&refused, Error::Conflict(why) if why.contains("older state")), "{writes} writes: {refused}");
    }
}
