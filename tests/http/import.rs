//! `faiss-proxy import` and `faiss-proxy export`, as processes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use faiss_proxy::{Durability, Index, IndexSpec, Lsn, Metric, Store, StoreOptions, TenantId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{ServerProcess, program};

/// Id → values, bit for bit, and metadata.
pub type Points = BTreeMap<String, (Vec<u32>, String)>;

pub fn tool(work: &str, dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
    command.env_remove("FAISS_DATA_DIR").env("RUST_LOG", "off").current_dir(dir.path());
    command.args([work, "--data-dir", "data", "--tenant", "tenant-1", "--json"]);
    command
}

/// A directory for files, with an empty data directory in it.
pub fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    dir
}

pub fn import(dir: &TempDir, arguments: &[&str]) -> Output {
    tool("import", dir).args(arguments).output().unwrap()
}

#[track_caller]
pub fn succeeds(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    lines(output).pop().unwrap()
}

#[track_caller]
pub fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn lines(output: &Output) -> Vec<Value> {
    std::str::from_utf8(&output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn tenant() -> TenantId {
    TenantId::new("tenant-1").unwrap()
}

/// What an index has, and its last mutation, which must be in a checkpoint.
pub fn points(dir: &TempDir, index: &Value) -> (Points, Lsn) {
    let store = Store::open(StoreOptions::new(dir.path().join("data"))).unwrap();
    let index = store.index(&tenant(), index.as_str().unwrap().parse().unwrap()).unwrap();
    let info = index.info();
    assert_eq!(info.lsn, info.checkpoint_lsn);
    let mut points = Points::new();
    let visited = index.visit(|point| {
        points.insert(point.id, (point.values.iter().map(|value| value.to_bits()).collect(), point.metadata));
        Ok::<(), faiss_proxy::Error>(())
    });
    (points, visited.unwrap())
}

/// An array of NumPy's.
fn npy(dir: &TempDir, name: &str, descr: &str, shape: (usize, usize), bytes: &[u8]) {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape:?}, }}");
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let length = (header.len() as u16).to_le_bytes();
    let file = [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), bytes].concat();
    fs::write(dir.path().join(name), file).unwrap();
}

fn bytes_of<const N: usize>(values: &[f32], bytes: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|value| bytes(*value)).collect()
}

/// Rows of two values, no two alike.
fn npy_of_rows(dir: &TempDir, name: &str, rows: usize) {
    let values: Vec<f32> = (0..rows * 2).map(|n| n as f32 / 3.0).collect();
    npy(dir, name, "<f4", (rows, 2), &bytes_of(&values, f32::to_le_bytes));
}

#[test]
fn an_array_of_any_float_becomes_points_whose_ids_are_row_numbers() {
    let dir = directory();
    // All are 16-bit floats too: 1, -0.5, 0, 65504, the smallest that is not 0, and -0.
    let values = [1.0, -0.5, 0.0, 65504.0, 2_f32.powi(-24), -0.0];
    let halves = [0x3c00_u16, 0xb800, 0x0000, 0x7bff, 0x0001, 0x8000];
    npy(&dir, "f2.npy", "<f2", (3, 2), &halves.map(u16::to_le_bytes).concat());
    npy(&dir, "f4.npy", "<f4", (3, 2), &bytes_of(&values, f32::to_le_bytes));
    npy(&dir, "f4-big.npy", ">f4", (3, 2), &bytes_of(&values, f32::to_be_bytes));
    npy(&dir, "f8.npy", "<f8", (3, 2), &bytes_of(&values, |value| f64::from(value).to_le_bytes()));
    npy(&dir, "f8-big.npy", ">f8", (3, 2), &bytes_of(&values, |value| f64::from(value).to_be_bytes()));
    let expected: Points = values
        .chunks(2)
        .enumerate()
        .map(|(row, values)| (row.to_string(), (values.iter().map(|value| value.to_bits()).collect(), "{}".to_owned())))
        .collect();
    for name in ["f2.npy", "f4.npy", "f4-big.npy", "f8.npy", "f8-big.npy"] {
        let report = succeeds(&import(&dir, &["--create", name, name]));
        assert_eq!((&report["rows"], &report["stored"], &report["dimension"]), (&json!(3), &json!(3), &json!(2)));
        assert_eq!(points(&dir, &report["index"]), (expected.clone(), 1), "{name}");
    }
    // Narrowed, to the nearest.
    npy(&dir, "fine.npy", "<f8", (1, 1), &0.1_f64.to_le_bytes());
    let report = succeeds(&import(&dir, &["--create", "fine", "fine.npy"]));
    assert_eq!(points(&dir, &report["index"]).0["0"].0, [0.1_f32.to_bits()]);
}

