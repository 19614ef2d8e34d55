//! A store, put together: the one place that knows all its parts.
//!
//! [`Node::start`] goes in this order, and [`Node::stop`] in the opposite one:
//!
//! 1. bind the ports, so that a taken one is found out before any data is touched;
//! 2. open the data directory and the data engine: whatever is wrong with them ends the start;
//! 3. learn or read who the store is ([`identity`]), and for a replicated one found or join its cluster
//!    ([`membership`]) and make sure that no other store bears its name ([`claim`]);
//! 4. what keeps the data ([`core`]), the raw and the transactional API;
//! 5. serve clients, and the status pages;
//! 6. register with the scheduler and begin to beat ([`crate::net::heartbeats`]): clients come from now on.
//!
//! A start that waits for the scheduler can be halted (steps 3 and 6); what it has opened is then closed as by a stop.
//!
//! **Invariant.** A part is stopped only after everything that uses it: when the engine closes nothing can
//! reach it any more. Each step of a stop has a bound, so a stop ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::metapb;
use skerry_proto::pdpb::RegionHeartbeatRequest;
use skerry_raftstore::engine::Engine;
use skerry_raftstore::engine::directory::{DataDirectory, Purpose};
use skerry_raftstore::engine::rocks::{RawExpiry, RocksEngine};
use skerry_raftstore::time::{self, SystemClock};
use slog::{Logger, info, warn};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::gc::SafePoints;
use crate::metrics::Metrics;
use crate::net::claim::claim;
use crate::net::collector::{Collector, CollectorParts, Leads};
use crate::net::deadlocks;
use crate::net::elsewhere::RegionCalls;
use crate::net::heartbeats::{Heartbeats, Intervals, Registration, Vitals, register};
use crate::net::scheduler_client::{Failure, SchedulerClient};
use crate::net::timestamps::{PatientTimestamps, keep_time};
use crate::raw::RawStore;
use crate::raw::value::expiry_of;
use crate::server::deadlocks::{DeadlockService, IsDetector};
use crate::server::kv_service::{KvService, Surroundings};
use crate::server::{self, status};
use crate::storage::{ApiVersion, Storage};
use crate::txn::TxnStore;
use crate::txn::telling::Telling;

mod core;
pub(crate) mod identity;
pub mod limits;
pub(crate) mod membership;
pub(crate) mod scheduler;
mod vitals;

use core::{Core, Engines};
use identity::StoreIdentity;
use vitals::StoreVitals;

/// The version that stores tell the scheduler: that of the TiKV whose protocol is spoken. Clients and the
/// real PD decide by it what they may ask for.
pub const PROTOCOL_VERSION: &str = "8.5.5";

/// How long a stop waits for reads that still hold a view of the engine.
pub const VIEWS_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a start waits for the scheduler to have heard of the regions.
const KNOWN_PATIENCE: Duration = Duration::from_secs(10);

/// Between two questions whether it has.
const KNOWN_PAUSE: Duration = Duration::from_millis(10);

/// Ports of a store, bound and not yet served.
pub struct Listeners {
    /// For clients.
    pub store: TcpListener,
    /// For the status pages.
    pub status: TcpListener,
}

/// The flags that change the ports, for messages: they differ between commands.
#[derive(Clone, Copy, Debug)]
pub struct PortFlags {
    /// Of the port for clients.
    pub store: &'static str,
    /// Of the status port.
    pub status: &'static str,
}

impl Listeners {
    /// Binds what the configuration says.
    pub async fn bind(config: &Config, flags: PortFlags) -> Result<Listeners> {
        let store = server::listen(&config.server.addr, flags.store).await?;
        let status = server::listen(&config.server.status_addr, flags.status).await?;
        Ok(Listeners { store, status })
    }
}

/// Whether others hold the same data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No.
    Standalone,
    /// Yes: its regions are replicated.
    Replicated,
}

