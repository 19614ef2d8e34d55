//! `balance-hot-region`, first form: spreads the leaders of busy regions. A region's load is what its leader reports to
//! have been read and written, in bytes a second. Followers write the same bytes wherever the leader is, and what they
//! serve of reads their stores report as a whole: it would not move with the leader.
//!
//! From the store with the most load, the busiest region goes whose load the store with the least can take without
//! having more than the other has then.

use super::{Report, is_free, stores_up};
use crate::checkers::replica::is_whole;
use crate::filter::leader_target;
use crate::operator::{Kind, Plan};
use crate::picture::Picture;
use crate::region_tree::HOT_RATE;

/// Percent of the mean by which two stores must differ.
const TOLERANCE_PERCENT: i64 = 25;

/// Busy regions that are looked at.
const LOOKED_AT: usize = 32;

pub(super) fn plan(picture: &Picture<'_>, report: &mut Report) -> Option<Plan> {
    let mut loads: Vec<_> =
        stores_up(picture).into_iter().map(|id| (picture.rate_score(id), id)).collect();
    loads.retain(|(_, id)| !picture.no_leaders.contains(id));
    loads.sort_unstable();
    let (Some((least, idle)), Some((most, busy))) = (loads.first(), loads.last()) else {
        report.summary = "no store may lead".to_string();
        return None;
    };
    let mean = loads.iter().map(|(load, _)| load).sum::<i64>() / loads.len() as i64;
    let tolerance = (mean * TOLERANCE_PERCENT / 100).max(HOT_RATE as i64);
    if most - least <= tolerance {
        report.summary =
            format!("even: {busy} serves {most} bytes a second, {idle} serves {least}");
        return None;
    }
    for (rate, id) in picture.regions.on(*busy).hot.iter().rev().take(LOOKED_AT) {
        let Some(record) = picture.regions.get(*id).filter(|_| is_free(picture, *id)) else {
            continue;
        };
        let rate = i64::try_from(*rate).unwrap_or(i64::MAX);
        let gains = |load: i64| most.saturating_sub(rate) >= load.saturating_add(rate);
        for (load, store) in loads.iter().take_while(|(load, _)| gains(*load)) {
            let Some(heir) = record.region.peer_on_store(*store) else { continue };
            if !is_whole(picture, record, None) {
                report.note(|| format!("{id} is not whole"));
            } else if let Err(reason) = leader_target(picture, record, heir) {
                report.note(|| format!("{id} cannot be led from {store}: it {reason}"));
            } else {
                report.summary = format!(
                    "hands {id} with {rate} bytes a second to {store}, which serves {load}"
                );
                let kind = Kind::HotRegion;
                return Some(super::leader::hand_over(record, heir, "balance-hot-region", kind));
            }
        }
    }
    report.summary =
        format!("{busy} serves {most} bytes a second, and nothing of it can go elsewhere");
    None
}
