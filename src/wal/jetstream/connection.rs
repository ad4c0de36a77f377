//! What is asked of the servers, and what their answers mean. The protocol is JSON over core NATS: `$JS.API…`.
//!
//! Everything here is async and stays here: who calls blocks on it, from a thread that is none of the runtime's.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use async_nats::{Client, ConnectErrorKind, Event, HeaderMap, StatusCode};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::access::Access;
use super::frames::Message;
use super::vain::Vain;
use crate::error::{Error, Result};

/// Of the server, as (major, minor). 2.12 is the first that syncs its Raft log too under `sync_interval: always`, without which an acknowledged
/// write may be in the page caches of a majority only (docs/decisions/0031-jetstream-layout.md). Reading in batches, [`Connection::batch`],
/// came with 2.11.
const SERVER_OLDEST: (i64, i64) = (2, 12);

/// How long after a refusal that will pass the same is sent again.
const PAUSE: Duration = Duration::from_millis(2);

/// How long after nobody took a request: while a leader is elected, which takes seconds.
pub(super) const PAUSE_WITHOUT_LEADER: Duration = Duration::from_millis(50);

/// How long after none of them answered servers are tried again that have never answered.
const PAUSE_WITHOUT_SERVER: Duration = Duration::from_millis(250);

/// Bounds what of a batch is in memory.
const BATCH_BYTES: usize = 8 << 20;

const BATCH_MESSAGES: usize = 256;

const MESSAGE_ID: &str = "Nats-Msg-Id";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// Of which subject, where not of the message's own.
const EXPECTED_OF: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
const ROLLUP: &str = "Nats-Rollup";
/// What a message of a KV bucket is, where it is no value.
pub(super) const OPERATION: &str = "KV-Operation";

/// The codes of errors that mean something here; `server/errors.json` of nats-server has them all.
pub(super) mod code {
    /// Wrong last sequence: somebody else wrote.
    pub(in crate::wal::jetstream) const WRONG_SEQUENCE: u32 = 10071;
    /// The same without telling which is right: a write before this one is still in flight.
    pub(in crate::wal::jetstream) const IN_FLIGHT: u32 = 10164;
    /// The message with this id is itself still in flight.
    pub(in crate::wal::jetstream) const SAME_IN_FLIGHT: u32 = 10158;
    pub(in crate::wal::jetstream) const NO_MESSAGE: u32 = 10037;
    /// JetStream is not available for the moment: whoever says it may be about to lose the lead, with our message on its way.
    pub(in crate::wal::jetstream) const NOT_NOW: u32 = 10008;
    /// Account limits, resources, storage resources: seen before anything is stored.
    pub(in crate::wal::jetstream) const FULL: [u32; 3] = [10002, 10023, 10047];
    /// A leader that cannot store, by when the others may have.
    pub(in crate::wal::jetstream) const STORE_FAILED: u32 = 10077;
    pub(in crate::wal::jetstream) const NO_STREAM: u32 = 10059;
    /// There is a stream of this name that is configured otherwise.
    pub(in crate::wal::jetstream) const STREAM_IS_OTHER: u32 = 10058;
    /// Another stream takes some of the subjects.
    pub(in crate::wal::jetstream) const SUBJECTS_TAKEN: u32 = 10065;
    /// No suitable peers, too few resources, replicas of a server that stands alone.
    pub(in crate::wal::jetstream) const TOO_FEW_SERVERS: [u32; 3] = [10005, 10023, 10074];
}

/// How long a log waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For one answer, before the same is asked again: an answer may be lost.
    pub(crate) answer: Duration,
    /// From the beginning of a call on, the same is asked again for so long.
    pub(crate) call: Duration,
}

impl Default for Patience {
    /// A publish takes milliseconds, and a second under load; an election took up to 9 s (docs/decisions/0031-jetstream-layout.md).
    fn default() -> Self {
        Self { answer: Duration::from_secs(2), call: Duration::from_secs(30) }
    }
}

/// A connection to the servers, for any number of logs. Cloning is cheap.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(super) runtime: Handle,
    pub(super) client: Client,
    pub(super) patience: Patience,
    /// How often it was lost. Says so too when it is there again.
    pub(super) losses: watch::Receiver<u64>,
    vain: Arc<Vain>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// A subject of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) stream: String,
    pub(crate) name: String,
}

