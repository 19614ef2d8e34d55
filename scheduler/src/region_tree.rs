//! Regions: by id and by range, as their leaders report them.
//!
//! The tree is a picture of the cluster that is always a little old and sometimes has holes. What keeps
//! it from going back is one rule about epochs, applied to every region that comes in:
//!
//! 1. A region is refused if any region it overlaps has a higher version, or if the tree's own record of
//!    the same region has a higher version, configuration version or term.
//! 2. Of two different regions that overlap, or of two ranges of one region, with the *same* version one
//!    must be wrong. The one whose leader has spoken to this scheduler stays. A region known only from
//!    disk or from bootstrap gives way: so the regions that a standalone store cuts its first region
//!    into may keep that region's version.
//! 3. An accepted region replaces its own older record and every region it overlaps, in one step.
//!
//! **Invariant.** Regions in the tree never overlap, both maps hold the same regions, and the counts of
//! replicas are theirs.
//!
//! What it does not do: it never invents a region to fill a hole, and it knows nothing of stores.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::metapb::{Peer, Region};
use skerry_proto::pdpb::{PeerStats, RegionHeartbeatRequest};
use skerry_proto::region::{KeyBounds, is_before_end};
use skerry_proto::types::{RegionId, StoreId};

use crate::{Error, Result};

/// A region with what its leader has told about it. Shared, never changed: a heartbeat makes a new one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionRecord {
    /// Range, epoch and peers.
    pub region: Region,
    /// The leader by the last heartbeat; none if no leader has spoken to this scheduler yet.
    pub leader: Option<Peer>,
    /// The leader's term; 0 if unknown.
    pub term: u64,
    /// Peers the leader has not heard from.
    pub down_peers: Vec<PeerStats>,
    /// Peers that lag behind.
    pub pending_peers: Vec<Peer>,
    /// Approximate size. Once known it is at least 1: a region with nothing in it still weighs something.
    pub size_mib: u64,
    /// Approximate number of keys.
    pub keys: u64,
    /// What was read and written in the interval of the last heartbeat.
    pub flow: Flow,
}

/// Load of a region over one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Keys written.
    pub keys_written: u64,
    /// Keys read.
    pub keys_read: u64,
}

impl RegionRecord {
    /// A region of which no leader has spoken: from disk, from bootstrap, or the new half of a split.
    pub fn silent(region: Region) -> RegionRecord {
        RegionRecord { region, ..RegionRecord::default() }
    }

    /// What a heartbeat says, on top of what an earlier one said about the same region: while a leader
    /// does not know size and keys yet it reports both as 0, and the old numbers stay. So does the
    /// term if none is told.
    pub fn reported(
        report: RegionHeartbeatRequest,
        earlier: Option<&RegionRecord>,
    ) -> RegionRecord {
        let (size_mib, keys) = match (report.approximate_size, report.approximate_keys) {
            (0, 0) => earlier.map_or((0, 0), |earlier| (earlier.size_mib, earlier.keys)),
            (size, keys) => ((size >> 20).max(u64::from(size > 0)), keys),
        };
        let term = match report.term {
            0 => earlier.map_or(0, |earlier| earlier.term),
            told => told,
        };
        RegionRecord {
            flow: Flow {
                bytes_written: report.bytes_written,
                bytes_read: report.bytes_read,
                keys_written: report.keys_written,
                keys_read: report.keys_read,
            },
            region: report.region.unwrap_or_default(),
            leader: report.leader,
            term,
            down_peers: report.down_peers,
            pending_peers: report.pending_peers,
            size_mib,
            keys,
        }
    }

    /// The id of the region.
    pub fn id(&self) -> RegionId {
        self.region.region_id()
    }

    fn has_spoken(&self) -> bool {
        self.leader.is_some()
    }
}

/// All known regions.
#[derive(Debug, Default)]
pub struct RegionTree {
    by_id: BTreeMap<RegionId, Arc<RegionRecord>>,
    /// Start key of each region. Ranges do not overlap, so starts are as good as ranges.
    by_start: BTreeMap<Bytes, RegionId>,
    /// How many regions have a replica on a store. Never 0.
    replicas: BTreeMap<StoreId, usize>,
}

