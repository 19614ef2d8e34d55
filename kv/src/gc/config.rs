//! `[gc]`: a store's part in garbage collection. When the cluster collects, and what, stands in `[scheduler]`.

use serde::{Deserialize, Serialize};
use skerry_raftstore::config::{ByteSize, Knob};

/// The section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct GcConfig {
    /// From one question to the scheduler to the next.
    pub poll_interval_ms: u64,
    /// Read and written in a second; 0 is no limit.
    pub io_rate: ByteSize,
}

impl Default for GcConfig {
    fn default() -> GcConfig {
        GcConfig { poll_interval_ms: 10_000, io_rate: ByteSize::mib(16) }
    }
}

impl GcConfig {
    /// The TOML table.
    pub const SECTION: &'static str = "gc";

    /// What is wrong with these values, each as a sentence.
    pub fn problems(&self) -> Vec<String> {
        // What the scheduler says counts for five minutes: many questions must fit in.
        let allowed = 50..=15_000;
        if allowed.contains(&self.poll_interval_ms) {
            return Vec::new();
        }
        let (low, high, value) = (allowed.start(), allowed.end(), self.poll_interval_ms);
        vec![format!("gc.poll-interval-ms is {value}; allowed is from {low} to {high}")]
    }

    /// One line for every field, in order.
    pub fn reference() -> Vec<Knob> {
        let default = GcConfig::default();
        let knob = |name, default, description| Knob {
            section: Self::SECTION,
            name,
            default,
            description,
        };
        vec![
            knob("poll-interval-ms", default.poll_interval_ms.to_string(), POLL_INTERVAL),
            knob("io-rate", format!("\"{}\"", default.io_rate), IO_RATE),
        ]
    }
}

const POLL_INTERVAL: &str =
    "How often the store asks the scheduler what is to be collected, in milliseconds.";
const IO_RATE: &str = "How much is read and written for it in a second. `\"0B\"` is no limit.";
