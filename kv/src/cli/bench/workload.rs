//! What clients do: an operation after the other, chosen by a mix.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;

use super::keys::{Chooser, Dice, Distribution};

/// A mix of operations. Those of YCSB are what its core workloads are known for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Workload {
    /// Overwrite keys
    Put,
    /// Read keys
    Get,
    /// Read ranges of keys
    Scan,
    /// Half reads, half overwrites, or as --reads says
    Mixed,
    /// 50% reads, 50% overwrites, zipfian
    YcsbA,
    /// 95% reads, 5% overwrites, zipfian
    YcsbB,
    /// Reads alone, zipfian
    YcsbC,
    /// 95% reads of the latest, 5% inserts
    YcsbD,
    /// 95% scans, 5% inserts, zipfian
    YcsbE,
    /// 50% reads, 50% read-modify-writes, zipfian
    YcsbF,
    /// Transactions that write two keys of one region, in one phase
    TxnOneRegion,
    /// Transactions that write two keys of two regions, in two phases
    TxnTwoRegions,
    /// Transactions that move money between accounts; 1% sum all of them, and the sum must stay
    Bank,
}

/// What is done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Get,
    Put,
    Insert,
    Scan,
    ReadModifyWrite,
    /// A transaction with the next key, too.
    WriteTogether,
    /// A transaction with a key of another region, too.
    WriteApart,
    /// Money moves between two accounts.
    Transfer,
    /// All accounts are summed.
    Look,
}

/// Parts of a hundred, and what is done in each.
type Mix = [(u64, Operation); 2];

impl Workload {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Whether keys must be there before it begins.
    pub(super) fn reads(self) -> bool {
        self != Workload::Put && !self.is_transactional()
    }

    pub(super) fn is_transactional(self) -> bool {
        matches!(self, Workload::TxnOneRegion | Workload::TxnTwoRegions | Workload::Bank)
    }

    /// Whether keys must be in an order.
    pub(super) fn scans(self) -> bool {
        matches!(self, Workload::Scan | Workload::YcsbE)
    }

    /// Whether one operation may take many keys: a scan and a transaction have keys of their own choice.
    pub(super) fn takes_batches(self) -> bool {
        !self.scans() && !self.is_transactional()
    }

    /// Pairs that every operation writes without batches; 0 where only some do.
    pub(super) fn writes(self) -> u64 {
        match self {
            Workload::Put => 1,
            Workload::TxnOneRegion | Workload::TxnTwoRegions => 2,
            _ => 0,
        }
    }

    fn mix(self, reads: u64) -> Mix {
        use Operation::{Get, Insert, Look, Put, ReadModifyWrite, Scan, Transfer};
        use Operation::{WriteApart, WriteTogether};
        match self {
            Workload::Put => [(100, Put), (0, Put)],
            Workload::Get | Workload::YcsbC => [(100, Get), (0, Get)],
            Workload::Scan => [(100, Scan), (0, Scan)],
            Workload::Mixed => [(reads, Get), (100 - reads, Put)],
            Workload::YcsbA => [(50, Get), (50, Put)],
            Workload::YcsbB => [(95, Get), (5, Put)],
            Workload::YcsbD => [(95, Get), (5, Insert)],
            Workload::YcsbE => [(95, Scan), (5, Insert)],
            Workload::YcsbF => [(50, Get), (50, ReadModifyWrite)],
            Workload::TxnOneRegion => [(100, WriteTogether), (0, WriteTogether)],
            Workload::TxnTwoRegions => [(100, WriteApart), (0, WriteApart)],
            Workload::Bank => [(99, Transfer), (1, Look)],
        }
    }

    /// The distribution that belongs to it; nothing if any would do.
    fn distribution(self) -> Option<Distribution> {
        match self {
            Workload::YcsbD => Some(Distribution::Latest),
            Workload::YcsbA | Workload::YcsbB | Workload::YcsbC => Some(Distribution::Zipfian),
            Workload::YcsbE | Workload::YcsbF => Some(Distribution::Zipfian),
            _ => None,
        }
    }
}

/// What all clients of a run share.
#[derive(Debug)]
pub(super) struct Plan {
    mix: Mix,
    chooser: Chooser,
    /// Keys that are there.
    keys: AtomicU64,
}

impl Plan {
    /// `distribution` is what was asked for, if anything was.
    pub(super) fn new(
        workload: Workload,
        keys: u64,
        reads: u64,
        distribution: Option<Distribution>,
    ) -> Plan {
        let own = workload.distribution();
        let distribution = distribution.or(own).unwrap_or(Distribution::Uniform);
        let chooser = Chooser::new(distribution, keys);
        Plan { mix: workload.mix(reads), chooser, keys: AtomicU64::new(keys) }
    }

    /// What a client does next, and with which key.
    pub(super) fn next(&self, dice: &mut Dice) -> (Operation, u64) {
        let [(part, often), (_, seldom)] = self.mix;
        let operation = if dice.number() % 100 < part { often } else { seldom };
        (operation, self.key(operation, dice))
    }

