//! What the machine can do without anybody: one `fdatasync`, RocksDB as a plain library. Taken before and after each
//! round, so that ratios stand beside it and a machine that changed its mind is found out.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skerry_raftstore::time::{Clock, SystemClock, splitmix64};

use super::Result;
use crate::{SyncProbe, in_parallel, key, plain_rocks, synced, value};

/// Syncs that are timed.
const SYNCS: usize = 300;
/// Threads that share RocksDB's synced writes, and how many each does.
const WRITERS: u64 = 64;
const WRITES: u64 = 300;
/// Pairs that are there for reads, and how many reads and scanned pairs there are.
const PAIRS: u64 = 50_000;
const READS: u64 = 100_000;
const SCANNED: usize = 500_000;
/// Bytes of a value.
const VALUE_BYTES: usize = 100;

/// One look.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct References {
    /// The median of an append of 128 bytes and its `fdatasync`, in microseconds.
    pub fdatasync_us: f64,
    /// Synced puts of 64 threads a second.
    pub rocks_puts: f64,
    /// Gets of one thread a second, from memory.
    pub rocks_gets: f64,
    /// Pairs that one thread's iterator passes a second.
    pub rocks_scanned: f64,
}

impl References {
    /// Takes all of them, in about two seconds.
    pub fn take(scratch: &Path) -> Result<References> {
        let directory = tempfile::Builder::new().prefix("skerry-reference-").tempdir_in(scratch);
        let directory = directory.map_err(|error| format!("{}: {error}", scratch.display()))?;
        let rocks = plain_rocks(&directory.path().join("rocks"));
        let writes = in_parallel(WRITERS, WRITERS * WRITES, |_, number| {
            let value = value(number, VALUE_BYTES);
            rocks.put_opt(key(number % PAIRS), value, &synced()).expect("the disk takes it");
        });
        for number in 0..PAIRS {
            rocks.put(key(number), value(number, VALUE_BYTES)).expect("the disk takes it");
        }
        // Into a file, as most of a database's pairs are.
        rocks.flush().expect("the disk takes it");
        let reads = in_parallel(1, READS, |_, number| {
            let found = rocks.get_pinned(key(splitmix64(number) % PAIRS)).expect("it is open");
            assert!(found.is_some(), "it was put there");
        });
        Ok(References {
            fdatasync_us: fdatasync_us(directory.path()),
            rocks_puts: (WRITERS * WRITES) as f64 / writes.as_secs_f64(),
            rocks_gets: READS as f64 / reads.as_secs_f64(),
            rocks_scanned: SCANNED as f64 / scanned(&rocks).as_secs_f64(),
        })
    }
}

fn fdatasync_us(directory: &Path) -> f64 {
    let clock = SystemClock;
    let mut probe = SyncProbe::new(directory);
    let once = |_| {
        let began = clock.monotonic();
        probe.sync_once();
        (clock.monotonic() - began).as_secs_f64() * 1e6
    };
    let mut times: Vec<f64> = (0..SYNCS).map(once).collect();
    times.sort_by(f64::total_cmp);
    times[SYNCS / 2]
}

fn scanned(rocks: &rocksdb::DB) -> Duration {
    let clock = SystemClock;
    let began = clock.monotonic();
    let mut left = SCANNED;
    while left > 0 {
        let pairs = rocks.iterator(rocksdb::IteratorMode::Start).take(left);
        left -= pairs.filter(std::result::Result::is_ok).count();
    }
    clock.monotonic() - began
}
