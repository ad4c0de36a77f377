//! What was measured, as JSON and as a table.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::thread;

use serde::Serialize;
use sysinfo::{CpuRefreshKind, System};

use super::load::Outcome;
use super::target::Status;
use crate::types::SearchParams;

/// Columns of a terminal.
const COLUMNS: usize = 80;

/// One run of the bench.
#[derive(Debug, Serialize)]
pub struct Report {
    pub program: Program,
    pub machine: Machine,
    /// The command line, without the name of the program.
    pub flags: Vec<String>,
    pub data: DataSet,
    /// `None` where nothing was searched.
    pub index: Option<Built>,
    pub runs: Vec<Run>,
    /// Searches a second where the recall is at least what was asked for.
    pub at_recall: Vec<AtRecall>,
    /// Requests that were measured and failed, of all runs.
    pub failed_requests: u64,
}

/// This program; a server at a URL may be another one.
#[derive(Debug, Serialize)]
pub struct Program {
    pub version: &'static str,
    /// As `FAISS_PROXY_COMMIT` said when it was built.
    pub commit: Option<&'static str>,
    pub is_optimised: bool,
}

/// The machine that the bench runs on; a server at a URL may be elsewhere.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_bytes: u64,
    /// Processes that ran or wanted to, on the average of the minute before: where others do, the figures are also theirs.
    pub load_before: f64,
}

#[derive(Debug, Serialize)]
pub struct DataSet {
    /// A file, or how they were made.
    pub vectors: String,
    pub rows: usize,
    pub queries: usize,
    pub dimension: usize,
    pub metric: &'static str,
}

/// The index that searches ask.
#[derive(Debug, Serialize)]
pub struct Built {
    #[serde(flatten)]
    pub status: Status,
    pub fill_seconds: f64,
    /// From the last row to the end of all builds.
    pub build_seconds: f64,
}

/// One load.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    pub phase: &'static str,
    /// What the requests of it do, as the table has it.
    pub what: String,
    pub clients: usize,
    /// Requests a second that were due, of an open loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Vectors in a request of writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ef: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nprobe: Option<u32>,
    /// Rows that match the filter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matching_rows: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    #[serde(flatten)]
    pub figures: Figures,
}

/// What came of a load.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// Requests that succeeded: the latencies are theirs.
    pub requests: u64,
    pub seconds: f64,
    pub requests_per_second: f64,
    pub vectors_per_second: Option<f64>,
    pub latency_us: LatencyFigures,
    /// Requests that did not, by why.
    pub failed: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Serialize)]
pub struct LatencyFigures {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

#[derive(Debug, Serialize)]
pub struct AtRecall {
    pub recall_at_least: f64,
    pub clients: usize,
    pub requests_per_second: f64,
    pub p50_us: f64,
    pub recall: f64,
    /// What the searches of that run do.
    pub what: String,
}

impl Program {
    pub fn this() -> Self {
        let (version, commit) =
            (env!("CARGO_PKG_VERSION"), option_env!("FAISS_PROXY_COMMIT").filter(|commit| !commit.is_empty()));
        Self { version, commit, is_optimised: !cfg!(debug_assertions) }
    }
}

impl Machine {
    pub fn this() -> Self {
        let mut system = System::new();
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        system.refresh_memory();
        let processor = system.cpus().first().map_or_else(|| "unknown".to_owned(), |cpu| cpu.brand().trim().to_owned());
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { processor, cores, memory_bytes: system.total_memory(), load_before: System::load_average().one }
    }
}

impl Figures {
    /// `vectors`: in each request of writes.
    pub fn of(outcome: Outcome, vectors: Option<usize>) -> Self {
        let Outcome { elapsed, latencies, failed } = outcome;
        let (requests, seconds) = (latencies.count(), elapsed.as_secs_f64());
        let rate = if seconds > 0.0 { requests as f64 / seconds } else { 0.0 };
        let latency_us = LatencyFigures {
            mean: latencies.mean(),
            p50: latencies.quantile(0.5),
            p90: latencies.quantile(0.9),
            p99: latencies.quantile(0.99),
            p99_9: latencies.quantile(0.999),
            max: latencies.max(),
        };
        let vectors_per_second = vectors.map(|vectors| rate * vectors as f64);
        Self { requests, seconds, requests_per_second: rate, vectors_per_second, latency_us, failed }
    }
}

impl Report {
    pub fn push(&mut self, run: Run) {
        self.failed_requests += run.figures.failed.values().sum::<u64>();
        self.runs.push(run);
    }

