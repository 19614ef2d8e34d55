//! The cluster as the scheduler knows it: single owner of all state but timestamps. Pure: events come in
//! with the time they happened at, answers and durable changes go out; no disk, clock, task or socket.
//!
//! # How
//!
//! ```text
//!              event, Moment                Decision { answer, changes }
//!   server ───────────────────────► Cluster ─────────────────────────────► server
//!             install(changes) ▲                                             │
//!                              └────────── changes are on disk ◄─────────────┘
//! ```
//!
//! 1. Everything that can happen is one method. Those that only look take `&self`.
//! 2. *Heartbeats* ([`Cluster::store_heartbeat`], [`Cluster::region_heartbeat`],
//!    [`Cluster::report_split`]) change the picture at once. Which regions they changed is collected;
//!    [`Cluster::take_region_changes`] hands it over to be written a moment later.
//! 3. *Decisions* ([`Cluster::bootstrap`], [`Cluster::put_store`], [`Cluster::put_settings`],
//!    [`Cluster::allocate_ids`], [`Cluster::ask_split`], [`Cluster::next_step`], [`Cluster::tick`],
//!    and those in [`collection`], [`control`], [`scatter`] and [`store_life`]) change nothing that is
//!    durable yet (ids are taken and operators begun, but lost ids and operators harm nobody). The
//!    caller makes `changes` durable, hands them to [`Cluster::install`], and only then lets the answer
//!    out. One decision at a time: the next one is asked for when the last one is installed.
//! 4. After a restart the rows from disk are installed the same way ([`Cluster::restore`]).
//!
//! # A cluster of API version 2
//!
//! Bootstrap brings one region over all keys, whatever the API version. A standalone store of version 2
//! serves five fixed regions, so after bootstrap it reports these: by ReportBatchSplit, which shows all of
//! them in one step, or by their first heartbeats. They may carry the version of the first region or a
//! higher one (see rule 2 in [`crate::region_tree`]). The scheduler itself knows nothing of API versions:
//! it compares boundaries and never decodes them.
//!
//! # Invariants
//!
//! * What a decision has answered is on disk, so it is true after every crash.
//! * Nothing is known of stores and regions before bootstrap, and nothing is answered about them.
//! * A region has a leader only if a heartbeat has named it in this life of the process: after a restart
//!   clients are sent to nobody until stores have spoken.
//!
//! What leaders are told to do about their replicas is in [`steps`], by the rules of [`crate::checkers`] and
//! [`crate::balance`]; why, in [`explain`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::keyspacepb::KeyspaceMeta;
use skerry_proto::metapb::{self, NodeState, Region};
use skerry_proto::pdpb::{RegionHeartbeatRequest, SplitId, StoreStats};
use skerry_proto::region::KeyBounds;
use skerry_proto::types::{ClusterId, PeerId, RegionId, StoreId};

use crate::balance::Balancers;
use crate::config::SchedulerConfig;
use crate::gc::{Collection, Habit};
use crate::ids::IdAllocator;
use crate::keyspace::{Keyspaces, default_keyspace};
use crate::moment::Moment;
use crate::operator::limits::StoreLimits;
use crate::operator::{Ending, Operators};
use crate::persist::Change;
use crate::planted::Planted;
use crate::region_tree::{RegionRecord, RegionTree, Tally};
use crate::schedule::Schedule;
use crate::stores::{Liveness, Patience, StoreRecord, Stores};
use crate::{Error, Result};

pub mod collection;
pub mod control;
pub mod explain;
pub mod looks;
mod patrol;
pub mod scatter;
pub mod steps;
pub mod store_life;

pub use self::steps::Instruction;

/// The most ids one request may take: far above what a split or a bootstrap needs, and far below what
/// would wear out the sequence.
pub const IDS_PER_REQUEST_MAX: u64 = 1 << 20;

/// An answer that may leave when its changes are durable and installed; at once if there are none.
#[derive(Debug, PartialEq)]
#[must_use]
pub struct Decision<T> {
    /// What the caller of the RPC is told.
    pub answer: T,
    /// What must be on disk first, in one batch.
    pub changes: Vec<Change>,
}

