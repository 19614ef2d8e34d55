//! Where requests meet regions: the one seam between what users ask (the raw API,
//! transactions) and what keeps their data. Its names are those of TiKV's RaftKV; what it hands out
//! is a *view*.
//!
//! [`replicated`] implements it over raft groups; [`local`] over one engine without raft, for
//! `--standalone`. Whatever is written against this trait runs on both.
//!
//! # How a request goes through
//!
//! 1. The edge waits for a [`Permit`] of [`Storage::permits`] until the request's deadline. Only a
//!    deadline turns into `ServerIsBusy`.
//! 2. The request names a region and how the client believes it to be ([`RequestContext`]). The
//!    storage checks store, region, peer, epoch and term, in that order, then that every key to be
//!    read or written lies in the region. Each refusal is precise, so that the client knows what to
//!    look up again.
//! 3. Reads are answered from a view or, for single keys, without one. Writes are answered when
//!    they are **durable**, never before.
//!
//! # The contract
//!
//! 1. **Reads are linearizable**: they see every write that was answered before they began.
//! 2. **A batch is atomic** and lies in one region. Either all of its keys are in the region or
//!    nothing is done.
//! 3. **Exactly one answer** for every call. It says *done* (`Ok`), *certainly not done* (every
//!    error but one) or *unknown* ([`crate::Error::Unknown`]).
//! 4. **Dropping an [`Answer`]** takes nothing back: an accepted write happens. Its [`Permit`], and
//!    with it the latches that the permit keeps, stay taken until it has.
//! 5. **A write that was computed from a view** carries the view's term in its context, and is
//!    refused if leadership has changed since.
//! 6. Only starts of ranges and single keys are checked against the region. **Ends are clamped**
//!    ([`RegionView::clamp`]): clients send the end of their whole range to every region on the
//!    way.
//!
//! **Invariant.** Keys and [`KeyRange`]s here are *data keys*: as they lie in the engine, with the
//! data prefix. Boundaries of regions, and [`KeyBounds`], are without it.
//!
//! What it does not do: it knows no API version, no expiry, no timestamps, and never retries.

use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::region::KeyBounds;
use skerry_proto::types::{PeerId, RegionId, StoreId, Term, Ts};
use skerry_proto::{kvrpcpb, metapb};
use skerry_raftstore::engine::{ColumnFamily, KeyRange, View, WriteBatch};
use skerry_raftstore::extent::FlowTally;
use skerry_raftstore::keys::{self, DataSpace};

use crate::error::{Error, Result};

pub mod latches;
pub mod local;
pub mod permits;
pub mod read_pool;
pub mod regions;
pub mod replicated;
pub mod reply;

pub use latches::{Latch, Latches};
pub use local::{LocalLimits, LocalStorage};
pub use permits::{HandedOver, Permit, Permits};
pub use read_pool::ReadPool;
pub use regions::ApiVersion;
pub use replicated::ReplicatedStorage;
pub use reply::{Answer, Replies, Reply};

/// See the contract above. Shared by all threads; no call blocks on anything but the engine's own
/// reads.
pub trait Storage: Send + Sync {
    /// The room for writes. Whoever writes waits here first.
    fn permits(&self) -> &Arc<Permits>;

    /// The newest value of one key, without the cost of a view.
    fn async_get(
        &self,
        context: &RequestContext,
        family: ColumnFamily,
        key: &[u8],
    ) -> Answer<Option<Bytes>>;

    /// A consistent view of the region at a moment after the call began.
    fn async_snapshot(&self, context: &RequestContext) -> Answer<RegionView>;

    /// A view for a transaction that reads at `ts`: at the replica that is asked, if the context allows it and this
    /// storage can see to it that nothing commits at or below `ts` unseen; otherwise at the leader.
    fn async_snapshot_at(&self, context: &RequestContext, _ts: Ts) -> Answer<RegionView> {
        self.async_snapshot(&RequestContext { replica_read: false, ..*context })
    }

