//! What a person, or a tool, may want of placement: operators by hand, balancers on and off, other settings.
//!
//! **Invariant.** A wish is checked before anything changes, and a refusal says what is wrong with it: the
//! region, the store, or the rule that the result would break. Limits, which are there for what the scheduler
//! does by itself, do not bind a person.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value};
use skerry_proto::metapb::Peer;
use skerry_proto::pdpb::CheckPolicy;
use skerry_proto::types::{RegionId, StoreId};

use super::{Cluster, Decision, invalid};
use crate::balance::{Name, Spec, Standing};
use crate::checkers::replica::heirs;
use crate::filter::{leader_target, replica_place};
use crate::moment::Moment;
use crate::operator::{Ended, Ending, Goal, Kind, Operator, Plan, Priority, Step, Task};
use crate::persist::Change;
use crate::region_tree::RegionRecord;
use crate::schedule::Schedule;
use crate::{Error, Result};

/// What is wanted of a region.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// Lead it from this store.
    TransferLeader(StoreId),
    /// Move a replica.
    TransferPeer {
        /// From here.
        from: StoreId,
        /// To there.
        to: StoreId,
    },
    /// Have voters on exactly these stores.
    TransferRegion(Vec<StoreId>),
    /// One more voter.
    AddPeer(StoreId),
    /// One more learner. It stays one until it is promoted or removed by hand, or the scheduler starts again.
    AddLearner(StoreId),
    /// One replica less.
    RemovePeer(StoreId),
    /// Cut it.
    Split {
        /// How to find the place.
        policy: CheckPolicy,
        /// Where, if the policy says so.
        keys: Vec<Bytes>,
    },
}

impl Wish {
    fn name(&self) -> &'static str {
        match self {
            Wish::TransferLeader(_) => "admin-transfer-leader",
            Wish::TransferPeer { .. } => "admin-transfer-peer",
            Wish::TransferRegion(_) => "admin-transfer-region",
            Wish::AddPeer(_) => "admin-add-peer",
            Wish::AddLearner(_) => "admin-add-learner",
            Wish::RemovePeer(_) => "admin-remove-peer",
            Wish::Split { .. } => "admin-split-region",
        }
    }
}

impl Cluster {
    // ---- Operators ----------------------------------------------------------------------------------

    /// Begins what is wanted of a region; answers the operator in words. It replaces one of lower priority.
    pub fn add_operator(
        &mut self,
        region: RegionId,
        wish: &Wish,
        now: Moment,
    ) -> Result<Decision<String>> {
        self.settings()?;
        let record = self.regions.get(region).ok_or(Error::UnknownRegion(region.get()))?.clone();
        if record.leader.is_none() {
            return Err(invalid(format!("{region} has no leader that has reported yet")));
        }
        if skerry_raftstore::region::is_joint(&record.region) {
            return Err(invalid(format!("{} is between two configurations", record.region)));
        }
        let running = self.operators.get(region);
        if let Some(running) = running.filter(|running| running.priority >= Priority::Admin) {
            return Err(invalid(format!("{region} has an operator already: {running}")));
        }
        let task = self.task(&record, wish, now)?;
        let (name, kind, priority) = (wish.name(), Kind::Admin, Priority::Admin);
        let plan = Plan { region, name, kind, priority, task };
        let changes = self.start(plan, &record, now)?;
        let begun = self.operators.get(region).filter(|operator| operator.name == name);
        let no_way =
            || invalid(format!("there is nothing to do, or no way to do it: {}", record.region));
        let answer = begun.ok_or_else(no_way)?.to_string();
        if let Wish::AddLearner(store) = wish {
            self.kept_learners.entry(region).or_default().insert(*store);
        }
        Ok(Decision { answer, changes })
    }

