//! Project 2B: puts, gets, deletes and scans over replicated stores.

use skerry_raftstore::planted::Planted;
use skerry_tests::lab::{Setup, run};

use super::generic::Generic;

#[test]
fn test_basic_2b() {
    Generic::default().run();
}

#[test]
fn test_concurrent_2b() {
    Generic { clients: 5, ..Generic::default() }.run();
}

#[test]
fn test_unreliable_2b() {
    Generic { clients: 5, unreliable: true, ..Generic::default() }.run();
}

#[test]
fn test_many_partitions_one_client_2b() {
    Generic { partitions: true, ..Generic::default() }.run();
}

#[test]
fn test_many_partitions_many_clients_2b() {
    Generic { clients: 5, partitions: true, ..Generic::default() }.run();
}

#[test]
fn test_persist_one_client_2b() {
    Generic { crash: true, ..Generic::default() }.run();
}

#[test]
fn test_persist_concurrent_2b() {
    Generic { clients: 5, crash: true, ..Generic::default() }.run();
}

#[test]
fn test_persist_concurrent_unreliable_2b() {
    Generic { clients: 5, unreliable: true, crash: true, ..Generic::default() }.run();
}

#[test]
fn test_persist_partition_2b() {
    Generic { clients: 5, crash: true, partitions: true, ..Generic::default() }.run();
}

#[test]
fn test_persist_partition_unreliable_2b() {
    let faults = Generic { unreliable: true, crash: true, partitions: true, ..Generic::default() };
    Generic { clients: 5, ..faults }.run();
}

#[test]
fn test_one_partition_2b() {
    run(&Setup::of(5), async |lab| {
        let region = lab.region_of(b"").await;
        lab.must_transfer_leader(region.id, 1).await;
        // The leader is with the majority.
        lab.separate(&[1, 2, 3]);
        lab.put("k1", "v1").await;
        assert_eq!(lab.get(b"k1").await.as_deref(), Some(&b"v1"[..]));
        for store in [2, 3] {
            lab.must_have(store, "k1", "v1").await;
        }
        for store in [4, 5] {
            assert_eq!(lab.value_on(store, "k1"), None, "store {store} was cut off");
        }
        lab.reunite();
        for store in [4, 5] {
            lab.must_have(store, "k1", "v1").await;
        }

        // The leader is with the minority.
        lab.must_transfer_leader(region.id, 1).await;
        lab.separate(&[1, 2]);
        assert_eq!(lab.get(b"k1").await.as_deref(), Some(&b"v1"[..]));
        lab.put("k1", "changed").await;
        assert_eq!(lab.get(b"k1").await.as_deref(), Some(&b"changed"[..]));
        let (leader, _) = lab.leader_of(region.id).expect("somebody has taken the write");
        assert!([3, 4, 5].contains(&leader), "store {leader} leads without a majority");
        for store in [1, 2] {
            assert_eq!(lab.value_on(store, "k1").as_deref(), Some(&b"v1"[..]), "store {store}");
        }
        lab.reunite();
        lab.put("k2", "v2").await;
        lab.must_have(1, "k2", "v2").await;
        lab.must_have(1, "k1", "changed").await;
    });
}

/// What a lab has seen, it sees again.
#[test]
fn a_lab_is_the_same_twice() {
    let faults = Generic { unreliable: true, crash: true, partitions: true, ..Generic::default() };
    let lab = Generic { clients: 3, rounds: 1, ..faults };
    let traces = || lab.run().iter().map(|summary| summary.trace).collect::<Vec<_>>();
    assert_eq!(traces(), traces());
}

/// The labs can fail: a store that does not sync is found by a test of crashes.
#[test]
fn a_store_that_does_not_sync_is_found_by_2b() {
    let planted = Some(Planted::SkipFsync);
    Generic { crash: true, rounds: 1, planted, ..Generic::default() }.must_fail("durable");
}
