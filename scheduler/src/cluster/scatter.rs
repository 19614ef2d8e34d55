//! Splits and spreads regions on request.
//!
//! *Scatter*: regions of one group are spread among themselves, however full stores are otherwise: a table that
//! is about to be loaded shall be written everywhere at once. For each region in turn the stores are chosen that
//! have the fewest replicas of the group, and of its voters the one with the fewest leaders of the group leads.
//! Clients name a group in many requests, often with one region each, so it is remembered until it has not been
//! named for some minutes. Those who name none share one. A restart forgets all.
//!
//! *Split*: keys are handed to the regions that contain them, as operators; clients ask again until all are cut.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::pdpb::CheckPolicy;
use skerry_proto::types::{RegionId, StoreId};

use super::{Cluster, Decision};
use crate::Result;
use crate::checkers::replica::{heirs, is_whole};
use crate::filter::{leader_target, replica_place};
use crate::location::Crowding;
use crate::moment::Moment;
use crate::operator::{Goal, Kind, Plan, Priority, Step, Task};
use crate::persist::Change;
use crate::picture::Picture;
use crate::region_tree::RegionRecord;
use crate::stores::StoreRecord;

/// What came of a request for several regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Several {
    /// Regions that are as wanted, or on their way.
    pub well: Vec<RegionId>,
    /// Others, with the reason.
    pub failed: BTreeMap<RegionId, String>,
}

impl Several {
    /// Percent that went well.
    pub fn percentage(&self) -> u64 {
        let all = self.well.len() + self.failed.len();
        (self.well.len() * 100).checked_div(all).map_or(100, |percent| percent as u64)
    }
}

/// How long a group is remembered after it was named last.
const GROUP_LIFE: Duration = Duration::from_secs(180);

/// How many groups are remembered; beyond it those that were named longest ago are forgotten.
const GROUPS_MAX: usize = 1_024;

/// The groups that were named lately.
#[derive(Debug, Default)]
pub(super) struct Groups {
    named: BTreeMap<String, (Moment, Spread)>,
}

impl Groups {
    fn take(&mut self, name: &str, now: Moment) -> Spread {
        self.named.retain(|_, (last, _)| now.since(*last) < GROUP_LIFE);
        self.named.remove(name).unwrap_or_default().1
    }

    fn put(&mut self, name: &str, spread: Spread, now: Moment) {
        if self.named.len() >= GROUPS_MAX {
            let oldest = self.named.iter().min_by_key(|(_, (last, _))| last.monotonic);
            let oldest = oldest.expect("there are some").0.clone();
            self.named.remove(&oldest);
        }
        self.named.insert(name.to_string(), (now, spread));
    }
}

/// Where one region of a group was sent.
#[derive(Debug)]
struct Place {
    voters: Vec<StoreId>,
    leader: Option<StoreId>,
}

/// Where the regions of a group were sent, and what of it each store has.
#[derive(Debug, Default)]
struct Spread {
    places: BTreeMap<RegionId, Place>,
    replicas: BTreeMap<StoreId, usize>,
    leaders: BTreeMap<StoreId, usize>,
}

impl Spread {
    fn add(&mut self, region: RegionId, place: Place) {
        self.remove(region);
        for store in &place.voters {
            *self.replicas.entry(*store).or_default() += 1;
        }
        if let Some(leader) = place.leader {
            *self.leaders.entry(leader).or_default() += 1;
        }
        self.places.insert(region, place);
    }

    /// Who is asked for again does not stand in its own way.
    fn remove(&mut self, region: RegionId) {
        let Some(place) = self.places.remove(&region) else {
            return;
        };
        for store in &place.voters {
            *self.replicas.get_mut(store).expect("it was counted") -= 1;
        }
        if let Some(leader) = &place.leader {
            *self.leaders.get_mut(leader).expect("it was counted") -= 1;
        }
    }
}

impl Cluster {
    /// Spreads regions over the stores, evenly among those of their group.
    pub fn scatter(
        &mut self,
        group: &str,
        regions: &[RegionId],
        now: Moment,
    ) -> Result<Decision<Several>> {
        self.settings()?;
        let mut spread = self.groups.take(group, now);
        let done = self.scatter_all(regions, &mut spread, now);
        self.groups.put(group, spread, now);
        done
    }

