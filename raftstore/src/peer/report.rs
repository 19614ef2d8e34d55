//! What a leader tells the scheduler about its region: at once when it comes to lead and when range or peers
//! change, because clients wait for that; when a replica is well again, because the scheduler gives no vote to one
//! that is not; and from time to time, more often while its peers are being changed.

use raft::ProgressState;
use skerry_proto::metapb::PeerRole;
use skerry_proto::types::PeerId;

use super::Peer;
use crate::effects::{Effects, RegionReport};
use crate::extent::Extent;

/// Ticks between reports while the region's peers are being changed: its next step may wait for one.
const UNSETTLED_REPORT_TICKS: u64 = 10;
/// Ticks after which a follower tells its store what was read of it.
const FOLLOWER_READS_TICKS: u64 = 10;

impl Peer {
    /// Reports from time to time, and when a replica is well again.
    pub(super) fn tick_report(&mut self, effects: &mut Effects) {
        if !self.is_leader() {
            return self.tick_follower_reads();
        }
        let is_settled = self.region().peers.iter().all(|peer| peer.role() == PeerRole::Voter);
        let usual = self.environment.config.report_ticks;
        let interval = if is_settled { usual } else { usual.min(UNSETTLED_REPORT_TICKS) };
        if self.ticks.is_multiple_of(interval) || self.has_recovery() {
            self.report(effects);
        }
    }

    /// Reports now, if it leads.
    pub fn report(&mut self, effects: &mut Effects) {
        if !self.is_leader() {
            return;
        }
        let now = self.environment.clock.monotonic();
        let (pending, down) = (self.pending(), self.down());
        self.reported_unwell =
            pending.iter().chain(down.iter().map(|(id, _)| id)).copied().collect();
        effects.reports.push(RegionReport {
            region: skerry_proto::metapb::Region::clone(self.region()),
            leader: self.peer,
            term: self.raft_group.raft.term,
            pending,
            down,
            size: self.size.extent,
            written: std::mem::take(&mut self.unreported),
            read: self.read_tally.take(),
            interval: std::mem::replace(&mut self.reported_at, now)..now,
        });
    }

    /// What is read of a follower counts for the store: its region's leader reports what it is asked itself.
    fn tick_follower_reads(&self) {
        if self.ticks.is_multiple_of(FOLLOWER_READS_TICKS) {
            let Extent { keys, bytes, .. } = self.read_tally.take();
            self.environment.follower_reads.count(keys, bytes);
        }
    }

    /// It comes to lead: what was written while it followed, its leader has reported, and what was read of it then
    /// is not what a leader is asked.
    pub(super) fn forget_flow(&mut self) {
        self.unreported = Extent::default();
        let Extent { keys, bytes, .. } = self.read_tally.take();
        self.environment.follower_reads.count(keys, bytes);
        self.reported_at = self.environment.clock.monotonic();
    }

    /// Whether a replica that was reported as pending or down is neither any more.
    fn has_recovery(&self) -> bool {
        if self.reported_unwell.is_empty() || !self.is_leader() {
            return false;
        }
        let (pending, down) = (self.pending(), self.down());
        let is_unwell = |id: &PeerId| pending.contains(id) || down.iter().any(|(it, _)| it == id);
        !self.reported_unwell.iter().all(is_unwell)
    }

    /// Replicas that need a snapshot before they count.
    fn pending(&self) -> Vec<PeerId> {
        let truncated = self.raft_group.store().truncated().index;
        let lags = |(id, progress): (&u64, &raft::Progress)| {
            (progress.state == ProgressState::Snapshot || progress.matched < truncated)
                .then_some(PeerId::new(*id))
        };
        let mut pending: Vec<PeerId> = self.raft_group.raft.prs().iter().filter_map(lags).collect();
        pending.sort_unstable();
        pending
    }

    /// Replicas that have been silent for long, and for how many ticks.
    fn down(&self) -> Vec<(PeerId, u64)> {
        let patience = self.environment.config.election_ticks as u64;
        let others = self.heard.iter().filter(|(id, _)| id.get() != self.peer.id);
        let silences = others.map(|(id, tick)| (*id, self.ticks - tick));
        silences.filter(|(_, ticks)| *ticks > patience).collect()
    }
}
