//! One step of an operator: what a leader is told, and how a heartbeat shows that it is done.
//!
//! A step knows the peers that the region has after it ([`Step::applied`]). They are compared whole: so a change
//! that somebody else made is never taken for ours.

use std::fmt;

use bytes::Bytes;
use skerry_proto::eraftpb::ConfChangeType;
use skerry_proto::metapb::{Peer, PeerRole};
use skerry_proto::pdpb::{ChangePeer, CheckPolicy};

use crate::region_tree::RegionRecord;

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Begin a replica without a vote, and wait until it has the data.
    AddLearner(Peer),
    /// Give a learner a vote.
    Promote(Peer),
    /// Take a replica away.
    Remove(Peer),
    /// Hand leadership over.
    Transfer(Peer),
    /// Exchange one voter for another in one go, through a joint configuration.
    EnterJoint {
        /// The learner that gets a vote.
        promote: Peer,
        /// The voter that becomes a learner.
        demote: Peer,
    },
    /// Leave the joint configuration.
    LeaveJoint,
    /// Cut the region.
    Split {
        /// How to find the place.
        policy: CheckPolicy,
        /// Where, if the policy says so.
        keys: Vec<Bytes>,
    },
}

/// What a leader is told to do, in the words of the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// One change of the peers.
    Change(ChangePeer),
    /// Several at once, into a joint configuration; none: leave it.
    ChangeJointly(Vec<ChangePeer>),
    /// Hand leadership to this peer.
    Transfer(Peer),
    /// Cut the region.
    Split {
        /// How to find the place.
        policy: CheckPolicy,
        /// Where, if the policy says so.
        keys: Vec<Bytes>,
    },
}

impl Step {
    /// The peers after the step, if they are `peers` before it. Ordered by id, like [`ordered`].
    pub fn applied(&self, peers: &[Peer]) -> Vec<Peer> {
        let mut after = peers.to_vec();
        let set = |after: &mut Vec<Peer>, changed: &Peer, role: PeerRole| {
            let found = after.iter_mut().filter(|peer| peer.id == changed.id);
            found.for_each(|peer| peer.set_role(role));
        };
        match self {
            Step::AddLearner(learner) => after.push(*learner),
            Step::Promote(learner) => set(&mut after, learner, PeerRole::Voter),
            Step::Remove(leaving) => after.retain(|peer| peer.id != leaving.id),
            Step::EnterJoint { promote, demote } => {
                set(&mut after, promote, PeerRole::IncomingVoter);
                set(&mut after, demote, PeerRole::DemotingVoter);
            }
            Step::LeaveJoint => after.iter_mut().for_each(|peer| match peer.role() {
                PeerRole::IncomingVoter => peer.set_role(PeerRole::Voter),
                PeerRole::DemotingVoter => peer.set_role(PeerRole::Learner),
                PeerRole::Voter | PeerRole::Learner => {}
            }),
            Step::Transfer(_) | Step::Split { .. } => {}
        }
        ordered(&after)
    }

    /// Whether `record` shows the step done; `peers` are those before it, `version` that of the range.
    pub fn is_done(&self, record: &RegionRecord, peers: &[Peer], version: u64) -> bool {
        if ordered(&record.region.peers) != self.applied(peers) {
            return false;
        }
        match self {
            // A vote for a replica without data could keep the region from writing for long.
            Step::AddLearner(learner) => record.is_well(learner),
            Step::Transfer(heir) => record.leader.is_some_and(|leader| leader.id == heir.id),
            Step::Split { .. } => record.region.epoch().version > version,
            _ => true,
        }
    }

    /// Whether only time is needed: the leader has done what it was told, or must not be told yet, because the
    /// replica that shall vote has fallen behind or fallen silent since it was fed.
    pub fn is_waiting(&self, record: &RegionRecord) -> bool {
        match self {
            Step::AddLearner(learner) => record.region.peer_by_id(learner.peer_id()).is_some(),
            Step::Promote(learner) | Step::EnterJoint { promote: learner, .. } => {
                !record.is_well(learner)
            }
            _ => false,
        }
    }

