//! Transactions of the crate `tikv-client` that are larger than a region, while the regions are being cut, and what
//! other clients make of what is left of one.
//!
//! The limits are those of that crate's own tests: a region is cut when it has more than ten commit records, into parts
//! of seven, so that everything here lies in many regions and their boundaries move under the clients.

use skerry_proto::kvrpcpb::{Mutation, PrewriteRequest};
use tikv_client::{CheckLevel, Snapshot, TransactionOptions};

use super::*;

/// Keys of the large transaction.
const KEYS: u32 = 10_000;
/// Regions that there must be before the second one begins.
const REGIONS_MIN: usize = 10;

/// Three stores whose regions are small.
async fn start(ground: &Ground) -> Cluster {
    let limits = "[scheduler]\nleader-schedule-limit = 0\n[raftstore]\nregion-keys-max = 10\nsplit-keys = 7\n\
                  split-check-size = \"1B\"\n";
    let config_file = ground.file("small-regions.toml", limits);
    let process = ground.replicated_playground().with("--config", config_file).start();
    let api_version = ApiVersion::V1;
    let client = RawClient::new_with_config(endpoints(&process), config(api_version)).await;
    Cluster { client: client.expect("a ready cluster is found"), api_version, process }
}

async fn client(cluster: &Cluster) -> TransactionClient {
    let config = config(cluster.api_version);
    let client = TransactionClient::new_with_config(endpoints(&cluster.process), config).await;
    client.expect("a ready cluster is found")
}

/// How many regions the scheduler knows, as that crate's tests ask.
fn region_count(cluster: &Cluster) -> usize {
    let scheduler = cluster.process.addresses().scheduler;
    let (status, body) = client::http(scheduler, "GET", "/pd/api/v1/regions");
    assert_eq!(status, 200, "{body}");
    let regions: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    regions["count"].as_u64().expect("a number") as usize
}

async fn until_regions(cluster: &Cluster, count: usize) {
    wait::until_async("the regions are cut", async || {
        (region_count(cluster) >= count).then_some(())
    })
    .await;
}

fn name(number: u32) -> Key {
    key(&format!("{number:06}"))
}

async fn snapshot(client: &TransactionClient) -> Snapshot {
    let now = client.current_timestamp().await.expect("a timestamp");
    client.snapshot(now, TransactionOptions::new_optimistic())
}

async fn put_all(client: &TransactionClient, text: &str) {
    let mut txn = client.begin_optimistic().await.expect("a transaction");
    for number in 0..KEYS {
        txn.put(name(number), format!("{text} {number}")).await.expect("a put is kept");
    }
    txn.commit().await.expect("nobody is in its way");
}

