//! A scheduler on a free port, over a memory engine that can lose its power.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use skerry_proto::keyspacepb::keyspace_client::KeyspaceClient;
use skerry_proto::metapb::{Peer, Region, RegionEpoch, Store};
use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::*;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::time::ManualClock;
use slog::{Discard, Logger, o};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::Result;
use crate::config::SchedulerConfig;
use crate::server::Scheduler;

/// What a test that would otherwise hang waits at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running scheduler.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    pub(super) cluster_id: u64,
    pub(super) engine: Arc<MemoryEngine>,
    pub(super) clock: ManualClock,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<()>>,
}

impl Served {
    /// A new cluster at a quiet moment of 2023.
    pub(super) async fn start() -> Served {
        Served::open(Arc::new(MemoryEngine::new()), ManualClock::at(1_700_000_000_000)).await
    }

    /// A scheduler over what `engine` holds.
    pub(super) async fn open(engine: Arc<MemoryEngine>, clock: ManualClock) -> Served {
        // Short, so that a test sees a keep-alive message without waiting for a minute.
        let config = SchedulerConfig { keep_alive_ms: 50, ..SchedulerConfig::default() };
        let logger = Logger::root(Discard, o!());
        let scheduler =
            Scheduler::open(config, Arc::clone(&engine) as Arc<_>, Arc::new(clock.clone()), logger)
                .expect("open");
        let cluster_id = scheduler.cluster_id().get();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(scheduler.serve(listener, async {
            let _ = stopped.await;
        }));
        Served { address, cluster_id, engine, clock, stop, served }
    }

    /// Stops it cleanly; what it answers.
    pub(super) async fn stop(self) -> Result<()> {
        self.stop.send(()).expect("it runs");
        within_patience(self.served).await.expect("serving does not panic")
    }

    /// Stops it and starts another over what a loss of power would leave.
    pub(super) async fn lose_power(self) -> Served {
        let engine = Arc::new(self.engine.crash(0));
        let clock = self.clock.clone();
        self.stop().await.expect("the old process goes away");
        Served::open(engine, clock).await
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A client on a connection of its own.
    pub(super) async fn client(&self) -> PdClient<Channel> {
        PdClient::connect(self.url()).await.expect("connect")
    }

    pub(super) async fn keyspace_client(&self) -> KeyspaceClient<Channel> {
        KeyspaceClient::connect(self.url()).await.expect("connect")
    }

    /// The header of every good request.
    pub(super) fn header(&self) -> Option<RequestHeader> {
        Some(RequestHeader { cluster_id: self.cluster_id, ..RequestHeader::default() })
    }

    /// Store 1 brings region 2 with peer 3.
    pub(super) async fn bootstrap(&self) {
        let request = BootstrapRequest {
            header: self.header(),
            store: Some(store(1)),
            region: Some(region(2, 1, "", "")),
        };
        let answer = self.client().await.bootstrap(request).await.expect("bootstrap").into_inner();
        assert_eq!(answer.header.expect("always").error, None);
    }

    /// A store says that it is alive.
    pub(super) async fn store_beat(&self, id: u64) {
        let stats = StoreStats { store_id: id, ..StoreStats::default() };
        let request = StoreHeartbeatRequest { header: self.header(), stats: Some(stats) };
        let answer = self.client().await.store_heartbeat(request).await.expect("StoreHeartbeat");
        assert_eq!(answer.into_inner().header.expect("always").error, None);
    }

    /// The region that contains `key`, with its leader.
    pub(super) async fn region(&self, key: &str) -> GetRegionResponse {
        let region_key = key.to_string().into();
        let request = GetRegionRequest { header: self.header(), region_key };
        self.client().await.get_region(request).await.expect("GetRegion").into_inner()
    }

    /// A stream of timestamps: requests go in, answers come out.
    pub(super) async fn timestamps(&self) -> (mpsc::Sender<TsoRequest>, Streaming<TsoResponse>) {
        let (sender, receiver) = mpsc::channel(1_000);
        let mut client = self.client().await;
        let answers = within_patience(client.tso(ReceiverStream::new(receiver))).await;
        (sender, answers.expect("the stream opens").into_inner())
    }

    /// A stream of region heartbeats, as a store opens it.
    pub(super) async fn heartbeats(
        &self,
    ) -> (mpsc::Sender<RegionHeartbeatRequest>, Streaming<RegionHeartbeatResponse>) {
        let (sender, receiver) = mpsc::channel(1_000);
        let mut client = self.client().await;
        let answers = within_patience(client.region_heartbeat(ReceiverStream::new(receiver))).await;
        (sender, answers.expect("the stream opens").into_inner())
    }

    /// A heartbeat of `region`, led by its first peer.
    pub(super) fn report(&self, region: Region) -> RegionHeartbeatRequest {
        RegionHeartbeatRequest {
            header: self.header(),
            leader: region.peers.first().copied(),
            region: Some(region),
            term: 6,
            approximate_size: 1,
            ..RegionHeartbeatRequest::default()
        }
    }
}

/// Fails the test instead of hanging it.
pub(super) async fn within_patience<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("this takes far too long")
}

pub(super) fn store(id: u64) -> Store {
    Store {
        id,
        address: format!("127.0.0.1:{}", 20_000 + id),
        version: "8.5.5".to_string(),
        start_timestamp: 1_699_999_000,
        ..Store::default()
    }
}

/// A region with one peer, numbered one higher, on store 1.
pub(super) fn region(id: u64, version: u64, start: &str, end: &str) -> Region {
    Region {
        id,
        start_key: start.to_string().into(),
        end_key: end.to_string().into(),
        region_epoch: Some(RegionEpoch { conf_ver: 1, version }),
        peers: vec![Peer { id: id + 1, store_id: 1, ..Peer::default() }],
    }
}
