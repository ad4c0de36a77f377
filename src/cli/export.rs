//! `faiss-proxy export`: the points of an index in a file, which `faiss-proxy import` reads.

#[cfg(feature = "parquet")]
mod parquet_file;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::value::RawValue;

use super::import::npy;
use super::scan::Scan;
use super::server::Server;
use super::{Failure, directory, print_line};
use crate::io::Io as _;
use crate::io::durable::Replacement;
use crate::io::os::OsIo;
use crate::types::{IndexId, Lsn, Point, TenantId};

/// Write the points of an index to a file. With --url they are a server's.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where the data is. It must be there.
    #[arg(long, value_name = "DIR", env = "FAISS_DATA_DIR", default_value = "./data")]
    data_dir: PathBuf,
    /// Whose index it is.
    #[arg(long, value_name = "TENANT", value_parser = |tenant: &str| TenantId::new(tenant), required_unless_present = "url", conflicts_with = "url")]
    tenant: Option<TenantId>,
    /// Of a server instead: http://HOST:PORT.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Variable with its key.
    #[arg(long, value_name = "NAME", default_value = "FAISS_PROXY_API_KEY", requires = "url")]
    api_key_env: String,
    /// The index.
    #[arg(long, value_name = "ID")]
    index: IndexId,
    /// npy and fvecs have vectors only: ids and metadata go to FILE.points.jsonl.
    #[arg(long, value_enum)]
    format: Format,
    /// The file. It must not be there: it has this name when it is whole.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// One JSON object a line, for programs.
    #[arg(long)]
    json: bool,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Npy,
    Jsonl,
    Fvecs,
    /// In a program that was built with --features parquet.
    Parquet,
}

/// What was done, as a line of JSON has it.
#[derive(Serialize)]
struct Report {
    tenant: String,
    index: IndexId,
    points: u64,
    dimension: usize,
    /// The state that was written.
    lsn: Lsn,
    files: Vec<String>,
}

/// Writes the file, and says what was done.
///
/// # Errors
/// There is no new file.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let report = match &arguments.url {
        Some(url) => {
            let scan = Scan::begin(Server::new(url, &arguments.api_key_env)?, arguments.index)?;
            write(arguments, &scan.tenant.clone(), scan.count, scan.dimension, |each| scan.visit(each))?
        }
        None => {
            let store = directory::open(&arguments.data_dir, "export from the server that has it, with --url http://HOST:PORT")?;
            let tenant = arguments.tenant.as_ref().expect("clap wants it where there is no --url");
            let done = directory::index(&store, tenant, arguments.index).and_then(|index| {
                write(arguments, tenant.as_str(), index.vector_count(), index.dimension(), |each| index.visit(each))
            });
            let closed = directory::close(&store);
            let report = done?;
            closed?;
            report
        }
    };
    let line = if arguments.json {
        serde_json::to_string(&report).expect("a report is JSON")
    } else {
        format!("{} {}\n  points {}, LSN {}: {}", report.tenant, report.index, report.points, report.lsn, report.files.join(", "))
    };
    print_line(&line)
}

/// Writes the points that `visit` gives, one after the other; it gives the state that they are of.
fn write(
    arguments: &Arguments,
    tenant: &str,
    points: u64,
    dimension: usize,
    visit: impl FnOnce(&mut dyn FnMut(Point) -> Result<(), Failure>) -> Result<Lsn, Failure>,
) -> Result<Report, Failure> {
    let out = Out::new(&arguments.out)?;
    let mut writer: Box<dyn Writer> = match arguments.format {
        Format::Jsonl => Box::new(Lines { file: out.begin("")?, line: Vec::new(), with_values: true }),
        Format::Npy => Box::new(Rows::begin(&out, &npy::header(points, dimension), &[])?),
        Format::Fvecs => {
            let prefix = i32::try_from(dimension).expect("dimensions are bounded").to_le_bytes();
            Box::new(Rows::begin(&out, &[], &prefix)?)
        }
        #[cfg(feature = "parquet")]
        Format::Parquet => Box::new(parquet_file::Table::begin(out.begin("")?, dimension)?),
        #[cfg(not(feature = "parquet"))]
        Format::Parquet => return Err(Failure::new(format!("--format parquet: {}", super::import::WITHOUT_PARQUET))),
    };
    let mut written = 0;
    let lsn = visit(&mut |point| {
        written += 1;
        writer.point(&point)
    })?;
    // The header of an array has said how many there are.
    assert_eq!(written, points, "a state has as many points as it counts");
    writer.finish()?;
    let files = out.names.into_inner();
    Ok(Report { tenant: tenant.to_owned(), index: arguments.index, points, dimension, lsn, files })
}