impl RegionTree {
    /// Takes `record` in if the epoch rule lets it; answers the ids of other regions it has replaced.
    pub fn accept(&mut self, record: RegionRecord) -> Result<Vec<RegionId>> {
        self.check(&record)?;
        let id = record.id();
        let mut replaced = Vec::new();
        for other in self.overlapping(record.region.bounds()) {
            self.remove(other.id());
            if other.id() != id {
                replaced.push(other.id());
            }
        }
        // Its old range need not overlap the new one.
        self.remove(id);
        for peer in &record.region.peers {
            *self.replicas.entry(peer.store()).or_default() += 1;
        }
        self.by_start.insert(record.region.start_key.clone(), id);
        self.by_id.insert(id, Arc::new(record));
        assert_eq!(self.by_id.len(), self.by_start.len(), "two regions begin at one key");
        Ok(replaced)
    }

    /// Forgets a region; nothing if it is unknown.
    pub fn remove(&mut self, id: RegionId) {
        if let Some(record) = self.by_id.remove(&id) {
            let removed = self.by_start.remove(&record.region.start_key);
            assert_eq!(removed, Some(id), "the two maps differ about {id}");
            for peer in &record.region.peers {
                self.forget_replica(peer.store());
            }
        }
    }

    fn forget_replica(&mut self, store: StoreId) {
        let count = self.replicas.get_mut(&store).expect("it was counted when the region came");
        *count -= 1;
        if *count == 0 {
            self.replicas.remove(&store);
        }
    }

    /// How many regions have a replica on `store`.
    pub fn replicas_on(&self, store: StoreId) -> usize {
        self.replicas.get(&store).copied().unwrap_or(0)
    }

    /// All regions, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.by_id.values()
    }

    /// How many regions are known.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The region with this id.
    pub fn get(&self, id: RegionId) -> Option<&Arc<RegionRecord>> {
        self.by_id.get(&id)
    }

    /// The region that contains `key`.
    pub fn by_key(&self, key: &[u8]) -> Option<&Arc<RegionRecord>> {
        let (_, id) = self.by_start.range::<[u8], _>((Unbounded, Included(key))).next_back()?;
        Some(&self.by_id[id]).filter(|record| record.region.contains_key(key))
    }

    /// The region that ends where the one containing `key` begins.
    pub fn previous(&self, key: &[u8]) -> Option<&Arc<RegionRecord>> {
        let start = &self.by_key(key)?.region.start_key;
        let before = (Unbounded, Excluded(&start[..]));
        let (_, id) = self.by_start.range::<[u8], _>(before).next_back()?;
        Some(&self.by_id[id]).filter(|record| record.region.end_key == start)
    }

    /// The regions that overlap `range`, in the order of their keys, at most `limit`. Holes are skipped.
    pub fn scan(&self, range: KeyBounds<'_>, limit: usize) -> Vec<Arc<RegionRecord>> {
        if range.is_empty() {
            return Vec::new();
        }
        let first = self.by_key(range.start).into_iter();
        let later = self.by_start.range::<[u8], _>((Excluded(range.start), Unbounded));
        let later = later.take_while(|(start, _)| is_before_end(start, range.end));
        first.chain(later.map(|(_, id)| &self.by_id[id])).take(limit).cloned().collect()
    }

    fn overlapping(&self, range: KeyBounds<'_>) -> Vec<Arc<RegionRecord>> {
        self.scan(range, usize::MAX)
    }

    /// The epoch rule, 1 and 2 of the head of this file.
    fn check(&self, record: &RegionRecord) -> Result<()> {
        let (id, epoch) = (record.id(), record.region.epoch());
        if let Some(known) = self.by_id.get(&id) {
            let known_epoch = known.region.epoch();
            if epoch.is_stale(&known_epoch) || (record.term > 0 && record.term < known.term) {
                return Err(stale(record, known));
            }
            let moved = record.region.bounds() != known.region.bounds();
            if moved && epoch.version == known_epoch.version && known.has_spoken() {
                return Err(stale(record, known));
            }
        }
        for known in self.overlapping(record.region.bounds()) {
            let version = known.region.epoch().version;
            let must_give_way = version < epoch.version
                || (version == epoch.version && !known.has_spoken())
                || known.id() == id;
            if !must_give_way {
                return Err(stale(record, &known));
            }
        }
        Ok(())
    }
}

