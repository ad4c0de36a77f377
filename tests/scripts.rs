//! The fuzzer `store` without a fuzzer: the scripts that are kept in `fuzz/seeds/store`, and some bytes that nobody chose.

#[path = "support/script.rs"]
mod script;
mod support;

use script::Counts;
use support::{Chance, env_or};

#[test]
fn every_kept_script_keeps_the_store_s_promises() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/store");
    let (mut kept, mut counts) = (0, Counts::default());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        counts += script::run(&std::fs::read(path).unwrap());
        kept += 1;
    }
    println!("{kept} scripts: {counts:?}");
    assert!(kept > 5 && counts.steps > 50 && counts.openings > 20 && counts.crashes > 2, "{counts:?}");
}

/// The same run as the fuzzer's, but for what guides it: it sees that the interpreter itself is sound, whatever the compiler.
#[test]
fn any_bytes_are_a_script_that_keeps_the_store_s_promises() {
    let (scripts, mut counts) = (env_or("FAISS_PROXY_SCRIPTS", 200), Counts::default());
    for seed in 0..scripts {
        let mut chance = Chance::new(seed);
        let bytes: Vec<u8> = (0..chance.below(2_000)).map(|_| chance.next() as u8).collect();
        println!("seed {seed}");
        counts += script::run(&bytes);
    }
    println!("{scripts} scripts: {counts:?}");
    assert!(counts.steps > 2 * scripts && counts.openings > scripts, "{counts:?}");
}
