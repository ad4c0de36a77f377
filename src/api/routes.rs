//! Which handler answers a path and a method.

use std::convert::Infallible;
use std::sync::Arc;

use warp::filters::path::FullPath;
use warp::http::Method;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::admission::Turn;
use super::auth::Role;
use super::reply::Problem;
use super::request::{Arrival, Request};
use super::{Server, backups, changes, docs, forward, indices, openapi, search, service, vectors, writes};

/// What a path names. Its parts are as they came, not percent-decoded, so that a `%2F` in an id is no separator.
///
/// Matched here and not by a chain of warp's filters: each `or` of one doubles the time that the compiler takes for it (six minutes, with
/// nineteen), and at run time tries all that stand before.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Root,
    OpenApi,
    Docs,
    /// A file that the page of `Docs` names.
    DocsFile(docs::File),
    Health,
    Ready,
    Metrics,
    /// For Prometheus.
    Exposition,
    Indices,
    Index(String),
    Ntotal(String),
    Checkpoint(String),
    Compact(String),
    Backup(String),
    Train(String),
    Reset(String),
    Search(String),
    SearchBatch(String),
    RangeSearch(String),
    Vectors(String),
    Count(String),
    Changes(String),
    Vector(String, String),
    Nothing,
}

impl Target {
    /// Every path of the contract, with the names that its parts have there. What belongs to a page is none.
    pub const PATHS: &[&str] = &[
        "/",
        "/docs",
        "/openapi.json",
        "/v1/health",
        "/v1/health/ready",
        "/v1/metrics",
        "/metrics",
        "/v1/index",
        "/v1/index/{index_id}",
        "/v1/index/{index_id}/ntotal",
        "/v1/index/{index_id}/checkpoint",
        "/v1/index/{index_id}/compact",
        "/v1/index/{index_id}/backup",
        "/v1/index/{index_id}/train",
        "/v1/index/{index_id}/reset",
        "/v1/index/{index_id}/search",
        "/v1/index/{index_id}/search/batch",
        "/v1/index/{index_id}/range_search",
        "/v1/index/{index_id}/count",
        "/v1/index/{index_id}/vectors",
        "/v1/index/{index_id}/vectors/fetch",
        "/v1/index/{index_id}/vectors/delete",
        "/v1/index/{index_id}/vectors/{vector_id}",
        "/v1/index/{index_id}/changes",
    ];

    /// A slash at the end is none.
    pub fn of(path: &str) -> Self {
        let path = path.strip_prefix('/').unwrap_or(path);
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.is_empty() {
            return Self::Root;
        }
        let parts: Vec<&str> = path.split('/').collect();
        if parts.contains(&"") {
            return Self::Nothing;
        }
        match parts[..] {
            ["docs"] => Self::Docs,
            ["metrics"] => Self::Exposition,
            ["docs", name] => docs::File::named(name).map_or(Self::Nothing, Self::DocsFile),
            ["openapi.json"] => Self::OpenApi,
            ["v1", "health"] => Self::Health,
            ["v1", "health", "ready"] => Self::Ready,
            ["v1", "metrics"] => Self::Metrics,
            ["v1", "index"] => Self::Indices,
            ["v1", "index", id] => Self::Index(id.to_owned()),
            ["v1", "index", id, "vectors", vector_id] => Self::Vector(id.to_owned(), vector_id.to_owned()),
            ["v1", "index", id, "search", "batch"] => Self::SearchBatch(id.to_owned()),
            ["v1", "index", id, what] => {
                let target = match what {
                    "ntotal" => Self::Ntotal,
                    "checkpoint" => Self::Checkpoint,
                    "compact" => Self::Compact,
                    "backup" => Self::Backup,
                    "train" => Self::Train,
                    "reset" => Self::Reset,
                    "search" => Self::Search,
                    "range_search" => Self::RangeSearch,
                    "vectors" => Self::Vectors,
                    "count" => Self::Count,
                    "changes" => Self::Changes,
                    _ => return Self::Nothing,
                };
                target(id.to_owned())
            }
            _ => Self::Nothing,
        }
    }

