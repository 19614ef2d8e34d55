//! Cutting a region, as its leader proposes it and every replica follows it.
//!
//! The parts are born in apply, in one batch with the entry. The replica then notes all parts in the store's
//! meta in one step, and has the new ones begun. The child of a leader campaigns at once: it knows that the
//! others will be born by the same entry.
//!
//! **Invariant.** Only the replica that led the parent in the term in which it applied the split lets its child
//! campaign at once. Every other child waits for a whole election timeout, in which leases that the parent's
//! leader held over the child's range end.

use std::sync::Arc;

use skerry_proto::metapb;
use skerry_proto::raft_cmdpb::{BatchSplitRequest, admin_request};
use skerry_proto::types::RegionId;
use slog::info;

use super::{Peer, epoch_not_match};
use crate::effects::{Effects, SplitAsk};
use crate::extent::{Estimate, Extent};
use crate::message::{AdminDone, BackgroundTask, NewPeer, Origin, Waiters, WorkerMessage};
use crate::reply::{Refusal, Reply};

impl Peer {
    /// Proposes to cut the region.
    pub(super) fn propose_split(
        &mut self,
        epoch: &metapb::RegionEpoch,
        request: BatchSplitRequest,
        reply: Reply<AdminDone>,
        _: &mut Effects,
    ) {
        if let Err(refusal) = self.check_split(epoch, &request) {
            return reply.refuse(refusal);
        }
        self.propose_writes();
        let data = self.encode_admin(admin_request::Command::Splits(request));
        if self.propose(data, Waiters::Admin(Some(reply))) {
            self.change_proposed = self.raft_group.raft.raft_log.last_index();
            self.split_proposed = self.change_proposed;
        }
    }

    fn check_split(
        &self,
        epoch: &metapb::RegionEpoch,
        request: &BatchSplitRequest,
    ) -> std::result::Result<(), Refusal> {
        let region = self.region();
        if *epoch != region.epoch() {
            return Err(epoch_not_match(region));
        }
        self.check_change()?;
        crate::region::check_split(region, request).map_err(Refusal::Admin)
    }

    /// The region was cut.
    pub(super) fn was_split(
        &mut self,
        region: Arc<metapb::Region>,
        children: &[Arc<metapb::Region>],
        gone: &[RegionId],
        effects: &mut Effects,
    ) {
        info!(self.environment.logger, "region was cut"; "region" => %region, "into" => children.len() + 1);
        let store = self.environment.store_id;
        let mut parts = vec![(region.clone(), self.peer.peer_id())];
        let (dead, born): (Vec<_>, Vec<_>) =
            children.iter().partition(|child| gone.contains(&child.region_id()));
        for child in &born {
            let peer = child.peer_on_store(store).expect("children have the parent's stores");
            parts.push(((*child).clone(), peer.peer_id()));
        }
        let former = self.region().region_id();
        self.raft_group.mut_store().set_region(region);
        self.environment.meta.lock().expect("no holder panics").split(&parts, former);
        let leads = self.is_touchable() && self.is_leader();
        let campaign = leads && self.applied_term == self.raft_group.raft.term;
        let extent = self.size.extent / parts.len() as u64;
        for child in born {
            let peer = *child.peer_on_store(store).expect("looked at above");
            effects.workers.push(WorkerMessage::Create(Box::new(NewPeer {
                region: child.clone(),
                peer,
                origin: Origin::Split { campaign, extent },
                messages: Vec::new(),
            })));
        }
        for child in dead {
            effects.background.push(BackgroundTask::CleanRange { range: child.bounds().into() });
        }
        (self.size, self.unchecked) = (Estimate { extent, is_bound: false }, Extent::default());
        if self.is_touchable() {
            self.look_if_large(effects);
            self.update_delegate();
            self.report(effects);
        }
    }

    /// Has the region's size looked at when enough was written.
    pub(super) fn check_size(&mut self, written: Extent, effects: &mut Effects) {
        self.unchecked += written;
        self.size.extent += written;
        self.unreported += written;
        let due = self.environment.config.split_check_size.bytes();
        if self.is_leader() && self.unchecked.bytes >= due {
            self.look(effects);
        }
    }

    /// Has the size looked at of a region that is thought too large: one look cuts off a few parts only, and what
    /// another leader has found it may not have lived to do.
    pub(super) fn look_if_large(&mut self, effects: &mut Effects) {
        if self.is_leader() && self.environment.config.is_large(self.size.extent) {
            self.look(effects);
        }
    }

    fn look(&mut self, effects: &mut Effects) {
        self.unchecked = Extent::default();
        let (region, size) = (self.region().clone(), self.size);
        effects.background.push(BackgroundTask::CheckSplit { region, halve: false, size });
    }

    /// The region was looked at: it may have to be cut, for which the scheduler must give ids.
    pub fn split_keys_found(
        &mut self,
        epoch: metapb::RegionEpoch,
        keys: Vec<bytes::Bytes>,
        size: Estimate,
        effects: &mut Effects,
    ) {
        if !self.is_touchable() || epoch != self.region().epoch() {
            return;
        }
        // What was written meanwhile may not have been seen.
        self.size = Estimate { extent: size.extent + self.unchecked, ..size };
        if self.is_leader() && !keys.is_empty() {
            let (region, peer) = (self.region().clone(), self.peer);
            effects.split_asks.push(SplitAsk { region, peer, keys });
        }
    }
}
