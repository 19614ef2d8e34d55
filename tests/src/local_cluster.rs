//! A replicated cluster in one process: stores on real engines, turned by threads, with no socket between.
//!
//! For benchmarks and for tests that must show on real threads what the simulator shows in virtual time. The
//! first regions are written to every store before they start ([`LocalCluster::start`]); messages go from one
//! store's queue to another's; a scheduler that gives ids is a counter.
//!
//! What it does not do: no faults. The simulator has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use skerry_proto::metapb;
use skerry_proto::raft_cmdpb::{BatchSplitRequest, SplitRequest, admin_request};
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::types::{PeerId, RegionId, StoreId};
use skerry_raftstore::config::{RaftConfig, RaftEngineConfig, RocksConfig};
use skerry_raftstore::effects::{RegionReport, SplitAsk};
use skerry_raftstore::engine::log::LogEngine;
use skerry_raftstore::engine::log::raft_engine::RaftEngineLog;
use skerry_raftstore::engine::log::rocks::RocksLog;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Engine};
use skerry_raftstore::keys;
use skerry_raftstore::message::{Command, CommandContext, CommandKind};
use skerry_raftstore::outside::{SchedulerClient, Transport};
use skerry_raftstore::reply::Replies;
use skerry_raftstore::store::bootstrap::bootstrap;
use skerry_raftstore::store::threads::{RunningStore, StoreHandle};
use skerry_raftstore::store::{Store, StoreParts};
use skerry_raftstore::time::SystemClock;
use slog::{Discard, Logger, o};

/// Ids that splits take begin here.
const FIRST_NEW_ID: u64 = 1_000_000;

/// How a cluster is built.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Stores, each with a replica of every region.
    pub stores: u64,
    /// Regions, cut at even distances of the first two bytes of keys.
    pub regions: u64,
    /// Whether the raft log lies in raft-engine; otherwise in RocksDB.
    pub raft_engine: bool,
    /// Settings of replication.
    pub config: RaftConfig,
}

/// A running cluster.
pub struct LocalCluster {
    running: Vec<RunningStore>,
    world: Arc<World>,
    regions: Vec<metapb::Region>,
}

/// The network and the scheduler of all stores.
struct World {
    stores: RwLock<BTreeMap<u64, (StoreHandle, PathBuf)>>,
    next_id: AtomicU64,
    replies: Arc<Replies>,
    /// The newest report of each region's leader.
    reports: RwLock<BTreeMap<u64, RegionReport>>,
}

impl LocalCluster {
    /// Starts a cluster with data below `directory`.
    pub fn start(directory: &Path, layout: &Layout) -> LocalCluster {
        let regions = even_regions(layout.stores, layout.regions);
        let world = Arc::new(World {
            stores: RwLock::default(),
            next_id: AtomicU64::new(FIRST_NEW_ID),
            replies: Replies::new(),
            reports: RwLock::default(),
        });
        let open = |store_id| {
            let home = directory.join(format!("store-{store_id}"));
            std::fs::create_dir_all(home.join("snapshots")).expect("a directory");
            (store_id, open_store(store_id, &home, layout, &regions), home.join("snapshots"))
        };
        let stores: Vec<(u64, Store, PathBuf)> = (1..=layout.stores).map(open).collect();
        let start = |(store_id, store, snapshots): (u64, Store, PathBuf)| {
            let running = store.run(world.clone(), world.clone());
            let entry = (running.handle(), snapshots);
            world.stores.write().expect("no holder panics").insert(store_id, entry);
            running
        };
        let running = stores.into_iter().map(start).collect();
        LocalCluster { running, world, regions }
    }

    /// The regions that it was started with.
    pub fn regions(&self) -> &[metapb::Region] {
        &self.regions
    }

    /// The store that leads a region, as far as the scheduler has heard.
    pub fn leader(&self, region_id: u64) -> Option<u64> {
        let reports = self.world.reports.read().expect("no holder panics");
        reports.get(&region_id).map(|report| report.leader.store_id)
    }

    /// The region of a key, and the store that leads it, as far as the scheduler has heard.
    pub fn look_up(&self, key: &[u8]) -> Option<(metapb::Region, u64)> {
        let reports = self.world.reports.read().expect("no holder panics");
        let of_key = reports.values().filter(|report| report.region.contains_key(key));
        let newest = of_key.max_by_key(|report| report.region.epoch().version)?;
        Some((newest.region.clone(), newest.leader.store_id))
    }

    /// How many regions have reported a leader.
    pub fn led(&self) -> usize {
        self.world.reports.read().expect("no holder panics").len()
    }

    /// A store.
    pub fn store(&self, store_id: u64) -> StoreHandle {
        self.world.stores.read().expect("no holder panics")[&store_id].0.clone()
    }

    /// Makes replies.
    pub fn replies(&self) -> &Arc<Replies> {
        &self.world.replies
    }

