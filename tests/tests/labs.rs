//! The labs: every test of the TinyKV course by its name, each asserting at least what the course asserts.
//!
//! Project 1 is the raw service over standalone storage. Each of its tests runs on the memory engine and on
//! RocksDB, through the gRPC service as a client calls it, with values written and read beneath the service
//! where the course's test does so. Projects 2A, 3A and half of 2C are the raft crate, in the modules below; where
//! our stores run it otherwise than the course, a second test beside says what holds there. Projects 2B, 2C and 3B
//! are stores in the simulator, driven by scripts (`tests/src/lab/mod.rs`); 3C is the scheduler's cluster, alone.
//! Project 4 is the commands of transactions, on an engine in memory (`txn`); `kv` is what the course tests without a
//! number.
//!
//! `lab-tests.tsv` maps the names; [`LANDED`] says which projects are due.

#[path = "labs/generic.rs"]
mod generic;
#[path = "labs/kv.rs"]
mod kv;
#[path = "labs/kv_disk.rs"]
mod kv_disk;
#[path = "labs/raft_2aa.rs"]
mod raft_2aa;
#[path = "labs/raft_2ab_group.rs"]
mod raft_2ab_group;
#[path = "labs/raft_2ab_member.rs"]
mod raft_2ab_member;
#[path = "labs/raft_2ac.rs"]
mod raft_2ac;
#[path = "labs/raft_2c.rs"]
mod raft_2c;
#[path = "labs/raft_3a.rs"]
mod raft_3a;
#[path = "labs/raft_network.rs"]
mod raft_network;
#[path = "labs/scheduler_3c.rs"]
mod scheduler_3c;
#[path = "labs/scheduler_3c_balance.rs"]
mod scheduler_3c_balance;
#[path = "labs/scheduler_3c_served.rs"]
mod scheduler_3c_served;
#[path = "labs/store_2b.rs"]
mod store_2b;
#[path = "labs/store_2c.rs"]
mod store_2c;
#[path = "labs/store_3b.rs"]
mod store_3b;
#[path = "labs/threads.rs"]
mod threads;
#[path = "labs/txn.rs"]
mod txn;
#[path = "labs/txn_4a.rs"]
mod txn_4a;
#[path = "labs/txn_4b.rs"]
mod txn_4b;
#[path = "labs/txn_4c.rs"]
mod txn_4c;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skerry_kv::raw::value::StoredValue;
use skerry_kv::raw::{RawLimits, RawStore};
use skerry_kv::server::kv_service::{KvService, Surroundings};
use skerry_kv::storage::regions::fixed_regions;
use skerry_kv::storage::{
    ApiVersion, LocalLimits, LocalStorage, RegionView, RequestContext, Storage,
};
use skerry_kv::txn::{Timestamps, TxnLimits, TxnStore};
use skerry_proto::kvrpcpb::*;
use skerry_proto::tikvpb::tikv_server::Tikv;
use skerry_proto::types::{StoreId, Ts};
use skerry_raftstore::config::RocksConfig;
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};
use skerry_raftstore::keys;
use skerry_raftstore::time::ManualClock;
use tonic::{Code, Request};

/// The names of all labs, with the course's.
const LAB_TESTS: &str = include_str!("../lab-tests.tsv");
/// Projects whose tests are all due.
const LANDED: [&str; 13] =
    ["1", "2AA", "2AB", "2AC", "2B", "2C", "3A", "3B", "3C", "4A", "4B", "4C", "kv"];

/// The labs of the raw service choose no timestamps.
struct NoScheduler;

impl Timestamps for NoScheduler {
    fn newest(&self) -> Pin<Box<dyn Future<Output = Ts> + Send + '_>> {
        Box::pin(std::future::pending())
    }

    fn passed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A service over standalone storage with its fixed regions, and what lies beneath it.
struct Lab {
    engine: Arc<dyn Engine>,
    storage: Arc<LocalStorage>,
    service: KvService,
    context: Context,
}

impl Lab {
    fn over(engine: Arc<dyn Engine>) -> Lab {
        let regions = fixed_regions(ApiVersion::V1, StoreId::new(1), &[2, 3, 4, 5]);
        let context = Context {
            region_id: regions[0].id,
            region_epoch: regions[0].region_epoch,
            peer: Some(regions[0].peers[0]),
            ..Context::default()
        };
        let limits = LocalLimits::default();
        let storage = LocalStorage::start(Arc::clone(&engine), StoreId::new(1), regions, limits);
        let shared: Arc<dyn Storage> = storage.clone();
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let raw = RawStore::new(shared, ApiVersion::V1, clock, RawLimits::default());
        let limits = TxnLimits {
            key_bytes_max: 1_000,
            reply_bytes_max: 1 << 20,
            lock_wait: Duration::from_secs(60),
        };
        let (shared, reads) = (storage.clone(), Arc::clone(raw.read_pool()));
        let version = ApiVersion::V1;
        let txn = TxnStore::new(shared, version, limits, Arc::new(NoScheduler), reads);
        let bare = Surroundings::bare(StoreId::new(1), Arc::clone(&engine), storage.clone());
        let service = KvService::new(Arc::new(raw), Arc::new(txn), bare);
        Lab { engine, storage, service, context }
    }

