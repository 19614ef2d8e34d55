//! `evict-leader` and `grant-leader`: leaders away from some stores, or towards them, until it is turned off.
//!
//! Other balancers respect both: nothing is handed to a store that leaders are evicted from, and a store that is
//! granted leaders takes no part in `balance-leader`.

use skerry_proto::metapb::Peer;
use skerry_proto::types::StoreId;

use super::leader::hand_over;
use super::{Chance, Report, TRIES, is_free};
use crate::filter::leader_target;
use crate::operator::{Kind, Plan};
use crate::picture::Picture;

pub(super) fn evict(
    picture: &Picture<'_>,
    stores: &[StoreId],
    chance: &mut Chance,
    report: &mut Report,
) -> Option<Plan> {
    for store in stores {
        let led = &picture.regions.on(*store).leaders;
        for _ in 0..TRIES {
            let Some(id) = led.pick(chance.draw()).filter(|id| is_free(picture, *id)) else {
                continue;
            };
            let Some(record) = picture.regions.get(id) else { continue };
            let score = |peer: &Peer| picture.leader_score(peer.store(), 0);
            let mut heirs: Vec<&Peer> =
                record.voters().filter(|peer| peer.store() != *store).collect();
            heirs.sort_by(|a, b| score(a).total_cmp(&score(b)).then(a.id.cmp(&b.id)));
            for heir in heirs {
                match leader_target(picture, record, heir) {
                    Ok(()) => {
                        report.summary = format!("hands {id} from {store} to {}", heir.store());
                        return Some(hand_over(record, heir, "evict-leader", Kind::Leader));
                    }
                    Err(reason) => {
                        let heir = heir.store();
                        report.note(|| format!("{id} cannot be led from {heir}: it {reason}"));
                    }
                }
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
    for store in stores {
        let held = &picture.regions.on(*store).replicas;
        for _ in 0..TRIES {
            let Some(id) = held.pick(chance.draw()).filter(|id| is_free(picture, *id)) else {
                continue;
            };
            let Some(record) = picture.regions.get(id) else { continue };
            // Also one that another store is granted stays there.
            let is_granted = record.leader.is_none_or(|leader| stores.contains(&leader.store()));
            let Some(heir) = record.region.peer_on_store(*store).filter(|_| !is_granted) else {
                continue;
            };
            match leader_target(picture, record, heir) {
                Ok(()) => {
                    report.summary = format!("hands {id} to {store}");
                    return Some(hand_over(record, heir, "grant-leader", Kind::Leader));
                }
                Err(reason) => {
                    report.note(|| format!("{id} cannot be led from {store}: it {reason}"))
                }
            }
        }
    }
    report.summary = "nothing was found to grant".to_string();
    None
}
