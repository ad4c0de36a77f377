//! A state that fails has a name, and the name brings it back.

use std::path::Path;
use std::process::Command;

use faiss_proxy::io::Io as _;
use faiss_proxy::io::sim::{SimIo, Survival};
use faiss_proxy::{Durability, Metric, TenantId};

use super::mutants::ACKNOWLEDGED_BEFORE_SYNC;
use super::procedure::{Procedure, small_limits};
use super::states::{Only, how_to_replay};
use super::support::{files_below, open_store, spec};
use super::writing;

#[test]
fn state_that_fails_is_named_and_fails_again_alone() {
    let (state, _) = ACKNOWLEDGED_BEFORE_SYNC.procedure().first_failure().unwrap();
    assert!(how_to_replay(&state).contains(&format!("FAISS_PROXY_CRASH_STATE='{state}'")), "{}", how_to_replay(&state));
    // Other ids, salts and times, and the same state.
    let again = Procedure { only: Only::state(&state), ..ACKNOWLEDGED_BEFORE_SYNC.procedure() };
    assert_eq!(again.first_failure().map(|(state, _)| state), Some(state.clone()));
    let sound = Procedure { only: Only::state(&state), ..writing::append() };
    assert_eq!((sound.first_failure(), sound.crash_everywhere().states), (None, 1));
}

#[test]
fn state_that_the_environment_names_is_the_only_one_that_is_opened() {
    let test = "acked_write_survives_crash_at_every_operation_of_append_and_rotation";
    let run = |state: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", test, "--nocapture"]).env("FAISS_PROXY_CRASH_STATE", state).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("append and rotate: crash at 20, then None").contains("points, 1 distinct states"));
    assert!(run("append and rotate: crash at 20, then nothing").contains("points, 0 distinct states"));
}

#[test]
fn opening_does_the_same_in_the_same_order_each_time() {
    let start = SimIo::new();
    let store = open_store(start.clone(), "/data", &small_limits()).unwrap();
    for tenant in ["a", "b", "c", "d"] {
        let index = store.create_index(&TenantId::new(tenant).unwrap(), &spec(4, Metric::L2)).unwrap();
        // What no watermark covers is written again at the opening.
        let mut batch = index.batch();
        batch.push("x", &[1.0; 4], "{}").unwrap();
        index.upsert(batch, Durability::Fsync).unwrap();
    }
    let steps = |_| {
        let disk = start.fork();
        open_store(disk.clone(), "/data", &small_limits()).unwrap();
        disk.trace()
    };
    let first = steps(0);
    assert!((1..20).map(steps).all(|again| again == first), "a crash at some operation is not always the same crash");
}

/// Every file by its name without the index's id, with its length and which of its sectors are zeros.
fn outline(disk: &SimIo) -> Vec<(String, usize, Vec<bool>)> {
    let files = files_below(disk, Path::new("/data")).into_iter().map(|path| {
        let name = path.components().skip(4).map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
        let bytes = disk.map(&path).unwrap();
        (name, bytes.len(), bytes.chunks(512).map(|sector| sector.iter().all(|byte| *byte == 0)).collect())
    });
    files.collect()
}

#[test]
fn seed_leaves_the_same_disk_in_every_run_whatever_the_ids_and_salts_are() {
    let procedures = [writing::append(), writing::append()];
    let mut outlines = std::collections::BTreeSet::new();
    for n in (3..60).step_by(4) {
        for seed in 0..10 {
            let [one, other] = procedures.each_ref().map(|procedure| {
                let disk = procedure.start.fork();
                disk.crash_at(n);
                procedure.run(&disk);
                outline(&disk.crash(Survival::Random(seed)))
            });
            assert_eq!(one, other, "crash at {n}, seed {seed}");
            outlines.insert(one);
        }
    }
    println!("{} disks of different outlines were brought back", outlines.len());
    assert!(outlines.len() > 20, "{}", outlines.len());
}
