//! Schemas of what no type of ours is: it is decoded from raw text, or told by several functions. The tests of this directory, and those of
//! `tests/http/openapi.rs` with each example, keep them true.
#![expect(dead_code, reason = "only the schemas of these are used")]

use utoipa::ToSchema;

use crate::api::indices::OptionsBody;

/// A vector: an array of numbers that are finite as f32, or base64 (RFC 4648, section 4) of little-endian f32; as many as the dimension of the index.
// `decode::floats` reads it.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeOp {
    Upsert,
    Delete,
}

/// What changes of an index. What cannot change may be there too, as it is: a document that was read may be sent back.
#[derive(ToSchema)]
#[schema(example = json!({"name": "words of 2026", "options": {"ef_search": 128, "min_recall": null}}))]
pub struct IndexChange {
    #[schema(min_length = 1, max_length = 255)]
    name: Option<String>,
    /// Those that are named change; null is the default again.
    #[schema(value_type = Option<OptionsBody>)]
    options: Option<()>,
}

/// What a compaction did; with `erase=true`, what an erasure did.
#[derive(ToSchema)]
#[serde(untagged)]
pub enum Compacted {
    Compaction(crate::types::CompactReport),
    Erasure(crate::types::EraseReport),
}
