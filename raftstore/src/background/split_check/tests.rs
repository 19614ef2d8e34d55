//! Regions of tens of megabytes on the real engine, whose keys are made to be hard to halve.

use std::ops::Range;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::{ByteSize, RocksConfig};
use crate::engine::memory::MemoryEngine;
use crate::engine::rocks::RocksEngine;
use crate::engine::{Durability, WriteBatch};
use crate::keys::data_key;
use crate::time::splitmix64;

const MIB: u64 = 1 << 20;
const FAMILY: ColumnFamily = ColumnFamily::Default;

/// Makes a key of a number.
type Name = fn(u64) -> Vec<u8>;

/// A store with one region, which has all keys.
struct Case {
    engine: Box<dyn Engine>,
    /// The same, if it is the real one.
    _home: Option<TempDir>,
    config: RaftConfig,
    counters: Counters,
    region: metapb::Region,
}

impl Case {
    fn on(engine: Box<dyn Engine>, home: Option<TempDir>) -> Case {
        let config = RaftConfig {
            region_size_max: ByteSize::mib(24),
            split_size: ByteSize::mib(16),
            ..RaftConfig::default()
        };
        let (counters, region) = (Counters::default(), metapb::Region::default());
        Case { engine, _home: home, config, counters, region }
    }

    /// Every kind of engine that holds what `fill` writes into it; of the real one `after` makes table files.
    fn each(fill: impl Fn(&dyn Engine), after: impl Fn(&RocksEngine)) -> [Case; 2] {
        let memory = MemoryEngine::new();
        fill(&memory);
        [rocks(&RocksConfig::small(), fill, after), Case::on(Box::new(memory), None)]
    }

    fn check(&self) -> SplitCheck<'_> {
        let Case { engine, config, counters, region, .. } = self;
        SplitCheck { engine: engine.as_ref(), config, counters, region }
    }

    /// Looks at a region of which nothing is known.
    fn look(&self) -> (Vec<Bytes>, Estimate) {
        self.check().look(Estimate::default()).expect("a look")
    }

    fn scans(&self) -> u64 {
        self.counters.region_scans.load(Ordering::Relaxed)
    }

    /// Looks that read samples.
    fn samples(&self) -> u64 {
        self.counters.region_samples.load(Ordering::Relaxed)
    }

    /// What lies between boundaries, counted.
    fn parts(&self, family: ColumnFamily, keys: &[Bytes]) -> Vec<Extent> {
        let view = self.engine.view();
        let starts = std::iter::once(Bytes::new()).chain(keys.iter().cloned());
        let ends = keys.iter().cloned().chain(std::iter::once(Bytes::new()));
        let part = |(start, end): (Bytes, Bytes)| {
            let (start, end) = DataSpace::Main.range(&start, &end);
            let map = Map { family, range: KeyRange { start, end } };
            Outline::count(view.as_ref(), &map).expect("a walk").total()
        };
        starts.zip(ends).map(part).collect()
    }
}

fn rocks(config: &RocksConfig, fill: impl Fn(&dyn Engine), after: impl Fn(&RocksEngine)) -> Case {
    let home = tempfile::tempdir().expect("a directory");
    let engine = RocksEngine::open(home.path(), config, None).expect("open");
    fill(&engine);
    after(&engine);
    Case::on(Box::new(engine), Some(home))
}

/// A key with the timestamp of a version.
fn version(user_key: &[u8], timestamp: u64) -> Bytes {
    let key = [&codec::encode_bytes(user_key)[..], &(!timestamp).to_be_bytes()].concat();
    data_key(&key)
}

/// Bytes that nothing compresses.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let words =
        (0..length as u64 / 8 + 1).flat_map(|word| splitmix64(seed ^ word << 32).to_be_bytes());
    words.take(length).collect()
}

fn write(engine: &dyn Engine, family: ColumnFamily, pairs: impl Iterator<Item = (Bytes, Vec<u8>)>) {
    let mut batch = WriteBatch::new();
    for (key, value) in pairs {
        batch.put(family, key, value);
        if batch.byte_size() > 256 << 10 {
            engine.write(std::mem::take(&mut batch), Durability::Buffered).expect("write");
        }
    }
    engine.write(batch, Durability::Buffered).expect("write");
}

/// A pair of a KiB for each number, at a key that `name` makes of it.
fn fill(engine: &dyn Engine, numbers: Range<u64>, name: impl Fn(u64) -> Vec<u8>) {
    write(engine, FAMILY, numbers.map(|number| (version(&name(number), 1), noise(number, 1000))));
}

fn ordered(number: u64) -> Vec<u8> {
    format!("a prefix that is shared by all of the keys of this table {number:012}").into_bytes()
}

/// Everywhere.
fn strewn(number: u64) -> Vec<u8> {
    splitmix64(number).to_be_bytes().to_vec()
}

