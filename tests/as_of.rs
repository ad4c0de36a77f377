//! A read as of an LSN finds the state at that LSN, exactly, or is told that it is gone; whatever was written, checkpointed, built and rewritten since.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::SimIo;
use faiss_proxy::{Durability, Error, Filter, Index, IndexOptions, IndexSpec, Lsn, Metric, Query, Result, ScanQuery};
use support::{Before, Chance, Row, Session, State, env_or, open_store, point, spec, tenant, tiny_limits};

/// More than any of these tests writes.
const ALL_LOG: u64 = 1 << 30;

/// Everything that the state at an LSN holds: by a search, by gets and by counts.
fn dump_at(index: &Index, ids: &[String], lsn: Lsn, exact: bool) -> Result<State> {
    let query = Query { vector: vec![1.0; 4], k: 1_000, exact, as_of_lsn: Some(lsn), include_values: true, ..Query::default() };
    let hits = index.search(&query)?;
    let found: BTreeMap<String, (Vec<f32>, String)> =
        hits.iter().map(|hit| (hit.id.clone(), (hit.values.clone().unwrap(), hit.metadata.clone()))).collect();
    assert_eq!(found.len(), hits.len(), "an id came twice");
    // A later call may be told that the state is gone; it is of the same state where it is not.
    let (all, counted_lsn) = index.count_as_of(&Filter::parse("{}")?, lsn)?;
    assert_eq!((all, counted_lsn), (hits.len() as u64, lsn));
    let mut state = State::new();
    for id in ids {
        let point = index.get_as_of(id, lsn)?;
        assert_eq!(point.as_ref().map(|point| (&point.values, &point.metadata)), found.get(id).map(|(v, m)| (v, m)), "{id}");
        state.extend(point.map(|point| (point.id.clone(), Row::from(point))));
    }
    assert_eq!(state.len(), found.len(), "more is found than there ever was");
    Ok(state)
}

fn spec_of(index_type: &str, log_retention_bytes: u64) -> IndexSpec {
    let seal_rows = (index_type != "Flat").then_some(8);
    let options = IndexOptions {
        log_retention_bytes: Some(log_retention_bytes),
        seal_rows,
        min_recall: Some(0.0),
        ..IndexOptions::default()
    };
    IndexSpec { index_type: index_type.to_owned(), options, ..spec(4, Metric::L2) }
}

