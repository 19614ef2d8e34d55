//! Bugs that a test plants, to show that the simulator would find them.
//!
//! Each sits where it would really be made. [`Cluster::plant`](crate::cluster::Cluster::plant) and
//! [`Oracle::plant`](crate::tso::Oracle::plant) plant one, and nobody but tests calls them: otherwise the
//! question is one comparison. `docs/testing.md` has the table of what caught which.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// A report is believed although something newer is known of the region.
    StaleHeartbeat,
    /// A report that repeats what is known is believed although its leader's term is over.
    OldTermBelieved,
    /// A step that adds a replica counts as done before the replica has the data, and its vote is not held back.
    PromoteBeforeData,
    /// A learner that nobody has heard of gets a vote because the region lacks one.
    LearnerPromotedUnseen,
    /// A replica on a dead store is removed and not replaced.
    DeadReplicaDropped,
    /// Of one voter too many, two are removed.
    TwoRemovals,
    /// An operator goes on although somebody else has changed the peers.
    ForeignChangeIgnored,
    /// An operator that was cancelled goes on.
    CancelledGoesOn,
    /// An operator whose steps are all done never ends.
    DoneStays,
    /// A joint configuration that nobody is at is not left.
    JointNeverLeft,
    /// Stores are compared right after a restart.
    BalanceUnprepared,
    /// A store that is being emptied is buried at once.
    BuriedEarly,
    /// The bound of ids is not saved.
    IdBoundNotSaved,
    /// Timestamps are given beyond the saved limit.
    BeyondWindow,
    /// The saved limit of timestamps is not taken up after a restart.
    WindowForgotten,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 15] = [
        Planted::StaleHeartbeat,
        Planted::OldTermBelieved,
        Planted::PromoteBeforeData,
        Planted::LearnerPromotedUnseen,
        Planted::DeadReplicaDropped,
        Planted::TwoRemovals,
        Planted::ForeignChangeIgnored,
        Planted::CancelledGoesOn,
        Planted::DoneStays,
        Planted::JointNeverLeft,
        Planted::BalanceUnprepared,
        Planted::BuriedEarly,
        Planted::IdBoundNotSaved,
        Planted::BeyondWindow,
        Planted::WindowForgotten,
    ];
}