/// What a store is told when it says that it is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreNews {
    /// The lowest version among the stores.
    pub cluster_version: String,
    /// Whether it is to serve or to leave.
    pub state: NodeState,
    /// Whether it was not up before: regions may have waited for it.
    pub has_come_up: bool,
}

/// The state. See the head of this file.
#[derive(Debug)]
pub struct Cluster {
    id: ClusterId,
    /// Replicas that a bootstrap records.
    replicas_max: u32,
    /// When silent stores count as disconnected.
    disconnected: Duration,
    /// There since bootstrap.
    settings: Option<metapb::Cluster>,
    /// What operators may change.
    schedule: Schedule,
    ids: IdAllocator,
    stores: Stores,
    regions: RegionTree,
    operators: Operators,
    limits: StoreLimits,
    balancers: Balancers,
    /// When this life began.
    began: Moment,
    /// Whether enough is known to compare stores.
    is_prepared: bool,
    patrol: patrol::Patrol,
    /// How many regions stores had that are being emptied, when that began or was first seen.
    leaving: BTreeMap<StoreId, usize>,
    /// Learners that somebody has asked for by hand, until they vote or are gone. A restart forgets them.
    kept_learners: BTreeMap<RegionId, BTreeSet<StoreId>>,
    /// What is spread among itself. A restart forgets them.
    groups: scatter::Groups,
    /// Regions whose row on disk is not what the tree says.
    unsaved: BTreeSet<RegionId>,
    /// No timestamp is as late as this, in milliseconds since 1970: the limit of the oracle (see `tso.rs`).
    timestamps_ms: u64,
    collection: Collection,
    /// When old versions are collected without being asked.
    habit: Habit,
    keyspaces: Keyspaces,
    planted: Option<Planted>,
}

impl Cluster {
    /// The cluster with this id and what `rows` say of it. The rows of one life of the process never
    /// contradict each other; should regions overlap all the same, the higher version wins.
    pub fn restore(
        id: ClusterId,
        config: &SchedulerConfig,
        rows: Vec<Change>,
        now: Moment,
    ) -> Cluster {
        assert_ne!(id.get(), 0, "0 means that no cluster is named");
        let mut cluster = Cluster {
            id,
            replicas_max: config.replicas_max,
            disconnected: config.patience().disconnected,
            settings: None,
            schedule: Schedule::new(config.settings()),
            ids: IdAllocator::new(config.id_batch),
            stores: Stores::default(),
            regions: RegionTree::default(),
            operators: Operators::default(),
            limits: StoreLimits::default(),
            balancers: Balancers::new(id.get()),
            began: now,
            is_prepared: false,
            patrol: patrol::Patrol::default(),
            leaving: BTreeMap::new(),
            kept_learners: BTreeMap::new(),
            groups: scatter::Groups::default(),
            unsaved: BTreeSet::new(),
            timestamps_ms: 0,
            collection: Collection::new(now),
            habit: config.habit(),
            keyspaces: Keyspaces::default(),
            planted: None,
        };
        cluster.install(rows, now);
        cluster.ids.skip_to_bound();
        cluster
    }

    /// Plants a bug.
    pub fn plant(&mut self, planted: Option<Planted>) {
        self.planted = planted;
        self.ids.plant(planted);
        self.regions.plant(planted);
        self.operators.plant(planted);
    }

