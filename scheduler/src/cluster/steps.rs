//! From what checkers and balancers want to what leaders are told.
//!
//! 1. A heartbeat has been accepted: the region's operator is a step further, or over. [`Cluster::wants_step`] says,
//!    without changing anything, whether the leader is to be told something; [`Cluster::next_step`] tells it. If the
//!    region has no operator, the checkers are asked for one.
//! 2. Ten times a second [`Cluster::tick`] ends what is late or hopeless, lets the [`super::patrol`] check some
//!    regions, asks the balancers, and buries stores that are empty. What it starts is told at once
//!    ([`Cluster::regions_to_tell`]), not only with the next heartbeat.
//! 3. New replicas need ids: they are durable before the instruction leaves, like every id.
//!
//! Every instruction carries the epoch it was decided by, and a leader refuses it at any other. So of all that were
//! ever given for one configuration, by this life of the scheduler or the one before it, at most one is done; an
//! operator that was forgotten costs an id.
//!
//! **Invariants.** A region gets an instruction only through the leader that has reported it in this life, and none
//! from a report that was refused. Each heartbeat is answered by at most one.

use std::time::Duration;

use skerry_proto::metapb::{Peer, RegionEpoch};
use skerry_proto::types::{RegionId, StoreId};

use super::{Cluster, Decision};
use crate::Result;
use crate::balance;
use crate::checkers::{self, Trouble, Verdict};
use crate::moment::Moment;
use crate::operator::limits::Way;
use crate::operator::{Ending, Kind, Order, Plan, Task};
use crate::persist::Change;
use crate::picture::Picture;
use crate::planted::Planted;
use crate::region_tree::RegionRecord;

/// Operators that one balancer, or the patrol, may start in one tick.
pub(super) const STARTS_MAX: usize = 64;

/// Percent of the regions that must have reported before stores are compared.
const SPOKEN_PERCENT: usize = 80;

/// After this much time what is known has to do: regions that nobody leads never report.
const PREPARING_MAX: Duration = Duration::from_secs(300);

/// What the leader of a region is told to do. Void unless the region has this epoch and this leader.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The region.
    pub region_id: RegionId,
    /// The epoch it was decided by.
    pub epoch: RegionEpoch,
    /// Who is told.
    pub leader: Peer,
    /// What to do.
    pub order: Order,
}

impl Cluster {
    /// Whether the leader of a region is to be told something.
    pub fn wants_step(&self, id: RegionId, now: Moment) -> bool {
        let Some(record) = self.regions.get(id) else { return false };
        let picture = self.picture(now);
        let running = self.operators.get(id);
        match running.filter(|it| picture.hopelessness(it, record).is_none()) {
            Some(operator) => operator.order(record).is_some(),
            None => running.is_some() || matches!(self.verdict(record, now), Verdict::Do(_)),
        }
    }

    /// What the leader of a region, on `store`, is to be told. Nothing if it leads from there no more.
    pub fn next_step(
        &mut self,
        id: RegionId,
        store: StoreId,
        now: Moment,
    ) -> Result<Decision<Option<Instruction>>> {
        let nothing = Decision { answer: None, changes: vec![] };
        let known = self.regions.get(id).filter(|record| record.is_led_from(store)).cloned();
        let Some(record) = known else { return Ok(nothing) };
        self.end_if_hopeless(&record, now);
        let mut changes = Vec::new();
        if self.operators.get(id).is_none() {
            let Verdict::Do(plan) = self.verdict(&record, now) else { return Ok(nothing) };
            changes = self.start(plan, &record, now)?;
        }
        let order = self.operators.get(id).and_then(|operator| operator.order(&record));
        self.operators.told(id, now);
        let leader = record.leader.expect("it is led");
        let epoch = record.region.epoch();
        let answer = order.map(|order| Instruction { region_id: id, epoch, leader, order });
        Ok(Decision { answer, changes })
    }

    /// What time brings. The answer is whether somebody is to be told something.
    pub fn tick(&mut self, now: Moment) -> Result<Decision<bool>> {
        let mut changes = Vec::new();
        if !self.is_bootstrapped() {
            return Ok(Decision { answer: false, changes });
        }
        self.look_whether_prepared(now);
        self.schedule.tick(now);
        self.operators.tick(&self.regions, now);
        self.end_hopeless(now);
        if !self.schedule.current().halt_scheduling {
            changes.extend(self.patrol(now)?);
            if self.is_prepared {
                changes.extend(self.balance(now)?);
            }
        }
        changes.extend(self.bury_empty_stores(now));
        let answer = self.operators.stores_to_tell().next().is_some();
        Ok(Decision { answer, changes: with_one_bound(changes) })
    }

    /// At most `limit` regions whose leaders on `store` are to be told something without being asked.
    pub fn regions_to_tell(&mut self, store: StoreId, limit: usize) -> Vec<RegionId> {
        self.operators.take_to_tell(store, limit)
    }

    /// Whether enough is known to compare stores.
    pub fn is_prepared(&self) -> bool {
        self.is_prepared
    }

