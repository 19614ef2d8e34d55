//! Reads on the caller's thread: a leader whose lease is valid serves them without a hop to its worker.
//!
//! The registry maps a region to its [`ReadDelegate`], which is immutable but for a few atomics. A change of
//! region, term or role replaces the delegate; the old one is made invalid first. A read
//!
//! 1. takes the delegate,
//! 2. notes what is applied,
//! 3. takes the view,
//! 4. reads the clock,
//! 5. checks: valid, region and epoch, term, lease, and that what was applied in step 2 reaches what the leader
//!    has promised to followers.
//!
//! **Invariant.** In this order: a thread that sleeps between any two steps serves an old view only if the
//! lease was still valid after the view was taken, and then nobody else had written yet. What is applied after the
//! view was taken is not in it, so it must not count: a follower may have shown it to somebody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use skerry_proto::metapb;
use skerry_proto::types::{PeerId, RegionId, Term};

use crate::Result as EngineResult;
use crate::engine::{ColumnFamily, Engine, View};
use crate::extent::FlowTally;
use crate::keys;
use crate::message::{CommandContext, RegionView};
use crate::planted::Planted;
use crate::reply::Refusal;
use crate::time::Clock;

/// What a reading thread knows of a replica that leads.
#[derive(Debug)]
pub struct ReadDelegate {
    /// The region.
    pub region: Arc<metapb::Region>,
    /// The replica.
    pub peer: metapb::Peer,
    /// The term in which it leads.
    pub term: u64,
    /// Cleared for ever before the replica changes.
    valid: AtomicBool,
    /// End of the lease on the store's clock, in nanoseconds; 0 for none.
    lease: AtomicU64,
    /// What is applied here.
    applied: AtomicU64,
    /// What followers that serve reads may have applied, if the leader has told any to read: it must have
    /// applied that too before it serves anybody.
    read_floor: AtomicU64,
    /// What is read of the region.
    reads: Arc<FlowTally>,
    planted: Option<Planted>,
}

impl ReadDelegate {
    /// A delegate without a lease, whose reads are counted in `reads`.
    pub fn new(
        region: Arc<metapb::Region>,
        peer: metapb::Peer,
        term: u64,
        reads: Arc<FlowTally>,
        planted: Option<Planted>,
    ) -> ReadDelegate {
        ReadDelegate {
            planted,
            reads,
            region,
            peer,
            term,
            valid: AtomicBool::new(true),
            lease: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            read_floor: AtomicU64::new(0),
        }
    }

    /// Serves nobody any more.
    pub fn invalidate(&self) {
        self.valid.store(false, Ordering::SeqCst);
    }

    /// Sets the end of the lease.
    pub fn set_lease(&self, until: Duration) {
        let nanoseconds = u64::try_from(until.as_nanos()).expect("five hundred years");
        self.lease.store(nanoseconds, Ordering::SeqCst);
    }

    /// Notes what is applied.
    pub fn set_applied(&self, index: u64) {
        self.applied.store(index, Ordering::SeqCst);
    }

    /// Raises the floor.
    pub fn raise_read_floor(&self, index: u64) {
        self.read_floor.fetch_max(index, Ordering::SeqCst);
    }

    /// The floor, for the next delegate of the same leader.
    pub fn read_floor(&self) -> u64 {
        self.read_floor.load(Ordering::SeqCst)
    }

    /// What is applied here. To be read before a view is taken: the view shows at least that.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }

    /// Whether a view may be served that was taken before `now`, and when `applied` was applied already.
    pub fn holds(&self, now: Duration, applied: u64) -> bool {
        let mut lease = Duration::from_nanos(self.lease.load(Ordering::SeqCst));
        let mut promised = self.read_floor.load(Ordering::SeqCst);
        if self.planted == Some(Planted::StaleLease) && !lease.is_zero() {
            lease += Duration::from_secs(10);
        }
        if self.planted == Some(Planted::ReadFloorIgnored) {
            promised = 0;
        }
        self.valid.load(Ordering::SeqCst) && now < lease && applied >= promised
    }
}

/// Delegates of all regions that are led from this store.
#[derive(Debug, Default)]
pub struct Registry {
    delegates: DashMap<RegionId, Arc<ReadDelegate>>,
}

impl Registry {
    /// The delegate of a region.
    pub fn get(&self, region_id: RegionId) -> Option<Arc<ReadDelegate>> {
        self.delegates.get(&region_id).map(|delegate| delegate.clone())
    }

