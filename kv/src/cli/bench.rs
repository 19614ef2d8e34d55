//! `skerry bench`: what a cluster does for its clients, through the protocol that they speak, and what peers do.
//!
//! 1. Without `--scheduler-addr` servers are started for the run and stopped afterwards: a playground, separate
//!    processes with `--separate`, or with `--target` those of a peer ([`servers`]).
//! 2. Keys are loaded, if a workload reads; accounts are opened, if money is to move ([`bank`]).
//! 3. Each workload runs for its time with closed-loop clients, or at a given rate ([`run`]). At a given rate an
//!    operation's time counts from the moment it was due, not from when its client got round to it: otherwise a stall
//!    would hide all operations that waited behind it.
//! 4. Every second a line on stderr tells how it goes; at the end a table, or JSON, tells all.
//!
//! `skerry bench scenario` measures events instead of rates ([`scenario`]).
//!
//! An interrupt ends the run early, and so does the end of a server that was started for it: what was measured until
//! then is told, and marked. If this process is killed, the kernel ends the servers ([`super::guarded`]).
//!
//! What it does not do: it draws no conclusions. Rates of machines that others use too mean little alone; `make
//! bench-compare` puts peers and references of the same run beside them (`docs/benchmarks.md`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::json;
use skerry_raftstore::time::{Clock, SystemClock};
use tokio::task::JoinSet;

use self::bank::{Bank, Verdict};
use self::keys::{Dice, Distribution, key_at, key_bytes, value_bytes};
use self::line::Api;
use self::record::Outcome;
use self::run::Run;
use self::servers::{Servers, Wanted};
use self::target::{Reach, System, Target};
use self::workload::Workload;
use super::text::table;
use super::{StopSignals, say};
use crate::error::{Error, Result};

mod bank;
mod batch;
pub(super) mod cluster;
mod etcd;
pub(super) mod keys;
pub(super) mod line;
mod record;
mod redis;
mod regions;
mod run;
mod scenario;
mod servers;
mod stream;
mod target;
mod timestamps;
mod txn;
mod vitals;
mod workload;

/// Pairs that are loaded with one request, if they are small.
const LOAD_BATCH: u64 = 256;
/// Keys that one request may have. Peers that are started are told to take as many.
const BATCH_SIZE_MAX: u64 = 1_024;
/// Bytes of keys and values that a request of many may have: less than the least that any of the systems takes.
const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// Places among the keys at which regions are looked for.
const PLACES: u32 = 64;
/// Requests of the load that are under way at a time.
const LOADERS: usize = 8;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    events: Option<Events>,
    #[command(flatten)]
    load: LoadArguments,
}

#[derive(Debug, Subcommand)]
enum Events {
    /// Measure an event: a dead store, a split, a restart...
    Scenario(scenario::Arguments),
}

#[derive(Debug, Args)]
struct LoadArguments {
    /// What to measure, one after the other
    #[arg(value_enum, default_values = ["put", "get", "scan"])]
    workloads: Vec<Workload>,
    /// Whose servers to measure; peers are started for the run
    #[arg(long, value_enum, default_value = "skerry")]
    target: System,
    /// The schedulers of a running cluster, separated by commas; default: start servers
    #[arg(long, value_name = "HOST:PORT,...", conflicts_with_all = ["separate", "stores", "scratch"])]
    scheduler_addr: Option<String>,
    /// The configuration of servers that are started
    #[arg(long, value_name = "FILE", conflicts_with = "scheduler_addr")]
    config: Option<PathBuf>,
    /// Start a process for each store and one for the scheduler, not one for all
    #[arg(long)]
    separate: bool,
    /// Stores, or members of a peer, that are started
    #[arg(long, default_value_t = 3, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=9))]
    stores: u16,
    /// Cut the keys into so many regions before
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    regions: Option<u64>,
    /// Where servers that are started keep their data
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// How commands travel
    #[arg(long, value_enum, default_value = "unary")]
    api: Api,
    /// Clients, each with one operation at a time
    #[arg(long, default_value_t = 64, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    clients: u16,
    /// Keys of a request, which is one operation still: of put, get, mixed, ycsb-a, -b, -c, -d and -f
    #[arg(long, default_value_t = 1, value_name = "KEYS", value_parser = clap::value_parser!(u64).range(1..=BATCH_SIZE_MAX))]
    batch_size: u64,
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
    /// Get at every replica in turn, not at leaders alone: as linearizable, by asking the leader how far to be
    #[arg(long)]
    replica_read: bool,
    /// Which keys are taken; default: as the workload has it, or uniform
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Reads of a hundred operations of `mixed`
    #[arg(long, default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    reads: u8,
    /// Accounts of `bank`
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(..=10_000))]
    accounts: u64,
    /// Pairs of a scan
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    scan_length: u32,
    /// How long each workload runs
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// How long clients work before they are measured
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    warm_up: u32,
    /// End a workload after so many operations (requests, whatever --batch-size is), if its time is not over before
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

