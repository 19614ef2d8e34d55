//! One workload under way: clients that do one operation after the other, a line on stderr every second, an
//! [`Outcome`].
//!
//! With batches an operation is a request still, about as many different keys; their rate is told beside its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use skerry_raftstore::time::{Clock, SystemClock};
use tokio::task::JoinSet;

use super::bank::Bank;
use super::keys::{Dice, key_bytes, value_bytes};
use super::record::{self, Outcome, Slot, Window};
use super::servers::Servers;
use super::target::Target;
use super::vitals::{Vitals, raft_log_bytes};
use super::workload::{Operation, Plan, Workload};
use super::{Shape, txn};
use crate::error::{Error, Result};
use crate::metrics::cpu_seconds;

/// How long a client rests whose operation has failed.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// How long operations may go on after an interrupt.
const GRACE: Duration = Duration::from_secs(1);
/// Keys that are looked at to find one in another region.
const LOOKS_FOR_ANOTHER_REGION: u32 = 200;

/// See the module.
pub(super) struct Run {
    workload: Workload,
    target: Arc<Target>,
    interrupted: Arc<AtomicBool>,
    /// For a workload that moves money.
    bank: Option<Bank>,
    plan: Plan,
    slots: Vec<Slot>,
    shape: Shape,
    /// Between two operations of a client, at a given rate.
    pace: Option<Duration>,
    /// Operations that may still begin.
    left: AtomicU64,
    is_over: AtomicBool,
    is_quiet: bool,
}

impl Run {
    pub(super) fn new(
        workload: Workload,
        shape: &Shape,
        target: &Arc<Target>,
        bank: Option<Bank>,
        interrupted: &Arc<AtomicBool>,
    ) -> Arc<Run> {
        let pace = |rate: u64| Duration::from_secs_f64(shape.clients as f64 / rate as f64);
        Arc::new(Run {
            workload,
            target: target.clone(),
            interrupted: interrupted.clone(),
            bank,
            plan: Plan::new(workload, shape.keys, shape.reads, shape.distribution),
            slots: (0..shape.clients).map(|_| Slot::new(Window::new())).collect(),
            shape: shape.clone(),
            pace: shape.rate.map(pace),
            left: AtomicU64::new(shape.operations.unwrap_or(u64::MAX)),
            is_over: AtomicBool::new(false),
            is_quiet: shape.is_quiet,
        })
    }

    /// Runs it for its time, or until a server that was started for it has ended.
    pub(super) async fn measure(self: Arc<Run>, mut servers: Option<&mut Servers>) -> Outcome {
        let clock = SystemClock;
        let statuses = servers.as_deref().map(Servers::status_addresses).unwrap_or_default();
        let mut clients = JoinSet::new();
        for number in 0..self.slots.len() {
            clients.spawn(self.clone().client(number));
        }
        if !self.shape.warm_up.is_zero() {
            tokio::time::sleep(self.shape.warm_up).await;
            record::take(&self.slots);
        }
        let log_before = raft_log_bytes(&statuses).await;
        let (before, repeated_before) = (taken(servers.as_deref()), self.target.repeated());
        let began = clock.monotonic();
        let (mut all, mut have_ended) = (Window::new(), false);
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.tick().await;
        loop {
            tokio::select! {
                _ = seconds.tick() => {
                    self.tell(&mut all, clock.monotonic() - began);
                    let running = servers.as_deref_mut().map(Servers::expect_running);
                    have_ended = running.is_some_and(|running| running.is_err());
                    if have_ended || self.is_to_end() {
                        break;
                    }
                }
                ended = clients.join_next() => if ended.is_none() { break },
                () = tokio::time::sleep(self.shape.time.saturating_sub(clock.monotonic() - began)) => break,
            }
        }
        self.end(clients, have_ended).await;
        let took = clock.monotonic() - began;
        all.add(&record::take(&self.slots));
        // What has ended is not counted any more.
        let after = taken(servers.as_deref().filter(|_| !have_ended));
        let log_after = raft_log_bytes(&statuses).await;
        if let (Some(bank), Ok(cluster)) = (&self.bank, self.target.own()) {
            bank.close(cluster).await;
        }
        Outcome {
            workload: self.workload.name(),
            clients: self.slots.len(),
            took,
            window: all,
            repeated: self.target.repeated() - repeated_before,
            regions: self.target.regions(),
            client_cpu: after.0 - before.0,
            servers: after.1.zip(before.1).map(|(after, before)| after.since(&before)),
            raft_log_bytes: log_after.zip(log_before).map(|(after, before)| after - before),
            batch: self.batch(),
            user_bytes: self.user_bytes(),
            bank: self.bank.as_ref().map(Bank::verdict),
        }
    }

