//! `faiss-proxy bench`: how fast a server, or the library on a directory, does what it is asked, and how much it finds (`docs/bench.md`).

mod baseline;
mod data;
mod generate;
mod http;
mod interrupt;
mod library;
mod load;
mod phases;
mod report;
mod target;
mod truth;

use std::env;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::value_parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize as _;
use serde_json::{Map, Value};

use self::data::{Data, Origin};
use self::http::Server;
use self::interrupt::Interrupt;
use self::library::Library;
use self::phases::Bench;
use self::report::{DataSet, Machine, Program, Report};
use self::target::Target;
use super::{Failure, print_line};
use crate::config::EF_MAX;
use crate::types::{Durability, IndexOptions, Metric, SearchParams, TenantId};

/// Measure writes and searches, of a server or of the library.
///
/// Indices of its own are created for it, named bench-…, and deleted in the end.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("where").required(true), group = clap::ArgGroup::new("source").required(true))]
pub struct Arguments {
    /// A server: http://HOST:PORT.
    #[arg(long, value_name = "URL", group = "where")]
    url: Option<String>,
    /// The environment variable that has the server's API key.
    #[arg(long, value_name = "NAME", default_value = "FAISS_PROXY_API_KEY", conflicts_with = "data_dir")]
    api_key_env: String,
    /// A data directory that no server has open. It must be there.
    #[arg(long, value_name = "DIR", group = "where", requires = "tenant")]
    data_dir: Option<PathBuf>,
    /// Whose the indices are in that directory.
    #[arg(long, value_name = "TENANT", value_parser = |tenant: &str| TenantId::new(tenant), requires = "data_dir")]
    tenant: Option<TenantId>,
    /// Vectors of a file that import reads: .npy, .jsonl, .fvecs, ….
    #[arg(long, value_name = "FILE", group = "source")]
    vectors: Option<PathBuf>,
    /// Of that file, so many rows at most.
    #[arg(long, value_name = "N", value_parser = positive, requires = "vectors")]
    rows: Option<usize>,
    /// Make so many vectors, in clusters.
    #[arg(long, value_name = "N", value_parser = positive, group = "source", requires = "dimension")]
    generate: Option<usize>,
    /// Values of a vector that is made.
    #[arg(long, value_name = "D", value_parser = value_parser!(u32).range(1..=65_536), requires = "generate")]
    dimension: Option<u32>,
    /// The same seed makes the same vectors, queries and matches of filters.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Vectors that are not stored and are searched for.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = positive)]
    queries: usize,
    /// A FAISS class name, a factory string, or auto.
    #[arg(long, value_name = "TYPE", default_value = "HNSW32")]
    index_type: String,
    /// l2, ip or cosine; where it is not said, what the type implies, else l2.
    #[arg(long, value_name = "METRIC")]
    metric: Option<Metric>,
    /// Options of the index, as JSON: {"ef_construction": 200}.
    #[arg(long, value_name = "JSON", value_parser = options)]
    options: Option<IndexOptions>,
    /// Results of a search.
    #[arg(long, value_name = "K", default_value = "10", value_parser = positive)]
    k: usize,
    /// What is measured, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PHASES", default_values_t = Phase::ALL)]
    phases: Vec<Phase>,
    /// How many clients ask at one time: a run for each.
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "1,8", value_parser = up_to::<1_024>)]
    clients: Vec<usize>,
    /// How long a run lasts.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Requests of a run at most.
    #[arg(long, value_name = "N", value_parser = positive)]
    requests: Option<usize>,
    /// Requests a second of all clients, each timed from when it was due.
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Vectors in a request of an ingest: a run for each.
    #[arg(long, value_delimiter = ',', value_name = "N", default_value = "100,1000", value_parser = up_to::<10_000>)]
    batch: Vec<usize>,
    /// When a write is acknowledged: fsync, or interval (before its sync).
    #[arg(long, value_name = "WHEN", default_value = "fsync")]
    durability: Durability,
    /// HNSW: search with each efSearch; else as the index was tuned.
    #[arg(long, value_delimiter = ',', value_name = "EF", value_parser = value_parser!(u32).range(1..=i64::from(EF_MAX)), conflicts_with = "nprobe")]
    ef: Vec<u32>,
    /// IVF: search with each number of lists.
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = value_parser!(u32).range(1..))]
    nprobe: Vec<u32>,
    /// Name the first run that finds so much. The first is for filters too.
    #[arg(long, value_delimiter = ',', value_name = "SHARE", default_value = "0.95,0.99", value_parser = share)]
    recall: Vec<f64>,
    /// Rows that filters match, as shares.
    #[arg(long, value_delimiter = ',', value_name = "SHARE", default_value = "0.5,0.05,0.005", value_parser = share)]
    filter_selectivity: Vec<f64>,
    /// Vectors a second that are written beside the searches of phase mixed.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = rate)]
    write_rate: f64,
    /// Before searches: compact the index, or wait for what the server builds.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Settle::Compact)]
    settle: Settle,
    /// How long the index may take until it is built.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    build_seconds: u64,
    /// Measure plain synced writes too, here; else in --data-dir.
    #[arg(long, value_name = "DIR")]
    baseline_dir: Option<PathBuf>,
    /// One JSON document, for programs.
    #[arg(long)]
    json: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Phase {
    /// Writing all rows in batches into an empty index.
    Ingest,
    /// Writing one vector at a time.
    Write,
    /// Searching, as the index is, or with each --ef or --nprobe.
    Search,
    /// Searching all rows by a scan.
    Exact,
    /// Searching with filters.
    Filter,
    /// Searching while rows are written.
    Mixed,
}

