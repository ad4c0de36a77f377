//! A directory that is copied while it is written to.

use std::process::Command;

use crate::record::child::{self, Opened};
use crate::record::env_or;
use crate::record::script::Told;

#[test]
fn a_copy_of_a_running_directory_opens_as_a_state_that_was_or_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let copies = env_or("FAISS_PROXY_COPIES", 20) as usize;
    let mut told = child::create(&data_dir);
    let copy = |number: usize| directory.path().join(format!("copy-{number}"));
    // Of each copy, the LSN that was acknowledged of each writer when it was begun.
    let mut begun: Vec<Vec<u64>> = Vec::new();
    let ingested = child::ingest(&data_dir, &mut told, |acks, told, child| {
        if acks % 100 == 0 && begun.len() < copies {
            // Files come and go meanwhile: that `cp` misses some is what this is about.
            let _ = Command::new("cp").arg("-r").arg(&data_dir).arg(copy(begun.len())).output().unwrap();
            begun.push(told.iter().map(|told| told.acks.last().map_or(0, |ack| ack.lsn)).collect());
        }
        if begun.len() == copies {
            let _ = child.kill();
        }
    });
    assert!(begun.len() == copies, "the child ended by itself: {:?}", ingested.failures);

    // Now the LSN of every write is known, and so what every state was.
    let (mut opened, mut refused) = (0, 0);
    for (number, begun) in begun.iter().enumerate() {
        for (index, least) in child::open(&copy(number), &mut told).into_iter().zip(begun.chunks(2)) {
            match index {
                Ok(Opened { lsn, found, told, .. }) => {
                    let known = |told: &Told| told.writer.after(told.check(&found, lsn).0).len();
                    assert_eq!(found.len(), told.iter().map(known).sum::<usize>(), "points that nobody stored");
                    assert!(
                        least.iter().all(|&least| lsn >= least),
                        "copy {number} is at LSN {lsn}, and was begun after {least:?}"
                    );
                    opened += 1;
                }
                Err(reason) => {
                    assert!(reason.contains("refuses until it is restored"), "{reason}");
                    refused += 1;
                }
            }
        }
    }
    assert!(opened > 0, "every copy was refused");
    println!("{copies} copies under load: {opened} indices opened as a state that was, {refused} refused");
}
