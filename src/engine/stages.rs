//! How long the steps of the work take: histograms for Prometheus.

use prometheus::{Histogram, HistogramOpts, Registry};

/// From what memory takes to what a disk that is broken takes, in seconds.
pub(crate) const SHORT: &[f64] =
    &[1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// For what is done in the background, in seconds.
const LONG: &[f64] = &[0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0, 120.0, 600.0, 3600.0];

/// Requests.
const GROUP: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Seconds that the steps took, of all indices of a store, since it was opened.
#[derive(Clone, Debug)]
pub struct Stages {
    /// A write, from when it stood in line to its answer: of it, `append`, `sync` and `apply` are done for a whole group.
    pub(super) commit: Histogram,
    /// Requests in a group.
    pub(super) group: Histogram,
    pub(super) append: Histogram,
    pub(super) sync: Histogram,
    pub(super) apply: Histogram,
    /// A search of any kind, a batch as one.
    pub(super) search: Histogram,
    pub(super) build: Histogram,
    pub(super) compaction: Histogram,
    pub(super) checkpoint: Histogram,
    pub(super) opening: Histogram,
}

impl Stages {
    pub(super) fn new() -> Self {
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(format!("faiss_proxy_{name}"), help).buckets(buckets.to_vec());
            Histogram::with_opts(options).expect("the names are words and the buckets rise")
        };
        let seconds = |stage: &str, help: &str, buckets| histogram(&format!("{stage}_seconds"), help, buckets);
        Self {
            commit: seconds("commit", "Time of a write from its place in line to its answer.", SHORT),
            group: histogram("commit_group_requests", "Writes that were committed as one group.", GROUP),
            append: seconds("log_append", "Time to write a group to the log.", SHORT),
            sync: seconds("log_sync", "Time to sync the log for a group.", SHORT),
            apply: seconds("apply", "Time to apply a group in memory.", SHORT),
            search: seconds("search", "Time of a search in its index, a batch as one.", SHORT),
            build: seconds("build", "Time to build a FAISS index over a segment.", LONG),
            compaction: seconds("compaction", "Time to rewrite segments.", LONG),
            checkpoint: seconds("checkpoint", "Time of a checkpoint.", LONG),
            opening: seconds("opening", "Time to recover an index.", LONG),
        }
    }

    /// Shows them to a registry, under the names `faiss_proxy_commit_seconds` and so on.
    ///
    /// # Errors
    /// Where the registry has one of these names already.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let Self { commit, group, append, sync, apply, search, build, compaction, checkpoint, opening } = self;
        for histogram in [commit, group, append, sync, apply, search, build, compaction, checkpoint, opening] {
            registry.register(Box::new(histogram.clone()))?;
        }
        Ok(())
    }
}
