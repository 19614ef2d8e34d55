//! What raft wants, turned into effects.
//!
//! 1. A Ready's messages of a leader leave at once; those of others wait until it is durable.
//! 2. Its entries, term and vote become a task of the log writer. A Ready without any of these is complete at
//!    once if nothing before it is on its way to the disk; otherwise its messages wait for the newest that is:
//!    they may acknowledge entries that are.
//! 3. Its committed entries go to apply at once; raft hands out only durable ones.
//!
//! A new commit index alone is not written: apply records what it knew to be committed, with the data.
//!
//! **Invariant.** Readies become durable in their order, and the log writer keeps the order of its tasks.

use prost::bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{INVALID_ID, Ready, StateRole};
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{ExtraMessage, ExtraMessageType, RaftMessage, Rest};
use skerry_proto::types::PeerId;

use super::Peer;
use crate::effects::Effects;
use crate::message::{ApplyMessage, ApplyTask, LogTask, Proposal};
use crate::planted::Planted;

/// A Ready on its way to the disk.
#[derive(Debug)]
pub(super) struct Unpersisted {
    /// The task's.
    task: u64,
    /// The newest Ready that is complete with it.
    number: u64,
    /// Leave when it is durable.
    messages: Vec<Message>,
}

impl Peer {
    /// Turns all that raft wants into effects. Called once after a round's messages.
    pub fn ready(&mut self, effects: &mut Effects) {
        if !self.is_touchable() || self.installing.is_some() {
            return;
        }
        self.propose_writes();
        self.begin_read_round();
        self.note_role(effects);
        self.choose_commit_broadcast();
        while self.is_touchable() && self.raft_group.has_ready() && self.may_take_ready() {
            self.keep_read_floor();
            let ready = self.raft_group.ready();
            self.handle_ready(ready, effects);
            self.note_role(effects);
        }
        if self.is_touchable() {
            self.order_snapshot(effects);
            self.rest(effects);
        }
    }

    /// Followers hear of a commit with the next entries or the next heartbeat: telling them at once would double
    /// the messages of a write that has its entry for itself. Only what changes the region, and what a new leader
    /// begins with, is told at once.
    fn choose_commit_broadcast(&mut self) {
        let can_wait = self.change_proposed <= self.applied.applied_index;
        self.raft_group.skip_bcast_commit(can_wait);
    }

    /// A snapshot replaces log and region: nothing may be under way for the former ones. And other actors must not
    /// be behind by more than the worker has credit for.
    fn may_take_ready(&self) -> bool {
        let is_idle = self.unpersisted.is_empty() && self.handed == self.applied.applied_index;
        self.installing.is_none()
            && (self.raft_group.snap().is_none() || is_idle)
            && self.environment.credits.suffice()
    }

    fn handle_ready(&mut self, mut ready: Ready, effects: &mut Effects) {
        self.send_all(ready.take_messages(), effects);
        self.rounds_answered(ready.take_read_states());
        // What lies behind is replaced by what this Ready brings.
        let kept = ready.entries().first().map_or(u64::MAX, |first| first.index - 1);
        self.hand_to_apply(ready.take_committed_entries(), kept, effects);
        let is_only_vote = ready.entries().is_empty() && ready.snapshot().is_empty();
        let forgets = is_only_vote && self.environment.has(Planted::VoteNotPersisted);
        let hard_state = ready.hs().filter(|_| ready.must_sync() && !forgets).cloned();
        let number = ready.number();
        let (must_sync, mut messages) = (ready.must_sync(), ready.take_persisted_messages());
        if self.environment.has(Planted::AcknowledgeBeforePersist) {
            self.send_all(std::mem::take(&mut messages), effects);
        }
        let (mut operations, data) = match ready.snapshot().is_empty() {
            false => self.accept_snapshot(&ready, number),
            true => (Vec::new(), None),
        };
        let credit = self.environment.credits.for_log(ready.entries());
        // Behind a snapshot there may be entries that came while it waited for its turn.
        let entries = ready.take_entries();
        operations.extend(self.raft_group.mut_store().append(number, entries, hard_state.as_ref()));
        self.raft_group.advance_append_async(ready);
        if !operations.is_empty() {
            self.unpersisted.push_back(Unpersisted { task: number, number, messages });
            let (region_id, serial) = (self.region_id(), self.serial);
            effects.log.push(LogTask {
                region_id,
                serial,
                number,
                operations,
                data,
                must_sync,
                credit,
            });
        } else if let Some(newest) = self.unpersisted.back_mut() {
            newest.number = number;
            newest.messages.extend(messages);
        } else {
            self.raft_group.on_persist_ready(number);
            self.send_all(messages, effects);
        }
    }