    /// Writes a pair beneath the service.
    fn set(&self, key: &[u8], value: &[u8]) {
        let stored = StoredValue::new(Bytes::copy_from_slice(value), 0, 0).encode();
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Raw, keys::data_key(key), stored);
        self.engine.write(batch, Durability::Synced).expect("an engine writes");
    }

    /// Reads a pair beneath the service.
    fn read(&self, key: &[u8]) -> Option<Bytes> {
        let stored = self.engine.get(ColumnFamily::Raw, &keys::data_key(key));
        let stored = stored.expect("an engine reads")?;
        Some(StoredValue::decode(stored).expect("a stored value has its form").user)
    }

    async fn raw_get(&self, key: &[u8], cf: &str) -> RawGetResponse {
        let (context, key) = (Some(self.context.clone()), Bytes::copy_from_slice(key));
        let request = RawGetRequest { context, key, cf: cf.to_string() };
        let answer = self.service.raw_get(Request::new(request)).await;
        answer.expect("the service answers").into_inner()
    }

    async fn raw_put(&self, key: &[u8], value: &[u8], cf: &str) -> RawPutResponse {
        let request = RawPutRequest {
            context: Some(self.context.clone()),
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
            cf: cf.to_string(),
            ..RawPutRequest::default()
        };
        let answer = self.service.raw_put(Request::new(request)).await;
        answer.expect("the service answers").into_inner()
    }

    async fn raw_delete(&self, key: &[u8]) {
        let (context, key) = (Some(self.context.clone()), Bytes::copy_from_slice(key));
        let request = RawDeleteRequest { context, key, ..RawDeleteRequest::default() };
        let answer = self.service.raw_delete(Request::new(request)).await;
        let answer = answer.expect("the service answers").into_inner();
        assert_eq!(answer, RawDeleteResponse::default());
    }

    async fn raw_scan(&self, start: &[u8], limit: u32) -> Vec<(Bytes, Bytes)> {
        let (context, start_key) = (Some(self.context.clone()), Bytes::copy_from_slice(start));
        let request = RawScanRequest { context, start_key, limit, ..RawScanRequest::default() };
        let answer = self.service.raw_scan(Request::new(request)).await;
        let answer = answer.expect("the service answers").into_inner();
        assert_eq!(answer.region_error, None);
        let plain = |pair: KvPair| {
            assert_eq!(pair.error, None);
            (pair.key, pair.value)
        };
        answer.kvs.into_iter().map(plain).collect()
    }

    /// A consistent view of the only region.
    async fn view(&self) -> RegionView {
        let context = RequestContext::from(&self.context);
        self.storage.async_snapshot(&context).await.expect("a region shows itself")
    }
}

/// Tells the story once on each engine.
async fn on_every_engine(story: impl AsyncFn(&Lab)) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let rocks = RocksEngine::open(directory.path(), &RocksConfig::default(), None);
    let engines: [Arc<dyn Engine>; 2] =
        [Arc::new(MemoryEngine::new()), Arc::new(rocks.expect("an empty directory is opened"))];
    for engine in engines {
        let lab = Lab::over(engine);
        story(&lab).await;
        lab.storage.stop();
    }
}

fn pair(key: u8, value: u8) -> (Bytes, Bytes) {
    (Bytes::from(vec![key]), Bytes::from(vec![value]))
}

#[tokio::test]
async fn test_raw_get_1() {
    on_every_engine(async |lab| {
        lab.set(&[99], &[42]);
        let answer = lab.raw_get(&[99], "default").await;
        assert_eq!(answer, RawGetResponse { value: vec![42].into(), ..Default::default() });
    })
    .await;
}

#[tokio::test]
async fn test_raw_get_not_found_1() {
    on_every_engine(async |lab| {
        let answer = lab.raw_get(&[99], "default").await;
        assert_eq!(answer, RawGetResponse { not_found: true, ..Default::default() });
    })
    .await;
}

#[tokio::test]
async fn test_raw_put_1() {
    on_every_engine(async |lab| {
        assert_eq!(lab.raw_put(&[99], &[42], "default").await, RawPutResponse::default());
        assert_eq!(lab.read(&[99]).as_deref(), Some(&[42][..]));
    })
    .await;
}

