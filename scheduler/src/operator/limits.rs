//! How many replicas may be begun on a store, and taken from it, in a minute: a bucket of tokens for each.
//!
//! A replica of usual size costs a whole token, a smaller one less, an empty one a tenth: that it changes its place
//! costs more than its bytes, and clients want to work meanwhile. A bucket holds what comes in half a minute, so that a
//! store that was at rest may begin quickly.

use std::collections::BTreeMap;

use skerry_proto::types::StoreId;

use crate::moment::Moment;

/// MiB from which on a replica costs a whole token.
const USUAL_SIZE_MIB: u64 = 20;

/// What a replica counts as at least.
const SMALLEST_MIB: u64 = 2;

/// Parts of a token.
const TOKEN: u64 = 1_000;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Replicas that come.
    Add,
    /// Replicas that go.
    Remove,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    parts: u64,
    at: Moment,
}

/// All buckets. One that is not there is full.
#[derive(Debug, Default)]
pub struct StoreLimits {
    buckets: BTreeMap<(StoreId, Way), Bucket>,
}

impl StoreLimits {
    /// Whether a replica of this size may come or go now, at so many a minute.
    pub fn allows(&self, store: StoreId, way: Way, size_mib: u64, rate: u32, now: Moment) -> bool {
        self.parts(store, way, rate, now) >= cost(size_mib).min(room(rate))
    }

    /// Takes what the replica costs; a bucket may be left empty, never in debt.
    pub fn take(&mut self, store: StoreId, way: Way, size_mib: u64, rate: u32, now: Moment) {
        let parts = self.parts(store, way, rate, now).saturating_sub(cost(size_mib));
        self.buckets.insert((store, way), Bucket { parts, at: now });
    }

    fn parts(&self, store: StoreId, way: Way, rate: u32, now: Moment) -> u64 {
        let Some(bucket) = self.buckets.get(&(store, way)) else { return room(rate) };
        let elapsed_ms = u64::try_from(now.since(bucket.at).as_millis()).unwrap_or(u64::MAX);
        let gained = elapsed_ms.saturating_mul(u64::from(rate) * TOKEN) / 60_000;
        bucket.parts.saturating_add(gained).min(room(rate))
    }
}

fn cost(size_mib: u64) -> u64 {
    TOKEN * size_mib.clamp(SMALLEST_MIB, USUAL_SIZE_MIB) / USUAL_SIZE_MIB
}

fn room(rate: u32) -> u64 {
    (u64::from(rate) * TOKEN / 2).max(TOKEN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const STORE: StoreId = StoreId::new(4);

    fn at(seconds: u64) -> Moment {
        Moment { monotonic: Duration::from_secs(seconds), wall_ms: 0 }
    }

    /// How many replicas can be begun at a moment.
    fn begun(limits: &mut StoreLimits, size_mib: u64, now: Moment) -> usize {
        let mut count = 0;
        while limits.allows(STORE, Way::Add, size_mib, 10, now) {
            limits.take(STORE, Way::Add, size_mib, 10, now);
            count += 1;
        }
        count
    }

    #[test]
    fn a_store_takes_as_many_replicas_as_its_rate_allows() {
        let mut limits = StoreLimits::default();
        assert_eq!(begun(&mut limits, 96, at(0)), 5, "half a minute's worth at once");
        assert_eq!(begun(&mut limits, 96, at(5)), 0);
        assert_eq!(begun(&mut limits, 96, at(6)), 1);
        assert_eq!(begun(&mut limits, 96, at(18)), 2);
        assert_eq!(begun(&mut limits, 96, at(500)), 5, "rest does not add up for ever");
        assert!(limits.allows(STORE, Way::Remove, 96, 10, at(500)), "each way has its own");
        assert!(limits.allows(StoreId::new(5), Way::Add, 96, 10, at(500)));
    }

    #[test]
    fn small_replicas_cost_little() {
        let mut limits = StoreLimits::default();
        assert_eq!(begun(&mut limits, 1, at(0)), 50);
        assert_eq!(begun(&mut limits, 10, at(60)), 10);
    }
}