/// What a run is like, whatever it does.
#[derive(Clone, Debug)]
struct Shape {
    clients: usize,
    /// Keys of an operation, where it may have many.
    batch_size: usize,
    keys: u64,
    key_size: usize,
    value_size: usize,
    distribution: Option<Distribution>,
    reads: u64,
    scan_length: u32,
    warm_up: Duration,
    time: Duration,
    operations: Option<u64>,
    rate: Option<u64>,
    seed: u64,
    /// Whether nothing is said while it goes.
    is_quiet: bool,
}

impl LoadArguments {
    fn shape(&self) -> Shape {
        Shape {
            clients: self.clients.into(),
            batch_size: self.batch_size as usize,
            keys: self.keys,
            key_size: self.key_size.into(),
            value_size: self.value_size as usize,
            distribution: self.distribution,
            reads: self.reads.into(),
            scan_length: self.scan_length,
            warm_up: Duration::from_secs(self.warm_up.into()),
            time: Duration::from_secs(self.seconds.into()),
            operations: self.operations,
            rate: self.rate,
            seed: self.seed,
            is_quiet: false,
        }
    }

    fn wanted(&self) -> Result<Wanted> {
        let settings = self.config.as_deref().map_or_else(|| Ok(String::new()), read)?;
        Ok(Wanted {
            system: self.target,
            stores: if self.target == System::Redis { 1 } else { self.stores },
            is_separate: self.separate,
            settings,
            scratch: self.scratch.clone().unwrap_or_else(std::env::temp_dir),
        })
    }

    fn reach(&self) -> Reach {
        Reach {
            api: self.api,
            connections: self.connections.into(),
            clients: self.clients.into(),
            patience: Duration::from_secs(self.patience.into()),
            replica_read: self.replica_read,
            attempt: Duration::MAX,
        }
    }

    /// Refuses requests of more keys than can be chosen, or carried.
    fn check_batches(&self) -> Result<()> {
        let (size, keys) = (self.batch_size, self.keys);
        if size == 1 {
            return Ok(());
        }
        let refused =
            |reason: String| Err(Error::Startup(format!("--batch-size {size}: {reason}")));
        if let Some(workload) = self.workloads.iter().find(|it| !it.takes_batches()) {
            let takers = "put, get, mixed, ycsb-a, ycsb-b, ycsb-c, ycsb-d and ycsb-f";
            return refused(format!("{} has no batches; {takers} have", workload.name()));
        }
        if size > keys {
            return refused(format!("a request has different keys, and --keys are only {keys}"));
        }
        let bytes = size * self.shape().pair_bytes();
        match bytes > REQUEST_BYTES_MAX {
            false => Ok(()),
            true => refused(format!(
                "so many keys and values are {} KiB, and a request of many may have {}",
                bytes >> 10,
                REQUEST_BYTES_MAX >> 10
            )),
        }
    }

    /// Refuses what the target cannot do, before anything is started.
    fn check(&self) -> Result<()> {
        let refused = |reason: String| Err(Error::Startup(reason));
        let name = self.target.name();
        if self.target != System::Skerry {
            let is_own = self.regions.is_some() || self.separate || self.replica_read;
            if self.scheduler_addr.is_some() || is_own {
                let flags = "--scheduler-addr, --regions, --separate and --replica-read";
                return refused(format!("{flags} are about Skerry, not about {name}"));
            }
            if let Some(workload) = self.workloads.iter().find(|it| it.is_transactional()) {
                return refused(format!("{} is not measured on {name}", workload.name()));
            }
        }
        if self.target == System::Redis && self.workloads.iter().any(|it| it.scans()) {
            return refused("redis keeps keys in no order: there is nothing to scan".to_string());
        }
        self.check_batches()?;
        if self.workloads.contains(&Workload::Bank) {
            Bank::check(self.accounts)?;
        }
        if self.scheduler_addr.is_none() {
            fits(&self.wanted()?, &self.shape(), &self.workloads)?;
        }
        Ok(())
    }
}

