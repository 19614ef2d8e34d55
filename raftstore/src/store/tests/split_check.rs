//! How often a region is read whole to see whether it should be cut: seldom.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::*;
use crate::config::ByteSize;

impl Cluster {
    fn reopen_with_limits(&mut self, split_check: ByteSize, size_max: ByteSize, keys_max: u64) {
        let limits = RaftConfig {
            split_check_size: split_check,
            split_size: ByteSize(size_max.0 / 2),
            region_size_max: size_max,
            split_keys: keys_max / 2,
            region_keys_max: keys_max,
            ..config()
        };
        self.reopen(1, limits);
        self.run(2);
    }

    fn fill(&mut self, keys: std::ops::Range<u64>, value: ByteSize) {
        for number in keys {
            done(self.put(1, &format!("k{number:06}"), &"v".repeat(value.length())));
        }
        self.settle();
    }

    /// Writes a record for each number, all at one timestamp.
    fn commit(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let key = [&encode(&record_key(number))[..], &[0xFF; 8]].concat();
            done(self.put_in(1, ColumnFamily::Write, &key, "P"));
        }
        self.settle();
    }

    fn scans(&self) -> u64 {
        self.machines[&1].store.counters().region_scans.load(Ordering::Relaxed)
    }

    fn split_asks(&mut self) -> usize {
        self.machine(1).store.take_split_asks().len()
    }
}

fn record_key(number: u64) -> String {
    format!("k{number:06}")
}

fn encode(key: &str) -> Bytes {
    skerry_proto::codec::encode_bytes(key.as_bytes()).into()
}

#[test]
fn a_region_that_grows_is_read_when_it_may_be_too_large_and_not_at_every_look() {
    let mut cluster = Cluster::new(1, 1);
    cluster.reopen_with_limits(ByteSize::kib(8), ByteSize::mib(1), 1_000_000);
    cluster.fill(0..100, ByteSize::kib(1));
    assert_eq!(cluster.scans(), 0, "twelve looks at less than an eighth of the limit");
    cluster.fill(100..1_000, ByteSize::kib(1));
    assert_eq!(
        cluster.scans(),
        1,
        "it was counted when it might have been too large, and then added to"
    );
    assert_eq!(cluster.split_asks(), 0);
    cluster.fill(1_000..1_040, ByteSize::kib(1));
    assert!(cluster.split_asks() > 0, "it is too large");
    assert!(cluster.scans() <= 1 + 40 / 8 + 1, "{}", cluster.scans());
}

#[test]
fn a_region_whose_pairs_are_overwritten_is_not_taken_for_a_large_one() {
    let mut cluster = Cluster::new(1, 1);
    cluster.reopen_with_limits(ByteSize::kib(8), ByteSize::mib(1), 1_000_000);
    for _ in 0..40 {
        cluster.fill(0..100, ByteSize::kib(1));
    }
    assert_eq!((cluster.scans(), cluster.split_asks()), (0, 0));
}

#[test]
fn a_region_with_too_many_commit_records_is_found_by_their_number_and_cut_into_parts() {
    let mut cluster = Cluster::new(1, 1);
    cluster.reopen_with_limits(ByteSize(512), ByteSize::mib(64), 600);
    cluster.commit(0..550);
    assert_eq!(cluster.split_asks(), 0);
    assert!((1..3).contains(&cluster.scans()), "{}", cluster.scans());
    cluster.commit(550..1_000);
    let asks = cluster.machine(1).store.take_split_asks();
    let keys = &asks.last().expect("more than six hundred").keys;
    let cuts: Vec<Bytes> = [333, 666].map(record_key).map(|key| encode(&key)).into();
    assert_eq!(keys, &cuts, "a thousand make three parts of three hundred and more");
}

#[test]
fn raw_pairs_locks_and_long_values_are_not_commit_records() {
    let mut cluster = Cluster::new(1, 1);
    cluster.reopen_with_limits(ByteSize(512), ByteSize::mib(64), 600);
    cluster.fill(0..700, ByteSize(8));
    for family in [ColumnFamily::Lock, ColumnFamily::Default] {
        for number in 0..700 {
            done(cluster.put_in(1, family, &encode(&record_key(number)), "v"));
        }
    }
    cluster.settle();
    assert_eq!(cluster.split_asks(), 0);
}

#[test]
fn parts_that_are_still_too_large_are_cut_without_another_write() {
    let mut cluster = Cluster::new(1, 1);
    cluster.reopen_with_limits(ByteSize(512), ByteSize::mib(64), 10);
    cluster.commit(0..250);
    let mut wanted = BTreeMap::new();
    for round in 1.. {
        for ask in cluster.machine(1).store.take_split_asks() {
            wanted.insert(ask.region.id, ask.keys);
        }
        let Some((region, keys)) = wanted.pop_first() else { break };
        assert!(keys.len() < 10, "one look asks for ten parts at most");
        cluster.split_at(region, keys, 100 * round);
        cluster.settle();
    }
    let records: Vec<Bytes> = (0..250).map(record_key).map(|key| encode(&key)).collect();
    for replica in cluster.machine(1).store.inspect() {
        let held = records.iter().filter(|key| replica.region.contains_key(key)).count();
        assert!(held <= 10, "{held} in {}", replica.region);
    }
}
