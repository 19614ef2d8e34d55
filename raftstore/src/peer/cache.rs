//! Entries of one replica in memory: those that are not durable yet, which raft must be able to read back,
//! and the newest of the others, which followers will want.
//!
//! **Invariant.** The entries are contiguous and end with the last of the log. Only durable ones are dropped.

use std::collections::VecDeque;

use raft::eraftpb::Entry;

/// What an entry costs besides its data.
const OVERHEAD_BYTES: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl EntryCache {
    /// Index of the first entry.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.index)
    }

    /// The entry at `index`.
    pub(super) fn get(&self, index: u64) -> Option<&Entry> {
        let first = self.first()?;
        self.entries.get(usize::try_from(index.checked_sub(first)?).expect("in memory"))
    }

    /// Adds entries at the end; those that they replace go first.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        while self.entries.back().is_some_and(|last| last.index >= first.index) {
            self.bytes -= self.entries.pop_back().map_or(0, |entry| size(&entry));
        }
        if let Some(last) = self.entries.back() {
            assert_eq!(last.index + 1, first.index, "a gap in the log");
        }
        self.bytes += entries.iter().map(size).sum::<usize>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Drops the oldest entries, durable ones only, until the rest fits.
    pub(super) fn shrink(&mut self, persisted: u64, bytes_max: usize) {
        while self.bytes > bytes_max && self.first().is_some_and(|first| first <= persisted) {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| size(&entry));
        }
    }

    /// Drops what lies in front of `first`.
    pub(super) fn compact(&mut self, first: u64) {
        while self.first().is_some_and(|oldest| oldest < first) {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| size(&entry));
        }
    }

    /// Drops all.
    pub(super) fn clear(&mut self) {
        *self = EntryCache::default();
    }
}

fn size(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indexes: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
        indexes.map(|index| Entry { index, term, ..Entry::default() }).collect()
    }

    #[test]
    fn a_new_leaders_entries_replace_those_behind_them() {
        let mut cache = EntryCache::default();
        cache.append(&entries(6..10, 1));
        cache.append(&entries(8..9, 2));
        assert_eq!(cache.get(7).map(|entry| entry.term), Some(1));
        assert_eq!(cache.get(8).map(|entry| entry.term), Some(2));
        assert!(cache.get(9).is_none() && cache.get(5).is_none());
        assert_eq!(cache.bytes, 3 * OVERHEAD_BYTES);
    }

    #[test]
    fn entries_that_are_not_durable_stay_whatever_the_limit_is() {
        let mut cache = EntryCache::default();
        cache.append(&entries(6..10, 1));
        cache.shrink(7, 0);
        assert_eq!(cache.first(), Some(8));
        cache.compact(9);
        assert_eq!(cache.first(), Some(9));
        cache.clear();
        assert_eq!((cache.first(), cache.bytes), (None, 0));
    }

    #[test]
    #[should_panic(expected = "a gap in the log")]
    fn a_gap_is_a_bug() {
        let mut cache = EntryCache::default();
        cache.append(&entries(6..7, 1));
        cache.append(&entries(8..9, 1));
    }
}
