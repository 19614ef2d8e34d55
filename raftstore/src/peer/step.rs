//! Messages from other replicas: who may speak, and what raft may hear.
//!
//! The crate panics on some well-formed messages, and trusts what it is told. So a message is looked at first:
//! sender and receiver, then the kind, then the shape. What does not fit is dropped; raft repeats what
//! matters.
//!
//! **Invariant.** A heartbeat of the current leader that says more is committed than this replica has means
//! that the replica lost entries it had acknowledged. It ends the store, naming the region.

use std::collections::BTreeMap;

use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{ExtraMessage, ExtraMessageType, RaftMessage};
use skerry_proto::types::PeerId;
use slog::debug;

use super::Peer;
use crate::Result;
use crate::effects::Effects;
use crate::environment::Counters;
use crate::state::damaged;

/// Replicas whose place is remembered. A region has far fewer.
const ADDRESSES_MAX: usize = 32;

impl Peer {
    /// A message of another replica, already known to be for this store. An error says that the log has lost what
    /// it had acknowledged: it ends the store.
    pub fn step(&mut self, envelope: RaftMessage, effects: &mut Effects) -> Result<()> {
        let (Some(from), Some(to)) = (envelope.from_peer, envelope.to_peer) else { return Ok(()) };
        if !self.is_touchable() || !self.is_for_this(&envelope, from, to, effects) {
            return Ok(());
        }
        self.note_sender(from);
        if let Some(extra) = &envelope.extra_msg {
            self.step_extra(from, extra);
            return Ok(());
        }
        let Ok(message) = Message::parse_from_bytes(&envelope.message) else {
            self.refuse_message("it cannot be read");
            return Ok(());
        };
        let is_addressed = message.from == from.id && message.to == to.id;
        match is_addressed && is_plausible(&message) && self.may_hear(&message)? {
            true => self.step_raft(message, effects),
            false => self.refuse_message("raft must not hear it"),
        }
        Ok(())
    }

    /// Whether this replica is meant, by one that belongs to the region as far as both know; others are answered here.
    fn is_for_this(
        &mut self,
        envelope: &RaftMessage,
        from: metapb::Peer,
        to: metapb::Peer,
        effects: &mut Effects,
    ) -> bool {
        if from.id == self.peer.id {
            self.refuse_message("it pretends to be of the replica itself");
            return false;
        }
        let epoch = envelope.region_epoch.unwrap_or_default();
        if to.id > self.peer.id {
            // The region does not count this one any more.
            self.end("a newer replica is wanted in its place", effects);
            return false;
        }
        if to.id < self.peer.id {
            // Whoever knows nobody but former replicas would otherwise never hear that it was removed as well.
            if !envelope.is_tombstone && self.is_former_member(&from, &epoch) {
                self.send_tombstone(from, envelope, effects);
            }
            return false;
        }
        if envelope.is_tombstone {
            self.told_to_end(&epoch, effects);
            return false;
        }
        if self.is_former_member(&from, &epoch) {
            self.send_tombstone(from, envelope, effects);
            return false;
        }
        self.named_in = self.named_in.max(epoch.conf_ver);
        true
    }

    /// Remembers where to answer, and when it has spoken. Of those who are no members, as everybody is to a replica
    /// that does not know its region yet, only a few are remembered: anybody may claim to be one.
    fn note_sender(&mut self, from: metapb::Peer) {
        self.addresses.insert(from.peer_id(), from);
        self.heard.insert(from.peer_id(), self.ticks);
        let region = self.raft_group.store().region();
        if let Some(forgotten) = forget_a_stranger(&mut self.addresses, region) {
            self.heard.remove(&forgotten);
        }
    }

    fn refuse_message(&self, reason: &'static str) {
        debug!(self.environment.logger, "a message is dropped"; "region" => %self.region(), "reason" => reason);
        Counters::add(&self.environment.counters.messages_refused, 1);
    }

