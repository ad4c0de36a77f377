//! What calls take beside a body: parts of the path, the query, headers. Each is read by `request`, or by the handler by this name.
#![expect(dead_code, reason = "only the descriptions of these are used")]

use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct InIndex {
    /// The id of an index.
    index_id: Uuid,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OfPoint {
    /// The id of a point, percent-encoded.
    #[param(min_length = 1, max_length = 512, example = "a")]
    vector_id: String,
}

/// Of every call with a key.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Timeout {
    /// Seconds that the call may wait for its turn: then it is a 504, and nothing was done.
    #[param(required = false, rename = "X-Request-Timeout", minimum = 0, example = 0.5)]
    timeout: f64,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Idempotent {
    /// A name of the client's for this request, of visible ASCII: a retry with it is given the first answer, and nothing is done again.
    #[param(
        required = false,
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$",
        example = "8f14e45f"
    )]
    key: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Conditional {
    /// The LSN of a point: only where that mutation stored it. Or `*`: only where there is a point of this id.
    #[param(required = false, rename = "If-Match", pattern = r#"^(\*|"?[0-9]{1,19}"?)$"#, example = "17")]
    if_match: String,
    /// `*`: only where there is no point of this id.
    #[param(required = false, rename = "If-None-Match", pattern = r"^\*$", example = "*")]
    if_none_match: String,
}

/// When a write is answered.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum Durability {
    Fsync,
    Interval,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Durable {
    /// Answer when the write is synced (`fsync`, the default), or when it is written (`interval`), which a power cut can lose.
    #[param(required = false, inline)]
    durability: Durability,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Atomic {
    /// All or nothing: where a point is at fault, or its condition does not hold, nothing is stored.
    #[param(required = false, default = false)]
    atomic: bool,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct IndexListing {
    /// Only indices of this name.
    #[param(required = false)]
    name: String,
    #[param(required = false, minimum = 1, maximum = 1000, default = 100)]
    limit: u32,
    /// `next_cursor` of the page before.
    #[param(required = false)]
    cursor: String,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Erasing {
    /// Answer when no file of the index has a byte of what was deleted.
    #[param(required = false, default = false)]
    erase: bool,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AsOf {
    /// The state after this mutation, as long as it is kept.
    #[param(required = false)]
    as_of_lsn: u64,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AtLeast {
    /// The state has this mutation, whichever node of a cluster made it.
    #[param(required = false)]
    min_lsn: u64,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Explaining {
    /// Say how many points match, and how each segment was searched.
    #[param(required = false, default = false)]
    explain: bool,
}

/// By what points of a list rise.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    Id,
    Lsn,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PointListing {
    #[param(required = false, minimum = 1, maximum = 10000, default = 100)]
    limit: u32,
    /// `next_cursor` of the page before.
    #[param(required = false)]
    cursor: String,
    /// A filter, as JSON: only points that match.
    #[param(required = false, example = r#"{"year": {"$gte": 2020}}"#)]
    filter: String,
    #[param(required = false, default = false)]
    include_values: bool,
    /// By what the points rise: by their ids (the default), each page of the state that is present then; or by the mutations that stored them, all pages of one state.
    #[param(required = false, inline)]
    order: Order,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Following {
    /// The first mutation of the page.
    #[param(required = false, default = 1)]
    from_lsn: u64,
    /// Changes after which the page ends, with the mutation that they are of.
    #[param(required = false, minimum = 1, maximum = 10000, default = 1000)]
    limit: u32,
    /// A filter, as JSON: upserts that do not match are left out; deletes never are.
    #[param(required = false, example = r#"{"year": {"$gte": 2020}}"#)]
    filter: String,
    #[param(required = false, default = false)]
    include_values: bool,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Resuming {
    /// Of a stream, and ignored of a page: the id of the last event that the client had, an LSN.
    #[param(required = false, rename = "Last-Event-ID")]
    last_event_id: String,
}
