//! The nouns that every layer shares. Nothing here does I/O.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, quoted};
use crate::plan::Plan;

pub use crate::write_options::{Condition, Durability, IdempotencyKey, WriteOptions};

/// Counts the mutations of one index: 1, 2, 3, …; 0 is "before the first". A batch is one mutation and has one LSN.
pub type Lsn = u64;

/// The UUID under which the API knows an index.
pub type IndexId = uuid::Uuid;

/// Address of a stored row within one open index: assigned in the order of applying, never reused while the index is open, and
/// not written to disk (a reopened index numbers its rows anew).
pub(crate) type Row = u64;

/// Owner of an index and part of the key of every look-up.
///
/// `^[a-z0-9][a-z0-9_-]{0,63}$`: it is a directory name, and must be the same one on a disk that folds case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(String);

impl TenantId {
    /// # Errors
    /// [`Error::Invalid`] naming `tenant_id` where `name` is no safe directory name.
    pub fn new(name: &str) -> Result<Self> {
        let mut bytes = name.bytes();
        let first_is_safe = bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let rest_is_safe = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if first_is_safe && rest_is_safe && name.len() <= 64 {
            Ok(Self(name.to_owned()))
        } else {
            Err(Error::invalid(
                "tenant_id",
                "invalid_tenant",
                format!(
                    "tenant {} must be 1 to 64 of a-z, 0-9, '_' and '-', and begin with a letter or a digit: \
                     it names a directory",
                    quoted(name)
                ),
            ))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How two vectors are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Squared Euclidean distance, as FAISS computes it (no square root). Smaller is nearer.
    L2,
    /// Inner product. Larger is nearer.
    #[serde(rename = "ip")]
    InnerProduct,
    /// Cosine of the angle between the vectors, -1 to 1. Larger is nearer. A zero vector has none and is refused.
    Cosine,
}

impl Metric {
    /// The word that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L2 => "l2",
            Self::InnerProduct => "ip",
            Self::Cosine => "cosine",
        }
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word {
            "l2" => Ok(Self::L2),
            "ip" => Ok(Self::InnerProduct),
            "cosine" => Ok(Self::Cosine),
            _ => {
                let detail = format!("metric {} is none of l2, ip, cosine", quoted(word));
                Err(Error::invalid("metric", "invalid_metric", detail))
            }
        }
    }
}

/// What an index is created with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IndexSpec {
    /// Free text for people; need not be unique. 1 to [`Limits::index_name_bytes_max`](crate::config::Limits) bytes.
    pub name: String,
    /// Floats in a vector, 1 to [`Limits::dimension_max`](crate::config::Limits).
    pub dimension: usize,
    /// A FAISS class name or factory string, or `auto`, as the client wrote it. `docs/index-types.md` lists them.
    pub index_type: String,
    /// `None`: what `index_type` implies, else L2.
    pub metric: Option<Metric>,
    pub options: IndexOptions,
    /// By which a retry is known, for as long as the index exists: it is given the index that the first request created.
    pub key: Option<IdempotencyKey>,
    /// Indices that the tenant may have, with this one; `None`: any number.
    pub tenant_indices_max: Option<usize>,
}

/// What of an index can be changed: see [`Store::configure_index`](crate::Store::configure_index).
#[derive(Clone, Debug, PartialEq)]
pub struct IndexConfig {
    /// As [`IndexSpec::name`].
    pub name: String,
    pub options: IndexOptions,
}

