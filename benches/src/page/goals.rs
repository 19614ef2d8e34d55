//! The goals that this project has set itself ([`list`]), each with its floor, and what a run found. A ratio is taken
//! in each round and the middle one told: what slows a round down slows both sides. Some figures have a floor and
//! nothing beyond it, some a goal that nobody has promised to reach.
//!
//! A figure under its floor, or beside the only thing it could reach, is told a second time, below the table: with the
//! processor time that its operations took in this run, if it is a rate or a time of operations, and with the sentence
//! that stands beside its goal. Nothing is left out, so no figure is hidden.

use self::list::{BACK, FILLED, GOALS};
use super::{rounded, spread};
use crate::compare::plan;
use crate::compare::references::References;
use crate::compare::results::{Counted, Measurement, Results, Sample, Scenario, Spread};

mod list;

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
    /// Rate of a job's workload, of a peer's in another job: what the peer has only one way to do.
    PeerElsewhere(&'static str, &'static str, (&'static str, &'static str)),
    /// Median time of a job's workload, of a peer's.
    PeerTime(&'static str, &'static str, &'static str),
    /// Time of 99 of 100 puts at half of our own peak, of a peer's at the same rate.
    AtHalfPeak(&'static str),
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

/// What is wanted of a figure.
#[derive(Clone, Copy)]
enum Bounds {
    /// What it must reach, and what it should.
    Both(f64, f64),
    /// What it must reach, and no more.
    Floor(f64),
    /// What it should reach, and need not.
    Aim(f64),
}

impl Bounds {
    fn floor(self) -> Option<f64> {
        match self {
            Bounds::Both(floor, _) | Bounds::Floor(floor) => Some(floor),
            Bounds::Aim(_) => None,
        }
    }

    fn goal(self) -> Option<f64> {
        match self {
            Bounds::Both(_, goal) | Bounds::Aim(goal) => Some(goal),
            Bounds::Floor(_) => None,
        }
    }
}

/// A goal: its number, what it is about, its unit, what is good, how much of it, where its figure comes from, and what
/// is said if it misses its floor, or itself if it has none: what limits it, and what would be done next.
struct Goal {
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    good: Good,
    bounds: Bounds,
    from: Source,
    limit: &'static str,
}

const fn much(
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    bounds: Bounds,
    from: Source,
    limit: &'static str,
) -> Goal {
    Goal { id, what, unit, good: Good::Much, bounds, from, limit }
}

const fn little(
    id: &'static str,
    what: &'static str,
    unit: &'static str,
    bounds: Bounds,
    from: Source,
    limit: &'static str,
) -> Goal {
    Goal { id, what, unit, good: Good::Little, bounds, from, limit }
}

impl Goal {
    fn reaches(&self, found: Spread, bound: f64) -> bool {
        match self.good {
            Good::Much => found.median >= bound,
            Good::Little => found.median <= bound,
        }
    }

    fn verdict(&self, found: Option<Spread>) -> &'static str {
        let Some(found) = found else { return "" };
        let reaches = |bound: Option<f64>| bound.map(|bound| self.reaches(found, bound));
        match (reaches(self.bounds.goal()), reaches(self.bounds.floor())) {
            (Some(true), _) => "goal",
            (_, Some(true)) => "floor",
            (_, Some(false)) => "**below**",
            (_, None) => "goal missed",
        }
    }

    /// The line about a figure that misses its floor, or its goal if that is all it has, without its sentence.
    fn miss(&self, results: &Results) -> Option<String> {
        let (name, bound) = match self.bounds {
            Bounds::Both(floor, _) | Bounds::Floor(floor) => ("floor", floor),
            Bounds::Aim(goal) => ("goal", goal),
        };
        let found = figure(results, self.from).filter(|found| !self.reaches(*found, bound))?;
        let (found, bound) = (rounded(found.median), rounded(bound));
        let (id, what, unit) = (self.id, self.what, self.unit);
        let found = format!("{found} {unit}");
        let price = price(results, self.from).unwrap_or_default();
        Some(format!("* **{id}, {what}**: {}, {name} {bound}. {price}", found.trim_end()))
    }

    fn cells(&self, results: &Results) -> Vec<String> {
        let found = figure(results, self.from);
        let sign = if self.good == Good::Much { "at least" } else { "at most" };
        let bound = |value: Option<f64>| {
            let bound = value.map(|value| format!("{sign} {} {}", rounded(value), self.unit));
            bound.map_or_else(|| "-".to_string(), |bound| bound.trim_end().to_string())
        };
        vec![
            self.id.to_string(),
            self.what.to_string(),
            bound(self.bounds.floor()),
            bound(self.bounds.goal()),
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

/// What limits each figure that misses its floor, or its goal if it has no floor, and the next step.
pub(super) fn misses(results: &Results) -> String {
    let (mut misses, mut told) = (String::new(), "");
    for goal in GOALS {
        let Some(miss) = goal.miss(results) else { continue };
        let limit = if goal.limit == told { "As above." } else { goal.limit };
        misses += &format!("{miss}{limit}\n");
        told = goal.limit;
    }
    match misses.is_empty() {
        true => "Every figure that was measured reaches its floor, or its goal if it has none.\n"
            .to_string(),
        false => misses,
    }
}

/// What an operation took of the processors in this run.
fn price(results: &Results, from: Source) -> Option<String> {
    let (job, workload) = match from {
        Source::Peer(job, workload, _)
        | Source::PeerTime(job, workload, _)
        | Source::PeerElsewhere(job, workload, _) => (job, workload),
        Source::OwnPuts(workload) => (plan::TRANSACTIONS, workload),
        Source::RocksPuts(job) | Source::Sync(job) | Source::OneRegion(job) => (job, "put"),
        Source::RocksGets(job) => (job, "get"),
        Source::RocksScanned(job) => (job, "scan"),
        _ => return None,
    };
    let ours = found(results, job, "skerry", workload)?;
    let median = |of: fn(&Sample) -> f64| Some(ours.spread(|sample| Some(of(sample)))?.median);
    let servers = median(|sample| sample.servers_cpu_us_per_operation)?;
    let client = median(|sample| sample.client_cpu_us_per_operation)?;
    let busy = (servers + client) * median(|sample| sample.per_second)? / 1e6;
    Some(format!(
        "Here an operation takes the servers {} us of processor time and the client {} us; together that keeps \
         {} of {} cores busy. ",
        rounded(servers),
        rounded(client),
        rounded(busy),
        results.machine.cores,
    ))
}

/// At the largest rate of the sweep that is no more than half of what our own clients reached.
fn at_half_peak(results: &Results, peer: &str) -> Option<f64> {
    let sweep = |name: &str, system: &str| {
        results.sweeps.iter().find(|sweep| sweep.name == name && sweep.system == system)
    };
    let peak = sweep("clients", "skerry")?.points.iter().map(|(_, it)| it.per_second);
    let half = peak.fold(0.0, f64::max) / 2.0;
    let (rate, ours) = sweep("rate", "skerry")?.points.iter().rfind(|(rate, _)| *rate <= half)?;
    let (_, theirs) = sweep("rate", peer)?.points.iter().find(|(same, _)| same == rate)?;
    Some(ours.p99_ms / theirs.p99_ms)
}

/// The figure of a goal, if the run has it.
fn figure(results: &Results, from: Source) -> Option<Spread> {
    let ours = |job, workload| found(results, job, "skerry", workload);
    let rate = |sample: &Sample| sample.per_second;
    match from {
        Source::Peer(job, workload, peer) => {
            ratio(ours(job, workload), found(results, job, peer, workload), rate)
        }
        Source::PeerElsewhere(job, workload, (their_job, peer)) => {
            ratio(ours(job, workload), found(results, their_job, peer, workload), rate)
        }
        Source::AtHalfPeak(peer) => at_half_peak(results, peer).map(single),
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
            let of = |what| event(results, "fill-unlimited", "skerry", 1, what);
            Some(single(of(FILLED)? / of("the same bytes written")?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_says_what_would_limit_it_and_the_next_step() {
        for goal in GOALS {
            let (limit, next) = goal.limit.split_once(" Next: ").unwrap_or_default();
            assert!(limit.len() > 40, "{}, {}: what limits it?", goal.id, goal.what);
            assert!(next.len() > 20, "{}, {}: what is next?", goal.id, goal.what);
        }
    }

    #[test]
    fn a_figure_is_judged_by_what_it_has() {
        let verdict = |bounds, found| {
            let goal = much("P0", "", "", bounds, Source::FillOfDisk, "");
            goal.verdict(Some(single(found)))
        };
        let both = [1.0, 2.0, 3.0].map(|found| verdict(Bounds::Both(2.0, 3.0), found));
        assert_eq!(both, ["**below**", "floor", "goal"]);
        let floor = [1.0, 2.0, 9.0].map(|found| verdict(Bounds::Floor(2.0), found));
        assert_eq!(floor, ["**below**", "floor", "floor"], "there is nothing beyond it");
        let goal = [1.0, 3.0].map(|found| verdict(Bounds::Aim(3.0), found));
        assert_eq!(goal, ["goal missed", "goal"], "nobody has promised it");
    }

    #[test]
    fn the_goals_that_were_set_are_all_there() {
        let wanted = [
            "P1", "P2", "P3", "P4", "P6", "P7", "P9", "P10", "P11", "P12", "P16", "P18", "P19",
            "P21", "P22", "P23", "P24", "P27",
        ];
        for id in wanted {
            assert!(GOALS.iter().any(|goal| goal.id == id), "{id} is not in the table");
        }
        let is_apart = |goal: &Goal| match (goal.good, goal.bounds) {
            (Good::Much, Bounds::Both(floor, goal)) => goal >= floor,
            (Good::Little, Bounds::Both(floor, goal)) => goal <= floor,
            _ => true,
        };
        assert!(GOALS.iter().all(is_apart), "no floor is harder than its goal");
    }
}
