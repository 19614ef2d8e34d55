//! How often a region is read whole to see whether it should be cut: seldom.

use std::sync::atomic::Ordering;

use super::*;
use crate::config::ByteSize;

impl Cluster {
    fn reopen_with_limits(&mut self, split_check: ByteSize, size_max: ByteSize, keys_max: u64) {
        let limits = RaftConfig {
            split_check_size: split_check,
            split_size: ByteSize(size_max.0 / 2),
            region_size_max: size_max,
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

    fn scans(&self) -> u64 {
        self.machines[&1].store.counters().region_scans.load(Ordering::Relaxed)
    }

    fn split_asks(&mut self) -> usize {
        self.machine(1).store.take_split_asks().len()
    }
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
fn a_region_with_too_many_small_pairs_is_found_by_their_number() {
    let mut cluster = Cluster::new(1, 1);
    cluster.reopen_with_limits(ByteSize(512), ByteSize::mib(64), 600);
    cluster.fill(0..550, ByteSize(8));
    assert_eq!(cluster.split_asks(), 0);
    assert!((1..3).contains(&cluster.scans()), "{}", cluster.scans());
    cluster.fill(550..650, ByteSize(8));
    assert!(cluster.split_asks() > 0, "more than six hundred");
}
