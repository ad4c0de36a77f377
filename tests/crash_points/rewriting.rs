//! The same for what rewrites an index while it is served: sealing, building, compacting, erasing.

use faiss_proxy::{Durability, IndexOptions, IndexSpec, Metric};

use super::procedure::{Procedure, small_limits};
use super::support::{self, Session};

/// So few rows are sealed that a handful of writes builds indexes and merges segments.
fn graph() -> IndexSpec {
    let options = IndexOptions { seal_rows: Some(4), ..IndexOptions::default() };
    IndexSpec { index_type: "HNSW8".to_owned(), options, ..support::spec(4, Metric::L2) }
}

fn put_and_checkpoint(session: &mut Session, ids: &[&str], version: u64) {
    let _ = session.put(ids, version);
    let _ = session.checkpoint();
}

/// A build over a sealed segment, one over several, and merging of what is built.
fn build(spec: &IndexSpec) -> Procedure {
    let prepare = |session: &mut Session| {
        for (version, ids) in [["a", "b", "c", "d"], ["e", "f", "g", "h"], ["i", "j", "k", "l"]].iter().enumerate() {
            put_and_checkpoint(session, ids, version as u64);
            session.settle_builds().unwrap();
        }
        session.delete(&["b", "f"], Durability::Fsync).unwrap();
    };
    let run = |session: &mut Session| {
        put_and_checkpoint(session, &["m", "n", "a", "e", "o"], 10);
        let _ = session.settle_builds();
        let _ = session.delete(&["c", "d", "g"], Durability::Fsync);
        put_and_checkpoint(session, &["p"], 11);
        put_and_checkpoint(session, &["q", "r", "s"], 12);
        let _ = session.settle_builds();
        let _ = session.put(&["t", "m"], 13);
    };
    Procedure::of(spec, "seal, build and merge", small_limits(), prepare, run)
}

fn compact(name: &str, spec: &IndexSpec) -> Procedure {
    let prepare = |session: &mut Session| {
        for (version, ids) in [["a", "b", "c", "d"], ["e", "f", "g", "h"]].iter().enumerate() {
            put_and_checkpoint(session, ids, version as u64);
        }
        session.settle_builds().unwrap();
        session.put(&["i", "a"], 5).unwrap();
    };
    let run = |session: &mut Session| {
        let _ = session.delete(&["b", "c"], Durability::Fsync);
        let _ = session.compact();
        let _ = session.delete(&["a", "d", "e", "f", "g", "h", "i"], Durability::Fsync);
        let _ = session.compact();
        let _ = session.put(&["j"], 6);
        let _ = session.compact();
    };
    Procedure::of(spec, name, small_limits(), prepare, run)
}

pub fn erase(name: &str, spec: &IndexSpec) -> Procedure {
    let prepare = |session: &mut Session| {
        put_and_checkpoint(session, &["a", "b", "c", "d", "e"], 1);
        session.settle_builds().unwrap();
        session.put(&["f", "a"], 2).unwrap();
    };
    let run = |session: &mut Session| {
        let _ = session.delete(&["b"], Durability::Fsync);
        let _ = session.erase();
        let _ = session.put(&["c", "g"], 3);
        let _ = session.erase();
        let _ = session.erase();
        let _ = session.put(&["h"], 4);
    };
    Procedure::of(spec, name, small_limits(), prepare, run)
}

pub fn rewritings() -> Vec<Procedure> {
    let exact = support::spec(4, Metric::L2);
    vec![
        build(&graph()),
        compact("compact a graph", &graph()),
        compact("compact", &exact),
        erase("erase in a graph", &graph()),
        erase("erase", &exact),
    ]
}
