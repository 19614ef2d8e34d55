//! From a goal to steps: an order in which the replicas of a region can safely come to stand where they should.
//!
//! 1. A store that shall have a voter and has none gets a learner first; a learner that is there is used.
//! 2. If a voter shall go, the two are exchanged through a joint configuration, so that there is never one voter
//!    more or less; otherwise the learner is promoted alone.
//! 3. A leader never loses its vote: it hands over before, to a voter that stays; if there is none (a region of one
//!    replica), the new voter is promoted alone and gets the leadership.
//! 4. What then stands where nothing shall stand is removed, learners last.
//! 5. At the very end leadership goes where it shall be.
//!
//! **Invariant.** The steps lead from the peers of the record to the goal, and no step leaves fewer voters than the
//! smaller of what there was and what there shall be.

use skerry_proto::metapb::{Peer, PeerRole};
use skerry_proto::types::StoreId;

use super::step::Step;
use crate::region_tree::RegionRecord;

/// Where the replicas of a region shall stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Goal {
    /// Stores with a voter.
    pub voters: Vec<StoreId>,
    /// Stores with a learner.
    pub learners: Vec<StoreId>,
    /// The store of the leader; none: any.
    pub leader: Option<StoreId>,
    /// Stores that may lead while the leader's replica moves, the best first.
    pub heirs: Vec<StoreId>,
}

impl Goal {
    /// What the region has already.
    pub fn as_it_is(record: &RegionRecord) -> Goal {
        let (learners, voters): (Vec<&Peer>, Vec<&Peer>) =
            record.region.peers.iter().partition(|peer| peer.is_learner());
        let stores = |peers: Vec<&Peer>| peers.into_iter().map(Peer::store).collect();
        Goal { voters: stores(voters), learners: stores(learners), leader: None, heirs: Vec::new() }
    }

    /// With one more voter; a learner there becomes it.
    pub fn with_voter(mut self, store: StoreId) -> Goal {
        self.learners.retain(|learner| *learner != store);
        self.voters.push(store);
        self
    }

    /// Without any replica on this store.
    pub fn without(mut self, store: StoreId) -> Goal {
        self.voters.retain(|voter| *voter != store);
        self.learners.retain(|learner| *learner != store);
        self
    }

    /// With these to lead meanwhile.
    pub fn with_heirs(self, heirs: Vec<StoreId>) -> Goal {
        Goal { heirs, ..self }
    }

    /// Led from this store.
    pub fn led_from(self, store: StoreId) -> Goal {
        Goal { leader: Some(store), ..self }
    }

    /// How many new replicas it needs.
    pub fn new_replicas(&self, record: &RegionRecord) -> usize {
        let is_new = |store: &&StoreId| record.region.peer_on_store(**store).is_none();
        self.voters.iter().chain(&self.learners).filter(is_new).count()
    }
}

/// The steps, with these ids for new replicas. The record is of a region that has a leader and is in no joint
/// configuration. Nothing if the goal cannot be reached.
pub fn steps(
    record: &RegionRecord,
    goal: &Goal,
    ids: impl Iterator<Item = u64>,
) -> Option<Vec<Step>> {
    let leader = record.leader?;
    let peers = record.region.peers.clone();
    let mut builder = Builder { goal, peers, leader, steps: Vec::new() };
    builder.build(ids)?;
    Some(builder.steps)
}

struct Builder<'a> {
    goal: &'a Goal,
    /// After the steps so far.
    peers: Vec<Peer>,
    leader: Peer,
    steps: Vec<Step>,
}

impl Builder<'_> {
    fn build(&mut self, mut ids: impl Iterator<Item = u64>) -> Option<()> {
        let goal = self.goal;
        for store in &goal.voters {
            match self.on(*store) {
                Some(peer) if peer.is_learner() => self.give_vote(peer),
                Some(_) => {}
                None => {
                    let learner = self.add_learner(*store, ids.next()?);
                    self.give_vote(learner);
                }
            }
        }
        for store in &goal.learners {
            if self.on(*store).is_none() {
                self.add_learner(*store, ids.next()?);
            }
        }
        while let Some(leaving) = self.leaving() {
            if leaving.id == self.leader.id {
                let heir = self.heir()?;
                self.transfer(heir);
            }
            self.push(Step::Remove(leaving));
        }
        let unwanted = |peer: &&Peer| {
            peer.is_learner()
                && !goal.learners.contains(&peer.store())
                && !goal.voters.contains(&peer.store())
        };
        while let Some(learner) = self.peers.iter().find(unwanted).copied() {
            self.push(Step::Remove(learner));
        }
        let wanted = goal.leader.and_then(|store| self.on(store));
        if let Some(leader) = wanted.filter(|wanted| wanted.id != self.leader.id) {
            self.transfer(leader);
        }
        Some(())
    }

    fn add_learner(&mut self, store: StoreId, id: u64) -> Peer {
        let learner = Peer { id, store_id: store.get(), role: PeerRole::Learner.into() };
        self.push(Step::AddLearner(learner));
        learner
    }

    /// Gives a learner its vote: the vote of a voter that leaves, if there is one.
    fn give_vote(&mut self, learner: Peer) {
        let Some(leaving) = self.leaving() else { return self.push(Step::Promote(learner)) };
        if leaving.id == self.leader.id {
            // Without an heir it gives its vote away at the end, when this one can lead.
            let Some(heir) = self.heir() else { return self.push(Step::Promote(learner)) };
            self.transfer(heir);
        }
        self.push(Step::EnterJoint { promote: learner, demote: leaving });
        self.push(Step::LeaveJoint);
        let demoted = Peer { role: PeerRole::Learner.into(), ..leaving };
        if !self.goal.learners.contains(&demoted.store()) {
            self.push(Step::Remove(demoted));
        }
    }

    /// A voter that shall not be one, the leader only if there is no other.
    fn leaving(&self) -> Option<Peer> {
        let voters = self.peers.iter().filter(|peer| !peer.is_learner());
        let leaving = voters.filter(|peer| !self.goal.voters.contains(&peer.store()));
        leaving.min_by_key(|peer| peer.id == self.leader.id).copied()
    }

    /// A voter that stays and may lead.
    fn heir(&self) -> Option<Peer> {
        let stays = |store: &&StoreId| {
            self.goal.voters.contains(store) && self.on(**store).is_some_and(|it| !it.is_learner())
        };
        let wanted = self.goal.leader.as_slice().iter().chain(&self.goal.heirs);
        let known = wanted.filter(stays).find_map(|store| self.on(*store));
        // One that these steps have brought has the data.
        let new = || {
            let is_new = |peer: &&Peer| {
                self.steps
                    .iter()
                    .any(|step| matches!(step, Step::Promote(new) if new.id == peer.id))
            };
            self.peers.iter().find(is_new).copied()
        };
        known.or_else(new)
    }

    fn transfer(&mut self, heir: Peer) {
        self.leader = heir;
        self.push(Step::Transfer(heir));
    }

    fn push(&mut self, step: Step) {
        self.peers = step.applied(&self.peers);
        self.steps.push(step);
    }

    fn on(&self, store: StoreId) -> Option<Peer> {
        self.peers.iter().find(|peer| peer.store() == store).copied()
    }
}
