//! The un-numbered tests of project `kv` that look at what lies on disk: the raft log, on each of its three engines,
//! and the files of snapshots.
//!
//! The course tests its peer storage, which is both log and state. Here the log is an engine with a contract of its
//! own; what a peer keeps above it is a cache, and is tested by everything that replicates.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::Entry;
use skerry_proto::raft_serverpb::{RaftLocalState, SnapshotCfFile};
use skerry_raftstore::config::{RaftEngineConfig, RocksConfig};
use skerry_raftstore::engine::log::memory::MemoryLog;
use skerry_raftstore::engine::log::raft_engine::RaftEngineLog;
use skerry_raftstore::engine::log::rocks::RocksLog;
use skerry_raftstore::engine::log::{LogBatch, LogEngine, LogOperation};
use skerry_raftstore::engine::memory::MemoryEngine;
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};
use skerry_raftstore::keys::{apply_state, data_key, region_key, region_state};
use skerry_raftstore::snapshot::{
    Activity, CHUNK_BYTES_MAX, Limits, Manager, Side, SnapshotId, build, copy, install,
};
use skerry_tests::lab::looks::SOON;
use skerry_tests::lab::{Setup, run};

use super::kv::region;

const REGION: u64 = 4;

/// Tells the story once on each log engine, each time with a fresh one.
fn on_every_log(story: impl Fn(&dyn LogEngine)) {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let config = RaftEngineConfig::default();
    let raft_engine = RaftEngineLog::open(&home.path().join("raft-engine"), &config);
    let rocks = RocksLog::open(&home.path().join("rocks"), &RocksConfig::default());
    let logs: [Box<dyn LogEngine>; 3] = [
        Box::new(MemoryLog::new()),
        Box::new(raft_engine.expect("an empty directory")),
        Box::new(rocks.expect("an empty directory")),
    ];
    logs.iter().for_each(|log| story(&**log));
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: vec![7; 8].into(), ..Entry::default() }
}

fn write(log: &dyn LogEngine, operations: impl IntoIterator<Item = LogOperation>) {
    let mut batch = LogBatch::new();
    operations.into_iter().for_each(|operation| batch.push(operation));
    log.write(batch, Durability::Synced).expect("a log is written");
}

/// A log of entries 4 and 5, of the same terms, in front of which 3 was cut.
fn log_from_three(log: &dyn LogEngine) {
    write(log, [LogOperation::Clean(REGION)]);
    write(log, [LogOperation::Append(REGION, (3..=5).map(|index| entry(index, index)).collect())]);
    write(log, [LogOperation::CompactTo(REGION, 4)]);
}

/// The terms from an index on, as far as the log goes.
fn terms(log: &dyn LogEngine) -> Vec<u64> {
    let bounds = log.bounds(REGION).expect("a log is read").expect("it is not empty");
    let entries = log.entries(REGION, bounds.first, bounds.last + 1, usize::MAX);
    entries.expect("all of it is there").iter().map(|entry| entry.term).collect()
}

#[test]
fn test_peer_storage_term() {
    on_every_log(|log| {
        log_from_three(log);
        let term = |index| log.entry(REGION, index).expect("a log is read").map(|entry| entry.term);
        assert_eq!([2, 3, 4, 5, 6].map(term), [None, None, Some(4), Some(5), None]);
    });
}

#[test]
fn test_peer_storage_entries() {
    on_every_log(|log| {
        write(log, [LogOperation::Append(REGION, (3..=6).map(|at| entry(at, at)).collect())]);
        write(log, [LogOperation::CompactTo(REGION, 4)]);
        let indexes = |low, high, bytes_max| {
            let entries = log.entries(REGION, low, high, bytes_max).ok()?;
            Some(entries.iter().map(|entry| entry.index).collect::<Vec<_>>())
        };
        assert_eq!(indexes(2, 6, usize::MAX), None, "below what was cut");
        assert_eq!(indexes(3, 4, usize::MAX), None, "what was cut");
        assert_eq!(indexes(4, 5, usize::MAX), Some(vec![4]));
        assert_eq!(indexes(4, 6, usize::MAX), Some(vec![4, 5]));
        assert_eq!(indexes(4, 7, usize::MAX), Some(vec![4, 5, 6]));
        assert_eq!(indexes(4, 8, usize::MAX), None, "beyond the end");
        assert_eq!(indexes(4, 7, 1), Some(vec![4]), "at least one");
    });
}

