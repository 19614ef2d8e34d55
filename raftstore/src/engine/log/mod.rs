//! The raft log: entries and raft state of many regions, in one engine with one write for all of them.
//!
//! [`raft_engine`] is the default, [`rocks`] the alternative (`[raft-engine] enable = false`), [`memory`]
//! the one that simulations crash. All three run the same golden scripts, and a mirror test runs two side
//! by side.
//!
//! # The contract
//!
//! 1. **A batch is atomic** over all its regions, and its parts take effect in the order they were added.
//! 2. **Append** puts entries with consecutive indexes at the end of a region's log; if the first of them
//!    has an index that is already there, everything from that index on is cut first (a new leader's
//!    entries win). **Invariant.** A log has no gap: the first appended index is at most last + 1, unless
//!    the log is empty. Breaking this panics: it means that raft was misunderstood above.
//! 3. **Compact to** `index` forgets every entry below it. Reading below is answered *compacted*.
//! 4. **Clean** forgets a region whole, entries and state. Later parts of the same batch may begin it anew.
//! 5. **Durability** is that of the data engine: [`Durability::Synced`] covers this batch and everything
//!    before it, and what power loss takes is a suffix of the batches.
//!
//! What it does not do: it does not know terms, votes or which entries are committed.

use raft::eraftpb::Entry;
use skerry_proto::raft_serverpb::RaftLocalState;

use super::Durability;
use crate::{Error, Result};

pub mod memory;
mod outlook;
pub mod raft_engine;
pub mod rocks;
#[cfg(test)]
mod tests;

/// One part of a [`LogBatch`]. Regions are plain numbers here, as on disk.
#[derive(Clone, Debug, PartialEq)]
pub enum LogOperation {
    /// Adds entries (contract, 2).
    Append(u64, Vec<Entry>),
    /// Replaces the raft state.
    State(u64, RaftLocalState),
    /// Forgets entries below the index (contract, 3).
    CompactTo(u64, u64),
    /// Forgets the region (contract, 4).
    Clean(u64),
}

/// Changes to the logs of many regions that become durable together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogBatch {
    operations: Vec<LogOperation>,
}

impl LogBatch {
    /// A batch without changes.
    pub fn new() -> LogBatch {
        LogBatch::default()
    }

    /// Adds one change behind the others.
    pub fn push(&mut self, operation: LogOperation) {
        self.operations.push(operation);
    }

    /// The changes, in order.
    pub fn operations(&self) -> &[LogOperation] {
        &self.operations
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

/// What the log holds of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Index of the oldest entry.
    pub first: u64,
    /// Index of the newest entry.
    pub last: u64,
}

/// The log engine. See the contract above; shared by all threads, written by one.
pub trait LogEngine: Send + Sync {
    /// Applies `batch` atomically; answers how many bytes went to the log, for the write amplification that
    /// `/metrics` shows.
    fn write(&self, batch: LogBatch, durability: Durability) -> Result<u64>;

    /// The raft state of a region, if it has one.
    fn state(&self, region: u64) -> Result<Option<RaftLocalState>>;

    /// The oldest and newest entry of a region, if there is any.
    fn bounds(&self, region: u64) -> Result<Option<LogBounds>>;

    /// The entry at `index`, or nothing when it was compacted or never there.
    fn entry(&self, region: u64, index: u64) -> Result<Option<Entry>>;

    /// Entries from `low` up to but without `high`, as many as fit in `bytes_max` but at least one. The range
    /// must lie inside the bounds: anything else is *damaged* or a misuse, and an error.
    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: usize) -> Result<Vec<Entry>>;

    /// Every region with entries or state, ascending.
    fn regions(&self) -> Result<Vec<u64>>;

    /// Frees files of forgotten entries. Slow: for the background pool. Answers the regions whose old entries
    /// keep files alive, for the caller to compact.
    fn purge(&self) -> Result<Vec<u64>>;
}

/// The error of [`LogEngine::entries`] for a range that is not there whole. Either the caller asks for
/// what was compacted, or entries that were acknowledged are gone.
fn outside(region: u64, low: u64, high: u64, bounds: Option<LogBounds>) -> Error {
    let present = match bounds {
        Some(LogBounds { first, last }) => format!("{first}..={last}"),
        None => "none".to_string(),
    };
    Error::Damaged {
        what: format!("the raft log of region {region}"),
        reason: format!("entries {low}..{high} are needed and {present} are there"),
    }
}
