//! What a standalone store knows of itself: for heartbeats, for `/status` and for `/metrics`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skerry_proto::store::standalone_label;
use skerry_proto::{metapb, pdpb};
use skerry_raftstore::engine::rocks::{FamilyStatistics, RocksEngine, Statistics};
use skerry_raftstore::engine::{ColumnFamily, Engine, KeyRange};
use skerry_raftstore::keys::DataSpace;
use skerry_raftstore::time::{Clock, SystemClock};

use serde_json::{Value, json};

use super::PROTOCOL_VERSION;
use super::identity::StoreIdentity;
use crate::config::Config;
use crate::logging::Escaped;
use crate::metrics::{self, Reading, Source};
use crate::net::heartbeats::{self, Vitals};
use crate::storage::LocalStorage;

/// Answers the heartbeat task.
pub(super) struct StoreVitals {
    identity: StoreIdentity,
    engine: Arc<RocksEngine>,
    address: String,
    status_address: String,
    directory: PathBuf,
    /// The second at which the process started, which tells clients that a store was restarted.
    start_seconds: u64,
}

impl StoreVitals {
    pub(super) fn new(
        identity: &StoreIdentity,
        engine: Arc<RocksEngine>,
        config: &Config,
        directory: &Path,
    ) -> Arc<StoreVitals> {
        Arc::new(StoreVitals {
            identity: identity.clone(),
            engine,
            address: config.server.advertised().to_string(),
            status_address: config.server.status_addr.clone(),
            directory: directory.to_path_buf(),
            start_seconds: SystemClock.wall_ms() / 1_000,
        })
    }

    /// Bytes of a region's raw pairs; 0 when the engine cannot say, which the scheduler reads as *tiny*.
    fn size_of(&self, region: &metapb::Region) -> u64 {
        let size = |space: DataSpace| {
            let (start, end) = space.range(&region.start_key, &region.end_key);
            self.engine.approximate_size(ColumnFamily::Raw, &KeyRange { start, end }).unwrap_or(0)
        };
        DataSpace::ALL.into_iter().map(size).sum()
    }
}