/// Crowds of one, two and five parts of eight, deep below different prefixes.
fn crowded(number: u64) -> Vec<u8> {
    let crowd = [b'a', b'b', b'b', b'z', b'z', b'z', b'z', b'z'][number as usize % 8];
    let mut key = vec![crowd; 70];
    key.extend_from_slice(&[0; 20]);
    key.extend_from_slice(format!("{number:08}").as_bytes());
    key
}

/// Half of the keys below a half of the space, half of these below its half, and so on.
fn crammed(number: u64) -> Vec<u8> {
    let places = number.trailing_ones().min(40);
    (splitmix64(number) >> places >> 8).to_be_bytes().to_vec()
}

/// Nearly all under one tenant, whose keys differ in their last bytes.
fn lopsided(number: u64) -> Vec<u8> {
    match number % 50 {
        0 => strewn(number),
        _ => [&[0x80; 33][..], &(number as u32).to_be_bytes()].concat(),
    }
}

fn assert_within(part: u64, share: u64, percent: u64, what: &str) {
    let is_near = part.abs_diff(share) * 100 <= share * percent;
    assert!(is_near, "{part} is not within {percent}% of {share}: {what}");
}

fn assert_equal_parts(case: &Case, keys: &[Bytes], weigh: impl Fn(&Extent) -> u64, what: &str) {
    let parts: Vec<u64> = case.parts(FAMILY, keys).iter().map(weigh).collect();
    let share = parts.iter().sum::<u64>() / parts.len() as u64;
    parts.iter().for_each(|part| assert_within(*part, share, 25, &format!("{what} {parts:?}")));
}

#[test]
fn a_large_region_is_cut_into_equal_parts_and_not_read_for_it() {
    let names: [(&str, Name); 5] = [
        ("ordered", ordered),
        ("strewn", strewn),
        ("crowded", crowded),
        ("crammed", crammed),
        ("lopsided", lopsided),
    ];
    for (shape, name) in names {
        let filled = |engine: &dyn Engine| fill(engine, 0..52 << 10, name);
        for case in Case::each(filled, |engine| engine.flush(FAMILY)) {
            let (keys, size) = case.look();
            let whole = case.parts(FAMILY, &[])[0];
            assert_eq!(keys.len(), 2, "52 MiB make three parts: {shape}");
            assert_equal_parts(&case, &keys, |part| part.bytes, shape);
            assert_within(size.extent.bytes, whole.bytes, 5, shape);
            assert_within(size.extent.keys, whole.keys, 5, shape);
            assert_eq!((case.scans(), case.samples()), (0, 1), "{shape}");
            assert!(size.is_bound);
        }
    }
}

#[test]
fn a_region_a_little_below_the_limit_is_left_as_it_is_without_being_read() {
    let filled = |engine: &dyn Engine| fill(engine, 0..22 << 10, strewn);
    for case in Case::each(filled, |engine| engine.flush(FAMILY)) {
        let (keys, size) = case.look();
        assert_eq!((keys.len(), case.scans()), (0, 0));
        assert_within(size.extent.bytes, case.parts(FAMILY, &[])[0].bytes, 5, "its size");
        // What was measured and has not grown is not measured again, whatever the engine says.
        let other = Case {
            config: RaftConfig { region_size_max: ByteSize::mib(23), ..case.config },
            ..case
        };
        assert_eq!(other.check().look(size).expect("a look"), (Vec::new(), size));
    }
}

#[test]
fn what_no_table_file_has_yet_is_counted_and_cut() {
    let config = RocksConfig { write_buffer_size: ByteSize::mib(64), ..RocksConfig::default() };
    let case = rocks(&config, |engine| fill(engine, 0..32 << 10, ordered), |_| ());
    let (keys, size) = case.look();
    assert_eq!((case.scans(), case.samples()), (1, 0));
    assert_eq!(size.extent, case.parts(FAMILY, &[])[0], "counted exactly");
    assert_eq!(keys.len(), 1);
    assert_equal_parts(&case, &keys, |part| part.bytes, "counted");
}

#[test]
fn what_waits_in_buffers_behind_the_files_is_seen() {
    let config = RocksConfig { write_buffer_size: ByteSize::mib(64), ..RocksConfig::default() };
    let grow = |engine: &RocksEngine| {
        engine.flush(FAMILY);
        fill(engine, 20 << 10..32 << 10, ordered);
    };
    let case = rocks(&config, |engine| fill(engine, 0..20 << 10, ordered), grow);
    let (keys, size) = case.look();
    assert_eq!((case.scans(), case.samples()), (0, 1));
    assert_within(size.extent.bytes, case.parts(FAMILY, &[])[0].bytes, 5, "with the buffers");
    assert_equal_parts(&case, &keys, |part| part.bytes, "with the buffers");
}

