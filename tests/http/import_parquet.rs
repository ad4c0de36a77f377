//! Parquet: files that pyarrow wrote (`tests/data/parquet/make.py`), and our own.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::import::{directory, import, lines, points, refused, succeeds, tool};

fn file(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parquet").join(name).to_str().unwrap().to_owned()
}

fn import_new(dir: &TempDir, arguments: &[&str]) -> std::process::Output {
    import(dir, &[&["--create", arguments[0]], arguments].concat())
}

/// What an index has: id, values and metadata.
fn found(dir: &TempDir, report: &Value) -> Vec<(String, Vec<f32>, String)> {
    let points = points(dir, &report["index"]).0.into_iter();
    points.map(|(id, (values, metadata))| (id, values.into_iter().map(f32::from_bits).collect(), metadata)).collect()
}

#[test]
fn columns_become_ids_vectors_and_fields_of_the_metadata() {
    let dir = directory();
    let path = file("fields.parquet");
    let output = import_new(&dir, &[&path, "--skip-column", "when", "--skip-invalid"]);
    let report = succeeds(&output);
    assert_eq!((&report["stored"], &report["invalid"], &report["dimension"]), (&json!(2), &json!(3), &json!(3)));
    let said: Vec<_> = lines(&output)[..3].iter().map(|line| format!("{} {}", line["invalid"], line["reason"])).collect();
    for (said, (row, why)) in said.iter().zip([
        ("fields.parquet: row 2", "has no vector"),
        ("fields.parquet: row 3", "position 0 is not a finite 32-bit float"),
        ("fields.parquet: row 4", "NaN is no number of JSON"),
    ]) {
        assert!(said.contains(row) && said.contains(why), "{said}");
    }
    let expected = [
        (
            "10",
            vec![0.5, 1.0, 2.0],
            "{\"title\":\"a \\\"b\\\"\\n\",\"year\":1999,\"large\":18446744073709551615,\"score\":0.1,\"good\":true,\"tags\":[\"x\",null]}",
        ),
        ("11", vec![0.1, 0.2, 0.3], "{\"title\":\"ü\",\"large\":0,\"good\":false,\"tags\":[]}"),
    ];
    assert_eq!(found(&dir, &report), expected.map(|(id, values, metadata)| (id.to_owned(), values, metadata.to_owned())));
}

#[test]
fn a_column_of_metadata_is_taken_byte_for_byte() {
    let dir = directory();
    let path = file("metadata.parquet");
    let report = succeeds(&import_new(&dir, &[&path]));
    let expected = [
        ("one", vec![1.0, -0.5], "{\"n\" : 1.50}"),
        ("three", vec![0.0, 3.0], "{}"),
        ("two", vec![65504.0, 2_f32.powi(-24)], "{}"),
    ];
    assert_eq!(found(&dir, &report), expected.map(|(id, values, metadata)| (id.to_owned(), values, metadata.to_owned())));
    // Without a column of ids they are the rows' numbers.
    let report = succeeds(&import_new(&dir, &[&path, "--skip-column", "id", "--skip-column", "metadata", "--create", "n"][..5]));
    assert_eq!(found(&dir, &report)[2], ("2".to_owned(), vec![0.0, 3.0], "{}".to_owned()));
}

#[test]
fn a_column_that_would_be_lost_is_refused_by_its_name() {
    let dir = directory();
    let (fields, metadata) = (file("fields.parquet"), file("metadata.parquet"));
    std::fs::write(dir.path().join("text.parquet"), "PAR1 and no more PAR1").unwrap();
    std::fs::write(dir.path().join("p.jsonl"), "{}").unwrap();
    for (arguments, why) in [
        (
            &[&fields[..]][..],
            "fields.parquet: column \"when\": is of type Timestamp(µs), and that is nothing of JSON: leave it out with --skip-column when",
        ),
        (&[&fields, "--skip-column", "than"], "--skip-column than: there is no such column"),
        (&[&fields, "--column", "vector"], "--column vector: there is no such column among \"id\", \"embedding\""),
        (&[&fields, "--column", "year"], "column \"year\": is of type Int16, and vectors are lists of floats"),
        (&[&fields, "--skip-column", "embedding"], "has no column values, vector, embedding"),
        (&[&metadata, "--points", "p.jsonl"], "--points: "),
        (&["text.parquet"], "text.parquet: "),
    ] {
        let said = refused(&import_new(&dir, arguments));
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn what_is_exported_as_parquet_is_imported_with_an_equal_digest() {
    let dir = directory();
    let first = succeeds(&import_new(&dir, &[&file("metadata.parquet")]))["index"].clone();
    let arguments = ["--index", first.as_str().unwrap(), "--format", "parquet", "--out", "o.parquet"];
    let report = succeeds(&tool("export", &dir).args(arguments).output().unwrap());
    assert_eq!((&report["points"], &report["files"]), (&json!(3), &json!(["./o.parquet"])));
    let second = succeeds(&import_new(&dir, &["o.parquet"]))["index"].clone();
    let digest = |index: &Value| {
        let arguments = ["--index", index.as_str().unwrap()];
        succeeds(&tool("verify", &dir).args(arguments).output().unwrap())["digest"].clone()
    };
    assert_eq!(digest(&first), digest(&second));
    assert!(digest(&first).is_string());
}

/// The crate panics at some of them: that harms the process that reads the file, and nobody else.
#[test]
fn a_damaged_file_harms_nobody_and_is_told_of() {
    const MUTATIONS: usize = 150;
    let dir = directory();
    let (mut told, mut crashed) = (0, 0);
    for name in ["fields.parquet", "metadata.parquet"] {
        let whole = std::fs::read(file(name)).unwrap();
        for n in 0..MUTATIONS {
            let at = n * whole.len() / MUTATIONS;
            let mut bytes = whole.clone();
            match n % 4 {
                0 => bytes[at] ^= 1,
                1 => bytes[at] = !bytes[at],
                2 => bytes[at] |= 0x80,
                _ => bytes.truncate(at),
            }
            std::fs::write(dir.path().join("x.parquet"), bytes).unwrap();
            let mut arguments = vec!["--create", "n", "--dry-run", "--skip-invalid", "--reader-seconds", "20", "x.parquet"];
            if name == "fields.parquet" {
                arguments.extend(["--skip-column", "when"]);
            }
            let output = import(&dir, &arguments);
            if output.status.success() {
                continue;
            }
            let said = refused(&output);
            assert!(said.contains("x.parquet"), "{said}");
            told += 1;
            crashed += usize::from(said.contains("crashed"));
        }
    }
    // Nothing keeps a value of a page without a checksum from being another.
    assert!(told > MUTATIONS, "{told} of {} were noticed, {crashed} of them by a crash", 2 * MUTATIONS);
}
