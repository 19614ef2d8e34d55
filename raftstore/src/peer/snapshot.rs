//! Snapshots, as one replica sees them: ordering one for a follower, accepting one from a leader.
//!
//! Accepting, in this order:
//!
//! 1. before raft hears of it: the region must name this replica, its range must be free, and the files are
//!    here; then the range is held in the store's meta, which keeps the files from being collected;
//! 2. raft takes it, or finds that it has the log already; then the range is given back;
//! 3. when nothing is under way for the former log and region, the state *applying* goes to the data engine,
//!    synced, with a copy of the raft state; then the log is replaced, synced;
//! 4. the files are loaded in the background; the state becomes *normal*;
//! 5. the replica goes on.
//!
//! **Invariants.** Until step 5 no Ready is taken and no read is served. A crash after step 3 repeats step 4;
//! one within step 3 finds the copy and replaces the log by it.

use std::sync::Arc;

use prost::Message as _;
use raft::eraftpb::Message;
use raft::{Ready, SnapshotStatus};
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{
    PeerState, RaftApplyState, RaftSnapshotData, RaftTruncatedState, RegionLocalState,
};
use skerry_proto::types::PeerId;
use slog::{info, warn};

use super::Peer;
use crate::effects::Effects;
use crate::engine::log::LogOperation;
use crate::engine::{ColumnFamily, WriteBatch};
use crate::extent::Estimate;
use crate::keys;
use crate::message::{ApplyMessage, BackgroundTask, StoreMessage, WorkerMessage};
use crate::planted::Planted;
use crate::snapshot::{Side, SnapshotId};
use crate::state::local_state;

/// An accepted snapshot on its way into the data engine.
#[derive(Debug)]
pub(super) struct Installing {
    /// The task that makes the acceptance durable.
    task: u64,
    id: SnapshotId,
    region: Arc<metapb::Region>,
    state: RaftApplyState,
}

/// The region that a message's snapshot is of.
fn region_of(message: &Message) -> Option<metapb::Region> {
    RaftSnapshotData::decode(message.get_snapshot().data.clone()).ok()?.region
}

impl Peer {
    /// Orders the snapshot that raft wants for a follower, behind all that apply was handed.
    pub(super) fn order_snapshot(&mut self, effects: &mut Effects) {
        if self.raft_group.mut_store().take_snapshot_order() {
            let (region_id, serial) = (self.region_id(), self.serial);
            effects.apply.push(ApplyMessage::Snapshot { region_id, serial });
        }
    }

    /// The ordered snapshot is there, or could not be built.
    pub fn snapshot_built(
        &mut self,
        built: std::result::Result<Box<raft::eraftpb::Snapshot>, String>,
    ) {
        if let Err(reason) = &built {
            warn!(self.environment.logger, "a snapshot could not be built";
                "region" => %self.region(), "reason" => reason);
        }
        self.raft_group.mut_store().snapshot_built(built.ok());
    }

    /// A snapshot has reached a follower, or has not.
    pub fn snapshot_sent(&mut self, to: PeerId, arrived: bool) {
        if self.is_touchable() {
            let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
            self.raft_group.report_snapshot(to.get(), status);
        }
    }

    /// Whether raft may hear of this snapshot. If so its range is held.
    pub(super) fn may_accept(&mut self, message: &Message, effects: &mut Effects) -> bool {
        let metadata = message.get_snapshot().get_metadata();
        let Some(region) = region_of(message) else { return false };
        let is_stale = metadata.index <= self.raft_group.raft.raft_log.committed
            || message.term < self.raft_group.raft.term;
        if is_stale {
            // Raft answers at once with what it has; unless the snapshot contradicts that.
            let committed = &self.raft_group.raft.raft_log;
            return metadata.index != committed.committed
                || committed.match_term(metadata.index, metadata.term)
                || message.term < self.raft_group.raft.term;
        }
        let names_us = region.peer_by_id(self.peer.peer_id()).is_some();
        let is_under_way = self.raft_group.snap().is_some() || self.installing.is_some();
        if !names_us || region.id != self.region().id || is_under_way {
            return false;
        }
        let mut meta = self.environment.meta.lock().expect("no holder panics");
        let region_id = self.region_id();
        let is_born = meta.region(region_id).is_some() || meta.promised(region_id).is_some();
        if is_born && !self.is_initialised() {
            // By a split that was applied here: its replica is on its way to this worker, to take this one's place.
            return false;
        }
        let conflict = meta.conflict(&region.bounds(), region.region_id());
        let is_blind = self.environment.has(Planted::SnapshotOverRegion);
        if let Some(other) = conflict.filter(|_| !is_blind) {
            drop(meta);
            info!(self.environment.logger, "a snapshot has to wait for its range";
                "region" => %region, "held by" => %other);
            effects.store.push(StoreMessage::Unpark(region.region_id()));
            effects.workers.push(WorkerMessage::Rouse { region_id: other.region_id() });
            return false;
        }
        let id = SnapshotId { region_id: region.id, term: metadata.term, index: metadata.index };
        meta.accept_snapshot(Arc::new(region));
        drop(meta);
        // From here on its files are kept. If they were collected before, raft sends them again.
        let is_here = self.environment.snapshots.has(id, Side::Receiver);
        if !is_here {
            info!(self.environment.logger, "the files of a snapshot are gone"; "snapshot" => %id);
            let mut meta = self.environment.meta.lock().expect("no holder panics");
            meta.release_snapshot(self.region_id());
        }
        is_here
    }

