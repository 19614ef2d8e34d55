//! Everything that actors of a store tell each other: closed enums, so that a reader sees all there is.
//!
//! | from | to | message |
//! | --- | --- | --- |
//! | clients, scheduler, network, ticks | raft worker | [`WorkerMessage`] |
//! | raft worker | log writer | [`LogTask`] |
//! | log writer | raft worker | [`Persisted`] |
//! | raft worker | apply worker | [`ApplyMessage`] |
//! | apply worker | raft worker | [`Applied`] |
//! | raft worker | store actor | [`StoreMessage`] |
//! | raft worker, apply worker | background | [`BackgroundTask`] |
//!
//! **Invariant.** Work that is answered later carries the [`PeerSerial`] of the replica that asked, which no
//! other replica ever has, so that an answer for a former replica of the region is recognised.

use std::sync::Arc;
use std::time::Duration;

use raft::eraftpb;
use skerry_proto::metapb;
use skerry_proto::raft_cmdpb::admin_request;
use skerry_proto::raft_serverpb::{RaftApplyState, RaftMessage};
use skerry_proto::types::{PeerId, RegionId, StoreId, Term};

use crate::credits::Credit;
use crate::engine::log::LogOperation;
use crate::engine::{KeyRange, View, WriteBatch};
use crate::extent::{Estimate, Extent, FlowTally};
use crate::reply::{Refusal, Reply};
use crate::snapshot::SnapshotId;

/// One replica object in one life of one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerSerial(pub u64);

/// To the raft worker that owns the region.
#[derive(Debug)]
pub enum WorkerMessage {
    /// One tick has passed, for every replica of the worker.
    Tick,
    /// Whoever leads reports to the scheduler now.
    Report {
        /// Those that sleep as well: it may be a new scheduler, which knows nothing.
        sleepers: bool,
    },
    /// From a replica on another store.
    Raft(Box<RaftMessage>),
    /// Another store lives.
    Alive {
        /// Which.
        store_id: StoreId,
        /// How often it was started.
        incarnation: u64,
    },
    /// The region's replica stands in another one's way: it shall see whether it still belongs.
    Rouse {
        /// The region.
        region_id: RegionId,
    },
    /// From a client or the scheduler.
    Command(Box<Command>),
    /// These became durable.
    Persisted(Vec<Persisted>),
    /// These were applied.
    Applied(Vec<Applied>),
    /// Begin a replica.
    Create(Box<NewPeer>),
    /// A snapshot was built, or could not be.
    SnapshotBuilt {
        /// The region.
        region_id: RegionId,
        /// Who asked.
        serial: PeerSerial,
        /// What raft will send, or why not.
        built: std::result::Result<Box<eraftpb::Snapshot>, String>,
    },
    /// The snapshot that the replica accepted lies in the data engine.
    SnapshotInstalled {
        /// The region.
        region_id: RegionId,
        /// Who asked.
        serial: PeerSerial,
    },
    /// A snapshot has reached another store, or has not.
    SnapshotSent {
        /// The region.
        region_id: RegionId,
        /// To whom.
        to_peer: PeerId,
        /// Whether it arrived whole.
        arrived: bool,
    },
    /// The region's old entries keep files of the log that could go.
    CutLog {
        /// The region.
        region_id: RegionId,
    },
    /// A message could not be sent.
    Unreachable {
        /// The region.
        region_id: RegionId,
        /// To whom.
        to_peer: PeerId,
    },
    /// Where a region that has grown should be cut.
    SplitKeys {
        /// The region.
        region_id: RegionId,
        /// Of the region that was looked at.
        epoch: metapb::RegionEpoch,
        /// In order; without data prefix. Empty: it need not be cut.
        keys: Vec<bytes::Bytes>,
        /// Its size.
        size: Estimate,
    },
}

/// What a client or the scheduler wants of a region.
#[derive(Debug)]
pub struct Command {
    /// Which region, and how the asker believes it to be.
    pub context: CommandContext,
    /// What to do.
    pub kind: CommandKind,
}

/// Which region, and how the asker believes it to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommandContext {
    /// The region.
    pub region_id: RegionId,
    /// The replica that is asked; zero for any.
    pub peer_id: PeerId,
    /// The region's epoch when it was looked up.
    pub epoch: metapb::RegionEpoch,
    /// The term of the view from which the command was computed, if it was.
    pub term: Option<Term>,
}

/// What to do.
#[derive(Debug)]
pub enum CommandKind {
    /// Change pairs, all or none. Keys are data keys.
    Write {
        /// The changes.
        batch: WriteBatch,
        /// Told when they are applied here.
        reply: Reply<Written>,
    },
    /// Read.
    Read {
        /// Who may serve it.
        consistency: Consistency,
        /// Told the view.
        reply: Reply<RegionView>,
    },
    /// Change the region itself.
    Admin {
        /// How.
        request: admin_request::Command,
        /// Told when it is applied here, or for a transfer when it was begun.
        reply: Reply<AdminDone>,
    },
}

