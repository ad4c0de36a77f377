//! The equality filter of a search: `{field: value, …}`, all of which must hold.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result, quoted};

/// Conditions in one filter.
const CONDITIONS_MAX: usize = 64;

/// Bytes of a filter's JSON text.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Field-equals-value conditions, all of which a point's metadata must meet. None: every point matches.
///
/// A field that is absent matches nothing. 1 equals 1.0; `true` is not 1. Where the metadata holds an array and the condition does not, any
/// element may be equal. Fields are those at the top of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    conditions: Vec<(String, Value)>,
}

impl Filter {
    /// Parses the JSON text of an object `{field: value, …}`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `filter` where it is no object, is too large, or uses an operator (`$…`): there are none yet.
    pub fn parse(json: &str) -> Result<Self> {
        let invalid = |detail: String| Error::invalid("filter", "invalid_filter", detail);
        if json.len() > TEXT_BYTES_MAX {
            return Err(invalid(format!("a filter has at most {TEXT_BYTES_MAX} bytes; this one has {}", json.len())));
        }
        let fields: Map<String, Value> = serde_json::from_str(json)
            .map_err(|error| invalid(format!("a filter is an object of field: value pairs: {error}")))?;
        if fields.len() > CONDITIONS_MAX {
            return Err(invalid(format!("a filter has at most {CONDITIONS_MAX} conditions; this one has {}", fields.len())));
        }
        let keys =
            fields.iter().flat_map(|(key, value)| std::iter::once(key).chain(value.as_object().into_iter().flat_map(Map::keys)));
        if let Some(operator) = keys.into_iter().find(|key| key.starts_with('$')) {
            let operator = quoted(operator);
            return Err(invalid(format!("operator {operator} is not known: a filter compares fields with values, for equality")));
        }
        Ok(Self { conditions: fields.into_iter().collect() })
    }

    /// Whether this metadata, the JSON text of an object, meets every condition. Reads only the fields that it needs.
    pub(crate) fn matches(&self, metadata: &[u8]) -> bool {
        if self.conditions.is_empty() {
            return true;
        }
        let mut json = serde_json::Deserializer::from_slice(metadata);
        // Metadata was checked when it was stored; text that does not parse after all matches nothing.
        Conditions(&self.conditions).deserialize(&mut json).unwrap_or(false)
    }
}

struct Conditions<'a>(&'a [(String, Value)]);

impl<'de> DeserializeSeed<'de> for Conditions<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Conditions<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut met: u64 = 0;
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match self.0.iter().position(|(field, _)| *field == key) {
                // A field that comes twice has its last value, as in most JSON readers.
                Some(at) if is_equal(&map.next_value()?, &self.0[at].1) => met |= 1 << at,
                Some(at) => met &= !(1 << at),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(met.count_ones() as usize == self.0.len())
    }
}

fn is_equal(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (Value::Array(elements), Value::Array(_)) if !elements.iter().any(Value::is_array) => is_same(stored, wanted),
        (Value::Array(elements), _) => is_same(stored, wanted) || elements.iter().any(|element| is_same(element, wanted)),
        _ => is_same(stored, wanted),
    }
}

fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => is_same_number(a, b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_same(a, b)))
        }
        _ => a == b,
    }
}

fn is_same_number(a: &Number, b: &Number) -> bool {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a == b,
        // An integer that f64 cannot hold equals no fraction: the cast back shows it.
        (Some(whole), None) => b.as_f64().is_some_and(|b| b as i128 == whole && b == whole as f64),
        (None, Some(whole)) => a.as_f64().is_some_and(|a| a as i128 == whole && a == whole as f64),
        (None, None) => a.as_f64() == b.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(filter: &str, metadata: &str, expected: bool) {
        assert_eq!(Filter::parse(filter).unwrap().matches(metadata.as_bytes()), expected, "{filter} on {metadata}");
    }

    #[test]
    fn all_conditions_must_hold() {
        check("{}", "{}", true);
        check(r#"{"a":1}"#, r#"{"a":1,"b":2}"#, true);
        check(r#"{"a":1,"b":2}"#, r#"{"b":2,"x":{"a":9},"a":1}"#, true);
        check(r#"{"a":1,"b":3}"#, r#"{"a":1,"b":2}"#, false);
        check(r#"{"a":null}"#, r#"{"b":2}"#, false);
        check(r#"{"a":null}"#, r#"{"a":null}"#, true);
    }

    #[test]
    fn numbers_are_equal_by_value_and_never_equal_booleans_or_strings() {
        check(r#"{"a":1}"#, r#"{"a":1.0}"#, true);
        check(r#"{"a":1.0}"#, r#"{"a":1}"#, true);
        check(r#"{"a":1}"#, r#"{"a":true}"#, false);
        check(r#"{"a":1}"#, r#"{"a":"1"}"#, false);
        check(r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992}"#, false);
        check(r#"{"a":9007199254740993}"#, r#"{"a":9007199254740992.0}"#, false);
        check(r#"{"a":18446744073709551615}"#, r#"{"a":18446744073709551615}"#, true);
    }

    #[test]
    fn an_array_matches_by_any_element_or_as_a_whole() {
        check(r#"{"a":"x"}"#, r#"{"a":["y","x"]}"#, true);
        check(r#"{"a":"x"}"#, r#"{"a":["y"]}"#, false);
        check(r#"{"a":[1,2]}"#, r#"{"a":[1,2]}"#, true);
        check(r#"{"a":[1,2]}"#, r#"{"a":[2,1]}"#, false);
        check(r#"{"a":[1]}"#, r#"{"a":[[1],[2]]}"#, true);
        check(r#"{"a":{"b":1}}"#, r#"{"a":{"b":1.0}}"#, true);
    }

    #[test]
    fn the_last_of_two_equal_fields_counts_and_keys_are_compared_unescaped() {
        check(r#"{"a":1}"#, r#"{"a":1,"a":2}"#, false);
        check(r#"{"a":2}"#, r#"{"a":1,"a":2}"#, true);
        check(r#"{"é":"ü"}"#, r#"{"\u00e9":"\u00fc"}"#, true);
    }

    #[test]
    fn what_is_no_equality_filter_is_refused_by_name() {
        for (filter, named) in [
            ("[]", "object"),
            ("1", "object"),
            (r#"{"a":{"$gt":1}}"#, "$gt"),
            (r#"{"$and":[]}"#, "$and"),
            (&"[".repeat(1000), "object"),
            (&format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500)), "recursion"),
        ] {
            let error = Filter::parse(filter).unwrap_err().to_string();
            assert!(error.starts_with("filter: ") && error.contains(named), "{filter}: {error}");
        }
        let many: Vec<String> = (0..65).map(|i| format!("\"f{i}\":1")).collect();
        assert!(Filter::parse(&format!("{{{}}}", many.join(","))).is_err());
    }
}
