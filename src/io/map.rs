//! (being written)
pub struct Map;
