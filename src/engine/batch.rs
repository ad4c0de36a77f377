//! Points on their way in: validated one by one, and laid out as the log will have them.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::IgnoredAny;

use crate::config::Limits;
use crate::error::{Error, Result};
use crate::format::codec;
use crate::segment::norm;
use crate::types::{Condition, Metric};
use crate::wal::operation::{Operation, Upsert};

/// Points that will be stored together.
#[derive(Clone, Debug)]
pub struct Batch {
    limits: Arc<Limits>,
    dimension: usize,
    metric: Metric,
    count: usize,
    texts: Vec<u8>,
    vectors: Vec<f32>,
    /// One for each point; empty where none has any.
    conditions: Vec<Condition>,
}

impl Batch {
    /// An empty batch for an index that need not be there yet; [`Index::batch`](crate::Index::batch) makes one for an index that is.
    pub fn new(limits: Arc<Limits>, dimension: usize, metric: Metric) -> Self {
        Self { limits, dimension, metric, count: 0, texts: Vec::new(), vectors: Vec::new(), conditions: Vec::new() }
    }

    /// Adds a point. `metadata` is the JSON text of an object, stored as it is but for the white space around it; an id that is in the batch already is replaced by this one.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `id`, `values`, `metadata` or `vectors`, and the batch is as before. Its `code` is `invalid_id`,
    /// `wrong_dimension`, `not_finite`, `zero_vector`, `invalid_metadata`, `metadata_too_large`, `metadata_too_deep` or
    /// `batch_too_large`.
    pub fn push(&mut self, id: &str, values: &[f32], metadata: &str) -> Result<()> {
        self.push_if(id, values, metadata, Condition::Always)
    }

    /// Adds a point that is stored only where `condition` holds of what is stored under its id at its turn: what comes before it, in this batch
    /// too, has been done by then.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_if(&mut self, id: &str, values: &[f32], metadata: &str, condition: Condition) -> Result<()> {
        if self.is_full() {
            let detail = format!("a batch has at most {} points", self.limits.batch_points_max);
            return Err(Error::invalid("vectors", "batch_too_large", detail));
        }
        check_id(id, &self.limits)?;
        check_vector("values", values, self.dimension, self.metric)?;
        let metadata = metadata.trim_ascii();
        check_metadata(metadata, &self.limits)?;
        codec::encode_into(id, &mut self.texts);
        codec::encode_into(metadata, &mut self.texts);
        self.vectors.extend_from_slice(values);
        if condition != Condition::Always || !self.conditions.is_empty() {
            self.conditions.resize(self.count, Condition::Always);
            self.conditions.push(condition);
        }
        self.count += 1;
        Ok(())
    }

    /// Makes room for this many more points.
    pub fn reserve(&mut self, points: usize) {
        self.vectors.reserve(points.min(self.limits.batch_points_max) * self.dimension);
    }

    /// Points in it; an id that was pushed twice counts twice here.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it takes no more points.
    pub fn is_full(&self) -> bool {
        self.count == self.limits.batch_points_max
    }

    /// Whether it was validated for an index like this.
    pub(super) fn is_for(&self, limits: &Arc<Limits>, dimension: usize, metric: Metric) -> bool {
        let same_limits = Arc::ptr_eq(&self.limits, limits) || self.limits == *limits;
        self.dimension == dimension && self.metric == metric && same_limits
    }

    /// The most bytes that it takes in the log.
    pub fn log_bytes(&self) -> usize {
        /// Tag, length, count and dimension, at their longest.
        const HEAD_BYTES: usize = 5 + 5 + 5;
        HEAD_BYTES + self.texts.len() + self.vectors.len() * 4
    }

    pub(super) fn operation(&self) -> Operation<'_> {
        Operation::Upsert(self.upsert())
    }

    /// The operation of those of its points at whose positions `keeps` says so.
    pub(super) fn operation_of(&self, keeps: impl Fn(usize) -> bool) -> Operation<'_> {
        let (mut count, mut texts, mut vectors) = (0, Vec::new(), Vec::new());
        for (_, (id, metadata, vector)) in self.points().enumerate().filter(|&(at, _)| keeps(at)) {
            codec::encode_into((id, metadata), &mut texts);
            vectors.extend_from_slice(vector);
            count += 1;
        }
        Operation::Upsert(Upsert { count, texts: texts.into(), vectors: vectors.into(), ..self.upsert() })
    }

    pub(super) fn is_unconditional(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The condition of each point.
    pub(super) fn conditions(&self) -> impl Iterator<Item = Condition> {
        (0..self.count).map(|at| self.conditions.get(at).copied().unwrap_or_default())
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.points().map(|(id, ..)| id)
    }

    /// Id, metadata and vector of each point.
    pub fn points(&self) -> impl Iterator<Item = (&str, &str, &[f32])> {
        let mut rest = &self.texts[..];
        self.vectors.chunks_exact(self.dimension).map(move |vector| {
            let ((id, metadata), after) = codec::decode::<(&str, &str)>(rest).expect("written by push");
            rest = after;
            (id, metadata, vector)
        })
    }

    fn upsert(&self) -> Upsert<'_> {
        Upsert {
            count: u32::try_from(self.count).expect("batches are bounded"),
            dimension: u32::try_from(self.dimension).expect("dimensions are bounded"),
            texts: Cow::Borrowed(&self.texts),
            vectors: Cow::Borrowed(&self.vectors),
        }
    }
}

