//! What one scheduler can take: heartbeats of many regions, and requests for timestamps.
//!
//! 1. *Regions*: the pure cluster on one thread. Every report comes as bytes, is decoded, taken in, and answered, as on
//!    a store's stream; ten times a simulated second the cluster ticks, and what it has to save is taken. Measured
//!    are the first report of each region, reports that repeat it with other figures, and the same while a store
//!    that has just come is being filled: then there are operators, and leaders are told something. The memory is
//!    that of the process beyond the reports themselves.
//! 2. *Timestamps*: the served scheduler in this process, asked over sockets; clients keep requests of one size in
//!    flight on some connections. A real client gathers what its callers want into one request. Processor time is that
//!    of both sides.
//!
//! `make bench-scheduler ARGS="regions=100000 seconds=5"` chooses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use skerry_kv::metrics::{cpu_seconds, resident_bytes};
use skerry_proto::metapb::{self, Peer, Region, RegionEpoch};
use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::{RegionHeartbeatRequest, RequestHeader, StoreStats, TsoRequest};
use skerry_proto::types::{ClusterId, RegionId, StoreId};
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::time::{Clock, SystemClock};
use skerry_scheduler::Result;
use skerry_scheduler::cluster::{Cluster, Decision};
use skerry_scheduler::config::SchedulerConfig;
use skerry_scheduler::moment::Moment;
use skerry_scheduler::server::Scheduler;
use slog::{Discard, Logger, o};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Stores, but the one that comes later.
const STORES: u64 = 10;

/// How often each region reports in a minute.
const REPORTS_A_MINUTE: u64 = 1;

/// Requests for timestamps in flight on each connection, and connections.
const IN_FLIGHT: usize = 64;
const CONNECTIONS: u64 = 4;

/// The pure scheduler, and the time by its own clock.
struct Pure {
    cluster: Cluster,
    now: Duration,
    /// Reports between two ticks, if reports come as evenly as they do.
    reports_a_tick: u64,
    heard: u64,
    told: u64,
    ticking: Duration,
}

impl Pure {
    fn new(regions: u64) -> Pure {
        let (config, now) = (SchedulerConfig::default(), Moment::default());
        let mut pure = Pure {
            cluster: Cluster::restore(ClusterId::new(1), &config, Vec::new(), now),
            now: Duration::ZERO,
            reports_a_tick: (regions * REPORTS_A_MINUTE / 600).max(1),
            heard: 0,
            told: 0,
            ticking: Duration::ZERO,
        };
        let first = region(1, b"", b"", &[1]);
        pure.decide(|cluster, now| cluster.bootstrap(Some(store(1)), Some(first), now));
        (2..=STORES).for_each(|id| pure.add_store(id));
        // No plan may ask for an id that a report has made up.
        pure.decide(|cluster, _| cluster.allocate_ids(1_000));
        pure
    }

    fn moment(&self) -> Moment {
        Moment { monotonic: self.now, wall_ms: 0 }
    }

    fn decide<T>(&mut self, decide: impl FnOnce(&mut Cluster, Moment) -> Result<Decision<T>>) -> T {
        let now = self.moment();
        let Decision { answer, changes } =
            decide(&mut self.cluster, now).expect("the request is sound");
        self.cluster.install(changes, now);
        answer
    }

    fn add_store(&mut self, id: u64) {
        self.decide(|cluster, now| cluster.put_store(Some(store(id)), now));
    }

    /// Hears each of the reports once; how long that took.
    fn hear(&mut self, reports: &[Vec<u8>], stores: u64) -> Duration {
        let clock = SystemClock;
        let began = clock.monotonic();
        for bytes in reports {
            if self.heard.is_multiple_of(self.reports_a_tick) {
                self.tick(stores);
            }
            self.heard += 1;
            let now = self.moment();
            let report = RegionHeartbeatRequest::decode(&bytes[..]).expect("it was encoded here");
            let leader = report.leader.expect("it was given one").store();
            let id = RegionId::new(report.region.as_ref().map_or(0, |region| region.id));
            // One whose region was moved meanwhile, as the operator's steps would be told.
            let is_taken = self.cluster.region_heartbeat(report, now).is_ok();
            if is_taken && self.cluster.wants_step(id, now) {
                let told = self.decide(|cluster, now| cluster.next_step(id, leader, now));
                self.told += u64::from(told.is_some());
            }
        }
        clock.monotonic() - began
    }

