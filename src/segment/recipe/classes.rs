//! FAISS class names, and the factory strings that they stand for.

use super::{ALL_METRICS, refused};
use crate::error::{Result, quoted};
use crate::types::Metric;

/// What a class name stands for.
pub(super) struct Class {
    pub(super) factory: String,
    /// That go with it; the first is the one it implies.
    pub(super) metrics: &'static [Metric],
}

/// Where a name leaves the number open: links of a graph's row, and lists of an IVF index, as most of FAISS's examples have them.
const LINKS: u32 = 32;
const LISTS: u32 = 256;

/// Parts of a product quantiser at most where the name leaves them open.
const PARTS_MAX: usize = 64;

/// The class that a name means; `None` where it is no class name, but perhaps a factory string.
///
/// # Errors
/// [`crate::Error::Invalid`] where FAISS has such a class and this server does not.
pub(super) fn find(name: &str, dimension: usize) -> Result<Option<Class>> {
    let Some(rest) = name.strip_prefix("Index") else { return Ok(None) };
    let parts = product_parts(dimension);
    // Eight bytes a row, whatever the dimension: what an additive quantiser is for.
    let (residual, product_residual) = ("RQ8x8", product_additive("PRQ", dimension));
    let (local, product_local) = ("LSQ8x8", product_additive("PLSQ", dimension));
    let factory = match rest {
        "Flat" | "FlatL2" | "FlatIP" => "Flat".to_owned(),
        "HNSW" | "HNSWFlat" => format!("HNSW{LINKS}"),
        "HNSWSQ" => format!("HNSW{LINKS},SQ8"),
        "HNSWPQ" => format!("HNSW{LINKS},PQ{parts}"),
        "NSG" | "NSGFlat" => format!("NSG{LINKS}"),
        "NSGSQ" => format!("NSG{LINKS},SQ8"),
        "NSGPQ" => format!("NSG{LINKS},PQ{parts}"),
        "IVFFlat" => format!("IVF{LISTS},Flat"),
        "IVFPQ" => format!("IVF{LISTS},PQ{parts}"),
        "IVFPQFastScan" => format!("IVF{LISTS},PQ{parts}x4fs"),
        "IVFScalarQuantizer" => format!("IVF{LISTS},SQ8"),
        "IVFRaBitQ" => format!("IVF{LISTS},RaBitQ"),
        "IVFResidualQuantizer" => format!("IVF{LISTS},{residual}"),
        "IVFLocalSearchQuantizer" => format!("IVF{LISTS},{local}"),
        "IVFProductResidualQuantizer" => format!("IVF{LISTS},{product_residual}"),
        "IVFProductLocalSearchQuantizer" => format!("IVF{LISTS},{product_local}"),
        "PQ" => format!("PQ{parts}"),
        "PQFastScan" => format!("PQ{parts}x4fs"),
        "ScalarQuantizer" => "SQ8".to_owned(),
        "LSH" => "LSH".to_owned(),
        "RaBitQ" => "RaBitQ".to_owned(),
        "ResidualQuantizer" => residual.to_owned(),
        "LocalSearchQuantizer" => local.to_owned(),
        "ProductResidualQuantizer" => product_residual,
        "ProductLocalSearchQuantizer" => product_local,
        _ => return Err(refused("unsupported_index_type", format!("{} is not supported: {}", quoted(name), why_not(rest)))),
    };
    let metrics: &'static [Metric] = match rest {
        "FlatL2" => &[Metric::L2],
        // The cosine is the inner product of normalised vectors.
        "FlatIP" => &[Metric::InnerProduct, Metric::Cosine],
        _ => ALL_METRICS,
    };
    Ok(Some(Class { factory, metrics }))
}

fn why_not(rest: &str) -> &'static str {
    if rest.starts_with("Binary") {
        "vectors here are floats"
    } else if rest.starts_with("IDMap") {
        "every index here has ids of its own, and any string may be one"
    } else if rest.starts_with("Refine") {
        "results of quantised types are ranked again by the raw vectors as it is (params.rescore)"
    } else if rest.starts_with("PreTransform") {
        "name the transform in a factory string, as in \"OPQ16,IVF256,PQ16\""
    } else if rest.starts_with("Shards") || rest.starts_with("Replicas") {
        "this server makes segments by itself"
    } else {
        "it is none of the float indexes of FAISS that can be searched and stored; docs/index-types.md lists those"
    }
}

/// The largest divisor of the dimension that leaves at least four floats to a part, and is at most 64; at least 1.
pub(super) fn product_parts(dimension: usize) -> usize {
    (1..=PARTS_MAX.min(dimension / 4)).rev().find(|parts| dimension.is_multiple_of(*parts)).unwrap_or(1)
}

/// Two splits of four steps where the dimension is even, else one of eight.
fn product_additive(kind: &str, dimension: usize) -> String {
    if dimension.is_multiple_of(2) { format!("{kind}2x4x8") } else { format!("{kind}1x8x8") }
}
