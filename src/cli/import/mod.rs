//! `faiss-proxy import`: points from a file into an index. A *source* gives rows, and a *sink* takes batches of points.

mod fvecs;
mod jsonl;
mod lines;
pub(super) mod npy;
mod points;
mod sink;
mod source;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use self::fvecs::Fvecs;
use self::jsonl::Jsonl;
use self::npy::Npy;
use self::points::WithPoints;
use self::sink::{IndexSink, NoIndex, Sink, Stored};
use self::source::{Fault, Row, Source, open};
use super::{Failure, directory, print_line};
use crate::engine::{Batch, Index, Store};
use crate::error::quoted;
use crate::types::{IdempotencyKey, IndexId, IndexSpec, Lsn, Metric, TenantId};

/// Bytes in the log after which a batch is stored, though it could have more points: what is held in memory, and what one sync is for.
const BATCH_LOG_BYTES: usize = 4 << 20;

/// Read points from a file into an index. No server may have the directory.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true))]
pub struct Arguments {
    /// What is read.
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
    #[arg(long, value_name = "TENANT", value_parser = |tenant: &str| TenantId::new(tenant))]
    tenant: TenantId,
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
    Jsonl,
    Fvecs,
}

impl Format {
    fn of(path: &Path) -> Result<Self, Failure> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some("fvecs") => Ok(Self::Fvecs),
            _ => Err(Failure::new(format!("{}: its name does not say what it is; say it with --format", path.display()))),
        }
    }
}

/// What was done, as a line of JSON has it.
#[derive(Debug, Default, Serialize)]
struct Report {
    tenant: String,
    /// `None`: a dry run creates none.
    index: Option<IndexId>,
    dimension: usize,
    #[serde(flatten)]
    counts: Counts,
    /// The last mutation, which is in a checkpoint.
    lsn: Option<Lsn>,
    dry_run: bool,
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
    let store = directory::open(&arguments.data_dir, "stop the server that has it first")?;
    let mut import = Import { arguments, counts: Counts::default(), seen: None };
    let done = target(arguments, &store, source.dimension()).and_then(|(mut sink, index)| {
        if sink.dimension() != source.dimension() {
            let (file, index) = (source.dimension(), sink.dimension());
            return Err(Failure::new(format!(
                "{}: its vectors have {file} values, and those of the index {index}",
                arguments.file.display()
            )));
        }
        let lsn = import.all(&mut *source, &mut *sink)?;
        Ok((index, lsn))
    });
    // Also after a failure: what was stored is checkpointed.
    let closed = directory::close(&store);
    let (index, lsn) = done.map_err(|failure| import.explained(failure))?;
    closed?;
    let (tenant, dimension, counts) = (arguments.tenant.to_string(), source.dimension(), import.counts);
    tell(&Report { tenant, index, dimension, counts, lsn, dry_run: arguments.dry_run }, arguments.json)
}

fn open_source(arguments: &Arguments) -> Result<Box<dyn Source>, Failure> {
    let path = &arguments.file;
    let format = arguments.format.map_or_else(|| Format::of(path), Ok)?;
    let source: Box<dyn Source> = match format {
        Format::Npy => {
            let (reader, length) = open(path)?;
            Box::new(Npy::new(reader, path.display().to_string(), length)?)
        }
        Format::Jsonl => Box::new(Jsonl::open(path)?),
        Format::Fvecs => Box::new(Fvecs::open(path)?),
    };
    match &arguments.points {
        Some(_) if format == Format::Jsonl => {
            Err(Failure::new("--points: the lines of a .jsonl file have their ids and metadata in them"))
        }
        Some(points) => Ok(Box::new(WithPoints::new(source, points)?)),
        None => Ok(source),
    }
}

/// The index that takes the points, created where that is asked for.
fn target(arguments: &Arguments, store: &Store, dimension: usize) -> Result<(Box<dyn Sink>, Option<IndexId>), Failure> {
    let Arguments { tenant, dry_run, .. } = arguments;
    let sink = |index: Arc<Index>| -> (Box<dyn Sink>, Option<IndexId>) {
        let id = index.id();
        (Box::new(IndexSink::new(index, store.limits(), *dry_run)), Some(id))
    };
    let Some(name) = &arguments.create else {
        let id = arguments.index.expect("clap wants one of the two");
        return directory::index(store, tenant, id).map(sink);
    };
    let failed = |error: crate::error::Error| Failure::new(format!("--create {name}: {error}"));
    let metric = arguments.metric.map_or("", Metric::as_str);
    let request = [name.as_bytes(), &(dimension as u64).to_le_bytes(), arguments.index_type.as_bytes(), metric.as_bytes()];
    let spec = IndexSpec {
        name: name.clone(),
        dimension,
        index_type: arguments.index_type.clone(),
        metric: arguments.metric,
        // So that the same command finds the index that it created before it was interrupted.
        key: Some(IdempotencyKey::new(&format!("import {name}"), &request).map_err(failed)?),
        ..IndexSpec::default()
    };
    if *dry_run {
        let metric = store.check_index(&spec).map_err(failed)?;
        return Ok((Box::new(NoIndex { limits: Arc::new(store.limits().clone()), dimension, metric }), None));
    }
    store.create_index(tenant, &spec).map(sink).map_err(failed)
}

/// An import that is under way.
struct Import<'a> {
    arguments: &'a Arguments,
    counts: Counts,
    /// The ids so far, where rows bring their own.
    seen: Option<Ids>,
}

impl Import<'_> {
    fn all(&mut self, source: &mut dyn Source, sink: &mut dyn Sink) -> Result<Option<Lsn>, Failure> {
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
            there => Failure::new(format!("{failure}; {there} rows before it are stored, and the same command goes on behind them")),
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
    let Report { tenant, index, counts: Counts { rows, stored, already_there, invalid }, .. } = report;
    let index = index.map_or_else(|| "(not created)".to_owned(), |index| index.to_string());
    let stored = if report.dry_run { format!("to be stored {stored}") } else { format!("stored {stored}") };
    print_line(&format!("{tenant} {index}\n  rows {rows}, {stored}, already there {already_there}, invalid {invalid}"))
}
