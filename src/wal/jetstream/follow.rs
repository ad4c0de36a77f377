//! Who follows: an ordered consumer of the catalogue, and one of each stream of logs. A server pushes the newest message of each subject and then
//! all that come, counted, and says at intervals that it is still there. Whenever anything is missing, the consumer is made anew, which tells of
//! everything again: so nothing needs to be remembered, acknowledged or replicated.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Sender;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::cluster::entry_of;
use super::connection::{Connection, Done, OPERATION};
use super::streams::Stream;
use crate::wal::cluster::Told;

/// Before a consumer is made anew: the servers may have no leader, for seconds.
const PAUSE: Duration = Duration::from_millis(250);

/// The shortest interval at which a server says that it is there.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// So many intervals without a word, and the consumer is gone.
const HEARTBEATS_MISSED: u32 = 3;

/// So many tries without a consumer, and somebody should look. An election is over before.
const TRIES_QUIET: u32 = 60;

/// A task for each stream. They end when one of them finds that nobody receives.
pub(super) fn follow(connection: &Connection, told: Sender<Told>) {
    let audience = Arc::new(Audience { told, is_gone: AtomicBool::new(false) });
    for stream in Stream::all() {
        let follower = Follower {
            connection: connection.clone(),
            losses: connection.losses.clone(),
            stream,
            audience: Arc::clone(&audience),
            last_told: None,
            tries: 0,
        };
        connection.runtime.spawn(follower.run());
    }
}

/// Who is told.
#[derive(Debug)]
struct Audience {
    told: Sender<Told>,
    is_gone: AtomicBool,
}

impl Audience {
    fn tell(&self, told: Told) {
        if self.told.send(told).is_err() {
            self.is_gone.store(true, Relaxed);
        }
    }

    fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }
}

#[derive(Debug)]
struct Follower {
    connection: Connection,
    losses: watch::Receiver<u64>,
    stream: Stream,
    audience: Arc<Audience>,
    /// Of the catalogue. Said again where nothing else is to be said: a channel does not tell otherwise that nobody receives.
    last_told: Option<Told>,
    /// Since there was a consumer.
    tries: u32,
}

impl Follower {
    async fn run(mut self) {
        // The connection ends with whoever has it, and not before us.
        while !self.audience.is_gone() && self.losses.has_changed().is_ok() {
            if self.is_connected() {
                let why = self.consume().await;
                self.tries = self.tries.saturating_add(1);
                if self.tries == TRIES_QUIET {
                    tracing::warn!(stream = self.stream.name(), why, "cannot follow, and goes on trying");
                } else {
                    tracing::debug!(stream = self.stream.name(), why, "following anew");
                }
            }
            self.tell_again();
            let pause = if self.is_connected() { PAUSE } else { self.heartbeat() };
            let _ = timeout(pause, self.losses.changed()).await;
        }
    }

    /// What is asked without a connection is sent when there is one, however late: so nothing is.
    fn is_connected(&self) -> bool {
        self.connection.client.connection_state() == State::Connected
    }

    /// At which interval a server says that it is there, where it has nothing else to say.
    fn heartbeat(&self) -> Duration {
        self.connection.patience.answer.max(HEARTBEAT_MIN)
    }

    /// Tells what one consumer gives, until it has to be made anew, or nobody receives: gives why.
    async fn consume(&mut self) -> String {
        let losses = *self.losses.borrow_and_update();
        let (answer, subjects) = (self.connection.patience.answer, self.stream.subjects_of_indices());
        // As the leader has it: the server that the consumer comes to be on may be behind.
        let complete_at = match self.stream {
            Stream::Catalogue => match self.connection.newest_by(&subjects, Instant::now()).await {
                Ok(newest) => Some(newest.map_or(0, |newest| newest.sequence)),
                Err(error) => return error.to_string(),
            },
            Stream::Logs(_) | Stream::Nodes => None,
        };
        let inbox = self.connection.client.new_inbox();
        // Before there is anything to come to it.
        let deliveries = match timeout(answer, self.connection.client.subscribe(inbox.clone())).await {
            Ok(Ok(deliveries)) => deliveries,
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return "no room to send".to_owned(),
        };
        let name = uuid::Uuid::new_v4().to_string();
        // Of one that is forgotten, by us or with its answer, the server lets go a few seconds after nobody listens to it.
        let wanted = json!({
            "stream_name": subjects.stream,
            "config": {
                "name": name, "deliver_subject": inbox, "filter_subject": subjects.name, "deliver_policy": "last_per_subject",
                "ack_policy": "none", "replay_policy": "instant", "mem_storage": true, "num_replicas": 1, "flow_control": true,
                "idle_heartbeat": u64::try_from(self.heartbeat().as_nanos()).unwrap_or(u64::MAX),
                "headers_only": matches!(self.stream, Stream::Logs(_)),
            },
        });
        let consumer = format!("{}.{name}", subjects.stream);
        let why = match self.ask(format!("$JS.API.CONSUMER.CREATE.{consumer}"), &wanted).await {
            Ok(()) => self.take_all(deliveries, losses, complete_at).await,
            Err(why) => why,
        };
        if self.is_connected() {
            let _ = self.ask(format!("$JS.API.CONSUMER.DELETE.{consumer}"), &json!({})).await;
        }
        why
    }

