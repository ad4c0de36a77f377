//! A directory is looked at without changing it, and the state digest depends on the points alone.

#[path = "support/mod.rs"]
mod support;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use faiss_proxy::io::Io;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::{Durability, Error, IndexId, IndexSpec, Metric, Survey, Verified};
use support::{Chance, NewPoint, Session, digest_of, files_below, open_store, point, spec, tenant, tiny_limits};

fn survey(disk: &SimIo) -> Survey {
    Survey::open(Arc::new(disk.clone()), "/data").unwrap()
}

/// What is on the disk of a running store, as a copy of it has it.
fn verify(disk: &SimIo, id: IndexId) -> Verified {
    survey(&disk.fork()).verify(&tenant(), id, &|_| {})
}

fn check(session: &Session) {
    let verified = verify(&session.disk, session.index.id());
    assert_eq!(verified.findings, []);
    assert_eq!(verified.digest, Some(digest_of(session.history.last())));
    assert_eq!((verified.lsn, verified.points), (session.history.attempted(), session.history.last().len() as u64));
}

#[test]
fn digest_is_that_of_the_points_through_checkpoints_compactions_erasures_and_openings() {
    for (index_type, metric) in [("Flat", Metric::L2), ("Flat", Metric::Cosine), ("HNSW4", Metric::InnerProduct)] {
        let disk = SimIo::new();
        let mut session =
            Session::create_as(&disk, &tiny_limits(), &IndexSpec { index_type: index_type.into(), ..spec(4, metric) });
        check(&session);
        let mut chance = Chance::new(7);
        for step in 0..60 {
            let ids: Vec<String> = (0..1 + chance.below(5)).map(|_| format!("p{}", chance.below(20))).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            match chance.below(10) {
                0..5 => session.put(&ids, step).unwrap(),
                5 => session.delete(&ids, Durability::Fsync).unwrap(),
                6 => drop(session.checkpoint().unwrap()),
                7 => drop(session.index.compact().unwrap()),
                8 => drop(session.index.erase().unwrap()),
                _ => {
                    let history = session.history.clone();
                    drop((session.store, session.index));
                    session = Session::open(&disk, &tiny_limits(), history, support::Before::Kill).unwrap();
                }
            }
            check(&session);
        }
    }
}

#[test]
fn digest_tells_any_two_contents_apart_and_forgets_how_they_came_about() {
    let digest = |points: &[NewPoint], batch: usize| {
        let mut session = Session::create(&SimIo::new(), &tiny_limits(), 4, Metric::L2);
        points.chunks(batch).for_each(|points| session.upsert(points, Durability::Fsync).unwrap());
        verify(&session.disk, session.index.id()).digest.unwrap()
    };
    let points: Vec<NewPoint> = (0..9).map(|n| point(&format!("p{n}"), n)).collect();
    let expected = digest(&points, 4);
    let reversed: Vec<NewPoint> = points.iter().rev().cloned().collect();
    assert_eq!(digest(&reversed, 2), expected);
    let changes: [fn(&mut NewPoint); 4] = [
        |point| point.id.push('x'),
        |point| point.metadata.insert(1, ' '),
        |point| point.values[3] = f32::from_bits(point.values[3].to_bits() ^ 1),
        |point| point.values.swap(0, 1),
    ];
    for change in changes {
        let mut points = points.clone();
        change(&mut points[5]);
        assert_ne!(digest(&points, 4), expected);
    }
    assert_ne!(digest(&points[1..], 4), expected);
}

/// A torn tail, an index on its way in, one on its way out, a segment that no manifest names: the next opening puts all of it in order, and looking does not.
#[test]
fn looking_at_what_a_crash_left_changes_nothing_and_tells_what_it_is() {
    let disk = SimIo::new();
    let mut session = Session::create(&disk, &tiny_limits(), 4, Metric::L2);
    session.put(&["a", "b"], 1).unwrap();
    session.checkpoint().unwrap();
    session.delete(&["b"], Durability::Fsync).unwrap();
    session.put(&["c"], 2).unwrap();
    let id = session.index.id();
    drop((session.store, session.index));
    let tenant_dir = Path::new("/data/tenant-1");
    for name in [".creating-x", ".deleting-y"] {
        disk.create_dir(&tenant_dir.join(name)).unwrap();
    }
    let directory = tenant_dir.join(id.to_string());
    let stray = directory.join("segments/00000000000000000099.seg");
    disk.create(&stray).unwrap();
    let log = files_below(&disk, &directory.join("wal")).pop().unwrap();
    let used = disk.map(&log).unwrap().iter().rposition(|&byte| byte != 0).unwrap() as u64 + 1;
    disk.open(&log).unwrap().write_at(used.next_multiple_of(512), &[std::io::IoSlice::new(b"torn")]).unwrap();
    let disk = disk.crash(Survival::All);

    let before = disk.mutations();
    let survey = survey(&disk);
    assert_eq!((survey.tenants().unwrap(), survey.indices(&tenant()).unwrap()), (vec![tenant()], vec![id]));
    let outline = survey.outline(&tenant(), id).unwrap();
    assert_eq!((outline.lsn, outline.checkpoint_lsn, outline.checkpoint_points, outline.torn_bytes), (3, 1, 2, 4));
    assert!(outline.other_files.contains(&"segments/00000000000000000099.seg".to_owned()), "{:?}", outline.other_files);
    let mut records = Vec::new();
    survey
        .records(&tenant(), id, 2, &mut |record| {
            records.push((record.lsn, record.kind, record.ids));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(records, [(2, "delete", vec!["b".to_owned()]), (3, "upsert", vec!["c".to_owned()])]);
    let verified = survey.verify(&tenant(), id, &|_| {});
    assert_eq!((verified.findings, verified.points, verified.torn_bytes), (vec![], 2, 4));
    assert_eq!(verified.digest, Some(digest_of(session.history.last())));
    assert_eq!(disk.mutations(), before, "{:?}", disk.trace());
}

#[test]
fn who_looks_keeps_a_server_out_and_a_server_keeps_out_who_looks() {
    let disk = SimIo::new();
    let absent = Survey::open(Arc::new(disk.clone()), "/data").unwrap_err();
    assert!(matches!(&absent, Error::Io(fault) if fault.path == Path::new("/data")), "{absent}");
    let store = open_store(disk.clone(), "/data", &tiny_limits()).unwrap();
    assert!(matches!(Survey::open(Arc::new(disk.clone()), "/data"), Err(Error::Conflict(_))));
    drop(store);
    let (first, second) = (survey(&disk), survey(&disk));
    drop(first);
    assert!(matches!(open_store(disk.clone(), "/data", &tiny_limits()), Err(Error::Conflict(_))));
    drop(second);
    open_store(disk, "/data", &tiny_limits()).unwrap();
}
