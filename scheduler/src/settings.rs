//! What an operator may change about placement while the scheduler runs. It begins as the configuration file says;
//! a change is durable, and from then on wins over the file.
//!
//! The names are those of PD's `/config/schedule` and `/config/replicate`, so that its tools can set them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result};

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// Transfers of leadership for balance that may be under way.
    pub leader_schedule_limit: u32,
    /// Moves of replicas for balance that may be under way.
    pub region_schedule_limit: u32,
    /// Repairs that may be under way.
    pub replica_schedule_limit: u32,
    /// Transfers of hot leaders that may be under way.
    pub hot_region_schedule_limit: u32,
    /// Snapshots that one store may send, or take, at once.
    pub max_snapshot_count: u32,
    /// Replicas without data that one store may have.
    pub max_pending_peer_count: u32,
    /// Replicas of usual size that may be begun on a store, or taken from it, in a minute.
    pub store_limit: u32,
    /// Silence after which the replicas of a store are made anew elsewhere.
    pub max_store_down_time_ms: u64,
    /// Used part of a disk from which on a store counts as filling up.
    pub high_space_ratio: f64,
    /// Used part of a disk from which on a store counts as short of space.
    pub low_space_ratio: f64,
    /// Difference between stores, in percent of what they have on average, that is not worth a move.
    pub balance_tolerance_percent: u32,
    /// Size in MiB from which on the scheduler asks for a split; 0 leaves it to the stores.
    pub split_size_mib: u64,
    /// Labels that say where a store stands, from the largest unit to the smallest.
    pub location_labels: Vec<String>,
    /// The label of which no two replicas of a region may have the same value; empty: the labels are wishes.
    pub isolation_level: String,
    /// Nothing is decided any more until this is false again.
    pub halt_scheduling: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            leader_schedule_limit: 16,
            region_schedule_limit: 64,
            replica_schedule_limit: 64,
            hot_region_schedule_limit: 4,
            max_snapshot_count: 16,
            max_pending_peer_count: 16,
            store_limit: 60,
            max_store_down_time_ms: 600_000,
            high_space_ratio: 0.75,
            low_space_ratio: 0.85,
            balance_tolerance_percent: 5,
            split_size_mib: 0,
            location_labels: Vec::new(),
            isolation_level: String::new(),
            halt_scheduling: false,
        }
    }
}

impl Settings {
    /// These with some changed by name; refused whole if one of them is unknown or not allowed.
    pub fn with<'a>(
        &self,
        change: impl IntoIterator<Item = (&'a String, &'a Value)>,
    ) -> Result<Settings> {
        let mut all = serde_json::to_value(self).expect("numbers and strings");
        let fields = all.as_object_mut().expect("settings are an object");
        for (name, value) in change {
            let unknown = || Error::InvalidValue(format!("no setting is called {name:?}"));
            *fields.get_mut(name).ok_or_else(unknown)? = value.clone();
        }
        let settings: Settings = serde_json::from_value(all)
            .map_err(|error| Error::InvalidValue(format!("not allowed: {error}")))?;
        settings.validate()?;
        Ok(settings)
    }

    /// Refuses what cannot work, with the name and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let within = |name: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            let reason = format!("{name} is {value}; allowed is from {low} to {high}");
            Err(Error::InvalidValue(reason))
        };
        let counts = [
            ("leader-schedule-limit", self.leader_schedule_limit),
            ("region-schedule-limit", self.region_schedule_limit),
            ("replica-schedule-limit", self.replica_schedule_limit),
            ("hot-region-schedule-limit", self.hot_region_schedule_limit),
        ];
        // What tools set that mean *as many as there are*.
        let most = f64::from(i32::MAX);
        for (name, count) in counts {
            within(name, f64::from(count), 0.0, most)?;
        }
        within("max-snapshot-count", f64::from(self.max_snapshot_count), 1.0, most)?;
        within("max-pending-peer-count", f64::from(self.max_pending_peer_count), 1.0, most)?;
        within("store-limit", f64::from(self.store_limit), 1.0, 1_000_000.0)?;
        let down_seconds = Duration::from_millis(self.max_store_down_time_ms).as_secs_f64();
        within("max-store-down-time in seconds", down_seconds, 1.0, 30.0 * 86_400.0)?;
        within("high-space-ratio", self.high_space_ratio, 0.0, self.low_space_ratio)?;
        within("low-space-ratio", self.low_space_ratio, 0.01, 1.0)?;
        let tolerance = f64::from(self.balance_tolerance_percent);
        within("balance-tolerance-percent", tolerance, 1.0, 50.0)?;
        self.validate_labels()
    }

    fn validate_labels(&self) -> Result<()> {
        let labels = &self.location_labels;
        let repeats = (1..labels.len()).find(|at| labels[..*at].contains(&labels[*at]));
        if let Some(at) = repeats {
            return Err(Error::InvalidValue(format!("location-labels has {} twice", labels[at])));
        }
        if labels.iter().any(String::is_empty) {
            return Err(Error::InvalidValue("location-labels has an empty label".to_string()));
        }
        if !self.isolation_level.is_empty() && !labels.contains(&self.isolation_level) {
            let (level, labels) = (&self.isolation_level, labels.join(", "));
            let reason = format!("isolation-level {level} is none of location-labels ({labels})");
            return Err(Error::InvalidValue(reason));
        }
        Ok(())
    }
}
