//! A replica whose log ends with entries that nobody else has, and is told of others in their place.

use super::*;
use crate::engine::log::LogEngine;
use crate::message::ApplyMessage;

/// Whatever a store lets its appliers write down as committed is in its log at that moment: they may be faster than the
/// log, and a start takes it for a promise.
pub(super) fn assert_promises_are_kept(machine: &Machine) {
    for message in machine.store.appliers.iter().flat_map(|(_, waiting)| waiting) {
        let ApplyMessage::Apply(task) = message else { continue };
        let entry = machine.log.entry(task.region_id.get(), task.commit_index).expect("in memory");
        let term = entry.map(|entry| entry.term);
        let promised = (task.commit_index, Some(task.commit_term));
        assert_eq!((task.commit_index, term), promised, "the log has another entry still");
    }
}

#[test]
fn what_is_written_down_as_committed_is_in_the_log() {
    let mut cluster = Cluster::led(3, 3);
    done(cluster.put(1, "a", "1"));
    let old = cluster.leader(1).0;
    // All have the first of two entries, and the leader does not hear so; the second one stays with it.
    let _unknown = cluster.begin_put(1, "b", "2");
    let machine = cluster.machine(old);
    turn_all(&mut machine.store).expect("nothing fails");
    machine.is_cut_off = true;
    machine.store.take_sent().into_iter().for_each(|message| cluster.deliver(message));
    let _lost = cluster.begin_put(1, "c", "3");
    cluster.run(60);
    assert_ne!(cluster.leader(1).0, old, "it does not lead any more");
    cluster.machine(old).is_cut_off = false;
    cluster.run(60);
    done(cluster.put(1, "d", "4"));
    cluster.restart(old);
    cluster.run(10);
}

/// What was proposed may be among what the snapshot stands for: to repeat it would be wrong.
#[test]
fn a_proposal_that_a_snapshot_has_overtaken_is_unknown() {
    let mut cluster = Cluster::led(3, 3);
    let old = cluster.leader(1).0;
    let overtaken = cluster.begin_put(1, "a", "1");
    let machine = cluster.machine(old);
    turn_all(&mut machine.store).expect("nothing fails");
    machine.is_cut_off = true;
    machine.store.take_sent().into_iter().for_each(|message| cluster.deliver(message));
    // Sooner than the old leader gives it up by itself.
    while cluster.leader(1).0 == old {
        cluster.run(1);
    }
    let new = cluster.leader(1).0;
    for key in ["b", "c", "d", "e", "f", "g"] {
        done(cluster.put(1, key, "v"));
    }
    assert_eq!(cluster.value_on(new, "a").as_deref(), Some("1"), "it is done");
    cluster.cut_log(1);
    let cut = cluster.leader(1).1.truncated;
    cluster.machine(old).is_cut_off = false;
    while cluster.machine(old).store.inspect()[0].truncated < cut {
        cluster.run(1);
    }
    assert_eq!(cluster.value_on(old, "a").as_deref(), Some("1"), "a snapshot has brought it");
    done(cluster.put(1, "h", "v"));
    cluster.run(2);
    let outcome = overtaken.try_recv();
    assert!(matches!(outcome, Ok(Outcome::Unknown(_))), "{outcome:?}");
}