/// # Errors
/// [`Error::Invalid`] naming `id` where it is empty or too long.
pub(super) fn check_id(id: &str, limits: &Limits) -> Result<()> {
    if id.is_empty() || id.len() > limits.id_bytes_max {
        let detail = format!("an id has 1 to {} bytes; this one has {}", limits.id_bytes_max, id.len());
        return Err(Error::invalid("id", "invalid_id", detail));
    }
    Ok(())
}

/// Gives the squared norm.
///
/// # Errors
/// [`Error::Invalid`] naming `field` where the vector has not `dimension` floats, one of them is not finite, or the metric wants a
/// direction and it has none.
pub(super) fn check_vector(field: &'static str, values: &[f32], dimension: usize, metric: Metric) -> Result<f64> {
    if values.len() != dimension {
        let detail = format!("this index has vectors of {dimension} values; this one has {}", values.len());
        return Err(Error::invalid(field, "wrong_dimension", detail));
    }
    let squared_norm = norm::squared_norm(values);
    if !squared_norm.is_finite() {
        let at = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
        let detail = format!("the value at position {at} is not a finite 32-bit float");
        return Err(Error::invalid(field, "not_finite", detail));
    }
    if metric == Metric::Cosine && squared_norm == 0.0 {
        return Err(Error::invalid(
            field,
            "zero_vector",
            "a zero vector has no direction, and the metric of this index is cosine",
        ));
    }
    Ok(squared_norm)
}

/// # Errors
/// [`Error::Invalid`] naming `metadata` where it is no object, too long or too deep.
pub(super) fn check_metadata(text: &str, limits: &Limits) -> Result<()> {
    if text == "{}" {
        return Ok(());
    }
    if text.len() > limits.metadata_bytes_max {
        let detail = format!("metadata has at most {} bytes; this has {}", limits.metadata_bytes_max, text.len());
        return Err(Error::invalid("metadata", "metadata_too_large", detail));
    }
    if !text.starts_with('{') {
        return Err(Error::invalid("metadata", "invalid_metadata", "metadata is a JSON object"));
    }
    // serde_json skips values without recursion: depth is no danger here, and is bounded for those who will parse it.
    serde_json::from_str::<IgnoredAny>(text)
        .map_err(|error| Error::invalid("metadata", "invalid_metadata", format!("metadata is a JSON object: {error}")))?;
    let depth = json_depth(text);
    if depth > limits.metadata_depth_max {
        let detail = format!("metadata nests at most {} deep; this nests {depth} deep", limits.metadata_depth_max);
        return Err(Error::invalid("metadata", "metadata_too_deep", detail));
    }
    Ok(())
}

/// How deep objects and arrays nest in a valid JSON text.
fn json_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => drop(bytes.next()),
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(metric: Metric) -> Batch {
        Batch::new(Arc::new(Limits { batch_points_max: 3, ..Limits::default() }), 2, metric)
    }

    #[track_caller]
    fn refuses(batch: &mut Batch, id: &str, values: &[f32], metadata: &str, expected_field: &str, expected_code: &str) {
        let before = batch.clone();
        match batch.push(id, values, metadata) {
            Err(Error::Invalid { field, code, .. }) => assert_eq!((&*field, code), (expected_field, expected_code)),
            other => panic!("{other:?}"),
        }
        assert_eq!((batch.count, &batch.texts, &batch.vectors), (before.count, &before.texts, &before.vectors));
    }

    #[test]
    fn a_refused_point_names_its_field_and_leaves_the_batch_as_it_was() {
        let mut batch = batch(Metric::Cosine);
        batch.push("kept", &[1.0, 2.0], "{}").unwrap();
        refuses(&mut batch, "", &[1.0, 2.0], "{}", "id", "invalid_id");
        refuses(&mut batch, &"x".repeat(513), &[1.0, 2.0], "{}", "id", "invalid_id");
        refuses(&mut batch, "a", &[1.0], "{}", "values", "wrong_dimension");
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            refuses(&mut batch, "a", &[1.0, odd], "{}", "values", "not_finite");
        }
        refuses(&mut batch, "a", &[0.0, -0.0], "{}", "values", "zero_vector");
        for text in ["", "[]", "1", "{", "{}x", "{\"a\":}", "{a:1}", "null"] {
            refuses(&mut batch, "a", &[1.0, 2.0], text, "metadata", "invalid_metadata");
        }
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(64 << 10));
        refuses(&mut batch, "a", &[1.0, 2.0], &large, "metadata", "metadata_too_large");
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(32), "]".repeat(32));
        refuses(&mut batch, "a", &[1.0, 2.0], &deep, "metadata", "metadata_too_deep");
        batch.push("b", &[1.0, 2.0], "{}").unwrap();
        batch.push("c", &[1.0, 2.0], "{}").unwrap();
        refuses(&mut batch, "d", &[1.0, 2.0], "{}", "vectors", "batch_too_large");
        assert_eq!(batch.ids().collect::<Vec<_>>(), ["kept", "b", "c"]);
    }

    #[test]
    fn brackets_in_strings_are_not_depth() {
        assert_eq!(json_depth(r#"{"a":"[[[\"[[","b":[{}]}"#), 3);
        let deepest = format!("{{\"a\":{}{}}}", "[".repeat(31), "]".repeat(31));
        batch(Metric::L2).push("a", &[0.0, 0.0], &deepest).unwrap();
    }
}
