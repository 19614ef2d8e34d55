//! Stories of replicated clusters made of real processes: they come up, they keep what they promised, and they
//! refuse what does not belong to them. Stores are killed in `chaos.rs`.

use std::time::Duration;

use bytes::Bytes;
use skerry_proto::raft_serverpb::RaftMessage;
use skerry_proto::tikvpb::BatchRaftMessage;
use skerry_tests::chaos::{Cluster, RoutingClient};
use skerry_tests::checker::{Action, Ending};
use skerry_tests::client::{ApiVersion, RawClient, http, store};
use skerry_tests::process::{Ground, Launch};
use skerry_tests::wait::until_async;
use tonic::{Code, Request};

fn status(launch: &Launch) -> serde_json::Value {
    let (code, body) = http(launch.addresses().status, "GET", "/status");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).expect("the status is JSON")
}

async fn connect(launch: &Launch) -> RawClient {
    let connected = RawClient::connect(launch.addresses().scheduler, ApiVersion::V1).await;
    connected.expect("a ready cluster is found")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_playground_of_three_stores_has_three_replicas_and_keeps_its_data() {
    let ground = Ground::new();
    let launch = ground.replicated_playground();
    let process = launch.start();
    let shown = status(&launch);
    assert_eq!(shown["mode"], "replicated");
    let regions = shown["regions"].as_array().expect("a list");
    assert_eq!(regions.len(), 2, "{shown}");
    for region in regions {
        let peers = region["peers"].as_array().expect("a list");
        assert_eq!(peers.len(), 3, "{shown}");
        assert!(peers.iter().all(|peer| peer["role"] == "Voter"), "{shown}");
    }
    connect(&launch).await.put("kept", "by three").await.expect("a put");
    process.kill();
    let process = launch.start();
    let kept = connect(&launch).await.get("kept").await.expect("a get");
    assert_eq!(kept, Some(Bytes::from("by three")));
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_playground_of_one_replicated_store_grows_no_replicas() {
    let ground = Ground::new();
    let launch = ground.replicated_playground().with("--stores", "1");
    let process = launch.start();
    connect(&launch).await.put("k", "v").await.expect("a put");
    process.stop().assert_clean();
}

#[test]
fn a_directory_of_one_mode_is_refused_in_the_other() {
    let ground = Ground::new();
    ground.playground().start().stop().assert_clean();
    ground.replicated_playground().run_to_end().assert_refused(&["--standalone", "--data-dir"]);
    let other = ground.path("other");
    let replicated = ground.replicated_playground().with("--data-dir", &other);
    replicated.start().stop().assert_clean();
    let alone = ground.playground().with("--data-dir", other).run_to_end();
    alone.assert_refused(&["replica"]);
}

#[test]
fn the_raft_log_moves_to_the_other_engine_and_back() {
    let ground = Ground::new();
    let rocks = ground.file("rocks.toml", "[raft-engine]\nenable = false\n");
    let launch = ground.replicated_playground();
    launch.start().stop().assert_clean();
    launch.clone().with("--config", rocks).start().stop().assert_clean();
    launch.start().stop().assert_clean();
}

/// Puts one pair; answers whether it was done.
async fn put(client: &mut RoutingClient, key: &str, value: &str) -> bool {
    let action = Action::Put(Bytes::from(value.to_string()));
    client.attempt(Bytes::from(key.to_string()), &action).await == Ending::Written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_serves_while_the_scheduler_or_one_store_is_away() {
    let mut cluster = Cluster::start(3, &[]).await;
    let mut client = RoutingClient::new(cluster.scheduler());
    assert!(put(&mut client, "a", "1").await);
    cluster.kill_scheduler();
    for number in 0..50 {
        assert!(put(&mut client, &format!("k{number}"), "v").await, "without a scheduler");
    }
    cluster.revive_scheduler();
    let leader = until_async("a leader is known", async || cluster.leader().await).await;
    cluster.kill(leader);
    until_async("two of three stores take a write", async || {
        put(&mut client, "b", "2").await.then_some(())
    })
    .await;
    cluster.revive(leader);
    cluster.until_whole(3).await;
    let read = client.attempt(Bytes::from("a"), &Action::Get).await;
    assert_eq!(read, Ending::Found(Some(Bytes::from("1"))));
    cluster.stop();
}

/// A fourth store gets replicas only when regions lack some; what it gets, it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_joins_later_gets_its_replicas_by_snapshot() {
    let mut cluster = Cluster::start(2, &[]).await;
    let mut client = RoutingClient::new(cluster.scheduler());
    for number in 0..100 {
        assert!(put(&mut client, &format!("k{number}"), "v").await);
    }
    cluster.add_store();
    cluster.until_whole(3).await;
    // The two that are left must include the one that came last.
    cluster.kill(0);
    until_async("the newcomer helps to take a write", async || {
        put(&mut client, "late", "v").await.then_some(())
    })
    .await;
    let read = client.attempt(Bytes::from("k42"), &Action::Get).await;
    assert_eq!(read, Ending::Found(Some(Bytes::from("v"))));
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raft_messages_of_strangers_are_refused() {
    let ground = Ground::new();
    let launch = ground.replicated_playground();
    let process = launch.start();
    let mut service = store(launch.addresses().store);
    let message = RaftMessage { region_id: 2, message: Bytes::from("x"), ..Default::default() };
    let batch = BatchRaftMessage { msgs: vec![message] };
    // Nobody's.
    let refused = service.batch_raft(tokio_stream::once(batch.clone())).await;
    assert_eq!(refused.expect_err("no cluster is named").code(), Code::FailedPrecondition);
    // Another cluster's.
    let mut request = Request::new(tokio_stream::once(batch.clone()));
    request.metadata_mut().insert("skerry-cluster-id", 7_u64.into());
    let refused = service.batch_raft(request).await;
    assert_eq!(refused.expect_err("another cluster is named").code(), Code::FailedPrecondition);
    // For another store: counted, and the stream is ended, so that its sender looks for the right one.
    let cluster_id = status(&launch)["cluster_id"].as_u64().expect("a number");
    let mut request = Request::new(tokio_stream::once(batch));
    request.metadata_mut().insert("skerry-cluster-id", cluster_id.into());
    let refused = service.batch_raft(request).await;
    assert_eq!(refused.expect_err("it is for another store").code(), Code::FailedPrecondition);
    let (_, metrics) = http(launch.addresses().status, "GET", "/metrics");
    let counted = metrics.lines().find(|line| line.starts_with("skerry_raft_misdirected"));
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{counted:?}");
    connect(&launch).await.put("k", "v").await.expect("it serves on");
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_grows_is_cut_and_its_clients_go_on() {
    let ground = Ground::new();
    let small = ground.file(
        "small.toml",
        "[raftstore]\nsplit-check-size = \"64KiB\"\nsplit-size = \"256KiB\"\nregion-size-max = \"384KiB\"\n",
    );
    let launch = ground.replicated_playground().with("--config", small);
    let process = launch.start();
    let mut client = RoutingClient::new(launch.addresses().scheduler);
    let value = "v".repeat(4_000);
    for number in 0..400 {
        let key = format!("key {number:04}");
        until_async("a put is done", async || put(&mut client, &key, &value).await.then_some(()))
            .await;
    }
    until_async("the region was cut", async || {
        let regions = status(&launch)["regions"].as_array().map_or(0, Vec::len);
        (regions > 3).then_some(())
    })
    .await;
    for number in (0..400).step_by(37) {
        let key = Bytes::from(format!("key {number:04}"));
        let read = until_async("a read is served", async || {
            match client.attempt(key.clone(), &Action::Get).await {
                Ending::Found(found) => Some(found),
                _ => None,
            }
        });
        assert_eq!(read.await.map(|found| found.len()), Some(value.len()));
    }
    assert!(process.start_time() < Duration::from_secs(30));
    process.stop().assert_clean();
}