/// A running store.
pub struct Node {
    identity: StoreIdentity,
    engine: Arc<RocksEngine>,
    core: Core,
    raw: Arc<RawStore>,
    txn: Arc<TxnStore>,
    timestamps: Arc<PatientTimestamps>,
    metrics: Arc<Metrics>,
    /// Turns to true when the store stops; both servers listen to it.
    stopping: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    /// Once the store is registered.
    heartbeats: Option<JoinHandle<()>>,
    /// Takes part in garbage collection.
    collector: JoinHandle<()>,
    /// Looks at the scheduler's time.
    timekeeper: JoinHandle<()>,
    logger: Logger,
    /// Released last: the lock must outlive everything that writes below it.
    _directory: DataDirectory,
}

impl Node {
    /// Starts a store in `directory`; when this returns, clients are served and the scheduler knows it.
    /// `wanted` is the API version that the operator asked for; a store that has one keeps it. Nothing is answered
    /// if `halted` became true meanwhile: then the store has been stopped again.
    pub async fn start(
        config: Config,
        mode: Mode,
        wanted: Option<ApiVersion>,
        directory: &Path,
        listeners: Listeners,
        halted: watch::Receiver<bool>,
        logger: Logger,
    ) -> Result<Option<Node>> {
        let opened =
            Node::open(config, mode, wanted, directory, listeners, &halted, logger).await?;
        let Some((mut node, mut beginning)) = opened else { return Ok(None) };
        let begun = unless_halted(&halted, node.begin_to_beat(&mut beginning)).await;
        let is_halted = begun.is_none() || *halted.borrow();
        let address = std::mem::take(&mut beginning.config.server.addr);
        // What it holds of the store must be gone before a stop.
        drop(beginning);
        match begun.unwrap_or(Ok(())) {
            Ok(()) if is_halted => node.stop().await.map(|()| None),
            Ok(()) => {
                info!(node.logger, "store serves"; "store_id" => node.store_id(),
                    "address" => address, "api" => %node.identity.api_version);
                Ok(Some(node))
            }
            Err(error) => {
                node.stop().await?;
                Err(error)
            }
        }
    }

    /// Steps 2 to 5.
    async fn open(
        mut config: Config,
        mode: Mode,
        wanted: Option<ApiVersion>,
        directory: &Path,
        listeners: Listeners,
        halted: &watch::Receiver<bool>,
        logger: Logger,
    ) -> Result<Option<(Node, Beginning)>> {
        let directory = DataDirectory::open(directory, purpose(mode, &config))?;
        let engine = Arc::new(open_engine(&config, mode, &directory, &logger)?);
        let metrics = Metrics::new();
        let scheduler =
            Arc::new(SchedulerClient::new(&config.server.schedulers(), Arc::clone(&metrics))?);
        let (stopping, _) = watch::channel(false);
        let parts = Parts {
            directory: &directory,
            engine: &engine,
            scheduler: &scheduler,
            stopping: stopping.subscribe(),
        };
        let started = unless_halted(halted, async {
            match mode {
                Mode::Standalone => start_alone(parts, &config, wanted, &logger).await,
                Mode::Replicated => start_replicas(parts, &config, wanted, &logger).await,
            }
        });
        let Some(started) = started.await else {
            info!(logger, "store has stopped before it was started");
            tokio::task::block_in_place(|| engine.close(VIEWS_TIMEOUT))?;
            return Ok(None);
        };
        let (identity, core, reports) = started?;
        config.storage.api_version = identity.api_version.number();
        let (version, limits) = (identity.api_version, config.storage.raw_limits());
        let raw = Arc::new(RawStore::new(core.storage(), version, Arc::new(SystemClock), limits));
        let vitals =
            StoreVitals::new(identity, Arc::clone(&engine), &core, &config, directory.path());
        metrics.add_source(vitals::readings(Arc::clone(&engine), &core));
        let timestamps = PatientTimestamps::new(Arc::clone(&scheduler), logger.clone());
        let detecting = deadlocks::start(Arc::clone(&scheduler), logger.clone());
        let surroundings = (Arc::clone(&timestamps), detecting);
        let txn = transactions(&core, &identity, &config, surroundings, &raw);
        let collector = collector(&core, &identity, &config, &scheduler, &txn, &logger);
        let pages = pages(&config, &vitals, &metrics);
        let around = around(&core, &identity, &engine, &metrics, &stopping, &config);
        let service = KvService::new(Arc::clone(&raw), Arc::clone(&txn), around);
        let service = (service, DeadlockService::new(is_detector(&core), stopping.subscribe()));
        let servers = vec![
            spawn_server(serve_clients(&config, listeners.store, service, &metrics, &stopping)),
            spawn_server(status::serve(listeners.status, pages, told(&stopping))),
        ];
        let node = Node {
            identity,
            engine,
            core,
            raw,
            timekeeper: tokio::spawn(keep_time(Arc::clone(&txn))),
            txn,
            timestamps,
            metrics,
            stopping,
            servers,
            heartbeats: None,
            collector: tokio::spawn(collector.run()),
            logger,
            _directory: directory,
        };
        Ok(Some((node, Beginning { config, scheduler, vitals, reports: Some(reports) })))
    }

