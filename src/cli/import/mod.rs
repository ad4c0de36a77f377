//! `faiss-proxy import`: points from a file into an index. A *source* gives rows, and a *sink* takes batches of points.

mod faiss_file;
mod first_server;
mod fvecs;
mod jsonl;
mod lines;
pub(super) mod npy;
mod npz;
#[cfg(feature = "parquet")]
mod parquet_file;
mod points;
mod reader;
mod server_sink;
mod sink;
pub(super) mod source;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use self::faiss_file::FaissFile;
use self::first_server::FirstServer;
use self::fvecs::Fvecs;
use self::jsonl::Jsonl;
use self::npy::Npy;
#[cfg(feature = "parquet")]
use self::parquet_file::ParquetFile;
use self::points::WithPoints;
use self::reader::ReaderLimits;
use self::server_sink::ServerSink;
use self::sink::{IndexSink, NoIndex, Sink, Stored};
use self::source::{Fault, Row, Source, open};
#[cfg(feature = "parquet")]
use super::read_parquet::table::ColumnChoice;
use super::server::Server;
use super::{Failure, directory, print_line};
use crate::engine::{Batch, Index, Store};
use crate::error::{Error, quoted};
use crate::io::Io as _;
use crate::io::os::OsIo;
use crate::types::{IdempotencyKey, IndexId, IndexSpec, Lsn, Metric, TenantId};

/// Bytes in the log after which a batch is stored, though it could have more points: what is held in memory, and what one sync is for.
const BATCH_LOG_BYTES: usize = 4 << 20;

/// Processor time of the process that reads a file which could crash it, where it is not said.
const READER_SECONDS: u64 = 300;

#[cfg(not(feature = "parquet"))]
pub(super) const WITHOUT_PARQUET: &str = "this program was built without Parquet: build it with --features parquet";

/// Read points from a file into an index: of a data directory that no server has open, or of a server, at --url.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub struct Arguments {
    /// What is read: a file, or a directory {tenant}/{index} of the first FAISS Proxy Server.
    file: PathBuf,
    /// What it is; by its name where it is not said.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Ids and metadata of its rows: a line of JSON for each, {"id": "…", "metadata": {…}}, both optional. A row without an id has its number, from 0.
    #[arg(long, value_name = "FILE.jsonl")]
    points: Option<PathBuf>,
    /// Where the data is. It must be there.
    #[arg(long, value_name = "DIR", env = "FAISS_DATA_DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// Whose index it is.
    #[arg(long, value_name = "TENANT", value_parser = |tenant: &str| TenantId::new(tenant), required_unless_present = "url", conflicts_with = "url")]
    tenant: Option<TenantId>,
    /// Of a server that takes the points: http://HOST:PORT. Its key says whose index it is.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The environment variable that has the server's API key.
    #[arg(long, value_name = "NAME", default_value = "FAISS_PROXY_API_KEY", requires = "url")]
    api_key_env: String,
    /// The index that takes the points; one of an id that it has is replaced.
    #[arg(long, value_name = "ID", group = "target")]
    index: Option<IndexId>,
    /// Create an index of this name for them. The same import again goes on with the same index.
    #[arg(long, value_name = "NAME", group = "target")]
    create: Option<String>,
    /// Of the index that is created: a FAISS class name, a factory string, or auto.
    #[arg(long, value_name = "TYPE", default_value = "Flat", conflicts_with = "index")]
    index_type: String,
    /// Of the index that is created: l2, ip or cosine; where it is not said, what its type implies, else l2.
    #[arg(long, value_name = "METRIC", conflicts_with = "index")]
    metric: Option<Metric>,
    /// Of an .npz file with several arrays, the one that is read.
    #[arg(long, value_name = "NAME")]
    array: Option<String>,
    #[cfg(feature = "parquet")]
    #[command(flatten)]
    columns: ColumnChoice,
    /// Where points of the first server were deleted or replaced, take its n-th row for its n-th id, as its searches did.
    #[arg(long)]
    rows_as_served: bool,
    /// Memory of the process that reads a FAISS index or a Parquet file, in MiB; where it is not said, 1024 and three times the file.
    #[arg(long, value_name = "MIB")]
    reader_memory_mb: Option<u64>,
    /// Processor time of that process, and how long it may give nothing, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = READER_SECONDS, value_parser = clap::value_parser!(u64).range(1..))]
    reader_seconds: u64,
    /// Tell of each row that cannot be stored, and go on with the others.
    #[arg(long)]
    skip_invalid: bool,
    /// Read and check everything, and store nothing.
    #[arg(long)]
    dry_run: bool,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Npy,
    Npz,
    Jsonl,
    Fvecs,
    /// In a program that was built with --features parquet.
    Parquet,
    /// An index that FAISS wrote.
    Faiss,
    /// A directory of the first FAISS Proxy Server.
    FirstServer,
}

