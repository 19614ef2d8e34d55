//! Where a region that has grown should be cut.
//!
//! 1. Most looks end with an estimate: what was measured last and what was written since cannot have grown beyond the
//!    limits, or what the engine says the region occupies is far below them. The engine compresses and does not
//!    know keys, so it is believed with a margin.
//! 2. Otherwise each of its maps of keys is measured, which gives an [`Outline`]: how much lies in front of some of its
//!    keys. A small map is walked over, once, and counted exactly; a large one is measured by samples ([`samples`]), so
//!    that a look costs the same however large a region is. Only records of commits count as keys: locks come and
//!    go, and raw pairs are cut by their size alone, because common clients read them backwards only within a region.
//! 3. Keys are taken where equal parts of one map end: of the largest one, or of the records if there are too many of
//!    these. Who asks for a half gets the key in the middle, however small the region is.
//! 4. A key becomes a boundary in the form that clients expect: a whole encoded key, without the timestamp of
//!    a version, so that the versions of one key stay together.

use bytes::Bytes;
use skerry_proto::codec;
use skerry_proto::metapb;

use self::outline::Outline;
use crate::Result;
use crate::config::RaftConfig;
use crate::engine::{ColumnFamily, Cursor, Engine, KeyRange, View};
use crate::environment::Counters;
use crate::extent::{Estimate, Extent};
use crate::keys::{self, DataSpace};

mod outline;
mod samples;
#[cfg(test)]
mod tests;

/// Parts that one look may ask for.
const PARTS_MAX: u64 = 10;
/// Bytes of a key of raw pairs that make its boundary.
const RAW_PREFIX_BYTES: usize = 8;

/// So many times as large as the space it occupies is a region at most.
const COMPRESSION_MAX: u64 = 8;
/// Bytes of the smallest pair that is likely, with its prefix and flags.
const PAIR_BYTES_MIN: u64 = 16;

/// A map that occupies so much in table files is measured by samples: several times what these read.
const SAMPLED_TABLE_BYTES: u64 = 16 << 20;

/// A look at one region.
pub(super) struct SplitCheck<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) config: &'a RaftConfig,
    pub(super) counters: &'a Counters,
    pub(super) region: &'a metapb::Region,
}

/// One of the maps of keys that a region consists of.
#[derive(Clone)]
struct Map {
    family: ColumnFamily,
    /// Of data keys; its end is a key.
    range: KeyRange,
}

