//! The scheduler of a database with one server: ids, timestamps, and the picture of its only store, from the same pure
//! parts as the scheduler that is a process, without its sockets and tasks.
//!
//! 1. What decides is [`Cluster`] and [`Oracle`]; both know no disk and no clock.
//! 2. A decision is written and synced, then installed, then answered, all by the thread that asked and under one
//!    mutex: there is one store, and it asks a handful of times in its life. Timestamps are asked for all the time, but
//!    need the disk only once a second.
//! 3. The store's part in garbage collection confers with it ([`Placement::confer`]): the same rounds as in a cluster.
//!
//! Its data lies where that of a playground's scheduler would, in the same form.

use std::future::{Future, ready};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skerry_proto::gcpb::{ReportRequest, ReportResponse};
use skerry_proto::metapb::{Region, Store};
use skerry_proto::types::{ClusterId, StoreId, Ts};
use skerry_raftstore::config::RocksConfig;
use skerry_raftstore::engine::directory::{DataDirectory, Identity, Purpose};
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{Durability, Engine};
use skerry_raftstore::time::{Clock, entropy, fatal};
use skerry_scheduler::cluster::{Cluster, Decision};
use skerry_scheduler::config::SchedulerConfig;
use skerry_scheduler::moment::Moment;
use skerry_scheduler::persist::{Change, Storage};
use skerry_scheduler::tso::{Allocation, Oracle};

use crate::error::{Error, Result};
use crate::node::VIEWS_TIMEOUT;
use crate::txn::Timestamps;

/// The wait when the timestamps of a millisecond are used up.
const USED_UP_WAIT: Duration = Duration::from_millis(1);

/// See the head of this file.
pub(super) struct Placement {
    state: Mutex<State>,
    storage: Storage,
    engine: Arc<RocksEngine>,
    clock: Arc<dyn Clock>,
    /// Released last: the lock must outlive the engine.
    _directory: DataDirectory,
}

struct State {
    cluster: Cluster,
    oracle: Oracle,
}

