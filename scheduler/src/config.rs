//! What a user may set about the scheduler: section `[scheduler]` of the configuration file, with the
//! words of the reference. Validated once, before anything is opened.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skerry_raftstore::config::{ByteSize, Knob};

use crate::gc::Habit;
use crate::settings::Settings;
use crate::stores::Patience;
use crate::{Error, Result};

/// `[scheduler]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct SchedulerConfig {
    /// Where to listen; the binary binds it and hands the listener to the server.
    pub addr: String,
    /// What clients and stores are told to connect to; empty: the address that is listened on.
    pub advertise_addr: String,
    /// Name of this member in member lists.
    pub name: String,
    /// Replicas a region should have, as told to stores and clients.
    pub replicas_max: u32,
    /// How far ahead the limit of timestamps is saved.
    pub tso_window_ms: u64,
    /// Ids that one durable write reserves.
    pub id_batch: u64,
    /// Silence after which a store counts as disconnected.
    pub store_disconnected_ms: u64,
    /// Silence after which a store counts as down.
    pub store_down_ms: u64,
    /// Labels that say where a store stands, from the largest unit down.
    pub location_labels: Vec<String>,
    /// The label of which no two replicas may share a value.
    pub isolation_level: String,
    /// Transfers of leadership for balance at once.
    pub leader_schedule_limit: u32,
    /// Moves for balance at once.
    pub region_schedule_limit: u32,
    /// Repairs at once.
    pub replica_schedule_limit: u32,
    /// Transfers of hot leaders at once.
    pub hot_region_schedule_limit: u32,
    /// Snapshots of one store at once.
    pub max_snapshot_count: u32,
    /// Replicas without data on one store.
    pub max_pending_peer_count: u32,
    /// Replicas to or from a store in a minute.
    pub store_limit: u32,
    /// Used percent of a disk from which on it counts as filling up.
    pub high_space_percent: u32,
    /// Used percent of a disk from which on it counts as short of space.
    pub low_space_percent: u32,
    /// Difference between stores that is not worth a move.
    pub balance_tolerance_percent: u32,
    /// Size from which on a region is asked to split.
    pub split_size_mib: u64,
    /// Period in which balance and patrol are looked after.
    pub schedule_interval_ms: u64,
    /// Versions younger than this are never collected; 0: nothing is collected without being asked.
    pub gc_life_time_ms: u64,
    /// From one round of garbage collection to the next.
    pub gc_interval_ms: u64,
    /// Period of the messages that keep a heartbeat stream from looking dead.
    pub keep_alive_ms: u64,
    /// Period in which changed regions are written to disk.
    pub region_save_ms: u64,
    /// Largest request.
    pub request_size_max: ByteSize,
    /// Requests of one connection that are worked on at the same time.
    pub requests_per_connection_max: u32,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        let settings = Settings::default();
        SchedulerConfig {
            addr: "127.0.0.1:2379".to_string(),
            advertise_addr: String::new(),
            name: "scheduler-1".to_string(),
            replicas_max: 3,
            tso_window_ms: 3_000,
            id_batch: 1_000,
            store_disconnected_ms: 20_000,
            store_down_ms: settings.max_store_down_time_ms,
            location_labels: Vec::new(),
            isolation_level: String::new(),
            leader_schedule_limit: settings.leader_schedule_limit,
            region_schedule_limit: settings.region_schedule_limit,
            replica_schedule_limit: settings.replica_schedule_limit,
            hot_region_schedule_limit: settings.hot_region_schedule_limit,
            max_snapshot_count: settings.max_snapshot_count,
            max_pending_peer_count: settings.max_pending_peer_count,
            store_limit: settings.store_limit,
            high_space_percent: 75,
            low_space_percent: 85,
            balance_tolerance_percent: settings.balance_tolerance_percent,
            split_size_mib: settings.split_size_mib,
            schedule_interval_ms: 100,
            gc_life_time_ms: 600_000,
            gc_interval_ms: 600_000,
            keep_alive_ms: 60_000,
            region_save_ms: 1_000,
            request_size_max: ByteSize::mib(64),
            requests_per_connection_max: 256,
        }
    }
}

impl SchedulerConfig {
    /// The TOML table.
    pub const SECTION: &'static str = "scheduler";

