//! Project 3C, many reports at once: a real server on a socket, as stores reach it.

use std::sync::Arc;
use std::time::Duration;

use skerry_proto::pdpb::pd_client::PdClient;
use skerry_proto::pdpb::*;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::time::ManualClock;
use skerry_scheduler::config::SchedulerConfig;
use skerry_scheduler::server::Scheduler;
use slog::{Discard, Logger, o};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::scheduler_3c::{new_store, region, report};

/// What the lab would otherwise hang for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many regions report.
const REGIONS: u64 = 2_000;

/// How many streams they report on at the same time.
const STREAMS: u64 = 8;

type Reports = mpsc::Sender<RegionHeartbeatRequest>;

/// A client of the scheduler, in a cluster that has an id.
#[derive(Clone)]
struct Caller {
    client: PdClient<Channel>,
    cluster_id: u64,
}

impl Caller {
    fn header(&self) -> Option<RequestHeader> {
        Some(RequestHeader { cluster_id: self.cluster_id, ..RequestHeader::default() })
    }

    async fn stream(&mut self) -> (Reports, Streaming<RegionHeartbeatResponse>) {
        let (sender, receiver) = mpsc::channel(16);
        let answers = self.client.region_heartbeat(ReceiverStream::new(receiver)).await;
        (sender, answers.expect("the stream opens").into_inner())
    }

    async fn store_joins(&mut self, id: u64) {
        let (header, store) = (self.header(), Some(new_store(id)));
        let answer = self.client.put_store(PutStoreRequest { header, store }).await;
        assert_eq!(answer.expect("PutStore").into_inner().header.expect("always").error, None);
        let stats = StoreStats { store_id: id, ..StoreStats::default() };
        let request = StoreHeartbeatRequest { header: self.header(), stats: Some(stats) };
        let answer = self.client.store_heartbeat(request).await.expect("StoreHeartbeat");
        assert_eq!(answer.into_inner().header.expect("always").error, None);
    }

    async fn known_regions(&mut self) -> Vec<Region> {
        let request = ScanRegionsRequest {
            header: self.header(),
            limit: i32::try_from(REGIONS + 1).expect("a few thousand"),
            ..ScanRegionsRequest::default()
        };
        let answer = self.client.scan_regions(request).await.expect("ScanRegions").into_inner();
        assert_eq!(answer.header.expect("always").error, None);
        answer.regions
    }

    /// The report of region `number` of [`REGIONS`]; together they have all keys.
    fn report(&self, number: u64) -> RegionHeartbeatRequest {
        let key = |place: u64| match place {
            0 | REGIONS => Vec::new(),
            place => format!("{place:5}").into_bytes(),
        };
        let range = (&key(number)[..], &key(number + 1)[..]);
        let region = region(1_000 + number, (2, 1), range, &[1]);
        RegionHeartbeatRequest { header: self.header(), ..report(region) }
    }
}

/// Two thousand regions of one replica report over eight streams at once. In the course each must be taken without
/// an error, and the first store must get an answer; here every region must also be known afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn test_concurrent_handle_region_3c() {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let (engine, logger) = (Arc::new(MemoryEngine::new()), Logger::root(Discard, o!()));
    let scheduler = Scheduler::open(SchedulerConfig::default(), engine, clock, logger);
    let scheduler = scheduler.expect("an empty engine is opened");
    let cluster_id = scheduler.cluster_id().get();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let (stop, stopped) = oneshot::channel();
    let served = tokio::spawn(scheduler.serve(listener, async {
        let _ = stopped.await;
    }));
    tokio::time::timeout(PATIENCE, all_report(format!("http://{address}"), cluster_id))
        .await
        .expect("two thousand reports take a moment");
    stop.send(()).expect("it serves");
    served.await.expect("serving does not panic").expect("it stops in peace");
}

async fn all_report(url: String, cluster_id: u64) {
    let client = PdClient::connect(url).await.expect("it listens");
    let mut caller = Caller { client, cluster_id };
    let request = BootstrapRequest {
        header: caller.header(),
        store: Some(new_store(1)),
        region: Some(region(10, (1, 1), (b"", b""), &[1])),
    };
    let answer = caller.client.bootstrap(request).await.expect("Bootstrap").into_inner();
    assert_eq!(answer.header.expect("always").error, None);
    for store in 1..=3 {
        caller.store_joins(store).await;
    }

    let mut tasks = JoinSet::new();
    for stream in 0..STREAMS {
        let mut caller = caller.clone();
        tasks.spawn(async move {
            let (reports, answers) = caller.stream().await;
            for number in (stream..REGIONS).step_by(STREAMS as usize) {
                reports.send(caller.report(number)).await.expect("the stream is open");
            }
            (reports, answers)
        });
    }
    let mut streams = tasks.join_all().await;
    // Instructions go to the stream on which the store has spoken last, whichever that is.
    let mut receiving = JoinSet::new();
    for (reports, mut answers) in streams.drain(..) {
        receiving.spawn(async move {
            let answer = answers.message().await;
            (reports, answer)
        });
    }
    let first = receiving.join_next().await.expect("there are streams").expect("no panic");
    let answer = first.1.expect("no error").expect("the stream is open");
    assert_eq!(answer.header.expect("always").error, None);
    assert_eq!(answer.target_peer.expect("it is for somebody").store_id, 1);

    let known = loop {
        let known = caller.known_regions().await;
        if known.len() as u64 >= REGIONS {
            break known;
        }
        tokio::task::yield_now().await;
    };
    let ids: Vec<u64> =
        known.iter().map(|known| known.region.as_ref().expect("always").id).collect();
    assert_eq!(ids, (1_000..1_000 + REGIONS).collect::<Vec<u64>>());
}
