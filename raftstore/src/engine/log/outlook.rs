//! What a batch will do to the bounds of each region, worked out and checked before anything is written.
//!
//! All three log engines go through here, so that they refuse the same misuse with the same words, and
//! raft-engine never sees a batch on which it would panic halfway.

use std::collections::BTreeMap;
use std::ops::Range;

use raft::eraftpb::Entry;

use super::LogBounds;

/// Bounds of the regions as they will be after the parts of a batch that were announced so far.
pub(super) struct Outlook<'a> {
    /// The bounds before the batch.
    current: &'a dyn Fn(u64) -> Option<LogBounds>,
    changed: BTreeMap<u64, Option<LogBounds>>,
}

impl<'a> Outlook<'a> {
    /// Looks ahead from the bounds that `current` tells.
    pub(super) fn from(current: &'a dyn Fn(u64) -> Option<LogBounds>) -> Outlook<'a> {
        Outlook { current, changed: BTreeMap::new() }
    }

    /// The bounds of a region after what was announced.
    pub(super) fn bounds(&self, region: u64) -> Option<LogBounds> {
        self.changed.get(&region).copied().unwrap_or_else(|| (self.current)(region))
    }

    /// Announces an append; answers the indexes behind the new last entry that it cuts off. Panics on
    /// entries that are not consecutive, leave a gap, or lie below what was compacted.
    pub(super) fn append(&mut self, region: u64, entries: &[Entry]) -> Range<u64> {
        let (Some(head), Some(tail)) = (entries.first(), entries.last()) else { return 0..0 };
        for pair in entries.windows(2) {
            let (before, after) = (pair[0].index, pair[1].index);
            assert!(
                after == before + 1,
                "raft log of region {region}: entry {after} was appended right behind {before}"
            );
        }
        let mut first = head.index;
        let mut cut = 0..0;
        if let Some(bounds) = self.bounds(region) {
            assert!(
                head.index >= bounds.first && head.index <= bounds.last + 1,
                "raft log of region {region}: entry {} does not continue {}..={}",
                head.index,
                bounds.first,
                bounds.last
            );
            first = bounds.first;
            cut = tail.index + 1..bounds.last + 1;
        }
        self.changed.insert(region, Some(LogBounds { first, last: tail.index }));
        cut
    }

    /// Announces that entries below `index` are forgotten; answers the indexes of those that are there.
    pub(super) fn compact(&mut self, region: u64, index: u64) -> Range<u64> {
        let Some(bounds) = self.bounds(region) else { return 0..0 };
        let forgotten = bounds.first..index.min(bounds.last + 1);
        if !forgotten.is_empty() {
            let first = forgotten.end;
            let rest = (first <= bounds.last).then_some(LogBounds { first, ..bounds });
            self.changed.insert(region, rest);
        }
        forgotten
    }

    /// Announces that a region is forgotten whole.
    pub(super) fn clean(&mut self, region: u64) {
        self.changed.insert(region, None);
    }

    /// Every region whose bounds the batch sets, with the new ones.
    pub(super) fn into_changed(self) -> BTreeMap<u64, Option<LogBounds>> {
        self.changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indexes: impl IntoIterator<Item = u64>) -> Vec<Entry> {
        indexes.into_iter().map(|index| Entry { index, ..Entry::default() }).collect()
    }

    fn five_to_nine(_: u64) -> Option<LogBounds> {
        Some(LogBounds { first: 5, last: 9 })
    }

    #[test]
    fn parts_of_a_batch_see_each_other() {
        let mut outlook = Outlook::from(&five_to_nine);
        // Nothing is cut: the range of what was cut ends before it begins.
        assert!(outlook.append(1, &entries(10..=12)).is_empty());
        assert_eq!(outlook.append(1, &entries(7..=8)), 9..13);
        assert_eq!(outlook.compact(1, 8), 5..8);
        assert_eq!(outlook.bounds(1), Some(LogBounds { first: 8, last: 8 }));
        outlook.clean(1);
        assert_eq!(outlook.append(1, &entries([40])), 0..0);
        assert_eq!(outlook.into_changed(), [(1, Some(LogBounds { first: 40, last: 40 }))].into());
    }

    #[test]
    fn compaction_below_and_beyond_the_log() {
        let mut outlook = Outlook::from(&five_to_nine);
        assert!(outlook.compact(1, 5).is_empty());
        assert_eq!(outlook.bounds(1), five_to_nine(1));
        assert_eq!(outlook.compact(1, 1_000), 5..10);
        assert_eq!(outlook.bounds(1), None);
    }

    #[test]
    #[should_panic(expected = "region 1: entry 11 does not continue 5..=9")]
    fn a_gap_panics() {
        Outlook::from(&five_to_nine).append(1, &entries([11]));
    }

    #[test]
    #[should_panic(expected = "region 1: entry 4 does not continue 5..=9")]
    fn an_entry_below_what_was_compacted_panics() {
        Outlook::from(&five_to_nine).append(1, &entries([4]));
    }

    #[test]
    #[should_panic(expected = "region 1: entry 12 was appended right behind 10")]
    fn entries_that_are_not_consecutive_panic() {
        Outlook::from(&five_to_nine).append(1, &entries([10, 12]));
    }
}
