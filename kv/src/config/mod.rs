//! Everything a user may set, in one TOML file with one struct: [`Config`].
//!
//! How a setting travels:
//!
//! 1. [`load`] reads the file, refuses keys that nothing reads (naming file, line and the nearest key
//!    that exists) and values of the wrong type;
//! 2. the command line overrides what it has flags for;
//! 3. [`Config::problems`] checks every value and every relation between values, once, before anything
//!    is opened or bound: what it lets through is never checked again;
//! 4. the struct is handed to those who need a part of it and never changes again.
//!
//! Each section is a struct with its defaults, a check and a list of [`Knob`]s; [`reference`] prints the
//! lists as `docs/configuration.md`, and a test compares them with what serde really reads.
//!
//! What it does not do: it does not look at the machine (files, memory); that happens at start.

use skerry_raftstore::config::{Knob, RaftConfig, RaftEngineConfig, RocksConfig};
use skerry_scheduler::config::SchedulerConfig;

use serde::{Deserialize, Serialize};

use crate::gc::GcConfig;
use crate::logging::LogConfig;

pub mod load;
pub mod reference;
pub mod sections;
#[cfg(test)]
mod tests;

pub use sections::{AnswerCompression, ServerConfig, StorageConfig};

/// The configuration of one process. A playground reads all of it, a scheduler or a server its part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Config {
    /// Logs on stderr.
    pub log: LogConfig,
    /// The gRPC and status servers of a store, and its talk with the scheduler.
    pub server: ServerConfig,
    /// Where data lies and what clients may store.
    pub storage: StorageConfig,
    /// The data engine of a store.
    pub rocksdb: RocksConfig,
    /// The raft log of a store.
    pub raft_engine: RaftEngineConfig,
    /// Replication.
    pub raftstore: RaftConfig,
    /// A store's part in garbage collection.
    pub gc: GcConfig,
    /// The scheduler.
    pub scheduler: SchedulerConfig,
}

/// A section of the file as the reference introduces it.
pub struct Section {
    /// The TOML table.
    pub name: &'static str,
    /// What it is about, in a sentence or two.
    pub about: &'static str,
    /// One knob a key, in the order of the struct.
    pub knobs: Vec<Knob>,
}

impl Config {
    /// Everything that is wrong with the values, each as one sentence that names the key. Empty when the
    /// configuration can be used.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(self.server.problems());
        problems.extend(self.storage.problems());
        problems.extend(self.gc.problems());
        problems.extend(self.relations());
        let engines =
            [self.rocksdb.validate(), self.raft_engine.validate(), self.raftstore.validate()];
        problems.extend(engines.into_iter().filter_map(Result::err).map(said));
        problems.extend(self.scheduler.validate().err().map(|error| said_by_scheduler(&error)));
        problems
    }

    /// What must hold between values of different sections.
    fn relations(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (entry, request) = (self.storage.entry_size_max, self.server.request_size_max);
        if entry >= request {
            problems.push(format!(
                "storage.entry-size-max is {entry}; it must be smaller than server.request-size-max, \
                 {request}, or the largest write could not be sent"
            ));
        }
        let heartbeat_ms = u64::from(self.server.store_heartbeat_interval_ms);
        let disconnected_ms = self.scheduler.store_disconnected_ms;
        if disconnected_ms < 2 * heartbeat_ms {
            problems.push(format!(
                "scheduler.store-disconnected-ms is {disconnected_ms}; it must be at least twice \
                 server.store-heartbeat-interval-ms, {heartbeat_ms}, or one lost heartbeat makes a store \
                 look lost"
            ));
        }
        problems
    }

    /// Every section with its knobs, in the order of the file.
    pub fn sections() -> Vec<Section> {
        vec![
            Section { name: "log", about: LOG, knobs: sections::log_reference() },
            Section { name: "server", about: SERVER, knobs: ServerConfig::reference() },
            Section { name: "storage", about: STORAGE, knobs: StorageConfig::reference() },
            Section { name: RocksConfig::SECTION, about: ROCKS, knobs: RocksConfig::reference() },
            Section {
                name: RaftEngineConfig::SECTION,
                about: RAFT_ENGINE,
                knobs: RaftEngineConfig::reference(),
            },
            Section { name: RaftConfig::SECTION, about: RAFTSTORE, knobs: RaftConfig::reference() },
            Section { name: GcConfig::SECTION, about: GC, knobs: GcConfig::reference() },
            Section { name: "scheduler", about: SCHEDULER, knobs: SchedulerConfig::reference() },
        ]
    }
}

const LOG: &str = "Logs go to stderr, one line an event.";
const SERVER: &str = "The gRPC and status servers of a store, and how it talks to the scheduler.";
const STORAGE: &str = "Where data lies and what clients may store.";
const ROCKS: &str = "The data engine of a store.";
const RAFT_ENGINE: &str = "The raft log of a store. A standalone store has none and reads no key of this \
    section.";
const RAFTSTORE: &str = "Replication: raft groups, their logs, splits and snapshots. A standalone store reads no \
    key of this section.";
const GC: &str = "A store's part in collecting old versions of what transactions wrote. When the cluster does, and \
    what stays, is the scheduler's: `gc-life-time-ms` and `gc-interval-ms` below.";
const SCHEDULER: &str = "The scheduler (placement driver), alone or inside a playground.";

/// The sentence of a configuration error, without the words that introduce it.
fn said(error: skerry_raftstore::Error) -> String {
    match error {
        skerry_raftstore::Error::Config(sentence) => sentence,
        other => other.to_string(),
    }
}

/// The same for the scheduler's errors.
fn said_by_scheduler(error: &skerry_scheduler::Error) -> String {
    let sentence = error.to_string();
    match sentence.strip_prefix("configuration: ") {
        Some(rest) => rest.to_string(),
        None => sentence,
    }
}