impl Format {
    fn of(path: &Path) -> Result<Self, Failure> {
        if OsIo.list(path).is_ok() {
            return Ok(Self::FirstServer);
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("npz") => Ok(Self::Npz),
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some("fvecs") => Ok(Self::Fvecs),
            Some("parquet") => Ok(Self::Parquet),
            Some("faiss" | "index") => Ok(Self::Faiss),
            _ => Err(Failure::new(format!("{}: its name does not say what it is; say it with --format", path.display()))),
        }
    }
}

/// What was done, as a line of JSON has it.
#[derive(Debug, Default, Serialize)]
struct Report {
    #[serde(flatten)]
    target: Target,
    dimension: usize,
    #[serde(flatten)]
    counts: Counts,
    /// The last mutation, which is in a checkpoint.
    lsn: Option<Lsn>,
    dry_run: bool,
}

/// Which index takes the points; none where a dry run creates none.
#[derive(Clone, Debug, Default, Serialize)]
struct Target {
    tenant: Option<String>,
    index: Option<IndexId>,
}

/// Rows of the file, by what became of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Counts {
    rows: u64,
    /// Stored now.
    stored: u64,
    /// In batches that were there already.
    already_there: u64,
    invalid: u64,
}

/// A row that was passed over, as a line of JSON has it.
#[derive(Serialize)]
struct Invalid<'a> {
    invalid: &'a str,
    reason: &'a str,
}

/// Reads the file into the index, and says what was done.
///
/// # Errors
/// Where nothing was begun, or a row stopped it: then what came before is stored, and the same command goes on behind it.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let mut source = open_source(arguments)?;
    let mut import = Import { arguments, counts: Counts::default(), seen: None, target: Target::default() };
    let done = match &arguments.url {
        Some(url) => on_server(arguments, url, source.dimension()).and_then(|sink| import.all(&mut *source, sink)),
        None => {
            let store = directory::open(&arguments.data_dir, "import into the server that has it, with --url http://HOST:PORT")?;
            let done = in_store(arguments, &store, source.dimension()).and_then(|sink| import.all(&mut *source, sink));
            // Also after a failure: what was stored is checkpointed.
            let closed = directory::close(&store);
            done.and_then(|lsn| closed.map(|()| lsn))
        }
    };
    let lsn = done.map_err(|failure| import.explained(failure))?;
    let Import { counts, target, .. } = import;
    tell(&Report { target, dimension: source.dimension(), counts, lsn, dry_run: arguments.dry_run }, arguments.json)
}

fn open_source(arguments: &Arguments) -> Result<Box<dyn Source>, Failure> {
    let path = &arguments.file;
    let format = arguments.format.map_or_else(|| Format::of(path), Ok)?;
    let reading = Reading {
        array: arguments.array.as_deref(),
        #[cfg(feature = "parquet")]
        columns: &arguments.columns,
        rows_as_served: arguments.rows_as_served,
        limits: ReaderLimits {
            memory_bytes: arguments.reader_memory_mb.map(|mib| mib.saturating_mul(1 << 20)),
            seconds: arguments.reader_seconds,
        },
    };
    let source = reading.open(path, format)?;
    match &arguments.points {
        Some(_) if matches!(format, Format::Jsonl | Format::Parquet | Format::FirstServer) => {
            Err(Failure::new(format!("--points: {} has ids and metadata of its own", path.display())))
        }
        Some(points) => Ok(Box::new(WithPoints::new(source, points)?)),
        None => Ok(source),
    }
}

/// How a file is read, where its format leaves that open.
struct Reading<'a> {
    array: Option<&'a str>,
    #[cfg(feature = "parquet")]
    columns: &'a ColumnChoice,
    rows_as_served: bool,
    limits: ReaderLimits,
}

