//! How much log is kept for the change feed beyond what recovery needs, and letting it go on a full disk.

use super::index::Index;
use crate::error::{Error, Result};
use crate::format::manifest::{LOG_DIRECTORY, Manifest};
use crate::types::Lsn;

/// Segments of the log that are kept at most: every manifest names them all.
const LOG_SEGMENTS_MAX: usize = 4096;

/// The first mutation that the log has, or will have.
pub(super) fn oldest_lsn(manifest: &Manifest) -> Lsn {
    manifest.log.first().map_or(manifest.position.lsn + 1, |name| name.first_lsn)
}

impl Index {
    /// Takes from a manifest, whose position is set, the log that it lets go: whole segments before the position, but for the newest that make up `history_bytes`
    /// of files, together with what follows them.
    pub(super) fn drop_log(&self, manifest: &mut Manifest, history_bytes: u64) {
        let log = &manifest.log;
        let unneeded = manifest.position.at.map_or(0, |(first, _)| log.partition_point(|&name| name < first));
        let mut dropped = unneeded;
        if history_bytes > 0 {
            let directory = self.directory.join(LOG_DIRECTORY);
            let bytes = |at: usize| self.io.open(&log[at].path(&directory)).and_then(|file| file.len()).unwrap_or(0);
            let mut kept_bytes: u64 = (dropped..log.len()).map(bytes).sum();
            while dropped > 0 && kept_bytes < history_bytes && log.len() - dropped < LOG_SEGMENTS_MAX {
                dropped -= 1;
                kept_bytes += bytes(dropped);
            }
        }
        manifest.log.drain(..dropped);
    }

    /// Lets go of log that is kept for the feed alone, where a write or a checkpoint finds the disk full: a consumer can start again from a copy of the points, and a
    /// write that is refused is lost to its client. Whether there was any.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`]: the index is read-only from now on.
    pub(super) fn release_history(&self) -> Result<bool> {
        let mut root = self.root.lock();
        let mut trimmed = root.current().clone();
        self.drop_log(&mut trimmed, 0);
        let segments = root.current().log.len() - trimmed.log.len();
        if segments == 0 {
            return Ok(false);
        }
        tracing::warn!(index = %self.id, segments, "the disk is full: log that was kept for the change feed goes; make room");
        // Two, because the manifest before names the same files.
        for _ in 0..2 {
            let mut publish = || root.publish(|manifest| self.drop_log(manifest, 0));
            let mut published = publish();
            if matches!(published, Err(Error::Full(_))) && self.reserve.release() {
                published = publish();
            }
            match published {
                Ok(_) => {}
                Err(error @ Error::OutcomeUnknown(_)) => {
                    self.poison(&error.to_string());
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!(index = %self.id, %error, "there is no room for the manifest that lets the log go");
                    return Ok(false);
                }
            }
        }
        self.history.raise(oldest_lsn(root.current()) - 1);
        drop(root);
        self.reserve.restore();
        Ok(true)
    }
}