#[test]
fn ids_and_metadata_come_from_the_lines_of_another_file() {
    let dir = directory();
    npy_of_rows(&dir, "v.npy", 4);
    let text = "{\"id\": \"a\", \"metadata\": {\"n\" : 1.50}}\n{\"metadata\": {\"n\": 2}}\n{\"id\": \"ü\"}\n{}";
    fs::write(dir.path().join("p.jsonl"), text).unwrap();
    let report = succeeds(&import(&dir, &["--create", "n", "--metric", "ip", "v.npy", "--points", "p.jsonl"]));
    let (found, _) = points(&dir, &report["index"]);
    let metadata: Vec<_> = found.iter().map(|(id, (_, metadata))| (id.as_str(), metadata.as_str())).collect();
    assert_eq!(metadata, [("1", "{\"n\": 2}"), ("3", "{}"), ("a", "{\"n\" : 1.50}"), ("ü", "{}")]);
    assert_eq!(found["ü"].0, [4.0_f32 / 3.0, 5.0 / 3.0].map(f32::to_bits));
}

#[test]
fn an_import_that_was_killed_goes_on_where_it_was() {
    const ROWS: usize = 40_000;
    let dir = directory();
    npy_of_rows(&dir, "v.npy", ROWS);
    let line = |row: usize| format!("{{\"id\": \"point {row}\", \"metadata\": {{\"row\": {row}}}}}\n");
    let fifo = dir.path().join("p.jsonl");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let arguments = ["--create", "n", "v.npy", "--points", "p.jsonl"];
    let mut child = tool("import", &dir).args(arguments).stdout(Stdio::null()).spawn().unwrap();
    // It takes the lines of a batch when the batch before is stored; the pipe and its buffer hold less than a tenth of these.
    let mut pipe = fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    for row in 0..ROWS - 1 {
        pipe.write_all(line(row).as_bytes()).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(pipe);
    fs::remove_file(&fifo).unwrap();
    fs::write(&fifo, (0..ROWS).map(line).collect::<String>()).unwrap();

    let report = succeeds(&import(&dir, &arguments));
    let count = |report: &Value, field: &str| report[field].as_u64().unwrap();
    assert!((10_000..ROWS as u64).contains(&count(&report, "already_there")), "{report}");
    assert_eq!(count(&report, "already_there") + count(&report, "stored"), ROWS as u64);
    let (found, lsn) = points(&dir, &report["index"]);
    assert_eq!((found.len(), lsn), (ROWS, 4), "each batch is one mutation");
    for row in 0..ROWS {
        let values = [2 * row, 2 * row + 1].map(|n| (n as f32 / 3.0).to_bits());
        assert_eq!(found[&format!("point {row}")], (values.to_vec(), format!("{{\"row\": {row}}}")));
    }
    let again = succeeds(&import(&dir, &arguments));
    assert_eq!((count(&again, "already_there"), &again["index"]), (ROWS as u64, &report["index"]));
    assert_eq!(points(&dir, &again["index"]).1, lsn);
}

#[test]
fn a_point_that_is_there_with_one_other_bit_is_replaced() {
    let dir = directory();
    let zero = |sign: f32| bytes_of(&[1.0, 0.0 * sign], f32::to_le_bytes);
    npy(&dir, "v.npy", "<f4", (1, 2), &zero(1.0));
    fs::write(dir.path().join("p.jsonl"), "{\"metadata\": {\"a\":1}}").unwrap();
    let arguments = ["--create", "n", "v.npy", "--points", "p.jsonl"];
    let report = succeeds(&import(&dir, &arguments));
    npy(&dir, "v.npy", "<f4", (1, 2), &zero(-1.0));
    assert_eq!(succeeds(&import(&dir, &arguments))["stored"], 1);
    assert_eq!(succeeds(&import(&dir, &arguments))["already_there"], 1);
    fs::write(dir.path().join("p.jsonl"), "{\"metadata\": {\"a\": 1}}").unwrap();
    assert_eq!(succeeds(&import(&dir, &arguments))["stored"], 1);
    let store = Store::open(StoreOptions::new(dir.path().join("data"))).unwrap();
    let index = store.index(&tenant(), report["index"].as_str().unwrap().parse().unwrap()).unwrap();
    let point = index.get("0").unwrap().unwrap();
    assert_eq!((point.values[1].to_bits(), point.metadata.as_str()), ((-0.0_f32).to_bits(), "{\"a\": 1}"));
}

#[test]
fn what_cannot_be_stored_is_named_by_file_and_row_and_can_be_passed_over() {
    let dir = directory();
    let write = |values: &[f32], lines: &str| {
        npy(&dir, "v.npy", "<f4", (values.len() / 2, 2), &bytes_of(values, f32::to_le_bytes));
        fs::write(dir.path().join("p.jsonl"), lines).unwrap();
    };
    let three = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let (long, large) = ("x".repeat(513), "x".repeat(64 << 10));
    let cases: &[(&[f32], &str, &str, &str)] = &[
        (&[1.0, 2.0, f32::NAN, 4.0, 5.0, 6.0], "{}\n{}\n{}", "v.npy: row 1", "position 0 is not a finite"),
        (&[1.0, 2.0, 3.0, f32::INFINITY, 5.0, 6.0], "{}\n{}\n{}", "v.npy: row 1", "position 1 is not a finite"),
        (&three, &format!("{{}}\n{{\"id\": \"{long}\"}}\n{{}}"), "p.jsonl: line 2", "1 to 512 bytes"),
        (&three, "{}\n{\"id\": \"\"}\n{}", "p.jsonl: line 2", "1 to 512 bytes"),
        (&three, &format!("{{}}\n{{\"metadata\": {{\"a\": \"{large}\"}}}}\n{{}}"), "p.jsonl: line 2", "at most 65536 bytes"),
        (&three, "{\"id\": \"a\"}\n{\"id\": \"a\"}\n{}", "p.jsonl: line 2", "\"a\" came before"),
        (&three, "{\"id\": \"1\"}\n{}\n{}", "p.jsonl: line 2", "\"1\" came before"),
        (&three, "{}\n{\"id\": 7}\n{}", "p.jsonl: line 2", "id: must be a string"),
        (&three, "{}\n{\"metadata\": []}\n{}", "p.jsonl: line 2", "a JSON object"),
        (&three, "{}\n{\"meta\": {}}\n{}", "p.jsonl: line 2", "unknown field `meta`"),
        (&three, "{}\n{\"values\": [1, 2]}\n{}", "p.jsonl: line 2", "from the other file"),
        (&three, "{}\n{\n{}", "p.jsonl: line 2", "no point in JSON"),
        (&three, "{}\n\n{}", "p.jsonl: line 2", "no JSON object"),
        (&three, "{}\n{}\n", "v.npy: row 2", "no line for it"),
        (&three[..4], "{}\n{}\n{}\n", "p.jsonl: line 3", "no row for it"),
    ];
    for (number, (values, lines_of_points, place, why)) in cases.iter().enumerate() {
        write(values, lines_of_points);
        let name = format!("case {number}");
        let arguments = ["--create", &name, "v.npy", "--points", "p.jsonl"];
        let said = refused(&import(&dir, &arguments));
        assert!(said.contains(place) && said.contains(why), "{said}");
        let output = import(&dir, &[&arguments[..], &["--skip-invalid"]].concat());
        let report = succeeds(&output);
        assert_eq!((&report["stored"], &report["invalid"], &report["rows"]), (&json!(2), &json!(1), &json!(3)), "{place} {why}");
        let told = &lines(&output)[0];
        assert!(told["invalid"].as_str().unwrap().contains(place) && told["reason"].as_str().unwrap().contains(why), "{told}");
        assert_eq!(points(&dir, &report["index"]).0.len(), 2);
    }
    // Beyond the f32.
    npy(&dir, "v.npy", "<f8", (2, 1), &[1.0, 1e39_f64].map(f64::to_le_bytes).concat());
    let said = refused(&import(&dir, &["--create", "beyond", "v.npy"]));
    assert!(said.contains("v.npy: row 1: ") && said.contains("not a finite 32-bit float"), "{said}");
}

#[test]
fn what_was_stored_before_a_wrong_row_is_told_of_and_stays() {
    let dir = directory();
    let mut values = vec![1.0_f32; 20_001];
    values[20_000] = f32::NAN;
    npy(&dir, "v.npy", "<f4", (20_001, 1), &bytes_of(&values, f32::to_le_bytes));
    let said = refused(&import(&dir, &["--create", "n", "v.npy"]));
    assert!(said.contains("v.npy: row 20000: ") && said.contains("20000 rows before it are stored"), "{said}");
    values[20_000] = 2.0;
    npy(&dir, "v.npy", "<f4", (20_001, 1), &bytes_of(&values, f32::to_le_bytes));
    let report = succeeds(&import(&dir, &["--create", "n", "v.npy"]));
    assert_eq!((&report["already_there"], &report["stored"]), (&json!(20_000), &json!(1)));
}

#[test]
fn what_is_wrong_with_the_whole_is_said_before_anything_is_written() {
    let dir = directory();
    npy_of_rows(&dir, "v.npy", 3);
    let index = succeeds(&import(&dir, &["--create", "n", "v.npy"]))["index"].clone();
    let before = points(&dir, &index);
    npy(&dir, "three.npy", "<f4", (1, 3), &[0; 12]);
    npy(&dir, "short.npy", "<f4", (4, 2), &[0; 31]);
    npy(&dir, "huge.npy", "<f4", (usize::MAX / 4, 3), &[0; 32]);
    npy(&dir, "whole.npy", "<i8", (1, 2), &[0; 16]);
    fs::write(dir.path().join("text.npy"), "not an array").unwrap();
    fs::write(dir.path().join("v.txt"), "1 2").unwrap();
    fs::write(dir.path().join("odd.fvecs"), [2_u8; 13]).unwrap();
    fs::write(dir.path().join("empty.jsonl"), "\n\n").unwrap();
    fs::write(dir.path().join("wrong.jsonl"), "\n{\"values\": 1}\n").unwrap();
    for (name, why) in [
        ("three.npy", "three.npy: its vectors have 3 values, and those of the index 2"),
        ("short.npy", "the file has 159 bytes"),
        ("huge.npy", "no file has"),
        ("whole.npy", "'<i8'"),
        ("text.npy", "no .npy file"),
        ("absent.npy", "absent.npy: No such file"),
        ("v.txt", "--format"),
        ("odd.fvecs", "has 13 bytes"),
        ("empty.jsonl", "there is no point in it"),
        ("wrong.jsonl", "wrong.jsonl: line 2: values: must be an array"),
    ] {
        let said = refused(&import(&dir, &["--index", index.as_str().unwrap(), name]));
        assert!(said.contains(why), "{said}");
    }
    let said = refused(&import(&dir, &["--create", "x", "--index-type", "Nonsense", "v.npy"]));
    assert!(said.contains("--create x: ") && said.contains("Nonsense"), "{said}");
    let said = refused(&import(&dir, &["--index", "67e55044-10b1-426f-9247-bb680e5fe0c8", "v.npy"]));
    assert!(said.contains("no such index"), "{said}");
    assert_eq!(points(&dir, &index), before);
}

#[test]
fn a_dry_run_checks_everything_and_stores_nothing() {
    let dir = directory();
    npy_of_rows(&dir, "v.npy", 3);
    let report = succeeds(&import(&dir, &["--create", "n", "--dry-run", "v.npy"]));
    assert_eq!((&report["index"], &report["stored"], &report["dry_run"]), (&Value::Null, &json!(3), &json!(true)));
    assert!(!dir.path().join("data/tenant-1").exists());
    let said = refused(&import(&dir, &["--create", "n", "--index-type", "PQ7", "--dry-run", "v.npy"]));
    assert!(said.contains("PQ7"), "{said}");
    let index = succeeds(&import(&dir, &["--create", "n", "v.npy"]))["index"].clone();
    npy(&dir, "v.npy", "<f4", (2, 2), &bytes_of(&[7.0, 8.0, f32::NAN, 1.0], f32::to_le_bytes));
    let said = refused(&import(&dir, &["--index", index.as_str().unwrap(), "--dry-run", "v.npy"]));
    assert!(said.contains("v.npy: row 1"), "{said}");
    npy_of_rows(&dir, "v.npy", 5);
    let report = succeeds(&import(&dir, &["--index", index.as_str().unwrap(), "--dry-run", "v.npy"]));
    assert_eq!((&report["stored"], &report["lsn"]), (&json!(5), &Value::Null));
    assert_eq!(points(&dir, &index).1, 1);
}

#[test]
fn the_directory_of_a_running_server_is_left_alone() {
    let dir = directory();
    npy_of_rows(&dir, "v.npy", 3);
    let data_dir = dir.path().join("data");
    let server = ServerProcess::start(program(&data_dir).args(["--dev", "--listen", "127.0.0.1:0"]));
    let said = refused(&import(&dir, &["--create", "n", "v.npy"]));
    assert!(said.contains("open in another process") && said.contains("--url"), "{said}");
    let arguments = ["--index", "67e55044-10b1-426f-9247-bb680e5fe0c8", "--format", "npy", "--out", "o.npy"];
    let said = refused(&tool("export", &dir).args(arguments).output().unwrap());
    assert!(said.contains("open in another process") && said.contains("--url"), "{said}");
    drop(server);
    let output = tool("import", &dir).arg("v.npy").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "no index is named");
}

