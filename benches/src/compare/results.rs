//! What was found, as it lies in `docs/results/compare-*.json`. The page is made of nothing else.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Result;
use super::machine::Machine;
use super::references::References;

/// How far the references before and after a round may be apart.
pub const STEADY_MAX: f64 = 0.25;

/// Everything of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// On what.
    pub machine: Machine,
    /// How long it took.
    pub minutes: f64,
    /// Whether it came to its end.
    pub is_complete: bool,
    /// Why these figures should not be believed.
    pub doubts: Vec<String>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    /// References of each round.
    pub rounds: Vec<Round>,
    /// Rates and times.
    pub measurements: Vec<Measurement>,
    /// For pictures.
    pub sweeps: Vec<Sweep>,
    /// Events.
    pub scenarios: Vec<Scenario>,
}

/// The references around a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Before its first job.
    pub before: References,
    /// After its last.
    pub after: References,
}

/// A workload of a job, over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The job.
    pub job: String,
    /// Whose servers.
    pub system: String,
    /// What was done.
    pub workload: String,
    /// One a round.
    pub samples: Vec<Counted>,
}

/// A sample, and whether its round counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// Counted from 0.
    pub round: usize,
    /// Whether the references of its round agree.
    pub is_counted: bool,
    /// What was found.
    pub sample: Sample,
}

/// What `skerry bench` says about a workload; what it says besides is not kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// What was done.
    pub workload: String,
    /// Operations that were done, a second.
    pub per_second: f64,
    /// Times of operations.
    pub p50_ms: f64,
    /// The same.
    pub p99_ms: f64,
    /// The same.
    pub max_ms: f64,
    /// Operations that failed.
    pub failed: u64,
    /// Processor time of the client.
    pub client_cpu_us_per_operation: f64,
    /// Processor time of all servers.
    pub servers_cpu_us_per_operation: f64,
    /// What they took in all.
    pub servers: Servers,
    /// Bytes that all servers wrote to disks, for a byte of keys and values.
    pub disk_bytes_per_user_byte: Option<f64>,
    /// Bytes of raft logs, of all replicas, for a byte of keys and values.
    pub raft_log_bytes_per_user_byte: Option<f64>,
}

/// What servers took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Servers {
    /// Memory at the end.
    pub resident_bytes: u64,
}

/// A workload at several settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// What changes.
    pub name: String,
    /// Whose servers.
    pub system: String,
    /// The setting, and what was found there.
    pub points: Vec<(f64, Sample)>,
}

/// What `skerry bench scenario` says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name.
    pub scenario: String,
    /// Goals that it is for.
    pub goals: String,
    /// Whose servers.
    pub target: String,
    /// Regions that there were.
    pub regions: u64,
    /// Stores that there were.
    pub stores: u64,
    /// What was found.
    pub figures: Vec<Figure>,
    /// Seconds since the event, and operations a second then.
    pub rates: Vec<(f64, f64)>,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Of what.
    pub what: String,
    /// How much.
    pub value: f64,
    /// Of which unit.
    pub unit: String,
}

/// The middle of some values, and their ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; the upper of two.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Spread {
    /// Nothing of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        Some(Spread { median: values[values.len() / 2], least, most })
    }
}

impl Round {
    /// How far the two are apart, for what is most sensitive to others: the disk and the processors.
    fn apart(&self) -> f64 {
        let apart = |one: f64, other: f64| one.max(other) / one.min(other) - 1.0;
        apart(self.before.fdatasync_us, self.after.fdatasync_us)
            .max(apart(self.before.rocks_puts, self.after.rocks_puts))
            .max(apart(self.before.rocks_gets, self.after.rocks_gets))
    }

    /// Whether what was measured in between can be believed.
    pub fn is_steady(&self) -> bool {
        self.apart() <= STEADY_MAX
    }

    /// In words.
    pub fn difference(&self) -> String {
        format!("its references before and after are {:.0}% apart", 100.0 * self.apart())
    }
}

impl Measurement {
    /// Of the rounds that count.
    pub fn spread(&self, of: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        let counted = self.samples.iter().filter(|it| it.is_counted);
        Spread::of(counted.filter_map(|it| of(&it.sample)).collect())
    }

    /// Believes all rounds.
    pub(super) fn count_all(&mut self) {
        self.samples.iter_mut().for_each(|it| it.is_counted = true);
    }
}

impl Results {
    /// Empty.
    pub fn begin(machine: Machine) -> Results {
        Results { machine, ..Results::default() }
    }

    /// Adds what a job found in the round that is under way.
    pub fn add(&mut self, job: &str, system: &str, sample: Sample, is_counted: bool) {
        let workload = sample.workload.clone();
        let same =
            |it: &&mut Measurement| it.job == job && it.system == system && it.workload == workload;
        let counted = Counted { round: self.rounds.len(), is_counted, sample };
        match self.measurements.iter_mut().find(same) {
            Some(measurement) => measurement.samples.push(counted),
            None => self.measurements.push(Measurement {
                job: job.to_string(),
                system: system.to_string(),
                workload: workload.clone(),
                samples: vec![counted],
            }),
        }
    }

    /// Reads a file.
    pub fn load(path: &Path) -> Result<Results> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Writes a file; never half of one.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        let (failed, new) =
            (|error| format!("{}: {error}", path.display()), path.with_extension("new"));
        std::fs::write(&new, text + "\n").map_err(failed)?;
        std::fs::rename(&new, path).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(fdatasync_us: f64) -> References {
        References { fdatasync_us, rocks_puts: 100.0, rocks_gets: 100.0, rocks_scanned: 1.0 }
    }

    #[test]
    fn a_round_counts_if_its_references_agree() {
        let round = |after| Round { before: references(100.0), after: references(after) };
        assert!(round(120.0).is_steady() && round(81.0).is_steady());
        assert!(!round(130.0).is_steady() && !round(75.0).is_steady());
    }

    #[test]
    fn only_rounds_that_count_are_in_a_spread() {
        let mut results = Results::default();
        for (rate, is_counted) in [(10.0, true), (1.0, false), (30.0, true), (20.0, true)] {
            let sample = Sample { per_second: rate, ..Sample::default() };
            results.add("job", "skerry", sample, is_counted);
        }
        let [measurement] = &results.measurements[..] else { panic!("{results:?}") };
        let spread = measurement.spread(|sample| Some(sample.per_second));
        assert_eq!(spread, Some(Spread { median: 20.0, least: 10.0, most: 30.0 }));
        assert_eq!(measurement.spread(|_| None), None);
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("compare-2026-11-21.json");
        let mut results = Results::default();
        results.add("job", "etcd", Sample { p99_ms: 1.25, ..Sample::default() }, true);
        results.save(&path).expect("written");
        assert_eq!(Results::load(&path), Ok(results));
    }
}
