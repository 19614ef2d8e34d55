//! What reads and shortcut commits must know of each other: the highest timestamp that was read, and locks that are not
//! written yet.
//!
//! In two phases a commit timestamp is drawn from the scheduler after all locks stand, so every read below it met a
//! lock. Async commit and one-phase commit choose it on the store, *while* they write their locks. It must lie above
//! every read that did not see those locks:
//!
//! | | a reader at `ts` | a writer |
//! | --- | --- | --- |
//! | 1 | raises `max_ts` to `ts` | takes its latches and its view, checks everything |
//! | 2 | is refused if a lock in memory is in its way | in one step: reads `max_ts`, shows its locks ([`Published`]) |
//! | 3 | takes its view | writes; when that is done, takes its locks out of memory |
//!
//! **Invariant.** Whichever of reader's 2 and writer's 2 comes first: if the writer's, the reader meets the lock; if
//! the reader's, `max_ts` was raised before, and the writer commits above `ts`. A lock leaves memory only when views
//! show it.
//!
//! Both sides are in the same order only on one store: a new leader must learn a timestamp above all reads of its
//! predecessors before it publishes ([`crate::txn::WriteCommand::needs_fresh_max_ts`]).
//!
//! What it does not do: nobody waits here. Regions matter only to reads at other replicas, which ask about a whole one.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use skerry_proto::metapb;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::KeyRange;
use skerry_raftstore::keys::data_range;
use skerry_raftstore::outside::ReadGuard;

use super::error::{Error, Result};
use super::planted::Planted;
use crate::mvcc::{Key, Lock, Meeting, ReadRules};

/// One for a store.
#[derive(Debug, Default)]
pub struct Concurrency {
    /// The highest timestamp that somebody has read at.
    max_ts: AtomicU64,
    /// Locks that are being written. At most one transaction has one for a key, because it has the key's latch.
    locks: RwLock<BTreeMap<Key, Arc<Lock>>>,
    /// How many there are. Changes under `locks`, and is read without it: nearly always there are none.
    count: AtomicUsize,
    /// The bug that a test has planted.
    planted: Option<Planted>,
}

impl Concurrency {
    /// Nothing was read and nothing is being written.
    pub fn new() -> Arc<Concurrency> {
        Arc::new(Concurrency::default())
    }

    /// The same, with a bug.
    pub fn with_planted(planted: Option<Planted>) -> Arc<Concurrency> {
        Arc::new(Concurrency { planted, ..Concurrency::default() })
    }

    /// The bug that a test has planted.
    pub fn planted(&self) -> Option<Planted> {
        self.planted
    }

    /// The highest timestamp that somebody has read at.
    pub fn max_ts(&self) -> Ts {
        Ts::from(self.max_ts.load(Ordering::SeqCst))
    }

    /// Makes every shortcut commit from now on choose a timestamp above `ts`. [`Ts::MAX`] means *the newest* and raises
    /// nothing: such a read meets every lock that may be committed.
    pub fn raise_max_ts(&self, ts: Ts) {
        if ts != Ts::MAX && self.planted != Some(Planted::MaxTsNotRaised) {
            self.max_ts.fetch_max(ts.get(), Ordering::SeqCst);
        }
    }

    /// Refuses a read of `key` that a lock in memory stands in the way of. Call after [`Concurrency::raise_max_ts`].
    pub fn check_key(&self, key: &Key, rules: &ReadRules) -> Result<()> {
        // Sequential consistency of `count` and `max_ts` carries the invariant: a writer that is not counted yet will
        // see our timestamp.
        if self.count.load(Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let lock = self.read().get(key).cloned();
        lock.map_or(Ok(()), |lock| meet(key, &lock, rules))
    }

    /// As [`Concurrency::check_key`] for all keys in a range of data keys.
    pub fn check_range(&self, range: &KeyRange, rules: &ReadRules) -> Result<()> {
        self.locks_in(range).iter().try_for_each(|(key, lock)| meet(key, lock, rules))
    }

    /// All locks in memory in a range of data keys, by key.
    pub fn locks_in(&self, range: &KeyRange) -> Vec<(Key, Arc<Lock>)> {
        if self.count.load(Ordering::SeqCst) == 0 || range.is_empty() {
            return Vec::new();
        }
        let (start, end) = (Key::from_engine(&range.start), Key::from_engine(&range.end));
        let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(&end) };
        let locks = self.read();
        let inside = locks.range::<Key, _>((Bound::Included(&start), end));
        inside.map(|(key, lock)| (key.clone(), lock.clone())).collect()
    }

