//! A disk on which a build stops at its last step until a test lets it go on: a machine whose builds never keep up.
#![allow(dead_code, reason = "two test binaries have it, and one of them does not use all")]

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use faiss_proxy::io::{Entry, File, Io, Lock, Map};

/// Lets nobody create a FAISS file until it is open.
#[derive(Clone, Debug)]
pub struct Gate {
    io: Arc<dyn Io>,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug, Default)]
struct State {
    is_open: bool,
    /// Jobs that asked for the space that they need, which is how they begin.
    begun: usize,
    /// Builds that came to the gate.
    come: usize,
}

impl Gate {
    pub fn new(io: Arc<dyn Io>) -> Self {
        Self { io, state: Arc::default() }
    }

    /// Lets through who waits and who comes later.
    pub fn open(&self) {
        self.change(|state| state.is_open = true);
    }

    /// Waits until a job has begun.
    pub fn wait_for_begin(&self) {
        self.wait(|state| state.begun > 0);
    }

    /// Waits until a build stands before the gate.
    pub fn wait_for_build(&self) {
        self.wait(|state| state.come > 0);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.0.lock().unwrap());
        self.state.1.notify_all();
    }

    fn wait(&self, is_so: impl Fn(&State) -> bool) {
        drop(self.state.1.wait_while(self.state.0.lock().unwrap(), |state| !is_so(state)).unwrap());
    }
}

/// Opens a gate when a test ends, also by a panic: else the store, which waits for its builds, would never be dropped.
#[derive(Debug)]
pub struct OpenOnDrop(pub Gate);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl Io for Gate {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if path.extension().is_some_and(|extension| extension == "faiss") {
            self.change(|state| state.come += 1);
            self.wait(|state| state.is_open);
        }
        self.io.create(path)
    }

    fn available(&self, directory: &Path) -> io::Result<u64> {
        self.change(|state| state.begun += 1);
        self.io.available(directory)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.io.open(path)
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        self.io.map(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<Entry>> {
        self.io.list(directory)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.io.create_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.io.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.io.remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.io.remove_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.io.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Lock> {
        self.io.lock(path)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Lock> {
        self.io.lock_shared(path)
    }
}
