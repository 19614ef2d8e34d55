//! Which stores may take a replica or a leader, and why others may not. Used by all checkers and balancers, so that
//! they agree, and so that what does not happen can be explained.
//!
//! The checks run from what no time heals to what a moment heals, and the first that fails is named. Whether a store
//! that may take something is also the best is for the caller to say, by scores.

use std::fmt;

use skerry_proto::metapb::Peer;
use skerry_proto::types::StoreId;

use crate::location::broken_isolation;
use crate::operator::limits::Way;
use crate::picture::Picture;
use crate::region_tree::RegionRecord;
use crate::stores::{Liveness, StoreRecord};

/// A disk is nearly full if less than this part of it is free, and less than [`FREE_BYTES_MIN`]: a part alone
/// would keep large disks from being used, a size alone small ones.
const FREE_PART_MIN: u64 = 20;

/// See [`FREE_PART_MIN`]. Dozens of regions of usual size.
const FREE_BYTES_MIN: u64 = 8 << 30;

/// Why a store is not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is unknown or a tombstone.
    Gone,
    /// It is being emptied.
    Offline,
    /// It has been silent for long.
    Down,
    /// It has been silent for a while.
    Disconnected,
    /// It says that it has more to do than it can.
    Busy,
    /// Its disk has no room.
    Full,
    /// It has a replica of the region.
    HasReplica,
    /// It would share its place with another replica, against the isolation level.
    Isolation(String),
    /// It has many replicas without data.
    Pending(u64),
    /// It sends or takes many snapshots.
    Snapshots(u64),
    /// As many replicas have come, or gone, as may in a minute.
    Limit(Way, u32),
    /// It shall lead nothing.
    EvictsLeaders,
    /// Its replica has no vote.
    NoVote,
    /// Its replica needs a snapshot or is silent.
    Unwell,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Gone => formatter.write_str("is not part of the cluster"),
            Reason::Offline => formatter.write_str("is being emptied"),
            Reason::Down => formatter.write_str("is down"),
            Reason::Disconnected => formatter.write_str("is disconnected"),
            Reason::Busy => formatter.write_str("is busy"),
            Reason::Full => formatter.write_str("has a disk that is nearly full"),
            Reason::HasReplica => formatter.write_str("has a replica already"),
            Reason::Isolation(place) => write!(formatter, "is in {place}"),
            Reason::Pending(count) => write!(formatter, "waits for the data of {count} replicas"),
            Reason::Snapshots(count) => write!(formatter, "is at {count} snapshots"),
            Reason::Limit(Way::Add, rate) => {
                write!(formatter, "takes no more than {rate} replicas a minute")
            }
            Reason::Limit(Way::Remove, rate) => {
                write!(formatter, "gives no more than {rate} replicas a minute")
            }
            Reason::EvictsLeaders => formatter.write_str("shall lead nothing"),
            Reason::NoVote => formatter.write_str("has a replica without a vote"),
            Reason::Unwell => formatter.write_str("has a replica that lags or is silent"),
        }
    }
}

/// A store that was not chosen, and why: `s4 is down`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The store.
    pub store: StoreId,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.store, self.reason)
    }
}

/// Whether `store` may take a new replica of a region, beside its replicas but the one that `leaves`.
pub fn replica_target(
    picture: &Picture<'_>,
    record: &RegionRecord,
    store: &StoreRecord,
    leaves: Option<StoreId>,
) -> Result<(), Reason> {
    replica_place(picture, record, store, leaves)?;
    if store.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.stats.is_busy) {
        return Err(Reason::Busy);
    }
    takes_data(picture, store)?;
    within_limit(picture, store.id(), Way::Add, record)
}

/// The same, whatever the store has to do at this moment.
pub fn replica_place(
    picture: &Picture<'_>,
    record: &RegionRecord,
    store: &StoreRecord,
    leaves: Option<StoreId>,
) -> Result<(), Reason> {
    stays(picture, store.id())?;
    let disk = store.heartbeat.as_ref().map(|heartbeat| &heartbeat.stats);
    if disk.is_some_and(|disk| is_nearly_full(disk.capacity, disk.available)) {
        return Err(Reason::Full);
    }
    if record.region.peer_on_store(store.id()).is_some() {
        return Err(Reason::HasReplica);
    }
    let company = picture.company(record, leaves);
    match broken_isolation(store, &company, picture.settings) {
        Some(place) => Err(Reason::Isolation(place)),
        None => Ok(()),
    }
}

