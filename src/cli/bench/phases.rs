//! What is measured, one thing after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::super::Failure;
use super::data::Data;
use super::interrupt::Interrupt;
use super::load::{self, Load, Outcome};
use super::report::{Built, Figures, Report, Run};
use super::target::{Client as _, Search, Settings, Target};
use super::truth::Truth;
use super::{Arguments, Phase, Settle, baseline};
use crate::types::{IndexId, SearchParams};

/// Points in a batch where it is not its size that is measured.
const FILL_BATCH: usize = 1_000;
const MIXED_BATCH: usize = 100;

/// Bytes of requests that are made before a clock starts, as JSON; what would take more is cut short.
const PREPARED_BYTES_MAX: usize = 1 << 30;

/// Bytes of JSON for a float, and beside the floats of a point.
const FLOAT_BYTES: usize = 12;
const POINT_BYTES: usize = 512;

/// Between two looks at an index that is built, and before a request is sent again that was refused because of too many others.
const WAIT: Duration = Duration::from_millis(200);

/// A bench that is under way.
pub struct Bench<'a, T: Target> {
    pub target: &'a T,
    pub arguments: &'a Arguments,
    pub data: &'a Data,
    pub interrupt: &'a Interrupt,
    pub bar: &'a ProgressBar,
    pub report: &'a mut Report,
}

/// What is searched for, in one run after the other.
struct Searches<'a> {
    phase: &'static str,
    what: String,
    params: SearchParams,
    filter: Option<&'a str>,
    /// The rows that it matches.
    has: Option<&'a [bool]>,
}