    /// Refuses what cannot work, with the key and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let host = host_and_port("addr", &self.addr)?;
        if self.advertise_addr.is_empty() {
            if UNSPECIFIED.contains(&host) {
                return Err(Error::Config(format!(
                    "scheduler.addr {} is no address that others can connect to; \
                     set scheduler.advertise-addr",
                    self.addr
                )));
            }
        } else {
            host_and_port("advertise-addr", &self.advertise_addr)?;
        }
        if self.name.is_empty() {
            return Err(Error::Config("scheduler.name is empty".to_string()));
        }
        within("replicas-max", self.replicas_max, 1..=9)?;
        within("tso-window-ms", self.tso_window_ms, 100..=60_000)?;
        within("id-batch", self.id_batch, 1..=1_000_000)?;
        within("store-disconnected-ms", self.store_disconnected_ms, 1_000..=3_600_000)?;
        let down = self.store_disconnected_ms..=30 * 86_400_000;
        within("store-down-ms", self.store_down_ms, down)?;
        within("high-space-percent", self.high_space_percent, 0..=self.low_space_percent)?;
        within("low-space-percent", self.low_space_percent, 1..=100)?;
        within("schedule-interval-ms", self.schedule_interval_ms, 10..=10_000)?;
        within("gc-life-time-ms", self.gc_life_time_ms, 0..=365 * 86_400_000)?;
        within("gc-interval-ms", self.gc_interval_ms, 100..=86_400_000)?;
        self.settings().validate().map_err(|error| Error::Config(format!("scheduler.{error}")))?;
        within("keep-alive-ms", self.keep_alive_ms, 10..=3_600_000)?;
        within("region-save-ms", self.region_save_ms, 10..=60_000)?;
        let size = ByteSize::mib(1)..=ByteSize::gib(2);
        within("request-size-max", self.request_size_max, size)?;
        within("requests-per-connection-max", self.requests_per_connection_max, 8..=65_536)
    }

    /// When silent stores count as disconnected and down.
    pub fn patience(&self) -> Patience {
        Patience {
            disconnected: Duration::from_millis(self.store_disconnected_ms),
            down: Duration::from_millis(self.store_down_ms),
        }
    }

    /// When old versions are collected without being asked.
    pub fn habit(&self) -> Habit {
        Habit {
            life_time: Duration::from_millis(self.gc_life_time_ms),
            interval: Duration::from_millis(self.gc_interval_ms),
        }
    }

    /// What of this operators may change while the scheduler runs.
    pub fn settings(&self) -> Settings {
        Settings {
            leader_schedule_limit: self.leader_schedule_limit,
            region_schedule_limit: self.region_schedule_limit,
            replica_schedule_limit: self.replica_schedule_limit,
            hot_region_schedule_limit: self.hot_region_schedule_limit,
            max_snapshot_count: self.max_snapshot_count,
            max_pending_peer_count: self.max_pending_peer_count,
            store_limit: self.store_limit,
            max_store_down_time_ms: self.store_down_ms,
            high_space_ratio: f64::from(self.high_space_percent) / 100.0,
            low_space_ratio: f64::from(self.low_space_percent) / 100.0,
            balance_tolerance_percent: self.balance_tolerance_percent,
            split_size_mib: self.split_size_mib,
            location_labels: self.location_labels.clone(),
            isolation_level: self.isolation_level.clone(),
            halt_scheduling: false,
        }
    }

    /// One line for every field, in order.
    pub fn reference() -> Vec<Knob> {
        let default = SchedulerConfig::default();
        let knob = |name, default, description| Knob {
            section: Self::SECTION,
            name,
            default,
            description,
        };
        vec![
            knob("addr", quoted(default.addr), ADDR),
            knob("advertise-addr", quoted(default.advertise_addr), ADVERTISE),
            knob("name", quoted(default.name), NAME),
            knob("replicas-max", default.replicas_max.to_string(), REPLICAS),
            knob("tso-window-ms", default.tso_window_ms.to_string(), WINDOW),
            knob("id-batch", default.id_batch.to_string(), IDS),
            knob("store-disconnected-ms", default.store_disconnected_ms.to_string(), DISCONNECTED),
            knob("store-down-ms", default.store_down_ms.to_string(), DOWN),
            knob("location-labels", list(&default.location_labels), LOCATION),
            knob("isolation-level", quoted(default.isolation_level), ISOLATION),
            knob("leader-schedule-limit", default.leader_schedule_limit.to_string(), LEADERS),
            knob("region-schedule-limit", default.region_schedule_limit.to_string(), MOVES),
            knob("replica-schedule-limit", default.replica_schedule_limit.to_string(), REPAIRS),
            knob("hot-region-schedule-limit", default.hot_region_schedule_limit.to_string(), HOT),
            knob("max-snapshot-count", default.max_snapshot_count.to_string(), SNAPSHOTS),
            knob("max-pending-peer-count", default.max_pending_peer_count.to_string(), PENDING),
            knob("store-limit", default.store_limit.to_string(), LIMIT),
            knob("high-space-percent", default.high_space_percent.to_string(), HIGH),
            knob("low-space-percent", default.low_space_percent.to_string(), LOW),
            knob(
                "balance-tolerance-percent",
                default.balance_tolerance_percent.to_string(),
                TOLERANCE,
            ),
            knob("split-size-mib", default.split_size_mib.to_string(), SPLIT),
            knob("schedule-interval-ms", default.schedule_interval_ms.to_string(), INTERVAL),
            knob("gc-life-time-ms", default.gc_life_time_ms.to_string(), GC_LIFE_TIME),
            knob("gc-interval-ms", default.gc_interval_ms.to_string(), GC_INTERVAL),
            knob("keep-alive-ms", default.keep_alive_ms.to_string(), KEEP_ALIVE),
            knob("region-save-ms", default.region_save_ms.to_string(), SAVE),
            knob("request-size-max", quoted(default.request_size_max), REQUEST),
            knob(
                "requests-per-connection-max",
                default.requests_per_connection_max.to_string(),
                REQUESTS,
            ),
        ]
    }
}

