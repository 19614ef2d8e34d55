//! ScanLock: lists the locks of transactions that began at or below a timestamp, for whoever is about to end them:
//! before old versions are dropped no transaction may be left that could still read or commit below.
//!
//! Locks that are only in memory are listed too: they will stand when their write is done. Those of one-phase commits
//! are not: they never stand, and commit above every timestamp that was read, this one included.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use skerry_proto::types::Ts;
use skerry_raftstore::engine::ColumnFamily;

use super::concurrency::Concurrency;
use super::error::Result;
use super::{ReadCommand, range_in, range_of};
use crate::mvcc::{Key, Lock};
use crate::storage::RegionView;

/// See the head of this file.
#[derive(Clone, Debug)]
pub struct ScanLock {
    /// Start timestamps up to and with this.
    pub max_ts: Ts,
    /// The lower bound, as the client sent it; empty for the region's.
    pub start: Bytes,
    /// The upper bound, outside. Empty, or behind the region: the region's end.
    pub end: Bytes,
    /// Locks after which the list ends; 0 for all.
    pub limit: usize,
    in_memory: Vec<(Key, Arc<Lock>)>,
}

impl ScanLock {
    /// A list of the locks in a range.
    pub fn new(max_ts: Ts, start: Bytes, end: Bytes, limit: usize) -> ScanLock {
        ScanLock { max_ts, start, end, limit, in_memory: Vec::new() }
    }
}

impl ReadCommand for ScanLock {
    /// Keys with their locks, in the order of keys.
    type Answer = Vec<(Key, Lock)>;

    fn raises_to(&self) -> Ts {
        self.max_ts
    }

    fn meet_locks(&mut self, concurrency: &Concurrency) -> Result<()> {
        self.in_memory = concurrency.locks_in(&range_of(&self.start, &self.end));
        Ok(())
    }

    fn run(&self, view: &RegionView) -> Result<Vec<(Key, Lock)>> {
        let Some(range) = range_in(view, &self.start, &self.end) else { return Ok(Vec::new()) };
        let limit = if self.limit == 0 { usize::MAX } else { self.limit };
        let wanted = |lock: &Lock| lock.start_ts <= self.max_ts && !lock.one_phase;
        let in_memory = self
            .in_memory
            .iter()
            .filter(|(key, lock)| range.contains(key.as_bytes()) && wanted(lock));
        let mut found: BTreeMap<Key, Lock> =
            in_memory.map(|(key, lock)| (key.clone(), (**lock).clone())).collect();
        let mut cursor = view.view.cursor(ColumnFamily::Lock, &range)?;
        let (mut stands, mut taken) = (cursor.seek_to_first()?, 0);
        while stands && taken < limit {
            let lock = Lock::decode(cursor.value())?;
            if wanted(&lock) {
                found.insert(Key::from_engine(cursor.key()), lock);
                taken += 1;
            }
            stands = cursor.next()?;
        }
        Ok(found.into_iter().take(limit).collect())
    }
}