impl Subject {
    /// How messages name it: where else a file's name would stand.
    pub(super) fn path(&self) -> PathBuf {
        Path::new("nats:").join(&self.stream).join(&self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// With this sequence.
    At(u64),
    /// Not stored: somebody else's message is behind the one that was named.
    Moved,
}

/// An answer of the JetStream API: what was asked for, or an error.
#[derive(Debug, Deserialize)]
struct Answer<T> {
    error: Option<Refusal>,
    #[serde(flatten)]
    found: Option<T>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) err_code: u32,
    #[serde(default)]
    description: String,
}

#[derive(Debug, Deserialize)]
struct Stored {
    seq: u64,
}

#[derive(Debug, Deserialize)]
struct Got {
    message: GotMessage,
}

#[derive(Debug, Deserialize)]
struct GotMessage {
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

/// Where nothing is to be known but that it was done.
#[derive(Debug, Deserialize)]
pub(super) struct Done {}

/// Why there is no answer.
#[derive(Debug)]
enum Silence {
    /// Nobody took the request: it was not done.
    NotTaken(String),
    /// It may have been done, or may be yet.
    NoAnswer(String),
    /// It can never be sent.
    NotSent(String),
}

impl Connection {
    /// Connects to the first server that answers; later to whichever does. Where none does, it may be about to: that is waited for. The runtime has
    /// threads of its own that drive it.
    ///
    /// # Errors
    /// [`Error::Io`]: none answers, they do not take what we say of ourselves, or one is older than 2.12.
    ///
    /// # Panics
    /// As every call here, on a thread that is running the runtime's tasks: it would wait for itself.
    pub(crate) fn connect(runtime: &Handle, access: &Access, patience: Patience) -> Result<Self> {
        let name = access.urls.join(",");
        let failed = |kind, why: String| Error::io("connect to", Path::new(&name), io::Error::new(kind, why));
        let (lost, losses) = watch::channel(0);
        let lost = Arc::new(lost);
        let connecting = async {
            let deadline = Instant::now() + patience.call;
            let mut tries = 0;
            loop {
                let lost = Arc::clone(&lost);
                let options = access.options().connection_timeout(patience.answer).event_callback(move |event| {
                    lost.send_modify(|count| *count += u64::from(matches!(event, Event::Disconnected)));
                    std::future::ready(())
                });
                let error = match options.connect(access.urls.as_slice()).await {
                    Ok(client) => return Ok(client),
                    Err(error) => error,
                };
                // Of TLS: a certificate that is not the right one, ours or theirs.
                let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
                let may_pass = matches!(error.kind(), ConnectErrorKind::Io | ConnectErrorKind::Dns | ConnectErrorKind::TimedOut)
                    && cause != Some(io::ErrorKind::InvalidData);
                if !may_pass || Instant::now() + PAUSE_WITHOUT_SERVER >= deadline {
                    return Err(error);
                }
                if tries == 0 {
                    tracing::warn!(%error, servers = name, "no nats-server answers yet; trying for {:?}", patience.call);
                }
                tries += 1;
                sleep(PAUSE_WITHOUT_SERVER).await;
            }
        };
        let client = runtime.block_on(connecting).map_err(|error| failed(io::ErrorKind::NotConnected, error.to_string()))?;
        let connection = Self { runtime: runtime.clone(), client, patience, losses, vain: Arc::default() };
        connection.check_version(Path::new(&name))?;
        Ok(connection)
    }

    /// Again for each log: a reconnect may have come to another server.
    pub(super) fn check_version(&self, path: &Path) -> Result<()> {
        let (major, minor) = SERVER_OLDEST;
        if self.client.is_server_compatible(major, minor, 0) {
            return Ok(());
        }
        let version = self.client.server_info().version;
        let why = format!("its nats-server is {version}, and at least {major}.{minor} is needed");
        Err(Error::io("use", path, io::Error::new(io::ErrorKind::Unsupported, why)))
    }

    /// The largest message that the server takes.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.client.max_payload()
    }

    /// For what the log does not need.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn patience(&self) -> Patience {
        self.patience
    }