fn stale(record: &RegionRecord, known: &RegionRecord) -> Error {
    let (term, known_term) = (record.term, known.term);
    Error::StaleRegion(format!(
        "region is stale or claims keys of another: reported is {} at term {term}, known is {} at \
         term {known_term}",
        record.region, known.region
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skerry_proto::metapb::RegionEpoch;

    use super::*;

    fn record(id: u64, version: u64, start: &[u8], end: &[u8], spoken: bool) -> RegionRecord {
        let peer = Peer { id: id + 100, store_id: 1, ..Peer::default() };
        let region = Region {
            id,
            start_key: Bytes::copy_from_slice(start),
            end_key: Bytes::copy_from_slice(end),
            region_epoch: Some(RegionEpoch { conf_ver: 1, version }),
            peers: vec![peer],
        };
        RegionRecord { leader: spoken.then_some(peer), ..RegionRecord::silent(region) }
    }

    /// One report with small ids, keys and versions, so that collisions of every kind are common.
    fn reports() -> impl Strategy<Value = RegionRecord> {
        let key = || prop::collection::vec(b'a'..=b'd', 0..=1);
        (1..5u64, 1..5u64, key(), key(), any::<bool>())
            .prop_map(|(id, version, start, end, spoken)| record(id, version, &start, &end, spoken))
            .prop_filter("a region is not empty", |record| !record.region.bounds().is_empty())
    }

    /// What the tree says about a key, by asking every region.
    fn owners(tree: &RegionTree, key: &[u8]) -> Vec<RegionId> {
        let all = tree.by_id.values().filter(|record| record.region.contains_key(key));
        all.map(|record| record.id()).collect()
    }

    proptest! {
        #[test]
        fn every_key_has_at_most_one_region_and_its_version_never_falls(
            reports in prop::collection::vec(reports(), 1..40),
        ) {
            let probes: [&[u8]; 6] = [b"", b"a", b"b", b"c", b"d", b"z"];
            let mut tree = RegionTree::default();
            for report in reports {
                let version = |tree: &RegionTree, key: &[u8]| {
                    tree.by_key(key).map_or(0, |record| record.region.epoch().version)
                };
                let before = probes.map(|key| version(&tree, key));
                let (id, bounds) = (report.id(), report.region.clone());
                let accepted = tree.accept(report).is_ok();
                for (key, before) in probes.iter().zip(before) {
                    let owners = owners(&tree, key);
                    prop_assert!(owners.len() <= 1, "{:?} at {:?}", owners, key);
                    prop_assert_eq!(tree.by_key(key).map(|record| record.id()), owners.first().copied());
                    // A key may fall into a hole, but never back to an older region.
                    let after = version(&tree, key);
                    prop_assert!(after == 0 || after >= before, "{:?}: {} to {}", key, before, after);
                    if accepted && bounds.contains_key(key) {
                        prop_assert_eq!(owners, vec![id]);
                    }
                }
                prop_assert_eq!(tree.replicas_on(StoreId::new(1)), tree.len());
            }
        }

        #[test]
        fn a_scan_finds_what_asking_every_region_finds(
            reports in prop::collection::vec(reports(), 1..20),
            start in prop::collection::vec(b'a'..=b'd', 0..=1),
            end in prop::collection::vec(b'a'..=b'd', 0..=1),
        ) {
            let mut tree = RegionTree::default();
            for report in reports {
                let _ = tree.accept(report);
            }
            let range = KeyBounds::new(&start, &end);
            let mut wanted: Vec<_> =
                tree.by_id.values().filter(|record| record.region.bounds().overlaps(&range)).collect();
            wanted.sort_by(|a, b| a.region.start_key.cmp(&b.region.start_key));
            let wanted: Vec<_> = wanted.into_iter().map(|record| record.id()).collect();
            let ids = |found: Vec<Arc<RegionRecord>>| -> Vec<RegionId> {
                found.iter().map(|record| record.id()).collect()
            };
            prop_assert_eq!(ids(tree.scan(range, usize::MAX)), wanted.clone());
            prop_assert_eq!(ids(tree.scan(range, 1)), wanted.into_iter().take(1).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sizes_are_kept_until_they_are_known_and_never_round_to_nothing() {
        let report = |size, keys| RegionHeartbeatRequest {
            approximate_size: size,
            approximate_keys: keys,
            ..RegionHeartbeatRequest::default()
        };
        let sizes = |record: &RegionRecord| (record.size_mib, record.keys);
        let empty = RegionRecord::reported(report(1, 0), None);
        assert_eq!(sizes(&empty), (1, 0));
        let grown = RegionRecord::reported(report(7 << 20, 30), Some(&empty));
        assert_eq!(sizes(&grown), (7, 30));
        let unknown = RegionRecord::reported(report(0, 0), Some(&grown));
        assert_eq!(sizes(&unknown), (7, 30));
        assert_eq!(sizes(&RegionRecord::reported(report(0, 0), None)), (0, 0));
    }
}
