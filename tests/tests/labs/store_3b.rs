//! Project 3B: members of regions change, leadership is handed over, regions are cut.
//!
//! Three things are otherwise than in the course, and asserted so. A replica id is given once: who comes back to a
//! store comes as a new replica. A leader that is to be removed refuses and hands over first. A replica comes as a
//! learner and votes when it has caught up.

use bytes::Bytes;
use skerry_proto::eraftpb::ConfChangeType;
use skerry_raftstore::config::{ByteSize, RaftConfig};
use skerry_raftstore::engine::{ColumnFamily, WriteBatch};
use skerry_raftstore::keys::data_key;
use skerry_raftstore::message::{CommandContext, Consistency};
use skerry_raftstore::planted::Planted;
use skerry_raftstore::reply::Refusal;
use skerry_tests::lab::looks::SOON;
use skerry_tests::lab::{Lab, Setup, run};
use skerry_tests::sim::script::{Errand, Told, Wish};
use skerry_tests::sim::trace::{MILLISECOND, SECOND};

use super::generic::Generic;

/// What the tests of changing members have.
fn conf_change() -> Generic {
    Generic { clients: 5, conf_change: true, ..Generic::default() }
}

/// What the tests of splits have.
fn split() -> Generic {
    Generic { clients: 5, split: true, ..Generic::default() }
}

#[test]
fn test_transfer_leader_3b() {
    run(&Setup::of(5), async |lab| {
        let region = lab.region_of(b"").await.id;
        for store in 1..=5 {
            let began = lab.now();
            lab.must_transfer_leader(region, store).await;
            assert!(lab.now() - began <= 5 * SECOND, "store {store} leads too late");
        }
    });
}

#[test]
fn test_basic_conf_change_3b() {
    run(&Setup::of(5), async |lab| {
        let region = lab.region_of(b"").await.id;
        lab.must_transfer_leader(region, 1).await;
        for store in 2..=5 {
            lab.must_remove_peer(region, store).await;
        }
        lab.put("k1", "v1").await;
        lab.must_lack(2, "k1").await;

        let first = lab.must_add_peer(region, 2).await;
        lab.put("k2", "v2").await;
        lab.must_have(2, "k1", "v1").await;
        lab.must_have(2, "k2", "v2").await;
        assert!(lab.region_of(b"").await.epoch().conf_ver > 1);
        lab.must_lack(5, "k1").await;

        lab.must_add_peer(region, 3).await;
        lab.must_remove_peer(region, 2).await;
        lab.put("k3", "v3").await;
        for (key, value) in [("k1", "v1"), ("k2", "v2"), ("k3", "v3")] {
            lab.must_have(3, key, value).await;
        }
        lab.must_lack(2, "k1").await;
        lab.must_lack(2, "k2").await;

        let second = lab.must_add_peer(region, 2).await;
        assert!(second.id > first.id, "{second} comes after {first}");
        for (key, value) in [("k1", "v1"), ("k2", "v2"), ("k3", "v3")] {
            lab.must_have(2, key, value).await;
        }
        lab.must_remove_peer(region, 2).await;
        let third = lab.must_add_peer(region, 2).await;
        assert!(third.id > second.id, "{third} comes after {second}");
        lab.must_remove_peer(region, 3).await;
        lab.put("k4", "v4").await;
        lab.must_have(2, "k1", "v1").await;
        lab.must_have(2, "k4", "v4").await;
        lab.must_lack(3, "k1").await;
        lab.must_lack(3, "k4").await;
    });
}

/// The leader is asked to remove itself, and says that it must hand over.
async fn leader_refuses_to_leave(lab: &Lab, region: u64, store: usize) {
    lab.must_transfer_leader(region, store).await;
    let peer = lab.peer_on(region, store).await.expect("it leads");
    let told = lab.change_peer(region, ConfChangeType::RemoveNode, peer).await;
    assert!(matches!(&told, Some(Told::Refused(Refusal::Admin(_)))), "{told:?}");
    let stays = lab.peer_on(region, store).await;
    assert_eq!(stays.map(|stays| stays.id), Some(peer.id));
}

#[test]
fn test_conf_change_remove_leader_3b() {
    run(&Setup::of(5), async |lab| {
        let region = lab.region_of(b"").await.id;
        leader_refuses_to_leave(&lab, region, 1).await;
        lab.must_remove_peer(region, 1).await;
        lab.put("k0", "v0").await;
        lab.must_have(2, "k0", "v0").await;
        lab.must_lack(1, "k0").await;

        lab.must_add_peer(region, 1).await;
        lab.must_transfer_leader(region, 1).await;
        lab.must_have(1, "k0", "v0").await;
        lab.put("k1", "v1").await;
        lab.must_have(1, "k1", "v1").await;
        for store in 2..=4 {
            lab.must_remove_peer(region, store).await;
        }
        // Of two, the leader goes.
        leader_refuses_to_leave(&lab, region, 1).await;
        lab.must_remove_peer(region, 1).await;
        lab.put("k2", "v2").await;
        lab.must_have(5, "k2", "v2").await;
        lab.must_lack(1, "k2").await;

        lab.must_add_peer(region, 1).await;
        lab.put("k3", "v3").await;
        for (key, value) in [("k1", "v1"), ("k2", "v2"), ("k3", "v3")] {
            lab.must_have(1, key, value).await;
        }
        lab.must_lack(3, "k3").await;
    });
}

