//! JSON values that can be compared: numbers by their value, exactly.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

/// 2^127: an `i128` is less.
const WHOLE_MAX: f64 = (1_u128 << 127) as f64;

/// A number of JSON. However it is written, a value has one representation, so that equality is that of the fields.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    /// A whole number of up to 38 digits, exactly.
    Whole(i128),
    /// Any other, as the nearest f64: it has a fraction, or is at least 2^127 from 0.
    Float(f64),
}

impl Number {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(whole) = text.parse() {
            return Some(Self::Whole(whole));
        }
        let float: f64 = text.parse().ok()?;
        let is_whole = float.trunc() == float && float.abs() < WHOLE_MAX;
        Some(if is_whole { Self::Whole(float as i128) } else { Self::Float(float) })
    }
}

impl Eq for Number {}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(&b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(&b),
            (Self::Float(_), Self::Whole(_)) => other.cmp(self).reverse(),
            (Self::Whole(_), Self::Float(b)) if b.abs() >= WHOLE_MAX => 0.0_f64.total_cmp(&b),
            // It has a fraction, and so is not equal.
            (Self::Whole(a), Self::Float(b)) => a.cmp(&(b.floor() as i128)).then(Ordering::Less),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A JSON value. The order is some order, for sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Array(Vec<Json>),
    Object(BTreeMap<String, Json>),
}

impl Json {
    /// `None` where it has more levels of arrays and objects than `depth`. Of two equal keys the last counts, as in most JSON readers.
    pub(super) fn read(raw: &RawValue, depth: usize) -> Option<Self> {
        let text = raw.get();
        match text.as_bytes().first()? {
            b'n' => Some(Self::Null),
            b't' => Some(Self::Bool(true)),
            b'f' => Some(Self::Bool(false)),
            b'"' => serde_json::from_str(text).ok().map(Self::Text),
            b'[' => {
                let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                let below = depth.checked_sub(1)?;
                elements.into_iter().map(|element| Self::read(element, below)).collect::<Option<_>>().map(Self::Array)
            }
            b'{' => {
                let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
                let below = depth.checked_sub(1)?;
                let read = |(key, value)| Some((key, Self::read(value, below)?));
                fields.into_iter().map(read).collect::<Option<_>>().map(Self::Object)
            }
            _ => Number::parse(text).map(Self::Number),
        }
    }

    /// Whether this is one of `values`, or has one of them in it where it is an array.
    pub(super) fn is_or_has_one_of(&self, values: &BTreeSet<Self>) -> bool {
        values.contains(self) || matches!(self, Self::Array(elements) if elements.iter().any(|element| values.contains(element)))
    }

    /// Calls `test` with this where it is a number, and with the numbers in it where it is an array, until one is found.
    pub(super) fn any_number(&self, test: impl Fn(Number) -> bool) -> bool {
        match self {
            Self::Number(number) => test(*number),
            Self::Array(elements) => elements.iter().any(|element| matches!(element, Self::Number(number) if test(*number))),
            _ => false,
        }
    }

    /// Whether this is a string with `wanted` in it, or an array that has it as an element.
    pub(super) fn contains(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Text(text), Self::Text(wanted)) => text.contains(wanted.as_str()),
            (Self::Array(elements), _) => elements.contains(wanted),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn a_number_is_what_it_is_worth() {
        for (a, b) in [("1", "1.0"), ("1", "10e-1"), ("0", "-0.0"), ("100000000000000000000", "1e20"), ("0.5", "5e-1")] {
            assert_eq!(number(a), number(b), "{a} is {b}");
        }
        for (a, b) in [("9007199254740993", "9007199254740992.0"), ("12345678901234567890123", "12345678901234567890124")] {
            assert_ne!(number(a), number(b), "{a} is not {b}");
        }
    }

    #[test]
    fn numbers_are_ordered_by_value_whatever_they_are_written_as() {
        let ascending = [
            "-1e400",
            "-1e300",
            "-170141183460469231731687303715884105728",
            "-9007199254740993",
            "-9007199254740992.0",
            "-2",
            "-1.5",
            "-1",
            "-0.25",
            "0",
            "1e-300",
            "0.5",
            "1",
            "1.5",
            "2",
            "9007199254740992.0",
            "9007199254740993",
            "1e20",
            "170141183460469231731687303715884105727",
            "1e300",
            "1e400",
        ];
        for (at, a) in ascending.iter().enumerate() {
            for (other, b) in ascending.iter().enumerate() {
                assert_eq!(number(a).cmp(&number(b)), at.cmp(&other), "{a} and {b}");
            }
        }
    }

    #[test]
    fn deeper_than_allowed_is_not_read() {
        let read = |text: &str, depth| Json::read(serde_json::from_str(text).unwrap(), depth);
        assert!(read(r#"{"a":[1]}"#, 2).is_some());
        assert!(read(r#"{"a":[1]}"#, 1).is_none());
        assert_eq!(read("7", 0), Some(Json::Number(Number::Whole(7))));
    }
}
