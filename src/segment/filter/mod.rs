//! Filters over metadata: which points a search, a count or a delete is about. `docs/filters.md` has the semantics, and each row of its table
//! is a test.

mod evaluate;
pub(crate) mod fields;
mod json;
mod parse;
mod postings;
mod row_set;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::error::Result;
use json::{Json, Number};

/// Bytes of a filter's JSON text.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Tests of a field in one filter; a list of values is one.
const TESTS_MAX: usize = 256;

/// Levels of one filter: `{"a": 1}` has one, and each `$and`, `$or`, `$not` and object of operators adds one. Bounds the stack of whoever
/// evaluates it.
const DEPTH_MAX: usize = 16;

/// A condition on a point's metadata.
///
/// The language is the one that users of `MongoDB`, Pinecone and Chroma know: `{"field": value}` for equality, operators (`$eq $ne $in $nin $gt $gte
/// $lt $lte $exists $contains`) under a field, `$and $or $not` around filters, and dotted paths. `{}` matches every point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filter {
    expression: Expression,
    /// Fields at the top of the metadata that any path begins with: all that is read of it.
    roots: Vec<String>,
}

/// `$ne`, `$nin` and `$exists: false` are negations of tests: a field that is absent meets no test, and so each negation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Expression {
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Not(Box<Expression>),
    Test(Path, Test),
}

/// The values that a test looks at: those under the field that is called so, and those that the dots lead to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Path {
    text: String,
    /// Which of the filter's roots is the whole text.
    whole: usize,
    /// Which of the roots comes before the first dot, and the keys after it.
    nested: Option<(usize, Vec<String>)>,
}

/// What one of the values at a path must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Exists,
    /// One of these, or an array with one of these in it.
    In(BTreeSet<Json>),
    /// A number, or an array with a number in it, that compares so.
    Compare(Comparison, Number),
    /// A string with this one in it, or an array with this in it.
    Contains(Json),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Comparison {
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

impl Filter {
    /// Parses the JSON text of a filter.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) naming `filter`, and in its sentence the operator and the path: an unknown operator, an operand of the wrong type, or
    /// more bytes (1 MiB), tests (256) or levels (16) than a filter has.
    pub fn parse(json: &str) -> Result<Self> {
        parse::parse(json)
    }

    /// The filter that every point matches: `{}`.
    pub fn all() -> Self {
        Self { expression: Expression::All(Vec::new()), roots: Vec::new() }
    }

    /// Whether every point matches.
    pub(crate) fn is_all(&self) -> bool {
        self.expression == Expression::All(Vec::new())
    }

    /// Whether this metadata, the JSON text of an object, meets the condition. Reads only the fields that it needs.
    pub(crate) fn matches(&self, metadata: &[u8]) -> bool {
        // Metadata was checked when it was stored; text that does not parse after all has no fields.
        evaluate::matches(self, metadata)
    }
}