    /// Whether it must not go on, whatever time is left.
    fn is_to_end(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed) || self.bank.as_ref().is_some_and(Bank::is_broken)
    }

    /// Bytes of keys and values that one operation writes.
    fn user_bytes(&self) -> u64 {
        self.workload.writes() * self.shape.batch_size as u64 * self.shape.pair_bytes()
    }

    /// Keys of an operation, if that is ours to say.
    fn batch(&self) -> Option<u64> {
        self.workload.takes_batches().then_some(self.shape.batch_size as u64)
    }

    /// Lets clients finish what they are at. Whoever has interrupted the run does not wait for a cluster that does not
    /// answer, and nobody for servers that have ended.
    async fn end(&self, mut clients: JoinSet<()>, have_ended: bool) {
        self.is_over.store(true, Ordering::Relaxed);
        let drained = async { while clients.join_next().await.is_some() {} };
        match have_ended || self.interrupted.load(Ordering::Relaxed) {
            false => drained.await,
            // Those that are left end with the set.
            true => drop(tokio::time::timeout(GRACE, drained).await),
        }
    }

    /// One line about the last second.
    fn tell(&self, all: &mut Window, passed: Duration) {
        let window = record::take(&self.slots);
        if !self.is_quiet {
            // Without batches this would be the same number.
            let keys = self
                .batch()
                .filter(|batch| *batch > 1)
                .map_or(String::new(), |batch| format!("{:>9} keys/s   ", window.count() * batch));
            eprintln!(
                "{:>15} {:>4.0} s {:>8} ops/s   {keys}p50 {:>7.2} ms   p99 {:>7.2} ms   failed {}",
                self.workload.name(),
                passed.as_secs_f64(),
                window.count(),
                window.at_ms(0.5),
                window.at_ms(0.99),
                window.failure_count(),
            );
        }
        all.add(&window);
    }

    fn may_begin(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        !self.is_over.load(Ordering::Relaxed)
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    async fn client(self: Arc<Run>, number: usize) {
        let clock = SystemClock;
        let mut dice = Dice::new(self.shape.seed.wrapping_mul(1_000_003) ^ number as u64);
        // Clients do not all begin at once.
        let mut due = clock.monotonic() + self.pace.unwrap_or_default().mul_f64(dice.share());
        while self.may_begin() {
            if let Some(pace) = self.pace {
                tokio::time::sleep(due.saturating_sub(clock.monotonic())).await;
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let done = self.operate(number, &mut dice).await;
                self.record(number, done, clock.monotonic() - due).await;
                due += pace;
            } else {
                let began = clock.monotonic();
                let done = self.operate(number, &mut dice).await;
                self.record(number, done, clock.monotonic() - began).await;
            }
        }
    }

    async fn record(&self, client: usize, done: Result<()>, time: Duration) {
        let slot = || self.slots[client].lock().expect("no holder panics");
        match done {
            Ok(()) => slot().done(time),
            Err(error) => {
                slot().failed(error.to_string());
                // What fails at once would otherwise leave nobody else a processor.
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }

    async fn operate(&self, client: usize, dice: &mut Dice) -> Result<()> {
        let (operation, number) = self.plan.next(dice);
        if self.shape.batch_size > 1 {
            return self.operate_on_many(client, operation, number, dice).await;
        }
        let key = key_bytes(number, self.shape.key_size);
        let put = async |dice: &mut Dice| self.target.put(client, &key, self.value(dice)).await;
        match operation {
            Operation::Get => self.target.get(client, &key).await.map(drop),
            Operation::Put | Operation::Insert => put(dice).await,
            Operation::Scan => self.target.scan(&key, self.shape.scan_length).await.map(drop),
            Operation::ReadModifyWrite => {
                self.target.get(client, &key).await?;
                put(dice).await
            }
            Operation::WriteTogether => {
                let pairs = self.pairs(&key, neighbour(&key), dice);
                self.target.own()?.write_in_one_phase(&pairs).await
            }
            Operation::WriteApart => {
                let other = self.in_another_region(&key, dice)?;
                let pairs = self.pairs(&key, other, dice);
                self.target.own()?.write_in_two_phases(&pairs).await
            }
            Operation::Transfer => self.open_bank()?.transfer(self.target.own()?, dice).await,
            Operation::Look => self.open_bank()?.look(self.target.own()?).await,
        }
    }

    /// The same, for many keys with one request; a read-modify-write is two.
    async fn operate_on_many(
        &self,
        client: usize,
        operation: Operation,
        number: u64,
        dice: &mut Dice,
    ) -> Result<()> {
        let numbers = self.plan.keys_with(operation, number, self.shape.batch_size, dice);
        let size = self.shape.key_size;
        let keys: Vec<_> = numbers.into_iter().map(|number| key_bytes(number, size)).collect();
        if matches!(operation, Operation::Get | Operation::ReadModifyWrite) {
            self.target.get_many(client, keys.clone()).await?;
        }
        if operation != Operation::Get {
            let pairs = keys.into_iter().map(|key| (key, self.value(dice))).collect();
            self.target.put_many(client, pairs).await?;
        }
        Ok(())
    }

    fn open_bank(&self) -> Result<&Bank> {
        self.bank.as_ref().ok_or_else(|| Error::Startup("no account was opened".to_string()))
    }

    fn value(&self, dice: &mut Dice) -> Bytes {
        Bytes::from(value_bytes(dice, self.shape.value_size))
    }

    fn pairs(&self, key: &[u8], other: Vec<u8>, dice: &mut Dice) -> txn::Pairs {
        let (one, two) = (self.value(dice), self.value(dice));
        vec![(Bytes::copy_from_slice(key), one), (Bytes::from(other), two)]
    }

    /// A key that does not lie in the region of this one.
    fn in_another_region(&self, key: &[u8], dice: &mut Dice) -> Result<Vec<u8>> {
        let cluster = self.target.own()?;
        for _ in 0..LOOKS_FOR_ANOTHER_REGION {
            let other = key_bytes(dice.number(), self.shape.key_size);
            if !cluster.are_together(key, &other) {
                return Ok(other);
            }
        }
        Err(Error::Startup("all keys lie in one region: say --regions 2 or more".to_string()))
    }
}

/// Processor seconds of this process, and what servers have taken.
fn taken(servers: Option<&Servers>) -> (f64, Option<Vitals>) {
    (cpu_seconds(None), servers.map(Servers::vitals))
}

/// A key that lies right behind this one.
fn neighbour(key: &[u8]) -> Vec<u8> {
    let mut other = key.to_vec();
    let last = other.last_mut().expect("a key has bytes");
    *last = last.saturating_add(1);
    other
}
