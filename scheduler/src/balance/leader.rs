//! `balance-leader`: as many leaders on every store, by weight.
//!
//! 1. Stores that are up, without those that shall lead nothing or everything, are sorted by their score.
//! 2. A few regions led from the store with the most are looked at: each would best be led from the one of its voters
//!    whose store has the fewest.
//! 3. If none can go, a few regions that the store with the fewest has a voter of are looked at.

use std::collections::BTreeSet;

use skerry_proto::metapb::Peer;
use skerry_proto::types::{RegionId, StoreId};

use super::{Chance, Evenness, Report, TRIES, by_score, is_free, mean, stores_up};
use crate::checkers::replica::is_whole;
use crate::filter::leader_target;
use crate::operator::{Kind, Plan, Priority, Step, Task};
use crate::picture::Picture;
use crate::region_tree::RegionRecord;

/// Fewer leaders than this are not worth a beginning.
const LEADERS_MIN: f64 = 2.0;

/// What part of the tolerance is left when it ends.
const REST: f64 = 0.2;

pub(super) fn plan(
    picture: &Picture<'_>,
    granted: &BTreeSet<StoreId>,
    evenness: &mut Evenness,
    chance: &mut Chance,
    report: &mut Report,
) -> Option<Plan> {
    let mut stores = stores_up(picture);
    stores.retain(|id| !granted.contains(id) && !picture.no_leaders.contains(id));
    let scored = by_score(&stores, |id| picture.leader_score(id, 0));
    let (Some(most), Some(fewest)) = (scored.first(), scored.last()) else {
        report.summary = "no store may lead".to_string();
        return None;
    };
    let tolerance = mean(&scored) * f64::from(picture.settings.balance_tolerance_percent) / 100.0;
    let begins_above = tolerance.max(LEADERS_MIN);
    if !evenness.is_worth(most.1 - fewest.1, begins_above, (tolerance * REST).max(1.0)) {
        report.summary = format!(
            "even: {} leads {:.0}, {} leads {:.0}; a difference of {begins_above:.0} would be moved",
            most.0, most.1, fewest.0, fewest.1
        );
        return None;
    }
    let (led, follows) = (picture.regions.on(most.0), picture.regions.on(fewest.0));
    for _ in 0..TRIES {
        let Some(record) = pick(picture, led.leaders.pick(chance.draw()), report) else { continue };
        if let Some(plan) = best_heir(picture, record, &stores, report) {
            return Some(plan);
        }
    }
    for _ in 0..TRIES {
        let picked = follows.replicas.pick(chance.draw());
        let Some(record) = pick(picture, picked, report) else { continue };
        if let Some(plan) = best_heir(picture, record, &[fewest.0], report) {
            return Some(plan);
        }
    }
    report.summary = "nothing that would help can be handed over now".to_string();
    None
}

/// The region, if it may be touched.
fn pick<'a>(
    picture: &Picture<'a>,
    id: Option<RegionId>,
    report: &mut Report,
) -> Option<&'a RegionRecord> {
    let record = picture.regions.get(id?).filter(|record| is_free(picture, record.id()))?;
    if !is_whole(picture, record, None) {
        report.note(|| format!("{} is not whole", record.id()));
        return None;
    }
    Some(record)
}

/// Leadership for the voter on the one of `stores` with the fewest leaders, if that makes them more alike.
fn best_heir(
    picture: &Picture<'_>,
    record: &RegionRecord,
    stores: &[StoreId],
    report: &mut Report,
) -> Option<Plan> {
    let source = record.leader?.store();
    if !picture.is_up(source) {
        return None;
    }
    let after = picture.leader_score(source, -1);
    let improves = |peer: &&Peer| {
        peer.store() != source
            && stores.contains(&peer.store())
            && after >= picture.leader_score(peer.store(), 1)
    };
    let mut heirs: Vec<&Peer> = record.voters().filter(improves).collect();
    let score = |peer: &Peer| picture.leader_score(peer.store(), 0);
    heirs.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.id.cmp(&b.id)));
    heirs.into_iter().find_map(|heir| offer(picture, record, heir, "balance-leader", report))
}

/// Leadership for a replica, if it may lead; otherwise it is noted why not.
pub(super) fn offer(
    picture: &Picture<'_>,
    record: &RegionRecord,
    heir: &Peer,
    name: &'static str,
    report: &mut Report,
) -> Option<Plan> {
    let (id, to) = (record.id(), heir.store());
    if let Err(reason) = leader_target(picture, record, heir) {
        report.note(|| format!("{id} cannot be led from {to}: it {reason}"));
        return None;
    }
    report.summary = format!("hands {id} from {} to {to}", record.leader?.store());
    Some(hand_over(record, heir, name, Kind::Leader))
}

/// A transfer of leadership for comfort.
pub(super) fn hand_over(
    record: &RegionRecord,
    heir: &Peer,
    name: &'static str,
    kind: Kind,
) -> Plan {
    let task = Task::Do(Step::Transfer(*heir));
    Plan { region: record.id(), name, kind, priority: Priority::Balance, task }
}
