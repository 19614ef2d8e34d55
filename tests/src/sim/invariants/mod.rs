//! What must be true of the cluster after every step, whatever went wrong before it.
//!
//! # How
//!
//! 1. After each turn of an actor [`Invariants::turned`] compares every replica of that store with what it was
//!    before, and looks closer at those that changed ([`replicas`]).
//! 2. Everything that a store sends goes through [`Invariants::sent`]: what it promises must be on its
//!    disk, surely ([`promises`]).
//! 3. Every so many steps [`Invariants::sweep`] looks at all disks ([`disks`]).
//!    Then it also looks for those who sleep through something ([`sleepers`]).
//! 4. Where the scheduler governs, [`scheduler`] looks at what it hears, decides and tells.
//! 5. Where there are transactions, [`records`] looks at what they write, read, and are told, and [`circles`] at those
//!    who wait for each other.
//!
//! The names in [`NAMES`] are what a failure begins with. What is remembered here is what *some* store has
//! once shown; stores forget when they lose power, this does not.
//!
//! What it does not do: it never looks into an actor, only at what stores show of themselves
//! (`Store::inspect`), at their disks, and at what they send and answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use skerry_proto::metapb::Region;
use skerry_raftstore::peer::PeerStatus;

use super::node::Node;
use super::trace::{Moment, Trace};

pub mod circles;
mod disks;
mod promises;
pub mod records;
mod replicas;
pub mod scheduler;
mod sleepers;

pub(super) use self::disks::regions_of;
pub(super) use self::replicas::describe;

/// An invariant that does not hold, and what was seen.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Which of [`NAMES`].
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.invariant, self.what)
    }
}

/// Declares the invariants: a constant for each, and the list of all.
macro_rules! invariants {
    ($($name:ident = $text:literal;)*) => {
        $(pub(super) const $name: &str = $text;)*
        /// Every invariant, as failures name it.
        pub const NAMES: &[&str] = &[$($text),*];
    };
}

