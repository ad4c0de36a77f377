//! Where nodes have some of the indices only: a request about an index that is elsewhere is sent on to a node that has it, and its answer is the answer.
//!
//! The key is checked here, and there again. What was sent on once is answered where it arrives, so nothing goes round.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use warp::Stream;
use warp::http::header::{self, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::reply::{Reply as _, Response};

use super::admission::Turn;
use super::indices::{WantedPage, document_in_list, index_id};
use super::reply::{Problem, json};
use super::request::{Received, Request};
use super::routes::Target;
use super::{Connections, Server};
use crate::types::IndexId;

/// Of a request that another node sent on. A client that sends it itself has it answered where it arrives, which is slow and right.
const FORWARDED: HeaderName = HeaderName::from_static("x-faiss-proxy-forwarded");

/// What is of a connection, or of what it goes to, and not of a request.
const OF_CONNECTION: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::EXPECT,
    FORWARDED,
];

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// For the document of an index in a list.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(5);
const DOCUMENT_BYTES_MAX: usize = 1 << 20;
/// Documents that other nodes are asked for at one time, for one list.
const DOCUMENTS_AT_ONCE: usize = 16;

/// How often is looked whether a node that has not answered yet is alive.
const LOOK: Duration = Duration::from_secs(1);

/// Sends requests to other nodes.
pub struct Forwarder {
    client: Client<HttpConnector, Whole>,
}

/// Why a node did not answer.
struct Silence {
    /// It may have done what it was asked for.
    may_be_done: bool,
    why: String,
}

impl Forwarder {
    /// `connections`: those of the other nodes too.
    pub fn new(connections: &Connections) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        // Of a machine that is gone, a stream of changes would wait for ever.
        connector.set_keepalive(Some(connections.head_timeout));
        // Well before the other side closes a connection that is idle: a request that crosses the closing has no outcome.
        let idle = connections.head_timeout / 3;
        let client = Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(idle).build(connector);
        Self { client }
    }

    /// Sends a request to the first of the nodes that answers. A write that one of them may have done is sent to no other.
    ///
    /// # Errors
    /// 503: none answers, or the outcome is not known. Those of reading the body.
    pub async fn forward(
        &self,
        server: &Arc<Server>,
        holders: Vec<String>,
        path: &str,
        is_read: bool,
        mut request: Request,
    ) -> Result<Response, Problem> {
        // Whole, so that a slow client costs the other node nothing, and so that it can be sent again.
        let body: Received = request.receive(server).await?;
        let query = request.raw_query();
        let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let headers = headers(&request.headers, request.id.as_str());
        let mut tried = Vec::new();
        for node in &holders {
            match self.send(server, node, &request.method, &path, &headers, body.bytes()).await {
                Ok(answer) => return Ok(pass_on(server, answer)),
                Err(Silence { may_be_done: true, why }) if !is_read => {
                    let detail = format!(
                        "{node} has this index, was sent the request, and did not answer it ({why}); look whether it was done"
                    );
                    return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown", detail));
                }
                Err(Silence { why, .. }) => tried.push(format!("{node}: {why}")),
            }
        }
        Err(nobody_answers(&tried))
    }

    /// The answer of a node, for which is waited as long as it is alive.
    async fn send(
        &self,
        server: &Server,
        node: &str,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<hyper::Response<Incoming>, Silence> {
        let built = hyper::Request::builder().method(method).uri(format!("{node}{path}")).body(Whole(Some(body)));
        let mut request = built.map_err(|error| Silence { may_be_done: false, why: error.to_string() })?;
        request.headers_mut().clone_from(headers);
        let placement = server.store.placement();
        let is_lost = async {
            while placement.is_none_or(|placement| placement.is_alive(node)) {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            answered = self.client.request(request) => answered.map_err(|error| {
                let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                // Of a connection that closed before the request was written to it.
                let was_kept = error.source().and_then(|cause| cause.downcast_ref()).is_some_and(hyper::Error::is_canceled);
                Silence { may_be_done: !error.is_connect() && !was_kept, why }
            }),
            () = is_lost => Err(Silence { may_be_done: true, why: "it is no longer alive".to_owned() }),
        }
    }

    /// The document of an index, of the first of the nodes that answers. `None`: it is refused there, or was deleted meanwhile.
    async fn document(
        &self,
        server: &Server,
        holders: &[String],
        id: IndexId,
        headers: &HeaderMap,
    ) -> Result<Option<Box<RawValue>>, Problem> {
        let (path, mut tried) = (format!("/v1/index/{id}"), Vec::new());
        for node in holders {
            let asked = async {
                let answer = self.send(server, node, &Method::GET, &path, headers, Bytes::new()).await;
                let answer = answer.map_err(|silence| silence.why)?;
                Ok::<_, String>((answer.status(), collect(answer.into_body()).await?))
            };
            let why = match timeout(DOCUMENT_TIMEOUT, asked).await {
                Ok(Ok((StatusCode::OK, text))) => match RawValue::from_string(text) {
                    Ok(document) => return Ok(Some(document)),
                    Err(error) => error.to_string(),
                },
                Ok(Ok((StatusCode::NOT_FOUND, _))) => return Ok(None),
                Ok(Ok((StatusCode::SERVICE_UNAVAILABLE, text))) if text.contains("\"index_refused\"") => return Ok(None),
                Ok(Ok((status, text))) => format!("{status}: {text}"),
                Ok(Err(why)) => why,
                Err(_) => "no answer in time".to_owned(),
            };
            tried.push(format!("{node}: {why}"));
        }
        Err(nobody_answers(&tried))
    }
}

pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.contains_key(FORWARDED)
}

