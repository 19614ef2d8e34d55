//! How much data: bytes of keys and values, and how many keys.

use std::ops::{Add, AddAssign, Div};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::ColumnFamily;

/// What is known of a region's extent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// What it is, roughly.
    pub extent: Extent,
    /// Whether it was measured, and everything that was written since was added: then it is not larger, or hardly.
    pub is_bound: bool,
}

/// See the module. Of a region it is an estimate: writes are added as they come, and it is corrected when the
/// region is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Of keys and values.
    pub bytes: u64,
    /// How many.
    pub keys: u64,
    /// How many of them are records of commits.
    pub records: u64,
}

impl Extent {
    /// That of one pair, or of one that is removed, which is not known to have been there.
    pub fn of_pair(family: ColumnFamily, bytes: u64) -> Extent {
        Extent { bytes, keys: 1, records: u64::from(family == ColumnFamily::Write) }
    }

    /// What is made of the same pairs as this, and has so many bytes.
    pub fn with_bytes(self, bytes: u64) -> Extent {
        let scaled = |count| scale(count, bytes, self.bytes);
        Extent { bytes, keys: scaled(self.keys), records: scaled(self.records) }
    }
}

/// `count` of `whole`, for a part of it. Nothing has only parts that are nothing.
pub fn scale(count: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(count) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// What is read or written in a while: counted by any thread, and taken by the one that reports it. Counting costs
/// two additions without an order: the numbers may be of slightly different moments, and only comfort rests on them.
#[derive(Debug, Default)]
pub struct FlowTally {
    bytes: AtomicU64,
    keys: AtomicU64,
}

impl FlowTally {
    /// So many keys more, with so many bytes of keys and values.
    pub fn count(&self, keys: u64, bytes: u64) {
        self.keys.fetch_add(keys, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many keys were counted since they were taken.
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Relaxed)
    }

    /// What was counted since the last time.
    pub fn take(&self) -> Extent {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        let keys = self.keys.swap(0, Ordering::Relaxed);
        Extent { bytes, keys, records: 0 }
    }
}

impl AddAssign for Extent {
    fn add_assign(&mut self, other: Extent) {
        self.bytes += other.bytes;
        self.keys += other.keys;
        self.records += other.records;
    }
}

impl Add for Extent {
    type Output = Extent;

    fn add(mut self, other: Extent) -> Extent {
        self += other;
        self
    }
}

impl Div<u64> for Extent {
    type Output = Extent;

    fn div(self, parts: u64) -> Extent {
        let Extent { bytes, keys, records } = self;
        Extent { bytes: bytes / parts, keys: keys / parts, records: records / parts }
    }
}
