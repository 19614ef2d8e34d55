//! A laboratory: a cluster in the simulator that a test drives, as the TinyKV course drives its cluster, but in
//! virtual time and from one seed.
//!
//! # How
//!
//! 1. [`run`] starts stores, each with a replica of the first region, and calls the test's script with a [`Lab`].
//! 2. A script is an `async` function. What it awaits (an answer, a pause, a condition) lets the simulated world go
//!    on; nothing else does. [`Lab::spawn`] runs another one beside it ([`tasks`]).
//! 3. [`requests`] asks as clients do: looks up the region, asks its leader, asks again elsewhere. [`members`]
//!    does what a scheduler does: peers, leaders, cuts. [`looks`] sees what lies in a store.
//! 4. When the script has ended everything heals, replicas must agree, and the history of the shared clients must
//!    have an order. The simulator's invariants were looked at after every step before.
//!
//! # Where it differs from the course's harness
//!
//! * A crash is a crash: [`Lab::power_off`] loses what was not synced; the course stops a store in peace.
//! * [`Lab::separate`] and [`Lab::make_unreliable`] replace what was there; the course's filters add up.
//! * Messages are also late, doubled and out of order; snapshots are also slow, damaged and lost.
//! * Clients on the same keys run beside those that own their keys.
//! * A deadline is one of virtual time, so that a slow machine fails nothing.
//!
//! Stores are numbered from 1 as in the course; the simulator's nodes from 0.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use skerry_proto::types::StoreId;
use skerry_raftstore::config::RaftConfig;
use skerry_raftstore::planted::Planted;

use crate::number_from_environment;
use crate::sim::trace::Moment;
use crate::sim::world::World;
use crate::sim::{Failure, Settings, Summary};

pub mod looks;
pub mod members;
pub mod requests;
pub mod tasks;

/// Milliseconds of a tick, as in the course.
const TICK_MS: u64 = 50;

/// What a lab consists of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many stores, each with a replica.
    pub stores: usize,
    /// How many clients share keys; they begin with [`Lab::set_busy`].
    pub shared_clients: usize,
    /// Settings of replication.
    pub config: RaftConfig,
    /// A bug in every store.
    pub planted: Option<Planted>,
}

impl Setup {
    /// So many stores, no clients, and the course's pace.
    pub fn of(stores: usize) -> Setup {
        let config = RaftConfig {
            tick_ms: TICK_MS,
            log_gc_ticks: 4,
            // Within a test, whoever was left behind must find out, and the scheduler must hear.
            stale_peer_ticks: 40,
            report_ticks: 20,
            // Files of snapshots must be gone by the end.
            snapshot_collect_ticks: 10,
            snapshot_keep_ticks: 40,
            ..RaftConfig::default()
        };
        Setup { stores, shared_clients: 0, config, planted: None }
    }

    /// How long a follower waits at least before it stands for election.
    pub fn election_timeout(&self) -> Moment {
        self.config.election_ticks as u64 * self.config.tick_ms * crate::sim::trace::MILLISECOND
    }
}

/// A handle on the cluster. Clones name the same one.
#[derive(Clone)]
pub struct Lab {
    world: Rc<RefCell<World>>,
    tasks: tasks::Tasks,
}

/// Runs a script from seed 1, or from `LAB_SEED`, or from all seeds up to `LAB_SEEDS`, as the environment says; answers
/// what each run has seen. `LAB_TELLS=1` prints their story.
pub fn run(setup: &Setup, script: impl AsyncFn(Lab)) -> Vec<Summary> {
    let seeds = match number_from_environment("LAB_SEEDS") {
        Some(last) => 1..=last,
        None => {
            let seed = number_from_environment("LAB_SEED").unwrap_or(1);
            seed..=seed
        }
    };
    seeds.map(|seed| run_seed(setup, seed, &script)).collect()
}

