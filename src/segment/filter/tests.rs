//! The rows of `docs/filters.md`, and the limits.

use super::*;

/// The rows of the table under a heading of the page, as the texts between back quotes and the cells.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let page = include_str!("../../../docs/filters.md");
    let section = page.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let lines = section.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| line.trim_matches(['|', ' ']).split(" | ").map(|cell| cell.trim().trim_matches('`').to_owned()).collect())
        .collect()
}

#[test]
fn every_edge_case_of_the_documentation_holds() {
    let rows = rows("Edge cases");
    for row in &rows {
        let [metadata, filter, matches, ..] = &row[..] else { panic!("{row:?}") };
        assert!(matches == "yes" || matches == "no", "{row:?}");
        let found = Filter::parse(filter).unwrap().matches(metadata.as_bytes());
        assert_eq!(found, matches == "yes", "{row:?}");
        // A negation is the opposite, whatever is absent.
        let negated = Filter::parse(&format!("{{\"$not\":{filter}}}")).unwrap();
        assert_eq!(negated.matches(metadata.as_bytes()), !found, "not {row:?}");
    }
    println!("{} rows", rows.len());
    assert!(rows.len() > 60);
}

#[test]
fn every_refusal_of_the_documentation_names_what_is_wrong() {
    let rows = rows("Filters that are refused");
    for row in &rows {
        let [filter, words] = &row[..] else { panic!("{row:?}") };
        let error = Filter::parse(filter).unwrap_err().to_string();
        assert!(error.starts_with("filter: ") && error.contains(words.as_str()), "{filter}: {error}");
    }
    assert!(rows.len() > 15);
}

#[test]
fn a_filter_is_bounded_in_depth_length_and_conditions() {
    let nested = |levels: usize| format!("{}{{\"a\":1}}{}", "{\"$not\":".repeat(levels - 1), "}".repeat(levels - 1));
    assert!(Filter::parse(&nested(DEPTH_MAX)).unwrap().matches(b"{}"));
    let too_deep = |filter: &str| Filter::parse(filter).unwrap_err().to_string().contains("levels");
    assert!(too_deep(&nested(DEPTH_MAX + 1)));
    assert!(too_deep(&nested(100_000)));
    assert!(too_deep(&format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500))));
    assert!(too_deep(&format!("{{\"a\":{}{}}}", "{\"$not\":".repeat(20), "1".to_owned() + &"}".repeat(20))));

    let many = |count: usize| format!("{{{}}}", (0..count).map(|n| format!("\"f{n}\":1")).collect::<Vec<_>>().join(","));
    assert!(Filter::parse(&many(TESTS_MAX)).is_ok());
    assert!(Filter::parse(&many(TESTS_MAX + 1)).unwrap_err().to_string().contains("256 conditions"));
    let list = format!("{{\"a\":{{\"$in\":{:?}}}}}", (0..50_000).collect::<Vec<_>>());
    assert!(Filter::parse(&list).unwrap().matches(b"{\"a\":49999}"), "a list is one condition");
    assert!(Filter::parse(&format!("{{\"a\":\"{}\"}}", "x".repeat(TEXT_BYTES_MAX))).unwrap_err().to_string().contains("bytes"));
}

/// Each of these repeated a name of up to a mebibyte.
#[test]
fn a_refusal_repeats_the_beginning_of_a_long_name_and_not_all_of_it() {
    let long = "x".repeat(100_000);
    for filter in [
        format!("{{\"{long}\":1,\"{long}\":1}}"),
        format!("{{\"${long}\":1}}"),
        format!("{{\"a\":{{\"${long}\":1}}}}"),
        format!("{{\"{long}\":{{\"$regex\":1}}}}"),
        format!("{{\"{long}\":{{\"$gt\":\"1\"}}}}"),
        format!("{{\"{long}\":{{\"$and\":[]}}}}"),
        format!("{{\"{long}\":{{\"$eq\":1,\"{long}\":1}}}}"),
        format!("{{\"{long}\":{}1{}}}", "[".repeat(100), "]".repeat(100)),
    ] {
        let error = Filter::parse(&filter).unwrap_err().to_string();
        assert!(error.len() < 500 && error.contains(&long[..60]), "{} bytes: {:.200}", error.len(), error);
    }
}

