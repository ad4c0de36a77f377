//! Index types: from what a client calls one to a FAISS factory string, and what is known of each.
//!
//! `docs/index-types.md` has the rules and the table.

mod auto;
mod classes;
mod grammar;
mod size;

#[cfg(test)]
mod tests;

pub(crate) use auto::pick;

use grammar::{Code, Core, Scalar, Shape, Tree};

use super::ann::Tuning;
use super::faiss::{Index, SearchKind};
use crate::config::{EF_MAX, UNINDEXED_BYTES_MAX, UNINDEXED_MAX};
use crate::error::{Error, Result, quoted};
use crate::types::{IndexOptions, Metric};

/// What stands for "the server chooses", in any case.
pub(crate) const AUTO: &str = "auto";

/// Candidates during a search of HNSW, where nobody says otherwise; also of NSG, whose build takes it.
const EF_DEFAULT: u32 = 64;

/// As FAISS.
pub(crate) const EF_CONSTRUCTION_DEFAULT: u32 = 40;
const EF_CONSTRUCTION_MAX: u32 = 1 << 12;

/// What an index type resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// FAISS factory string, as the index document shows it, or [`AUTO`].
    pub(crate) factory: String,
    pub(crate) metric: Metric,
}

/// Resolves a FAISS class name, a factory string or [`AUTO`], with the metric and the options that were asked for, at `dimension`; no segment
/// will ever have more than `segment_rows_max` rows.
///
/// # Errors
/// [`Error::Invalid`] naming `index_type`, `metric` or the option: what cannot be built, searched or trained, and what would take absurdly much.
pub(crate) fn resolve(
    index_type: &str,
    metric: Option<Metric>,
    dimension: usize,
    options: &IndexOptions,
    segment_rows_max: u64,
) -> Result<Resolved> {
    if index_type.eq_ignore_ascii_case(AUTO) {
        check_options(options, None)?;
        return Ok(Resolved { factory: AUTO.to_owned(), metric: metric.unwrap_or(Metric::L2) });
    }
    let class = classes::find(index_type, dimension)?;
    let (allowed, implied) = class.as_ref().map_or((ALL_METRICS, Metric::L2), |class| (class.metrics, class.metrics[0]));
    let metric = metric.unwrap_or(implied);
    if !allowed.contains(&metric) {
        let detail = format!("{index_type} does not go with metric {:?}; use index_type \"Flat\"", metric.as_str());
        return Err(Error::invalid("metric", "invalid_metric", detail));
    }
    let factory = class.map_or_else(|| index_type.to_owned(), |class| class.factory);
    let recipe = Recipe::new(&factory, metric, dimension)?;
    let rows_max = options.seal_rows.map_or(segment_rows_max, |rows| segment_rows_max.min(rows.into()));
    if recipe.train_rows_min() > rows_max {
        let detail = format!(
            "{} needs {} rows to be built from, and a segment will have {rows_max} at most",
            recipe.factory(),
            recipe.train_rows_min()
        );
        return Err(refused("too_many_training_rows", detail));
    }
    check_options(options, Some(&recipe))?;
    Ok(Resolved { factory: recipe.factory, metric })
}

const ALL_METRICS: &[Metric] = &[Metric::L2, Metric::InnerProduct, Metric::Cosine];

fn refused(code: &'static str, detail: impl Into<String>) -> Error {
    Error::invalid("index_type", code, detail)
}

/// `recipe`: what the index will be; `None` where that is not known yet.
fn check_options(options: &IndexOptions, recipe: Option<&Recipe>) -> Result<()> {
    let invalid = |field, detail: String| Err(Error::invalid(field, "invalid_option", detail));
    let range = |field, value: Option<u32>, min: u32, max: u32| match value {
        Some(value) if !(min..=max).contains(&value) => invalid(field, format!("{value} is not in {min} to {max}")),
        _ => Ok(()),
    };
    range("options.ef_construction", options.ef_construction, 4, EF_CONSTRUCTION_MAX)?;
    range("options.ef_search", options.ef_search, 1, EF_MAX)?;
    range("options.nprobe", options.nprobe, 1, recipe.map_or(u32::MAX, |recipe| recipe.lists().unwrap_or(u32::MAX)))?;
    range("options.seal_rows", options.seal_rows, 1, u32::MAX)?;
    if options.min_recall.is_some_and(|recall| !(0.0..=1.0).contains(&recall)) {
        return invalid("options.min_recall", "it is not in 0 to 1".to_owned());
    }
    if options.compact_dead_share.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
        return invalid("options.compact_dead_share", "it is not above 0 and at most 1".to_owned());
    }
    if options.unindexed.len() > UNINDEXED_MAX {
        return invalid("options.unindexed", format!("it has at most {UNINDEXED_MAX} paths"));
    }
    if let Some(path) = options.unindexed.iter().find(|path| !(1..=UNINDEXED_BYTES_MAX).contains(&path.len())) {
        return invalid("options.unindexed", format!("{} is not of 1 to {UNINDEXED_BYTES_MAX} bytes", quoted(path)));
    }
    let Some(recipe) = recipe else { return Ok(()) };
    let meaningless = |what: &str| format!("{} has no {what}", recipe.factory());
    if options.ef_construction.is_some() && !recipe.has_ef() {
        return invalid("options.ef_construction", meaningless("HNSW graph"));
    }
    if options.ef_search.is_some() && !recipe.has_ef() {
        return invalid("options.ef_search", meaningless("HNSW graph"));
    }
    if options.nprobe.is_some() && !recipe.has_nprobe() {
        return invalid("options.nprobe", meaningless("lists (IVF)"));
    }
    Ok(())
}

