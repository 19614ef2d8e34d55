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
//! 4. A heartbeat that repeats range, epoch and peers, as nearly all do, costs two look-ups.
//!
//! **Invariant.** Regions in the tree never overlap, both maps hold the same regions, and the tallies of
//! stores ([`tally`]) are theirs.
//!
//! What it does not do: it never invents a region to fill a hole, and it knows nothing of stores.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::metapb::{Peer, Region};
use skerry_proto::pdpb::{PeerStats, RegionHeartbeatRequest, TimeInterval};
use skerry_proto::region::{KeyBounds, is_before_end};
use skerry_proto::types::{RegionId, StoreId};

use crate::moment::Moment;
use crate::planted::Planted;
use crate::{Error, Result};

pub mod tally;

use self::tally::Tallies;
pub use self::tally::{Bag, HOT_RATE, Tally};

/// The shortest time over which a rate is measured: reports come in bunches when something changes.
const RATE_MS_MIN: u64 = 1_000;
/// Time between two reports of a region that is awake, in which nothing happens to it.
const USUAL_MS: u64 = 60_000;

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
    /// Bytes a second, measured over the last few heartbeats.
    load: Load,
}

/// How the bytes of several heartbeats become a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Load {
    /// When the last heartbeat came; none before the first.
    heard: Option<Moment>,
    /// Counted since the last measurement, and in how many milliseconds.
    bytes: u64,
    milliseconds: u64,
    /// Bytes a second, half of it from the newest measurement.
    rate: u64,
}

impl Load {
    /// With what another heartbeat has counted, in the time that it tells. If it tells none, in the time since the one
    /// before: then a heartbeat that got lost, or was late, makes the region look busier or calmer than it is.
    fn and(self, bytes: u64, told: Option<Duration>, now: Moment) -> Load {
        let heard = Some(now);
        let passed = match (told, self.heard) {
            (Some(told), _) => told,
            (None, Some(before)) => now.since(before),
            // What the first heartbeat counts may have come in any time.
            (None, None) => return Load { heard, ..self },
        };
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        let milliseconds = self.milliseconds.saturating_add(passed);
        let bytes = self.bytes.saturating_add(bytes);
        if milliseconds < RATE_MS_MIN {
            return Load { heard, bytes, milliseconds, ..self };
        }
        let measured = bytes.saturating_mul(1_000) / milliseconds;
        // A region that sleeps is reported less often: what it was before counts as little then as otherwise.
        let halvings = (milliseconds / USUAL_MS).clamp(1, u64::from(u64::BITS));
        let rate = (0..halvings).fold(self.rate, |rate, _| rate.midpoint(measured));
        Load { heard, bytes: 0, milliseconds: 0, rate }
    }
}

