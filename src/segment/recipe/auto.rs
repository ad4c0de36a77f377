//! The choice of `auto`.

use super::Recipe;
use super::classes::product_parts;
use crate::types::Metric;

/// Under this, a scan answers in a few milliseconds, and no build pays.
const EXACT_ROWS_MAX: u64 = 10_000;

/// Chooses for this many rows in all: exact, then HNSW32, then IVF with a quantiser where HNSW's memory would exceed the budget. Gives the factory
/// string, and why, as a sentence for the index document.
pub(crate) fn pick(rows: u64, dimension: usize, metric: Metric, memory_budget_bytes: u64) -> (String, String) {
    if rows < EXACT_ROWS_MAX {
        return ("Flat".to_owned(), format!("exact: an index of fewer than {EXACT_ROWS_MAX} rows is scanned in milliseconds"));
    }
    let bytes = |factory: &str| Recipe::new(factory, metric, dimension).map_or(u64::MAX, |recipe| recipe.bytes(rows));
    let budget = mib(memory_budget_bytes);
    let hnsw = "HNSW32".to_owned();
    let hnsw_bytes = bytes(&hnsw);
    if hnsw_bytes <= memory_budget_bytes {
        return (hnsw, format!("HNSW: {rows} rows take about {} of the budget of {budget}", mib(hnsw_bytes)));
    }
    let lists = lists(rows);
    let scalar = format!("IVF{lists},SQ8");
    let product = format!("IVF{lists},PQ{}", product_parts(dimension));
    let (scalar_bytes, product_bytes) = (bytes(&scalar), bytes(&product));
    // The tables of a product quantiser can be larger than what it saves.
    let (factory, what, taken) = if scalar_bytes <= memory_budget_bytes.max(product_bytes) {
        (scalar, "a byte a float", scalar_bytes)
    } else {
        (product, "a product quantiser", product_bytes)
    };
    let why = format!("IVF and {what}, about {}: HNSW would take {} of a budget of {budget}", mib(taken), mib(hnsw_bytes));
    (factory, why)
}

/// The power of two under four times the root, which FAISS advises, but with enough rows to each list.
fn lists(rows: u64) -> u64 {
    let wanted = rows.isqrt() * 4;
    let most = (rows / 64).max(1);
    1 << wanted.min(most).clamp(1, 1 << 16).ilog2()
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