/// What an index's creator may set; `None`: the default, which `docs/index-types.md` gives.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexOptions {
    /// HNSW: rows that are kept in sight while the graph is built (efConstruction).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ef_construction: Option<u32>,
    /// HNSW: where tuning begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ef_search: Option<u32>,
    /// IVF: where tuning begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nprobe: Option<u32>,
    /// An index that finds a smaller share of the ten nearest rows is not used, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_recall: Option<f32>,
    /// Rows in memory that are sealed into a segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seal_rows: Option<u32>,
    /// A segment of which this share is dead is rewritten, over 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compact_dead_share: Option<f32>,
    /// Fields of the metadata, as paths, that the metadata index leaves out, with all that is under them: filters on them read the metadata itself. At most
    /// [`UNINDEXED_MAX`](crate::config::UNINDEXED_MAX), each of 1 to [`UNINDEXED_BYTES_MAX`](crate::config::UNINDEXED_BYTES_MAX) bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unindexed: Vec<String>,
    /// Bytes of log files that a checkpoint leaves for [`Index::changes`](crate::Index::changes), at least, where they are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_retention_bytes: Option<u64>,
}

impl IndexOptions {
    /// As a manifest has them: JSON.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("options are numbers and paths")
    }
}

/// One point, as it was stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub id: String,
    /// Bit for bit the client's f32.
    pub values: Vec<f32>,
    /// The JSON text of an object, byte for byte as it was stored.
    pub metadata: String,
    /// The mutation that stored it.
    pub lsn: Lsn,
}

/// A search for the nearest points.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// `dimension` finite floats.
    pub vector: Vec<f32>,
    /// How many points at most, 1 to [`Limits::k_max`](crate::config::Limits).
    pub k: usize,
    /// Only points that match it are counted among the `k`.
    pub filter: Option<crate::segment::filter::Filter>,
    /// Scan all rows, whatever index there is.
    pub exact: bool,
    /// Whether each hit bears its vector.
    pub include_values: bool,
    /// Points with a lower score are no hits.
    pub min_score: Option<f64>,
    /// The state that is searched, which must still be kept; `None`: the present one.
    pub as_of_lsn: Option<Lsn>,
    pub params: SearchParams,
}

/// How hard a search looks; `None`: as the index was tuned when it was built. What an index type has no use for is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SearchParams {
    /// HNSW: rows that are kept in sight (efSearch), 1 to [`EF_MAX`](crate::config::EF_MAX).
    pub ef: Option<u32>,
    /// IVF: lists that are looked into, 1 to the number of lists.
    pub nprobe: Option<u32>,
    /// Quantised types: whether more candidates are taken than asked for, to be ranked again by their raw vectors. `None`: yes.
    pub rescore: Option<bool>,
}

/// One answer to a [`Query`].
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    pub id: String,
    /// Higher is better. L2: `1 / (1 + distance)`; inner product and cosine: the distance itself.
    pub score: f64,
    /// L2: the squared distance; inner product: the product; cosine: the cosine.
    pub distance: f64,
    /// The JSON text of an object.
    pub metadata: String,
    /// Where the query wants it.
    pub values: Option<Vec<f32>>,
}

/// A search for all points that are near enough.
#[derive(Clone, Debug)]
pub struct RangeQuery {
    /// `dimension` finite floats.
    pub vector: Vec<f32>,
    pub within: Within,
    /// Only points that match it are found.
    pub filter: Option<crate::segment::filter::Filter>,
    /// How many points at most, 1 to [`Limits::range_hits_max`](crate::config::Limits): the best of them.
    pub limit: usize,
    /// Whether each hit bears its vector.
    pub include_values: bool,
}

/// What is near enough. A number is met by a distance or a score that is the same f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Within {
    /// L2: a squared distance of at most this, as FAISS's range search takes it; inner product and cosine: a product or a cosine of at least this.
    Radius(f64),
    /// A score of at least this.
    MinScore(f64),
}

/// Answer to a [`Query`].
#[derive(Clone, Debug, PartialEq)]
pub struct QueryHits {
    /// Best first.
    pub hits: Vec<Hit>,
    /// The state in which they were found.
    pub lsn: Lsn,
    pub plan: Plan,
}

/// Answers to several queries.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchHits {
    /// Of each query, best first.
    pub answers: Vec<Vec<Hit>>,
    /// The one state in which they were found.
    pub lsn: Lsn,
    /// Of all queries together.
    pub plan: Plan,
}

