//! From the JSON text of a filter to its expression.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use super::json::Json;
use super::{Comparison, DEPTH_MAX, Expression, Filter, Path, TESTS_MAX, TEXT_BYTES_MAX, Test};
use crate::error::{Error, Result, quoted};

const OPERATORS: &str =
    "$eq, $ne, $in, $nin, $gt, $gte, $lt, $lte, $exists, $contains and $not under a field; $and, $or and $not around filters";

/// Levels of arrays and objects in a value that is compared with.
const VALUE_DEPTH_MAX: usize = 32;

pub(super) fn parse(json: &str) -> Result<Filter> {
    if json.len() > TEXT_BYTES_MAX {
        return Err(invalid(format!("a filter has at most {TEXT_BYTES_MAX} bytes; this one has {}", json.len())));
    }
    let raw: &RawValue = serde_json::from_str(json).map_err(|error| invalid(format!("this is no JSON: {error}")))?;
    let mut parser = Parser { roots: Vec::new(), tests: 0 };
    let expression = parser.filter(raw, "a filter", DEPTH_MAX)?;
    Ok(Filter { expression, roots: parser.roots })
}

fn invalid(detail: String) -> Error {
    Error::invalid("filter", "invalid_filter", detail)
}

/// Fields by name. Of two equal names the last would count, and a condition be passed over in silence: that is refused.
fn object<'a>(raw: &'a RawValue, what: &str) -> Result<BTreeMap<String, &'a RawValue>> {
    if !raw.get().starts_with('{') {
        return Err(invalid(format!("{what} is an object of field: value pairs, and not {}", shown(raw))));
    }
    let mut fields = BTreeMap::new();
    let pairs: Pairs = serde_json::from_str(raw.get()).map_err(|error| invalid(format!("{what}: {error}")))?;
    for (key, value) in pairs.0 {
        if fields.contains_key(&key) {
            return Err(invalid(format!("{} stands twice in one object; put the two conditions into $and", quoted(&key))));
        }
        fields.insert(key, value);
    }
    Ok(fields)
}

struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Pairs<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Read;
        impl<'de> serde::de::Visitor<'de> for Read {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }
        deserializer.deserialize_map(Read).map(Pairs)
    }
}

