//! A standalone store, put together: the one place that knows all its parts.
//!
//! [`Node::start`] goes in this order, and [`Node::stop`] in the opposite one:
//!
//! 1. bind the ports, so that a taken one is found out before any data is touched;
//! 2. open the data directory and the data engine: whatever is wrong with them ends the start;
//! 3. learn or read who the store is ([`identity`]);
//! 4. storage, raw API;
//! 5. serve clients, and the status pages;
//! 6. register with the scheduler and begin to beat ([`crate::net::heartbeats`]): clients come from now on.
//!
//! **Invariant.** A part is stopped only after everything that uses it: when the engine closes nothing can
//! reach it any more. Each step of a stop has a bound, so a stop ends.
//!
//! What it does not do: no replication. A store is alone, and `skerry server` says so.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::metapb;
use skerry_raftstore::engine::Engine;
use skerry_raftstore::engine::directory::{DataDirectory, Purpose};
use skerry_raftstore::engine::rocks::{RawExpiry, RocksEngine};
use skerry_raftstore::time::{self, SystemClock};
use slog::{Logger, info, warn};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::net::heartbeats::{Heartbeats, Intervals, Vitals, register};
use crate::net::scheduler_client::{Failure, SchedulerClient};
use crate::raw::RawStore;
use crate::raw::value::expiry_of;
use crate::server::kv_service::KvService;
use crate::server::{self, status};
use crate::storage::{ApiVersion, LocalStorage};

mod identity;
pub mod limits;
mod vitals;

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

/// A running store.
pub struct Node {
    identity: StoreIdentity,
    engine: Arc<RocksEngine>,
    storage: Arc<LocalStorage>,
    raw: Arc<RawStore>,
    /// Turns to true when the store stops; both servers listen to it.
    stopping: watch::Sender<bool>,
    servers: Vec<JoinHandle<()>>,
    heartbeats: JoinHandle<()>,
    logger: Logger,
    /// Released last: the lock must outlive everything that writes below it.
    _directory: DataDirectory,
}

impl Node {
    /// Starts a store in `directory`; when this returns, clients are served and the scheduler knows it.
    /// `wanted` is the API version that the operator asked for; a store that has one keeps it.
    pub async fn start(
        mut config: Config,
        wanted: Option<ApiVersion>,
        directory: &Path,
        listeners: Listeners,
        logger: Logger,
    ) -> Result<Node> {
        let directory = DataDirectory::open(directory, Purpose::STANDALONE_STORE)?;
        let engine = Arc::new(open_engine(&config, &directory, &logger)?);
        let metrics = Metrics::new();
        let scheduler =
            Arc::new(SchedulerClient::new(&config.server.schedulers(), Arc::clone(&metrics))?);
        let identity =
            identity::establish(&directory, &*engine, &scheduler, wanted, &logger).await?;
        config.storage.api_version = identity.api_version.number();

        let storage = LocalStorage::start(
            Arc::clone(&engine) as Arc<dyn Engine>,
            identity.store_id,
            identity.regions.clone(),
            config.storage.local_limits(),
        );
        let raw = Arc::new(RawStore::new(
            Arc::clone(&storage) as Arc<dyn crate::storage::Storage>,
            identity.api_version,
            Arc::new(SystemClock),
            config.storage.raw_limits(),
        ));
        let vitals = StoreVitals::new(&identity, Arc::clone(&engine), &config, directory.path());
        metrics.add_source(vitals::readings(Arc::clone(&engine), Arc::clone(&storage)));

        let (stopping, _) = watch::channel(false);
        let pages = pages(&config, &vitals, &metrics);
        let servers = vec![
            spawn_server(serve_clients(&config, listeners.store, &raw, &metrics, &stopping)),
            spawn_server(status::serve(listeners.status, pages, told(&stopping))),
        ];
        let heartbeats = begin_to_beat(&config, &scheduler, vitals, &logger).await?;
        info!(logger, "store serves"; "store_id" => identity.store_id.get(),
            "address" => &config.server.addr, "api" => %identity.api_version);
        Ok(Node {
            identity,
            engine,
            storage,
            raw,
            stopping,
            servers,
            heartbeats,
            logger,
            _directory: directory,
        })
    }

    /// The store's id in its cluster.
    pub fn store_id(&self) -> u64 {
        self.identity.store_id.get()
    }

    /// Stops everything, answering first what was accepted.
    pub async fn stop(self) -> Result<()> {
        self.stopping.send_replace(true);
        for server in self.servers {
            // Its own errors have ended the process already.
            let _ = server.await;
        }
        self.heartbeats.abort();
        // Joining threads and writing files blocks, and nothing else is left to run here.
        tokio::task::block_in_place(|| {
            self.raw.stop();
            self.storage.stop();
            self.engine.close(VIEWS_TIMEOUT)
        })?;
        info!(self.logger, "store has stopped"; "store_id" => self.identity.store_id.get());
        Ok(())
    }
}

fn open_engine(config: &Config, directory: &DataDirectory, logger: &Logger) -> Result<RocksEngine> {
    let allowed = limits::raise_open_files();
    let mut rocks = config.rocksdb.clone();
    rocks.open_files_max = limits::engine_files(allowed, rocks.open_files_max);
    info!(logger, "open files"; "allowed" => allowed, "engine_max" => rocks.open_files_max);
    let expiry = RawExpiry { clock: Arc::new(SystemClock), expiry_seconds: expiry_of };
    Ok(RocksEngine::open(&directory.data_path(), &rocks, Some(expiry))?)
}

/// Registers, begins to beat, and waits until the scheduler sends clients here. A scheduler that does not
/// answer is not waited for: it will be told by a later beat.
async fn begin_to_beat(
    config: &Config,
    scheduler: &Arc<SchedulerClient>,
    vitals: Arc<StoreVitals>,
    logger: &Logger,
) -> Result<JoinHandle<()>> {
    let (store, regions) = vitals.registration();
    let registered = match register(scheduler, store, &regions).await {
        Ok(()) => true,
        Err(Failure::Unreachable(_)) => false,
        Err(failure) => return Err(Error::from(failure)),
    };
    let intervals = Intervals {
        store: milliseconds(config.server.store_heartbeat_interval_ms),
        region: milliseconds(config.server.region_heartbeat_interval_ms),
    };
    let task = Heartbeats::new(Arc::clone(scheduler), vitals, intervals, logger.clone()).run();
    let task = tokio::spawn(task);
    let known = tokio::time::timeout(KNOWN_PATIENCE, until_known(scheduler, &regions));
    if registered && known.await.is_err() {
        warn!(logger, "the scheduler has not confirmed all regions yet");
    }
    Ok(task)
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
    raw: &Arc<RawStore>,
    metrics: &Arc<Metrics>,
    stopping: &watch::Sender<bool>,
) -> impl Future<Output = Result<()>> + Send + 'static {
    let (config, service) = (config.server.clone(), KvService::new(Arc::clone(raw)));
    let (metrics, stop) = (Arc::clone(metrics), told(stopping));
    async move { server::serve(listener, service, &config, metrics, stop).await }
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
    let effective = serde_json::to_value(config).expect("a configuration is plain data");
    let vitals = Arc::clone(vitals);
    status::Pages {
        metrics: Arc::clone(metrics),
        status: Arc::new(move || vitals.status()),
        config: Arc::new(effective),
    }
}

fn milliseconds(count: u32) -> Duration {
    Duration::from_millis(u64::from(count))
}