impl Shape {
    /// Bytes of a key and its value.
    fn pair_bytes(&self) -> u64 {
        (self.key_size + self.value_size) as u64
    }

    /// Pairs that are loaded together.
    fn load_batch(&self) -> u64 {
        (REQUEST_BYTES_MAX / self.pair_bytes()).clamp(1, LOAD_BATCH)
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::Startup(format!("{} cannot be read: {error}", path.display())))
}

/// Refuses keys that would fill the disk: each store holds all of them, some twice while files are merged.
fn fits(wanted: &Wanted, shape: &Shape, workloads: &[Workload]) -> Result<()> {
    let place = wanted.scratch.display();
    let disk = rustix::fs::statvfs(&wanted.scratch)
        .map_err(|error| Error::Startup(format!("nothing can be kept in {place}: {error}")))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed =
        shape.pair_bytes().saturating_mul(shape.keys).saturating_mul(2 * u64::from(wanted.stores));
    let is_loaded = workloads.iter().any(|workload| workload.reads());
    match is_loaded && needed > free {
        false => Ok(()),
        true => Err(Error::Startup(format!(
            "{} keys take about {} MiB on {} stores; {place} has {} MiB free",
            shape.keys,
            needed >> 20,
            wanted.stores,
            free >> 20,
        ))),
    }
}

pub(super) fn run(arguments: Arguments) -> Result<()> {
    let runtime = super::runtime(0)?;
    match arguments.events {
        Some(Events::Scenario(scenario)) => runtime.block_on(scenario::run(scenario)),
        None => runtime.block_on(run_load(&arguments.load)),
    }
}

async fn run_load(arguments: &LoadArguments) -> Result<()> {
    arguments.check()?;
    let mut signals = StopSignals::catch()?;
    let mut servers = match &arguments.scheduler_addr {
        Some(_) => None,
        None => Some(start(&arguments.wanted()?, &mut signals).await?),
    };
    let (outcomes, ended) = measure(arguments, servers.as_mut(), signals).await?;
    drop(servers);
    tell(arguments, &outcomes, ended.is_ok());
    outcomes.iter().filter_map(|outcome| outcome.bank.as_ref()).try_for_each(Verdict::check)?;
    ended?;
    match outcomes.iter().find(|outcome| outcome.window.count() == 0) {
        None => Ok(()),
        Some(outcome) => {
            let reason = outcome.window.failures().first().map_or("", |(reason, _)| reason);
            let reason = format!("no {} was done: {reason}", outcome.workload);
            Err(Error::Startup(reason))
        }
    }
}

fn tell(arguments: &LoadArguments, outcomes: &[Outcome], is_whole: bool) {
    let rows = outcomes.iter().map(Outcome::row);
    let rows: Vec<_> = std::iter::once(Outcome::heading()).chain(rows).collect();
    let results: Vec<_> = outcomes.iter().map(Outcome::json).collect();
    match arguments.json {
        true => {
            let target = arguments.target.name();
            let all = json!({ "complete": is_whole, "target": target, "results": results });
            say(&format!("{all}\n"));
        }
        false => say(&table(&rows)),
    }
    for outcome in outcomes {
        outcome.bank.iter().for_each(|bank| eprintln!("{}", bank.told()));
        for (reason, count) in outcome.window.failures() {
            eprintln!("{}: {count} failed: {reason}", outcome.workload);
        }
    }
}

/// Servers for this run, when they serve.
async fn start(wanted: &Wanted, signals: &mut StopSignals) -> Result<Servers> {
    let mut servers = Servers::start(wanted)?;
    let addresses = servers.addresses().join(",");
    match wanted.system {
        System::Skerry if wanted.is_separate => {
            eprintln!("starting {} stores, scheduler {addresses}", wanted.stores);
        }
        System::Skerry => eprintln!("starting a playground, scheduler {addresses}"),
        peer => eprintln!("starting {}, {addresses}", peer.name()),
    }
    tokio::select! {
        ready = servers.ready() => ready?,
        () = signals.next() => return Err(interrupted_early()),
    }
    Ok(servers)
}