/// Answer to a [`RangeQuery`].
#[derive(Clone, Debug, PartialEq)]
pub struct RangeHits {
    /// Best first.
    pub hits: Vec<Hit>,
    /// Whether there are more than the limit.
    pub truncated: bool,
    /// The state in which they were found.
    pub lsn: Lsn,
    pub plan: Plan,
}

/// Which points a page has.
#[derive(Clone, Debug, Default)]
pub struct PageQuery {
    pub filter: Option<crate::segment::filter::Filter>,
    /// The last id of the page before; `None`: the first page.
    pub after: Option<String>,
    /// Points in a page at most, 1 to [`Limits::batch_points_max`](crate::config::Limits).
    pub limit: usize,
    /// Else the points have no values.
    pub include_values: bool,
}

/// Points by rising ids.
#[derive(Clone, Debug, PartialEq)]
pub struct PointPage {
    pub points: Vec<Point>,
    /// What the next page comes after; `None`: there is none.
    pub next: Option<String>,
    /// The state that this page is of.
    pub lsn: Lsn,
}

/// Which points a page of a scan has.
#[derive(Clone, Debug, Default)]
pub struct ScanQuery {
    pub filter: Option<crate::segment::filter::Filter>,
    /// Where the page before ended; `None`: the first page.
    pub after: Option<ScanPosition>,
    /// Points in a page at most, 1 to [`Limits::batch_points_max`](crate::config::Limits).
    pub limit: usize,
    /// Else the points have no values.
    pub include_values: bool,
}

/// How far a scan has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanPosition {
    /// The state that is scanned.
    pub state: Lsn,
    /// The mutation that stored the last point that was given.
    pub lsn: Lsn,
    /// Points of that mutation that were given.
    pub given: usize,
}

/// Points by rising LSNs.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanPage {
    pub points: Vec<Point>,
    /// What the next page comes after; `None`: there is none.
    pub next: Option<ScanPosition>,
    /// The state that all pages are of.
    pub lsn: Lsn,
}

/// Which mutations a page of the change feed has.
#[derive(Clone, Debug)]
pub struct ChangesQuery {
    /// The first one: this one too. 0 is 1, the first that there ever was.
    pub from_lsn: Lsn,
    /// Changes after which the page ends, with the mutation that they are of, 1 to [`Limits::batch_points_max`](crate::config::Limits).
    pub limit: usize,
    /// Upserts whose metadata does not match are left out; deletes never are, for what was deleted is not in the log.
    pub filter: Option<crate::segment::filter::Filter>,
    /// Else the points have no values.
    pub include_values: bool,
}

/// What one mutation did to one point.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It was stored, in the place of the one of the same id if there was one.
    Upsert(Point),
    Delete {
        lsn: Lsn,
        id: String,
    },
}

impl Change {
    /// The mutation.
    pub fn lsn(&self) -> Lsn {
        match self {
            Self::Upsert(point) => point.lsn,
            Self::Delete { lsn, .. } => *lsn,
        }
    }
}

/// Whole mutations, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangePage {
    /// By rising LSNs; of one mutation all, each id once.
    pub changes: Vec<Change>,
    /// What the next page begins with.
    pub next_lsn: Lsn,
    /// The first mutation that the log has.
    pub oldest_lsn: Lsn,
    /// The last mutation that a page could have had.
    pub durable_lsn: Lsn,
}

/// Answer to an upsert: durable as asked for, and visible to every search that starts from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upserted {
    pub lsn: Lsn,
    /// Points stored, new and replaced together; an id that came twice in the batch counts once.
    pub added_count: usize,
    /// Positions in the batch whose id came again later in the same batch: the last wins.
    pub superseded: Vec<usize>,
    /// Positions in the batch that were not stored because their condition does not hold.
    pub unmet: Vec<usize>,
}

/// Answer to a delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub lsn: Lsn,
    /// Points that existed and are gone.
    pub deleted_count: usize,
}

