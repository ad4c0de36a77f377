//! Writing, and checkpoints of what was written.

use std::path::PathBuf;

use faiss_proxy::config::Limits;
use faiss_proxy::io::sim::Fault;
use faiss_proxy::{Condition, Durability, Error, Result, WriteOptions};

use super::procedure::{Procedure, small_limits};
use super::support::{self, Before, Session, tiny_limits};

fn appends(session: &mut Session) {
    // Errors are the disk's: the session notes what they promise.
    let _ = session.put(&["a", "b"], 1);
    let _ = session.put(&["c"], 2);
    let _ = session.delete(&["b", "absent"], Durability::Fsync);
    // Spans frames.
    let many: Vec<String> = (0..24).map(|i| format!("id-{i}")).collect();
    let _ = session.put(&many.iter().map(String::as_str).collect::<Vec<_>>(), 3);
    let _ = session.sync();
    let _ = session.put(&["a", "d"], 4);
    let _ = session.put(&["e"], 5);
}

pub fn append() -> Procedure {
    Procedure::new("append and rotate", tiny_limits(), |session| session.put(&["a"], 0).unwrap(), appends)
}

/// Acknowledged before they are synced: a power cut may take them, from the end.
pub fn interval() -> Procedure {
    let run = |session: &mut Session| {
        for version in 1..4 {
            let _ = session.upsert(&[support::point("a", version), support::point("b", version)], Durability::Interval);
        }
        let _ = session.delete(&["b"], Durability::Interval);
        let _ = session.delete(&["b"], Durability::Fsync);
        let _ = session.upsert(&[support::point("c", 9)], Durability::Interval);
        let _ = session.sync();
        let _ = session.upsert(&[support::point("a", 10)], Durability::Interval);
    };
    Procedure::new("interval", small_limits(), |session| session.put(&["a"], 0).unwrap(), run)
}

pub fn checkpoint() -> Procedure {
    let prepare = |session: &mut Session| {
        session.put(&["a", "b", "c"], 0).unwrap();
        session.checkpoint().unwrap();
        session.put(&["d"], 0).unwrap();
    };
    let run = |session: &mut Session| {
        let _ = session.put(&["e", "a"], 1);
        let _ = session.delete(&["b", "d"], Durability::Fsync);
        let _ = session.checkpoint();
        let _ = session.put(&["f"], 2);
        let _ = session.checkpoint();
        let _ = session.checkpoint();
        let _ = session.put(&["g"], 3);
    };
    Procedure::new("checkpoint", small_limits(), prepare, run)
}

/// Writes that are decided at their turn: each has an effect or none, and what has a key keeps its answer, whatever it was.
pub fn decided() -> Procedure {
    let prepare = |session: &mut Session| {
        session.put(&["a", "b", "c"], 0).unwrap();
        upsert_if(session, &["k"], Condition::Always, Some("first")).unwrap();
        session.checkpoint().unwrap();
    };
    let run = |session: &mut Session| {
        let _ = upsert_if(session, &["d", "a"], Condition::Absent, Some("second"));
        let _ = upsert_if(session, &["x"], Condition::Present, Some("third"));
        let _ = upsert_if(session, &["x"], Condition::Present, None);
        let _ = session.patch("a", r#"{"version":7,"more":[1]}"#, Durability::Fsync);
        // Spans frames, as the delete that takes it away does.
        let many: Vec<String> = (0..24).map(|i| format!("{i:0>40}")).collect();
        let _ = session.put(&many.iter().map(String::as_str).collect::<Vec<_>>(), 7);
        let _ = session.checkpoint();
        let _ = session.delete_matching(r#"{"version":7}"#, Durability::Fsync, |metadata| metadata.contains("\"version\":7"));
        // They may be retries, or the crash came before them.
        for key in ["first", "second", "third"] {
            let _ = upsert_if(session, &["e"], Condition::Always, Some(key));
        }
        let _ = session.checkpoint();
    };
    Procedure::new("conditions, keys, patches and filters", tiny_limits(), prepare, run)
}

fn upsert_if(session: &mut Session, ids: &[&str], condition: Condition, key: Option<&str>) -> Result<()> {
    let points: Vec<_> = ids.iter().map(|id| (support::point(id, 5), condition)).collect();
    session.upsert_if(&points, &WriteOptions::default(), key)
}

/// Checkpoints that write many small segments as one, and drop a dead one.
pub fn merge() -> Procedure {
    let prepare = |session: &mut Session| {
        for (version, id) in ["a", "b", "c", "d", "e", "f", "g"].iter().enumerate() {
            session.put(&[id], version as u64).unwrap();
            session.checkpoint().unwrap();
        }
    };
    let run = |session: &mut Session| {
        let _ = session.delete(&["c"], Durability::Fsync);
        let _ = session.put(&["h", "a"], 20);
        let _ = session.checkpoint();
        let _ = session.delete(&["a", "b", "d", "e", "f", "g", "h"], Durability::Fsync);
        let _ = session.checkpoint();
        let _ = session.put(&["i"], 21);
        let _ = session.checkpoint();
    };
    Procedure::new("merge", small_limits(), prepare, run)
}

/// A disk on which nothing fits any more: a delete and a checkpoint are paid by the reserve.
pub fn full_disk() -> Procedure {
    let limits = Limits { reserve_bytes: 24 << 10, ..small_limits() };
    let prepare = |session: &mut Session| {
        session.put(&["a", "b", "c", "d", "e", "f"], 0).unwrap();
        session.checkpoint().unwrap();
        session.put(&["g"], 0).unwrap();
        session.disk.set_capacity(Some(session.disk.used_bytes()));
    };
    let run = |session: &mut Session| {
        let _ = session.put(&["a"], 1);
        let _ = session.delete(&["b", "c", "d"], Durability::Fsync);
        let _ = session.checkpoint();
        let _ = session.put(&["e"], 2);
        let _ = session.delete(&["f"], Durability::Fsync);
    };
    Procedure::new("a full disk", limits, prepare, run)
}

#[test]
fn refused_write_leaves_no_file_behind() {
    let prepare = |session: &mut Session| {
        session.put(&["a"], 0).unwrap();
        session.sync().unwrap();
    };
    let procedure = Procedure::new("refused write", tiny_limits(), prepare, |_| ());
    let mut refused = 0;
    for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
        for n in 1.. {
            let disk = procedure.start.fork();
            let mut session = Session::open(&disk, &procedure.limits, procedure.history.clone(), Before::Kill).unwrap();
            let before = support::files_below(&disk, "/data".as_ref());
            disk.fail_at(n, fault);
            let result = session.put(&["b"], 1);
            if disk.faults_left() > 0 {
                break;
            }
            let after = support::files_below(&disk, "/data".as_ref());
            // A new log segment that a manifest names already is the next write's.
            let is_manifest = |path: &&PathBuf| path.to_string_lossy().contains("manifest");
            let has_segment = before.iter().filter(is_manifest).ne(after.iter().filter(is_manifest));
            if matches!(result, Err(Error::Io(_) | Error::Full(_))) && !has_segment {
                refused += 1;
                assert_eq!(after, before, "{fault:?} at {n}");
            }
        }
    }
    println!("{refused} writes were refused");
    assert!(refused >= 15, "{refused}");
}
