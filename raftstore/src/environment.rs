//! What all actors of a store share, none of it owned by one of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use skerry_proto::types::{RegionId, StoreId};
use slog::Logger;

use crate::config::RaftConfig;
use crate::credits::Credits;
use crate::engine::Engine;
use crate::engine::log::LogEngine;
use crate::extent::FlowTally;
use crate::meta::StoreMeta;
use crate::outside::ReadGuard;
use crate::planted::Planted;
use crate::registry::Registry;
use crate::snapshot;
use crate::store::Pulses;
use crate::time::{Clock, splitmix64};

/// See the module. Cloning copies references.
#[derive(Clone)]
pub struct Environment {
    /// This store.
    pub store_id: StoreId,
    /// How often this store was started; part of what must never be used twice.
    pub incarnation: u64,
    /// The only source of chance.
    pub seed: u64,
    /// Settings.
    pub config: Arc<RaftConfig>,
    /// Data and states of regions.
    pub engine: Arc<dyn Engine>,
    /// Entries and raft states.
    pub log: Arc<dyn LogEngine>,
    /// Regions of the store as a whole.
    pub meta: Arc<Mutex<StoreMeta>>,
    /// Reads on callers' threads.
    pub registry: Arc<Registry>,
    /// Who is at which snapshot, and where their files lie.
    pub snapshots: Arc<snapshot::Manager>,
    /// How fast their bytes may be written, sent and received.
    pub snapshot_rates: Arc<snapshot::RateLimits>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// When this store was started, by its monotonic clock.
    pub started: Duration,
    /// Whether all raft workers take their ticks.
    pub pulses: Arc<Pulses>,
    /// Where to log.
    pub logger: Logger,
    /// What was done so far.
    pub counters: Arc<Counters>,
    /// Those of the raft worker that this copy belongs to. No other actor looks at them.
    pub credits: Arc<Credits>,
    /// What was read of replicas that follow, since it was taken last.
    pub follower_reads: Arc<FlowTally>,
    /// Who prepares reads of transactions at other replicas. Until there is somebody, they wait.
    pub read_guard: Arc<OnceLock<Arc<dyn ReadGuard>>>,
    /// The bug that a test has planted.
    pub planted: Option<Planted>,
}

/// What a store has done since it was started, for `/metrics` and benchmarks.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes that went to the raft log.
    pub log_bytes: AtomicU64,
    /// Writes to the raft log.
    pub log_writes: AtomicU64,
    /// Those of them that were synced.
    pub log_syncs: AtomicU64,
    /// Messages of other stores that no replica let its raft hear.
    pub messages_refused: AtomicU64,
    /// Regions that were read whole to see where they should be cut.
    pub region_scans: AtomicU64,
    /// Regions of which samples were read instead.
    pub region_samples: AtomicU64,
    /// Messages of other stores that found no room.
    pub messages_dropped: AtomicU64,
    /// Replicas that hibernate now.
    pub replicas_asleep: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// Another constant for each kind of worker: otherwise those of one kind would serve the regions of one of
/// the other, all of them.
const RAFT_WORKERS: u64 = 0;
const APPLY_WORKERS: u64 = 0x5EED;

impl Environment {
    /// Whether a test has planted this bug.
    pub fn has(&self, bug: Planted) -> bool {
        self.planted == Some(bug)
    }

    /// The raft worker that owns a region. Ids of regions come in steps, so they are mixed first.
    pub fn worker_of(&self, region_id: RegionId) -> usize {
        pick(region_id, RAFT_WORKERS, self.config.workers)
    }

    /// The apply worker that owns a region.
    pub fn apply_worker_of(&self, region_id: RegionId) -> usize {
        pick(region_id, APPLY_WORKERS, self.config.apply_workers)
    }
}

fn pick(region_id: RegionId, kind: u64, workers: usize) -> usize {
    let workers = u64::try_from(workers).expect("a small number");
    usize::try_from(splitmix64(region_id.get() ^ kind) % workers).expect("below the workers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_whose_ids_step_by_four_are_spread_over_all_workers() {
        for kind in [RAFT_WORKERS, APPLY_WORKERS] {
            for workers in [2, 3, 4] {
                let mut counts = vec![0; workers];
                (0..1_000)
                    .for_each(|number| counts[pick(RegionId::new(number * 4), kind, workers)] += 1);
                let even = 1_000 / workers;
                let within = |count: &usize| count.abs_diff(even) * 5 <= even;
                assert!(counts.iter().all(within), "{counts:?}");
            }
        }
    }
}
