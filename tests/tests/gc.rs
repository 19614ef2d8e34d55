//! Stories of garbage collection on real stores: old versions vanish and nothing else does; what dead clients have left
//! is ended wherever it lies; whoever needs old versions keeps them; and a kill in the middle loses nothing.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::Value;
use skerry_proto::kvrpcpb;
use skerry_proto::kvrpcpb::{
    CommitRequest, Context, Mutation, MvccGetByKeyRequest, PessimisticLockRequest, PrewriteRequest,
    ScanLockRequest,
};
use skerry_proto::pdpb::{RequestHeader, UpdateServiceGcSafePointRequest};
use skerry_tests::client::{ApiVersion, Leader, cluster_id, cut, http, scheduler};
use skerry_tests::process::{Ended, Ground, Launch, Process};
use skerry_tests::wait;
use tikv_client::{Config, Snapshot, TimestampExt, TransactionClient, TransactionOptions};

/// A cluster in which nothing is collected by itself, and up to now when somebody asks.
const BY_HAND: &str =
    "[scheduler]\nleader-schedule-limit = 0\ngc-life-time-ms = 0\n\n[gc]\npoll-interval-ms = 100\n";

fn launch(ground: &Ground, config: &str) -> Launch {
    ground.replicated_playground().with("--config", ground.file("gc.toml", config))
}

/// `skerry ctl gc` with these words.
fn ctl(address: SocketAddr, words: &str) -> Ended {
    let launch = Launch::of("ctl").with("--scheduler-addr", address.to_string()).argument("gc");
    words.split(' ').fold(launch, |launch, word| launch.argument(word)).run_to_end()
}

fn status(address: SocketAddr) -> Value {
    let (code, body) = http(address, "GET", "/pd/api/v1/gc/status");
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).expect("JSON")
}

/// Lets a round begin that goes at least up to `ts`, and waits for its end.
fn collect(address: SocketAddr, ts: u64) -> Value {
    ctl(address, "run").assert_clean();
    wait::until("the round has ended", || {
        let status = status(address);
        let reached = status["last_round"]["safe_point"].as_u64().unwrap_or(0);
        (status["phase"] == "idle" && reached >= ts).then_some(status)
    })
}

async fn transactions(process: &Process) -> TransactionClient {
    let endpoints = vec![process.addresses().scheduler.to_string()];
    let config = Config::default().with_timeout(wait::PATIENCE);
    TransactionClient::new_with_config(endpoints, config).await.expect("a ready cluster is found")
}

async fn now(client: &TransactionClient) -> u64 {
    client.current_timestamp().await.expect("a timestamp").version()
}

fn snapshot(client: &TransactionClient, ts: u64) -> Snapshot {
    let ts = tikv_client::Timestamp::from_version(ts);
    client.snapshot(ts, TransactionOptions::new_optimistic())
}

async fn put(client: &TransactionClient, key: &str, value: Option<&str>) {
    let mut txn = client.begin_optimistic().await.expect("a transaction");
    match value {
        Some(value) => txn.put(key.to_string(), value.to_string()).await.expect("a put"),
        None => txn.delete(key.to_string()).await.expect("a delete"),
    }
    txn.commit().await.expect("nobody is in its way");
}

async fn get(client: &TransactionClient, key: &str, ts: u64) -> Option<String> {
    let found = snapshot(client, ts).get(key.to_string()).await.expect("a get");
    found.map(|value| String::from_utf8(value).expect("text"))
}

/// The leader of a key, asked by hand.
struct ByHand(Leader);

async fn leader(address: SocketAddr, key: &str) -> ByHand {
    let found = Leader::of(address, key.as_bytes(), ApiVersion::V1).await;
    ByHand(found.expect("the region has a leader"))
}

impl ByHand {
    fn context(&self) -> Option<Context> {
        Some(self.0.context.clone())
    }

    /// How many records a key has.
    async fn records(&mut self, key: &str) -> usize {
        let request = MvccGetByKeyRequest { context: self.context(), key: key.to_string().into() };
        let found = self.0.store.mvcc_get_by_key(request).await.expect("an answer").into_inner();
        assert_eq!(found.region_error, None);
        found.info.expect("an answer").writes.len()
    }

    async fn prewrite(&mut self, key: &str, primary: &str, start: u64, secondaries: &[&str]) {
        let mutation =
            Mutation { key: key.to_string().into(), value: "new".into(), ..Default::default() };
        let request = PrewriteRequest {
            context: self.context(),
            mutations: vec![mutation],
            primary_lock: primary.to_string().into(),
            start_version: start,
            // It would live for an hour.
            lock_ttl: 3_600_000,
            use_async_commit: !secondaries.is_empty(),
            secondaries: secondaries.iter().map(|key| Bytes::from(key.to_string())).collect(),
            ..Default::default()
        };
        let answer = self.0.store.kv_prewrite(request).await.expect("an answer").into_inner();
        assert!(answer.errors.is_empty() && answer.region_error.is_none(), "{answer:?}");
    }

