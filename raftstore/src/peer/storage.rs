//! A replica's durable state as the raft crate sees it, over the log engine.
//!
//! 1. Everything that raft asks for is answered from memory or the log engine; nothing here writes. What is
//!    to be written is handed out as [`LogOperation`]s and becomes durable later.
//! 2. Raft counts entries as stored from the moment it has handed them out, so they are served from the cache
//!    until they are durable. What replaces entries that are on their way to the disk makes their arrival
//!    mean nothing: only what came before the replacement counts.
//! 3. A snapshot that raft wants is ordered and arrives later; until then raft hears *not yet*.
//!
//! **Invariant.** `truncated <= applied <= last`.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};
use skerry_proto::metapb;
use skerry_proto::raft_serverpb::{RaftApplyState, RaftTruncatedState};
use skerry_proto::types::RegionId;

use super::cache::EntryCache;
use crate::Result;
use crate::engine::log::{LogEngine, LogOperation};
use crate::state::{conf_state, damaged, hard_state, local_state};

/// How a snapshot for a follower stands.
#[derive(Debug, Default)]
enum Ordered {
    #[default]
    Nothing,
    /// Raft asked; the order has not left yet.
    Wanted,
    /// On its way.
    Building,
    /// There, until raft takes it.
    Built(Box<Snapshot>),
}

/// Entries on their way to the disk.
#[derive(Debug)]
struct Appending {
    /// The task of the log writer that has them.
    task: u64,
    /// Index of the last one that nothing has replaced since.
    last: u64,
    /// Whether it replaces others that were on their way when it was handed out.
    replaces: bool,
}

/// See the module.
pub(super) struct PeerStorage {
    region: Arc<metapb::Region>,
    log: Arc<dyn LogEngine>,
    hard_state: HardState,
    last_index: u64,
    last_term: u64,
    truncated: RaftTruncatedState,
    /// Durable up to here.
    persisted: u64,
    /// On their way to the disk, in order.
    appending: VecDeque<Appending>,
    cache: EntryCache,
    cache_bytes_max: usize,
    ordered: RefCell<Ordered>,
}

impl PeerStorage {
    /// The state of a region as the engines have it. Refuses a log that lacks what was acknowledged.
    pub(super) fn load(
        region: Arc<metapb::Region>,
        log: Arc<dyn LogEngine>,
        applied: &RaftApplyState,
        cache_bytes_max: usize,
    ) -> Result<PeerStorage> {
        let region_id = region.region_id();
        let stored = log.state(region_id.get())?;
        let truncated = applied.truncated_state.unwrap_or_default();
        let (mut hard_state, last_index) = match &stored {
            Some(state) => (hard_state(region_id, state)?, state.last_index.max(truncated.index)),
            None => (HardState::default(), truncated.index),
        };
        check_log(region_id, log.as_ref(), applied, stored.is_some(), last_index)?;
        // What was applied was committed, whatever the log remembers of it.
        hard_state.commit = hard_state.commit.max(applied.commit_index).max(applied.applied_index);
        if applied.applied_index > 0 {
            hard_state.term = hard_state.term.max(applied.commit_term);
        }
        let mut storage = PeerStorage {
            region,
            log,
            hard_state,
            last_index,
            last_term: truncated.term,
            truncated,
            persisted: last_index,
            appending: VecDeque::new(),
            cache: EntryCache::default(),
            cache_bytes_max,
            ordered: RefCell::default(),
        };
        storage.last_term = storage.term_of(last_index)?;
        Ok(storage)
    }

    /// Begins with this raft state, which is on its way to the disk.
    pub(super) fn begin_with(&mut self, state: HardState) {
        self.hard_state = state;
    }

    /// The region as of what is applied.
    pub(super) fn region(&self) -> &Arc<metapb::Region> {
        &self.region
    }

    /// Follows a change of the region.
    pub(super) fn set_region(&mut self, region: Arc<metapb::Region>) {
        self.region = region;
    }

    /// Whether the region's range and peers are known.
    pub(super) fn is_initialised(&self) -> bool {
        !self.region.peers.is_empty()
    }

