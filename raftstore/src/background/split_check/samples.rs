//! A large map of keys, measured without being read: where its parts end by the sizes that the engine knows of its
//! table files, what is in them by samples.
//!
//! 1. [`Ruler`] finds keys at which equal parts of what table files hold of the map end, by halving the space of keys.
//!    A size is looked up in the indexes of the files, so no pair is read. Keys may share long prefixes or lie in
//!    a few close crowds: where halving gets nowhere, it goes on between the keys that are really there.
//! 2. At the beginning of every few parts a sample of pairs is read. It tells what a byte in the files stands for: less
//!    than a byte where there are pairs that were overwritten or removed, more where they are compressed.
//! 3. What waits in memory to be written into files is not in their sizes. It is left out of the samples, and added
//!    where it lies.
//!
//! **Invariant.** A sample ends at the end of its parts. One that got so far has read all there is, and is exact.
//!
//! What it does not do: the sizes are those of the moment and not of the view, and files are merged meanwhile. So no
//! two answers need be the same; they differ by some hundredths.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::outline::Outline;
use super::{Map, extent_of};
use crate::Result;
use crate::engine::{Cursor, Engine, KeyRange, View};
use crate::extent::{Extent, scale};

/// Parts that are looked for, with about as much of the table files each.
const PARTS: u64 = 64;
/// Parts that share a sample.
const SAMPLED_PARTS: usize = 2;
/// A sample has so many bytes and pairs, if there are so many. Its size in files is exact to within a block of each
/// file at each end, so it must have many blocks.
const SAMPLE_BYTES: u64 = 256 << 10;
const SAMPLE_PAIRS: u64 = 16;
/// Sizes that are asked for to find one key.
const STEPS_MAX: u32 = 64;
/// Of so many of these steps, one goes to keys that are there.
const STEPS_BETWEEN_KEYS: u32 = 16;
/// Digits of keys, in base 256, that are looked at behind what the keys share.
const DIGITS: usize = 16;

/// What lies where in a map of which table files hold `table_bytes`.
pub(super) fn outline(
    engine: &dyn Engine,
    view: &dyn View,
    map: &Map,
    table_bytes: u64,
) -> Result<Outline> {
    let mut outline = Outline::default();
    let places = Ruler::new(engine, view, map, table_bytes)?.places()?;
    let sampled = (0..places.len() - 1).step_by(SAMPLED_PARTS);
    for parts in sampled.map(|first| &places[first..places.len().min(first + SAMPLED_PARTS + 1)]) {
        add(&mut outline, engine, view, map, parts)?;
    }
    Ok(outline)
}

/// Adds the parts between `places`, which are told by one sample.
fn add(
    outline: &mut Outline,
    engine: &dyn Engine,
    view: &dyn View,
    map: &Map,
    places: &[Place],
) -> Result<()> {
    let range =
        KeyRange { start: places[0].key.clone(), end: places[places.len() - 1].key.clone() };
    let mut cursor = view.cursor_once(map.family, &range)?;
    let (mut sample, mut standing) = (Extent::default(), cursor.seek_to_first()?);
    while standing && (sample.bytes < SAMPLE_BYTES || sample.keys < SAMPLE_PAIRS) {
        sample += extent_of(map.family, cursor.as_ref());
        standing = cursor.next()?;
    }
    let end = if standing { Bytes::copy_from_slice(cursor.key()) } else { range.end };
    let sampled = KeyRange { start: range.start, end };
    let table_bytes = engine.table_size(map.family, &sampled)?;
    let stored = sample.bytes.saturating_sub(engine.buffered_size(map.family, &sampled)?);
    for part in places.windows(2) {
        let range = KeyRange { start: part[0].key.clone(), end: part[1].key.clone() };
        let part_bytes = part[1].before.saturating_sub(part[0].before);
        // Where nothing of the sample is in files, next to nothing of the parts is.
        let stored =
            if table_bytes == 0 { part_bytes } else { scale(stored, part_bytes, table_bytes) };
        let bytes = stored + engine.buffered_size(map.family, &range)?;
        outline.add(&range.start, sample.with_bytes(bytes));
    }
    Ok(())
}

/// A place in a map.
#[derive(Clone)]
struct Place {
    /// A data key, which need not be there.
    key: Bytes,
    /// Bytes that table files hold in front of it.
    before: u64,
}

/// Finds keys by what table files hold in front of them.
struct Ruler<'a> {
    engine: &'a dyn Engine,
    map: &'a Map,
    cursor: Box<dyn Cursor + 'a>,
    /// What is known already: the ends of the map and all keys that were asked for.
    known: BTreeMap<Bytes, u64>,
    table_bytes: u64,
}