    /// The log writer has done the task with this number.
    pub fn persisted(&mut self, number: u64, effects: &mut Effects) {
        if self.is_burying(number) {
            return self.buried(effects);
        }
        while self.unpersisted.front().is_some_and(|first| first.task <= number) {
            let done = self.unpersisted.pop_front().expect("looked at above");
            if self.is_touchable() {
                self.raft_group.mut_store().persisted(done.task);
                if self.raft_group.store().may_tell_raft() {
                    // And of all before it that were not told.
                    self.raft_group.on_persist_ready(done.number);
                }
                self.send_all(done.messages, effects);
            }
            // Also of a replica that ends: it waits for the installation that begins here.
            self.snapshot_persisted(done.task, effects);
        }
        self.step_invitation(effects);
        self.continue_end(effects);
    }

    /// Hands over what is committed. Of the log on the disk entries up to `kept` stay as they are.
    fn hand_to_apply(&mut self, entries: Vec<Entry>, kept: u64, effects: &mut Effects) {
        let Some(last) = entries.last() else { return };
        let (last_index, last_term) = (last.index, last.term);
        assert_eq!(entries[0].index, self.handed + 1, "entries for apply have a gap");
        self.handed = last_index;
        let raft_log = &self.raft_group.raft.raft_log;
        // Others may have committed what is not durable here yet, and a start takes what is recorded for a
        // promise of the log.
        let durable = self.raft_group.store().durable_up_to().min(kept);
        let commit_index = raft_log.committed.min(durable).max(last_index);
        let commit_term = raft_log.term(commit_index).unwrap_or(last_term);
        effects.apply.push(ApplyMessage::Apply(Box::new(ApplyTask {
            region_id: self.region_id(),
            serial: self.serial,
            commit_index,
            commit_term,
            proposals: self.take_proposals(last_index, last_term),
            credit: self.environment.credits.for_apply(&entries),
            entries,
        })));
    }

    /// Proposals that these entries decide: up to their index, and those of earlier terms.
    fn take_proposals(&mut self, index: u64, term: u64) -> Vec<Proposal> {
        let decided = |proposal: &Proposal| proposal.index <= index || proposal.term < term;
        let mut taken = Vec::new();
        while self.proposals.front().is_some_and(decided) {
            taken.extend(self.proposals.pop_front());
        }
        taken
    }

    pub(super) fn send_all(&mut self, messages: Vec<Message>, effects: &mut Effects) {
        for message in messages {
            self.send(message, effects);
        }
    }

    fn send(&mut self, message: Message, effects: &mut Effects) {
        let Some(to_peer) = self.find_peer(PeerId::new(message.to)) else { return };
        match message.get_msg_type() {
            // It may win at any moment from now on.
            MessageType::MsgTimeoutNow => self.hand_over_lease(),
            MessageType::MsgHeartbeat => self.forget_who_rests(),
            MessageType::MsgReadIndexResp if self.role == StateRole::Leader => {
                self.raise_read_floor(self.raft_group.raft.raft_log.committed);
            }
            _ => {}
        }
        let region = self.region();
        // A store that does not have the replica yet needs the range to know whether it may.
        let begins = match message.get_msg_type() {
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => true,
            MessageType::MsgHeartbeat => message.commit == 0,
            _ => false,
        };
        let (start_key, end_key) = match begins && self.is_initialised() {
            true => (region.start_key.clone(), region.end_key.clone()),
            false => (Bytes::new(), Bytes::new()),
        };
        effects.send.push(RaftMessage {
            region_id: region.id,
            from_peer: Some(self.peer),
            to_peer: Some(to_peer),
            message: message.write_to_bytes().expect("no required fields").into(),
            region_epoch: Some(self.epoch_for(to_peer.peer_id())),
            start_key,
            end_key,
            ..RaftMessage::default()
        });
    }

    /// Says something beside raft.
    pub(super) fn send_extra(
        &self,
        to: metapb::Peer,
        kind: ExtraMessageType,
        rest: Option<Rest>,
        effects: &mut Effects,
    ) {
        if to.id == INVALID_ID {
            return;
        }
        let extra = ExtraMessage { r#type: kind.into(), rest, ..ExtraMessage::default() };
        effects.send.push(RaftMessage {
            region_id: self.region().id,
            from_peer: Some(self.peer),
            to_peer: Some(to),
            region_epoch: Some(self.epoch_for(to.peer_id())),
            extra_msg: Some(extra),
            ..RaftMessage::default()
        });
    }
}
