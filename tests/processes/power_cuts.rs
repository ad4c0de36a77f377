//! Power cuts of a real file system, ext4, under load: what was acknowledged with `fsync` is there when its journal was replayed.

use crate::disk::{Journal, Mounted};
use crate::record::child::{self, Ingested};
use crate::record::{Before, Chance, env_or};

#[test]
fn what_was_acknowledged_with_fsync_is_there_after_a_power_cut_under_load() {
    let Some(disk) = Mounted::ext4("power cuts", 64 << 20) else { return };
    let data_dir = disk.path().join("data");
    let mut told = child::create(&data_dir);
    let cuts = env_or("FAISS_PROXY_POWER_CUTS", 15);
    let seed = env_or("FAISS_PROXY_POWER_CUT_SEED", 1);
    println!("{cuts} power cuts, FAISS_PROXY_POWER_CUT_SEED={seed}");
    let mut chance = Chance::new(seed);
    let (mut total, mut lost, mut built) = (0, 0, 0);
    for cut in 0..cuts {
        let count = 1 + chance.below(if cut % 3 == 0 { 20 } else { 500 });
        let journal = if chance.below(3) == 0 { Journal::Flushed } else { Journal::Lost };
        let Ingested { acks, failures } = child::ingest(&data_dir, &mut told, |acks, _, _| {
            if acks == count {
                disk.cut_power(journal);
            }
        });
        assert!(acks >= count, "the child ended before the power was cut: {failures:?}");
        disk.restore_power();
        let settled = child::settle(&data_dir, &mut told, Before::PowerCut);
        (total, lost, built) = (total + acks, lost + settled.lost, built + settled.built);
    }
    println!(
        "{cuts} power cuts after {total} acknowledged writes: lost are {lost} of those with interval durability, and none with fsync; {built} FAISS \
         indexes were found"
    );
    assert!(built > 0, "nothing was built under load");
}