    /// Asks once.
    async fn ask(&self, request: String, wanted: &Value) -> Result<(), String> {
        let answer = self.connection.ask_again::<Done>(request, wanted, Instant::now()).await?;
        answer.map(|Done {}| ()).map_err(|refusal| refusal.to_string())
    }

    async fn take_all(&mut self, mut deliveries: Subscriber, losses: u64, mut complete_at: Option<u64>) -> String {
        self.tries = 0;
        let (mut count, mut heard, silence) = (0, Instant::now(), self.heartbeat() * HEARTBEATS_MISSED);
        if complete_at.take_if(|at| *at == 0).is_some() {
            self.tell(Told::Complete);
        }
        while !self.audience.is_gone() {
            let message = tokio::select! {
                message = deliveries.next() => message,
                changed = self.losses.changed() => {
                    if changed.is_err() || *self.losses.borrow_and_update() != losses {
                        return "the connection was lost".to_owned();
                    }
                    continue;
                }
                () = sleep_until(heard + silence) => return "the server is silent".to_owned(),
            };
            let Some(message) = message else { return "the subscription ended".to_owned() };
            heard = Instant::now();
            match message.status {
                None => {
                    let Some(delivered) = message.reply.as_deref().and_then(Delivered::of) else {
                        return format!("a message that does not say which it is: {:?}", message.reply);
                    };
                    count += 1;
                    if delivered.count != count {
                        return format!("the message {count} is missing before {}", delivered.count);
                    }
                    match self.told(&message, delivered.sequence) {
                        Ok(told) => self.tell(told),
                        Err(why) => {
                            tracing::warn!(subject = message.subject.as_str(), sequence = delivered.sequence, why, "passed over");
                        }
                    }
                    if complete_at.take_if(|at| delivered.sequence >= *at).is_some() {
                        self.tell(Told::Complete);
                    }
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {
                    // A question how far we are, by itself or because there was no answer to one.
                    let stalled = header(&message, "Nats-Consumer-Stalled").map(str::to_owned);
                    if let Some(question) = message.reply.as_deref().map(str::to_owned).or(stalled) {
                        let answered = self.connection.client.publish(question, Bytes::new());
                        let _ = timeout(self.connection.patience.answer, answered).await;
                    }
                    if header(&message, "Nats-Last-Consumer").and_then(|at| at.parse().ok()).is_some_and(|at: u64| at != count) {
                        return format!("what came behind the message {count} is missing");
                    }
                    self.tell_again();
                }
                Some(status) => return format!("the server says {status}"),
            }
        }
        "nobody receives".to_owned()
    }

    fn tell(&mut self, told: Told) {
        if self.stream == Stream::Catalogue {
            self.last_told = Some(told.clone());
        }
        self.audience.tell(told);
    }

    fn tell_again(&self) {
        if let Some(told) = &self.last_told {
            self.audience.tell(told.clone());
        }
    }

    fn told(&self, message: &Message, sequence: u64) -> Result<Told, String> {
        let (tenant, index) = self.stream.index_of(&message.subject).ok_or("it is of no index")?;
        Ok(match self.stream {
            Stream::Catalogue => {
                let entry = entry_of(header(message, OPERATION), sequence, message.payload.to_vec())?;
                Told::Entry { tenant, index, entry }
            }
            // Of the nodes' stream, no subject is of an index.
            Stream::Logs(_) | Stream::Nodes => Told::Frame { tenant, index, sequence },
        })
    }
}

fn header<'a>(message: &'a Message, name: &'static str) -> Option<&'a str> {
    Some(message.headers.as_ref()?.get(name)?.as_str())
}

/// Which message a consumer gives, by the subject to which it would be acknowledged.
#[derive(Debug, PartialEq, Eq)]
struct Delivered {
    /// In the stream.
    sequence: u64,
    /// Of this consumer: 1, 2, 3, …
    count: u64,
}

impl Delivered {
    /// `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<count>.<time>.<pending>`, or the same with domain and account before the stream, and
    /// perhaps more behind.
    fn of(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let at = match tokens.len() {
            7 => 3,
            9.. => 5,
            _ => return None,
        };
        let number = |at: usize| u64::from_str(tokens.get(at)?).ok();
        Some(Self { sequence: number(at)?, count: number(at + 1)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_says_which_it_is_in_both_forms() {
        let expected = Some(Delivered { sequence: 42, count: 7 });
        assert_eq!(Delivered::of("$JS.ACK.faiss-log-0.name.1.42.7.1764400000000000000.3"), expected);
        assert_eq!(Delivered::of("$JS.ACK._.ACCHASH.faiss-log-0.name.1.42.7.1764400000000000000.3"), expected);
        assert_eq!(Delivered::of("$JS.ACK.hub.ACCHASH.faiss-log-0.name.1.42.7.1764400000000000000.3.random"), expected);
        for strange in [
            "",
            "$JS.ACK.",
            "$JS.FC.faiss-log-0.name.x",
            "$JS.ACK.a.b.1.x.7.1.3",
            "$JS.ACK.a.b.1.42.7.1",
            "$JS.ACK.a.b.c.1.42.7.1.3",
        ] {
            assert_eq!(Delivered::of(strange), None, "{strange}");
        }
    }
}
