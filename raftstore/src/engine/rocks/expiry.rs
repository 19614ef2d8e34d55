//! Pairs of family `raw` that have expired leave when their file is merged: a compaction filter.
//!
//! Readers hide expired pairs at once and on their own; this only gives the space back. What it may
//! do:
//!
//! * It removes a pair only when its expiry lies before the clock's second, so never one that a
//!   reader with the same clock would still show. The clock is read once for each merge.
//! * It cannot bring an older value back: RocksDB turns a removed pair into a deletion, which hides
//!   what lies in older files until it is merged with the last of them.
//! * It ignores views, as all compaction filters do: an expired pair may vanish from under one.

use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

use rocksdb::CompactionDecision;
use rocksdb::compaction_filter::CompactionFilter;
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::time::Clock;

/// How to tell that a stored value of family `raw` has expired.
#[derive(Clone)]
pub struct RawExpiry {
    /// Whose calendar counts.
    pub clock: Arc<dyn Clock>,
    /// The second since 1970 at which a stored value expires; nothing when it never does or when
    /// these bytes cannot be read, which is for readers to report.
    pub expiry_seconds: fn(&[u8]) -> Option<u64>,
}

impl fmt::Debug for RawExpiry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("RawExpiry")
    }
}

/// Makes one filter for each merge.
pub(super) struct ExpiryFilters {
    expiry: RawExpiry,
}

impl ExpiryFilters {
    pub(super) fn new(expiry: RawExpiry) -> ExpiryFilters {
        ExpiryFilters { expiry }
    }
}

impl CompactionFilterFactory for ExpiryFilters {
    type Filter = ExpiryFilter;

    fn create(&mut self, _: CompactionFilterContext) -> ExpiryFilter {
        let now_seconds = self.expiry.clock.wall_ms() / 1000;
        ExpiryFilter { now_seconds, expiry_seconds: self.expiry.expiry_seconds }
    }

    fn name(&self) -> &CStr {
        c"skerry.raw-expiry"
    }
}

/// The filter of one merge.
pub(super) struct ExpiryFilter {
    now_seconds: u64,
    expiry_seconds: fn(&[u8]) -> Option<u64>,
}

impl CompactionFilter for ExpiryFilter {
    fn filter(&mut self, _level: u32, _key: &[u8], value: &[u8]) -> CompactionDecision {
        match (self.expiry_seconds)(value) {
            Some(expiry) if expiry < self.now_seconds => CompactionDecision::Remove,
            _ => CompactionDecision::Keep,
        }
    }

    fn name(&self) -> &CStr {
        c"skerry.raw-expiry"
    }
}