    fn scatter_all(
        &mut self,
        regions: &[RegionId],
        spread: &mut Spread,
        now: Moment,
    ) -> Result<Decision<Several>> {
        let (mut several, mut changes) = (Several::default(), Vec::new());
        for id in regions {
            match self.scatter_one(*id, spread, now)? {
                Ok(more) => {
                    several.well.push(*id);
                    changes.extend(more);
                }
                Err(reason) => {
                    several.failed.insert(*id, reason);
                }
            }
        }
        Ok(Decision { answer: several, changes: super::steps::with_one_bound(changes) })
    }

    fn scatter_one(
        &mut self,
        id: RegionId,
        spread: &mut Spread,
        now: Moment,
    ) -> Result<std::result::Result<Vec<Change>, String>> {
        let Some(record) = self.regions.get(id).cloned() else {
            return Ok(Err(format!("{id} is unknown")));
        };
        let picture = self.picture(now);
        if !is_whole(&picture, &record, None) {
            return Ok(Err(format!("{} is not whole", record.region)));
        }
        if !self.operators.has_room(id, Priority::Admin) {
            return Ok(Err(format!("{id} has an operator already")));
        }
        spread.remove(id);
        let voters = chosen(&picture, &record, spread);
        let leads = |store: &&StoreId| {
            let peer = record.region.peer_on_store(**store);
            let refused = peer.map(|peer| leader_target(&picture, &record, peer));
            refused.unwrap_or(Ok(())).is_ok() && !picture.no_leaders.contains(store)
        };
        let count = |store: &&StoreId| {
            let own = !record.is_led_from(**store);
            (spread.leaders.get(store).copied().unwrap_or(0), own, **store)
        };
        let leader = voters.iter().filter(leads).min_by_key(count).copied();
        let heirs = heirs(&picture, &record);
        spread.add(id, Place { voters: voters.clone(), leader });
        let goal = Goal { voters, learners: Vec::new(), leader, heirs };
        let (kind, priority) = (Kind::Admin, Priority::Admin);
        let plan =
            Plan { region: id, name: "scatter-region", kind, priority, task: Task::Reach(goal) };
        Ok(Ok(self.start(plan, &record, now)?))
    }

    /// Cuts regions at keys. Those on a boundary are cut already.
    pub fn split_at(&mut self, keys: &[Bytes], now: Moment) -> Result<Decision<Several>> {
        self.settings()?;
        let mut several = Several::default();
        let mut cuts: BTreeMap<RegionId, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            let Some(record) = self.regions.by_key(key) else {
                several.failed.insert(RegionId::new(0), "no region is known for a key".to_string());
                continue;
            };
            match *key == record.region.start_key {
                true => several.well.push(record.id()),
                false => cuts.entry(record.id()).or_default().push(key.clone()),
            }
        }
        let mut changes = Vec::new();
        for (region, mut keys) in cuts {
            keys.sort();
            keys.dedup();
            let record = self.regions.get(region).expect("it was found by a key").clone();
            let task = Task::Do(Step::Split { policy: CheckPolicy::Usekey, keys });
            let (kind, priority) = (Kind::Split, Priority::Admin);
            let plan = Plan { region, name: "split-at-keys", kind, priority, task };
            if record.leader.is_none() {
                several.failed.insert(region, "no leader has reported".to_string());
            } else if !self.operators.has_room(region, Priority::Admin) {
                several.failed.insert(region, "it has an operator already".to_string());
            } else {
                changes.extend(self.start(plan, &record, now)?);
                several.failed.insert(region, "it is being cut".to_string());
            }
        }
        Ok(Decision { answer: several, changes })
    }
}

/// The stores for a region's voters: one after the other the one with the fewest of the group, of those the one that
/// stands farthest from those chosen before, of those one that has a replica.
fn chosen(picture: &Picture<'_>, record: &RegionRecord, spread: &Spread) -> Vec<StoreId> {
    let has = |store: StoreId| record.region.peer_on_store(store).is_some();
    let may = |store: &&StoreRecord| {
        has(store.id()) || replica_place(picture, record, store, None).is_ok()
    };
    let mut left: Vec<&StoreRecord> = picture.stores.iter().filter(may).collect();
    let mut chosen: Vec<&StoreRecord> = Vec::new();
    while chosen.len() < picture.replicas_max && !left.is_empty() {
        let rank = |store: &&StoreRecord| {
            let count = spread.replicas.get(&store.id()).copied().unwrap_or(0);
            let crowding = Crowding::of(store, &chosen, picture.settings);
            (count, crowding, !has(store.id()), store.id())
        };
        let best = left.iter().copied().min_by_key(rank).expect("some are left");
        left.retain(|store| store.id() != best.id());
        chosen.push(best);
    }
    chosen.into_iter().map(StoreRecord::id).collect()
}
