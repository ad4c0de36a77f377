//! What can be seen without a server; the rest is in `tests/http/openapi.rs`.

use std::collections::BTreeSet;
use std::env;

use serde_json::Value;

use super::*;
use crate::api::ServerConfig;
use crate::api::auth::{ApiKeys, Gate};
use crate::api::routes::Access;
use crate::config::Limits;
use crate::types::{IdempotencyKey, IndexOptions};

fn written() -> Value {
    serde_json::to_value(document()).unwrap()
}

/// The words that `Target::of` and `Target::calls` know, and the names that parts have in the document.
fn words() -> BTreeSet<String> {
    let source = include_str!("../routes.rs");
    let (_, rest) = source.split_once("pub fn of(").unwrap();
    let (code, _) = rest.split_once("/// Who may make a call.").unwrap();
    let quoted =
        code.split('"').skip(1).step_by(2).filter(|word| word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b)));
    let methods = ["GET", "POST", "PATCH", "DELETE", ""];
    let words: BTreeSet<_> = quoted.filter(|word| !methods.contains(word)).map(str::to_owned).collect();
    assert!(words.len() > 15, "{words:?}");
    words
}

/// Every path of up to five parts that leads somewhere, of the words that there are.
fn paths() -> BTreeSet<String> {
    let words = words();
    let mut paths = vec![String::new()];
    for _ in 0..5 {
        let longer: Vec<String> = paths
            .iter()
            .flat_map(|path| {
                // An id comes behind the word that says of what.
                let id = match path.rsplit('/').next() {
                    Some("index") => Some("{index_id}"),
                    Some("vectors") => Some("{vector_id}"),
                    _ => None,
                };
                words.iter().map(String::as_str).chain(id).map(move |word| format!("{path}/{word}"))
            })
            // Every path but that of the root begins with a word, and below these two nothing is told by a word where an id is.
            .filter(|path| path.split('/').count() < 3 || path.starts_with("/v1/") || path.starts_with("/docs/"))
            .filter(|path| {
                path.split('/').count() < 4 || path.starts_with("/v1/index/{index_id}") || path.starts_with("/v1/health")
            })
            .collect();
        paths.extend(longer);
        paths.sort();
        paths.dedup();
    }
    paths.push("/".to_owned());
    let leads = |path: &String| {
        let target = Target::of(path);
        let is_of_an_id_of_a_word = matches!(&target, Target::Vector(_, id) if !["{vector_id}", "fetch", "delete"].contains(&id.as_str()))
            || matches!(&target, Target::Index(id) if id != "{index_id}");
        !path.is_empty() && !is_of_an_id_of_a_word && !matches!(target, Target::Nothing | Target::DocsFile(_))
    };
    paths.into_iter().filter(leads).collect()
}

#[test]
fn every_route_is_described_with_its_methods_and_who_may_use_them() {
    let document = written();
    let known: BTreeSet<String> = Target::PATHS.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(paths(), known, "Target::PATHS has every path that Target::of knows");
    let described: BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(described, known);
    for path in Target::PATHS {
        let is_verb = path.ends_with("/fetch") || path.ends_with("/delete");
        let calls = Target::of(path).calls().iter().filter(|(method, _)| !is_verb || *method == "POST");
        let mut undescribed: BTreeSet<String> = document["paths"][path].as_object().unwrap().keys().cloned().collect();
        for (method, access) in calls {
            let method = method.to_lowercase();
            assert!(undescribed.remove(&method), "openapi::operations has no {method} {path}");
            let operation = &document["paths"][path][&method];
            match access {
                Access::Open => {
                    let security = operation["security"].as_array().unwrap();
                    assert!(security.is_empty() || security.contains(&serde_json::json!({})), "{method} {path} is open");
                }
                Access::Key(role) => {
                    assert!(operation["security"].is_null(), "{method} {path} takes a key as the document says of all");
                    let said = operation["description"].as_str().unwrap();
                    assert!(said.ends_with(&format!("Role: `{}`.", role.as_str())), "{method} {path}: {said}");
                }
            }
        }
        assert!(undescribed.is_empty(), "{path} takes no {undescribed:?}");
    }
}

/// A reference that leads nowhere, and an id that is there twice, make a generator of clients fail.
#[test]
fn every_reference_leads_somewhere_and_every_id_is_of_one_call() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = written();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 100);
    for reference in found {
        assert!(document.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
    }
    let operations = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let ids: Vec<&str> = operations.map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "{ids:?}");
}

/// One schema stands for what is read and for what is written.
#[test]
fn options_are_written_under_the_names_under_which_they_are_read() {
    let options = IndexOptions {
        ef_construction: Some(1),
        ef_search: Some(1),
        nprobe: Some(1),
        min_recall: Some(1.0),
        seal_rows: Some(1),
        compact_dead_share: Some(1.0),
        unindexed: vec!["a".to_owned()],
        log_retention_bytes: Some(1),
    };
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let described = names(&written()["components"]["schemas"]["IndexOptions"]["properties"]);
    assert_eq!(names(&serde_json::to_value(options).unwrap()), described);
}

#[test]
fn limits_are_those_of_the_defaults() {
    let document = written();
    let limits = Limits::default();
    let at = |pointer: &str| document.pointer(pointer).and_then(Value::as_u64).map(|limit| limit as usize);
    let schemas = "/components/schemas";
    let key = at("/components/parameters/Idempotency-Key/schema/maxLength");
    assert_eq!(key, Some(IdempotencyKey::BYTES_MAX));
    for (pointer, limit) in [
        ("NewIndex/properties/name/maxLength", limits.index_name_bytes_max),
        ("NewIndex/properties/dimension/maximum", limits.dimension_max),
        ("IndexChange/properties/name/maxLength", limits.index_name_bytes_max),
        ("IndexOptions/properties/unindexed/maxItems", crate::config::UNINDEXED_MAX),
        ("NewPoints/properties/vectors/maxItems", limits.batch_points_max),
        ("NewPoint/properties/id/maxLength", limits.id_bytes_max),
        ("Ids/properties/ids/maxItems", limits.batch_points_max),
        ("Deletion/properties/ids/maxItems", limits.batch_points_max),
        ("Query/properties/k/maximum", limits.k_max),
        ("SearchParams/properties/ef/maximum", crate::config::EF_MAX as usize),
        ("QueryBatch/properties/queries/maxItems", limits.batch_queries_max),
        ("RangeQuery/properties/limit/maximum", limits.range_hits_max),
        ("RangeQuery/properties/limit/default", crate::config::RANGE_LIMIT_DEFAULT),
    ] {
        assert_eq!(at(&format!("{schemas}/{pointer}")), Some(limit), "{pointer}");
    }
    let body_bytes_max = ServerConfig::new(Gate::new(ApiKeys::default(), 0), env::temp_dir()).body_bytes_max;
    let too_large = document["components"]["responses"]["Problem413"]["description"].as_str().unwrap();
    assert!(too_large.contains(&format!("{} MiB", body_bytes_max >> 20)), "{too_large}");
}