    /// What decisions see.
    pub(super) fn picture(&self, now: Moment) -> Picture<'_> {
        Picture {
            stores: &self.stores,
            regions: &self.regions,
            operators: &self.operators,
            limits: &self.limits,
            settings: self.schedule.current(),
            no_leaders: self.balancers.no_leaders(),
            kept_learners: &self.kept_learners,
            replicas_max: self.settings.map_or(1, |settings| settings.max_peer_count as usize),
            patience: self.patience(),
            is_prepared: self.is_prepared,
            now,
            planted: self.planted,
        }
    }

    /// What the checkers say of a region, as far as limits let them.
    pub(super) fn verdict(&self, record: &RegionRecord, now: Moment) -> Verdict {
        if !self.is_bootstrapped()
            || record.leader.is_none()
            || self.schedule.current().halt_scheduling
        {
            return Verdict::Well;
        }
        let picture = self.picture(now);
        let verdict = checkers::check(&picture, record);
        let Verdict::Do(plan) = &verdict else { return verdict };
        let (running, limit) =
            (self.operators.count(plan.kind), balance::limit(plan.kind, &picture));
        // Leaving a joint configuration is never put off: the region can do nothing else.
        let is_free = !matches!(plan.task, Task::Reach(_)) || running < limit;
        match is_free {
            true => verdict,
            false => Verdict::Stuck(Trouble::new(
                format!("{}, when fewer than {running} operators run", plan.name),
                Vec::new(),
            )),
        }
    }

    /// Makes an operator of a plan.
    pub(super) fn start(
        &mut self,
        plan: Plan,
        record: &RegionRecord,
        now: Moment,
    ) -> Result<Vec<Change>> {
        let needed = match &plan.task {
            Task::Reach(goal) => goal.new_replicas(record) as u64,
            Task::Do(_) => 0,
        };
        let (mut ids, mut changes) = (1..1, Vec::new());
        if needed > 0 {
            let Decision { answer: last, changes: bound } = self.allocate_ids(needed)?;
            (ids, changes) = (last + 1 - needed..last + 1, bound);
        }
        let Some(operator) = self.operators.start(plan, ids, record, now) else {
            return Ok(changes);
        };
        let moved: Vec<(StoreId, Way)> = operator
            .effects()
            .filter_map(|(store, effect)| match effect.regions {
                0 => None,
                more if more > 0 => Some((store, Way::Add)),
                _ => Some((store, Way::Remove)),
            })
            .collect();
        for (store, way) in moved {
            let rate = self.picture(now).rate(store, way);
            self.limits.take(store, way, record.weight(), rate, now);
        }
        Ok(changes)
    }

    /// Remembers when enough is known; it is not forgotten in this life.
    pub(super) fn look_whether_prepared(&mut self, now: Moment) {
        let (spoken, all) = (self.regions.spoken(), self.regions.len());
        let is_known = all > 0 && spoken * 100 >= all * SPOKEN_PERCENT;
        self.is_prepared = self.is_prepared
            || (is_known && self.stores.most_have_spoken())
            || self.planted == Some(Planted::BalanceUnprepared)
            || now.since(self.began) >= PREPARING_MAX;
    }

    /// Asks all balancers.
    fn balance(&mut self, now: Moment) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        // They need the picture and change themselves.
        let mut balancers = std::mem::replace(&mut self.balancers, balance::Balancers::new(0));
        let no_leaders = balancers.no_leaders().clone();
        for place in 0..balancers.len() {
            for _ in 0..STARTS_MAX {
                let picture = Picture { no_leaders: &no_leaders, ..self.picture(now) };
                let Some(plan) = balancers.next(place, &picture) else { break };
                let record = self.regions.get(plan.region).expect("it was chosen just now").clone();
                match self.start(plan, &record, now) {
                    Ok(more) => changes.extend(more),
                    Err(error) => {
                        self.balancers = balancers;
                        return Err(error);
                    }
                }
            }
        }
        self.balancers = balancers;
        Ok(changes)
    }

    fn end_hopeless(&mut self, now: Moment) {
        let picture = self.picture(now);
        let is_hopeless = |region: RegionId| {
            let operator = self.operators.get(region)?;
            picture.hopelessness(operator, self.regions.get(region)?)
        };
        let running = self.operators.iter().map(|operator| operator.region);
        let hopeless: Vec<(RegionId, String)> =
            running.filter_map(|region| Some((region, is_hopeless(region)?))).collect();
        for (region, reason) in hopeless {
            self.operators.end(region, Ending::Cancelled(reason), now);
        }
    }

    fn end_if_hopeless(&mut self, record: &RegionRecord, now: Moment) {
        let operator = self.operators.get(record.id());
        let reason = operator.and_then(|it| self.picture(now).hopelessness(it, record));
        if let Some(reason) = reason {
            self.operators.end(record.id(), Ending::Cancelled(reason), now);
        }
    }

    /// How many operators of each kind run.
    pub fn running(&self, kind: Kind) -> usize {
        self.operators.count(kind)
    }
}

/// Of several bounds of ids the last is the highest, and enough.
pub(super) fn with_one_bound(changes: Vec<Change>) -> Vec<Change> {
    let is_bound = |change: &Change| matches!(change, Change::IdBound(_));
    let last = changes.iter().rposition(is_bound);
    let kept = |(place, change)| (!is_bound(&change) || Some(place) == last).then_some(change);
    changes.into_iter().enumerate().filter_map(kept).collect()
}