    /// What a wish means for a region as it is, if it is allowed.
    fn task(&self, record: &RegionRecord, wish: &Wish, now: Moment) -> Result<Task> {
        let goal = Goal::as_it_is(record);
        let goal = match wish {
            Wish::TransferLeader(to) => return self.transfer(record, *to, now),
            Wish::Split { policy, keys } => return split(record, *policy, keys),
            Wish::TransferPeer { from, to } => {
                self.has_replica(record, *from)?;
                self.check_place(record, *to, Some(*from), now)?;
                goal.without(*from).with_voter(*to)
            }
            Wish::TransferRegion(stores) => {
                let new = stores.iter().filter(|id| record.region.peer_on_store(**id).is_none());
                for store in new {
                    self.check_place(record, *store, None, now)?;
                }
                if stores.is_empty() {
                    return Err(invalid("a region needs a replica"));
                }
                Goal { voters: stores.clone(), ..Goal::default() }
            }
            Wish::AddPeer(store) => {
                let peer = record.region.peer_on_store(*store);
                if peer.is_none_or(|peer| !peer.is_learner()) {
                    self.check_place(record, *store, None, now)?;
                }
                goal.with_voter(*store)
            }
            Wish::AddLearner(store) => {
                self.check_place(record, *store, None, now)?;
                Goal { learners: [&goal.learners[..], &[*store]].concat(), ..goal }
            }
            Wish::RemovePeer(store) => {
                self.has_replica(record, *store)?;
                let goal = goal.without(*store);
                if goal.voters.is_empty() {
                    return Err(invalid(format!("{} would have no voter left", record.region)));
                }
                goal
            }
        };
        Ok(Task::Reach(goal.with_heirs(heirs(&self.picture(now), record))))
    }

    fn has_replica(&self, record: &RegionRecord, store: StoreId) -> Result<()> {
        match record.region.peer_on_store(store) {
            Some(_) => Ok(()),
            None => Err(invalid(format!("{store} has no replica of {}", record.region))),
        }
    }

    fn check_place(
        &self,
        record: &RegionRecord,
        store: StoreId,
        leaves: Option<StoreId>,
        now: Moment,
    ) -> Result<()> {
        let known = self.stores.get(store).ok_or(Error::NoSuchStore(store.get()))?;
        let refused = replica_place(&self.picture(now), record, known, leaves);
        refused.map_err(|reason| invalid(format!("{store} {reason}: {}", record.region)))
    }

    fn transfer(&self, record: &RegionRecord, to: StoreId, now: Moment) -> Result<Task> {
        self.has_replica(record, to)?;
        let heir = record.region.peer_on_store(to).expect("checked a line above");
        if record.is_led_from(to) {
            return Err(invalid(format!("{to} leads {} already", record.region)));
        }
        let refused = leader_target(&self.picture(now), record, heir);
        refused.map_err(|reason| invalid(format!("{to} {reason}: {}", record.region)))?;
        Ok(Task::Do(Step::Transfer(*heir)))
    }

    /// Forgets the wish for learners that have become something else, unless they are still on their way.
    pub(super) fn forget_learners(&mut self, record: &RegionRecord) {
        if self.operators.get(record.id()).is_some() {
            return;
        }
        let Some(kept) = self.kept_learners.get_mut(&record.id()) else { return };
        kept.retain(|store| record.region.peer_on_store(*store).is_some_and(Peer::is_learner));
        if kept.is_empty() {
            self.kept_learners.remove(&record.id());
        }
    }

    /// Ends the operator of a region, with the reason that the history keeps.
    pub fn cancel_operator(&mut self, region: RegionId, reason: &str, now: Moment) -> Result<()> {
        self.settings()?;
        match self.operators.end(region, Ending::Cancelled(reason.to_string()), now) {
            true => Ok(()),
            false => Err(invalid(format!("{region} has no operator"))),
        }
    }

    /// All operators that run, by region.
    pub fn operators(&self) -> Result<impl Iterator<Item = &Operator>> {
        self.settings()?;
        Ok(self.operators.iter())
    }

    /// The operator that runs for a region.
    pub fn operator(&self, region: RegionId) -> Result<Option<&Operator>> {
        self.settings()?;
        Ok(self.operators.get(region))
    }

    /// Operators that have ended, the newest first, as far as they are remembered.
    pub fn ended_operators(&self) -> Result<impl Iterator<Item = &Ended>> {
        self.settings()?;
        Ok(self.operators.history())
    }

    // ---- Balancers ----------------------------------------------------------------------------------

