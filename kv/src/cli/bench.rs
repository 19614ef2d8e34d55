//! `skerry bench`: what a cluster does for its clients, through the protocol that they speak.
//!
//! 1. Without `--scheduler-addr` a playground is started for the run and stopped afterwards.
//! 2. Keys are loaded, if a workload reads.
//! 3. Each workload runs for its time with closed-loop clients, or at a given rate. At a given rate an operation's
//!    time counts from the moment it was due, not from when its client got round to it: otherwise a stall would
//!    hide all operations that waited behind it.
//! 4. Every second a line on stderr tells how it goes; at the end a table, or JSON, tells all.
//!
//! An interrupt ends the run early: what was measured until then is told, and marked.
//!
//! What it does not do: it draws no conclusions. Rates of machines that others use too mean little alone; put a
//! reference of the same run beside them (`docs/benchmarks.md`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use skerry_raftstore::time::{Clock, SystemClock};
use tokio::task::JoinSet;

use self::cluster::Cluster;
use self::keys::{Dice, Distribution, key_bytes, value_bytes};
use self::own::OwnCluster;
use self::record::{Outcome, Slot, Window};
use self::workload::{Operation, Plan, Workload};
use super::text::table;
use super::{StopSignals, say};
use crate::error::{Error, Result};
use crate::metrics::{Metrics, cpu_seconds};
use crate::net::SchedulerClient;

pub(super) mod cluster;
pub(super) mod keys;
mod own;
mod record;
mod workload;

/// Pairs that are loaded with one request.
const LOAD_BATCH: u64 = 256;
/// Requests of the load that are under way at a time.
const LOADERS: u64 = 8;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to measure, one after the other
    #[arg(value_enum, default_values = ["put", "get", "scan"])]
    workloads: Vec<Workload>,
    /// The schedulers of a running cluster, separated by commas; default: start a playground
    #[arg(long, value_name = "HOST:PORT,...")]
    scheduler_addr: Option<String>,
    /// The configuration of the playground
    #[arg(long, value_name = "FILE", conflicts_with = "scheduler_addr")]
    config: Option<std::path::PathBuf>,
    /// Clients, each with one operation at a time
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    clients: u16,
    /// Connections to each store that they share
    #[arg(long, default_value_t = 4, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..))]
    connections: u8,
    /// Keys that are there
    #[arg(long, default_value_t = 100_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// Bytes of a key, at least 21
    #[arg(long, default_value_t = 21, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(21..=4_096))]
    key_size: u16,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=4 << 20))]
    value_size: u32,
    /// Which keys are taken; default: as the workload has it, or uniform
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Reads of a hundred operations of `mixed`
    #[arg(long, default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// Pairs of a scan
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    scan_length: u32,
    /// How long each workload runs
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// End a workload after so many operations, if its time is not over before
    #[arg(long, value_name = "COUNT")]
    operations: Option<u64>,
    /// Operations a second, all clients together; default: as many as go
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// How long an operation is repeated before it counts as failed
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    patience: u32,
    /// Do not load keys: they are there from a run before
    #[arg(long)]
    no_load: bool,
    /// Where chance begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    let runtime = super::runtime(0)?;
    let (outcomes, is_whole) = runtime.block_on(async {
        let mut signals = StopSignals::catch()?;
        let own = match &arguments.scheduler_addr {
            Some(_) => None,
            None => Some(start(&arguments, &mut signals).await?),
        };
        measure(&arguments, own.as_ref(), signals).await
    })?;
    let rows = outcomes.iter().map(Outcome::row);
    let rows: Vec<_> = std::iter::once(Outcome::heading()).chain(rows).collect();
    let json: Vec<_> = outcomes.iter().map(Outcome::json).collect();
    match arguments.json {
        true => say(&format!("{}\n", json!({ "complete": is_whole, "results": json }))),
        false => say(&table(&rows)),
    }
    for outcome in &outcomes {
        for (reason, count) in outcome.window.failures() {
            eprintln!("{}: {count} failed: {reason}", outcome.workload);
        }
    }
    match is_whole {
        true => Ok(()),
        false => Err(Error::Startup("interrupted; the results are partial".to_string())),
    }
}

/// A cluster for this run.
async fn start(arguments: &Arguments, signals: &mut StopSignals) -> Result<OwnCluster> {
    let (own, promise) = OwnCluster::start(arguments.config.as_deref())?;
    eprintln!("starting a playground, scheduler {}", own.scheduler());
    let ready = tokio::task::spawn_blocking(|| promise.wait());
    tokio::select! {
        ready = ready => match ready {
            Ok(ready) => ready.map(|()| own),
            Err(error) => Err(Error::Startup(format!("the playground: {error}"))),
        },
        () = signals.next() => Err(Error::Startup("interrupted before it began".to_string())),
    }
}

