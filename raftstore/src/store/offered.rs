//! What a store says to a snapshot that another one offers, before it takes the bytes.
//!
//! It looks at what is durable of its replica, so an answer other than *wanted* is never too early. It may be too
//! late: the replica looks again when raft's message comes.

use protobuf::Message as _;
use raft::eraftpb::Message;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::RegionId;

use super::recover::stored_apply_state;
use crate::Result;
use crate::environment::Environment;
use crate::state::hard_state;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Its bytes are needed, as far as can be told.
    Wanted,
    /// The replica has applied all that is in it. Raft wants the message still: it answers with what it has, and the
    /// leader goes on from there.
    Had,
    /// The replica has heard of a newer leader and does not listen to this one.
    OfOldTerm,
}

/// Judges the snapshot that a message brings.
pub(super) fn judge(environment: &Environment, offered: &RaftMessage) -> Result<Offer> {
    let region_id = RegionId::new(offered.region_id);
    let meta = environment.meta.lock().expect("no holder panics");
    let present = meta.peer(region_id);
    drop(meta);
    let Ok(message) = Message::parse_from_bytes(&offered.message) else { return Ok(Offer::Wanted) };
    if present.is_none() || present != offered.to_peer.map(|peer| peer.peer_id()) {
        return Ok(Offer::Wanted);
    }
    let stored = environment.log.state(region_id.get())?;
    let stored = stored.map(|state| hard_state(region_id, &state)).transpose()?;
    if stored.is_some_and(|stored| stored.term > message.term) {
        return Ok(Offer::OfOldTerm);
    }
    let is_initialised = environment
        .engine
        .get(crate::engine::ColumnFamily::Raft, &crate::keys::apply_state(region_id.get()))?
        .is_some();
    if !is_initialised {
        return Ok(Offer::Wanted);
    }
    let (applied, _) = stored_apply_state(environment, region_id)?;
    match message.get_snapshot().get_metadata().index <= applied.applied_index {
        true => Ok(Offer::Had),
        false => Ok(Offer::Wanted),
    }
}