#[test]
fn test_one_split_3b() {
    let mut setup = Setup::of(5);
    setup.config = RaftConfig {
        region_size_max: ByteSize(800),
        split_size: ByteSize(500),
        split_check_size: ByteSize(100),
        ..setup.config
    };
    run(&setup, async |lab| {
        lab.put("k1", "v1").await;
        lab.put("k2", "v2").await;
        let whole = lab.region_of(b"k1").await;
        assert_eq!(whole.id, lab.region_of(b"k2").await.id);
        lab.separate(&[5]);
        for number in 100..200 {
            lab.put(format!("k{number}"), format!("v{number}")).await;
        }
        lab.pause(200 * MILLISECOND).await;
        lab.reunite();
        lab.until("the region was cut", SOON, |lab| lab.regions().len() == 2).await;

        let (left, right) = (lab.region_of(b"k1").await, lab.region_of(b"k2").await);
        assert_ne!(left.id, right.id);
        assert_eq!((&left.start_key, &right.end_key), (&whole.start_key, &whole.end_key));
        assert_eq!(left.end_key, right.start_key);
        assert!(left.epoch().version > whole.epoch().version);

        let context = CommandContext {
            region_id: left.region_id(),
            epoch: left.epoch(),
            ..CommandContext::default()
        };
        let (leader, _) = lab.leader_of(left.id).expect("it was led just now");
        let store = lab.store_id(leader);
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Raw, data_key(b"k2"), Bytes::from("elsewhere"));
        let told = lab.ask(Errand { store, context, wish: Wish::Write(batch) }).await;
        let Some(Told::Refused(Refusal::KeyNotInRegion { region, .. })) = told else {
            panic!("a region took another's key: {told:?}")
        };
        assert_eq!(region.id, left.id);
        // A view says of which region it is; whoever reads a key of another is refused by that.
        let wish = Wish::Read(Consistency::Leader);
        let told = lab.ask(Errand { store, context, wish }).await;
        let Some(Told::View(view)) = told else { panic!("no view of {left}: {told:?}") };
        assert!(view.region.contains_key(b"k1") && !view.region.contains_key(b"k2"));

        lab.must_have(5, "k100", "v100").await;
        assert_eq!(lab.get(b"k2").await.as_deref(), Some(&b"v2"[..]));
    });
}

#[test]
fn test_conf_change_recover_3b() {
    Generic { clients: 1, crash: true, ..conf_change() }.run();
}

#[test]
fn test_conf_change_recover_many_clients_3b() {
    Generic { clients: 20, crash: true, ..conf_change() }.run();
}

#[test]
fn test_conf_change_unreliable_3b() {
    Generic { unreliable: true, ..conf_change() }.run();
}

#[test]
fn test_conf_change_unreliable_recover_3b() {
    Generic { unreliable: true, crash: true, ..conf_change() }.run();
}

#[test]
fn test_conf_change_snapshot_unreliable_recover_3b() {
    Generic { unreliable: true, crash: true, log_max: 100, ..conf_change() }.run();
}

#[test]
fn test_conf_change_snapshot_unreliable_recover_concurrent_partition_3b() {
    let faults = Generic { unreliable: true, crash: true, partitions: true, ..conf_change() };
    Generic { log_max: 100, ..faults }.run();
}

#[test]
fn test_split_recover_3b() {
    Generic { clients: 1, crash: true, ..split() }.run();
}

#[test]
fn test_split_recover_many_clients_3b() {
    Generic { clients: 20, crash: true, ..split() }.run();
}

#[test]
fn test_split_unreliable_3b() {
    Generic { unreliable: true, ..split() }.run();
}

#[test]
fn test_split_unreliable_recover_3b() {
    Generic { unreliable: true, crash: true, ..split() }.run();
}

#[test]
fn test_split_conf_change_snapshot_unreliable_recover_3b() {
    let faults = Generic { unreliable: true, crash: true, ..split() };
    Generic { conf_change: true, log_max: 100, ..faults }.run();
}

#[test]
fn test_split_conf_change_snapshot_unreliable_recover_concurrent_partition_3b() {
    let faults = Generic { unreliable: true, crash: true, partitions: true, ..split() };
    Generic { conf_change: true, log_max: 100, ..faults }.run();
}

/// The labs can fail: a replica that is removed without a trace is found.
#[test]
fn a_tombstone_that_is_forgotten_is_found_by_3b() {
    let planted = Some(Planted::TombstoneForgotten);
    Generic { rounds: 1, planted, ..conf_change() }.must_fail("tombstone");
}