    /// Makes durable changes true.
    pub fn install(&mut self, changes: Vec<Change>, now: Moment) {
        for change in changes {
            match change {
                Change::ClusterId(id) => assert_eq!(id, self.id, "rows of another cluster"),
                Change::Cluster(settings) => {
                    self.settings = Some(settings);
                    self.patrol.begin_anew();
                }
                Change::Store(store) => {
                    self.stores.install(store, now);
                    self.patrol.begin_anew();
                }
                Change::StoreGone(id) => self.stores.remove(id),
                Change::Tuning(id, tuning) => {
                    self.stores.tune(id, tuning);
                    self.patrol.begin_anew();
                }
                Change::TuningGone(_) => {}
                Change::Settings(settings) => self.schedule.install(*settings),
                Change::Balancers(specs) => self.balancers.install(specs),
                Change::Region(region) => {
                    // Refused only if something newer is known, and then that is right.
                    let _ = self.regions.accept(RegionRecord::silent(region));
                }
                Change::RegionGone(id) => self.regions.remove(id),
                Change::IdBound(bound) => self.ids.reserved(bound),
                Change::TimestampLimit(limit_ms) => self.timestamps_ms = limit_ms,
                Change::SafePoint(gc) => self.collection.marks.install_gc(gc),
                Change::TxnSafePoint(txn) => self.collection.marks.install_txn(txn),
                Change::Barrier(name, barrier) => {
                    self.collection.marks.install_barrier(name, barrier);
                }
                Change::BarrierGone(name) => self.collection.marks.remove_barrier(&name),
                Change::Keyspace(keyspace) => self.keyspaces.install(keyspace),
            }
        }
    }

    // ---- The cluster as a whole ---------------------------------------------------------------------

    /// The id, which every request must name.
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// When this life of the scheduler began.
    pub fn began(&self) -> Moment {
        self.began
    }

    /// When silent stores count as disconnected and down.
    pub fn patience(&self) -> Patience {
        let down = Duration::from_millis(self.schedule.current().max_store_down_time_ms);
        Patience { disconnected: self.disconnected, down: down.max(self.disconnected) }
    }

    /// Whether there is a first region.
    pub fn is_bootstrapped(&self) -> bool {
        self.settings.is_some()
    }

    /// The settings that stores and clients may ask for.
    pub fn settings(&self) -> Result<metapb::Cluster> {
        self.settings.ok_or(Error::NotBootstrapped)
    }

    /// A store brings itself and the first region. Of several that try, the first wins.
    pub fn bootstrap(
        &self,
        store: Option<metapb::Store>,
        region: Option<Region>,
        now: Moment,
    ) -> Result<Decision<()>> {
        if self.is_bootstrapped() {
            return Err(Error::AlreadyBootstrapped);
        }
        let store = store.ok_or_else(|| invalid("bootstrap without a store"))?;
        let region = region.ok_or_else(|| invalid("bootstrap without a region"))?;
        let store = self.stores.admit(store)?;
        check_region(&region)?;
        if region.bounds() != KeyBounds::ALL {
            return Err(invalid(format!("the first region has all keys, not {}", region.bounds())));
        }
        let [peer] = region.peers[..] else {
            return Err(invalid(format!("the first region has one peer: {region}")));
        };
        if peer.store_id != store.id {
            return Err(invalid(format!(
                "the first region is not on store {}: {region}",
                store.id
            )));
        }
        let settings = metapb::Cluster { id: self.id.get(), max_peer_count: self.replicas_max };
        let changes = vec![
            Change::Cluster(settings),
            Change::Store(store),
            Change::Region(region),
            Change::Keyspace(default_keyspace(now.wall_ms)),
        ];
        Ok(Decision { answer: (), changes })
    }

    /// An operator changes the settings.
    pub fn put_settings(&self, settings: Option<metapb::Cluster>) -> Result<Decision<()>> {
        let known = self.settings()?;
        let settings = settings.ok_or_else(|| invalid("no settings"))?;
        if settings.id != known.id {
            return Err(invalid(format!("settings of another cluster, {}", settings.id)));
        }
        if settings.max_peer_count == 0 {
            return Err(invalid("max_peer_count is 0"));
        }
        let changes = if settings == known { vec![] } else { vec![Change::Cluster(settings)] };
        Ok(Decision { answer: (), changes })
    }

    // ---- Ids ----------------------------------------------------------------------------------------

    /// Takes `count` consecutive ids (0 is 1) and answers the largest.
    pub fn allocate_ids(&mut self, count: u64) -> Result<Decision<u64>> {
        if count > IDS_PER_REQUEST_MAX {
            return Err(invalid(format!("{count} ids are more than {IDS_PER_REQUEST_MAX}")));
        }
        let taken = self.ids.take(count.max(1));
        let changes = taken.bound.map(Change::IdBound).into_iter().collect();
        Ok(Decision { answer: taken.last, changes })
    }

