//! A database of several servers: each a whole store with its ports, and a scheduler, all in this process. They speak
//! gRPC with each other, as a playground's do, and clients of TiKV may come too.
//!
//! 1. A thread of its own has the runtime on which they live. It binds all ports, opens the scheduler, starts the
//!    stores and waits until every region has its replicas and a leader; then the database is open.
//! 2. The library calls the stores directly: what leads a region may be any of them.
//! 3. The thread waits until it is told to stop, stops the stores, then the scheduler, and ends.
//!
//! Ports: those of the servers from `port` on, then the scheduler's, then one for each server's status page.
//!
//! What it does not do: number and data of servers grow or shrink by a scheduler's orders in a real cluster; here a
//! directory keeps the number that it has.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use skerry_proto::metapb::PeerRole;
use skerry_proto::pdpb;
use skerry_proto::types::{StoreId, Ts};
use skerry_raftstore::time;
use skerry_scheduler::config::SchedulerConfig;
use slog::Logger;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

use super::client::{Client, Member};
use super::error::{Error, Result};
use super::settings::Settings;
use super::wait::Waiter;
use crate::config::Config;
use crate::error::Error as StoreError;
use crate::metrics::Metrics;
use crate::net::SchedulerClient;
use crate::node::scheduler::Opened;
use crate::node::{Listeners, Mode, Node, PortFlags};
use crate::server::listen;
use crate::storage::ApiVersion;
use crate::txn::Timestamps;

/// What to do about a taken port.
const PORT: &str = "`port` in the configuration";
/// The version of all data of the library.
const VERSION: ApiVersion = ApiVersion::V1;
/// Threads that serve requests of all servers.
const WORKER_THREADS: usize = 2;
/// How long the end waits for tasks that hold on to nothing any more.
const RUNTIME_STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the start waits for replicas and leaders. Later they come by themselves.
const REPLICAS_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at them.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// More regions than a library will have.
const REGIONS_MAX: i32 = 1 << 20;

/// See the head of this file.
pub(super) struct Fleet {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<crate::Result<()>>,
}

/// What is to be started.
struct Plan {
    /// Of each store; the first has the scheduler's too.
    stores: Vec<Config>,
    path: PathBuf,
    logger: Logger,
}

/// What the library calls.
struct Running {
    members: Vec<Member>,
    timestamps: Arc<dyn Timestamps>,
    runtime: Handle,
}

/// Refuses a directory that has data of more than `count` servers.
pub(super) fn refuse_other_count(path: &Path, count: u16) -> Result<()> {
    if path.join(store_name(count + 1)).exists() {
        let path = path.display();
        return Err(Error::Open(format!(
            "{path} has the data of more than {count} servers: open it with as many as before"
        )));
    }
    Ok(())
}

fn store_name(number: u16) -> String {
    format!("store-{number}")
}

impl Fleet {
    /// Starts all servers; answers who reaches them.
    pub(super) fn open(settings: &Settings, logger: Logger) -> Result<(Fleet, Client)> {
        refuse_other_count(&settings.path, settings.servers)?;
        let plan = Plan::of(settings, logger)?;
        let (started, running) = bounded(1);
        let (stop, stopped) = oneshot::channel();
        let thread = time::spawn("skerry-fleet", move || live(&plan, &started, stopped));
        match running.recv() {
            Ok(Running { members, timestamps, runtime }) => {
                let client = Client::new(members, timestamps, Waiter::on(runtime), Ts::ZERO);
                Ok((Fleet { stop, thread }, client))
            }
            // It has ended instead, and says why.
            Err(_ended) => Err(match thread.join() {
                Ok(Err(error)) => Error::from(error),
                _ => Error::Open("the servers ended while they were started".to_string()),
            }),
        }
    }

    /// Stops all servers. The client must be gone.
    pub(super) fn stop(self) -> Result<()> {
        // An error means that it has ended already; it says why below.
        let _ = self.stop.send(());
        match self.thread.join() {
            Ok(ended) => Ok(ended?),
            Err(_) => Err(Error::Damaged("the servers ended by a panic".to_string())),
        }
    }
}

impl Plan {
    fn of(settings: &Settings, logger: Logger) -> Result<Plan> {
        let Settings { servers, address, port, path, .. } = settings;
        let scheduler = settings.scheduler();
        let at = |offset: u16| format!("{address}:{}", port + offset);
        let store = |number: u16| {
            let mut config = Config::default();
            config.server.addr = at(number);
            config.server.status_addr = at(servers + 1 + number);
            config.server.scheduler_addr = at(*servers);
            config.scheduler = SchedulerConfig { addr: at(*servers), ..scheduler.clone() };
            config
        };
        let stores: Vec<Config> = (0..*servers).map(store).collect();
        let problems: Vec<String> = stores.iter().flat_map(Config::problems).collect();
        match problems.first() {
            Some(problem) => Err(Error::Open(problem.clone())),
            None => Ok(Plan { stores, path: path.clone(), logger }),
        }
    }
}

