//! Cutting the log in front of what everybody has.
//!
//! The leader proposes the cut, so that all replicas agree on where their logs begin. Entries go later, in the
//! background, when the data engine has made what they stand for durable.
//!
//! **Invariants.** The cut is never behind what is applied, nor behind an entry that a snapshot in flight will
//! need; a follower that lags is waited for until the log is too long. A snapshot that waits to be sent holds the
//! log no longer than the follower it is for: that one may get it from another leader, or go away.

use raft::ProgressState;
use skerry_proto::raft_cmdpb::{CompactLogRequest, admin_request};

use super::Peer;
use crate::message::{AdminDone, Waiters};
use crate::reply::{Refusal, Reply};

impl Peer {
    /// Looks at the log's length from time to time.
    pub(super) fn tick_log_gc(&mut self) {
        let config = self.environment.config.clone();
        if !self.ticks.is_multiple_of(config.log_gc_ticks) || !self.is_leader() {
            return;
        }
        let truncated = self.raft_group.store().truncated().index;
        let length = self.applied.applied_index.saturating_sub(truncated);
        if self.replicated() >= truncated || length > config.log_gc_count_max {
            self.raft_group.mut_store().forget_waiting_snapshot();
        }
        if let Some(index) = self.due_cut() {
            self.propose_compaction(index, None);
        }
    }

    /// Where the log should be cut now, if it is long enough.
    pub(super) fn due_cut(&self) -> Option<u64> {
        let config = &self.environment.config;
        let truncated = self.raft_group.store().truncated().index;
        let limit = self.cut_limit();
        let is_too_long = limit.saturating_sub(truncated) > config.log_gc_count_max;
        let index = if is_too_long { limit } else { self.replicated().min(limit) };
        (index.saturating_sub(truncated) >= config.log_gc_threshold).then_some(index)
    }

    /// Cuts in front of what everybody has, however little that is.
    pub fn cut_log(&mut self) {
        let index = self.replicated().min(self.cut_limit());
        if self.is_touchable()
            && self.is_leader()
            && index > self.raft_group.store().truncated().index
        {
            self.propose_compaction(index, None);
        }
    }

    /// What all peers have.
    fn replicated(&self) -> u64 {
        let progress = self.raft_group.raft.prs().iter().map(|(_, progress)| progress.matched);
        progress.min().unwrap_or(0)
    }

    /// No cut may go further.
    fn cut_limit(&self) -> u64 {
        let in_flight = self.raft_group.raft.prs().iter().filter_map(|(_, progress)| {
            (progress.state == ProgressState::Snapshot).then_some(progress.pending_snapshot)
        });
        let building = self.raft_group.store().has_snapshot_order();
        let building = building.then(|| self.raft_group.store().truncated().index);
        in_flight.chain(building).fold(self.applied.applied_index, u64::min)
    }

    /// Proposes that entries up to `index` go.
    pub(super) fn propose_compaction(&mut self, index: u64, reply: Option<Reply<AdminDone>>) {
        let store = self.raft_group.store();
        let allowed = store.truncated().index + 1..=self.applied.applied_index;
        if !allowed.contains(&index) {
            let reason = format!("entries {allowed:?} may go");
            return Waiters::Admin(reply).refuse(Refusal::Admin(reason));
        }
        let compact_term = raft::Storage::term(store, index).expect("it is in the log");
        let request = CompactLogRequest { compact_index: index, compact_term };
        let data = self.encode_admin(admin_request::Command::CompactLog(request));
        self.propose(data, Waiters::Admin(reply));
    }
}
