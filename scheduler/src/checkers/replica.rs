//! Whether a region has the replicas it should have, where they should be.
//!
//! The first that fits:
//!
//! 1. *Too many voters*: one goes, never the leader. One that has to leave its store goes first, then one that does not
//!    follow, then the worst placed, then that of the fullest store. So a removal never costs a majority that there
//!    was.
//! 2. *Too few*: a replica on the best store, without a vote until it has the data. One at a time: a region of one
//!    replica would otherwise have to wait, for every write, for one that is still empty.
//! 3. *Dead*: a voter whose store is down, or that its leader has not heard for as long, is exchanged for a new
//!    one. With it there are as many voters as before at every moment.
//! 4. *Leaving*: the same for a store that is being emptied; its leaders hand over first.
//! 5. *Not needed*: learners beyond that go, but for those that somebody has asked for by hand. Before, one that is
//!    being fed is waited for: it will be what is missing.
//! 6. *Misplaced*: a voter is exchanged if a store has fewer other replicas close to it, by the location labels.
//!
//! The best store is the one with the fewest other replicas close to it, of those the one with the lowest score.

use skerry_proto::metapb::{Peer, PeerRole};
use skerry_proto::types::StoreId;

use super::{Trouble, Verdict};
use crate::filter::{Refusal, leader_target, replica_feeder, replica_target};
use crate::location::{Crowding, broken_isolation};
use crate::operator::{Goal, Kind, Plan, Priority, Task};
use crate::picture::Picture;
use crate::planted::Planted;
use crate::region_tree::RegionRecord;
use crate::stores::StoreRecord;

/// See the module.
pub fn check(picture: &Picture<'_>, record: &RegionRecord) -> Verdict {
    let (voters, wanted) = (record.voters().count(), picture.replicas_max);
    if voters > wanted {
        return remove_voter(picture, record);
    }
    let leaving = || record.voters().find(|peer| picture.must_leave(record, peer));
    let is_fed = |peer: &Peer| peer.is_learner() && !record.is_well(peer);
    let is_needed = voters < wanted || leaving().is_some();
    if is_needed && record.region.peers.iter().any(is_fed) {
        // It will be what is missing.
        return Verdict::Well;
    }
    if voters < wanted {
        return add_voter(picture, record);
    }
    let dead = record.voters().find(|peer| picture.is_dead(record, peer));
    if let Some(peer) = dead {
        if picture.planted == Some(Planted::DeadReplicaDropped) {
            let goal = Goal::as_it_is(record).without(peer.store());
            return plan(record, "replace-down-replica", goal);
        }
        return replace(picture, record, peer, "replace-down-replica");
    }
    if let Some(peer) = leaving() {
        return replace(picture, record, peer, "replace-offline-replica");
    }
    let is_unwanted = |peer: &&Peer| peer.is_learner() && !picture.is_kept(record, peer);
    if let Some(learner) = record.region.peers.iter().find(is_unwanted) {
        let goal = Goal::as_it_is(record).without(learner.store());
        return plan(record, "remove-extra-learner", goal);
    }
    misplaced(picture, record)
}

fn plan(record: &RegionRecord, name: &'static str, goal: Goal) -> Verdict {
    let (kind, priority) = (Kind::Replica, Priority::Repair);
    Verdict::Do(Plan { region: record.id(), name, kind, priority, task: Task::Reach(goal) })
}

fn remove_voter(picture: &Picture<'_>, record: &RegionRecord) -> Verdict {
    let leader = record.leader.map(|leader| leader.id);
    let rank = |peer: &&Peer| {
        let store = peer.store();
        let crowding = picture
            .stores
            .get(store)
            .map(|it| Crowding::of(it, &picture.company(record, Some(store)), picture.settings));
        (picture.must_leave(record, peer), !record.is_well(peer), crowding)
    };
    let heavier = |a: &&Peer, b: &&Peer| {
        let score = |peer: &Peer| picture.region_score(peer.store(), 0);
        rank(a).cmp(&rank(b)).then(score(a).total_cmp(&score(b))).then(a.id.cmp(&b.id))
    };
    let others = record.voters().filter(|peer| Some(peer.id) != leader);
    match others.max_by(heavier) {
        Some(peer) => {
            let mut goal = Goal::as_it_is(record).without(peer.store());
            if picture.planted == Some(Planted::TwoRemovals) {
                let second = record.voters().find(|it| it.id != peer.id && Some(it.id) != leader);
                goal = second.map_or(goal.clone(), |second| goal.without(second.store()));
            }
            plan(record, "remove-extra-replica", goal)
        }
        None => Verdict::Well,
    }
}

fn add_voter(picture: &Picture<'_>, record: &RegionRecord) -> Verdict {
    let wish = || format!("add a replica to {}", record.voters().count());
    match best_target(picture, record, None) {
        Ok(store) => plan(record, "make-up-replica", Goal::as_it_is(record).with_voter(store)),
        Err(refusals) => Verdict::Stuck(Trouble::new(wish(), refusals)),
    }
}

