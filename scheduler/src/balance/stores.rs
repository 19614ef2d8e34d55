//! `evict-leader` and `grant-leader`: leaders away from some stores, or towards them, until it is turned off.
//!
//! Other balancers respect both: nothing is handed to a store that leaders are evicted from, and a store that is
//! granted leaders takes no part in `balance-leader`.

use skerry_proto::metapb::Peer;
use skerry_proto::types::StoreId;

use super::leader::offer;
use super::{Chance, Report, TRIES, is_free};
use crate::operator::Plan;
use crate::picture::Picture;
use crate::region_tree::{Bag, RegionRecord};

pub(super) fn evict(
    picture: &Picture<'_>,
    stores: &[StoreId],
    chance: &mut Chance,
    report: &mut Report,
) -> Option<Plan> {
    for store in stores {
        for record in a_few(picture, &picture.regions.on(*store).leaders, chance) {
            let score = |peer: &Peer| picture.leader_score(peer.store(), 0);
            let mut heirs: Vec<&Peer> =
                record.voters().filter(|peer| peer.store() != *store).collect();
            heirs.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.id.cmp(&b.id)));
            let offer = |heir| offer(picture, record, heir, "evict-leader", report);
            let plan = heirs.into_iter().find_map(offer);
            if plan.is_some() {
                return plan;
            }
        }
    }
    let left: usize = stores.iter().map(|id| picture.regions.on(*id).leaders.len()).sum();
    report.summary = format!("{left} leaders are left to evict");
    None
}

pub(super) fn grant(
    picture: &Picture<'_>,
    stores: &[StoreId],
    chance: &mut Chance,
    report: &mut Report,
) -> Option<Plan> {
    // Also what another store is granted stays there.
    let is_granted =
        |record: &RegionRecord| record.leader.is_none_or(|leader| stores.contains(&leader.store()));
    for store in stores {
        for record in a_few(picture, &picture.regions.on(*store).replicas, chance) {
            let heir = record.region.peer_on_store(*store).filter(|_| !is_granted(record));
            let plan = heir.and_then(|heir| offer(picture, record, heir, "grant-leader", report));
            if plan.is_some() {
                return plan;
            }
        }
    }
    report.summary = "nothing was found to grant".to_string();
    None
}

/// Some regions out of a bag that may be touched.
fn a_few<'a>(
    picture: &'a Picture<'_>,
    bag: &'a Bag,
    chance: &'a mut Chance,
) -> impl Iterator<Item = &'a RegionRecord> {
    let picks = (0..TRIES).filter_map(move |_| bag.pick(chance.draw()));
    picks.filter(|id| is_free(picture, *id)).filter_map(|id| Some(&**picture.regions.get(id)?))
}