impl SplitCheck<'_> {
    /// Keys at which the region should be cut, none if it need not be; and its size. `known` is what was known of it.
    pub(super) fn look(&self, known: Estimate) -> Result<(Vec<Bytes>, Estimate)> {
        if known.is_bound && !self.config.is_large(known.extent) {
            return Ok((Vec::new(), known));
        }
        let mut occupied = 0;
        for map in self.maps() {
            occupied += self.engine.table_size(map.family, &map.range)?;
        }
        if !self.config.is_large(bound(occupied, known)) {
            for map in self.maps() {
                occupied += self.engine.buffered_size(map.family, &map.range)?;
            }
        }
        let bound = bound(occupied, known);
        if self.config.is_large(bound) {
            return self.find_keys(false);
        }
        let extent = match known.is_bound {
            true => bound,
            false => Extent { bytes: occupied, ..known.extent },
        };
        Ok((Vec::new(), Estimate { extent, ..known }))
    }

    /// The same for a region that is to be cut in the middle anyway.
    pub(super) fn halve(&self) -> Result<(Vec<Bytes>, Estimate)> {
        self.find_keys(true)
    }

    fn find_keys(&self, halve: bool) -> Result<(Vec<Bytes>, Estimate)> {
        let view = self.engine.view();
        let outlines = self.measure(view.as_ref())?;
        let total = outlines.iter().fold(Extent::default(), |sum, (_, it)| sum + it.total());
        let size = Estimate { extent: total, is_bound: true };
        let config = self.config;
        if !config.is_large(total) && !halve {
            return Ok((Vec::new(), size));
        }
        let by_number = total.bytes <= config.region_size_max.bytes() && !halve;
        let weigh = |extent: Extent| if by_number { extent.records } else { extent.bytes };
        let cut = outlines.into_iter().max_by_key(|(_, outline)| weigh(outline.total()));
        let Some((map, outline)) = cut else {
            return Ok((Vec::new(), size));
        };
        let parts = match (halve, by_number) {
            (true, _) => 2,
            (false, false) => total.bytes / config.split_size.bytes(),
            (false, true) => total.records / config.split_keys,
        };
        let parts = parts.clamp(2, PARTS_MAX);
        let step = (weigh(outline.total()) / parts).max(1);
        let boundaries = Boundaries { step, count_max: parts as usize - 1 };
        let keys = self.keys_at(view.as_ref(), &map, &outline, boundaries, weigh)?;
        Ok((keys, size))
    }

    /// The maps of keys that the region consists of.
    fn maps(&self) -> impl Iterator<Item = Map> {
        ColumnFamily::DATA.into_iter().flat_map(move |family| {
            DataSpace::ALL.into_iter().map(move |space| {
                let (start, end) = space.range(&self.region.start_key, &self.region.end_key);
                Map { family, range: KeyRange { start, end } }
            })
        })
    }

    /// All of them with what lies where.
    fn measure(&self, view: &dyn View) -> Result<Vec<(Map, Outline)>> {
        let (mut outlines, mut is_read_whole) = (Vec::new(), true);
        for map in self.maps() {
            let outline = match self.engine.table_size(map.family, &map.range)? {
                0..SAMPLED_TABLE_BYTES => Outline::count(view, &map)?,
                table_bytes => {
                    is_read_whole = false;
                    samples::outline(self.engine, view, &map, table_bytes)?
                }
            };
            outlines.push((map, outline));
        }
        let Counters { region_scans, region_samples, .. } = self.counters;
        Counters::add(if is_read_whole { region_scans } else { region_samples }, 1);
        Ok(outlines)
    }

    /// Boundaries behind every step of what is weighed.
    fn keys_at(
        &self,
        view: &dyn View,
        map: &Map,
        outline: &Outline,
        boundaries: Boundaries,
        weigh: impl Fn(Extent) -> u64,
    ) -> Result<Vec<Bytes>> {
        let Boundaries { step, count_max } = boundaries;
        let (mut keys, mut wanted): (Vec<Bytes>, u64) = (Vec::new(), step);
        let mut cursor = view.cursor_once(map.family, &map.range)?;
        for mark in outline.marks() {
            let weight = weigh(mark.before);
            if keys.len() == count_max {
                break;
            }
            // A mark of samples need not be a key.
            if weight < wanted || !cursor.seek(&mark.key)? {
                continue;
            }
            let boundary = boundary_of(cursor.key());
            let last = keys.last().unwrap_or(&self.region.start_key);
            if boundary > *last && self.region.contains_key(&boundary) {
                keys.push(boundary);
                wanted = (wanted + step).max(weight + step / 2);
            }
        }
        Ok(keys)
    }
}

/// What a region is at most that occupies so many bytes.
fn bound(occupied: u64, known: Estimate) -> Extent {
    let bytes = occupied.saturating_mul(COMPRESSION_MAX);
    let keys = bytes / PAIR_BYTES_MIN;
    if !known.is_bound {
        return Extent { bytes, keys, records: keys };
    }
    let Extent { bytes: known_bytes, keys: known_keys, records } = known.extent;
    Extent { bytes: bytes.min(known_bytes), keys: keys.min(known_keys), records: keys.min(records) }
}

/// What the pair counts on which a cursor stands.
fn extent_of(family: ColumnFamily, cursor: &dyn Cursor) -> Extent {
    Extent::of_pair(family, (cursor.key().len() + cursor.value().len()) as u64)
}

/// How many boundaries there shall be, and how far apart.
struct Boundaries {
    step: u64,
    count_max: usize,
}

/// The boundary in front of a data key, or not far behind.
fn boundary_of(data_key: &[u8]) -> Bytes {
    let key = keys::region_key(data_key).expect("data keys have a prefix");
    match codec::decode_bytes(key) {
        Ok((_, rest)) => Bytes::copy_from_slice(&key[..key.len() - rest.len()]),
        Err(_) => codec::encode_bytes(&key[..key.len().min(RAW_PREFIX_BYTES)]).into(),
    }
}