fn interrupted_early() -> Error {
    Error::Startup("interrupted before it began".to_string())
}

/// Runs all workloads. Answers what was found, and as an error why that is not all.
async fn measure(
    arguments: &LoadArguments,
    mut servers: Option<&mut Servers>,
    mut signals: StopSignals,
) -> Result<(Vec<Outcome>, Result<()>)> {
    let addresses = match (&servers, &arguments.scheduler_addr) {
        (Some(servers), _) => servers.addresses(),
        (None, given) => split(given.as_deref().unwrap_or_default()),
    };
    let target = tokio::select! {
        target = prepared(arguments, &addresses) => target?,
        () = signals.next() => return Err(interrupted_early()),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    tokio::spawn(async move {
        signals.next().await;
        flag.store(true, Ordering::Relaxed);
    });
    let shape = arguments.shape();
    if !arguments.no_load && arguments.workloads.iter().any(|workload| workload.reads()) {
        load(&shape, &target, &interrupted).await?;
    }
    let mut outcomes = Vec::new();
    for &workload in &arguments.workloads {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let bank = match workload {
            Workload::Bank => {
                let (accounts, is_new) = (arguments.accounts, !arguments.no_load);
                Some(Bank::open(target.own()?, accounts, is_new).await?)
            }
            _ => None,
        };
        let run = Run::new(workload, &shape, &target, bank, &interrupted);
        outcomes.push(run.measure(servers.as_deref_mut()).await);
        if let Some(Err(error)) = servers.as_deref_mut().map(Servers::expect_running) {
            let reason = format!("{error}; the results are partial");
            return Ok((outcomes, Err(Error::Startup(reason))));
        }
    }
    let ended = match interrupted.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Error::Startup("interrupted; the results are partial".to_string())),
    };
    Ok((outcomes, ended))
}

fn split(addresses: &str) -> Vec<String> {
    addresses.split(',').map(|it| it.trim().to_string()).collect()
}

/// The target as it is to be measured.
async fn prepared(arguments: &LoadArguments, addresses: &[String]) -> Result<Arc<Target>> {
    let connect = || Target::connect(arguments.target, addresses, arguments.reach());
    let mut target = connect().await?;
    if let Some(regions) = arguments.regions {
        let replicas = usize::from(arguments.stores.min(3));
        regions::cut(addresses, target.own()?, regions, replicas).await?;
        target = connect().await?;
    }
    let is_transactional = arguments.workloads.iter().any(|it| it.is_transactional());
    if is_transactional && !target.own()?.has_transactions() {
        let reason = "transactions are measured on clusters of API version 1";
        return Err(Error::Startup(reason.to_string()));
    }
    if arguments.workloads.contains(&Workload::TxnTwoRegions) {
        let cluster = target.own()?;
        let keys: Vec<_> =
            (0..PLACES).map(|it| key_at(f64::from(it) / f64::from(PLACES))).collect();
        if keys.iter().all(|key| cluster.are_together(key, &keys[0])) {
            let reason = "all keys lie in one region: --regions 2 or more cuts them before";
            return Err(Error::Startup(reason.to_string()));
        }
    }
    Ok(Arc::new(target))
}

/// Writes every key once.
async fn load(shape: &Shape, target: &Arc<Target>, interrupted: &Arc<AtomicBool>) -> Result<()> {
    let (clock, keys) = (SystemClock, shape.keys);
    let began = clock.monotonic();
    let mut told = began;
    let mut tasks = JoinSet::new();
    let (mut next, batch) = (0, shape.load_batch());
    while next < keys && !interrupted.load(Ordering::Relaxed) {
        while tasks.len() < LOADERS && next < keys {
            let end = keys.min(next + batch);
            let (target, shape, numbers) = (target.clone(), shape.clone(), next..end);
            let mut dice = Dice::new(shape.seed ^ next);
            let mut pair = move |number| {
                let value = value_bytes(&mut dice, shape.value_size);
                (key_bytes(number, shape.key_size), Bytes::from(value))
            };
            let pairs: Vec<_> = numbers.map(&mut pair).collect();
            let loader = (next / batch) as usize;
            tasks.spawn(async move { target.put_many(loader, pairs).await });
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
        Some(Ok(done)) => done.map_err(|error| Error::Startup(format!("loading keys: {error}"))),
        Some(Err(error)) => Err(Error::Startup(format!("a client failed: {error}"))),
    }
}
