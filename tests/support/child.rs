//! A child process that ingests through the library and says what was acknowledged, so that it can be killed, or lose its disk, at any moment.
//!
//! The child is the test binary itself, started again with environment variables that give it its part. A binary that wants one has a test
//! `child_role` at its root, which calls [`play`].

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{self, Command, Stdio};

use faiss_proxy::config::Limits;
use faiss_proxy::{Durability, Index, IndexOptions, IndexSpec, Lsn, Opening, Store, StoreOptions};

use super::script::{Ack, Found, INDICES, SEAL_ROWS, Step, Told, WRITERS, found_in, writers};
use super::{Before, NewPoint, dump, tenant};

/// Names the data directory; whoever has it is the child.
const DATA_DIR: &str = "FAISS_PROXY_TEST_CHILD_DATA_DIR";
/// The step that each writer is at.
const START: &str = "FAISS_PROXY_TEST_CHILD_START";

/// Ids of one delete at most.
const DELETES_MAX: usize = 5;

/// Rotation, markers, interval syncs, checkpoints and builds in the background, as often as they come.
fn options(data_dir: &Path, opening: Opening) -> StoreOptions {
    let limits = Limits {
        log_segment_bytes: 32 << 10,
        checkpoint_log_bytes: 48 << 10,
        checkpoint_interval_ms: 20,
        interval_sync_ms: 5,
        marker_delay_ms: 1,
        ..Limits::default()
    };
    StoreOptions { limits, opening, ..StoreOptions::new(data_dir) }
}

/// Creates the indices, and gives the writers of each, one index after the other.
pub fn create(data_dir: &Path) -> Vec<Told> {
    let store = Store::open(options(data_dir, Opening::Lazy)).unwrap();
    for (number, shape) in INDICES.iter().enumerate() {
        let spec = IndexSpec {
            name: number.to_string(),
            dimension: shape.dimension,
            index_type: shape.index_type.to_owned(),
            options: IndexOptions { seal_rows: Some(SEAL_ROWS), ..IndexOptions::default() },
            ..IndexSpec::default()
        };
        store.create_index(&tenant(), &spec).unwrap();
    }
    writers(DELETES_MAX).into_iter().map(Told::new).collect()
}

/// The child's part. In a run without the variables, it does nothing.
pub fn play() {
    let Ok(data_dir) = std::env::var(DATA_DIR) else { return };
    let start: Vec<u64> = std::env::var(START).unwrap().split(',').map(|at| at.parse().unwrap()).collect();
    let store = Store::open(options(data_dir.as_ref(), Opening::Lazy)).unwrap();
    let indices = store.indices(&tenant());
    std::thread::scope(|scope| {
        for (writer, begun_at) in writers(DELETES_MAX).into_iter().zip(start) {
            let number = writer.number;
            let index = &indices[number as usize / WRITERS];
            scope.spawn(move || {
                for at in begun_at + 1.. {
                    // A kill keeps what was written: it may be acknowledged before it is synced.
                    let durability = if at.is_multiple_of(2) { Durability::Fsync } else { Durability::Interval };
                    match write(index, writer.step(at), durability) {
                        Ok(lsn) => say(&format!("acked {number} {at} {lsn} {}\n", durability == Durability::Fsync)),
                        Err(error) => return say(&format!("failed {error}\n")),
                    }
                }
            });
        }
        scope.spawn(|| {
            let rewrite = |index: &Index| index.compact().map(drop).and_then(|()| index.erase()).map(drop);
            if let Some(error) = indices.iter().cycle().find_map(|index| rewrite(index).err()) {
                say(&format!("failed {error}\n"));
            }
        });
    });
    // The disk is gone: there is nothing to be closed.
    process::exit(0);
}

fn write(index: &Index, step: Step, durability: Durability) -> faiss_proxy::Result<Lsn> {
    match step {
        Step::Put(points) => {
            let mut batch = index.batch();
            for NewPoint { id, values, metadata } in &points {
                batch.push(id, values, metadata)?;
            }
            Ok(index.upsert(batch, durability)?.lsn)
        }
        Step::Delete(ids) => Ok(index.delete(&ids.iter().map(String::as_str).collect::<Vec<_>>(), durability)?.lsn),
    }
}

/// One write of one line: threads' lines do not mix, and what is in the pipe survives the process.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // Who hears nothing has gone, and ends this process soon.
    let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
}

