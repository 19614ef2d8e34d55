//! A database of one server: its store and its scheduler's parts, called directly.
//!
//! 1. The placement is opened, and with its lock the whole directory is ours.
//! 2. The store's directory and engine; on the first start ids and regions, each durable before the next, as a
//!    standalone server does it (`kv/src/node/identity.rs`), with which this shares its form: what was written through
//!    the library can be served by `skerry playground --standalone`, and the other way round.
//! 3. The raw and the transactional API over it.
//! 4. Old versions are collected ([`super::collector`]), if they are not to stay for ever.
//!
//! **Invariant.** It is stopped in the opposite order, and what was accepted is answered before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::metapb::{Region, Store, StoreLabel};
use skerry_proto::store::standalone_label;
use skerry_proto::types::{StoreId, Ts};
use skerry_raftstore::engine::Engine;
use skerry_raftstore::engine::directory::{DataDirectory, Identity, Purpose};
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::time::{Clock, SystemClock};
use slog::Logger;

use super::client::{Client, Member};
use super::collector::{Collector, Ground};
use super::placement::Placement;
use super::wait::Waiter;
use crate::config::Config;
use crate::error::Result;
use crate::gc::SafePoints;
use crate::node::identity::{read_regions, write_regions};
use crate::node::membership::VERSION_LABEL;
use crate::node::{Mode, PROTOCOL_VERSION, VIEWS_TIMEOUT, open_engine};
use crate::raw::RawStore;
use crate::storage::regions::fixed_regions;
use crate::storage::{ApiVersion, LocalStorage, Storage};
use crate::txn::{Timestamps, TxnStore};

/// The version of all data of the library: keys are what the application says.
const VERSION: ApiVersion = ApiVersion::V1;

/// See the head of this file.
pub(super) struct Alone {
    storage: Arc<LocalStorage>,
    raw: Arc<RawStore>,
    engine: Arc<RocksEngine>,
    placement: Arc<Placement>,
    /// None if everything is kept.
    collector: Option<Collector>,
    /// Released last: the lock must outlive everything that writes below it.
    _directory: DataDirectory,
}

impl Alone {
    /// Opens or begins the database below `path`; answers who reaches it. Timestamps, and with them the age of
    /// versions, are of `clock`.
    pub(super) fn open(
        path: &Path,
        config: &Config,
        clock: Arc<dyn Clock>,
        logger: &Logger,
    ) -> Result<(Alone, Client)> {
        let placement = Placement::open(&path.join("scheduler"), &config.scheduler, clock)?;
        let directory = DataDirectory::open(&path.join("store-1"), Purpose::STANDALONE_STORE)?;
        let engine = Arc::new(open_engine(config, Mode::Standalone, &directory, logger)?);
        let (store_id, regions) = establish(&directory, &engine, &placement)?;
        placement.register(record(store_id, directory.path()), &regions)?;
        let storage = LocalStorage::start(
            Arc::clone(&engine) as Arc<dyn Engine>,
            store_id,
            regions,
            config.storage.local_limits(),
        );
        let (clock, limits) = (Arc::new(SystemClock), config.storage.raw_limits());
        let shared = Arc::clone(&storage) as Arc<dyn Storage>;
        let raw = Arc::new(RawStore::new(Arc::clone(&shared), VERSION, clock, limits));
        let timestamps = Arc::clone(&placement) as Arc<dyn Timestamps>;
        let reads = Arc::clone(raw.read_pool());
        let limits = config.storage.txn_limits();
        let safe_points = SafePoints::none();
        // What earlier lives have collected is gone.
        safe_points.hear(placement.safe_point()?, Duration::ZERO, None);
        let txn =
            TxnStore::new(Arc::clone(&shared), VERSION, limits, Arc::clone(&timestamps), reads);
        let txn = Arc::new(txn.keeping(safe_points));
        let ground = Ground { store_id, storage: Arc::clone(&shared), txn: Arc::clone(&txn) };
        let member = Member { store_id, storage: shared, raw: Arc::clone(&raw), txn };
        // Nobody else has ever written here: transactions of earlier lives ended with their processes.
        let began: Ts = placement.timestamp();
        let client = Client::new(vec![member], timestamps, Waiter::default(), began);
        let collector = (config.scheduler.gc_life_time_ms > 0)
            .then(|| Collector::start(ground, Arc::clone(&placement), &config.gc, logger.clone()));
        Ok((Alone { storage, raw, engine, placement, collector, _directory: directory }, client))
    }

    /// Answers everything accepted and closes the engines. The client must be gone.
    pub(super) fn stop(self) -> Result<()> {
        if let Some(collector) = self.collector {
            collector.stop();
        }
        self.raw.stop();
        self.storage.stop();
        let closed = self.engine.close(VIEWS_TIMEOUT);
        self.placement.close()?;
        Ok(closed?)
    }
}

/// The store's id and regions, acquired on the first start.
fn establish(
    directory: &DataDirectory,
    engine: &RocksEngine,
    placement: &Placement,
) -> Result<(StoreId, Vec<Region>)> {
    let cluster_id = Some(placement.cluster_id());
    let api_version = Some(VERSION.number());
    let known = directory.manifest().identity.store_id.map(StoreId::new);
    let (store_id, regions) = match known {
        Some(store_id) => (store_id, None),
        None => {
            let ids = placement.allocate_ids(1 + 2 * VERSION.region_count() as u64)?;
            let store_id = StoreId::new(ids[0]);
            let regions = fixed_regions(VERSION, store_id, &ids[1..]);
            write_regions(engine, &regions)?;
            (store_id, Some(regions))
        }
    };
    // Refuses a directory of another cluster or version.
    let store = Some(store_id.get());
    directory.set_identity(Identity { cluster_id, store_id: store, api_version })?;
    let regions = regions.map_or_else(|| read_regions(engine, store_id), Ok)?;
    Ok((store_id, regions))
}

/// How the store is known to its scheduler. It has no address: nobody can come.
fn record(store_id: StoreId, directory: &Path) -> Store {
    let version =
        StoreLabel { key: VERSION_LABEL.to_string(), value: VERSION.number().to_string() };
    let deploy_path = PathBuf::from(directory).display().to_string();
    Store {
        id: store_id.get(),
        address: "in-process".to_string(),
        version: PROTOCOL_VERSION.to_string(),
        git_hash: format!("skerry-{}", env!("CARGO_PKG_VERSION")),
        deploy_path,
        labels: vec![version, standalone_label()],
        ..Store::default()
    }
}
