//! The process whose power `tests/power_loss.rs` cuts: it writes numbered records to one engine and says
//! on stdout, a line each, what it found and what it has acknowledged.
//!
//! `power_loss_writer ENGINE DIRECTORY WRITES [--without-sync]`, where ENGINE is `data`, `raft-engine`,
//! `rocks-log`, `moving-log` (the engine changes at every start) or `files`. Each of a few threads checks
//! all it wrote in earlier lives, then writes on behind it. What it writes can be checked without knowing
//! the past:
//!
//! * **no hole**: records of a thread are numbered, so a lost one with a present successor shows;
//! * **no half**: each batch writes the same number in several places, which must agree;
//! * **no change**: the content of a record follows from its thread and number.
//!
//! Anything else ends the process with a message on stderr.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::Entry;
use skerry_proto::raft_serverpb::RaftLocalState;
use skerry_raftstore::config::{ByteSize, RaftEngineConfig, RocksConfig};
use skerry_raftstore::engine::directory::{DataDirectory, Identity, LogKind, Purpose};
use skerry_raftstore::engine::log::{LogBatch, LogEngine, LogOperation};
use skerry_raftstore::engine::rocks::RocksEngine;
use skerry_raftstore::engine::{ColumnFamily, Durability, Engine, KeyRange, WriteBatch};
use skerry_raftstore::time::splitmix64;

/// Concurrent writers, so that syncs are shared.
const THREADS: u64 = 3;
/// Entries that a thread keeps in its log when it compacts.
const ENTRIES_KEPT: u64 = 40;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [engine, directory, writes, ..] = &arguments[..] else {
        panic!("usage: power_loss_writer ENGINE DIRECTORY WRITES [--without-sync]")
    };
    let directory = Path::new(directory);
    let writes: u64 = writes.parse().expect("a number of writes");
    let durability = match arguments.get(3).map(String::as_str) {
        Some("--without-sync") => Durability::Buffered,
        None => Durability::Synced,
        Some(other) => panic!("{other} is no option"),
    };
    println!("opening");
    let data = || DataRecords::open(directory, rocks(durability));
    let log = |kind: fn(LogKind) -> LogKind| LogRecords::open(directory, durability, kind);
    match &engine[..] {
        "data" => write_records(&data(), writes, durability),
        "raft-engine" => write_records(&log(|_| LogKind::RaftEngine), writes, durability),
        "rocks-log" => write_records(&log(|_| LogKind::Rocksdb), writes, durability),
        "moving-log" => write_records(&log(the_other), writes, durability),
        "files" => change_files(directory),
        other => panic!("{other} is no engine"),
    }
}

fn the_other(kind: LogKind) -> LogKind {
    if kind == LogKind::RaftEngine { LogKind::Rocksdb } else { LogKind::RaftEngine }
}

/// Files so small that a few hundred records fill several. Not where nothing is to be synced: an engine
/// syncs a file that is full.
fn rocks(durability: Durability) -> RocksConfig {
    match durability {
        Durability::Synced => {
            RocksConfig { write_buffer_size: ByteSize::kib(256), ..RocksConfig::small() }
        }
        Durability::Buffered => RocksConfig::default(),
    }
}

/// The same for raft-engine.
fn raft_engine(durability: Durability) -> RaftEngineConfig {
    match durability {
        Durability::Synced => RaftEngineConfig {
            target_file_size: ByteSize::kib(64),
            purge_threshold: ByteSize::kib(128),
            ..RaftEngineConfig::default()
        },
        Durability::Buffered => RaftEngineConfig::default(),
    }
}

/// Numbered records of several threads.
trait Records: Sync {
    /// Checks all records of a thread; answers the number of the last.
    fn check(&self, thread: u64) -> u64;

    /// Writes one record.
    fn write(&self, thread: u64, number: u64, durability: Durability);
}

fn write_records(records: &dyn Records, writes: u64, durability: Durability) {
    let found: Vec<u64> = (0..THREADS).map(|thread| records.check(thread)).collect();
    for (thread, last) in found.iter().enumerate() {
        println!("found {thread} {last}");
    }
    println!("ready");
    std::thread::scope(|scope| {
        for (thread, last) in (0..).zip(found) {
            scope.spawn(move || {
                for number in last + 1..=last + writes {
                    records.write(thread, number, durability);
                    println!("acknowledged {thread} {number}");
                }
            });
        }
    });
}

/// The content of a record: of changing length, and nothing that compresses.
fn content(thread: u64, number: u64) -> Bytes {
    let mut mixed = splitmix64(thread << 32 | number);
    let length = 20 + mixed % 1_000;
    let mut content = Vec::new();
    while (content.len() as u64) < length {
        mixed = splitmix64(mixed);
        content.extend_from_slice(&mixed.to_le_bytes());
    }
    content.into()
}

/// Records in the data engine: two families and a counter.
struct DataRecords {
    engine: RocksEngine,
    _directory: DataDirectory,
}

const FAMILIES: [ColumnFamily; 2] = [ColumnFamily::Default, ColumnFamily::Raw];

impl DataRecords {
    fn open(path: &Path, config: RocksConfig) -> DataRecords {
        let directory =
            DataDirectory::open(path, Purpose::STANDALONE_STORE).expect("the directory opens");
        let engine = RocksEngine::open(&directory.data_path(), &config, None);
        let engine = engine.expect("the data engine opens");
        directory.set_identity(identity()).expect("the directory is ours");
        DataRecords { engine, _directory: directory }
    }

    fn key(thread: u64, number: u64) -> Bytes {
        format!("record/{thread}/{number:08}").into()
    }

    fn counter(thread: u64) -> Bytes {
        format!("counter/{thread}").into()
    }
}

