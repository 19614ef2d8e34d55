//! The raft log that simulations crash: maps in memory that know what was synced.
//!
//! [`MemoryLog::crash`] does to it what power loss does to a real one: it keeps what was synced and, of
//! the batches written since, as many of the oldest as the caller's seed says.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use protobuf::Message;
use raft::eraftpb::Entry;
use skerry_proto::raft_serverpb::RaftLocalState;

use super::outlook::Outlook;
use super::{LogBatch, LogBounds, LogEngine, LogOperation, outside};
use crate::Result;
use crate::engine::Durability;

/// A log without a disk.
#[derive(Debug, Default)]
pub struct MemoryLog {
    content: Mutex<Content>,
}

/// **Invariant.** `present` is `durable` with all of `unsynced` applied.
#[derive(Debug, Default)]
struct Content {
    /// What readers see.
    present: BTreeMap<u64, Region>,
    /// What a crash cannot take.
    durable: BTreeMap<u64, Region>,
    /// The batches since the last sync, oldest first.
    unsynced: Vec<LogBatch>,
}

#[derive(Clone, Debug, Default)]
struct Region {
    /// By index; consecutive.
    entries: BTreeMap<u64, Entry>,
    state: Option<RaftLocalState>,
}

impl Region {
    fn bounds(&self) -> Option<LogBounds> {
        let (first, _) = self.entries.first_key_value()?;
        let (last, _) = self.entries.last_key_value()?;
        Some(LogBounds { first: *first, last: *last })
    }
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> MemoryLog {
        MemoryLog::default()
    }

    /// How many batches were written and not synced since.
    pub fn unsynced_batches(&self) -> usize {
        self.content().unsynced.len()
    }

    /// Loses power: of the batches that were not synced, only the oldest `surviving` are still there.
    pub fn crash(&self, surviving: usize) {
        let mut content = self.content();
        let mut batches = std::mem::take(&mut content.unsynced);
        assert!(
            surviving <= batches.len(),
            "{surviving} of {} batches cannot survive",
            batches.len()
        );
        batches.truncate(surviving);
        for batch in &batches {
            apply(&mut content.durable, batch);
        }
        content.present = content.durable.clone();
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        // A writer panics only while it checks its batch, before it changes anything.
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_region<T>(&self, region: u64, read: impl FnOnce(&Region) -> T) -> Option<T> {
        self.content().present.get(&region).map(read)
    }
}

impl LogEngine for MemoryLog {
    fn write(&self, batch: LogBatch, durability: Durability) -> Result<u64> {
        let mut content = self.content();
        let current = |region| content.present.get(&region).and_then(Region::bounds);
        let mut outlook = Outlook::from(&current);
        let mut bytes = 0;
        for operation in batch.operations() {
            match operation {
                LogOperation::Append(region, entries) => {
                    outlook.append(*region, entries);
                    bytes +=
                        entries.iter().map(|entry| u64::from(entry.compute_size())).sum::<u64>();
                }
                LogOperation::CompactTo(region, index) => drop(outlook.compact(*region, *index)),
                LogOperation::Clean(region) => outlook.clean(*region),
                LogOperation::State(..) => bytes += size_of::<RaftLocalState>() as u64,
            }
        }
        apply(&mut content.present, &batch);
        content.unsynced.push(batch);
        if durability == Durability::Synced {
            for batch in std::mem::take(&mut content.unsynced) {
                apply(&mut content.durable, &batch);
            }
        }
        Ok(bytes)
    }

    fn state(&self, region: u64) -> Result<Option<RaftLocalState>> {
        Ok(self.with_region(region, |region| region.state.clone()).flatten())
    }

    fn bounds(&self, region: u64) -> Result<Option<LogBounds>> {
        Ok(self.with_region(region, Region::bounds).flatten())
    }

    fn entry(&self, region: u64, index: u64) -> Result<Option<Entry>> {
        Ok(self.with_region(region, |region| region.entries.get(&index).cloned()).flatten())
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: usize) -> Result<Vec<Entry>> {
        if low >= high {
            return Ok(Vec::new());
        }
        let content = self.content();
        let bounds = content.present.get(&region).and_then(Region::bounds);
        let is_inside = bounds.is_some_and(|bounds| low >= bounds.first && high <= bounds.last + 1);
        if !is_inside {
            return Err(outside(region, low, high, bounds));
        }
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let is_first = bytes == 0;
            bytes += entry.compute_size() as usize;
            is_first || bytes <= bytes_max
        };
        let region = &content.present[&region];
        Ok(region
            .entries
            .range(low..high)
            .map(|(_, entry)| entry)
            .take_while(fits)
            .cloned()
            .collect())
    }

    fn regions(&self) -> Result<Vec<u64>> {
        let content = self.content();
        let has_anything = |region: &Region| region.state.is_some() || !region.entries.is_empty();
        let regions = content.present.iter().filter(|(_, region)| has_anything(region));
        Ok(regions.map(|(id, _)| *id).collect())
    }

    fn purge(&self) -> Result<Vec<u64>> {
        Ok(Vec::new())
    }
}

/// Does what a checked batch says.
fn apply(regions: &mut BTreeMap<u64, Region>, batch: &LogBatch) {
    for operation in batch.operations() {
        match operation {
            LogOperation::Append(region, entries) => {
                let region = regions.entry(*region).or_default();
                if let Some(first) = entries.first() {
                    region.entries.split_off(&first.index);
                }
                region.entries.extend(entries.iter().map(|entry| (entry.index, entry.clone())));
            }
            LogOperation::State(region, state) => {
                regions.entry(*region).or_default().state = Some(state.clone());
            }
            LogOperation::CompactTo(region, index) => {
                if let Some(region) = regions.get_mut(region) {
                    region.entries = region.entries.split_off(index);
                }
            }
            LogOperation::Clean(region) => drop(regions.remove(region)),
        }
    }
}
