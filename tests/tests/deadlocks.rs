//! Stories of transactions that wait for each other in a circle over three stores: none of them sees it alone.

use std::net::SocketAddr;

use bytes::Bytes;
use skerry_proto::deadlock::deadlock_client::DeadlockClient;
use skerry_proto::deadlock::{WaitForEntriesRequest, WaitForEntry};
use skerry_proto::kvrpcpb::{self, Mutation, PessimisticLockRequest, PessimisticLockResponse};
use skerry_tests::client::{ApiVersion, Leader, channel, cut, http};
use skerry_tests::process::{Ground, Launch};
use skerry_tests::wait::{Stopwatch, until_async};
use tokio::task::JoinHandle;

/// One key in each of three regions.
const KEYS: [&str; 3] = ["a", "k", "z"];
/// Longer than any story.
const PATIENCE_MS: i64 = 50_000;

async fn leader(address: SocketAddr, key: &str) -> Leader {
    let found = Leader::of(address, key.as_bytes(), ApiVersion::V1).await;
    found.expect("the region has a leader")
}

/// Asks for the lock of a key, with patience, for the transaction that began at `start`.
async fn lock(mut leader: Leader, key: &str, start: u64) -> PessimisticLockResponse {
    let mutation = Mutation {
        op: kvrpcpb::Op::PessimisticLock.into(),
        key: key.to_string().into(),
        ..Default::default()
    };
    let tag = Bytes::from(format!("statement of {start}"));
    let request = PessimisticLockRequest {
        context: Some(kvrpcpb::Context { resource_group_tag: tag, ..leader.context }),
        mutations: vec![mutation],
        primary_lock: key.to_string().into(),
        start_version: start,
        for_update_ts: start,
        lock_ttl: 3_600_000,
        wait_timeout: PATIENCE_MS,
        ..Default::default()
    };
    leader.store.kv_pessimistic_lock(request).await.expect("an answer").into_inner()
}

async fn unlock(mut leader: Leader, key: &str, start: u64) {
    let request = kvrpcpb::PessimisticRollbackRequest {
        context: Some(leader.context),
        start_version: start,
        for_update_ts: start,
        keys: vec![key.to_string().into()],
    };
    leader.store.kv_pessimistic_rollback(request).await.expect("an answer");
}

fn waiting(leader: Leader, key: &'static str, start: u64) -> JoinHandle<PessimisticLockResponse> {
    tokio::spawn(lock(leader, key, start))
}

/// Moves the leadership of the region of `key` to a store, and waits until the scheduler knows.
async fn lead_from(address: SocketAddr, key: &str, store_id: u64) {
    let region = leader(address, key).await.context.region_id;
    let order = ["operator", "add", "transfer-leader", &region.to_string(), &store_id.to_string()]
        .iter()
        .fold(Launch::of("ctl").with("--scheduler-addr", address.to_string()), |launch, word| {
            launch.argument(word)
        });
    until_async("the store leads", async || {
        if leader(address, key).await.store_id() == store_id {
            return Some(());
        }
        // Refused while it is under way.
        let _ = order.run_to_end();
        None
    })
    .await;
}

/// All waits that a store knows as the detector; nothing if it is not.
async fn edges(leader: &Leader, address: SocketAddr) -> Option<Vec<WaitForEntry>> {
    let (_, body) = http(address, "GET", &format!("/pd/api/v1/store/{}", leader.store_id()));
    let store: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let home = store["store"]["address"].as_str().expect("an address").to_string();
    let mut detector = DeadlockClient::new(channel(home));
    let answer = detector.get_wait_for_entries(WaitForEntriesRequest {}).await.ok()?;
    Some(answer.into_inner().entries)
}

