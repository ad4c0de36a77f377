//! Every limit and default, with its unit and its reason.

/// The longest that back-pressure holds up one write, in milliseconds.
pub const WRITE_DELAY_MAX_MS: u64 = 50;

/// The largest efSearch that an index or a query may ask for.
pub const EF_MAX: u32 = 1 << 16;

/// Points that a range search over HTTP gives where the client does not say how many.
pub const RANGE_LIMIT_DEFAULT: usize = 1_000;

/// Limits that the library enforces. [`Limits::default`] is what API.md documents.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Floats in a vector. FAISS takes more; a JSON body of 64 MiB holds few vectors of this size already.
    pub dimension_max: usize,
    /// Bytes of a point's id, as UTF-8. Ids are held in memory for every live point.
    pub id_bytes_max: usize,
    /// Bytes of a point's metadata, as JSON text.
    pub metadata_bytes_max: usize,
    /// Nesting of a point's metadata: `{}` is 1. Bounds the stack of whoever parses it.
    pub metadata_depth_max: usize,
    /// Points in one batch.
    pub batch_points_max: usize,
    /// Neighbours that one search may ask for.
    pub k_max: usize,
    /// Queries in one batch of searches: one request holds a thread for all of them.
    pub batch_queries_max: usize,
    /// Neighbours that the queries of one batch may ask for together: each is some tens of bytes until the answer is sent, and its metadata then.
    pub batch_hits_max: usize,
    /// Points that one range search gives at most.
    pub range_hits_max: usize,
    /// Bytes of an index's name.
    pub index_name_bytes_max: usize,
    /// Writers that may wait for one index's log; more are answered [`Busy`](crate::Error::Busy).
    pub queued_writes_max: usize,
    /// A log segment is rotated when it has grown past this, at most 1 GiB. Old segments are removed whole.
    pub log_segment_bytes: u64,
    /// Bytes of operations in one frame, at most 64 MiB. A larger operation spans frames. Bounds what recovery allocates for a frame.
    pub frame_bytes_max: usize,
    /// Bytes of one operation, all its frames together, at most 1 GiB. Bounds what recovery allocates for an operation.
    pub operation_bytes_max: usize,
    /// A checkpoint is started when the log has grown by this since the last one, or by a quarter of the data where that is more: bounds
    /// recovery time.
    pub checkpoint_log_bytes: u64,
    /// A dirty index is checkpointed after this long, so that a quiet one recovers at once.
    pub checkpoint_interval_ms: u64,
    /// With [`Durability::Interval`](crate::Durability), how long after a write the sync of its frame begins, where the timer's thread is
    /// not held up by the syncs of other indices.
    pub interval_sync_ms: u64,
    /// Bytes set aside in the data directory for deletes and checkpoints on a full disk. 0: none, which is the library's default; the
    /// server sets [`Limits::SERVER_RESERVE_BYTES`].
    pub reserve_bytes: u64,
    /// Rows in memory from which on they are sealed into a segment, where an index sets none: a scan of them takes some tenths of a
    /// millisecond.
    pub seal_rows: u32,
    /// Share of a segment's rows that are dead at which it is rewritten, where an index sets none.
    pub compact_dead_share: f32,
    /// Rows of a segment that the background merges others into. A build takes memory and time by the rows of its segment.
    pub segment_rows_max: u64,
    /// Rows without an index at which writers are slowed down, up to [`WRITE_DELAY_MAX_MS`]; at twice as many they are answered
    /// [`Busy`](crate::Error::Busy).
    pub unbuilt_rows_max: u64,
    /// Threads of one build.
    pub build_threads: usize,
    /// Recall of the ten nearest under which an index is not used, where an index sets none.
    pub min_recall: f32,
    /// Memory that one index of type `auto` may take before its vectors are quantised, in bytes.
    pub auto_memory_bytes: u64,
    /// Bytes of memory that all open indices may take together, as far as it is theirs (`docs/architecture.md`, "Memory"): past it, those that
    /// nobody has used for longest are closed, and opened again at their next use. One that somebody uses is never closed, so that this can
    /// be passed. 0: no limit.
    pub memory_budget_bytes: u64,
    /// How long after the last group a marker frame is written, so that a watermark covers that group too.
    pub marker_delay_ms: u64,
}

impl Limits {
    /// Some log segments' first allocations and a small checkpoint.
    pub const SERVER_RESERVE_BYTES: u64 = 16 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dimension_max: 65_536,
            id_bytes_max: 512,
            metadata_bytes_max: 64 << 10,
            metadata_depth_max: 32,
            batch_points_max: 10_000,
            k_max: 10_000,
            batch_queries_max: 1_000,
            batch_hits_max: 100_000,
            range_hits_max: 10_000,
            index_name_bytes_max: 255,
            queued_writes_max: 1_024,
            log_segment_bytes: 64 << 20,
            frame_bytes_max: 16 << 20,
            operation_bytes_max: 1 << 30,
            checkpoint_log_bytes: 64 << 20,
            checkpoint_interval_ms: 300_000,
            interval_sync_ms: 50,
            reserve_bytes: 0,
            memory_budget_bytes: 0,
            marker_delay_ms: 500,
            seal_rows: 16_384,
            compact_dead_share: 0.2,
            segment_rows_max: 1 << 24,
            unbuilt_rows_max: 1 << 18,
            build_threads: std::thread::available_parallelism().map_or(1, |threads| threads.get().div_ceil(2)),
            min_recall: 0.9,
            auto_memory_bytes: 4 << 30,
        }
    }
}