/// A form feed is white space to ASCII, and not to JSON. Found by the fuzzer `filter`.
#[test]
fn only_the_white_space_of_json_may_stand_around_a_filter() {
    assert!(Filter::parse(" \t\r\n{ \"a\" : 1 }\n").unwrap().matches(b"{\"a\":1}"));
    for wrong in ["\u{c}{}", "{}\u{c}", "\u{b}{}", "\u{a0}{}", "{} {}", ""] {
        assert!(Filter::parse(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn text_that_is_no_metadata_has_no_fields() {
    for text in ["", "[1]", "{\"a\":", "7"] {
        assert!(!Filter::parse("{\"a\":1}").unwrap().matches(text.as_bytes()), "{text}");
        assert!(Filter::parse("{\"a\":{\"$exists\":false}}").unwrap().matches(text.as_bytes()), "{text}");
    }
}

/// The language again, in the most direct way, over `serde_json`'s values.
mod naive {
    use serde_json::Value;

    pub(super) fn matches(filter: &Value, metadata: &Value) -> bool {
        filter.as_object().unwrap().iter().all(|(key, value)| match key.as_str() {
            "$and" => value.as_array().unwrap().iter().all(|filter| matches(filter, metadata)),
            "$or" => value.as_array().unwrap().iter().any(|filter| matches(filter, metadata)),
            "$not" => !matches(value, metadata),
            path => condition(&at(metadata, path), value),
        })
    }

    /// The values that a path leads to.
    fn at<'a>(metadata: &'a Value, path: &str) -> Vec<&'a Value> {
        let mut found: Vec<&Value> = metadata.get(path).into_iter().collect();
        if path.contains('.') {
            found.extend(path.split('.').fold(vec![metadata], |values, key| {
                let objects = values.into_iter().flat_map(|value| match value {
                    Value::Array(elements) => elements.iter().collect(),
                    other => vec![other],
                });
                objects.filter_map(|value| value.as_object()?.get(key)).collect()
            }));
        }
        found
    }

    fn condition(values: &[&Value], wanted: &Value) -> bool {
        match wanted.as_object().filter(|operators| operators.keys().any(|key| key.starts_with('$'))) {
            Some(operators) => operators.iter().all(|(operator, operand)| test(values, operator, operand)),
            None => values.iter().any(|value| is(value, wanted)),
        }
    }

    fn test(values: &[&Value], operator: &str, operand: &Value) -> bool {
        let in_list = || operand.as_array().unwrap().iter().any(|wanted| values.iter().any(|value| is(value, wanted)));
        let compares = |takes: fn(f64, f64) -> bool| {
            let takes = |value: &Value| value.as_f64().is_some_and(|number| takes(number, operand.as_f64().unwrap()));
            values.iter().any(|value| takes(value) || value.as_array().is_some_and(|elements| elements.iter().any(takes)))
        };
        match operator {
            "$eq" => values.iter().any(|value| is(value, operand)),
            "$ne" => !values.iter().any(|value| is(value, operand)),
            "$in" => in_list(),
            "$nin" => !in_list(),
            "$gt" => compares(|a, b| a > b),
            "$gte" => compares(|a, b| a >= b),
            "$lt" => compares(|a, b| a < b),
            "$lte" => compares(|a, b| a <= b),
            "$exists" => values.is_empty() != operand.as_bool().unwrap(),
            "$contains" => values.iter().any(|value| match value {
                Value::String(text) => operand.as_str().is_some_and(|wanted| text.contains(wanted)),
                Value::Array(elements) => elements.iter().any(|element| same(element, operand)),
                _ => false,
            }),
            "$not" => !condition(values, operand),
            other => panic!("{other}"),
        }
    }

    /// Equal, or an array with something equal in it.
    fn is(value: &Value, wanted: &Value) -> bool {
        same(value, wanted) || value.as_array().is_some_and(|elements| elements.iter().any(|element| same(element, wanted)))
    }

    fn same(a: &Value, b: &Value) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
            }
            _ => a == b,
        }
    }
}

