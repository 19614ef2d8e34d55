//! Changing the peers of a region, and handing leadership over.
//!
//! One change is simple; several enter the joint configuration, which a command without changes leaves. What
//! raft is told is made from the same request as the region's new list of peers, when apply has stored that.
//!
//! **Invariants.** At most one change is under way; while joint, only leaving is. After each, raft's
//! configuration is the region's. A leader that removes itself tells the others what is committed first.

use std::sync::Arc;

use raft::ProgressState;
use raft::eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};
use skerry_proto::metapb::{self, PeerRole};
use skerry_proto::raft_cmdpb::{ChangePeerV2Request, TransferLeaderRequest, admin_request};
use skerry_proto::{eraftpb, raft_cmdpb};
use slog::info;

use super::{Peer, assert_same_configuration, epoch_not_match};
use crate::effects::Effects;
use crate::message::{AdminDone, Waiters};
use crate::planted::Planted;
use crate::region::change_peers;
use crate::reply::{Refusal, Reply};

/// How far an heir may be behind.
const TRANSFER_LAG_MAX: u64 = 128;

/// Raft's form of a change.
fn raft_change(request: &ChangePeerV2Request) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    let single = |change: &raft_cmdpb::ChangePeerRequest| {
        let kind = match change.change_type() {
            eraftpb::ConfChangeType::AddNode => ConfChangeType::AddNode,
            eraftpb::ConfChangeType::RemoveNode => ConfChangeType::RemoveNode,
            eraftpb::ConfChangeType::AddLearnerNode => ConfChangeType::AddLearnerNode,
        };
        let node_id = change.peer.unwrap_or_default().id;
        ConfChangeSingle { change_type: kind, node_id, ..ConfChangeSingle::default() }
    };
    change.set_changes(request.changes.iter().map(single).collect::<Vec<_>>().into());
    // Raft must never leave by itself: the region's epoch would not move.
    change.transition = match request.changes.len() {
        0 | 1 => ConfChangeTransition::Auto,
        _ => ConfChangeTransition::Explicit,
    };
    change
}

impl Peer {
    /// Proposes a change of the peers.
    pub(super) fn propose_membership(
        &mut self,
        epoch: &metapb::RegionEpoch,
        request: ChangePeerV2Request,
        reply: Reply<AdminDone>,
    ) {
        if let Err(refusal) = self.check_membership(epoch, &request) {
            return reply.refuse(refusal);
        }
        self.propose_writes();
        let change = raft_change(&request);
        let data = self.encode_admin(admin_request::Command::ChangePeerV2(request));
        match self.raft_group.propose_conf_change(data, change) {
            Ok(()) => {
                self.note_proposal(Waiters::Admin(Some(reply)));
                self.change_proposed = self.raft_group.raft.raft_log.last_index();
            }
            Err(_) => reply.refuse(self.refusal_of_raft()),
        }
    }

    fn check_membership(
        &self,
        epoch: &metapb::RegionEpoch,
        request: &ChangePeerV2Request,
    ) -> std::result::Result<(), Refusal> {
        if epoch.conf_ver != self.region().epoch().conf_ver {
            return Err(epoch_not_match(self.region()));
        }
        self.check_change()?;
        if self.raft_group.raft.has_pending_conf() {
            return Err(Refusal::Busy("another change of the peers is under way"));
        }
        let after = change_peers(self.region(), request).map_err(Refusal::Admin)?;
        let own = after.peer_by_id(self.peer.peer_id()).map(metapb::Peer::role);
        let votes = matches!(
            own,
            Some(PeerRole::Voter | PeerRole::IncomingVoter | PeerRole::DemotingVoter)
        );
        // Leaving the joint configuration must always be possible: a leader that it demotes steps down.
        if !votes && !request.changes.is_empty() {
            let reason = "the leader hands over before it leaves or becomes a learner".to_string();
            return Err(Refusal::Admin(reason));
        }
        self.check_promoted(&after)?;
        self.check_quorum_after(&after)
    }

    /// Who becomes a voter must not need a snapshot: the group could be unable to commit for long.
    fn check_promoted(&self, after: &metapb::Region) -> std::result::Result<(), Refusal> {
        let raft = &self.raft_group.raft;
        for peer in after.peers.iter().filter(|peer| !peer.is_learner()) {
            let was_learner =
                self.region().peer_by_id(peer.peer_id()).is_some_and(metapb::Peer::is_learner);
            let lags = |matched: u64| matched < self.raft_group.store().truncated().index;
            if was_learner && raft.prs().get(peer.id).is_none_or(|progress| lags(progress.matched))
            {
                return Err(Refusal::Admin(format!("{peer} still needs a snapshot")));
            }
        }
        Ok(())
    }

