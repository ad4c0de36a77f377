//! The spans of requests, sent to a collector of OpenTelemetry: OTLP over HTTP, as protobuf.
//!
//! A thread of the SDK sends them in batches. What is waiting is bounded: behind a collector that is slow or gone spans are dropped, and counted, and no request
//! waits.

use std::env;
use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, Value};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TIMEOUT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, SpanExporter,
    WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use ureq::Agent;
use warp::http::{Request, Response};

use crate::api::STAGES;

/// What it is called where `OTEL_SERVICE_NAME` does not say.
const SERVICE_NAME: &str = "faiss-proxy";

/// Where spans go of a collector whose URL is given (OpenTelemetry Protocol Exporter, "Endpoint URLs for OTLP/HTTP").
const TRACES_PATH: &str = "/v1/traces";

/// How long one attempt to send may take where `OTEL_EXPORTER_OTLP_TIMEOUT` does not say: the specification's.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long the end of the program waits for the last spans to be taken.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer, which says at most why something was not taken.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// Spans on their way. To be ended, or the last of them are lost.
#[derive(Debug)]
pub struct Exporting(SdkTracerProvider);

/// What hands spans on.
pub type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

/// Begins to export, where an option or a variable says where to. `endpoint` is the option's.
///
/// # Errors
/// What is wrong with the variables.
pub fn start<S>(endpoint: Option<&str>) -> Result<Option<(Exporting, BoxedLayer<S>)>, String>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    if endpoint.is_none() && !is_set(OTEL_EXPORTER_OTLP_ENDPOINT) && !is_set(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) {
        return Ok(None);
    }
    let milliseconds = env::var(OTEL_EXPORTER_OTLP_TIMEOUT).ok().and_then(|text| text.parse().ok());
    let timeout = milliseconds.map_or(TIMEOUT, Duration::from_millis);
    let agent = Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false).build();
    let exporter = SpanExporter::builder().with_http().with_http_client(Client(agent.into()));
    let exporter = match endpoint {
        Some(url) => exporter.with_endpoint(format!("{}{TRACES_PATH}", url.trim_end_matches('/'))),
        None => exporter,
    };
    let exporter = exporter.build().map_err(|error| error.to_string())?;
    let provider = SdkTracerProvider::builder().with_resource(resource()).with_batch_exporter(exporter).build();
    let layer =
        tracing_opentelemetry::layer().with_tracer(provider.tracer(SERVICE_NAME)).with_location(false).with_threads(false);
    let layer = layer.with_tracked_inactivity(false).with_target(false).with_level(false);
    let of_requests = Targets::new().with_target(STAGES, tracing::Level::INFO);
    Ok(Some((Exporting(provider), layer.with_filter(of_requests).boxed())))
}

impl Exporting {
    /// Has what is still here sent, if a collector takes it.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_TIMEOUT) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Who the spans are of: what `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say.
fn resource() -> Resource {
    let said = Resource::builder().build();
    match said.get(&Key::from_static_str("service.name")) {
        Some(Value::String(name)) if !name.as_str().starts_with("unknown_service") => said,
        _ => Resource::builder().with_service_name(SERVICE_NAME).build(),
    }
}

/// The client that the program has anyway. It blocks, on the SDK's thread, which has nothing else to do.
#[derive(Debug)]
struct Client(Agent);

impl Client {
    fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (head, mut body) = self.0.run(Request::from_parts(head, &body[..]))?.into_parts();
        let bytes = body.with_config().limit(ANSWER_BYTES_MAX).read_to_vec()?;
        Ok(Response::from_parts(head, bytes.into()))
    }
}

/// Written as the macro `async_trait` would.
impl HttpClient for Client {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(ready(self.send(request)))
    }
}
