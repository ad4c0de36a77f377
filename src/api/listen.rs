//! Connections: accepting them, bounding them, and ending them well.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;
use warp::http::HeaderValue;
use warp::reply::Response;

use super::drain::DrainedBody;
use super::request::{Arrival, RequestId};
use super::{Server, ServerConfig, backups, routes};
use crate::Store;

/// Serves the store on `listener` until `shutdown` is ready; then accepts nothing more, has builds and compactions stopped, ends the
/// streams of changes, and returns when the requests that run are answered, or after [`ServerConfig::shutdown_timeout`]. The store stays open: it is the caller's to close.
///
/// HTTP/1.1 only: hyper's automatic choice of the version waits for a client's first bytes without a time limit.
pub async fn serve(store: Arc<Store>, config: ServerConfig, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let shutdown_timeout = config.shutdown_timeout;
    let connections = Arc::new(Semaphore::new(config.connections_max));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(config.head_timeout);
    let (end, ending) = watch::channel(false);
    let server = Arc::new(Server::new(Arc::clone(&store), config, ending.clone()));
    tokio::spawn(backups::keep(Arc::clone(&server), ending));
    let routes = TowerToHyperService::new(warp::service(routes::routes(server)));

    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        // The place first: what is not accepted waits in the kernel, and costs us nothing.
        let accept = async {
            let place = Arc::clone(&connections).acquire_owned().await.ok();
            (place, accept(&listener).await)
        };
        let (place, (stream, peer)) = tokio::select! {
            accepted = accept => accepted,
            () = &mut shutdown => break,
        };
        let routes = routes.clone();
        let service = service_fn(move |request| answer(routes.clone(), peer, request));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _place = place;
            // Broken connections and half requests are a client's affair, and everyday.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    drop(listener);
    end.send_replace(true);
    // A compaction takes minutes, and to wait for it would be to give up after the timeout: who asked for one is told that it was stopped.
    store.stop_building();
    tracing::info!(connections = graceful.count(), "no longer accepting; finishing the requests that run");
    if tokio::time::timeout(shutdown_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time; going on without them");
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

/// Gives a request its id, in the log and in the response.
async fn answer<S>(routes: S, peer: IpAddr, mut request: hyper::Request<Incoming>) -> Result<Response, Infallible>
where
    S: Service<hyper::Request<DrainedBody>, Response = Response, Error = Infallible>,
{
    let id = RequestId::of(request.headers());
    let span = tracing::info_span!("request", id = id.as_str(), method = %request.method(), path = request.uri().path());
    request.extensions_mut().insert(Arrival { id: id.clone(), peer });
    let (head, body) = request.into_parts();
    let body = DrainedBody::new(body, &head.headers);
    let mut response = routes.call(hyper::Request::from_parts(head, body)).instrument(span.clone()).await?;
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert("x-request-id", value);
    }
    span.in_scope(|| tracing::debug!(status = response.status().as_u16(), "answered"));
    Ok(response)
}
