//! `faiss-proxy import` of what FAISS wrote: index files, and the directories of the first server.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use faiss::{Idx, Index as _, MetricType, index_factory, write_index};
use serde_json::{Value, json};

use crate::import::{directory, import, lines, points, refused, succeeds};

const DIMENSION: u32 = 4;
const ROWS: usize = 200;

fn floats(rows: usize) -> Vec<f32> {
    (0..rows * DIMENSION as usize).map(|n| ((n * 7919 % 1009) as f32 - 500.0) / 3.0).collect()
}

/// Writes an index of [`floats`], whose rows FAISS knows as 1000, 1001, … where it has ids for them.
fn write(path: &Path, factory: &str, rows: usize) {
    let mut index = index_factory(DIMENSION, factory, MetricType::L2).unwrap();
    let floats = floats(rows);
    index.train(&floats).unwrap();
    if factory.starts_with("IDMap") {
        let ids: Vec<Idx> = (0..rows as u64).map(|row| Idx::new(1000 + row)).collect();
        index.add_with_ids(&floats, &ids).unwrap();
    } else {
        index.add(&floats).unwrap();
    }
    write_index(&index, path.to_str().unwrap()).unwrap();
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn whole_vectors_come_out_of_a_faiss_index_under_its_ids() {
    let dir = directory();
    let path = dir.path().join("x.faiss");
    for factory in ["Flat", "HNSW8", "IVF4,Flat", "IDMap,Flat", "IDMap2,Flat", "IDMap,HNSW8", "IDMap,IVF4,Flat"] {
        write(&path, factory, ROWS);
        let report = succeeds(&import(&dir, &["--create", factory, "x.faiss"]));
        let first = if factory.starts_with("IDMap") { 1000 } else { 0 };
        let floats = floats(ROWS);
        let vectors = floats.chunks(DIMENSION as usize).enumerate();
        let expected: BTreeMap<_, _> =
            vectors.map(|(row, vector)| ((first + row).to_string(), (bits(vector), "{}".to_owned()))).collect();
        assert!(points(&dir, &report["index"]).0 == expected, "{factory}");
    }
    for factory in ["PQ2", "SQ8", "IVF4,SQ8", "PCA2,Flat"] {
        write(&path, factory, 1000);
        let said = refused(&import(&dir, &["--create", factory, "x.faiss"]));
        assert!(said.contains("x.faiss: FAISS does not read it") && said.contains("IVFFlat"), "{factory}: {said}");
    }
    write(&path, "Flat", 0);
    assert_eq!(succeeds(&import(&dir, &["--create", "empty", "x.faiss"]))["rows"], 0);
}

#[test]
fn a_damaged_faiss_index_harms_nobody_and_is_told_of() {
    const MUTATIONS: usize = 120;
    let dir = directory();
    let path = dir.path().join("x.faiss");
    let (mut crashed, mut told) = (0, 0);
    for factory in ["HNSW8", "IDMap,IVF4,Flat"] {
        write(&path, factory, ROWS);
        let whole = fs::read(&path).unwrap();
        let mut state = 1_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for number in 0..MUTATIONS {
            let mut bytes = whole.clone();
            match number % 3 {
                0 => bytes.truncate(random(whole.len())),
                1 => bytes[random(200)] ^= 1 << random(8),
                _ => {
                    let at = random(whole.len() - 8);
                    bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes()[..]);
                }
            }
            fs::write(&path, bytes).unwrap();
            let output = import(&dir, &["--create", "x", "--dry-run", "--skip-invalid", "x.faiss"]);
            // One that only changed a float is as good as any.
            if output.status.code() != Some(0) {
                let said = refused(&output);
                assert!(said.contains("x.faiss: "), "{said}");
                crashed += usize::from(said.contains("crashed FAISS"));
                told += 1;
            }
        }
    }
    assert!(told > MUTATIONS / 2, "{told} of {} were noticed, {crashed} of them by a crash", 2 * MUTATIONS);
}

#[test]
fn the_process_that_reads_a_faiss_index_has_limits() {
    let dir = directory();
    let path = dir.path().join("x.faiss");
    write(&path, "Flat", 400_000);
    let said = refused(&import(&dir, &["--create", "x", "--reader-memory-mb", "1", "x.faiss"]));
    assert!(said.contains("x.faiss: "), "{said}");
    assert_eq!(succeeds(&import(&dir, &["--create", "x", "--dry-run", "x.faiss"]))["stored"], 400_000);
    // A vector count that is not there takes no memory for it.
    let mut bytes = fs::read(&path).unwrap();
    bytes[8..16].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    fs::write(&path, bytes).unwrap();
    assert!(refused(&import(&dir, &["--create", "x", "x.faiss"])).contains("x.faiss: "));
    fs::write(&path, "no index").unwrap();
    assert!(refused(&import(&dir, &["--create", "x", "x.faiss"])).contains("x.faiss: FAISS does not read it"));
}