    /// Writes `batch`; answers when it is durable. `permit` is held until then, and told of it first
    /// ([`Permit::hand_over`]): before that the write has certainly not happened.
    fn async_write(
        &self,
        context: &RequestContext,
        batch: WriteBatch,
        permit: Permit,
    ) -> Answer<()>;

    /// The regions on this store, by start key.
    fn regions(&self) -> Vec<Arc<metapb::Region>>;
}

/// What a request says about the region it is for: the part of its `kvrpcpb.Context` that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestContext {
    /// The region that the client looked up.
    pub region_id: RegionId,
    /// How old that look-up is. Zeros, which no region has, if the request says nothing.
    pub epoch: metapb::RegionEpoch,
    /// The replica that the client believes to lead.
    pub peer_id: PeerId,
    /// The store that the client believes to speak to.
    pub store_id: StoreId,
    /// The term in which a view was taken on which the request rests. Most requests rest on none.
    pub term: Option<Term>,
    /// The number that the client wrote, which may be one that no version has.
    pub api_version: i32,
    /// Whether a read may be served by the replica that is asked, even if another one leads.
    pub replica_read: bool,
}

impl RequestContext {
    /// For somebody in this process who has just seen `region`: to its replica on `store_id`, as the client of the wire
    /// would name it who believes that it leads. What has changed since is refused.
    pub fn inside(
        region: &metapb::Region,
        store_id: StoreId,
        version: ApiVersion,
    ) -> RequestContext {
        let peer = region.peer_on_store(store_id).copied().unwrap_or_default();
        RequestContext {
            region_id: region.region_id(),
            epoch: region.epoch(),
            peer_id: peer.peer_id(),
            store_id,
            term: None,
            api_version: version.to_wire(),
            replica_read: false,
        }
    }
}

impl From<&kvrpcpb::Context> for RequestContext {
    fn from(wire: &kvrpcpb::Context) -> RequestContext {
        let peer = wire.peer.unwrap_or_default();
        RequestContext {
            region_id: RegionId::new(wire.region_id),
            epoch: wire.region_epoch.unwrap_or_default(),
            peer_id: peer.peer_id(),
            store_id: peer.store(),
            term: (wire.term != 0).then_some(Term::new(wire.term)),
            api_version: wire.api_version,
            // Old versions need no leader's word, but any replica that has it can read them, too.
            replica_read: wire.replica_read || wire.stale_read,
        }
    }
}

/// A consistent view of a region, and which region it was at that moment.
#[derive(Clone)]
pub struct RegionView {
    /// Shows the whole engine: whoever reads stays inside the region by [`RegionView::clamp`].
    pub view: Arc<dyn View>,
    /// The region when the view was taken.
    pub region: Arc<metapb::Region>,
    /// The term in which it was taken (contract, 5).
    pub term: Term,
    /// Where reads that clients ask for are counted, for the scheduler.
    pub reads: Arc<FlowTally>,
}

impl RegionView {
    /// Refuses a data key outside the region.
    pub fn check_key(&self, key: &[u8]) -> Result<()> {
        check_key(&self.region, key)
    }

    /// The part of `bounds` that lies in the region, as data keys of `space`; `None` if there is no
    /// such part.
    pub fn clamp(&self, space: DataSpace, bounds: &KeyBounds<'_>) -> Option<KeyRange> {
        clamp(&self.region, space, bounds)
    }
}

/// Refuses a data key outside `region`.
pub fn check_key(region: &Arc<metapb::Region>, key: &[u8]) -> Result<()> {
    let key = keys::region_key(key).expect("user data has the data prefix");
    if region.contains_key(key) {
        return Ok(());
    }
    Err(Error::KeyNotInRegion { key: Bytes::copy_from_slice(key), region: region.clone() })
}

/// The part of `bounds` that lies in `region`, as data keys of `space`; `None` if there is no such part.
pub fn clamp(
    region: &metapb::Region,
    space: DataSpace,
    bounds: &KeyBounds<'_>,
) -> Option<KeyRange> {
    let inside = region.bounds().clamp(bounds)?;
    let (start, end) = space.range(inside.start, inside.end);
    Some(KeyRange { start, end })
}
