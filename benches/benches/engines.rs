//! The engines alone: buffered and synced puts by 1 and 64 threads, gets, scans, and the raft logs, each
//! beside plain RocksDB or one fdatasync in the same run.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
};
use futures_executor::block_on;
use raft::eraftpb::Entry;
use skerry_benches::{SyncProbe, VALUE_BYTES, in_parallel, key, plain_rocks, synced, value};
use skerry_kv::storage::regions::fixed_regions;
use skerry_kv::storage::{ApiVersion, LocalLimits, LocalStorage, RequestContext, Storage};
use skerry_proto::types::StoreId;
use skerry_raftstore::config::{RaftEngineConfig, RocksConfig};
use skerry_raftstore::engine::log::{LogBatch, LogEngine, LogOperation};
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};
use tempfile::TempDir;

/// Pairs that reads choose from.
const PAIRS: u64 = 100_000;
/// Pairs of one scan.
const SCAN_PAIRS: usize = 100;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// A RocksDB engine and a plain RocksDB in directories of their own.
struct Pair {
    engine: Arc<RocksEngine>,
    plain: rocksdb::DB,
    directory: TempDir,
}

impl Pair {
    fn open() -> Pair {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("engine");
        let engine = RocksEngine::open(&path, &RocksConfig::default(), None).expect("it opens");
        let plain = plain_rocks(&directory.path().join("plain"));
        Pair { engine: Arc::new(engine), plain, directory }
    }

    /// Both hold the same pairs.
    fn filled() -> Pair {
        let pair = Pair::open();
        for number in 0..PAIRS {
            let (key, value) = (key(number), value(number, VALUE_BYTES));
            pair.plain.put(&key, &value).expect("put");
            pair.engine.write(one_put(key, value), Durability::Buffered).expect("write");
        }
        pair
    }
}

fn one_put(key: Vec<u8>, value: Vec<u8>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Raw, key, value);
    batch
}