/// Everything in one scan, upwards and downwards.
async fn assert_all(client: &TransactionClient, text: &str) {
    let mut now = snapshot(client).await;
    let range = || name(0)..name(KEYS);
    let upwards: Vec<KvPair> = now.scan(range(), KEYS + 1).await.expect("a scan").collect();
    assert_eq!(upwards.len(), KEYS as usize);
    for (number, KvPair(found, value)) in (0..KEYS).zip(&upwards) {
        assert!(*found == name(number), "{found:?} where {number} should be");
        assert_eq!(String::from_utf8_lossy(value), format!("{text} {number}"));
    }
    let downwards = now.scan_reverse(range(), KEYS + 1).await.expect("a reverse scan");
    let mut downwards: Vec<KvPair> = downwards.collect();
    downwards.reverse();
    assert!(downwards == upwards, "a scan downwards over all regions differs");
    let some = now.scan_keys_reverse(name(100)..name(200), 30).await.expect("a reverse scan");
    let some: Vec<Key> = some.collect();
    assert!(some == (170..200).rev().map(name).collect::<Vec<Key>>(), "{some:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_keys_change_at_once_while_their_regions_are_cut() {
    let ground = Ground::new();
    let cluster = start(&ground).await;
    let client = client(&cluster).await;
    put_all(&client, "first").await;
    until_regions(&cluster, REGIONS_MIN).await;
    // They are being cut further meanwhile.
    put_all(&client, "second").await;
    assert_all(&client, "second").await;
    let mut now = snapshot(&client).await;
    let found = now.batch_get((0..KEYS).step_by(7).map(name)).await.expect("a batch get");
    assert_eq!(found.count(), KEYS.div_ceil(7) as usize);
    println!("{} regions", region_count(&cluster));
    cluster.process.stop().assert_clean();
}

/// Adds one to each of three counters that lie in different regions; another client may be quicker.
async fn add_one_to_all(client: &TransactionClient, counters: [u32; 3]) -> tikv_client::Result<()> {
    let options = TransactionOptions::new_optimistic().drop_check(CheckLevel::None);
    let mut txn = client.begin_with_options(options).await?;
    for counter in counters {
        let text = txn.get(name(counter)).await?.unwrap_or_default();
        let number: u32 = String::from_utf8_lossy(&text).parse().unwrap_or(0);
        txn.put(name(counter), (number + 1).to_string()).await?;
    }
    match txn.commit().await {
        Ok(_) => Ok(()),
        Err(error) => {
            // So that the others need not wait for the end of its locks.
            txn.rollback().await?;
            Err(error)
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_write_the_same_keys_of_many_regions_one_wins_each_time() {
    const CLIENTS: u32 = 4;
    const STEPS: u32 = 8;
    let ground = Ground::new();
    let cluster = start(&ground).await;
    let client = std::sync::Arc::new(client(&cluster).await);
    let mut txn = client.begin_optimistic().await.expect("a transaction");
    for number in 0..300 {
        txn.put(name(number), "0").await.expect("a put is kept");
    }
    txn.commit().await.expect("nobody is in its way");
    until_regions(&cluster, 10).await;
    let counters = [10, 150, 290];
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| std::sync::Arc::clone(&client))
        .map(|client| {
            tokio::spawn(async move {
                for _ in 0..STEPS {
                    let watch = wait::Stopwatch::start();
                    while let Err(error) = add_one_to_all(&client, counters).await {
                        assert!(watch.elapsed() < wait::PATIENCE, "it never wins: {error}");
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client does not panic");
    }
    let mut now = snapshot(&client).await;
    for counter in counters {
        let found = now.get(name(counter)).await.expect("a get");
        assert_eq!(found, value(&(CLIENTS * STEPS).to_string()), "counter {counter}");
    }
    cluster.process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_after_its_prewrite_blocks_others_no_longer_than_its_lock_lives() {
    const TTL: Duration = Duration::from_secs(2);
    /// What a busy machine and the pauses of the others may add.
    const SLACK: Duration = Duration::from_secs(10);
    let ground = Ground::new();
    let cluster = Cluster::start(&ground, ApiVersion::V1).await;
    let client = client(&cluster).await;
    let by_hand = cluster.by_hand().await;
    let start_version = client.current_timestamp().await.expect("a timestamp").version();
    let locked = wait::Stopwatch::start();
    let put = Mutation { key: "victim".into(), value: "lost".into(), ..Default::default() };
    let prewrite = PrewriteRequest {
        context: by_hand.context(),
        mutations: vec![put],
        primary_lock: "victim".into(),
        start_version,
        lock_ttl: TTL.as_millis() as u64,
        ..Default::default()
    };
    let answer = by_hand.store().kv_prewrite(prewrite).await.expect("an answer").into_inner();
    assert!(answer.errors.is_empty() && answer.region_error.is_none(), "{answer:?}");
    wait::until_async("the lock is over", async || {
        let options = TransactionOptions::new_optimistic().drop_check(CheckLevel::None);
        let mut txn = client.begin_with_options(options).await.ok()?;
        txn.put(key("victim"), "saved").await.ok()?;
        txn.commit().await.ok()
    })
    .await;
    let blocked = locked.elapsed();
    assert!(blocked + Duration::from_millis(500) >= TTL, "its lock was not respected: {blocked:?}");
    assert!(blocked < TTL + SLACK, "it blocked for {blocked:?}");
    assert_eq!(snapshot(&client).await.get(key("victim")).await.expect("a get"), value("saved"));
    cluster.process.stop().assert_clean();
}

/// Raw pairs are not commit records: common clients read them backwards only within a region.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_pairs_are_not_cut_by_their_number() {
    let ground = Ground::new();
    let cluster = start(&ground).await;
    let before = region_count(&cluster);
    let pairs = (0..500).map(|number| KvPair::new(name(number), "v"));
    cluster.client.batch_put(pairs).await.expect("a batch is put");
    let found = cluster.client.scan_reverse(name(0)..name(500), 500).await.expect("a scan");
    assert_eq!(found.len(), 500);
    assert_eq!(region_count(&cluster), before);
    cluster.process.stop().assert_clean();
}
