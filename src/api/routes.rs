//! Which handler answers a path and a method.

use std::convert::Infallible;
use std::sync::Arc;

use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::Method;
use warp::reply::Response;

use super::reply::Problem;
use super::request::{Request, RequestId};
use super::{Server, changes, indices, search, service, vectors, writes};

/// What a path names. Its parts are as they came: warp does not decode percent escapes, so that a `%2F` in an id is no separator.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Root,
    Docs,
    Health,
    Ready,
    Metrics,
    Indices,
    Index(String),
    Checkpoint(String),
    Compact(String),
    Train(String),
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
    /// The methods it takes.
    fn allow(&self) -> &'static str {
        match self {
            Self::Root | Self::Docs | Self::Health | Self::Ready | Self::Metrics | Self::Changes(_) | Self::Nothing => "GET",
            Self::Indices | Self::Search(_) | Self::Vectors(_) => "GET, POST",
            // Posted to, these two are no ids: a point of such an id can be read, changed and deleted all the same.
            Self::Vector(_, id) if id == "fetch" || id == "delete" => "GET, PATCH, DELETE, POST",
            Self::Vector(..) => "GET, PATCH, DELETE",
            Self::Index(_) => "GET, DELETE",
            Self::Checkpoint(_) | Self::Compact(_) | Self::Train(_) | Self::Count(_) => "POST",
            Self::SearchBatch(_) | Self::RangeSearch(_) => "POST",
        }
    }
}

fn target() -> BoxedFilter<(Target,)> {
    warp::path::end()
        .map(|| Target::Root)
        .or(warp::path!("docs").map(|| Target::Docs))
        .unify()
        .or(warp::path!("v1" / "health").map(|| Target::Health))
        .unify()
        .or(warp::path!("v1" / "health" / "ready").map(|| Target::Ready))
        .unify()
        .or(warp::path!("v1" / "metrics").map(|| Target::Metrics))
        .unify()
        .or(warp::path!("v1" / "index").map(|| Target::Indices))
        .unify()
        .or(warp::path!("v1" / "index" / String).map(Target::Index))
        .unify()
        .or(warp::path!("v1" / "index" / String / "checkpoint").map(Target::Checkpoint))
        .unify()
        .or(warp::path!("v1" / "index" / String / "compact").map(Target::Compact))
        .unify()
        .or(warp::path!("v1" / "index" / String / "train").map(Target::Train))
        .unify()
        .or(warp::path!("v1" / "index" / String / "search").map(Target::Search))
        .unify()
        .or(warp::path!("v1" / "index" / String / "search" / "batch").map(Target::SearchBatch))
        .unify()
        .or(warp::path!("v1" / "index" / String / "range_search").map(Target::RangeSearch))
        .unify()
        .or(warp::path!("v1" / "index" / String / "vectors").map(Target::Vectors))
        .unify()
        .or(warp::path!("v1" / "index" / String / "count").map(Target::Count))
        .unify()
        .or(warp::path!("v1" / "index" / String / "changes").map(Target::Changes))
        .unify()
        .or(warp::path!("v1" / "index" / String / "vectors" / String).map(Target::Vector))
        .unify()
        .or(warp::any().map(|| Target::Nothing))
        .unify()
        .boxed()
}

/// The whole of the HTTP contract, as a filter that never rejects.
pub fn routes(server: Arc<Server>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let request = warp::method().and(warp::header::headers_cloned()).and(query).and(warp::body::stream()).map(Request::new);
    target()
        .and(warp::ext::get::<RequestId>())
        .and(request)
        .then(move |target, id: RequestId, request| {
            let server = Arc::clone(&server);
            async move { dispatch(server, target, request).await.unwrap_or_else(|problem| problem.into_response(id.as_str())) }
        })
        // All that warp could still reject is a request without the id that `listen` gave it, or with its body taken.
        .recover(|rejection| async move { Ok::<_, Infallible>(Problem::internal(&format!("{rejection:?}")).into_response("")) })
        .unify()
}