fn buffered_puts(criterion: &mut Criterion) {
    let pair = Pair::open();
    let memory = MemoryEngine::new();
    let mut group = criterion.benchmark_group("put, buffered");
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    let mut next = || {
        number += 1;
        (key(number % PAIRS), value(number, VALUE_BYTES))
    };
    let engines: [(&str, &dyn Engine); 2] = [("rocks", &*pair.engine), ("memory", &memory)];
    for (name, engine) in engines {
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                &mut next,
                |(key, value)| {
                    engine.write(one_put(key, value), Durability::Buffered).expect("write")
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("reference: plain RocksDB", |bencher| {
        bencher.iter_batched(
            &mut next,
            |(key, value)| pair.plain.put(key, value).expect("put"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn synced_puts(criterion: &mut Criterion) {
    for threads in [1, 64] {
        let pair = Pair::open();
        let mut group = criterion.benchmark_group(format!("put, synced, {threads} threads"));
        group.throughput(Throughput::Elements(1)).sample_size(10);
        group.bench_function("rocks", |bencher| {
            bencher.iter_custom(|iterations| {
                in_parallel(threads, iterations, |_, number| {
                    let batch = one_put(key(number % PAIRS), value(number, VALUE_BYTES));
                    pair.engine.write(batch, Durability::Synced).expect("write");
                })
            });
        });
        local_storage(&mut group, &pair, threads);
        group.bench_function("reference: plain RocksDB", |bencher| {
            bencher.iter_custom(|iterations| {
                in_parallel(threads, iterations, |_, number| {
                    let value = value(number, VALUE_BYTES);
                    pair.plain.put_opt(key(number % PAIRS), value, &synced()).expect("put");
                })
            });
        });
        let mut probe = SyncProbe::new(pair.directory.path());
        group.bench_function("reference: fdatasync", |bencher| bencher.iter(|| probe.sync_once()));
        group.finish();
    }
}

/// The same puts through the standalone storage, whose writer thread merges them into shared syncs.
fn local_storage(group: &mut Group<'_>, pair: &Pair, threads: u64) {
    let store = StoreId::new(1);
    let regions = fixed_regions(ApiVersion::V1, store, &[2, 3, 4, 5]);
    let region = regions.first().expect("API V1 has a region for all keys in use");
    let context = RequestContext {
        region_id: region.region_id(),
        epoch: region.epoch(),
        peer_id: region.peer_on_store(store).expect("its peer is here").peer_id(),
        store_id: store,
        term: None,
        api_version: 0,
        replica_read: false,
    };
    let storage = LocalStorage::start(pair.engine.clone(), store, regions, LocalLimits::default());
    group.bench_function("standalone storage", |bencher| {
        bencher.iter_custom(|iterations| {
            in_parallel(threads, iterations, |_, number| {
                let batch = one_put(key(number % PAIRS), value(number, VALUE_BYTES));
                let permit = block_on(storage.permits().acquire(batch.byte_size()));
                block_on(storage.async_write(&context, batch, permit)).expect("write");
            })
        });
    });
    storage.stop();
}

fn reads(criterion: &mut Criterion) {
    let pair = Pair::filled();
    let mut group = criterion.benchmark_group("get");
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    let mut next = || {
        number += 7;
        key(number % PAIRS)
    };
    group.bench_function("rocks", |bencher| {
        bencher.iter_batched(
            &mut next,
            |key| pair.engine.get(ColumnFamily::Raw, &key).expect("get"),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("reference: plain RocksDB", |bencher| {
        bencher.iter_batched(
            &mut next,
            |key| pair.plain.get(key).expect("get"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
    scans(criterion, &pair);
}

fn scans(criterion: &mut Criterion, pair: &Pair) {
    let mut group = criterion.benchmark_group(format!("scan of {SCAN_PAIRS} pairs"));
    group.throughput(Throughput::Elements(SCAN_PAIRS as u64));
    let range = KeyRange::new("z", "{");
    group.bench_function("rocks", |bencher| {
        bencher.iter(|| {
            let view = pair.engine.view();
            let mut cursor = view.cursor(ColumnFamily::Raw, &range).expect("cursor");
            let mut standing = cursor.seek(&key(1)).expect("seek");
            for _ in 0..SCAN_PAIRS {
                assert!(standing, "more pairs follow");
                black_box((cursor.key(), cursor.value()));
                standing = cursor.next().expect("next");
            }
        });
    });
    group.bench_function("reference: plain RocksDB", |bencher| {
        bencher.iter(|| {
            let mut iterator = pair.plain.raw_iterator();
            iterator.seek(key(1));
            for _ in 0..SCAN_PAIRS {
                black_box(iterator.item().expect("more pairs follow"));
                iterator.next();
            }
        });
    });
    group.finish();
}

/// One region appends one entry a write, each synced: what a lone client of a replicated store waits for.
fn raft_logs(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut group = criterion.benchmark_group("raft log, append synced");
    group.sample_size(10);
    let raft_engine = skerry_raftstore::engine::log::raft_engine::RaftEngineLog::open(
        &directory.path().join("raft-engine"),
        &RaftEngineConfig::default(),
    );
    let rocks = skerry_raftstore::engine::log::rocks::RocksLog::open(
        &directory.path().join("rocks"),
        &RocksConfig::default(),
    );
    append(&mut group, "raft-engine", &raft_engine.expect("it opens"));
    append(&mut group, "rocks", &rocks.expect("it opens"));
    let mut probe = SyncProbe::new(directory.path());
    group.bench_function("reference: fdatasync", |bencher| bencher.iter(|| probe.sync_once()));
    group.finish();
}

fn append(group: &mut Group<'_>, name: &str, log: &dyn LogEngine) {
    let mut index = 0;
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            index += 1;
            let mut entry = Entry { index, term: 5, ..Entry::default() };
            entry.data = value(index, VALUE_BYTES).into();
            let mut batch = LogBatch::new();
            batch.push(LogOperation::Append(1, vec![entry]));
            log.write(batch, Durability::Synced).expect("write")
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2));
    targets = buffered_puts, synced_puts, reads, raft_logs
}
criterion_main!(benches);