    /// The voter that loses its vote by this step; it must not be the leader then.
    pub fn loses_vote(&self) -> Option<&Peer> {
        match self {
            Step::Remove(peer) | Step::EnterJoint { demote: peer, .. } => Some(peer),
            _ => None,
        }
    }

    /// What the leader is told.
    pub fn order(&self) -> Order {
        let add = ConfChangeType::AddLearnerNode;
        match self {
            Step::AddLearner(peer) => Order::Change(change(add, *peer)),
            Step::Promote(peer) => Order::Change(change(ConfChangeType::AddNode, *peer)),
            Step::Remove(peer) => Order::Change(change(ConfChangeType::RemoveNode, *peer)),
            Step::EnterJoint { promote, demote } => Order::ChangeJointly(vec![
                change(ConfChangeType::AddNode, *promote),
                change(add, *demote),
            ]),
            Step::LeaveJoint => Order::ChangeJointly(Vec::new()),
            Step::Transfer(heir) => Order::Transfer(*heir),
            Step::Split { policy, keys } => Order::Split { policy: *policy, keys: keys.clone() },
        }
    }
}

/// The peer of a change has the role that it gets by it.
fn change(kind: ConfChangeType, peer: Peer) -> ChangePeer {
    let role = match kind {
        ConfChangeType::AddNode => PeerRole::Voter,
        ConfChangeType::AddLearnerNode => PeerRole::Learner,
        ConfChangeType::RemoveNode => peer.role(),
    };
    let peer = Peer { role: role.into(), ..peer };
    ChangePeer { peer: Some(peer), change_type: kind.into() }
}

/// Peers by id: reports may list the same peers in any order.
pub fn ordered(peers: &[Peer]) -> Vec<Peer> {
    let mut peers = peers.to_vec();
    peers.sort_by_key(|peer| peer.id);
    peers
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::AddLearner(peer) => write!(formatter, "add learner {}", name(peer)),
            Step::Promote(peer) => write!(formatter, "promote {}", name(peer)),
            Step::Remove(peer) => write!(formatter, "remove {}", name(peer)),
            Step::Transfer(peer) => write!(formatter, "transfer leader to {}", name(peer)),
            Step::EnterJoint { promote, demote } => {
                write!(formatter, "exchange {} for {}", name(demote), name(promote))
            }
            Step::LeaveJoint => formatter.write_str("leave joint"),
            Step::Split { policy: CheckPolicy::Usekey, keys } => {
                write!(formatter, "split at {} keys", keys.len())
            }
            Step::Split { .. } => formatter.write_str("split"),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |change: &ChangePeer| {
            let peer = change.peer.unwrap_or_default();
            format!("{} {peer}", change.change_type().as_str_name())
        };
        match self {
            Order::Change(change) => formatter.write_str(&one(change)),
            Order::ChangeJointly(changes) if changes.is_empty() => {
                formatter.write_str("leave joint")
            }
            Order::ChangeJointly(changes) => {
                let changes: Vec<String> = changes.iter().map(one).collect();
                write!(formatter, "enter joint {}", changes.join(", "))
            }
            Order::Transfer(heir) => write!(formatter, "transfer leader to {}", name(heir)),
            Order::Split { policy: CheckPolicy::Usekey, keys } => {
                let keys: Vec<String> =
                    keys.iter().map(|it| it.escape_ascii().to_string()).collect();
                write!(formatter, "split at {}", keys.join(" "))
            }
            Order::Split { .. } => formatter.write_str("split"),
        }
    }
}

/// A peer without its role, which the step changes.
fn name(peer: &Peer) -> String {
    format!("{}@{}", peer.peer_id(), peer.store())
}
