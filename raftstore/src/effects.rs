//! What an actor wants done: values, nothing of it done yet. Whoever turns the actor (threads or a simulator)
//! carries them to the queues, the network and the disk.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::PeerId;

use crate::extent::Extent;
use crate::message::{
    Applied, ApplyMessage, BackgroundTask, LogTask, Persisted, StoreMessage, WorkerMessage,
};

/// The wishes of one turn, in the order they arose.
#[derive(Debug, Default)]
pub struct Effects {
    /// To other stores.
    pub send: Vec<RaftMessage>,
    /// To the log writer.
    pub log: Vec<LogTask>,
    /// To apply workers.
    pub apply: Vec<ApplyMessage>,
    /// To the store actor.
    pub store: Vec<StoreMessage>,
    /// To raft workers, each to the one that owns the region.
    pub workers: Vec<WorkerMessage>,
    /// From the log writer to raft workers.
    pub persisted: Vec<Persisted>,
    /// From apply workers to raft workers.
    pub applied: Vec<Applied>,
    /// To the background.
    pub background: Vec<BackgroundTask>,
    /// To the scheduler.
    pub reports: Vec<RegionReport>,
    /// To the scheduler: regions that want to be cut, for which it gives ids.
    pub split_asks: Vec<SplitAsk>,
}

/// A region that wants to be cut.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitAsk {
    /// The region.
    pub region: Arc<metapb::Region>,
    /// Its leader, who asks.
    pub peer: metapb::Peer,
    /// Where.
    pub keys: Vec<bytes::Bytes>,
}

/// What the leader of a region tells the scheduler.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionReport {
    /// The region.
    pub region: metapb::Region,
    /// Its leader.
    pub leader: metapb::Peer,
    /// The leader's term.
    pub term: u64,
    /// Replicas that need a snapshot before they count.
    pub pending: Vec<PeerId>,
    /// Replicas that have been silent, and for how many ticks.
    pub down: Vec<(PeerId, u64)>,
    /// Its data, roughly.
    pub size: Extent,
    /// What was written to it since its last report.
    pub written: Extent,
    /// What was read of it at its leader since then.
    pub read: Extent,
    /// From when to when these were counted, by the clock that never goes back.
    pub interval: Range<Duration>,
}