/// Who may serve a read. All reads are linearizable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// The leader.
    Leader,
    /// Whoever is asked, after hearing from the leader.
    Replica,
    /// The same for a transaction that reads at this timestamp: the leader first sees to it that nothing commits at or
    /// below it unseen ([`crate::outside::ReadGuard`]).
    ReplicaAt(u64),
}

/// A write was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it stands in the log.
    pub index: u64,
    /// Its term.
    pub term: Term,
}

/// An administrator's command was applied; the region or regions as they are now.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminDone {
    /// In order of their keys.
    pub regions: Vec<Arc<metapb::Region>>,
}

/// A consistent read view of a region.
#[derive(Clone)]
pub struct RegionView {
    /// Shows the whole engine; whoever reads stays within the region.
    pub view: Arc<dyn View>,
    /// The region at that moment.
    pub region: Arc<metapb::Region>,
    /// The term in which it was taken.
    pub term: Term,
    /// Where whoever reads counts it.
    pub reads: Arc<FlowTally>,
}

impl std::fmt::Debug for RegionView {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "view of {} in {}", self.region, self.term)
    }
}

/// A replica to begin.
#[derive(Clone, Debug)]
pub struct NewPeer {
    /// The region; without peers if only its id is known.
    pub region: Arc<metapb::Region>,
    /// The replica.
    pub peer: metapb::Peer,
    /// Where it comes from.
    pub origin: Origin,
    /// Messages that arrived before it was there.
    pub messages: Vec<RaftMessage>,
}

/// Where a new replica comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was here before the store was started.
    Disk,
    /// A message of a leader or candidate named it.
    Message,
    /// Its region was cut off another one.
    Split {
        /// The parent's replica here led the region when it applied the split.
        campaign: bool,
        /// Its share of what the parent held.
        extent: Extent,
    },
}

impl Origin {
    /// What is known of its region's size in the beginning.
    pub fn estimate(self) -> Estimate {
        match self {
            Origin::Split { extent, .. } => Estimate { extent, is_bound: false },
            Origin::Disk | Origin::Message => Estimate::default(),
        }
    }
}

/// Changes of one replica that the log writer makes durable, together with those of others.
#[derive(Debug)]
pub struct LogTask {
    /// The region.
    pub region_id: RegionId,
    /// Who asked.
    pub serial: PeerSerial,
    /// Told back.
    pub number: u64,
    /// Changes of the log.
    pub operations: Vec<LogOperation>,
    /// Changes of the data engine that must be durable before those of the log.
    pub data: Option<WriteBatch>,
    /// Whether somebody relies on it.
    pub must_sync: bool,
    /// Held until it is done.
    pub credit: Credit,
}

/// A log task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// The region.
    pub region_id: RegionId,
    /// Who asked.
    pub serial: PeerSerial,
    /// The task's.
    pub number: u64,
}

/// To the apply worker that owns the region.
#[derive(Debug)]
pub enum ApplyMessage {
    /// Begin to apply for a replica, from this state on. Replaces what was there of the region.
    Register(Box<Registration>),
    /// Apply these.
    Apply(Box<ApplyTask>),
    /// Take a view for a snapshot, behind all that was handed over before.
    Snapshot {
        /// The region.
        region_id: RegionId,
        /// Who asks.
        serial: PeerSerial,
    },
    /// Stop. Answered by [`Applied::removed`].
    Remove {
        /// The region.
        region_id: RegionId,
        /// Who asks.
        serial: PeerSerial,
    },
}

/// Where applying begins.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The replica's serial.
    pub serial: PeerSerial,
    /// The replica.
    pub peer: metapb::Peer,
    /// The region as of the applied index.
    pub region: Arc<metapb::Region>,
    /// What is applied.
    pub state: RaftApplyState,
    /// The term of the last applied entry.
    pub term: u64,
}

/// Committed entries of one replica.
#[derive(Debug)]
pub struct ApplyTask {
    /// The region.
    pub region_id: RegionId,
    /// Who asks.
    pub serial: PeerSerial,
    /// In order, without a gap to what was handed over before.
    pub entries: Vec<eraftpb::Entry>,
    /// What the replica knows to be committed.
    pub commit_index: u64,
    /// The term of that entry.
    pub commit_term: u64,
    /// Who waits for which entry.
    pub proposals: Vec<Proposal>,
    /// Held until they are applied.
    pub credit: Credit,
}

/// Who waits for an entry.
#[derive(Debug)]
pub struct Proposal {
    /// Where it will stand if nobody overwrites it.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// When.
    pub proposed_at: Duration,
    /// Who.
    pub waiters: Waiters,
}

