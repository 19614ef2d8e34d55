//! Waits for locks that have ended lately, for people who look for what made transactions slow (`GetLockWaitHistory`).
//! So many of the newest are kept; nothing is decided by them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use skerry_proto::deadlock::WaitForEntry;
use skerry_proto::types::Ts;
use skerry_raftstore::time::{Clock, SystemClock};

use crate::mvcc::Key;
use crate::txn::error::{Error, wait_for_entry};
use crate::txn::lock_waits::Edge;

/// Waits that are kept.
const KEPT_MAX: usize = 512;
/// A longer tag is left out: clients may write what they like.
const TAG_BYTES_MAX: usize = 1_024;

/// See the module. One for a store.
#[derive(Default)]
pub(super) struct PastWaits {
    ended: Mutex<VecDeque<WaitForEntry>>,
}

/// A wait that goes on; it has ended when this is dropped.
pub(super) struct Waiting {
    edge: Edge,
    since: Duration,
    past: Arc<PastWaits>,
}

impl PastWaits {
    /// A transaction waits for the lock that is in its way, if that is what the error says.
    pub(super) fn begin(
        self: &Arc<Self>,
        waiter: Ts,
        in_the_way: &Error,
        tag: &Bytes,
    ) -> Option<Waiting> {
        let Error::Locked { key, lock } = in_the_way else { return None };
        let tag = if tag.len() > TAG_BYTES_MAX { Bytes::new() } else { tag.clone() };
        let edge = Edge { waiter, holder: lock.start_ts, key: Key::of(key), tag, waited_ms: 0 };
        Some(Waiting { edge, since: SystemClock.monotonic(), past: Arc::clone(self) })
    }

    /// The newest last.
    pub(super) fn list(&self) -> Vec<WaitForEntry> {
        self.ended().iter().cloned().collect()
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<WaitForEntry>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let waited = SystemClock.monotonic().saturating_sub(self.since).as_millis();
        self.edge.waited_ms = u64::try_from(waited).unwrap_or(u64::MAX);
        // A key that is none stands in nobody's line.
        let Ok(entry) = wait_for_entry(&self.edge) else { return };
        let mut ended = self.past.ended();
        if ended.len() == KEPT_MAX {
            ended.pop_front();
        }
        ended.push_back(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::{Lock, LockKind};

    #[test]
    fn the_newest_are_kept_and_long_tags_are_not() {
        let past = Arc::<PastWaits>::default();
        let lock = Lock::new(LockKind::Put, Bytes::from("k"), Ts::from(7), 1_000);
        let locked = Error::locked(&Key::of(b"k"), &lock);
        for waiter in 0..KEPT_MAX as u64 + 3 {
            let waiting = past.begin(Ts::from(waiter), &locked, &Bytes::from(vec![1; 2_000]));
            assert!(waiting.is_some());
        }
        assert!(past.begin(Ts::from(1), &Error::Invalid(String::new()), &Bytes::new()).is_none());
        let list = past.list();
        assert_eq!(list.len(), KEPT_MAX);
        let newest = list.last().expect("there are some");
        let expected = (KEPT_MAX as u64 + 2, 7, &b"k"[..]);
        assert_eq!((newest.txn, newest.wait_for_txn, &newest.key[..]), expected);
        assert!(newest.resource_group_tag.is_empty());
        assert_eq!(list[0].txn, 3, "the oldest make room");
    }
}
