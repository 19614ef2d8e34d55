//! Project 3C, what the scheduler knows: leaders report their regions, and reports that are older than what is known
//! change nothing. All of it against the pure `Cluster`, without a server.
//!
//! As in the course there are three stores and three regions, each on all stores and led from its first replica. After
//! every report the whole picture is compared with the reports that it must show: regions by id and by key, how many
//! there are, and what each store holds of them.
//!
//! What stands in the course's tests and cannot stand here is told in `docs/testing.md`.

use std::time::Duration;

use bytes::Bytes;
use skerry_proto::metapb::{self, Peer, Region, RegionEpoch};
use skerry_proto::pdpb::RegionHeartbeatRequest;
use skerry_proto::region::KeyBounds;
use skerry_proto::types::{ClusterId, RegionId, StoreId};
use skerry_scheduler::cluster::{Cluster, Decision};
use skerry_scheduler::config::SchedulerConfig;
use skerry_scheduler::error::{Error, Result};
use skerry_scheduler::moment::Moment;
use skerry_scheduler::region_tree::RegionRecord;

/// When everything happens, unless a lab lets time pass.
pub(crate) const NOW: Moment = Moment { monotonic: Duration::from_secs(60), wall_ms: 0 };

/// The id of all clusters of labs.
pub(crate) const CLUSTER: ClusterId = ClusterId::new(7);

/// The region that bootstrap brings.
const FIRST: u64 = 1;

const MIB: u64 = 1 << 20;

/// Takes a decision as the server does, but for the disk.
pub(crate) fn carry_out<T>(
    cluster: &mut Cluster,
    now: Moment,
    decide: impl FnOnce(&mut Cluster) -> Result<Decision<T>>,
) -> T {
    let Decision { answer, changes } = decide(cluster).expect("the request is sound");
    cluster.install(changes, now);
    answer
}

/// A store registers.
pub(crate) fn register(cluster: &mut Cluster, store: u64) {
    carry_out(cluster, NOW, |cluster| cluster.put_store(Some(new_store(store)), NOW));
}

/// A cluster of so many stores, with a first region that no leader has reported yet.
pub(crate) fn cluster_of(stores: u64) -> Cluster {
    let mut cluster = Cluster::restore(CLUSTER, &SchedulerConfig::default(), Vec::new(), NOW);
    let region = region(FIRST, (1, 1), (b"", b""), &[1]);
    carry_out(&mut cluster, NOW, |cluster| {
        cluster.bootstrap(Some(new_store(1)), Some(region), NOW)
    });
    (2..=stores).for_each(|store| register(&mut cluster, store));
    cluster
}

pub(crate) fn new_store(id: u64) -> metapb::Store {
    let (address, version) = (format!("store-{id}"), "8.5.5".to_string());
    metapb::Store { id, address, version, ..metapb::Store::default() }
}

/// A region with an epoch (version, configuration version), a range, and a voter on each of `stores`.
pub(crate) fn region(id: u64, epoch: (u64, u64), range: (&[u8], &[u8]), stores: &[u64]) -> Region {
    let (version, conf_ver) = epoch;
    // Far above the ids that the scheduler gives.
    let peer =
        |store_id: &u64| Peer { id: id * 100 + store_id, store_id: *store_id, ..Peer::default() };
    Region {
        id,
        start_key: Bytes::copy_from_slice(range.0),
        end_key: Bytes::copy_from_slice(range.1),
        region_epoch: Some(RegionEpoch { conf_ver, version }),
        peers: stores.iter().map(peer).collect(),
    }
}

/// A report of a region by its first replica.
pub(crate) fn report(region: Region) -> RegionHeartbeatRequest {
    let leader = region.peers.first().copied();
    RegionHeartbeatRequest { leader, region: Some(region), ..RegionHeartbeatRequest::default() }
}

/// The region of a report.
fn of(report: &RegionHeartbeatRequest) -> &Region {
    report.region.as_ref().expect("a report has a region")
}

fn of_mut(report: &mut RegionHeartbeatRequest) -> &mut Region {
    report.region.as_mut().expect("a report has a region")
}

/// The epoch of a report, to be raised.
fn epoch(report: &mut RegionHeartbeatRequest) -> &mut RegionEpoch {
    of_mut(report).region_epoch.as_mut().expect("a region has an epoch")
}