/// Entries that are appended, by (index, term), and the terms from 4 on after it.
type Append<'a> = (&'a [(u64, u64)], &'a [u64]);

#[test]
fn test_peer_storage_append() {
    let cases: [Append<'_>; 6] = [
        (&[(4, 4), (5, 5)], &[4, 5]),
        (&[(4, 6), (5, 6)], &[6, 6]),
        (&[(4, 4), (5, 5), (6, 5)], &[4, 5, 5]),
        (&[(4, 5)], &[5]),
        (&[(5, 9)], &[4, 9]),
        (&[(6, 5)], &[4, 5, 5]),
    ];
    on_every_log(|log| {
        for (appended, expected) in cases {
            log_from_three(log);
            let entries = appended.iter().map(|(index, term)| entry(*index, *term)).collect();
            write(log, [LogOperation::Append(REGION, entries)]);
            assert_eq!(terms(log), expected, "after {appended:?}");
        }
    });
}

/// Nothing is left of a region in the log, and of a replica that was removed nothing but its tombstone.
#[test]
fn test_peer_storage_clear_meta() {
    on_every_log(|log| {
        log_from_three(log);
        write(log, [LogOperation::State(REGION, RaftLocalState::default())]);
        assert_eq!(log.regions().expect("a log is read"), [REGION]);
        write(log, [LogOperation::Clean(REGION)]);
        assert_eq!(log.regions().expect("a log is read"), [0; 0]);
        assert_eq!(log.state(REGION).expect("a log is read"), None);
        assert_eq!(log.bounds(REGION).expect("a log is read"), None);
    });
    run(&Setup::of(3), async |lab| {
        let region = lab.region_of(b"").await.id;
        lab.put("k", "v").await;
        lab.must_have(2, "k", "v").await;
        lab.must_remove_peer(region, 2).await;
        lab.must_lack(2, "k").await;
        lab.until("the log is gone", SOON, |lab| lab.log_of(2, region).is_none()).await;
        let has = |key: Bytes| {
            lab.engine(2).get(ColumnFamily::Raft, &key).expect("memory is read").is_some()
        };
        assert!(has(region_state(region)), "its tombstone");
        assert!(!has(apply_state(region)));
    });
}

#[test]
fn test_gc_raft_log() {
    on_every_log(|log| {
        write(log, [LogOperation::Append(REGION, (1..=100).map(|at| entry(at, 1)).collect())]);
        let has = |index| log.entry(REGION, index).expect("a log is read").is_some();
        let count = || (1..=100).filter(|index| has(*index)).count();
        for (first, collected) in [(11, 10), (51, 40), (51, 0), (61, 10)] {
            let before = count();
            write(log, [LogOperation::CompactTo(REGION, first)]);
            assert_eq!(before - count(), collected, "in front of {first}");
            assert!(!has(first - 1) && has(first) && has(100));
        }
    });
}

/// The snapshot that these tests are about.
const ID: SnapshotId = SnapshotId { region_id: REGION, term: 6, index: 20 };

fn rocks(home: &Path, name: &str) -> Arc<dyn Engine> {
    let engine = RocksEngine::open(&home.join(name), &RocksConfig::default(), None);
    Arc::new(engine.expect("an empty directory"))
}

/// Writes pairs of every family of data, in the region and at its edges.
fn fill(engine: &dyn Engine) {
    let mut batch = WriteBatch::new();
    for family in ColumnFamily::DATA {
        for key in ["b", "bb", "c", "x"] {
            batch.put(family, data_key(key.as_bytes()), format!("{family} {key}"));
        }
    }
    engine.write(batch, Durability::Synced).expect("an engine is written");
}