/// Three transactions have a key each, and the first two wait for the next one's.
async fn two_of_three_wait(address: SocketAddr) -> [Leader; 3] {
    let leaders = [
        leader(address, KEYS[0]).await,
        leader(address, KEYS[1]).await,
        leader(address, KEYS[2]).await,
    ];
    for (index, key) in KEYS.iter().enumerate() {
        let answer = lock(leaders[index].clone(), key, 10 + index as u64).await;
        assert!(answer.errors.is_empty() && answer.region_error.is_none(), "{answer:?}");
    }
    leaders
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_of_three_over_three_stores_is_broken_at_once_and_its_chain_is_named() {
    let ground = Ground::new();
    let process = ground.replicated_playground().start();
    let address = process.addresses().scheduler;
    cut(address, &["h", "p"]).await.expect("three regions");
    let (_, body) = http(address, "GET", "/pd/api/v1/stores");
    let stores: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let id = |index: usize| stores["stores"][index]["store"]["id"].as_u64().expect("a number");
    for (index, key) in KEYS.iter().enumerate() {
        lead_from(address, key, id(index)).await;
    }

    let leaders = two_of_three_wait(address).await;
    let first = waiting(leaders[1].clone(), "k", 10);
    let second = waiting(leaders[2].clone(), "z", 11);
    until_async("the detector knows of both", async || {
        (edges(&leaders[0], address).await?.len() == 2).then_some(())
    })
    .await;
    assert!(edges(&leaders[1], address).await.is_none(), "one store is the detector");

    let watch = Stopwatch::start();
    let answer = lock(leaders[0].clone(), "a", 12).await;
    let took = watch.elapsed();
    println!("broken after {took:?}");
    assert!(took.as_millis() < 1_000, "{took:?}");
    let found = answer.errors[0].deadlock.as_ref().expect("a deadlock");
    assert_eq!((found.lock_ts, &found.lock_key[..]), (10, &b"a"[..]));
    let told: Vec<(u64, u64, &[u8], &[u8])> = found
        .wait_chain
        .iter()
        .map(|edge| (edge.txn, edge.wait_for_txn, &edge.key[..], &edge.resource_group_tag[..]))
        .collect();
    let expected: [(u64, u64, &[u8], &[u8]); 3] = [
        (10, 11, b"k", b"statement of 10"),
        (11, 12, b"z", b"statement of 11"),
        (12, 10, b"a", b"statement of 12"),
    ];
    assert_eq!(told, expected);
    assert_eq!(&found.deadlock_key[..], b"z");
    assert_eq!(found.deadlock_key_hash, found.wait_chain[1].key_hash);
    assert!(found.wait_chain[0].wait_time > 0, "the others have waited for a while");

    // Another store becomes the detector: it hears of those who still wait.
    lead_from(address, "a", id(1)).await;
    let detector = leader(address, "a").await;
    until_async("the new one knows of both", async || {
        (edges(&detector, address).await?.len() == 2).then_some(())
    })
    .await;
    let answer = lock(detector.clone(), "a", 12).await;
    assert_eq!(answer.errors[0].deadlock.as_ref().expect("a deadlock").wait_chain.len(), 3);

    // The one that was refused gives up its key: the others go on, one after the other.
    unlock(leaders[2].clone(), "z", 12).await;
    let answer = second.await.expect("no panic");
    assert!(answer.errors.is_empty(), "{answer:?}");
    first.abort();
    until_async("nobody waits", async || edges(&detector, address).await?.is_empty().then_some(()))
        .await;
    process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waited_says_for_how_long_the_lock_has_been_in_its_way() {
    let ground = Ground::new();
    let process = ground.playground().start();
    let address = process.addresses().scheduler;
    let mut leader = leader(address, "a").await;
    let answer = lock(leader.clone(), "a", 10).await;
    assert!(answer.errors.is_empty(), "{answer:?}");
    let mutation =
        Mutation { op: kvrpcpb::Op::PessimisticLock.into(), key: "a".into(), ..Default::default() };
    let request = PessimisticLockRequest {
        context: Some(leader.context.clone()),
        mutations: vec![mutation],
        primary_lock: "a".into(),
        start_version: 20,
        for_update_ts: 20,
        lock_ttl: 3_000,
        wait_timeout: 50,
        ..Default::default()
    };
    let answer = leader.store.kv_pessimistic_lock(request).await.expect("an answer").into_inner();
    let locked = answer.errors[0].locked.as_ref().expect("it is locked");
    assert!(locked.duration_to_last_update_ms >= 50, "{locked:?}");
    process.stop().assert_clean();
}
