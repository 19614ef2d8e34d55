//! Data directories: what is refused and with which words, and the move of a raft log with a crash at
//! every boundary.

use bytes::Bytes;
use raft::eraftpb::Entry;
use skerry_proto::raft_serverpb::RaftLocalState;

use super::migrate::Boundary;
use super::*;
use crate::engine::Durability;
use crate::engine::log::{LogBatch, LogOperation};

const FULL: Identity = Identity { cluster_id: Some(71), store_id: Some(4), api_version: Some(1) };

fn with_log(enable: bool) -> RaftEngineConfig {
    RaftEngineConfig { enable, ..RaftEngineConfig::default() }
}

fn refusal(path: &Path, purpose: Purpose) -> String {
    let text = DataDirectory::open(path, purpose).expect_err("refused").to_string();
    text.replace(&path.display().to_string(), "DIR")
}

/// A used directory: it has an identity and the file by which RocksDB is recognised.
fn used(path: &Path, purpose: Purpose) {
    let directory = DataDirectory::open(path, purpose).expect("opens");
    fs::write(directory.data_path().join("CURRENT"), "MANIFEST-000001\n").expect("write");
    directory.set_identity(FULL).expect("the first identity");
}

#[test]
fn a_directory_is_created_with_all_above_it_and_remembers_what_it_is() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("deep/data");
    let directory = DataDirectory::open(&path, Purpose::STANDALONE_STORE).expect("opens");
    assert!(directory.data_path().is_dir());
    assert_eq!(directory.manifest().identity, Identity::default());
    drop(directory);
    used(&path, Purpose::STANDALONE_STORE);
    let directory = DataDirectory::open(&path, Purpose::STANDALONE_STORE).expect("opens again");
    assert_eq!(directory.manifest().identity, FULL);
    assert_eq!(directory.manifest().log, LogKind::None);
}

#[test]
fn only_one_has_a_directory_open() {
    let root = tempfile::tempdir().expect("a directory");
    let first = DataDirectory::open(root.path(), Purpose::SCHEDULER).expect("opens");
    let second = DataDirectory::open(root.path(), Purpose::SCHEDULER).expect_err("locked");
    assert!(matches!(&second, Error::DirectoryLocked(path) if path == root.path()), "{second}");
    drop(first);
    DataDirectory::open(root.path(), Purpose::SCHEDULER).expect("free again");
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason_of_the_system() {
    let root = tempfile::tempdir().expect("a directory");
    let file = root.path().join("file");
    fs::write(&file, "").expect("write");
    for path in [file.clone(), file.join("below")] {
        let refused = DataDirectory::open(&path, Purpose::SCHEDULER).expect_err("no directory");
        assert!(matches!(refused, Error::DirectoryUnusable { .. }), "{refused}");
    }
    fs::create_dir(root.path().join(LOCK)).expect("create");
    let refused = refusal(root.path(), Purpose::SCHEDULER);
    assert!(refused.starts_with("cannot use DIR/LOCK: "), "{refused}");
}

#[test]
fn a_directory_of_something_else_is_refused_by_what_it_is() {
    let root = tempfile::tempdir().expect("a directory");
    let replicated = Purpose::replicated_store(&with_log(true));
    let directories = [
        ("scheduler", Purpose::SCHEDULER),
        ("standalone", Purpose::STANDALONE_STORE),
        ("replicated", replicated),
    ];
    for (name, purpose) in directories {
        DataDirectory::open(&root.path().join(name), purpose).expect("opens");
    }
    let refused = |name: &str, purpose| refusal(&root.path().join(name), purpose);
    assert_eq!(
        refused("scheduler", Purpose::STANDALONE_STORE),
        "DIR cannot be opened: it belongs to a scheduler, not to a store; choose another --data-dir"
    );
    assert_eq!(
        refused("standalone", Purpose::SCHEDULER),
        "DIR cannot be opened: it belongs to a store, not to a scheduler; choose another --data-dir"
    );
    assert_eq!(
        refused("standalone", replicated),
        "DIR cannot be opened: it was made with --standalone and has no raft log to replicate; keep \
         --standalone, or choose another --data-dir"
    );
    assert_eq!(
        refused("replicated", Purpose::STANDALONE_STORE),
        "DIR cannot be opened: it is one replica of a cluster, and writing to it alone would make it \
         differ from the others; start without --standalone, or choose another --data-dir"
    );
}

#[test]
fn an_identity_is_learned_in_parts_and_never_changes() {
    let root = tempfile::tempdir().expect("a directory");
    let directory = DataDirectory::open(root.path(), Purpose::STANDALONE_STORE).expect("opens");
    let cluster = Identity { cluster_id: Some(71), ..Identity::default() };
    directory.set_identity(cluster).expect("the cluster");
    let store = Identity { store_id: Some(4), api_version: Some(1), ..Identity::default() };
    directory.set_identity(store).expect("the rest");
    directory.set_identity(FULL).expect("the same again");
    assert_eq!(directory.manifest().identity, FULL);

    let refused = |identity| {
        let text = directory.set_identity(identity).expect_err("refused").to_string();
        text.replace(&root.path().display().to_string(), "DIR")
    };
    assert_eq!(
        refused(Identity { cluster_id: Some(72), ..FULL }),
        "DIR cannot be opened: it belongs to cluster 71, the scheduler says 72; start the scheduler of \
         that cluster, or choose another --data-dir"
    );
    assert_eq!(
        refused(Identity { store_id: Some(5), ..FULL }),
        "DIR cannot be opened: it belongs to store 4, not to store 5; choose another --data-dir"
    );
    assert_eq!(
        refused(Identity { api_version: Some(2), ..FULL }),
        "DIR cannot be opened: it was bootstrapped with API version 1 and that cannot change to 2; start \
         with --api-version 1, or choose another --data-dir"
    );
    assert_eq!(directory.manifest().identity, FULL);
}

#[test]
fn engines_without_a_manifest_and_a_manifest_without_engines_are_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let path = root.path().join("no-manifest");
    used(&path, Purpose::STANDALONE_STORE);
    fs::remove_file(path.join(MANIFEST)).expect("remove");
    assert_eq!(
        refusal(&path, Purpose::STANDALONE_STORE),
        "DIR cannot be opened: it holds data/ but no skerry-manifest.toml; put that file back from a \
         copy, or choose another --data-dir"
    );

    let path = root.path().join("no-data");
    used(&path, Purpose::STANDALONE_STORE);
    fs::remove_dir_all(path.join("data")).expect("remove");
    let refused = refusal(&path, Purpose::STANDALONE_STORE);
    assert!(refused.starts_with("DIR/data is damaged: DIR/data/CURRENT is missing"), "{refused}");
}