/// How long an interval was, if its leader knows both ends.
fn length(told: TimeInterval) -> Option<Duration> {
    let is_known = told.start_timestamp > 0;
    let seconds = told.end_timestamp.checked_sub(told.start_timestamp);
    seconds.filter(|_| is_known).map(Duration::from_secs)
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

    /// A region that did not report, and whose leader is thought to be on a store.
    pub fn thought_to_be_led(region: Region, on: Option<StoreId>) -> RegionRecord {
        let leader = on.and_then(|store| region.peer_on_store(store)).copied();
        RegionRecord { leader, ..RegionRecord::silent(region) }
    }

    /// What a heartbeat says, on top of what an earlier one said about the same region: while a leader
    /// does not know size and keys yet it reports both as 0, and the old numbers stay. So does the
    /// term if none is told.
    pub fn reported(
        report: RegionHeartbeatRequest,
        earlier: Option<&RegionRecord>,
        now: Moment,
    ) -> RegionRecord {
        let (size_mib, keys) = match (report.approximate_size, report.approximate_keys) {
            (0, 0) => earlier.map_or((0, 0), |earlier| (earlier.size_mib, earlier.keys)),
            (size, keys) => ((size >> 20).max(u64::from(size > 0)), keys),
        };
        let term = match report.term {
            0 => earlier.map_or(0, |earlier| earlier.term),
            told => told,
        };
        let bytes = report.bytes_written.saturating_add(report.bytes_read);
        let load = earlier.map(|earlier| earlier.load).unwrap_or_default();
        RegionRecord {
            load: load.and(bytes, report.interval.and_then(length), now),
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

    /// The same of a region whose range has changed.
    pub fn with_region(&self, region: Region) -> RegionRecord {
        RegionRecord { region, ..self.clone() }
    }

    /// The id of the region.
    pub fn id(&self) -> RegionId {
        self.region.region_id()
    }

    /// Bytes a second that are written to it and read of it.
    pub fn rate(&self) -> u64 {
        self.load.rate
    }

    /// What it weighs for balance: an empty region weighs something, and so does one of unknown size.
    pub fn weight(&self) -> u64 {
        self.size_mib.max(1)
    }

    /// Whether its leader has told that next to nothing is in it.
    pub fn is_next_to_empty(&self) -> bool {
        self.leader.is_some() && self.size_mib <= 1
    }

    /// Whether this replica follows and needs no snapshot first, by what the leader says.
    pub fn is_well(&self, peer: &Peer) -> bool {
        !self.is_silent(peer) && !self.pending_peers.iter().any(|pending| pending.id == peer.id)
    }

    /// Whether the leader has not heard from this replica for a while.
    pub fn is_silent(&self, peer: &Peer) -> bool {
        self.down_peers.iter().any(|down| down.peer.is_some_and(|it| it.id == peer.id))
    }

    /// Whether the leader is on this store.
    pub fn is_led_from(&self, store: StoreId) -> bool {
        self.leader.is_some_and(|leader| leader.store() == store)
    }

    /// The peers that vote, or will when a joint configuration is left.
    pub fn voters(&self) -> impl Iterator<Item = &Peer> {
        self.region.peers.iter().filter(|peer| !peer.is_learner())
    }

    fn has_spoken(&self) -> bool {
        self.leader.is_some()
    }

    /// Whether `other` counts the same for the stores.
    fn weighs_as(&self, other: &RegionRecord) -> bool {
        self.leader.map(|leader| leader.id) == other.leader.map(|leader| leader.id)
            && self.size_mib == other.size_mib
            && self.rate() == other.rate()
            && self.pending_peers == other.pending_peers
    }
}

/// All known regions.
#[derive(Debug, Default)]
pub struct RegionTree {
    by_id: BTreeMap<RegionId, Arc<RegionRecord>>,
    /// Start key of each region. Ranges do not overlap, so starts are as good as ranges.
    by_start: BTreeMap<Bytes, RegionId>,
    tallies: Tallies,
    /// How many regions have a leader that has spoken.
    spoken: usize,
    planted: Option<Planted>,
}

impl RegionTree {
    /// Plants a bug.
    pub fn plant(&mut self, planted: Option<Planted>) {
        self.planted = planted;
    }

    /// Takes `record` in if the epoch rule lets it; answers the ids of other regions it has replaced.
    pub fn accept(&mut self, record: RegionRecord) -> Result<Vec<RegionId>> {
        if self.repeats(&record) {
            self.renew(record);
            return Ok(Vec::new());
        }
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
        self.tallies.add(&record);
        self.spoken += usize::from(record.has_spoken());
        self.by_start.insert(record.region.start_key.clone(), id);
        self.by_id.insert(id, Arc::new(record));
        assert_eq!(self.by_id.len(), self.by_start.len(), "two regions begin at one key");
        Ok(replaced)
    }

    /// Whether `record` has range, epoch and peers of what is known, and is not of an older term: then the rule
    /// need not be asked, since what is known has passed it.
    fn repeats(&self, record: &RegionRecord) -> bool {
        let is_repeated = |known: &Arc<RegionRecord>| {
            let is_believed = self.planted == Some(Planted::OldTermBelieved);
            known.region == record.region
                && (record.term == 0 || record.term >= known.term || is_believed)
        };
        self.by_id.get(&record.id()).is_some_and(is_repeated)
    }

    /// Replaces the record of the same region.
    fn renew(&mut self, record: RegionRecord) {
        let known = self.by_id.get_mut(&record.id()).expect("the region is known");
        self.spoken += usize::from(record.has_spoken());
        self.spoken -= usize::from(known.has_spoken());
        if !known.weighs_as(&record) {
            self.tallies.remove(known);
            self.tallies.add(&record);
        }
        *known = Arc::new(record);
    }

    /// Forgets a region; nothing if it is unknown.
    pub fn remove(&mut self, id: RegionId) {
        if let Some(record) = self.by_id.remove(&id) {
            let removed = self.by_start.remove(&record.region.start_key);
            assert_eq!(removed, Some(id), "the two maps differ about {id}");
            self.tallies.remove(&record);
            self.spoken -= usize::from(record.has_spoken());
        }
    }

    /// What a store holds.
    pub fn on(&self, store: StoreId) -> &Tally {
        self.tallies.get(store)
    }

    /// How many regions have a replica on `store`.
    pub fn replicas_on(&self, store: StoreId) -> usize {
        self.on(store).replicas.len()
    }

    /// How many regions have told of themselves in this life of the scheduler.
    pub fn spoken(&self) -> usize {
        self.spoken
    }

    /// At most `limit` regions after the one with this id, by id.
    pub fn after(&self, id: RegionId, limit: usize) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.by_id.range((Excluded(id), Unbounded)).map(|(_, record)| record).take(limit)
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
        if self.planted == Some(Planted::StaleHeartbeat) {
            return Ok(());
        }
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

    const NOW: Moment = Moment { monotonic: Duration::from_secs(50), wall_ms: 0 };

    /// What the tallies of all stores must say, by asking every region.
    fn assert_tallied(tree: &RegionTree) {
        for store in (1..=3).map(StoreId::new) {
            let here = || tree.iter().filter(|it| it.region.peer_on_store(store).is_some());
            let led = || tree.iter().filter(|it| it.is_led_from(store));
            let tally = tree.on(store);
            assert_eq!(tally.replicas.len(), here().count());
            assert_eq!(tally.leaders.len(), led().count());
            assert!(here().all(|it| tally.replicas.iter().any(|id| id == it.id())));
            assert_eq!(tally.size_mib, here().map(|it| it.weight()).sum::<u64>());
        }
        assert_eq!(tree.spoken(), tree.iter().filter(|it| it.leader.is_some()).count());
    }

    fn record(id: u64, version: u64, start: &[u8], end: &[u8], spoken: bool) -> RegionRecord {
        let store_id = 1 + (id + version) % 3;
        let peer = Peer { id: id + 100, store_id, ..Peer::default() };
        let region = Region {
            id,
            start_key: Bytes::copy_from_slice(start),
            end_key: Bytes::copy_from_slice(end),
            region_epoch: Some(RegionEpoch { conf_ver: 1, version }),
            peers: vec![peer],
        };
        let size_mib = id * version;
        RegionRecord { leader: spoken.then_some(peer), size_mib, ..RegionRecord::silent(region) }
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
                assert_tallied(&tree);
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
    fn a_rate_is_measured_over_a_second_at_least() {
        let at = |ms| Moment { monotonic: Duration::from_millis(ms), wall_ms: 0 };
        let report = |bytes_written| RegionHeartbeatRequest {
            bytes_written,
            ..RegionHeartbeatRequest::default()
        };
        let mut record = RegionRecord::reported(report(9_999), None, at(0));
        let mut rates = Vec::new();
        for (bytes, ms) in [(1_000, 500), (3_000, 1_000), (0, 1_100), (0, 3_000)] {
            record = RegionRecord::reported(report(bytes), Some(&record), at(ms));
            rates.push(record.rate());
        }
        assert_eq!(rates, [0, 2_000, 2_000, 1_000]);
    }

    /// Before, the scheduler went by when heartbeats came: one that was held up, or lost, changed the rate.
    #[test]
    fn a_rate_goes_by_the_interval_that_the_leader_tells_whenever_its_heartbeats_come() {
        let at = |ms| Moment { monotonic: Duration::from_millis(ms), wall_ms: 0 };
        let report = |bytes_read, start_timestamp, end_timestamp| RegionHeartbeatRequest {
            bytes_read,
            interval: Some(TimeInterval { start_timestamp, end_timestamp }),
            ..RegionHeartbeatRequest::default()
        };
        // A thousand bytes a second, and the first heartbeat counts like the others.
        let mut record = RegionRecord::reported(report(10_000, 100, 110), None, at(0));
        assert_eq!(record.rate(), 500);
        let told = [
            // The one from 110 to 170 is lost.
            (report(60_000, 170, 230), 120_000),
            // Two within a second, because something has changed, and the rest of that minute.
            (report(400, 230, 230), 120_400),
            (report(59_600, 230, 290), 180_000),
            // Held up for long, and then two at once.
            (report(60_000, 290, 350), 900_000),
            (report(60_000, 350, 410), 900_000),
        ];
        let mut rates = Vec::new();
        for (report, ms) in told {
            record = RegionRecord::reported(report, Some(&record), at(ms));
            rates.push(record.rate());
        }
        assert_eq!(rates, [750, 750, 875, 937, 968]);
        // Nonsense is no interval: then it goes by when they come.
        for (start, end) in [(0, 500), (500, 400)] {
            let late =
                RegionRecord::reported(report(968_000, start, end), Some(&record), at(1_900_000));
            assert_eq!(late.rate(), 968);
        }
    }

    #[test]
    fn what_a_region_did_before_it_fell_asleep_counts_as_little_later_however_seldom_it_is_reported()
     {
        let at = |seconds| Moment { monotonic: Duration::from_secs(seconds), wall_ms: 0 };
        let report = |bytes_written, start_timestamp, end_timestamp| RegionHeartbeatRequest {
            bytes_written,
            interval: Some(TimeInterval { start_timestamp, end_timestamp }),
            ..RegionHeartbeatRequest::default()
        };
        let busy = RegionRecord::reported(report(960_000, 1, 61), None, at(60));
        assert_eq!(busy.rate(), 8_000);
        let calm = |reports: u64| {
            let each = 300 / reports;
            let mut record = busy.clone();
            for number in 0..reports {
                let (start, end) = (61 + number * each, 61 + (number + 1) * each);
                record = RegionRecord::reported(report(0, start, end), Some(&record), at(end));
            }
            record.rate()
        };
        assert_eq!((calm(5), calm(1)), (8_000 / 32, 8_000 / 32));
    }

    #[test]
    fn sizes_are_kept_until_they_are_known_and_never_round_to_nothing() {
        let report = |size, keys| RegionHeartbeatRequest {
            approximate_size: size,
            approximate_keys: keys,
            ..RegionHeartbeatRequest::default()
        };
        let sizes = |record: &RegionRecord| (record.size_mib, record.keys);
        let empty = RegionRecord::reported(report(1, 0), None, NOW);
        assert_eq!(sizes(&empty), (1, 0));
        let grown = RegionRecord::reported(report(7 << 20, 30), Some(&empty), NOW);
        assert_eq!(sizes(&grown), (7, 30));
        let unknown = RegionRecord::reported(report(0, 0), Some(&grown), NOW);
        assert_eq!(sizes(&unknown), (7, 30));
        assert_eq!(sizes(&RegionRecord::reported(report(0, 0), None, NOW)), (0, 0));
    }
}