/// What came of a child.
#[derive(Debug, Default)]
pub struct Ingested {
    /// Acknowledgements.
    pub acks: usize,
    /// What its threads ended with.
    pub failures: Vec<String>,
}

/// Killed when it is dropped.
struct Running(process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a child until it ends, and notes what it was told. `at_ack` is called after each acknowledgement with how many there were; it ends the child,
/// or what it stands on, at some time.
pub fn ingest(data_dir: &Path, told: &mut [Told], mut at_ack: impl FnMut(usize, &[Told], &mut process::Child)) -> Ingested {
    let start: Vec<String> = told.iter().map(|told| told.begun_at.to_string()).collect();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_role", "--nocapture", "--test-threads=1"])
        .env(DATA_DIR, data_dir)
        .env(START, start.join(","))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Running(child);
    let mut ingested = Ingested::default();
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).split(b'\n');
    while let Some(line) = lines.next().transpose().unwrap() {
        let line = String::from_utf8_lossy(&line).into_owned();
        // The test harness has its own lines, and one before the first of ours on the same line.
        if let Some((_, why)) = line.split_once("failed ") {
            ingested.failures.push(why.to_owned());
        }
        let Some((_, ack)) = line.split_once("acked ") else { continue };
        let words: Vec<&str> = ack.split(' ').collect();
        let [number, at, lsn, is_durable] = words[..] else { panic!("the child said {line:?}") };
        let told_now = &mut told[number.parse::<usize>().unwrap()];
        assert_eq!(at.parse(), Ok(told_now.acked() + 1), "a writer's acknowledgements come in order");
        let durability = if is_durable == "true" { Durability::Fsync } else { Durability::Interval };
        told_now.acks.push(Ack { lsn: lsn.parse().unwrap(), durability });
        ingested.acks += 1;
        at_ack(ingested.acks, told, &mut child.0);
    }
    ingested
}

/// An index of a directory as it was found, and what its writers were told.
pub struct Opened<'a> {
    pub lsn: Lsn,
    pub checkpoint_lsn: Lsn,
    /// Segments that are asked through FAISS.
    pub built: usize,
    pub found: Found,
    pub told: &'a mut [Told],
}

/// Opens a directory and reads all that is there; of an index that is refused, the reason.
pub fn open<'a>(data_dir: &Path, told: &'a mut [Told]) -> Vec<Result<Opened<'a>, String>> {
    let store = Store::open(options(data_dir, Opening::Eager)).unwrap();
    let refused = store.refused(&tenant());
    let mut reasons = refused.iter().map(|(_, reason)| reason.to_string());
    let indices = store.indices(&tenant());
    let of_number = |number: usize| indices.iter().find(|index| index.info().name == number.to_string());
    told.chunks_mut(WRITERS)
        .enumerate()
        .map(|(number, told)| match of_number(number) {
            Some(index) => {
                let info = index.info();
                let built = info.builds.iter().filter(|build| build.factory.is_some()).count();
                Ok(Opened { lsn: info.lsn, checkpoint_lsn: info.checkpoint_lsn, built, found: found_in(dump(index)), told })
            }
            None => Err(reasons.next().expect("an index is there, or is refused")),
        })
        .collect()
}

/// What was found when a child had ended.
#[derive(Debug, Default)]
pub struct Settled {
    /// Acknowledged steps that are not there; all of them may be lost.
    pub lost: usize,
    pub checkpoint_lsns: Vec<Lsn>,
    /// Segments that are asked through FAISS.
    pub built: usize,
}

/// Opens what a child left and checks it against what was acknowledged; its writers go on from there.
pub fn settle(data_dir: &Path, told: &mut [Told], before: Before) -> Settled {
    let mut settled = Settled::default();
    for opened in open(data_dir, told) {
        let Opened { lsn, checkpoint_lsn, built, found, told } = opened.unwrap_or_else(|reason| panic!("refused: {reason}"));
        settled.lost += told.iter_mut().map(|told| told.settle(&found, lsn, before)).sum::<usize>();
        let known: usize = told.iter().map(|told| told.writer.after(told.begun_at).len()).sum();
        assert_eq!(found.len(), known, "points that nobody stored");
        settled.checkpoint_lsns.push(checkpoint_lsn);
        settled.built += built;
    }
    settled
}