    /// The newest hard state that was handed out to be stored.
    pub(super) fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// The last entry in front of the log.
    pub(super) fn truncated(&self) -> RaftTruncatedState {
        self.truncated
    }

    /// Index of the newest entry that is durable.
    pub(super) fn durable_up_to(&self) -> u64 {
        self.persisted
    }

    /// Takes what raft hands out; answers what must be stored, which `task` is going to bring to the disk.
    pub(super) fn append(
        &mut self,
        task: u64,
        entries: Vec<Entry>,
        state: Option<&HardState>,
    ) -> Vec<LogOperation> {
        let region_id = self.region.id;
        let mut operations = Vec::new();
        if let Some(last) = entries.last() {
            (self.last_index, self.last_term) = (last.index, last.term);
            let kept = entries[0].index - 1;
            self.persisted = self.persisted.min(kept);
            let replaces = self.appending.iter().any(|before| before.last > kept);
            self.appending.iter_mut().for_each(|before| before.last = before.last.min(kept));
            self.appending.push_back(Appending { task, last: last.index, replaces });
            self.cache.append(&entries);
            operations.push(LogOperation::Append(region_id, entries));
        }
        if let Some(state) = state {
            self.hard_state = state.clone();
        }
        if !operations.is_empty() || state.is_some() {
            let state = local_state(&self.hard_state, self.last_index);
            operations.push(LogOperation::State(region_id, state));
        }
        operations
    }

    /// The tasks up to this one are done.
    pub(super) fn persisted(&mut self, task: u64) {
        while self.appending.front().is_some_and(|first| first.task <= task) {
            let done = self.appending.pop_front().map_or(0, |first| first.last);
            self.persisted = self.persisted.max(done);
        }
        self.cache.shrink(self.persisted, self.cache_bytes_max);
    }

    /// Whether raft may hear that tasks are done. It knows entries by index and term, and those that were replaced
    /// may have been replaced by themselves again: it would count them while the disk has yet to lose them.
    pub(super) fn may_tell_raft(&self) -> bool {
        !self.appending.iter().any(|appending| appending.replaces)
    }

    /// Replaces log and region by an accepted snapshot; answers what must be stored in the log.
    pub(super) fn accept_snapshot(
        &mut self,
        region: Arc<metapb::Region>,
        snapshot: &Snapshot,
        state: Option<&HardState>,
    ) -> Vec<LogOperation> {
        let metadata = snapshot.get_metadata();
        self.truncated = RaftTruncatedState { index: metadata.index, term: metadata.term };
        (self.last_index, self.last_term) = (metadata.index, metadata.term);
        self.persisted = metadata.index;
        self.appending.clear();
        self.cache.clear();
        self.region = region;
        if let Some(state) = state {
            self.hard_state = state.clone();
        }
        self.hard_state.commit = self.hard_state.commit.max(metadata.index);
        let state = local_state(&self.hard_state, self.last_index);
        vec![LogOperation::Clean(self.region.id), LogOperation::State(self.region.id, state)]
    }

    /// The log begins behind this entry from now on.
    pub(super) fn compacted(&mut self, truncated: RaftTruncatedState) {
        self.truncated = truncated;
        self.cache.compact(truncated.index + 1);
    }

    /// Whether raft wants a snapshot that was not ordered yet; from now on it is.
    pub(super) fn take_snapshot_order(&mut self) -> bool {
        let ordered = self.ordered.get_mut();
        let wanted = matches!(ordered, Ordered::Wanted);
        if wanted {
            *ordered = Ordered::Building;
        }
        wanted
    }

    /// The ordered snapshot is there, or could not be built and may be ordered again.
    pub(super) fn snapshot_built(&mut self, snapshot: Option<Box<Snapshot>>) {
        *self.ordered.get_mut() = match snapshot {
            Some(snapshot) if self.is_useful(&snapshot) => Ordered::Built(snapshot),
            _ => Ordered::Nothing,
        };
    }