#[test]
fn a_running_server_takes_the_points_at_its_url() {
    let dir = directory();
    let odd = odd_index(&dir);
    let arguments = ["--index", odd.as_str().unwrap(), "--format", "jsonl", "--out", "odd.jsonl"];
    succeeds(&tool("export", &dir).args(arguments).output().unwrap());
    let expected = points(&dir, &odd).0;
    let data_dir = dir.path().join("data");
    let server = ServerProcess::start(program(&data_dir).args(["--dev", "--listen", "127.0.0.1:0"]));
    let url = format!("http://{}/", server.address);
    let to_server = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faiss-proxy"));
        command.env("RUST_LOG", "off").env("KEY", "test-key-1").current_dir(dir.path());
        command.args(["import", "--json"]).args(arguments);
        if !arguments.contains(&"--url") {
            command.args(["--url", &url]);
        }
        if !arguments.contains(&"--api-key-env") {
            command.args(["--api-key-env", "KEY"]);
        }
        command.output().unwrap()
    };
    let report = succeeds(&to_server(&["--create", "n", "odd.jsonl"]));
    let told = ["stored", "tenant", "lsn"].map(|field| &report[field]);
    assert_eq!(told, [&json!(11), &json!("tenant-1"), &json!(1)]);
    let again = succeeds(&to_server(&["--create", "n", "odd.jsonl"]));
    assert_eq!((&again["already_there"], &again["index"], &again["lsn"]), (&json!(11), &report["index"], &json!(1)));
    let index = report["index"].as_str().unwrap();
    // One value differs in its last bit.
    fs::write(dir.path().join("one.jsonl"), "{\"id\": \"17\", \"values\": [5, 6, 7.0000005]}").unwrap();
    let dry = succeeds(&to_server(&["--index", index, "--dry-run", "one.jsonl"]));
    assert_eq!((&dry["stored"], &dry["lsn"]), (&json!(1), &Value::Null));
    let dry = succeeds(&to_server(&["--create", "other", "--dry-run", "one.jsonl"]));
    assert_eq!((&dry["stored"], &dry["index"]), (&json!(1), &Value::Null));
    fs::write(dir.path().join("two.jsonl"), "{\"values\": [1, 2]}").unwrap();
    let said = refused(&to_server(&["--index", index, "two.jsonl"]));
    assert!(said.contains("two.jsonl: its vectors have 2 values, and those of the index 3"), "{said}");
    let said = refused(&to_server(&["--index", "67e55044-10b1-426f-9247-bb680e5fe0c8", "one.jsonl"]));
    assert!(said.contains("404: Index not found"), "{said}");
    let said = refused(&to_server(&["--create", "x", "--index-type", "Nonsense", "one.jsonl"]));
    assert!(said.contains("422: ") && said.contains("Nonsense"), "{said}");
    let said = refused(&to_server(&["--create", "x", "--api-key-env", "ABSENT_KEY", "one.jsonl"]));
    assert!(said.contains("ABSENT_KEY"), "{said}");
    let said = refused(&to_server(&["--create", "x", "--url", "https://127.0.0.1:1", "one.jsonl"]));
    assert!(said.contains("http://"), "{said}");
    server.signal(rustix::process::Signal::TERM);
    server.wait();
    assert_eq!(points(&dir, &report["index"]).0, expected);
    let said = refused(&to_server(&["--create", "n", "odd.jsonl"]));
    assert!(said.contains(&url[..url.len() - 1]), "{said}");
}

