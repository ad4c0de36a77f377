//! What is logged, to standard error, and in which form.

use std::env;
use std::io::{self, IsTerminal as _};
use std::panic;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};
use warp::http::Uri;

use crate::api::{ACCESS_LOG, REQUESTS, STAGES, ServerConfig};

/// Options of the server's log.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArguments {
    /// What is logged, to standard error: error, warn, info, debug, trace or off; or more of some parts, like warn,faiss_proxy::engine=debug. Where
    /// it is not said the environment variable RUST_LOG says it, and else it is info.
    #[arg(long, value_name = "LEVELS", env = "FAISS_PROXY_LOG", value_parser = levels)]
    log: Option<String>,
    /// The form of the log: lines to read, or an object of JSON on each line.
    #[arg(long, value_enum, value_name = "FORMAT", env = "FAISS_PROXY_LOG_FORMAT", default_value_t = Format::Text)]
    log_format: Format,
    /// Log each request when it is answered: tenant, method, path, status, bytes, microseconds.
    #[arg(long, env = "FAISS_PROXY_ACCESS_LOG")]
    access_log: bool,
    /// Log each search, count and delete that takes so many milliseconds, its time in the queue included, with how it was answered.
    #[arg(long, value_name = "MILLISECONDS", env = "FAISS_PROXY_SLOW_QUERY", default_value_t = ServerConfig::SLOW_CALL.as_millis() as u64)]
    slow_query: u64,
    /// A collector of OpenTelemetry, http://HOST:4318, that spans of requests are sent to. The standard variables OTEL_EXPORTER_OTLP_ENDPOINT and others of OTEL_… count too.
    #[arg(long, value_name = "URL", env = "FAISS_PROXY_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
}

impl LogArguments {
    /// What of it cannot be.
    pub fn problem(&self) -> Option<String> {
        let endpoint = self.otlp_endpoint.as_ref()?;
        if !cfg!(feature = "otlp") {
            return Some("--otlp-endpoint: this build exports no traces: build it with --features otlp".to_owned());
        }
        let is_http = endpoint.starts_with("http://") && endpoint.parse::<Uri>().is_ok_and(|uri| uri.host().is_some());
        (!is_http).then(|| {
            format!("--otlp-endpoint: {endpoint:?} is no URL like http://localhost:4318; https is spoken by a collector beside this server")
        })
    }

    pub fn slow_call(&self) -> Duration {
        Duration::from_millis(self.slow_query)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
}

/// What logs, and exports traces.
#[derive(Debug)]
pub struct Logging {
    format: Format,
    #[cfg(feature = "otlp")]
    exporting: Option<super::otlp::Exporting>,
}

impl Logging {
    /// Logs from now on. `level` is that of a command that has no options of its own, or is not told; `RUST_LOG` goes before it.
    pub fn start(level: &str, arguments: Option<&LogArguments>) -> Self {
        let format = arguments.map_or_else(Format::default, |arguments| arguments.log_format);
        let lines = fmt::layer().with_writer(io::stderr);
        let lines = match format {
            Format::Text => lines.with_ansi(io::stderr().is_terminal()).boxed(),
            Format::Json => {
                // Else a panic would be the one thing on standard error that is no JSON.
                panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a thread panicked")));
                lines.json().flatten_event(true).with_span_list(false).boxed()
            }
        };
        let lines = lines.with_filter(filter(level, arguments));
        #[cfg(not(feature = "otlp"))]
        {
            tracing_subscriber::registry().with(lines).init();
            Self { format }
        }
        #[cfg(feature = "otlp")]
        {
            // A server whose traces go nowhere serves all the same. A wrong option is told of when all options are looked at.
            let served = arguments.filter(|arguments| arguments.problem().is_none());
            let started = served.map_or(Ok(None), |arguments| super::otlp::start(arguments.otlp_endpoint.as_deref()));
            let (problem, started) = started.map_or_else(|problem| (Some(problem), None), |started| (None, started));
            let (exporting, spans) = started.unzip();
            tracing_subscriber::registry().with(lines).with(spans).init();
            if let Some(problem) = problem {
                tracing::error!(problem, "traces are not exported");
            }
            Self { format, exporting }
        }
    }

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Exports what is left.
    pub fn end(self) {
        #[cfg(feature = "otlp")]
        self.exporting.into_iter().for_each(super::otlp::Exporting::end);
    }
}

fn filter(level: &str, arguments: Option<&LogArguments>) -> EnvFilter {
    let variable = env::var(EnvFilter::DEFAULT_ENV).ok().filter(|text| !text.is_empty() && levels(text).is_ok());
    let said = arguments.and_then(|arguments| arguments.log.clone()).or(variable).unwrap_or_else(|| level.to_owned());
    let logs_access = arguments.is_some_and(|arguments| arguments.access_log);
    // Whatever is logged of a request, its id is there too: the span that has it is of the level error. What was said goes before this.
    let of_requests = match (logs_access, &*said) {
        (true, _) => format!("{REQUESTS}=error,{ACCESS_LOG}=debug,"),
        (false, "off") => String::new(),
        (false, _) => format!("{REQUESTS}=error,"),
    };
    EnvFilter::new(format!("{STAGES}=off,{of_requests}{said}"))
}

fn levels(text: &str) -> Result<String, String> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}
