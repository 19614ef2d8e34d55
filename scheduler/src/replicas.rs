//! Which replicas a region should have: a pure rule that looks at one region, as its leader has reported it, and
//! names the one step that is due. Used by the cluster, which numbers new replicas and words the instruction.
//!
//! The steps, the first that fits:
//!
//! 1. A region between two configurations leaves it: nothing else can be done before.
//! 2. More voters than wanted: one goes, but never the leader. A voter that does not work goes first, else
//!    the one on the store with the most replicas. So a removal never costs a majority that there was.
//! 3. A learner that has the data and whose store is up gets a vote.
//! 4. A learner whose store is down, or leaves, goes: it would be waited for without end.
//! 5. Fewer replicas than wanted, and no learner under way: a learner on the store with the fewest replicas
//!    among those that are up, have room and have none of this region.
//!
//! One learner at a time, and a vote only for one that has the data: otherwise a region of one replica would have
//! to wait, for every write, for a replica that is still empty.
//!
//! **Invariant.** Step 5 waits until most stores have spoken in this life of the scheduler. The others may only be
//! slower to find it: it would give the first store that speaks a replica of everything.
//!
//! What it does not do: it replaces no voter whose store is down, moves nothing for balance, limits no number of
//! learners a store gets at once, and gives up no learner whose store is up, however long it takes.

use skerry_proto::metapb::Peer;
use skerry_proto::types::StoreId;
use skerry_raftstore::region::is_joint;

use crate::moment::Moment;
use crate::region_tree::RegionRecord;
use crate::stores::{Liveness, Patience, StoreRecord, Stores};

/// A disk is nearly full if less than this part of it is free, and less than [`FREE_BYTES_MIN`]: a part alone
/// would keep large disks from being used, a size alone small ones.
const FREE_PART_MIN: u64 = 20;

/// See [`FREE_PART_MIN`]. Dozens of regions of usual size.
const FREE_BYTES_MIN: u64 = 8 << 30;

/// What is to be done about the replicas of a region.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Leave the joint configuration.
    LeaveJoint,
    /// Take this replica away.
    Remove(Peer),
    /// Give this learner a vote.
    Promote(Peer),
    /// Begin a replica on this store, without a vote.
    AddLearner(StoreId),
}

/// What the rule sees besides the region.
pub struct Picture<'a> {
    /// All stores.
    pub stores: &'a Stores,
    /// How many replicas there are, or are about to be, on a store.
    pub load: &'a dyn Fn(StoreId) -> usize,
    /// Replicas that a region should have.
    pub replicas_max: usize,
    /// When a silent store counts as disconnected or down.
    pub patience: Patience,
    /// The time.
    pub now: Moment,
}

/// The step that is due for a region, if any. A learner that was `promised` to a store stays promised to it as
/// long as that store may take it.
pub fn next_step(
    record: &RegionRecord,
    picture: &Picture<'_>,
    promised: Option<StoreId>,
) -> Option<Step> {
    if is_joint(&record.region) {
        return Some(Step::LeaveJoint);
    }
    let (learners, voters): (Vec<Peer>, Vec<Peer>) =
        record.region.peers.iter().partition(|peer| peer.is_learner());
    if voters.len() > picture.replicas_max {
        return picture.least_useful(record, &voters).map(Step::Remove);
    }
    let is_ready = |peer: &&Peer| is_well(record, peer) && picture.is_up(peer.store());
    if let Some(ready) = learners.iter().find(is_ready) {
        return Some(Step::Promote(*ready));
    }
    if let Some(hopeless) = learners.iter().find(|peer| picture.is_lost(peer.store())) {
        return Some(Step::Remove(*hopeless));
    }
    if voters.len() < picture.replicas_max && learners.is_empty() {
        return picture.room_for(record, promised).map(Step::AddLearner);
    }
    None
}

impl Picture<'_> {
    fn liveness(&self, id: StoreId) -> Liveness {
        let record = self.stores.get(id);
        record.map_or(Liveness::Tombstone, |record| record.liveness(self.now, self.patience))
    }

    fn is_up(&self, id: StoreId) -> bool {
        self.liveness(id) == Liveness::Up
    }

    /// Whether nothing more is to be expected of a store.
    fn is_lost(&self, id: StoreId) -> bool {
        matches!(self.liveness(id), Liveness::Down | Liveness::Offline | Liveness::Tombstone)
    }

    /// The voter that will be missed least; of equal ones the newest.
    fn least_useful(&self, record: &RegionRecord, voters: &[Peer]) -> Option<Peer> {
        let leader = record.leader.map(|leader| leader.id);
        let rank = |peer: &&Peer| {
            let store = peer.store();
            (self.is_lost(store), !is_well(record, peer), (self.load)(store), peer.id)
        };
        voters.iter().filter(|peer| Some(peer.id) != leader).max_by_key(rank).copied()
    }

    /// The store that a new replica is begun on.
    fn room_for(&self, record: &RegionRecord, promised: Option<StoreId>) -> Option<StoreId> {
        if !self.stores.most_have_spoken() {
            return None;
        }
        let fits = |store: &&StoreRecord| {
            store.liveness(self.now, self.patience) == Liveness::Up
                && record.region.peer_on_store(store.id()).is_none()
                && !is_nearly_full(store)
        };
        let fitting = self.stores.iter().filter(fits).map(StoreRecord::id);
        fitting.min_by_key(|id| (Some(*id) != promised, (self.load)(*id), *id))
    }
}

/// Whether a replica follows, and needs no snapshot first, by what its leader says.
fn is_well(record: &RegionRecord, peer: &Peer) -> bool {
    let is_silent =
        record.down_peers.iter().any(|down| down.peer.is_some_and(|it| it.id == peer.id));
    !is_silent && !record.pending_peers.iter().any(|pending| pending.id == peer.id)
}

fn is_nearly_full(store: &StoreRecord) -> bool {
    store.heartbeat.as_ref().is_some_and(|heartbeat| {
        let (capacity, available) = (heartbeat.stats.capacity, heartbeat.stats.available);
        available < capacity / FREE_PART_MIN && available < FREE_BYTES_MIN
    })
}

#[cfg(test)]
mod tests;
