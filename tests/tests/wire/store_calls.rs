//! Calls about regions and stores: cutting a region, destroying a range, reading at another replica, and what a store
//! says of itself.

use bytes::Bytes;
use skerry_proto::health::HealthCheckRequest;
use skerry_proto::health::health_check_response::ServingStatus;
use skerry_proto::health::health_client::HealthClient;
use skerry_proto::kvrpcpb::*;
use skerry_proto::pdpb::{GetAllStoresRequest, GetRegionRequest};
use skerry_tests::client::http;
use tonic::Code;

use super::*;

impl Cluster {
    /// Commits one pair.
    async fn commit(&self, key: &'static str, value: &'static str, start: u64) {
        let context = self.client.context();
        let (key, value) = (Bytes::from(key), Bytes::from(value));
        let prewrite = PrewriteRequest {
            context: context.clone(),
            mutations: vec![Mutation { key: key.clone(), value, ..Default::default() }],
            primary_lock: key.clone(),
            start_version: start,
            lock_ttl: 1_000,
            ..Default::default()
        };
        let answer = self.client.store().kv_prewrite(prewrite).await.expect("an answer");
        assert_eq!(*answer.get_ref(), PrewriteResponse::default());
        let commit = CommitRequest {
            context,
            start_version: start,
            keys: vec![key],
            commit_version: start + 1,
            ..Default::default()
        };
        let answer = self.client.store().kv_commit(commit).await.expect("an answer").into_inner();
        assert!(answer.error.is_none() && answer.region_error.is_none(), "{answer:?}");
    }

    /// Prewrites one pair with async commit; the timestamp that the store has chosen for it.
    async fn commits_above(&self, key: &'static str, value: &'static str, start: u64) -> u64 {
        let prewrite = PrewriteRequest {
            context: self.client.context(),
            mutations: vec![Mutation {
                key: key.into(),
                value: value.into(),
                ..Default::default()
            }],
            primary_lock: key.into(),
            start_version: start,
            lock_ttl: 60_000,
            use_async_commit: true,
            ..Default::default()
        };
        let written = self.client.store().kv_prewrite(prewrite).await.expect("an answer");
        let written = written.into_inner();
        assert!(written.errors.is_empty() && written.region_error.is_none(), "{written:?}");
        written.min_commit_ts
    }

