//! JSON merge patch, RFC 7396, from text to text: numbers keep their digits.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The text of the object `target` with `patch`, an object, merged into it. Fields are ordered by their names, and of two with the same name the
/// last counts. Recursion goes as deep as the patch does, which is bounded like metadata.
pub(crate) fn merge(target: &str, patch: &str) -> String {
    let mut merged: BTreeMap<String, Cow<'_, str>> =
        fields(target).into_iter().map(|(name, value)| (name, value.get().into())).collect();
    for (name, change) in fields(patch) {
        let change = change.get();
        match change.as_bytes().first() {
            Some(b'n') => drop(merged.remove(&name)),
            Some(b'{') => {
                let inner = merge(merged.get(&name).map_or("{}", |value| value), change);
                merged.insert(name, inner.into());
            }
            _ => drop(merged.insert(name, change.into())),
        }
    }
    let mut text = String::with_capacity(target.len() + patch.len());
    for (name, value) in merged {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(&serde_json::Value::from(name).to_string());
        text.push(':');
        text.push_str(&value);
    }
    if text.is_empty() { "{}".to_owned() } else { text + "}" }
}

/// The fields of an object; of any other value none, as the RFC has it.
fn fields(text: &str) -> BTreeMap<String, &RawValue> {
    serde_json::from_str(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Appendix A of the RFC, as far as target and patch are objects, and what is left of it is one.
    #[test]
    fn the_examples_of_the_rfc() {
        for (target, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (
                r#"{"title":"Goodbye!","author":{"givenName":"John","familyName":"Doe"},"tags":["example","sample"],"content":"This will be unchanged"}"#,
                r#"{"title":"Hello!","phoneNumber":"+01-123-456-7890","author":{"familyName":null},"tags":["example"]}"#,
                r#"{"title":"Hello!","author":{"givenName":"John"},"tags":["example"],"content":"This will be unchanged","phoneNumber":"+01-123-456-7890"}"#,
            ),
        ] {
            let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            assert_eq!(value(&merge(target, patch)), value(expected), "{target} with {patch}");
        }
    }

    #[test]
    fn numbers_keep_their_digits_and_names_their_characters() {
        let merged = merge(r#"{"n":12345678901234567890123, "é\n\"":1.50}"#, r#"{"m": 1e400, "é\n\"x":0.10}"#);
        assert_eq!(merged, r#"{"m":1e400,"n":12345678901234567890123,"é\n\"":1.50,"é\n\"x":0.10}"#);
    }
}