    /// The store's id in its cluster.
    pub fn store_id(&self) -> u64 {
        self.identity.store_id.get()
    }

    /// What keeps its data, for who calls it without the wire; to be let go before it stops.
    pub(crate) fn storage(&self) -> Arc<dyn Storage> {
        self.core.storage()
    }

    /// The raw API, as [`Node::storage`].
    pub(crate) fn raw(&self) -> Arc<RawStore> {
        Arc::clone(&self.raw)
    }

    /// The transactional API, as [`Node::storage`].
    pub(crate) fn transactions(&self) -> Arc<TxnStore> {
        Arc::clone(&self.txn)
    }

    /// Where its timestamps come from, as [`Node::storage`].
    pub(crate) fn timestamps(&self) -> Arc<PatientTimestamps> {
        Arc::clone(&self.timestamps)
    }

    /// Step 6: registers, begins to beat, and waits until the scheduler sends clients here. A scheduler that does
    /// not answer is not waited for: it will be told by a later beat.
    async fn begin_to_beat(&mut self, beginning: &mut Beginning) -> Result<()> {
        let Beginning { config, scheduler, vitals, reports } = beginning;
        let registration = vitals.registration();
        let regions = match &registration {
            Registration::Alone(_, regions) => regions.clone(),
            // Whoever waits for replicas asks the scheduler: other stores decide who leads.
            Registration::Member(_) => Vec::new(),
        };
        let registered = match register(scheduler, registration).await {
            Ok(()) => true,
            Err(Failure::Unreachable(_)) => false,
            Err(failure) => return Err(Error::from(failure)),
        };
        let intervals = Intervals {
            store: milliseconds(config.server.store_heartbeat_interval_ms),
            region: milliseconds(config.server.region_heartbeat_interval_ms),
        };
        let reports = reports.take().expect("a store begins to beat once");
        let (scheduler, vitals) = (Arc::clone(scheduler), Arc::clone(vitals));
        let known = Arc::clone(&scheduler);
        let heartbeats =
            Heartbeats::new(scheduler, vitals, intervals, reports, self.logger.clone());
        self.heartbeats = Some(tokio::spawn(heartbeats.run()));
        let known = tokio::time::timeout(KNOWN_PATIENCE, until_known(&known, &regions));
        if registered && known.await.is_err() {
            warn!(self.logger, "the scheduler has not confirmed all regions yet");
        }
        Ok(())
    }

    /// Stops everything, answering first what was accepted.
    pub async fn stop(self) -> Result<()> {
        self.stopping.send_replace(true);
        for server in self.servers {
            // Its own errors have ended the process already.
            let _ = server.await;
        }
        for task in self.heartbeats.into_iter().chain([self.collector, self.timekeeper]) {
            task.abort();
            // What it holds of the store must be gone before the store is. It ends with an error: it was aborted.
            let _ = task.await;
        }
        // Its sources hold what is about to be closed.
        self.metrics.forget_sources();
        // Joining threads and writing files blocks, and nothing else is left to run here.
        tokio::task::block_in_place(|| {
            self.raw.stop();
            self.core.stop();
            self.engine.close(VIEWS_TIMEOUT)
        })?;
        info!(self.logger, "store has stopped"; "store_id" => self.identity.store_id.get());
        Ok(())
    }
}

