//! Seeds of the simulator: many of them in a row, or one with its story.
//!
//! `make sim SEEDS=500` runs that many, from 1 on; `SEED=7 make sim` replays one. Without either, as in `make
//! test`, fifty run. As many again, or fifteen, are governed by the scheduler (`GOVERNED=1 SEED=7 make sim`
//! replays one), and as many again, or forty, have clients of transactions (`TRANSACTIONS=1 SEED=7 make sim`). What a
//! run is, and what it checks, stands in `tests/src/sim/mod.rs`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use skerry_kv::txn::planted::Planted as TxnPlanted;
use skerry_raftstore::planted::Planted;
use skerry_raftstore::time::{Clock, SystemClock};
use skerry_scheduler::planted::Planted as BugAbove;
use skerry_tests::sim::trace::SECOND;
use skerry_tests::sim::{self, Settings, Summary};
use skerry_tests::{number_from_environment, text_from_environment};

/// Seeds that run when nobody says how many.
const SEEDS: u64 = 50;

/// Operations that must be acknowledged in each.
const OPERATIONS: usize = 1_000;

/// Seeds over which every fault and every rare event must have happened.
const SEEDS_FOR_ALL_EVENTS: u64 = 100;

/// What must happen often enough to be tested by it.
const EVENTS: [&str; 34] = [
    "split",
    "conf change",
    "snapshot install",
    "truncation",
    "restart",
    "destroy",
    "follower read",
    "lease read",
    "lease expiry",
    "election",
    "sleep",
    "waking",
    "power loss at start",
    "operator: leave joint",
    "fault: power loss",
    "fault: power loss at a write",
    "fault: blackout",
    "fault: kill",
    "fault: pause",
    "fault: partition",
    "fault: bad network",
    "fault: clock drift",
    "fault: slow disk",
    "fault: full disk",
    "fault: stall",
    "fault: doze",
    "fault: rival",
    "fault: deaf leader",
    "fault: echo",
    "fault: schism",
    "newcomer's region cut",
    "damaged snapshot refused",
    "snapshot without room",
    "split asked for by a store",
];

/// Runs a seed; whatever goes wrong, says how to see it again.
fn run(settings: Settings) -> Summary {
    let seed = settings.seed;
    let kind = match (settings.governed, settings.transactions) {
        (true, _) => "GOVERNED=1 ",
        (false, true) => "TRANSACTIONS=1 ",
        (false, false) => "",
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| sim::run(settings)));
    let failure = match outcome {
        Ok(Ok(summary)) => return summary,
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => format!("seed {seed}: a store panicked; see above"),
    };
    panic!("{failure}\nto replay it with its story: {kind}SEED={seed} make sim");
}

/// What one seed must have done to count.
fn check_enough(summary: &Summary, operations: usize) {
    let Summary { seed, simulated, faults, checked, .. } = summary;
    assert!(*simulated >= 60 * SECOND, "seed {seed} took {simulated} microseconds");
    assert!(checked.done >= operations, "seed {seed} acknowledged {} operations", checked.done);
    assert!(*faults >= 10, "seed {seed} had {faults} faults");
}

#[test]
fn seeds_hold() {
    if let Some(seed) = number_from_environment("SEED") {
        let governed = number_from_environment("GOVERNED").is_some();
        let transactions = number_from_environment("TRANSACTIONS").is_some();
        let settings = if transactions { transactional(seed) } else { Settings::of_seed(seed) };
        let summary = run(Settings { tells: true, governed, ..settings });
        return println!("{summary:#?}");
    }
    let seeds = number_from_environment("SEEDS").unwrap_or(SEEDS);
    let clock = SystemClock;
    let started = clock.monotonic();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut simulated, mut steps, mut done, mut unknown) = (0, 0, 0, 0);
    for seed in 1..=seeds {
        let summary = run(Settings::of_seed(seed));
        check_enough(&summary, OPERATIONS);
        simulated += summary.simulated / SECOND;
        steps += summary.steps;
        done += summary.checked.done;
        unknown += summary.checked.unknown;
        for (name, count) in summary.counts {
            *counts.entry(name).or_default() += count;
        }
    }
    let seconds = (clock.monotonic() - started).as_secs_f64();
    println!("{seeds} seeds, {simulated} simulated seconds, {steps} events in {seconds:.1} s");
    println!("{:.0} simulated seconds per second", simulated as f64 / seconds);
    println!("{done} operations done, {unknown} of unknown outcome");
    for (name, count) in &counts {
        println!("{count:9} {name}");
    }
    let missing: Vec<_> = EVENTS.iter().filter(|name| !counts.contains_key(*name)).collect();
    let is_enough = seeds >= SEEDS_FOR_ALL_EVENTS;
    assert!(!is_enough || missing.is_empty(), "in {seeds} seeds never happened: {missing:?}");
}