/// Whether the leader of a region may feed a new replica.
pub fn replica_feeder(picture: &Picture<'_>, store: StoreId) -> Result<(), Reason> {
    let sending = picture.stores.get(store).and_then(|record| record.heartbeat.as_ref());
    let sending = sending.map_or(0, |heartbeat| u64::from(heartbeat.stats.sending_snap_count));
    let count = sending.max(counted(picture.operators.effect_on(store).feeding));
    if count >= u64::from(picture.settings.max_snapshot_count) {
        return Err(Reason::Snapshots(count));
    }
    Ok(())
}

/// Whether a replica may be taken from a store for comfort.
pub fn replica_source(
    picture: &Picture<'_>,
    record: &RegionRecord,
    store: StoreId,
) -> Result<(), Reason> {
    within_limit(picture, store, Way::Remove, record)
}

/// Whether the replica `peer` may lead its region.
pub fn leader_target(
    picture: &Picture<'_>,
    record: &RegionRecord,
    peer: &Peer,
) -> Result<(), Reason> {
    let store = peer.store();
    match picture.liveness(store) {
        // It serves what it has as well as any.
        Liveness::Up | Liveness::Offline => {}
        _ => stays(picture, store)?,
    }
    if picture.no_leaders.contains(&store) {
        return Err(Reason::EvictsLeaders);
    }
    if peer.is_learner() {
        return Err(Reason::NoVote);
    }
    if !record.is_well(peer) {
        return Err(Reason::Unwell);
    }
    let heartbeat = picture.stores.get(store).and_then(|record| record.heartbeat.as_ref());
    if heartbeat.is_some_and(|heartbeat| heartbeat.stats.is_busy || heartbeat.stats.is_stopping) {
        return Err(Reason::Busy);
    }
    Ok(())
}

/// Whether a store speaks and is to stay.
fn stays(picture: &Picture<'_>, store: StoreId) -> Result<(), Reason> {
    match picture.liveness(store) {
        Liveness::Up => Ok(()),
        Liveness::Disconnected => Err(Reason::Disconnected),
        Liveness::Down => Err(Reason::Down),
        Liveness::Offline => Err(Reason::Offline),
        Liveness::Tombstone => Err(Reason::Gone),
    }
}

/// Whether a store has no more to take in than it should.
fn takes_data(picture: &Picture<'_>, store: &StoreRecord) -> Result<(), Reason> {
    let arriving = counted(picture.operators.effect_on(store.id()).arriving);
    let told = u64::try_from(picture.regions.on(store.id()).pending.len()).unwrap_or(u64::MAX);
    let pending = arriving.max(told);
    if pending >= u64::from(picture.settings.max_pending_peer_count) {
        return Err(Reason::Pending(pending));
    }
    let stats = store.heartbeat.as_ref().map(|heartbeat| &heartbeat.stats);
    let snapshots =
        stats.map_or(0, |stats| u64::from(stats.receiving_snap_count + stats.applying_snap_count));
    let snapshots = snapshots.max(arriving);
    if snapshots >= u64::from(picture.settings.max_snapshot_count) {
        return Err(Reason::Snapshots(snapshots));
    }
    Ok(())
}

fn within_limit(
    picture: &Picture<'_>,
    store: StoreId,
    way: Way,
    record: &RegionRecord,
) -> Result<(), Reason> {
    let rate = picture.rate(store, way);
    match picture.limits.allows(store, way, record.weight(), rate, picture.now) {
        true => Ok(()),
        false => Err(Reason::Limit(way, rate)),
    }
}

fn counted(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// Whether a store with so many bytes on its disk and so many free ones is given no more replicas.
pub fn is_nearly_full(capacity: u64, available: u64) -> bool {
    available < capacity / FREE_PART_MIN && available < FREE_BYTES_MIN
}
