//! An index that FAISS wrote: its vectors, as a process of its own reads them (`cli/read_faiss.rs`).

use std::env;
use std::io::{self, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::super::Failure;
use super::super::read_faiss::Head;
use super::source::{Fault, Row, Source, length, read_floats};

/// Bytes of what the process says of its end.
const SAID_BYTES_MAX: u64 = 1024;

/// What the process that reads the file may take.
#[derive(Clone, Copy, Debug)]
pub struct ReaderLimits {
    /// `None`: 1 GiB, and three times the file.
    pub memory_bytes: Option<u64>,
    /// Of processor time, and of time without a byte from it.
    pub seconds: u64,
}

/// Rows of an index.
#[derive(Debug)]
pub struct FaissFile {
    child: Child,
    reader: BufReader<Patient>,
    name: String,
    head: Head,
    /// Rows that were given.
    given: u64,
}

impl FaissFile {
    /// # Errors
    /// Where it cannot be read, with what FAISS says of it, or what it did to the process that read it.
    pub fn open(path: &Path, limits: ReaderLimits) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let failed = |why: String| Failure::new(format!("{name}: {why}"));
        let length = length(path)?;
        let memory_bytes = limits.memory_bytes.unwrap_or((1 << 30) + 3 * length);
        let program = env::current_exe().map_err(|error| failed(format!("cannot start the program that reads it: {error}")))?;
        let mut command = Command::new(program);
        command.arg("read-faiss").args([
            "--memory-bytes",
            &memory_bytes.to_string(),
            "--cpu-seconds",
            &limits.seconds.to_string(),
        ]);
        command.arg("--").arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A thread of OpenBLAS that gets no memory asks for it again and again.
        command.envs([("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1"), ("RUST_BACKTRACE", "0")]);
        let child = command.spawn().map_err(|error| failed(format!("cannot start the program that reads it: {error}")))?;
        let mut child = Reaped(Some(child));
        let inner = child.0.as_mut().and_then(|child| child.stdout.take()).expect("it is piped");
        let mut reader = BufReader::with_capacity(1 << 20, Patient { inner, seconds: limits.seconds });
        let head = Head::read(&mut reader);
        let mut child = child.0.take().expect("it was put there");
        match head {
            Ok(head) => Ok(Self { child, reader, name, head, given: 0 }),
            Err(error) => Err(failed(end(&mut child, &error))),
        }
    }

    /// Rows in it.
    pub fn count(&self) -> u64 {
        self.head.count
    }

    fn read(&mut self, values: &mut Vec<f32>) -> io::Result<Row> {
        let mut id = [0; 8];
        if self.head.has_ids {
            self.reader.read_exact(&mut id)?;
        }
        read_floats(&mut self.reader, self.head.dimension, values)?;
        Ok(Row { id: self.head.has_ids.then(|| i64::from_le_bytes(id).to_string()), metadata: None })
    }
}

impl Source for FaissFile {
    fn dimension(&self) -> usize {
        self.head.dimension
    }

    fn has_ids(&self) -> bool {
        self.head.has_ids
    }

    fn next(&mut self, values: &mut Vec<f32>) -> Result<Option<Row>, Fault> {
        if self.given == self.head.count {
            return Ok(None);
        }
        self.given += 1;
        let row = self.read(values);
        row.map(Some).map_err(|error| Fault::File(end(&mut self.child, &error)))
    }

    fn place(&self) -> String {
        format!("{}: row {}", self.name, self.given.saturating_sub(1))
    }
}

impl Drop for FaissFile {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills the process where it is not waited for.
struct Reaped(Option<Child>);

impl Drop for Reaped {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What to say of a process that gave less than it promised: `error` is what reading from it came to.
fn end(child: &mut Child, error: &io::Error) -> String {
    // One whose output ended is on its way out, and how it ends is settled; whatever else it does is not waited for.
    let _ = child.kill();
    let said = child.stderr.take().map(said).unwrap_or_default();
    match child.wait() {
        Ok(status) if error.kind() == io::ErrorKind::UnexpectedEof => how_it_ended(status, &said),
        _ => error.to_string(),
    }
}

fn said(stderr: ChildStderr) -> String {
    let mut bytes = Vec::new();
    let _ = stderr.take(SAID_BYTES_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim_start_matches("faiss-proxy: ").to_owned()
}

fn how_it_ended(status: ExitStatus, said: &str) -> String {
    match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU | Signal::KILL) => "reading it took more processor time than it may: see --reader-seconds".to_owned(),
        Some(signal) => {
            format!("reading it crashed FAISS ({signal:?}): the file is damaged, or --reader-memory-mb is too little")
        }
        None if status.success() => "the program that reads it gave less than it said".to_owned(),
        None => format!("FAISS does not read it: {said}"),
    }
}

/// A pipe that is not waited for without end.
#[derive(Debug)]
struct Patient {
    inner: ChildStdout,
    seconds: u64,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = Timespec::try_from(Duration::from_secs(self.seconds)).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let ready = poll(&mut [PollFd::new(&self.inner, PollFlags::IN)], Some(&timeout))?;
        if ready == 0 {
            let why = format!("nothing came of reading it for {} s: see --reader-seconds", self.seconds);
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        self.inner.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_gives_nothing_is_not_waited_for_without_end() {
        // Gives nothing for as long as its standard input is open.
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut patient = Patient { inner: child.stdout.take().unwrap(), seconds: 0 };
        let error = Head::read(&mut patient).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(end(&mut child, &error).contains("--reader-seconds"));
        assert!(child.try_wait().unwrap().is_some(), "it is gone");
    }

    #[test]
    fn how_a_process_ended_is_said() {
        let of_signal = |signal: Signal| how_it_ended(ExitStatus::from_raw(signal.as_raw()), "");
        assert!(of_signal(Signal::SEGV).contains("crashed FAISS"));
        assert!(of_signal(Signal::XCPU).contains("--reader-seconds"));
        assert!(how_it_ended(ExitStatus::from_raw(1 << 8), "its reason").contains("its reason"));
        assert!(how_it_ended(ExitStatus::from_raw(0), "").contains("less than it said"));
    }
}
