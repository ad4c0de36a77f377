//! Ctrl-C: the first one ends what is measured, so that the index is deleted; the second one ends the process.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::super::Failure;

/// Exit code of a program that SIGINT ended, as shells have it.
pub const CODE: u8 = 130;

/// Whether the bench shall end.
#[derive(Debug, Default)]
pub struct Interrupt {
    is_set: AtomicBool,
    lock: Mutex<()>,
    set: Condvar,
    /// The index that is there now, in words.
    index: Mutex<Option<String>>,
}

impl Interrupt {
    /// Listens to SIGINT and SIGTERM from now on.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn listen() -> Result<Arc<Self>, Failure> {
        let interrupt = Arc::new(Self::default());
        let failed = |error: std::io::Error| Failure::new(format!("cannot wait for signals: {error}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let signals = {
            let _entered = runtime.enter();
            (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
        };
        let (mut interrupted, mut terminated) = signals;
        let told = Arc::clone(&interrupt);
        // Nobody waits for this thread: it ends with the process.
        thread::spawn(move || {
            runtime.block_on(async {
                let mut next = async || {
                    tokio::select! {
                        _ = interrupted.recv() => {}
                        _ = terminated.recv() => {}
                    }
                };
                next().await;
                told.set();
                next().await;
                if let Some(index) = &*told.index.lock() {
                    eprintln!("faiss-proxy: interrupted again: {index} is left");
                }
                process::exit(CODE.into());
            });
        });
        Ok(interrupt)
    }

    fn set(&self) {
        eprintln!("faiss-proxy: interrupted: deleting the index; a second one ends the process at once");
        let _held = self.lock.lock();
        self.is_set.store(true, Ordering::Relaxed);
        self.set.notify_all();
    }

    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::Relaxed)
    }

    /// # Errors
    /// Where it is set.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_set() { Err(Failure::new("interrupted").with_code(CODE)) } else { Ok(()) }
    }

    /// Waits until then, or until it is set.
    pub fn wait_until(&self, due: Instant) {
        let mut held = self.lock.lock();
        while !self.is_set() && !self.set.wait_until(&mut held, due).timed_out() {}
    }

    pub fn wait(&self, duration: Duration) {
        self.wait_until(Instant::now() + duration);
    }

    /// Says which index there is, for the case that the process ends at once.
    pub fn note_index(&self, index: Option<String>) {
        *self.index.lock() = index;
    }
}
