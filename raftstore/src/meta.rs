//! What a store as a whole knows of its regions, under one mutex: which are here, where they lie, and which
//! are about to be.
//!
//! Raft workers ask and change it when a region is born, changes its range or dies; the store actor when a
//! message names a region that is not here. Nothing here is on the path of reads and writes.
//!
//! **Invariants.**
//!
//! 1. `ranges` holds initialised regions only, by their end, and no two overlap.
//! 2. An accepted snapshot that is not installed yet holds its range as a region does.
//! 3. A child that an applied split will bring is promised before the split is visible to anybody; nobody
//!    else creates a replica of it.
//!
//! No engine is read or written and nothing is sent while the mutex is held.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::region::{EndKey, KeyBounds, is_before_end};
use skerry_proto::types::{PeerId, RegionId};

use crate::engine::KeyRange;

/// First messages that are kept for regions that are about to be; further ones push out the oldest.
const PARKED_MAX: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub struct StoreMeta {
    /// Initialised regions.
    regions: BTreeMap<RegionId, Arc<metapb::Region>>,
    /// The same, by end.
    ranges: BTreeMap<EndKey, RegionId>,
    /// Every replica here, initialised or not.
    peers: BTreeMap<RegionId, PeerId>,
    /// Ranges of accepted snapshots.
    accepted: BTreeMap<RegionId, Arc<metapb::Region>>,
    /// Children of splits that are applied but not begun.
    promised: BTreeMap<RegionId, PeerId>,
    parked: VecDeque<RaftMessage>,
}

impl StoreMeta {
    /// The initialised region with this id.
    pub fn region(&self, region_id: RegionId) -> Option<&Arc<metapb::Region>> {
        self.regions.get(&region_id)
    }

    /// All initialised regions, by id.
    pub fn regions(&self) -> impl Iterator<Item = &Arc<metapb::Region>> {
        self.regions.values()
    }

    /// The replica here, initialised or not.
    pub fn peer(&self, region_id: RegionId) -> Option<PeerId> {
        self.peers.get(&region_id).copied()
    }

    /// The child that a split has promised.
    pub fn promised(&self, region_id: RegionId) -> Option<PeerId> {
        self.promised.get(&region_id).copied()
    }

    /// Notes a replica of which nothing but its id is known.
    pub fn add_uninitialised(&mut self, region_id: RegionId, peer: PeerId) {
        self.peers.insert(region_id, peer);
    }

    /// Notes a region, new or with another range or other peers.
    pub fn set_region(&mut self, region: Arc<metapb::Region>, peer: PeerId) {
        let region_id = region.region_id();
        self.forget_range(region_id);
        if let Some(other) = self.overlapping(&region.bounds()) {
            panic!("{region} overlaps {other}");
        }
        self.ranges.insert(EndKey::from_wire(&region.end_key), region_id);
        self.peers.insert(region_id, peer);
        self.promised.remove(&region_id);
        self.regions.insert(region_id, region);
    }

    /// Notes the parts of a region that was cut, in one step.
    pub fn split(&mut self, parts: &[(Arc<metapb::Region>, PeerId)], parent: RegionId) {
        self.forget_range(parent);
        for (region, peer) in parts {
            self.set_region(region.clone(), *peer);
        }
    }

    /// Promises a child; answers whether a replica of it was noted here before.
    pub fn promise(&mut self, region_id: RegionId, peer: PeerId) {
        self.promised.insert(region_id, peer);
    }

    /// Takes a promise back.
    pub fn break_promise(&mut self, region_id: RegionId) {
        self.promised.remove(&region_id);
    }

    /// Forgets a replica, if it is still that one.
    pub fn remove(&mut self, region_id: RegionId, peer: PeerId) {
        if self.peers.get(&region_id) == Some(&peer) {
            self.forget_range(region_id);
            self.regions.remove(&region_id);
            self.peers.remove(&region_id);
            self.accepted.remove(&region_id);
        }
    }

    /// Holds the range of an accepted snapshot.
    pub fn accept_snapshot(&mut self, region: Arc<metapb::Region>) {
        self.accepted.insert(region.region_id(), region);
    }

    /// Gives it back: the snapshot is installed, or will not be.
    pub fn release_snapshot(&mut self, region_id: RegionId) {
        self.accepted.remove(&region_id);
    }

    /// Whether a snapshot of the region is accepted and not installed.
    pub fn has_accepted(&self, region_id: RegionId) -> bool {
        self.accepted.contains_key(&region_id)
    }

    /// Whether a region other than `but` lies in this range or will.
    pub fn conflict(&self, bounds: &KeyBounds<'_>, but: RegionId) -> Option<Arc<metapb::Region>> {
        let accepted = self
            .accepted
            .values()
            .find(|region| region.region_id() != but && region.bounds().overlaps(bounds));
        let mut inside = self.in_range(bounds).filter(|region| region.region_id() != but);
        accepted.or_else(|| inside.next()).cloned()
    }

    /// The parts of `range` in which no region lies or will lie.
    pub fn gaps(&self, range: &KeyRange) -> Vec<KeyRange> {
        let bounds = KeyBounds::new(&range.start, &range.end);
        let accepted = self.accepted.values().filter(|region| region.bounds().overlaps(&bounds));
        let mut taken: Vec<&Arc<metapb::Region>> = self.in_range(&bounds).chain(accepted).collect();
        taken.sort_by(|one, other| one.start_key.cmp(&other.start_key));
        let (mut gaps, mut from) = (Vec::new(), range.start.clone());
        for region in taken {
            if region.start_key > from {
                gaps.push(KeyRange { start: from.clone(), end: region.start_key.clone() });
            }
            if region.end_key.is_empty() {
                return gaps;
            }
            from = from.max(region.end_key.clone());
        }
        if is_before_end(&from, &range.end) {
            gaps.push(KeyRange { start: from, end: range.end.clone() });
        }
        gaps
    }

    /// Keeps a first message for a region that is about to be.
    pub fn park(&mut self, message: RaftMessage) {
        if self.parked.len() == PARKED_MAX {
            self.parked.pop_front();
        }
        self.parked.push_back(message);
    }

    /// Takes the messages that were kept for a region.
    pub fn unpark(&mut self, region_id: RegionId) -> Vec<RaftMessage> {
        let (mine, others) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|message| message.region_id == region_id.get());
        self.parked = others;
        Vec::from_iter::<VecDeque<RaftMessage>>(mine)
    }

    /// Initialised regions that share a key with `bounds`.
    fn in_range<'a>(
        &'a self,
        bounds: &'a KeyBounds<'a>,
    ) -> impl Iterator<Item = &'a Arc<metapb::Region>> {
        let from = EndKey::Key(bytes::Bytes::copy_from_slice(bounds.start));
        self.ranges
            .range((Excluded(from), Unbounded))
            .map(|(_, region_id)| &self.regions[region_id])
            .take_while(|region| bounds.end.is_empty() || region.start_key < bounds.end)
    }

    fn overlapping(&self, bounds: &KeyBounds<'_>) -> Option<Arc<metapb::Region>> {
        self.in_range(bounds).next().cloned()
    }

    fn forget_range(&mut self, region_id: RegionId) {
        if let Some(region) = self.regions.get(&region_id) {
            let end = EndKey::from_wire(&region.end_key);
            if self.ranges.get(&end) == Some(&region_id) {
                self.ranges.remove(&end);
            }
        }
    }
}
