//! The process that reads a file of others' (`cli/confined.rs`): started, read from, and what is to be said of its end.

use std::env;
use std::ffi::OsStr;
use std::io::{self, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::super::Failure;
use super::super::confined::Head;
use super::source::length;

/// Bytes of what the process says of its end.
const SAID_BYTES_MAX: u64 = 1024;

/// The exit code of a program that came upon a mistake of its own in Rust.
const PANICKED: i32 = 101;

/// What the process that reads the file may take.
#[derive(Clone, Copy, Debug)]
pub struct ReaderLimits {
    /// `None`: 1 GiB, and three times the file.
    pub memory_bytes: Option<u64>,
    /// Of processor time, and of time without a byte from it.
    pub seconds: u64,
}

/// A process, and what it gives.
#[derive(Debug)]
pub struct Reader {
    process: Process,
    output: BufReader<Patient>,
    head: Head,
    /// Rows that were asked for.
    asked: u64,
}

/// Killed where it is no longer wanted.
#[derive(Debug)]
struct Process {
    child: Child,
    /// Whose code reads the file: FAISS.
    whose: &'static str,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Reader {
    /// Starts `faiss-proxy COMMAND`, in which the code of `whose` reads the file.
    ///
    /// # Errors
    /// Where it cannot be read, with what is said of it, or what it did to the process that read it.
    pub fn start(
        command: &str,
        whose: &'static str,
        path: &Path,
        arguments: &[&OsStr],
        limits: ReaderLimits,
    ) -> Result<Self, Failure> {
        let failed = |why: String| Failure::new(format!("{}: {why}", path.display()));
        let length = length(path)?;
        let memory_bytes = limits.memory_bytes.unwrap_or((1 << 30) + 3 * length);
        let cannot_start = |error: io::Error| failed(format!("cannot start the program that reads it: {error}"));
        let mut process = Command::new(env::current_exe().map_err(cannot_start)?);
        process.arg(command).args(["--memory-bytes", &memory_bytes.to_string(), "--cpu-seconds", &limits.seconds.to_string()]);
        process.args(arguments).arg("--").arg(path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A thread of OpenBLAS that gets no memory asks for it again and again.
        process.envs([("OPENBLAS_NUM_THREADS", "1"), ("OMP_NUM_THREADS", "1"), ("RUST_BACKTRACE", "0")]);
        let mut process = Process { child: process.spawn().map_err(cannot_start)?, whose };
        let inner = process.child.stdout.take().expect("it is piped");
        let mut output = BufReader::with_capacity(1 << 20, Patient { inner, seconds: limits.seconds });
        match Head::read(&mut output) {
            Ok(head) => Ok(Self { process, output, head, asked: 0 }),
            Err(error) => Err(failed(process.end(&error))),
        }
    }

    pub fn head(&self) -> Head {
        self.head
    }

    /// The next row, as `read` takes it; `None` where all that were promised are given.
    ///
    /// # Errors
    /// What became of the process.
    pub fn row<T>(&mut self, read: impl FnOnce(&mut BufReader<Patient>) -> io::Result<T>) -> Result<Option<T>, String> {
        if self.asked == self.head.count {
            return Ok(None);
        }
        self.asked += 1;
        read(&mut self.output).map(Some).map_err(|error| self.process.end(&error))
    }

    /// The number of the row that was asked for last, from 0.
    pub fn at(&self) -> u64 {
        self.asked.saturating_sub(1)
    }
}

impl Process {
    /// What to say of a process that gave less than it promised: `error` is what reading from it came to.
    fn end(&mut self, error: &io::Error) -> String {
        // One whose output ended is on its way out, and how it ends is settled; whatever else it does is not waited for.
        let _ = self.child.kill();
        let said = self.child.stderr.take().map(said).unwrap_or_default();
        match self.child.wait() {
            Ok(status) if error.kind() == io::ErrorKind::UnexpectedEof => how_it_ended(self.whose, status, &said),
            _ => error.to_string(),
        }
    }
}

fn said(stderr: ChildStderr) -> String {
    let mut bytes = Vec::new();
    let _ = stderr.take(SAID_BYTES_MAX).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    // What a panic says ends with how to have a backtrace.
    let tells = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: run with");
    let last = text.lines().rev().find(tells).unwrap_or_default();
    last.trim_start_matches("faiss-proxy: ").to_owned()
}

fn how_it_ended(whose: &str, status: ExitStatus, said: &str) -> String {
    match status.signal().and_then(Signal::from_named_raw) {
        Some(Signal::XCPU | Signal::KILL) => "reading it took more processor time than it may: see --reader-seconds".to_owned(),
        Some(signal) => {
            format!("reading it crashed {whose} ({signal:?}): the file is damaged, or --reader-memory-mb is too little")
        }
        None if status.code() == Some(PANICKED) => format!("reading it crashed {whose}: the file is damaged ({said})"),
        None if status.success() => "the program that reads it gave less than it said".to_owned(),
        None if said.is_empty() => format!("the program that reads it ended with {status}"),
        None => said.to_owned(),
    }
}

/// A pipe that is not waited for without end.
#[derive(Debug)]
pub struct Patient {
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
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut process = Process { child, whose: "cat" };
        let mut patient = Patient { inner: process.child.stdout.take().unwrap(), seconds: 0 };
        let error = Head::read(&mut patient).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(process.end(&error).contains("--reader-seconds"));
        assert!(process.child.try_wait().unwrap().is_some(), "it is gone");
    }

    #[test]
    fn how_a_process_ended_is_said() {
        let of_signal = |signal: Signal| how_it_ended("FAISS", ExitStatus::from_raw(signal.as_raw()), "");
        assert!(of_signal(Signal::SEGV).contains("crashed FAISS"));
        assert!(of_signal(Signal::XCPU).contains("--reader-seconds"));
        assert!(how_it_ended("FAISS", ExitStatus::from_raw(1 << 8), "its reason").contains("its reason"));
        assert!(how_it_ended("x", ExitStatus::from_raw(PANICKED << 8), "why").contains("crashed x: the file is damaged (why)"));
        assert!(how_it_ended("FAISS", ExitStatus::from_raw(0), "").contains("less than it said"));
    }
}
