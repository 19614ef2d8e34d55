//! What a decision sees: all state, read only, and the scores by which stores are compared.
//!
//! A store's *region score* is the MiB of its replicas by its weight, and higher the fuller its disk is: from
//! `high-space-ratio` on it rises, to double at `low-space-ratio` and further beyond. Its *leader score* is the
//! number of leaders by its weight. Both count what operators under way will have changed at their end.

use std::collections::{BTreeMap, BTreeSet};

use skerry_proto::metapb::Peer;
use skerry_proto::pdpb::StoreStats;
use skerry_proto::types::{RegionId, StoreId};

use crate::moment::Moment;
use crate::operator::limits::{StoreLimits, Way};
use crate::operator::{Operator, Operators, Step};
use crate::planted::Planted;
use crate::region_tree::{RegionRecord, RegionTree};
use crate::settings::Settings;
use crate::stores::{Liveness, Patience, StoreRecord, Stores};

/// See the module.
#[derive(Clone, Copy)]
pub struct Picture<'a> {
    /// All stores.
    pub stores: &'a Stores,
    /// All regions.
    pub regions: &'a RegionTree,
    /// What is under way.
    pub operators: &'a Operators,
    /// How fast replicas may come and go.
    pub limits: &'a StoreLimits,
    /// What may be set.
    pub settings: &'a Settings,
    /// Stores that shall lead nothing.
    pub no_leaders: &'a BTreeSet<StoreId>,
    /// Learners that somebody has asked for by hand, by region: they stay as they are.
    pub kept_learners: &'a BTreeMap<RegionId, BTreeSet<StoreId>>,
    /// Replicas that a region should have.
    pub replicas_max: usize,
    /// When a silent store counts as disconnected or down.
    pub patience: Patience,
    /// Whether enough is known for decisions that compare stores.
    pub is_prepared: bool,
    /// The time.
    pub now: Moment,
    /// The bug that a test has planted.
    pub planted: Option<Planted>,
}

impl<'a> Picture<'a> {
    /// Whether somebody has asked by hand for the learner that a region has there.
    pub fn is_kept(&self, record: &RegionRecord, learner: &Peer) -> bool {
        let kept = self.kept_learners.get(&record.id());
        kept.is_some_and(|stores| stores.contains(&learner.store()))
    }

    /// How a store stands; one that is unknown is gone.
    pub fn liveness(&self, id: StoreId) -> Liveness {
        let record = self.stores.get(id);
        record.map_or(Liveness::Tombstone, |record| record.liveness(self.now, self.patience))
    }

    /// Whether a store speaks and stays.
    pub fn is_up(&self, id: StoreId) -> bool {
        self.liveness(id) == Liveness::Up
    }

    /// Whether a store can be told something: it speaks, also while it is being emptied.
    pub fn hears(&self, id: StoreId) -> bool {
        let silence = self.stores.get(id).map(|record| record.silence(self.now));
        silence.is_some_and(|silence| silence <= self.patience.disconnected)
    }

    /// Whether a replica there is not to be counted on any more: its store is down or gone, or its leader has not
    /// heard from it for as long.
    pub fn is_dead(&self, record: &RegionRecord, peer: &Peer) -> bool {
        let patience = self.patience.down.as_secs();
        let is_silent = record.down_peers.iter().any(|down| {
            down.peer.is_some_and(|it| it.id == peer.id) && down.down_seconds > patience
        });
        is_silent || matches!(self.liveness(peer.store()), Liveness::Down | Liveness::Tombstone)
    }

    /// Whether a replica has to go elsewhere.
    pub fn must_leave(&self, record: &RegionRecord, peer: &Peer) -> bool {
        self.is_dead(record, peer) || self.liveness(peer.store()) == Liveness::Offline
    }

    /// The stores of a region's voters and learners, but this one.
    pub fn company(&self, record: &RegionRecord, but: Option<StoreId>) -> Vec<&'a StoreRecord> {
        let stores = record.region.peers.iter().map(Peer::store);
        stores.filter(|id| Some(*id) != but).filter_map(|id| self.stores.get(id)).collect()
    }

    /// How many replicas may come to a store, or leave it, in a minute.
    pub fn rate(&self, id: StoreId, way: Way) -> u32 {
        let tuning = self.stores.get(id).map(|record| record.tuning).unwrap_or_default();
        let own = match way {
            Way::Add => tuning.add_limit,
            Way::Remove => tuning.remove_limit,
        };
        own.unwrap_or(self.settings.store_limit)
    }

    /// The region score of a store that has so many MiB more.
    pub fn region_score(&self, id: StoreId, more_mib: i64) -> f64 {
        let Some(record) = self.stores.get(id) else { return 0.0 };
        let size = i64::try_from(self.regions.on(id).size_mib).unwrap_or(i64::MAX);
        let size =
            size.saturating_add(self.operators.effect_on(id).size_mib).saturating_add(more_mib);
        let pressure = record.heartbeat.as_ref().map_or(1.0, |it| self.pressure(&it.stats));
        size.max(0) as f64 * pressure / record.tuning.region_weight
    }

    /// The leader score of a store that has so many leaders more.
    pub fn leader_score(&self, id: StoreId, more: i64) -> f64 {
        let Some(record) = self.stores.get(id) else { return 0.0 };
        let leaders = i64::try_from(self.regions.on(id).leaders.len()).unwrap_or(i64::MAX);
        let leaders = leaders + self.operators.effect_on(id).leaders + more;
        leaders.max(0) as f64 / record.tuning.leader_weight
    }

    /// The bytes a second of what is led from a store, with operators under way.
    pub fn rate_score(&self, id: StoreId) -> i64 {
        let rate = i64::try_from(self.regions.on(id).rate).unwrap_or(i64::MAX);
        rate.saturating_add(self.operators.effect_on(id).rate).max(0)
    }

    /// How much heavier each MiB weighs on a disk that fills up.
    fn pressure(&self, stats: &StoreStats) -> f64 {
        if stats.capacity == 0 {
            return 1.0;
        }
        let used = 1.0 - stats.available as f64 / stats.capacity as f64;
        let (high, low) = (self.settings.high_space_ratio, self.settings.low_space_ratio);
        1.0 + ((used - high) / (low - high).max(0.01)).max(0.0)
    }

    /// Why an operator cannot come to its end any more, if so.
    pub fn hopelessness(&self, operator: &Operator, record: &RegionRecord) -> Option<String> {
        let step = operator.step()?;
        let peer = match step {
            Step::AddLearner(peer) | Step::Promote(peer) | Step::Transfer(peer) => peer,
            Step::EnterJoint { promote, .. } => promote,
            Step::Remove(_) | Step::LeaveJoint | Step::Split { .. } => return None,
        };
        let (store, has_begun) = (peer.store(), step.is_waiting(record));
        match self.liveness(store) {
            Liveness::Up => {}
            // It may come back, and has what it was fed.
            Liveness::Disconnected if has_begun => {}
            state => return Some(format!("{store} is {}", state.to_string().to_lowercase())),
        }
        let is_dead = self.is_dead(record, peer);
        is_dead.then(|| format!("{}@{store} does not answer its leader", peer.peer_id()))
    }
}