/// One concrete factory string at one dimension and metric, which FAISS takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Recipe {
    factory: String,
    /// With the transforms of ours, as FAISS gets it.
    native: String,
    tree: Tree,
    metric: Metric,
    dimension: usize,
}

impl Recipe {
    /// # Errors
    /// As [`resolve`], of which this is the part for a factory string.
    pub(crate) fn new(factory: &str, metric: Metric, dimension: usize) -> Result<Self> {
        let recipe = Self::read(factory, metric, dimension)?;
        // FAISS is not used for it.
        if recipe.is_exact() {
            return Ok(recipe);
        }
        let index =
            recipe.index().map_err(|why| refused("invalid_index_type", format!("FAISS refuses {}: {why}", recipe.factory)))?;
        // What FAISS makes of a string is not always what was asked for: it takes a metric for some types and passes over it.
        if index.is_inner_product() == recipe.is_inner_product() {
            Ok(recipe)
        } else {
            let detail = format!("FAISS has no {} for metric {:?}", recipe.factory, metric.as_str());
            Err(Error::invalid("metric", "invalid_metric", detail))
        }
    }

    /// All that can be said before FAISS is asked. Allocates no more than a small multiple of the text.
    ///
    /// # Errors
    /// As [`new`](Self::new), but for what only FAISS refuses.
    pub(crate) fn read(factory: &str, metric: Metric, dimension: usize) -> Result<Self> {
        let tree =
            Tree::parse(factory).map_err(|why| refused("unsupported_index_type", format!("{}: {why}", quoted(factory))))?;
        tree.check(dimension as u64).map_err(|why| refused("invalid_index_type", format!("{tree}: {why}")))?;
        let recipe = Self { factory: tree.to_string(), native: native(&tree, metric, dimension), tree, metric, dimension };
        if metric == Metric::InnerProduct && recipe.is_l2_only() {
            let detail = format!("FAISS has {} for L2 only, which serves metrics l2 and cosine", recipe.factory);
            return Err(Error::invalid("metric", "invalid_metric", detail));
        }
        Ok(recipe)
    }

    /// As the index document shows it.
    pub(crate) fn factory(&self) -> &str {
        &self.factory
    }

    pub(crate) fn metric(&self) -> Metric {
        self.metric
    }

    /// An empty index of FAISS.
    pub(super) fn index(&self) -> Result<Index, String> {
        Index::new(&self.native, self.dimension, self.is_inner_product())
    }

    /// Nothing to build: rows are scanned as they are.
    pub(crate) fn is_exact(&self) -> bool {
        self.tree.transforms.is_empty() && self.tree.shape == Shape::Scan && self.tree.code == Code::Flat
    }

    /// Rows without which FAISS refuses to train or to build; 0 where it takes any number.
    pub(crate) fn train_rows_min(&self) -> u64 {
        self.tree.train_rows_min()
    }

    /// Rows that FAISS wants for a good index: 39 for each centre.
    pub(crate) fn train_rows_advised(&self) -> u64 {
        self.tree.train_rows_advised(self.dimension as u64)
    }

    /// Centres of the largest clustering that is trained; 0 without one.
    pub(super) fn is_ivf(&self) -> bool {
        self.lists().is_some()
    }

    /// It keeps codes and no floats, or floats of other vectors: distances come from the raw rows.
    pub(crate) fn is_quantised(&self) -> bool {
        self.tree.code != Code::Flat || !self.tree.transforms.is_empty()
    }

    /// Whether sums over rows, or over codebooks, are taken in f32 on the way: large vectors would overflow them.
    pub(super) fn is_summing(&self) -> bool {
        self.is_quantised() || self.is_ivf() || self.is_nsg()
    }

    /// Whether FAISS leaves hidden rows out by itself; it throws at a selector where not.
    pub(crate) fn takes_selector(&self) -> bool {
        match (self.tree.shape, self.tree.code) {
            (Shape::Hnsw { .. }, _) => true,
            (Shape::Nsg { .. }, _) => false,
            (Shape::Ivf { .. }, code) => !matches!(code, Code::Additive { .. }),
            (Shape::Scan, code) => matches!(code, Code::Flat | Code::Scalar(_) | Code::RaBitQ),
        }
    }

