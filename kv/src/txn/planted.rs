//! Bugs of transactions that a test plants, to show that the simulator would find them.
//!
//! Each sits where it would really be made. A store's executor is given at most one
//! ([`TxnStore::with_planted`](super::TxnStore::with_planted)), and never one outside of tests: there the question is
//! one comparison. `docs/testing.md` has the table of what caught which.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// A rollback takes the lock away and leaves no record.
    RollbackForgotten,
    /// A rollback on which an answer rests may be taken away by a later one.
    RollbackUnprotected,
    /// Reads do not raise `max_ts`.
    MaxTsNotRaised,
    /// Shortcut commits choose the timestamp of the newest read, instead of one above it.
    CommitAtRead,
    /// Timestamps that the scheduler has not given are read at.
    HorizonForgotten,
    /// Shortcut commits are decided without knowing what former leaders have read.
    MaxTsNotFresh,
    /// A one-phase commit passes over the locks of others.
    OnePhaseIgnoresLock,
    /// Latches are given back when a command has decided, before its write is in.
    LatchReleasedEarly,
    /// A write does not carry the term of the view that it was computed from.
    StaleTerm,
    /// Of all who stand in the line of a key only the first is an edge of the graph.
    DeadlockEdgeForgotten,
    /// The detector of the cluster keeps a wait as it was told first: that the lock has changed hands is forgotten.
    DetectorEdgeForgotten,
    /// Who ends old locks takes each transaction for dead, and does not ask at its primary key.
    ResolveUnasked,
    /// Versions are dropped up to the newest read instead of the safe point.
    CollectAboveSafePoint,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 13] = [
        Planted::RollbackForgotten,
        Planted::RollbackUnprotected,
        Planted::MaxTsNotRaised,
        Planted::CommitAtRead,
        Planted::HorizonForgotten,
        Planted::MaxTsNotFresh,
        Planted::OnePhaseIgnoresLock,
        Planted::LatchReleasedEarly,
        Planted::StaleTerm,
        Planted::DeadlockEdgeForgotten,
        Planted::DetectorEdgeForgotten,
        Planted::ResolveUnasked,
        Planted::CollectAboveSafePoint,
    ];
}