    async fn commit(&mut self, key: &str, start: u64, at: u64) {
        let request = CommitRequest {
            context: self.context(),
            start_version: start,
            keys: vec![key.to_string().into()],
            commit_version: at,
            ..Default::default()
        };
        let answer = self.0.store.kv_commit(request).await.expect("an answer").into_inner();
        assert!(answer.error.is_none() && answer.region_error.is_none(), "{answer:?}");
    }

    /// Locks a key without saying what for.
    async fn reserve(&mut self, key: &str, start: u64) {
        let mutation = Mutation {
            op: kvrpcpb::Op::PessimisticLock.into(),
            key: key.to_string().into(),
            ..Default::default()
        };
        let request = PessimisticLockRequest {
            context: self.context(),
            mutations: vec![mutation],
            primary_lock: key.to_string().into(),
            start_version: start,
            for_update_ts: start,
            lock_ttl: 3_600_000,
            ..Default::default()
        };
        let store = &mut self.0.store;
        let answer = store.kv_pessimistic_lock(request).await.expect("an answer").into_inner();
        assert!(answer.errors.is_empty() && answer.region_error.is_none(), "{answer:?}");
    }

    async fn locks(&mut self, up_to: u64) -> usize {
        let request =
            ScanLockRequest { context: self.context(), max_version: up_to, ..Default::default() };
        self.0.store.kv_scan_lock(request).await.expect("an answer").into_inner().locks.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_versions_vanish_and_reads_below_the_safe_point_are_refused() {
    let ground = Ground::new();
    let process = launch(&ground, BY_HAND).start();
    let address = process.addresses().scheduler;
    let client = transactions(&process).await;
    put(&client, "k", Some("one")).await;
    put(&client, "gone", Some("v")).await;
    let early = now(&client).await;
    put(&client, "k", Some("two")).await;
    put(&client, "k", Some("three")).await;
    put(&client, "gone", None).await;
    let late = now(&client).await;
    let mut store = leader(address, "k").await;
    assert_eq!((store.records("k").await, store.records("gone").await), (3, 2));
    assert_eq!(get(&client, "k", early).await, Some("one".to_string()));

    let status = collect(address, late);
    assert_eq!((store.records("k").await, store.records("gone").await), (1, 0));
    let after = now(&client).await;
    assert_eq!(get(&client, "k", after).await, Some("three".to_string()));
    assert_eq!(get(&client, "gone", after).await, None);
    assert_eq!(status["gc_safe_point"], status["txn_safe_point"]);
    let dropped = |store: &Value| store["records_dropped"].as_u64().expect("a number");
    let stores = status["stores"].as_array().expect("a list");
    assert!(stores.iter().map(dropped).sum::<u64>() >= 4, "{status}");
    let refused = snapshot(&client, early).get("k".to_string()).await.expect_err("it may be gone");
    assert!(format!("{refused:?}").contains("GC life time"), "{refused:?}");

    // A transaction that old can lock nothing any more: what would tell it of conflicts is gone.
    let mut request = PrewriteRequest {
        context: store.context(),
        mutations: vec![Mutation { key: "k".into(), value: "lost".into(), ..Default::default() }],
        primary_lock: "k".into(),
        start_version: early,
        lock_ttl: 3_000,
        ..Default::default()
    };
    let answer = store.0.store.kv_prewrite(request.clone()).await.expect("an answer").into_inner();
    assert!(answer.errors[0].abort.contains("GC life time"), "{answer:?}");
    request.start_version = after;
    let answer = store.0.store.kv_prewrite(request).await.expect("an answer").into_inner();
    assert!(answer.errors.is_empty(), "{answer:?}");

    let told = ctl(address, "status");
    assert!(told.stdout.contains("idle") && told.stdout.contains("nothing"), "{told:?}");
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dead_clients_have_left_is_ended_wherever_their_primary_keys_are() {
    let ground = Ground::new();
    let process = launch(&ground, BY_HAND).start();
    let address = process.addresses().scheduler;
    let client = transactions(&process).await;
    cut(address, &["m"]).await.expect("two regions");
    let (mut left, mut right) = (leader(address, "a").await, leader(address, "z").await);
    for key in ["committed", "a1", "a2", "a3"] {
        put(&client, key, Some("old")).await;
    }
    // One had committed its primary key on the other side, and died.
    let start = now(&client).await;
    right.prewrite("z1", "z1", start, &[]).await;
    left.prewrite("committed", "z1", start, &[]).await;
    right.commit("z1", start, now(&client).await).await;
    // One had not, and one never came to its primary key.
    let start = now(&client).await;
    right.prewrite("z2", "z2", start, &[]).await;
    left.prewrite("a1", "z2", start, &[]).await;
    left.prewrite("a2", "z3", now(&client).await, &[]).await;
    // One had all the locks of an async commit, so it is committed; one lacks a lock, so it is not.
    let start = now(&client).await;
    right.prewrite("z4", "z4", start, &["async"]).await;
    left.prewrite("async", "z4", start, &["async"]).await;
    let start = now(&client).await;
    right.prewrite("z5", "z5", start, &["never"]).await;
    // One had reserved a key.
    let start = now(&client).await;
    left.reserve("a3", start).await;
    assert_eq!((left.locks(start).await, right.locks(start).await), (5, 3));

    collect(address, start);
    assert_eq!((left.locks(start).await, right.locks(start).await), (0, 0));
    let after = now(&client).await;
    let mut found = Vec::new();
    for key in ["committed", "z1", "a1", "z2", "a2", "async", "z4", "never", "z5", "a3"] {
        found.push(format!("{key}={}", get(&client, key, after).await.unwrap_or_default()));
    }
    let expected = [
        "committed=new",
        "z1=new",
        "a1=old",
        "z2=",
        "a2=old",
        "async=new",
        "z4=new",
        "never=",
        "z5=",
        "a3=old",
    ];
    assert_eq!(found, expected);
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_needs_old_versions_keeps_them() {
    let ground = Ground::new();
    let process = launch(&ground, BY_HAND).start();
    let address = process.addresses().scheduler;
    let client = transactions(&process).await;
    put(&client, "k", Some("one")).await;
    put(&client, "k", Some("two")).await;
    let needed = now(&client).await;
    let mut pd = scheduler(address);
    let cluster_id = cluster_id(&mut pd).await.expect("a scheduler");
    let header = Some(RequestHeader { cluster_id, ..Default::default() });
    let mut service = UpdateServiceGcSafePointRequest {
        header,
        service_id: "backup".into(),
        ttl: 3_600,
        safe_point: needed,
    };
    let answer = pd.update_service_gc_safe_point(service.clone()).await.expect("an answer");
    assert_eq!(answer.into_inner().service_id, Bytes::from("gc_worker"), "nothing was collected");
    put(&client, "k", Some("three")).await;
    let mut store = leader(address, "k").await;

    let status = collect(address, needed);
    assert_eq!(status["gc_safe_point"], needed, "{status}");
    assert!(status["held_back_by"].as_str().expect("a reason").contains("backup"), "{status}");
    assert!(ctl(address, "status").stdout.contains("barrier backup"));
    assert_eq!(store.records("k").await, 2, "the one before is gone, that is all");
    assert_eq!(get(&client, "k", needed).await, Some("two".to_string()));

    service.ttl = 0;
    pd.update_service_gc_safe_point(service).await.expect("an answer");
    collect(address, needed + 1);
    assert_eq!(store.records("k").await, 1);
    assert_eq!(get(&client, "k", now(&client).await).await, Some("three".to_string()));
    process.stop().assert_clean();
}

/// The life time is short, and so little is dropped in a second that the kills fall into the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_in_the_middle_loses_nothing_and_what_was_begun_is_ended() {
    const KEYS: usize = 300;
    let ground = Ground::new();
    let config = "[scheduler]\nleader-schedule-limit = 0\ngc-life-time-ms = 0\n\n\
                  [gc]\npoll-interval-ms = 100\nio-rate = \"16KiB\"\n";
    let launch = launch(&ground, config);
    let process = launch.start();
    let address = process.addresses().scheduler;
    let client = transactions(&process).await;
    for version in 0..8 {
        let mut txn = client.begin_optimistic().await.expect("a transaction");
        for number in 0..KEYS {
            txn.put(format!("k{number:03}"), format!("{number}.{version}")).await.expect("a put");
        }
        txn.commit().await.expect("nobody is in its way");
    }
    let last = now(&client).await;
    let mut store = leader(address, "k000").await;
    ctl(address, "run").assert_clean();
    wait::until_async("something is dropped", async || {
        (store.records("k000").await == 1).then_some(())
    })
    .await;
    assert!(store.records("k299").await > 1, "it is in the middle");
    process.kill();

    let process = launch.start();
    let client = transactions(&process).await;
    let mut store = leader(address, "k000").await;
    wait::until("it ends by itself what it had begun", || {
        let reached = status(address)["last_round"]["safe_point"].as_u64();
        reached.is_some_and(|reached| reached >= last).then_some(())
    });
    let after = now(&client).await;
    for number in (0..KEYS).step_by(23).chain([KEYS - 1]) {
        let key = format!("k{number:03}");
        assert_eq!(store.records(&key).await, 1, "{key}");
        assert_eq!(get(&client, &key, after).await, Some(format!("{number}.7")));
    }
    process.stop().assert_clean();
}