/// An index of three values with some odd points in it, of which some were replaced and deleted.
pub fn odd_index(dir: &TempDir) -> Value {
    let store = Store::open(StoreOptions::new(dir.path().join("data"))).unwrap();
    let spec = IndexSpec {
        name: "odd".into(),
        dimension: 3,
        index_type: "Flat".into(),
        metric: Some(Metric::L2),
        ..IndexSpec::default()
    };
    let index = store.create_index(&tenant(), &spec).unwrap();
    let store_points = |index: &Index, points: &[(&str, [f32; 3], &str)]| {
        let mut batch = index.batch();
        points.iter().for_each(|(id, values, metadata)| batch.push(id, values, metadata).unwrap());
        index.upsert(batch, Durability::Fsync).unwrap();
    };
    let smallest = f32::from_bits(1);
    store_points(
        &index,
        &[
            ("plain", [1.0, 2.5, -3.0], "{}"),
            ("replaced", [0.0; 3], "{\"old\":1}"),
            ("deleted", [9.0; 3], "{}"),
            ("extremes", [f32::MAX, f32::MIN_POSITIVE, smallest], "{\"n\": 1.50, \"n\":2e400}"),
            ("thirds", [1.0 / 3.0, -2.0 / 3.0, 16_777_217.0], "{\"a\" : [ 1,2 ] }"),
        ],
    );
    index.checkpoint().unwrap();
    store_points(
        &index,
        &[
            ("replaced", [-0.0, 0.0, 1e-45], "{\r\n  \"broken\": \"line\\n\",\n\t\"ü\": null\n}"),
            ("\u{1F600} \"quoted\" \\ \u{0} \n", [0.1, 0.2, 0.3], "{\"u\": \"\u{2028}\\u0000\"}"),
            ("17", [5.0, 6.0, 7.0], "{}"),
        ],
    );
    index.delete(&["deleted"], Durability::Fsync).unwrap();
    for n in 0..5_u32 {
        let bits = n.wrapping_mul(0x9e37_79b9) & 0xbfff_ffff;
        store_points(&index, &[(&format!("bits {n}"), [f32::from_bits(bits), n as f32, 0.1 * n as f32], "{\"k\":1}")]);
    }
    let id = json!(index.id());
    store.close().unwrap();
    id
}