    /// Puts a delegate in the place of the one before it.
    pub fn set(&self, delegate: Arc<ReadDelegate>) {
        let former = self.delegates.insert(delegate.region.region_id(), delegate);
        former.into_iter().for_each(|former| former.invalidate());
    }

    /// Takes the delegate away, if there is one.
    pub fn remove(&self, region_id: RegionId) {
        if let Some((_, former)) = self.delegates.remove(&region_id) {
            former.invalidate();
        }
    }

    /// Lets a region's delegate serve nobody any more, before its range changes.
    pub fn invalidate(&self, region_id: RegionId) {
        self.get(region_id).into_iter().for_each(|delegate| delegate.invalidate());
    }
}

/// Serves reads on whatever thread calls it.
#[derive(Clone)]
pub struct LocalReader {
    registry: Arc<Registry>,
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
}

impl LocalReader {
    /// A reader of this store.
    pub fn new(
        registry: Arc<Registry>,
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
    ) -> LocalReader {
        LocalReader { registry, engine, clock }
    }

    /// A view, if this store leads the region and its lease is valid. `None`: go to the raft worker.
    pub fn read(
        &self,
        context: &CommandContext,
    ) -> Option<std::result::Result<RegionView, Refusal>> {
        let delegate = self.registry.get(context.region_id)?;
        let applied = delegate.applied();
        let view: Arc<dyn View> = self.engine.view();
        if !delegate.holds(self.clock.monotonic(), applied) {
            return None;
        }
        Some(check(&delegate, context).map(|()| RegionView {
            view,
            region: delegate.region.clone(),
            term: Term::new(delegate.term),
            reads: delegate.reads.clone(),
        }))
    }

    /// The newest value of one data key, without the cost of a view. `None`: go to the raft worker. What was read is
    /// given out only if the lease held *after* it was read.
    pub fn get(
        &self,
        context: &CommandContext,
        family: ColumnFamily,
        data_key: &[u8],
    ) -> Option<std::result::Result<EngineResult<Option<Bytes>>, Refusal>> {
        let delegate = self.registry.get(context.region_id)?;
        if let Err(refusal) =
            check(&delegate, context).and_then(|()| holds_key(&delegate, data_key))
        {
            return delegate
                .holds(self.clock.monotonic(), delegate.applied())
                .then_some(Err(refusal));
        }
        let applied = delegate.applied();
        let value = self.engine.get(family, data_key);
        if !delegate.holds(self.clock.monotonic(), applied) {
            return None;
        }
        let length = value.as_ref().ok().and_then(Option::as_ref).map_or(0, Bytes::len);
        delegate.reads.count(1, (data_key.len() + length) as u64);
        Some(Ok(value))
    }
}

fn holds_key(delegate: &ReadDelegate, data_key: &[u8]) -> std::result::Result<(), Refusal> {
    let key = keys::region_key(data_key).expect("user data has a data prefix");
    match delegate.region.contains_key(key) {
        true => Ok(()),
        false => Err(Refusal::KeyNotInRegion {
            key: Bytes::copy_from_slice(key),
            region: delegate.region.clone(),
        }),
    }
}

fn check(delegate: &ReadDelegate, context: &CommandContext) -> std::result::Result<(), Refusal> {
    let (asked, present) = (context.peer_id, delegate.peer.peer_id());
    if asked != PeerId::default() && asked != present {
        return Err(Refusal::PeerMismatch { asked, present });
    }
    if context.epoch.version != delegate.region.epoch().version {
        return Err(Refusal::EpochNotMatch(vec![delegate.region.clone()]));
    }
    match context.term {
        Some(term) if term.get() != delegate.term => Err(Refusal::StaleCommand),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_after_a_view_was_taken_does_not_make_it_newer() {
        let region = Arc::new(metapb::Region { id: 1, ..metapb::Region::default() });
        let delegate = ReadDelegate::new(region, metapb::Peer::default(), 6, Arc::default(), None);
        let now = Duration::from_secs(1);
        delegate.set_lease(2 * now);
        delegate.set_applied(7);
        // A follower is told to read at 8, which is committed and not applied here.
        delegate.raise_read_floor(8);
        let applied = delegate.applied();
        // The view would be taken here; then 8 is applied, before the check.
        delegate.set_applied(8);
        assert!(!delegate.holds(now, applied), "the view lacks what the follower may have shown");
        assert!(delegate.holds(now, delegate.applied()));
        delegate.invalidate();
        assert!(!delegate.holds(now, delegate.applied()));
    }
}