/// Who waits for an entry, by what it is.
#[derive(Debug)]
pub enum Waiters {
    /// Several writes share an entry.
    Write(Vec<Reply<Written>>),
    /// One command of an administrator, or of the store itself, which waits for nothing.
    Admin(Option<Reply<AdminDone>>),
}

impl Waiters {
    /// Tells all that it is certainly not done.
    pub fn refuse(self, refusal: Refusal) {
        match self {
            Waiters::Write(replies) => {
                replies.into_iter().for_each(|reply| reply.refuse(refusal.clone()));
            }
            Waiters::Admin(reply) => {
                reply.into_iter().for_each(|reply| reply.refuse(refusal.clone()))
            }
        }
    }

    /// Tells all that nobody can say.
    pub fn unknown(self, reason: &'static str) {
        match self {
            Waiters::Write(replies) => replies.into_iter().for_each(|reply| reply.unknown(reason)),
            Waiters::Admin(reply) => reply.into_iter().for_each(|reply| reply.unknown(reason)),
        }
    }
}

/// What an apply worker has done for one replica.
#[derive(Debug)]
pub struct Applied {
    /// The region.
    pub region_id: RegionId,
    /// Whose.
    pub serial: PeerSerial,
    /// The state after it.
    pub state: RaftApplyState,
    /// The term of the last applied entry.
    pub term: u64,
    /// When the newest applied proposal of this replica was made.
    pub proposed_at: Option<Duration>,
    /// Changes of the region, in order.
    pub changes: Vec<Change>,
    /// What was written.
    pub written: Extent,
    /// The worker has stopped for this replica and will not touch its data again.
    pub removed: bool,
}

impl Applied {
    /// A report of nothing, for a replica that has nothing applied.
    pub fn nothing(region_id: RegionId, serial: PeerSerial) -> Applied {
        Applied {
            region_id,
            serial,
            state: RaftApplyState::default(),
            term: 0,
            proposed_at: None,
            changes: Vec::new(),
            written: Extent::default(),
            removed: false,
        }
    }
}

/// A change of a region that its replica must follow.
#[derive(Clone, Debug)]
pub enum Change {
    /// Its peers. The configuration change is told to raft.
    Peers {
        /// The region after it.
        region: Arc<metapb::Region>,
        /// Raft's part.
        change: eraftpb::ConfChangeV2,
    },
    /// Its range: it was cut.
    Split {
        /// The region that keeps the id.
        region: Arc<metapb::Region>,
        /// The others.
        children: Vec<Arc<metapb::Region>>,
        /// Children that must not be begun here, because they were here before and are gone.
        gone: Vec<RegionId>,
    },
    /// Its log may be cut in front of this index.
    Compacted {
        /// The first index to stay.
        first: u64,
    },
}

/// To the store actor.
#[derive(Debug)]
pub enum StoreMessage {
    /// A message for a region that has no replica here.
    Unknown(Box<RaftMessage>),
    /// Messages that were parked for a region may go there now, or be dropped.
    Unpark(RegionId),
}

/// Slow work, done aside.
#[derive(Debug)]
pub enum BackgroundTask {
    /// Some time has passed: what had to wait is tried again.
    Tick,
    /// Write the files of a snapshot.
    BuildSnapshot(Box<SnapshotOrder>),
    /// Load an accepted snapshot into the data engine.
    InstallSnapshot {
        /// Its files.
        id: SnapshotId,
        /// The region.
        region: Arc<metapb::Region>,
        /// Who waits.
        serial: PeerSerial,
        /// The state after it.
        state: RaftApplyState,
    },
    /// Remove data keys that belong to no region here any more.
    CleanRange {
        /// Without data prefix.
        range: KeyRange,
    },
    /// Look where a region should be cut.
    CheckSplit {
        /// The region.
        region: Arc<metapb::Region>,
        /// Cut it in the middle however small it is.
        halve: bool,
        /// What is known of its size.
        size: Estimate,
    },
    /// Cut the log in front of an index, once the data engine has made what it stands for durable.
    CompactLog {
        /// The region.
        region_id: RegionId,
        /// Who asks.
        serial: PeerSerial,
        /// The first index to stay.
        first: u64,
    },
}

/// A snapshot to be built.
pub struct SnapshotOrder {
    /// Who asks.
    pub serial: PeerSerial,
    /// The state at the view's moment.
    pub id: SnapshotId,
    /// The region at that moment.
    pub region: Arc<metapb::Region>,
    /// Its data.
    pub view: Arc<dyn View>,
}

impl std::fmt::Debug for SnapshotOrder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "snapshot {:?} of {}", self.id, self.region)
    }
}
