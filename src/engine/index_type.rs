//! From what a client calls an index type to a FAISS factory string and a metric.

use crate::error::{Error, Result};
use crate::types::Metric;

/// What an index type resolved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// FAISS factory string.
    pub(crate) factory: &'static str,
    pub(crate) metric: Metric,
}

/// Resolves `IndexFlatL2`, `IndexFlatIP`, `IndexFlat` and `Flat`, with the metric that was asked for.
///
/// `IndexFlatIP` goes with the metric `cosine` too: it is the inner product of normalised vectors.
///
/// # Errors
/// [`Error::Invalid`] naming `index_type` where this version does not have it, or `metric` where the two do not fit.
pub(crate) fn resolve(index_type: &str, metric: Option<Metric>) -> Result<Resolved> {
    let (allowed, implied): (&[Metric], _) = match index_type {
        "IndexFlatL2" => (&[Metric::L2], Metric::L2),
        "IndexFlatIP" => (&[Metric::InnerProduct, Metric::Cosine], Metric::InnerProduct),
        "IndexFlat" | "Flat" => (&[Metric::L2, Metric::InnerProduct, Metric::Cosine], Metric::L2),
        _ => {
            return Err(Error::invalid(
                "index_type",
                "unsupported_index_type",
                format!(
                    "{index_type:?} is not supported: this version searches exactly, with IndexFlatL2, IndexFlatIP, IndexFlat or Flat; \
                     other FAISS types come with a later version"
                ),
            ));
        }
    };
    let metric = metric.unwrap_or(implied);
    if allowed.contains(&metric) {
        Ok(Resolved { factory: "Flat", metric })
    } else {
        let detail = format!("{index_type} does not go with metric {:?}; use index_type \"Flat\"", metric.as_str());
        Err(Error::invalid("metric", "invalid_metric", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_types_resolve_and_others_are_refused_by_name() {
        let metric = |index_type, metric| resolve(index_type, metric).map(|resolved| resolved.metric).map_err(|e| e.to_string());
        assert_eq!(metric("IndexFlatL2", None), Ok(Metric::L2));
        assert_eq!(metric("IndexFlatIP", None), Ok(Metric::InnerProduct));
        assert_eq!(metric("IndexFlatIP", Some(Metric::Cosine)), Ok(Metric::Cosine));
        assert_eq!(metric("Flat", Some(Metric::Cosine)), Ok(Metric::Cosine));
        assert!(metric("IndexFlatL2", Some(Metric::Cosine)).is_err_and(|e| e.starts_with("metric: ")));
        assert!(metric("HNSW32", None).is_err_and(|e| e.starts_with("index_type: ") && e.contains("HNSW32")));
    }
}