    /// Whether a snapshot is being built or waits to be taken.
    pub(super) fn has_snapshot_order(&self) -> bool {
        !matches!(&*self.ordered.borrow(), Ordered::Nothing)
    }

    /// Throws away a snapshot that waits to be taken. Raft orders another if it still wants one.
    pub(super) fn forget_waiting_snapshot(&mut self) {
        let ordered = self.ordered.get_mut();
        if matches!(ordered, Ordered::Built(_)) {
            *ordered = Ordered::Nothing;
        }
    }

    /// A follower must find the entry behind the snapshot in the log, and the peers must still be the same.
    fn is_useful(&self, snapshot: &Snapshot) -> bool {
        let metadata = snapshot.get_metadata();
        metadata.index >= self.truncated.index
            && *metadata.get_conf_state() == conf_state(&self.region)
    }

    fn term_of(&self, index: u64) -> Result<u64> {
        if index == self.truncated.index {
            return Ok(self.truncated.term);
        }
        if let Some(entry) = self.cache.get(index) {
            return Ok(entry.term);
        }
        let entry = self.log.entry(self.region.id, index)?;
        let region_id = self.region.region_id();
        let missing = || damaged(region_id, format!("entry {index} is missing"));
        entry.map(|entry| entry.term).ok_or_else(missing)
    }

    fn read_entries(&self, low: u64, high: u64, bytes_max: usize) -> Result<Vec<Entry>> {
        let cached = self.cache.first().unwrap_or(u64::MAX);
        let mut entries = match low < cached {
            true => self.log.entries(self.region.id, low, high.min(cached), bytes_max)?,
            false => Vec::new(),
        };
        let mut bytes: usize = entries.iter().map(entry_bytes).sum();
        for index in low.max(cached)..high {
            // A part that was cut short is not continued behind a gap.
            if entries.last().is_some_and(|last| last.index + 1 != index) {
                break;
            }
            let entry = self.cache.get(index).expect("the cache reaches to the last entry");
            bytes += entry_bytes(entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    usize::try_from(entry.compute_size()).expect("in memory")
}

impl raft::Storage for PeerStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), conf_state(&self.region)))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.truncated.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last_index + 1, "entries up to {high} of {} asked", self.last_index);
        let bytes_max = max_size.into().and_then(|size| usize::try_from(size).ok());
        let entries = self.read_entries(low, high, bytes_max.unwrap_or(usize::MAX));
        Ok(entries.unwrap_or_else(|error| crate::time::fatal(&error.to_string())))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.truncated.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last_index {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        if index == self.last_index {
            return Ok(self.last_term);
        }
        let term = self.term_of(index);
        Ok(term.unwrap_or_else(|error| crate::time::fatal(&error.to_string())))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.truncated.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index)
    }

    fn snapshot(&self, request_index: u64, _: u64) -> raft::Result<Snapshot> {
        let mut ordered = self.ordered.borrow_mut();
        let not_yet = Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        match std::mem::take(&mut *ordered) {
            Ordered::Built(snapshot)
                if self.is_useful(&snapshot) && snapshot.get_metadata().index >= request_index =>
            {
                Ok(*snapshot)
            }
            Ordered::Building => {
                *ordered = Ordered::Building;
                not_yet
            }
            _ => {
                *ordered = Ordered::Wanted;
                not_yet
            }
        }
    }
}

