//! Garbage collection: up to which timestamp old versions may go, what holds that back, and how far the stores are.
//! The cluster owns it ([`crate::cluster::collection`]).
//!
//! * [`marks`]: the two safe points and the barriers before them. On disk: what was promised to clients.
//! * [`round`]: what the stores are doing about it, step by step. In memory: a restart begins the round anew.
//! * [`ranges`]: a set of keys, made of the ranges that stores report.
//! * [`wire`]: reports and orders as they travel.
//!
//! # How old versions go
//!
//! ```text
//! time ──►   ...          gc safe point      txn safe point            now
//!            collected ───────┤                    │◄── life time ───────┤
//!                             └── locks are being resolved ──┘
//! ```
//!
//! 1. The *txn safe point* rises to `now - life time`, or as far as barriers let it, and is made durable. From now on
//!    no transaction that began at or below it may read or lock.
//! 2. *Announce*: stores hear of it, see that nothing is under way any more that they had let in before, and say so. A
//!    store that is not heard of for longer than its lease serves no transactions until it hears again, so after that
//!    time it is waited for no longer.
//! 3. *Resolve*: leaders end the locks of such transactions in their regions, and report the ranges in which there are
//!    none. No new ones can come, so when the ranges cover all keys, there are none anywhere: wherever regions were cut
//!    and led meanwhile.
//! 4. *Collect*: the *gc safe point* rises to the same timestamp, and leaders drop what no read at or above it sees.
//!
//! Clients that drive collection themselves raise the marks; what they raise is announced and resolved as well before
//! anything goes.
//!
//! **Invariant.** No mark ever falls, and nothing is collected above the lowest barrier of the moment when its round
//! began.

pub mod marks;
pub mod ranges;
pub mod round;
pub mod wire;

pub use marks::{Barrier, BarrierName, Marks};
pub use round::{Order, Phase, Report, Round};

use std::time::Duration;

use crate::moment::Moment;

/// When a cluster collects without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habit {
    /// Versions younger than this stay; zero: nothing is collected without being asked.
    pub life_time: Duration,
    /// From one round to the next.
    pub interval: Duration,
}

/// All of it.
#[derive(Debug)]
pub struct Collection {
    /// What is on disk.
    pub marks: Marks,
    /// What the stores are doing.
    pub round: Round,
}

impl Collection {
    /// Nothing was ever collected.
    pub fn new(now: Moment) -> Collection {
        Collection { marks: Marks::default(), round: Round::new(now) }
    }
}