    /// Of the voters after the change a majority must have been heard lately.
    fn check_quorum_after(&self, after: &metapb::Region) -> std::result::Result<(), Refusal> {
        let patience = 2 * self.environment.config.election_ticks as u64;
        let voters = after
            .peers
            .iter()
            .filter(|peer| matches!(peer.role(), PeerRole::Voter | PeerRole::IncomingVoter));
        // What it knows from before it came to lead says nothing of who follows it.
        let lately = |tick: &u64| *tick > self.led_since && tick + patience >= self.ticks;
        let is_alive = |peer: &&metapb::Peer| {
            peer.id == self.peer.id
                || self.region().peer_by_id(peer.peer_id()).is_none()
                || self.heard.get(&peer.peer_id()).is_some_and(lately)
        };
        let (count, alive) = (voters.clone().count(), voters.filter(is_alive).count());
        match alive > count / 2 {
            true => Ok(()),
            false => Err(Refusal::Admin("too few voters that answer would be left".to_string())),
        }
    }

    /// The peers of the region have changed.
    pub(super) fn peers_changed(
        &mut self,
        region: Arc<metapb::Region>,
        change: &ConfChangeV2,
        effects: &mut Effects,
    ) {
        info!(self.environment.logger, "peers have changed"; "region" => %region);
        let Some(own) = region.peer_by_id(self.peer.peer_id()).copied() else {
            return self.was_removed(region, effects);
        };
        self.peer = own;
        self.heard.retain(|id, _| region.peer_by_id(*id).is_some());
        for peer in &region.peers {
            self.heard.entry(peer.peer_id()).or_insert(self.ticks);
        }
        self.raft_group.mut_store().set_region(region.clone());
        // A snapshot that waits for its turn has brought raft a configuration that is newer than this change.
        if self.raft_group.snap().is_none() {
            self.configure_raft(change);
        }
        self.step_down_if_demoted();
        let mut meta = self.environment.meta.lock().expect("no holder panics");
        meta.set_region(region, own.peer_id());
        drop(meta);
        self.update_delegate();
        self.report(effects);
    }

    fn configure_raft(&mut self, change: &ConfChangeV2) {
        let applied = self.raft_group.apply_conf_change(change);
        applied.expect("apply has checked that the change is possible");
        if self.environment.has(Planted::JointLeftEarly) && change.changes.len() > 1 {
            let left = self.raft_group.apply_conf_change(&ConfChangeV2::default());
            left.expect("it was entered just now");
        }
        assert_same_configuration(self);
    }

    /// A learner does not lead: raft lets it go on, and nobody would ever elect another.
    fn step_down_if_demoted(&mut self) {
        if self.is_leader() && self.peer.is_learner() {
            let term = self.raft_group.raft.term;
            self.raft_group.raft.become_follower(term, raft::INVALID_ID);
            self.pin_election_timeout();
        }
    }

    fn was_removed(&mut self, region: Arc<metapb::Region>, effects: &mut Effects) {
        if self.is_leader() {
            self.raft_group.ping();
            let messages = std::mem::take(&mut self.raft_group.raft.msgs);
            self.send_all(messages, effects);
        }
        self.raft_group.mut_store().set_region(region);
        self.end("it was removed from the region", effects);
    }

    /// Hands leadership over, to the named peer or to the best of several.
    pub(super) fn transfer_leader(
        &mut self,
        request: &TransferLeaderRequest,
        reply: Reply<AdminDone>,
    ) {
        let named = request.peer.as_slice();
        let candidates = if request.peers.is_empty() { named } else { &request.peers[..] };
        let matched = |peer: &&metapb::Peer| {
            self.raft_group.raft.prs().get(peer.id).map_or(0, |progress| progress.matched)
        };
        let heir =
            candidates.iter().filter(|peer| self.may_lead(peer)).max_by_key(matched).copied();
        match heir {
            Some(heir) => {
                self.raft_group.transfer_leader(heir.id);
                self.pin_election_timeout();
                reply.done(AdminDone { regions: vec![self.region().clone()] });
            }
            None => {
                let reason =
                    "nobody that was named can lead now: it must be a voter that follows closely";
                reply.refuse(Refusal::Admin(reason.to_string()));
            }
        }
    }

    fn may_lead(&self, peer: &metapb::Peer) -> bool {
        let raft = &self.raft_group.raft;
        let member = self.region().peer_by_id(peer.peer_id());
        let votes = member.is_some_and(|member| {
            matches!(member.role(), PeerRole::Voter | PeerRole::IncomingVoter)
        });
        let last = raft.raft_log.last_index();
        let needs = self.change_proposed.max(last.saturating_sub(TRANSFER_LAG_MAX));
        votes
            && raft.prs().get(peer.id).is_some_and(|progress| {
                let follows = progress.state == ProgressState::Replicate;
                // One that could not be reached for a while is probed until the next write, which an idle region
                // may never see.
                let has_all = progress.recent_active && progress.matched == last;
                progress.matched >= needs && (follows || has_all)
            })
    }
}
