//! The wire beyond single requests about pairs, on real processes: streams of many commands, and calls about regions
//! and stores.
//!
//! What clients make of it is told in `clients.rs`; what no client would send, in `bad_input.rs`.

use skerry_proto::metapb;
use skerry_proto::pdpb::{GetRegionByIdRequest, GetStoreRequest, RequestHeader};
use skerry_proto::tikvpb::tikv_client::TikvClient;
use skerry_tests::client::{self, ApiVersion, RawClient};
use skerry_tests::process::{Ground, Launch, Process};
use skerry_tests::wait::until_async;
use tonic::transport::Channel;

#[path = "wire/store_calls.rs"]
mod store_calls;
#[path = "wire/streams.rs"]
mod streams;

/// Three stores, and a client of the region that holds keys in use.
struct Cluster {
    process: Process,
    client: RawClient,
    _ground: Ground,
}

impl Cluster {
    async fn start() -> Cluster {
        let ground = Ground::new();
        let process = ground.replicated_playground().start();
        let client = connect(&process).await;
        Cluster { process, client, _ground: ground }
    }

    /// The region's replicas, and which of them leads.
    async fn replicas(&self) -> (Vec<metapb::Peer>, metapb::Peer) {
        let region_id = self.client.context().expect("a region").region_id;
        let (region, leader) = self.region(region_id).await.expect("a leader is known");
        (region.peers, leader)
    }

    /// A region and its leader, once the scheduler knows both.
    async fn region(&self, region_id: u64) -> Option<(metapb::Region, metapb::Peer)> {
        let mut scheduler = client::scheduler(self.process.addresses().scheduler);
        let question = GetRegionByIdRequest { header: self.header().await, region_id };
        let found = scheduler.get_region_by_id(question).await.expect("an answer").into_inner();
        Some((found.region?, found.leader?))
    }

    async fn header(&self) -> Option<RequestHeader> {
        let mut scheduler = client::scheduler(self.process.addresses().scheduler);
        let cluster_id = client::cluster_id(&mut scheduler).await.expect("the cluster has an id");
        Some(RequestHeader { cluster_id, ..RequestHeader::default() })
    }

    /// The service of a store.
    async fn store(&self, store_id: u64) -> TikvClient<Channel> {
        let mut scheduler = client::scheduler(self.process.addresses().scheduler);
        let question = GetStoreRequest { header: self.header().await, store_id };
        let found = scheduler.get_store(question).await.expect("an answer").into_inner();
        client::store(found.store.expect("it is known").address)
    }

    /// Hands the region over to another replica.
    async fn move_leader(&self) {
        let (peers, leader) = self.replicas().await;
        let heir = peers.iter().find(|peer| **peer != leader).expect("two follow").store_id;
        let region = self.client.context().expect("a region").region_id;
        let scheduler = self.process.addresses().scheduler.to_string();
        let words = ["operator", "add", "transfer-leader"].map(String::from);
        let launch = Launch::of("ctl").with("--scheduler-addr", scheduler);
        let words = words.into_iter().chain([region.to_string(), heir.to_string()]);
        words.fold(launch, |launch, word| launch.argument(word)).run_to_end().assert_clean();
        until_async("the other one leads", async || {
            (self.replicas().await.1.store_id == heir).then_some(())
        })
        .await;
    }

    fn stop(self) {
        self.process.stop().assert_clean();
    }
}

async fn connect(process: &Process) -> RawClient {
    let connected = RawClient::connect(process.addresses().scheduler, ApiVersion::V1).await;
    connected.expect("a ready cluster is found")
}
