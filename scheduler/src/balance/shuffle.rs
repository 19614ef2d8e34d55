//! `shuffle-leader` and `shuffle-region`: move anything anywhere it may stand, for tests. Which region and which store
//! follows from the scheduler's seed.

use skerry_proto::metapb::Peer;
use skerry_proto::types::StoreId;

use super::leader::hand_over;
use super::{Chance, Report, TRIES, is_free, stores_up};
use crate::checkers::replica::{heirs, is_whole};
use crate::filter::{leader_target, replica_feeder, replica_target};
use crate::operator::{Goal, Kind, Plan, Priority, Task};
use crate::picture::Picture;
use crate::region_tree::RegionRecord;

/// More than a few at once only get into each other's way.
const RUNNING_MAX: usize = 4;

pub(super) fn leader(
    picture: &Picture<'_>,
    chance: &mut Chance,
    report: &mut Report,
) -> Option<Plan> {
    let record = pick(picture, Kind::Leader, chance, report)?;
    let leader = record.leader?.id;
    let may_lead = |peer: &&Peer| peer.id != leader && leader_target(picture, record, peer).is_ok();
    let candidates: Vec<&Peer> = record.voters().filter(may_lead).collect();
    let heir = draw(&candidates, chance)?;
    report.summary = format!("hands {} to {}", record.id(), heir.store());
    Some(hand_over(record, heir, "shuffle-leader", Kind::Leader))
}

pub(super) fn region(
    picture: &Picture<'_>,
    chance: &mut Chance,
    report: &mut Report,
) -> Option<Plan> {
    let record = pick(picture, Kind::Region, chance, report)?;
    replica_feeder(picture, record.leader?.store()).ok()?;
    let source = draw(&record.region.peers, chance)?.store();
    let fits = |id: &StoreId| {
        let store = picture.stores.get(*id);
        store.is_some_and(|store| replica_target(picture, record, store, Some(source)).is_ok())
    };
    let targets: Vec<StoreId> = stores_up(picture).into_iter().filter(fits).collect();
    let target = draw(&targets, chance)?;
    report.summary = format!("moves {} from {source} to {target}", record.id());
    let goal = Goal::as_it_is(record).without(source).with_voter(target);
    let task = Task::Reach(goal.with_heirs(heirs(picture, record)));
    let (kind, priority) = (Kind::Region, Priority::Balance);
    Some(Plan { region: record.id(), name: "shuffle-region", kind, priority, task })
}

/// Any region that may be touched.
fn pick<'a>(
    picture: &Picture<'a>,
    kind: Kind,
    chance: &mut Chance,
    report: &mut Report,
) -> Option<&'a RegionRecord> {
    report.summary = "nothing was found to shuffle".to_string();
    if picture.operators.count(kind) >= RUNNING_MAX {
        return None;
    }
    let stores = stores_up(picture);
    for _ in 0..TRIES {
        let store = draw(&stores, chance)?;
        let id = picture.regions.on(store).leaders.pick(chance.draw());
        let record = id.filter(|id| is_free(picture, *id)).and_then(|id| picture.regions.get(id));
        if let Some(record) = record.filter(|record| is_whole(picture, record, None)) {
            return Some(record);
        }
    }
    None
}

fn draw<T: Copy>(items: &[T], chance: &mut Chance) -> Option<T> {
    let count = u64::try_from(items.len()).expect("a count fits");
    let place = chance.draw().checked_rem(count)?;
    items.get(usize::try_from(place).expect("below a count")).copied()
}