    /// The index that it is about, as the path names it.
    pub fn index(&self) -> Option<&str> {
        match self {
            Self::Index(id)
            | Self::Ntotal(id)
            | Self::Checkpoint(id)
            | Self::Compact(id)
            | Self::Backup(id)
            | Self::Train(id)
            | Self::Reset(id)
            | Self::Search(id)
            | Self::SearchBatch(id)
            | Self::RangeSearch(id)
            | Self::Vectors(id)
            | Self::Count(id)
            | Self::Changes(id)
            | Self::Vector(id, _) => Some(id),
            _ => None,
        }
    }

    /// Method and path as the contract writes them: one of a few pairs, whatever a client sends.
    fn call(&self, method: &Method) -> (&'static str, &'static str) {
        let call = self.calls().iter().find(|(name, _)| *name == method.as_str());
        let method = call.map_or("other", |(name, _)| name);
        let route = match self {
            Self::Root => "/",
            Self::Docs => "/docs",
            Self::DocsFile(_) => "/docs/{file}",
            Self::OpenApi => "/openapi.json",
            Self::Exposition => "/metrics",
            Self::Health => "/v1/health",
            Self::Ready => "/v1/health/ready",
            Self::Metrics => "/v1/metrics",
            Self::Indices => "/v1/index",
            Self::Index(_) => "/v1/index/{index_id}",
            Self::Ntotal(_) => "/v1/index/{index_id}/ntotal",
            Self::Checkpoint(_) => "/v1/index/{index_id}/checkpoint",
            Self::Compact(_) => "/v1/index/{index_id}/compact",
            Self::Backup(_) => "/v1/index/{index_id}/backup",
            Self::Train(_) => "/v1/index/{index_id}/train",
            Self::Reset(_) => "/v1/index/{index_id}/reset",
            Self::Search(_) => "/v1/index/{index_id}/search",
            Self::SearchBatch(_) => "/v1/index/{index_id}/search/batch",
            Self::RangeSearch(_) => "/v1/index/{index_id}/range_search",
            Self::Vectors(_) => "/v1/index/{index_id}/vectors",
            Self::Count(_) => "/v1/index/{index_id}/count",
            Self::Changes(_) => "/v1/index/{index_id}/changes",
            Self::Vector(_, verb) if method == "POST" && verb == "fetch" => "/v1/index/{index_id}/vectors/fetch",
            Self::Vector(_, verb) if method == "POST" && verb == "delete" => "/v1/index/{index_id}/vectors/delete",
            Self::Vector(..) => "/v1/index/{index_id}/vectors/{vector_id}",
            Self::Nothing => "none",
        };
        (method, route)
    }

    /// The methods it takes, and who may use them. `tests/http/roles.rs` walks it.
    pub fn calls(&self) -> &'static [(&'static str, Access)] {
        use Access::{Key, Open};
        use Role::{Admin, Reader, Writer};
        match self {
            Self::Root | Self::OpenApi | Self::Docs | Self::DocsFile(_) | Self::Health | Self::Ready => &[("GET", Open)],
            Self::Metrics | Self::Changes(_) | Self::Ntotal(_) => &[("GET", Key(Reader))],
            Self::Exposition => &[("GET", Key(Admin))],
            Self::Indices => &[("GET", Key(Reader)), ("POST", Key(Admin))],
            Self::Index(_) => &[("GET", Key(Reader)), ("PATCH", Key(Admin)), ("DELETE", Key(Admin))],
            Self::Checkpoint(_) | Self::Compact(_) | Self::Backup(_) | Self::Train(_) => &[("POST", Key(Admin))],
            Self::Search(_) => &[("GET", Key(Reader)), ("POST", Key(Reader))],
            Self::SearchBatch(_) | Self::RangeSearch(_) | Self::Count(_) => &[("POST", Key(Reader))],
            Self::Vectors(_) => &[("GET", Key(Reader)), ("POST", Key(Writer))],
            Self::Reset(_) => &[("POST", Key(Writer))],
            // Posted to, these two are no ids: a point of such an id can be read, changed and deleted all the same.
            Self::Vector(_, id) if id == "fetch" => {
                &[("GET", Key(Reader)), ("PATCH", Key(Writer)), ("DELETE", Key(Writer)), ("POST", Key(Reader))]
            }
            Self::Vector(_, id) if id == "delete" => {
                &[("GET", Key(Reader)), ("PATCH", Key(Writer)), ("DELETE", Key(Writer)), ("POST", Key(Writer))]
            }
            Self::Vector(..) => &[("GET", Key(Reader)), ("PATCH", Key(Writer)), ("DELETE", Key(Writer))],
            Self::Nothing => &[],
        }
    }
}