impl Records for DataRecords {
    fn check(&self, thread: u64) -> u64 {
        let counter = self.engine.get(ColumnFamily::Raft, &DataRecords::counter(thread));
        let counter = counter.expect("a counter is read");
        let last = counter.map_or(0, |bytes| {
            u64::from_be_bytes(bytes[..].try_into().expect("a counter has eight bytes"))
        });
        let view = self.engine.view();
        for family in FAMILIES {
            let all = KeyRange::new(DataRecords::key(thread, 0), DataRecords::key(thread + 1, 0));
            let mut cursor = view.cursor(family, &all).expect("a cursor");
            let mut found = 0;
            let mut stands = cursor.seek_to_first().expect("a seek");
            while stands {
                found += 1;
                let expected = DataRecords::key(thread, found);
                assert_eq!(cursor.key(), &expected[..], "thread {thread}: a hole in {family}");
                assert!(cursor.value() == content(thread, found), "{expected:?} changed");
                stands = cursor.next().expect("a step");
            }
            assert_eq!(found, last, "thread {thread}: half a batch in {family}");
        }
        last
    }

    fn write(&self, thread: u64, number: u64, durability: Durability) {
        let mut batch = WriteBatch::new();
        for family in FAMILIES {
            batch.put(family, DataRecords::key(thread, number), content(thread, number));
        }
        let counter = number.to_be_bytes().to_vec();
        batch.put(ColumnFamily::Raft, DataRecords::counter(thread), counter);
        self.engine.write(batch, durability).expect("a write");
    }
}

/// Records in a raft log: entries of two regions for each thread, and their states.
struct LogRecords {
    log: Arc<dyn LogEngine>,
    _directory: DataDirectory,
}

impl LogRecords {
    /// Opens the log in the engine that `kind` wants, given where it is.
    fn open(path: &Path, durability: Durability, kind: fn(LogKind) -> LogKind) -> LogRecords {
        let mut config = raft_engine(durability);
        let directory = DataDirectory::open(path, Purpose::replicated_store(&config));
        let directory = directory.expect("the directory opens");
        config.enable = kind(directory.manifest().log) == LogKind::RaftEngine;
        let log = directory.open_log(&config, &rocks(durability)).expect("the raft log opens");
        LogRecords { log, _directory: directory }
    }

    fn regions(thread: u64) -> [u64; 2] {
        [2 * thread + 1, 2 * thread + 2]
    }
}

impl Records for LogRecords {
    fn check(&self, thread: u64) -> u64 {
        let found = LogRecords::regions(thread).map(|region| {
            let bounds = self.log.bounds(region).expect("bounds are read");
            let state = self.log.state(region).expect("a state is read");
            let last = bounds.map_or(0, |bounds| bounds.last);
            assert_eq!(state.map_or(0, |state| state.last_index), last, "region {region}");
            let Some(bounds) = bounds else { return 0 };
            assert!(bounds.first <= last.saturating_sub(ENTRIES_KEPT) + 1, "region {region}");
            let entries = self.log.entries(region, bounds.first, last + 1, usize::MAX);
            for entry in entries.expect("entries are read") {
                assert!(entry.data == content(thread, entry.index), "{region}: {}", entry.index);
            }
            last
        });
        assert_eq!(found[0], found[1], "thread {thread}: half a batch");
        found[0]
    }

    fn write(&self, thread: u64, number: u64, durability: Durability) {
        let mut batch = LogBatch::new();
        for region in LogRecords::regions(thread) {
            let data = content(thread, number);
            let entry = Entry { index: number, term: 1, data, ..Entry::default() };
            batch.push(LogOperation::Append(region, vec![entry]));
            let state = RaftLocalState { last_index: number, ..RaftLocalState::default() };
            batch.push(LogOperation::State(region, state));
            if number.is_multiple_of(32) && number > ENTRIES_KEPT {
                batch.push(LogOperation::CompactTo(region, number - ENTRIES_KEPT + 1));
            }
        }
        self.log.write(batch, durability).expect("a write");
        if number.is_multiple_of(64) {
            self.log.purge().expect("a purge");
        }
    }
}

/// Once a directory is known to a cluster, a missing engine is an error: so lost names show.
fn identity() -> Identity {
    Identity { cluster_id: Some(7), store_id: Some(1), api_version: Some(1) }
}

/// A little of everything that the library under test has to see, then waits for its death.
fn change_files(root: &Path) {
    use std::fs::{self, File};
    use std::io::Write;
    let sync = |path: &Path| File::open(path).and_then(|folder| folder.sync_all()).expect("sync");
    let make = |name: &str, synced: &[u8], unsynced: &[u8]| {
        let mut file = File::create(root.join(name)).expect("create");
        file.write_all(synced).expect("write");
        file.sync_data().expect("sync");
        file.write_all(unsynced).expect("write");
        file
    };
    make("kept", b"synced", b" and not");
    make("renamed", b"one", b"");
    fs::rename(root.join("kept"), root.join("kept-for-good")).expect("rename");
    let shrunk = make("shrunk", b"long before", b"");
    shrunk.set_len(4).expect("truncate");
    let grown = make("regrown", b"abcdefgh", b"");
    grown.set_len(4).expect("truncate");
    grown.set_len(6).expect("truncate");
    grown.sync_all().expect("sync");
    fs::create_dir(root.join("folder")).expect("create");
    make("folder/inside", b"inside", b"");
    sync(root);
    make("folder/unnamed", b"synced, but its name is not", b"");
    fs::rename(root.join("renamed"), root.join("renamed-too-late")).expect("rename");
    fs::remove_file(root.join("shrunk")).expect("remove");
    make("new", b"new", b"");
    println!("ready");
    let _ = std::io::stdin().read_line(&mut String::new());
}
