//! A set of keys, grown by ranges until it holds all keys.

use std::collections::BTreeMap;

use bytes::Bytes;
use skerry_proto::region::EndKey;

/// Ranges that neither overlap nor touch, by start key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    ends: BTreeMap<Bytes, EndKey>,
}

impl Ranges {
    /// Adds the keys from `start` up to and without `end`; an empty end is no bound.
    pub fn insert(&mut self, start: Bytes, end: &Bytes) {
        let (mut start, mut end) = (start, EndKey::from_wire(end));
        if end <= EndKey::Key(start.clone()) {
            return;
        }
        // The one before, if it reaches here.
        let before = self.ends.range(..=start.clone()).next_back();
        if let Some((first, reach)) = before
            && *reach >= EndKey::Key(start.clone())
        {
            (start, end) = (first.clone(), end.max(reach.clone()));
        }
        // Those that begin inside, or just where it ends.
        while let Some((first, reach)) = self.ends.range(start.clone()..).next() {
            if EndKey::Key(first.clone()) > end {
                break;
            }
            end = end.max(reach.clone());
            let first = first.clone();
            self.ends.remove(&first);
        }
        self.ends.insert(start, end);
    }

    /// Whether all keys are in it.
    pub fn is_everything(&self) -> bool {
        let reach = self.ends.get(&Bytes::new());
        reach.is_some_and(|reach| *reach == EndKey::from_wire(&Bytes::new()))
    }

    /// The first key that is not in it.
    pub fn first_missing(&self) -> Option<Bytes> {
        match self.ends.get(&Bytes::new()) {
            None => Some(Bytes::new()),
            Some(EndKey::Key(key)) => Some(key.clone()),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> Bytes {
        if number == 0 { Bytes::new() } else { Bytes::copy_from_slice(&[number]) }
    }

    #[test]
    fn ranges_that_meet_become_one() {
        let mut ranges = Ranges::default();
        assert_eq!(ranges.first_missing(), Some(Bytes::new()));
        ranges.insert(key(5), &key(9));
        ranges.insert(key(0), &key(3));
        assert_eq!(ranges.first_missing(), Some(key(3)));
        ranges.insert(key(9), &key(0));
        assert!(!ranges.is_everything());
        ranges.insert(key(3), &key(5));
        assert!(ranges.is_everything() && ranges.first_missing().is_none());
        assert_eq!(ranges.ends.len(), 1);
    }

    proptest! {
        /// Keys of one byte: which numbers are in the set is known.
        #[test]
        fn it_is_the_union_of_what_was_put_in(parts in proptest::collection::vec((0..9_u8, 0..9_u8), 0..12)) {
            let (mut ranges, mut model) = (Ranges::default(), [false; 9]);
            for (start, end) in parts {
                ranges.insert(key(start), &key(end));
                let end = if end == 0 { 9 } else { end };
                (start..end).for_each(|number| model[usize::from(number)] = true);
            }
            prop_assert_eq!(ranges.is_everything(), model.iter().all(|&is_in| is_in));
            let missing = model.iter().position(|&is_in| !is_in);
            prop_assert_eq!(ranges.first_missing(), missing.map(|number| key(number as u8)));
        }
    }
}
