//! JSON bodies, taken apart without trusting them.
//!
//! A body is cut into the raw text of its fields first, which checks the syntax without recursion; each field is then decoded as
//! what it must be. So wrong JSON is a 400, a wrong value is a 422 that names its field, one bad point does not spoil its batch,
//! and no nesting is deep enough to overflow a stack.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::reply::Problem;
use crate::error::Error;
use crate::types::Lsn;

/// Decodes a body, which must be a JSON object, into a struct of raw fields.
///
/// # Errors
/// 400 where it is no JSON, with line and column; 422 where it is no object, or a field is there twice.
pub fn body<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    let invalid_json = |error: serde_json::Error| Problem::invalid_json(format!("the body is not JSON: {error}"));
    if text.trim_ascii().is_empty() {
        return Err(Problem::invalid_json("the body is empty; it must be a JSON object"));
    }
    // Serde would take an array for a struct, field by field.
    if !text.trim_ascii_start().starts_with('{') {
        serde_json::from_str::<IgnoredAny>(text).map_err(invalid_json)?;
        return Err(Error::invalid("body", "invalid_body", "must be a JSON object").into());
    }
    serde_json::from_str(text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Error::invalid("body", "invalid_body", error.to_string()).into(),
        _ => invalid_json(error),
    })
}

/// The object in a raw field, as a struct of raw fields.
///
/// # Errors
/// What is wrong, for people.
pub fn object<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, String> {
    if !raw.get().starts_with('{') {
        return Err("must be an object".to_owned());
    }
    serde_json::from_str(raw.get()).map_err(|error| error.to_string())
}

/// # Errors
/// [`Error::Invalid`] where the field is absent or null.
pub fn required<'a>(raw: Option<&'a RawValue>, field: &'static str) -> Result<&'a RawValue, Error> {
    raw.ok_or_else(|| Error::invalid(field, "missing_field", "is required"))
}

/// # Errors
/// [`Error::Invalid`] where the field is no string, or one that is no Unicode text.
pub fn string(raw: &RawValue, field: &'static str) -> Result<String, Error> {
    serde_json::from_str(raw.get()).map_err(|_| Error::invalid(field, "invalid_type", "must be a string"))
}

/// A whole number, also where it is written as `10.0` or `1e1`.
///
/// # Errors
/// [`Error::Invalid`] where the field is none, or is negative, or beyond all that a machine counts.
pub fn count(raw: &RawValue, field: &'static str) -> Result<usize, Error> {
    let text = raw.get();
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let number: f64 = if is_number(text) { text.parse().unwrap_or(f64::NAN) } else { f64::NAN };
    // Beyond 2^53 a f64 no longer tells whole numbers apart, and no count of ours is as large.
    if number >= 0.0 && number <= 2_f64.powi(53) && number.fract() == 0.0 {
        return Ok(number as usize);
    }
    Err(Error::invalid(field, "invalid_type", "must be a whole number that is not negative"))
}

/// The number of a mutation: a [`count`].
///
/// # Errors
/// As [`count`].
pub fn lsn(raw: &RawValue, field: &'static str) -> Result<Lsn, Error> {
    Ok(count(raw, field)? as Lsn)
}

/// A [`count`] of at most 32 bits.
///
/// # Errors
/// As [`count`].
pub fn count_u32(raw: &RawValue, field: &'static str) -> Result<u32, Error> {
    let invalid = |_| Error::invalid(field, "invalid_value", format!("must be at most {}", u32::MAX));
    count(raw, field)?.try_into().map_err(invalid)
}

/// # Errors
/// [`Error::Invalid`] where the field is neither `true` nor `false`.
pub fn boolean(raw: &RawValue, field: &'static str) -> Result<bool, Error> {
    serde_json::from_str(raw.get()).map_err(|_| Error::invalid(field, "invalid_type", "must be true or false"))
}

/// Any number that a float can hold.
///
/// # Errors
/// [`Error::Invalid`] where the field is none.
pub fn number(raw: &RawValue, field: &'static str) -> Result<f64, Error> {
    let number = serde_json::from_str(raw.get()).ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| Error::invalid(field, "invalid_type", "must be a number"))
}

/// A number from 0 to 1.
///
/// # Errors
/// [`Error::Invalid`] where the field is none.
pub fn share(raw: &RawValue, field: &'static str) -> Result<f32, Error> {
    let number = serde_json::from_str(raw.get()).ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| Error::invalid(field, "invalid_value", "must be a number from 0 to 1"))
}

/// The elements of an array, each as raw text; at most `items_max`, so that a body of commas cannot take a multiple of its memory.
///
/// # Errors
/// [`Error::Invalid`] where the field is no array or has more.
pub fn items<'a>(raw: &'a RawValue, field: &'static str, items_max: usize) -> Result<Vec<&'a RawValue>, Error> {
    if !raw.get().starts_with('[') {
        return Err(Error::invalid(field, "invalid_type", "must be an array"));
    }
    Items { items_max }
        .deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
        .map_err(|_| Error::invalid(field, "too_many_items", format!("has more than {items_max} items")))
}

struct Items {
    items_max: usize,
}

impl<'de> DeserializeSeed<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of at most {} items", self.items_max)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == self.items_max {
                return Err(A::Error::invalid_length(items.len() + 1, &self));
            }
            items.push(item);
        }
        Ok(items)
    }
}

/// Why an array of numbers was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum NotFloats {
    /// No array, or one with something in it that is no number.
    WrongShape,
    /// More of them than any vector may have.
    TooMany,
}