    /// Waits for it, on this thread.
    pub(crate) fn block<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.patience.call
    }

    /// Stores a message behind the one with the sequence `behind`, the subject's last one as we know it. Sends it again, with the same id,
    /// until the outcome is known or time is up.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Full`]: nothing was stored. [`Error::OutcomeUnknown`]: it may be stored, or may be yet.
    pub(super) fn publish(&self, subject: &Subject, behind: u64, payload: Vec<u8>) -> Result<Published> {
        self.publish_with(HeaderMap::new(), subject, behind, payload)
    }

    /// The same with more headers.
    pub(super) fn publish_with(
        &self,
        mut headers: HeaderMap,
        subject: &Subject,
        behind: u64,
        payload: Vec<u8>,
    ) -> Result<Published> {
        self.block(async {
            let id = uuid::Uuid::new_v4().to_string();
            headers.insert(MESSAGE_ID, id.as_str());
            headers.insert(EXPECTED, behind.to_string().as_str());
            let (payload, deadline) = (Bytes::from(payload), self.deadline());
            // Whether a try has had no answer: from then on, a refusal of another does not say that nothing was stored.
            let mut is_open = false;
            let failed = |is_open, kind, why: String| {
                let error = Error::io("publish to", &subject.path(), io::Error::new(kind, why));
                if is_open { error.into_unanswered() } else { error }
            };
            loop {
                let (pause, why) = match self.ask::<Stored>(subject.name.clone(), &headers, payload.clone()).await {
                    Ok(Ok(Stored { seq })) => return Ok(Published::At(seq)),
                    Ok(Err(refusal)) => match refusal.err_code {
                        code::WRONG_SEQUENCE => match self.next(subject, behind, deadline).await {
                            Ok(Some(next)) if next.id.as_ref() == Some(&id) => return Ok(Published::At(next.sequence)),
                            Ok(Some(next)) if next.previous == behind => return Ok(Published::Moved),
                            Ok(_) if !is_open => return Ok(Published::Moved),
                            Ok(Some(_)) => {
                                let why = "what is behind the message that it was to follow was trimmed before its answer came";
                                return Err(failed(is_open, io::ErrorKind::Other, why.to_owned()));
                            }
                            // Whoever answers is behind the one who refused.
                            Ok(None) => (PAUSE_WITHOUT_LEADER, refusal.to_string()),
                            Err(error) => return Err(error.into_unanswered()),
                        },
                        code::IN_FLIGHT | code::SAME_IN_FLIGHT => (PAUSE, refusal.to_string()),
                        code if code::FULL.contains(&code) => {
                            return Err(failed(is_open, io::ErrorKind::StorageFull, refusal.to_string()));
                        }
                        code::STORE_FAILED => return Err(failed(true, io::ErrorKind::StorageFull, refusal.to_string())),
                        _ => return Err(failed(is_open, io::ErrorKind::Other, refusal.to_string())),
                    },
                    Err(Silence::NotTaken(why)) => (PAUSE_WITHOUT_LEADER, why),
                    Err(Silence::NoAnswer(why)) => {
                        is_open = true;
                        (PAUSE, why)
                    }
                    Err(Silence::NotSent(why)) => return Err(failed(is_open, io::ErrorKind::InvalidInput, why)),
                };
                if Instant::now() + pause >= deadline {
                    return Err(failed(is_open, io::ErrorKind::TimedOut, why));
                }
                tracing::debug!(subject = subject.name, why, "publishing again");
                sleep(pause).await;
            }
        })
    }

    /// Whether the subject's last message is the one with this sequence, as a majority of the stream's servers has it: a message to `proof`, another
    /// subject of the stream, that its leader takes on this condition only. One that was cut off answers any question by what it knew, and can
    /// store nothing.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Full`]: nobody says.
    pub(super) fn is_newest(&self, subject: &Subject, sequence: u64, proof: &Subject) -> Result<bool> {
        let failed = |kind, why: String| Error::io("ask for the end of", &subject.path(), io::Error::new(kind, why));
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED, sequence.to_string().as_str());
        headers.insert(EXPECTED_OF, subject.name.as_str());
        // It takes the place of the one before it.
        headers.insert(ROLLUP, "sub");
        let deadline = self.deadline();
        self.block(async {
            loop {
                let (pause, why) = match self.ask::<Stored>(proof.name.clone(), &headers, Bytes::new()).await {
                    Ok(Ok(Stored { .. })) => return Ok(true),
                    Ok(Err(refusal)) => match refusal.err_code {
                        code::WRONG_SEQUENCE => return Ok(false),
                        code::IN_FLIGHT => (PAUSE, refusal.to_string()),
                        code if code == code::STORE_FAILED || code::FULL.contains(&code) => {
                            return Err(failed(io::ErrorKind::StorageFull, refusal.to_string()));
                        }
                        _ => return Err(failed(io::ErrorKind::Other, refusal.to_string())),
                    },
                    Err(Silence::NotTaken(why)) => (PAUSE_WITHOUT_LEADER, why),
                    Err(Silence::NoAnswer(why)) => (PAUSE, why),
                    Err(Silence::NotSent(why)) => return Err(failed(io::ErrorKind::InvalidInput, why)),
                };
                if Instant::now() + pause >= deadline {
                    return Err(failed(io::ErrorKind::TimedOut, why));
                }
                sleep(pause).await;
            }
        })
    }

    /// The newest message of the subject, as the stream's leader has it.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no answer.
    pub(super) fn newest(&self, subject: &Subject) -> Result<Option<Message>> {
        self.block(self.newest_by(subject, self.deadline()))
    }

    /// The same, until a time: the newest of several subjects where the name has wildcards.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no answer.
    pub(super) async fn newest_by(&self, subject: &Subject, deadline: Instant) -> Result<Option<Message>> {
        self.get(subject, &json!({ "last_by_subj": subject.name }), deadline).await
    }

    /// The first message of the subject behind this sequence, as the stream's leader has it.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no answer.
    pub(super) fn next_message(&self, subject: &Subject, behind: u64) -> Result<Option<Message>> {
        self.block(self.next(subject, behind, self.deadline()))
    }

    async fn next(&self, subject: &Subject, behind: u64, deadline: Instant) -> Result<Option<Message>> {
        self.get(subject, &json!({ "seq": behind + 1, "next_by_subj": subject.name }), deadline).await
    }

    async fn get(&self, subject: &Subject, wanted: &Value, deadline: Instant) -> Result<Option<Message>> {
        let path = subject.path();
        let failed = |kind, why: String| Error::io("read", &path, io::Error::new(kind, why));
        match self.ask_again::<Got>(format!("$JS.API.STREAM.MSG.GET.{}", subject.stream), wanted, deadline).await {
            Ok(Ok(Got { message })) => {
                let base64 = |text| base64::engine::general_purpose::STANDARD.decode(text);
                let (Ok(headers), Ok(payload)) = (base64(&message.hdrs), base64(&message.data)) else {
                    return Err(failed(io::ErrorKind::InvalidData, "the answer is no base64".to_owned()));
                };
                let header = |name: &str| header_of(&headers, name);
                Ok(Some(Message {
                    sequence: message.seq,
                    previous: header(EXPECTED).and_then(|value| value.parse().ok()).unwrap_or_default(),
                    id: header(MESSAGE_ID),
                    operation: header(OPERATION),
                    payload,
                }))
            }
            Ok(Err(refusal)) if refusal.err_code == code::NO_MESSAGE => Ok(None),
            Ok(Err(refusal)) => Err(failed(io::ErrorKind::Other, refusal.to_string())),
            Err(why) => Err(failed(io::ErrorKind::TimedOut, why)),
        }
    }

    /// Some of the messages behind this sequence, in order, as any one of the stream's servers has them: it may be behind the leader, and give
    /// none. Nor does anything say that those that came are all that were sent, but that each message names the one before it.
    ///
    /// # Errors
    /// [`Error::Io`]: there is no answer.
    pub(super) fn batch(&self, subject: &Subject, behind: u64) -> Result<Vec<Message>> {
        let wanted = json!({
            "seq": behind + 1, "next_by_subj": subject.name, "batch": BATCH_MESSAGES, "max_bytes": BATCH_BYTES,
        });
        let path = subject.path();
        let failed = |why: String| Error::io("read", &path, io::Error::other(why));
        self.block(async {
            let inbox = self.client.new_inbox();
            let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(error.to_string()))?;
            let request = format!("$JS.API.DIRECT.GET.{}", subject.stream);
            let asked = self.client.publish_with_reply(request, inbox, Bytes::from(wanted.to_string()));
            let mut messages = Vec::new();
            match timeout(self.patience.answer, asked).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(failed(error.to_string())),
                Err(_) => return Ok(messages),
            }
            // A lost end is none: the caller looks how far it came.
            while let Ok(Some(answer)) = timeout(self.patience.answer, answers.next()).await {
                if answer.status.is_some_and(|status| status != StatusCode::OK) {
                    break;
                }
                let header = |name: &str| answer.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned());
                messages.push(Message {
                    sequence: header("Nats-Sequence").and_then(|value| value.parse().ok()).unwrap_or_default(),
                    previous: header(EXPECTED).and_then(|value| value.parse().ok()).unwrap_or_default(),
                    id: header(MESSAGE_ID),
                    operation: None,
                    payload: answer.payload.to_vec(),
                });
            }
            Ok(messages)
        })
    }

    /// Removes what is before this sequence, which is not 0: without one, a server takes all.
    ///
    /// # Errors
    /// [`Error::Io`]: it may be done, or not.
    pub(super) fn purge(&self, subject: &Subject, before: u64) -> Result<()> {
        assert!(before > 0, "that would be all of the subject");
        self.purge_as(subject, &json!({ "filter": subject.name, "seq": before }))
    }

    /// Removes all that the subject has.
    ///
    /// # Errors
    /// [`Error::Io`]: it may be done, or not.
    pub(super) fn empty(&self, subject: &Subject) -> Result<()> {
        self.purge_as(subject, &json!({ "filter": subject.name }))
    }

    fn purge_as(&self, subject: &Subject, wanted: &Value) -> Result<()> {
        let failed = |kind, why: String| Error::io("trim", &subject.path(), io::Error::new(kind, why));
        let asked = self.ask_again::<Done>(format!("$JS.API.STREAM.PURGE.{}", subject.stream), wanted, self.deadline());
        match self.block(asked) {
            Ok(Ok(Done {})) => Ok(()),
            Ok(Err(refusal)) => Err(failed(io::ErrorKind::Other, refusal.to_string())),
            Err(why) => Err(failed(io::ErrorKind::TimedOut, why)),
        }
    }

    /// Asks for what may be asked for twice, until there is an answer or time is up.
    pub(super) async fn ask_again<T: DeserializeOwned>(
        &self,
        request: String,
        wanted: &Value,
        deadline: Instant,
    ) -> Result<Result<T, Refusal>, String> {
        let payload = Bytes::from(wanted.to_string());
        loop {
            let why = match self.ask(request.clone(), &HeaderMap::new(), payload.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(Silence::NotSent(why)) => return Err(why),
                Err(Silence::NotTaken(why) | Silence::NoAnswer(why)) => why,
            };
            if Instant::now() + PAUSE_WITHOUT_LEADER >= deadline {
                return Err(why);
            }
            sleep(PAUSE_WITHOUT_LEADER).await;
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: String,
        headers: &HeaderMap,
        payload: Bytes,
    ) -> Result<Result<T, Refusal>, Silence> {
        let answer = self.ask_once(request, headers, payload).await;
        let is_in_vain = matches!(answer, Err(Silence::NotTaken(_) | Silence::NoAnswer(_)));
        if self.vain.should_leave(is_in_vain, Instant::now()) {
            tracing::warn!("the nats-server takes requests and gets no answers to them; looking for another");
            // It fails where the client is gone, and with it whoever asks.
            let _ = self.client.force_reconnect().await;
        }
        answer
    }

    async fn ask_once<T: DeserializeOwned>(
        &self,
        request: String,
        headers: &HeaderMap,
        payload: Bytes,
    ) -> Result<Result<T, Refusal>, Silence> {
        // The client's own timeout does not count while it waits for room to send.
        let asked = async_nats::Request::new().headers(headers.clone()).payload(payload).timeout(None);
        // Its whole time for each: one that is cut short by the end of the call leaves open what came of it.
        let answer = match timeout(self.patience.answer, self.client.send_request(request, asked)).await {
            Err(_) => return Err(Silence::NoAnswer("no answer".to_owned())),
            Ok(Err(error)) => {
                let why = error.to_string();
                return Err(match error.kind() {
                    RequestErrorKind::NoResponders => Silence::NotTaken(why),
                    RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => Silence::NotSent(why),
                    RequestErrorKind::TimedOut | RequestErrorKind::Other => Silence::NoAnswer(why),
                });
            }
            Ok(Ok(answer)) => answer,
        };
        match serde_json::from_slice::<Answer<T>>(&answer.payload) {
            Ok(Answer { error: Some(refusal), .. }) if refusal.err_code == code::NOT_NOW => {
                Err(Silence::NoAnswer(refusal.to_string()))
            }
            Ok(Answer { error: Some(refusal), .. }) => Ok(Err(refusal)),
            Ok(Answer { found: Some(found), .. }) => Ok(Ok(found)),
            Ok(Answer { .. }) => Err(Silence::NoAnswer("an answer without what was asked for".to_owned())),
            Err(error) => Err(Silence::NoAnswer(format!("an answer that is none: {error}"))),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server says {}: {}", self.err_code, self.description)
    }
}

/// The value of a header, of headers as they are on the wire.
fn header_of(headers: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(headers).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}
