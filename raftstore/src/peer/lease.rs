//! The time during which a leader may answer reads alone, because no follower would elect another one.
//!
//! A lease is counted from the moment at which something was *sent* that a majority has answered since, so it
//! ends before the first follower that answered may listen to a candidate.
//!
//! **Invariant.** From the moment at which a leader tells another replica to take over it has no lease in that
//! term any more: the message may be delayed for long, and the replica that gets it waits for no silence.

use std::time::Duration;

use super::Peer;
use crate::registry::ReadDelegate;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lease {
    until: Option<Duration>,
    /// The term in which another replica was told to take over.
    handed_over: Option<u64>,
}

impl Lease {
    /// Its end.
    pub(super) fn until(&self) -> Option<Duration> {
        self.until
    }

    /// There is none any more.
    pub(super) fn end(&mut self) {
        self.until = None;
    }

    /// No lease in this term from now on.
    fn hand_over(&mut self, term: u64) {
        self.until = None;
        self.handed_over = Some(term);
    }

    fn renew(&mut self, term: u64, until: Duration) {
        if self.handed_over != Some(term) {
            self.until = self.until.max(Some(until));
        }
    }
}

impl Peer {
    /// Whether part of the range may be led elsewhere soon: a split is committed and not applied here. It may be
    /// committed without being in this replica's log durably, so what was handed to apply says nothing. Splits
    /// of former leaders are applied before a leader has any lease.
    pub(super) fn is_splitting(&self) -> bool {
        self.split_proposed > self.applied.applied_index
            && self.split_proposed <= self.raft_group.raft.raft_log.committed
    }

    /// A majority has answered what was sent at `sent_at`.
    pub(super) fn renew_lease(&mut self, sent_at: Duration) {
        if !self.is_leader()
            || self.is_splitting()
            || self.applied_term != self.raft_group.raft.term
        {
            return;
        }
        self.lease.renew(self.raft_group.raft.term, sent_at + self.environment.config.lease());
        if let (Some(delegate), Some(until)) = (&self.delegate, self.lease.until()) {
            delegate.set_lease(until);
        }
    }

    /// Another replica was told to take over.
    pub(super) fn hand_over_lease(&mut self) {
        self.lease.hand_over(self.raft_group.raft.term);
        if let Some(delegate) = &self.delegate {
            delegate.set_lease(Duration::ZERO);
        }
    }

    /// An own entry was applied, so a majority had it.
    pub(super) fn note_applied_proposal(&mut self, proposed_at: Option<Duration>) {
        if let Some(proposed_at) = proposed_at {
            self.renew_lease(proposed_at);
        }
    }

    /// Whether a read may be served at once.
    pub(super) fn has_lease(&self, now: Duration) -> bool {
        // The worker itself notes what is applied, so nothing comes between.
        self.delegate.as_ref().is_some_and(|delegate| delegate.holds(now, delegate.applied()))
    }

    /// Makes the delegate be what the replica is now.
    pub(super) fn update_delegate(&mut self) {
        let term = self.raft_group.raft.term;
        if !self.is_leader() || self.applied_term != term {
            return;
        }
        let region = self.region().clone();
        let current = self.delegate.as_ref();
        if current.is_none_or(|delegate| delegate.term != term || delegate.region != region) {
            let (reads, planted) = (self.read_tally.clone(), self.environment.planted);
            let delegate = ReadDelegate::new(region, self.peer, term, reads, planted);
            let delegate = Arc::new(delegate);
            delegate.raise_read_floor(self.reads.floor());
            delegate.set_lease(self.lease.until().unwrap_or_default());
            delegate.set_applied(self.applied.applied_index);
            self.environment.registry.set(delegate.clone());
            self.delegate = Some(delegate);
        }
        let delegate = self.delegate.as_ref().expect("made above");
        delegate.set_applied(self.applied.applied_index);
    }

    /// Reads go to the worker again.
    pub(super) fn drop_delegate(&mut self) {
        if self.delegate.take().is_some() {
            self.environment.registry.remove(self.region_id());
        }
    }
}