/// The nodes to which a request is sent on. `None`: it is answered here.
pub fn holders(server: &Server, turn: &Turn, target: &Target) -> Option<Vec<String>> {
    // What is no id names no index on any node.
    let id = index_id(target.index()?).ok()?;
    server.store.holders(&turn.tenant, id)
}

fn nobody_answers(tried: &[String]) -> Problem {
    let detail = format!("no node that has this index answers: {}", tried.join("; "));
    Problem::unavailable_for(StatusCode::SERVICE_UNAVAILABLE, "holders_unreachable", &detail, 1)
}

/// What goes with a request that is sent on.
fn headers(came: &HeaderMap, id: &str) -> HeaderMap {
    let mut headers = without_connection(came);
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(FORWARDED, HeaderValue::from_static("1"));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-request-id", id);
    }
    headers
}

fn without_connection(came: &HeaderMap) -> HeaderMap {
    let mut headers = came.clone();
    let named =
        came.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    for name in named.filter_map(|name| HeaderName::try_from(name.trim()).ok()) {
        headers.remove(name);
    }
    OF_CONNECTION.iter().for_each(|name| {
        headers.remove(name);
    });
    headers
}

/// The answer of another node as this one's.
fn pass_on(server: &Server, answer: hyper::Response<Incoming>) -> Response {
    let (head, body) = answer.into_parts();
    let is_stream = head.headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
    let mut ending = server.ending.clone();
    let end: Pin<Box<dyn Future<Output = ()> + Send>> = if is_stream {
        Box::pin(async move {
            let _ = ending.wait_for(|is_ending| *is_ending).await;
        })
    } else {
        Box::pin(pending())
    };
    let mut response = warp::reply::stream(Passed { body, end: Mutex::new(end) }).into_response();
    *response.status_mut() = head.status;
    *response.headers_mut() = without_connection(&head.headers);
    response
}

/// The body of an answer, up to its end, or that of the server where it is a stream, which has no other.
struct Passed {
    body: Incoming,
    /// Locked by nobody: warp asks for what threads may share.
    end: Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stream for Passed {
    type Item = Result<Bytes, hyper::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Else it is trailers, which no node sends.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return self.end.get_mut().as_mut().poll(cx).map(|()| None),
            }
        }
    }
}

async fn collect(mut body: Incoming) -> Result<String, String> {
    let mut bytes = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| error.to_string())?;
        bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err("its answer is too large".to_owned());
        }
    }
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

/// A body that is there whole.
struct Whole(Option<Bytes>);

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Bytes::is_empty)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// The document of an index that is to be listed, or the nodes that have it.
type Listed = Result<Option<Box<RawValue>>, Vec<String>>;

/// Indices of all nodes, oldest first.
#[derive(Serialize)]
struct Page {
    indices: Vec<Box<RawValue>>,
    next_cursor: Option<String>,
}

/// The tenant's indices, wherever they are. Which there are, the catalogue says: one that no node tells of is no reason to leave it out.
///
/// # Errors
/// 503: no node that has one of them answers.
pub async fn list(server: Arc<Server>, turn: Turn, request: Request) -> Result<Response, Problem> {
    let (wanted, tenant, store) = (WantedPage::of(&request)?, turn.tenant.clone(), Arc::clone(&server.store));
    let work = || {
        let (listed, next_cursor) = wanted.select(store.list_all(&tenant)?);
        let mut page: Vec<(IndexId, Listed)> = Vec::new();
        for index in listed {
            let document = match store.holders(&tenant, index.id) {
                Some(holders) => Err(holders),
                None => {
                    let document = document_in_list(&store, &tenant, index.id)?;
                    Ok(document.map(|document| to_raw_value(&document)).transpose().map_err(|error| Problem::internal(&error))?)
                }
            };
            page.push((index.id, document));
        }
        Ok((page, next_cursor))
    };
    let (mut page, next_cursor) = server.reads.run(turn, work).await?;
    let headers = headers(&request.headers, request.id.as_str());
    let asked: Vec<usize> = (0..page.len()).filter(|&at| page[at].1.is_err()).collect();
    for some in asked.chunks(DOCUMENTS_AT_ONCE) {
        let mut asking = JoinSet::new();
        for &at in some {
            let (id, Err(holders)) = page[at].clone() else { continue };
            let (server, headers) = (Arc::clone(&server), headers.clone());
            asking.spawn(async move {
                let forwarder = server.forwarder.as_ref().ok_or_else(|| nobody_answers(&[]))?;
                Ok::<_, Problem>((at, forwarder.document(&server, &holders, id, &headers).await?))
            });
        }
        while let Some(document) = asking.join_next().await {
            let (at, document) = document.map_err(|error| Problem::internal(&error))??;
            page[at].1 = Ok(document);
        }
    }
    let indices = page.into_iter().filter_map(|(_, document)| document.ok().flatten()).collect();
    Ok(json(StatusCode::OK, &Page { indices, next_cursor }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_a_connection_is_not_sent_on() {
        let mut came = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Own"),
            ("x-own", "1"),
            ("keep-alive", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("host", "here"),
            ("expect", "100-continue"),
            ("x-api-key", "k"),
            ("content-type", "application/json"),
            ("x-request-id", "theirs"),
        ] {
            came.insert(name, HeaderValue::from_static(value));
        }
        let sent = headers(&came, "ours");
        let mut names: Vec<(&str, &str)> = sent.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        names.sort_unstable();
        let expected = [
            ("content-type", "application/json"),
            ("x-api-key", "k"),
            ("x-faiss-proxy-forwarded", "1"),
            ("x-request-id", "ours"),
        ];
        assert_eq!(names, expected);
        assert!(is_forwarded(&sent) && !is_forwarded(&came));
    }
}