    /// Of the searches of phase `search`: for each recall and number of clients the first run that has it.
    pub fn find_recalls(&mut self, recalls: &[f64]) {
        for &least in recalls {
            let mut found: Vec<AtRecall> = Vec::new();
            for run in self.runs.iter().filter(|run| run.phase == "search") {
                let Some(recall) = run.recall.filter(|recall| *recall >= least) else { continue };
                if found.iter().any(|other| other.clients == run.clients) {
                    continue;
                }
                found.push(AtRecall {
                    recall_at_least: least,
                    clients: run.clients,
                    requests_per_second: run.figures.requests_per_second,
                    p50_us: run.figures.latency_us.p50,
                    recall,
                    what: run.what.clone(),
                });
            }
            self.at_recall.extend(found);
        }
    }

    /// For people: lines of at most [`COLUMNS`], but for words that are longer.
    pub fn text(&self, k: usize) -> String {
        let Self { program, machine, data, index, .. } = self;
        let commit = program.commit.map_or_else(String::new, |commit| format!(", commit {commit}"));
        let unoptimised = if program.is_optimised { "" } else { ", UNOPTIMISED" };
        let mut lines = vec![format!("faiss-proxy bench {}{commit}{unoptimised}", program.version)];
        let Machine { processor, cores, memory_bytes, load_before } = machine;
        let memory = memory_bytes >> 30;
        lines.extend(wrapped(&format!(
            "machine: {processor}, {cores} cores, {memory} GiB of memory, load before {load_before:.1}"
        )));
        lines.extend(wrapped(&format!("flags: {}", self.flags.join(" "))));
        let (rows, queries) = (grouped(data.rows as f64), grouped(data.queries as f64));
        let (dimension, metric) = (data.dimension, data.metric);
        lines.extend(wrapped(&format!("data: {rows} rows x {dimension}, {queries} queries, {metric}, {}", data.vectors)));
        if let Some(Built { status, fill_seconds, build_seconds }) = index {
            let Status { factory, segments, unindexed_rows, .. } = status;
            lines.extend(wrapped(&format!(
                "index: {factory}, filled in {fill_seconds:.1} s, built in {build_seconds:.1} s; segments {segments}, \
                 rows without an index {unindexed_rows}"
            )));
        }
        lines.push("v/s: vectors a second; q/s: requests a second; p50 to p99.9: latency in ms".to_owned());
        lines.push(String::new());
        let recall = format!("rec@{k}");
        let heads = ["p50", "p90", "p99", "p99.9"];
        lines.push(columns("", "cl.", "", heads.map(str::to_owned), &recall));
        lines.extend(self.runs.iter().map(Run::line));
        if !self.at_recall.is_empty() {
            lines.push(String::new());
        }
        lines.extend(self.at_recall.iter().map(|at| at.line(k)));
        for run in self.runs.iter().filter(|run| !run.figures.failed.is_empty()) {
            let reasons: Vec<String> = run.figures.failed.iter().map(|(reason, count)| format!("{count} x {reason}")).collect();
            lines.extend(wrapped(&format!("FAILED: {}, {} clients: {}", run.what, run.clients, reasons.join("; "))));
        }
        lines.join("\n")
    }
}

impl Run {
    /// With the parameters of its searches.
    pub fn search(phase: &'static str, what: &str, params: SearchParams) -> Self {
        let SearchParams { ef, nprobe, .. } = params;
        Self { phase, what: described(what, params), ef, nprobe, ..Self::default() }
    }