    /// Stops every store, and lets go of its engines.
    pub fn stop(self) {
        self.running.into_iter().for_each(RunningStore::stop);
        // Stores hold this world as their network, and it holds them.
        self.world.stores.write().expect("no holder panics").clear();
    }
}

/// Regions that are cut at even distances of the first two bytes of keys, with a replica on every store.
pub fn even_regions(stores: u64, regions: u64) -> Vec<metapb::Region> {
    let boundary = |number: u64| -> Bytes {
        let point = (number << 16) / regions;
        match number {
            0 => Bytes::new(),
            _ if number == regions => Bytes::new(),
            _ => Bytes::copy_from_slice(&point.to_be_bytes()[6..]),
        }
    };
    let region = |number: u64| {
        // As ids come from a scheduler: a region's and those of its replicas follow each other.
        let id = 1 + number * (stores + 1);
        let peer =
            |store_id| metapb::Peer { id: id + store_id, store_id, ..metapb::Peer::default() };
        metapb::Region {
            id,
            start_key: boundary(number),
            end_key: boundary(number + 1),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
            peers: (1..=stores).map(peer).collect(),
        }
    };
    (0..regions).map(region).collect()
}

fn open_store(store_id: u64, home: &Path, layout: &Layout, regions: &[metapb::Region]) -> Store {
    let rocks = RocksConfig::default();
    let engine = RocksEngine::open(&home.join("data"), &rocks, None).expect("an engine");
    let log: Arc<dyn LogEngine> = match layout.raft_engine {
        true => {
            let config = RaftEngineConfig::default();
            Arc::new(RaftEngineLog::open(&home.join("log"), &config).expect("a log"))
        }
        false => {
            Arc::new(RocksLog::open(&home.join("log"), &RocksConfig::default()).expect("a log"))
        }
    };
    // A directory that was used before has them.
    if engine
        .get(ColumnFamily::Raft, &keys::region_state(regions[0].id))
        .expect("it reads")
        .is_none()
    {
        for region in regions {
            bootstrap(&engine, log.as_ref(), region).expect("bootstrap");
        }
    }
    let engine: Arc<dyn Engine> = Arc::new(engine);
    let parts = StoreParts {
        store_id: StoreId::new(store_id),
        engine,
        log,
        snapshots: home.join("snapshots"),
        clock: Arc::new(SystemClock),
        config: layout.config.clone(),
        seed: store_id,
        logger: Logger::root(Discard, o!()),
        planted: None,
    };
    Store::open(parts).expect("the store opens")
}

impl Transport for World {
    fn send(&self, messages: Vec<RaftMessage>) {
        let stores = self.stores.read().expect("no holder panics");
        let mut of_stores: BTreeMap<u64, Vec<RaftMessage>> = BTreeMap::new();
        for message in messages {
            let (from, to) =
                (message.from_peer.unwrap_or_default(), message.to_peer.unwrap_or_default());
            let Some((_, target)) = stores.get(&to.store_id) else { continue };
            if let Some((sender, source)) = stores.get(&from.store_id) {
                let carried = skerry_raftstore::snapshot::carry(source, target, &message);
                if let Some(arrived) = carried {
                    let region_id = RegionId::new(message.region_id);
                    sender.snapshot_sent(region_id, PeerId::new(to.id), arrived);
                }
            }
            of_stores.entry(to.store_id).or_default().push(message);
        }
        for (store_id, of_store) in of_stores {
            stores[&store_id].0.receive(of_store);
        }
    }
}

impl SchedulerClient for World {
    fn report(&self, reports: Vec<RegionReport>) {
        let mut known = self.reports.write().expect("no holder panics");
        for report in reports {
            let newest = known.entry(report.region.id).or_insert_with(|| report.clone());
            if newest.term <= report.term {
                *newest = report;
            }
        }
    }

    fn ask_splits(&self, asks: Vec<SplitAsk>) {
        for ask in asks {
            let split = |key: Bytes| {
                let count = 1 + ask.region.peers.len() as u64;
                let first = self.next_id.fetch_add(count, Ordering::Relaxed);
                let new_peer_ids = (first + 1..first + count).collect();
                SplitRequest { split_key: key, new_region_id: first, new_peer_ids }
            };
            let requests = ask.keys.iter().cloned().map(split).collect();
            let request =
                admin_request::Command::Splits(BatchSplitRequest { requests, right_derive: true });
            let reply = self.replies.reply(|_| {});
            let context = CommandContext {
                region_id: ask.region.region_id(),
                epoch: ask.region.epoch(),
                ..CommandContext::default()
            };
            let stores = self.stores.read().expect("no holder panics");
            if let Some((store, _)) = stores.get(&ask.peer.store_id) {
                store.command(Command { context, kind: CommandKind::Admin { request, reply } });
            }
        }
    }
}