const ADDR: &str = "Host and port to listen on, for gRPC and HTTP alike.";
const ADVERTISE: &str = "Host and port that clients and stores are told to use, if they cannot use \
    `addr` as it stands. Required when `addr` means every interface.";
const NAME: &str = "Name of this scheduler in lists of members.";
const REPLICAS: &str = "Replicas that every region should have, as far as there are stores. Recorded at \
    bootstrap.";
const WINDOW: &str = "Timestamps are handed out from memory up to a limit on disk; this is how far \
    ahead the limit is put, in milliseconds. After a crash timestamps may run ahead of the clock by \
    as much.";
const IDS: &str = "Ids of regions and peers that one write to disk reserves. A crash wastes what is \
    left of them.";
const DISCONNECTED: &str = "Milliseconds without a heartbeat after which a store is shown as \
    disconnected and gets no new replicas.";
const DOWN: &str = "Milliseconds without a heartbeat after which a store is shown as down, and its replicas are \
    made anew on other stores. At least `store-disconnected-ms`.";
const LOCATION: &str = "Labels of stores that say where they stand, from the largest unit to the smallest, such \
    as `[\"zone\", \"host\"]`. Replicas of a region are kept as far apart as they can be.";
const ISOLATION: &str = "The one of `location-labels` of which no two replicas of a region may have the same \
    value, even if one is missing for it. Empty: the labels are wishes.";
const LEADERS: &str = "Transfers of leadership for balance that may be under way.";
const MOVES: &str = "Moves of replicas for balance that may be under way.";
const REPAIRS: &str = "Repairs (replicas made up, replaced, removed) that may be under way.";
const HOT: &str = "Transfers of the leadership of busy regions that may be under way.";
const SNAPSHOTS: &str =
    "Snapshots that one store may send, or take, at once, before it is given no more.";
const PENDING: &str = "Replicas without data that one store may have before it is given no more.";
const LIMIT: &str = "Replicas of 20 MiB or more that may be begun on a store, and taken from it, in a minute. \
    Smaller ones count less.";
const HIGH: &str = "Used percent of a disk from which on its store is given less than others.";
const LOW: &str = "Used percent of a disk at which each byte on it counts twice. At least \
    `high-space-percent`.";
const TOLERANCE: &str = "Difference between stores, in percent of what they have on average, up to which nothing \
    is moved.";
const SPLIT: &str = "Size in MiB from which on the scheduler asks a store to split a region; 0 leaves it to \
    the stores, which split by sizes of their own.";
const INTERVAL: &str = "Milliseconds between two looks at what could be moved or is late.";
const GC_LIFE_TIME: &str = "Milliseconds for which old versions can be read, and so the longest life of a transaction. \
    0: nothing is collected unless a client asks for it.";
