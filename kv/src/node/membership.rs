//! How a replicated store comes to belong to a cluster: it founds one, or joins one.
//!
//! The first start goes in steps, each durable before the next, and a crash between any two of them is
//! repaired by going through them again:
//!
//! 1. [`establish`]: cluster, store id and API version are learned and written into the manifest (an id that
//!    gets lost is not missed);
//! 2. [`found`]: while the cluster has no region, this store writes one and offers it (see
//!    `raftstore/src/store/bootstrap.rs`). If another store's offer was taken, its own is withdrawn: it joins,
//!    and gets replicas when the scheduler gives it some.
//!
//! The API version of a cluster is that of its first store. Stores tell it in a label, so that one that
//! joins takes it over, or refuses to if it was asked for another.
//!
//! **Invariant.** An identity in the manifest never changes. A store with regions and without an unfinished offer
//! starts and serves whether or not the scheduler answers.

use skerry_proto::metapb;
use skerry_proto::types::StoreId;
use skerry_raftstore::engine::directory::{DataDirectory, Identity};
use skerry_raftstore::engine::log::LogEngine;
use skerry_raftstore::engine::{ColumnFamily, Engine, KeyRange};
use skerry_raftstore::keys;
use skerry_raftstore::store::bootstrap;
use slog::{Logger, info};

use super::identity::{StoreIdentity, known};
use crate::error::{Error, Result};
use crate::net::scheduler_client::SchedulerClient;
use crate::storage::ApiVersion;

/// The label by which a store tells the API version of its cluster.
pub(crate) const VERSION_LABEL: &str = "skerry.api-version";

/// Reads who the store is, or learns it on the first start (step 1). `wanted` is the API version that the
/// operator asked for, if any.
pub(super) async fn establish(
    directory: &DataDirectory,
    scheduler: &SchedulerClient,
    wanted: Option<ApiVersion>,
    logger: &Logger,
) -> Result<StoreIdentity> {
    if let Some(identity) = known(directory, scheduler, wanted).await? {
        return Ok(identity);
    }
    let cluster_id = scheduler.patiently(logger, || scheduler.cluster_id()).await?;
    scheduler.expect_cluster(cluster_id);
    let begun = scheduler.patiently(logger, || scheduler.is_bootstrapped()).await?;
    let api_version = match begun {
        true => version_of_cluster(scheduler, None, wanted, logger).await?,
        false => wanted.unwrap_or_default(),
    };
    let ids = scheduler.patiently(logger, || scheduler.allocate_ids(1)).await?;
    let store_id = StoreId::new(ids[0]);
    directory.set_identity(Identity {
        cluster_id: Some(cluster_id),
        store_id: Some(store_id.get()),
        api_version: Some(api_version.number()),
    })?;
    info!(logger, "this is a new store"; "cluster_id" => cluster_id, "store_id" => store_id.get());
    Ok(StoreIdentity { cluster_id, store_id, api_version })
}

/// The API version of a cluster that has begun, as its other stores tell it.
async fn version_of_cluster(
    scheduler: &SchedulerClient,
    own: Option<StoreId>,
    wanted: Option<ApiVersion>,
    logger: &Logger,
) -> Result<ApiVersion> {
    let stores = scheduler.patiently(logger, || scheduler.stores()).await?;
    let mut version = None;
    for store in stores.iter().filter(|store| Some(store.id) != own.map(StoreId::get)) {
        let mut labels = store.labels.iter().filter(|_| !store.is_standalone());
        let label = labels.find(|label| label.key == VERSION_LABEL);
        let told =
            label.and_then(|label| label.value.parse().ok().and_then(ApiVersion::from_number));
        let Some(told) = told else {
            return Err(Error::Startup(format!(
                "store {} at {} does not replicate: it was started with --standalone, or is no skerry. A \
                 replicated store needs a cluster of such stores; give it a scheduler of its own",
                store.id, store.address
            )));
        };
        version = Some(told);
    }
    match (version, wanted) {
        (Some(cluster), Some(wanted)) if cluster != wanted => Err(Error::Startup(format!(
            "the cluster at {} was begun with {cluster}, and {wanted} is asked for: leave --api-version away",
            scheduler.addresses()
        ))),
        (Some(cluster), _) => Ok(cluster),
        (None, wanted) => Ok(wanted.unwrap_or_default()),
    }
}

/// Sees to it that the cluster has a first region (step 2). `store` is how this one makes itself known.
pub(super) async fn found(
    identity: &StoreIdentity,
    engine: &dyn Engine,
    log: &dyn LogEngine,
    scheduler: &SchedulerClient,
    store: metapb::Store,
    logger: &Logger,
) -> Result<()> {
    let prepared = bootstrap::prepared(engine, log)?;
    if prepared.is_none() && has_regions(engine)? {
        return Ok(());
    }
    let begun = scheduler.patiently(logger, || scheduler.is_bootstrapped()).await?;
    let region = match (prepared, begun) {
        (None, true) => {
            // It joins; another store may have founded the cluster since this one chose its version.
            let wanted = Some(identity.api_version);
            let own = Some(identity.store_id);
            return version_of_cluster(scheduler, own, wanted, logger).await.map(|_| ());
        }
        (Some(region), _) => region,
        (None, false) => {
            let ids = scheduler.patiently(logger, || scheduler.allocate_ids(2)).await?;
            let region = first_region(ids[0], ids[1], identity.store_id);
            bootstrap::prepare(engine, log, &region)?;
            region
        }
    };
    let offer = || scheduler.bootstrap(store.clone(), region.clone());
    let taken = !begun && scheduler.patiently(logger, offer).await?;
    if taken || is_ours(&region, scheduler, logger).await? {
        info!(logger, "this store has founded the cluster"; "region" => region.id);
        return Ok(bootstrap::confirm(engine)?);
    }
    info!(logger, "another store has founded the cluster; joining it");
    bootstrap::withdraw(engine, log, region.id)?;
    let own = Some(identity.store_id);
    version_of_cluster(scheduler, own, Some(identity.api_version), logger).await.map(|_| ())
}

/// Whether the cluster was begun with the region that this store has offered: then the answer got lost.
async fn is_ours(
    region: &metapb::Region,
    scheduler: &SchedulerClient,
    logger: &Logger,
) -> Result<bool> {
    let known = scheduler.patiently(logger, || scheduler.region_by_id(region.id)).await?;
    Ok(known.region.is_some_and(|known| known.peers == region.peers))
}

fn has_regions(engine: &dyn Engine) -> Result<bool> {
    let (start, end) = keys::region_states();
    let view = engine.view();
    let mut cursor = view.cursor(ColumnFamily::Raft, &KeyRange { start, end })?;
    Ok(cursor.seek_to_first()?)
}

fn first_region(id: u64, peer_id: u64, store_id: StoreId) -> metapb::Region {
    metapb::Region {
        id,
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        peers: vec![metapb::Peer { id: peer_id, store_id: store_id.get(), ..Default::default() }],
        ..metapb::Region::default()
    }
}
