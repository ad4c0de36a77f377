//! What a client is told: JSON, and problem documents (RFC 9457). The only place where an error becomes a status.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use warp::http::header::{ACCEPT, CONTENT_TYPE, ETAG, VARY};
use warp::http::{HeaderMap, HeaderValue, StatusCode};
use warp::reply::Response;

use super::binary;
use super::request::quality;
use crate::error::{Error, What};
use crate::types::Lsn;

const JSON: &str = "application/json";

/// The answer to a request that failed.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    /// Stable word for programs.
    code: &'static str,
    /// Sentence for people.
    detail: String,
    /// What the status asks for beside the document.
    header: Option<(&'static str, Cow<'static, str>)>,
    more: More,
}

/// Why a request failed: a problem document (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument<'a> {
    #[schema(value_type = String)]
    r#type: &'static str,
    title: &'static str,
    status: u16,
    /// A sentence for people.
    detail: &'a str,
    /// A stable word for programs.
    code: &'static str,
    /// Under which the request is in the server's log.
    #[serde(skip_serializing_if = "str::is_empty")]
    #[schema(required = false)]
    request_id: &'a str,
    /// The points of a batch that are at fault, where `atomic=true` refused it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [PointError],
    /// The oldest mutation that can still be asked for, where the status is 410.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_lsn: Option<u64>,
}