const GC_INTERVAL: &str = "Milliseconds from one round of garbage collection to the next.";
const KEEP_ALIVE: &str =
    "Milliseconds between messages that only keep a store's heartbeat stream open.";
const SAVE: &str = "Milliseconds between writes of what heartbeats have changed about regions. What a \
    crash loses of it, the next heartbeats bring again.";
const REQUEST: &str = "Largest request that is read.";
const REQUESTS: &str = "Requests of one connection in work at the same time; further ones wait.";

/// Compares a value with its limits and words the refusal.
fn within<T: PartialOrd + Display>(name: &str, value: T, allowed: RangeInclusive<T>) -> Result<()> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (low, high) = (allowed.start(), allowed.end());
    Err(Error::Config(format!("scheduler.{name} is {value}; allowed is from {low} to {high}")))
}

/// Hosts that mean every interface of the machine.
const UNSPECIFIED: [&str; 2] = ["0.0.0.0", "[::]"];

/// Checks an address made of a host, by name or number, and a port; answers the host.
fn host_and_port<'a>(name: &str, address: &'a str) -> Result<&'a str> {
    let split = address.rsplit_once(':').filter(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()
    });
    split.map(|(host, _)| host).ok_or_else(|| {
        let example = "a host and port such as 127.0.0.1:2379";
        Error::Config(format!("scheduler.{name} is {address:?}; wanted is {example}"))
    })
}

/// A TOML list of strings.
fn list(values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(quoted).collect();
    format!("[{}]", values.join(", "))
}

/// A TOML string.
fn quoted(value: impl Display) -> String {
    format!("\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The refusal of a config that differs from the default by one change.
    fn refusal(change: impl FnOnce(&mut SchedulerConfig)) -> String {
        let mut config = SchedulerConfig::default();
        change(&mut config);
        config.validate().expect_err("this must be refused").to_string()
    }

    #[test]
    fn the_reference_names_every_knob_with_its_default() {
        let written = serde_json::to_value(SchedulerConfig::default()).expect("serialise");
        let fields = written.as_object().expect("a table");
        let knobs = SchedulerConfig::reference();
        assert_eq!(knobs.len(), fields.len());
        for knob in knobs {
            assert_eq!(knob.section, "scheduler");
            assert_eq!(fields[knob.name].to_string(), knob.default, "{}", knob.name);
        }
    }

    #[test]
    fn a_file_overrides_what_it_names_and_unknown_keys_are_refused() {
        let read: SchedulerConfig =
            serde_json::from_str(r#"{"tso-window-ms": 500}"#).expect("a known key");
        assert_eq!(read, SchedulerConfig { tso_window_ms: 500, ..SchedulerConfig::default() });
        let refused = serde_json::from_str::<SchedulerConfig>(r#"{"tso-windows-ms": 500}"#);
        assert!(refused.expect_err("a typo").to_string().contains("tso-windows-ms"));
    }

    #[test]
    fn refusals_name_the_key_and_what_is_allowed() {
        SchedulerConfig::default().validate().expect("the defaults are allowed");
        assert_eq!(
            refusal(|config| config.store_down_ms = 5_000),
            "configuration: scheduler.store-down-ms is 5000; allowed is from 20000 to 2592000000"
        );
        assert_eq!(
            refusal(|config| config.addr = "localhost".to_string()),
            "configuration: scheduler.addr is \"localhost\"; wanted is a host and port such \
             as 127.0.0.1:2379"
        );
        assert_eq!(
            refusal(|config| config.advertise_addr = "http://pd:2379".to_string()),
            "configuration: scheduler.advertise-addr is \"http://pd:2379\"; wanted is a host and \
             port such as 127.0.0.1:2379"
        );
    }

    #[test]
    fn an_address_that_nobody_can_connect_to_is_not_advertised() {
        let refused = refusal(|config| config.addr = "0.0.0.0:2379".to_string());
        assert!(refused.contains("set scheduler.advertise-addr"), "{refused}");
        let config = SchedulerConfig {
            addr: "0.0.0.0:2379".to_string(),
            advertise_addr: "scheduler.local:2379".to_string(),
            ..SchedulerConfig::default()
        };
        config.validate().expect("others are told another address");
    }
}
