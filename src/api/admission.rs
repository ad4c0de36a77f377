//! Who may work now, who waits, and who is turned away: every queue has a limit.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::Span;

use super::reply::Problem;

/// A bounded queue in front of the blocking threads.
///
/// The store blocks on disks and on other writers, and a search keeps a core busy: neither may happen on the threads that serve
/// sockets.
#[derive(Debug)]
pub struct Queue {
    /// Said to whom is turned away.
    full: &'static str,
    /// One for each call that runs or waits.
    places: Arc<Semaphore>,
    /// One for each call that runs.
    slots: Arc<Semaphore>,
}

impl Queue {
    pub fn new(running_max: usize, waiting_max: usize, full: &'static str) -> Self {
        Self { full, places: Arc::new(Semaphore::new(running_max + waiting_max)), slots: Arc::new(Semaphore::new(running_max)) }
    }

    /// Runs `work` on a blocking thread when its turn comes.
    ///
    /// Whoever waits may go away (the future is dropped): before the turn, nothing happens; after it, `work` runs to its end and
    /// holds its slot until then.
    ///
    /// # Errors
    /// 429 where the queue is full, else what `work` returns.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Problem> + Send + 'static,
    {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Problem::busy(self.full))?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| Problem::busy(self.full))?;
        let span = Span::current();
        let call = tokio::task::spawn_blocking(move || {
            let _held = (place, slot);
            span.in_scope(work)
        });
        match call.await {
            Ok(result) => result,
            Err(error) => Err(Problem::internal(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A call that has begun, and ends with 1 when it is released.
    async fn start(queue: &Arc<Queue>) -> (tokio::task::JoinHandle<Result<i32, Problem>>, mpsc::Sender<()>) {
        let (started, has_started) = tokio::sync::oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        let queue = Arc::clone(queue);
        let work = move || {
            let _ = started.send(());
            let _ = released.recv();
            Ok(1)
        };
        let call = tokio::spawn(async move { queue.run(work).await });
        has_started.await.unwrap();
        (call, release)
    }

    #[tokio::test]
    async fn a_full_queue_turns_away_and_serves_again_when_a_place_is_free() {
        let queue = Arc::new(Queue::new(1, 0, "full"));
        let (first, release) = start(&queue).await;
        assert_eq!(queue.run(|| Ok(2)).await.unwrap_err().status(), 429);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), 1);
        assert_eq!(queue.run(|| Ok(3)).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn work_that_panics_is_a_500_and_frees_its_place() {
        let queue = Queue::new(1, 0, "full");
        let panicked = queue.run::<(), _>(|| panic!("as the test wants")).await;
        assert_eq!(panicked.unwrap_err().status(), 500);
        assert_eq!(queue.run(|| Ok(1)).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn work_whose_caller_went_away_keeps_its_slot_to_the_end() {
        let queue = Arc::new(Queue::new(1, 0, "full"));
        let (caller, release) = start(&queue).await;
        caller.abort();
        assert!(caller.await.unwrap_err().is_cancelled());
        assert_eq!(queue.places.available_permits(), 0);
        release.send(()).unwrap();
        let _slot = queue.slots.acquire().await.unwrap();
    }
}
