//! Where a region that has grown should be cut.
//!
//! 1. Most looks end with an estimate: what was counted last and what was written since cannot have grown beyond the
//!    limits, or what the engine says the region occupies is far below them. The engine compresses and does not
//!    know keys, so it is believed with a margin.
//! 2. Otherwise its keys are counted. Only records of commits count: locks come and go, and raw pairs are cut by their
//!    size alone, because common clients read them backwards only within a region.
//! 3. One of its maps of keys is walked, and keys are taken where equal parts of it end: the largest one, or the
//!    records if there are too many of these. Who asks for a half gets the key in the middle, however small the
//!    region is.
//! 4. A key becomes a boundary in the form that clients expect: a whole encoded key, without the timestamp of
//!    a version, so that the versions of one key stay together.

use bytes::Bytes;
use skerry_proto::codec;
use skerry_proto::metapb;

use crate::Result;
use crate::engine::{ColumnFamily, Cursor, KeyRange, View};
use crate::environment::{Counters, Environment};
use crate::extent::{Estimate, Extent};
use crate::keys::{self, DataSpace};

/// Parts that one look may ask for.
const PARTS_MAX: u64 = 10;
/// Bytes of a key of raw pairs that make its boundary.
const RAW_PREFIX_BYTES: usize = 8;

/// So many times as large as the space it occupies is a region at most.
const COMPRESSION_MAX: u64 = 8;
/// Bytes of the smallest pair that is likely, with its prefix and flags.
const PAIR_BYTES_MIN: u64 = 16;

/// Keys at which `region` should be cut, none if it need not be; and its size. `known` is what was known of it.
pub(super) fn look(
    environment: &Environment,
    region: &metapb::Region,
    known: Estimate,
) -> Result<(Vec<Bytes>, Estimate)> {
    let mut occupied = 0;
    for (family, range) in maps(region) {
        occupied += environment.engine.approximate_size(family, &range)?;
    }
    let bytes = occupied.saturating_mul(COMPRESSION_MAX);
    let keys = bytes / PAIR_BYTES_MIN;
    let mut bound = Extent { bytes, keys, records: keys };
    if known.is_bound {
        let Extent { bytes, keys, records } = known.extent;
        bound = Extent {
            bytes: bound.bytes.min(bytes),
            keys: bound.keys.min(keys),
            records: bound.records.min(records),
        };
    }
    if environment.config.is_large(bound) {
        return find_keys(environment, region, false);
    }
    let extent = match known.is_bound {
        true => bound,
        false => Extent { bytes: occupied, ..known.extent },
    };
    Ok((Vec::new(), Estimate { extent, ..known }))
}

/// The same for a region that has to be counted, because it may be too large or is to be cut anyway.
pub(super) fn find_keys(
    environment: &Environment,
    region: &metapb::Region,
    halve: bool,
) -> Result<(Vec<Bytes>, Estimate)> {
    Counters::add(&environment.counters.region_scans, 1);
    let config = &environment.config;
    let view = environment.engine.view();
    let mut total = Extent::default();
    let mut measured = Vec::new();
    for (family, range) in maps(region) {
        let extent = measure(view.as_ref(), family, &range)?;
        total += extent;
        measured.push((extent, family, range));
    }
    let size = Estimate { extent: total, is_bound: true };
    if !config.is_large(total) && !halve {
        return Ok((Vec::new(), size));
    }
    let by_number = total.bytes <= config.region_size_max.bytes() && !halve;
    let weigh = |extent: Extent| if by_number { extent.records } else { extent.bytes };
    let walked = measured.into_iter().max_by_key(|(extent, ..)| weigh(*extent));
    let Some((extent, family, range)) = walked else {
        return Ok((Vec::new(), size));
    };
    let parts = match (halve, by_number) {
        (true, _) => 2,
        (false, false) => total.bytes / config.split_size.bytes(),
        (false, true) => total.records / config.split_keys,
    };
    let parts = parts.clamp(2, PARTS_MAX);
    let step = (weigh(extent) / parts).max(1);
    let boundaries = Boundaries { step, count_max: parts as usize - 1 };
    let keys = keys_at(view.as_ref(), (family, &range), boundaries, weigh, region)?;
    Ok((keys, size))
}

/// The maps of keys that a region consists of.
fn maps(region: &metapb::Region) -> impl Iterator<Item = (ColumnFamily, KeyRange)> {
    ColumnFamily::DATA.into_iter().flat_map(move |family| {
        DataSpace::ALL.into_iter().map(move |space| {
            let (start, end) = space.range(&region.start_key, &region.end_key);
            (family, KeyRange { start, end })
        })
    })
}

fn measure(view: &dyn View, family: ColumnFamily, range: &KeyRange) -> Result<Extent> {
    let mut extent = Extent::default();
    let mut cursor = view.cursor(family, range)?;
    let mut standing = cursor.seek_to_first()?;
    while standing {
        extent += extent_of(family, cursor.as_ref());
        standing = cursor.next()?;
    }
    Ok(extent)
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

/// Boundaries behind every step of what is weighed.
fn keys_at(
    view: &dyn View,
    (family, range): (ColumnFamily, &KeyRange),
    boundaries: Boundaries,
    weigh: impl Fn(Extent) -> u64,
    region: &metapb::Region,
) -> Result<Vec<Bytes>> {
    let (mut keys, mut weight): (Vec<Bytes>, u64) = (Vec::new(), 0);
    let mut cursor = view.cursor(family, range)?;
    let mut standing = cursor.seek_to_first()?;
    while standing && keys.len() < boundaries.count_max {
        if weight >= boundaries.step {
            let boundary = boundary_of(cursor.key());
            let last = keys.last().unwrap_or(&region.start_key);
            if boundary > *last && region.contains_key(&boundary) {
                keys.push(boundary);
                weight = 0;
            }
        }
        weight += weigh(extent_of(family, cursor.as_ref()));
        standing = cursor.next()?;
    }
    Ok(keys)
}

/// The boundary in front of a data key, or not far behind.
fn boundary_of(data_key: &[u8]) -> Bytes {
    let key = keys::region_key(data_key).expect("data keys have a prefix");
    match codec::decode_bytes(key) {
        Ok((_, rest)) => Bytes::copy_from_slice(&key[..key.len() - rest.len()]),
        Err(_) => codec::encode_bytes(&key[..key.len().min(RAW_PREFIX_BYTES)]).into(),
    }
}