fn assert_shows(record: Option<&RegionRecord>, report: &RegionHeartbeatRequest) {
    let record = record.unwrap_or_else(|| panic!("not known: {}", of(report)));
    assert_eq!(record.region, *of(report));
    assert_eq!(record.leader, report.leader);
    assert_eq!(record.pending_peers, report.pending_peers);
    assert_eq!(record.size_mib, report.approximate_size / MIB);
}

/// Three regions on three stores, and the last accepted report of each.
struct Known {
    cluster: Cluster,
    reports: Vec<RegionHeartbeatRequest>,
}

impl Known {
    fn new() -> Known {
        let mut known = Known { cluster: cluster_of(3), reports: Vec::new() };
        for number in 0..3u8 {
            let stores = [0, 1, 2].map(|more| u64::from(number + more) % 3 + 1);
            let (id, range) = (u64::from(number) + 2, (&[number][..], &[number + 1][..]));
            known.reports.push(report(region(id, (2, 2), range, &stores)));
            known.accepts(usize::from(number), |_| {});
        }
        known
    }

    /// A leader reports its region with a difference, and then that is what is known.
    fn accepts(&mut self, place: usize, change: impl FnOnce(&mut RegionHeartbeatRequest)) {
        change(&mut self.reports[place]);
        let report = self.reports[place].clone();
        self.cluster.region_heartbeat(report, NOW).expect("the report is not stale");
        self.check();
    }

    /// A report that is stale changes nothing.
    fn refuses(&mut self, report: RegionHeartbeatRequest) {
        let refused = self.cluster.region_heartbeat(report, NOW);
        assert!(matches!(refused, Err(Error::StaleRegion(_))), "{refused:?}");
        self.check();
    }

    /// Everything that is known is what the reports say.
    fn check(&self) {
        for report in &self.reports {
            let region = of(report);
            assert_shows(self.by_id(region.id).as_ref(), report);
            let by_key = self.cluster.region_by_key(&region.start_key).expect("bootstrapped");
            assert_shows(by_key.as_deref(), report);
        }
        assert_eq!(self.cluster.region_count().expect("bootstrapped"), self.reports.len());
        for store in 1..=3 {
            self.check_store(StoreId::new(store));
        }
    }

    fn check_store(&self, store: StoreId) {
        let held = self.cluster.holdings(store).expect("bootstrapped");
        let is_here = |report: &&RegionHeartbeatRequest| of(report).peer_on_store(store).is_some();
        let here: Vec<_> = self.reports.iter().filter(is_here).collect();
        let ids = |reports: &mut dyn Iterator<Item = &&RegionHeartbeatRequest>| {
            reports.map(|report| of(report).region_id()).collect::<Vec<RegionId>>()
        };
        let sorted = |mut ids: Vec<RegionId>| {
            ids.sort();
            ids
        };
        assert_eq!(sorted(held.replicas.iter().collect()), ids(&mut here.iter()));
        let leads = |report: &&&RegionHeartbeatRequest| {
            report.leader.is_some_and(|leader| leader.store() == store)
        };
        let led = ids(&mut here.iter().filter(leads));
        assert_eq!(sorted(held.leaders.iter().collect()), led);
        let lags = |report: &&&RegionHeartbeatRequest| {
            report.pending_peers.iter().any(|peer| peer.store() == store)
        };
        let pending: Vec<RegionId> = held.pending.iter().copied().collect();
        assert_eq!(pending, ids(&mut here.iter().filter(lags)));
        // What is empty, or of unknown size, weighs something.
        let weight = |report: &&RegionHeartbeatRequest| (report.approximate_size / MIB).max(1);
        assert_eq!(held.size_mib, here.iter().map(weight).sum::<u64>());
    }

    fn by_id(&self, id: u64) -> Option<RegionRecord> {
        let found = self.cluster.region_by_id(RegionId::new(id)).expect("bootstrapped");
        found.map(|record| RegionRecord::clone(&record))
    }

    fn pending_on(&self, store: u64) -> usize {
        self.cluster.holdings(StoreId::new(store)).expect("bootstrapped").pending.len()
    }
}

#[test]
fn test_region_not_update_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        known.accepts(place, |_| {});
    }
}

#[test]
fn test_region_update_version_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        known.accepts(place, |report| epoch(report).version += 1);
    }
}

#[test]
fn test_region_with_stale_version_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        let mut stale = known.reports[place].clone();
        known.accepts(place, |report| epoch(report).version += 1);
        known.refuses(stale.clone());
        epoch(&mut stale).conf_ver += 1;
        known.refuses(stale);
    }
}

