//! Bodies, taken apart without trusting them.
//!
//! A body is cut into the raw text of its fields first, which checks the syntax without recursion; each field is then decoded as
//! what it must be. So wrong JSON is a 400, a wrong value is a 422 that names its field, one bad point does not spoil its batch,
//! and no nesting is deep enough to overflow a stack.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::binary::Rows;
use super::reply::Problem;
use crate::config::Limits;
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
    up_to(raw, items_max).map_err(|_| Error::invalid(field, "too_many_items", format!("has more than {items_max} items")))
}

/// The same where the elements are to be objects: each as a struct of raw fields, or what is wrong with it, for people.
///
/// # Errors
/// As [`items`].
pub fn objects<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    field: &'static str,
    items_max: usize,
) -> Result<Vec<Result<T, String>>, Error> {
    // Nearly always all of them are objects, and go through once. Else the first that is none ends that, and a second time tells of each.
    match up_to(raw, items_max) {
        Ok(objects) => Ok(objects.into_iter().map(|Object(fields)| Ok(fields)).collect()),
        Err(_) => Ok(items(raw, field, items_max)?.into_iter().map(object).collect()),
    }
}

/// The objects of an array that is a required field of a body. `raw` gives the field of a body that is decoded by [`body`].
///
/// # Errors
/// Those of [`body`], [`required`] and [`objects`].
pub fn objects_of_body<'a, T: Deserialize<'a>>(
    text: &'a str,
    field: &'static str,
    items_max: usize,
    raw: impl FnOnce(&'a str) -> Result<Option<&'a RawValue>, Problem>,
) -> Result<Vec<Result<T, String>>, Problem> {
    match objects_at_once(text, field, items_max) {
        Some(objects) => Ok(objects.into_iter().map(Ok).collect()),
        None => Ok(objects(required(raw(text)?, field)?, field, items_max)?),
    }
}

/// The objects of an array that is a field of a body, where all is as it should be: the text is gone through once then, and twice by [`body`] and
/// [`objects`], which tell what is wrong where this gives nothing.
fn objects_at_once<'a, T: Deserialize<'a>>(text: &'a str, field: &'static str, items_max: usize) -> Option<Vec<T>> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let objects = deserializer.deserialize_map(FieldOfObjects { field, items_max, item: PhantomData }).ok()?;
    deserializer.end().ok()?;
    Some(objects)
}

/// Of a map, one field's objects; others are passed over.
struct FieldOfObjects<T> {
    field: &'static str,
    items_max: usize,
    item: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldOfObjects<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with {}", self.field)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != self.field {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_some() {
                return Err(A::Error::duplicate_field(self.field));
            } else {
                found = Some(map.next_value_seed(Items { items_max: self.items_max, item: PhantomData })?);
            }
        }
        let objects: Vec<Object<T>> = found.ok_or_else(|| A::Error::missing_field(self.field))?;
        Ok(objects.into_iter().map(|Object(fields)| fields).collect())
    }
}

/// The elements of an array. Fails where one is no `T`, or there are more.
fn up_to<'a, T: Deserialize<'a>>(raw: &'a RawValue, items_max: usize) -> serde_json::Result<Vec<T>> {
    Items { items_max, item: PhantomData }.deserialize(&mut serde_json::Deserializer::from_str(raw.get()))
}