/// What the last step of a start needs.
struct Beginning {
    config: Config,
    scheduler: Arc<SchedulerClient>,
    vitals: Arc<StoreVitals>,
    /// Taken by the heartbeats.
    reports: Option<mpsc::Receiver<RegionHeartbeatRequest>>,
}

/// What both modes start from.
struct Parts<'a> {
    directory: &'a DataDirectory,
    engine: &'a Arc<RocksEngine>,
    scheduler: &'a Arc<SchedulerClient>,
    stopping: watch::Receiver<bool>,
}

/// Who the store is, what keeps its data, and where replicas report.
type Started = (StoreIdentity, Core, mpsc::Receiver<RegionHeartbeatRequest>);

async fn start_alone(
    parts: Parts<'_>,
    config: &Config,
    wanted: Option<ApiVersion>,
    logger: &Logger,
) -> Result<Started> {
    let Parts { directory, engine, scheduler, .. } = parts;
    let (identity, regions) =
        identity::establish(directory, &**engine, scheduler, wanted, logger).await?;
    let engine = Arc::clone(engine) as Arc<dyn Engine>;
    // Nobody reports: the other end is dropped.
    let (_, reports) = mpsc::channel(1);
    Ok((identity, Core::standalone(engine, &identity, regions, config), reports))
}

async fn start_replicas(
    parts: Parts<'_>,
    config: &Config,
    wanted: Option<ApiVersion>,
    logger: &Logger,
) -> Result<Started> {
    let Parts { directory, engine, scheduler, stopping } = parts;
    let log = directory.open_log(&config.raft_engine, &config.rocksdb)?;
    let identity = membership::establish(directory, scheduler, wanted, logger).await?;
    let path = directory.path();
    let store = vitals::store_record(&identity, &config.server, path, Mode::Replicated);
    membership::found(&identity, &**engine, &*log, scheduler, store.clone(), logger).await?;
    claim(identity.cluster_id, store, scheduler).await?;
    let engines = Engines {
        data: Arc::clone(engine) as Arc<dyn Engine>,
        log,
        snapshots: &path.join("snapshots"),
    };
    let (core, reports) =
        Core::replicated(engines, &identity, scheduler, config, stopping, logger)?;
    Ok((identity, core, reports))
}

/// The transactional API beside the raw one, with which it shares the threads for large reads.
fn transactions(
    core: &Core,
    identity: &StoreIdentity,
    config: &Config,
    (timestamps, detecting): (Arc<PatientTimestamps>, Telling),
    raw: &RawStore,
) -> Arc<TxnStore> {
    let (version, limits) = (identity.api_version, config.storage.txn_limits());
    let reads = Arc::clone(raw.read_pool());
    let store = TxnStore::new(core.storage(), version, limits, timestamps, reads);
    core.guard_reads(store.concurrency().clone());
    let safe_points = SafePoints::new(Arc::new(SystemClock));
    Arc::new(store.keeping(safe_points).detecting(Arc::new(detecting)))
}

/// Which regions this store leads.
fn leads(core: &Core) -> Leads {
    let reporter = core.reporter();
    Box::new(move |region_id| match &reporter {
        Some(reporter) => reporter.store().is_some_and(|store| store.led(region_id).is_some()),
        // Nobody else does.
        None => true,
    })
}

/// What a service of clients knows of its store.
fn around(
    core: &Core,
    identity: &StoreIdentity,
    engine: &Arc<RocksEngine>,
    metrics: &Arc<Metrics>,
    stopping: &watch::Sender<bool>,
    config: &Config,
) -> Surroundings {
    Surroundings {
        cluster_id: identity.cluster_id,
        store_id: identity.store_id,
        engine: Arc::clone(engine) as Arc<dyn Engine>,
        storage: core.storage(),
        inlet: core.inlet(),
        reporter: core.reporter(),
        stopping: stopping.subscribe(),
        metrics: Arc::clone(metrics),
        command_bytes_max: config.server.requests_in_flight_size_max.length(),
    }
}