    /// A store wants to cut `region` in `count` places: the ids of the new regions and their peers.
    pub fn ask_split(
        &mut self,
        region: Option<Region>,
        count: u32,
    ) -> Result<Decision<Vec<SplitId>>> {
        self.settings()?;
        let region = region.ok_or_else(|| invalid("no region to split"))?;
        check_region(&region)?;
        let known = self.regions.get(region.region_id()).ok_or(Error::UnknownRegion(region.id))?;
        if region.epoch().is_stale(&known.region.epoch()) {
            return Err(Error::StaleRegion(format!("{region} is older than {}", known.region)));
        }
        if count == 0 {
            return Err(invalid("a split needs at least one cut"));
        }
        let ids_each = 1 + region.peers.len() as u64;
        let Decision { answer: last, changes } = self.allocate_ids(ids_each * u64::from(count))?;
        let mut next = last + 1 - ids_each * u64::from(count);
        let mut ids = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let new_peer_ids = (next + 1..next + ids_each).collect();
            ids.push(SplitId { new_region_id: next, new_peer_ids });
            next += ids_each;
        }
        Ok(Decision { answer: ids, changes })
    }

    // ---- Stores -------------------------------------------------------------------------------------

    /// A store registers, when it starts or when something about it has changed.
    pub fn put_store(&self, store: Option<metapb::Store>, now: Moment) -> Result<Decision<()>> {
        self.settings()?;
        let store = store.ok_or_else(|| invalid("no store"))?;
        if let Some(changes) = self.succession(&store, now)? {
            return Ok(Decision { answer: (), changes });
        }
        let store = self.stores.admit(store)?;
        let known = self.stores.get(StoreId::new(store.id));
        let unchanged = known.is_some_and(|record| record.store == store);
        let changes = if unchanged { vec![] } else { vec![Change::Store(store)] };
        Ok(Decision { answer: (), changes })
    }

    /// The store with this id, also one that is gone for good.
    pub fn store(&self, id: StoreId) -> Result<&StoreRecord> {
        self.settings()?;
        self.stores.get(id).ok_or(Error::NoSuchStore(id.get()))
    }

    /// All stores, by id.
    pub fn stores(&self) -> Result<impl Iterator<Item = &StoreRecord>> {
        self.settings()?;
        Ok(self.stores.iter())
    }

    /// A store says that it is alive.
    pub fn store_heartbeat(&mut self, stats: StoreStats, now: Moment) -> Result<StoreNews> {
        self.settings()?;
        let (id, patience) = (StoreId::new(stats.store_id), self.patience());
        let before = self.stores.speaking(id)?.liveness(now, patience);
        let record = self.stores.heartbeat(stats, now)?;
        let is_up = record.liveness(now, patience) == Liveness::Up;
        let (state, has_come_up) = (record.store.node_state(), is_up && before != Liveness::Up);
        if has_come_up {
            // Regions may have waited for it.
            self.patrol.begin_anew();
        }
        self.look_whether_prepared(now);
        Ok(StoreNews { cluster_version: self.version()?, state, has_come_up })
    }

    /// The lowest version among the stores; empty if there is none.
    pub fn version(&self) -> Result<String> {
        self.settings()?;
        let version = self.stores.cluster_version();
        Ok(version.map(|version| version.to_string()).unwrap_or_default())
    }

    // ---- Regions ------------------------------------------------------------------------------------

    /// The leader of a region says how it is. What it is told in turn is [`Cluster::next_step`].
    pub fn region_heartbeat(&mut self, report: RegionHeartbeatRequest, now: Moment) -> Result<()> {
        self.settings()?;
        let region =
            report.region.as_ref().ok_or_else(|| invalid("a heartbeat without a region"))?;
        check_region(region)?;
        let leader = report.leader.ok_or_else(|| invalid("a heartbeat without a leader"))?;
        if region.peer_by_id(PeerId::new(leader.id)).map(|peer| peer.store())
            != Some(leader.store())
        {
            return Err(invalid(format!("leader {leader} is no peer of {region}")));
        }
        self.stores.speaking(leader.store())?;
        let (id, known) = (region.region_id(), self.regions.get(region.region_id()).cloned());
        self.accept(RegionRecord::reported(report, known.as_deref(), now), now)?;
        self.look_whether_prepared(now);
        let record = self.regions.get(id).expect("it was accepted").clone();
        self.operators.heard(&record, now);
        self.forget_learners(&record);
        Ok(())
    }

    /// A store has split a region into `regions`, from left to right. The one that keeps the old id keeps its leader.
    /// That of the others is thought to be on the same store until they report, because the first candidate is:
    /// clients that are told of nobody wait, and those that are told wrongly are sent on. A region of which something
    /// newer is known already is passed over: the report has been overtaken.
    pub fn report_split(&mut self, regions: Vec<Region>, now: Moment) -> Result<()> {
        self.settings()?;
        for region in &regions {
            check_region(region)?;
        }
        if regions.windows(2).any(|pair| pair[0].end_key != pair[1].start_key) {
            return Err(invalid("the regions of a split are not next to each other"));
        }
        // Looked up before any is accepted: the new ones may push the old record out.
        let known = |region: &Region| self.regions.get(region.region_id()).cloned();
        let known: Vec<_> = regions.iter().map(known).collect();
        let candidate = known.iter().flatten().find_map(|record| record.leader);
        for (region, known) in regions.into_iter().zip(known) {
            let record = match known {
                Some(known) => known.with_region(region),
                None => RegionRecord::thought_to_be_led(region, candidate.map(|peer| peer.store())),
            };
            match self.accept(record, now) {
                Ok(()) | Err(Error::StaleRegion(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What heartbeats have changed about regions since the last call, to be written together: then the
    /// rows are the tree of this moment.
    pub fn take_region_changes(&mut self) -> Vec<Change> {
        let ids = std::mem::take(&mut self.unsaved);
        let change = |id| match self.regions.get(id) {
            Some(record) => Change::Region(record.region.clone()),
            None => Change::RegionGone(id),
        };
        ids.into_iter().map(change).collect()
    }

    /// The region that contains `key`.
    pub fn region_by_key(&self, key: &[u8]) -> Result<Option<Arc<RegionRecord>>> {
        self.settings()?;
        Ok(self.regions.by_key(key).cloned())
    }

    /// The region before the one that contains `key`.
    pub fn region_before_key(&self, key: &[u8]) -> Result<Option<Arc<RegionRecord>>> {
        self.settings()?;
        Ok(self.regions.previous(key).cloned())
    }

    /// The region with this id.
    pub fn region_by_id(&self, id: RegionId) -> Result<Option<Arc<RegionRecord>>> {
        self.settings()?;
        Ok(self.regions.get(id).cloned())
    }

    /// What a store holds, as leaders have reported it.
    pub fn holdings(&self, store: StoreId) -> Result<&Tally> {
        self.settings()?;
        Ok(self.regions.on(store))
    }

    /// How many regions are known.
    pub fn region_count(&self) -> Result<usize> {
        self.settings()?;
        Ok(self.regions.len())
    }

    /// The regions of a range in the order of their keys, at most `limit`.
    pub fn scan(&self, range: KeyBounds<'_>, limit: usize) -> Result<Vec<Arc<RegionRecord>>> {
        self.settings()?;
        Ok(self.regions.scan(range, limit))
    }

    /// The regions of several ranges, which ascend and do not overlap; each region once, at most `limit`.
    /// With `whole`, a hole before the limit is an error.
    pub fn batch_scan(
        &self,
        ranges: &[KeyBounds<'_>],
        limit: usize,
        whole: bool,
    ) -> Result<Vec<Arc<RegionRecord>>> {
        self.settings()?;
        check_ranges(ranges)?;
        let mut found: Vec<Arc<RegionRecord>> = Vec::new();
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            // The first of them may be the last one of the range before.
            let again = found.last().is_some_and(|last| last.region.contains_key(range.start));
            let room = (limit - found.len()).saturating_add(usize::from(again));
            let records = self.regions.scan(*range, room);
            if whole {
                check_no_hole(*range, &records, records.len() == room)?;
            }
            found.extend(records.into_iter().skip(usize::from(again)));
            if found.len() == limit {
                break;
            }
        }
        Ok(found)
    }

    fn accept(&mut self, record: RegionRecord, now: Moment) -> Result<()> {
        let id = record.id();
        let saved = self.regions.get(id).is_some_and(|known| known.region == record.region);
        let replaced = self.regions.accept(record)?;
        if !saved {
            self.unsaved.insert(id);
        }
        for gone in &replaced {
            self.kept_learners.remove(gone);
            let reason = format!("the region is gone: {id} has its range");
            self.operators.end(*gone, Ending::Cancelled(reason), now);
        }
        self.unsaved.extend(replaced);
        Ok(())
    }

    // ---- Keyspaces ----------------------------------------------------------------------------------

    /// The keyspace called `name`.
    pub fn keyspace_by_name(&self, name: &str) -> Result<KeyspaceMeta> {
        self.settings()?;
        self.keyspaces.by_name(name)
    }

    /// The keyspace with this number.
    pub fn keyspace_by_id(&self, id: u32) -> Result<KeyspaceMeta> {
        self.settings()?;
        self.keyspaces.by_id(id)
    }

    /// At most `limit` keyspaces from number `start` on; 0 is no limit.
    pub fn keyspaces(&self, start: u32, limit: u32) -> Result<Vec<KeyspaceMeta>> {
        self.settings()?;
        Ok(self.keyspaces.list(start, limit))
    }
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::InvalidValue(reason.into())
}

/// What every region from a store must have.
fn check_region(region: &Region) -> Result<()> {
    if region.id == 0 {
        return Err(invalid("a region needs an id other than 0"));
    }
    let epoch = region.region_epoch.unwrap_or_default();
    if epoch.conf_ver == 0 || epoch.version == 0 {
        // Both begin with 1: a zero is what was never set.
        return Err(invalid(format!("region {} has no epoch: {epoch}", region.id)));
    }
    if region.bounds().is_empty() {
        return Err(invalid(format!("region {} has no keys: {}", region.id, region.bounds())));
    }
    if region.peers.is_empty() {
        return Err(invalid(format!("region {} has no peers", region.id)));
    }
    if region.peers.iter().any(|peer| peer.id == 0 || peer.store_id == 0) {
        return Err(invalid(format!("a peer without an id or a store: {region}")));
    }
    let stores: BTreeSet<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
    if stores.len() < region.peers.len() {
        return Err(invalid(format!("two peers on one store: {region}")));
    }
    Ok(())
}

fn check_ranges(ranges: &[KeyBounds<'_>]) -> Result<()> {
    let is_inverted = |range: &&KeyBounds<'_>| !range.end.is_empty() && range.end < range.start;
    if let Some(inverted) = ranges.iter().find(is_inverted) {
        return Err(invalid(format!("range {inverted} ends before it begins")));
    }
    let apart = |pair: &[KeyBounds<'_>]| !pair[0].end.is_empty() && pair[0].end <= pair[1].start;
    if !ranges.windows(2).all(apart) {
        return Err(invalid("the ranges do not ascend or overlap"));
    }
    Ok(())
}

/// Checks that `records`, the beginning of a scan of `range`, lie next to each other from its start on, and
/// to its end unless the scan was cut short.
fn check_no_hole(range: KeyBounds<'_>, records: &[Arc<RegionRecord>], cut: bool) -> Result<()> {
    let not_covered = |key: &[u8]| {
        let digits = key.iter().map(|byte| format!("{byte:02X}"));
        Err(Error::RangeNotCovered(digits.collect()))
    };
    let mut covered = range.start;
    for record in records {
        if &record.region.start_key[..] > covered {
            return not_covered(covered);
        }
        covered = &record.region.end_key;
        if covered.is_empty() {
            return Ok(());
        }
    }
    if cut || (!range.end.is_empty() && covered >= range.end) {
        return Ok(());
    }
    not_covered(covered)
}

#[cfg(test)]
mod tests;