/// The files of an export: one of the name that was asked for, and perhaps others beside it.
struct Out {
    directory: PathBuf,
    name: String,
    /// Paths of those that were begun.
    names: std::cell::RefCell<Vec<String>>,
}

impl Out {
    fn new(path: &Path) -> Result<Self, Failure> {
        let failed = |why: &str| Failure::new(format!("--out {}: {why}", path.display()));
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(|| failed("is no name of a file, in UTF-8"))?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { directory: directory.to_owned(), name: name.to_owned(), names: std::cell::RefCell::default() })
    }

    /// Begins a file of this name and `suffix`.
    fn begin(&self, suffix: &str) -> Result<Replacement<'static>, Failure> {
        let name = format!("{}{suffix}", self.name);
        let path = self.directory.join(&name);
        let failed = |why: &str| Failure::new(format!("--out {}: {why}", path.display()));
        let entries = OsIo.list(&self.directory).map_err(|error| failed(&error.to_string()))?;
        if entries.iter().any(|entry| entry.name == name) {
            return Err(failed("is there already: remove it, or choose another name"));
        }
        self.names.borrow_mut().push(path.display().to_string());
        Ok(Replacement::begin(&OsIo, &self.directory, &name)?)
    }
}

/// Writes points in one format.
trait Writer {
    fn point(&mut self, point: &Point) -> Result<(), Failure>;

    /// Gives the files their names.
    fn finish(self: Box<Self>) -> Result<(), Failure>;
}

/// A point a line.
struct Lines {
    file: Replacement<'static>,
    line: Vec<u8>,
    with_values: bool,
}

/// As `import/lines.rs` reads it.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    /// The shortest text whose nearest f32 each of them is.
    #[serde(skip_serializing_if = "Option::is_none")]
    values: Option<&'a [f32]>,
    metadata: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata_text: Option<&'a str>,
}

impl Writer for Lines {
    fn point(&mut self, point: &Point) -> Result<(), Failure> {
        let text = &point.metadata;
        // In JSON, line breaks stand between the tokens only. Those of a line would end it.
        let has_breaks = text.contains(['\n', '\r']);
        let metadata = if has_breaks { text.replace(['\n', '\r'], " ") } else { text.clone() };
        let metadata = RawValue::from_string(metadata)
            .map_err(|error| Failure::new(format!("the metadata of {:?} is no JSON any more: {error}", point.id)))?;
        let values = self.with_values.then_some(&point.values[..]);
        let line = Line { id: &point.id, values, metadata: &metadata, metadata_text: has_breaks.then_some(text) };
        self.line.clear();
        serde_json::to_writer(&mut self.line, &line).expect("texts and floats are JSON");
        self.line.push(b'\n');
        Ok(self.file.put(&self.line)?)
    }

    fn finish(self: Box<Self>) -> Result<(), Failure> {
        Ok(self.file.finish()?)
    }
}

/// Vectors in a file, and what else there is of the points in another.
struct Rows {
    vectors: Replacement<'static>,
    points: Box<Lines>,
    /// What stands before each vector.
    prefix: Vec<u8>,
}

impl Rows {
    fn begin(out: &Out, header: &[u8], prefix: &[u8]) -> Result<Self, Failure> {
        let mut vectors = out.begin("")?;
        vectors.put(header)?;
        let points = Lines { file: out.begin(".points.jsonl")?, line: Vec::new(), with_values: false };
        Ok(Self { vectors, points: Box::new(points), prefix: prefix.to_owned() })
    }
}

impl Writer for Rows {
    fn point(&mut self, point: &Point) -> Result<(), Failure> {
        self.vectors.put(&self.prefix)?;
        self.vectors.put(bytemuck::cast_slice(&point.values))?;
        self.points.point(point)
    }

    fn finish(self: Box<Self>) -> Result<(), Failure> {
        // Where the vectors have their name, so have the points.
        self.points.finish()?;
        Ok(self.vectors.finish()?)
    }
}