#[test]
fn a_scan_gives_the_state_of_its_first_page_in_the_order_of_its_mutations_whatever_is_done_meanwhile() {
    let limits = tiny_limits();
    let ids: Vec<String> = (0..12).map(|n| format!("id-{n}")).collect();
    for seed in 0..env_or("FAISS_PROXY_AS_OF_SEEDS", 16) {
        let mut chance = Chance::new(seed);
        let disk = SimIo::new();
        let mut session = Session::create_as(&disk, &limits, &spec_of(["Flat", "HNSW4"][chance.below(2)], ALL_LOG));
        let mut serial = 0;
        let mut change = |session: &mut Session, chance: &mut Chance| match chance.below(8) {
            0..4 => {
                let points: Vec<_> = (serial..serial + 4).map(|serial| point(&ids[chance.below(12)], serial)).collect();
                serial += 4;
                session.upsert(&points, Durability::Fsync).unwrap();
            }
            4..6 => session.delete(&[ids[chance.below(12)].as_str()], Durability::Fsync).unwrap(),
            6 => drop(session.checkpoint().unwrap()),
            _ => session.compact().unwrap(),
        };
        (0..20).for_each(|_| change(&mut session, &mut chance));
        for limit in [1, 2, 3, 5, 100] {
            let filter = (limit == 2).then(|| Filter::parse(r#"{"$not": {"absent": 1}}"#).unwrap());
            let mut expected = Vec::new();
            let visited = session.index.visit(|point| {
                expected.push(point);
                Ok::<(), Error>(())
            });
            let lsn = visited.unwrap();
            let mut query = ScanQuery { filter, limit, include_values: true, ..ScanQuery::default() };
            let mut found = Vec::new();
            loop {
                let page = session.index.scan(&query).unwrap();
                assert!(page.lsn == lsn && page.points.len() <= limit);
                found.extend(page.points);
                query.after = page.next;
                if query.after.is_none() {
                    break;
                }
                change(&mut session, &mut chance);
            }
            assert_eq!(found, expected, "seed {seed}, {limit} a page");
        }
    }
}

#[test]
fn every_state_from_the_horizon_on_is_found_as_it_was() {
    let limits = tiny_limits();
    let seeds = env_or("FAISS_PROXY_AS_OF_SEEDS", 16);
    let ids: Vec<String> = (0..12).map(|n| format!("id-{n}")).collect();
    let (mut read, mut gone) = (0, 0);
    for seed in 0..seeds {
        let mut chance = Chance::new(seed);
        let keeps_all = chance.below(2) == 0;
        let spec = spec_of(["Flat", "HNSW4"][chance.below(2)], if keeps_all { ALL_LOG } else { 0 });
        let disk = SimIo::new();
        let mut session = Session::create_as(&disk, &limits, &spec);
        // States from here on must be there.
        let mut horizon = 0;
        for step in 0..90 {
            let newest_lsn = session.history.acked();
            match chance.below(20) {
                0..9 => {
                    let points: Vec<_> =
                        (0..1 + chance.below(4)).map(|n| point(&ids[chance.below(12)], step * 10 + n as u64)).collect();
                    session.upsert(&points, Durability::Fsync).unwrap();
                }
                9..13 => {
                    let wanted: Vec<&str> = (0..3).map(|_| ids[chance.below(12)].as_str()).collect();
                    session.delete(&wanted, Durability::Fsync).unwrap();
                }
                13 | 14 => {
                    session.checkpoint().unwrap();
                    if !keeps_all {
                        horizon = newest_lsn;
                    }
                }
                15 => {
                    session.compact().unwrap();
                    if !keeps_all {
                        horizon = newest_lsn;
                    }
                }
                16 => session.settle_builds().unwrap(),
                17 => {
                    horizon = session.index.info().checkpoint_lsn;
                    let history = session.history.clone();
                    drop((session.index, session.store));
                    session = Session::open(&disk, &limits, history, Before::Kill).unwrap();
                }
                18 if chance.below(3) == 0 => {
                    session.erase().unwrap();
                    horizon = newest_lsn;
                }
                _ => {}
            }
            let newest_lsn = session.history.acked();
            for _ in 0..2 {
                let lsn = chance.below(newest_lsn as usize + 1) as Lsn;
                match dump_at(&session.index, &ids, lsn, chance.below(2) == 0) {
                    Ok(state) => {
                        assert_eq!(state, *session.history.state(lsn), "seed {seed}, step {step}: LSN {lsn} of {newest_lsn}");
                        assert!(lsn >= horizon, "seed {seed}, step {step}: LSN {lsn} is before {horizon}");
                        read += 1;
                    }
                    Err(Error::Gone { oldest_lsn }) => {
                        assert_eq!(oldest_lsn, horizon, "seed {seed}, step {step}");
                        assert!(lsn < horizon);
                        gone += 1;
                    }
                    Err(error) => panic!("seed {seed}, step {step}: {error}"),
                }
            }
            let ahead = dump_at(&session.index, &ids, newest_lsn + 1, true).unwrap_err();
            assert!(matches!(&ahead, Error::Invalid { field, code: "lsn_ahead", .. } if field == "as_of_lsn"), "{ahead}");
        }
    }
    println!("{read} states read, {gone} were gone");
    assert!(read > 1_000 && gone > 100);
}

/// What is kept for the past is let go when the past is, and is not rewritten for ever.
#[test]
fn rows_that_the_past_needs_outlast_checkpoints_and_compactions_and_go_with_it() {
    let disk = SimIo::new();
    let store = open_store(disk.clone(), "/data", &Limits::default()).unwrap();
    let index = store.create_index(&tenant(), &spec_of("HNSW4", ALL_LOG)).unwrap();
    for version in 0..5 {
        let mut batch = index.batch();
        for n in 0..40 {
            let point = point(&format!("p{n}"), version);
            batch.push(&point.id, &point.values, &point.metadata).unwrap();
        }
        index.upsert(batch, Durability::Fsync).unwrap();
        index.checkpoint().unwrap();
    }
    index.compact().unwrap();
    index.settle().unwrap();
    let info = index.info();
    assert_eq!((info.vector_count, info.tombstones), (40, 160));
    assert_eq!(index.compact().unwrap().rows_dropped, 0);
    for lsn in 1..=5 {
        assert_eq!(index.get_as_of("p7", lsn).unwrap().unwrap().metadata, point("p7", lsn - 1).metadata);
    }
    index.erase().unwrap();
    assert_eq!(index.info().tombstones, 0);
    assert!(matches!(index.get_as_of("p7", 4), Err(Error::Gone { oldest_lsn: 5 })));
}

/// What mutation `lsn` stores: two points of one batch.
fn mutation(lsn: Lsn) -> [(String, u64); 2] {
    [(format!("a{}", lsn % 7), lsn), (format!("b{}", lsn % 7), lsn)]
}

#[test]
fn a_past_that_is_read_beside_writes_checkpoints_and_compactions_is_whole_or_gone() {
    const MUTATIONS: Lsn = 400;
    let disk = SimIo::new();
    let store = open_store(disk.clone(), "/data", &Limits::default()).unwrap();
    // What a checkpoint leaves out is the past that is asked for.
    let index = store.create_index(&tenant(), &spec_of("HNSW4", 0)).unwrap();
    let index: &Arc<Index> = &index;
    thread::scope(|scope| {
        let (due, are_due) = sync_channel(1);
        scope.spawn(move || {
            for at in are_due {
                index.checkpoint().unwrap();
                if at % 3_u64 == 0 {
                    index.compact().unwrap();
                }
            }
        });
        let readers: Vec<_> = (0..2)
            .map(|seed| {
                scope.spawn(move || {
                    let (mut chance, mut read, mut newest_lsn) = (Chance::new(seed), 0, 0);
                    while newest_lsn < MUTATIONS {
                        newest_lsn = index.info().lsn;
                        let lsn = newest_lsn - chance.below(newest_lsn.min(12) as usize + 1) as Lsn;
                        let query = Query { vector: vec![1.0; 4], k: 100, as_of_lsn: Some(lsn), ..Query::default() };
                        let hits = match index.search(&query) {
                            Ok(hits) => hits,
                            Err(Error::Gone { oldest_lsn }) => {
                                assert!(oldest_lsn > lsn);
                                continue;
                            }
                            Err(error) => panic!("{error}"),
                        };
                        let found: BTreeMap<String, String> = hits.into_iter().map(|hit| (hit.id, hit.metadata)).collect();
                        let expected: BTreeMap<String, String> = (1..=lsn)
                            .flat_map(mutation)
                            .map(|(id, version)| (id.clone(), point(&id, version).metadata))
                            .collect();
                        assert_eq!(found, expected, "at LSN {lsn}");
                        read += 1;
                    }
                    read
                })
            })
            .collect();
        for lsn in 1..=MUTATIONS {
            let mut batch = index.batch();
            for (id, version) in mutation(lsn) {
                let point = point(&id, version);
                batch.push(&point.id, &point.values, &point.metadata).unwrap();
            }
            assert_eq!(index.upsert(batch, Durability::Fsync).unwrap().lsn, lsn);
            if lsn % 5 == 0 {
                due.send(lsn / 5).unwrap();
            }
        }
        drop(due);
        for reader in readers {
            let read = reader.join().unwrap();
            println!("{read} states read");
            assert!(read > 0);
        }
    });
}
