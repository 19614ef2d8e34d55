//! The first region of a cluster, written before the store is opened.

use prost::Message as _;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{PeerState, RegionLocalState};

use crate::Result;
use crate::engine::log::{LogBatch, LogEngine, LogOperation};
use crate::engine::{ColumnFamily, Durability, Engine, WriteBatch};
use crate::keys;
use crate::state::{INITIAL_INDEX, initial_apply_state, initial_hard_state, local_state};

/// Writes `region` as one that every one of its stores holds already, empty. The same on each of them.
pub fn bootstrap(engine: &dyn Engine, log: &dyn LogEngine, region: &metapb::Region) -> Result<()> {
    let state = initial_hard_state(&raft::eraftpb::HardState::default());
    let mut batch = LogBatch::new();
    batch.push(LogOperation::State(region.id, local_state(&state, INITIAL_INDEX)));
    log.write(batch, Durability::Synced)?;
    let local = RegionLocalState { state: PeerState::Normal.into(), region: Some(region.clone()) };
    let mut batch = WriteBatch::new();
    let raft = ColumnFamily::Raft;
    batch.put(raft, keys::region_state(region.id), local.encode_to_vec());
    batch.put(raft, keys::apply_state(region.id), initial_apply_state().encode_to_vec());
    engine.write(batch, Durability::Synced)
}

/// Takes a first region back that another store's has overtaken: nothing of it may remain.
pub fn withdraw(engine: &dyn Engine, log: &dyn LogEngine, region_id: u64) -> Result<()> {
    let mut batch = WriteBatch::new();
    batch.delete(ColumnFamily::Raft, keys::region_state(region_id));
    batch.delete(ColumnFamily::Raft, keys::apply_state(region_id));
    engine.write(batch, Durability::Synced)?;
    let mut batch = LogBatch::new();
    batch.push(LogOperation::Clean(region_id));
    log.write(batch, Durability::Synced)?;
    Ok(())
}