/// Governed seeds that run when nobody says how many.
const GOVERNED_SEEDS: u64 = 15;

/// Operations that must be acknowledged in each: stores are away for longer than in others.
const GOVERNED_OPERATIONS: usize = 300;

/// What must happen in governed seeds.
const GOVERNED_EVENTS: [&str; 11] = [
    "fault: scheduler crash",
    "fault: store loss",
    "step by the rule",
    "step by the scheduler, unasked",
    "operator: transfer",
    "operator: leave joint",
    "operator: change of several peers",
    "split",
    "store leaves",
    "store joins",
    "store buried",
];

/// The scheduler decides where replicas are, while it, stores and the network fail.
#[test]
fn governed_seeds_hold() {
    if number_from_environment("SEED").is_some() {
        return;
    }
    let seeds = number_from_environment("SEEDS").unwrap_or(GOVERNED_SEEDS);
    let governed = |seed| Settings { governed: true, ..Settings::of_seed(seed) };
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 1..=seeds {
        let summary = run(governed(seed));
        check_enough(&summary, GOVERNED_OPERATIONS);
        for (name, count) in summary.counts {
            *counts.entry(name).or_default() += count;
        }
    }
    for (name, count) in &counts {
        println!("{count:9} {name}");
    }
    let missing: Vec<_> =
        GOVERNED_EVENTS.iter().filter(|name| !counts.contains_key(*name)).collect();
    let is_enough = seeds >= GOVERNED_SEEDS;
    assert!(!is_enough || missing.is_empty(), "in {seeds} seeds never happened: {missing:?}");
    let (first, second) = (run(governed(1)), run(governed(1)));
    assert_eq!((first.trace, first.counts), (second.trace, second.counts));
}

/// Seeds with transactions that run when nobody says how many.
const TRANSACTIONAL_SEEDS: u64 = 40;

/// Seeds that found a bug, and always run. 439: a snapshot for a replica in whose place a split had just put another.
const KEPT_SEEDS: [u64; 1] = [439];

/// Transactions that must be committed in each, and faults that must come. Most commit a hundred and more; one in some
/// hundreds has little luck with all of its leaders.
const COMMITS: usize = 25;
const TRANSACTIONAL_FAULTS: u64 = 10;

/// What must happen in seeds with transactions.
const TRANSACTIONAL_EVENTS: [&str; 33] = [
    "txn: committed in two phases",
    "txn: committed asynchronously",
    "txn: committed in one phase",
    "txn: async commit given up",
    "txn: async commit found complete",
    "txn: async commit of a dead client resolved",
    "txn: lock of a dead client resolved",
    "txn: commit below what was promised",
    "txn: commit refused, rolled back",
    "txn: waited for a lock",
    "txn: deadlock",
    "txn: deadlock over stores",
    "txn: deadlock over stores, of three or more",
    "txn: line to the detector broke",
    "txn: told who is not the detector",
    "txn: reader pushed a lock",
    "txn: region error, asked again",
    "txn: leader changed in mid-commit",
    "txn: leader changed before a write",
    "txn: region split in mid-transaction",
    "txn: snapshot read again later",
    "txn: read at a timestamp that nobody was given refused",
    "txn: fresh timestamp for a store",
    "txn: client died",
    "fault: scheduler crash",
    "fault: executor hangs",
    "fault: ignorant heir",
    "txn: prewrite straggles",
    "txn: safe point raised",
    "txn: collection asked about a transaction",
    "txn: too old to read",
    "txn: too old to lock",
    "split",
];

/// The run that `TRANSACTIONS=1 make sim` makes of a seed.
fn transactional(seed: u64) -> Settings {
    Settings { transactions: true, dangerous: 45 * SECOND, ..Settings::of_seed(seed) }
}

/// Clients commit over several regions while stores, scheduler, network and they themselves fail.
#[test]
fn transactional_seeds_hold() {
    if number_from_environment("SEED").is_some() {
        return;
    }
    let seeds = number_from_environment("SEEDS").unwrap_or(TRANSACTIONAL_SEEDS);
    let clock = SystemClock;
    let started = clock.monotonic();
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut simulated, mut committed, mut reads) = (0, 0, 0);
    for seed in (1..=seeds).chain(KEPT_SEEDS.into_iter().filter(|kept| *kept > seeds)) {
        let summary = run(transactional(seed));
        let Summary { isolated, faults, .. } = &summary;
        assert!(isolated.committed >= COMMITS, "seed {seed} committed {}", isolated.committed);
        assert!(*faults >= TRANSACTIONAL_FAULTS, "seed {seed} had {faults} faults");
        simulated += summary.simulated / SECOND;
        committed += isolated.committed;
        reads += isolated.reads;
        for (name, count) in summary.counts {
            *counts.entry(name).or_default() += count;
        }
    }
    let seconds = (clock.monotonic() - started).as_secs_f64();
    println!("{seeds} seeds with transactions, {simulated} simulated seconds in {seconds:.1} s");
    println!("{committed} transactions committed, {reads} reads");
    for (name, count) in &counts {
        println!("{count:9} {name}");
    }
    let missing: Vec<_> =
        TRANSACTIONAL_EVENTS.iter().filter(|name| !counts.contains_key(*name)).collect();
    let is_enough = seeds >= SEEDS_FOR_ALL_EVENTS;
    assert!(!is_enough || missing.is_empty(), "in {seeds} seeds never happened: {missing:?}");
    let (first, second) = (run(transactional(1)), run(transactional(1)));
    assert_eq!((first.trace, first.counts), (second.trace, second.counts));
}