/// Refuses a log that ends before what was committed, or begins behind what is applied.
fn check_log(
    region_id: RegionId,
    log: &dyn LogEngine,
    applied: &RaftApplyState,
    has_state: bool,
    last_index: u64,
) -> Result<()> {
    let truncated = applied.truncated_state.unwrap_or_default();
    if !has_state && applied.applied_index != truncated.index {
        return Err(damaged(region_id, "its raft state is missing".to_string()));
    }
    let known = applied.commit_index.max(applied.applied_index);
    if last_index < known {
        let reason = format!("it ends with entry {last_index}, entry {known} was committed");
        return Err(damaged(region_id, reason));
    }
    if applied.commit_index > truncated.index
        && let Some(entry) = log.entry(region_id.get(), applied.commit_index)?
        && entry.term != applied.commit_term
    {
        let (index, term) = (entry.index, applied.commit_term);
        let reason =
            format!("entry {index} is of term {}, that of {term} was committed", entry.term);
        return Err(damaged(region_id, reason));
    }
    let bounds = log.bounds(region_id.get())?;
    let (first, last) =
        bounds.map_or((u64::MAX, truncated.index), |bounds| (bounds.first, bounds.last));
    if first > truncated.index + 1 && last_index > truncated.index || last < last_index {
        let reason = format!(
            "entries {}..={last_index} are needed, {first}..={last} are there",
            truncated.index + 1
        );
        return Err(damaged(region_id, reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Durability;
    use crate::engine::log::LogBatch;
    use crate::engine::log::memory::MemoryLog;

    /// The log of a replica that keeps nothing in memory which it can read back.
    struct Fixture {
        storage: PeerStorage,
        log: Arc<MemoryLog>,
    }

    impl Fixture {
        fn new() -> Fixture {
            let log = Arc::new(MemoryLog::new());
            let truncated = RaftTruncatedState { index: 5, term: 5 };
            let applied = RaftApplyState {
                applied_index: 5,
                truncated_state: Some(truncated),
                ..RaftApplyState::default()
            };
            let region = Arc::new(metapb::Region { id: 1, ..metapb::Region::default() });
            let storage = PeerStorage::load(region, log.clone(), &applied, 0);
            Fixture { storage: storage.expect("a fresh log is whole"), log }
        }

        /// Hands entries out; what it answers is not on the disk yet.
        fn append(
            &mut self,
            task: u64,
            indexes: std::ops::RangeInclusive<u64>,
            term: u64,
        ) -> LogBatch {
            let entries = indexes.map(|index| Entry { index, term, ..Entry::default() }).collect();
            let mut batch = LogBatch::new();
            let operations = self.storage.append(task, entries, None);
            operations.into_iter().for_each(|operation| batch.push(operation));
            batch
        }

        fn write(&mut self, task: u64, batch: LogBatch) {
            self.log.write(batch, Durability::Synced).expect("memory is written");
            self.storage.persisted(task);
        }

        fn terms(&self, low: u64) -> Vec<u64> {
            let end = self.storage.last_index + 1;
            let read = self.storage.read_entries(low, end, usize::MAX).expect("memory is read");
            read.iter().map(|entry| entry.term).collect()
        }
    }

    #[test]
    fn entries_that_were_replaced_on_their_way_make_nothing_durable() {
        let mut fixture = Fixture::new();
        let first = fixture.append(1, 6..=10, 6);
        let second = fixture.append(2, 8..=9, 7);
        fixture.write(1, first);
        assert_eq!(fixture.storage.durable_up_to(), 7, "8 and 9 are other entries by now");
        assert!(!fixture.storage.may_tell_raft());
        assert_eq!(fixture.terms(6), [6, 6, 7, 7]);
        fixture.write(2, second);
        assert_eq!(fixture.storage.durable_up_to(), 9);
        assert!(fixture.storage.may_tell_raft());
        assert_eq!(fixture.terms(6), [6, 6, 7, 7]);
    }

    #[test]
    fn entries_that_were_replaced_twice_wait_for_the_last_of_them() {
        let mut fixture = Fixture::new();
        let first = fixture.append(1, 6..=10, 6);
        let second = fixture.append(2, 7..=12, 7);
        // The first leader is back, with the same entries as before.
        let third = fixture.append(3, 7..=8, 6);
        fixture.write(1, first);
        assert_eq!(fixture.storage.durable_up_to(), 6);
        fixture.write(2, second);
        assert_eq!(fixture.storage.durable_up_to(), 6, "the third task cuts them off");
        assert_eq!(fixture.terms(6), [6, 6, 6]);
        fixture.write(3, third);
        assert_eq!(fixture.storage.durable_up_to(), 8);
        assert_eq!(fixture.terms(6), [6, 6, 6]);
    }
}
