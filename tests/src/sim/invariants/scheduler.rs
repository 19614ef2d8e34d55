//! What must be true of the scheduler: of what it knows, decides, tells, and of its timestamps.
//!
//! Looked at where it hears, ticks and tells; the first that does not hold is kept until somebody asks
//! ([`Overseer::verdict`]). What only one life of a scheduler promises is forgotten when it loses power.

use std::collections::{BTreeMap, BTreeSet};

use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use skerry_proto::pdpb::{ChangePeer, SplitId};
use skerry_proto::region::KeyBounds;
use skerry_proto::types::{PeerId, RegionId, StoreId, Ts};
use skerry_scheduler::cluster::{Cluster, Instruction};
use skerry_scheduler::operator::{Kind, Order};
use skerry_scheduler::region_tree::RegionRecord;

use super::{
    BALANCE_KNOWS, Broken, EPOCH_KNOWN_GROWS, ID_ONCE, ONE_OPERATOR, STAMPS_GROW, TERM_KNOWN_GROWS,
    VOTERS_STAY, VOTES_HAVE_DATA, hold,
};

/// Voters that a region should have. It begins with one.
const WANTED: usize = 3;

/// Ended operators among which one is looked for that has run at the same time.
const RECENT: usize = 100;

/// Percent of the regions that must have reported before stores are compared.
const MOST: usize = 80;

/// What was known of a region.
#[derive(Clone, Copy)]
struct Known {
    epoch: RegionEpoch,
    term: u64,
    /// At most as many as are wanted.
    voters: usize,
}

/// See the module.
#[derive(Default)]
pub struct Overseer {
    /// Regions, as they were known in this life.
    known: BTreeMap<RegionId, Known>,
    /// Whether most regions have reported in this life.
    most_have_spoken: bool,
    /// What the ids name that were given for regions and replicas.
    named: BTreeMap<u64, (RegionId, Option<StoreId>)>,
    /// Replicas of which a leader has said that they follow: what they lack since then, they get from its log.
    fed: BTreeSet<PeerId>,
    /// The newest timestamp of all lives.
    newest: Ts,
    broken: Option<Broken>,
}

impl Overseer {
    /// What did not hold, if anything.
    pub fn verdict(&mut self) -> Result<(), Broken> {
        self.broken.take().map_or(Ok(()), Err)
    }

    fn keep(&mut self, outcome: Result<(), Broken>) {
        if self.broken.is_none() {
            self.broken = outcome.err();
        }
    }

    /// The scheduler has lost power.
    pub fn restarted(&mut self) {
        self.known.clear();
        self.most_have_spoken = false;
        self.fed.clear();
    }

    /// A leader has reported `region`, whether or not that was accepted.
    pub fn heard(&mut self, cluster: &Cluster, region: &Region) {
        let Ok(Some(record)) = cluster.region_by_id(region.region_id()) else { return };
        let follows = record.region.peers.iter().filter(|peer| record.is_well(peer));
        self.fed.extend(follows.map(Peer::peer_id));
        let epoch = record.region.epoch();
        let (before_leaving, after_leaving) = voters_of(&record.region);
        let voters = before_leaving.min(after_leaving).min(WANTED);
        let now = Known { epoch, term: record.term, voters };
        let Some(known) = self.known.insert(record.id(), now) else { return };
        let what = || format!("{} after {}", record.region, known.epoch);
        self.keep(hold(!epoch.is_stale(&known.epoch), EPOCH_KNOWN_GROWS, what));
        // One that was pushed out and has come back with another epoch may be told of by its last leader.
        let is_older = epoch == known.epoch && record.term < known.term;
        let what = || format!("{} at term {} after {}", record.region, record.term, known.term);
        self.keep(hold(!is_older, TERM_KNOWN_GROWS, what));
        let what = || format!("{} had {}", record.region, known.voters);
        self.keep(hold(voters >= known.voters, VOTERS_STAY, what));
    }

