//! The end of a replica.
//!
//! 1. It stops: reads are refused, what was proposed is answered *unknown*, apply is told to stop.
//! 2. When apply has stopped, nothing is on its way to the disk, and no snapshot is being installed, the
//!    tombstone is written to the data engine, synced; then the log is forgotten, synced.
//! 3. Then the store forgets the replica and its data goes, in the background.
//!
//! **Invariants.** From the tombstone on no late message makes it rise again: the tombstone has the newest epoch
//! that the replica knew and its own id. A crash between tombstone and log is repaired at start.
//!
//! It also asks for its end: a replica that sees no leader for long asks the others whether it still belongs.

use prost::Message as _;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{ExtraMessageType, PeerState, RegionLocalState};
use skerry_proto::types::PeerId;
use slog::info;

use super::Peer;
use crate::credits::Credit;
use crate::effects::Effects;
use crate::engine::log::LogOperation;
use crate::engine::{ColumnFamily, WriteBatch};
use crate::keys;
use crate::message::{ApplyMessage, BackgroundTask, LogTask};
use crate::planted::Planted;

/// The number of the last task: above those of all Readies.
const BURIAL: u64 = u64::MAX;

/// How a replica stands to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Alive,
    Ending { applier_stopped: bool },
    Burying,
    Buried,
}

impl Peer {
    /// Begins the end.
    pub(super) fn end(&mut self, reason: &'static str, effects: &mut Effects) {
        if self.life != Life::Alive {
            return;
        }
        info!(self.environment.logger, "replica ends"; "region" => %self.region(), "peer" => %self.peer,
            "reason" => reason);
        self.drop_delegate();
        self.end_writes();
        self.end_reads();
        for proposal in std::mem::take(&mut self.proposals) {
            proposal.waiters.unknown("the replica was removed before the command was decided");
        }
        let applier_stopped = !self.is_initialised();
        if !applier_stopped {
            let (region_id, serial) = (self.region_id(), self.serial);
            effects.apply.push(ApplyMessage::Remove { region_id, serial });
        }
        self.life = Life::Ending { applier_stopped };
        self.continue_end(effects);
    }

    /// Gives way to another replica of the region in the same store, leaving nothing to be answered.
    pub fn replaced(&mut self) {
        assert!(!self.is_initialised(), "{} is replaced", self.region());
        self.end_writes();
        self.end_reads();
        self.life = Life::Buried;
    }

    /// The store stops: everybody who waits is answered.
    pub fn stop(&mut self) {
        self.end_writes();
        self.end_reads();
        for proposal in std::mem::take(&mut self.proposals) {
            proposal.waiters.unknown("the store stops before the command was decided");
        }
    }

    fn end_writes(&mut self) {
        self.writes_lost_leadership();
    }

    /// Another replica says that this one is not in the region any more.
    pub(super) fn told_to_end(&mut self, epoch: &metapb::RegionEpoch, effects: &mut Effects) {
        // Who says so must know more than those by whom this replica was named, and it itself. The region
        // stays as it was known: its epoch and its peers belong together, also on the tombstone.
        let known = self.region().epoch().conf_ver.max(self.named_in);
        if epoch.conf_ver <= known {
            return;
        }
        self.end("another replica says that it was removed", effects);
    }

    /// Apply will not touch the region any more.
    pub(super) fn applier_stopped(&mut self, effects: &mut Effects) {
        if let Life::Ending { applier_stopped } = &mut self.life {
            *applier_stopped = true;
        }
        self.continue_end(effects);
    }

    /// Step 2, when nothing is under way any more.
    pub(super) fn continue_end(&mut self, effects: &mut Effects) {
        let Life::Ending { applier_stopped: true } = self.life else { return };
        if !self.unpersisted.is_empty() || self.installing.is_some() {
            return;
        }
        self.life = Life::Burying;
        let region_id = self.region_id();
        let mut region = metapb::Region::clone(self.region());
        if region.peer_by_id(self.peer.peer_id()).is_none() {
            region.peers.push(self.peer);
        }
        let state = RegionLocalState { state: PeerState::Tombstone.into(), region: Some(region) };
        let (raft, id) = (ColumnFamily::Raft, region_id.get());
        let mut batch = WriteBatch::new();
        match self.environment.has(Planted::TombstoneForgotten) {
            true => batch.delete(raft, keys::region_state(id)),
            false => batch.put(raft, keys::region_state(id), state.encode_to_vec()),
        }
        batch.delete(raft, keys::apply_state(id));
        batch.delete(raft, keys::snapshot_raft_state(id));
        effects.log.push(LogTask {
            region_id,
            serial: self.serial,
            number: BURIAL,
            operations: vec![LogOperation::Clean(id)],
            data: Some(batch),
            must_sync: true,
            credit: Credit::default(),
        });
    }

    /// A split has begun the region on this disk, which did not know of the end: the tombstone must come behind it.
    /// The burial takes the range that the split has noted, and its data.
    pub fn overtaken_by_split(&mut self, effects: &mut Effects) {
        assert!(!self.is_initialised() && self.is_ending(), "{} is here", self.region());
        if matches!(self.life, Life::Burying | Life::Buried) {
            self.life = Life::Ending { applier_stopped: true };
        }
        self.continue_end(effects);
    }

    pub(super) fn is_burying(&self, number: u64) -> bool {
        number == BURIAL && self.life == Life::Burying
    }

    /// Step 3.
    pub(super) fn buried(&mut self, effects: &mut Effects) {
        self.life = Life::Buried;
        let mut meta = self.environment.meta.lock().expect("no holder panics");
        let held = meta.region(self.region_id()).cloned();
        meta.remove(self.region_id(), self.peer.peer_id());
        drop(meta);
        if let Some(region) = held {
            effects.background.push(BackgroundTask::CleanRange { range: region.bounds().into() });
        }
    }

    /// Whether nothing is left of it.
    pub fn is_buried(&self) -> bool {
        self.life == Life::Buried
    }

    /// Whether it has begun to end.
    pub fn is_ending(&self) -> bool {
        self.life != Life::Alive
    }

    /// Whether there is a leader that has spoken lately. A learner keeps the name of its last leader for ever.
    fn hears_a_leader(&self) -> bool {
        let leader = PeerId::new(self.raft_group.raft.leader_id);
        let patience = self.environment.config.election_ticks as u64;
        let spoke = |tick: &u64| tick + patience >= self.ticks;
        self.is_leader() || self.heard.get(&leader).is_some_and(spoke)
    }

    /// Asks the others whether it still belongs, if it has seen no leader for long.
    pub(super) fn tick_stale(&mut self, effects: &mut Effects) {
        self.orphaned_ticks = match self.hears_a_leader() {
            true => 0,
            false => self.orphaned_ticks + 1,
        };
        let patience = self.environment.config.stale_peer_ticks;
        if self.orphaned_ticks == 0 || !self.orphaned_ticks.is_multiple_of(patience) {
            return;
        }
        let members = self.region().peers.iter().copied();
        let others: Vec<metapb::Peer> = members
            .chain(self.addresses.values().copied())
            .filter(|peer| peer.store() != self.environment.store_id)
            .collect();
        for other in others {
            self.send_extra(other, ExtraMessageType::MsgCheckStalePeer, None, effects);
        }
    }
}
