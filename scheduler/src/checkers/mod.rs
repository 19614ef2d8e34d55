//! Checkers: what is wrong with one region, and what to do about it. Asked with every heartbeat and by the patrol.
//!
//! In this order, the first that has something to do:
//!
//! 1. [`joint`]: a region between two configurations leaves it; nothing else can be done before.
//! 2. [`learner`]: a learner that has the data gets its vote if one is missing. One that has become hopeless goes.
//! 3. [`replica`]: too many voters, too few, on stores that are down or being emptied, in a worse place than need
//!    be; and learners that nobody needs.
//! 4. [`split`]: a region that has grown beyond the size an operator has set.
//!
//! **Invariant.** The first two follow from the region alone and are done at any time. The others compare stores:
//! before enough is known ([`Picture::is_prepared`]) they would take the first store that speaks for the only
//! one.

use std::fmt;

use crate::filter::{Reason, Refusal};
use crate::operator::Plan;
use crate::picture::Picture;
use crate::region_tree::RegionRecord;

pub mod joint;
pub mod learner;
pub mod replica;
pub mod split;

/// What a checker says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Nothing is wrong.
    Well,
    /// This is to be done.
    Do(Plan),
    /// Something is wrong, and nothing can be done about it now.
    Stuck(Trouble),
}

/// What cannot be done, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What should be done.
    pub wish: String,
    /// Which stores could not serve for it.
    pub refusals: Vec<Refusal>,
}

impl Trouble {
    /// A wish that no store fulfils.
    pub fn new(wish: impl Into<String>, refusals: Vec<Refusal>) -> Trouble {
        Trouble { wish: wish.into(), refusals }
    }

    /// A wish that one store stands against.
    pub fn because(
        wish: impl Into<String>,
        store: skerry_proto::types::StoreId,
        reason: Reason,
    ) -> Trouble {
        Trouble::new(wish, vec![Refusal { store, reason }])
    }
}

/// `replace p3@s1, which is down: no store will do: s2 has a replica already, s4 is down`.
impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<String> = self.refusals.iter().map(Refusal::to_string).collect();
        match reasons.is_empty() {
            true => write!(formatter, "{}: no store is left for it", self.wish),
            false => write!(formatter, "{}: {}", self.wish, reasons.join(", ")),
        }
    }
}

/// What is to be done about a region.
pub fn check(picture: &Picture<'_>, record: &RegionRecord) -> Verdict {
    let at_any_time = [joint::check, learner::check];
    let when_prepared = [replica::check, split::check];
    let later = when_prepared.iter().filter(|_| picture.is_prepared);
    let mut stuck = Verdict::Well;
    for checker in at_any_time.iter().chain(later) {
        match checker(picture, record) {
            Verdict::Well => {}
            verdict @ Verdict::Do(_) => return verdict,
            verdict @ Verdict::Stuck(_) if stuck == Verdict::Well => stuck = verdict,
            Verdict::Stuck(_) => {}
        }
    }
    stuck
}
