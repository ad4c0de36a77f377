//! Connections: accepting them, bounding them, and ending them well.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tracing::Instrument;
use warp::Filter;
use warp::http::HeaderValue;
use warp::reply::Response;

use super::drain::DrainedBody;
use super::idle::Activity;
use super::request::{Arrival, RequestId};
use super::spans::Spans;
use super::tls::Tls;
use super::{Connections, Server, ServerConfig, backups, operators, routes, snapshots};
use crate::Store;

/// What a connection of HTTP/2 may have under way at one time.
const STREAMS_MAX: u32 = 128;

/// Bytes of bodies that come before a handler asks for them: of a stream, and of all streams of a connection.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Connections that operators may have open.
const OPERATORS_MAX: usize = 64;
/// The target of the spans of requests, of the level error, which their lines in the log are in.
pub const REQUESTS: &str = "faiss_proxy::request";
/// The target of the lines, of the level debug, that tell of each request that was answered.
pub const ACCESS_LOG: &str = "faiss_proxy::access";
/// The target of the spans that a request's time is divided into, of the level info. They are for traces; the log leaves them out.
pub const STAGES: &str = "faiss_proxy::stage";

/// What HTTP/2 without TLS begins with (RFC 9113), as far as no request of HTTP/1.1 does.
const HTTP_2_PREFACE: &[u8] = b"PRI";

/// Serves the store on `listener` until `shutdown` is ready; then accepts nothing more, has builds and compactions stopped, ends the
/// streams of changes, and returns when the requests that run are answered, or after [`Connections::shutdown_timeout`]. The store stays open: it is the caller's to close.
///
/// HTTP/1.1 and HTTP/2: with TLS the client's choice in the handshake, without by the first bytes. On `operators`, what operators look at, in clear and without
/// a key: whoever reaches it sees all tenants.
pub async fn serve(
    store: Arc<Store>,
    config: ServerConfig,
    listener: TcpListener,
    operators: Option<TcpListener>,
    shutdown: impl Future<Output = ()>,
) {
    let shutdown_timeout = config.connections.shutdown_timeout;
    let (end, ending) = watch::channel(false);
    let protocols = Arc::new(Protocols::new(&config, config.tls.clone(), ending.clone()));
    let in_clear = Arc::new(Protocols::new(&config, None, ending.clone()));
    let server = Arc::new(Server::new(Arc::clone(&store), config, ending.clone()));
    tokio::spawn(backups::keep(Arc::clone(&server), ending.clone()));
    tokio::spawn(snapshots::keep(Arc::clone(&server), ending));
    let connections = Arc::clone(&server.connections);
    let connections_max = u32::try_from(connections.available_permits()).unwrap_or(u32::MAX);
    if let Some(listener) = operators {
        let places = Arc::new(Semaphore::new(OPERATORS_MAX));
        tokio::spawn(accept_all(listener, places, in_clear, operators::routes(Arc::clone(&server))));
    }
    let accepting = tokio::spawn(accept_all(listener, Arc::clone(&connections), protocols, routes::routes(server)));

    shutdown.await;
    end.send_replace(true);
    if let Err(error) = accepting.await {
        tracing::error!(%error, "accepting connections ended by a bug");
    }
    // A compaction takes minutes, and to wait for it would be to give up after the timeout: who asked for one is told that it was stopped.
    store.stop_building();
    let open = connections_max as usize - connections.available_permits();
    tracing::info!(connections = open, "no longer accepting; finishing the requests that run");
    if timeout(shutdown_timeout, connections.acquire_many(connections_max)).await.is_err() {
        tracing::warn!("some requests did not end in time; going on without them");
    }
}

