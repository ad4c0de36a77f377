use std::sync::mpsc;

use super::*;
use crate::wal::jetstream::tests::Servers;

#[test]
fn nodes_answer_as_one_store_and_end_in_its_state() {
    run(3, false, |steps| {
        let Some(servers) = Servers::start() else { return };
        answer_as_one_store(&servers.cluster(), &steps);
    });
}

#[test]
fn conditional_writes_that_race_on_two_nodes_are_counted_each_once() {
    let Some(servers) = Servers::start() else { return };
    // Each has a connection of its own.
    count_together(&[Node::new(&servers.cluster()), Node::new(&servers.cluster())], 2, 10);
}

#[test]
fn write_that_is_larger_than_a_frame_is_whole_on_every_node() {
    let Some(servers) = Servers::start() else { return };
    node::large_writes(&servers.cluster());
}

/// With one server there is nobody to go on meanwhile: writers wait for it, or are told that the outcome is not known.
#[test]
fn what_two_nodes_acknowledged_is_on_both_after_the_server_was_killed_twice_under_their_writes() {
    const EACH: usize = 60;
    let Some(mut servers) = Servers::start() else { return };
    let nodes = [Node::new(&servers.cluster()), Node::new(&servers.cluster())];
    let (told, writes) = mpsc::channel();
    let acknowledged: Vec<(String, Lsn)> = std::thread::scope(|scope| {
        for (at, node) in nodes.iter().enumerate() {
            let told = told.clone();
            scope.spawn(move || {
                for n in 0..EACH {
                    let id = format!("{at} {n}");
                    match node.put(&id) {
                        Ok(lsn) => told.send(Some((id, lsn))).unwrap(),
                        Err(Error::OutcomeUnknown(_) | Error::Io(_) | Error::Busy(_)) => told.send(None).unwrap(),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        drop(told);
        let mut acknowledged = Vec::new();
        for (at, write) in writes.iter().enumerate() {
            acknowledged.extend(write);
            if at == 20 || at == 60 {
                servers.kill_and_restart();
            }
        }
        acknowledged
    });
    println!("{} of {} acknowledged", acknowledged.len(), 2 * EACH);
    assert!(acknowledged.len() > EACH);
    assert_equal(&nodes[0].index, &nodes[1].index);
    for (id, lsn) in &acknowledged {
        assert_eq!(nodes[0].index.get(id).unwrap().map(|point| point.lsn), Some(*lsn), "{id}");
    }
    let [one, other] = nodes;
    let one = one.restart(Survival::None);
    assert_equal(&one.index, &other.index);
}