#[test]
fn test_region_update_version_and_confver_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        known.accepts(place, |report| {
            epoch(report).version += 1;
            epoch(report).conf_ver += 1;
        });
    }
}

#[test]
fn test_region_with_stale_conf_ver_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        let stale = known.reports[place].clone();
        known.accepts(place, |report| epoch(report).conf_ver += 1);
        known.refuses(stale);
    }
}

/// In the course any peer, and at the end nothing is compared; here each in turn, and every store's count.
#[test]
fn test_region_add_pending_peer_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        known.accepts(place, |report| report.pending_peers = vec![of(report).peers[place]]);
    }
    // The first, second and third replica of the three regions lie on stores 1, 3 and 2.
    assert_eq!([1, 2, 3].map(|store| known.pending_on(store)), [1, 1, 1]);
}

#[test]
fn test_region_remove_pending_peer_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        known.accepts(place, |report| report.pending_peers = vec![of(report).peers[place]]);
        known.accepts(place, |report| report.pending_peers.clear());
    }
    assert_eq!([1, 2, 3].map(|store| known.pending_on(store)), [0, 0, 0]);
}

#[test]
fn test_region_remove_peers_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        known.accepts(place, |report| of_mut(report).peers.truncate(1));
    }
}

#[test]
fn test_region_add_back_peers_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        let peers = of(&known.reports[place]).peers.clone();
        known.accepts(place, |report| of_mut(report).peers.truncate(1));
        known.accepts(place, |report| of_mut(report).peers = peers);
    }
}

#[test]
fn test_region_change_leader_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        known.accepts(place, |report| report.leader = Some(of(report).peers[1]));
    }
}

#[test]
fn test_region_change_approximate_size_3c() {
    let mut known = Known::new();
    for place in 0..3 {
        known.accepts(place, |report| report.approximate_size = 144 * MIB);
        assert_eq!(known.by_id(place as u64 + 2).expect("known").size_mib, 144);
    }
}

#[test]
fn test_region_counts_3c() {
    let known = Known::new();
    for store in 1..=3 {
        let held = known.cluster.holdings(StoreId::new(store)).expect("bootstrapped");
        assert_eq!((held.replicas.len(), held.leaders.len()), (3, 1));
    }
}

#[test]
fn test_region_get_regions_3c() {
    let known = Known::new();
    let found = known.cluster.scan(KeyBounds::ALL, usize::MAX).expect("bootstrapped");
    assert_eq!(found.len(), known.reports.len());
    for (record, report) in found.iter().zip(&known.reports) {
        assert_shows(Some(record), report);
    }
}

#[test]
fn test_region_get_stores_3c() {
    let known = Known::new();
    for report in &known.reports {
        let record = known.by_id(of(report).id).expect("known");
        let stores: Vec<StoreId> = record.region.peers.iter().map(Peer::store).collect();
        assert_eq!(stores, of(report).peers.iter().map(Peer::store).collect::<Vec<_>>());
        for store in stores {
            known.cluster.store(store).expect("the store is registered");
            let peer = record.region.peer_on_store(store).expect("it is listed there");
            assert_eq!(record.is_led_from(store), Some(peer.id) == report.leader.map(|it| it.id));
        }
    }
}

/// What a store holds in all, and of it what is led from there, is what its regions add up to.
#[test]
fn test_region_get_stores_info_3c() {
    let mut known = Known::new();
    for (place, size) in [10, 20, 30].into_iter().enumerate() {
        known.accepts(place, |report| report.approximate_size = size * MIB);
    }
    for store in (1..=3).map(StoreId::new) {
        let held = known.cluster.holdings(store).expect("bootstrapped");
        assert_eq!((held.replicas.len(), held.leaders.len(), held.size_mib), (3, 1, 60));
        let led = held.leaders.iter().map(|id| known.by_id(id.get()).expect("known").size_mib);
        assert_eq!(led.sum::<u64>(), 10 * store.get());
    }
}

/// The region that has `key`, as its leader reported it, or none.
fn at(cluster: &Cluster, key: &str) -> Option<Region> {
    let found = cluster.region_by_key(key.as_bytes()).expect("bootstrapped");
    found.map(|record| record.region.clone())
}

fn hears(cluster: &mut Cluster, region: &Region) {
    cluster.region_heartbeat(report(region.clone()), NOW).expect("the report is not stale");
}

