//! What a store needs of the world around it, as traits: the network, the scheduler, and whoever keeps transactions
//! apart. The binary brings gRPC, tests and embedders what they like.
//!
//! **Invariant.** No call waits: a store's actors make them between two messages. What cannot be sent is
//! dropped, and the store is told so that raft sends less.

use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RaftMessage;

use crate::effects::{RegionReport, SplitAsk};

/// Brings messages to other stores.
pub trait Transport: Send + Sync {
    /// Sends these, in order for each region. A snapshot's files go along with its message.
    fn send(&self, messages: Vec<RaftMessage>);
}

/// Tells the scheduler.
pub trait SchedulerClient: Send + Sync {
    /// The leader of a region reports.
    fn report(&self, reports: Vec<RegionReport>);

    /// Regions want to be cut: ids are needed, and the cut comes back as a command.
    fn ask_splits(&self, asks: Vec<SplitAsk>);
}

/// Knows at which timestamps the transactions of this store may still commit.
pub trait ReadGuard: Send + Sync {
    /// Another replica of a region that is led from here is about to read at a timestamp. From now on nothing commits
    /// in it at or below that which is not in the log yet. False if something is just on its way there: then ask again
    /// when more is applied.
    fn prepare(&self, region: &metapb::Region, timestamp: u64) -> bool;
}