#[test]
fn what_is_exported_and_imported_again_is_equal_bit_for_bit() {
    let dir = directory();
    let index = odd_index(&dir);
    let (expected, _) = points(&dir, &index);
    assert_eq!(expected.len(), 11);
    for format in FORMATS {
        let file = format!("out.{format}");
        let arguments = ["--index", index.as_str().unwrap(), "--format", format, "--out", &file];
        let report = succeeds(&tool("export", &dir).args(arguments).output().unwrap());
        assert_eq!((&report["points"], &report["dimension"]), (&json!(11), &json!(3)));
        let first = fs::read(dir.path().join(&file)).unwrap();
        let points_file = format!("{file}.points.jsonl");
        let has_points_file = dir.path().join(&points_file).exists();
        assert_eq!(has_points_file, ["npy", "fvecs"].contains(&format));
        let mut arguments_of_import = vec!["--create", format, &file];
        if has_points_file {
            arguments_of_import.extend(["--points", &points_file]);
        }
        let imported = succeeds(&import(&dir, &arguments_of_import));
        assert_eq!(points(&dir, &imported["index"]).0, expected, "{format}");

        let said = refused(&tool("export", &dir).args(arguments).output().unwrap());
        assert!(said.contains("is there already"), "{said}");
        // The order is that of the writes, and the same each time.
        fs::remove_file(dir.path().join(&file)).unwrap();
        let _ = fs::remove_file(dir.path().join(&points_file));
        let again = ["--index", imported["index"].as_str().unwrap(), "--format", format, "--out", &file];
        succeeds(&tool("export", &dir).args(again).output().unwrap());
        assert!(fs::read(dir.path().join(&file)).unwrap() == first, "{format}");
    }
}

