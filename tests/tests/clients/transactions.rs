//! Transactions of the crate `tikv-client`, unmodified: optimistic and pessimistic, in two phases, with async commit
//! and in one phase; several clients at a time, and one that dies between its two phases.

use skerry_proto::kvrpcpb::{Mutation, PrewriteRequest};
use tikv_client::{CheckLevel, Snapshot, Transaction, TransactionOptions};

use super::*;

async fn client(cluster: &Cluster) -> TransactionClient {
    let config = config(cluster.api_version);
    let client = TransactionClient::new_with_config(endpoints(&cluster.process), config).await;
    client.expect("a ready cluster is found")
}

/// A snapshot of what is committed now.
async fn snapshot(client: &TransactionClient) -> Snapshot {
    let now = client.current_timestamp().await.expect("a timestamp");
    client.snapshot(now, TransactionOptions::new_optimistic())
}

async fn get(client: &TransactionClient, name: &str) -> Option<Value> {
    snapshot(client).await.get(key(name)).await.expect("a get")
}

async fn put_all(client: &TransactionClient, options: TransactionOptions, pairs: &[(&str, &str)]) {
    let mut txn = client.begin_with_options(options).await.expect("a transaction");
    for (name, text) in pairs {
        txn.put(key(name), *text).await.expect("a put is kept");
    }
    txn.commit().await.expect("nobody is in its way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_transaction_writes_is_seen_when_it_has_committed() {
    on_both_versions(async |cluster| {
        let client = client(cluster).await;
        let mut txn = client.begin_optimistic().await.expect("a transaction");
        txn.put(key("a"), "aa").await.expect("a put");
        txn.put(key("b"), "bb").await.expect("a put");
        txn.put(key("c"), vec![7; 10_000]).await.expect("a put");
        assert_eq!(txn.get(key("a")).await.expect("a get"), value("aa"), "it sees what it wrote");
        assert_eq!(get(&client, "a").await, None, "nobody else does");
        txn.commit().await.expect("a commit").expect("it has a timestamp");
        assert_eq!(get(&client, "a").await, value("aa"));
        assert_eq!(get(&client, "c").await, Some(vec![7; 10_000]));

        let before = snapshot(&client).await;
        let mut txn = client.begin_optimistic().await.expect("a transaction");
        txn.delete(key("a")).await.expect("a delete");
        txn.put(key("d"), "dd").await.expect("a put");
        let found = txn.scan(key("a")..key("z"), 10).await.expect("a scan");
        let found = found.map(|pair| pair.0).collect();
        assert_eq!(key_texts(found), ["b", "c", "d"], "its own changes are in its scan");
        txn.commit().await.expect("a commit");

        let mut before = before;
        assert_eq!(before.get(key("a")).await.expect("a get"), value("aa"), "the past stays");
        let found = before.scan_keys(key("a")..key("z"), 10).await.expect("a scan");
        assert_eq!(key_texts(found.collect()), ["a", "b", "c"]);
        let mut now = snapshot(&client).await;
        let found = now.scan(key("b")..key("c"), 10).await.expect("a scan");
        assert_eq!(texts(found.collect()), ["b=bb"]);
        let found = now.scan_keys_reverse(key("a")..key("z"), 2).await.expect("a scan");
        assert_eq!(key_texts(found.collect()), ["d", "c"]);
        let found = now.batch_get(["d", "a", "b"].map(key)).await.expect("a batch get");
        let mut found = texts(found.collect());
        found.sort();
        assert_eq!(found, ["b=bb", "d=dd"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_rolled_back_was_never_there_and_raw_pairs_are_apart() {
    on_both_versions(async |cluster| {
        let client = client(cluster).await;
        cluster.client.put(key("k"), "raw").await.expect("a raw put");
        for mut txn in [
            client.begin_optimistic().await.expect("a transaction"),
            client.begin_pessimistic().await.expect("a transaction"),
        ] {
            txn.put(key("k"), "never").await.expect("a put");
            txn.rollback().await.expect("a rollback");
            assert_eq!(get(&client, "k").await, None);
        }
        put_all(&client, TransactionOptions::new_optimistic(), &[("k", "txn")]).await;
        assert_eq!(cluster.client.get(key("k")).await.expect("a raw get"), value("raw"));
        assert_eq!(get(&client, "k").await, value("txn"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_write_one_key_the_second_fails() {
    on_both_versions(async |cluster| {
        let client = client(cluster).await;
        let mut first = client.begin_optimistic().await.expect("a transaction");
        let mut second = client.begin_optimistic().await.expect("a transaction");
        for (txn, text) in [(&mut first, "one"), (&mut second, "two")] {
            assert_eq!(txn.get(key("k")).await.expect("a get"), None);
            txn.put(key("k"), text).await.expect("a put");
        }
        first.commit().await.expect("nobody was faster");
        let error = second.commit().await.expect_err("it read what is no longer true");
        assert!(format!("{error:?}").contains("onflict"), "{error:?}");
        second.rollback().await.expect("a rollback");
        assert_eq!(get(&client, "k").await, value("one"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shortcuts_commit_as_two_phases_do() {
    on_both_versions(async |cluster| {
        let client = client(cluster).await;
        let ways = [
            TransactionOptions::new_optimistic().use_async_commit(),
            TransactionOptions::new_optimistic().try_one_pc(),
            TransactionOptions::new_pessimistic().use_async_commit(),
            TransactionOptions::new_pessimistic().try_one_pc(),
        ];
        for (round, way) in ways.into_iter().enumerate() {
            let text = format!("round {round}");
            put_all(&client, way, &[("a", &text), ("b", &text), ("c", &text)]).await;
            for name in ["a", "b", "c"] {
                assert_eq!(get(&client, name).await, value(&text), "{name} in {text}");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_key_is_waited_for() {
    on_both_versions(async |cluster| {
        let client = std::sync::Arc::new(client(cluster).await);
        put_all(&client, TransactionOptions::new_optimistic(), &[("k", "before")]).await;
        let mut first = client.begin_pessimistic().await.expect("a transaction");
        assert_eq!(first.get_for_update(key("k")).await.expect("a lock"), value("before"));
        let waits = std::sync::Arc::clone(&client);
        let second = tokio::spawn(async move {
            let mut txn = waits.begin_pessimistic().await.expect("a transaction");
            let found = txn.get_for_update(key("k")).await.expect("the lock is gone in time");
            txn.put(key("k"), "second").await.expect("a put");
            txn.commit().await.expect("it has the lock");
            found
        });
        first.rollback().await.expect("a rollback");
        assert_eq!(second.await.expect("a client does not panic"), value("before"));
        assert_eq!(get(&client, "k").await, value("second"));
    })
    .await;
}

/// Adds one to a number under its lock, as often as it takes.
async fn add_one(client: &TransactionClient) {
    loop {
        let mut txn = client.begin_pessimistic().await.expect("a transaction");
        if add_one_in(&mut txn).await.is_ok() {
            return;
        }
        // It lost its race: somebody committed between its timestamp and its lock, or it waited too long.
        txn.rollback().await.expect("a rollback");
    }
}

async fn add_one_in(txn: &mut Transaction) -> tikv_client::Result<()> {
    let text = txn.get_for_update(key("counter")).await?.unwrap_or_default();
    let number: u32 = String::from_utf8_lossy(&text).parse().unwrap_or(0);
    txn.put(key("counter"), (number + 1).to_string()).await?;
    txn.commit().await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_locked_by_many_clients_counts_every_step() {
    on_both_versions(async |cluster| {
        let client = std::sync::Arc::new(client(cluster).await);
        let counters: Vec<_> = (0..4)
            .map(|_| std::sync::Arc::clone(&client))
            .map(|client| {
                tokio::spawn(async move {
                    for _ in 0..5 {
                        add_one(&client).await;
                    }
                })
            })
            .collect();
        for counter in counters {
            counter.await.expect("a client does not panic");
        }
        assert_eq!(get(&client, "counter").await, value("20"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dies_between_its_phases_holds_nobody_up_for_longer_than_its_locks_live() {
    let ground = Ground::new();
    let cluster = Cluster::start(&ground, ApiVersion::V1).await;
    let client = client(&cluster).await;
    put_all(&client, TransactionOptions::new_optimistic(), &[("a", "old"), ("b", "old")]).await;

    let start = client.current_timestamp().await.expect("a timestamp").version();
    let by_hand = cluster.by_hand().await;
    let put = |name: &str| Mutation {
        key: Bytes::from(name.to_string()),
        value: "lost".into(),
        ..Default::default()
    };
    let prewrite = PrewriteRequest {
        context: by_hand.context(),
        mutations: vec![put("a"), put("b")],
        primary_lock: "a".into(),
        start_version: start,
        lock_ttl: 300,
        ..Default::default()
    };
    let answer = by_hand.store().kv_prewrite(prewrite).await.expect("an answer").into_inner();
    assert!(answer.errors.is_empty() && answer.region_error.is_none(), "{answer:?}");

    // Both meet the lock, ask at the primary key, and take the dead for dead when its time is up.
    let read = wait::until_async("the lock is over", async || {
        snapshot(&client).await.get(key("b")).await.ok()
    });
    assert_eq!(read.await, value("old"));
    let options = TransactionOptions::new_optimistic().drop_check(CheckLevel::None);
    put_all(&client, options, &[("a", "new"), ("b", "new")]).await;
    assert_eq!(get(&client, "a").await, value("new"));
    cluster.process.stop().assert_clean();
}