    /// The scheduler has decided something.
    pub fn looks_at(&mut self, cluster: &Cluster) {
        let regions = cluster.scan(KeyBounds::ALL, usize::MAX).expect("it is bootstrapped");
        let spoken = regions.iter().filter(|record| record.leader.is_some()).count();
        self.most_have_spoken |= spoken * 100 >= regions.len() * MOST;
        let Ok(running) = cluster.operators() else { return };
        for operator in running {
            let mut ended = cluster.ended_operators().expect("it is bootstrapped").take(RECENT);
            let since = operator.created.monotonic;
            let other =
                ended.find(|it| it.operator.region == operator.region && it.at.monotonic > since);
            self.keep(hold(other.is_none(), ONE_OPERATOR, || {
                format!("{operator} and {}", other.expect("it was found").operator)
            }));
            let compares = matches!(operator.kind, Kind::Region | Kind::Leader | Kind::HotRegion);
            let what = || format!("{operator}, when {spoken} of {} have", regions.len());
            self.keep(hold(!compares || self.most_have_spoken, BALANCE_KNOWS, what));
        }
    }

    /// The leader of a region, last known as `record`, is told something.
    pub fn told(&mut self, record: &RegionRecord, instruction: &Instruction) {
        let changes: &[ChangePeer] = match &instruction.order {
            Order::Change(change) => std::slice::from_ref(change),
            Order::ChangeJointly(changes) => changes,
            Order::Transfer(_) | Order::Split { .. } => &[],
        };
        let before = voters_of(&record.region).1;
        let mut voters = before;
        for change in changes {
            let Some(peer) = change.peer else { continue };
            self.name(peer.id, record.id(), Some(peer.store()));
            let known = record.region.peer_by_id(peer.peer_id());
            let votes = known.is_some_and(|known| !known.is_learner());
            match change.change_type() {
                ConfChangeType::AddNode => {
                    voters += 1;
                    let has_data = self.fed.contains(&peer.peer_id());
                    let what = || format!("{peer} of {}", record.region);
                    self.keep(hold(has_data && !votes, VOTES_HAVE_DATA, what));
                }
                ConfChangeType::AddLearnerNode | ConfChangeType::RemoveNode => {
                    voters -= usize::from(votes);
                }
            }
        }
        let what = || format!("{instruction:?} of {}", record.region);
        self.keep(hold(voters >= before.min(WANTED), VOTERS_STAY, what));
    }

    /// Ids were given for the parts of `region`.
    pub fn split(&mut self, region: &Region, parts: &[SplitId]) {
        for part in parts {
            let id = RegionId::new(part.new_region_id);
            self.name(part.new_region_id, id, None);
            for (peer, beside) in part.new_peer_ids.iter().zip(&region.peers) {
                self.name(*peer, id, Some(beside.store()));
            }
        }
    }

    fn name(&mut self, id: u64, region: RegionId, store: Option<StoreId>) {
        let known = *self.named.entry(id).or_insert((region, store));
        let what = || format!("{id} for {region} {store:?} and {known:?}");
        self.keep(hold(known == (region, store), ID_ONCE, what));
    }

    /// `count` timestamps up to `last` were given.
    pub fn stamped(&mut self, last: Ts, count: u32) {
        let first = last.get() + 1 - u64::from(count);
        let what = || format!("{first} after {}", self.newest.get());
        let outcome = hold(first > self.newest.get(), STAMPS_GROW, what);
        self.keep(outcome);
        self.newest = self.newest.max(last);
    }
}

/// How many vote before and after a joint configuration is left; otherwise both are the same.
fn voters_of(region: &Region) -> (usize, usize) {
    let count = |gone: PeerRole| {
        let votes = |peer: &&Peer| !peer.is_learner() && peer.role() != gone;
        region.peers.iter().filter(votes).count()
    };
    (count(PeerRole::IncomingVoter), count(PeerRole::DemotingVoter))
}
