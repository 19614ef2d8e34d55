//! Who may go on when there is not enough for all: regions that share the credit of a worker, and snapshots that share
//! a limit of bytes a second with nobody but other snapshots that are being built.

use std::time::Duration;

use super::*;
use crate::config::ByteSize;
use crate::engine::log::LogOperation;
use crate::message::{PeerSerial, SnapshotOrder};
use crate::snapshot::Side;

/// The regions, from left to right.
const REGIONS: [u64; 4] = [2, 3, 4, 1];
const ROUNDS: usize = 20;

impl Cluster {
    /// Opens the only store anew with settings that differ from [`config`].
    fn alone_with(changed: impl FnOnce(RaftConfig) -> RaftConfig) -> Cluster {
        let mut cluster = Cluster::new(1, 1);
        cluster.reopen(1, changed(config()));
        cluster.run(2);
        cluster
    }
}

/// Of which regions the log writer is about to write entries, in this order.
fn about_to_append(store: &Store) -> Vec<u64> {
    let operations = store.log_writer.1.iter().flat_map(|task| &task.operations);
    let regions = operations.filter_map(|operation| match operation {
        LogOperation::Append(region_id, _) => Some(*region_id),
        _ => None,
    });
    regions.collect()
}

/// Before, the region with the smallest id was looked at first in every round, and while it had work the others never
/// got a turn.
#[test]
fn regions_that_wait_for_credit_get_it_in_turn_however_busy_each_is() {
    // What one region has under way is all the credit that there is.
    let mut cluster = Cluster::alone_with(|config| RaftConfig {
        workers: 1,
        log_waiting_size_max: ByteSize::kib(1),
        ..config
    });
    cluster.split_at(1, vec!["b".into(), "c".into(), "d".into()], 2);
    let mut appended = Vec::new();
    for round in 0..ROUNDS {
        for (region_id, key) in REGIONS.into_iter().zip(["a", "b", "c", "d"]) {
            drop(cluster.begin_put(region_id, &format!("{key}{round}"), &"v".repeat(1_024)));
        }
        let store = &mut cluster.machine(1).store;
        // Everybody has work before the worker turns; then the slow log writes what it was given, and all goes on.
        let worker =
            (0..store.actors()).find(|actor| matches!(store.locate(*actor), Actor::Worker(_)));
        store.turn(worker.expect("there is one")).expect("it works");
        let taken = about_to_append(store);
        assert_eq!(taken.len(), 1, "there is credit for one: {taken:?}");
        appended.extend(taken);
        let others: Vec<usize> =
            (0..store.actors()).filter(|actor| Some(*actor) != worker).collect();
        while let Some(actor) = others.iter().find(|actor| store.has_work(**actor)) {
            store.turn(*actor).expect("it works");
        }
    }
    let mut in_turn = REGIONS;
    in_turn.sort_unstable();
    for turn in appended.chunks_exact(REGIONS.len()) {
        let mut turn = turn.to_vec();
        turn.sort_unstable();
        assert_eq!(turn, in_turn, "{appended:?}");
    }
    cluster.settle();
}

/// How long building a snapshot of region 1 pauses in all. Time passes in its pauses alone.
fn build(cluster: &mut Cluster) -> Duration {
    let clock = cluster.clock.clone();
    let (_, leader) = cluster.leader(1);
    let store = &mut cluster.machine(1).store;
    let id = SnapshotId { region_id: 1, term: leader.term, index: leader.applied };
    let order = SnapshotOrder {
        serial: PeerSerial(0),
        id,
        region: leader.region,
        view: store.environment.engine.view(),
    };
    let mut paused = Duration::ZERO;
    let mut pause = |wait: Duration| {
        paused += wait;
        clock.advance_ms(u64::try_from(wait.as_millis()).expect("it fits") + 1);
    };
    let tasks = vec![BackgroundTask::BuildSnapshot(Box::new(order))];
    let mut effects = Effects::default();
    store.background.0.round(tasks, &mut pause, &mut effects).expect("memory does not fail");
    let built = store.snapshots().stored().expect("a directory");
    assert_eq!(built, [(id, Side::Sender)].into(), "it is built");
    paused
}

#[test]
fn a_snapshot_is_built_at_the_pace_of_building_whatever_is_sent_and_received_meanwhile() {
    let mut cluster = Cluster::alone_with(|config| RaftConfig {
        snapshot_bytes_per_second: ByteSize(1_000),
        ..config
    });
    for number in 0..20 {
        done(cluster.put(1, &format!("k{number}"), &"v".repeat(1_000)));
    }
    let rates = cluster.machine(1).store.environment.snapshot_rates.clone();
    // Others owe months.
    let owed = rates.sending.take(1 << 34);
    assert_eq!(rates.receiving.take(1 << 34), owed);
    let began = cluster.clock.monotonic();
    let paused = build(&mut cluster);
    assert!((19..30).contains(&paused.as_secs()), "20 KB at 1 KB/s took {paused:?}");
    let passed = cluster.clock.monotonic() - began;
    let (sending, receiving) = (rates.sending.take(0), rates.receiving.take(0));
    assert_eq!(
        (sending + passed, receiving + passed),
        (owed, owed),
        "and they paid nothing for it"
    );
}
