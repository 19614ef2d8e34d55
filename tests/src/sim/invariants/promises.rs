//! What a store may say: promises that its disk can keep, for its own replicas, and only what is true.

use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{HardState, Message, MessageType};
use skerry_proto::raft_serverpb::{RaftApplyState, RaftMessage};
use skerry_raftstore::effects::RegionReport;
use skerry_raftstore::engine::ColumnFamily;
use skerry_raftstore::keys;

use super::super::handling::kind_of;
use super::super::node::Node;
use super::*;

impl Invariants {
    /// A store sends a message.
    pub fn sent(&mut self, node: &Node, message: &RaftMessage) -> Result<(), Broken> {
        let from = message.from_peer.unwrap_or_default();
        hold(from.store() == node.id, OWN_NAME, || format!("{} sends for {from}", node.id))?;
        let is_promise = matches!(
            kind_of(&message.message),
            Some(MessageType::MsgRequestVoteResponse | MessageType::MsgAppendResponse)
        );
        if message.message.is_empty() || !is_promise {
            return Ok(());
        }
        let mut raft = Message::default();
        raft.merge_from_bytes(&message.message).expect("a store encoded it");
        if raft.reject {
            return Ok(());
        }
        let kept = node.disk().kept(message.region_id);
        let state = kept.state.clone().unwrap_or_default();
        let mut hard_state = HardState::default();
        hard_state.merge_from_bytes(&state.hard_state).expect("a store encoded it");
        let told = |what: &str| {
            format!(
                "{} r{}: {what}, its disk has {hard_state:?} and entries up to {:?}",
                node.id, message.region_id, kept.last
            )
        };
        match raft.get_msg_type() {
            MessageType::MsgRequestVoteResponse => {
                let is_durable = hard_state.term > raft.term
                    || hard_state.term == raft.term && hard_state.vote == raft.to;
                hold(is_durable, VOTE_DURABLE, || {
                    told(&format!("votes for {} in term {}", raft.to, raft.term))
                })
            }
            _ => {
                let last = kept.last.unwrap_or(0).max(state.last_index);
                // What a split or a snapshot begins with is in no log: the data engine has it, synced.
                let last = last.max(truncated(node, message.region_id));
                // A later leader's entries may have taken their place on the disk by the time it leaves.
                let is_durable = hard_state.term > raft.term
                    || hard_state.term == raft.term && last >= raft.index;
                hold(is_durable, APPEND_DURABLE, || {
                    told(&format!("acknowledges index {} in term {}", raft.index, raft.term))
                })
            }
        }
    }

    /// A store says that a write is done.
    pub fn answered(&self, region_id: u64, index: u64, term: u64) -> Result<(), Broken> {
        let mark = self.applied.get(&region_id).and_then(|known| known.get(&index));
        // Apply answers before its worker shows that it has applied.
        let is_true = mark.is_none_or(|mark| mark.term == term);
        hold(is_true, ANSWER_IS_TRUE, || {
            format!(
                "r{region_id}: index {index} of term {term} was acknowledged, applied is {mark:?}"
            )
        })
    }

    /// A store says that it leads.
    pub fn reported(&self, report: &RegionReport) -> Result<(), Broken> {
        let leader = self.leaders.get(&(report.region.id, report.term));
        let is_true = leader.is_none_or(|leader| *leader == report.leader.id);
        hold(is_true, REPORT_IS_TRUE, || {
            format!(
                "{} says that it leads {} in term {}, peer {leader:?} does",
                report.leader, report.region, report.term
            )
        })
    }
}

/// The last entry in front of a region's log, as its data engine has it: that of a split and of a snapshot is synced
/// before anybody speaks of it, and what a compaction leaves behind was durable in the log.
fn truncated(node: &Node, region_id: u64) -> u64 {
    let stored = node.disk().engine().get(ColumnFamily::Raft, &keys::apply_state(region_id));
    let stored = stored.expect("memory is read");
    let state = stored.map(|bytes| RaftApplyState::decode(&bytes[..]).expect("a store encoded it"));
    state.and_then(|state| state.truncated_state).map_or(0, |truncated| truncated.index)
}
