//! How long a connection has had no request under way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The requests of a connection that are under way.
#[derive(Clone, Debug)]
pub struct Activity {
    requests: Arc<watch::Sender<usize>>,
}

impl Activity {
    pub fn new() -> Self {
        Self { requests: Arc::new(watch::Sender::new(0)) }
    }

    /// The same future, counted until it ends or is dropped.
    pub fn during<F: Future>(&self, request: F) -> impl Future<Output = F::Output> + use<F> {
        self.requests.send_modify(|requests| *requests += 1);
        let counted = Counted(Arc::clone(&self.requests));
        async move {
            let _counted = counted;
            request.await
        }
    }

    /// Ready when no request was under way for as long as this.
    pub fn idle_for(&self, time: Duration) -> impl Future<Output = ()> + use<> {
        let mut requests = self.requests.subscribe();
        async move {
            loop {
                // The sender lives as long as the connection.
                if requests.wait_for(|requests| *requests == 0).await.is_err() || timeout(time, requests.changed()).await.is_err()
                {
                    return;
                }
            }
        }
    }
}

struct Counted(Arc<watch::Sender<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_when_nothing_was_under_way_for_that_long_and_not_before() {
        let activity = Activity::new();
        let mut idle = pin!(activity.idle_for(Duration::from_secs(10)));
        let (end, ended) = oneshot::channel::<()>();
        let request = tokio::spawn(activity.during(ended));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(idle.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending, "a request is under way");
        end.send(()).unwrap();
        request.await.unwrap().unwrap();
        assert_eq!(idle.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending, "it has only just ended");
        // The paused clock goes on by itself where everybody waits.
        idle.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_dropped_is_under_way_no_more() {
        let activity = Activity::new();
        drop(activity.during(std::future::pending::<()>()));
        activity.idle_for(Duration::from_secs(10)).await;
    }
}