    /// Turns a balancer on, or tells one that is on about more stores.
    pub fn add_balancer(&self, name: Name, store: Option<StoreId>) -> Result<Decision<()>> {
        self.settings()?;
        let mut specs = self.balancers.specs();
        if name.has_stores() != store.is_some() {
            let needs = if name.has_stores() { "needs a store" } else { "is about no store" };
            return Err(invalid(format!("{} {needs}", name.text())));
        }
        let record = store.map(|store| self.store(store)).transpose()?;
        if let Some(gone) = record.filter(|record| record.is_tombstone()) {
            return Err(Error::NoSuchStore(gone.store.id));
        }
        match specs.iter_mut().find(|spec| spec.name == name) {
            Some(known) => known.stores.extend(store.map(StoreId::get)),
            None => {
                specs.push(Spec { name, stores: store.map(StoreId::get).into_iter().collect() })
            }
        }
        Ok(self.turn(specs))
    }

    /// Turns a balancer off, or takes one store from it; with the last store it is off.
    pub fn remove_balancer(&self, name: Name, store: Option<StoreId>) -> Result<Decision<()>> {
        self.settings()?;
        let mut specs = self.balancers.specs();
        let known = specs.iter_mut().find(|spec| spec.name == name);
        let known = known.ok_or_else(|| invalid(format!("{} is not on", name.text())))?;
        match store {
            None => known.stores.clear(),
            Some(store) if known.stores.remove(&store.get()) => {}
            Some(store) => {
                return Err(invalid(format!("{} is not on for {store}", name.text())));
            }
        }
        specs.retain(|spec| spec.name != name || !spec.stores.is_empty());
        Ok(self.turn(specs))
    }

    fn turn(&self, specs: Vec<Spec>) -> Decision<()> {
        let unchanged = specs == self.balancers.specs();
        let changes = if unchanged { vec![] } else { vec![Change::Balancers(specs)] };
        Decision { answer: (), changes }
    }

    /// Lets a balancer rest for a while; no time lets it go on. Not durable.
    pub fn pause_balancer(&mut self, name: Name, time: Duration, now: Moment) -> Result<()> {
        self.settings()?;
        let until = Moment { monotonic: now.monotonic.saturating_add(time), ..now };
        match self.balancers.pause(name, (!time.is_zero()).then_some(until)) {
            true => Ok(()),
            false => Err(invalid(format!("{} is not on", name.text()))),
        }
    }

    /// How all balancers that are on stand.
    pub fn balancers(&self, now: Moment) -> Result<Vec<Standing>> {
        self.settings()?;
        Ok(self.balancers.standings(now))
    }

    // ---- Settings -----------------------------------------------------------------------------------

    /// How placement works, and what of it will pass.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Changes some settings by name; none if one of them is not allowed.
    pub fn change_settings(&self, change: &Map<String, Value>) -> Result<Decision<()>> {
        self.settings()?;
        let settings = self.schedule.durable().with(change)?;
        let unchanged = settings == *self.schedule.durable();
        let changes = if unchanged { vec![] } else { vec![Change::Settings(Box::new(settings))] };
        Ok(Decision { answer: (), changes })
    }

    /// Changes some settings by name until `time` has passed; ends such a change if that is none.
    pub fn change_settings_for(
        &mut self,
        change: &Map<String, Value>,
        time: Duration,
        now: Moment,
    ) -> Result<()> {
        self.settings()?;
        self.schedule.set_for(change, time, now)
    }
}

fn split(record: &RegionRecord, policy: CheckPolicy, keys: &[Bytes]) -> Result<Task> {
    let outside =
        |key: &&Bytes| **key <= record.region.start_key || !record.region.contains_key(key);
    if policy == CheckPolicy::Usekey {
        if keys.is_empty() {
            return Err(invalid("no keys to split at"));
        }
        if let Some(key) = keys.iter().find(outside) {
            let (key, bounds) = (key.escape_ascii(), record.region.bounds());
            return Err(invalid(format!("key {key} does not cut {} with {bounds}", record.id())));
        }
    }
    let mut keys = keys.to_vec();
    keys.sort();
    keys.dedup();
    Ok(Task::Do(Step::Split { policy, keys }))
}