    /// A tenth of a second has passed.
    fn tick(&mut self, stores: u64) {
        self.now += Duration::from_millis(100);
        for store_id in 1..=stores {
            let stats = StoreStats { store_id, ..StoreStats::default() };
            self.cluster.store_heartbeat(stats, self.moment()).expect("it has registered");
        }
        let clock = SystemClock;
        let began = clock.monotonic();
        self.decide(|cluster, now| cluster.tick(now));
        for store in 1..=stores {
            let _ = self.cluster.regions_to_tell(StoreId::new(store), usize::MAX);
        }
        let _ = self.cluster.take_region_changes();
        self.ticking = self.ticking.max(clock.monotonic() - began);
    }
}

fn store(id: u64) -> metapb::Store {
    let (address, version) = (format!("store-{id}"), "8.5.5".to_string());
    metapb::Store { id, address, version, ..metapb::Store::default() }
}

fn region(id: u64, start: &[u8], end: &[u8], stores: &[u64]) -> Region {
    // Far above the ids that the scheduler gives.
    let peer = |store_id: &u64| Peer {
        id: (1 << 40) + id * 100 + store_id,
        store_id: *store_id,
        ..Peer::default()
    };
    Region {
        id,
        start_key: Bytes::copy_from_slice(start),
        end_key: Bytes::copy_from_slice(end),
        region_epoch: Some(RegionEpoch { conf_ver: 3, version: 2 }),
        peers: stores.iter().map(peer).collect(),
    }
}

/// Reports of all regions by their leaders, spread evenly; figures differ from round to round.
fn reports(regions: u64, round: u64) -> Vec<Vec<u8>> {
    let key = |place: u64| match place {
        0 => Vec::new(),
        place if place == regions => Vec::new(),
        place => format!("t_{place:012}_r").into_bytes(),
    };
    let on = |number: u64| [number, number + 1, number + 4].map(|place| 1 + place % STORES);
    let report = |number: u64| {
        let region = region((1 << 32) + number, &key(number), &key(number + 1), &on(number));
        let report = RegionHeartbeatRequest {
            header: Some(RequestHeader { cluster_id: 1, ..RequestHeader::default() }),
            leader: region.peers.first().copied(),
            term: 6,
            region: Some(region),
            approximate_size: (64 + (number + round) % 32) << 20,
            approximate_keys: 500_000 + round,
            bytes_written: 1_000 * round,
            keys_written: 10 * round,
            ..RegionHeartbeatRequest::default()
        };
        report.encode_to_vec()
    };
    (0..regions).map(report).collect()
}

fn measure_regions(regions: u64) {
    let rounds: Vec<Vec<Vec<u8>>> = (0..3).map(|round| reports(regions, round)).collect();
    let before = resident_bytes().unwrap_or(0);
    let mut pure = Pure::new(regions);
    let first = pure.hear(&rounds[0], STORES);
    let memory = resident_bytes().unwrap_or(0).saturating_sub(before);
    let again = pure.hear(&rounds[1], STORES);
    let quiet_tick = std::mem::take(&mut pure.ticking);
    pure.add_store(STORES + 1);
    let told = pure.told;
    let moving = pure.hear(&rounds[2], STORES + 1);
    let rate = |took: Duration| regions as f64 / took.as_secs_f64();
    println!("| {regions} regions, one thread | figure |\n| --- | --- |");
    println!("| memory | {:.0} MiB |", memory as f64 / f64::from(1 << 20));
    println!("| first reports a second | {:.0} |", rate(first));
    println!("| repeated reports a second | {:.0} |", rate(again));
    println!("| longest tick | {:.1} ms |", quiet_tick.as_secs_f64() * 1e3);
    println!("| reports a second while a store is filled | {:.0} |", rate(moving));
    println!("| leaders told something then | {} |", pure.told - told);
    println!("| longest tick then | {:.1} ms |", pure.ticking.as_secs_f64() * 1e3);
}