impl Reading<'_> {
    fn open(&self, path: &Path, format: Format) -> Result<Box<dyn Source>, Failure> {
        Ok(match format {
            Format::Npy => {
                let (reader, length) = open(path)?;
                Box::new(Npy::new(reader, path.display().to_string(), length)?)
            }
            Format::Npz => npz::open_array(path, self.array)?,
            Format::Jsonl => Box::new(Jsonl::open(path)?),
            Format::Fvecs => Box::new(Fvecs::open(path)?),
            #[cfg(feature = "parquet")]
            Format::Parquet => Box::new(ParquetFile::open(path, self.columns, self.limits)?),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => return Err(Failure::new(format!("{}: {WITHOUT_PARQUET}", path.display()))),
            Format::Faiss => Box::new(FaissFile::open(path, self.limits)?),
            Format::FirstServer => Box::new(FirstServer::open(path, self.rows_as_served, self.limits)?),
        })
    }
}

/// Opens a file as its name says what it is, and as an import reads it where nothing else is said.
pub(super) fn open_by_name(path: &Path) -> Result<Box<dyn Source>, Failure> {
    let limits = ReaderLimits { memory_bytes: None, seconds: READER_SECONDS };
    let reading = Reading {
        array: None,
        #[cfg(feature = "parquet")]
        columns: &ColumnChoice::default(),
        rows_as_served: false,
        limits,
    };
    reading.open(path, Format::of(path)?)
}

/// Where the points go, and which index that is.
type Destination = (Box<dyn Sink>, Target);

/// An index of a data directory, created where that is asked for.
fn in_store(arguments: &Arguments, store: &Store, dimension: usize) -> Result<Destination, Failure> {
    let tenant = arguments.tenant.as_ref().expect("clap wants it where there is no --url");
    let target = |index| Target { tenant: Some(tenant.to_string()), index };
    let sink = |index: Arc<Index>| -> Destination {
        let target = target(Some(index.id()));
        (Box::new(IndexSink::new(index, store.limits(), arguments.dry_run)), target)
    };
    let spec = match wanted(arguments, dimension) {
        Wanted::Index(id) => return directory::index(store, tenant, id).map(sink),
        Wanted::New(spec) => spec,
    };
    let failed = |error: Error| Failure::new(format!("--create {}: {error}", spec.name));
    if arguments.dry_run {
        let metric = store.check_index(&spec).map_err(failed)?;
        return Ok((Box::new(NoIndex { limits: Arc::new(store.limits().clone()), dimension, metric }), target(None)));
    }
    let metric = spec.metric.map_or("", Metric::as_str);
    let request = [spec.name.as_bytes(), &(dimension as u64).to_le_bytes(), spec.index_type.as_bytes(), metric.as_bytes()];
    let key = Some(IdempotencyKey::new(&creation_key(&spec), &request).map_err(failed)?);
    store.create_index(tenant, &IndexSpec { key, ..spec.clone() }).map(sink).map_err(failed)
}

/// An index of a server, created where that is asked for.
fn on_server(arguments: &Arguments, url: &str, dimension: usize) -> Result<Destination, Failure> {
    let server = Server::new(url, &arguments.api_key_env)?;
    let sink = match wanted(arguments, dimension) {
        Wanted::Index(id) => ServerSink::open(server, id, arguments.dry_run)?,
        Wanted::New(spec) if arguments.dry_run => {
            let metric = spec.metric.unwrap_or(Metric::L2);
            return Ok((Box::new(NoIndex { limits: Arc::default(), dimension, metric }), Target::default()));
        }
        Wanted::New(spec) => ServerSink::create(server, &spec, &creation_key(&spec))?,
    };
    let target = Target { tenant: Some(sink.tenant().to_owned()), index: Some(sink.id()) };
    Ok((Box::new(sink), target))
}

/// The index that the command line names.
enum Wanted {
    Index(IndexId),
    New(IndexSpec),
}

fn wanted(arguments: &Arguments, dimension: usize) -> Wanted {
    match &arguments.create {
        Some(name) => Wanted::New(IndexSpec {
            name: name.clone(),
            dimension,
            index_type: arguments.index_type.clone(),
            metric: arguments.metric,
            ..IndexSpec::default()
        }),
        None => Wanted::Index(arguments.index.expect("clap wants one of the two")),
    }
}

/// By which the same command finds the index that it created before it was interrupted.
fn creation_key(spec: &IndexSpec) -> String {
    format!("import {}", spec.name)
}