/// Who may make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Open,
    /// With a key of this role at least.
    Key(Role),
}

/// The whole of the HTTP contract, as a filter that never rejects.
pub fn routes(server: Arc<Server>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let request = warp::ext::get::<Arrival>()
        .and(warp::method())
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::body::stream())
        .map(Request::new);
    warp::path::full()
        .and(request)
        .then(move |path: FullPath, request: Request| {
            let target = Target::of(path.as_str());
            let server = Arc::clone(&server);
            let (id, came) = (request.id.clone(), request.came);
            let (method, route) = target.call(&request.method);
            request.spans.are_for(method, route);
            async move {
                let response = dispatch(Arc::clone(&server), target, path, request).await.unwrap_or_else(|problem| {
                    server.metrics.refused(&problem);
                    problem.into_response(id.as_str())
                });
                server.metrics.answered(method, route, response.status(), came.elapsed());
                response
            }
        })
        .recover(rejected)
        .unify()
}

/// All that warp could still reject is a request without the id that `listen` gave it, or with its body taken.
pub async fn rejected(rejection: Rejection) -> Result<Response, Infallible> {
    Ok(Problem::internal(&format!("{rejection:?}")).into_response(""))
}

async fn dispatch(server: Arc<Server>, target: Target, path: FullPath, request: Request) -> Result<Response, Problem> {
    let calls = target.calls();
    if calls.is_empty() {
        return Err(Problem::no_such_route());
    }
    let call = calls.iter().find(|(method, _)| *method == request.method.as_str());
    let _pass;
    let turn = match call.or(calls.first()) {
        Some((_, Access::Key(role))) => {
            let caller = server.config.gate.caller(&request.headers, request.peer)?;
            request.spans.are_of(&caller.tenant);
            if call.is_some() {
                caller.check(*role)?;
            }
            _pass = server.config.gate.admit(&caller.tenant)?;
            Turn { tenant: caller.tenant, deadline: request.deadline()? }
        }
        _ => {
            return match (&target, call) {
                (_, None) => Err(Problem::method_not_allowed(calls.iter().map(|(method, _)| *method))),
                (Target::Root, _) => Ok(service::root()),
                (Target::OpenApi, _) => Ok(openapi::get()),
                (Target::Docs, _) => Ok(docs::page()),
                (Target::DocsFile(file), _) => Ok(file.answer(&request.headers)),
                (Target::Ready, _) => service::ready(server, request).await,
                _ => Ok(service::health(&server)),
            };
        }
    };
    let is_read = matches!(call, Some((_, Access::Key(Role::Reader))));
    if let Some(forwarder) = &server.forwarder
        && call.is_some()
        && !forward::is_forwarded(&request.headers)
    {
        if let Some(holders) = forward::holders(&server, &turn, &target) {
            return forwarder.forward(&server, holders, path.as_str(), is_read, request).await;
        }
        if matches!((&target, &request.method), (Target::Indices, &Method::GET)) {
            return forward::list(server, turn, request).await;
        }
    }
    if is_read
        && let Some(min_lsn) = request.number("min_lsn", "invalid_lsn")?
        && let Some(id) = target.index()
    {
        indices::catch_up(&server, &turn, id, min_lsn).await?;
    }
    match (target, &request.method) {
        (Target::Metrics, &Method::GET) => service::figures(server, turn).await,
        (Target::Exposition, &Method::GET) => service::exposition(server, turn).await,
        (Target::Indices, &Method::POST) => indices::create(server, turn, request).await,
        (Target::Indices, &Method::GET) => indices::list(server, turn, request).await,
        (Target::Index(id), &Method::GET) => indices::get(server, turn, id).await,
        (Target::Ntotal(id), &Method::GET) => indices::ntotal(server, turn, id).await,
        (Target::Index(id), &Method::PATCH) => indices::change(server, turn, id, request).await,
        (Target::Index(id), &Method::DELETE) => indices::delete(server, turn, id).await,
        (Target::Checkpoint(id), &Method::POST) => indices::checkpoint(server, turn, id).await,
        (Target::Compact(id), &Method::POST) => indices::compact(server, turn, id, request).await,
        (Target::Backup(id), &Method::POST) => backups::make(server, turn, id, request).await,
        (Target::Train(id), &Method::POST) => indices::train(server, turn, id).await,
        (Target::Reset(id), &Method::POST) => writes::reset(server, turn, id, request).await,
        (Target::Search(id), &Method::GET | &Method::POST) => search::search(server, turn, id, request).await,
        (Target::SearchBatch(id), &Method::POST) => search::batch(server, turn, id, request).await,
        (Target::RangeSearch(id), &Method::POST) => search::range(server, turn, id, request).await,
        (Target::Vectors(id), &Method::POST) => writes::add(server, turn, id, request).await,
        (Target::Vectors(id), &Method::GET) => vectors::list(server, turn, id, request).await,
        (Target::Count(id), &Method::POST) => vectors::count(server, turn, id, request).await,
        (Target::Changes(id), &Method::GET) => changes::changes(server, turn, id, request).await,
        (Target::Vector(id, verb), &Method::POST) if verb == "fetch" => vectors::fetch(server, turn, id, request).await,
        (Target::Vector(id, verb), &Method::POST) if verb == "delete" => writes::delete_many(server, turn, id, request).await,
        (Target::Vector(id, vector_id), &Method::GET) => vectors::get(server, turn, id, vector_id, request).await,
        (Target::Vector(id, vector_id), &Method::PATCH) => writes::patch(server, turn, id, vector_id, request).await,
        (Target::Vector(id, vector_id), &Method::DELETE) => writes::delete(server, turn, id, vector_id, request).await,
        _ => Err(Problem::method_not_allowed(calls.iter().map(|(method, _)| *method))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_labelled_as_the_contract_writes_it() {
        for path in Target::PATHS {
            let verb = path.ends_with("/fetch") || path.ends_with("/delete");
            let method = if verb { Method::POST } else { Method::GET };
            assert_eq!(Target::of(path).call(&method).1, *path);
        }
        assert_eq!(Target::of("/v1/health").call(&Method::from_bytes(b"BREW").unwrap()), ("other", "/v1/health"));
    }

    #[test]
    fn a_path_names_one_target_and_its_parts_stay_encoded() {
        for (path, target) in [
            ("/", "Root"),
            ("/docs", "Docs"),
            ("/metrics", "Exposition"),
            ("/docs/start.js", "DocsFile(Start)"),
            ("/docs/index.html", "Nothing"),
            ("/docs/../openapi.json", "Nothing"),
            ("/openapi.json", "OpenApi"),
            ("/v1/health", "Health"),
            ("/v1/health/ready", "Ready"),
            ("/v1/metrics", "Metrics"),
            ("/v1/index", "Indices"),
            ("/v1/index/a", "Index(\"a\")"),
            ("/v1/index/..", "Index(\"..\")"),
            ("/v1/index/a/ntotal", "Ntotal(\"a\")"),
            ("/v1/index/a/checkpoint", "Checkpoint(\"a\")"),
            ("/v1/index/a/compact?erase=true", "Compact(\"a\")"),
            ("/v1/index/a/backup", "Backup(\"a\")"),
            ("/v1/index/a/train", "Train(\"a\")"),
            ("/v1/index/a/reset", "Reset(\"a\")"),
            ("/v1/index/a/search?x=1", "Search(\"a\")"),
            ("/v1/index/a/search/batch", "SearchBatch(\"a\")"),
            ("/v1/index/a/range_search", "RangeSearch(\"a\")"),
            ("/v1/index/a/vectors", "Vectors(\"a\")"),
            ("/v1/index/a/vectors/b%2Fc%00", "Vector(\"a\", \"b%2Fc%00\")"),
            ("/v1/index/a/vectors/b/c", "Nothing"),
            // A slash at the end is none.
            ("/v1/index/", "Indices"),
            ("/v1/index/a/vectors/", "Vectors(\"a\")"),
            ("/v1/index/a/vectors/fetch", "Vector(\"a\", \"fetch\")"),
            ("/v1/index/a/count", "Count(\"a\")"),
            ("/v1/index/a/changes?from_lsn=7", "Changes(\"a\")"),
            ("/v1//index", "Nothing"),
            ("/v1/index//vectors", "Nothing"),
            ("//", "Root"),
            ("/v2", "Nothing"),
        ] {
            assert_eq!(format!("{:?}", Target::of(path.split('?').next().unwrap())), target, "{path}");
        }
    }
}
