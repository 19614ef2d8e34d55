//! What a store finds when it starts, and what it repairs.
//!
//! 1. The incarnation is counted and synced before anything else: contexts of reads rest on it.
//! 2. Every region state is read. *Tombstone*: whatever its log still holds is forgotten. *Applying*: the raft
//!    state is restored from its copy if the log was not replaced yet, and the snapshot installed again.
//!    *Normal*: the replica begins.
//! 3. Data that lies in no region is removed, and all files of snapshots: what was accepted is installed by then,
//!    and nothing else outlives the process that knew of it.
//!
//! **Invariant.** A store whose log lacks what was acknowledged does not start, and names the region.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{PeerState, RaftApplyState, RaftLocalState, RegionLocalState};
use skerry_proto::types::RegionId;

use crate::background::{clean_range, install_snapshot};
use crate::engine::log::{LogBatch, LogOperation};
use crate::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};
use crate::environment::Environment;
use crate::keys;
use crate::message::{NewPeer, Origin};
use crate::snapshot::SnapshotId;
use crate::state::hard_state;
use crate::{Error, Result};

const RAFT: ColumnFamily = ColumnFamily::Raft;

/// Counts this start.
pub fn count_start(engine: &dyn Engine) -> Result<u64> {
    let stored = engine.get(RAFT, keys::STORE_INCARNATION)?;
    let former =
        stored.and_then(|bytes| Some(u64::from_be_bytes(*bytes.first_chunk()?))).unwrap_or(0);
    let mut batch = WriteBatch::new();
    let count = (former + 1).to_be_bytes().to_vec();
    batch.put(RAFT, Bytes::from_static(keys::STORE_INCARNATION), count);
    engine.write(batch, Durability::Synced)?;
    Ok(former + 1)
}

/// Repairs what a crash has left, and answers the replicas to begin.
pub fn recover(environment: &Environment) -> Result<Vec<NewPeer>> {
    let mut found = Vec::new();
    for state in region_states(environment.engine.as_ref())? {
        let region = state.region.clone().unwrap_or_default();
        match state.state() {
            PeerState::Tombstone => forget(environment, &region)?,
            PeerState::Applying => {
                install_again(environment, &region)?;
                found.push(new_peer(environment, region)?);
            }
            PeerState::Normal => found.push(new_peer(environment, region)?),
        }
    }
    let mut meta = environment.meta.lock().expect("no holder panics");
    for new in &found {
        meta.set_region(new.region.clone(), new.peer.peer_id());
    }
    drop(meta);
    clean_range(environment, &KeyRange::default())?;
    environment.snapshots.collect(&|_, _| false)?;
    Ok(found)
}

fn region_states(engine: &dyn Engine) -> Result<Vec<RegionLocalState>> {
    let (start, end) = keys::region_states();
    let view = engine.view();
    let mut cursor = view.cursor(RAFT, &KeyRange { start, end })?;
    let mut states = Vec::new();
    let mut standing = cursor.seek_to_first()?;
    while standing {
        let state = RegionLocalState::decode(cursor.value());
        states.push(state.map_err(|error| Error::Damaged {
            what: "the state of a region".to_string(),
            reason: error.to_string(),
        })?);
        standing = cursor.next()?;
    }
    Ok(states)
}

fn new_peer(environment: &Environment, region: metapb::Region) -> Result<NewPeer> {
    let own = region.peer_on_store(environment.store_id).copied();
    let peer = own.ok_or_else(|| Error::Damaged {
        what: format!("the state of {}", region.region_id()),
        reason: format!("{region} has no replica on {}", environment.store_id),
    })?;
    Ok(NewPeer { region: Arc::new(region), peer, origin: Origin::Disk, messages: Vec::new() })
}

/// A crash came between tombstone and log, or between the removal and the burial.
fn forget(environment: &Environment, region: &metapb::Region) -> Result<()> {
    let log = environment.log.as_ref();
    if environment.engine.get(RAFT, &keys::apply_state(region.id))?.is_some() {
        let mut batch = WriteBatch::new();
        batch.delete(RAFT, keys::apply_state(region.id));
        batch.delete(RAFT, keys::snapshot_raft_state(region.id));
        environment.engine.write(batch, Durability::Synced)?;
    }
    if log.state(region.id)?.is_none() && log.bounds(region.id)?.is_none() {
        return Ok(());
    }
    let mut batch = LogBatch::new();
    batch.push(LogOperation::Clean(region.id));
    log.write(batch, Durability::Synced)?;
    Ok(())
}

/// A crash came between the acceptance of a snapshot and its last step.
fn install_again(environment: &Environment, region: &metapb::Region) -> Result<()> {
    let region_id = region.region_id();
    let (applied, _) = stored_apply_state(environment, region_id)?;
    restore_raft_state(environment, region_id, applied.applied_index)?;
    let truncated = applied.truncated_state.unwrap_or_default();
    let id = SnapshotId { region_id: region.id, term: truncated.term, index: truncated.index };
    install_snapshot(environment, id, region)
}

/// Replaces the log by the accepted snapshot's, if that did not happen.
fn restore_raft_state(environment: &Environment, region_id: RegionId, index: u64) -> Result<()> {
    let copy = environment.engine.get(RAFT, &keys::snapshot_raft_state(region_id.get()))?;
    let Some(copy) = copy else { return Ok(()) };
    let copy = RaftLocalState::decode(copy).map_err(|error| Error::Damaged {
        what: format!("the raft state of {region_id}'s snapshot"),
        reason: error.to_string(),
    })?;
    let stored = environment.log.state(region_id.get())?;
    let replaced = match &stored {
        Some(stored) => {
            let (log, copy) = (hard_state(region_id, stored)?, hard_state(region_id, &copy)?);
            stored.last_index >= index
                && log.term >= copy.term
                && log_begins_at(environment, region_id, index)?
        }
        None => false,
    };
    if replaced {
        return Ok(());
    }
    let mut batch = LogBatch::new();
    batch.push(LogOperation::Clean(region_id.get()));
    batch.push(LogOperation::State(region_id.get(), copy));
    environment.log.write(batch, Durability::Synced)?;
    Ok(())
}

/// Whether the log holds nothing from before the snapshot.
fn log_begins_at(environment: &Environment, region_id: RegionId, index: u64) -> Result<bool> {
    let bounds = environment.log.bounds(region_id.get())?;
    Ok(bounds.is_none_or(|bounds| bounds.first > index))
}

/// What is applied of a region, and the term of the last applied entry.
pub fn stored_apply_state(
    environment: &Environment,
    region_id: RegionId,
) -> Result<(RaftApplyState, u64)> {
    let stored = environment.engine.get(RAFT, &keys::apply_state(region_id.get()))?;
    let missing = |reason: &str| Error::Damaged {
        what: format!("the apply state of {region_id}"),
        reason: reason.to_string(),
    };
    let stored = stored.ok_or_else(|| missing("it is missing"))?;
    let state = RaftApplyState::decode(stored).map_err(|error| missing(&error.to_string()))?;
    let truncated = state.truncated_state.unwrap_or_default();
    let term = match environment.log.entry(region_id.get(), state.applied_index)? {
        Some(entry) => entry.term,
        None => truncated.term,
    };
    Ok((state, term))
}