/// An import that is under way.
struct Import<'a> {
    arguments: &'a Arguments,
    counts: Counts,
    /// The ids so far, where rows bring their own.
    seen: Option<Ids>,
    target: Target,
}

impl Import<'_> {
    fn all(&mut self, source: &mut dyn Source, (mut sink, target): Destination) -> Result<Option<Lsn>, Failure> {
        if sink.dimension() != source.dimension() {
            let (file, of_file, of_index) = (self.arguments.file.display(), source.dimension(), sink.dimension());
            return Err(Failure::new(format!("{file}: its vectors have {of_file} values, and those of the index {of_index}")));
        }
        self.target = target;
        self.seen = source.has_ids().then(Ids::default);
        let mut has_more = true;
        while has_more {
            let mut batch = sink.batch();
            has_more = self.fill(source, &mut batch)?;
            let points = batch.len() as u64;
            if points > 0 {
                match sink.store(batch)? {
                    Stored::Now => self.counts.stored += points,
                    Stored::Already => self.counts.already_there += points,
                }
            }
        }
        sink.finish()
    }

    /// Reads until the batch is full; false where there is no more.
    fn fill(&mut self, source: &mut dyn Source, batch: &mut Batch) -> Result<bool, Failure> {
        let mut values = Vec::with_capacity(source.dimension());
        while !batch.is_full() && batch.log_bytes() < BATCH_LOG_BYTES {
            let wrong = match source.next(&mut values) {
                Ok(None) => return Ok(false),
                Ok(Some(row)) => self.push(row, &values, batch),
                Err(Fault::Row(why)) => Err(why),
                Err(Fault::File(why)) => return Err(Failure::new(format!("{}: {why}", source.place()))),
            };
            self.counts.rows += 1;
            if let Err(why) = wrong {
                self.pass_over(&source.place(), &why)?;
            }
        }
        Ok(true)
    }

    fn push(&mut self, row: Row, values: &[f32], batch: &mut Batch) -> Result<(), String> {
        let id = row.id.unwrap_or_else(|| self.counts.rows.to_string());
        let hash = self.seen.as_ref().map(|seen| seen.hash(&id));
        if let (Some(seen), Some(hash)) = (&self.seen, &hash)
            && seen.hashes.contains(hash)
        {
            return Err(format!("the id {} came before", quoted(&id)));
        }
        batch.push(&id, values, row.metadata.as_deref().unwrap_or("{}")).map_err(|error| error.to_string())?;
        if let (Some(seen), Some(hash)) = (&mut self.seen, hash) {
            seen.hashes.insert(hash);
        }
        Ok(())
    }

    fn pass_over(&mut self, place: &str, why: &str) -> Result<(), Failure> {
        if !self.arguments.skip_invalid {
            return Err(Failure::new(format!("{place}: {why}")));
        }
        self.counts.invalid += 1;
        if self.arguments.json {
            print_line(&serde_json::to_string(&Invalid { invalid: place, reason: why }).expect("two texts are JSON"))
        } else {
            print_line(&format!("{place}: {why}"))
        }
    }

    /// With what is done by then.
    fn explained(&self, failure: Failure) -> Failure {
        match self.counts.stored + self.counts.already_there {
            0 => failure,
            _ if self.arguments.dry_run => failure,
            there => {
                Failure::new(format!("{failure}; {there} rows before it are stored, and the same command goes on behind them"))
            }
        }
    }
}

/// Ids of points, by 128 bits of their hash each: that two of 2^40 have the same is less likely than one in 2^48.
#[derive(Debug, Default)]
struct Ids {
    states: [RandomState; 2],
    hashes: HashSet<[u64; 2]>,
}

impl Ids {
    fn hash(&self, id: &str) -> [u64; 2] {
        self.states.each_ref().map(|state| state.hash_one(id))
    }
}

fn tell(report: &Report, json: bool) -> Result<(), Failure> {
    if json {
        return print_line(&serde_json::to_string(report).expect("a report is JSON"));
    }
    let Report { target: Target { tenant, index }, counts: Counts { rows, stored, already_there, invalid }, .. } = report;
    let index = index.map_or_else(|| "(not created)".to_owned(), |index| index.to_string());
    let tenant = tenant.as_deref().unwrap_or("(of the key)");
    let stored = if report.dry_run { format!("to be stored {stored}") } else { format!("stored {stored}") };
    print_line(&format!("{tenant} {index}\n  rows {rows}, {stored}, already there {already_there}, invalid {invalid}"))
}