/// Both parts of a split carry the new version. In the course the new region begins with version 1, below that of
/// the region it was cut from; who claims keys of another with no higher version is refused here.
#[test]
fn test_heartbeat_split_3c() {
    let mut cluster = cluster_of(1);
    let whole = region(1, (1, 1), (b"", b""), &[1]);
    hears(&mut cluster, &whole);
    assert_eq!(at(&cluster, "foo"), Some(whole));

    // The new part reports first: nobody knows who has the rest until it speaks.
    let (right, left) =
        (region(1, (2, 1), (b"m", b""), &[1]), region(2, (2, 1), (b"", b"m"), &[1]));
    let unproven = report(region(2, (1, 1), (b"", b"m"), &[1]));
    let refused = cluster.region_heartbeat(unproven, NOW);
    assert!(matches!(refused, Err(Error::StaleRegion(_))), "{refused:?}");
    hears(&mut cluster, &left);
    assert_eq!(at(&cluster, "a"), Some(left.clone()));
    assert_eq!(at(&cluster, "z"), None);
    hears(&mut cluster, &right);
    assert_eq!(at(&cluster, "z"), Some(right));

    // The part that keeps its id reports first.
    let (right, middle) =
        (region(1, (3, 1), (b"q", b""), &[1]), region(3, (3, 1), (b"m", b"q"), &[1]));
    hears(&mut cluster, &right);
    assert_eq!(at(&cluster, "z"), Some(right));
    assert_eq!(at(&cluster, "a"), Some(left));
    assert_eq!(at(&cluster, "n"), None);
    hears(&mut cluster, &middle);
    assert_eq!(at(&cluster, "n"), Some(middle));
}

/// A region of [`test_region_split_and_merge_3c`]: keys are single bytes, and 256 is the end of all.
#[derive(Clone, Debug)]
struct Part {
    id: u64,
    version: u64,
    start: u16,
    end: u16,
}

impl Part {
    fn region(&self) -> Region {
        let key = |place: u16| u8::try_from(place).ok().filter(|byte| *byte > 0);
        let (start, end) = (key(self.start), key(self.end));
        region(self.id, (self.version, 1), (start.as_slice(), end.as_slice()), &[1])
    }

    /// The keys at its edges are its own, and those beyond them are not.
    fn check(&self, cluster: &Cluster, others_have_spoken: bool) {
        let owner = |place: u16| {
            let key = u8::try_from(place).expect("a place below the end is a byte");
            let found = cluster.region_by_key(&[key]).expect("bootstrapped");
            found.map(|record| record.region.clone())
        };
        let known = cluster.region_by_id(RegionId::new(self.id)).expect("bootstrapped");
        assert_eq!(known.map(|record| record.region.clone()), Some(self.region()));
        assert_eq!(owner(self.start), Some(self.region()));
        assert_eq!(owner(self.end - 1), Some(self.region()));
        if others_have_spoken && self.end < 256 {
            assert_ne!(owner(self.end).expect("all keys have regions").id, self.id);
        }
    }
}

/// Every part becomes two: the left one is new, the right one keeps the id.
fn split(parts: &[Part], newest: &mut u64) -> Vec<Part> {
    let halves = |part: &Part| {
        let (middle, version) = ((part.start + part.end) / 2, part.version + 1);
        *newest += 1;
        let left = Part { id: *newest, version, start: part.start, end: middle };
        [left, Part { version, start: middle, ..*part }]
    };
    parts.iter().flat_map(halves).collect()
}

/// Of every two parts the left one takes the right one in.
fn merge(parts: &[Part]) -> Vec<Part> {
    let join = |pair: &[Part]| {
        let version = pair[0].version.max(pair[1].version) + 1;
        Part { version, end: pair[1].end, ..pair[0] }
    };
    parts.chunks(2).map(join).collect()
}

#[test]
fn test_region_split_and_merge_3c() {
    let (mut cluster, mut newest) = (cluster_of(1), FIRST);
    let mut parts = vec![Part { id: FIRST, version: 1, start: 0, end: 256 }];
    let splits_first = [true; 7].into_iter().chain([false; 7]);
    let twice_and_once = (1..=14).map(|round| round % 3 != 0);
    for splits in splits_first.chain(twice_and_once) {
        parts = if splits { split(&parts, &mut newest) } else { merge(&parts) };
        for part in &parts {
            hears(&mut cluster, &part.region());
            part.check(&cluster, false);
        }
        parts.iter().for_each(|part| part.check(&cluster, true));
        assert_eq!(cluster.region_count().expect("bootstrapped"), parts.len());
    }
    assert!(newest > 128, "the first seven rounds alone make 128 of one");
}
