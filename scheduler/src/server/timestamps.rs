//! Timestamps for many callers: the oracle under its mutex, and the task that saves its limit.
//! Used by the Tso stream and GetMinTS.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use skerry_proto::types::Ts;
use skerry_raftstore::engine::Durability;
use skerry_raftstore::time::{Clock, fatal};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use super::shared::blocking;
use crate::moment::Moment;
use crate::persist::{Change, Storage};
use crate::tso::{Allocation, Oracle};

/// The wait when a millisecond's timestamps are used up; it has passed by then.
const USED_UP_WAIT: Duration = Duration::from_millis(1);

/// The source of timestamps of one process.
///
/// The mutex guards arithmetic only. A caller that finds the window used up wakes the keeper and waits for
/// `saved`; everybody else goes on. The keeper is the only one that writes, so limits reach the disk in
/// ascending order.
pub(super) struct Timestamps {
    oracle: Mutex<Oracle>,
    clock: Arc<dyn Clock>,
    window_ms: u64,
    /// Somebody needs a higher limit.
    wanted: Notify,
    /// The limit after each save.
    saved: watch::Sender<u64>,
}

impl Timestamps {
    /// Timestamps above everything that was handed out under the saved `limit_ms`.
    pub(super) fn new(limit_ms: u64, window_ms: u64, clock: Arc<dyn Clock>) -> Timestamps {
        let oracle = Oracle::restore(limit_ms, window_ms, Moment::now(&*clock));
        Timestamps {
            oracle: Mutex::new(oracle),
            clock,
            window_ms,
            wanted: Notify::new(),
            saved: watch::Sender::new(limit_ms),
        }
    }

    /// The largest of `count` timestamps, for each of `counts` (1 to [`crate::tso::LOGICAL_MAX`]) in order.
    /// One lock and one reading of the clock for all of them, unless the oracle makes somebody wait.
    pub(super) async fn allocate(&self, counts: &[u32]) -> Vec<Ts> {
        let mut granted = Vec::with_capacity(counts.len());
        self.take(counts, &mut granted);
        while granted.len() < counts.len() {
            // Subscribed before asking once more, so that no save is missed.
            let mut saved = self.saved.subscribe();
            match self.take(&counts[granted.len()..], &mut granted) {
                Some(Allocation::NeedsWindow) => {
                    self.wanted.notify_one();
                    // The sender is a field of this struct.
                    let _ = saved.changed().await;
                }
                Some(_) => tokio::time::sleep(USED_UP_WAIT).await,
                None => {}
            }
        }
        granted
    }

    /// Keeps the limit ahead for as long as it is polled; `told` hears of every one that is durable.
    pub(super) async fn keep_window(&self, storage: &Storage, told: impl Fn(Change)) -> ! {
        let mut ticks = tokio::time::interval(Duration::from_millis(self.window_ms / 6));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.wanted.notified() => {}
            }
            let wanted = self.oracle().wanted_limit(Moment::now(&*self.clock));
            let Some(limit_ms) = wanted else { continue };
            let (storage, change) = (storage.clone(), Change::TimestampLimit(limit_ms));
            let durable = change.clone();
            blocking(move || {
                if let Err(error) = storage.write(&[durable], Durability::Synced) {
                    fatal(&format!("the limit of timestamps cannot be saved: {error}"));
                }
            })
            .await;
            told(change);
            self.oracle().saved(limit_ms);
            self.saved.send_replace(limit_ms);
        }
    }

    /// Takes timestamps until one is refused; answers that refusal.
    fn take(&self, counts: &[u32], granted: &mut Vec<Ts>) -> Option<Allocation> {
        let now = Moment::now(&*self.clock);
        let mut oracle = self.oracle();
        for count in counts {
            match oracle.allocate(*count, now) {
                Allocation::Granted(largest) => granted.push(largest),
                refused => return Some(refused),
            }
        }
        None
    }

    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(|_| fatal("a call panicked while it took timestamps"))
    }
}