    /// Whether a lock in memory in a range of data keys may commit at or below `ts`.
    pub fn may_commit_below(&self, range: &KeyRange, ts: Ts) -> bool {
        let is_below = |lock: &Lock| lock.start_ts <= ts && lock.min_commit_ts <= ts;
        self.locks_in(range).iter().any(|(_, lock)| is_below(lock))
    }

    /// Raises `min_commit_ts` of all locks to one timestamp above all reads so far, not below `at_least`, and shows the
    /// locks to all reads that follow; they stay until what is answered is dropped. Nothing happens and nothing is
    /// answered if that timestamp would be above `max_commit_ts` (0: no bound). The caller has the latches of all keys.
    pub fn publish(
        self: &Arc<Self>,
        locks: Vec<(Key, Lock)>,
        at_least: Ts,
        max_commit_ts: Ts,
    ) -> Option<Published> {
        let mut table = self.write();
        // Counted before `max_ts` is read: see `check_key`.
        self.count.fetch_add(locks.len(), Ordering::SeqCst);
        let above = match self.planted {
            Some(Planted::CommitAtRead) => self.max_ts(),
            _ => self.max_ts().next(),
        };
        let floor = above.max(at_least);
        let min_commit_ts = locks.iter().map(|(_, lock)| lock.min_commit_ts).fold(floor, Ts::max);
        if max_commit_ts != Ts::ZERO && min_commit_ts > max_commit_ts {
            self.count.fetch_sub(locks.len(), Ordering::SeqCst);
            return None;
        }
        let mut keys = Vec::with_capacity(locks.len());
        for (key, lock) in locks {
            let lock = Arc::new(Lock { min_commit_ts, ..lock });
            let earlier = table.insert(key.clone(), lock);
            assert!(earlier.is_none(), "{key:?} is published twice: its latch is not held");
            keys.push(key);
        }
        Some(Published { concurrency: self.clone(), keys, min_commit_ts })
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Key, Arc<Lock>>> {
        self.locks.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Key, Arc<Lock>>> {
        self.locks.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn meet(key: &Key, lock: &Lock, rules: &ReadRules) -> Result<()> {
    match rules.meet(key, lock)? {
        Meeting::Pass => Ok(()),
        // What such a lock holds is not in any view yet, so it cannot be seen through either.
        Meeting::Blocked | Meeting::SeeThrough => Err(Error::locked(key, lock)),
    }
}

impl ReadGuard for Concurrency {
    /// Reader's 1 and 2 for a read at another replica. Who is in its way is not told but waited for: its lock will be
    /// in the log.
    fn prepare(&self, region: &metapb::Region, timestamp: u64) -> bool {
        let ts = Ts::from(timestamp);
        self.raise_max_ts(ts);
        let (start, end) = data_range(&region.start_key, &region.end_key);
        !self.may_commit_below(&KeyRange { start, end }, ts)
    }
}

/// Locks that are being written. Keep it until the write is done, whatever its end; unknown is an end only when
/// nobody can apply the write any more.
#[derive(Debug)]
pub struct Published {
    concurrency: Arc<Concurrency>,
    keys: Vec<Key>,
    min_commit_ts: Ts,
}

impl Published {
    /// What all these locks have as the lower bound of their commit: above every read that did not see them.
    pub fn min_commit_ts(&self) -> Ts {
        self.min_commit_ts
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let mut table = self.concurrency.write();
        for key in &self.keys {
            table.remove(key);
        }
        self.concurrency.count.fetch_sub(self.keys.len(), Ordering::SeqCst);
    }
}
