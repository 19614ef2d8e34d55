//! What holds of every step the rule can take, over clusters of every kind.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use skerry_proto::metapb::{PeerRole, Region, Store, StoreState};
use skerry_proto::pdpb::StoreStats;

use super::*;

const PATIENCE: Patience =
    Patience { disconnected: Duration::from_secs(20), down: Duration::from_secs(1_800) };
const NOW: Moment = Moment { monotonic: Duration::from_secs(10_000), wall_ms: 0 };

/// Five stores: how long each has been silent, and its state.
fn stores() -> impl Strategy<Value = Stores> {
    let silence = prop::sample::select(vec![0, 0, 0, 5, 60, 5_000]);
    let state = prop::sample::select(vec![
        StoreState::Up,
        StoreState::Up,
        StoreState::Up,
        StoreState::Offline,
        StoreState::Tombstone,
    ]);
    prop::collection::vec((silence, state), 5).prop_map(|kinds| {
        let mut stores = Stores::default();
        for (id, (silence, state)) in (1..).zip(kinds) {
            let at = Moment { monotonic: NOW.monotonic - Duration::from_secs(silence), wall_ms: 0 };
            let store = Store { id, ..Store::default() };
            stores.install(store.clone(), at);
            let stats = StoreStats { store_id: id, ..StoreStats::default() };
            stores.heartbeat(stats, at).expect("it is no tombstone yet");
            stores.install(Store { state: state.into(), ..store }, at);
        }
        stores
    })
}

/// A region with replicas on some of the stores, led by one of its voters.
fn records() -> impl Strategy<Value = RegionRecord> {
    let role = prop::sample::select(vec![PeerRole::Voter, PeerRole::Voter, PeerRole::Learner]);
    let peer = (1..=5_u64, role, prop::bool::weighted(0.2));
    prop::collection::vec(peer, 1..=5).prop_map(|drawn| {
        let mut record = RegionRecord::silent(Region { id: 2, ..Region::default() });
        for (id, (store_id, role, is_pending)) in (10..).zip(drawn) {
            let peer = Peer { id, store_id, role: role.into() };
            if record.region.peer_on_store(peer.store()).is_none() {
                record.region.peers.push(peer);
                record.pending_peers.extend(is_pending.then_some(peer));
            }
        }
        record.region.peers[0].set_role(PeerRole::Voter);
        record.leader = Some(record.region.peers[0]);
        record.pending_peers.retain(|peer| peer.id != 10);
        record
    })
}

proptest! {
    #[test]
    fn a_step_is_possible_and_leads_to_the_goal(
        stores in stores(),
        mut record in records(),
        replicas_max in 1..=4_usize,
        load in prop::collection::vec(0..3_usize, 5),
    ) {
        let load = |store: StoreId| load[store.get() as usize - 1];
        let picture =
            Picture { stores: &stores, load: &load, replicas_max, patience: PATIENCE, now: NOW };
        let voters = |region: &Region| region.peers.iter().filter(|peer| !peer.is_learner()).count();
        // Learners catch up between two steps, so each step must be a new one, and in the end none is left.
        let mut seen = BTreeSet::new();
        while let Some(step) = next_step(&record, &picture, None) {
            prop_assert!(seen.insert(format!("{step:?} {}", record.region)), "{:?} again", step);
            let region = &mut record.region;
            match step {
                Step::LeaveJoint => prop_assert!(false, "nothing is joint"),
                Step::Remove(peer) => {
                    prop_assert_ne!(Some(peer), record.leader);
                    prop_assert!(peer.is_learner() || voters(region) > replicas_max);
                    region.peers.retain(|other| *other != peer);
                }
                Step::Promote(peer) => {
                    prop_assert!(peer.is_learner() && picture.is_up(peer.store()));
                    let promoted = region.peers.iter_mut().find(|other| **other == peer);
                    promoted.expect("it is a peer").set_role(PeerRole::Voter);
                }
                Step::AddLearner(store) => {
                    prop_assert!(picture.is_up(store) && region.peer_on_store(store).is_none());
                    prop_assert!(region.peers.len() < replicas_max);
                    let id = 100 + seen.len() as u64;
                    let role = PeerRole::Learner.into();
                    region.peers.push(Peer { id, store_id: store.get(), role });
                }
            }
            record.pending_peers.clear();
        }
        let free = stores.iter().filter(|store| {
            picture.is_up(store.id()) && record.region.peer_on_store(store.id()).is_none()
        });
        // What is left undone has a reason: no store to go to, or a learner that may still come.
        let waits = record.region.peers.iter().any(Peer::is_learner);
        prop_assert!(voters(&record.region) <= replicas_max);
        prop_assert!(voters(&record.region) == replicas_max || waits || free.count() == 0);
    }
}