invariants! {
    // One replica over time.
    TERM_GROWS = "a replica's term never falls";
    VOTE_STAYS = "a replica votes once in a term";
    COMMIT_GROWS = "a replica's commit index never falls";
    APPLIED_GROWS = "a replica's applied index never falls";
    TRUNCATED_GROWS = "a replica's log is never longer in front than it was";
    EPOCH_GROWS = "a region's epoch never falls on a replica";
    INDEXES_ASCEND = "truncated <= applied <= commit <= last";
    LEADER_APPENDS = "a leader's log never gets shorter in its term";
    LEADER_VOTES = "a leader is a voter of its region";
    // All replicas of a region.
    ONE_LEADER = "a term of a region has one leader";
    LEADER_COMPLETE = "a leader's log has every entry that was applied before its term";
    SAME_ENTRIES = "an applied entry is the same on all replicas";
    COMMIT_QUORUM = "what a leader says is committed is durable on a majority";
    ONE_SHAPE = "an epoch names one range and one set of peers";
    ONE_LEASE = "no two replicas hold a lease over the same key";
    LEASE_SHUTS_OUT = "nobody comes to lead while another's lease is valid";
    SAME_DATA = "replicas that have applied the same have the same data";
    SLEEPERS_AGREE = "a leader falls asleep when all have what it has";
    SLEEPERS_NOTICE = "nobody sleeps on when a store that it minds is silent";
    // Stores and their regions.
    NO_OVERLAP = "regions of a store do not overlap";
    PEER_HAS_ONE_PLACE = "a peer id belongs to one region on one store";
    STORE_ONCE = "a region has at most one peer on a store";
    TOMBSTONE_STAYS = "a destroyed replica never rises";
    TOMBSTONE_DURABLE = "a destroyed replica's tombstone is durable";
    BIRTH_DURABLE = "a region's birth is durable before it does anything";
    ANSWERED = "every request is answered";
    // Disks.
    LOG_HAS_NO_GAP = "a log begins where it was cut and reaches what is applied";
    CUT_IS_DURABLE = "a log is cut only where its application is durable";
    APPLIED_IS_LOGGED = "what is applied is in the log or in a snapshot";
    // Promises.
    VOTE_DURABLE = "a vote leaves after it is durable";
    APPEND_DURABLE = "entries are acknowledged after they are durable";
    OWN_NAME = "a store speaks only for its own replicas";
    ANSWER_IS_TRUE = "a write is acknowledged where it was applied";
    REPORT_IS_TRUE = "who reports a region leads it";
    // The scheduler, where it governs.
    EPOCH_KNOWN_GROWS = "what the scheduler knows of a region never gets older";
    TERM_KNOWN_GROWS = "the leader that the scheduler knows of is never an older one";
    ID_ONCE = "the scheduler gives an id once";
    BALANCE_KNOWS = "stores are compared when most regions have reported";
    ONE_OPERATOR = "a region has one operator at a time";
    VOTERS_STAY = "the scheduler takes no vote that is needed";
    VOTES_HAVE_DATA = "a replica gets a vote when it has the data";
    EMPTY_WHEN_BURIED = "a store is buried when no vote is left on it";
    STAMPS_GROW = "timestamps grow over every restart";
    // Transactions, where there are any.
    COMMIT_AFTER_START = "a commit lies after the start of its transaction";
    ONE_COMMIT = "a timestamp of a key belongs to one transaction";
    ONE_MOMENT = "a transaction commits all its keys at one timestamp";
    ONE_END = "a transaction is not both committed and rolled back at a key";
    ALL_OR_NOTHING = "a transaction that commits one key is rolled back at none";
    PRIMARY_FIRST = "without a shortcut the primary key is committed first";
    PROMISE_KEPT = "no commit lies below what its lock has promised";
    LOCK_IS_OPEN = "who has a lock has not ended at its key";
    VALUE_IS_THERE = "the record of a long value has its value";
    READ_STAYS = "nothing is committed at or below a timestamp that was read";
    READ_IS_WHOLE = "a read shows the newest commit up to its timestamp";
    SEEN_STAYS = "what a read at or above the safe point sees stays";
    TOLD_STAYS = "what was told of a transaction's end stays true";
    MAX_TS_GROWS = "max_ts never falls in a life of a store";
    NO_CIRCLE = "nobody waits in a circle of one store";
    CIRCLES_BREAK = "a circle of waits is broken within a second";
    NAMED_TRULY = "a deadlock is a circle of waits that were there";
    SNAPSHOTS = "every transaction sees a snapshot, and no update is lost";
    CLIENTS_CONTENT = "what clients of transactions see makes sense";
    // Any time.
    STORE_LIVES = "a store does not stop while its disk works";
}

/// Fails with `invariant` unless `condition`.
pub(super) fn hold(
    condition: bool,
    invariant: &'static str,
    what: impl FnOnce() -> String,
) -> Result<(), Broken> {
    match condition {
        true => Ok(()),
        false => Err(Broken { invariant, what: what() }),
    }
}

/// Fails if a turn ended a store's life by itself.
pub(super) fn hold_store_alive(
    node: &Node,
    outcome: skerry_raftstore::Result<()>,
) -> Result<(), Broken> {
    let error = outcome.err();
    hold(error.is_none(), STORE_LIVES, || format!("{} stops: {error:?}", node.id))
}

/// An entry of a region's log, as far as replicas can be compared by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntryMark {
    term: u64,
    digest: u64,
    /// The term of the replica that applied it first: it was committed in that term at the latest. The entry's
    /// own term may be older, and leaders in between need not have it.
    applied_in: u64,
}

impl EntryMark {
    /// Whether two replicas have applied the same.
    fn is_same(&self, other: &EntryMark) -> bool {
        (self.term, self.digest) == (other.term, other.digest)
    }
}

