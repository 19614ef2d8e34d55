//! What a leader tells the scheduler about its region: at once when it comes to lead and when range or peers
//! change, because clients wait for that, and from time to time.

use raft::ProgressState;
use skerry_proto::types::PeerId;

use super::Peer;
use crate::effects::{Effects, RegionReport};

impl Peer {
    /// Reports from time to time.
    pub(super) fn tick_report(&mut self, effects: &mut Effects) {
        if self.ticks.is_multiple_of(self.environment.config.report_ticks) {
            self.report(effects);
        }
    }

    /// Reports now, if it leads.
    pub(super) fn report(&mut self, effects: &mut Effects) {
        if !self.is_leader() {
            return;
        }
        let truncated = self.raft_group.store().truncated().index;
        let lags = |(id, progress): (&u64, &raft::Progress)| {
            (progress.state == ProgressState::Snapshot || progress.matched < truncated)
                .then_some(PeerId::new(*id))
        };
        let mut pending: Vec<PeerId> = self.raft_group.raft.prs().iter().filter_map(lags).collect();
        pending.sort_unstable();
        let silence = self.environment.config.election_ticks as u64;
        let others = self.heard.iter().filter(|(id, _)| id.get() != self.peer.id);
        let down =
            others.map(|(id, tick)| (*id, self.ticks - tick)).filter(|(_, ticks)| *ticks > silence);
        effects.reports.push(RegionReport {
            region: skerry_proto::metapb::Region::clone(self.region()),
            leader: self.peer,
            term: self.raft_group.raft.term,
            pending,
            down: down.collect(),
            size: self.size,
        });
    }
}
