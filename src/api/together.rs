//! Searches that wait for their turns and are done as one: to scan rows for several queries takes little longer than for one.

use std::collections::{HashMap, VecDeque};
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot::{self, error::RecvError};

use super::admission::{Queue, Turn, block_if};
use super::reply::Problem;
use super::slow::Done;
use crate::engine::Index;
use crate::error::Error;
use crate::plan::Effort;
use crate::types::{IndexId, Query, QueryHits};

/// Floats that a search scans from which on others join it: 0.1 ms.
const SHARED_MIN: u64 = 1 << 19;

/// Searches that are done as one: more would have others wait longer for their turn than it gains (docs/performance.md).
const TOGETHER_MAX: usize = 8;

/// Floats that a search reads from which on the thread does not serve sockets meanwhile: some milliseconds.
const LONG: u64 = 1 << 25;

/// What is told to a search.
type Answer = Result<QueryHits, Error>;

/// The searches of each index that scan it and have not begun, in the order in which they came.
#[derive(Debug, Default)]
pub struct Together {
    waiting: Mutex<HashMap<IndexId, VecDeque<Waiting>>>,
    numbers: AtomicU64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    query: Query,
    tell: oneshot::Sender<Answer>,
}

/// A search among those that wait. Dropped, it is none of them any more.
struct Asked<'a> {
    together: &'a Together,
    index: IndexId,
    number: u64,
    told: oneshot::Receiver<Answer>,
}

impl Together {
    /// Searches an index when its turn comes, or another's with which it is done.
    ///
    /// # Errors
    /// Those of [`Queue::run`], and of the index.
    pub async fn search(
        &self,
        queue: &Queue,
        turn: &Turn,
        index: &Arc<Index>,
        query: Query,
        done: &mut Done,
    ) -> Result<QueryHits, Problem> {
        let Effort { scanned, indexed } = index.effort(&query);
        // Four more take as long again.
        let is_long = |count: u64| scanned.saturating_mul(3 + count) / 4 + indexed.saturating_mul(count) > LONG;
        if query.as_of_lsn.is_some() || scanned < SHARED_MIN.max(indexed) {
            let is_long = is_long(1) || query.as_of_lsn.is_some();
            let work = || Ok(block_if(is_long, || done.by_engine(|| index.search_planned(&query)))?);
            return queue.run_briefly(turn, work).await;
        }
        let (mut asked, came) = (self.ask(index.id(), query), Instant::now());
        let place = tokio::select! {
            biased;
            answer = &mut asked.told => {
                done.begin();
                queue.has_waited(came.elapsed());
                return answered(answer);
            }
            place = queue.place(turn) => place?,
        };
        place.let_others_in().await;
        let Some(group) = asked.take() else {
            drop(place);
            return answered((&mut asked.told).await);
        };
        place.work(|| {
            let (queries, tell): (Vec<Query>, Vec<_>) = group.into_iter().map(|one| (one.query, one.tell)).unzip();
            let answers = block_if(is_long(queries.len() as u64), || done.by_engine(|| index.search_each(&queries)));
            // Who is gone needs no answer.
            tell.into_iter().zip(answers).for_each(|(tell, answer)| drop(tell.send(answer)));
            Ok(())
        })?;
        answered((&mut asked.told).await)
    }

    fn ask(&self, index: IndexId, query: Query) -> Asked<'_> {
        let (number, (tell, told)) = (self.numbers.fetch_add(1, Relaxed), oneshot::channel());
        self.waiting.lock().entry(index).or_default().push_back(Waiting { number, query, tell });
        Asked { together: self, index, number, told }
    }
}

impl Asked<'_> {
    /// This search, and the oldest of those that can be done with it; nothing where it is being done with another.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut all = self.together.waiting.lock();
        let waiting = all.get_mut(&self.index)?;
        let own = waiting.remove(waiting.iter().position(|one| one.number == self.number)?)?;
        let others = waiting.drain(..waiting.len().min(TOGETHER_MAX - 1));
        let group = iter::once(own).chain(others).collect();
        if waiting.is_empty() {
            all.remove(&self.index);
        }
        Some(group)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut all = self.together.waiting.lock();
        let Some(waiting) = all.get_mut(&self.index) else { return };
        waiting.retain(|one| one.number != self.number);
        if waiting.is_empty() {
            all.remove(&self.index);
        }
    }
}

fn answered(told: Result<Answer, RecvError>) -> Result<QueryHits, Problem> {
    Ok(told.map_err(|_| Problem::internal(&"the search that this one was done with panicked"))??)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::{Durability, IndexSpec, TenantId};
    use crate::{Store, StoreOptions};

    /// More floats than [`SHARED_MIN`].
    const ROWS: usize = 1_100;
    const DIMENSION: usize = 512;

    fn vector(seed: usize) -> Vec<f32> {
        (0..DIMENSION).map(|i| ((seed * 31 + i * 17) % 101) as f32 - 50.0).collect()
    }

    fn index(store: &Store, tenant: &TenantId) -> Arc<Index> {
        let spec = IndexSpec { name: "flat".into(), dimension: DIMENSION, index_type: "Flat".into(), ..IndexSpec::default() };
        let index = store.create_index(tenant, &spec).unwrap();
        let mut batch = index.batch();
        for row in 0..ROWS {
            batch.push(&format!("v{row}"), &vector(row), "{}").unwrap();
        }
        index.upsert(batch, Durability::Interval).unwrap();
        index
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn searches_that_wait_are_done_with_the_first_of_them_and_answered_each_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions::new(dir.path())).unwrap();
        let turn = Turn { tenant: TenantId::new("t").unwrap(), deadline: None };
        let (index, queue) = (index(&store, &turn.tenant), Arc::new(Queue::new("searches", 1, 100, Duration::from_secs(3_600))));
        let together = Arc::new(Together::default());
        let place = queue.place(&turn).await.unwrap();
        let query = |at: usize| {
            // One of them is wrong, and one wants more than the others.
            let k = [0, 3, 3, 3, 7, 3][at];
            Query { vector: vector(at * 7), k, ..Query::default() }
        };
        let ask = |at| {
            let (queue, together, index, turn) = (Arc::clone(&queue), Arc::clone(&together), Arc::clone(&index), turn.clone());
            tokio::spawn(async move {
                let mut done = Done::default();
                let answer = together.search(&queue, &turn, &index, query(at), &mut done).await;
                (answer, format!("{done:?}").contains("engine: 0ns"))
            })
        };
        let asked: Vec<_> = (0..6).map(ask).collect();
        let gone = ask(1);
        while queue.load().1 < 7 {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        drop(place);
        let mut rode_along = 0;
        for (at, asked) in asked.into_iter().enumerate() {
            let (answer, was_anothers) = asked.await.unwrap();
            rode_along += usize::from(was_anothers);
            match answer {
                Ok(QueryHits { hits, .. }) => assert_eq!(hits, index.search(&query(at)).unwrap()),
                Err(problem) => assert_eq!((at, problem.status().as_u16()), (0, 422)),
            }
        }
        assert_eq!(rode_along, 5);
        assert_eq!(queue.load(), (0, 0));
        assert!(together.waiting.lock().is_empty());
    }
}
