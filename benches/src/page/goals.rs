//! The goals that this project has set itself, each with its floor, and what a run found. A ratio is taken in each
//! round and the middle one told: what slows a round down slows both sides.

use super::{rounded, spread};
use crate::compare::plan;
use crate::compare::references::References;
use crate::compare::results::{Counted, Measurement, Results, Sample, Scenario, Spread};

/// Replicas whose logs are counted together.
const REPLICAS: f64 = 3.0;
/// Pairs of a scan.
const SCAN_PAIRS: f64 = 100.0;

/// What is good.
#[derive(Clone, Copy, PartialEq)]
enum Good {
    Much,
    Little,
}

/// How a figure is found.
#[derive(Clone, Copy)]
enum Source {
    /// Rate of a job's workload, of a peer's.
    Peer(&'static str, &'static str, &'static str),
    /// Median time of a job's workload, of a peer's.
    PeerTime(&'static str, &'static str, &'static str),
    /// Rate of a job's puts, of RocksDB's synced ones.
    RocksPuts(&'static str),
    /// Rate of a job's gets, of RocksDB's.
    RocksGets(&'static str),
    /// Pairs that a job scans, of those that RocksDB's iterator passes.
    RocksScanned(&'static str),
    /// Median time of a job's puts, of one sync of the disk.
    Sync(&'static str),
    /// Rate of a kind of transactions, of puts in the same job.
    OwnPuts(&'static str),
    /// Rate of a job's puts, of those into one region.
    OneRegion(&'static str),
    /// Bytes of one replica's raft log in a job, for a byte of keys and values.
    RaftLog(&'static str),
    /// Time until so many regions take writes, of etcd's.
    Failover(u64),
    /// A figure of a scenario with so many regions, that begins so.
    Event(&'static str, u64, &'static str),
    /// What two stores are filled with, of what the disk takes.
    FillOfDisk,
    /// KiB of an idle replica, by what ten thousand regions need more than one.
    IdleReplica,
}

/// A goal: its number, what it is about, its unit, what is good, its floor, itself, and where its figure comes from.
struct Goal {
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    good: Good,
    floor: f64,
    goal: f64,
    from: Source,
}

const fn much(
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    [floor, goal]: [f64; 2],
    from: Source,
) -> Goal {
    Goal { id, what, unit, good: Good::Much, floor, goal, from }
}

const fn little(
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    [floor, goal]: [f64; 2],
    from: Source,
) -> Goal {
    Goal { id, what, unit, good: Good::Little, floor, goal, from }
}

/// What a scenario calls the longest operation of its clients.
const STALL: &str = "longest operation, most";
const CUT_STALL: &str = "longest operation around a cut, most";
const FAILED: &str = "failed operations";
/// What a failover calls its length.
const BACK: &str = "until every region takes writes, median";
const BACK_MOST: &str = "until every region takes writes, most";
const FILLED: &str = "into two empty stores";
const ROCKS: &str = "x RocksDB synced by 64 threads";

/// In the order of their numbers.
const GOALS: &[Goal] = &[
    much(
        "P1",
        "puts, 256 B keys, 1 KiB values, 500 clients",
        "x etcd",
        [4.0, 8.0],
        Source::Peer(plan::LARGE, "put", "etcd"),
    ),
    much(
        "P2",
        "puts in batches, 256 in flight",
        ROCKS,
        [0.35, 0.6],
        Source::RocksPuts(plan::BATCH),
    ),
    much("P3", "puts of one replica", ROCKS, [0.8, 1.0], Source::RocksPuts(plan::UNREPLICATED)),
    much("P3", "the same", "x Redis", [0.6, 1.0], Source::Peer(plan::UNREPLICATED, "put", "redis")),
    little(
        "P4",
        "one client, p50 of a put",
        "x etcd",
        [1.0, 1.0],
        Source::PeerTime(plan::ALONE, "put", "etcd"),
    ),
    little("P4", "the same", "x fdatasync", [5.0, 3.0], Source::Sync(plan::ALONE)),
    much(
        "P6",
        "linearizable gets, 64 clients",
        "x etcd",
        [2.5, 4.0],
        Source::Peer(plan::READS, "get", "etcd"),
    ),
    much(
        "P7",
        "gets in batches, 256 in flight",
        "x RocksDB, one thread",
        [0.25, 0.45],
        Source::RocksGets(plan::BATCH_READS),
    ),
    much(
        "P9",
        "scans of 100 pairs",
        "x etcd",
        [3.0, 3.0],
        Source::Peer(plan::READS, "scan", "etcd"),
    ),
    much(
        "P9",
        "pairs of these",
        "x RocksDB's iterator",
        [0.4, 0.4],
        Source::RocksScanned(plan::READS),
    ),
    much(
        "P10",
        "transactions of two regions",
        "x own puts",
        [0.35, 0.5],
        Source::OwnPuts("txn-two-regions"),
    ),
    much(
        "P11",
        "transactions of one region",
        "x own puts",
        [0.7, 0.85],
        Source::OwnPuts("txn-one-region"),
    ),
    much(
        "P12",
        "puts over 64 regions",
        "x one region",
        [1.0, 1.0],
        Source::OneRegion(plan::BATCH_64),
    ),
    much(
        "P12",
        "puts over 1,000 regions",
        "x one region",
        [0.75, 0.9],
        Source::OneRegion(plan::BATCH_1000),
    ),
    much(
        "P12",
        "puts over 10,000 regions",
        "x one region",
        [0.5, 0.5],
        Source::OneRegion(plan::BATCH_10000),
    ),
    little(
        "P13",
        "10,000 idle regions of three replicas",
        "% of a core",
        [2.0, 0.5],
        Source::Event("idle", 10_000, "processor"),
    ),
    little("P15", "memory of an idle replica", "KiB", [20.0, 8.0], Source::IdleReplica),
    little("P16", "a killed store, one region", "x etcd", [3.0, 1.5], Source::Failover(1)),
    little(
        "P16",
        "a killed store, all of 1,000 regions",
        "x etcd",
        [3.0, 1.5],
        Source::Failover(1_000),
    ),
    little(
        "P16",
        "the same, the longest",
        "s",
        [6.0, 6.0],
        Source::Event("failover", 1_000, BACK_MOST),
    ),
    little(
        "P18",
        "leaders leave a store: longest operation",
        "ms",
        [500.0, 100.0],
        Source::Event("leader-eviction", 16, STALL),
    ),
    little(
        "P18",
        "leaders leave a store: failed operations",
        "",
        [0.0, 0.0],
        Source::Event("leader-eviction", 16, FAILED),
    ),
    little(
        "P19",
        "a split: longest operation",
        "ms",
        [200.0, 50.0],
        Source::Event("split", 1, CUT_STALL),
    ),
    little("P19", "a split: failed operations", "", [0.0, 0.0], Source::Event("split", 1, FAILED)),
    much(
        "P21",
        "snapshots into two empty stores",
        "x writing and syncing once",
        [0.4, 0.7],
        Source::FillOfDisk,
    ),
    much(
        "P22",
        "two empty stores are filled",
        "MiB/s",
        [50.0, 100.0],
        Source::Event("fill", 1, FILLED),
    ),
    little(
        "P23",
        "a restart with 1,000 regions",
        "s",
        [1.0, 0.5],
        Source::Event("restart", 1_000, "until 1000 regions"),
    ),
    little(
        "P23",
        "a restart with 10,000 regions",
        "s",
        [5.0, 2.5],
        Source::Event("restart", 10_000, "until 1000 regions"),
    ),
    little(
        "P24",
        "raft log of a replica",
        "B a user's byte",
        [1.25, 1.1],
        Source::RaftLog(plan::LARGE),
    ),
    much(
        "P27",
        "timestamps",
        "/s",
        [200_000.0, 1_000_000.0],
        Source::Event("timestamps", 1, "timestamps"),
    ),
];

impl Goal {
    fn verdict(&self, found: Option<Spread>) -> &'static str {
        let Some(found) = found else { return "" };
        let reaches = |bound: f64| match self.good {
            Good::Much => found.median >= bound,
            Good::Little => found.median <= bound,
        };
        match (reaches(self.goal), reaches(self.floor)) {
            (true, _) => "goal",
            (false, true) => "floor",
            (false, false) => "**below**",
        }
    }

    fn cells(&self, results: &Results) -> Vec<String> {
        let found = figure(results, self.from);
        let sign = if self.good == Good::Much { "at least" } else { "at most" };
        let bound = |value: f64| format!("{sign} {} {}", rounded(value), self.unit);
        vec![
            self.id.to_string(),
            self.what.to_string(),
            bound(self.floor).trim_end().to_string(),
            bound(self.goal).trim_end().to_string(),
            found.map_or_else(|| "not measured".to_string(), |found| spread(Some(found))),
            self.verdict(found).to_string(),
        ]
    }
}

/// All of them.
pub(super) fn table(results: &Results) -> String {
    let heading = ["goal", "what", "floor", "goal", "found", "reached"];
    let mut cells: Vec<Vec<String>> = GOALS.iter().map(|goal| goal.cells(results)).collect();
    let none = "no such goal is written down".to_string();
    cells.push(vec!["P31".into(), none, "-".into(), "-".into(), "-".into(), String::new()]);
    super::table(&heading, cells)
}

/// The figure of a goal, if the run has it.
fn figure(results: &Results, from: Source) -> Option<Spread> {
    let ours = |job, workload| found(results, job, "skerry", workload);
    let rate = |sample: &Sample| sample.per_second;
    match from {
        Source::Peer(job, workload, peer) => {
            ratio(ours(job, workload), found(results, job, peer, workload), rate)
        }
        Source::PeerTime(job, workload, peer) => {
            let theirs = found(results, job, peer, workload);
            ratio(ours(job, workload), theirs, |sample| sample.p50_ms)
        }
        Source::RocksPuts(job) => {
            share(results, ours(job, "put"), |sample, it| sample.per_second / it.rocks_puts)
        }
        Source::RocksGets(job) => {
            share(results, ours(job, "get"), |sample, it| sample.per_second / it.rocks_gets)
        }
        Source::RocksScanned(job) => share(results, ours(job, "scan"), |sample, it| {
            sample.per_second * SCAN_PAIRS / it.rocks_scanned
        }),
        Source::Sync(job) => {
            share(results, ours(job, "put"), |sample, it| sample.p50_ms * 1e3 / it.fdatasync_us)
        }
        Source::OwnPuts(workload) => {
            let job = plan::TRANSACTIONS;
            ratio(ours(job, workload), ours(job, "put"), rate)
        }
        Source::OneRegion(job) => ratio(ours(job, "put"), ours(plan::BATCH, "put"), rate),
        Source::RaftLog(job) => {
            ours(job, "put")?.spread(|sample| Some(sample.raft_log_bytes_per_user_byte? / REPLICAS))
        }
        Source::Failover(regions) => {
            let theirs = event(results, "failover", "etcd", 1, BACK)?;
            Some(single(event(results, "failover", "skerry", regions, BACK)? / theirs))
        }
        Source::Event(name, regions, what) => {
            event(results, name, "skerry", regions, what).map(single)
        }
        Source::FillOfDisk => {
            let disk = event(results, "fill", "skerry", 1, "the same bytes written")?;
            Some(single(event(results, "fill", "skerry", 1, FILLED)? / disk))
        }
        Source::IdleReplica => {
            let memory = |regions| event(results, "idle", "skerry", regions, "memory");
            let more = memory(10_000)? - memory(1)?;
            Some(single(more * 1024.0 / (10_000.0 * REPLICAS)))
        }
    }
}

fn found<'a>(
    results: &'a Results,
    job: &str,
    system: &str,
    workload: &str,
) -> Option<&'a Measurement> {
    let is_it = |it: &&Measurement| it.job == job && it.system == system && it.workload == workload;
    results.measurements.iter().find(is_it)
}

/// Of each round that counts.
fn ratio(
    ours: Option<&Measurement>,
    theirs: Option<&Measurement>,
    of: impl Fn(&Sample) -> f64,
) -> Option<Spread> {
    let (ours, theirs) = (ours?, theirs?);
    let both = |ours: &Counted| {
        let other = theirs.samples.iter().find(|it| it.round == ours.round)?;
        Some(of(&ours.sample) / of(&other.sample))
    };
    Spread::of(ours.samples.iter().filter(|it| it.is_counted).filter_map(both).collect())
}

/// The same, with the references around a round.
fn share(
    results: &Results,
    ours: Option<&Measurement>,
    of: impl Fn(&Sample, &References) -> f64,
) -> Option<Spread> {
    let both = |ours: &Counted| {
        let round = results.rounds.get(ours.round)?;
        let mean = |of: fn(&References) -> f64| (of(&round.before) + of(&round.after)) / 2.0;
        let reference = References {
            fdatasync_us: mean(|it| it.fdatasync_us),
            rocks_puts: mean(|it| it.rocks_puts),
            rocks_gets: mean(|it| it.rocks_gets),
            rocks_scanned: mean(|it| it.rocks_scanned),
        };
        Some(of(&ours.sample, &reference))
    };
    Spread::of(ours?.samples.iter().filter(|it| it.is_counted).filter_map(both).collect())
}

fn single(value: f64) -> Spread {
    Spread { median: value, least: value, most: value }
}

/// A figure of a scenario whose description begins so.
fn event(results: &Results, scenario: &str, system: &str, regions: u64, what: &str) -> Option<f64> {
    let is_it =
        |it: &&Scenario| it.scenario == scenario && it.target == system && it.regions == regions;
    let scenario = results.scenarios.iter().find(is_it)?;
    let figure = scenario.figures.iter().find(|figure| figure.what.starts_with(what))?;
    Some(figure.value)
}
