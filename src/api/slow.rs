//! Calls that take long: a line in the log for each, with what was done for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use warp::reply::Response;

use super::Server;
use super::admission::{Queue, Turn};
use super::listen::STAGES;
use super::reply::Problem;
use crate::engine::Index;
use crate::plan::Plan;
use crate::types::IndexId;

/// The target of these lines.
const SLOW: &str = "faiss_proxy::slow";

/// What an index did for a call.
#[derive(Debug, Default)]
pub struct Done {
    /// Points that were asked for.
    pub k: usize,
    pub plan: Plan,
    /// Time in the engine alone.
    engine: Duration,
}

impl Done {
    /// Has the engine do its part of a call.
    pub fn by_engine<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let done = tracing::info_span!(target: STAGES, "engine").in_scope(work);
        self.engine += began.elapsed();
        done
    }
}

/// Has a call of an index done when its turn comes in the queue. Where that takes [`ServerConfig::slow_call`](super::ServerConfig) or more from now on, the log
/// says so.
///
/// # Errors
/// Those of [`Queue::run`].
pub async fn watched<F>(
    server: &Arc<Server>,
    queue: &Queue,
    turn: Turn,
    call: &'static str,
    id: IndexId,
    work: F,
) -> Result<Response, Problem>
where
    F: FnOnce(&Server, &Index, &mut Done) -> Result<Response, Problem> + Send + 'static,
{
    let (came, tenant, server) = (Instant::now(), turn.tenant.clone(), Arc::clone(server));
    let work = move || {
        let queued = came.elapsed();
        let mut done = Done::default();
        let index = server.store.index(&tenant, id)?;
        let response = work(&server, &index, &mut done)?;
        let total = came.elapsed();
        if total >= server.config.slow_call {
            tell(call, id, &index, &done, total, queued);
        }
        Ok(response)
    };
    queue.run(turn, work).await
}

/// The tenant and the request's id are those of the span that this is called in.
fn tell(call: &str, id: IndexId, index: &Index, done: &Done, total: Duration, queued: Duration) {
    let milliseconds = |time: Duration| time.as_micros() as f64 / 1e3;
    let Done { k, plan, engine } = done;
    tracing::warn!(
        target: SLOW,
        call,
        index = %id,
        index_type = index.info().factory,
        k,
        total_ms = milliseconds(total),
        queue_ms = milliseconds(queued),
        engine_ms = milliseconds(*engine),
        plan.matched,
        plan.index_segments,
        plan.index_rows,
        plan.matches_segments,
        plan.matches_rows,
        plan.scan_segments,
        plan.scan_rows,
        plan.memory_rows,
        plan.second_looks,
        plan.ef,
        plan.nprobe,
        "a slow call"
    );
}
