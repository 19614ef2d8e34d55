//! The simulator: a whole cluster in one thread, in virtual time, from one seed.
//!
//! # What a seed is
//!
//! A seed decides everything: the settings of the cluster, the order in which actors of stores run, the luck of
//! every message, what goes wrong and when, what clients ask. The same seed gives the same run, to the
//! last byte that a disk takes; [`Summary::trace`] is a number over every delivered message, every write
//! and every answer, by which two runs are compared.
//!
//! # To replay
//!
//! `SEED=7 make sim` runs one seed and prints its story, a line for each thing worth telling: time, who, what.
//! `make sim SEEDS=500` runs many. A failure prints the command that replays it.
//!
//! # How
//!
//! ```text
//!              clients ── requests ──► nodes: Store over memory engines ◄── ticks, turns
//!     history ◄───┘  ◄── answers ────    │  ▲                    ▲
//!                                        ▼  │ delay, loss, order │ crash, pause, drift
//!   scheduler ◄── reports, steps ──►   network                 faults
//! ```
//!
//! 1. [`queue`] holds what is going to happen. [`world`] takes the next event, moves the clock there and lets it
//!    happen: nothing runs between events, and nothing waits.
//! 2. [`node`] is a store with its disk and its clock; [`handling`] turns its actors and carries what comes out.
//!    The actors are those of production; only the disk, the clock and the wires are not.
//! 3. [`faults`] draws what goes wrong, [`mishaps`] does it, and [`plots`] what needs accomplices.
//! 4. [`invariants`] are looked at after every step.
//! 5. At the end everything heals, clients must get on, replicas must agree ([`settle`]), and the clients'
//!    history must have an order ([`crate::checker`]).
//!
//! In some runs clients commit transactions over several keys instead ([`transactions`]), and their history must be
//! one of snapshots ([`crate::checker::isolation`]).
//!
//! A test may drive a world itself instead of leaving it to a seed ([`script`]): the labs do.
//!
//! What it does not do: it has no threads, so it finds no data races; its disks lose power but keep what they
//! have synced; of its schedulers there is one at a time.

use std::collections::BTreeMap;
use std::fmt;

use skerry_kv::txn::planted::Planted as TxnPlanted;
use skerry_raftstore::planted::Planted;

use self::trace::{Moment, SECOND};
use self::world::World;
use crate::checker::{Checked, isolation};

pub mod chance;
pub mod clients;
pub mod disk;
pub mod faults;
mod handling;
pub mod invariants;
mod mishaps;
pub mod network;
pub mod node;
mod plots;
mod queue;
pub mod scheduler;
pub mod script;
mod settle;
mod snapshots;
pub mod trace;
pub mod transactions;
pub mod world;

/// What a run consists of besides its seed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides everything else.
    pub seed: u64,
    /// How many stores.
    pub stores: usize,
    /// How many clients.
    pub clients: usize,
    /// How long faults come.
    pub dangerous: Moment,
    /// Whether the story is printed.
    pub tells: bool,
    /// Whether the scheduler decides where replicas are; else the operator does, while faults come.
    pub governed: bool,
    /// Whether clients run transactions; else they read and write single keys.
    pub transactions: bool,
    /// A bug in every store, to show that it is found.
    pub planted: Option<Planted>,
    /// A bug in the scheduler, likewise.
    pub planted_above: Option<skerry_scheduler::planted::Planted>,
    /// A bug in the executor of every store.
    pub planted_txn: Option<TxnPlanted>,
}

impl Settings {
    /// The run that `make sim` makes of a seed.
    pub fn of_seed(seed: u64) -> Settings {
        Settings {
            seed,
            stores: 5,
            clients: 8,
            dangerous: 60 * SECOND,
            tells: false,
            governed: false,
            transactions: false,
            planted: None,
            planted_above: None,
            planted_txn: None,
        }
    }
}

/// What a run that found nothing wrong has seen.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The seed.
    pub seed: u64,
    /// How long it took in the simulated world.
    pub simulated: Moment,
    /// Events.
    pub steps: u64,
    /// A number of all that happened.
    pub trace: u64,
    /// How many faults came.
    pub faults: u64,
    /// How often what happened, by name.
    pub counts: BTreeMap<&'static str, u64>,
    /// What the clients did.
    pub checked: Checked,
    /// What clients of transactions did.
    pub isolated: isolation::Checked,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// When, in the simulated world.
    pub at: Moment,
    /// What.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { seed, at, what } = self;
        write!(formatter, "seed {seed} after {}.{:06} s: {what}", at / SECOND, at % SECOND)
    }
}

/// Runs one seed.
pub fn run(settings: Settings) -> Result<Summary, Failure> {
    World::new(settings).run()
}