    fn key(&self, operation: Operation, dice: &mut Dice) -> u64 {
        match operation {
            // It counts as there a moment before it is: a read may find nothing, which is no error.
            Operation::Insert => self.keys.fetch_add(1, Ordering::Relaxed),
            _ => self.chooser.choose(dice, self.keys.load(Ordering::Relaxed)),
        }
    }

    /// So many different keys for one operation, this one among them.
    pub(super) fn keys_with(
        &self,
        operation: Operation,
        first: u64,
        count: usize,
        dice: &mut Dice,
    ) -> Vec<u64> {
        let there = self.keys.load(Ordering::Relaxed);
        let mut keys = BTreeSet::from([first]);
        while keys.len() < count {
            let mut key = self.key(operation, dice);
            // A favourite that is taken already gives way to the next number, which lies elsewhere in the store.
            while !keys.insert(key) {
                key = (key + 1) % there;
            }
        }
        keys.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(workload: Workload, operation: Operation) -> f64 {
        let (plan, mut dice) = (Plan::new(workload, 1_000, 80, None), Dice::new(1));
        let hits = (0..10_000).filter(|_| plan.next(&mut dice).0 == operation).count();
        hits as f64 / 10_000.0
    }

    #[test]
    fn a_mix_has_the_parts_that_it_names() {
        for (workload, operation, part) in [
            (Workload::Put, Operation::Put, 1.0),
            (Workload::Mixed, Operation::Get, 0.8),
            (Workload::YcsbA, Operation::Put, 0.5),
            (Workload::YcsbB, Operation::Put, 0.05),
            (Workload::YcsbC, Operation::Get, 1.0),
            (Workload::YcsbD, Operation::Insert, 0.05),
            (Workload::YcsbE, Operation::Scan, 0.95),
            (Workload::YcsbF, Operation::ReadModifyWrite, 0.5),
            (Workload::Bank, Operation::Look, 0.01),
        ] {
            let seen = share(workload, operation);
            assert!((seen - part).abs() < 0.02, "{workload:?}: {seen}");
        }
    }

    /// How many of 10,000 operations take the one key of a thousand that is taken most, and which key that is.
    fn favourite(workload: Workload, asked: Option<Distribution>) -> (usize, u64) {
        let (plan, mut dice) = (Plan::new(workload, 1_000, 50, asked), Dice::new(3));
        let mut counts = std::collections::BTreeMap::<u64, usize>::new();
        (0..10_000).for_each(|_| *counts.entry(plan.next(&mut dice).1).or_default() += 1);
        let most = counts.into_iter().max_by_key(|(_, count)| *count).expect("there are keys");
        (most.1, most.0)
    }

    #[test]
    fn a_workload_takes_the_keys_that_belong_to_it_or_those_that_were_asked_for() {
        for workload in [Workload::Put, Workload::Get, Workload::Scan, Workload::Mixed] {
            assert!(favourite(workload, None).0 < 50, "{workload:?} is uniform");
            assert!(favourite(workload, Some(Distribution::Zipfian)).0 > 1_000, "{workload:?}");
        }
        for workload in [Workload::YcsbA, Workload::YcsbB, Workload::YcsbC, Workload::YcsbE] {
            assert!(favourite(workload, None).0 > 1_000, "{workload:?} has favourites");
            assert!(favourite(workload, Some(Distribution::Uniform)).0 < 50, "{workload:?}");
        }
        let newest = favourite(Workload::Get, Some(Distribution::Latest));
        assert_eq!(newest.1, 999, "the newest is read most");
    }

    #[test]
    fn keys_of_one_operation_differ_even_if_it_wants_all_there_are() {
        for workload in [Workload::Get, Workload::YcsbA, Workload::YcsbD] {
            let (plan, mut dice) = (Plan::new(workload, 10, 50, None), Dice::new(1));
            let mut keys = plan.keys_with(Operation::Get, 7, 10, &mut dice);
            keys.sort_unstable();
            assert_eq!(keys, (0..10).collect::<Vec<_>>(), "{workload:?}");
        }
        let (plan, mut dice) = (Plan::new(Workload::YcsbD, 10, 0, None), Dice::new(1));
        let first = plan.key(Operation::Insert, &mut dice);
        let keys = plan.keys_with(Operation::Insert, first, 3, &mut dice);
        assert_eq!(keys, [10, 11, 12], "inserts take keys that were never there");
    }

    #[test]
    fn an_insert_takes_a_key_that_was_never_there() {
        let (plan, mut dice) = (Plan::new(Workload::YcsbD, 10, 0, None), Dice::new(1));
        let next = (0..1_000).map(|_| plan.next(&mut dice));
        let inserted: Vec<u64> = next
            .filter(|(operation, _)| *operation == Operation::Insert)
            .map(|(_, key)| key)
            .collect();
        assert!(inserted.len() > 20);
        assert!(inserted.iter().zip(10..).all(|(key, expected)| *key == expected), "{inserted:?}");
    }
}