    /// Gives the range back if raft did not want the snapshot.
    pub(super) fn release_refused_snapshot(&mut self, _: &mut Effects) {
        // One that comes again while it is being installed is refused, too: its range stays held.
        if self.raft_group.snap().is_none() && self.installing.is_none() {
            let mut meta = self.environment.meta.lock().expect("no holder panics");
            meta.release_snapshot(self.region_id());
        }
    }

    /// Step 3: what must be stored, in the log and before that in the data engine.
    pub(super) fn accept_snapshot(
        &mut self,
        ready: &Ready,
        task: u64,
    ) -> (Vec<LogOperation>, Option<WriteBatch>) {
        let snapshot = ready.snapshot();
        let metadata = snapshot.get_metadata();
        let data = RaftSnapshotData::decode(snapshot.data.clone()).expect("read when it came");
        let region = Arc::new(data.region.expect("looked at when it came"));
        let (index, term) = (metadata.index, metadata.term);
        assert!(index > self.applied.applied_index, "a snapshot goes back in {region}");
        let state = RaftApplyState {
            applied_index: index,
            truncated_state: Some(RaftTruncatedState { index, term }),
            commit_index: index,
            commit_term: term,
        };
        let storage = self.raft_group.mut_store();
        let operations = storage.accept_snapshot(region.clone(), snapshot, ready.hs());
        let raft_state = local_state(storage.hard_state(), index);
        let mut batch = WriteBatch::new();
        let local = RegionLocalState {
            state: PeerState::Applying.into(),
            region: Some(metapb::Region::clone(&region)),
        };
        let raft = ColumnFamily::Raft;
        batch.put(raft, keys::region_state(region.id), local.encode_to_vec());
        batch.put(raft, keys::apply_state(region.id), state.encode_to_vec());
        batch.put(raft, keys::snapshot_raft_state(region.id), raft_state.encode_to_vec());
        let id = SnapshotId { region_id: region.id, term, index };
        self.drop_delegate();
        self.leave_proposals_to_snapshot(index);
        self.installing = Some(Installing { task, id, region, state });
        (operations, Some(batch))
    }

    /// What was proposed here before another one led may be among what the snapshot stands for, or not: no entry will
    /// come to tell.
    fn leave_proposals_to_snapshot(&mut self, index: u64) {
        while self.proposals.front().is_some_and(|proposal| proposal.index <= index) {
            let proposal = self.proposals.pop_front().expect("looked at above");
            proposal.waiters.unknown("a snapshot came in the place of its entry");
        }
    }

    /// Step 4, once step 3 is durable.
    pub(super) fn snapshot_persisted(&mut self, task: u64, effects: &mut Effects) {
        let Some(installing) = self.installing.as_ref().filter(|it| it.task == task) else {
            return;
        };
        effects.background.push(BackgroundTask::InstallSnapshot {
            id: installing.id,
            region: installing.region.clone(),
            serial: self.serial,
            state: installing.state,
        });
    }

    /// Step 5.
    pub fn snapshot_installed(&mut self, effects: &mut Effects) {
        let installing = self.installing.take().expect("only who waits is told");
        let Installing { region, state, .. } = installing;
        info!(self.environment.logger, "snapshot installed"; "region" => %region, "index" => state.applied_index);
        let mut meta = self.environment.meta.lock().expect("no holder panics");
        let former = meta.region(region.region_id()).cloned();
        meta.release_snapshot(region.region_id());
        meta.set_region(region.clone(), self.peer.peer_id());
        drop(meta);
        // What the region had besides belongs to others, who clear it when they come, or to nobody.
        if let Some(former) = former {
            effects.background.push(BackgroundTask::CleanRange { range: former.bounds().into() });
        }
        self.applied = state;
        self.applied_term = state.commit_term;
        self.size = Estimate::default();
        self.handed = state.applied_index;
        self.peer = *region.peer_by_id(self.peer.peer_id()).expect("checked when it was accepted");
        effects.store.push(StoreMessage::Unpark(region.region_id()));
        if self.is_ending() {
            return self.continue_end(effects);
        }
        self.register(effects);
        self.raft_group.advance_apply_to(state.applied_index);
        super::assert_same_configuration(self);
    }
}
