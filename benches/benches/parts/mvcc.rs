//! Reads over versions, beside a plain read of the same record: what finding the right version costs.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use skerry_benches::{VALUE_BYTES, key, value};
use skerry_kv::mvcc::{Changes, ForwardScan, Key, ReadRules, Reader, Write, WriteKind};
use skerry_proto::types::Ts;
use skerry_raftstore::config::RocksConfig;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange};
use skerry_raftstore::keys::data_range;
use tempfile::TempDir;

/// Keys that are there.
const KEYS: u64 = 10_000;
/// Keys of one scan.
const SCANNED: usize = 100;
/// Keys whose versions are written together.
const CHUNK: u64 = 1_000;

/// Keys with so many versions each, committed at 10, 20...
struct History {
    engine: RocksEngine,
    versions: u64,
    _directory: TempDir,
}

pub(crate) fn benches(criterion: &mut Criterion) {
    for versions in [1, 10] {
        let history = History::write(versions);
        gets(criterion, &history);
        scans(criterion, &history);
    }
}

impl History {
    fn write(versions: u64) -> History {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let engine = RocksEngine::open(directory.path(), &RocksConfig::default(), None);
        let history =
            History { engine: engine.expect("it opens"), versions, _directory: directory };
        for first in (0..KEYS).step_by(CHUNK as usize) {
            let mut changes = Changes::new();
            for number in first..first + CHUNK {
                for version in 1..=versions {
                    let commit = Ts::from(10 * version);
                    let short_value = Some(Bytes::from(value(number ^ version, VALUE_BYTES)));
                    let write = Write::new(WriteKind::Put, commit.previous(), short_value);
                    changes.put_write(&Key::of(&key(number)), commit, &write);
                }
            }
            history.engine.write(changes.into_batch(), Durability::Buffered).expect("it writes");
        }
        history
    }

    /// After the last commit.
    fn now(&self) -> Ts {
        Ts::from(10 * self.versions + 1)
    }
}

fn gets(criterion: &mut Criterion, history: &History) {
    let mut group = criterion.benchmark_group(format!("mvcc get, {} versions", history.versions));
    let rules = ReadRules::at(history.now());
    let mut number = 0;
    let mut next = || {
        number += 7;
        Key::of(&key(number % KEYS))
    };
    group.bench_function("newest", |bencher| {
        bencher.iter_batched(
            &mut next,
            |key| {
                let view = history.engine.view();
                let found = Reader::of_keys(view.as_ref(), [&key]).read(&key, &rules);
                assert!(found.expect("it reads").expect("it is not locked").is_some());
            },
            BatchSize::SmallInput,
        );
    });
    group.bench_function("reference: its record alone", |bencher| {
        bencher.iter_batched(
            &mut next,
            |key| {
                let record = key.at(Ts::from(10 * history.versions));
                let found = history.engine.view().get(ColumnFamily::Write, &record);
                assert!(found.expect("it reads").is_some());
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn scans(criterion: &mut Criterion, history: &History) {
    let name = format!("mvcc scan of {SCANNED} keys, {} versions", history.versions);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(SCANNED as u64));
    let (start, end) = data_range(b"", b"");
    let range = KeyRange { start, end };
    group.bench_function("newest", |bencher| {
        bencher.iter(|| {
            let view = history.engine.view();
            let rules = ReadRules::at(history.now());
            let mut scan =
                ForwardScan::new(view.as_ref(), &range, rules, false).expect("it begins");
            for _ in 0..SCANNED {
                black_box(scan.find_next().expect("it reads").expect("more keys follow"));
            }
        });
    });
    group.bench_function("reference: a cursor over as many records", |bencher| {
        bencher.iter(|| {
            let view = history.engine.view();
            let mut cursor = view.cursor(ColumnFamily::Write, &range).expect("a cursor");
            let mut standing = cursor.seek_to_first().expect("it seeks");
            for _ in 0..SCANNED {
                assert!(standing, "more records follow");
                black_box((cursor.key(), cursor.value()));
                standing = cursor.next().expect("it steps");
            }
        });
    });
    group.finish();
}
