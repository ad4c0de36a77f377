//! The fuzzer `store` without a fuzzer: the sequences that are kept in `fuzz/seeds/store`, and some bytes that nobody chose.

#[path = "support/driven.rs"]
mod driven;
mod support;

use driven::Counts;
use support::{Chance, env_or};

#[test]
fn every_kept_sequence_keeps_the_store_s_promises() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/store");
    let (mut kept, mut counts) = (0, Counts::default());
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        counts += driven::run(&std::fs::read(path).unwrap());
        kept += 1;
    }
    println!("{kept} sequences: {counts:?}");
    assert!(kept > 5 && counts.steps > 50 && counts.openings > 20 && counts.crashes > 2, "{counts:?}");
}

/// The same run as the fuzzer's, but for what guides it: whatever the bytes, they are a sequence of steps. A seed that fails is printed last.
#[test]
fn any_bytes_are_a_sequence_that_keeps_the_store_s_promises() {
    let (sequences, mut counts) = (env_or("FAISS_PROXY_SEQUENCES", 200), Counts::default());
    for seed in 0..sequences {
        let mut chance = Chance::new(seed);
        let bytes: Vec<u8> = (0..chance.below(2_000)).map(|_| chance.next() as u8).collect();
        println!("seed {seed}");
        counts += driven::run(&bytes);
    }
    println!("{sequences} sequences: {counts:?}");
    assert!(counts.steps > 2 * sequences && counts.openings > sequences, "{counts:?}");
}