impl Placement {
    /// Opens or begins what lies in `path`.
    pub(super) fn open(
        path: &Path,
        config: &SchedulerConfig,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Placement>> {
        let directory = DataDirectory::open(path, Purpose::SCHEDULER)?;
        let engine =
            Arc::new(RocksEngine::open(&directory.data_path(), &RocksConfig::small(), None)?);
        let storage = Storage::new(Arc::clone(&engine) as Arc<dyn Engine>);
        let mut rows = storage.load().map_err(said)?;
        let known = rows.iter().find_map(|row| match row {
            Change::ClusterId(id) => Some(*id),
            _ => None,
        });
        let id = match known {
            Some(id) => id,
            None => {
                // Not 0, and positive also for clients that read it as a signed number.
                let id = ClusterId::new((entropy() >> 1).max(1));
                storage.write(&[Change::ClusterId(id)], Durability::Synced).map_err(said)?;
                rows.push(Change::ClusterId(id));
                id
            }
        };
        directory.set_identity(Identity { cluster_id: Some(id.get()), ..Identity::default() })?;
        let limit_ms = rows.iter().find_map(|row| match row {
            Change::TimestampLimit(limit_ms) => Some(*limit_ms),
            _ => None,
        });
        let now = Moment::now(&*clock);
        let oracle = Oracle::restore(limit_ms.unwrap_or(0), config.tso_window_ms, now);
        let cluster = Cluster::restore(id, config, rows, now);
        let state = Mutex::new(State { cluster, oracle });
        Ok(Arc::new(Placement { state, storage, engine, clock, _directory: directory }))
    }

    /// The id of the cluster.
    pub(super) fn cluster_id(&self) -> u64 {
        self.state().cluster.id().get()
    }

    /// `count` ids that nobody has.
    pub(super) fn allocate_ids(&self, count: u64) -> Result<Vec<u64>> {
        let last = self.decide(|cluster, _| cluster.allocate_ids(count))?;
        Ok((last + 1 - count..=last).collect())
    }

    /// Makes the store and its regions known. Repeating it changes nothing. A cluster of another store is refused.
    pub(super) fn register(&self, store: Store, regions: &[Region]) -> Result<()> {
        if !self.state().cluster.is_bootstrapped() {
            // A cluster is born with one region over all keys, which makes way for those that are really served.
            let mut first = regions.first().expect("a store has a region").clone();
            (first.start_key, first.end_key) = Default::default();
            let store = store.clone();
            self.decide(|cluster, now| cluster.bootstrap(Some(store), Some(first), now))?;
        }
        if self.state().cluster.store(StoreId::new(store.id)).is_err() {
            return Err(Error::Startup(
                "the data belongs to a cluster of other stores: it cannot be opened alone"
                    .to_string(),
            ));
        }
        self.decide(|cluster, now| cluster.put_store(Some(store), now))?;
        let mut state = self.state();
        let told = state.cluster.report_split(regions.to_vec(), self.now());
        told.map_err(said)?;
        let changes = state.cluster.take_region_changes();
        self.storage.write(&changes, Durability::Buffered).map_err(said)
    }

    /// A timestamp above all that were given out before, also in earlier lives.
    pub(super) fn timestamp(&self) -> Ts {
        loop {
            let mut state = self.state();
            let now = self.now();
            match state.oracle.allocate(1, now) {
                Allocation::Granted(ts) => return ts,
                Allocation::NeedsWindow => self.save_limit(&mut state, now),
                Allocation::NeedsTime => {
                    drop(state);
                    // Nobody sends: this is a wait for the time alone.
                    let _ = crossbeam_channel::never::<()>().recv_timeout(USED_UP_WAIT);
                }
            }
        }
    }

    /// The safe point: no read below it is answered. What was never collected is collected at once, not after the first
    /// interval: many a process does not live so long.
    pub(super) fn safe_point(&self) -> Result<Ts> {
        let mut state = self.state();
        let safe_point = state.cluster.marks().map_err(said)?.txn();
        if safe_point == 0 {
            state.cluster.want_collection().map_err(said)?;
        }
        Ok(Ts::from(safe_point))
    }

    /// Takes what the store has done of garbage collection, goes on with the round or begins the next one if it is due,
    /// and answers what the store is to do.
    pub(super) fn confer(&self, report: ReportRequest) -> Result<ReportResponse> {
        let store = StoreId::new(report.store_id);
        self.decide(|cluster, now| cluster.collection_report(store, report.into(), now))?;
        let is_due = self.state().cluster.collection_is_due(self.now());
        let drawn = is_due.then(|| self.timestamp());
        self.decide(|cluster, now| cluster.collection_tick(drawn, now))?;
        self.state().cluster.collection_order().map(ReportResponse::from).map_err(said)
    }

    /// Saves a higher limit of timestamps: until it is on disk nobody gets one.
    fn save_limit(&self, state: &mut State, now: Moment) {
        let Some(limit_ms) = state.oracle.wanted_limit(now) else { return };
        let change = vec![Change::TimestampLimit(limit_ms)];
        if let Err(error) = self.storage.write(&change, Durability::Synced) {
            fatal(&format!("the limit of timestamps cannot be saved: {error}"));
        }
        state.cluster.install(change, now);
        state.oracle.saved(limit_ms);
    }

    /// Lets the cluster decide, makes the decision durable, and then answers.
    fn decide<T>(
        &self,
        event: impl FnOnce(&mut Cluster, Moment) -> skerry_scheduler::Result<Decision<T>>,
    ) -> Result<T> {
        let mut state = self.state();
        let now = self.now();
        let Decision { answer, changes } = event(&mut state.cluster, now).map_err(said)?;
        if !changes.is_empty() {
            self.storage.write(&changes, Durability::Synced).map_err(said)?;
            state.cluster.install(changes, now);
        }
        Ok(answer)
    }

    /// Closes the engine; nobody may ask any more.
    pub(super) fn close(&self) -> Result<()> {
        Ok(self.engine.close(VIEWS_TIMEOUT)?)
    }

    fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timestamps for Placement {
    fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
        Box::pin(ready(self.timestamp()))
    }

    fn passed(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// The scheduler's errors are whole sentences; those of the engine below it keep their kind.
fn said(error: skerry_scheduler::Error) -> Error {
    match error {
        skerry_scheduler::Error::Engine(error) => Error::Store(error),
        other => Error::Startup(other.to_string()),
    }
}