/// Whether this store looks for deadlocks: it leads the region of the empty key.
fn is_detector(core: &Core) -> IsDetector {
    let (storage, leads) = (core.storage(), leads(core));
    Arc::new(move || {
        let first = storage.regions().into_iter().find(|region| region.start_key.is_empty());
        first.is_some_and(|region| leads(region.region_id()))
    })
}

/// The store's part in garbage collection.
fn collector(
    core: &Core,
    identity: &StoreIdentity,
    config: &Config,
    scheduler: &Arc<SchedulerClient>,
    txn: &Arc<TxnStore>,
    logger: &Logger,
) -> Collector {
    Collector::new(CollectorParts {
        scheduler: Arc::clone(scheduler),
        store_id: identity.store_id,
        txn: Arc::clone(txn),
        storage: core.storage(),
        leads: leads(core),
        elsewhere: RegionCalls::new(Arc::clone(scheduler), identity.api_version),
        config: config.gc.clone(),
        logger: logger.clone(),
    })
}

fn purpose(mode: Mode, config: &Config) -> Purpose {
    match mode {
        Mode::Standalone => Purpose::STANDALONE_STORE,
        Mode::Replicated => Purpose::replicated_store(&config.raft_engine),
    }
}

pub(crate) fn open_engine(
    config: &Config,
    mode: Mode,
    directory: &DataDirectory,
    logger: &Logger,
) -> Result<RocksEngine> {
    let allowed = limits::raise_open_files();
    let mut rocks = config.rocksdb.clone();
    rocks.open_files_max = limits::engine_files(allowed, rocks.open_files_max);
    info!(logger, "open files"; "allowed" => allowed, "engine_max" => rocks.open_files_max);
    let expiry = RawExpiry { clock: Arc::new(SystemClock), expiry_seconds: expiry_of };
    let engine = RocksEngine::open(&directory.data_path(), &rocks, Some(expiry))?;
    Ok(match mode {
        Mode::Standalone => engine,
        Mode::Replicated => engine.ending_when_damaged(),
    })
}

/// The result of `work`, or nothing if the start is halted meanwhile.
async fn unless_halted<T>(
    halted: &watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut halted = halted.clone();
    let halt = async {
        if halted.wait_for(|halted| *halted).await.is_err() {
            // Nobody is left who could halt it.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = halt => None,
        done = work => Some(done),
    }
}

/// Waits until the scheduler names a leader for every region.
async fn until_known(scheduler: &SchedulerClient, regions: &[metapb::Region]) {
    for region in regions {
        loop {
            let answer = scheduler.region_by_id(region.id).await;
            if answer.is_ok_and(|answer| answer.leader.is_some()) {
                break;
            }
            tokio::time::sleep(KNOWN_PAUSE).await;
        }
    }
}

fn serve_clients(
    config: &Config,
    listener: TcpListener,
    service: (KvService, DeadlockService),
    metrics: &Arc<Metrics>,
    stopping: &watch::Sender<bool>,
) -> impl Future<Output = Result<()>> + Send + 'static {
    let config = config.server.clone();
    let (metrics, stop) = (Arc::clone(metrics), told(stopping));
    let (service, deadlocks) = service;
    async move { server::serve(listener, service, deadlocks, &config, metrics, stop).await }
}

/// Ready when the store stops.
fn told(stopping: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stopping = stopping.subscribe();
    async move {
        // An error means that the node is gone, which is a stop as well.
        let _ = stopping.wait_for(|stop| *stop).await;
    }
}

/// A server that fails takes the process with it: a store that cannot be reached must not look alive.
fn spawn_server(serving: impl Future<Output = Result<()>> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = serving.await {
            time::fatal(&error.to_string());
        }
    })
}

fn pages(config: &Config, vitals: &Arc<StoreVitals>, metrics: &Arc<Metrics>) -> status::Pages {
    let vitals = Arc::clone(vitals);
    status::Pages {
        metrics: Arc::clone(metrics),
        status: Arc::new(move || vitals.status()),
        config: Arc::new(status::config_page(config)),
    }
}

fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(u64::from(count))
}
