//! Files of ours in the hands of Python's stock FAISS.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::io::os::OsIo;

/// Reads indexes, asks each for the neighbours of the queries that come on standard input, and prints its dimensions, its rows and a line of positions for each query.
const SCRIPT: &str = "
import sys, numpy, faiss
faiss.omp_set_num_threads(1)
queries = numpy.frombuffer(sys.stdin.buffer.read(), dtype='float32').reshape(-1, int(sys.argv[1]))
for path in sys.argv[2:]:
    index = faiss.read_index(path)
    print(index.d, index.ntotal)
    for row in index.search(queries, 10)[1]:
        print(*row)
";

/// A Python with `faiss-cpu`, made once below the target directory; `None`, with the reason printed, where there can be none.
fn python() -> Option<PathBuf> {
    let target = std::env::current_exe().ok()?.ancestors().nth(2)?.to_owned();
    let venv = target.join("python-faiss");
    let python = venv.join("bin/python");
    let has_faiss =
        || Command::new(&python).args(["-c", "import faiss, numpy"]).output().is_ok_and(|output| output.status.success());
    if has_faiss() {
        return Some(python);
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).output();
    if !made.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no python3 with venv");
        return None;
    }
    let pip = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--timeout",
        "20",
        "--retries",
        "1",
        "faiss-cpu",
        "numpy",
    ];
    let _ = Command::new(&python).args(pip).output();
    if has_faiss() {
        return Some(python);
    }
    println!("skipped: pip cannot install faiss-cpu here");
    None
}

const TYPES: [&str; 15] = [
    "HNSW16",
    "HNSW16,SQ8",
    "HNSW16,PQ1x6",
    "NSG16",
    "SQ8",
    "SQfp16",
    "PQ1x6",
    "PQ1x4fs",
    "IVF8,Flat",
    "IVF8,SQ8",
    "IVF8,PQ1x6",
    "IVF8_HNSW8,Flat",
    "LSH",
    "RQ2x4",
    "PCA8,Flat",
];

#[test]
fn stock_python_opens_the_files_and_finds_the_same_neighbours() {
    let Some(python) = python() else { return };
    let directory = tempfile::tempdir().unwrap();
    let dimension = 17;
    for metric in METRICS {
        let fixture = Fixture::new(&rows(500, dimension, 6), dimension, metric);
        let queries: Vec<f32> = (0..20)
            .flat_map(|seed| {
                // Python's caller does not normalise: the file does.
                let stretch = 1.0 + seed as f32;
                fixture.query(seed).into_iter().map(move |x| if metric == Metric::Cosine { x * stretch } else { x })
            })
            .collect();
        let recipes: Vec<Recipe> = TYPES.iter().filter_map(|factory| Recipe::new(factory, metric, dimension).ok()).collect();
        let mut command = Command::new(&python);
        command.args(["-c", SCRIPT]).arg(dimension.to_string());
        let mut ours = Vec::new();
        for (number, recipe) in recipes.iter().enumerate() {
            let path = directory.path().join(format!("{}-{number}.faiss", metric.as_str()));
            let options = BuildOptions {
                ef_construction: 40,
                tuning: recipe.tuning(&IndexOptions::default()),
                min_recall: 0.0,
                threads: 1,
            };
            let built =
                build(&OsIo, &path, recipe, &options, &fixture.sealed, &fixture.extreme, &AtomicBool::new(false)).unwrap();
            let Built::Ann { file, tuning, .. } = built else { panic!("{built:?}") };
            ours.push(Ann::open(&OsIo, &path, file, recipe, tuning, Arc::clone(&fixture.sealed), &fixture.extreme).unwrap());
            command.arg(&path);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytemuck::cast_slice(&queries)).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text.lines();
        for (recipe, ann) in recipes.iter().zip(&ours) {
            let factory = recipe.factory();
            assert_eq!(lines.next(), Some("17 500"), "{factory}: the user's own dimension");
            let mut same = 0;
            let bare = Params { rescore: Some(false), ..Params::default() };
            for (seed, line) in (0..20).zip(&mut lines) {
                let theirs: BTreeSet<usize> = line.split(' ').filter_map(|label| label.parse().ok()).collect();
                let ours = found(ann, &fixture.query(seed), 10, &bare, &Positions::default());
                same += ours.iter().filter(|(position, _)| theirs.contains(position)).count();
            }
            println!("{factory:16} {:6}: {same} of 200 neighbours are the same", metric.as_str());
            // Kernels that round another way are all that may differ.
            assert!(same >= 196, "{factory} {metric:?}");
        }
    }
}
