//! What a request is called in the log, and in traces.

use tracing::Span;
use tracing::field::Empty;
use warp::http::{HeaderMap, Method};

use super::listen::{REQUESTS, STAGES};
use super::request::RequestId;
use crate::TenantId;

/// The spans of a request. Their fields differ: a line of the log bears all of its span's, and a trace has names that OpenTelemetry has given.
#[derive(Clone, Debug)]
pub struct Spans {
    /// That its lines in the log are in.
    pub log: Span,
    /// That its stages are in; nothing where no traces are exported.
    pub trace: Span,
}

impl Spans {
    /// The query is left out, where a client may have put anything.
    pub fn new(id: &RequestId, method: &Method, path: &str, headers: &HeaderMap) -> Self {
        let (id, method) = (id.as_str(), method.as_str());
        let log = tracing::error_span!(target: REQUESTS, "request", request_id = id, method, path, tenant = Empty);
        let trace = tracing::info_span!(
            target: STAGES,
            parent: &log,
            "request",
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.response.status_code = Empty,
            url.path = path,
            request_id = id,
            tenant = Empty
        );
        join(&trace, headers);
        Self { log, trace }
    }

    /// Whose request it is.
    pub fn are_of(&self, tenant: &TenantId) {
        self.log.record("tenant", tenant.as_str());
        self.trace.record("tenant", tenant.as_str());
    }

    /// Method and path as the contract writes them.
    pub fn are_for(&self, method: &str, route: &str) {
        if !self.trace.is_disabled() {
            name(&self.trace, format!("{method} {route}"));
        }
    }

    pub fn end(&self, status: u16) {
        self.trace.record("http.response.status_code", status);
        if status >= 500 {
            self.trace.record("otel.status_code", "ERROR");
        }
    }
}

/// Makes the span a part of the trace that the client has begun, if `traceparent` says so (W3C Trace Context).
#[cfg(feature = "otlp")]
fn join(span: &Span, headers: &HeaderMap) {
    use opentelemetry::propagation::TextMapPropagator as _;
    use opentelemetry_http::HeaderExtractor;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    if !span.is_disabled() {
        let of_client = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        if let Err(error) = span.set_parent(of_client) {
            tracing::debug!(%error, "traceparent");
        }
    }
}

/// Names the span in its trace. It has begun, and `otel.name` would come too late.
#[cfg(feature = "otlp")]
fn name(span: &Span, name: String) {
    use opentelemetry::trace::TraceContextExt as _;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    span.context().span().update_name(name);
}

#[cfg(not(feature = "otlp"))]
fn join(_: &Span, _: &HeaderMap) {}

#[cfg(not(feature = "otlp"))]
fn name(_: &Span, _: String) {}
