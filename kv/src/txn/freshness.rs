//! Whether the store's `max_ts` is above all reads that others have answered for a region.
//!
//! Async commit and one-phase commit choose their timestamp above `max_ts`, which knows the reads of this store only
//! ([`super::concurrency`]). Another store may have led the region before, or led what is in the region now. So:
//!
//! 1. The command takes a view. It is given out by the leader of a term, when no leader of an earlier term can answer
//!    a read any more.
//! 2. If nothing was learnt for this term and this version of the region, a timestamp is drawn from the scheduler, who
//!    gives it after all that those reads may have had, and `max_ts` is raised to it.
//! 3. The command begins again. Its next view is of the same term and version, or this is done once more.
//!
//! Nothing is learnt in advance: most regions never see such a command.
//!
//! What it does not do: it does not answer *not synced*, which clients hand to the application. Whoever has no
//! scheduler waits for it, until its deadline.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use skerry_proto::types::Term;

use crate::storage::RegionView;

/// Regions after which all is forgotten, which costs each a timestamp. More than a store leads.
const REGIONS_MAX: usize = 65_536;

/// For which regions `max_ts` is fresh. One for a store.
#[derive(Default)]
pub struct Freshness {
    /// By region. Nothing is awaited under it.
    learnt: Mutex<BTreeMap<u64, Reign>>,
}

/// Who led which range: a term of a region at a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reign {
    region_id: u64,
    term: Term,
    version: u64,
}

impl Reign {
    /// That in which the view was taken.
    pub fn of(view: &RegionView) -> Reign {
        let version = view.region.region_epoch.unwrap_or_default().version;
        Reign { region_id: view.region.id, term: view.term, version }
    }
}

impl Freshness {
    /// Whether `max_ts` is above all reads before this reign.
    pub fn is_learnt(&self, reign: Reign) -> bool {
        self.lock().get(&reign.region_id) == Some(&reign)
    }

    /// `max_ts` was raised to a timestamp that was asked for when the reign had begun.
    pub fn learn(&self, reign: Reign) {
        let mut learnt = self.lock();
        if learnt.len() >= REGIONS_MAX {
            learnt.clear();
        }
        learnt.insert(reign.region_id, reign);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Reign>> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
