//! Hibernation: replicas of a region in which nothing happens fall asleep, and cost nothing.
//!
//! 1. A leader counts the ticks in which nobody read or wrote and every member had all that there is.
//! 2. After enough of them it asks the members, right behind a heartbeat, whether they can rest. One whose log ends
//!    at the same entry, with all of it applied and nothing under way, falls asleep and says so.
//! 3. If all have said so before the next heartbeat, the leader falls asleep as well. Otherwise that heartbeat wakes
//!    those who have, and it asks again after a while.
//! 4. Whatever is for a replica wakes it: a command, a message, an answer of another actor. What a woken leader says
//!    first wakes the others; a follower that was woken alone asks its leader to wake.
//! 5. That stores live they tell each other, for all their regions at once ([`crate::store`]). One that falls
//!    silent, or was started anew, wakes all who mind it: those whom it leads, and those who lead a replica on it.
//!
//! For a sleeper no time passes: what it counts in ticks goes on where it stood. Only leases end by the clock.
//!
//! **Invariants.**
//!
//! 1. A leader sleeps only after all members have the same log, committed and applied.
//! 2. A follower that wakes counts towards an election the ticks since its leader's *store* was heard. Its leader
//!    itself has not spoken since then, so that it keeps what its last answer has promised to the leader's lease.
//! 3. Nobody sleeps through the silence of a store that it minds, nor for ever.
//!
//! What it does not do: regions with a learner or in the middle of a change of peers stay awake, and so do those with a
//! replica on a dead store, or on one that takes longer to answer than there is between two heartbeats. A round of
//! garbage collection, every ten minutes, wakes all.

use std::collections::BTreeSet;
use std::time::Duration;

use raft::StateRole;
use skerry_proto::metapb::{self, PeerRole};
use skerry_proto::raft_serverpb::{ExtraMessageType, Rest};
use skerry_proto::types::{PeerId, StoreId};

use super::Peer;
use crate::effects::Effects;
use crate::extent::Extent;
use crate::planted::Planted;

/// So many times as long as another one does a sleeping leader wait with a report that has nothing new.
const EMPTY_REPORT_INTERVALS: u32 = 5;
/// Looks after which a replica is woken to see whether it still belongs.
const LOOKS_MAX: u32 = 10;

/// How a replica stands to its sleep.
#[derive(Debug, Default)]
pub(super) struct Sleep {
    is_asleep: bool,
    /// Ticks in which nothing has happened, at a leader.
    quiet_ticks: u64,
    /// Its last entry at the last tick, and the keys that its tally had counted.
    seen: (u64, u64),
    /// The members shall be asked, behind what is about to leave: the heartbeats of this tick.
    is_due: bool,
    /// Whom it has asked and not heard yet, since the last heartbeat.
    asked: Option<Asked>,
    /// Who has asked this one, and what.
    asked_by: Option<(metapb::Peer, Rest)>,
    /// How often it was found asleep.
    looks: u32,
}

/// What a leader has asked, and who has not answered.
#[derive(Debug)]
struct Asked {
    rest: Rest,
    awaited: BTreeSet<PeerId>,
}

impl Peer {
    /// Whether it need not be ticked.
    pub fn is_asleep(&self) -> bool {
        self.sleep.is_asleep
    }

    /// Something is for it. `silence` tells for how many ticks a store has not been heard.
    pub fn wake(&mut self, silence: impl Fn(StoreId) -> u64) {
        if !self.sleep.is_asleep {
            return;
        }
        self.sleep = Sleep::default();
        let patience = self.environment.config.election_ticks;
        let leader = self.leader().filter(|_| !self.is_leader());
        let silent = leader.map_or(0, |leader| silence(leader.store()));
        let silent = match self.environment.has(Planted::WokenImpatient) {
            true => patience,
            false => usize::try_from(silent).unwrap_or(patience).min(patience),
        };
        self.raft_group.raft.election_elapsed = silent;
    }

    /// Whether it must wake when this store falls silent or was started anew.
    pub fn minds(&self, store: StoreId) -> bool {
        match self.is_leader() {
            true => self.region().peer_on_store(store).is_some(),
            false => self.leader().is_none_or(|leader| leader.store() == store),
        }
    }

    /// A look at all replicas of the store finds it asleep. A leader reports all the same: soon what was read and
    /// written before it slept, seldom that nothing was. Answers whether it has slept so long that it shall see
    /// whether it still belongs.
    pub fn look_in(&mut self, effects: &mut Effects) -> bool {
        self.sleep.looks += 1;
        let config = &self.environment.config;
        let interval = Duration::from_millis(config.report_ticks * config.tick_ms);
        let age = self.environment.clock.monotonic().saturating_sub(self.reported_at);
        let has_news = self.unreported != Extent::default() || self.read_tally.keys() > 0;
        let patience = if has_news { 1 } else { EMPTY_REPORT_INTERVALS };
        // Looks come once in an interval, give or take a tick.
        if age + interval / 2 >= interval * patience {
            self.report(effects);
        }
        self.sleep.looks >= LOOKS_MAX
    }

