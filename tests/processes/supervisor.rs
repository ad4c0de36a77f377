//! A server whose file operations are watched, failed, or its end: see `supervise.c`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tempfile::TempDir;

/// A program of this directory, compiled by the C compiler that the build needs anyhow.
pub fn compiled(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/processes").join(format!("{name}.c"));
    // Tests run at once: each compiles for itself, and the name always stands for a whole program.
    let own = tempfile::Builder::new().prefix(name).tempfile_in(directory).unwrap().into_temp_path();
    let status = Command::new("cc").args(["-O1", "-Wall", "-Wextra", "-o"]).arg(&own).arg(source).status().unwrap();
    assert!(status.success(), "{name}.c: {status}");
    let program = directory.join(name);
    own.persist(&program).unwrap();
    program
}

/// What becomes of calls that match.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `write`, `fdatasync`, …, or `*`.
    pub call: &'static str,
    /// A shell pattern for the path below the data directory.
    pub pattern: String,
    /// How many happen before.
    pub skip: usize,
    pub count: usize,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Kill,
    Eio,
    Enospc,
}

impl Rule {
    /// For every call that matches from now on.
    pub fn always(call: &'static str, pattern: &str, action: Action) -> Self {
        Self { call, pattern: pattern.to_owned(), skip: 0, count: 1 << 30, action }
    }

    pub fn once(call: &'static str, pattern: &str, action: Action) -> Self {
        Self { count: 1, ..Self::always(call, pattern, action) }
    }
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Eio => "5",
            Self::Enospc => "28",
        }
    }
}

/// Watches the servers that are started by its [`command`](Self::command), one at a time.
pub struct Supervisor {
    program: PathBuf,
    /// Rules and trace.
    directory: TempDir,
    data_dir: PathBuf,
}

impl Supervisor {
    pub fn new(data_dir: &Path) -> Self {
        let supervisor =
            Self { program: compiled("supervise"), directory: tempfile::tempdir().unwrap(), data_dir: data_dir.to_owned() };
        supervisor.set(&[]);
        supervisor
    }

    /// The same command, supervised.
    pub fn command(&self, of: &Command) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(self.rules()).arg(self.trace_path()).arg(&self.data_dir).arg(of.get_program()).args(of.get_args());
        for (name, value) in of.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    fn rules(&self) -> PathBuf {
        self.directory.path().join("rules")
    }

    fn trace_path(&self) -> PathBuf {
        self.directory.path().join("trace")
    }

    /// Judges every call that begins after this has returned by these rules.
    pub fn set(&self, rules: &[Rule]) {
        static VERSIONS: AtomicU64 = AtomicU64::new(1);
        let version = format!("{}\n", VERSIONS.fetch_add(1, Relaxed));
        let lines = rules
            .iter()
            .map(|Rule { call, pattern, skip, count, action }| format!("{call} {pattern} {skip} {count} {}\n", action.word()));
        let new = tempfile::NamedTempFile::new_in(self.directory.path()).unwrap();
        fs::write(new.path(), version + &lines.collect::<String>()).unwrap();
        new.persist(self.rules()).unwrap();
    }

    /// What was done to calls, other than letting them happen: each as its call and path.
    pub fn struck(&self) -> Vec<String> {
        let trace = fs::read_to_string(self.trace_path()).unwrap_or_default();
        let struck = |line: &str| {
            let mut words = line.split(' ');
            let (call, path) = (words.next()?, words.next()?);
            words.next().map(|_| format!("{call} {path}"))
        };
        trace.lines().filter_map(struck).collect()
    }

    /// Forgets what was done.
    pub fn clear(&self) {
        // Emptied and not removed: who writes it appends to it.
        fs::write(self.trace_path(), "").unwrap();
    }
}
