//! Bugs that a test plants, to show that the simulator would find them.
//!
//! Each sits where it would really be made. A store is opened with at most one
//! ([`StoreParts::planted`](crate::store::StoreParts)), and never with one outside of tests: there the question is
//! one comparison. `docs/testing.md` has the table of what caught which.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// The log writer writes and does not sync.
    SkipFsync,
    /// Votes and acknowledgements leave before what they promise is durable.
    AcknowledgeBeforePersist,
    /// A vote is not written at all.
    VoteNotPersisted,
    /// Writes are applied although the region has changed since they were proposed.
    IgnoreEpochAtApply,
    /// A leader believes in its lease for long after it has ended.
    StaleLease,
    /// Rounds of reads have the same context again and again.
    ReusedReadContext,
    /// The first entry of a task is applied once more behind the last.
    ApplyTwice,
    /// The log is cut before the data engine is synced.
    TruncatePastDurable,
    /// A snapshot is accepted although another region lies in its range.
    SnapshotOverRegion,
    /// Nothing is left of a destroyed replica, not even its tombstone.
    TombstoneForgotten,
    /// A change of peers is counted twice when other entries come with it.
    ConfChangeTwice,
    /// A replica that was split off does not know for whom its predecessor has voted.
    ChildForgetsVote,
    /// Who loses leadership says that what was proposed will not happen.
    AnswersAtStepDown,
    /// The joint configuration is entered and left by the same entry.
    JointLeftEarly,
    /// Ticks that could not be taken in time are made up.
    TicksMadeUp,
    /// A replica votes right after a restart.
    VoteAfterRestart,
    /// A leader reads although it has told a follower of an index that it has not applied.
    ReadFloorIgnored,
    /// What arrives of a snapshot is compared with its list neither by size nor by checksum.
    SnapshotUnchecked,
    /// A replica that wakes believes that it has waited long enough for its leader.
    WokenImpatient,
    /// Nobody notices that a store has fallen silent.
    SilenceOverheard,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 20] = [
        Planted::SkipFsync,
        Planted::AcknowledgeBeforePersist,
        Planted::VoteNotPersisted,
        Planted::IgnoreEpochAtApply,
        Planted::StaleLease,
        Planted::ReusedReadContext,
        Planted::ApplyTwice,
        Planted::TruncatePastDurable,
        Planted::SnapshotOverRegion,
        Planted::TombstoneForgotten,
        Planted::ConfChangeTwice,
        Planted::ChildForgetsVote,
        Planted::AnswersAtStepDown,
        Planted::JointLeftEarly,
        Planted::TicksMadeUp,
        Planted::VoteAfterRestart,
        Planted::ReadFloorIgnored,
        Planted::SnapshotUnchecked,
        Planted::WokenImpatient,
        Planted::SilenceOverheard,
    ];
}