/// Runs all workloads. Answers also whether none was interrupted.
async fn measure(
    arguments: &Arguments,
    own: Option<&OwnCluster>,
    mut signals: StopSignals,
) -> Result<(Vec<Outcome>, bool)> {
    let addresses = match own {
        Some(own) => own.scheduler().to_string(),
        None => arguments.scheduler_addr.clone().unwrap_or_default(),
    };
    let addresses: Vec<String> = addresses.split(',').map(|it| it.trim().to_string()).collect();
    let scheduler = SchedulerClient::new(&addresses, Metrics::new())?;
    scheduler.expect_cluster(scheduler.cluster_id().await?);
    let patience = Duration::from_secs(arguments.patience.into());
    let connections = usize::from(arguments.connections);
    let cluster = Arc::new(Cluster::connect(scheduler, connections, patience).await?);
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    tokio::spawn(async move {
        signals.next().await;
        flag.store(true, Ordering::Relaxed);
    });
    if !arguments.no_load && arguments.workloads.iter().any(|workload| workload.reads()) {
        load(arguments, &cluster, &interrupted).await?;
    }
    let mut outcomes = Vec::new();
    for &workload in &arguments.workloads {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let run = Run::new(arguments, workload, &cluster, &interrupted);
        outcomes.push(run.measure(own.map(OwnCluster::process_id)).await);
    }
    Ok((outcomes, !interrupted.load(Ordering::Relaxed)))
}

/// Writes every key once.
async fn load(
    arguments: &Arguments,
    cluster: &Arc<Cluster>,
    interrupted: &Arc<AtomicBool>,
) -> Result<()> {
    let (clock, keys) = (SystemClock, arguments.keys);
    let began = clock.monotonic();
    let mut told = began;
    let mut tasks = JoinSet::new();
    let mut next = 0;
    while next < keys && !interrupted.load(Ordering::Relaxed) {
        while tasks.len() < LOADERS as usize && next < keys {
            let end = keys.min(next + LOAD_BATCH);
            let (cluster, numbers) = (cluster.clone(), next..end);
            let (key_size, value_size) = (arguments.key_size, arguments.value_size);
            let mut dice = Dice::new(arguments.seed ^ next);
            let mut pair = move |number| {
                let value = value_bytes(&mut dice, value_size as usize);
                (key_bytes(number, key_size.into()), Bytes::from(value))
            };
            let pairs: Vec<_> = numbers.map(&mut pair).collect();
            tasks.spawn(async move { cluster.load(pairs).await });
            next = end;
        }
        joined(tasks.join_next().await)?;
        let now = clock.monotonic();
        if now - told >= Duration::from_secs(1) {
            told = now;
            eprintln!("loading: {next} of {keys} keys, {:.0}%", next as f64 * 100.0 / keys as f64);
        }
    }
    while let Some(done) = tasks.join_next().await {
        joined(Some(done))?;
    }
    let took = (clock.monotonic() - began).as_secs_f64();
    eprintln!("loaded {next} keys in {took:.1} s");
    Ok(())
}

fn joined(done: Option<std::result::Result<Result<()>, tokio::task::JoinError>>) -> Result<()> {
    match done {
        None => Ok(()),
        Some(Ok(done)) => done,
        Some(Err(error)) => Err(Error::Startup(format!("a client failed: {error}"))),
    }
}

/// One workload under way.
struct Run {
    workload: Workload,
    cluster: Arc<Cluster>,
    interrupted: Arc<AtomicBool>,
    plan: Plan,
    slots: Vec<Slot>,
    key_size: usize,
    value_size: usize,
    scan_length: u32,
    seed: u64,
    time: Duration,
    /// Between two operations of a client, at a given rate.
    pace: Option<Duration>,
    /// Operations that may still begin.
    left: AtomicU64,
    is_over: AtomicBool,
}