impl<'a> Ruler<'a> {
    fn new(
        engine: &'a dyn Engine,
        view: &'a dyn View,
        map: &'a Map,
        table_bytes: u64,
    ) -> Result<Ruler<'a>> {
        let cursor = view.cursor_once(map.family, &map.range)?;
        let ends = [(map.range.start.clone(), 0), (map.range.end.clone(), table_bytes)];
        let mut ruler = Ruler { engine, map, cursor, known: BTreeMap::from(ends), table_bytes };
        // The keys of a map often lie close together, far from both ends.
        let [start, end] = [&map.range.start, &map.range.end].map(Bytes::clone);
        ruler.ask_keys_between(&start, &end)?;
        Ok(ruler)
    }

    /// The ends of the map and, between them, those of its parts.
    fn places(mut self) -> Result<Vec<Place>> {
        let mut places = vec![Place { key: self.map.range.start.clone(), before: 0 }];
        for part in 1..PARTS {
            let last = places[places.len() - 1].key.clone();
            let place = self.place(self.table_bytes / PARTS * part, &last)?;
            if place.key > last && place.key < self.map.range.end {
                places.push(place);
            }
        }
        places.push(Place { key: self.map.range.end.clone(), before: self.table_bytes });
        Ok(places)
    }

    /// Where the table files hold `wanted` bytes before, or not many more or less. Not before `last`.
    fn place(&mut self, wanted: u64, last: &Bytes) -> Result<Place> {
        let tolerance = self.table_bytes / PARTS / 8;
        for step in 1..=STEPS_MAX {
            let [low, high] = self.known_around(wanted, last);
            if wanted.abs_diff(low.before) <= tolerance {
                return Ok(low);
            }
            if high.before.abs_diff(wanted) <= tolerance {
                return Ok(high);
            }
            match between(&low.key, &high.key) {
                Some(key) if step % STEPS_BETWEEN_KEYS != 0 => self.ask(key)?,
                _ if self.ask_keys_between(&low.key, &high.key)? => {}
                _ => break,
            }
        }
        let [_, high] = self.known_around(wanted, last);
        Ok(high)
    }

    /// The first known place from `last` on with more than `wanted` bytes before, and the one in front of it.
    fn known_around(&self, wanted: u64, last: &Bytes) -> [Place; 2] {
        const ENDS: &str = "the ends of the map are known";
        let place = |(key, before): (&Bytes, &u64)| Place { key: key.clone(), before: *before };
        let mut from = self.known.range(last.clone()..);
        let behind = from.find(|(_, before)| **before > wanted).expect(ENDS);
        let front = self.known.range(..behind.0.clone()).next_back().expect(ENDS);
        [place(front), place(behind)]
    }

    fn ask(&mut self, key: Bytes) -> Result<()> {
        let range = KeyRange { start: self.map.range.start.clone(), end: key.clone() };
        let before = self.engine.table_size(self.map.family, &range)?;
        self.known.insert(key, before);
        Ok(())
    }

    /// Asks for the first and the last real key between two others; answers whether there is one.
    fn ask_keys_between(&mut self, low: &Bytes, high: &Bytes) -> Result<bool> {
        let cursor = &mut self.cursor;
        let mut standing = cursor.seek(low)?;
        if standing && cursor.key() == low {
            standing = cursor.next()?;
        }
        if !standing || cursor.key() >= &high[..] {
            return Ok(false);
        }
        let first = Bytes::copy_from_slice(cursor.key());
        let mut standing = cursor.seek_for_previous(high)?;
        if standing && cursor.key() == high {
            standing = cursor.previous()?;
        }
        if standing && cursor.key() > &first[..] {
            let last = Bytes::copy_from_slice(cursor.key());
            self.ask(last)?;
        }
        self.ask(first)?;
        Ok(true)
    }
}

/// A key in the middle between two others, nothing if they are too close. Behind what they share their bytes are taken
/// for the digits of a number.
pub(super) fn between(low: &[u8], high: &[u8]) -> Option<Bytes> {
    let shared = low.iter().zip(high).take_while(|(low, high)| low == high).count();
    let number = |key: &[u8]| {
        let mut digits = [0; DIGITS];
        let tail = &key[shared..key.len().min(shared + DIGITS)];
        digits[..tail.len()].copy_from_slice(tail);
        u128::from_be_bytes(digits)
    };
    let (least, most) = (number(low), number(high));
    let middle = least + (most - least) / 2;
    if middle == least {
        return None;
    }
    let mut key = low[..shared].to_vec();
    key.extend_from_slice(&middle.to_be_bytes());
    let length = key.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    key.truncate(length);
    Some(key.into())
}
