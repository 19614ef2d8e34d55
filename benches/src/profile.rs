//! Where the processor time of a benchmark goes, by kinds of threads: a profile beside each figure, out of the kernel's
//! own books. It costs nothing and needs no tool; where it leaves a question, `perf` has the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use skerry_kv::metrics::thread_seconds;
use skerry_raftstore::time::{Clock, SystemClock};

/// Columns, and the threads that each stands for. Clients run on the first thread; *rest* is everybody else.
const COLUMNS: [(&str, &str); 6] = [
    ("clients", "main"),
    ("raft workers", "raft"),
    ("log writers", "log"),
    ("appliers", "apply"),
    ("readers", "read"),
    ("RocksDB's", "rocksdb"),
];

/// A measurement that is under way.
#[derive(Debug)]
pub struct Watch {
    began: Duration,
    before: BTreeMap<&'static str, f64>,
}

/// Processor time that all threads have taken in some time, for so many operations.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    seconds: f64,
    operations: u64,
    taken: BTreeMap<&'static str, f64>,
}

impl Watch {
    /// Begins to look.
    pub fn start() -> Watch {
        Watch { before: thread_seconds(), began: SystemClock.monotonic() }
    }

    /// What so many operations have taken since. Threads that have ended are not in it: nothing may be stopped before.
    pub fn profile(&self, operations: u64) -> Profile {
        let mut taken = thread_seconds();
        for (kind, before) in &self.before {
            taken.entry(kind).and_modify(|taken| *taken = (*taken - before).max(0.0));
        }
        let seconds = (SystemClock.monotonic() - self.began).as_secs_f64();
        Profile { seconds, operations, taken }
    }
}

impl Profile {
    /// Adds another measurement of the same operations.
    pub fn add(&mut self, other: &Profile) {
        self.seconds += other.seconds;
        self.operations += other.operations;
        for (kind, taken) in &other.taken {
            *self.taken.entry(kind).or_default() += taken;
        }
    }

    /// The same, where each operation counts as so many.
    pub fn counted_as(&self, parts: u64) -> Profile {
        Profile { operations: self.operations * parts, ..self.clone() }
    }

    /// Operations a second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    /// Processor time of one operation in microseconds, of all threads. It tells more than the rate where others use
    /// the machine.
    pub fn cpu_us(&self) -> f64 {
        self.taken.values().sum::<f64>() * 1e6 / self.operations as f64
    }

    /// The heads of the cells.
    pub fn heads() -> String {
        let names = COLUMNS.iter().map(|(name, _)| *name);
        ["cores"].into_iter().chain(names).chain(["rest"]).collect::<Vec<_>>().join(" | ")
    }

    /// Processors that were busy on average; then microseconds of each kind of thread for one operation.
    pub fn cells(&self) -> String {
        let of_kind = |kind: &str| self.taken.get(kind).copied().unwrap_or(0.0);
        let all: f64 = self.taken.values().sum();
        let known: f64 = COLUMNS.iter().map(|(_, kind)| of_kind(kind)).sum();
        let columns = COLUMNS.iter().map(|(_, kind)| of_kind(kind)).chain([(all - known).max(0.0)]);
        let each = columns.map(|taken| format!("{:.1}", taken * 1e6 / self.operations as f64));
        [format!("{:.2}", all / self.seconds)]
            .into_iter()
            .chain(each)
            .collect::<Vec<_>>()
            .join(" | ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let taken = [("raft", 0.003), ("background", 0.001)].into();
        Profile { seconds: 0.002, operations: 1_000, taken }
    }

    #[test]
    fn every_head_has_its_cell_and_the_cells_are_all_there_is() {
        let cells = profile().cells();
        assert_eq!(cells, "2.00 | 0.0 | 3.0 | 0.0 | 0.0 | 0.0 | 0.0 | 1.0");
        assert_eq!(cells.matches('|').count(), Profile::heads().matches('|').count());
        assert!((profile().cpu_us() - 4.0).abs() < 1e-9);
    }

    #[test]
    fn measurements_of_the_same_are_one() {
        let mut both = profile();
        both.add(&profile());
        assert_eq!(both.cells(), profile().cells());
        assert!((both.rate() - 500_000.0).abs() < 1e-3);
    }

    #[test]
    fn what_was_taken_before_does_not_count() {
        let watch = Watch { began: SystemClock.monotonic(), before: [("main", 1e9)].into() };
        assert_eq!(watch.profile(1).taken["main"], 0.0);
    }
}
