//! All operators: started, looked at with every heartbeat, ended, remembered for a while.
//!
//! Everything that a heartbeat needs is found by the region's id. What a decision needs about stores and kinds is
//! counted as operators come and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use skerry_proto::types::{RegionId, StoreId};

use super::build::steps;
use super::{Effect, Ending, Kind, Operator, Plan, Priority, Progress, Task};
use crate::moment::Moment;
use crate::planted::Planted;
use crate::region_tree::{RegionRecord, RegionTree};

/// How many ended operators are remembered.
const HISTORY_MAX: usize = 1_000;

/// After this an instruction that has had no effect is given again, without waiting for a heartbeat.
const TELL_AGAIN: Duration = Duration::from_secs(2);

/// An operator that is over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The operator as it was.
    pub operator: Operator,
    /// How it ended.
    pub ending: Ending,
    /// When.
    pub at: Moment,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Operators {
    by_region: BTreeMap<RegionId, Operator>,
    counts: BTreeMap<Kind, usize>,
    effects: BTreeMap<StoreId, Effect>,
    /// The newest last.
    history: VecDeque<Ended>,
    /// Ended operators so far, by kind and whether all was done.
    totals: BTreeMap<(Kind, bool), u64>,
    /// Regions whose leader, on this store, is to be told without waiting for its heartbeat.
    to_tell: BTreeMap<StoreId, BTreeSet<RegionId>>,
    planted: Option<Planted>,
}

impl Operators {
    /// Plants a bug.
    pub fn plant(&mut self, planted: Option<Planted>) {
        self.planted = planted;
    }

    /// The operator of a region.
    pub fn get(&self, region: RegionId) -> Option<&Operator> {
        self.by_region.get(&region)
    }

    /// All that run, by region.
    pub fn iter(&self) -> impl Iterator<Item = &Operator> {
        self.by_region.values()
    }

    /// How many of a kind run.
    pub fn count(&self, kind: Kind) -> usize {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// What those that run will have changed on a store.
    pub fn effect_on(&self, store: StoreId) -> Effect {
        self.effects.get(&store).copied().unwrap_or_default()
    }

    /// Those that are over, the newest first.
    pub fn history(&self) -> impl Iterator<Item = &Ended> {
        self.history.iter().rev()
    }

    /// How many of a kind have ended, done or not.
    pub fn ended(&self, kind: Kind, done: bool) -> u64 {
        self.totals.get(&(kind, done)).copied().unwrap_or(0)
    }

    /// Whether a plan of this kind and priority may start for a region.
    pub fn has_room(&self, region: RegionId, priority: Priority) -> bool {
        self.by_region.get(&region).is_none_or(|running| running.priority < priority)
    }

    /// Makes an operator of a plan that was made for `record`, with ids for its new replicas. Nothing if the region
    /// has another one that matters as much, or there is no way to the goal.
    pub fn start(
        &mut self,
        plan: Plan,
        ids: impl Iterator<Item = u64>,
        record: &RegionRecord,
        now: Moment,
    ) -> Option<&Operator> {
        let region = plan.region;
        if !self.has_room(region, plan.priority) {
            return None;
        }
        let steps = match &plan.task {
            Task::Do(step) => vec![step.clone()],
            Task::Reach(goal) => steps(record, goal, ids)?,
        };
        if steps.is_empty() {
            return None;
        }
        self.end(region, Ending::Replaced, now);
        let operator = Operator::new(plan, steps, record, now).planted(self.planted);
        *self.counts.entry(operator.kind).or_default() += 1;
        self.count_effects(&operator.effects, 1);
        if let Some(leader) = record.leader {
            self.to_tell.entry(leader.store()).or_default().insert(region);
        }
        Some(self.by_region.entry(region).or_insert(operator))
    }

    /// A leader has reported; its operator may be a step further, or over.
    pub fn heard(&mut self, record: &RegionRecord, now: Moment) {
        let Some(mut operator) = self.by_region.remove(&record.id()) else { return };
        self.count_effects(&operator.effects, -1);
        let progress = operator.progress(record, now);
        self.count_effects(&operator.effects, 1);
        let region = operator.region;
        self.by_region.insert(region, operator);
        if let Progress::Over(ending) = progress {
            self.end(region, ending, now);
        }
    }

    /// Ends operators that are late or whose region is gone, and remembers to tell again what has had no effect.
    pub fn tick(&mut self, regions: &RegionTree, now: Moment) {
        let mut over = Vec::new();
        for (id, operator) in &self.by_region {
            let Some(record) = regions.get(*id) else {
                over.push((*id, Ending::Cancelled("the region is gone".to_string())));
                continue;
            };
            if let Progress::Over(ending) = operator.lateness(record.size_mib, now) {
                over.push((*id, ending));
                continue;
            }
            let is_stale = operator.told.is_none_or(|told| now.since(told) >= TELL_AGAIN);
            let wants = is_stale && operator.order(record).is_some();
            if let Some(leader) = record.leader.filter(|_| wants) {
                self.to_tell.entry(leader.store()).or_default().insert(*id);
            }
        }
        for (region, ending) in over {
            self.end(region, ending, now);
        }
    }

    /// Ends the operator of a region, if it has one.
    pub fn end(&mut self, region: RegionId, ending: Ending, now: Moment) -> bool {
        let Some(operator) = self.by_region.remove(&region) else { return false };
        self.count_effects(&operator.effects, -1);
        *self.counts.get_mut(&operator.kind).expect("it was counted when it started") -= 1;
        *self.totals.entry((operator.kind, ending == Ending::Done)).or_default() += 1;
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        let ended = Ended { operator, ending, at: now };
        if self.planted == Some(Planted::CancelledGoesOn)
            && matches!(ended.ending, Ending::Cancelled(_))
        {
            let operator = ended.operator.clone();
            *self.counts.entry(operator.kind).or_default() += 1;
            self.count_effects(&operator.effects, 1);
            self.by_region.insert(region, operator);
        }
        self.history.push_back(ended);
        true
    }

    /// The leader of a region is told now.
    pub fn told(&mut self, region: RegionId, now: Moment) {
        if let Some(operator) = self.by_region.get_mut(&region) {
            operator.told = Some(now);
        }
    }

    /// The stores whose leaders are to be told something unasked.
    pub fn stores_to_tell(&self) -> impl Iterator<Item = StoreId> {
        self.to_tell.keys().copied()
    }

    /// At most `limit` regions whose leader on this store is to be told something.
    pub fn take_to_tell(&mut self, store: StoreId, limit: usize) -> Vec<RegionId> {
        let Some(waiting) = self.to_tell.get_mut(&store) else { return Vec::new() };
        let taken: Vec<RegionId> = waiting.iter().copied().take(limit).collect();
        taken.iter().for_each(|id| {
            waiting.remove(id);
        });
        if waiting.is_empty() {
            self.to_tell.remove(&store);
        }
        taken
    }

    fn count_effects(&mut self, effects: &[(StoreId, Effect)], one: i64) {
        for (store, effect) in effects {
            let sum = self.effects.entry(*store).or_default();
            sum.regions += one * effect.regions;
            sum.size_mib += one * effect.size_mib;
            sum.leaders += one * effect.leaders;
            sum.rate += one * effect.rate;
            sum.arriving += one * effect.arriving;
            sum.feeding += one * effect.feeding;
            if *sum == Effect::default() {
                self.effects.remove(store);
            }
        }
    }
}
