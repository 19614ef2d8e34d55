//! The two safe points, and the barriers that whoever needs older data has put before them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name under which clients that drive collection speak of it as of a service.
pub const DRIVER: &str = "gc_worker";

/// Who has put up a barrier. Services of the older calls and barriers of the newer ones are the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BarrierName {
    /// For all keyspaces at once: listed apart, and otherwise the same.
    pub is_global: bool,
    /// As its owner calls it.
    pub name: String,
}

impl BarrierName {
    /// A barrier of the cluster's only scope.
    pub fn of(name: &str) -> BarrierName {
        BarrierName { is_global: false, name: name.to_string() }
    }
}

/// Everything from `ts` on is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// The oldest timestamp that is needed.
    pub ts: u64,
    /// When it falls by itself, in milliseconds since 1970; nothing: never.
    pub expires_ms: Option<u64>,
}

impl Barrier {
    /// One that stands for so many seconds; the largest number is for ever.
    pub fn standing(ts: u64, ttl_seconds: i64, wall_ms: u64) -> Barrier {
        let lasting = u64::try_from(ttl_seconds).unwrap_or(0).checked_mul(1_000);
        let expires_ms =
            lasting.filter(|_| ttl_seconds != i64::MAX).map(|ms| wall_ms.saturating_add(ms));
        Barrier { ts, expires_ms }
    }

    /// Whether it still stands.
    pub fn stands(&self, wall_ms: u64) -> bool {
        self.expires_ms.is_none_or(|expires| wall_ms < expires)
    }

    /// What is left of its time, in seconds as the wire has them: whole ones, so that nobody relies on it for too long.
    pub fn seconds_left(&self, wall_ms: u64) -> i64 {
        let left = |expires: u64| expires.saturating_sub(wall_ms) / 1_000;
        self.expires_ms.map_or(i64::MAX, |expires| i64::try_from(left(expires)).unwrap_or(i64::MAX))
    }
}

/// See the head of this file. **Invariant.** The gc safe point is never above the txn safe point, and neither falls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    txn: u64,
    gc: u64,
    barriers: BTreeMap<BarrierName, Barrier>,
}

impl Marks {
    /// No transaction that began at or below it may read or lock.
    pub fn txn(&self) -> u64 {
        self.txn
    }

    /// Versions that no read at or above it sees may be gone.
    pub fn gc(&self) -> u64 {
        self.gc
    }

    /// Barriers that stand.
    pub fn barriers(&self, wall_ms: u64) -> impl Iterator<Item = (&BarrierName, &Barrier)> {
        self.barriers.iter().filter(move |(_, barrier)| barrier.stands(wall_ms))
    }

    /// Those that have fallen by themselves and are still on disk.
    pub fn fallen(&self, wall_ms: u64) -> impl Iterator<Item = &BarrierName> {
        self.barriers
            .iter()
            .filter(move |(_, barrier)| !barrier.stands(wall_ms))
            .map(|(name, _)| name)
    }

    /// The barrier of that name, if it stands.
    pub fn barrier(&self, name: &BarrierName, wall_ms: u64) -> Option<Barrier> {
        self.barriers.get(name).copied().filter(|barrier| barrier.stands(wall_ms))
    }

    /// The lowest barrier.
    pub fn lowest(&self, wall_ms: u64) -> Option<(&BarrierName, Barrier)> {
        let lowest = self.barriers(wall_ms).min_by_key(|(_, barrier)| barrier.ts);
        lowest.map(|(name, barrier)| (name, *barrier))
    }

    /// How far the txn safe point may rise towards `wanted`, and which barrier holds it if that is not all the way.
    pub fn reach(&self, wanted: u64, wall_ms: u64) -> (u64, Option<&BarrierName>) {
        match self.lowest(wall_ms) {
            Some((name, barrier)) if barrier.ts < wanted => (barrier.ts.max(self.txn), Some(name)),
            _ => (wanted.max(self.txn), None),
        }
    }

    /// Reports that the gc safe point is durable at `gc`, and the other at least there.
    pub fn install_gc(&mut self, gc: u64) {
        assert!(gc >= self.gc, "the gc safe point goes back from {} to {gc}", self.gc);
        self.gc = gc;
        self.txn = self.txn.max(gc);
    }

    /// Reports that the txn safe point is durable at `txn`.
    pub fn install_txn(&mut self, txn: u64) {
        // Rows are read in any order, and the row of the other mark may be above.
        self.txn = self.txn.max(txn);
    }

    /// Reports that a barrier is durable.
    pub fn install_barrier(&mut self, name: BarrierName, barrier: Barrier) {
        self.barriers.insert(name, barrier);
    }

    /// Reports that a barrier is gone.
    pub fn remove_barrier(&mut self, name: &BarrierName) {
        self.barriers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_barrier_that_stands_holds_the_safe_point() {
        let mut marks = Marks::default();
        assert_eq!(marks.reach(90, 0), (90, None));
        marks.install_barrier(BarrierName::of("backup"), Barrier::standing(50, 10, 1_000));
        marks.install_barrier(BarrierName::of("feed"), Barrier::standing(70, i64::MAX, 1_000));
        let (backup, feed) = (BarrierName::of("backup"), BarrierName::of("feed"));
        assert_eq!(marks.reach(90, 10_999), (50, Some(&backup)));
        assert_eq!(marks.reach(40, 10_999), (40, None));
        assert_eq!(marks.reach(90, 11_000), (70, Some(&feed)), "the lower one has expired");
        assert_eq!(marks.fallen(11_000).collect::<Vec<_>>(), [&backup]);
        marks.install_txn(80);
        assert_eq!(marks.reach(90, 11_000), (80, Some(&feed)), "a mark does not fall");
        marks.remove_barrier(&feed);
        assert_eq!(marks.reach(90, 11_000), (90, None));
    }

    #[test]
    fn time_left_is_told_in_whole_seconds() {
        assert_eq!(Barrier::standing(1, 10, 1_000).seconds_left(1_001), 9);
        assert_eq!(Barrier::standing(1, 10, 1_000).seconds_left(90_000), 0);
        assert_eq!(Barrier::standing(1, i64::MAX, 1_000).seconds_left(90_000), i64::MAX);
        assert!(!Barrier::standing(1, 0, 1_000).stands(1_000));
    }

    #[test]
    fn raising_one_mark_takes_the_other_along() {
        let mut marks = Marks::default();
        marks.install_gc(7);
        assert_eq!((marks.gc(), marks.txn()), (7, 7));
        marks.install_txn(5);
        assert_eq!(marks.txn(), 7);
    }
}
