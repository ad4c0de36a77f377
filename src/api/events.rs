//! The change feed as server-sent events (WHATWG HTML, "Server-sent events"): what the log has, and then what comes, as it becomes durable.
//!
//! A stream is one task. It waits for changes without a thread, and reads them as any other call when its turn comes, a page at a time: the next one is read when the
//! client has taken the one before. So a slow client costs one page, and reads the log at its own pace.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::Instrument as _;
use warp::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use warp::http::{HeaderMap, HeaderValue, StatusCode};
use warp::reply::{Reply as _, Response};

use super::Server;
use super::admission::Turn;
use super::changes::{self, ChangeDocument};
use super::reply::Problem;
use super::request::quality;
use crate::engine::Listener;
use crate::error::Error;
use crate::types::{ChangePage, ChangesQuery, IndexId, Lsn};

/// Changes of one page, and bytes of log that it is made of but for its last mutation: what a stream holds at one time.
const PAGE_CHANGES: usize = 1_000;
const PAGE_LOG_BYTES: usize = 1 << 20;

/// How long a stream waits where too many reads wait already.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Nothing to a client, and proof to it and to what is in between that the connection lives.
const HEARTBEAT: &[u8] = b":\n\n";

/// Whether a client wants events.
pub fn are_wanted(headers: &HeaderMap) -> bool {
    quality(headers, ACCEPT, "text/event-stream") > 0.0
}