#[test]
fn versions_that_were_overwritten_and_not_merged_away_yet_do_not_make_a_region_large() {
    let config = RocksConfig { write_buffer_size: ByteSize::mib(64), ..RocksConfig::default() };
    let again = |engine: &RocksEngine| {
        engine.flush(FAMILY);
        for _ in 0..2 {
            fill(engine, 0..20 << 10, strewn);
            engine.flush(FAMILY);
        }
    };
    let case = rocks(&config, |engine| fill(engine, 0..20 << 10, strewn), again);
    let whole = case.check().maps().next().expect("the first map").range;
    assert!(case.engine.table_size(FAMILY, &whole).expect("a size") > 55 * MIB);
    let (keys, size) = case.look();
    assert_eq!((keys.len(), case.scans()), (0, 0), "20 MiB of 24: {size:?}");
    assert_within(size.extent.bytes, case.parts(FAMILY, &[])[0].bytes, 15, "its size");
}

#[test]
fn what_was_removed_and_compressed_does_not_count_as_it_lies_in_the_files() {
    let config = RocksConfig { write_buffer_size: ByteSize::mib(64), ..RocksConfig::default() };
    let filled = |engine: &dyn Engine| {
        let value = |number: u64| [noise(number, 500), vec![b'v'; 500]].concat();
        let pairs = (0..100 << 10).map(|number| (version(&ordered(number), 1), value(number)));
        write(engine, FAMILY, pairs);
    };
    let remove = |engine: &RocksEngine| {
        engine.settle(FAMILY);
        let mut batch = WriteBatch::new();
        let ends = [0, 50 << 10].map(|number| version(&ordered(number), 1));
        batch.delete_range(FAMILY, KeyRange::new(ends[0].clone(), ends[1].clone()));
        engine.write(batch, Durability::Buffered).expect("write");
    };
    let case = rocks(&config, filled, remove);
    let (keys, size) = case.look();
    assert_eq!((keys.len(), case.scans()), (2, 0));
    assert_within(size.extent.bytes, case.parts(FAMILY, &[])[0].bytes, 10, "its size");
    assert_equal_parts(&case, &keys, |part| part.bytes, "what is left");
}

#[test]
fn half_of_a_large_region_is_found_without_reading_it() {
    let filled = |engine: &dyn Engine| fill(engine, 0..20 << 10, crowded);
    for case in Case::each(filled, |engine| engine.flush(FAMILY)) {
        let (keys, _) = case.check().halve().expect("a look");
        assert_eq!((keys.len(), case.scans()), (1, 0));
        assert_equal_parts(&case, &keys, |part| part.bytes, "halves");
    }
}

#[test]
fn a_large_region_with_too_many_records_is_cut_by_their_number() {
    const WRITE: ColumnFamily = ColumnFamily::Write;
    let filled = |engine: &dyn Engine| {
        let pairs = (0..100_000).map(|number| (version(&ordered(number), 1), noise(number, 200)));
        write(engine, WRITE, pairs);
    };
    for mut case in Case::each(filled, |engine| engine.flush(WRITE)) {
        case.config.region_size_max = ByteSize::gib(1);
        (case.config.region_keys_max, case.config.split_keys) = (60_000, 25_000);
        let (keys, size) = case.look();
        assert_within(size.extent.records, 100_000, 5, "records");
        assert!((2..=3).contains(&keys.len()), "{} keys", keys.len());
        let share = 100_000 / (keys.len() as u64 + 1);
        for part in case.parts(WRITE, &keys) {
            assert_within(part.records, share, 25, "records of a part");
        }
        assert_eq!(case.scans(), 0);
    }
}

#[test]
fn a_map_with_many_small_pairs_in_front_of_a_few_large_ones_has_marks_between_the_large() {
    let mut outline = Outline::default();
    let bytes = |number: u64| if number < 100_000 { 20 } else { 100_000 };
    for number in 0..100_100 {
        outline.add(&u64::to_be_bytes(number), Extent::of_pair(FAMILY, bytes(number)));
    }
    assert_eq!(outline.total().bytes, 100_000 * 20 + 100 * 100_000);
    let marks = outline.marks();
    assert!(marks.len() <= 1024, "{} marks", marks.len());
    let gap = |pair: &[outline::Mark]| pair[1].before.bytes - pair[0].before.bytes;
    let widest = marks.windows(2).map(gap).max().expect("marks");
    assert!(widest <= 130_000, "{widest} bytes without a mark");
}

proptest! {
    #[test]
    fn a_key_in_the_middle_is_between_both(
        shared in prop::collection::vec(any::<u8>(), 0..4),
        low in prop::collection::vec(0..4_u8, 0..20),
        high in prop::collection::vec(0..4_u8, 0..20),
    ) {
        let [one, other] = [low, high].map(|tail| [&shared[..], &tail].concat());
        let (low, high) = (one.clone().min(other.clone()), one.max(other));
        if let Some(key) = samples::between(&low, &high) {
            prop_assert!(low < key && key < high, "{low:?} {key:?} {high:?}");
        } else {
            prop_assert!(high.len() > 16 || high.starts_with(&low) || low == high, "{low:?} {high:?}");
        }
    }
}
