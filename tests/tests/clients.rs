//! Clients that were not written here, unmodified: the crate `tikv-client` and the PyPI package of that name.
//!
//! Here are raw pairs; transactions have their stories in `clients/transactions.rs`, and those that are larger than a
//! region in `clients/large.rs`.
//!
//! Every story is told on a cluster of each API version: without a keyspace on V1, with the keyspace DEFAULT
//! on V2. Requests that these clients refuse to send, or bend before they send them, are made by hand.
//!
//! The crate's own scan loop decides what can be asked on V1: a scan without an end goes on until it has as many
//! pairs as were asked for, so on V1 every scan has an end. That is the same against TiKV.

#[path = "clients/large.rs"]
mod large;
#[path = "clients/transactions.rs"]
mod transactions;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::kvrpcpb;
use skerry_tests::client::{self, ApiVersion, DEFAULT_KEYSPACE, Failure};
use skerry_tests::process::{Ground, Process, target_directory};
use skerry_tests::{not_tested, wait};
use tikv_client::{Config, Key, KvPair, RawClient, TimestampExt, TransactionClient, Value};

/// A request may take this long before the client gives up, which is longer than its default: a machine
/// that runs tests is busy.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A running playground and the client for it.
struct Cluster {
    client: RawClient,
    api_version: ApiVersion,
    process: Process,
}

impl Cluster {
    async fn start(ground: &Ground, api_version: ApiVersion) -> Cluster {
        let number = if api_version == ApiVersion::V2 { "2" } else { "1" };
        let launch = ground.replicated_playground().with("--api-version", number);
        let process = launch.with("--data-dir", ground.path(number)).start();
        let client = RawClient::new_with_config(endpoints(&process), config(api_version)).await;
        Cluster { client: client.expect("a ready cluster is found"), api_version, process }
    }

    /// The same cluster through the tests' own client.
    async fn by_hand(&self) -> client::RawClient {
        let scheduler = self.process.addresses().scheduler;
        let connected = client::RawClient::connect(scheduler, self.api_version).await;
        connected.expect("a ready cluster is found")
    }
}

fn endpoints(process: &Process) -> Vec<String> {
    vec![process.addresses().scheduler.to_string()]
}

fn config(api_version: ApiVersion) -> Config {
    let config = Config::default().with_timeout(REQUEST_TIMEOUT);
    if api_version == ApiVersion::V2 { config.with_default_keyspace() } else { config }
}

/// Tells the story to a fresh cluster of each API version, and checks that each stops in peace.
async fn on_both_versions(story: impl AsyncFn(&Cluster)) {
    let ground = Ground::new();
    for api_version in [ApiVersion::V1, ApiVersion::V2] {
        println!("on {api_version:?}");
        let cluster = Cluster::start(&ground, api_version).await;
        story(&cluster).await;
        cluster.process.stop().assert_clean();
    }
}

fn key(text: &str) -> Key {
    Key::from(text.to_string())
}

fn value(text: &str) -> Option<Value> {
    Some(text.as_bytes().to_vec())
}

/// Pairs as text, for assertions that can be read.
fn texts(pairs: Vec<KvPair>) -> Vec<String> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("these tests store text");
    pairs
        .into_iter()
        .map(|KvPair(key, value)| format!("{}={}", text(key.into()), text(value)))
        .collect()
}

fn key_texts(keys: Vec<Key>) -> Vec<String> {
    keys.into_iter().map(|key| String::from_utf8(key.into()).expect("keys are text")).collect()
}