impl Run {
    fn new(
        arguments: &Arguments,
        workload: Workload,
        cluster: &Arc<Cluster>,
        interrupted: &Arc<AtomicBool>,
    ) -> Arc<Run> {
        let clients = usize::from(arguments.clients);
        let pace = |rate: u64| Duration::from_secs_f64(clients as f64 / rate as f64);
        let reads = arguments.reads.into();
        Arc::new(Run {
            workload,
            cluster: cluster.clone(),
            interrupted: interrupted.clone(),
            plan: Plan::new(workload, arguments.keys, reads, arguments.distribution),
            slots: (0..clients).map(|_| Slot::new(Window::new())).collect(),
            key_size: arguments.key_size.into(),
            value_size: arguments.value_size as usize,
            scan_length: arguments.scan_length,
            seed: arguments.seed,
            time: Duration::from_secs(arguments.seconds.into()),
            pace: arguments.rate.map(pace),
            left: AtomicU64::new(arguments.operations.unwrap_or(u64::MAX)),
            is_over: AtomicBool::new(false),
        })
    }

    async fn measure(self: Arc<Run>, server: Option<u32>) -> Outcome {
        let clock = SystemClock;
        let cpu = || (cpu_seconds(None), server.map(|process| cpu_seconds(Some(process))));
        let (before, repeated_before) = (cpu(), self.cluster.repeated());
        let began = clock.monotonic();
        let mut clients = JoinSet::new();
        for number in 0..self.slots.len() {
            clients.spawn(self.clone().client(number));
        }
        let mut all = Window::new();
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.tick().await;
        loop {
            tokio::select! {
                _ = seconds.tick() => {
                    self.tell(&mut all, clock.monotonic() - began);
                    if self.interrupted.load(Ordering::Relaxed) {
                        break;
                    }
                }
                ended = clients.join_next() => if ended.is_none() { break },
                () = tokio::time::sleep(self.time.saturating_sub(clock.monotonic() - began)) => break,
            }
        }
        self.is_over.store(true, Ordering::Relaxed);
        while clients.join_next().await.is_some() {}
        let took = clock.monotonic() - began;
        all.add(&record::take(&self.slots));
        let after = cpu();
        Outcome {
            workload: self.workload.name(),
            clients: self.slots.len(),
            took,
            window: all,
            repeated: self.cluster.repeated() - repeated_before,
            regions: self.cluster.regions(),
            client_cpu: after.0 - before.0,
            server_cpu: after.1.zip(before.1).map(|(after, before)| after - before),
        }
    }

    /// One line about the last second.
    fn tell(&self, all: &mut Window, passed: Duration) {
        let window = record::take(&self.slots);
        eprintln!(
            "{:>8} {:>4.0} s {:>8} ops/s   p50 {:>7.2} ms   p99 {:>7.2} ms   failed {}",
            self.workload.name(),
            passed.as_secs_f64(),
            window.count(),
            window.at_ms(0.5),
            window.at_ms(0.99),
            window.failure_count(),
        );
        all.add(&window);
    }

    fn may_begin(&self) -> bool {
        let take = |left: u64| left.checked_sub(1);
        !self.is_over.load(Ordering::Relaxed)
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    async fn client(self: Arc<Run>, number: usize) {
        let clock = SystemClock;
        let mut dice = Dice::new(self.seed.wrapping_mul(1_000_003) ^ number as u64);
        // Clients do not all begin at once.
        let mut due = clock.monotonic() + self.pace.unwrap_or_default().mul_f64(dice.share());
        while self.may_begin() {
            if let Some(pace) = self.pace {
                tokio::time::sleep(due.saturating_sub(clock.monotonic())).await;
                if self.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let done = self.operate(&mut dice).await;
                self.record(number, done, clock.monotonic() - due);
                due += pace;
            } else {
                let began = clock.monotonic();
                let done = self.operate(&mut dice).await;
                self.record(number, done, clock.monotonic() - began);
            }
        }
    }

    fn record(&self, client: usize, done: Result<()>, time: Duration) {
        let mut window = self.slots[client].lock().expect("no holder panics");
        match done {
            Ok(()) => window.done(time),
            Err(error) => window.failed(error.to_string()),
        }
    }

    async fn operate(&self, dice: &mut Dice) -> Result<()> {
        let (operation, number) = self.plan.next(dice);
        let key = key_bytes(number, self.key_size);
        let put = async |dice: &mut Dice| {
            let value = Bytes::from(value_bytes(dice, self.value_size));
            self.cluster.put(&key, value).await
        };
        match operation {
            Operation::Get => self.cluster.get(&key).await.map(drop),
            Operation::Put | Operation::Insert => put(dice).await,
            Operation::Scan => self.cluster.scan(&key, self.scan_length).await.map(drop),
            Operation::ReadModifyWrite => {
                self.cluster.get(&key).await?;
                put(dice).await
            }
        }
    }
}