/// For a message: what stands there, not more than a line of it.
fn shown(raw: &RawValue) -> String {
    const SHOWN_CHARS_MAX: usize = 40;
    let text = raw.get();
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

struct Parser {
    roots: Vec<String>,
    tests: usize,
}

impl Parser {
    /// `{field: condition, …, $and: […], …}`: all of it must hold.
    fn filter(&mut self, raw: &RawValue, what: &str, depth: usize) -> Result<Expression> {
        let below = depth.checked_sub(1).ok_or_else(|| invalid(format!("a filter has at most {DEPTH_MAX} levels")))?;
        let mut all = Vec::new();
        for (key, value) in object(raw, what)? {
            match key.as_str() {
                "$and" => all.push(Expression::All(self.filters(&key, value, below)?)),
                "$or" => all.push(Expression::Any(self.filters(&key, value, below)?)),
                "$not" => all.push(Expression::Not(Box::new(self.filter(value, "the operand of operator \"$not\"", below)?))),
                operator if operator.starts_with('$') => {
                    let problem = match is_under_field(operator) {
                        true => "stands under a field, as in {\"field\": {\"$gt\": 1}}",
                        false => "is not known",
                    };
                    return Err(invalid(format!("operator {} {problem}; there are {OPERATORS}", quoted(operator))));
                }
                field => {
                    let path = self.path(field);
                    all.push(self.field(&path, value, below)?);
                }
            }
        }
        Ok(one_or(all, Expression::All))
    }

    fn filters(&mut self, operator: &str, raw: &RawValue, depth: usize) -> Result<Vec<Expression>> {
        let filters: Vec<&RawValue> = serde_json::from_str(raw.get())
            .map_err(|_| invalid(format!("operator {operator:?} takes an array of filters, and not {}", shown(raw))))?;
        if filters.is_empty() {
            return Err(invalid(format!("operator {operator:?} takes at least one filter")));
        }
        let what = format!("a filter in operator {operator:?}");
        filters.into_iter().map(|filter| self.filter(filter, &what, depth)).collect()
    }

    /// What stands under a field: operators, or a value to be equal to.
    fn field(&mut self, path: &Path, raw: &RawValue, depth: usize) -> Result<Expression> {
        let is_operators = |keys: &BTreeMap<String, &RawValue>| keys.keys().any(|key| key.starts_with('$'));
        if raw.get().starts_with('{') {
            let operators = object(raw, &format!("what is under {}", quoted(&path.text)))?;
            if is_operators(&operators) {
                let below = depth.checked_sub(1).ok_or_else(|| invalid(format!("a filter has at most {DEPTH_MAX} levels")))?;
                let conditions = operators.into_iter().map(|(operator, operand)| self.operator(path, &operator, operand, below));
                return Ok(one_or(conditions.collect::<Result<_>>()?, Expression::All));
            }
        }
        let value = self.value(path, "$eq", raw)?;
        self.test(path, Test::In(BTreeSet::from([value])))
    }

    fn operator(&mut self, path: &Path, operator: &str, raw: &RawValue, depth: usize) -> Result<Expression> {
        let wrong = |wanted: &str| {
            invalid(format!("operator {operator:?} of {} takes {wanted}, and not {}", quoted(&path.text), shown(raw)))
        };
        let test = match operator {
            "$eq" | "$ne" => Test::In(BTreeSet::from([self.value(path, operator, raw)?])),
            "$in" | "$nin" => {
                let values: Vec<&RawValue> = serde_json::from_str(raw.get()).map_err(|_| wrong("an array of values"))?;
                Test::In(values.into_iter().map(|value| self.value(path, operator, value)).collect::<Result<_>>()?)
            }
            "$gt" | "$gte" | "$lt" | "$lte" => {
                let Json::Number(number) = self.value(path, operator, raw)? else { return Err(wrong("a number")) };
                let comparison = match operator {
                    "$gt" => Comparison::Greater,
                    "$gte" => Comparison::GreaterOrEqual,
                    "$lt" => Comparison::Less,
                    _ => Comparison::LessOrEqual,
                };
                Test::Compare(comparison, number)
            }
            "$exists" => match raw.get() {
                "true" => Test::Exists,
                "false" => return Ok(Expression::Not(Box::new(self.test(path, Test::Exists)?))),
                _ => return Err(wrong("true or false")),
            },
            "$contains" => match self.value(path, operator, raw)? {
                value @ (Json::Text(_) | Json::Number(_) | Json::Bool(_)) => Test::Contains(value),
                _ => return Err(wrong("a string, a number or a boolean")),
            },
            "$not" if raw.get().starts_with('{') => return Ok(Expression::Not(Box::new(self.field(path, raw, depth)?))),
            "$not" => return Err(wrong("an object of operators")),
            "$and" | "$or" => {
                return Err(invalid(format!(
                    "operator {operator:?} stands around filters, and not under the field {}",
                    quoted(&path.text)
                )));
            }
            _ => {
                return Err(invalid(format!(
                    "operator {} of {} is not known; there are {OPERATORS}",
                    quoted(operator),
                    quoted(&path.text)
                )));
            }
        };
        let test = self.test(path, test)?;
        Ok(if matches!(operator, "$ne" | "$nin") { Expression::Not(Box::new(test)) } else { test })
    }

    fn test(&mut self, path: &Path, test: Test) -> Result<Expression> {
        self.tests += 1;
        if self.tests > TESTS_MAX {
            return Err(invalid(format!("a filter has at most {TESTS_MAX} conditions")));
        }
        Ok(Expression::Test(path.clone(), test))
    }

    fn value(&self, path: &Path, operator: &str, raw: &RawValue) -> Result<Json> {
        Json::read(raw, VALUE_DEPTH_MAX).ok_or_else(|| {
            let detail =
                format!("the operand of operator {operator:?} of {} has more than {VALUE_DEPTH_MAX} levels", quoted(&path.text));
            invalid(detail)
        })
    }

    fn path(&mut self, text: &str) -> Path {
        let nested = text.split_once('.').map(|(root, rest)| (root, rest.split('.').map(str::to_owned).collect::<Vec<_>>()));
        let whole = self.root(text);
        Path { text: text.to_owned(), whole, nested: nested.map(|(root, keys)| (self.root(root), keys)) }
    }

    fn root(&mut self, name: &str) -> usize {
        self.roots.iter().position(|root| root == name).unwrap_or_else(|| {
            self.roots.push(name.to_owned());
            self.roots.len() - 1
        })
    }
}

fn is_under_field(operator: &str) -> bool {
    matches!(operator, "$eq" | "$ne" | "$in" | "$nin" | "$gt" | "$gte" | "$lt" | "$lte" | "$exists" | "$contains")
}

/// A single one needs nothing around it.
fn one_or(mut expressions: Vec<Expression>, around: fn(Vec<Expression>) -> Expression) -> Expression {
    match expressions.pop() {
        Some(only) if expressions.is_empty() => only,
        last => {
            expressions.extend(last);
            around(expressions)
        }
    }
}
