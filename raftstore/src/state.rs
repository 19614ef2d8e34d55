//! What a store keeps of a replica besides data and entries: the states, their beginnings, and raft's form of them.
//!
//! **Invariant.** A replica that knows nothing but its id stands at index 0 and term 0, one of a region that was
//! bootstrapped or split off at ([`INITIAL_INDEX`], [`INITIAL_TERM`]): so a leader can never feed an empty
//! replica with entries, and sends a snapshot instead.

use protobuf::Message as _;
use raft::eraftpb::{ConfState, HardState};
use skerry_proto::metapb::{self, PeerRole};
use skerry_proto::raft_serverpb::{RaftApplyState, RaftLocalState, RaftTruncatedState};
use skerry_proto::types::RegionId;

use crate::{Error, Result};

/// Where the log of a new region begins.
pub const INITIAL_INDEX: u64 = 5;
/// And with which term.
pub const INITIAL_TERM: u64 = 5;

/// The apply state of a region that was bootstrapped or split off just now.
pub fn initial_apply_state() -> RaftApplyState {
    let truncated = RaftTruncatedState { index: INITIAL_INDEX, term: INITIAL_TERM };
    RaftApplyState {
        applied_index: INITIAL_INDEX,
        truncated_state: Some(truncated),
        commit_index: INITIAL_INDEX,
        commit_term: INITIAL_TERM,
    }
}

/// The raft state of such a region. A vote that a predecessor gave in this store is kept.
pub fn initial_hard_state(former: &HardState) -> HardState {
    let mut state = HardState { commit: INITIAL_INDEX, ..HardState::default() };
    state.term = former.term.max(INITIAL_TERM);
    if former.term == state.term {
        state.vote = former.vote;
    }
    state
}

/// What is to be stored of a raft state.
pub fn local_state(hard_state: &HardState, last_index: u64) -> RaftLocalState {
    let bytes = hard_state.write_to_bytes().expect("a hard state has no required fields");
    RaftLocalState { hard_state: bytes.into(), last_index }
}

/// The hard state in a stored raft state.
pub fn hard_state(region_id: RegionId, state: &RaftLocalState) -> Result<HardState> {
    HardState::parse_from_bytes(&state.hard_state)
        .map_err(|error| damaged(region_id, format!("its raft state: {error}")))
}

/// Raft's form of a region's peers.
pub fn conf_state(region: &metapb::Region) -> ConfState {
    let mut state = ConfState::default();
    let mut is_joint = false;
    for peer in &region.peers {
        let (incoming, outgoing, learner) = match peer.role() {
            PeerRole::Voter => (true, true, false),
            PeerRole::Learner => (false, false, true),
            PeerRole::IncomingVoter => (true, false, false),
            PeerRole::DemotingVoter => (false, true, false),
        };
        is_joint |= incoming != outgoing;
        incoming.then(|| state.voters.push(peer.id));
        outgoing.then(|| state.voters_outgoing.push(peer.id));
        learner.then(|| state.learners.push(peer.id));
        if peer.role() == PeerRole::DemotingVoter {
            state.learners_next.push(peer.id);
        }
    }
    if !is_joint {
        state.voters_outgoing.clear();
    }
    state
}

/// The error of a raft log that is not what was written.
pub(crate) fn damaged(region_id: RegionId, reason: String) -> Error {
    let reason = format!(
        "{reason}; put its files back from a copy, or let the cluster replace this store by a new one"
    );
    Error::Damaged { what: format!("the raft log of {region_id}"), reason }
}
