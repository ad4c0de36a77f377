//! The OpenAPI document: each example in it is answered as it says. And the page that shows it.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::{env, fs};

use faiss_proxy::api::BackupConfig;
use faiss_proxy::backup::Location;
use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::support::{KEY, TestServer};

/// What a `$ref` refers to, or the value itself.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

/// What a schema says against a value; empty where nothing. Of schemas this knows what the document uses for objects, arrays and their types.
fn complaints(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let schema = resolved(document, schema);
    if let Some(parts) = schema["allOf"].as_array() {
        let names = |part: &Value| resolved(document, part)["properties"].as_object().unwrap().clone();
        let mut whole = json!({"type": "object", "required": []});
        whole["properties"] = parts.iter().flat_map(names).collect::<serde_json::Map<_, _>>().into();
        return complaints(document, &whole, value, at);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| complaints(document, choice, value, at).is_empty()).count();
        return if fitting == 1 { vec![] } else { vec![format!("{at}: {fitting} of the choices fit {value}")] };
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::Null => vec![],
        one => vec![one.clone()],
    };
    let of = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.iter().any(|known| known == of || (known == "number" && of == "integer")) {
        return vec![format!("{at}: {value} is none of {types:?}")];
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return vec![format!("{at}: {value} is none of {words:?}")];
    }
    let mut found = Vec::new();
    if let (Some(fields), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, value) in fields {
            match properties.get(name) {
                Some(schema) => found.extend(complaints(document, schema, value, &format!("{at}.{name}"))),
                None => found.push(format!("{at}.{name} is not described")),
            }
        }
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let absent = required.iter().filter(|name| !fields.contains_key(name.as_str().unwrap()));
        found.extend(absent.map(|name| format!("{at}.{name} is required")));
    }
    if let (Some(items), true) = (value.as_array(), schema["items"].is_object()) {
        found.extend(items.iter().flat_map(|item| complaints(document, &schema["items"], item, &format!("{at}[]"))));
    }
    found
}

#[test]
fn each_example_is_taken_and_answered_as_the_document_says() {
    let backups = tempfile::tempdir().unwrap();
    let server = TestServer::start_with(tempfile::tempdir().unwrap(), |config| {
        config.backups =
            Some(BackupConfig { to: Location::Directory(backups.path().to_owned()), every: None, bytes_per_second: None });
    });
    let document = server.call("GET", "/openapi.json").send().json();
    assert_eq!(document["openapi"], "3.1.0");
    let mut with_a_body = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let index = server.post("/v1/index", &document["components"]["schemas"]["NewIndex"]["example"]).json();
            let index = format!("/v1/index/{}", index["id"].as_str().unwrap());
            let point = |id: &str| json!({"id": id, "values": [1, 0, 0], "metadata": {"year": 2023}});
            assert_eq!(server.post(&format!("{index}/vectors"), &json!({"vectors": [point("a"), point("b")]})).status, 201);
            let path = path.replace("/v1/index/{index_id}", &index).replace("{vector_id}", "a");
            let mut call = server.call(&method.to_uppercase(), &path).key(KEY);
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if !schema.is_null() {
                let example = &resolved(&document, schema)["example"];
                assert!(example.is_object(), "{method} {path} has no example");
                assert_eq!(complaints(&document, schema, example, "example"), [""; 0], "{method} {path}");
                call = call.json(example);
                with_a_body += 1;
            }
            let answer = call.send();
            let id = operation["operationId"].as_str().unwrap();
            let said = resolved(&document, &operation["responses"][answer.status.to_string()]);
            assert!(said.is_object(), "{id}: {answer:?}");
            // An index of so few points has nothing to build.
            assert!(answer.status < 300 || (id, answer.status) == ("train_index", 409), "{id}: {answer:?}");
            let described = &said["content"]["application/json"]["schema"];
            if answer.status < 300 && !described.is_null() {
                assert_eq!(complaints(&document, described, &answer.json(), id), [""; 0]);
            }
        }
    }
    assert!(with_a_body > 10);
}

