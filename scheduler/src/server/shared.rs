//! What all calls share: the cluster under its mutex, and the one way to make a decision durable.
//!
//! A decision takes its *turn* (a semaphore with one permit), then:
//!
//! 1. under the mutex: the cluster decides;
//! 2. without it: the changes are written and synced on a thread that may block;
//! 3. under the mutex: the changes are installed; the turn ends, the answer leaves.
//!
//! Steps 2 and 3 run to their end even if the client hangs up in the middle: what is on disk is always
//! installed before the next decision. Calls that only look, heartbeats and timestamps take no turn; a heartbeat
//! whose region wants a step takes one for the answer.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use skerry_proto::types::ClusterId;
use skerry_raftstore::engine::Durability;
use skerry_raftstore::time::{Clock, fatal};
use slog::{Logger, warn};
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::MissedTickBehavior;

use super::timestamps::Timestamps;
use crate::Result;
use crate::cluster::{Cluster, Decision};
use crate::config::SchedulerConfig;
use crate::moment::Moment;
use crate::persist::{Change, Storage};

/// One per process; every connection holds a reference.
pub(crate) struct Shared {
    pub(crate) id: ClusterId,
    pub(crate) config: SchedulerConfig,
    pub(crate) logger: Logger,
    pub(super) storage: Storage,
    pub(super) timestamps: Timestamps,
    /// Set once, when the server is told to stop; streams end then.
    pub(super) stop: watch::Sender<bool>,
    /// Changes when a store is to be told something unasked.
    pub(super) news: watch::Sender<()>,
    clock: Arc<dyn Clock>,
    /// Guards the whole state. Held for a lookup or an insertion, never across an await, a write or a
    /// conversion of many regions.
    cluster: Mutex<Cluster>,
    /// The permit to write. Its holder is the only one between a decision and its installation.
    turn: Arc<Semaphore>,
}

impl Shared {
    /// State as `rows` describe it.
    pub(super) fn new(
        config: SchedulerConfig,
        id: ClusterId,
        rows: Vec<Change>,
        storage: Storage,
        clock: Arc<dyn Clock>,
        logger: Logger,
    ) -> Shared {
        let limit_ms = rows.iter().find_map(|row| match row {
            Change::TimestampLimit(limit_ms) => Some(*limit_ms),
            _ => None,
        });
        let limit_ms = limit_ms.unwrap_or(0);
        let timestamps = Timestamps::new(limit_ms, config.tso_window_ms, Arc::clone(&clock));
        let cluster = Cluster::restore(id, &config, rows, Moment::now(&*clock));
        Shared {
            id,
            config,
            logger,
            storage,
            timestamps,
            stop: watch::Sender::new(false),
            news: watch::Sender::new(()),
            clock,
            cluster: Mutex::new(cluster),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// The cluster, for a moment.
    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster
            .lock()
            .unwrap_or_else(|_| fatal("a call panicked while it changed the cluster"))
    }

    /// The time, to be handed to the cluster.
    pub(crate) fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    /// Lets the cluster decide, makes the decision durable, and then answers.
    pub(crate) async fn decide<T, F>(self: &Arc<Self>, event: F) -> Result<T>
    where
        F: FnOnce(&mut Cluster, Moment) -> Result<Decision<T>>,
    {
        self.decide_and_look(event, |_| ()).await.map(|(answer, ())| answer)
    }

    /// The same, and looks at what came of it, before anything else is decided.
    pub(super) async fn decide_and_look<T, F, L>(
        self: &Arc<Self>,
        event: F,
        look: impl FnOnce(&Cluster) -> L,
    ) -> Result<(T, L)>
    where
        F: FnOnce(&mut Cluster, Moment) -> Result<Decision<T>>,
    {
        let mut turn = Arc::clone(&self.turn).acquire_owned().await.expect("never closed");
        let Decision { answer, changes } = event(&mut self.cluster(), self.now())?;
        if !changes.is_empty() {
            let shared = Arc::clone(self);
            turn = blocking(move || {
                shared.write(&changes, Durability::Synced);
                let now = shared.now();
                shared.cluster().install(changes, now);
                turn
            })
            .await;
        }
        let looked = look(&self.cluster());
        drop(turn);
        Ok((answer, looked))
    }

    /// Writes the rows of regions that heartbeats have changed. They are not synced: see `persist.rs`.
    pub(super) async fn save_regions(self: &Arc<Self>) {
        let turn = Arc::clone(&self.turn).acquire_owned().await.expect("never closed");
        let changes = self.cluster().take_region_changes();
        if changes.is_empty() {
            return;
        }
        let shared = Arc::clone(self);
        blocking(move || {
            shared.write(&changes, Durability::Buffered);
            drop(turn);
        })
        .await;
    }

    /// Lets the cluster look after balance and after what is late, again and again; never returns.
    pub(super) async fn keep_balance(self: &Arc<Self>) -> ! {
        let period = Duration::from_millis(self.config.schedule_interval_ms);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.decide(|cluster, now| cluster.tick(now)).await {
                Ok(true) => self.tell_news(),
                Ok(false) => {}
                Err(error) => warn!(self.logger, "nothing is decided: {}", error),
            }
            let is_due = self.cluster().collection_is_due(self.now());
            let drawn = if is_due { self.timestamps.allocate(&[1]).await.pop() } else { None };
            if let Err(error) =
                self.decide(|cluster, now| cluster.collection_tick(drawn, now)).await
            {
                warn!(self.logger, "garbage collection does not go on: {}", error);
            }
        }
    }

    /// Wakes the streams: some store is to be told something.
    pub(crate) fn tell_news(&self) {
        self.news.send_replace(());
    }

    /// Saves regions again and again; never returns.
    pub(super) async fn keep_regions_saved(self: &Arc<Self>) -> ! {
        let period = Duration::from_millis(self.config.region_save_ms);
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.save_regions().await;
        }
    }

    fn write(&self, changes: &[Change], durability: Durability) {
        if let Err(error) = self.storage.write(changes, durability) {
            fatal(&format!("the scheduler cannot write its state: {error}"));
        }
    }
}

/// Does `work` on a thread that may block, to its end even if nobody waits for it any more.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) if error.is_panic() => {
            fatal("a thread of the scheduler panicked while it wrote")
        }
        // The runtime is going away, and with it everybody who could wait for the work.
        Err(_) => std::future::pending().await,
    }
}