async fn dispatch(server: Arc<Server>, target: Target, request: Request) -> Result<Response, Problem> {
    // Open to everybody.
    match (&target, &request.method) {
        (Target::Nothing, _) => return Err(Problem::no_such_route()),
        (Target::Root, &Method::GET) => return Ok(service::root()),
        (Target::Docs, &Method::GET) => return Ok(service::docs()),
        (Target::Health, &Method::GET) => return Ok(service::health(&server)),
        (Target::Ready, &Method::GET) => return service::ready(server, request).await,
        (Target::Root | Target::Docs | Target::Health | Target::Ready, _) => {
            return Err(Problem::method_not_allowed(target.allow()));
        }
        _ => {}
    }
    let tenant = server.config.keys.tenant(&request.headers)?;
    match (target, &request.method) {
        (Target::Metrics, &Method::GET) => service::metrics(server, tenant).await,
        (Target::Indices, &Method::POST) => indices::create(server, tenant, request).await,
        (Target::Indices, &Method::GET) => indices::list(server, tenant, request).await,
        (Target::Index(id), &Method::GET) => indices::get(server, tenant, id).await,
        (Target::Index(id), &Method::DELETE) => indices::delete(server, tenant, id).await,
        (Target::Checkpoint(id), &Method::POST) => indices::checkpoint(server, tenant, id).await,
        (Target::Compact(id), &Method::POST) => indices::compact(server, tenant, id, request).await,
        (Target::Train(id), &Method::POST) => indices::train(server, tenant, id).await,
        (Target::Search(id), &Method::GET | &Method::POST) => search::search(server, tenant, id, request).await,
        (Target::SearchBatch(id), &Method::POST) => search::batch(server, tenant, id, request).await,
        (Target::RangeSearch(id), &Method::POST) => search::range(server, tenant, id, request).await,
        (Target::Vectors(id), &Method::POST) => writes::add(server, tenant, id, request).await,
        (Target::Vectors(id), &Method::GET) => vectors::list(server, tenant, id, request).await,
        (Target::Count(id), &Method::POST) => vectors::count(server, tenant, id, request).await,
        (Target::Changes(id), &Method::GET) => changes::changes(server, tenant, id, request).await,
        (Target::Vector(id, verb), &Method::POST) if verb == "fetch" => vectors::fetch(server, tenant, id, request).await,
        (Target::Vector(id, verb), &Method::POST) if verb == "delete" => writes::delete_many(server, tenant, id, request).await,
        (Target::Vector(id, vector_id), &Method::GET) => vectors::get(server, tenant, id, vector_id, request).await,
        (Target::Vector(id, vector_id), &Method::PATCH) => writes::patch(server, tenant, id, vector_id, request).await,
        (Target::Vector(id, vector_id), &Method::DELETE) => writes::delete(server, tenant, id, vector_id, request).await,
        (target, _) => Err(Problem::method_not_allowed(target.allow())),
    }
}

#[cfg(test)]
mod tests {
    use warp::Filter;

    use super::*;

    /// `warp::test` is behind a feature that brings a client along; the service is enough.
    async fn target_of(path: &str) -> String {
        let routes = target().map(|target| warp::reply::Response::new(format!("{target:?}").into()));
        let service = hyper_util::service::TowerToHyperService::new(warp::service(routes));
        let request = hyper::Request::builder().uri(path).body(String::new()).unwrap();
        let response = hyper::service::Service::call(&service, request).await.unwrap();
        let mut body = response.into_body();
        let frame = std::future::poll_fn(|cx| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)).await;
        String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_path_names_one_target_and_its_parts_stay_encoded() {
        for (path, target) in [
            ("/", "Root"),
            ("/docs", "Docs"),
            ("/v1/health", "Health"),
            ("/v1/health/ready", "Ready"),
            ("/v1/metrics", "Metrics"),
            ("/v1/index", "Indices"),
            ("/v1/index/a", "Index(\"a\")"),
            ("/v1/index/..", "Index(\"..\")"),
            ("/v1/index/a/checkpoint", "Checkpoint(\"a\")"),
            ("/v1/index/a/compact?erase=true", "Compact(\"a\")"),
            ("/v1/index/a/train", "Train(\"a\")"),
            ("/v1/index/a/search?x=1", "Search(\"a\")"),
            ("/v1/index/a/search/batch", "SearchBatch(\"a\")"),
            ("/v1/index/a/range_search", "RangeSearch(\"a\")"),
            ("/v1/index/a/vectors", "Vectors(\"a\")"),
            ("/v1/index/a/vectors/b%2Fc%00", "Vector(\"a\", \"b%2Fc%00\")"),
            ("/v1/index/a/vectors/b/c", "Nothing"),
            // To warp, a slash at the end is none.
            ("/v1/index/", "Indices"),
            ("/v1/index/a/vectors/", "Vectors(\"a\")"),
            ("/v1/index/a/vectors/fetch", "Vector(\"a\", \"fetch\")"),
            ("/v1/index/a/count", "Count(\"a\")"),
            ("/v1/index/a/changes?from_lsn=7", "Changes(\"a\")"),
            ("/v1//index", "Nothing"),
            ("/v2", "Nothing"),
        ] {
            assert_eq!(target_of(path).await, target, "{path}");
        }
    }
}