    /// Counts quiet ticks; at a follower it sees to it that its leader is awake as well.
    pub(super) fn tick_sleep(&mut self, effects: &mut Effects) {
        if !self.is_leader() {
            return self.wake_leader(effects);
        }
        let after = self.environment.config.hibernate_after_ticks;
        let seen = (self.raft_group.raft.raft_log.last_index(), self.read_tally.keys());
        let is_used = seen != std::mem::replace(&mut self.sleep.seen, seen);
        self.sleep.quiet_ticks = match after > 0 && !is_used && self.is_group_at_rest() {
            true => self.sleep.quiet_ticks + 1,
            false => 0,
        };
        let heartbeats_leave = !self.raft_group.raft.msgs.is_empty() || self.is_alone();
        self.sleep.is_due = after > 0 && self.sleep.quiet_ticks >= after && heartbeats_leave;
    }

    /// A follower that two heartbeats have not reached, or four, may have been woken alone.
    fn wake_leader(&mut self, effects: &mut Effects) {
        let two_heartbeats = 2 * self.environment.config.heartbeat_ticks as u64;
        let Some(leader) = self.leader() else { return };
        let silence = self.heard.get(&leader.peer_id()).map_or(0, |tick| self.ticks - tick);
        if silence > 0 && silence.is_multiple_of(two_heartbeats) {
            self.send_extra(leader, ExtraMessageType::MsgRegionWakeUp, None, effects);
        }
    }

    /// The last thing in a round: asks the members to rest if it is time, and rests if all do or if it was asked. What
    /// raft had to say has left before: what came later would wake others.
    pub(super) fn rest(&mut self, effects: &mut Effects) {
        if std::mem::take(&mut self.sleep.is_due) && self.is_group_at_rest() {
            self.ask_members(effects);
        }
        if let Some((leader, rest)) = self.sleep.asked_by.take() {
            self.rest_as_asked(leader, rest, effects);
        }
        let last = self.raft_group.raft.raft_log.last_index();
        let asked = self.sleep.asked.as_ref();
        let all_do = asked.is_some_and(|it| it.awaited.is_empty() && it.rest.index == last);
        if all_do && self.is_group_at_rest() && !self.raft_group.has_ready() {
            self.fall_asleep();
        }
    }

    fn ask_members(&mut self, effects: &mut Effects) {
        let raft = &self.raft_group.raft;
        let rest = Rest { term: raft.term, index: raft.raft_log.last_index(), round: self.ticks };
        let members = self.region().peers.iter().copied();
        let others: Vec<metapb::Peer> = members.filter(|peer| peer.id != self.peer.id).collect();
        self.sleep.quiet_ticks = 0;
        let awaited = others.iter().map(metapb::Peer::peer_id).collect();
        self.sleep.asked = Some(Asked { rest, awaited });
        for other in others {
            self.send_extra(other, ExtraMessageType::MsgHibernateRequest, Some(rest), effects);
        }
    }

    /// The leader asks this replica to rest.
    pub(super) fn asked_to_rest(&mut self, from: metapb::Peer, rest: Rest) {
        self.sleep.asked_by = Some((from, rest));
    }

    fn rest_as_asked(&mut self, leader: metapb::Peer, rest: Rest, effects: &mut Effects) {
        let raft = &self.raft_group.raft;
        let follows = raft.state == StateRole::Follower
            && raft.leader_id == leader.id
            && (raft.term, raft.raft_log.last_index()) == (rest.term, rest.index);
        if follows && self.is_at_rest() && !self.raft_group.has_ready() {
            self.fall_asleep();
            self.send_extra(leader, ExtraMessageType::MsgHibernateResponse, Some(rest), effects);
        }
    }

    /// A member rests.
    pub(super) fn member_rests(&mut self, from: metapb::Peer, rest: &Rest) {
        if let Some(asked) = self.sleep.asked.as_mut().filter(|asked| asked.rest == *rest) {
            asked.awaited.remove(&from.peer_id());
        }
    }

    fn fall_asleep(&mut self) {
        self.sleep = Sleep { is_asleep: true, ..Sleep::default() };
    }

    /// A heartbeat leaves, which wakes whoever rests.
    pub(super) fn forget_who_rests(&mut self) {
        self.sleep.asked = None;
    }

    /// Whether all that this replica has is committed and applied, and nothing is under way.
    fn is_at_rest(&self) -> bool {
        let log = &self.raft_group.raft.raft_log;
        let last = log.last_index();
        self.is_touchable()
            && self.is_initialised()
            && self.is_idle()
            && (log.committed, self.applied.applied_index) == (last, last)
            && self.deaf_ticks == 0
            && self.invitation.is_none()
            && self.proposals.is_empty()
            && self.writes.is_empty()
            && self.reads.is_empty()
    }

    /// Whether that holds at the leader, and every member has answered lately that it has the same.
    fn is_group_at_rest(&self) -> bool {
        let raft = &self.raft_group.raft;
        let last = raft.raft_log.last_index();
        let patience = self.environment.config.election_ticks as u64;
        let has_all = |peer: &metapb::Peer| {
            let has_all = raft.prs().get(peer.id).is_some_and(|progress| progress.matched == last);
            let spoke = self.heard.get(&peer.peer_id());
            let spoke_lately = spoke.is_some_and(|tick| tick + patience >= self.ticks);
            peer.role() == PeerRole::Voter && has_all && (peer.id == self.peer.id || spoke_lately)
        };
        self.is_leader()
            && self.is_at_rest()
            && self.applied_term == raft.term
            && raft.lead_transferee.is_none()
            && !raft.has_pending_conf()
            && !self.raft_group.store().has_snapshot_order()
            && self.reported_unwell.is_empty()
            && self.due_cut().is_none()
            && self.region().peers.iter().all(has_all)
    }

    fn is_alone(&self) -> bool {
        self.region().peers.len() == 1
    }
}