/// Begins a stream from `from_lsn` of the query, or behind the last event that the client had. What cannot be begun is answered by its status.
pub async fn stream(
    server: Arc<Server>,
    turn: Turn,
    id: IndexId,
    headers: &HeaderMap,
    query: ChangesQuery,
) -> Result<Response, Problem> {
    let tenant = turn.tenant.clone();
    let place = Arc::clone(&server.streams).try_acquire_owned();
    let place = place.map_err(|_| Problem::busy("too many change streams are open already"))?;
    let from_lsn = last_event_id(headers)?.map_or(query.from_lsn, |last| last.saturating_add(1));
    let query = Arc::new(ChangesQuery { limit: PAGE_CHANGES, ..query });
    let (store, first_query) = (Arc::clone(&server.store), Arc::clone(&query));
    let begin = move || {
        let listener = store.index(&tenant, id)?.listen()?;
        let page = Page::read(&listener, from_lsn, &first_query)?;
        Ok((Arc::new(listener), page))
    };
    let (listener, first) = server.reads.run(turn.clone(), begin).await?;
    let (sender, receiver) = mpsc::channel(1);
    let ending = server.ending.clone();
    let turn = Turn { deadline: None, ..turn };
    let stream = Stream { server, turn, listener, query, sender, ending, _place: place };
    tokio::spawn(stream.run(first).in_current_span());

    let mut response = warp::reply::stream(Chunks(receiver)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The mutation that a client had whole before its connection broke: what `EventSource` sends when it connects again, to the same URL.
fn last_event_id(headers: &HeaderMap) -> Result<Option<Lsn>, Error> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let lsn = value.to_str().ok().and_then(|value| value.parse().ok());
    lsn.map(Some).ok_or_else(|| Error::invalid("Last-Event-ID", "invalid_lsn", "must be the id of an event of this stream"))
}

/// A stream, as long as its client is there.
struct Stream {
    turn: Turn,
    server: Arc<Server>,
    listener: Arc<Listener>,
    query: Arc<ChangesQuery>,
    /// Room for one page: the next is read when there is some.
    sender: Sender<Bytes>,
    /// Becomes true when the server ends.
    ending: watch::Receiver<bool>,
    /// Among the streams that may be open.
    _place: OwnedSemaphorePermit,
}

impl Stream {
    async fn run(mut self, first: Page) {
        let mut next_lsn = first.next_lsn;
        let mut text = [HEARTBEAT, &first.text].concat();
        loop {
            if !text.is_empty() && !self.send(text).await {
                return;
            }
            text = match self.next(next_lsn).await {
                Some(Ok(page)) => {
                    next_lsn = page.next_lsn;
                    page.text
                }
                Some(Err(problem)) => {
                    self.send(event_of(&problem)).await;
                    return;
                }
                None => return,
            };
        }
    }

    /// The next page, or a heartbeat, when there is room for it. `None`: the client is gone, or the server ends.
    async fn next(&mut self, next_lsn: Lsn) -> Option<Result<Page, Problem>> {
        let config = &self.server.config;
        let changed = tokio::select! {
            () = self.sender.closed() => return None,
            _ = self.ending.wait_for(|ending| *ending) => return None,
            changed = poll_fn(|context| self.listener.poll_durable(next_lsn, context)) => changed,
            () = tokio::time::sleep(config.connections.stream_heartbeat) => return Some(Ok(Page { text: HEARTBEAT.to_vec(), next_lsn })),
        };
        match changed {
            Ok(()) => {}
            // The store is closed: the server ends.
            Err(Error::Closed(_)) => return None,
            Err(error) => return Some(Err(error.into())),
        }
        let room = async {
            matches!(tokio::time::timeout(config.connections.stream_stall_timeout, self.sender.reserve()).await, Ok(Ok(_)))
        };
        let has_room = tokio::select! {
            has_room = room => has_room,
            _ = self.ending.wait_for(|ending| *ending) => false,
        };
        if !has_room {
            return None;
        }
        let (listener, query) = (Arc::clone(&self.listener), Arc::clone(&self.query));
        let page = self.server.reads.run(self.turn.clone(), move || Page::read(&listener, next_lsn, &query)).await;
        if page.as_ref().is_err_and(|problem| problem.status() == StatusCode::TOO_MANY_REQUESTS) {
            tokio::time::sleep(BUSY_PAUSE).await;
            return Some(Ok(Page { text: Vec::new(), next_lsn }));
        }
        Some(page)
    }

    /// Whether the client still takes what is sent, before the server ends.
    async fn send(&mut self, text: Vec<u8>) -> bool {
        let sent = tokio::time::timeout(self.server.config.connections.stream_stall_timeout, self.sender.send(text.into()));
        tokio::select! {
            sent = sent => matches!(sent, Ok(Ok(()))),
            _ = self.ending.wait_for(|ending| *ending) => false,
        }
    }
}

/// Some whole mutations as events.
struct Page {
    text: Vec<u8>,
    next_lsn: Lsn,
}

impl Page {
    fn read(listener: &Listener, from_lsn: Lsn, query: &ChangesQuery) -> Result<Self, Problem> {
        let query = ChangesQuery { from_lsn, ..query.clone() };
        let ChangePage { changes, next_lsn, .. } = changes::read(listener.index(), &query, PAGE_LOG_BYTES)?;
        let mut text = Vec::new();
        let mut changes = changes.into_iter().peekable();
        // Up to where a client's last event id says that it has everything.
        let mut told_lsn = from_lsn.saturating_sub(1);
        while let Some(change) = changes.next() {
            let document = ChangeDocument::of(change, query.include_values)?;
            // Only the last event of a mutation has an id: who is cut off within one asks for all of it again.
            if changes.peek().is_none_or(|next| next.lsn() != document.lsn) {
                told_lsn = document.lsn;
                text.extend_from_slice(format!("id: {told_lsn}\n").as_bytes());
            }
            text.extend_from_slice(format!("event: {}\n", document.op).as_bytes());
            append_data(&mut text, &document);
        }
        if told_lsn + 1 < next_lsn {
            // What the filter hides is not to be read again, and may be gone when the client comes back. An event without data is not
            // dispatched, but its id counts.
            text.extend_from_slice(format!("id: {}\n\n", next_lsn - 1).as_bytes());
        }
        Ok(Self { text, next_lsn })
    }
}

/// The end of an event. A line break in JSON text is white space between its parts, and would end the field here.
fn append_data(text: &mut Vec<u8>, document: &impl serde::Serialize) {
    text.extend_from_slice(b"data: ");
    let start = text.len();
    if let Err(error) = serde_json::to_writer(&mut *text, document) {
        unreachable!("our own documents have string keys and writing to memory does not fail: {error}");
    }
    text[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    text.extend_from_slice(b"\n\n");
}

/// Why a stream ends that had begun: its status has been sent.
fn event_of(problem: &Problem) -> Vec<u8> {
    let mut text = b"event: problem\n".to_vec();
    append_data(&mut text, &problem.document(""));
    text
}

/// What a stream sends, as the body of its response.
struct Chunks(Receiver<Bytes>);

impl warp::Stream for Chunks {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(Ok))
    }
}