/// Reads an array of numbers into `values`, each as the f32 nearest to what is written; beyond the f32 it is an infinity, which
/// the store refuses.
///
/// `serde_json` would round to f64 first and then to f32, which is not always the nearest.
pub fn floats(raw: &RawValue, values_max: usize, values: &mut Vec<f32>) -> Result<(), NotFloats> {
    values.clear();
    let inside = raw.get().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(NotFloats::WrongShape)?;
    if inside.trim_ascii().is_empty() {
        return Ok(());
    }
    // To split at commas is right as long as what came before were numbers: a string or a nested array begins with neither a
    // digit nor '-', and ends the loop there.
    for number in inside.split(',') {
        let number = number.trim_ascii();
        if !is_number(number) {
            return Err(NotFloats::WrongShape);
        }
        if values.len() == values_max {
            return Err(NotFloats::TooMany);
        }
        values.push(number.parse().map_err(|_| NotFloats::WrongShape)?);
    }
    Ok(())
}

/// Whether JSON text, whose syntax was checked, is a number.
fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        a: Option<&'a RawValue>,
        b: Option<&'a RawValue>,
    }

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    fn floats_of(text: &str) -> Result<Vec<f32>, NotFloats> {
        let mut values = Vec::new();
        floats(raw(text), 4, &mut values).map(|()| values)
    }

    #[test]
    fn wrong_json_is_a_400_and_no_object_a_422() {
        for wrong in ["", "  ", "{", "{\"a\":}", "{\"a\":1}x", "nul", "{\"a\":NaN}", "{'a':1}", "[1", "\u{feff}{}"] {
            assert_eq!(body::<Fields>(wrong).unwrap_err().status(), 400, "{wrong:?}");
        }
        for wrong in ["[]", "[1,2]", "3", "null", "\"a\"", "{\"a\":1,\"a\":2}"] {
            assert_eq!(body::<Fields>(wrong).unwrap_err().status(), 422, "{wrong:?}");
        }
        let fields: Fields = body(" {\"b\": null, \"unknown\": [{}], \"a\" : [1, 2] } ").unwrap();
        assert_eq!(fields.a.unwrap().get(), "[1, 2]");
        assert!(fields.b.is_none());
    }

    #[test]
    fn no_nesting_is_deep_enough_to_overflow_the_stack() {
        let deep = format!("{}1{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let text = format!("{{\"a\":{deep},\"unknown\":{deep}}}");
        let fields: Fields = body(&text).unwrap();
        let field = fields.a.unwrap();
        assert!(string(field, "a").is_err());
        assert!(count(field, "a").is_err());
        assert!(object::<Fields>(field).is_err());
        assert!(floats(field, 4, &mut Vec::new()).is_err());
        assert_eq!(items(field, "a", 4).unwrap().len(), 1);
        assert_eq!(body::<Fields>(&deep).unwrap_err().status(), 422);
        assert_eq!(body::<Fields>(&"[".repeat(1_000_000)).unwrap_err().status(), 400);
        assert_eq!(body::<Fields>(&"{\"a\":".repeat(1_000_000)).unwrap_err().status(), 400);
    }

    #[test]
    fn a_count_is_a_whole_number_however_it_is_written() {
        for (text, number) in [("0", 0), ("10", 10), ("10.0", 10), ("1e1", 10), ("-0", 0), ("9007199254740992.0", 1 << 53)] {
            assert_eq!(count(raw(text), "k").unwrap(), number, "{text}");
        }
        for wrong in ["-1", "1.5", "1e400", "1e30", "99999999999999999999", "\"1\"", "true", "[1]", "{}"] {
            assert!(count(raw(wrong), "k").is_err(), "{wrong}");
        }
    }

    #[test]
    fn floats_are_the_nearest_f32_of_what_is_written() {
        assert!(floats_of("[]").unwrap().is_empty());
        assert!(floats_of("[ ]").unwrap().is_empty());
        assert_eq!(floats_of("[1, -2.5e0 ,\n3E+2,\t0.1]").unwrap(), [1.0, -2.5, 300.0, 0.1]);
        // Just above the middle of two f32: through f64 it would become the middle, and then the lower of them.
        assert_eq!(floats_of("[1.00000005960464477540]").unwrap(), [f32::from_bits(1.0_f32.to_bits() + 1)]);
        assert_eq!(floats_of("[1e39, -1e400]").unwrap(), [f32::INFINITY, f32::NEG_INFINITY]);
        assert_eq!(floats_of("[-0.0]").unwrap()[0].to_bits(), (-0.0_f32).to_bits());
    }

    #[test]
    fn what_is_no_array_of_numbers_is_no_vector() {
        for wrong in ["{}", "1", "\"[1]\"", "[\"1\"]", "[1,\"2,3\"]", "[[1,2]]", "[1,null]", "[true]", "[{\"a\":1}]"] {
            assert_eq!(floats_of(wrong), Err(NotFloats::WrongShape), "{wrong}");
        }
        assert_eq!(floats_of("[1,2,3,4,5]"), Err(NotFloats::TooMany));
    }

    #[test]
    fn an_array_is_cut_into_its_items_up_to_the_limit() {
        let texts = |text| items(raw(text), "a", 3).map(|items| items.iter().map(|item| item.get()).collect::<Vec<_>>());
        assert_eq!(texts("[ 1e400, {\"x\":[]} ,\"a,b\"]").unwrap(), ["1e400", "{\"x\":[]}", "\"a,b\""]);
        assert!(texts("[1,2,3,4]").is_err());
        assert!(texts("{}").is_err());
        assert_eq!(texts("[]").unwrap(), [""; 0]);
    }
}