mod random {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-2_i64..4).prop_map(Value::from),
            (-4_i64..8).prop_map(|n| json!(n as f64 / 2.0)),
            prop_oneof![Just(""), Just("a"), Just("ab"), Just("é")].prop_map(Value::from),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        scalar().prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..3).prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    pub(super) fn metadata() -> impl Strategy<Value = Value> {
        let key = prop_oneof![4 => "[abc]", 1 => Just("a.b".to_owned())];
        prop::collection::btree_map(key, value(), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect()))
    }

    fn path() -> impl Strategy<Value = String> {
        prop_oneof![3 => "[abcd]", 2 => "[abc]\\.[abc]", 1 => "[ab]\\.[ab]\\.[ab]"]
    }

    fn operators() -> impl Strategy<Value = Value> {
        let number = (-4_i64..8).prop_map(|n| json!(n as f64 / 2.0));
        let found = scalar().prop_filter("null is in nothing", |value| !value.is_null());
        let one = prop_oneof![
            value().prop_map(|value| ("$eq", value)),
            value().prop_map(|value| ("$ne", value)),
            prop::collection::vec(value(), 0..4).prop_map(|values| ("$in", values.into())),
            prop::collection::vec(value(), 0..4).prop_map(|values| ("$nin", values.into())),
            (prop_oneof![Just("$gt"), Just("$gte"), Just("$lt"), Just("$lte")], number),
            any::<bool>().prop_map(|exists| ("$exists", exists.into())),
            found.prop_map(|value| ("$contains", value)),
        ];
        let several = prop::collection::vec(one, 1..3).prop_map(|operators| {
            Value::Object(operators.into_iter().map(|(operator, operand)| (operator.to_owned(), operand)).collect())
        });
        several.prop_recursive(2, 4, 1, |inner| inner.prop_map(|operators| json!({"$not": operators})))
    }

    pub(super) fn filter() -> impl Strategy<Value = Value> {
        let condition = prop_oneof![value(), operators()];
        let fields = prop::collection::btree_map(path(), condition, 0..3)
            .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>()));
        fields.prop_recursive(3, 12, 3, |inner| {
            let several = || prop::collection::vec(inner.clone(), 1..3);
            prop_oneof![
                several().prop_map(|filters| json!({"$and": filters})),
                several().prop_map(|filters| json!({"$or": filters})),
                inner.clone().prop_map(|filter| json!({"$not": filter})),
            ]
        })
    }
}

#[test]
fn every_filter_means_what_the_naive_evaluator_says() {
    use proptest::test_runner::{Config, TestRunner};
    use std::cell::Cell;
    let (matched, all) = (Cell::new(0), Cell::new(0));
    let config = Config { cases: 20_000, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&(random::filter(), random::metadata()), |(filter, metadata)| {
        let found = Filter::parse(&filter.to_string()).unwrap().matches(metadata.to_string().as_bytes());
        let expected = naive::matches(&filter, &metadata);
        all.set(all.get() + 1);
        matched.set(matched.get() + u32::from(expected));
        assert_eq!(found, expected, "{filter} on {metadata}");
        Ok(())
    });
    println!("{} of {} matched", matched.get(), all.get());
    if let Err(error) = result {
        panic!("{error}");
    }
    assert!(matched.get() > all.get() / 10 && matched.get() < all.get() * 9 / 10);
}

