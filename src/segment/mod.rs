//! Rows: where vectors, ids and metadata are kept and scanned.

pub mod filter;