async fn put_letters(client: &RawClient) {
    let pairs = ["a", "b", "c", "d", "e"].map(|letter| KvPair::new(key(letter), letter.repeat(2)));
    client.batch_put(pairs).await.expect("a batch is put");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_can_be_got_overwritten_and_deleted() {
    on_both_versions(async |Cluster { client, .. }| {
        assert_eq!(client.get(key("k")).await.expect("a get"), None);
        client.put(key("k"), "one").await.expect("a put");
        assert_eq!(client.get(key("k")).await.expect("a get"), value("one"));
        client.put(key("k"), "two").await.expect("a put");
        assert_eq!(client.get(key("k")).await.expect("a get"), value("two"));
        client.delete(key("k")).await.expect("a delete");
        assert_eq!(client.get(key("k")).await.expect("a get"), None);
        client.delete(key("k")).await.expect("deleting nothing is no error");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_value_is_a_value_and_a_large_one_comes_back_whole() {
    on_both_versions(async |Cluster { client, .. }| {
        client.put(key("empty"), "").await.expect("a put");
        assert_eq!(client.get(key("empty")).await.expect("a get"), value(""));
        let found = client.batch_get([key("empty"), key("nothing")]).await.expect("a batch get");
        assert_eq!(texts(found), ["empty="]);

        let large: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 251) as u8).collect();
        client.put(key("large"), large.clone()).await.expect("a put of a megabyte");
        assert!(client.get(key("large")).await.expect("a get of a megabyte") == Some(large));
        let keys = client.scan_keys(key("empty")..key("m"), 2).await.expect("a scan");
        assert_eq!(key_texts(keys), ["empty", "large"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_answered_in_the_order_of_the_keys() {
    on_both_versions(async |Cluster { client, .. }| {
        put_letters(client).await;
        let found = client.batch_get(["d", "x", "a"].map(key)).await.expect("a batch get");
        assert_eq!(texts(found), ["a=aa", "d=dd"]);
        client.batch_delete(["a", "d", "x"].map(key)).await.expect("a batch delete");
        let found = client.batch_get(["a", "b", "d"].map(key)).await.expect("a batch get");
        assert_eq!(texts(found), ["b=bb"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_go_both_ways_and_stop_at_their_limit() {
    on_both_versions(async |Cluster { client, .. }| {
        put_letters(client).await;
        let range = || key("b")..key("e");
        let found = client.scan(range(), 3).await.expect("a scan");
        assert_eq!(texts(found), ["b=bb", "c=cc", "d=dd"]);
        let found = client.scan(range(), 1_000).await.expect("a scan for more than there is");
        assert_eq!(texts(found), ["b=bb", "c=cc", "d=dd"]);
        let found = client.scan(key("x")..key("z"), 10).await.expect("a scan of nothing");
        assert!(found.is_empty());
        let found = client.scan(key("b")..=key("e"), 2).await.expect("a scan");
        assert_eq!(texts(found), ["b=bb", "c=cc"]);
        let found = client.scan_keys(key("a")..key("f"), 5).await.expect("a scan of keys");
        assert_eq!(key_texts(found), ["a", "b", "c", "d", "e"]);
        let found = client.scan_reverse(range(), 3).await.expect("a reverse scan");
        assert_eq!(texts(found), ["d=dd", "c=cc", "b=bb"]);
        let found = client.scan_keys_reverse(range(), 1).await.expect("a reverse scan of keys");
        assert_eq!(key_texts(found), ["d"]);
        assert!(client.scan(range(), 0).await.expect("a scan of nothing").is_empty());
        let found = client.batch_scan([key("a")..key("c"), key("d")..key("f")], 1).await;
        assert_eq!(texts(found.expect("a batch scan")), ["a=aa", "d=dd"]);
    })
    .await;
}

/// Only a keyspace ends: see the head of this file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_scan_of_a_keyspace_ends_with_its_data() {
    let ground = Ground::new();
    let cluster = Cluster::start(&ground, ApiVersion::V2).await;
    put_letters(&cluster.client).await;
    let found = cluster.client.scan(.., 1_000).await.expect("a scan of everything");
    assert_eq!(texts(found), ["a=aa", "b=bb", "c=cc", "d=dd", "e=ee"]);
    let found = cluster.client.scan(key("d").., 1_000).await.expect("a scan to the end");
    assert_eq!(texts(found), ["d=dd", "e=ee"]);
    let found = cluster.client.scan_keys_reverse(.., 2).await.expect("a scan from the end");
    assert_eq!(key_texts(found), ["e", "d"]);
    cluster.process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_ends_outside_its_region_is_cut_at_the_region() {
    let ground = Ground::new();
    let cluster = Cluster::start(&ground, ApiVersion::V2).await;
    put_letters(&cluster.client).await;
    let by_hand = cluster.by_hand().await;
    let above = Bytes::from_static(b"r\0\0\x01");
    let scan = kvrpcpb::RawScanRequest {
        context: by_hand.context(),
        start_key: by_hand.key("d"),
        end_key: above.clone(),
        limit: 100,
        ..Default::default()
    };
    let found = by_hand.scan_with(scan.clone()).await.expect("an end is cut, not refused");
    assert_eq!(found.len(), 2);
    let (start_key, end_key) = (above, by_hand.key("b"));
    let reverse = kvrpcpb::RawScanRequest { start_key, end_key, reverse: true, ..scan };
    let found = by_hand.scan_with(reverse).await.expect("an upper bound is cut, not refused");
    let keys: Vec<&[u8]> = found.iter().map(|(key, _)| &key[..]).collect();
    assert_eq!(keys, [b"e", b"d", b"c", b"b"]);
    cluster.process.stop().assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limit_zero_and_equal_ends_find_nothing_and_harm_nothing() {
    on_both_versions(async |cluster| {
        put_letters(&cluster.client).await;
        let by_hand = cluster.by_hand().await;
        assert!(by_hand.scan("a", "e", 0).await.expect("a scan of nothing").is_empty());
        assert!(by_hand.scan("b", "b", 9).await.expect("an empty range").is_empty());
        assert!(by_hand.scan("d", "b", 9).await.expect("an inverted range").is_empty());
        assert_eq!(by_hand.scan("a", "e", 9).await.expect("a scan").len(), 4);
        let scan = kvrpcpb::RawScanRequest {
            context: by_hand.context(),
            start_key: by_hand.key("a"),
            end_key: by_hand.key("c"),
            limit: 9,
            key_only: true,
            ..Default::default()
        };
        let found = by_hand.scan_with(scan).await.expect("a scan of keys");
        assert!(found.len() == 2 && found.iter().all(|(_, value)| value.is_empty()), "{found:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_keys_are_got_by_one_request() {
    const KEYS: u32 = 100_000;
    on_both_versions(async |Cluster { client, .. }| {
        let name = |index: u32| key(&format!("{index:06}"));
        client.batch_put((0..KEYS).map(|index| KvPair::new(name(index), "v"))).await.expect("puts");
        let found = client.batch_get((0..KEYS).map(name)).await.expect("one large batch get");
        assert_eq!(found.len(), KEYS as usize);
        for (index, KvPair(found, value)) in (0..KEYS).zip(found) {
            assert!(found == name(index) && value == b"v", "{index} is wrong");
        }
        let keys = client.scan_keys(name(0)..name(KEYS), 10_240).await.expect("the largest scan");
        assert_eq!(keys.len(), 10_240);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_key_is_refused_in_words() {
    on_both_versions(async |cluster| {
        // What the client makes of it: V1 sends it empty, V2 with the keyspace before it.
        let error = cluster.client.put(Key::EMPTY, "v").await.expect_err("a key is not empty");
        assert!(error.to_string().contains("empty"), "{error}");
        let error = cluster.client.get(Key::EMPTY).await.expect_err("a key is not empty");
        assert!(error.to_string().contains("empty"), "{error}");

        let by_hand = cluster.by_hand().await;
        let context = by_hand.context();
        let bare = kvrpcpb::RawPutRequest { context, value: "v".into(), ..Default::default() };
        let answer = by_hand.store().raw_put(bare).await.expect("an answer").into_inner();
        assert!(answer.error.contains("empty"), "{answer:?}");
        let batch = by_hand.batch_put([("k".into(), "v".into()), ("".into(), "v".into())]).await;
        let Err(Failure::Refused(reason)) = batch else { panic!("{batch:?}") };
        assert!(reason.contains("empty"), "{reason}");
        assert_eq!(by_hand.get("k").await.expect("a get"), None, "a refused batch does nothing");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compare_and_swap_swaps_only_what_was_expected() {
    on_both_versions(async |Cluster { client, .. }| {
        let atomic = client.with_atomic_for_cas();
        let swap = async |before: Option<Value>, after: &str| {
            atomic.compare_and_swap(key("k"), before, after).await.expect("a swap is answered")
        };
        assert_eq!(swap(value("x"), "y").await, (None, false));
        assert_eq!(swap(None, "one").await, (None, true));
        assert_eq!(swap(None, "two").await, (value("one"), false));
        assert_eq!(swap(value("one"), "").await, (value("one"), true));
        assert_eq!(swap(None, "three").await, (value(""), false), "empty is not missing");
        assert_eq!(swap(value(""), "four").await, (value(""), true));
        assert_eq!(client.get(key("k")).await.expect("a get"), value("four"));
    })
    .await;
}

/// Adds one to the counter `times` times; another client may be quicker, then it is tried again.
async fn count_up(client: RawClient, times: u32) {
    for _ in 0..times {
        let mut expected = None;
        loop {
            let number: u32 = expected.as_ref().map_or(0, |text: &Value| {
                String::from_utf8_lossy(text).parse().expect("the counter is a number")
            });
            let next = (number + 1).to_string();
            let swap = client.compare_and_swap(key("counter"), expected.clone(), next).await;
            match swap.expect("a swap is answered") {
                (_, true) => break,
                (found, false) => expected = found,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_swapped_by_many_clients_counts_every_step() {
    on_both_versions(async |Cluster { client, .. }| {
        let atomic = client.with_atomic_for_cas();
        let counters: Vec<_> = (0..6).map(|_| tokio::spawn(count_up(atomic.clone(), 20))).collect();
        for counter in counters {
            counter.await.expect("a client does not panic");
        }
        assert_eq!(client.get(key("counter")).await.expect("a get"), value("120"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_with_a_ttl_tells_its_age_and_goes() {
    on_both_versions(async |cluster| {
        let client = &cluster.client;
        client.put(key("stays"), "v").await.expect("a put");
        client.put_with_ttl(key("later"), "v", 1_000).await.expect("a put");
        client.put_with_ttl(key("soon"), "v", 1).await.expect("a put");
        let ttl = async |name| client.get_key_ttl_secs(key(name)).await.expect("a TTL");
        assert_eq!(ttl("stays").await, Some(0), "no TTL is zero");
        assert_eq!(ttl("nothing").await, None);
        let left = ttl("later").await.expect("it is there");
        assert!((900..=1_000).contains(&left), "{left}");

        wait::until_async("the pair has expired", async || {
            client.get(key("soon")).await.expect("a get").is_none().then_some(())
        })
        .await;
        assert_eq!(ttl("soon").await, None);
        let found = client.batch_get(["later", "soon", "stays"].map(key)).await.expect("a get");
        assert_eq!(texts(found), ["later=v", "stays=v"]);
        let found = cluster.by_hand().await.scan("a", "z", 9).await.expect("a scan");
        assert_eq!(found.len(), 2, "{found:?}");
        let swap = client.with_atomic_for_cas().compare_and_swap(key("soon"), None, "again").await;
        assert_eq!(swap.expect("a swap"), (None, true), "expired is missing");
        // Written again without a TTL it stays.
        client.put(key("later"), "v").await.expect("a put");
        assert_eq!(ttl("later").await, Some(0));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_deleted_without_its_end() {
    on_both_versions(async |Cluster { client, .. }| {
        put_letters(client).await;
        client.put_with_ttl(key("bb"), "v", 1_000).await.expect("a put");
        client.delete_range(key("b")..key("d")).await.expect("a range is deleted");
        let all = ["a", "b", "bb", "c", "d", "e"].map(key);
        let found = client.batch_get(all.clone()).await.expect("a batch get");
        assert_eq!(texts(found), ["a=aa", "d=dd", "e=ee"]);
        client.delete_range(key("d")..=key("e")).await.expect("a range is deleted");
        let found = client.batch_get(all).await.expect("a batch get");
        assert_eq!(texts(found), ["a=aa"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_are_unique_and_grow() {
    on_both_versions(async |cluster| {
        let config = config(cluster.api_version);
        let client = TransactionClient::new_with_config(endpoints(&cluster.process), config).await;
        let client = std::sync::Arc::new(client.expect("a ready cluster is found"));
        let mut last = 0;
        for _ in 0..20 {
            let next = client.current_timestamp().await.expect("a timestamp").version();
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        let asking: Vec<_> = (0..256)
            .map(|_| std::sync::Arc::clone(&client))
            .map(|client| tokio::spawn(async move { client.current_timestamp().await }))
            .collect();
        let mut seen = BTreeSet::new();
        for asked in asking {
            let timestamp = asked.await.expect("a client does not panic").expect("a timestamp");
            assert!(timestamp.version() > last, "older than one handed out before");
            seen.insert(timestamp.version());
        }
        assert_eq!(seen.len(), 256, "two clients were given one timestamp");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_the_other_api_version_is_refused_in_words() {
    on_both_versions(async |cluster| {
        let (other, its_name) = match cluster.api_version {
            ApiVersion::V2 => (ApiVersion::V1, "V1"),
            _ => (ApiVersion::V2, "V2"),
        };
        let by_hand = cluster.by_hand().await;
        let mut context = by_hand.context().expect("a region was found");
        context.api_version = other as i32;
        let key = Bytes::from([DEFAULT_KEYSPACE, b"k"].concat());
        let get = kvrpcpb::RawGetRequest { context: Some(context), key, ..Default::default() };
        let answer = by_hand.store().raw_get(get).await.expect("an answer").into_inner();
        assert!(answer.error.contains(its_name), "{answer:?}");
        // Whoever has the right one goes on.
        cluster.client.put("k".to_string(), "v").await.expect("a put");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_outlives_a_restart_of_the_cluster() {
    let ground = Ground::new();
    let launch = ground.replicated_playground();
    let process = launch.start();
    let client = RawClient::new_with_config(endpoints(&process), config(ApiVersion::V1)).await;
    let client = client.expect("a ready cluster is found");
    client.put(key("before"), "kept").await.expect("a put");
    process.kill();
    let process = launch.start();
    // The first requests meet broken connections; the client finds its way back by itself.
    let found =
        wait::until_async("the client is back", async || client.get(key("before")).await.ok())
            .await;
    assert_eq!(found, value("kept"));
    client.put(key("after"), "written").await.expect("a put");
    process.stop().assert_clean();
}

/// The package and the only Python it has current wheels for (Linux x86-64 and macOS); older releases of
/// it have none for any Python that is still maintained.
const PYTHON_PACKAGE: &str = "tikv-client==0.0.4";
const PYTHON_VERSION: &str = "3.11";

/// An interpreter of [`PYTHON_VERSION`], by any of its names.
fn python() -> Option<PathBuf> {
    let version = "import sys; print('%d.%d' % sys.version_info[:2])";
    ["python3.11", "python3", "/usr/bin/python3", "python"].into_iter().find_map(|name| {
        let output = Command::new(name).args(["-c", version]).output().ok()?;
        let found = String::from_utf8_lossy(&output.stdout).trim() == PYTHON_VERSION;
        found.then(|| PathBuf::from(name))
    })
}

/// The interpreter of a virtual environment under the target directory that has the package, made when it
/// is not there; or why it cannot be made.
fn python_with_client() -> Result<PathBuf, String> {
    let home = target_directory().join("python-client");
    let interpreter = home.join("bin").join("python");
    // Written last: an environment whose making was interrupted is made again.
    let complete = home.join(format!("complete-{PYTHON_PACKAGE}"));
    if complete.exists() {
        return Ok(interpreter);
    }
    let system = python().ok_or_else(|| {
        format!(
            "{PYTHON_PACKAGE} has wheels for Python {PYTHON_VERSION} only, which is not installed"
        )
    })?;
    let run = |command: &mut Command| {
        let output = command.output().map_err(|error| error.to_string())?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or_else(said)
    };
    run(Command::new(system).args(["-m", "venv", "--clear"]).arg(&home))
        .map_err(|error| format!("no virtual environment can be made: {error}"))?;
    run(Command::new(&interpreter).args(["-m", "pip", "install", "--quiet"]).args([
        "--only-binary=:all:",
        "--no-deps",
        PYTHON_PACKAGE,
    ]))
    .map_err(|error| format!("{PYTHON_PACKAGE} cannot be installed: {error}"))?;
    std::fs::write(&complete, "").map_err(|error| error.to_string())?;
    Ok(interpreter)
}

#[test]
fn the_python_client_reads_and_writes() {
    let interpreter = match python_with_client() {
        Ok(interpreter) => interpreter,
        Err(reason) => return not_tested("the Python client", &reason),
    };
    let ground = Ground::new();
    let process = ground.replicated_playground().start();
    for name in ["raw.py", "txn.py"] {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("python").join(name);
        let ran = Command::new(&interpreter)
            .arg(script)
            .arg(process.addresses().scheduler.to_string())
            .output()
            .expect("an interpreter can be executed");
        let (out, err) =
            (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{name}: {out}\n{err}");
        assert!(out.ends_with("all stories hold\n"), "{name}: {out}\n{err}");
    }
    process.stop().assert_clean();
}