#[cfg(not(feature = "parquet"))]
pub const FORMATS: [&str; 3] = ["npy", "jsonl", "fvecs"];
#[cfg(feature = "parquet")]
pub const FORMATS: [&str; 4] = ["npy", "jsonl", "fvecs", "parquet"];

#[cfg(not(feature = "parquet"))]
#[test]
fn a_program_without_parquet_says_how_to_have_one_with_it() {
    let dir = directory();
    let index = odd_index(&dir);
    let export = ["--index", index.as_str().unwrap(), "--format", "parquet", "--out", "o.parquet"];
    for output in [import(&dir, &["--create", "n", "x.parquet"]), tool("export", &dir).args(export).output().unwrap()] {
        assert!(refused(&output).contains("--features parquet"), "{output:?}");
    }
}

/// An archive as `numpy.savez` writes it: names, and the bytes of `.npy` files.
fn npz(dir: &TempDir, name: &str, method: zip::CompressionMethod, arrays: &[(&str, &[u8])]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(dir.path().join(name)).unwrap());
    for (name, bytes) in arrays {
        let options = zip::write::SimpleFileOptions::default().compression_method(method);
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn one_array_of_an_archive_is_read_and_its_checksum_compared() {
    let dir = directory();
    npy_of_rows(&dir, "v.npy", 20_000);
    let array = fs::read(dir.path().join("v.npy")).unwrap();
    let expected = points(&dir, &succeeds(&import(&dir, &["--create", "npy", "v.npy"]))["index"]).0;
    npz(&dir, "v.npz", zip::CompressionMethod::Stored, &[("words", &array)]);
    npz(&dir, "two.npz", zip::CompressionMethod::Stored, &[("a", b"no array"), ("b", &array)]);
    npz(&dir, "packed.npz", zip::CompressionMethod::Deflated, &[("words", &array)]);
    for arguments in [&["v.npz"][..], &["packed.npz"], &["two.npz", "--array", "b"]] {
        let report = succeeds(&import(&dir, &[&["--create", arguments[0]], arguments].concat()));
        assert!(points(&dir, &report["index"]).0 == expected, "{arguments:?}");
    }
    for (arguments, why) in [
        (&["two.npz"][..], "has the arrays a, b: name one with --array"),
        (&["two.npz", "--array", "c"], "has the arrays a, b"),
        (&["two.npz", "--array", "a"], "two.npz: a: "),
        (&["v.npy", "--format", "npz"], "is no .npz file"),
    ] {
        let said = refused(&import(&dir, &[&["--create", "x"], arguments].concat()));
        assert!(said.contains(why), "{said}");
    }
    for name in ["v.npz", "packed.npz"] {
        let mut bytes = fs::read(dir.path().join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(dir.path().join(name), &bytes).unwrap();
        let said = refused(&import(&dir, &["--create", "x", name]));
        assert!(said.contains(&format!("{name}: words: row ")), "{said}");
    }
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let dir = directory();
    npy_of_rows(&dir, "v.npy", 3);
    let index = succeeds(&import(&dir, &["--create", "n", "v.npy"]))["index"].clone();
    let export = |out: &str| {
        let arguments = ["--index", index.as_str().unwrap(), "--format", "npy", "--out", out];
        tool("export", &dir).args(arguments).output().unwrap()
    };
    fs::write(dir.path().join("a.npy.points.jsonl"), "{}").unwrap();
    assert!(refused(&export("a.npy")).contains("a.npy.points.jsonl: is there already"));
    assert!(refused(&export("absent/a.npy")).contains("absent/a.npy: No such file"));
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a.npy.points.jsonl", "data", "v.npy"]);
}

#[test]
fn lines_of_points_need_no_ids_and_may_be_blank_in_between() {
    let dir = directory();
    let mut text = String::new();
    for n in 0..3 {
        writeln!(text, "{{\"values\": [{n}, 1e-3]}}\n").unwrap();
    }
    fs::write(dir.path().join("v.jsonl"), text + "{\"values\": [1, 2, 3]}\n").unwrap();
    let said = refused(&import(&dir, &["--create", "n", "v.jsonl"]));
    assert!(said.contains("v.jsonl: line 7: ") && said.contains("vectors of 2 values"), "{said}");
    let report = succeeds(&import(&dir, &["--create", "n", "--skip-invalid", "v.jsonl"]));
    let (found, _) = points(&dir, &report["index"]);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["0", "1", "2"]);
    assert_eq!(found["2"].0, [2.0_f32, 1e-3].map(f32::to_bits));
}