impl StoreVitals {
    /// `/status`.
    pub(super) fn status(&self) -> Value {
        let identity = &self.identity;
        let regions = identity.regions.iter().map(|region| {
            let peer = region.peer_on_store(identity.store_id).map_or(0, |peer| peer.id);
            json!({
                "id": region.id,
                "start_key": Escaped(&region.start_key).to_string(),
                "end_key": Escaped(&region.end_key).to_string(),
                "version": region.epoch().version,
                "peer": peer,
            })
        });
        let stats = self.store_stats();
        let uptime = SystemClock.monotonic().saturating_sub(metrics::started());
        let engine = self.engine.statistics().ok().map(|statistics| {
            let sum = |number: fn(&FamilyStatistics) -> u64| {
                statistics.families.iter().map(number).sum::<u64>()
            };
            json!({
                "name": "rocksdb",
                "table_bytes": sum(|family| family.table_bytes),
                "write_buffers_bytes": statistics.write_buffers_bytes,
                "block_cache_bytes": statistics.block_cache_bytes,
                "pending_compaction_bytes": sum(|family| family.pending_compaction_bytes),
                "estimated_keys": sum(|family| family.estimated_keys),
                "write_stopped": statistics.write_stopped,
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "git_hash": option_env!("SKERRY_GIT_HASH"),
            "protocol_version": PROTOCOL_VERSION,
            "mode": "standalone",
            "cluster_id": identity.cluster_id,
            "store_id": identity.store_id.get(),
            "api_version": identity.api_version.number(),
            "address": self.address,
            "data_dir": self.directory,
            "start_timestamp": self.start_seconds,
            "uptime_seconds": uptime.as_secs(),
            "regions": regions.collect::<Vec<_>>(),
            "disk": {
                "capacity": stats.capacity,
                "available": stats.available,
                "used": stats.used_size,
            },
            "engine": engine,
            "resident_bytes": metrics::resident_bytes(),
        })
    }
}

impl Vitals for StoreVitals {
    fn store_stats(&self) -> pdpb::StoreStats {
        let disk = rustix::fs::statvfs(&self.directory).ok();
        let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
            disk.as_ref().map_or(0, |disk| blocks(disk).saturating_mul(disk.f_frsize))
        };
        let used_size = self.identity.regions.iter().map(|region| self.size_of(region)).sum();
        pdpb::StoreStats {
            store_id: self.identity.store_id.get(),
            start_time: u32::try_from(self.start_seconds).unwrap_or(u32::MAX),
            capacity: bytes(|disk| disk.f_blocks),
            available: bytes(|disk| disk.f_bavail),
            used_size,
            used_memory: metrics::resident_bytes().unwrap_or(0),
            region_count: u32::try_from(self.identity.regions.len()).unwrap_or(u32::MAX),
            ..Default::default()
        }
    }

    fn region_heartbeats(&self) -> Vec<pdpb::RegionHeartbeatRequest> {
        let of_region = |region: &metapb::Region| {
            heartbeats::of_region(region, self.identity.store_id, self.size_of(region))
        };
        self.identity.regions.iter().map(of_region).collect()
    }

    fn registration(&self) -> (metapb::Store, Vec<metapb::Region>) {
        let store = metapb::Store {
            id: self.identity.store_id.get(),
            address: self.address.clone(),
            version: PROTOCOL_VERSION.to_string(),
            status_address: self.status_address.clone(),
            git_hash: format!("skerry-{}", env!("CARGO_PKG_VERSION")),
            start_timestamp: i64::try_from(self.start_seconds).unwrap_or(i64::MAX),
            deploy_path: self.directory.display().to_string(),
            labels: vec![standalone_label()],
            ..Default::default()
        };
        (store, self.identity.regions.clone())
    }
}

/// What `/metrics` shows of engine and storage.
pub(super) fn readings(engine: Arc<RocksEngine>, storage: Arc<LocalStorage>) -> Source {
    Box::new(move || {
        let counts = storage.counts();
        let mut readings = vec![
            Reading::new("skerry_storage_writes_total", WRITES, counts.commands),
            Reading::new("skerry_storage_synced_batches_total", BATCHES, counts.engine_writes),
            Reading::new("skerry_storage_unanswered_total", UNANSWERED, storage.unanswered()),
        ];
        // A failing engine shows in its writes, which end the process; the page shows the rest.
        if let Ok(statistics) = engine.statistics() {
            readings.extend(of_engine(&statistics));
        }
        readings
    })
}

const WRITES: &str = "Write requests that were made durable.";
const BATCHES: &str = "Batches they were merged into, each with one sync of the disk.";
const UNANSWERED: &str = "Requests that were dropped without an answer. Not 0 is a bug.";

fn of_engine(statistics: &Statistics) -> Vec<Reading> {
    let stopped = u64::from(statistics.write_stopped);
    let slowed = statistics.delayed_write_bytes_per_second;
    let mut readings = vec![
        Reading::new(
            "skerry_engine_block_cache_bytes",
            "Blocks of table files in memory.",
            statistics.block_cache_bytes,
        ),
        Reading::new(
            "skerry_engine_write_buffers_bytes",
            "Newest writes in memory, of all families.",
            statistics.write_buffers_bytes,
        ),
        Reading::new("skerry_engine_views", "Views that are held now.", statistics.views),
        Reading::new(
            "skerry_engine_running_flushes",
            "Write buffers being written out.",
            statistics.running_flushes,
        ),
        Reading::new(
            "skerry_engine_running_compactions",
            "Merges of table files under way.",
            statistics.running_compactions,
        ),
        Reading::new(
            "skerry_engine_background_errors_total",
            "Flushes and merges that failed.",
            statistics.background_errors,
        ),
        Reading::new(
            "skerry_engine_delayed_write_bytes_per_second",
            "Rate to which writers are slowed down; 0 when they are not.",
            slowed,
        ),
        Reading::new("skerry_engine_write_stopped", "1 while writers are stopped.", stopped),
    ];
    type Number = fn(&FamilyStatistics) -> u64;
    let numbers: [(&str, &str, Number); 5] = [
        ("skerry_engine_table_bytes", "Table files.", |family| family.table_bytes),
        ("skerry_engine_memtable_bytes", "Newest writes in memory.", |family| {
            family.memtable_bytes
        }),
        ("skerry_engine_level0_files", "Files that no merge has sorted in yet.", |family| {
            family.level0_files
        }),
        ("skerry_engine_pending_compaction_bytes", "Bytes that wait to be merged.", |family| {
            family.pending_compaction_bytes
        }),
        ("skerry_engine_estimated_keys", "Roughly how many keys there are.", |family| {
            family.estimated_keys
        }),
    ];
    for (name, help, number) in numbers {
        readings.extend(statistics.families.iter().map(|family| Reading {
            label: Some(("family", family.family.name())),
            ..Reading::new(name, help, number(family))
        }));
    }
    readings
}
