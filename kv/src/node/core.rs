//! What keeps a store's data: regions that are alone, or replicas of regions that others hold too.
//!
//! **Invariant.** A core stops before its engines are closed, and answers everybody who still waits.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skerry_proto::metapb;
use skerry_proto::pdpb::RegionHeartbeatRequest;
use skerry_raftstore::config::RaftConfig;
use skerry_raftstore::engine::Engine;
use skerry_raftstore::engine::log::LogEngine;
use skerry_raftstore::environment::Counters;
use skerry_raftstore::outside::ReadGuard;
use skerry_raftstore::store::threads::RunningStore;
use skerry_raftstore::store::{Store, StoreParts};
use skerry_raftstore::time::{Clock, SystemClock, splitmix64};
use slog::Logger;
use tokio::sync::{mpsc, watch};

use super::identity::StoreIdentity;
use crate::config::Config;
use crate::error::Result;
use crate::metrics::Reading;
use crate::net::SchedulerClient;
use crate::net::inlet::RaftInlet;
use crate::net::reporter::{ReportTo, Reporter, ReporterSettings};
use crate::net::resolver::Resolver;
use crate::net::transport::RaftTransport;
use crate::storage::{LocalStorage, Permits, ReplicatedStorage, Storage};

/// See the module.
pub(super) enum Core {
    /// Regions that are alone.
    Standalone(Arc<LocalStorage>),
    /// Replicas of regions.
    Replicated(Box<Replicas>),
}

/// A running store of raftstore and what surrounds it.
pub(super) struct Replicas {
    running: RunningStore,
    storage: Arc<ReplicatedStorage>,
    reporter: Arc<Reporter>,
    inlet: RaftInlet,
    transport: Arc<RaftTransport>,
    /// Of the log's engine; it is closed by being dropped.
    _log: Arc<dyn LogEngine>,
}

/// The engines of a replicated store and where its snapshots lie.
pub(super) struct Engines<'a> {
    pub(super) data: Arc<dyn Engine>,
    pub(super) log: Arc<dyn LogEngine>,
    pub(super) snapshots: &'a Path,
}

impl Core {
    /// Starts a store whose regions are alone.
    pub(super) fn standalone(
        engine: Arc<dyn Engine>,
        identity: &StoreIdentity,
        regions: Vec<metapb::Region>,
        config: &Config,
    ) -> Core {
        let limits = config.storage.local_limits();
        Core::Standalone(LocalStorage::start(engine, identity.store_id, regions, limits))
    }

    /// Starts the replicas of a store, which takes messages of others until it is `stopping`. The second part of the
    /// answer is where their heartbeats come out.
    pub(super) fn replicated(
        engines: Engines<'_>,
        identity: &StoreIdentity,
        scheduler: &Arc<SchedulerClient>,
        config: &Config,
        stopping: watch::Receiver<bool>,
        logger: &Logger,
    ) -> Result<(Core, mpsc::Receiver<RegionHeartbeatRequest>)> {
        let Engines { data, log, snapshots } = engines;
        let &StoreIdentity { cluster_id, store_id, api_version } = identity;
        let limits = config.storage.local_limits();
        let raft = RaftConfig {
            entry_size_max: config.storage.entry_size_max,
            ..config.raftstore.clone()
        };
        let settings = ReporterSettings {
            fixed_cuts: api_version.boundaries(),
            right_derive: raft.right_derive,
            tick: Duration::from_millis(raft.tick_ms),
        };
        let store = Store::open(StoreParts {
            store_id,
            engine: data,
            log: log.clone(),
            snapshots: snapshots.to_path_buf(),
            clock: Arc::new(SystemClock),
            config: raft,
            // Stores must not seek election at the same moments.
            seed: splitmix64(cluster_id ^ SystemClock.wall_ms()).wrapping_add(store_id.get()),
            logger: logger.clone(),
            planted: None,
        })?;
        let resolver = Resolver::new(scheduler.clone());
        let transport = RaftTransport::new(cluster_id, resolver, logger.clone());
        let (reporter, heartbeats) = Reporter::new(scheduler.clone(), settings, logger.clone());
        let running = store.run(transport.clone(), Arc::new(ReportTo(reporter.clone())));
        let handle = running.handle();
        transport.serve(&handle);
        reporter.serve(&handle);
        let permits = Permits::new(limits.pending_commands_max, limits.pending_bytes_max);
        let storage = ReplicatedStorage::new(store_id, handle.clone(), permits);
        let inlet = RaftInlet::new(cluster_id, store_id, handle, stopping, logger.clone());
        let replicas = Replicas { running, storage, reporter, inlet, transport, _log: log };
        Ok((Core::Replicated(Box::new(replicas)), heartbeats))
    }