    /// What the store of `context` has at a key.
    async fn read_at(
        &self,
        store: &mut TikvClient<Channel>,
        context: Context,
        key: &'static str,
        version: u64,
    ) -> GetResponse {
        let context = Some(context);
        let request = GetRequest { context, key: key.into(), version, ..Default::default() };
        store.kv_get(request).await.expect("an answer").into_inner()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_is_cut_where_a_client_wants_it() {
    let cluster = Cluster::start().await;
    let context = cluster.client.context();
    let split = SplitRegionRequest {
        context: context.clone(),
        split_keys: vec!["m".into(), "f".into(), "m".into()],
        is_raw_kv: true,
        ..Default::default()
    };
    let answer = cluster.client.store().split_region(split.clone()).await.expect("an answer");
    let answer = answer.into_inner();
    assert!(answer.region_error.is_none() && answer.errors.is_empty(), "{answer:?}");
    let starts: Vec<_> = answer.regions.iter().map(|region| region.start_key.clone()).collect();
    assert_eq!(starts, ["", "f", "m"]);
    let known = until_async("the scheduler knows the parts", async || {
        let mut scheduler = client::scheduler(cluster.process.addresses().scheduler);
        let question = GetRegionRequest { header: cluster.header().await, region_key: "g".into() };
        let found = scheduler.get_region(question).await.expect("an answer").into_inner();
        found.region.filter(|region| region.start_key == "f")
    });
    assert_eq!(known.await.end_key, "m");

    // The client's picture is old now, and it is told the new one.
    let again = cluster.client.store().split_region(split).await.expect("an answer").into_inner();
    let error = again.region_error.expect("the region has changed");
    assert!(error.epoch_not_match.is_some_and(|told| !told.current_regions.is_empty()));
    // Where a boundary is already there is nothing to do; one in another region is refused.
    let part = answer.regions[1].clone();
    let split_at = async |key: &'static str| {
        let (region, leader) = cluster.region(part.id).await?;
        let request = SplitRegionRequest {
            context: context.clone().map(|context| Context {
                region_id: region.id,
                region_epoch: region.region_epoch,
                peer: Some(leader),
                ..context
            }),
            split_key: key.into(),
            is_raw_kv: true,
            ..Default::default()
        };
        let mut store = cluster.store(leader.store_id).await;
        Some(store.split_region(request).await.expect("an answer").into_inner())
    };
    // Its leader may be any of the three, and may change while it is asked.
    until_async("the leader of the part finds nothing to do", async || {
        let answer = split_at("f").await?;
        answer.region_error.is_none().then(|| assert_eq!(answer.regions.len(), 1))
    })
    .await;
    until_async("the leader of the part refuses a key of another region", async || {
        split_at("z").await?.region_error?.key_not_in_region
    })
    .await;
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroyed_range_is_gone_at_once_from_every_store_and_nothing_else_is() {
    let cluster = Cluster::start().await;
    for (number, key) in ["a", "m", "z"].into_iter().enumerate() {
        cluster.commit(key, "txn", 10 * (number as u64 + 1)).await;
        cluster.client.put(key, "raw").await.expect("a put");
    }
    let header = cluster.header().await;
    let mut scheduler = client::scheduler(cluster.process.addresses().scheduler);
    let question = GetAllStoresRequest { header, ..Default::default() };
    let stores = scheduler.get_all_stores(question).await.expect("stores").into_inner().stores;
    assert_eq!(stores.len(), 3);
    for store in stores {
        // Nothing of a region is said, because it is about none.
        let request =
            UnsafeDestroyRangeRequest { context: None, start_key: "b".into(), end_key: "z".into() };
        let answer = client::store(&store.address).unsafe_destroy_range(request).await;
        assert_eq!(answer.expect("an answer").into_inner(), UnsafeDestroyRangeResponse::default());
        let open = UnsafeDestroyRangeRequest { start_key: "b".into(), ..Default::default() };
        let refused = client::store(&store.address).unsafe_destroy_range(open).await;
        assert!(refused.expect("an answer").into_inner().error.contains("a start and an end"));
    }
    let (mut store, context) = (cluster.client.store(), cluster.client.context());
    let context = context.expect("a region");
    for (key, stays) in [("a", true), ("m", false), ("z", true)] {
        let got = cluster.read_at(&mut store, context.clone(), key, 100).await;
        assert_eq!(got.not_found, !stays, "{key}");
        assert_eq!(cluster.client.get(key).await.expect("a get").is_some(), stays, "{key}");
    }
    cluster.commit("m", "again", 200).await;
    assert_eq!(cluster.read_at(&mut store, context, "m", 300).await.value, "again");
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_serves_transactions_that_allow_it_and_shows_their_locks() {
    let cluster = Cluster::start().await;
    cluster.commit("k", "v", 10).await;
    let (peers, leader) = cluster.replicas().await;
    let follower = *peers.iter().find(|peer| **peer != leader).expect("two follow");
    let mut store = cluster.store(follower.store_id).await;
    let at_leader = cluster.client.context().expect("a region");
    let plain = Context { peer: Some(follower), ..at_leader };
    let refused = cluster.read_at(&mut store, plain.clone(), "k", 100).await;
    assert!(refused.region_error.expect("it does not lead").not_leader.is_some());
    let allowed = Context { replica_read: true, ..plain.clone() };
    let stale = Context { stale_read: true, ..plain };
    for context in [&allowed, &stale] {
        let got = cluster.read_at(&mut store, context.clone(), "k", 100).await;
        assert_eq!((&got.value[..], got.region_error), (&b"v"[..], None));
        let got = cluster.read_at(&mut store, context.clone(), "k", 10).await;
        assert!(got.not_found && got.region_error.is_none(), "it was not committed then");
    }
    let newest = cluster.read_at(&mut store, allowed.clone(), "k", u64::MAX).await;
    assert!(newest.region_error.is_some_and(|error| error.not_leader.is_some()));

    // Its commit timestamp is chosen at the leader, above what the follower has read at.
    let min_commit_ts = cluster.commits_above("k", "w", 50).await;
    assert!(min_commit_ts > 100);
    let below = cluster.read_at(&mut store, allowed.clone(), "k", 100).await;
    assert_eq!((&below.value[..], &below.error), (&b"v"[..], &None));
    let above = cluster.read_at(&mut store, allowed, "k", min_commit_ts).await;
    let locked = above.error.expect("a lock is in the way").locked.expect("it is told");
    assert_eq!((locked.lock_version, locked.use_async_commit), (50, true));
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_at_a_timestamp_that_nobody_was_given_is_refused_everywhere_and_lifts_no_commit() {
    let cluster = Cluster::start().await;
    let (peers, _) = cluster.replicas().await;
    let made_up = u64::MAX - 1;
    for peer in peers {
        let mut store = cluster.store(peer.store_id).await;
        let context = cluster.client.context().expect("a region");
        let context = Context { peer: Some(peer), replica_read: true, ..context };
        let refused = cluster.read_at(&mut store, context, "k", made_up).await;
        let abort = refused.error.expect("it is refused").abort;
        assert!(abort.contains("has not given timestamp"), "{abort:?}");
    }
    assert!(cluster.commits_above("k", "v", 50).await < made_up / 2);
    cluster.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_tells_how_it_is_and_what_it_can_promise() {
    let cluster = Cluster::start().await;
    let mut store = cluster.client.store();
    let address = format!("http://{}", cluster.process.addresses().store);
    let mut probe = HealthClient::connect(address).await.expect("connect");
    let health = probe.check(HealthCheckRequest::default()).await.expect("an answer");
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);
    let health = store.get_health_feedback(GetHealthFeedbackRequest::default()).await;
    let health = health.expect("an answer").into_inner().health_feedback.expect("it is told");
    assert_eq!(health.slow_score, 1);
    let safe = store.get_store_safe_ts(StoreSafeTsRequest::default()).await.expect("an answer");
    assert_eq!(safe.into_inner().safe_ts, 0, "no replica may be read without its leader");

    let context = cluster.client.context();
    let index = ReadIndexRequest { context: context.clone(), start_ts: 7, ranges: Vec::new() };
    let index = store.read_index(index).await.expect("an answer").into_inner();
    assert!(index.read_index >= 5 && index.region_error.is_none(), "{index:?}");

    let elsewhere = context.map(|context| Context { cluster_id: 1, ..context });
    let get = RawGetRequest { context: elsewhere, key: "k".into(), ..Default::default() };
    let refused = store.raw_get(get).await.expect_err("another cluster");
    assert_eq!(refused.code(), Code::InvalidArgument);

    let (_, page) = http(cluster.process.addresses().status, "GET", "/config");
    let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page["storage"]["api-version"], 1);
    assert_eq!(page["storage"]["enable-ttl"], true);
    for (theirs, ours) in [
        ("region-max-size", "region-size-max"),
        ("region-split-size", "split-size"),
        ("region-max-keys", "region-keys-max"),
        ("region-split-keys", "split-keys"),
    ] {
        let (theirs, ours) = (&page["coprocessor"][theirs], &page["raftstore"][ours]);
        assert!(!ours.is_null() && theirs == ours, "{theirs} and {ours}");
    }
    cluster.stop();
}