/// Accepts connections until the server ends, as many at one time as there are places.
async fn accept_all(
    listener: TcpListener,
    places: Arc<Semaphore>,
    protocols: Arc<Protocols>,
    routes: impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static,
) {
    let mut ending = protocols.ending.clone();
    loop {
        // The place first: what is not accepted waits in the kernel, and costs us nothing.
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, accept(&listener).await)
        };
        let (place, (stream, peer)) = tokio::select! {
            accepted = accept => accepted,
            _ = ending.wait_for(|is_ending| *is_ending) => return,
        };
        tokio::spawn(keep(Arc::clone(&protocols), routes.clone(), stream, peer, place));
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Answers are small and written whole: to wait for more of them only adds latency.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                return (stream, peer.ip());
            }
            Err(error) => {
                // Most likely no file descriptor is free, which does not pass by asking again at once.
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What is spoken on a connection, and its limits.
struct Protocols {
    tls: Option<Tls>,
    http_1: http1::Builder,
    http_2: http2::Builder<TokioExecutor>,
    beginning_timeout: Duration,
    head_timeout: Duration,
    ending: watch::Receiver<bool>,
}

/// Answers the requests of a connection, which holds its place until it ends.
async fn keep(
    protocols: Arc<Protocols>,
    routes: impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static,
    stream: TcpStream,
    peer: IpAddr,
    _place: Option<OwnedSemaphorePermit>,
) {
    let routes = TowerToHyperService::new(warp::service(routes));
    let answer = |request| answer(routes.clone(), peer, request);
    // Broken connections and half requests are a client's affair, and everyday.
    if let Err(error) = protocols.serve(stream, answer).await {
        tracing::debug!(%peer, error, "a connection ended early");
    }
}

impl Protocols {
    fn new(config: &ServerConfig, tls: Option<Tls>, ending: watch::Receiver<bool>) -> Self {
        let mut http_1 = http1::Builder::new();
        http_1.timer(TokioTimer::new()).header_read_timeout(config.connections.head_timeout);
        let mut http_2 = http2::Builder::new(TokioExecutor::new());
        http_2
            .timer(TokioTimer::new())
            .keep_alive_interval(config.connections.head_timeout)
            .keep_alive_timeout(config.connections.head_timeout)
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let &Connections { beginning_timeout, head_timeout, .. } = &config.connections;
        Self { tls, http_1, http_2, beginning_timeout, head_timeout, ending }
    }

    async fn serve<F, A>(&self, stream: TcpStream, answer: F) -> Result<(), String>
    where
        F: Fn(hyper::Request<Incoming>) -> A,
        A: Future<Output = Result<Response, Infallible>> + Send + 'static,
    {
        match &self.tls {
            Some(tls) => {
                let (stream, is_http_2) = self.in_time(tls.accept(stream)).await?;
                self.speak(is_http_2, stream, answer).await
            }
            None => {
                let is_http_2 = self.in_time(begins_http_2(&stream)).await?;
                self.speak(is_http_2, stream, answer).await
            }
        }
    }

    /// What a connection begins with, unless the client takes too long or the server ends.
    async fn in_time<T>(&self, beginning: impl Future<Output = io::Result<T>>) -> Result<T, String> {
        let mut ending = self.ending.clone();
        tokio::select! {
            begun = timeout(self.beginning_timeout, beginning) => match begun {
                Ok(begun) => begun.map_err(|error| error.to_string()),
                Err(_) => Err("nothing came in time".to_owned()),
            },
            _ = ending.wait_for(|is_ending| *is_ending) => Err("the server ends".to_owned()),
        }
    }

    async fn speak<S, F, A>(&self, is_http_2: bool, stream: S, answer: F) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        F: Fn(hyper::Request<Incoming>) -> A,
        A: Future<Output = Result<Response, Infallible>> + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        if is_http_2 {
            // A client that answers pings could stay for ever and ask for nothing.
            let activity = Activity::new();
            let service = service_fn(|request| activity.during(answer(request)));
            self.drive(self.http_2.serve_connection(stream, service), |time| activity.idle_for(time)).await
        } else {
            self.drive(self.http_1.serve_connection(stream, service_fn(answer)), |_| std::future::pending()).await
        }
    }

    /// Runs a connection to its end; begins no more requests once it is idle, or the server ends.
    async fn drive<C, I>(&self, connection: C, idle: impl Fn(Duration) -> I) -> Result<(), String>
    where
        C: GracefulConnection<Error = hyper::Error>,
        I: Future<Output = ()>,
    {
        let mut connection = pin!(connection);
        let mut ending = self.ending.clone();
        tokio::select! {
            ended = &mut connection => return ended.map_err(|error| error.to_string()),
            () = idle(self.head_timeout) => {}
            _ = ending.wait_for(|is_ending| *is_ending) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::select! {
            ended = connection => ended.map_err(|error| error.to_string()),
            // Of a client that has not even begun to speak, the end is waited for in vain.
            () = idle(self.beginning_timeout) => Ok(()),
        }
    }
}

/// Whether the first bytes are those of HTTP/2. They are left on the connection.
async fn begins_http_2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; HTTP_2_PREFACE.len()];
    let length = stream.peek(&mut first).await?;
    Ok(&first[..length] == HTTP_2_PREFACE)
}

/// Gives a request its id, in the log and in the response.
async fn answer<S>(routes: S, peer: IpAddr, mut request: hyper::Request<Incoming>) -> Result<Response, Infallible>
where
    S: Service<hyper::Request<DrainedBody>, Response = Response, Error = Infallible>,
{
    let began = Instant::now();
    let id = RequestId::of(request.headers());
    let spans = Spans::new(&id, request.method(), request.uri().path(), request.headers());
    request.extensions_mut().insert(Arrival { id: id.clone(), peer, spans: spans.clone() });
    let (head, body) = request.into_parts();
    let body = DrainedBody::new(body, &head);
    // The trace's span is the inner one: what is within is its child.
    let answered = routes.call(hyper::Request::from_parts(head, body)).instrument(spans.trace.clone());
    let mut response = answered.instrument(spans.log.clone()).await?;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert("x-request-id", value);
    }
    let (status, bytes) = (response.status().as_u16(), response.body().size_hint().exact());
    spans.end(status);
    spans.log.in_scope(|| {
        tracing::debug!(target: ACCESS_LOG, status, bytes, micros = began.elapsed().as_micros() as u64, "answered");
    });
    Ok(response)
}