    fn line(&self) -> String {
        let figures = &self.figures;
        let rate = match figures.vectors_per_second {
            Some(rate) => format!("{} v/s", grouped(rate)),
            None => format!("{} q/s", grouped(figures.requests_per_second)),
        };
        let LatencyFigures { p50, p90, p99, p99_9, .. } = figures.latency_us;
        let recall = self.recall.map_or_else(String::new, |recall| format!("{recall:.4}"));
        columns(&self.what, &self.clients.to_string(), &rate, [p50, p90, p99, p99_9].map(milliseconds), &recall)
    }
}

/// What searches do, and with which parameters.
fn described(what: &str, params: SearchParams) -> String {
    match params {
        SearchParams { ef: Some(ef), .. } => format!("{what}, ef {ef}"),
        SearchParams { nprobe: Some(nprobe), .. } => format!("{what}, nprobe {nprobe}"),
        _ => what.to_owned(),
    }
}

impl AtRecall {
    fn line(&self, k: usize) -> String {
        let Self { recall_at_least, clients, requests_per_second, recall, what, .. } = self;
        let rate = grouped(*requests_per_second);
        format!("recall@{k} >= {recall_at_least}: {clients:>2} clients {rate:>9} q/s ({what}: {recall:.4})")
    }
}

fn columns(what: &str, clients: &str, rate: &str, latencies: [String; 4], recall: &str) -> String {
    let [p50, p90, p99, p99_9] = latencies;
    let line = format!("{what:<27}{clients:>3}{rate:>14}{p50:>7}{p90:>7}{p99:>7}{p99_9:>7}{recall:>8}");
    line.trim_end().to_owned()
}

/// Of microseconds, with three or four digits.
fn milliseconds(us: f64) -> String {
    match us / 1e3 {
        ms if ms < 10.0 => format!("{ms:.3}"),
        ms if ms < 100.0 => format!("{ms:.2}"),
        ms if ms < 1_000.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// A whole number, with commas.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A text in lines of at most [`COLUMNS`], broken between words.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("  {word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        let cases = [(0.0, "0"), (999.4, "999"), (999.6, "1,000"), (1_234_567.0, "1,234,567"), (100_000.0, "100,000")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
        for (us, text) in [(107.4, "0.107"), (12_345.0, "12.35"), (123_456.0, "123.5"), (61_234_567.0, "61235")] {
            assert_eq!(milliseconds(us), text);
        }
    }

    #[test]
    fn long_lines_are_broken_and_no_word_is_lost() {
        let text = "a word and another ".repeat(30);
        let lines = wrapped(text.trim_end());
        assert!(lines.iter().all(|line| line.len() <= COLUMNS), "{lines:?}");
        let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
        assert_eq!(words.join(" "), text.trim_end());
    }

    #[test]
    fn the_widest_row_fits_a_terminal() {
        let figures = Figures {
            vectors_per_second: Some(9_999_999.0),
            latency_us: LatencyFigures { p50: 99_999e3, p90: 99_999e3, p99: 99_999e3, p99_9: 99_999e3, ..Default::default() },
            ..Default::default()
        };
        let params = SearchParams { ef: Some(65_536), ..SearchParams::default() };
        let run = Run { clients: 128, recall: Some(1.0), figures, ..Run::search("filter", "filter 0.005 %", params) };
        assert!(run.line().len() <= COLUMNS, "{}", run.line());
    }

    #[test]
    fn the_first_run_that_finds_enough_is_named_for_each_number_of_clients() {
        let run = |clients, ef, recall, rate| {
            let figures = Figures { requests_per_second: rate, ..Figures::default() };
            let params = SearchParams { ef: Some(ef), ..SearchParams::default() };
            Run { clients, recall: Some(recall), figures, ..Run::search("search", "search", params) }
        };
        let mut report = Report {
            program: Program::this(),
            machine: Machine::this(),
            flags: Vec::new(),
            data: DataSet { vectors: String::new(), rows: 1, queries: 1, dimension: 1, metric: "l2" },
            index: None,
            runs: vec![
                run(1, 16, 0.9, 9.0),
                run(8, 16, 0.9, 18.0),
                run(1, 32, 0.96, 5.0),
                run(8, 32, 0.96, 10.0),
                run(1, 64, 0.97, 3.0),
            ],
            at_recall: Vec::new(),
            failed_requests: 0,
        };
        report.find_recalls(&[0.95, 0.99]);
        let found: Vec<(f64, usize, f64)> =
            report.at_recall.iter().map(|at| (at.recall_at_least, at.clients, at.requests_per_second)).collect();
        assert_eq!(found, [(0.95, 1, 5.0), (0.95, 8, 10.0)]);
    }
}