/// What the metadata index selects, row by row, is what the evaluator says.
#[test]
fn the_metadata_index_selects_what_the_evaluator_matches() {
    use super::fields::Fields;
    use proptest::test_runner::{Config, TestRunner};
    use std::borrow::Cow;
    let config = Config { cases: 3_000, failure_persistence: None, ..Config::default() };
    let rows = proptest::collection::vec(random::metadata(), 0..80);
    let filters = proptest::collection::vec(random::filter(), 1..8);
    let result = TestRunner::new(config).run(&(rows, filters), |(rows, filters)| {
        let rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
        let fields = Fields::new(rows.iter().map(|row| Cow::Borrowed(row.as_bytes())));
        for filter in filters {
            let parsed = Filter::parse(&filter.to_string()).unwrap();
            let read = |row: usize, text: &mut Vec<u8>| text.extend_from_slice(rows[row].as_bytes());
            let selected = fields.select(&parsed, rows.len(), read);
            for (row, metadata) in rows.iter().enumerate() {
                assert_eq!(selected.contains(row), parsed.matches(metadata.as_bytes()), "{filter} on {metadata}");
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// Long strings, big numbers, long arrays, many fields and many rows of one value: what the index keeps a part of, or keeps otherwise.
#[test]
fn the_metadata_index_is_exact_where_it_keeps_only_a_part() {
    use super::fields::Fields;
    use std::borrow::Cow;
    let long = |end: &str| format!("{}{end}", "x".repeat(40));
    let rows: Vec<String> = (0..400_u64)
        .map(|n| match n % 8 {
            0 => format!(r#"{{"t":"{}","same":1}}"#, long("")),
            1 => format!(r#"{{"t":"{}","same":1}}"#, long("y")),
            2 => format!(r#"{{"t":"{}","n":{}}}"#, long(&n.to_string()), 9_007_199_254_740_990 + n),
            3 => format!(r#"{{"n":{n}.5,"same":"1"}}"#),
            4 => format!(r#"{{"a":{:?}}}"#, (0..300 + n).collect::<Vec<_>>()),
            5 => format!(r#"{{"unique{n}":1,"a":[{n},"{}"]}}"#, long("z")),
            6 => format!(r#"{{{}}}"#, (0..40).map(|field| format!("\"{n}-{field}\":{field}")).collect::<Vec<_>>().join(",")),
            _ => r#"{"same":[1,{"deep":[1,2,{"er":"ü"}]}],"n":1e300}"#.to_owned(),
        })
        .collect();
    let fields = Fields::new(rows.iter().map(|row| Cow::Borrowed(row.as_bytes())));
    let filters = [
        format!(r#"{{"t":"{}"}}"#, long("")),
        format!(r#"{{"t":"{}"}}"#, long("y")),
        format!(r#"{{"t":{{"$ne":"{}"}}}}"#, long("yy")),
        format!(r#"{{"t":{{"$in":["{}","{}"]}}}}"#, long("2"), long("10")),
        r#"{"t":{"$contains":"xy"}}"#.to_owned(),
        r#"{"n":9007199254740992}"#.to_owned(),
        r#"{"n":9007199254740993}"#.to_owned(),
        r#"{"n":{"$gt":9007199254740993}}"#.to_owned(),
        r#"{"n":{"$lte":11.5}}"#.to_owned(),
        r#"{"same":1}"#.to_owned(),
        r#"{"same":{"$nin":[1,"1"]}}"#.to_owned(),
        r#"{"a":299}"#.to_owned(),
        r#"{"a":650}"#.to_owned(),
        r#"{"a":{"$contains":13}}"#.to_owned(),
        r#"{"390-39":39}"#.to_owned(),
        r#"{"390-39":{"$exists":false}}"#.to_owned(),
        r#"{"unique5":1}"#.to_owned(),
        r#"{"same.deep":2}"#.to_owned(),
        r#"{"same.deep.er":"ü"}"#.to_owned(),
        r#"{"$not":{"same.deep":{"$exists":true}}}"#.to_owned(),
    ];
    for filter in &filters {
        let parsed = Filter::parse(filter).unwrap();
        let read = |row: usize, text: &mut Vec<u8>| text.extend_from_slice(rows[row].as_bytes());
        // Also of a prefix of the rows.
        for len in [rows.len(), 101] {
            let selected: Vec<usize> = fields.select(&parsed, len, read).iter().collect();
            let expected: Vec<usize> = (0..len).filter(|&row| parsed.matches(rows[row].as_bytes())).collect();
            assert_eq!(selected, expected, "{filter} of {len}");
        }
    }
}

#[test]
fn the_metadata_index_of_unique_long_values_is_bounded() {
    use super::fields::Fields;
    use std::borrow::Cow;
    let per_row = |row: &dyn Fn(usize) -> String| {
        let rows: Vec<String> = (0..20_000).map(row).collect();
        Fields::new(rows.iter().map(|row| Cow::Borrowed(row.as_bytes()))).memory_bytes() as f64 / 20_000.0
    };
    let (word, number) =
        (per_row(&|n| format!("{{\"lang\":\"{}\"}}", ["en", "de", "fr"][n % 3])), per_row(&|n| format!("{{\"n\":{n}}}")));
    let (uuid, long) =
        (per_row(&|n| format!("{{\"id\":\"{n:036}\"}}")), per_row(&|n| format!("{{\"text\":\"{n:08}{:0992}\"}}", 0)));
    let array = per_row(&|n| format!("{{\"a\":{:?}}}", (n..n + 1000).collect::<Vec<_>>()));
    println!(
        "bytes a row: word {word:.2}, number {number:.1}, UUID {uuid:.1}, 1,000 characters {long:.1}, 1,000 numbers {array:.0}"
    );
    assert!(word < 1.5 && number < 20.0 && uuid < 60.0 && long < 60.0 && array < 2_000.0);
}
