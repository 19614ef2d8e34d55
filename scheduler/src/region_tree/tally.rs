//! What each store holds, counted as regions come and go: so that a score costs a look-up and a random region
//! of a store one step, however many regions there are. Owned by the tree.
//!
//! **Invariant.** The tallies are those of the regions in the tree: every change is one [`Tallies::remove`] of the
//! old record and one [`Tallies::add`] of the new one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use skerry_proto::types::{RegionId, StoreId};

use super::RegionRecord;

/// Bytes a second from which on a region is looked at as hot.
pub const HOT_RATE: u64 = 256 << 10;

/// What one store holds.
#[derive(Debug, Default)]
pub struct Tally {
    /// Regions with a replica here.
    pub replicas: Bag,
    /// Those of them that are led from here.
    pub leaders: Bag,
    /// MiB of all replicas; each counts for at least one.
    pub size_mib: u64,
    /// Regions whose replica here needs a snapshot first.
    pub pending: BTreeSet<RegionId>,
    /// Bytes a second that the regions led from here take and give.
    pub rate: u64,
    /// The busiest of them, by rate.
    pub hot: BTreeSet<(u64, RegionId)>,
}

impl Tally {
    fn is_empty(&self) -> bool {
        self.replicas.is_empty() && self.leaders.is_empty() && self.pending.is_empty()
    }
}

/// All stores that hold something.
#[derive(Debug, Default)]
pub struct Tallies {
    by_store: BTreeMap<StoreId, Tally>,
    nothing: Tally,
}

impl Tallies {
    /// What a store holds.
    pub fn get(&self, store: StoreId) -> &Tally {
        self.by_store.get(&store).unwrap_or(&self.nothing)
    }

    /// Counts a region.
    pub(super) fn add(&mut self, record: &RegionRecord) {
        let id = record.id();
        for peer in &record.region.peers {
            let tally = self.by_store.entry(peer.store()).or_default();
            tally.replicas.put(id);
            tally.size_mib += record.weight();
        }
        for peer in &record.pending_peers {
            self.by_store.entry(peer.store()).or_default().pending.insert(id);
        }
        if let Some(leader) = record.leader {
            let tally = self.by_store.entry(leader.store()).or_default();
            tally.leaders.put(id);
            tally.rate += record.rate();
            if record.rate() >= HOT_RATE {
                tally.hot.insert((record.rate(), id));
            }
        }
    }

    /// Takes a region out, as it was counted.
    pub(super) fn remove(&mut self, record: &RegionRecord) {
        const COUNTED: &str = "it was counted when it came";
        let id = record.id();
        for peer in &record.pending_peers {
            self.by_store.get_mut(&peer.store()).expect(COUNTED).pending.remove(&id);
        }
        if let Some(leader) = record.leader {
            let tally = self.by_store.get_mut(&leader.store()).expect(COUNTED);
            tally.leaders.take(id);
            tally.rate -= record.rate();
            tally.hot.remove(&(record.rate(), id));
        }
        for peer in &record.region.peers {
            let tally = self.by_store.get_mut(&peer.store()).expect(COUNTED);
            tally.replicas.take(id);
            tally.size_mib -= record.weight();
        }
        let touched = record.region.peers.iter().chain(&record.pending_peers).chain(&record.leader);
        for peer in touched {
            if self.by_store.get(&peer.store()).is_some_and(|tally| tally.is_empty()) {
                self.by_store.remove(&peer.store());
            }
        }
    }
}

/// A set of regions out of which any one can be picked in one step.
#[derive(Debug, Default)]
pub struct Bag {
    items: Vec<RegionId>,
    places: BTreeMap<RegionId, usize>,
}

impl Bag {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The region that a random number points at.
    pub fn pick(&self, chance: u64) -> Option<RegionId> {
        let count = u64::try_from(self.items.len()).expect("a count fits");
        let place = chance.checked_rem(count)?;
        self.items.get(usize::try_from(place).expect("below a count")).copied()
    }

    /// All of them, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = RegionId> {
        self.items.iter().copied()
    }

    fn put(&mut self, id: RegionId) {
        if let Entry::Vacant(place) = self.places.entry(id) {
            place.insert(self.items.len());
            self.items.push(id);
        }
    }

    /// Takes a region out; the last one moves to its place.
    fn take(&mut self, id: RegionId) {
        let Some(place) = self.places.remove(&id) else { return };
        self.items.swap_remove(place);
        if let Some(moved) = self.items.get(place) {
            self.places.insert(*moved, place);
        }
    }
}
