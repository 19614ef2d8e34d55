//! Clients of a demo, and what they saw.
//!
//! 1. Each has keys of its own and writes one at a time: a number that grows, and filler. So what was acknowledged last
//!    is known for every key.
//! 2. They go to leaders by themselves and repeat what fails, as every client does ([`Cluster`]).
//! 3. At the end every key is read back: the number that was acknowledged last, or a later one whose answer was lost.
//!    Anything else is a loss.
//!
//! All of it depends on the seed but the times.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use skerry_raftstore::time::{Clock, SystemClock, splitmix64};
use tokio::task::JoinSet;

use super::super::bench::cluster::Cluster;
use super::super::bench::keys::{Dice, value_bytes};
use super::super::bench::line::Api;
use crate::error::Result;

/// How long a write is repeated before its client gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Connections to each store.
const CONNECTIONS: usize = 2;
/// Rates that are kept, one for each [`SAMPLE`].
const SAMPLES_MAX: usize = 120;
/// How often rates are taken.
const SAMPLE: Duration = Duration::from_millis(250);

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habit {
    /// How many of them.
    pub(super) clients: usize,
    /// Keys of each; a client that has written all begins anew.
    pub(super) keys: u64,
    /// Bytes of a value.
    pub(super) value_size: usize,
    /// Between two writes of a client.
    pub(super) pause: Duration,
}

/// See the module.
pub(super) struct Crowd {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    sampled_at: Duration,
    sampled: u64,
    rates: Vec<u64>,
}

struct Shared {
    cluster: Cluster,
    habit: Habit,
    seed: u64,
    is_over: AtomicBool,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    /// The longest that a write took since [`Crowd::mark`], in microseconds.
    longest_us: AtomicU64,
    ledger: Mutex<BTreeMap<Bytes, Written>>,
}

/// Numbers that were written to a key.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    acknowledged: u64,
    tried: u64,
}

/// What the clients have seen so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Count {
    pub(super) acknowledged: u64,
    /// Writes of which nobody knows whether they were done.
    pub(super) failed: u64,
    /// The longest wait for an acknowledgement since the last mark.
    pub(super) longest: Duration,
    /// Acknowledged writes a second, the newest last.
    pub(super) rates: Vec<u64>,
    /// After all was read back.
    pub(super) check: Option<Check>,
}

/// What was found when all was read back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) keys: usize,
    pub(super) lost: usize,
}

impl Crowd {
    /// Lets clients begin.
    pub(super) async fn start(scheduler: &str, habit: Habit, seed: u64) -> Result<Crowd> {
        let schedulers = [scheduler.to_string()];
        let cluster = Cluster::connect(&schedulers, Api::Unary, CONNECTIONS, PATIENCE).await?;
        let shared = Arc::new(Shared {
            cluster,
            habit,
            seed,
            is_over: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
            ledger: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for client in 0..habit.clients {
            tasks.spawn(Arc::clone(&shared).write(client as u64));
        }
        let sampled_at = SystemClock.monotonic();
        Ok(Crowd { shared, tasks, sampled_at, sampled: 0, rates: Vec::new() })
    }

    /// From now on the longest wait is measured anew. Writes under way count with all of their time.
    pub(super) fn mark(&self) {
        self.shared.longest_us.store(0, Ordering::Relaxed);
    }

    /// What they have seen; called many times a second.
    pub(super) fn count(&mut self) -> Count {
        let acknowledged = self.shared.acknowledged.load(Ordering::Relaxed);
        let passed = SystemClock.monotonic() - self.sampled_at;
        if passed >= SAMPLE {
            let rate = (acknowledged - self.sampled) as f64 / passed.as_secs_f64();
            self.rates.push(rate.round() as u64);
            self.sampled_at += passed;
            self.sampled = acknowledged;
            if self.rates.len() > SAMPLES_MAX {
                self.rates.remove(0);
            }
        }
        Count {
            acknowledged,
            failed: self.shared.failed.load(Ordering::Relaxed),
            longest: Duration::from_micros(self.shared.longest_us.load(Ordering::Relaxed)),
            rates: self.rates.clone(),
            check: None,
        }
    }

    /// Lets them end what they are at.
    pub(super) async fn stop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
    }

    /// Reads back what was acknowledged.
    pub(super) async fn check(&self) -> Result<Check> {
        let ledger = self.shared.ledger.lock().expect("no holder panics").clone();
        let mut check = Check::default();
        for (key, written) in ledger.into_iter().filter(|(_, written)| written.acknowledged > 0) {
            let found = self.shared.cluster.get(&key).await?;
            let head = found.as_deref().and_then(|value| value.first_chunk::<8>());
            let number = head.map_or(0, |head| u64::from_le_bytes(*head));
            check.keys += 1;
            let is_kept = (written.acknowledged..=written.tried).contains(&number);
            check.lost += usize::from(!is_kept);
        }
        Ok(check)
    }
}

impl Shared {
    async fn write(self: Arc<Shared>, client: u64) {
        let mut dice = Dice::new(splitmix64(self.seed) ^ client);
        for number in 1_u64.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let key = self.key(client, number % self.habit.keys);
            let mut value = value_bytes(&mut dice, self.habit.value_size.max(8));
            value[..8].copy_from_slice(&number.to_le_bytes());
            self.note(&key, |written| written.tried = number);
            let began = SystemClock.monotonic();
            let done = self.cluster.put(&key, value.into()).await;
            let took = SystemClock.monotonic() - began;
            let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.longest_us.fetch_max(took, Ordering::Relaxed);
            match done {
                Ok(()) => {
                    self.note(&key, |written| written.acknowledged = number);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            tokio::time::sleep(self.habit.pause).await;
        }
    }

    fn note(&self, key: &Bytes, change: impl FnOnce(&mut Written)) {
        change(self.ledger.lock().expect("no holder panics").entry(key.clone()).or_default());
    }

    /// Sixteen hexadecimal digits: spread over all regions.
    fn key(&self, client: u64, number: u64) -> Bytes {
        let mixed = splitmix64(splitmix64(self.seed ^ client << 48) ^ number);
        Bytes::from(format!("{mixed:016x}"))
    }
}