/// Runs a script from a seed.
fn run_seed(setup: &Setup, seed: u64, script: impl AsyncFn(Lab)) -> Summary {
    let settings = Settings {
        stores: setup.stores,
        clients: setup.shared_clients,
        dangerous: 0,
        tells: number_from_environment("LAB_TELLS").is_some(),
        planted: setup.planted,
        ..Settings::of_seed(seed)
    };
    let world = must(World::scripted(settings, setup.config.clone()));
    let lab = Lab { world: Rc::new(RefCell::new(world)), tasks: tasks::Tasks::default() };
    lab.drive(script(lab.clone()));
    let mut world = lab.world.borrow_mut();
    must(world.finish())
}

/// Panics with a failure and how to see it again.
fn must<T>(outcome: Result<T, Failure>) -> T {
    outcome.unwrap_or_else(|failure| {
        let seed = failure.seed;
        let replay = format!("LAB_TELLS=1 LAB_SEED={seed} make test FILTER=<this test>");
        panic!("{failure}\nto replay it with its story: {replay}")
    })
}

impl Lab {
    /// What time it is in the simulated world.
    pub fn now(&self) -> Moment {
        self.world.borrow().now()
    }

    /// All stores, by number.
    pub fn stores(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.world.borrow().stores()
    }

    /// A number from `low` to `high`, both included, that the seed decides.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        self.world.borrow_mut().chance().between(low, high)
    }

    /// True half of the time.
    pub fn coin(&self) -> bool {
        self.world.borrow_mut().chance().percent(50)
    }

    /// One of some things.
    pub fn pick<T: Clone>(&self, things: &[T]) -> Option<T> {
        self.world.borrow_mut().chance().pick(things)
    }

    /// A line of the story.
    pub fn tell(&self, what: impl FnOnce() -> String) {
        self.world.borrow().tell(what);
    }

    /// Lets the clients that share keys begin, or fall silent.
    pub fn set_busy(&self, is_busy: bool) {
        self.world.borrow_mut().set_busy(is_busy);
    }

    /// Cuts the network between these stores and all others. Replaces the cut before.
    pub fn separate(&self, side: &[usize]) {
        let mut world = self.world.borrow_mut();
        let is_left: Vec<bool> = (1..=world.stores()).map(|store| side.contains(&store)).collect();
        world.count("fault: partition");
        world.network().separate(&is_left);
    }

    /// Takes the cut away.
    pub fn reunite(&self) {
        self.world.borrow_mut().network().heal();
    }

    /// From now on messages are lost, doubled, late and out of order.
    pub fn make_unreliable(&self) {
        let mut world = self.world.borrow_mut();
        world.count("fault: bad network");
        world.network().make_unreliable();
    }

    /// From now on every message arrives.
    pub fn make_reliable(&self) {
        self.world.borrow_mut().network().mend();
    }

    /// A store loses its power, and what it has not synced.
    pub fn power_off(&self, store: usize) {
        let mut world = self.world.borrow_mut();
        world.count("fault: power loss");
        world.power_off(store - 1);
    }

    /// A store starts again on what its disk has kept.
    pub fn power_on(&self, store: usize) {
        must(self.world.borrow_mut().power_on(store - 1));
    }

    /// A store loses its power after so many more writes, in the middle of whatever it does then, and comes back
    /// by itself.
    pub fn power_off_at_write(&self, store: usize, writes: u64) {
        let mut world = self.world.borrow_mut();
        world.count("fault: power loss at a write");
        world.power_off_at_write(store - 1, writes);
    }

    /// The id of a store.
    pub fn store_id(&self, store: usize) -> StoreId {
        self.world.borrow().store_id(store - 1)
    }

    /// The number of a store.
    pub fn number_of(&self, store: u64) -> usize {
        self.world.borrow().number_of(StoreId::new(store)) + 1
    }

    /// Whether a store runs.
    pub fn is_on(&self, store: usize) -> bool {
        self.world.borrow().is_on(store - 1)
    }

    /// Counts something that a script did.
    pub fn count(&self, what: &'static str) {
        self.world.borrow_mut().count(what);
    }

    /// How often something has happened so far.
    pub fn count_of(&self, what: &str) -> u64 {
        self.world.borrow().count_of(what)
    }

    fn world(&self) -> Ref<'_, World> {
        self.world.borrow()
    }
}
