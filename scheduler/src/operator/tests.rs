//! What holds of every way to every goal.

use proptest::prelude::*;
use skerry_proto::metapb::{PeerRole, Region};

use super::build::{Goal, steps};
use super::*;

/// A region with replicas on some of six stores, led by one of its voters.
fn records() -> impl Strategy<Value = RegionRecord> {
    let role = prop::sample::select(vec![PeerRole::Voter, PeerRole::Voter, PeerRole::Learner]);
    prop::collection::vec((1..=6_u64, role), 1..=5).prop_map(|drawn| {
        let mut record = RegionRecord::silent(Region { id: 2, ..Region::default() });
        for (id, (store_id, role)) in (10..).zip(drawn) {
            let peer = Peer { id, store_id, role: role.into() };
            if record.region.peer_on_store(peer.store()).is_none() {
                record.region.peers.push(peer);
            }
        }
        record.region.peers[0].set_role(PeerRole::Voter);
        record.leader = Some(record.region.peers[0]);
        record
    })
}

/// Voters on some of the stores, and all that vote now may lead.
fn goals() -> impl Strategy<Value = Goal> {
    prop::collection::btree_set(1..=6_u64, 1..=5).prop_map(|stores| Goal {
        voters: stores.into_iter().map(StoreId::new).collect(),
        heirs: (1..=6).map(StoreId::new).collect(),
        ..Goal::default()
    })
}

fn voters(peers: &[Peer]) -> usize {
    let roles = peers.iter().map(Peer::role);
    roles.filter(|role| matches!(role, PeerRole::Voter | PeerRole::IncomingVoter)).count()
}

proptest! {
    #[test]
    fn every_goal_is_reached_without_fewer_voters_than_need_be(
        record in records(),
        goal in goals(),
    ) {
        let made = steps(&record, &goal, 100..).expect("there is always a voter to hand over to");
        let least = voters(&record.region.peers).min(goal.voters.len());
        let (mut peers, mut leader) = (ordered(&record.region.peers), record.leader.expect("led"));
        let mut is_joint = false;
        for step in &made {
            if let Some(leaving) = step.loses_vote() {
                prop_assert_ne!(leaving.id, leader.id, "{:?}", made);
            }
            if let Step::Transfer(heir) = step {
                let heir = peers.iter().find(|peer| peer.id == heir.id).expect("a peer");
                prop_assert_eq!(heir.role(), PeerRole::Voter);
                leader = *heir;
            }
            // A joint configuration is left before anything else.
            prop_assert!(!is_joint || *step == Step::LeaveJoint);
            is_joint = matches!(step, Step::EnterJoint { .. });
            let after = step.applied(&peers);
            prop_assert!(voters(&after) >= least, "{:?}", made);
            peers = after;
        }
        let mut reached: Vec<StoreId> = peers.iter().map(Peer::store).collect();
        reached.sort_unstable();
        prop_assert_eq!(reached, goal.voters);
        prop_assert!(peers.iter().all(|peer| peer.role() == PeerRole::Voter));
    }

    #[test]
    fn heartbeats_after_each_step_lead_an_operator_to_its_end(
        record in records(),
        goal in goals(),
    ) {
        let made = steps(&record, &goal, 100..).expect("there is always a voter to hand over to");
        prop_assume!(!made.is_empty());
        let plan = Plan {
            region: record.id(),
            name: "test",
            kind: Kind::Region,
            priority: Priority::Balance,
            task: Task::Reach(goal),
        };
        let now = Moment::default();
        let mut operators = Operators::default();
        operators.start(plan, 100.., &record, now).expect("there are steps");
        let mut record = record;
        for (place, step) in made.iter().enumerate() {
            let running = operators.get(record.id()).expect("it is not over");
            prop_assert_eq!((running.done, running.step()), (place, Some(step)));
            // Nothing has changed: told again, and no further.
            operators.heard(&record, now);
            prop_assert_eq!(operators.get(record.id()).expect("it goes on").done, place);
            record.region.peers = step.applied(&record.region.peers);
            if let Step::Transfer(heir) = step {
                record.leader = Some(*heir);
            }
            operators.heard(&record, now);
        }
        let ended = operators.history().next().expect("it is over");
        prop_assert_eq!(&ended.ending, &Ending::Done);
        // Nothing is counted any more.
        for store in (1..=6).map(StoreId::new) {
            prop_assert_eq!(operators.effect_on(store), Effect::default());
        }
        prop_assert_eq!(operators.count(Kind::Region), 0);
    }
}
