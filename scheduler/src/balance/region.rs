//! `balance-region`: moves replicas from full stores to empty ones.
//!
//! 1. Stores that are up are sorted by their score. If fullest and emptiest differ by no more than the tolerance,
//!    nothing is done.
//! 2. From the fullest on: a few of its regions are looked at; those whose replica there needs a snapshot anyway
//!    first, then those that are led from elsewhere, then others.
//! 3. From the emptiest on: a store that may take the replica, where it stands no closer to the others, and that is
//!    still emptier than the source when the move is done.

use skerry_proto::types::{RegionId, StoreId};

use super::{Chance, Evenness, Report, TRIES, by_score, is_free, mean, stores_up};
use crate::checkers::replica::{heirs, is_whole};
use crate::filter::{replica_feeder, replica_source, replica_target};
use crate::location::Crowding;
use crate::operator::{Goal, Kind, Plan, Priority, Task};
use crate::picture::Picture;
use crate::region_tree::RegionRecord;

/// Below so many regions of average size a difference is not worth a beginning.
const REGIONS_MIN: f64 = 3.0;

/// What part of the tolerance is left when it ends.
const REST: f64 = 0.2;

pub(super) fn plan(
    picture: &Picture<'_>,
    evenness: &mut Evenness,
    chance: &mut Chance,
    report: &mut Report,
) -> Option<Plan> {
    let scored = by_score(&stores_up(picture), |id| picture.region_score(id, 0));
    let (Some(fullest), Some(emptiest)) = (scored.first(), scored.last()) else {
        report.summary = "no store is up".to_string();
        return None;
    };
    let tolerance = mean(&scored) * f64::from(picture.settings.balance_tolerance_percent) / 100.0;
    let usual = usual_weight(picture, &scored);
    let begins_above = tolerance.max(REGIONS_MIN * usual);
    let difference = fullest.1 - emptiest.1;
    if !evenness.is_worth(difference, begins_above, tolerance * REST) {
        report.summary = format!(
            "even: {} has {:.0}, {} has {:.0}; a difference of {begins_above:.0} would be moved",
            fullest.0, fullest.1, emptiest.0, emptiest.1
        );
        return None;
    }
    let mut is_possible = false;
    for (place, (source, score)) in scored.iter().enumerate() {
        // Those below would gain by it.
        let targets: Vec<StoreId> =
            scored[place + 1..].iter().rev().map(|(target, _)| *target).collect();
        if score - emptiest.1 <= tolerance * REST {
            break;
        }
        for id in candidates(picture, *source, chance) {
            let Some(record) = picture.regions.get(id) else { continue };
            let size = i64::try_from(record.weight()).unwrap_or(i64::MAX);
            let after = picture.region_score(*source, -size);
            let improves = |target: &&StoreId| after > picture.region_score(**target, size);
            let better: Vec<&StoreId> = targets.iter().filter(improves).collect();
            is_possible |= !better.is_empty();
            if let Some(plan) = move_one(picture, record, *source, &better, report) {
                report.summary = format!("moves {id} off {source}");
                return Some(plan);
            }
        }
    }
    if is_possible {
        report.summary = "nothing that would help can be moved now".to_string();
    } else {
        evenness.rest();
        report.summary = "as even as moves can make it".to_string();
    }
    None
}

/// The average weight of a replica, in terms of scores.
fn usual_weight(picture: &Picture<'_>, scored: &[(StoreId, f64)]) -> f64 {
    let count: usize = scored.iter().map(|(id, _)| picture.regions.replicas_on(*id)).sum();
    scored.iter().map(|(_, score)| score).sum::<f64>() / count.max(1) as f64
}

/// A few regions with a replica on `source`, those first that cost least to move.
fn candidates(picture: &Picture<'_>, source: StoreId, chance: &mut Chance) -> Vec<RegionId> {
    let tally = picture.regions.on(source);
    let pending = tally.pending.iter().copied().take(TRIES);
    let picks: Vec<RegionId> =
        (0..TRIES).filter_map(|_| tally.replicas.pick(chance.draw())).collect();
    let is_led_here =
        |id: &RegionId| picture.regions.get(*id).is_some_and(|record| record.is_led_from(source));
    let (led, following): (Vec<RegionId>, Vec<RegionId>) = picks.into_iter().partition(is_led_here);
    let all = pending.chain(following).chain(led);
    all.filter(|id| is_free(picture, *id)).collect()
}

/// The move of a region's replica off `source` to the first of `targets` that may take it.
fn move_one(
    picture: &Picture<'_>,
    record: &RegionRecord,
    source: StoreId,
    targets: &[&StoreId],
    report: &mut Report,
) -> Option<Plan> {
    let id = record.id();
    if !is_whole(picture, record, Some(source)) {
        report.note(|| format!("{id} is not whole"));
        return None;
    }
    let leader = record.leader?.store();
    let checks = [replica_source(picture, record, source), replica_feeder(picture, leader)];
    for (store, check) in [source, leader].into_iter().zip(checks) {
        if let Err(reason) = check {
            report.note(|| format!("{id} cannot move: {store} {reason}"));
            return None;
        }
    }
    let company = picture.company(record, Some(source));
    let own = picture.stores.get(source)?;
    let crowding = Crowding::of(own, &company, picture.settings);
    let target = targets.iter().copied().find(|target| {
        let Some(store) = picture.stores.get(**target) else { return false };
        if let Err(reason) = replica_target(picture, record, store, Some(source)) {
            report.note(|| format!("{id} cannot move to {target}: it {reason}"));
            return false;
        }
        let is_worse = Crowding::of(store, &company, picture.settings) > crowding;
        if is_worse {
            report.note(|| format!("{id} would stand closer together on {target}"));
        }
        !is_worse
    })?;
    let goal = Goal::as_it_is(record).without(source).with_voter(*target);
    let goal = goal.with_heirs(heirs(picture, record));
    let (kind, priority) = (Kind::Region, Priority::Balance);
    Some(Plan { region: id, name: "balance-region", kind, priority, task: Task::Reach(goal) })
}
