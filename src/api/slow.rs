//! Calls that take long: a line in the log for each, with what was done for it.

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
    /// When it had its turn.
    began: Option<Instant>,
    /// Time in the engine alone.
    engine: Duration,
}

impl Done {
    /// It has its turn, if it has not had it before.
    pub fn begin(&mut self) {
        self.began.get_or_insert_with(Instant::now);
    }

    /// Has the engine do its part of a call.
    pub fn by_engine<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        self.began.get_or_insert(began);
        let done = tracing::info_span!(target: STAGES, "engine").in_scope(work);
        self.engine += began.elapsed();
        done
    }
}

/// A call of an index, timed from now on.
#[derive(Debug)]
pub struct Watch {
    call: &'static str,
    id: IndexId,
    came: Instant,
}

impl Watch {
    pub fn new(call: &'static str, id: IndexId) -> Self {
        Self { call, id, came: Instant::now() }
    }

    /// The call is done. Where that took [`ServerConfig::slow_call`](super::ServerConfig) or more, the log says so.
    pub fn end(&self, server: &Server, index: &Index, done: &Done) {
        let total = self.came.elapsed();
        if total >= server.config.slow_call {
            let queued = done.began.map_or(Duration::ZERO, |began| began - self.came);
            tell(self.call, self.id, index, done, total, queued);
        }
    }
}

/// Has a call of an index done when its turn comes in the queue, and watches it.
///
/// # Errors
/// Those of [`Queue::run`].
pub async fn watched<F>(
    server: &Server,
    queue: &Queue,
    turn: Turn,
    call: &'static str,
    id: IndexId,
    work: F,
) -> Result<Response, Problem>
where
    F: FnOnce(&Server, &Index, &mut Done) -> Result<Response, Problem>,
{
    let (watch, tenant) = (Watch::new(call, id), turn.tenant.clone());
    let work = || {
        let mut done = Done::default();
        done.begin();
        let index = server.store.index(&tenant, id)?;
        let response = work(server, &index, &mut done)?;
        watch.end(server, &index, &done);
        Ok(response)
    };
    queue.run(turn, work).await
}

/// The tenant and the request's id are those of the span that this is called in.
fn tell(call: &str, id: IndexId, index: &Index, done: &Done, total: Duration, queued: Duration) {
    let milliseconds = |time: Duration| time.as_micros() as f64 / 1e3;
    let Done { k, plan, engine, .. } = done;
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