/// The life of the thread.
fn live(
    plan: &Plan,
    started: &Sender<Running>,
    stopped: oneshot::Receiver<()>,
) -> crate::Result<()> {
    let built = Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .thread_name("skerry-edge")
        .enable_all()
        .build();
    let runtime = built
        .map_err(|error| StoreError::Startup(format!("the runtime cannot be started: {error}")))?;
    let lived = runtime.block_on(serve(plan, started, stopped));
    runtime.shutdown_timeout(RUNTIME_STOP_TIMEOUT);
    lived
}

/// The scheduler with everything else inside its life.
async fn serve(
    plan: &Plan,
    started: &Sender<Running>,
    stopped: oneshot::Receiver<()>,
) -> crate::Result<()> {
    let config = &plan.stores[0];
    let mut ports = Vec::new();
    for config in &plan.stores {
        let flags = PortFlags { store: PORT, status: PORT };
        ports.push(Listeners::bind(config, flags).await?);
    }
    let port: TcpListener = listen(&config.scheduler.addr, PORT).await?;
    let logger = plan.logger.clone();
    let opened = Opened::open(&config.scheduler, &plan.path.join("scheduler"), logger)?;
    let (stop, stop_scheduler) = oneshot::channel::<()>();
    let scheduler = tokio::spawn(async {
        // An error means that the sender is gone: all is ending.
        opened.serve(port, async { stop_scheduler.await.unwrap_or_default() }).await
    });
    let mut nodes = Vec::new();
    let served = match start_stores(plan, ports, &mut nodes).await {
        Ok(()) => {
            let running = running(&nodes);
            // An error of either means that the library has lost interest.
            if started.send(running).is_ok() {
                let _ = stopped.await;
            }
            Ok(())
        }
        Err(error) => Err(error),
    };
    let mut stopping = Ok(());
    for node in nodes {
        stopping = stopping.and(node.stop().await);
    }
    let _ = stop.send(());
    let ended = scheduler
        .await
        .map_err(|error| StoreError::Startup(format!("the scheduler failed: {error}")));
    served.and(stopping).and(ended?)
}

/// Starts the stores one after the other, and waits until they hold together. What was started is in `nodes`.
async fn start_stores(
    plan: &Plan,
    ports: Vec<Listeners>,
    nodes: &mut Vec<Node>,
) -> crate::Result<()> {
    // Nobody halts a start: who opens a database waits for it.
    let (_halt, halted) = watch::channel(false);
    for ((config, ports), number) in plan.stores.iter().zip(ports).zip(1..) {
        let directory = plan.path.join(store_name(number));
        let (config, logger) = (config.clone(), plan.logger.new(slog::o!("server" => number)));
        let (mode, wanted, halted) = (Mode::Replicated, Some(VERSION), halted.clone());
        let node = Node::start(config, mode, wanted, &directory, ports, halted, logger).await?;
        nodes.extend(node);
    }
    let replicated = until_replicated(plan);
    // What is still missing comes by itself; calls wait for it.
    let _ = tokio::time::timeout(REPLICAS_TIMEOUT, replicated).await;
    Ok(())
}

/// Waits until every region has a leader and a replica on every server.
async fn until_replicated(plan: &Plan) -> crate::Result<()> {
    let server = &plan.stores[0].server;
    let scheduler = SchedulerClient::new(&server.schedulers(), Metrics::new())?;
    let cluster_id = scheduler.patiently(&plan.logger, || scheduler.cluster_id()).await?;
    scheduler.expect_cluster(cluster_id);
    let is_whole = |region: &pdpb::Region| {
        let peers = region.region.iter().flat_map(|region| &region.peers);
        let voters = peers.filter(|peer| peer.role() == PeerRole::Voter).count();
        let is_led = region.leader.is_some_and(|leader| leader.id != 0);
        is_led && voters >= plan.stores.len() && region.pending_peers.is_empty()
    };
    loop {
        let regions = scheduler.regions(b"", REGIONS_MAX).await.unwrap_or_default();
        if regions.len() >= VERSION.region_count() && regions.iter().all(is_whole) {
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn running(nodes: &[Node]) -> Running {
    let member = |node: &Node| Member {
        store_id: StoreId::new(node.store_id()),
        storage: node.storage(),
        raw: node.raw(),
        txn: node.transactions(),
    };
    let timestamps = nodes[0].timestamps();
    Running { members: nodes.iter().map(member).collect(), timestamps, runtime: Handle::current() }
}