    /// What clients use.
    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Core::Standalone(storage) => storage.clone(),
            Core::Replicated(replicas) => replicas.storage.clone(),
        }
    }

    /// From now on reads of transactions at other replicas are prepared here.
    pub(super) fn guard_reads(&self, guard: Arc<dyn ReadGuard>) {
        if let Core::Replicated(replicas) = self {
            replicas.running.handle().guard_reads(guard);
        }
    }

    /// Who talks to the scheduler about regions, if they are replicated.
    pub(super) fn reporter(&self) -> Option<Arc<Reporter>> {
        match self {
            Core::Standalone(_) => None,
            Core::Replicated(replicas) => Some(replicas.reporter.clone()),
        }
    }

    /// Where messages of other stores come in, if there are others.
    pub(super) fn inlet(&self) -> Option<RaftInlet> {
        match self {
            Core::Standalone(_) => None,
            Core::Replicated(replicas) => Some(replicas.inlet.clone()),
        }
    }

    /// What `/metrics` shows of it.
    pub(super) fn source(&self) -> Box<dyn Fn() -> Vec<Reading> + Send + Sync> {
        match self {
            Core::Standalone(storage) => {
                let storage = storage.clone();
                Box::new(move || {
                    let counts = storage.counts();
                    vec![
                        Reading::new("skerry_storage_writes_total", WRITES, counts.commands),
                        Reading::new(
                            "skerry_storage_synced_batches_total",
                            BATCHES,
                            counts.engine_writes,
                        ),
                        Reading::new(UNANSWERED_NAME, UNANSWERED, storage.unanswered()),
                    ]
                })
            }
            Core::Replicated(replicas) => {
                let counters = replicas.running.handle().counters();
                let (storage, inlet) = (replicas.storage.clone(), replicas.inlet.clone());
                let transport = replicas.transport.clone();
                Box::new(move || {
                    let mut readings = of_log(&counters);
                    readings.push(Reading::new(UNANSWERED_NAME, UNANSWERED, storage.unanswered()));
                    let misdirected = inlet.misdirected();
                    readings.push(Reading::new(
                        "skerry_raft_misdirected_messages_total",
                        MISDIRECTED,
                        misdirected,
                    ));
                    readings.push(Reading::new(
                        "skerry_raft_unsent_messages_total",
                        UNSENT,
                        transport.unsent(),
                    ));
                    readings
                })
            }
        }
    }

    /// Takes nothing more and answers everything accepted. Blocks until its threads have ended.
    pub(super) fn stop(self) {
        match self {
            Core::Standalone(storage) => storage.stop(),
            Core::Replicated(replicas) => replicas.running.stop(),
        }
    }
}

fn of_log(counters: &Counters) -> Vec<Reading> {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    vec![
        Reading::new("skerry_raft_log_bytes_total", LOG_BYTES, read(&counters.log_bytes)),
        Reading::new("skerry_raft_log_writes_total", LOG_WRITES, read(&counters.log_writes)),
        Reading::new("skerry_raft_log_syncs_total", LOG_SYNCS, read(&counters.log_syncs)),
        Reading::new(
            "skerry_raft_refused_messages_total",
            REFUSED,
            read(&counters.messages_refused),
        ),
        Reading::new("skerry_region_scans_total", SCANS, read(&counters.region_scans)),
        Reading::new("skerry_region_samples_total", SAMPLES, read(&counters.region_samples)),
        Reading::new(
            "skerry_raft_dropped_messages_total",
            DROPPED,
            read(&counters.messages_dropped),
        ),
        Reading::new("skerry_raft_sleeping_replicas", ASLEEP, read(&counters.replicas_asleep)),
    ]
}

const WRITES: &str = "Write requests that were made durable.";
const BATCHES: &str = "Batches they were merged into, each with one sync of the disk.";
const UNANSWERED_NAME: &str = "skerry_storage_unanswered_total";
const UNANSWERED: &str = "Requests that were dropped without an answer. Not 0 is a bug.";
const MISDIRECTED: &str = "Raft messages that were for another store.";
const UNSENT: &str =
    "Raft messages that found no room on the way to another store, or no way; raft repeats them.";
const REFUSED: &str =
    "Raft messages that were malformed, or came right after a start and asked for a vote.";
const SCANS: &str = "Regions that were read whole to see where they should be cut.";
const SAMPLES: &str = "Regions of which samples were read for that, because they are large.";
const DROPPED: &str = "Raft messages that found no room here; their senders repeat them.";
const ASLEEP: &str = "Replicas that hibernate, because nothing happens in their regions.";
const LOG_BYTES: &str = "Bytes that were written to the raft log.";
const LOG_WRITES: &str = "Batches that were written to the raft log.";
const LOG_SYNCS: &str = "Batches that were synced.";