    /// Whether a search takes `ef`.
    pub(crate) fn has_ef(&self) -> bool {
        matches!(self.tree.shape, Shape::Hnsw { .. })
    }

    /// Whether a search takes `nprobe`.
    pub(crate) fn has_nprobe(&self) -> bool {
        self.is_ivf()
    }

    /// Lists of an IVF index.
    pub(crate) fn lists(&self) -> Option<u32> {
        if let Shape::Ivf { lists, .. } = self.tree.shape { Some(lists) } else { None }
    }

    pub(super) fn is_nsg(&self) -> bool {
        matches!(self.tree.shape, Shape::Nsg { .. })
    }

    /// Rows are linked to each other.
    pub(super) fn is_graph(&self) -> bool {
        self.tree.is_graph()
    }

    /// A graph over flat storage: FAISS reads its floats one row at a time, wherever they are.
    pub(super) fn is_flat_graph(&self) -> bool {
        self.tree.is_graph() && self.tree.code == Code::Flat
    }

    /// The same where what FAISS sees are the raw vectors.
    pub(super) fn is_over_raw_rows(&self) -> bool {
        self.is_flat_graph() && self.tree.transforms.is_empty() && self.metric != Metric::Cosine
    }

    /// What a search hands to FAISS.
    pub(super) fn kind(&self, ef: u32, nprobe: u32) -> SearchKind {
        match self.tree.shape {
            Shape::Hnsw { .. } => SearchKind::Hnsw { ef },
            Shape::Ivf { graph: None, .. } => SearchKind::Ivf { nprobe },
            // The graph over the centres is small: that it misses some of the nearest lists must not be what costs recall.
            Shape::Ivf { graph: Some(_), .. } => SearchKind::IvfByGraph { nprobe, ef: nprobe.saturating_mul(2).max(EF_DEFAULT) },
            _ if self.takes_selector() => SearchKind::Selected,
            _ => SearchKind::Bare,
        }
    }

    /// What a search takes where it does not say, before a build measures whether that is enough.
    pub(crate) fn tuning(&self, options: &IndexOptions) -> Tuning {
        let ef = match self.tree.shape {
            Shape::Hnsw { .. } | Shape::Nsg { .. } => options.ef_search.unwrap_or(EF_DEFAULT),
            _ => 0,
        };
        let nprobe = self.lists().map_or(0, |lists| options.nprobe.unwrap_or((lists / 16).max(8)).min(lists));
        Tuning { ef, nprobe, overfetch: self.overfetch() }
    }

    /// Candidates of a quantised index for each result that is wanted.
    fn overfetch(&self) -> u32 {
        match self.tree.code {
            Code::Flat => u32::from(!self.tree.transforms.is_empty()) + 1,
            Code::Scalar(Scalar::Fp16 | Scalar::Bf16 | Scalar::Bits8) => 2,
            Code::Scalar(_) => 3,
            Code::Additive { .. } | Code::Product { .. } | Code::ProductFastScan { .. } => 8,
            Code::RaBitQ | Code::Lsh { .. } => 16,
        }
    }

    /// Estimated bytes in memory for this many rows, the raw vectors included where a search reads them.
    pub(crate) fn bytes(&self, rows: u64) -> u64 {
        self.tree.bytes(self.dimension as u64, rows)
    }

    /// FAISS's own metric for the index.
    pub(super) fn is_inner_product(&self) -> bool {
        self.metric != Metric::L2 && !self.is_l2_only()
    }

    /// FAISS has the type for L2 alone. Of unit vectors, that orders as the cosine does.
    fn is_l2_only(&self) -> bool {
        matches!(
            (self.tree.shape, self.tree.code),
            (Shape::Hnsw { .. } | Shape::Nsg { .. }, Code::Product { .. }) | (_, Code::Lsh { .. })
        )
    }
}

/// The factory string with our transforms: normalisation before all others, padding behind them.
fn native(tree: &Tree, metric: Metric, dimension: usize) -> String {
    let mut text = String::new();
    if metric == Metric::Cosine {
        text.push_str("L2norm,");
    }
    for transform in &tree.transforms {
        text.push_str(&format!("{transform},"));
    }
    if let Some(padded) = tree.padded(dimension as u64) {
        text.push_str(&format!("Pad{padded},"));
    }
    text.push_str(&Core(tree.shape, tree.code).to_string());
    text
}

impl Scalar {
    /// Bits of one float's code.
    fn bits(self) -> u64 {
        match self {
            Self::Bits4 => 4,
            Self::Bits6 => 6,
            Self::Bits8 => 8,
            Self::Fp16 | Self::Bf16 => 16,
        }
    }

    /// Whether its range is learnt from rows.
    fn is_trained(self) -> bool {
        !matches!(self, Self::Fp16 | Self::Bf16)
    }
}