    /// Whether the sender was removed from the region and does not know it.
    fn is_former_member(&self, from: &metapb::Peer, epoch: &metapb::RegionEpoch) -> bool {
        self.is_initialised()
            && epoch.conf_ver < self.region().epoch().conf_ver
            && self.region().peer_by_id(from.peer_id()).is_none()
    }

    fn send_tombstone(&self, to: metapb::Peer, heard: &RaftMessage, effects: &mut Effects) {
        effects.send.push(tombstone_for(to, heard, self.peer, self.region().epoch()));
    }

    /// What replicas say beside raft. That this one was woken by it may be all that it shall do.
    fn step_extra(&mut self, from: metapb::Peer, extra: &ExtraMessage) {
        let rest = extra.rest.unwrap_or_default();
        match extra.r#type() {
            ExtraMessageType::MsgHibernateRequest => self.asked_to_rest(from, rest),
            ExtraMessageType::MsgHibernateResponse => self.member_rests(from, &rest),
            // A member that asks whether it still is one: it is, so its leader has to find it again.
            ExtraMessageType::MsgCheckStalePeer => {
                debug!(self.environment.logger, "a lonely replica asks"; "from" => %from);
            }
            _ => {}
        }
    }

    /// The kinds that come from the network, in the shapes that the crate can bear.
    fn may_hear(&self, message: &Message) -> Result<bool> {
        use MessageType::{
            MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgReadIndex,
            MsgReadIndexResp, MsgRequestPreVote, MsgRequestPreVoteResponse, MsgRequestVote,
            MsgRequestVoteResponse, MsgSnapshot, MsgTimeoutNow, MsgTransferLeader,
        };
        Ok(match message.get_msg_type() {
            MsgAppend => is_contiguous(message),
            MsgAppendResponse => self.has_sent(message),
            MsgReadIndex | MsgReadIndexResp => message.entries.len() == 1,
            MsgHeartbeat => self.has_what_is_committed(message)?,
            MsgRequestVote | MsgRequestPreVote => self.deaf_ticks == 0,
            MsgSnapshot => message.has_snapshot(),
            MsgHeartbeatResponse
            | MsgRequestVoteResponse
            | MsgRequestPreVoteResponse
            | MsgTimeoutNow
            | MsgTransferLeader => true,
            _ => false,
        })
    }

    /// A leader has sent what it is told about. Raft would go on behind it, where there is nothing.
    fn has_sent(&self, message: &Message) -> bool {
        !self.is_leader() || message.index <= self.raft_group.raft.raft_log.last_index()
    }

    fn has_what_is_committed(&self, message: &Message) -> Result<bool> {
        let (raft, commit) = (&self.raft_group.raft, message.commit);
        let last = raft.raft_log.last_index();
        if commit > last && message.term == raft.term && raft.leader_id == message.from {
            let reason = format!(
                "it has lost acknowledged entries: it ends with {last}, the leader knows that it had {commit}"
            );
            return Err(damaged(self.region_id(), reason));
        }
        // More is said by an old leader, or by one that stood for election on the word of a stranger.
        Ok(commit <= last)
    }

    fn step_raft(&mut self, message: Message, effects: &mut Effects) {
        let kind = message.get_msg_type();
        if kind == MessageType::MsgSnapshot && !self.may_accept(&message, effects) {
            return;
        }
        if kind == MessageType::MsgTransferLeader {
            // From a follower that wants to lead; only the scheduler may want that.
            return;
        }
        if kind == MessageType::MsgTimeoutNow && !self.is_idle() {
            // It would campaign with an old configuration, lead with entries that are not durable, or ask for
            // entries that its snapshot stands for. The leader proposes nothing until it has given up, an election
            // timeout from now, and does not ask again: so it is not forgotten.
            self.invitation = Some((self.ticks, message));
            return;
        }
        if kind == MessageType::MsgReadIndex {
            return self.step_read_index(message);
        }
        let stepped = self.raft_group.step(message);
        if let Err(error) = stepped {
            debug!(self.environment.logger, "raft refuses a message"; "kind" => ?kind, "error" => %error);
        }
        self.pin_election_timeout();
        if kind == MessageType::MsgSnapshot {
            self.release_refused_snapshot(effects);
        }
        self.note_role(effects);
    }

    /// Whether nothing is on its way to the disk, to apply or to the engine.
    pub(super) fn is_idle(&self) -> bool {
        self.unpersisted.is_empty()
            && self.handed == self.applied.applied_index
            && self.installing.is_none()
    }

    /// Something was persisted or applied, for which an invitation to lead may have waited. The leader has given up by
    /// now one that is as old as an election timeout.
    pub(super) fn step_invitation(&mut self, effects: &mut Effects) {
        if !self.is_touchable() || !self.is_idle() {
            return;
        }
        let Some((invited_at, message)) = self.invitation.take() else { return };
        let age_max =
            u64::try_from(self.environment.config.election_ticks).expect("a small number");
        if self.ticks - invited_at < age_max {
            self.step_raft(message, effects);
        }
    }

    /// A message could not be delivered.
    pub fn unreachable(&mut self, to: u64) {
        if self.is_touchable() {
            self.raft_group.report_unreachable(to);
        }
    }
}