/// Timestamps that were given in the time that it took, and the processor time for them.
struct Stamped {
    count: u64,
    took: Duration,
    cpu: f64,
}

/// Keeps requests of `size` timestamps in flight on one connection until `stop`; how many were given.
async fn ask(url: String, cluster_id: u64, size: u32, ends: Duration) -> u64 {
    let mut client = PdClient::connect(url).await.expect("it listens");
    let (requests, receiver) = mpsc::channel(IN_FLIGHT);
    let header = RequestHeader { cluster_id, ..RequestHeader::default() };
    let request = TsoRequest { header: Some(header), count: size };
    for _ in 0..IN_FLIGHT {
        requests.send(request.clone()).await.expect("there is room");
    }
    let answers = client.tso(ReceiverStream::new(receiver)).await.expect("the stream opens");
    let mut answers = answers.into_inner();
    let (mut count, mut newest, clock) = (0, (0, 0), SystemClock);
    while let Some(answer) = answers.message().await.expect("no error") {
        let stamp = answer.timestamp.expect("always");
        let stamp = (stamp.physical, stamp.logical);
        assert!(stamp > newest, "{stamp:?} after {newest:?}");
        newest = stamp;
        count += u64::from(size);
        if clock.monotonic() >= ends {
            break;
        }
        requests.send(request.clone()).await.expect("the stream is open");
    }
    count
}

async fn measure_timestamps(size: u32, seconds: u64) -> Stamped {
    let (engine, logger) = (Arc::new(MemoryEngine::new()), Logger::root(Discard, o!()));
    let scheduler =
        Scheduler::open(SchedulerConfig::default(), engine, Arc::new(SystemClock), logger)
            .expect("an empty engine is opened");
    let cluster_id = scheduler.cluster_id().get();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(scheduler.serve(listener, async {
        let _ = stopped.await;
    }));
    let clock = SystemClock;
    let (began, cpu) = (clock.monotonic(), cpu_seconds(None));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        tasks.spawn(ask(url.clone(), cluster_id, size, began + Duration::from_secs(seconds)));
    }
    let count = tasks.join_all().await.iter().sum();
    let (took, cpu) = (clock.monotonic() - began, cpu_seconds(None) - cpu);
    stop.send(()).expect("it serves");
    served.await.expect("serving does not panic").expect("it stops in peace");
    Stamped { count, took, cpu }
}

/// The number after `name=` on the command line.
fn number(name: &str) -> Option<u64> {
    let argument = std::env::args().find_map(|it| Some(it.strip_prefix(name)?.to_string()))?;
    Some(argument.parse().expect("a number"))
}

fn main() {
    let is_word = |argument: &String| !argument.starts_with("--") && !argument.contains('=');
    if std::env::args().skip(1).filter(is_word).any(|word| !"scheduler".contains(&word)) {
        return;
    }
    let is_quick = std::env::args().any(|argument| argument == "--quick" || argument == "--test");
    measure_regions(number("regions=").unwrap_or(if is_quick { 2_000 } else { 100_000 }));
    let seconds = number("seconds=").unwrap_or(if is_quick { 1 } else { 5 });
    println!("\n| timestamps in a request | a second | processor time each |\n| --- | --- | --- |");
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    for size in [1, 16, 256] {
        let Stamped { count, took, cpu } = runtime.block_on(measure_timestamps(size, seconds));
        let (rate, each) = (count as f64 / took.as_secs_f64(), cpu / count as f64 * 1e9);
        println!("| {size} | {rate:.0} | {each:.0} ns |");
    }
}
