//! The patrol: looks at all regions in turn, whatever their leaders report. It finds what time or a store has changed
//! about regions in which nothing happens, and whose leaders therefore say nothing.
//!
//! 1. While it is *restless*, a tick looks at so many regions that ten thousand are looked at in a second.
//! 2. A pass over all regions that finds nothing to do makes it calm, and a pass takes ten seconds: looks at ten
//!    thousand idle regions in every second were most of what they cost the scheduler.
//! 3. What regions are judged by makes it restless, and it begins anew: a store that comes, falls silent, is dead or to
//!    be emptied, its labels, and settings ([`Outlook`], [`Patrol::begin_anew`]).
//!
//! What changes in a region itself is looked at when its leader reports it, not here.

use skerry_proto::types::{RegionId, StoreId};

use super::Cluster;
use super::steps::STARTS_MAX;
use crate::Result;
use crate::checkers::Verdict;
use crate::moment::Moment;
use crate::operator::Plan;
use crate::persist::Change;
use crate::settings::Settings;
use crate::stores::Liveness;

/// Regions that a tick looks at while the patrol is restless: all of a hundred thousand in ten seconds.
const LOOKS_MAX: usize = 1_024;

/// Ticks that a pass takes while it is calm.
const CALM_TICKS: usize = 100;

/// Where the patrol is.
#[derive(Debug, Default)]
pub(super) struct Patrol {
    /// The last region that was looked at.
    last: RegionId,
    /// Whether this pass has found something.
    has_found: bool,
    /// Whether the pass before found nothing.
    is_calm: bool,
    outlook: Option<Outlook>,
}

/// What all regions are judged by, besides what is durable about stores.
#[derive(Debug, PartialEq)]
struct Outlook {
    stores: Vec<(StoreId, Liveness)>,
    settings: Settings,
    is_prepared: bool,
}

impl Patrol {
    /// Something has changed that may concern every region.
    pub(super) fn begin_anew(&mut self) {
        (self.last, self.has_found, self.is_calm) = (RegionId::new(0), false, false);
    }

    fn see(&mut self, outlook: Outlook) {
        if self.outlook.as_ref() != Some(&outlook) {
            self.outlook = Some(outlook);
            self.begin_anew();
        }
    }

    fn looks(&self, regions: usize) -> usize {
        match self.is_calm {
            true => regions.div_ceil(CALM_TICKS).min(LOOKS_MAX),
            false => LOOKS_MAX,
        }
    }

    fn end_pass(&mut self) {
        self.is_calm = !self.has_found;
        (self.last, self.has_found) = (RegionId::new(0), false);
    }
}

impl Cluster {
    /// Checks some regions, in turn.
    pub(super) fn patrol(&mut self, now: Moment) -> Result<Vec<Change>> {
        let outlook = self.outlook(now);
        self.patrol.see(outlook);
        let plans = self.walk(now);
        let mut changes = Vec::new();
        for plan in plans {
            // What was started before it may have taken its place.
            let record = self.regions.get(plan.region).expect("it was there a moment ago").clone();
            if let Verdict::Do(plan) = self.verdict(&record, now) {
                changes.extend(self.start(plan, &record, now)?);
            }
        }
        Ok(changes)
    }

    /// What there is to do about the next regions.
    fn walk(&mut self, now: Moment) -> Vec<Plan> {
        let (mut plans, mut has_found, mut last) = (Vec::new(), false, None);
        let picture = self.picture(now);
        let looks = self.patrol.looks(self.regions.len());
        for record in self.regions.after(self.patrol.last, looks) {
            last = Some(record.id());
            // To a leader that is silent nothing can be told; another one will report.
            if !record.leader.is_some_and(|leader| picture.hears(leader.store())) {
                continue;
            }
            let is_busy = self.operators.get(record.id()).is_some();
            let verdict = if is_busy { Verdict::Well } else { self.verdict(record, now) };
            has_found |= is_busy || verdict != Verdict::Well;
            if let Verdict::Do(plan) = verdict {
                plans.push(plan);
            }
            if plans.len() == STARTS_MAX {
                break;
            }
        }
        let is_at_end = last.is_none_or(|last| self.regions.after(last, 1).next().is_none());
        self.patrol.has_found |= has_found;
        match last.filter(|_| !is_at_end) {
            Some(last) => self.patrol.last = last,
            None => self.patrol.end_pass(),
        }
        plans
    }

    fn outlook(&self, now: Moment) -> Outlook {
        let patience = self.patience();
        let store =
            |record: &crate::stores::StoreRecord| (record.id(), record.liveness(now, patience));
        Outlook {
            stores: self.stores.iter().map(store).collect(),
            settings: self.schedule.current().clone(),
            is_prepared: self.is_prepared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook(state: Liveness) -> Outlook {
        let stores = vec![(StoreId::new(1), state)];
        Outlook { stores, settings: Settings::default(), is_prepared: true }
    }

    #[test]
    fn a_pass_that_finds_nothing_makes_it_calm_until_something_changes() {
        let mut patrol = Patrol::default();
        patrol.see(outlook(Liveness::Up));
        assert_eq!(patrol.looks(10_000), LOOKS_MAX);
        patrol.has_found = true;
        patrol.end_pass();
        assert_eq!(patrol.looks(10_000), LOOKS_MAX, "it has found something");
        patrol.end_pass();
        patrol.see(outlook(Liveness::Up));
        assert_eq!(
            [5, 10_000, 1_000_000].map(|regions| patrol.looks(regions)),
            [1, 100, LOOKS_MAX]
        );
        patrol.last = RegionId::new(7);
        patrol.see(outlook(Liveness::Down));
        assert_eq!((patrol.looks(10_000), patrol.last), (LOOKS_MAX, RegionId::new(0)));
    }
}
