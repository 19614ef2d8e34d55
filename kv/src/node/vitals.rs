//! What a store knows of itself: for heartbeats, for `/status` and for `/metrics`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skerry_proto::store::standalone_label;
use skerry_proto::{metapb, pdpb};
use skerry_raftstore::engine::rocks::{FamilyStatistics, RocksEngine, Statistics};
use skerry_raftstore::engine::{ColumnFamily, Engine, KeyRange};
use skerry_raftstore::keys::DataSpace;
use skerry_raftstore::store::threads::StoreHandle;
use skerry_raftstore::time::{Clock, SystemClock};

use serde_json::{Value, json};

use super::core::Core;
use super::identity::StoreIdentity;
use super::membership::VERSION_LABEL;
use super::{Mode, PROTOCOL_VERSION};
use crate::config::{Config, ServerConfig};
use crate::logging::Escaped;
use crate::metrics::{self, Reading, Source};
use crate::net::heartbeats::{self, Registration, Vitals};
use crate::net::reporter::Reporter;
use crate::storage::Storage;

/// Answers the heartbeat task.
pub(super) struct StoreVitals {
    identity: StoreIdentity,
    engine: Arc<RocksEngine>,
    storage: Arc<dyn Storage>,
    /// Of a replicated store.
    reporter: Option<Arc<Reporter>>,
    config: ServerConfig,
    directory: PathBuf,
    /// The second at which the process started, which tells clients that a store was restarted.
    start_seconds: u64,
}

