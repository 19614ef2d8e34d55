//! What leaders are told to do about their replicas: the rule of [`crate::replicas`], with ids and a memory.
//!
//! 1. A heartbeat has been accepted, or a store has come up: [`Cluster::wants_step`] and
//!    [`Cluster::regions_in_want`] say whom it concerns. They change nothing and need no turn.
//! 2. [`Cluster::next_step`] decides. Only a new learner needs an id; it is durable before the instruction leaves,
//!    like every id.
//! 3. An instruction may be lost. It is given again with every heartbeat that still wants it; a learner then keeps
//!    its id and its store, by its [`Promise`]. All other steps follow from the region alone.
//!
//! Every instruction carries the epoch it was decided by, and a leader refuses it at any other. So of all that were
//! ever given for one configuration, by this life of the scheduler or the one before it, at most one is done; a
//! promise that was forgotten costs an id.
//!
//! **Invariants.** A region gets an instruction only through the leader that has reported it in this life, and none
//! from a report that was refused. It has at most one promise.

use std::collections::BTreeMap;
use std::time::Duration;

use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{Peer, PeerRole, RegionEpoch};
use skerry_proto::pdpb::ChangePeer;
use skerry_proto::types::{RegionId, StoreId};

use super::{Cluster, Decision};
use crate::Result;
use crate::moment::Moment;
use crate::region_tree::RegionRecord;
use crate::replicas::{Picture, Step, next_step};

/// How long a promise stands if its learner does not appear. To accept a learner takes a leader one entry of its
/// log, so one that has not done so by ten of its slowest reports (one a minute) has refused it each time, and
/// another store may suit it better. The time in which the learner is fed does not count: it has appeared then.
const PROMISE_STANDS: Duration = Duration::from_secs(600);

/// What the leader of a region is told to do. Void unless the region has this epoch and this leader.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The region.
    pub region_id: RegionId,
    /// The epoch it was decided by.
    pub epoch: RegionEpoch,
    /// Who is told.
    pub leader: Peer,
    /// The change of its peers; none: leave the joint configuration.
    pub change: Option<ChangePeer>,
}

/// A learner that has its id and its store, and that the region does not list yet.
#[derive(Debug)]
struct Promise {
    learner: Peer,
    /// Configuration version it was promised at. When that moves, the promise is kept or void.
    conf_ver: u64,
    at: Moment,
}

/// All promises, by region.
#[derive(Debug, Default)]
pub(super) struct Promises {
    by_region: BTreeMap<RegionId, Promise>,
    /// How many there are for each store.
    by_store: BTreeMap<StoreId, usize>,
}

impl Promises {
    fn make(&mut self, region: RegionId, promise: Promise) {
        self.forget(region);
        *self.by_store.entry(promise.learner.store()).or_default() += 1;
        self.by_region.insert(region, promise);
    }

    /// Forgets what was promised to a region that is gone.
    pub(super) fn forget(&mut self, region: RegionId) {
        let Some(promise) = self.by_region.remove(&region) else { return };
        let store = promise.learner.store();
        let count = self.by_store.get_mut(&store).expect("its promise was counted");
        *count -= 1;
        if *count == 0 {
            self.by_store.remove(&store);
        }
    }

    /// A region has this configuration version now.
    pub(super) fn region_is_at(&mut self, region: RegionId, conf_ver: u64) {
        if self.by_region.get(&region).is_some_and(|promise| promise.conf_ver != conf_ver) {
            self.forget(region);
        }
    }

    fn standing(&self, region: RegionId, now: Moment) -> Option<Peer> {
        let promise = self.by_region.get(&region)?;
        (now.since(promise.at) <= PROMISE_STANDS).then_some(promise.learner)
    }

    fn count(&self, store: StoreId) -> usize {
        self.by_store.get(&store).copied().unwrap_or(0)
    }
}

impl Cluster {
    /// Whether something is to be done about the replicas of a region.
    pub fn wants_step(&self, id: RegionId, now: Moment) -> bool {
        self.regions.get(id).is_some_and(|record| self.step_of(record, now).is_some())
    }

    /// At most `limit` regions that are led from `store` and about whose replicas something is to be done.
    pub fn regions_in_want(&self, store: StoreId, limit: usize, now: Moment) -> Vec<RegionId> {
        let led = self.regions.iter().filter(|record| is_led_from(record, store));
        let wanting = led.filter(|record| self.step_of(record, now).is_some());
        wanting.take(limit).map(|record| record.id()).collect()
    }

    /// What the leader of a region, on `store`, is to be told. Nothing if it leads from there no more.
    pub fn next_step(
        &mut self,
        id: RegionId,
        store: StoreId,
        now: Moment,
    ) -> Result<Decision<Option<Instruction>>> {
        let known = self.regions.get(id).filter(|record| is_led_from(record, store));
        let due = known.and_then(|record| Some((record.clone(), self.step_of(record, now)?)));
        let Some((record, step)) = due else {
            return Ok(Decision { answer: None, changes: vec![] });
        };
        let (change, changes) = match step {
            Step::LeaveJoint => (None, vec![]),
            Step::Remove(peer) => (Some(change(ConfChangeType::RemoveNode, peer)), vec![]),
            Step::Promote(peer) => (Some(change(ConfChangeType::AddNode, peer)), vec![]),
            Step::AddLearner(store) => {
                let Decision { answer, changes } = self.learner(&record, store, now)?;
                (Some(change(ConfChangeType::AddLearnerNode, answer)), changes)
            }
        };
        let leader = record.leader.expect("it is led");
        let instruction =
            Instruction { region_id: id, epoch: record.region.epoch(), leader, change };
        Ok(Decision { answer: Some(instruction), changes })
    }

    fn step_of(&self, record: &RegionRecord, now: Moment) -> Option<Step> {
        let load = |store| self.regions.replicas_on(store) + self.promises.count(store);
        let picture = Picture {
            stores: &self.stores,
            load: &load,
            replicas_max: self.settings?.max_peer_count as usize,
            patience: self.patience,
            now,
        };
        let promised = self.promises.standing(record.id(), now).map(|learner| learner.store());
        next_step(record, &picture, promised)
    }

    /// The learner that was promised to the region on this store, or a new one.
    fn learner(
        &mut self,
        record: &RegionRecord,
        store: StoreId,
        now: Moment,
    ) -> Result<Decision<Peer>> {
        let promised = self.promises.standing(record.id(), now);
        if let Some(learner) = promised.filter(|learner| learner.store() == store) {
            return Ok(Decision { answer: learner, changes: vec![] });
        }
        let Decision { answer: id, changes } = self.allocate_ids(1)?;
        let learner = Peer { id, store_id: store.get(), role: PeerRole::Learner.into() };
        let conf_ver = record.region.epoch().conf_ver;
        self.promises.make(record.id(), Promise { learner, conf_ver, at: now });
        Ok(Decision { answer: learner, changes })
    }
}

fn is_led_from(record: &RegionRecord, store: StoreId) -> bool {
    record.leader.is_some_and(|leader| leader.store() == store)
}

/// The peer of a change has the role that it gets by it.
fn change(kind: ConfChangeType, peer: Peer) -> ChangePeer {
    let role = if kind == ConfChangeType::AddNode { PeerRole::Voter } else { peer.role() };
    let peer = Peer { role: role.into(), ..peer };
    ChangePeer { peer: Some(peer), change_type: kind.into() }
}
