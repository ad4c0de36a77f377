//! `GET /openapi.json`: what the API is, for programs, as OpenAPI 3.1 (<https://spec.openapis.org/oas/v3.1.0>).
//!
//! Schemas are derived of the types that handlers decode and encode; which calls there are, and who may make them, is asked of `routes`. `docs/openapi.json` is
//! a copy, so that a change of the API is seen where it is reviewed.

mod answers;
mod call;
mod operations;
mod parameters;
mod schemas;

use std::sync::LazyLock;

use bytes::Bytes;
use utoipa::PartialSchema as _;
use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, Info, License, OpenApi, Paths, RefOr, Tag};
use warp::http::HeaderValue;
use warp::http::header::CONTENT_TYPE;
use warp::reply::Response;

use self::answers::{FAILURES, Failure};
use self::call::{Group, SCHEMES};
pub use self::schemas::{ChangeOp, Vector};
use super::reply::{PointError, ProblemDocument};
use super::routes::Target;

const DESCRIPTION: &str = "\
A durable vector store on FAISS: what is acknowledged is on the disk.

Every call but those that are open takes an API key, in `X-API-Key` or as `Authorization: Bearer`; a key is of one tenant and has a role, `reader`, `writer` or \
`admin`, each of which may do what those before it may. Every answer bears `X-Request-Id`, the client's own where it sent one. What fails is a problem document \
(RFC 9457) with a stable word in `code`. A path that takes other methods answers 405 with `Allow`. Fields and parameters that are not known are ignored. A vector \
may be base64 wherever it may be an array, and bodies of `application/octet-stream` have vectors behind their JSON (`docs/binary.md`). Limits are those of the \
defaults; an operator may have set others.";

/// The document. It is made at its first use, and sent as it is.
static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| match serde_json::to_vec(&document()) {
    Ok(text) => text.into(),
    Err(error) => unreachable!("a document of strings is JSON: {error}"),
});

pub fn get() -> Response {
    let mut response = Response::new(DOCUMENT.clone().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn document() -> OpenApi {
    let mut components = components();
    let mut paths = Paths::new();
    for path in Target::PATHS {
        let mut item = PathItem::default();
        for (method, access) in Target::of(path).calls() {
            // What is not described is another path's, or a test says so.
            let Some(call) = operations::call(method, path) else { continue };
            let place = match *method {
                "GET" => &mut item.get,
                "POST" => &mut item.post,
                "PATCH" => &mut item.patch,
                "DELETE" => &mut item.delete,
                _ => continue,
            };
            *place = Some(call.build(*access, &mut components));
        }
        paths.paths.insert((*path).to_owned(), item);
    }
    let mut info = Info::new("FAISS Proxy Server", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    info.license = Some(License::new(env!("CARGO_PKG_LICENSE")));
    let mut document = OpenApi::new(info, paths);
    document.components = Some(components);
    document.security = Some(call::security());
    document.tags = Some(Group::ALL.map(|(group, description)| tag(group, description)).to_vec());
    document
}

fn tag(group: Group, description: &str) -> Tag {
    let mut tag = Tag::new(group.name());
    tag.description = Some(description.to_owned());
    tag
}

/// What calls refer to, but for what they bring themselves.
fn components() -> Components {
    let mut components = Components::new();
    components.schemas.insert("Problem".to_owned(), ProblemDocument::schema());
    components.schemas.insert("PointError".to_owned(), PointError::schema());
    for failure in FAILURES {
        components.schemas.insert(Failure::name(failure.status), RefOr::T(failure.schema()));
        components.responses.insert(Failure::name(failure.status), RefOr::T(failure.response()));
    }
    let schemes = [
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))),
        SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
    ];
    for (name, scheme) in SCHEMES.into_iter().zip(schemes) {
        components.security_schemes.insert(name.to_owned(), RefOr::T(scheme));
    }
    components
}

#[cfg(test)]
mod tests;