/// Whether an index takes writes and reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexState {
    Ready,
    /// As ready; rows are being built into a FAISS index, or wait for it.
    Building,
    /// A sync of its log failed: reads go on, writes are refused until the server is restarted.
    ReadOnly {
        reason: String,
    },
}

/// What is known of an index, at one moment.
#[derive(Clone, Debug)]
pub struct IndexInfo {
    pub id: IndexId,
    pub tenant_id: TenantId,
    pub name: String,
    pub dimension: usize,
    /// As the client wrote it.
    pub index_type: String,
    /// The FAISS factory string that `index_type` resolved to.
    pub factory: String,
    pub metric: Metric,
    pub state: IndexState,
    pub options: IndexOptions,
    /// For `auto`: what it builds from now on.
    pub picked: Option<Picked>,
    /// Live points.
    pub vector_count: u64,
    /// Rows that a search scans because no FAISS index covers them.
    pub unindexed_rows: u64,
    /// Last mutation applied.
    pub lsn: Lsn,
    /// Last mutation known to be synced; `durable_lsn <= lsn` but for the moment between the sync and the applying.
    pub durable_lsn: Lsn,
    /// Last mutation that the newest checkpoint holds.
    pub checkpoint_lsn: Lsn,
    pub segments: usize,
    /// What is built over the sealed segments, by the order of their rows. Empty for an exact type.
    pub builds: Vec<BuildInfo>,
    /// Rows that are dead and still take space.
    pub tombstones: u64,
    /// Bytes at the end of the log that were no whole frame when the index was opened: what a crash left, copied aside to `.torn`.
    pub torn_bytes: u64,
    /// Bytes of the files that the manifest names, the log included.
    pub bytes: u64,
    /// Bytes of memory of the metadata index, as far as searches with a filter have made it.
    pub metadata_index_bytes: u64,
    /// UTC, microseconds since 1970.
    pub created_at_us: i64,
}

/// What an index of type `auto` came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Picked {
    /// FAISS factory string.
    pub factory: String,
    pub reason: String,
}

/// How a sealed segment is searched.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct BuildInfo {
    /// Rows of the segment, dead ones included.
    pub rows: u64,
    /// FAISS factory string of its index; where there is none, it is scanned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factory: Option<String>,
    /// Share of the ten nearest rows that the index found for a sample of the segment's own rows when it was built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recall: Option<f64>,
    /// What the index is searched with where a query does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ef: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nprobe: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overfetch: Option<u32>,
    /// Why there is no index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct CompactReport {
    /// What was deleted or replaced up to this mutation is in no segment any more.
    #[cfg_attr(feature = "server", schema(value_type = u64))]
    pub lsn: Lsn,
    /// Segments that were written anew, and how many they became.
    pub segments_before: usize,
    pub segments_after: usize,
    /// Dead rows that were dropped.
    pub rows_dropped: u64,
    /// Bytes of the index's files.
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// What an erasure did: the receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct EraseReport {
    /// What was deleted or replaced up to this mutation is in no file of the index any more.
    #[cfg_attr(feature = "server", schema(value_type = u64))]
    pub lsn: Lsn,
    /// Rows that were dead when it began.
    pub rows_erased: u64,
    pub files_removed: usize,
    /// Bytes of the index's files.
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// What is known of an index that need not be open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexSummary {
    pub id: IndexId,
    pub name: String,
    /// UTC, microseconds since 1970.
    pub created_at_us: i64,
}

/// How many indices there are, by what they can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct IndexCounts {
    /// Open: everything of them was verified.
    pub serving: usize,
    /// Not open: manifest and log were checked at the start, and segments will be verified at their next use.
    pub not_verified: usize,
    pub refused: usize,
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The checkpoint holds every mutation up to this one.
    pub lsn: Lsn,
    /// Bytes written to new files, manifest included; 0 where there was nothing new.
    pub bytes_written: u64,
    /// Log files that were removed.
    pub log_files_removed: usize,
}