/// Exchanges a voter for a learner that is there, or for a new replica.
fn replace(
    picture: &Picture<'_>,
    record: &RegionRecord,
    leaving: &Peer,
    name: &'static str,
) -> Verdict {
    let is_ready =
        |peer: &&Peer| peer.is_learner() && record.is_well(peer) && picture.is_up(peer.store());
    let ready = record.region.peers.iter().find(is_ready).map(Peer::store);
    let target = match ready {
        Some(store) => Ok(store),
        None => best_target(picture, record, Some(leaving.store())),
    };
    match target {
        Ok(store) => {
            let goal = Goal::as_it_is(record).without(leaving.store()).with_voter(store);
            plan(record, name, goal.with_heirs(heirs(picture, record)))
        }
        Err(refusals) => {
            let state = picture.liveness(leaving.store()).to_string().to_lowercase();
            let wish = format!("replace {leaving} (its store is {state})");
            Verdict::Stuck(Trouble::new(wish, refusals))
        }
    }
}

fn misplaced(picture: &Picture<'_>, record: &RegionRecord) -> Verdict {
    if picture.settings.location_labels.is_empty() {
        return Verdict::Well;
    }
    let crowding = |store: &StoreRecord, leaves| {
        Crowding::of(store, &picture.company(record, leaves), picture.settings)
    };
    let placed = record.voters().filter_map(|peer| picture.stores.get(peer.store()));
    let worst = placed.map(|store| (crowding(store, Some(store.id())), store)).max_by(|a, b| {
        let score = |store: &StoreRecord| picture.region_score(store.id(), 0);
        a.0.cmp(&b.0).then(score(a.1).total_cmp(&score(b.1)))
    });
    let Some((now, worst)) = worst else { return Verdict::Well };
    let leaves = Some(worst.id());
    match best_target(picture, record, leaves) {
        Ok(better) => {
            let then = picture.stores.get(better).map(|store| crowding(store, leaves));
            if then.is_none_or(|then| then >= now) {
                return Verdict::Well;
            }
            let goal = Goal::as_it_is(record).without(worst.id()).with_voter(better);
            plan(record, "move-to-better-place", goal.with_heirs(heirs(picture, record)))
        }
        Err(refusals) => {
            let company = picture.company(record, leaves);
            match broken_isolation(worst, &company, picture.settings) {
                Some(place) => {
                    let wish = format!("move the replica on {} out of {place}", worst.id());
                    Verdict::Stuck(Trouble::new(wish, refusals))
                }
                None => Verdict::Well,
            }
        }
    }
}

/// The best store for a new replica, or why no store will do.
pub fn best_target(
    picture: &Picture<'_>,
    record: &RegionRecord,
    leaves: Option<StoreId>,
) -> Result<StoreId, Vec<Refusal>> {
    let Some(leader) = record.leader else { return Err(Vec::new()) };
    if let Err(reason) = replica_feeder(picture, leader.store()) {
        return Err(vec![Refusal { store: leader.store(), reason }]);
    }
    let company = picture.company(record, leaves);
    let mut refusals = Vec::new();
    let mut best: Option<(Crowding, f64, StoreId)> = None;
    for store in picture.stores.iter().filter(|store| !store.is_tombstone()) {
        if let Err(reason) = replica_target(picture, record, store, leaves) {
            refusals.push(Refusal { store: store.id(), reason });
            continue;
        }
        let crowding = Crowding::of(store, &company, picture.settings);
        let candidate = (crowding, picture.region_score(store.id(), 0), store.id());
        let is_better = |known: &(Crowding, f64, StoreId)| {
            candidate.0.cmp(&known.0).then(candidate.1.total_cmp(&known.1)).is_lt()
        };
        if best.as_ref().is_none_or(is_better) {
            best = Some(candidate);
        }
    }
    best.map(|(_, _, store)| store).ok_or(refusals)
}

/// Stores whose replica may lead while the leader's own moves, the one with the fewest leaders first.
pub fn heirs(picture: &Picture<'_>, record: &RegionRecord) -> Vec<StoreId> {
    let may_lead = |peer: &&Peer| leader_target(picture, record, peer).is_ok();
    let mut heirs: Vec<StoreId> = record.voters().filter(may_lead).map(Peer::store).collect();
    let score = |store: &StoreId| picture.leader_score(*store, 0);
    heirs.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.cmp(b)));
    heirs
}

/// Whether a region may be touched for comfort: nobody moves what is not whole. The replica on the store that it
/// `leaves` may be in a bad way.
pub fn is_whole(picture: &Picture<'_>, record: &RegionRecord, leaves: Option<StoreId>) -> bool {
    let peers = &record.region.peers;
    let is_well = |peer: &Peer| {
        peer.role() == PeerRole::Voter && (Some(peer.store()) == leaves || record.is_well(peer))
    };
    let is_led = record.leader.is_some_and(|leader| picture.hears(leader.store()));
    is_led && peers.len() == picture.replicas_max && peers.iter().all(is_well)
}
