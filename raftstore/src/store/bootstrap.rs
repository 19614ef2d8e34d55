//! The first region of a cluster, written before the store is opened.
//!
//! Several stores may offer to found the cluster, and the scheduler takes one. So founding has two phases, and a
//! crash between any two steps is repaired by going through them again:
//!
//! 1. [`prepare`] writes the region with a mark, then its log. It is a region like any other but for the mark. A
//!    start that finds the mark ([`prepared`]) writes the log if the crash came between the two.
//! 2. The scheduler is asked to begin the cluster with it.
//! 3. [`confirm`] removes the mark, if the cluster was begun with this region; [`withdraw`] removes the region, if
//!    it was begun with another one.
//!
//! **Invariant.** A store is not opened while the mark is there: a region that may have to be withdrawn has
//! never served anybody.

use bytes::Bytes;
use prost::Message as _;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{PeerState, RegionLocalState};

use crate::engine::log::{LogBatch, LogEngine, LogOperation};
use crate::engine::{ColumnFamily, Durability, Engine, WriteBatch};
use crate::keys;
use crate::state::{INITIAL_INDEX, initial_apply_state, initial_hard_state, local_state};
use crate::{Error, Result};

const RAFT: ColumnFamily = ColumnFamily::Raft;
const MARK: Bytes = Bytes::from_static(keys::PREPARED_FIRST_REGION);

/// Writes `region` as one that every one of its stores holds already, empty. The same on each of them.
pub fn bootstrap(engine: &dyn Engine, log: &dyn LogEngine, region: &metapb::Region) -> Result<()> {
    write(engine, log, region, WriteBatch::new())
}

/// Writes the region that this store offers, with the mark.
pub fn prepare(engine: &dyn Engine, log: &dyn LogEngine, region: &metapb::Region) -> Result<()> {
    let mut batch = WriteBatch::new();
    batch.put(RAFT, MARK, region.encode_to_vec());
    write(engine, log, region, batch)
}

fn write(
    engine: &dyn Engine,
    log: &dyn LogEngine,
    region: &metapb::Region,
    mut batch: WriteBatch,
) -> Result<()> {
    let local = RegionLocalState { state: PeerState::Normal.into(), region: Some(region.clone()) };
    batch.put(RAFT, keys::region_state(region.id), local.encode_to_vec());
    batch.put(RAFT, keys::apply_state(region.id), initial_apply_state().encode_to_vec());
    // First what a later start looks at. A log alone would be found by nobody, and lie there for ever.
    engine.write(batch, Durability::Synced)?;
    begin_log(log, region.id)
}

fn begin_log(log: &dyn LogEngine, region_id: u64) -> Result<()> {
    let state = initial_hard_state(&raft::eraftpb::HardState::default());
    let mut logged = LogBatch::new();
    // A crash may have left what was written before.
    logged.push(LogOperation::Clean(region_id));
    logged.push(LogOperation::State(region_id, local_state(&state, INITIAL_INDEX)));
    log.write(logged, Durability::Synced).map(|_| ())
}

/// The region that was prepared and neither confirmed nor withdrawn, whole.
pub fn prepared(engine: &dyn Engine, log: &dyn LogEngine) -> Result<Option<metapb::Region>> {
    let Some(stored) = engine.get(RAFT, &MARK)? else { return Ok(None) };
    let region = metapb::Region::decode(stored).map_err(|error| Error::Damaged {
        what: "the prepared first region".to_string(),
        reason: error.to_string(),
    })?;
    if log.state(region.id)?.is_none() {
        begin_log(log, region.id)?;
    }
    Ok(Some(region))
}

/// The cluster has begun with the prepared region.
pub fn confirm(engine: &dyn Engine) -> Result<()> {
    let mut batch = WriteBatch::new();
    batch.delete(RAFT, MARK);
    engine.write(batch, Durability::Synced)
}

/// The cluster has begun with another region: nothing of the prepared one may remain. The mark goes last.
pub fn withdraw(engine: &dyn Engine, log: &dyn LogEngine, region_id: u64) -> Result<()> {
    let mut logged = LogBatch::new();
    logged.push(LogOperation::Clean(region_id));
    log.write(logged, Durability::Synced)?;
    let mut batch = WriteBatch::new();
    batch.delete(RAFT, keys::region_state(region_id));
    batch.delete(RAFT, keys::apply_state(region_id));
    batch.delete(RAFT, MARK);
    engine.write(batch, Durability::Synced)
}

#[cfg(test)]
mod tests;
