//! A store leaves a governed cluster, and another one joins.
//!
//! In every other seed somebody has a store emptied in the midst of all that goes wrong, and a new machine with an
//! empty disk joins some time before or after. The rest is the scheduler's business: it has every replica brought
//! elsewhere, takes no vote that is needed meanwhile, and buries the store when nothing is left on it, not before. At
//! the end it must have.

use super::governor::STORE_DOWN;
use super::*;
use crate::sim::invariants::{Broken, EMPTY_WHEN_BURIED, hold, regions_of};
use crate::sim::node::Node;
use crate::sim::queue::Event;
use crate::sim::trace::SECOND;
use crate::sim::world::World;

/// Who goes, and when.
pub(super) struct Turnover {
    leaves_at: Moment,
    joins_at: Moment,
    leaver: Option<StoreId>,
    has_joined: bool,
    is_buried: bool,
    chance: Chance,
}

impl Turnover {
    /// That of a seed, if it has one.
    pub(super) fn of_seed(seed: u64) -> Option<Turnover> {
        let mut chance = Chance::new(seed, "turnover");
        let mut some_time = || chance.between(8 * SECOND, 35 * SECOND);
        let (leaves_at, joins_at) = (some_time(), some_time());
        let (leaver, has_joined, is_buried) = (None, false, false);
        let turnover = Turnover { leaves_at, joins_at, leaver, has_joined, is_buried, chance };
        seed.is_multiple_of(2).then_some(turnover)
    }
}

impl Scheduler {
    /// Begins to empty a store, if it is time.
    fn send_off(&mut self, now: Moment) -> Option<StoreId> {
        let turnover = self.turnover.as_mut()?;
        if turnover.leaver.is_some() || now < turnover.leaves_at {
            return None;
        }
        let leaver = turnover.chance.pick(&self.stores).expect("there are stores");
        turnover.leaver = Some(leaver);
        self.decide(|cluster| cluster.remove_store(leaver, false, reading(now)));
        Some(leaver)
    }

    /// Registers a new store, if it is time.
    fn take_in(&mut self, now: Moment) -> Option<StoreId> {
        let turnover = self.turnover.as_mut()?;
        if turnover.has_joined || now < turnover.joins_at {
            return None;
        }
        turnover.has_joined = true;
        let id = self.decide(|cluster| cluster.allocate_ids(1));
        self.decide(|cluster| cluster.put_store(Some(store_record(id)), reading(now)));
        self.stores.push(StoreId::new(id));
        Some(StoreId::new(id))
    }

    /// The store that was buried just now, and whether it had been heard until then.
    fn burial(&mut self, now: Moment) -> Option<(StoreId, bool)> {
        let turnover = self.turnover.as_mut().filter(|turnover| !turnover.is_buried)?;
        let leaver = turnover.leaver?;
        let record = self.cluster.store(leaver).expect("it has registered");
        turnover.is_buried = record.is_tombstone();
        let is_heard = record.silence(reading(now)) <= STORE_DOWN;
        turnover.is_buried.then_some((leaver, is_heard))
    }

    /// What is left to do for the store that leaves, if anything is.
    pub(in crate::sim) fn still_leaves(&self, now: Moment) -> Option<String> {
        let turnover = self.turnover.as_ref().filter(|turnover| !turnover.is_buried)?;
        let leaver = turnover.leaver?;
        let leaving = self.cluster.leaving(leaver, reading(now)).expect("it has registered");
        Some(format!("{leaver} is not buried: {}", leaving.expect("it is being emptied")))
    }
}

impl World {
    /// Lets a store leave and another one join, when it is time.
    pub(in crate::sim) fn turn_over(&mut self) {
        if let Some(leaver) = self.scheduler.send_off(self.now) {
            self.trace.count("store leaves");
            self.trace.tell(self.now, "operator", || format!("has {leaver} emptied"));
        }
        if let Some(newcomer) = self.scheduler.take_in(self.now) {
            self.trace.count("store joins");
            self.trace.tell(self.now, "operator", || format!("has {newcomer} join"));
            let node = self.nodes.len();
            self.nodes.push(Node::new(node, newcomer, self.settings.planted));
            self.network.join();
            self.invariants.join();
            self.queue.plan(self.now, Event::Start { node });
        }
    }

    /// Looks whether the store that was buried just now is empty. One that had been silent for long was given up:
    /// it comes back to find that it has nothing any more.
    pub(in crate::sim) fn look_into_graves(&mut self) -> Result<(), Broken> {
        let Some((store, is_heard)) = self.scheduler.burial(self.now) else { return Ok(()) };
        self.trace.count("store buried");
        self.trace.tell(self.now, "scheduler", || format!("buries {store}"));
        let number = self.node_of(store.get()).expect("all stores are known");
        let view = self.nodes[number].disk().engine().view();
        let regions = regions_of(&*view).into_iter().map(|(region, ..)| region);
        let votes = |region: &Region| {
            let own = region.peer_on_store(store);
            own.is_some_and(|peer| !peer.is_learner())
        };
        let left = regions.filter(votes).find(|_| is_heard);
        hold(left.is_none(), EMPTY_WHEN_BURIED, || format!("{store} votes in {left:?}"))
    }
}