/// What some problems have beside the sentence.
#[derive(Debug)]
enum More {
    Nothing,
    /// The points of a batch that are at fault.
    Errors(Vec<PointError>),
    /// Of what is kept, where what was asked for no longer is.
    OldestLsn(u64),
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), header: None, more: More::Nothing }
    }

    fn with_header(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        Self { header: Some((name, value.into())), ..self }
    }

    pub fn with_errors(self, errors: Vec<PointError>) -> Self {
        Self { more: More::Errors(errors), ..self }
    }

    pub fn busy(detail: &str) -> Self {
        Self::busy_for(detail, 1)
    }

    /// Worth trying again after so many seconds.
    pub fn busy_for(detail: &str, seconds: u64) -> Self {
        Self::unavailable_for(StatusCode::TOO_MANY_REQUESTS, "busy", detail, seconds)
    }

    /// Worth trying again after so many seconds.
    pub fn unavailable_for(status: StatusCode, code: &'static str, detail: &str, seconds: u64) -> Self {
        Self::new(status, code, detail).with_header("retry-after", seconds.to_string())
    }

    pub fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with_header("www-authenticate", "Bearer, ApiKey")
    }

    pub fn no_such_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "route_not_found", "there is nothing at this path; /docs lists the calls")
    }

    pub fn method_not_allowed(methods: impl Iterator<Item = &'static str>) -> Self {
        let allow = methods.collect::<Vec<_>>().join(", ");
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("this path takes {allow}"));
        problem.with_header("allow", allow)
    }

    pub fn invalid_json(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_json", detail)
    }

    /// A mistake of ours. The client learns nothing of it but the request id, under which it is in the log.
    pub fn internal(error: &dyn fmt::Display) -> Self {
        tracing::error!(%error, "a request met a mistake of the server");
        let detail = "the server made a mistake; its log has the reason under this request_id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub fn code(&self) -> &'static str {
        self.code
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The problem document. `request_id` is left out where it is empty.
    pub fn document<'a>(&'a self, request_id: &'a str) -> impl Serialize + 'a {
        let (errors, oldest_lsn) = match &self.more {
            More::Nothing => (&[][..], None),
            More::Errors(errors) => (&errors[..], None),
            More::OldestLsn(lsn) => (&[][..], Some(*lsn)),
        };
        ProblemDocument {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id,
            errors,
            oldest_lsn,
        }
    }

    pub fn into_response(self, request_id: &str) -> Response {
        if self.status.is_server_error() {
            tracing::error!(status = self.status.as_u16(), code = self.code, detail = self.detail, "a request failed");
        }
        let mut response = json(self.status, &self.document(request_id));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header {
            let value = HeaderValue::from_str(&value).expect("our own words are visible ASCII");
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let (status, code) = match &error {
            Error::Invalid { code, .. } => (StatusCode::UNPROCESSABLE_ENTITY, *code),
            Error::NotFound(What::Index) => (StatusCode::NOT_FOUND, "index_not_found"),
            Error::NotFound(What::Vector) => (StatusCode::NOT_FOUND, "vector_not_found"),
            Error::Gone { oldest_lsn } => {
                let more = More::OldestLsn(*oldest_lsn);
                return Self { more, ..Self::new(StatusCode::GONE, "lsn_gone", error.to_string()) };
            }
            Error::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Error::Quota(_) => (StatusCode::FORBIDDEN, "quota_exceeded"),
            Error::Unmet(_) => (StatusCode::PRECONDITION_FAILED, "precondition_failed"),
            Error::Busy(detail) => return Self::busy(detail),
            Error::Full(_) => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
            Error::Io(_) => (StatusCode::SERVICE_UNAVAILABLE, "io_error"),
            Error::Corrupt(_) => (StatusCode::SERVICE_UNAVAILABLE, "index_refused"),
            Error::Backup(_) => (StatusCode::SERVICE_UNAVAILABLE, "backup_damaged"),
            Error::OutcomeUnknown(_) => (StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown"),
            Error::Closed(_) => (StatusCode::SERVICE_UNAVAILABLE, "closed"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// What is wrong with one point of a batch, or worth knowing of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct PointError {
    /// In the array that the client sent, from 0.
    pub position: usize,
    /// Null where the point has none, or one too long to be an id.
    #[schema(required)]
    pub id: Option<String>,
    pub code: &'static str,
    pub detail: String,
}

/// A response with `body` as compact JSON.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = Response::new(to_json(body).into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    match serde_json::to_vec(body) {
        Ok(bytes) => bytes,
        Err(error) => unreachable!("our own documents have string keys and writing to memory does not fail: {error}"),
    }
}

/// Where the vectors of an answer go: each stays in its place in the JSON, or they stand behind it, in the order in which they were there.
#[derive(Debug)]
pub enum AnswerVectors {
    Inside,
    /// Their bytes.
    Behind(Vec<u8>),
}

impl AnswerVectors {
    /// Behind the JSON, to a client that names the binary form, and JSON not before it.
    pub fn wanted(headers: &HeaderMap) -> Self {
        let wanted = quality(headers, ACCEPT, binary::MEDIA_TYPE);
        if wanted > 0.0 && wanted >= quality(headers, ACCEPT, JSON) { Self::Behind(Vec::new()) } else { Self::Inside }
    }

    /// Gives back what is to stand in the JSON of a vector that the answer has next.
    pub fn place(&mut self, values: Option<Vec<f32>>) -> Option<Vec<f32>> {
        match self {
            Self::Inside => values,
            Self::Behind(bytes) => {
                values.iter().for_each(|values| bytes.extend_from_slice(bytemuck::cast_slice(values)));
                None
            }
        }
    }

    /// The answer of 200, whose vectors have all been placed.
    pub fn answer(self, body: &impl Serialize) -> Response {
        let mut response = match self {
            Self::Inside => json(StatusCode::OK, body),
            Self::Behind(vectors) => {
                let mut response = Response::new(binary::join(&to_json(body), &vectors).into());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(binary::MEDIA_TYPE));
                response
            }
        };
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        response
    }
}

pub fn no_content() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The same, with the mutation that stored the point for its entity tag: `If-Match` takes it.
pub fn with_etag(mut response: Response, lsn: Lsn) -> Response {
    let tag = HeaderValue::from_str(&format!("\"{lsn}\"")).expect("digits and quotes are a header");
    response.headers_mut().insert(ETAG, tag);
    response
}

/// The same, with the mutation that did it: for an answer without a body.
pub fn with_lsn(mut response: Response, lsn: Lsn) -> Response {
    response.headers_mut().insert("x-lsn", lsn.into());
    response
}

/// JSON text that the store kept, as it is.
///
/// # Errors
/// 500 where it is no JSON, which the store would not have taken.
pub fn stored_json(text: String) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(text).map_err(|error| Problem::internal(&error))
}

/// Serializes a number that is exactly a f32 in the f32's shortest form: `0.1`, not `0.10000000149011612`.
pub fn shortest<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    let narrow = *number as f32;
    if f64::from(narrow) == *number { serializer.serialize_f32(narrow) } else { serializer.serialize_f64(*number) }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::error::{Damage, Fault, Unknown};

    #[test]
    fn every_kind_of_error_has_its_status() {
        let fault = || {
            let source = io::Error::from(io::ErrorKind::Other);
            Arc::new(Fault { operation: "write", path: PathBuf::from("f"), source })
        };
        let damage = Arc::new(Damage { path: PathBuf::from("f"), offset: 8_192, problem: "checksum mismatch".to_owned() });
        for (error, status, code) in [
            (Error::invalid("k", "invalid_k", "no"), 422, "invalid_k"),
            (Error::NotFound(What::Index), 404, "index_not_found"),
            (Error::NotFound(What::Vector), 404, "vector_not_found"),
            (Error::Gone { oldest_lsn: 7 }, 410, "lsn_gone"),
            (Error::Conflict("no".to_owned()), 409, "conflict"),
            (Error::Quota("no".to_owned()), 403, "quota_exceeded"),
            (Error::Unmet("no".to_owned()), 412, "precondition_failed"),
            (Error::Busy("later"), 429, "busy"),
            (Error::Full(fault()), 507, "disk_full"),
            (Error::Io(fault()), 503, "io_error"),
            (Error::Corrupt(damage), 503, "index_refused"),
            (Error::OutcomeUnknown(Unknown::Unsynced(fault())), 503, "outcome_unknown"),
            (Error::OutcomeUnknown(Unknown::Unanswered(fault())), 503, "outcome_unknown"),
            (Error::Closed("closed".into()), 503, "closed"),
        ] {
            let detail = error.to_string();
            let problem = Problem::from(error);
            assert_eq!((problem.status().as_u16(), problem.code, problem.detail.as_str()), (status, code, detail.as_str()));
            assert_eq!(problem.header.is_some(), status == 429);
        }
    }

    #[test]
    fn a_number_that_is_a_f32_is_written_in_its_shortest_form_and_any_other_in_full() {
        #[derive(Serialize)]
        struct Number(#[serde(serialize_with = "shortest")] f64);
        let written = |number: f64| serde_json::to_string(&Number(number)).unwrap();
        assert_eq!(written(f64::from(0.1_f32)), "0.1");
        assert_eq!(written(0.1), "0.1");
        assert_eq!(written(1.0 / 3.0), "0.3333333333333333");
        assert_eq!(written(f64::from(1.0_f32 / 3.0)), "0.33333334");
        assert_eq!(written(0.0), "0.0");
        assert_eq!(written(1e300), "1e+300");
    }
}