/// See the module.
#[derive(Default)]
pub struct Invariants {
    /// What each running store showed last, by region. Forgotten when it stops.
    shown: Vec<BTreeMap<u64, PeerStatus>>,
    /// Who led a region in a term.
    leaders: BTreeMap<(u64, u64), u64>,
    /// Every entry that was applied somewhere, by region and index.
    applied: BTreeMap<u64, BTreeMap<u64, EntryMark>>,
    /// The region that an epoch (version, conf_ver) names.
    shapes: BTreeMap<(u64, u64, u64), Arc<Region>>,
    /// Where a peer id was seen: region and store.
    places: BTreeMap<u64, (u64, usize)>,
    /// Peers that were destroyed, by the number of their store.
    destroyed: BTreeSet<(usize, u64)>,
    /// Digest of a region's data at an applied index and epoch.
    data: BTreeMap<(u64, u64), u64>,
    /// Since when a replica is seen asleep: by the number of its store, the life of that, and the region.
    asleep: BTreeMap<(usize, u64, u64), Moment>,
    /// When a store has heard another one last, by the number of the one and the id of the other.
    heard: BTreeMap<(usize, u64), Moment>,
}

impl Invariants {
    /// For a cluster of so many stores that shows nothing yet.
    pub fn new(stores: usize) -> Invariants {
        Invariants { shown: vec![BTreeMap::new(); stores], ..Invariants::default() }
    }

    /// A store has joined that shows nothing yet.
    pub fn join(&mut self) {
        self.shown.push(BTreeMap::new());
    }

    /// What a store showed last.
    pub fn shown(&self, number: usize) -> impl Iterator<Item = &PeerStatus> {
        self.shown[number].values()
    }

    /// A store has stopped: what it will show next has nothing to do with what it showed.
    pub fn stopped(&mut self, number: usize) {
        self.shown[number].clear();
    }

    /// A store has done something.
    pub fn turned(
        &mut self,
        nodes: &[Node],
        number: usize,
        now: Moment,
        trace: &mut Trace,
    ) -> Result<(), Broken> {
        let node = &nodes[number];
        let Some(store) = &node.store else { return Ok(()) };
        let dropped = node.replies.dropped();
        hold(dropped == 0, ANSWERED, || format!("{} dropped {dropped} replies", node.id))?;
        let shows = store.inspect();
        let regions: BTreeSet<u64> = shows.iter().map(|status| status.region.id).collect();
        let gone: Vec<u64> =
            self.shown[number].keys().filter(|id| !regions.contains(id)).copied().collect();
        for region_id in gone {
            let before = self.shown[number].remove(&region_id).expect("a key of the map");
            self.replica_is_gone(node, &before)?;
            trace.count("destroy");
            trace.tell(now, node.id, || format!("{} is destroyed", before.region));
        }
        let mut has_new_range = false;
        for status in shows {
            let before = self.shown[number].get(&status.region.id);
            if before == Some(&status) {
                continue;
            }
            has_new_range |= before.is_none_or(|before| before.region != status.region);
            let before = before.cloned();
            self.replica_changed(nodes, number, now, before.as_ref(), &status)?;
            replicas::count_events(trace, now, node, before.as_ref(), &status);
            self.shown[number].insert(status.region.id, status);
        }
        if has_new_range { self.ranges_are_apart(node) } else { Ok(()) }
    }

    fn ranges_are_apart(&self, node: &Node) -> Result<(), Broken> {
        let initialised = |status: &&PeerStatus| !status.region.peers.is_empty();
        let mut regions: Vec<_> = self.shown[node.number].values().filter(initialised).collect();
        regions.sort_by(|a, b| a.region.start_key.cmp(&b.region.start_key));
        for pair in regions.windows(2) {
            let overlaps = pair[0].region.bounds().overlaps(&pair[1].region.bounds());
            hold(!overlaps, NO_OVERLAP, || {
                format!("{} and {}", describe(node, pair[0]), describe(node, pair[1]))
            })?;
        }
        Ok(())
    }
}
