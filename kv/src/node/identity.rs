//! Who a store is: its cluster, its id; of a standalone store, its regions. Learned once from the scheduler, kept
//! for ever. How a replicated store learns it is in [`super::membership`].
//!
//! The first start of a standalone store goes in steps, each durable before the next, and a crash between any two of
//! them is repaired by going through them again:
//!
//! 1. ids for the store, its regions and their peers are allocated (ids that get lost are not missed);
//! 2. the regions are written into the data engine, over whatever an interrupted start left there;
//! 3. the manifest gets cluster, store and API version: from here on the store has its identity;
//! 4. the cluster is bootstrapped with the first region, or the store joins one that is
//!    ([`crate::net::heartbeats::register`]).
//!
//! Every later start repeats step 4, which changes nothing the second time. **Invariant.** An identity in the
//! manifest never changes, and a store with one serves its data whether or not the scheduler answers.

use prost::Message;
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::RegionLocalState;
use skerry_proto::types::StoreId;
use skerry_raftstore::engine::directory::{DataDirectory, Identity};
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};
use skerry_raftstore::keys;
use slog::{Logger, info};

use crate::error::{Error, Result};
use crate::net::scheduler_client::{Failure, SchedulerClient};
use crate::storage::ApiVersion;
use crate::storage::regions::fixed_regions;

/// A store that knows who it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoreIdentity {
    /// The cluster it belongs to.
    pub cluster_id: u64,
    /// Its id in that cluster.
    pub store_id: StoreId,
    /// Fixed at bootstrap.
    pub api_version: ApiVersion,
}

/// The identity of an earlier start, if there was one. `wanted` is the API version that the operator asked for,
/// if any; a contradiction is told before the scheduler is asked anything.
pub(super) async fn known(
    directory: &DataDirectory,
    scheduler: &SchedulerClient,
    wanted: Option<ApiVersion>,
) -> Result<Option<StoreIdentity>> {
    let Identity {
        cluster_id: Some(cluster_id),
        store_id: Some(store_id),
        api_version: Some(number),
    } = directory.manifest().identity
    else {
        return Ok(None);
    };
    let api_version = wanted.map(ApiVersion::number);
    directory.set_identity(Identity { api_version, ..Identity::default() })?;
    let api_version = ApiVersion::from_number(number).ok_or_else(|| {
        let reason = format!("API version {number} is not known to this skerry");
        let path = directory.path().to_path_buf();
        Error::Store(skerry_raftstore::Error::DirectoryMismatch { path, reason })
    })?;
    check_cluster(directory, scheduler).await?;
    scheduler.expect_cluster(cluster_id);
    Ok(Some(StoreIdentity { cluster_id, store_id: StoreId::new(store_id), api_version }))
}

/// The identity and regions of a standalone store, acquired on the first start (steps 1 to 3).
pub(super) async fn establish(
    directory: &DataDirectory,
    engine: &dyn Engine,
    scheduler: &SchedulerClient,
    wanted: Option<ApiVersion>,
    logger: &Logger,
) -> Result<(StoreIdentity, Vec<metapb::Region>)> {
    if let Some(identity) = known(directory, scheduler, wanted).await? {
        let regions = read_regions(engine, identity.store_id)?;
        return Ok((identity, regions));
    }
    let api_version = wanted.unwrap_or_default();
    let cluster_id = scheduler.patiently(logger, || scheduler.cluster_id()).await?;
    scheduler.expect_cluster(cluster_id);
    let count = 1 + 2 * u32::try_from(api_version.region_count()).expect("a handful of regions");
    let ids = scheduler.patiently(logger, || scheduler.allocate_ids(count)).await?;
    let (store_id, region_ids) = ids.split_first().expect("at least one id was asked for");
    let store_id = StoreId::new(*store_id);
    let regions = fixed_regions(api_version, store_id, region_ids);
    write_regions(engine, &regions)?;
    directory.set_identity(Identity {
        cluster_id: Some(cluster_id),
        store_id: Some(store_id.get()),
        api_version: Some(api_version.number()),
    })?;
    info!(logger, "this is a new store"; "cluster_id" => cluster_id, "store_id" => store_id.get());
    Ok((StoreIdentity { cluster_id, store_id, api_version }, regions))
}

/// Refuses a scheduler of another cluster. One that does not answer is asked again by the heartbeats.
async fn check_cluster(directory: &DataDirectory, scheduler: &SchedulerClient) -> Result<()> {
    match scheduler.cluster_id().await {
        Ok(cluster_id) => {
            let found = Identity { cluster_id: Some(cluster_id), ..Identity::default() };
            Ok(directory.set_identity(found)?)
        }
        Err(Failure::Unreachable(_)) => Ok(()),
        Err(failure) => Err(Error::from(failure)),
    }
}

/// Writes the regions of a new standalone store.
pub(crate) fn write_regions(engine: &dyn Engine, regions: &[metapb::Region]) -> Result<()> {
    let (start, end) = keys::region_states();
    let mut batch = WriteBatch::new();
    batch.delete_range(ColumnFamily::Raft, KeyRange { start, end });
    for region in regions {
        let state = RegionLocalState { region: Some(region.clone()), ..Default::default() };
        batch.put(ColumnFamily::Raft, keys::region_state(region.id), state.encode_to_vec());
    }
    Ok(engine.write(batch, Durability::Synced)?)
}

/// The regions of an earlier start. Those of another store mean that somebody has swapped directories.
pub(crate) fn read_regions(engine: &dyn Engine, store_id: StoreId) -> Result<Vec<metapb::Region>> {
    let damaged = |reason: String| {
        let what = "the store's list of regions".to_string();
        Error::Store(skerry_raftstore::Error::Damaged { what, reason })
    };
    let (start, end) = keys::region_states();
    let view = engine.view();
    let mut cursor = view.cursor(ColumnFamily::Raft, &KeyRange { start, end })?;
    let mut regions = Vec::new();
    let mut standing = cursor.seek_to_first()?;
    while standing {
        let state =
            RegionLocalState::decode(cursor.value()).map_err(|error| damaged(error.to_string()))?;
        let region = state.region.ok_or_else(|| damaged("an entry has no region".to_string()))?;
        if keys::region_of_state(cursor.key()) != Some(region.id) {
            return Err(damaged(format!("region {} stands under another key", region.id)));
        }
        if region.peer_on_store(store_id).is_none() {
            return Err(damaged(format!("region {} is not one of store {store_id}", region.id)));
        }
        regions.push(region);
        standing = cursor.next()?;
    }
    if regions.is_empty() {
        return Err(damaged("it is empty although the store has an identity".to_string()));
    }
    regions.sort_by(|one, other| one.start_key.cmp(&other.start_key));
    Ok(regions)
}