struct Items<T> {
    items_max: usize,
    item: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Items<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Items<T> {
    type Value = Vec<T>;

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

/// A struct that is read from an object alone: serde would take an array for it too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Where the vectors of a body are.
#[derive(Debug)]
pub enum BodyVectors<'a> {
    /// In its JSON, each in its item.
    Inside,
    /// Behind the JSON, in the order of the items.
    Behind(Rows<'a>),
}

impl<'a> BodyVectors<'a> {
    /// Those of a body whose JSON has `count` items; `behind` are the bytes behind it, where they have a place there.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming `body` where they are not the vectors of as many items.
    pub fn new(behind: Option<&'a [u8]>, count: usize, dimension: usize) -> Result<Self, Error> {
        let Some(bytes) = behind else { return Ok(Self::Inside) };
        Rows::new(bytes, count, dimension).map(Self::Behind).map_err(|detail| Error::invalid("body", "wrong_length", detail))
    }

    /// Looks at what the field of an item has.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is a vector, and another one behind the JSON.
    pub fn check(&self, raw: Option<&RawValue>, field: &'static str) -> Result<(), Error> {
        match (self, raw) {
            (Self::Behind(_), Some(_)) => {
                let detail = "cannot stand in the JSON of a binary body: the vectors come behind it";
                Err(Error::invalid(field, "conflicting_fields", detail))
            }
            _ => Ok(()),
        }
    }

    /// Reads the vector of the item at `at` into `values`; `raw` is what its field has.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the field. Its code is `wrong_dimension` where it is too long, and `missing_field`, `conflicting_fields` or
    /// `invalid_type`.
    pub fn read(
        &self,
        at: usize,
        raw: Option<&RawValue>,
        field: &'static str,
        limits: &Limits,
        values: &mut Vec<f32>,
    ) -> Result<(), Error> {
        self.check(raw, field)?;
        match self {
            Self::Behind(rows) => {
                rows.copy(at, values);
                Ok(())
            }
            Self::Inside => floats(required(raw, field)?, limits.dimension_max, values).map_err(|problem| {
                let code = if problem == NotFloats::TooMany { "wrong_dimension" } else { "invalid_type" };
                Error::invalid(field, code, problem.detail(limits.dimension_max))
            }),
        }
    }
}

/// Why a vector in JSON was not taken.
#[derive(Debug, PartialEq, Eq)]
pub enum NotFloats {
    /// No string and no array, or one with something in it that is no number.
    WrongShape,
    /// A string that is not base64, padding included.
    NotBase64,
    /// Base64 of so many bytes.
    PartOfFloat(usize),
    /// More of them than any vector may have.
    TooMany,
}

impl NotFloats {
    /// The same for people.
    pub fn detail(&self, values_max: usize) -> String {
        match self {
            Self::WrongShape => "must be an array of numbers, or base64 of 32-bit floats".to_owned(),
            Self::NotBase64 => "is a string that is not base64 (the standard alphabet, with padding)".to_owned(),
            Self::PartOfFloat(bytes) => format!("is base64 of {bytes} bytes, and not of 32-bit floats, which have 4 each"),
            Self::TooMany => format!("has more than {values_max} numbers"),
        }
    }
}

/// Reads a vector in place of what `values` held: an array of numbers, each as the f32 nearest to what is written, or a string that is base64 (RFC 4648,
/// section 4) of little-endian f32. One that is beyond the f32 is an infinity, which the store refuses.
///
/// `serde_json` would round to f64 first and then to f32, which is not always the nearest.
pub fn floats(raw: &RawValue, values_max: usize, values: &mut Vec<f32>) -> Result<(), NotFloats> {
    values.clear();
    if raw.get().starts_with('"') {
        return base64_floats(raw, values_max, values);
    }
    let inside = raw.get().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(NotFloats::WrongShape)?;
    if inside.trim_ascii().is_empty() {
        return Ok(());
    }
    // To split at commas is right as long as what came before were numbers: a string or a nested array begins with neither a
    // digit nor '-', and ends the loop there.
    let mut rest = inside;
    loop {
        // Numbers are short: `split` would look for each comma in a way that is made for long texts.
        let end = rest.bytes().position(|byte| byte == b',');
        let number = rest[..end.unwrap_or(rest.len())].trim_ascii();
        if !is_number(number) {
            return Err(NotFloats::WrongShape);
        }
        if values.len() == values_max {
            return Err(NotFloats::TooMany);
        }
        values.push(number.parse().map_err(|_| NotFloats::WrongShape)?);
        match end {
            Some(end) => rest = &rest[end + 1..],
            None => return Ok(()),
        }
    }
}

/// The same for a string. Nothing is left in `values` where it is refused.
fn base64_floats(raw: &RawValue, values_max: usize, values: &mut Vec<f32>) -> Result<(), NotFloats> {
    // Some encoders of JSON escape the '/' of the alphabet.
    let inside = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).filter(|inside| !inside.contains('\\'));
    let text = match inside {
        Some(inside) => Cow::Borrowed(inside),
        None => Cow::Owned(serde_json::from_str::<String>(raw.get()).map_err(|_| NotFloats::NotBase64)?),
    };
    let padding = text.bytes().rev().take_while(|&byte| byte == b'=').count();
    let bytes = (text.len() / 4 * 3).checked_sub(padding).ok_or(NotFloats::NotBase64)?;
    let (count, rest) = (bytes / size_of::<f32>(), bytes % size_of::<f32>());
    if count > values_max {
        return Err(NotFloats::TooMany);
    }
    // With room for a float that is not whole, so that the decoder says first whether it is base64 at all.
    values.resize(count + usize::from(rest > 0), 0.0);
    let decoded = STANDARD.decode_slice(&*text, bytemuck::cast_slice_mut(values));
    match decoded {
        Ok(_) if rest == 0 => Ok(()),
        refused => {
            values.clear();
            Err(if refused.is_ok() { NotFloats::PartOfFloat(bytes) } else { NotFloats::NotBase64 })
        }
    }
}

/// Whether JSON text, whose syntax was checked, is a number.
fn is_number(text: &str) -> bool {
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Named<'a> {
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
            assert_eq!(body::<Named>(wrong).unwrap_err().status(), 400, "{wrong:?}");
        }
        for wrong in ["[]", "[1,2]", "3", "null", "\"a\"", "{\"a\":1,\"a\":2}"] {
            assert_eq!(body::<Named>(wrong).unwrap_err().status(), 422, "{wrong:?}");
        }
        let fields: Named = body(" {\"b\": null, \"unknown\": [{}], \"a\" : [1, 2] } ").unwrap();
        assert_eq!(fields.a.unwrap().get(), "[1, 2]");
        assert!(fields.b.is_none());
    }

    #[test]
    fn what_is_as_it_should_be_is_read_at_once_as_it_is_in_two_steps() {
        #[derive(Deserialize)]
        struct Outer<'a> {
            #[serde(borrow)]
            a: Option<&'a RawValue>,
        }
        let named = |fields: &Named| (fields.a.map(|raw| raw.get().to_owned()), fields.b.map(|raw| raw.get().to_owned()));
        for text in [
            r#"{"a":[]}"#,
            r#" { "x" : [[1]], "a" : [ {"a": [1, 2], "b": {}}, {"c": 1}, {"b": null} ] } "#,
            r#"{"\u0061":[{"a":1}]}"#,
        ] {
            let at_once: Vec<Named> = objects_at_once(text, "a", 3).unwrap();
            let outer: Outer = body(text).unwrap();
            let in_two: Vec<Named> = objects(outer.a.unwrap(), "a", 3).unwrap().into_iter().map(Result::unwrap).collect();
            assert_eq!(at_once.iter().map(named).collect::<Vec<_>>(), in_two.iter().map(named).collect::<Vec<_>>());
        }
        for other in [
            "",
            "[]",
            "{}",
            r#"{"a":null}"#,
            r#"{"a":[1]}"#,
            r#"{"a":[[]]}"#,
            r#"{"a":[{}],"a":[{}]}"#,
            r#"{"a":[{"a":1,"a":2}]}"#,
            r#"{"a":[{},{},{},{}]}"#,
            r#"{"a":[{}]}x"#,
            r#"{"a":[{}"#,
        ] {
            assert!(objects_at_once::<Named>(other, "a", 3).is_none(), "{other}");
        }
    }

    #[test]
    fn no_nesting_is_deep_enough_to_overflow_the_stack() {
        let deep = format!("{}1{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
        let text = format!("{{\"a\":{deep},\"unknown\":{deep}}}");
        let fields: Named = body(&text).unwrap();
        let field = fields.a.unwrap();
        assert!(string(field, "a").is_err());
        assert!(count(field, "a").is_err());
        assert!(object::<Named>(field).is_err());
        assert!(floats(field, 4, &mut Vec::new()).is_err());
        assert_eq!(items(field, "a", 4).unwrap().len(), 1);
        assert_eq!(body::<Named>(&deep).unwrap_err().status(), 422);
        assert_eq!(body::<Named>(&"[".repeat(1_000_000)).unwrap_err().status(), 400);
        assert_eq!(body::<Named>(&"{\"a\":".repeat(1_000_000)).unwrap_err().status(), 400);
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
        for wrong in ["{}", "1", "null", "[\"1\"]", "[1,\"2,3\"]", "[[1,2]]", "[1,null]", "[true]", "[{\"a\":1}]"] {
            assert_eq!(floats_of(wrong), Err(NotFloats::WrongShape), "{wrong}");
        }
        assert_eq!(floats_of("[1,2,3,4,5]"), Err(NotFloats::TooMany));
    }

    #[test]
    fn a_string_is_base64_of_little_endian_floats_bit_for_bit() {
        let bits = |text: &str| floats_of(text).map(|values| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
        assert_eq!(bits("\"\""), Ok(vec![]));
        assert_eq!(bits("\"AACAPw==\""), Ok(vec![1.0_f32.to_bits()]));
        assert_eq!(bits("\"AACAPwAAAMA=\""), Ok(vec![1.0_f32.to_bits(), (-2.0_f32).to_bits()]));
        assert_eq!(bits("\"/////wAAAIAAAIB/\""), Ok(vec![u32::MAX, (-0.0_f32).to_bits(), f32::INFINITY.to_bits()]));
        // As some encoders of JSON write it.
        assert_eq!(bits(r#""\/\/\u002f\/\/wAAAIAAAIB\/""#), bits("\"/////wAAAIAAAIB/\""));
        assert_eq!(bits("\"AAAAAAAAAAAAAAAAAAAAAA==\"").unwrap(), [0; 4]);
    }

    #[test]
    fn a_string_that_is_no_base64_or_no_floats_is_no_vector() {
        let wrong = [
            "[1]",
            "AACAPw=",
            "AACAPw",
            "AACAPx==",
            "AACAPw===",
            "=",
            "====",
            "AACA Pw==",
            "AACAPw==\\n",
            "AACAP-__",
            "é",
            "AACAPw==AAAA",
        ];
        for wrong in wrong {
            assert_eq!(floats_of(&format!("\"{wrong}\"")), Err(NotFloats::NotBase64), "{wrong}");
        }
        assert_eq!(floats_of(r#""\ud800""#), Err(NotFloats::NotBase64));
        for (wrong, bytes) in [("AAAA", 3), ("AAAAAAAA", 6), ("AA==", 1)] {
            assert_eq!(floats_of(&format!("\"{wrong}\"")), Err(NotFloats::PartOfFloat(bytes)), "{wrong}");
        }
        assert_eq!(floats_of(&format!("\"{}\"", "A".repeat(28))), Err(NotFloats::TooMany));
    }

    #[test]
    fn an_array_is_cut_into_its_items_up_to_the_limit() {
        let texts = |text| items(raw(text), "a", 3).map(|items| items.iter().map(|item| item.get()).collect::<Vec<_>>());
        assert_eq!(texts("[ 1e400, {\"x\":[]} ,\"a,b\"]").unwrap(), ["1e400", "{\"x\":[]}", "\"a,b\""]);
        assert!(texts("[1,2,3,4]").is_err());
        assert!(texts("{}").is_err());
        assert_eq!(texts("[]").unwrap(), [""; 0]);
    }

    #[test]
    fn each_object_of_an_array_is_read_and_what_is_none_does_not_spoil_the_others() {
        let all = objects::<Named>(raw(r#"[{"a": [1e400]},{"b":[{}], "c":1} , {"a":null}]"#), "a", 3).unwrap();
        let all: Vec<_> = all.into_iter().map(|fields| fields.unwrap().a.map(RawValue::get)).collect();
        assert_eq!(all, [Some("[1e400]"), None, None]);
        for none in ["[1]", "1e400", "\"{}\"", "null", "true", r#"{"a":1,"a":2}"#] {
            let text = format!(r#"[{{"a":1}},{none},{{"a":2}}]"#);
            let objects = objects::<Named>(raw(&text), "a", 3).unwrap();
            assert_eq!(objects[0].as_ref().unwrap().a.unwrap().get(), "1");
            assert!(objects[1].is_err(), "{none}");
            assert_eq!(objects[2].as_ref().unwrap().a.unwrap().get(), "2");
        }
        assert!(objects::<Named>(raw("[{},{},{},{}]"), "a", 3).unwrap_err().to_string().contains("more than 3 items"));
        assert!(objects::<Named>(raw("{}"), "a", 3).unwrap_err().to_string().contains("must be an array"));
    }
}
