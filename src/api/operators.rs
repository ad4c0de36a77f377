//! What operators look at on a listener of their own: the metrics of all, and how every tenant's indices stand. Nothing can be changed here.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use serde::Serialize;
use warp::Filter;
use warp::filters::path::FullPath;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::auth::Quota;
use super::reply::{Problem, json};
use super::request::Arrival;
use super::routes::rejected;
use super::{Server, metrics, service};
use crate::engine::{Standing, StandingState, Usage};
use crate::types::{IndexId, TenantId};

/// A filter that never rejects.
pub fn routes(server: Arc<Server>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    let call = warp::ext::get::<Arrival>().and(warp::method()).and(warp::path::full());
    call.then(move |arrival: Arrival, method: Method, path: FullPath| {
        let server = Arc::clone(&server);
        async move {
            let answer = answer(server, &method, path.as_str()).await;
            answer.unwrap_or_else(|problem| problem.into_response(arrival.id.as_str()))
        }
    })
    .recover(rejected)
    .unify()
}

async fn answer(server: Arc<Server>, method: &Method, path: &str) -> Result<Response, Problem> {
    let page = match path.trim_end_matches('/') {
        "" => root,
        "/metrics" => |server: &Server| metrics::page(server, None),
        "/v1/health" => service::health,
        "/admin/indices" => indices,
        "/admin/tenants" => tenants,
        _ => return Err(Problem::no_such_route()),
    };
    if method != Method::GET {
        return Err(Problem::method_not_allowed(["GET"].into_iter()));
    }
    // Files are looked at, and locks may be waited for. It stands in no queue: it is to tell why those are long.
    tokio::task::spawn_blocking(move || page(&server)).await.map_err(|error| Problem::internal(&error))
}

fn root(_: &Server) -> Response {
    service::greeting("FAISS Proxy Server, for its operators: /metrics, /admin/indices, /admin/tenants, /v1/health")
}

/// Every index, by tenant and oldest first.
fn indices(server: &Server) -> Response {
    #[derive(Serialize)]
    struct Indices {
        indices: Vec<IndexStanding>,
    }
    #[derive(Serialize)]
    struct IndexStanding {
        tenant_id: String,
        id: IndexId,
        name: String,
        state: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        points: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    }
    let standing = |Standing { tenant_id, id, name, state, size, .. }| {
        let (state, reason) = match state {
            StandingState::Open => ("open", None),
            StandingState::Closed => ("closed", None),
            StandingState::Refused(error) => ("refused", Some(error.to_string())),
        };
        IndexStanding {
            tenant_id: tenant_id.to_string(),
            id,
            name,
            state,
            reason,
            points: size.map(|size| size.points),
            bytes: size.map(|size| size.bytes),
        }
    };
    json(StatusCode::OK, &Indices { indices: server.store.standings(None).into_iter().map(standing).collect() })
}

/// What every tenant that has an index uses, and what it may.
fn tenants(server: &Server) -> Response {
    #[derive(Serialize)]
    struct Tenants {
        tenants: Vec<TenantUsage>,
    }
    #[derive(Serialize)]
    struct TenantUsage {
        tenant_id: String,
        usage: Usage,
        refused: usize,
        quota: Quota,
    }
    let mut of: BTreeMap<TenantId, (Usage, usize)> = BTreeMap::new();
    for standing in server.store.standings(None) {
        let (usage, refused) = of.entry(standing.tenant_id.clone()).or_default();
        usage.add(&standing.state, standing.size);
        *refused += usize::from(matches!(standing.state, StandingState::Refused(_)));
    }
    let tenant = |(tenant_id, (usage, refused))| TenantUsage {
        quota: server.config.gate.quota(&tenant_id),
        tenant_id: tenant_id.to_string(),
        usage,
        refused,
    };
    json(StatusCode::OK, &Tenants { tenants: of.into_iter().map(tenant).collect() })
}