impl StoreVitals {
    pub(super) fn new(
        identity: StoreIdentity,
        engine: Arc<RocksEngine>,
        core: &Core,
        config: &Config,
        directory: &Path,
    ) -> Arc<StoreVitals> {
        Arc::new(StoreVitals {
            identity,
            engine,
            storage: core.storage(),
            reporter: core.reporter(),
            config: config.server.clone(),
            directory: directory.to_path_buf(),
            start_seconds: started_at(),
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

/// The second at which the process started.
fn started_at() -> u64 {
    let uptime = SystemClock.monotonic().saturating_sub(metrics::started());
    (SystemClock.wall_ms() / 1_000).saturating_sub(uptime.as_secs())
}

/// How a store makes itself known to the scheduler.
pub(super) fn store_record(
    identity: &StoreIdentity,
    config: &ServerConfig,
    directory: &Path,
    mode: Mode,
) -> metapb::Store {
    let version = metapb::StoreLabel {
        key: VERSION_LABEL.to_string(),
        value: identity.api_version.number().to_string(),
    };
    metapb::Store {
        id: identity.store_id.get(),
        address: config.advertised().to_string(),
        version: PROTOCOL_VERSION.to_string(),
        status_address: config.status_addr.clone(),
        git_hash: format!("skerry-{}", env!("CARGO_PKG_VERSION")),
        start_timestamp: i64::try_from(started_at()).unwrap_or(i64::MAX),
        deploy_path: directory.display().to_string(),
        labels: match mode {
            Mode::Standalone => vec![version, standalone_label()],
            Mode::Replicated => vec![version],
        },
        ..Default::default()
    }
}

/// What regions are doing with snapshots.
fn snapshots_status(store: &StoreHandle) -> Value {
    let manager = store.snapshots();
    let list = manager.list().into_iter().map(|(id, activity)| {
        json!({ "region": id.region_id, "term": id.term, "index": id.index, "state": activity.name() })
    });
    json!({ "active": list.collect::<Vec<_>>() })
}

impl StoreVitals {
    /// The replicas, while they run.
    fn store(&self) -> Option<StoreHandle> {
        self.reporter.as_ref()?.store()
    }

    fn region_status(&self, region: &metapb::Region, store: Option<&StoreHandle>) -> Value {
        let peer = region.peer_on_store(self.identity.store_id).map_or(0, |peer| peer.id);
        let led = store.and_then(|store| store.led(region.region_id()));
        let leads = self.reporter.is_none() || led.is_some();
        let peer_of = |peer: &metapb::Peer| json!({ "id": peer.id, "store_id": peer.store_id, "role": peer.role().as_str_name() });
        json!({
            "id": region.id,
            "start_key": Escaped(&region.start_key).to_string(),
            "end_key": Escaped(&region.end_key).to_string(),
            "version": region.epoch().version,
            "conf_version": region.epoch().conf_ver,
            "peer": peer,
            "peers": region.peers.iter().map(peer_of).collect::<Vec<_>>(),
            "leads": leads,
            "term": led.map(|(_, term)| term.get()),
        })
    }

    /// `/status`.
    pub(super) fn status(&self) -> Value {
        let (identity, store) = (&self.identity, self.store());
        let regions = self.storage.regions();
        let regions = regions.iter().map(|region| self.region_status(region, store.as_ref()));
        let stats = self.stats();
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
            "mode": match self.reporter {
                Some(_) => "replicated",
                None => "standalone",
            },
            "cluster_id": identity.cluster_id,
            "store_id": identity.store_id.get(),
            "api_version": identity.api_version.number(),
            "address": self.config.advertised(),
            "data_dir": self.directory,
            "start_timestamp": self.start_seconds,
            "uptime_seconds": uptime.as_secs(),
            "regions": regions.collect::<Vec<_>>(),
            "snapshots": store.map(|store| snapshots_status(&store)),
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

impl StoreVitals {
    /// What does not depend on when it was told last.
    fn stats(&self) -> pdpb::StoreStats {
        let disk = rustix::fs::statvfs(&self.directory).ok();
        let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
            disk.as_ref().map_or(0, |disk| blocks(disk).saturating_mul(disk.f_frsize))
        };
        let regions = self.storage.regions();
        let used_size = self.engine.statistics().map_or(0, |statistics| {
            let bytes = |family: &FamilyStatistics| family.table_bytes + family.memtable_bytes;
            statistics.families.iter().map(bytes).sum()
        });
        let snapshots = self.store().map(|store| store.snapshots().counts()).unwrap_or_default();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        pdpb::StoreStats {
            store_id: self.identity.store_id.get(),
            start_time: u32::try_from(self.start_seconds).unwrap_or(u32::MAX),
            capacity: bytes(|disk| disk.f_blocks),
            available: bytes(|disk| disk.f_bavail),
            used_size,
            used_memory: metrics::resident_bytes().unwrap_or(0),
            region_count: count(regions.len()),
            sending_snap_count: count(snapshots.generating + snapshots.sending),
            receiving_snap_count: count(snapshots.receiving),
            applying_snap_count: count(snapshots.applying),
            ..Default::default()
        }
    }
}

impl Vitals for StoreVitals {
    fn store_stats(&self) -> pdpb::StoreStats {
        let Some(reporter) = &self.reporter else { return self.stats() };
        reporter.take_flow().told_in(self.stats())
    }

    fn region_heartbeats(&self, is_new_stream: bool) -> Vec<pdpb::RegionHeartbeatRequest> {
        if let Some(reporter) = &self.reporter {
            reporter.store().into_iter().for_each(|store| store.report(is_new_stream));
            return Vec::new();
        }
        let of_region = |region: &Arc<metapb::Region>| {
            heartbeats::of_region(region, self.identity.store_id, self.size_of(region))
        };
        self.storage.regions().iter().map(of_region).collect()
    }

    fn registration(&self) -> Registration {
        let record = |mode| store_record(&self.identity, &self.config, &self.directory, mode);
        match &self.reporter {
            Some(_) => Registration::Member(record(Mode::Replicated)),
            None => {
                let store = record(Mode::Standalone);
                let regions = self.storage.regions();
                let regions = regions.iter().map(|region| metapb::Region::clone(region));
                Registration::Alone(store, regions.collect())
            }
        }
    }

    fn instructed(&self, answer: pdpb::RegionHeartbeatResponse) {
        // A store whose regions are fixed can do nothing of what a scheduler wants.
        self.reporter.iter().for_each(|reporter| reporter.instructed(answer.clone()));
    }
}

/// What `/metrics` shows of engine and storage.
pub(super) fn readings(engine: Arc<RocksEngine>, core: &Core) -> Source {
    let core = core.source();
    Box::new(move || {
        let mut readings = core();
        // A failing engine shows in its writes, which end the process; the page shows the rest.
        if let Ok(statistics) = engine.statistics() {
            readings.extend(of_engine(&statistics));
        }
        readings
    })
}

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
