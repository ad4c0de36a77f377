use std::sync::mpsc;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

const LONG: Duration = Duration::from_secs(3_600);

fn turn(tenant: &str) -> Turn {
    Turn { tenant: TenantId::new(tenant).unwrap(), deadline: None }
}

/// A call that has begun, and ends with 1 when it is released.
async fn start(queue: &Arc<Queue>) -> (JoinHandle<Result<i32, Problem>>, mpsc::Sender<()>) {
    let (started, has_started) = oneshot::channel();
    let (release, released) = mpsc::channel::<()>();
    let queue = Arc::clone(queue);
    let work = move || {
        let _ = started.send(());
        let _ = released.recv();
        Ok(1)
    };
    let call = tokio::spawn(async move { queue.run(turn("t"), work).await });
    has_started.await.unwrap();
    (call, release)
}

/// Calls of a tenant that wait, in their order; each says its tenant's name when it runs.
async fn wait(
    queue: &Arc<Queue>,
    tenant: &'static str,
    count: usize,
    said: &mpsc::Sender<&'static str>,
) -> Vec<JoinHandle<Result<(), Problem>>> {
    let mut calls = Vec::new();
    for _ in 0..count {
        let before = queue.lines.lock().tickets;
        let (waits, said) = (Arc::clone(queue), said.clone());
        let work = move || {
            said.send(tenant).unwrap();
            Ok(())
        };
        calls.push(tokio::spawn(async move { waits.run(turn(tenant), work).await }));
        // Two that are spawned at once may come in any order.
        while queue.lines.lock().tickets == before {
            tokio::task::yield_now().await;
        }
    }
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_turns_away_and_serves_again_when_a_place_is_free() {
    let queue = Arc::new(Queue::new("calls", 1, 0, LONG));
    let (first, release) = start(&queue).await;
    assert_eq!(queue.run(turn("t"), || Ok(2)).await.unwrap_err().status(), 429);
    release.send(()).unwrap();
    // The slot is free before its caller is answered.
    assert_eq!(first.await.unwrap().unwrap(), 1);
    assert_eq!(queue.run(turn("t"), || Ok(3)).await.unwrap(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_panics_is_a_500_and_frees_its_place() {
    let queue = Queue::new("calls", 1, 0, LONG);
    let panicked = queue.run::<()>(turn("t"), || panic!("as the test wants")).await;
    assert_eq!(panicked.unwrap_err().status(), 500);
    assert_eq!(queue.run(turn("t"), || Ok(1)).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_whose_caller_went_away_keeps_its_place_to_the_end() {
    let queue = Arc::new(Queue::new("calls", 1, 0, LONG));
    let (caller, release) = start(&queue).await;
    caller.abort();
    assert_eq!(queue.lines.lock().running, 1);
    release.send(()).unwrap();
    // It was done before anything could be dropped.
    assert_eq!(caller.await.unwrap().unwrap(), 1);
    assert_eq!(queue.lines.lock().running, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_was_given_to_a_caller_who_went_away_is_given_on() {
    let queue = Arc::new(Queue::new("calls", 1, 10, LONG));
    let place = queue.place(&turn("t")).await.unwrap();
    let turn = turn("t");
    let mut gone = Box::pin(queue.place(&turn));
    assert!(timeout(Duration::ZERO, &mut gone).await.is_err());
    let (said, hears) = mpsc::channel();
    let stays = wait(&queue, "stays", 1, &said).await;
    // Its turn is told to the first, who does not look any more.
    drop(place);
    drop(gone);
    for call in stays {
        call.await.unwrap().unwrap();
    }
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["stays"]);
    assert_eq!(queue.load(), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_sends_many_calls_makes_another_wait_for_one_of_them() {
    let queue = Arc::new(Queue::new("calls", 1, 1_000, LONG));
    let (first, release) = start(&queue).await;
    let (said, hears) = mpsc::channel();
    let mut calls = wait(&queue, "flood", 100, &said).await;
    calls.extend(wait(&queue, "quiet", 2, &said).await);
    release.send(()).unwrap();
    first.await.unwrap().unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let order: Vec<&str> = hears.try_iter().collect();
    assert_eq!(order.len(), 102);
    assert_eq!(order[..5], ["flood", "quiet", "flood", "quiet", "flood"]);
    assert_eq!(queue.lines.lock().waiting, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_full_queue_the_longest_line_makes_room_for_a_shorter_one() {
    let queue = Arc::new(Queue::new("calls", 1, 3, LONG));
    let (first, release) = start(&queue).await;
    let (said, hears) = mpsc::channel();
    let mut flood = wait(&queue, "flood", 3, &said).await;
    assert_eq!(queue.run(turn("flood"), || Ok(())).await.unwrap_err().status(), 429);
    let quiet = wait(&queue, "quiet", 1, &said).await;
    // Two lines of two and one: no more room is made.
    assert_eq!(queue.run(turn("quiet"), || Ok(())).await.unwrap_err().status(), 429);
    assert_eq!(flood.pop().unwrap().await.unwrap().unwrap_err().status(), 429);
    release.send(()).unwrap();
    first.await.unwrap().unwrap();
    for call in flood.into_iter().chain(quiet) {
        call.await.unwrap().unwrap();
    }
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["flood", "quiet", "flood"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_goes_away_or_whose_deadline_comes_leaves_the_line() {
    let queue = Arc::new(Queue::new("calls", 1, 10, LONG));
    let (first, release) = start(&queue).await;
    let (said, hears) = mpsc::channel();
    for call in wait(&queue, "gone", 3, &said).await {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    let stays = wait(&queue, "stays", 1, &said).await;
    for deadline in [Instant::now(), Instant::now() + Duration::from_millis(5)] {
        let late = Turn { deadline: Some(deadline), ..turn("late") };
        let problem = queue.run(late, || -> Result<(), Problem> { unreachable!("its deadline came") }).await.unwrap_err();
        assert_eq!(problem.status(), 504);
    }
    let left = |lines: &Lines| (lines.waiting, lines.turns.len());
    assert_eq!(left(&queue.lines.lock()), (1, 1));
    release.send(()).unwrap();
    first.await.unwrap().unwrap();
    for call in stays {
        call.await.unwrap().unwrap();
    }
    assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["stays"]);
    let on_time = Turn { deadline: Some(Instant::now() + LONG), ..turn("t") };
    assert_eq!(queue.run(on_time, || Ok(1)).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_would_wait_too_long_is_turned_away_at_once_and_told_when_to_come_back() {
    let queue = Arc::new(Queue::new("calls", 2, 100, Duration::from_secs(10)));
    let (first, release_first) = start(&queue).await;
    let (second, release_second) = start(&queue).await;
    queue.lines.lock().call_seconds = 8.0;
    let (said, _hears) = mpsc::channel();
    let waiting = wait(&queue, "t", 2, &said).await;
    // Two stand before it: 8 s x 3 / 2.
    let problem = queue.run(turn("t"), || Ok(())).await.unwrap_err();
    assert_eq!(problem.status(), 429);
    assert_eq!(problem.into_response("").headers()["retry-after"], "12");
    // One of another tenant has its turn before them.
    let other = wait(&queue, "other", 1, &said).await;
    release_first.send(()).unwrap();
    release_second.send(()).unwrap();
    for call in [first, second] {
        call.await.unwrap().unwrap();
    }
    for call in waiting.into_iter().chain(other) {
        call.await.unwrap().unwrap();
    }
}