/// Seeds in which a planted bug must be found, if nobody says how many (`make planted SEEDS=200`).
const SEEDS_FOR_A_BUG: u64 = 200;

/// A bug that can be planted.
#[derive(Clone, Copy)]
enum Bug {
    /// In a store: raft seeds find it.
    Store(Planted),
    /// In the scheduler: governed seeds find it.
    Scheduler(BugAbove),
    /// In an executor of transactions: seeds with transactions find it.
    Executor(TxnPlanted),
}

impl Bug {
    fn all() -> Vec<Bug> {
        let of_stores = Planted::ALL.into_iter().map(Bug::Store);
        let of_schedulers = BugAbove::ALL.into_iter().map(Bug::Scheduler);
        of_stores
            .chain(of_schedulers)
            .chain(TxnPlanted::ALL.into_iter().map(Bug::Executor))
            .collect()
    }

    fn name(self) -> String {
        match self {
            Bug::Store(bug) => format!("{bug:?}"),
            Bug::Scheduler(bug) => format!("{bug:?}"),
            Bug::Executor(bug) => format!("{bug:?}"),
        }
    }

    fn settings(self, seed: u64) -> Settings {
        let plain = Settings::of_seed(seed);
        match self {
            Bug::Store(bug) => Settings { planted: Some(bug), ..plain },
            Bug::Scheduler(bug) => Settings { governed: true, planted_above: Some(bug), ..plain },
            Bug::Executor(bug) => Settings { planted_txn: Some(bug), ..transactional(seed) },
        }
    }
}

/// The seed in which a planted bug was found first, and by what.
fn first_seed_that_finds(bug: Bug, seeds: impl Iterator<Item = u64>) -> Option<(u64, String)> {
    for seed in seeds {
        let settings = bug.settings(seed);
        match catch_unwind(AssertUnwindSafe(|| sim::run(settings))) {
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return Some((seed, failure.what)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                return Some((seed, text.unwrap_or_else(|| "a store panicked".to_string())));
            }
        }
    }
    None
}

/// Plants each bug of a kind, or the one that is named, in run after run, and wants it to be found.
fn find_all(is_of_kind: impl Fn(Bug) -> bool) {
    let seeds = number_from_environment("PLANTED_SEEDS").unwrap_or(SEEDS_FOR_A_BUG);
    let named = text_from_environment("PLANTED");
    let is_wanted = |bug: &Bug| named.as_ref().is_none_or(|name| bug.name() == *name);
    let bugs: Vec<Bug> = Bug::all().into_iter().filter(is_wanted).collect();
    assert!(!bugs.is_empty(), "there is no such bug: {named:?}");
    let mut missed = Vec::new();
    for bug in bugs.into_iter().filter(|bug| is_of_kind(*bug)) {
        match first_seed_that_finds(bug, 1..=seeds) {
            Some((seed, what)) => println!("{}: seed {seed}: {what}", bug.name()),
            None => missed.push(bug.name()),
        }
    }
    assert!(missed.is_empty(), "not found in {seeds} seeds: {missed:?}");
}

#[test]
fn bugs_planted_in_stores_are_found() {
    find_all(|bug| matches!(bug, Bug::Store(_)));
}

#[test]
fn bugs_planted_in_the_scheduler_are_found() {
    find_all(|bug| matches!(bug, Bug::Scheduler(_)));
}

#[test]
fn bugs_planted_in_executors_are_found() {
    find_all(|bug| matches!(bug, Bug::Executor(_)));
}

#[test]
fn a_seed_is_a_run() {
    if number_from_environment("SEED").is_some() {
        return;
    }
    let short = |seed| Settings { dangerous: 20 * SECOND, ..Settings::of_seed(seed) };
    let mut traces = Vec::new();
    for seed in 1_001..1_006 {
        let (first, second) = (run(short(seed)), run(short(seed)));
        assert_eq!(first.trace, second.trace, "seed {seed} is not the same twice");
        assert_eq!((first.steps, first.counts), (second.steps, second.counts));
        traces.push(first.trace);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 5, "different seeds are the same run");
}
