//! Learners that stand without an operator, as a restart of the scheduler leaves them.
//!
//! 1. One that has the data, on a store that is up, gets its vote if the region has fewer voters than it should.
//! 2. One whose store is down or being emptied goes: it would be waited for without end.
//!
//! What it does not do: a learner that still needs its data is waited for; one that nobody needs is the business of
//! [`super::replica`].

use skerry_proto::metapb::Peer;

use super::Verdict;
use crate::operator::{Goal, Kind, Plan, Priority, Step, Task};
use crate::picture::Picture;
use crate::planted::Planted;
use crate::region_tree::RegionRecord;

/// See the module.
pub fn check(picture: &Picture<'_>, record: &RegionRecord) -> Verdict {
    let learners = || record.region.peers.iter().filter(|peer| peer.is_learner());
    let plan = |name, task| {
        let (kind, priority) = (Kind::Replica, Priority::Repair);
        Verdict::Do(Plan { region: record.id(), name, kind, priority, task })
    };
    let is_seen = |peer: &Peer| {
        record.is_well(peer) || picture.planted == Some(Planted::LearnerPromotedUnseen)
    };
    let is_ready = |peer: &&Peer| is_seen(peer) && picture.is_up(peer.store());
    let lacks_voters = record.voters().count() < picture.replicas_max;
    if let Some(ready) = learners().find(is_ready).filter(|_| lacks_voters) {
        return plan("promote-learner", Task::Do(Step::Promote(*ready)));
    }
    if let Some(hopeless) = learners().find(|peer| picture.must_leave(record, peer)) {
        let goal = Goal::as_it_is(record).without(hopeless.store());
        return plan("remove-lost-learner", Task::Reach(goal));
    }
    Verdict::Well
}
