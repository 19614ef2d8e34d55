//! An ordered map whose copies cost nothing: what lets the memory engine hand out views for free.
//!
//! Pairs lie in chunks of at most [`CHUNK_PAIRS_MAX`], and both the list of chunks and each chunk
//! are behind an `Arc`. A copy shares everything. The first change after a copy duplicates the list
//! of chunks (one pointer for about a hundred pairs) and each touched chunk; changes without a copy
//! in between duplicate nothing. A `BTreeMap` behind an `Arc` would duplicate every pair instead.

use std::sync::Arc;

use bytes::Bytes;

/// Pairs in a chunk: small enough to copy in a microsecond or two, large enough to keep the list
/// short.
const CHUNK_PAIRS_MAX: usize = 128;

/// A key and its value.
pub(super) type Pair = (Bytes, Bytes);

/// A place in the map: the pair there, or the end. Valid only for the map it came from, unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    chunk: usize,
    offset: usize,
}

/// Sorted pairs with distinct keys.
///
/// **Invariant.** No chunk is empty, and keys ascend strictly within and across chunks.
#[derive(Clone, Debug, Default)]
pub(super) struct OrderedMap {
    chunks: Arc<Vec<Arc<Vec<Pair>>>>,
}

impl OrderedMap {
    /// The value of `key`.
    pub(super) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let (found, value) = self.pair(self.at_or_after(key))?;
        (found == key).then_some(value)
    }

    /// The place of the first key at or after `key`.
    pub(super) fn at_or_after(&self, key: &[u8]) -> Position {
        self.first_where(|candidate| candidate >= key)
    }

    /// The place of the first key after `key`.
    pub(super) fn after(&self, key: &[u8]) -> Position {
        self.first_where(|candidate| candidate > key)
    }

    /// The place behind the last pair.
    pub(super) fn end(&self) -> Position {
        Position { chunk: self.chunks.len(), offset: 0 }
    }

    /// The pair at a place; nothing at the end.
    pub(super) fn pair(&self, position: Position) -> Option<&Pair> {
        self.chunks.get(position.chunk)?.get(position.offset)
    }

    /// The next place up. Must not be asked at the end.
    pub(super) fn next(&self, position: Position) -> Position {
        if position.offset + 1 < self.chunks[position.chunk].len() {
            return Position { offset: position.offset + 1, ..position };
        }
        Position { chunk: position.chunk + 1, offset: 0 }
    }

    /// The next place down. Must not be asked at the first pair.
    pub(super) fn previous(&self, position: Position) -> Position {
        if position.offset > 0 {
            return Position { offset: position.offset - 1, ..position };
        }
        let chunk = position.chunk - 1;
        Position { chunk, offset: self.chunks[chunk].len() - 1 }
    }

    /// The pairs from `start` up to but without `end`, ascending.
    pub(super) fn range(&self, start: Position, end: Position) -> impl Iterator<Item = &Pair> {
        let mut position = start;
        std::iter::from_fn(move || {
            if position >= end {
                return None;
            }
            let pair = self.pair(position);
            position = self.next(position);
            pair
        })
    }

    /// Sets `key` to `value`.
    pub(super) fn insert(&mut self, key: Bytes, value: Bytes) {
        let mut place = self.at_or_after(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        if place.chunk == chunks.len() {
            // Behind the last pair: it goes to the end of the last chunk, so that ascending inserts
            // fill it.
            let Some(last) = chunks.last() else {
                chunks.push(Arc::new(vec![(key, value)]));
                return;
            };
            place = Position { chunk: chunks.len() - 1, offset: last.len() };
        }
        let chunk = Arc::make_mut(&mut chunks[place.chunk]);
        match chunk.get_mut(place.offset) {
            Some(pair) if pair.0 == key => pair.1 = value,
            _ => chunk.insert(place.offset, (key, value)),
        }
        if chunk.len() > CHUNK_PAIRS_MAX {
            let upper = chunk.split_off(CHUNK_PAIRS_MAX / 2);
            chunks.insert(place.chunk + 1, Arc::new(upper));
        }
    }

    /// Removes `key`, if it is there.
    pub(super) fn remove(&mut self, key: &[u8]) {
        let place = self.at_or_after(key);
        if self.pair(place).is_none_or(|(found, _)| found != key) {
            return;
        }
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks[place.chunk].len() == 1 {
            chunks.remove(place.chunk);
        } else {
            Arc::make_mut(&mut chunks[place.chunk]).remove(place.offset);
        }
    }

    /// Removes the pairs from `start` up to but without `end`.
    pub(super) fn remove_range(&mut self, start: Position, end: Position) {
        if start >= end {
            return;
        }
        let chunks = Arc::make_mut(&mut self.chunks);
        if start.chunk == end.chunk {
            Arc::make_mut(&mut chunks[start.chunk]).drain(start.offset..end.offset);
        } else {
            Arc::make_mut(&mut chunks[start.chunk]).truncate(start.offset);
            if end.offset > 0 {
                Arc::make_mut(&mut chunks[end.chunk]).drain(..end.offset);
            }
            chunks.drain(start.chunk + 1..end.chunk);
        }
        chunks.retain(|chunk| !chunk.is_empty());
    }

    /// Removes only those chunks of which every pair lies from `start` up to but without `end`:
    /// what dropping whole files does.
    pub(super) fn remove_whole_chunks(&mut self, start: Position, end: Position) {
        let first = if start.offset == 0 { start.chunk } else { start.chunk + 1 };
        if first < end.chunk {
            Arc::make_mut(&mut self.chunks).drain(first..end.chunk);
        }
    }

    /// The first place whose key passes; `passes` must be false, then true, along the keys.
    fn first_where(&self, passes: impl Fn(&[u8]) -> bool) -> Position {
        let ends_before = |chunk: &Arc<Vec<Pair>>| chunk.last().is_none_or(|(key, _)| !passes(key));
        let chunk = self.chunks.partition_point(ends_before);
        let offset = match self.chunks.get(chunk) {
            Some(pairs) => pairs.partition_point(|(key, _)| !passes(key)),
            None => 0,
        };
        Position { chunk, offset }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A change, with keys from a small set so that they meet.
    #[derive(Clone, Debug)]
    enum Change {
        Insert(u16, u8),
        Remove(u16),
        RemoveRange(u16, u16),
    }

    fn change() -> impl Strategy<Value = Change> {
        let key = 0..600_u16;
        prop_oneof![
            60 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Change::Insert(key, value)),
            20 => key.clone().prop_map(Change::Remove),
            1 => (key.clone(), 0..80_u16)
                .prop_map(|(start, span)| Change::RemoveRange(start, start + span)),
        ]
    }

    fn bytes(key: u16) -> Bytes {
        Bytes::copy_from_slice(&key.to_be_bytes())
    }

    fn pairs(map: &OrderedMap) -> Vec<(Bytes, Bytes)> {
        assert!(map.chunks.iter().all(|chunk| (1..=CHUNK_PAIRS_MAX).contains(&chunk.len())));
        map.range(Position::default(), map.end()).cloned().collect()
    }

    proptest! {
        #[test]
        fn it_does_what_a_tree_does_and_copies_stay_as_they_were(
            changes in prop::collection::vec(change(), 0..1500),
        ) {
            let mut map = OrderedMap::default();
            let mut model = BTreeMap::new();
            let mut copies = Vec::new();
            for (step, change) in changes.into_iter().enumerate() {
                match change {
                    Change::Insert(key, value) => {
                        map.insert(bytes(key), Bytes::copy_from_slice(&[value]));
                        model.insert(bytes(key), Bytes::copy_from_slice(&[value]));
                    }
                    Change::Remove(key) => {
                        map.remove(&bytes(key));
                        model.remove(&bytes(key));
                    }
                    Change::RemoveRange(start, end) => {
                        let low = map.at_or_after(&bytes(start));
                        map.remove_range(low, map.at_or_after(&bytes(end)));
                        model.retain(|key, _| *key < bytes(start) || *key >= bytes(end));
                    }
                }
                if step % 100 == 0 {
                    copies.push((map.clone(), model.clone()));
                }
            }
            copies.push((map, model));
            for (map, model) in copies {
                let expected: Vec<_> = model.clone().into_iter().collect();
                prop_assert_eq!(pairs(&map), expected);
                for key in 0..600 {
                    prop_assert_eq!(map.get(&bytes(key)), model.get(&bytes(key)));
                    let above = map.pair(map.after(&bytes(key))).map(|pair| &pair.0);
                    let expected = model.range(bytes(key + 1)..).next().map(|(key, _)| key);
                    prop_assert_eq!(above, expected);
                }
            }
        }
    }

    #[test]
    fn dropping_whole_chunks_spares_those_that_reach_out_of_the_range() {
        let mut map = OrderedMap::default();
        for key in 0..1000 {
            map.insert(bytes(key), Bytes::new());
        }
        let (low, high) = (map.at_or_after(&bytes(1)), map.at_or_after(&bytes(999)));
        map.remove_whole_chunks(low, high);
        let left: Vec<Bytes> = pairs(&map).into_iter().map(|pair| pair.0).collect();
        assert!(
            left.contains(&bytes(0)) && left.contains(&bytes(1)),
            "the first chunk reaches out"
        );
        assert!(left.contains(&bytes(999)), "so does the last");
        assert!(!left.contains(&bytes(500)), "one in the middle does not");
    }
}
