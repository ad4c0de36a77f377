//! Whether a point's metadata meets a filter: the meaning of the language, row by row.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::Json;
use super::{Comparison, Expression, Filter, Path, Test};

/// Metadata is refused where it is deeper, when it is stored (`Limits::metadata_depth_max` may be less).
const METADATA_DEPTH_MAX: usize = 128;

pub(super) fn matches(filter: &Filter, metadata: &[u8]) -> bool {
    if filter.roots.is_empty() {
        return holds(&filter.expression, &[]);
    }
    let mut json = serde_json::Deserializer::from_slice(metadata);
    let fields = Roots(&filter.roots).deserialize(&mut json).unwrap_or_default();
    holds(&filter.expression, &fields)
}

/// `fields`: of each root what the metadata has under it.
fn holds(expression: &Expression, fields: &[Option<Json>]) -> bool {
    match expression {
        Expression::All(all) => all.iter().all(|one| holds(one, fields)),
        Expression::Any(any) => any.iter().any(|one| holds(one, fields)),
        Expression::Not(not) => !holds(not, fields),
        Expression::Test(path, test) => path.any(fields, &|value| test.is_met_by(value)),
    }
}

impl Path {
    fn any(&self, fields: &[Option<Json>], test: &dyn Fn(&Json) -> bool) -> bool {
        let root = |at: usize| fields.get(at).and_then(Option::as_ref);
        root(self.whole).is_some_and(test)
            || self.nested.as_ref().is_some_and(|(at, keys)| root(*at).is_some_and(|value| any_below(value, keys, test)))
    }
}

/// Follows the keys, through each object of an array where there is one.
fn any_below(value: &Json, keys: &[String], test: &dyn Fn(&Json) -> bool) -> bool {
    let Some((key, rest)) = keys.split_first() else { return test(value) };
    let step = |value: &Json| match value {
        Json::Object(fields) => fields.get(key).is_some_and(|value| any_below(value, rest, test)),
        _ => false,
    };
    match value {
        Json::Array(elements) => elements.iter().any(step),
        _ => step(value),
    }
}

impl Test {
    fn is_met_by(&self, value: &Json) -> bool {
        match self {
            Self::Exists => true,
            Self::In(values) => value.is_or_has_one_of(values),
            Self::Compare(comparison, wanted) => value.any_number(|number| comparison.takes(number.cmp(wanted))),
            Self::Contains(wanted) => value.contains(wanted),
        }
    }
}

impl Comparison {
    fn takes(self, ordering: Ordering) -> bool {
        match self {
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
        }
    }
}

/// Reads the fields of these names from the top of an object, and skips the others.
struct Roots<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Roots<'_> {
    type Value = Vec<Option<Json>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Roots<'_> {
    type Value = Vec<Option<Json>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = vec![None; self.0.len()];
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match self.0.iter().position(|root| *root == key) {
                // A field that comes twice has its last value, as in most JSON readers.
                Some(at) => fields[at] = Json::read(map.next_value::<&RawValue>()?, METADATA_DEPTH_MAX),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(fields)
    }
}