impl<T: Target> Bench<'_, T> {
    /// # Errors
    /// Where something other than a measured request failed, or it was interrupted; the indices are deleted then too.
    pub fn all(&mut self) -> Result<(), Failure> {
        if self.wants(Phase::Ingest) {
            for &batch in &self.arguments.batch {
                for &clients in &self.arguments.clients {
                    self.with_index(|bench, index| bench.ingest(index, batch, clients))?;
                }
            }
        }
        if self.wants(Phase::Write) {
            self.baseline()?;
            for &clients in &self.arguments.clients {
                self.with_index(|bench, index| bench.write(index, clients))?;
            }
        }
        if [Phase::Search, Phase::Exact, Phase::Filter, Phase::Mixed].into_iter().any(|phase| self.wants(phase)) {
            self.with_index(Self::searches)?;
        }
        Ok(())
    }

    fn wants(&self, phase: Phase) -> bool {
        self.arguments.phases.contains(&phase)
    }

    /// Does something with an index that is deleted afterwards, however that went.
    fn with_index(&mut self, work: impl FnOnce(&mut Self, IndexId) -> Result<(), Failure>) -> Result<(), Failure> {
        self.interrupt.check()?;
        let Arguments { index_type, options, .. } = self.arguments;
        let (dimension, metric) = (self.data.dimension, self.data.metric);
        let name = format!("bench-{}", uuid::Uuid::new_v4().simple());
        let options = options.clone().unwrap_or_default();
        let settings = Settings { dimension, index_type: index_type.clone(), metric, options };
        let index = self.target.create(&name, &settings)?;
        let told = format!("index {index}, {name},");
        self.interrupt.note_index(Some(told.clone()));
        let done = work(self, index);
        let deleted = self.target.delete(index);
        self.interrupt.note_index(None);
        match (done, deleted) {
            (done, Ok(())) => done,
            (Ok(()), Err(why)) => Err(Failure::new(format!("{told} could not be deleted: {why}"))),
            (Err(failure), Err(why)) => {
                let sentence = format!("{failure}; {told} could not be deleted: {why}");
                Err(Failure { sentence, ..failure })
            }
        }
    }

    fn load(&self, clients: usize) -> Load<'_> {
        Load {
            clients,
            duration: Duration::from_secs(self.arguments.seconds),
            requests_max: self.arguments.requests.unwrap_or(usize::MAX),
            rate: self.arguments.rate,
            repeats: true,
            ended: None,
            interrupt: self.interrupt,
        }
    }

    fn measure(&self, index: IndexId, requests: &[T::Request], load: &Load<'_>, what: &str) -> Result<Outcome, Failure> {
        self.bar.set_message(format!("{what}, {} clients", load.clients));
        load::run(self.target, index, requests, load)
    }

    /// Rows of which requests can be held.
    fn preparable_rows(&self) -> usize {
        let rows = PREPARED_BYTES_MAX / (self.data.dimension * FLOAT_BYTES + POINT_BYTES);
        self.data.row_count().min(rows.max(1))
    }

    /// Writes of the rows in batches, each once.
    fn writes(&self, index: IndexId, first: usize, rows: usize, batch: usize) -> Vec<T::Request> {
        let starts = (first..first + rows).step_by(batch);
        let writes = starts.map(|start| self.target.write(index, self.data.batch(start..(start + batch).min(first + rows))));
        writes.take(self.arguments.requests.unwrap_or(usize::MAX)).collect()
    }

    fn ingest(&mut self, index: IndexId, batch: usize, clients: usize) -> Result<(), Failure> {
        let what = format!("ingest, batch {batch}");
        // Whole batches, so that each request has as many vectors.
        let rows = self.preparable_rows();
        let rows = if rows >= batch { rows / batch * batch } else { rows };
        let requests = self.writes(index, 0, rows, batch);
        let load = Load { repeats: false, ..self.load(clients) };
        let outcome = self.measure(index, &requests, &load, &what)?;
        let (rate, batch) = (load.rate, batch.min(rows));
        let figures = Figures::of(outcome, Some(batch));
        self.report.push(Run { phase: "ingest", what, clients, rate, batch: Some(batch), figures, ..Run::default() });
        Ok(())
    }

    /// What the disk takes for the bytes of one point.
    fn baseline(&mut self) -> Result<(), Failure> {
        let Some(directory) = self.arguments.baseline_dir.as_ref().or(self.arguments.data_dir.as_ref()) else { return Ok(()) };
        // As a frame of the log is padded.
        let bytes = self.data.batch(0..1).log_bytes().next_multiple_of(512);
        let what = format!("write + fdatasync, {bytes} B");
        self.bar.set_message(what.clone());
        let Load { duration, requests_max, interrupt, .. } = self.load(1);
        let outcome = baseline::synced_writes(directory, bytes, duration, requests_max, interrupt)?;
        let figures = Figures::of(outcome, Some(1));
        self.report.push(Run { phase: "baseline", what, clients: 1, batch: Some(1), figures, ..Run::default() });
        Ok(())
    }

    fn write(&mut self, index: IndexId, clients: usize) -> Result<(), Failure> {
        let what = "write, one vector";
        let requests = self.writes(index, 0, self.preparable_rows(), 1);
        let load = self.load(clients);
        let outcome = self.measure(index, &requests, &load, what)?;
        let (figures, rate, what) = (Figures::of(outcome, Some(1)), load.rate, what.to_owned());
        self.report.push(Run { phase: "write", what, clients, rate, batch: Some(1), figures, ..Run::default() });
        Ok(())
    }

    /// Everything that wants an index that has all rows.
    fn searches(&mut self, index: IndexId) -> Result<(), Failure> {
        self.build(index)?;
        let efforts = self.arguments.efforts();
        let mut chosen = *efforts.last().expect("one at least");
        let unfiltered = [Phase::Search, Phase::Exact].into_iter().any(|phase| self.wants(phase)).then(|| self.truth(None));
        if let Some(truth) = unfiltered.as_ref().filter(|_| self.wants(Phase::Search)) {
            let mut is_enough = false;
            for &params in &efforts {
                let searches = Searches { phase: "search", what: "search".to_owned(), params, filter: None, has: None };
                let recall = self.search(index, &searches, false, truth)?;
                if !is_enough && self.arguments.recall.first().is_some_and(|least| recall >= *least) {
                    (chosen, is_enough) = (params, true);
                }
            }
            self.report.find_recalls(&self.arguments.recall);
        }
        if let Some(truth) = unfiltered.as_ref().filter(|_| self.wants(Phase::Exact)) {
            let params = SearchParams::default();
            let searches = Searches { phase: "exact", what: "exact".to_owned(), params, filter: None, has: None };
            self.search(index, &searches, true, truth)?;
        }
        if self.wants(Phase::Filter) {
            let data = self.data;
            for (field, (share, has)) in data.fields.iter().enumerate() {
                let (truth, filter) = (self.truth(Some(has)), Data::filter(field));
                // Of a percentage, what is there beside rounding.
                let what = format!("filter {} %", (share * 1e6).round() / 1e4);
                let searches = Searches { phase: "filter", what, params: chosen, filter: Some(&filter), has: Some(has) };
                self.search(index, &searches, false, &truth)?;
            }
        }
        if self.wants(Phase::Mixed) {
            for (turn, &clients) in self.arguments.clients.iter().enumerate() {
                self.mixed(index, chosen, clients, turn)?;
            }
        }
        Ok(())
    }

    fn truth(&self, has: Option<&[bool]>) -> Truth {
        self.bar.set_message("the nearest rows, by scanning them here");
        Truth::new(self.data, self.arguments.k, has)
    }

    /// Fills the index, and waits until it is as it will be searched.
    fn build(&mut self, index: IndexId) -> Result<(), Failure> {
        let (mut client, rows, started) = (self.target.client(index)?, self.data.row_count(), Instant::now());
        for start in (0..rows).step_by(FILL_BATCH) {
            self.bar.set_message(format!("filling the index: {start} of {rows} rows"));
            let request = self.target.write(index, self.data.batch(start..(start + FILL_BATCH).min(rows)));
            self.insist(&mut client, &request)?;
        }
        let (fill_seconds, filled) = (started.elapsed().as_secs_f64(), Instant::now());
        if self.arguments.settle == Settle::Compact {
            self.bar.set_message("compacting the index");
            self.target.compact(index)?;
        }
        let status = loop {
            let status = self.target.status(index)?;
            if status.state != "building" {
                break status;
            }
            self.bar.set_message(format!("building: {} rows without an index", status.unindexed_rows));
            self.be_patient(filled, "the index is still built")?;
        };
        let build_seconds = filled.elapsed().as_secs_f64();
        self.report.index = Some(Built { status, fill_seconds, build_seconds });
        Ok(())
    }

    /// Waits a little, unless that was done for too long.
    fn be_patient(&self, since: Instant, what: &str) -> Result<(), Failure> {
        let most = self.arguments.build_seconds;
        if since.elapsed() >= Duration::from_secs(most) {
            return Err(Failure::new(format!("{what} after {most} s (--build-seconds)")));
        }
        self.interrupt.wait(WAIT);
        self.interrupt.check()
    }

    /// A request that is not measured: sent again as long as too many others are.
    fn insist(&self, client: &mut T::Client, request: &T::Request) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            self.interrupt.check()?;
            client.prepare(request);
            match client.send(request) {
                Ok(()) => return Ok(()),
                Err(refusal) if refusal.is_busy => self.be_patient(begun, &refusal.reason)?,
                Err(refusal) => return Err(Failure::new(format!("a request that is not measured failed: {}", refusal.reason))),
            }
        }
    }

    fn requests(&self, index: IndexId, searches: &Searches<'_>, exact: bool) -> Vec<T::Request> {
        let (k, params, filter) = (self.arguments.k, searches.params, searches.filter);
        let search = |vector| Search { vector, k, exact, params, filter };
        self.data.query_vectors().map(|vector| self.target.search(index, &search(vector))).collect()
    }

    /// The recall of all queries, which is not timed, and then their speed. Gives the recall.
    fn search(&mut self, index: IndexId, searches: &Searches<'_>, exact: bool, truth: &Truth) -> Result<f64, Failure> {
        let requests = self.requests(index, searches, exact);
        let run = Run::search(searches.phase, &searches.what, searches.params);
        self.bar.set_message(format!("{}: recall", run.what));
        let (mut client, mut right) = (self.target.client(index)?, 0);
        for (query, request) in requests.iter().enumerate() {
            self.insist(&mut client, request)?;
            right += truth.right(self.data, query, &client.found()?, searches.has);
        }
        let all = truth.count() * requests.len();
        let recall = if all == 0 { 1.0 } else { right as f64 / all as f64 };
        let matching_rows = searches.has.map(|has| has.iter().filter(|has| **has).count());
        for &clients in &self.arguments.clients {
            let load = self.load(clients);
            let figures = Figures::of(self.measure(index, &requests, &load, &run.what)?, None);
            let (rate, run) = (load.rate, Run::search(searches.phase, &searches.what, searches.params));
            self.report.push(Run { clients, rate, matching_rows, recall: Some(recall), figures, ..run });
        }
        Ok(recall)
    }

    /// Searches while one more client writes new rows at a rate.
    fn mixed(&mut self, index: IndexId, params: SearchParams, clients: usize, turn: usize) -> Result<(), Failure> {
        let searches = Searches { phase: "mixed", what: "mixed: search".to_owned(), params, filter: None, has: None };
        let requests = self.requests(index, &searches, false);
        let batches = self.arguments.write_rate / MIXED_BATCH as f64;
        // What is written is new: behind the rows, and behind what was written in an earlier turn.
        let rows =
            ((self.arguments.write_rate * self.arguments.seconds as f64) as usize + MIXED_BATCH).min(self.preparable_rows());
        let rows = rows.next_multiple_of(MIXED_BATCH);
        let writes = self.writes(index, self.data.row_count() + turn * rows, rows, MIXED_BATCH);
        let ended = AtomicBool::new(false);
        let load = self.load(clients);
        let write_load =
            Load { clients: 1, rate: Some(batches), repeats: false, ended: Some(&ended), requests_max: usize::MAX, ..load };
        let (searched, written) = thread::scope(|scope| {
            let writer = scope.spawn(|| load::run(self.target, index, &writes, &write_load));
            let searched = self.measure(index, &requests, &load, &searches.what);
            ended.store(true, Ordering::Relaxed);
            (searched, writer.join().expect("a load does not panic"))
        });
        let (searched, written, rate) = (Figures::of(searched?, None), Figures::of(written?, Some(MIXED_BATCH)), load.rate);
        self.report.push(Run { clients, rate, figures: searched, ..Run::search("mixed", &searches.what, params) });
        let what = format!("mixed: write, batch {MIXED_BATCH}");
        let write = Run { phase: "mixed", what, clients: 1, rate: Some(batches), batch: Some(MIXED_BATCH), ..Run::default() };
        self.report.push(Run { figures: written, ..write });
        Ok(())
    }
}