/// One key has a value in each of two column families, and neither sees the other. What raw clients call
/// `write` is a map of its own: the family that the engine calls so belongs to transactions.
#[tokio::test]
async fn test_raw_get_after_raw_put_1() {
    on_every_engine(async |lab| {
        assert_eq!(lab.raw_put(&[99], &[42], "default").await, RawPutResponse::default());
        assert_eq!(lab.raw_put(&[99], &[44], "write").await, RawPutResponse::default());

        assert_eq!(lab.raw_get(&[99], "default").await.value, [42][..]);
        assert_eq!(lab.raw_get(&[99], "").await.value, [42][..]);
        assert_eq!(lab.raw_get(&[99], "write").await.value, [44][..]);
        assert!(lab.raw_get(&[99], "lock").await.not_found);
        assert_eq!(lab.read(&[99]).as_deref(), Some(&[42][..]));
    })
    .await;
}

#[tokio::test]
async fn test_raw_get_after_raw_delete_1() {
    on_every_engine(async |lab| {
        lab.set(&[99], &[42]);
        lab.raw_delete(&[99]).await;
        let answer = lab.raw_get(&[99], "default").await;
        assert_eq!(answer, RawGetResponse { not_found: true, ..Default::default() });
    })
    .await;
}

#[tokio::test]
async fn test_raw_delete_1() {
    on_every_engine(async |lab| {
        lab.set(&[99], &[42]);
        lab.raw_delete(&[99]).await;
        assert_eq!(lab.read(&[99]), None);
        // Again, on what is not there any more.
        lab.raw_delete(&[99]).await;
    })
    .await;
}

#[tokio::test]
async fn test_raw_scan_1() {
    on_every_engine(async |lab| {
        for (key, value) in [(1, 233), (2, 100), (3, 33), (4, 4), (5, 5)] {
            lab.set(&[key], &[value]);
        }
        let found = lab.raw_scan(&[1], 3).await;
        assert_eq!(found, [pair(1, 233), pair(2, 100), pair(3, 33)]);
    })
    .await;
}

#[tokio::test]
async fn test_raw_scan_after_raw_put_1() {
    on_every_engine(async |lab| {
        for key in 1..=4 {
            lab.set(&[key], &[key + 10]);
        }
        lab.raw_put(&[5], &[15], "default").await;
        let found = lab.raw_scan(&[1], 10).await;
        assert_eq!(found, [pair(1, 11), pair(2, 12), pair(3, 13), pair(4, 14), pair(5, 15)]);
    })
    .await;
}

#[tokio::test]
async fn test_raw_scan_after_raw_delete_1() {
    on_every_engine(async |lab| {
        for key in 1..=4 {
            lab.set(&[key], &[key + 10]);
        }
        lab.raw_delete(&[3]).await;
        let found = lab.raw_scan(&[1], 10).await;
        assert_eq!(found, [pair(1, 11), pair(2, 12), pair(4, 14)]);
    })
    .await;
}

#[tokio::test]
async fn test_iter_with_raw_delete_1() {
    on_every_engine(async |lab| {
        for key in 1..=4 {
            lab.set(&[key], &[key + 10]);
        }
        let before = lab.view().await;
        let mut cursor = before.view.cursor(ColumnFamily::Raw, &KeyRange::default());
        let cursor = cursor.as_mut().expect("a view has cursors");
        let mut stands = cursor.seek_to_first().expect("a cursor moves");

        lab.raw_delete(&[3]).await;
        let mut seen = Vec::new();
        while stands {
            seen.push(keys::region_key(cursor.key()).expect("data has the data prefix").to_vec());
            stands = cursor.next().expect("a cursor moves");
        }
        assert_eq!(seen, [[1], [2], [3], [4]]);
        assert_eq!(lab.read(&[3]), None, "the delete itself is not held up by the view");
    })
    .await;
}