#[test]
fn a_first_start_that_was_interrupted_begins_anew() {
    let root = tempfile::tempdir().expect("a directory");
    drop(DataDirectory::open(root.path(), Purpose::STANDALONE_STORE).expect("opens"));
    let half_made = root.path().join("data/MANIFEST-000001");
    fs::write(&half_made, "half").expect("write");
    // What a crash leaves between writing a new manifest and renaming it.
    fs::write(root.path().join("skerry-manifest.toml.tmp"), "format-ver").expect("write");
    drop(DataDirectory::open(root.path(), Purpose::STANDALONE_STORE).expect("opens again"));
    assert!(!half_made.exists() && root.path().join("data").is_dir());
    assert!(!root.path().join("skerry-manifest.toml.tmp").exists());
}

#[test]
fn a_damaged_manifest_is_refused_and_left_alone() {
    let root = tempfile::tempdir().expect("a directory");
    used(root.path(), Purpose::STANDALONE_STORE);
    let file = root.path().join(MANIFEST);
    let whole = fs::read(&file).expect("read");
    let half = whole[..whole.len() / 2].to_vec();
    for bytes in [vec![0xFF, 0x00, 0x9F], Vec::new(), half] {
        fs::write(&file, &bytes).expect("write");
        let refused = refusal(root.path(), Purpose::STANDALONE_STORE);
        assert!(refused.starts_with("DIR/skerry-manifest.toml is damaged: it "), "{refused}");
        assert_eq!(fs::read(&file).expect("read"), bytes);
    }
}

/// Opens the directory of a replicated store and its log, with raft-engine or RocksDB.
fn open_log(path: &Path, raft_engine: bool) -> Result<(DataDirectory, Arc<dyn LogEngine>)> {
    let config = with_log(raft_engine);
    let directory = DataDirectory::open(path, Purpose::replicated_store(&config))?;
    let log = directory.open_log(&config, &RocksConfig::small())?;
    Ok((directory, log))
}

/// Three regions: one with many entries (so that it takes several batches to copy), one with a state
/// only, one whose log does not begin at 1.
fn fill(log: &dyn LogEngine) {
    let entries = |range: std::ops::Range<u64>, size: usize| {
        let data = Bytes::from(vec![7; size]);
        let entry = |index| Entry { index, term: 3, data: data.clone(), ..Entry::default() };
        range.map(entry).collect()
    };
    let state = RaftLocalState { hard_state: Bytes::from_static(b"vote"), last_index: 9 };
    let mut batch = LogBatch::new();
    batch.push(LogOperation::Append(4, entries(1..60, 50_000)));
    batch.push(LogOperation::State(8, state.clone()));
    batch.push(LogOperation::Append(12, entries(1..30, 10)));
    batch.push(LogOperation::State(12, state));
    batch.push(LogOperation::CompactTo(12, 17));
    log.write(batch, Durability::Synced).expect("writes");
}

