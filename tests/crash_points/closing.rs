//! The same for what closes an index while others go on, and all of them.

use faiss_proxy::config::Limits;
use faiss_proxy::{Durability, Opening};

use super::procedure::{Procedure, small_limits};
use super::support::{self, Session};

/// Whatever nobody has is closed, with and without something that only the log has; then it is opened again.
fn budget() -> Procedure {
    let limits = Limits { memory_budget_bytes: 1, ..small_limits() };
    let prepare = |session: &mut Session| {
        session.put(&["a", "b"], 0).unwrap();
        session.checkpoint().unwrap();
    };
    let run = |session: &mut Session| {
        let _ = session.upsert(&[support::point("a", 1), support::point("c", 1)], Durability::Interval);
        if session.close_and_open_again().is_err() {
            return;
        }
        let _ = session.delete(&["b"], Durability::Interval);
        let _ = session.put(&["d"], 2);
        let _ = session.checkpoint();
        let _ = session.close_and_open_again();
    };
    Procedure { opening: Opening::Lazy, ..Procedure::new("closing over the budget", limits, prepare, run) }
}

fn store() -> Procedure {
    let run = |session: &mut Session| {
        let _ = session.put(&["a", "c"], 1);
        let _ = session.upsert(&[support::point("b", 1)], Durability::Interval);
        let _ = session.close();
        let _ = session.close();
    };
    Procedure::new("closing the store", small_limits(), |session| session.put(&["a", "b"], 0).unwrap(), run)
}

pub fn closings() -> Vec<Procedure> {
    vec![budget(), store()]
}