impl Phase {
    const ALL: [Self; 6] = [Self::Ingest, Self::Write, Self::Search, Self::Exact, Self::Filter, Self::Mixed];
}

/// What is done with an index between its last row and the first search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Settle {
    Compact,
    Background,
}

impl Arguments {
    /// How hard searches look, one after the other.
    fn efforts(&self) -> Vec<SearchParams> {
        let ef = self.ef.iter().map(|&ef| SearchParams { ef: Some(ef), ..SearchParams::default() });
        let nprobe = self.nprobe.iter().map(|&nprobe| SearchParams { nprobe: Some(nprobe), ..SearchParams::default() });
        let efforts: Vec<SearchParams> = ef.chain(nprobe).collect();
        if efforts.is_empty() { vec![SearchParams::default()] } else { efforts }
    }

    fn origin(&self) -> (Origin<'_>, String) {
        match (&self.vectors, self.generate, self.dimension) {
            (Some(path), ..) => (Origin::File(path, self.rows.unwrap_or(usize::MAX)), path.display().to_string()),
            (None, Some(rows), Some(dimension)) => {
                (Origin::Generated(rows, dimension as usize), format!("generated, seed {}", self.seed))
            }
            _ => unreachable!("clap wants a source"),
        }
    }
}

fn positive(text: &str) -> Result<usize, String> {
    up_to::<{ usize::MAX }>(text)
}

fn up_to<const MOST: usize>(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST).contains(number));
    number.ok_or_else(|| format!("must be a whole number of 1 to {MOST}"))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (1e-3..=1e9).contains(rate));
    rate.ok_or_else(|| "must be a number of 0.001 to 1000000000".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "must be a share, more than 0 and at most 1".to_owned())
}

/// Unknown ones are refused here: a server ignores them, and figures of a misspelt option would be believed.
fn options(text: &str) -> Result<IndexOptions, String> {
    let given: Map<String, Value> = serde_json::from_str(text).map_err(|error| format!("must be a JSON object: {error}"))?;
    let known = IndexOptions::deserialize(Value::Object(given.clone())).map_err(|error| error.to_string())?;
    let written = serde_json::to_value(&known).expect("options are JSON");
    match given.keys().find(|name| written.get(name).is_none()) {
        Some(name) => Err(format!("{name} is no option of an index, or has no value")),
        None => Ok(known),
    }
}

/// Measures, and prints what it measured.
///
/// # Errors
/// Nothing is printed where something other than a measured request failed, or it was interrupted. Where measured requests failed, the figures are printed.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    match (&arguments.url, &arguments.data_dir, &arguments.tenant) {
        (Some(url), ..) => measure(&Server::new(url, &arguments.api_key_env, arguments.durability)?, arguments, &interrupt),
        (None, Some(data_dir), Some(tenant)) => {
            let library = Library::open(data_dir, tenant.clone(), arguments.durability)?;
            let done = measure(&library, arguments, &interrupt);
            let closed = library.close();
            done.and(closed)
        }
        _ => unreachable!("clap wants a URL, or a directory and a tenant"),
    }
}

fn measure<T: Target>(target: &T, arguments: &Arguments, interrupt: &Interrupt) -> Result<(), Failure> {
    let bar = progress(arguments.json);
    bar.set_message("reading vectors");
    let (origin, vectors) = arguments.origin();
    let metric = arguments.metric.unwrap_or_else(|| implied_metric(&arguments.index_type));
    let mut data = Data::new(&origin, arguments.queries, metric, arguments.seed, target.limits())?;
    if arguments.phases.contains(&Phase::Filter) {
        data.add_fields(&arguments.filter_selectivity, arguments.seed);
    }
    let (rows, dimension) = (data.row_count(), data.dimension);
    let mut report = Report {
        program: Program::this(),
        machine: Machine::this(),
        // The key is not among them.
        flags: env::args().skip(2).collect(),
        data: DataSet { vectors, rows, queries: arguments.queries, dimension, metric: metric.as_str() },
        index: None,
        runs: Vec::new(),
        at_recall: Vec::new(),
        failed_requests: 0,
    };
    let done = Bench { target, arguments, data: &data, interrupt, bar: &bar, report: &mut report }.all();
    bar.finish_and_clear();
    done?;
    if arguments.json {
        print_line(&serde_json::to_string(&report).expect("a report is JSON"))?;
    } else {
        print_line(&report.text(arguments.k))?;
    }
    match report.failed_requests {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} of the requests that were measured failed"))),
    }
}

/// As `docs/index-types.md` has it.
fn implied_metric(index_type: &str) -> Metric {
    if index_type == "IndexFlatIP" { Metric::InnerProduct } else { Metric::L2 }
}

/// A line on the terminal that says what is done, where somebody looks at one.
fn progress(is_for_programs: bool) -> ProgressBar {
    if is_for_programs || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{elapsed} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}