/// Tells a replica that it is no member any more, as somebody who knows a newer epoch.
pub fn tombstone_for(
    to: metapb::Peer,
    heard: &RaftMessage,
    from: metapb::Peer,
    epoch: metapb::RegionEpoch,
) -> RaftMessage {
    RaftMessage {
        region_id: heard.region_id,
        from_peer: Some(from),
        to_peer: Some(to),
        region_epoch: Some(epoch),
        is_tombstone: true,
        ..RaftMessage::default()
    }
}

/// Terms and indexes above it do not occur. Raft adds to them without looking.
const NUMBER_MAX: u64 = u64::MAX >> 8;

/// The numbers are such that raft may count with them. What has no term, raft takes for its own: only a read that a
/// follower passes on has none, and raft insists on that when it passes it on again.
fn is_plausible(message: &Message) -> bool {
    let metadata = message.get_snapshot().get_metadata();
    let numbers = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        metadata.index,
        metadata.term,
    ];
    let needs_term = message.get_msg_type() != MessageType::MsgReadIndex;
    // Nobody asks for snapshots in that way here.
    (message.term > 0) == needs_term
        && message.request_snapshot == 0
        && numbers.iter().all(|number| *number <= NUMBER_MAX)
}

/// Entries follow each other and the entry that they are to be appended to, in index and in term. Only what stands
/// before all entries has no term: raft takes a missing term for that of what it does not have.
fn is_contiguous(message: &Message) -> bool {
    let (mut index, mut term) = (message.index, message.log_term);
    (index == 0) == (term == 0)
        && message.entries.iter().all(|entry| {
            let follows = entry.index == index + 1 && entry.term >= term.max(1);
            (index, term) = (entry.index, entry.term);
            follows && term <= message.term
        })
}

/// Forgets one that is no member if there are too many.
fn forget_a_stranger(
    addresses: &mut BTreeMap<PeerId, metapb::Peer>,
    region: &metapb::Region,
) -> Option<PeerId> {
    if addresses.len() <= ADDRESSES_MAX {
        return None;
    }
    let is_stranger = |id: &&PeerId| region.peer_by_id(**id).is_none();
    let stranger = addresses.keys().find(is_stranger).copied()?;
    addresses.remove(&stranger);
    Some(stranger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_strangers_only_a_few_are_remembered_and_members_always() {
        let peer = |id| metapb::Peer { id, store_id: id, ..metapb::Peer::default() };
        let region = metapb::Region { peers: vec![peer(3), peer(2_000)], ..Default::default() };
        let mut addresses = BTreeMap::new();
        for id in [3, 2_000].into_iter().chain(1_000..1_500) {
            addresses.insert(PeerId::new(id), peer(id));
            forget_a_stranger(&mut addresses, &region);
        }
        assert_eq!(addresses.len(), ADDRESSES_MAX);
        assert!(region.peers.iter().all(|member| addresses.contains_key(&member.peer_id())));
        assert!(addresses.contains_key(&PeerId::new(1_499)), "the newest may be a new leader");
    }
}
