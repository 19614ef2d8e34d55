//! Clients that write all over the keys from start to end, and what came of it.
//!
//! Each has keys of its own and writes a number that grows: what was acknowledged last for a key, or something tried
//! later, must be there at the end. Unlike [`Load`](super::Load) they keep no history, so they may go on for
//! minutes; and they repeat as standard clients do, so a failure is one that an application would see.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use skerry_raftstore::time::splitmix64;
use tokio::task::JoinHandle;

use super::patient::PatientClient;
use crate::wait::{Stopwatch, let_pass_async};

/// What they do.
#[derive(Clone, Copy, Debug)]
pub struct Habit {
    /// How many of them.
    pub clients: usize,
    /// Keys of each.
    pub keys: u64,
    /// Bytes of a value, at least 8.
    pub value_size: usize,
    /// Between two writes of a client.
    pub pause: Duration,
}

/// See the module.
pub struct Writers {
    shared: Arc<Shared>,
    scheduler: SocketAddr,
    tasks: Vec<JoinHandle<u64>>,
}

struct Shared {
    habit: Habit,
    seed: u64,
    is_over: AtomicBool,
    acknowledged: AtomicU64,
    longest_us: AtomicU64,
    /// Sentences, and how often.
    failures: Mutex<BTreeMap<String, u64>>,
    ledger: Mutex<BTreeMap<Bytes, Written>>,
}

/// Numbers that were written to a key.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    acknowledged: u64,
    tried: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Writes.
    pub acknowledged: u64,
    /// Attempts that were repeated.
    pub repeated: u64,
    /// The longest that a write took since the last [`Writers::mark`].
    pub longest: Duration,
    /// What an application would have seen.
    pub failures: BTreeMap<String, u64>,
    /// Keys that were read back.
    pub keys: usize,
    /// Those of them that have something older than what was acknowledged.
    pub lost: Vec<Bytes>,
}

impl Writers {
    /// Lets them begin.
    pub fn start(scheduler: SocketAddr, habit: Habit, seed: u64) -> Writers {
        let shared = Arc::new(Shared {
            habit,
            seed,
            is_over: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            longest_us: AtomicU64::new(0),
            failures: Mutex::default(),
            ledger: Mutex::default(),
        });
        let client = |number: usize| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { shared.work(scheduler, number as u64).await })
        };
        let tasks = (0..habit.clients).map(client).collect();
        Writers { shared, scheduler, tasks }
    }

    /// Writes that were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// From now on the longest write is measured anew.
    pub fn mark(&self) {
        self.shared.longest_us.store(0, Ordering::Relaxed);
    }

    /// The longest that a write took since.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.shared.longest_us.load(Ordering::Relaxed))
    }

    /// Acknowledged writes a second over this time.
    pub async fn rate_over(&self, time: Duration) -> f64 {
        let (before, watch) = (self.acknowledged(), Stopwatch::start());
        let_pass_async(time).await;
        (self.acknowledged() - before) as f64 / watch.elapsed().as_secs_f64()
    }

    /// Stops them and reads back everything.
    pub async fn stop(self) -> Outcome {
        self.shared.is_over.store(true, Ordering::Relaxed);
        let mut repeated = 0;
        for task in self.tasks {
            repeated += task.await.expect("a client does not panic");
        }
        let longest = Duration::from_micros(self.shared.longest_us.load(Ordering::Relaxed));
        let take = |failures: &Mutex<_>| std::mem::take(&mut *failures.lock().expect("no panic"));
        let ledger = std::mem::take(&mut *self.shared.ledger.lock().expect("no holder panics"));
        let (mut reader, mut lost) = (PatientClient::new(self.scheduler), Vec::new());
        for (key, written) in &ledger {
            let found = reader.get(key).await.expect("what was written can be read");
            let head = found.as_deref().and_then(|value| value.first_chunk::<8>());
            let number = head.map_or(0, |head| u64::from_le_bytes(*head));
            if !(written.acknowledged..=written.tried).contains(&number) {
                lost.push(key.clone());
            }
        }
        Outcome {
            acknowledged: self.shared.acknowledged.load(Ordering::Relaxed),
            repeated,
            longest,
            failures: take(&self.shared.failures),
            keys: ledger.len(),
            lost,
        }
    }
}

impl Shared {
    /// Answers how many attempts it repeated.
    async fn work(&self, scheduler: SocketAddr, client: u64) -> u64 {
        let mut writer = PatientClient::new(scheduler);
        for number in 1_u64.. {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let key = spread_key(self.seed ^ client << 32, number % self.habit.keys);
            let value = value_of(number, self.habit.value_size);
            self.note(&key, |written| written.tried = number);
            let watch = Stopwatch::start();
            let done = writer.put(&key, &value).await;
            let took = u64::try_from(watch.elapsed().as_micros()).expect("not that long");
            self.longest_us.fetch_max(took, Ordering::Relaxed);
            match done {
                Ok(()) => {
                    self.note(&key, |written| written.acknowledged = number);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Err(reason) => {
                    let mut failures = self.failures.lock().expect("no holder panics");
                    *failures.entry(reason).or_default() += 1;
                }
            }
            let_pass_async(self.habit.pause).await;
        }
        writer.repeated()
    }

    fn note(&self, key: &Bytes, change: impl FnOnce(&mut Written)) {
        change(self.ledger.lock().expect("no holder panics").entry(key.clone()).or_default());
    }
}

/// A key of hexadecimal digits, anywhere among all.
fn spread_key(seed: u64, number: u64) -> Bytes {
    Bytes::from(format!("{:016x}", splitmix64(splitmix64(seed) ^ number)))
}

/// A number, then what no compression makes smaller.
pub fn value_of(number: u64, size: usize) -> Bytes {
    let mut value = number.to_le_bytes().to_vec();
    for word in 0.. {
        if value.len() >= size {
            break;
        }
        value.extend(splitmix64(splitmix64(number) ^ word).to_le_bytes());
    }
    value.truncate(size.max(8));
    value.into()
}