/// What lies in the region `[b, c)`.
fn content(engine: &dyn Engine) -> Vec<String> {
    let view = engine.view();
    let range = KeyRange::new(data_key(b"b"), data_key(b"c"));
    let mut found = Vec::new();
    for family in ColumnFamily::DATA {
        let mut cursor = view.cursor(family, &range).expect("an engine is read");
        let mut stands = cursor.seek_to_first().expect("an engine is read");
        while stands {
            let key = region_key(cursor.key()).expect("data has the data prefix");
            found.push(format!(
                "{family} {}={}",
                key.escape_ascii(),
                cursor.value().escape_ascii()
            ));
            stands = cursor.next().expect("an engine is read");
        }
    }
    found
}

#[test]
fn test_snap_gen_meta() {
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let engine = MemoryEngine::new();
    fill(&engine);
    let region = region("b", "c");
    let data = build(home.path(), ID, &*engine.view(), &region, &engine, &mut |_| {});
    let data = data.expect("the directory is writable");
    assert_eq!(data.region.as_ref(), Some(&region));
    let files = data.meta.expect("a snapshot lists its files").cf_files;
    let family = |file: &SnapshotCfFile| file.cf.split('_').next().map(str::to_string);
    let families: Vec<String> = files.iter().filter_map(family).collect();
    assert_eq!(families, ColumnFamily::DATA.map(ColumnFamily::name));
    assert_eq!(files.iter().map(|file| file.size).sum::<u64>(), data.file_size);
    assert!(files.iter().all(|file| file.size > 0 && file.checksum > 0), "{files:?}");
}

#[test]
fn test_snap_display_path() {
    assert_eq!(ID.to_string(), "4_6_20");
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let engine = MemoryEngine::new();
    build(home.path(), ID, &*engine.view(), &region("b", "c"), &engine, &mut |_| {})
        .expect("the directory is writable");
    let listed = std::fs::read_dir(home.path()).expect("a directory is listed");
    let mut names: Vec<String> = listed
        .map(|file| file.expect("a directory is listed").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.iter().all(|name| name.starts_with("gen_4_6_20")), "{names:?}");
    assert!(names.contains(&"gen_4_6_20.meta".to_string()), "{names:?}");
}

/// Built, sent, received, installed and collected, with data and without.
#[test]
fn test_snap_file() {
    for has_data in [false, true] {
        let home = tempfile::tempdir().expect("a temporary directory can be made");
        let (source, target) = (rocks(home.path(), "source"), rocks(home.path(), "target"));
        if has_data {
            fill(&*source);
        }
        // What the target has in the region before is replaced, what it has beside it stays.
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, data_key(b"bz"), "old");
        batch.put(ColumnFamily::Default, data_key(b"c"), "other");
        target.write(batch, Durability::Synced).expect("an engine is written");

        let limits = Limits { generating: 1, sending: 1, receiving: 1, applying: 1 };
        let manager = |name: &str| {
            Manager::open(&home.path().join(name), limits).expect("a directory can be made")
        };
        let (sender, receiver) = (manager("from"), manager("to"));
        let region = region("b", "c");
        let generating = sender.begin(ID, Activity::Generating).expect("nothing else is done");
        let data = build(sender.directory(), ID, &*source.view(), &region, &*source, &mut |_| {});
        let data = data.expect("the directory is writable");
        drop(generating);
        assert!(sender.total_bytes().expect("a directory is read") >= data.file_size);
        assert!(data.file_size < CHUNK_BYTES_MAX as u64 * 16, "a small snapshot");

        copy(sender.directory(), receiver.directory(), ID, &data).expect("both can be used");
        let total = |manager: &Manager| manager.total_bytes().expect("a directory is read");
        assert_eq!(total(&receiver), total(&sender));
        install(receiver.directory(), ID, &region, &*target, None).expect("the files are whole");
        assert_eq!(content(&*target), content(&*source));
        assert_eq!(content(&*target).is_empty(), !has_data);
        let beside = target.get(ColumnFamily::Default, &data_key(b"c")).expect("an engine is read");
        assert_eq!(beside.as_deref(), Some(&b"other"[..]));

        for (manager, side) in [(&sender, Side::Sender), (&receiver, Side::Receiver)] {
            let removed = manager.collect(&|_, _| false).expect("a directory is writable");
            assert_eq!((removed, total(manager)), (vec![(ID, side)], 0));
        }
    }
}
