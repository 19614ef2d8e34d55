//! What the benchmarks share: data, threads, and the references that every figure stands beside.
//!
//! Absolute figures on a shared machine mean little. So each group of benchmarks measures, in the same
//! run and next to ours, what the machine can do without us: one `fdatasync` of a small write
//! ([`SyncProbe`]) and RocksDB as a plain library with the same batch ([`plain_rocks`]). Ratios are
//! what `docs/benchmarks.md` reports.
//!
//! Values are random bytes, so that compression does not flatter anybody.

pub mod compare;
pub mod page;
pub mod profile;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use skerry_proto::metapb::Region;
use skerry_proto::types::RegionId;
use skerry_raftstore::engine::{ColumnFamily, WriteBatch};
use skerry_raftstore::keys::data_key;
use skerry_raftstore::message::{Command, CommandContext, CommandKind, Written};
use skerry_raftstore::reply::Reply;
use skerry_raftstore::time::{Clock, SystemClock, splitmix64};

/// Bytes of a value in every benchmark that does not say otherwise.
pub const VALUE_BYTES: usize = 100;

/// The key of pair `number`: short, of one length, spread over the whole key space.
pub fn key(number: u64) -> Vec<u8> {
    let mut key = b"z-bench-".to_vec();
    key.extend_from_slice(&splitmix64(number).to_be_bytes());
    key
}

/// `bytes` random bytes that belong to `number`.
pub fn value(number: u64, bytes: usize) -> Vec<u8> {
    let words = (0..).map(|word| splitmix64(number ^ splitmix64(word)));
    words.flat_map(u64::to_le_bytes).take(bytes).collect()
}

/// A put of pair `number` into one of the regions that `skerry_tests::local_cluster::even_regions` makes, whose
/// boundaries have two bytes.
pub fn put_into(
    region: &Region,
    number: u64,
    value_bytes: usize,
    reply: Reply<Written>,
) -> Command {
    let mut user_key = region.start_key.to_vec();
    user_key.resize(2, 0);
    user_key.extend_from_slice(&splitmix64(number).to_be_bytes());
    let mut batch = WriteBatch::new();
    batch.put(ColumnFamily::Raw, data_key(&user_key), value(number, value_bytes));
    let context = CommandContext {
        region_id: RegionId::new(region.id),
        epoch: region.epoch(),
        ..CommandContext::default()
    };
    Command { context, kind: CommandKind::Write { batch, reply } }
}

/// Appends a small record to a file and syncs it: the least that any acknowledged write can cost here.
#[derive(Debug)]
pub struct SyncProbe {
    file: File,
}

impl SyncProbe {
    /// A probe on the disk of `directory`.
    pub fn new(directory: &Path) -> SyncProbe {
        let file = File::create(directory.join("probe")).expect("the directory was just made");
        SyncProbe { file }
    }

    /// One write of a record with its sync.
    pub fn sync_once(&mut self) {
        self.file.write_all(&[7; 128]).expect("the disk takes 128 bytes");
        self.file.sync_data().expect("the disk syncs");
    }
}

/// RocksDB as it comes, with its defaults: what our data engine is compared with.
pub fn plain_rocks(directory: &Path) -> rocksdb::DB {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    rocksdb::DB::open(&options, directory).expect("an empty directory opens")
}

/// How a plain RocksDB write is made durable.
pub fn synced() -> rocksdb::WriteOptions {
    let mut options = rocksdb::WriteOptions::default();
    options.set_sync(true);
    options
}

/// Runs `work(thread, iteration)` `iterations` times in all, spread over `threads` threads that start
/// together; answers how long all of it took.
pub fn in_parallel(
    threads: u64,
    iterations: u64,
    work: impl Fn(u64, u64) + Send + Sync,
) -> Duration {
    let clock = SystemClock;
    let start = Barrier::new(usize::try_from(threads).expect("few threads") + 1);
    let mut began = Duration::ZERO;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                for iteration in (thread..iterations).step_by(threads as usize) {
                    work(thread, iteration);
                }
            });
        }
        start.wait();
        began = clock.monotonic();
    });
    clock.monotonic() - began
}
