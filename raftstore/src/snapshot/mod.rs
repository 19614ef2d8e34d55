//! The files of raft snapshots: all data of one region at one index of its log, in table files that any
//! store with the same engine can load. What raft says and stores beside them is not known here.
//!
//! The life of a snapshot:
//!
//! 1. [`build`] writes one table for each part of the region that holds something, from a view, and last a file that
//!    lists them with sizes and checksums ([`format`]). An unfinished or damaged one is built again, a complete
//!    one is used again.
//! 2. [`Outgoing`] cuts the files into chunks, [`Incoming`] puts them together on another store and
//!    checks them. Only then does raft hear of the snapshot. [`copy`] does both within one process.
//! 3. [`install`] checks once more, clears the parts that have no table, and loads one family after the other. Every
//!    table begins with the removal of its own range, so that clearing and loading are one step of the engine.
//! 4. [`Manager`] knows which region is doing which of this, says "not now" when too many are, and
//!    collects files that nobody needs. [`RateLimit`] tells how long to wait for the disk's or the
//!    network's sake.
//!
//! ```text
//!   sender                                              receiver
//!   view -> gen_7_6_120_default.sst ... .meta -> chunks -> rev_7_6_120_default.sst ... .meta -> engine
//!           (generating)                 (sending)  (receiving)                     (applying)
//! ```
//!
//! **Invariants.**
//! * A snapshot is complete when its `.meta` file is there, which is written last; it is good when all sizes
//!   and checksums agree. Files are trusted only after that check, on each side, at each start.
//! * The ranges that the tables of a family remove do not overlap, and together with those that have no table they are
//!   exactly the region's data in that family. Installing again after a crash at any moment gives the same result.
//! * Two snapshots with one [`SnapshotId`] hold the same data, though not the same bytes.
//!
//! What this does not do: it decides neither when a snapshot is needed nor whether it may be accepted; it starts
//! no thread, reads no clock but the one that a rate limit is given, and knows no network. The directory exists;
//! [`Manager::open`] makes it.

use std::fmt;

pub use self::build::build;
pub use self::format::VERSION;
pub use self::install::install;
pub use self::manager::{Activity, Busy, Counts, Limits, Manager, Registration};
pub use self::message::{carry, is_snapshot, of_message};
pub use self::rate::{RateLimit, RateLimits};
pub use self::transfer::{CHUNK_BYTES_MAX, Incoming, Outgoing, copy};

mod build;
mod disk;
pub mod format;
mod install;
mod manager;
mod message;
mod rate;
#[cfg(test)]
mod tests;
mod transfer;

/// A region's data at one place of its log: after the entry `index`, which is of `term`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId {
    /// The region.
    pub region_id: u64,
    /// The term of the last entry whose effect is in the snapshot.
    pub term: u64,
    /// The index of that entry.
    pub index: u64,
}

/// As in file names: `7_6_120`.
impl fmt::Display for SnapshotId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}_{}_{}", self.region_id, self.term, self.index)
    }
}

/// Which end of a transfer a file belongs to. A store may have the same snapshot as both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Built here, `gen_...`.
    Sender,
    /// Received here, `rev_...`.
    Receiver,
}

impl Side {
    /// How the names of its files begin.
    const fn prefix(self) -> &'static str {
        match self {
            Side::Sender => "gen",
            Side::Receiver => "rev",
        }
    }
}