#[test]
fn the_copy_in_the_docs_is_what_the_server_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let document = TestServer::start().call("GET", "/openapi.json").send().json();
    // In the order of the names, whatever that of the server is.
    let text = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
    if env::var_os("FAISS_PROXY_WRITE_DOCS").is_some() {
        fs::write(path, text).unwrap();
        return;
    }
    // Not by assert_eq: of two documents of this size nobody finds the difference.
    let found = fs::read_to_string(path).unwrap();
    let at = found.lines().zip(text.lines()).position(|(found, line)| found != line).unwrap_or(found.lines().count());
    let remedy = "FAISS_PROXY_WRITE_DOCS=1 cargo test --test http openapi";
    assert!(found == text, "docs/openapi.json is stale from line {}: {remedy}", at + 1);
}

/// Words of `Error::invalid` that no answer has as its `code`: they are told in `errors`, or of an offline command.
const OF_NO_ANSWER: [&str; 4] = ["invalid_point", "invalid_tenant", "lsn_not_reachable", "time_not_reachable"];

fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.file_name().unwrap().to_str().unwrap() {
            _ if entry.is_dir() => sources(&entry, found),
            name if name.ends_with(".rs") && name != "tests.rs" => found.extend(fs::read_to_string(&entry)),
            _ => {}
        }
    }
}

#[test]
fn every_word_of_a_refusal_in_the_code_is_in_the_document() {
    let mut texts = Vec::new();
    for layer in ["api", "engine", "segment", "backup"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(layer), &mut texts);
    }
    let mut words = BTreeSet::new();
    for text in &texts {
        let code = text.split("#[cfg(test)]").next().unwrap();
        for call in code.split("Error::invalid(").skip(1) {
            // The field, and then the word, where both stand there.
            let word = call.split_once(',').and_then(|(_, rest)| rest.trim_start().strip_prefix('"'));
            words.extend(word.and_then(|rest| rest.split('"').next()));
        }
    }
    assert!(words.len() > 30, "{words:?}");
    let document = TestServer::start().call("GET", "/openapi.json").send().json();
    let described = document["components"]["schemas"]["Problem422"]["allOf"][1]["properties"]["code"]["enum"].as_array().unwrap();
    for word in words {
        assert!(described.contains(&json!(word)) || OF_NO_ANSWER.contains(&word), "{word} is not in api::openapi::answers");
    }
}

/// The attributes of a page that make a browser fetch something.
fn fetched(page: &str) -> Vec<&str> {
    let named = page.split(['"']).collect::<Vec<_>>();
    named.windows(2).filter(|pair| pair[0].ends_with("src=") || pair[0].ends_with("href=")).map(|pair| pair[1]).collect()
}

#[test]
fn the_page_is_there_without_any_other_host() {
    let server = TestServer::start();
    let page = server.call("GET", "/docs").send();
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';") && !policy.contains("unsafe"),
        "{policy}"
    );
    let start = server.call("GET", "/docs/start.js").send();
    for ours in [&page.body, &start.body] {
        assert!(!ours.contains("://") && !ours.contains("\"//"), "{ours}");
    }
    assert!(start.body.contains("\"/openapi.json\""));

    let fetched: Vec<&str> = fetched(&page.body).into_iter().filter(|url| !url.starts_with("data:")).collect();
    assert_eq!(fetched.len(), 4, "{fetched:?}");
    for url in fetched {
        let plain = server.call("GET", url).send();
        assert_eq!(plain.status, 200, "{url}");
        assert!(!plain.body.is_empty() && plain.header("content-encoding").is_none(), "{url}");
        let (_, extension) = url.rsplit_once('.').unwrap();
        let expected = match extension {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            _ => "application/json",
        };
        assert_eq!(plain.header("content-type"), Some(expected));
        let packed = server.call("GET", url).header("accept-encoding", "br, gzip;q=0.5").send();
        if url.contains("swagger-ui") {
            assert_eq!((packed.header("content-encoding"), packed.header("vary")), (Some("gzip"), Some("accept-encoding")));
            let mut unpacked = String::new();
            GzDecoder::new(&packed.bytes[..]).read_to_string(&mut unpacked).unwrap();
            assert!(unpacked == plain.body, "{url} is another file to who takes gzip");
            assert!(packed.bytes.len() * 3 < plain.body.len());
            let refused = server.call("GET", url).header("accept-encoding", "gzip;q=0").send();
            assert_eq!(refused.header("content-encoding"), None);
        }
    }
    server.call("GET", "/docs/no.js").send().problem(404);
}