fn assert_filled(log: &dyn LogEngine) {
    let expected = crate::engine::log::memory::MemoryLog::new();
    fill(&expected);
    assert_eq!(log.regions().expect("regions"), [4, 8, 12]);
    for region in [4, 8, 12] {
        let bounds = expected.bounds(region).expect("bounds");
        assert_eq!(log.bounds(region).expect("bounds"), bounds);
        assert_eq!(log.state(region).expect("state"), expected.state(region).expect("state"));
        let Some(bounds) = bounds else { continue };
        let all = |log: &dyn LogEngine| {
            log.entries(region, bounds.first, bounds.last + 1, usize::MAX).expect("entries")
        };
        assert!(all(log) == all(&expected), "entries of region {region}");
    }
}

#[test]
fn a_changed_log_engine_moves_the_log_there_and_back() {
    let root = tempfile::tempdir().expect("a directory");
    let (directory, log) = open_log(root.path(), true).expect("opens");
    fill(&*log);
    drop((log, directory));
    for (raft_engine, kind) in [(false, LogKind::Rocksdb), (true, LogKind::RaftEngine)] {
        let (directory, log) = open_log(root.path(), raft_engine).expect("moves");
        assert_eq!(directory.manifest().log, kind);
        assert_filled(&*log);
        let listed = fs::read_dir(root.path().join("raft")).expect("list");
        let names: Vec<_> = listed.map(|entry| entry.expect("entry").file_name()).collect();
        assert_eq!(names, [kind.directory_name()], "the old log is gone");
    }
}

#[test]
fn a_move_of_the_log_that_is_interrupted_anywhere_loses_nothing() {
    let (mut moment, mut seen) = (0, Vec::new());
    loop {
        let root = tempfile::tempdir().expect("a directory");
        let (directory, log) = open_log(root.path(), true).expect("opens");
        fill(&*log);
        drop(log);
        let (config, rocks) = (with_log(false), RocksConfig::small());
        let opener = migrate::Opener { raft_engine: &config, rocks: &rocks };
        let mut passed = 0;
        let crashed = migrate::open(&directory, &opener, &mut |boundary| {
            if passed == moment {
                seen.push(boundary);
                return Err(Error::Engine { operation: "test", reason: "crash".into() });
            }
            passed += 1;
            Ok(())
        });
        let finished = crashed.is_ok();
        drop((crashed, directory));
        // Whichever engine is wanted next: the log is there, whole.
        let (directory, log) = open_log(root.path(), moment % 2 == 0).expect("opens after a crash");
        assert_filled(&*log);
        drop((log, directory));
        let (_directory, log) = open_log(root.path(), false).expect("opens once more");
        assert_filled(&*log);
        if finished {
            break;
        }
        moment += 1;
    }
    use Boundary::{BatchWritten, Copied, Removed, Switched, Verified};
    assert!(seen.iter().filter(|boundary| **boundary == BatchWritten).count() >= 5, "{seen:?}");
    assert_eq!(seen[seen.len() - 4..], [Copied, Verified, Switched, Removed]);
}

#[test]
fn a_used_store_never_starts_without_its_log() {
    for raft_engine in [true, false] {
        let root = tempfile::tempdir().expect("a directory");
        let (directory, log) = open_log(root.path(), raft_engine).expect("opens");
        fs::write(directory.data_path().join("CURRENT"), "MANIFEST-000001\n").expect("write");
        directory.set_identity(FULL).expect("identity");
        let kind = directory.manifest().log;
        drop((log, directory));
        fs::remove_dir_all(root.path().join("raft").join(kind.directory_name())).expect("remove");
        // Neither the engine that held it nor the other one may begin an empty log.
        for wanted in [true, false] {
            let refused = open_log(root.path(), wanted).err().expect("refused").to_string();
            assert!(refused.contains("the raft log is missing"), "{refused}");
        }
    }
}

#[test]
fn a_part_of_another_stores_directory_is_refused() {
    let root = tempfile::tempdir().expect("a directory");
    let purpose = Purpose::replicated_store(&with_log(true));
    let (own, other) = (root.path().join("own"), root.path().join("other"));
    for (path, store_id) in [(&own, 4), (&other, 5)] {
        let directory = DataDirectory::open(path, purpose).expect("opens");
        fs::write(directory.data_path().join("CURRENT"), "MANIFEST-000001\n").expect("write");
        fs::create_dir(path.join("raft")).expect("the log's place");
        let identity = Identity { store_id: Some(store_id), ..FULL };
        directory.set_identity(identity).expect("the first identity");
    }
    for part in ["data", "raft"] {
        fs::rename(own.join(part), root.path().join("aside")).expect("moves");
        fs::rename(other.join(part), own.join(part)).expect("moves");
        let refused = refusal(&own, purpose);
        assert!(refused.contains("store 5 of cluster 71"), "{refused}");
        assert!(refused.contains(&format!("DIR/{part}/")), "{refused}");
        fs::rename(own.join(part), other.join(part)).expect("moves back");
        fs::rename(root.path().join("aside"), own.join(part)).expect("moves back");
    }
    // One from before there were such lines gets them.
    fs::remove_file(own.join("data/skerry-owner")).expect("removes");
    DataDirectory::open(&own, purpose).expect("its own");
    assert!(own.join("data/skerry-owner").exists());
}
