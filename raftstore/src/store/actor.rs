//! The store actor: messages for regions that have no replica here.
//!
//! Such a message may begin a replica (the region was given to this store), may come too late (the replica was
//! here and is gone) or too early (a split that will bring the replica is not applied yet). It is compared with
//! what the store remembers of the region, then with the ranges that others hold.
//!
//! **Invariants.** Only votes and first heartbeats begin a replica: an append to an empty one would be answered
//! wrongly. A tombstone keeps everything away that is not newer than itself. A promised child is begun by its
//! split and nobody else.

use std::sync::Arc;

use prost::Message as _;
use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{PeerState, RaftMessage, RegionLocalState};
use skerry_proto::region::KeyBounds;
use skerry_proto::types::RegionId;
use slog::debug;

use crate::Result;
use crate::effects::Effects;
use crate::engine::ColumnFamily;
use crate::environment::Environment;
use crate::keys;
use crate::message::{NewPeer, Origin, StoreMessage, WorkerMessage};
use crate::peer::tombstone_for;

/// See the module.
pub(super) struct StoreActor {
    environment: Environment,
}

impl StoreActor {
    /// An actor of this store.
    pub(super) fn new(environment: &Environment) -> StoreActor {
        StoreActor { environment: environment.clone() }
    }

    /// Takes messages.
    pub(super) fn round(
        &mut self,
        messages: Vec<StoreMessage>,
        effects: &mut Effects,
    ) -> Result<()> {
        for message in messages {
            match message {
                StoreMessage::Unknown(message) => self.unknown(*message, effects)?,
                StoreMessage::Unpark(region_id) => self.unpark(region_id, effects),
            }
        }
        Ok(())
    }

    /// What was kept for a region goes to its replica now.
    fn unpark(&mut self, region_id: RegionId, effects: &mut Effects) {
        let mut meta = self.environment.meta.lock().expect("no holder panics");
        let messages = meta.unpark(region_id);
        drop(meta);
        let messages = messages.into_iter().map(|message| WorkerMessage::Raft(Box::new(message)));
        effects.workers.extend(messages);
    }

    fn unknown(&mut self, message: RaftMessage, effects: &mut Effects) -> Result<()> {
        let (Some(from), Some(to)) = (message.from_peer, message.to_peer) else { return Ok(()) };
        let stored = self
            .environment
            .engine
            .get(ColumnFamily::Raft, &keys::region_state(message.region_id))?;
        if let Some(stored) = stored {
            let state =
                RegionLocalState::decode(stored).map_err(|error| crate::Error::Damaged {
                    what: format!("the state of region {}", message.region_id),
                    reason: error.to_string(),
                })?;
            if state.state() != PeerState::Tombstone {
                self.keep_for_child(message);
                return Ok(());
            }
            if !self.outlives(&message, &from, &to, &state, effects) {
                return Ok(());
            }
        }
        if message.is_tombstone || message.extra_msg.is_some() || !may_begin(&message) {
            return Ok(());
        }
        self.begin(message, to, effects);
        Ok(())
    }

    /// Whether a message is newer than what the store remembers of the region.
    fn outlives(
        &self,
        message: &RaftMessage,
        from: &metapb::Peer,
        to: &metapb::Peer,
        state: &RegionLocalState,
        effects: &mut Effects,
    ) -> bool {
        let region = state.region.clone().unwrap_or_default();
        let epoch = message.region_epoch.unwrap_or_default();
        let former = region.peer_on_store(self.environment.store_id);
        let is_newer = former.is_none_or(|former| to.id > former.id);
        if is_newer && !message.is_tombstone {
            return true;
        }
        // The sender may have missed that it is gone, too.
        let is_member = region.peer_by_id(from.peer_id()).is_some();
        if epoch.conf_ver < region.epoch().conf_ver && !is_member && !message.is_tombstone {
            effects.send.push(tombstone_for(*from, message, *to, region.epoch()));
        }
        false
    }

    /// Keeps a message for a region whose state is written and that nobody has begun or ended yet. A child is begun
    /// when its parent's worker hears of the split; its candidate may have been quicker, and asks once in a whole
    /// election time-out.
    fn keep_for_child(&mut self, message: RaftMessage) {
        let region_id = RegionId::new(message.region_id);
        let mut meta = self.environment.meta.lock().expect("no holder panics");
        let is_expected = meta.promised(region_id).is_some() || meta.region(region_id).is_some();
        if is_expected && may_begin(&message) {
            meta.park(message);
        }
    }

    fn begin(&mut self, message: RaftMessage, to: metapb::Peer, effects: &mut Effects) {
        let region_id = RegionId::new(message.region_id);
        let mut meta = self.environment.meta.lock().expect("no holder panics");
        if meta.promised(region_id).is_some() {
            return meta.park(message);
        }
        if meta.peer(region_id).is_some() {
            // Begun since the worker looked.
            drop(meta);
            return effects.workers.push(WorkerMessage::Raft(Box::new(message)));
        }
        // Nothing is known of the range if the sender does not know it either.
        let bounds = KeyBounds::new(&message.start_key, &message.end_key);
        let knows_range = message.region_epoch.unwrap_or_default().version > 0;
        let conflict = knows_range.then(|| meta.conflict(&bounds, region_id)).flatten();
        if let Some(other) = conflict {
            debug!(self.environment.logger, "a message waits for its range";
                "region" => %region_id, "held by" => %other);
            // It may have been removed in its sleep.
            effects.workers.push(WorkerMessage::Rouse { region_id: other.region_id() });
            return meta.park(message);
        }
        meta.add_uninitialised(region_id, to.peer_id());
        drop(meta);
        let region = metapb::Region { id: message.region_id, ..metapb::Region::default() };
        effects.workers.push(WorkerMessage::Create(Box::new(NewPeer {
            region: Arc::new(region),
            peer: to,
            origin: Origin::Message,
            messages: vec![message],
        })));
    }
}

/// Only candidates, and leaders that speak for the first time.
fn may_begin(message: &RaftMessage) -> bool {
    let Ok(message) = Message::parse_from_bytes(&message.message) else { return false };
    match message.get_msg_type() {
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            message.term > crate::state::INITIAL_TERM
        }
        MessageType::MsgHeartbeat => message.commit == 0,
        _ => false,
    }
}