/// A directory as the first server wrote it: `rows` vectors of [`floats`], the ids in the order of its dictionary, and its count.
fn first_server(directory: &Path, rows: usize, vectors: &str, vector_count: usize) {
    fs::create_dir_all(directory).unwrap();
    write(&directory.join("index.faiss"), "Flat", rows);
    let about = json!({
        "id": "046fbca5-c758-47e9-ad07-b985f08d98c5", "name": "old", "dimension": DIMENSION, "index_type": "IndexFlatL2",
        "tenant_id": "tenant-1", "vector_count": vector_count,
    });
    fs::write(directory.join("metadata.json"), about.to_string()).unwrap();
    fs::write(directory.join("vectors.json"), vectors).unwrap();
}

#[test]
fn a_directory_of_the_first_server_comes_over_as_it_was() {
    let dir = directory();
    let text = "{\"b\": {\"n\": 1.50, \"t\": \"\\u00fc\"}, \"a\": {}, \"\\u00fc\": {\"k\": [1, 2]}}";
    first_server(&dir.path().join("old/i"), 3, text, 3);
    let report = succeeds(&import(&dir, &["--create", "old", "old/i"]));
    assert_eq!((&report["stored"], &report["dimension"]), (&json!(3), &json!(DIMENSION)));
    let (found, _) = points(&dir, &report["index"]);
    let floats = floats(3);
    let expected = [("a", 1, "{}"), ("b", 0, "{\"n\": 1.50, \"t\": \"\\u00fc\"}"), ("ü", 2, "{\"k\": [1, 2]}")];
    for ((id, point), (expected_id, row, metadata)) in found.into_iter().zip(expected) {
        let vector = &floats[row * DIMENSION as usize..][..DIMENSION as usize];
        assert_eq!((id.as_str(), point), (expected_id, (bits(vector), metadata.to_owned())));
    }
    first_server(&dir.path().join("old/empty"), 0, "{}", 0);
    assert_eq!(succeeds(&import(&dir, &["--create", "none", "old/empty"]))["rows"], 0);
}

#[test]
fn where_the_first_server_lost_which_row_is_whose_each_point_is_named_and_none_is_guessed() {
    let dir = directory();
    let cases = [
        // Three added and one deleted; three added, of which one was replaced; ids that came to disk before their rows.
        ("deleted", 3, "{\"a\": {}, \"c\": {}}", 2),
        ("replaced", 3, "{\"a\": {}, \"b\": {}}", 3),
        ("torn", 2, "{\"a\": {}, \"b\": {}}", 3),
    ];
    for (name, rows, text, vector_count) in cases {
        let path = format!("old/{name}");
        first_server(&dir.path().join(&path), rows, text, vector_count);
        let said = refused(&import(&dir, &["--create", name, &path]));
        assert!(said.contains("vectors.json: \"a\": ") && said.contains("--rows-as-served"), "{said}");
        assert!(said.contains(&format!("{rows} rows, vectors.json 2 ids, and metadata.json counts {vector_count}")), "{said}");
        let output = import(&dir, &["--create", name, "--skip-invalid", &path]);
        let told = lines(&output);
        let named: Vec<&Value> = told.iter().filter_map(|line| line.get("invalid")).filter(|place| place.is_string()).collect();
        assert_eq!((named.len(), &told[2]["stored"], &told[2]["invalid"]), (2, &json!(0), &json!(2)));
        let report = succeeds(&import(&dir, &["--create", name, "--rows-as-served", &path]));
        assert_eq!(report["stored"], 2);
        let (found, _) = points(&dir, &report["index"]);
        let vectors: Vec<_> = found.into_values().map(|(vector, _)| vector).collect();
        assert_eq!(vectors, floats(2).chunks(DIMENSION as usize).map(bits).collect::<Vec<_>>());
    }
}

#[test]
fn a_directory_that_is_none_of_the_first_server_is_named_by_the_file() {
    let dir = directory();
    let whole = |name: &str| {
        let path = dir.path().join(name);
        first_server(&path, 2, "{\"a\": {}, \"b\": {}}", 2);
        path
    };
    for file in ["metadata.json", "index.faiss", "vectors.json"] {
        let name = format!("no-{file}");
        fs::remove_file(whole(&name).join(file)).unwrap();
        let said = refused(&import(&dir, &["--create", "x", &name]));
        assert!(said.contains(&format!("{file}: No such file")), "{said}");
    }
    for (name, file, text, why) in [
        ("cut", "vectors.json", "{\"a\": {}, \"b", "EOF"),
        ("nan", "vectors.json", "{\"a\": {\"x\": NaN}, \"b\": {}}", "expected value"),
        ("list", "vectors.json", "[1, 2]", "an object with the metadata of each id"),
        ("dimension", "metadata.json", "{\"dimension\": 5, \"vector_count\": 2}", "have 5 values"),
        ("nothing", "metadata.json", "{}", "missing field"),
        ("damaged", "index.faiss", "IxF2", "FAISS does not read it"),
    ] {
        fs::write(whole(name).join(file), text).unwrap();
        let said = refused(&import(&dir, &["--create", "x", name]));
        assert!(said.contains(&format!("{name}/{file}: ")) && said.contains(why), "{said}");
    }
    fs::write(whole("long").join("vectors.json"), "{\"a\": {}, \"b\": {}, \"c\": {}}").unwrap();
    let said = refused(&import(&dir, &["--create", "x", "--rows-as-served", "long"]));
    assert!(said.contains("\"c\": index.faiss has no row for it"), "{said}");
}