#[tokio::test]
async fn test_engine_util() {
    on_every_engine(async |lab| {
        let engine = &lab.engine;
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, "a", "a1");
        batch.put(ColumnFamily::Default, "b", "b1");
        batch.put(ColumnFamily::Default, "c", "c1");
        batch.put(ColumnFamily::Default, "d", "d1");
        batch.put(ColumnFamily::Write, "a", "a2");
        batch.put(ColumnFamily::Write, "b", "b2");
        batch.put(ColumnFamily::Write, "d", "d2");
        batch.put(ColumnFamily::Lock, "a", "a3");
        batch.put(ColumnFamily::Lock, "c", "c3");
        batch.put(ColumnFamily::Default, "e", "e1");
        batch.delete(ColumnFamily::Default, "e");
        engine.write(batch, Durability::Synced).expect("an engine writes");

        let all = |family| pairs_of(&**engine, family);
        assert_eq!(all(ColumnFamily::Default), ["a=a1", "b=b1", "c=c1", "d=d1"]);
        assert_eq!(all(ColumnFamily::Write), ["a=a2", "b=b2", "d=d2"]);
        assert_eq!(all(ColumnFamily::Lock), ["a=a3", "c=c3"]);
        let get = |family, key: &str| engine.get(family, key.as_bytes()).expect("an engine reads");
        assert_eq!(get(ColumnFamily::Default, "e"), None);
        assert_eq!(get(ColumnFamily::Lock, "b"), None, "of another family");

        // A seek into a gap finds the next of the same family, and none behind its last.
        let view = engine.view();
        let range = KeyRange::default();
        let mut cursor = view.cursor(ColumnFamily::Write, &range).expect("a view has cursors");
        assert!(cursor.seek(b"c").expect("a cursor moves"));
        assert_eq!((cursor.key(), cursor.value()), (&b"d"[..], &b"d2"[..]));
        assert!(!cursor.next().expect("a cursor moves"), "the family ends here");
        let mut cursor = view.cursor(ColumnFamily::Lock, &range).expect("a view has cursors");
        assert!(!cursor.seek(b"d").expect("a cursor moves"), "d is of another family");
    })
    .await;
}

/// Every pair of a family, as text.
fn pairs_of(engine: &dyn Engine, family: ColumnFamily) -> Vec<String> {
    let view = engine.view();
    let range = KeyRange::default();
    let mut cursor = view.cursor(family, &range).expect("a view has cursors");
    let mut pairs = Vec::new();
    let mut stands = cursor.seek_to_first().expect("a cursor moves");
    while stands {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        pairs.push(format!("{}={}", text(cursor.key()), text(cursor.value())));
        stands = cursor.next().expect("a cursor moves");
    }
    pairs
}

#[tokio::test]
async fn what_is_not_built_yet_is_unimplemented_and_not_wrong() {
    on_every_engine(async |lab| {
        let answer = lab.service.kv_gc(Request::new(GcRequest::default())).await;
        assert_eq!(answer.expect_err("nothing is collected yet").code(), Code::Unimplemented);
    })
    .await;
}

/// The names of the labs that are due, out of the table.
fn due() -> BTreeSet<&'static str> {
    let rows = LAB_TESTS.lines().filter(|line| !line.starts_with('#'));
    let columns = rows.map(|row| row.split('\t').collect::<Vec<_>>());
    let due = columns.filter(|row| LANDED.contains(&row[0]));
    due.map(|row| row[2]).collect()
}

/// What this test binary prints when it is run with these arguments.
fn runner(arguments: &[&str]) -> String {
    let this = std::env::current_exe().expect("a running test knows its own path");
    let run = Command::new(this).args(arguments).output().expect("a test binary runs");
    String::from_utf8(run.stdout).expect("names are UTF-8")
}

/// The last part of a test's path.
fn name_of(path: &str) -> &str {
    path.rsplit("::").next().expect("a split has a part")
}

#[test]
fn every_lab_is_named_as_in_the_table() {
    let listed = runner(&["--list"]);
    let here = listed.lines().filter_map(|line| line.strip_suffix(": test")).map(name_of);
    let known: BTreeSet<&str> =
        LAB_TESTS.lines().filter_map(|row| row.split('\t').nth(2)).collect();
    let strangers: Vec<_> =
        here.filter(|name| name.starts_with("test_") && !known.contains(name)).collect();
    assert!(strangers.is_empty(), "named like a lab but not in the table: {strangers:?}");
}

/// Runs the labs once more, in a process of their own, and reads what the runner says of each: a lab that is due
/// must have run and passed. What is missing or ignored shows as much as what fails.
#[test]
fn every_lab_of_a_landed_project_has_run_and_passed() {
    let due = due();
    assert!(due.len() >= 217, "the table of labs was not understood: {due:?}");
    // The runner of the inner process leaves out the tests that begin one, and what has no name in the table.
    let said = runner(&["test_", "--skip", "every_lab"]);
    let lines = said.lines().filter_map(|line| line.strip_prefix("test "));
    let verdicts: BTreeMap<&str, &str> = lines
        .filter_map(|line| line.split_once(" ... "))
        .map(|(path, verdict)| (name_of(path), verdict))
        .collect();
    let wrong: Vec<_> = due
        .iter()
        .map(|name| (name, verdicts.get(name).copied().unwrap_or("has not run")))
        .filter(|(_, verdict)| *verdict != "ok")
        .collect();
    assert!(wrong.is_empty(), "labs that are due: {wrong:?}\n{said}");
}
